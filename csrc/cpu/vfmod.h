// fmod of vectors, exact: the remainder of a division is representable, and where the quotient's integer part has no more
// digits than a mantissa, one fused multiply-add finds it. Vectors with a lane that is not so simple (a quotient beyond 2^24 or 2^53, a
// divisor that is 0 or infinite, NaN), and levels without that instruction, go through libm.
#pragma once
#include <cmath>

#include "cpu/lanes.h"
#include "cpu/vmath64.h"

namespace ptrt::PTRT_LEVEL {
namespace {

#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
// c - a * b, rounded once.
PTRT_INLINE vf negative_multiply_add(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return (vf)_mm512_fnmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (vf)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  for (int i = 0; i < W; i++) c[i] = __builtin_fmaf(-a[i], b[i], c[i]);
  return c;
#endif
}
PTRT_INLINE vd negative_multiply_add(vd a, vd b, vd c) {
#if defined(__AVX512F__)
  return (vd)_mm512_fnmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
  return (vd)_mm256_fnmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  for (int i = 0; i < WD; i++) c[i] = __builtin_fma(-a[i], b[i], c[i]);
  return c;
#endif
}
PTRT_INLINE vf truncated(vf x) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_roundscale_ps((__mmask16)-1, (__m512)x, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return (vf)_mm256_round_ps((__m256)x, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
#else
  for (int i = 0; i < W; i++) x[i] = __builtin_truncf(x[i]);
  return x;
#endif
}
PTRT_INLINE vd truncated(vd x) {
#if defined(__AVX512F__)
  return (vd)_mm512_maskz_roundscale_pd((__mmask8)-1, (__m512d)x, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return (vd)_mm256_round_pd((__m256d)x, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
#else
  for (int i = 0; i < WD; i++) x[i] = __builtin_trunc(x[i]);
  return x;
#endif
}
#endif

// T: float or double, V its vector.
template <class T, class V>
PTRT_INLINE V vfmod(V x, V y) {
  constexpr int n = Lanes<T>::n;
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
  using I = decltype(x < y);
  constexpr T most = sizeof(T) == 4 ? T(16777216) : T(9007199254740992),
              largest = sizeof(T) == 4 ? T(3.4028234663852886e38) : T(1.7976931348623157e308);
  const I sign_bit = (I)(-splat(T(0)));
  const I sign = (I)x & sign_bit;
  const V a = (V)((I)x & ~sign_bit), b = (V)((I)y & ~sign_bit);
  const V quotient = a / b;
  const I simple = (quotient <= splat(most)) & (b <= splat(largest));
  if (__builtin_expect(!any(~simple), 1)) {
    // The rounded quotient is not below any integer that the exact one is not below: its integer part is right or one too large.
    const V r = negative_multiply_add(truncated(quotient), b, a);
    return (V)((I)(r < splat(T(0)) ? r + b : r) | sign);
  }
#endif
  for (int i = 0; i < n; i++) x[i] = std::fmod(x[i], y[i]);
  return x;
}

// The remainder with the sign of the divisor, as numpy.mod.
template <class T, class V>
PTRT_INLINE V vmod(V x, V y) {
  const V r = vfmod<T>(x, y);
  using I = decltype(x < y);
  const V zero = (V)((I)y & (I)(-splat(T(0))));  // the divisor's sign
  const I other = (r < splat(T(0))) != (y < splat(T(0)));
  return r == splat(T(0)) ? zero : other ? r + y : r;
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
