// Vectors of any element type, and the few operations that row kernels are written in.
#pragma once
#include <cmath>
#include <limits>
#include <type_traits>

#include "cpu/simd.h"
#include "cpu/vmath.h"

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

PTRT_INLINE Vec<float> exp_of(Vec<float> x) { return vexp(x); }
PTRT_INLINE Vec<double> exp_of(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; i++) x[i] = std::exp(x[i]);
  return x;
}
PTRT_INLINE float exp_of(float x) {  // the vector code, so that an element's result does not depend on its position
  return vexp(splat(x))[0];
}
PTRT_INLINE double exp_of(double x) { return std::exp(x); }

// a > b ? a : b, also when b is NaN: a running maximum `max_of(x, m)` skips NaN in x.
template <class V>
PTRT_INLINE V max_of(V a, V b) {
  return a > b ? a : b;
}
PTRT_INLINE Vec<float> max_of(Vec<float> a, Vec<float> b) { return vmax(a, b); }

// Lanes combined as a tree in a fixed order.
template <class C, class F>
PTRT_INLINE C tree(Vec<C> x, F f) {
  C t[kLanes<C>];
  vstore(t, x);
  for (int w = kLanes<C> / 2; w; w /= 2)
    for (int i = 0; i < w; i++) t[i] = f(t[i], t[i + w]);
  return t[0];
}
template <class C>
PTRT_INLINE C sum_lanes(Vec<C> x) {
  return tree<C>(x, [](C a, C b) { return static_cast<C>(a + b); });
}
template <class C>
PTRT_INLINE C max_lanes(Vec<C> x) {
  return tree<C>(x, [](C a, C b) { return a > b ? a : b; });
}
#if defined(__AVX512F__)
PTRT_INLINE float sum_lanes(Vec<float> x) { return _mm512_reduce_add_ps((__m512)x); }
PTRT_INLINE float max_lanes(Vec<float> x) { return _mm512_reduce_max_ps((__m512)x); }
#endif

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
