// Vectors of any element type, and the few operations that row kernels are written in.
#pragma once
#include <cmath>
#include <limits>
#include <type_traits>

#include "cpu/simd.h"
#include "cpu/vmath.h"
#include "cpu/vmath64.h"

namespace ptrt::PTRT_LEVEL {
namespace {

template <class C>
struct VecOf {
  typedef C type __attribute__((vector_size(kVecBytes)));
};
template <class C>
using Vec = typename VecOf<C>::type;
template <class C>
constexpr int kLanes = kVecBytes / static_cast<int>(sizeof(C));

template <class C>
using Mask = Vec<std::conditional_t<sizeof(C) == 4, int32_t, int64_t>>;  // what a comparison of Vec<C> gives

template <class C>
PTRT_INLINE Vec<C> vload(const C* p) {
  Vec<C> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class C>
PTRT_INLINE void vstore(C* p, Vec<C> v) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <class C>
PTRT_INLINE Vec<C> vsplat(C x) {
  return x - Vec<C>{};
}

// A vector of A from as many numbers of another type, and such numbers from it.
template <class A, class C>
PTRT_INLINE Vec<A> widened(const C* p) {
  typedef C Narrow __attribute__((vector_size(kLanes<A> * sizeof(C))));
  Narrow v;
  __builtin_memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Vec<A>);
}
template <class C, class A>
PTRT_INLINE void narrowed(C* p, Vec<A> x) {
  typedef C Narrow __attribute__((vector_size(kLanes<A> * sizeof(C))));
  const Narrow v = __builtin_convertvector(x, Narrow);
  __builtin_memcpy(p, &v, sizeof v);
}

#if defined(__AVX512F__)  // gcc 12 converts halves and puts them together
template <>
PTRT_INLINE Vec<double> widened<double>(const float* p) {
  return (vd)_mm512_cvtps_pd(_mm256_loadu_ps(p));
}
template <>
PTRT_INLINE void narrowed<float, double>(float* p, Vec<double> x) {
  _mm256_storeu_ps(p, _mm512_cvtpd_ps((__m512d)x));
}
#endif

PTRT_INLINE Vec<float> exp_of(Vec<float> x) { return vexp(x); }
PTRT_INLINE Vec<double> exp_of(Vec<double> x) { return vexp(x); }
PTRT_INLINE float exp_of(float x) {  // the vector code, so that an element's result does not depend on its position
  return vexp(splat(x))[0];
}
PTRT_INLINE double exp_of(double x) { return vexp(splat(x))[0]; }

// e^x for x <= 0 (-inf gives 0, NaN stays NaN), 3 ulp where the result is normal: what a softmax needs, in two thirds of vexp's operations.
PTRT_INLINE Vec<float> exp_nonpositive(Vec<float> x) {
  vf n;
  vi i;
  x = vmax(splat(-104.5f), x);
#if defined(__FMA__) || defined(__aarch64__)
  const float magic = 12582912.0f;  // adding it rounds to an integer
  const vf z = x * 1.44269504088896341f + magic;
  i = (vi)z - (vi)splat(magic);
  n = z - magic;
  const vf r = x - n * 0.693147180559945f;  // one FMA: off by at most 2e-9 * |n|
#else
  const vf r = reduce_ln2(x, n, i);
#endif
  return scale2(horner(r, 1.0f, 9.999997020e-01f, 4.999911487e-01f, 1.666767597e-01f, 4.190256074e-02f, 8.289454505e-03f), n, i);
}
PTRT_INLINE Vec<double> exp_nonpositive(Vec<double> x) { return exp_of(x); }

// x[0 .. n) and then `fill`, for n < kLanes.
template <class C>
PTRT_INLINE Vec<C> vload_n(const C* p, int n, C fill) {
  C t[kLanes<C>];
  for (int i = 0; i < kLanes<C>; i++) t[i] = i < n ? p[i] : fill;
  return vload(t);
}
template <class C>
PTRT_INLINE void vstore_n(C* p, Vec<C> v, int n) {
  C t[kLanes<C>];
  vstore(t, v);
  for (int i = 0; i < n; i++) p[i] = t[i];
}
#if defined(__AVX512F__)
template <>
PTRT_INLINE Vec<float> vload_n(const float* p, int n, float fill) {
  return (vf)_mm512_mask_loadu_ps(_mm512_set1_ps(fill), static_cast<__mmask16>((1u << n) - 1), p);
}
template <>
PTRT_INLINE void vstore_n(float* p, Vec<float> v, int n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
}
#elif defined(__AVX2__)
PTRT_INLINE __m256i first_lanes(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
template <>
PTRT_INLINE Vec<float> vload_n(const float* p, int n, float fill) {
  const __m256i m = first_lanes(n);
  return (vf)_mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(p, m), _mm256_castsi256_ps(m));
}
template <>
PTRT_INLINE void vstore_n(float* p, Vec<float> v, int n) {
  _mm256_maskstore_ps(p, first_lanes(n), (__m256)v);
}
#elif defined(__SSE4_1__)
template <>
PTRT_INLINE Vec<float> vload_n(const float* p, int n, float fill) {
  __m128 v = _mm_set1_ps(fill);
  if (n == 1) return (vf)_mm_move_ss(v, _mm_load_ss(p));
  if (n >= 2) v = _mm_castpd_ps(_mm_loadl_pd(_mm_castps_pd(v), reinterpret_cast<const double*>(p)));
  return (vf)(n == 3 ? _mm_insert_ps(v, _mm_load_ss(p + 2), 0x20) : v);
}
#endif

// a > b ? a : b, also when b is NaN: a running maximum `max_of(x, m)` skips NaN in x.
template <class V>
PTRT_INLINE V max_of(V a, V b) {
  return a > b ? a : b;
}
PTRT_INLINE Vec<float> max_of(Vec<float> a, Vec<float> b) { return vmax(a, b); }

// Bit l: is lane l of the comparison's result set?
template <class M>
PTRT_INLINE uint32_t lane_bits(M m) {
  constexpr int n = static_cast<int>(sizeof(M) / sizeof(m[0]));
#if defined(__AVX512DQ__)
  if constexpr (n == 16) return _mm512_movepi32_mask((__m512i)m);
  else return _mm512_movepi64_mask((__m512i)m);
#elif defined(__AVX2__)
  if constexpr (n == 8) return static_cast<uint32_t>(_mm256_movemask_ps((__m256)m));
  else return static_cast<uint32_t>(_mm256_movemask_pd((__m256d)m));
#elif defined(__SSE2__)
  if constexpr (n == 4) return static_cast<uint32_t>(_mm_movemask_ps((__m128)m));
  else return static_cast<uint32_t>(_mm_movemask_pd((__m128d)m));
#else
  uint32_t bits = 0;
  for (int l = 0; l < n; l++) bits |= static_cast<uint32_t>(m[l] != 0) << l;
  return bits;
#endif
}

// Whether a NaN was among the vectors seen. Nothing for integers.
template <class C>
struct NanFlag {
  Mask<C> bad = {};
  PTRT_INLINE void see(Vec<C> a, Vec<C> b) {
    if constexpr (std::is_floating_point<C>::value) bad |= (a != a) | (b != b);
  }
  PTRT_INLINE bool any() const { return std::is_floating_point<C>::value && lane_bits(bad) != 0; }
};
#if defined(__AVX512F__)
template <>
struct NanFlag<float> {
  __mmask16 bad = 0;
  PTRT_INLINE void see(Vec<float> a, Vec<float> b) { bad |= _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_UNORD_Q); }
  PTRT_INLINE bool any() const { return bad != 0; }
};
#endif

// Lanes combined as a tree in a fixed order.
template <class C, class F>
PTRT_INLINE C tree(Vec<C> x, F f) {
  C t[kLanes<C>];
  vstore(t, x);
  for (int w = kLanes<C> / 2; w; w /= 2)
    for (int i = 0; i < w; i++) t[i] = f(t[i], t[i + w]);
  return t[0];
}
template <class V>
using LaneOf = std::decay_t<decltype(V{}[0])>;
template <class V>
PTRT_INLINE LaneOf<V> sum_lanes(V x) {
  using C = LaneOf<V>;
  return tree<C>(x, [](C a, C b) { return static_cast<C>(a + b); });
}
template <class V>
PTRT_INLINE LaneOf<V> max_lanes(V x) {
  using C = LaneOf<V>;
  return tree<C>(x, [](C a, C b) { return a > b ? a : b; });
}
#if defined(__AVX512F__)
PTRT_INLINE float sum_lanes(Vec<float> x) { return _mm512_reduce_add_ps((__m512)x); }
PTRT_INLINE float max_lanes(Vec<float> x) { return _mm512_reduce_max_ps((__m512)x); }
#endif

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
