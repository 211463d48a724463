// What code that is written once for float and double needs: their vectors, partial loads and stores, interleaving.
#pragma once
#include <utility>

#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {
namespace {

template <class T>
struct Lanes;
template <>
struct Lanes<float> {
  using V = vf;
  static constexpr int n = W;
};
template <>
struct Lanes<double> {
  using V = vd;
  static constexpr int n = WD;
};

PTRT_INLINE vd vmax(vd a, vd b) { return a > b ? a : b; }
PTRT_INLINE vd vmin(vd a, vd b) { return a < b ? a : b; }

PTRT_INLINE vd load_n(const double* p, int n) {
  if (n >= WD) return load(p);
#if defined(__AVX512F__)
  return (vd)_mm512_maskz_loadu_pd(n <= 0 ? 0 : (__mmask8)((1u << n) - 1), p);
#else
  vd r = {};
  for (int i = 0; i < n; i++) r[i] = p[i];
  return r;
#endif
}

PTRT_INLINE void store_n(double* p, vd x, int n) {
  if (n >= WD) {
    store(p, x);
    return;
  }
#if defined(__AVX512F__)
  if (n > 0) _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)x);
#else
  for (int i = 0; i < n; i++) p[i] = x[i];
#endif
}

// Lanes 0 .. L/2 of a and b (or, with SHIFT L/2, the upper ones), interleaved.
template <int SHIFT, class V, int... I>
PTRT_INLINE V interleave(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int L = sizeof...(I);
  return __builtin_shufflevector(a, b, (SHIFT + I / 2 + I % 2 * L)...);
}

// One stage of a transposition: (a, b) become the vectors whose lanes with bit D clear come from a and set from b, taken at bit D clear
// (lo) and at bit D set (hi).
template <int D, class V, int... I>
PTRT_INLINE void exchange(V& a, V& b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  const V lo = __builtin_shufflevector(a, b, ((I & D) ? n + I - D : I)...);
  const V hi = __builtin_shufflevector(a, b, ((I & D) ? n + I : I + D)...);
  a = lo;
  b = hi;
}

// Combines the lanes of each of n vectors: lane i of r[0] becomes f over the lanes of r[i], a tree that is the same for every i.
template <int D = 1, class V, class F>
PTRT_INLINE void fold_lanes(V* r, F f) {
  constexpr int n = sizeof(V) / sizeof(r[0][0]);
  if constexpr (D < n) {
    PTRT_UNROLL for (int i = 0; i < n; i += 2 * D) {
      exchange<D>(r[i], r[i + D], std::make_integer_sequence<int, n>());
      r[i] = f(r[i], r[i + D]);
    }
    fold_lanes<2 * D>(r, f);
  }
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
