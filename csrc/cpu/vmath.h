// Elementary functions of float vectors: own polynomials and range reductions, no tables, no branches. The error bounds are in units in the
// last place of the result, over the whole range, denormals, infinities and NaN included; tests/kernels/test_vmath.py holds them.
//
//   vexp 1.7   vexpm1 1.5   vlog 1   vlog1p 1   vtanh 2.5   vsigmoid 2.5   verf 1.5   vsoftplus 2
//   vexp2 2.5 where the result is normal, x <= 127
//   vsilu 3.5 ulp of max(|result|, 1e-36)
//   vgelu_erf, vgelu_tanh: 7 ulp of max(|result|, |x| / 16)
#pragma once
#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {
namespace {

PTRT_INLINE vf vabs(vf x) { return (vf)((vi)x & splat(int32_t{0x7fffffff})); }
PTRT_INLINE vf copysign(vf magnitude, vf sign) { return (vf)((vi)magnitude | ((vi)sign & splat(INT32_MIN))); }  // magnitude >= 0
PTRT_INLINE vf select(vi mask, vf a, vf b) { return mask ? a : b; }

template <class V>
PTRT_INLINE V horner(V, float c) {
  return splat(c);
}
template <class V, class... C>
PTRT_INLINE V horner(V x, float c, C... rest) {
  return horner(x, rest...) * x + c;
}

// x = n * ln 2 + r with |r| <= ln 2 / 2 (and a hair), for |x| < 2^15. n as a float and, in `i`, as an integer.
PTRT_INLINE vf reduce_ln2(vf x, vf& n, vi& i) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  vf z = x * 1.44269504088896341f + magic;
  i = (vi)z - (vi)splat(magic);
  n = z - magic;
  vf r = x - n * 0.693359375f;
  return r + n * 2.12194440e-4f;
}

// 2^i for i in [-126, 127].
PTRT_INLINE vf exp2i(vi i) { return (vf)((i + 127) << 23); }

// x * 2^n, rounded once; i == n in [-252, 254].
PTRT_INLINE vf scale2(vf x, vf n, vi i) {
#if defined(__AVX512F__)
  (void)i;
  return (vf)_mm512_scalef_ps((__m512)x, (__m512)n);
#else
  (void)n;
  vi half = i >> 1;
  return x * exp2i(half) * exp2i(i - half);
#endif
}

PTRT_INLINE vf vexp(vf x) {
  vf n;
  vi i;
  vf r = reduce_ln2(vmin(splat(89.0f), vmax(splat(-104.5f), x)), n, i);
  vf p = horner(r, 1.0f, 1.0f, 5.000000097e-01f, 1.666651718e-01f, 4.166620064e-02f, 8.369088098e-03f, 1.395083534e-03f);
  return scale2(p, n, i);
}

// times * 2^(n + r) for |r| <= 1/2, z = n + 1.5 * 2^23; `times` is a power of 2.
PTRT_INLINE vf exp2_reduced(vf r, vf n, vf z, float times = 1.0f) {
  const vf p = horner(r, times, 6.931469776e-01f * times, 2.402224208e-01f * times, 5.550733747e-02f * times, 9.671512910e-03f * times,
                      1.326472689e-03f * times);
  return scale2(p, n, (vi)z - (vi)splat(12582912.0f));
}

// 2^x for x <= 127 (exactly 1 at 0; -inf gives 0, NaN stays NaN), in half of vexp's operations.
PTRT_INLINE vf vexp2(vf x) {
  const float magic = 12582912.0f;
  x = vmax(splat(-160.0f), x);
  const vf z = x + magic, n = z - magic, r = x - n;
  return exp2_reduced(r, n, z);
}

// e^r - 1 for |r| <= ln 2 / 2.
PTRT_INLINE vf expm1_reduced(vf r) {
  vf p = horner(r, 5.000000047e-01f, 1.666666682e-01f, 4.166635117e-02f, 8.333272374e-03f, 1.394129927e-03f, 1.991457766e-04f);
  return p * (r * r) + r;
}

PTRT_INLINE vf vexpm1(vf x) {
  vf n;
  vi i;
  vf p = expm1_reduced(reduce_ln2(vmin(splat(89.0f), vmax(splat(-30.0f), x)), n, i));
  vf half = exp2i(i - 1);  // half the scale: the scale itself may overflow where the result does not
  vf y = (half * p + (half - 0.5f)) * 2.0f;
  return select(n == 0.0f, p, y);
}

// Logarithm of u * (1 + c/u) for positive finite u and |c| at most half an ulp of u.
PTRT_INLINE vf log_core(vf u, vf c_over_u) {
  vi tiny = u < 1.17549435e-38f;
  u = select(tiny, u * 8388608.0f, u);
  vi bits = (vi)u - splat(int32_t{0x3f3504f3});  // sqrt(1/2)
  vi e = bits >> 23;
  vf f = (vf)((bits & splat(int32_t{0x007fffff})) + splat(int32_t{0x3f3504f3})) - 1.0f;
  vf n = __builtin_convertvector(e + (tiny & splat(int32_t{-23})), vf);
  vf p = horner(f, 3.333331260e-01f, -2.500000960e-01f, 2.000211866e-01f, -1.666799584e-01f, 1.421955228e-01f, -1.240558906e-01f,
                1.188816297e-01f, -1.167565120e-01f, 6.746638249e-02f);
  vf s = f * f;
  vf y = p * f * s - 0.5f * s + (n * -2.12194440e-4f + c_over_u);
  return n * 0.693359375f + (f + y);
}

PTRT_INLINE vf vlog(vf x) {
  vf y = log_core(x, vf{});
  const vf inf = splat(__builtin_inff());
  y = select(x == inf, x, y);
  y = select(x == 0.0f, -inf, y);
  return select((x < 0.0f) | (x != x), splat(__builtin_nanf("")), y);
}

PTRT_INLINE vf vlog1p(vf x) {
  vf u = x + 1.0f;
  vf y = log_core(u, (x - (u - 1.0f)) / u);
  const vf inf = splat(__builtin_inff());
  y = select((x == inf) | (x == 0.0f), x, y);
  y = select(x == -1.0f, -inf, y);
  return select((x < -1.0f) | (x != x), splat(__builtin_nanf("")), y);
}

PTRT_INLINE vf vtanh(vf x) {
  vf n;
  vi i;
  vf p = expm1_reduced(reduce_ln2(vmin(splat(10.0f), vabs(x)) * -2.0f, n, i));
  vf s = exp2i(i);
  vf m = s * p + (s - 1.0f);  // exp(-2|x|) - 1
  vf y = copysign(vabs(m) / (m + 2.0f), x);
  return select(x == x, y, x);
}

PTRT_INLINE vf vsigmoid(vf x) {
  vf e = vexp(-vabs(x));
  return select(x < 0.0f, e, splat(1.0f)) / (e + 1.0f);
}

PTRT_INLINE vf vsilu(vf x) {
  vf e = vexp(-vabs(x));
  return select(x < 0.0f, x * e, x) / (e + 1.0f);
}

// max(x, 0) + log1p(exp(-|x|))
PTRT_INLINE vf vsoftplus(vf x) {
  vf e = vexp(-vabs(x));
  vf u = e + 1.0f;
  vf y = select(u == 1.0f, e, log_core(u, (e - (u - 1.0f)) / u));
  return select(x > 0.0f, x, vf{}) + y;
}

// erfc(a) for 0.9 <= a <= 4, with an absolute error of a few ulp of erf.
PTRT_INLINE vf erfc_tail(vf a) {
  vf p = horner(a, -1.128519953e+00f, -6.356993684e-01f, -1.052868542e-01f, 2.290603087e-02f, -3.219975404e-03f, 2.145950101e-04f);
  return vexp(p * a);
}
// erf(a) / a - 1 for a^2 = s, a <= 0.9.
PTRT_INLINE vf erf_small(vf s) {
  return horner(s, 1.283791538e-01f, -3.761252331e-01f, 1.128214101e-01f, -2.677891444e-02f, 5.011969584e-03f, -6.090390145e-04f);
}

PTRT_INLINE vf verf(vf x) {
  vf a = vmin(splat(4.0f), vabs(x));
  vf small = x + x * erf_small(a * a);
  vf large = copysign(1.0f - erfc_tail(a), x);
  return select(a > 0.9f, large, small);
}

// x/2 * erfc(-x / sqrt 2) = max(x, 0) - a/2 * erfc(a / sqrt 2), a = |x|. erfc(a / sqrt 2) is 2^(a r(a)), r a polynomial: no cancellation on
// the negative side, and 0 from a = 10 on.
PTRT_INLINE vf vgelu_erf(vf x) {
  constexpr float magic = 12582912.0f;
  const vf a = vmin(splat(11.0f), vabs(x));
  const vf r = horner(a, -1.15110743e+00f, -4.59186852e-01f, -5.25649749e-02f, 7.16588600e-03f, -2.16569155e-04f, -1.52976179e-04f,
                      3.23696840e-05f, -2.24958649e-06f);
  const vf z = a * r + magic, n = z - magic, f = a * r - n;
  return vmax(x, vf{}) - a * exp2_reduced(f, n, z, 0.5f);
}

// x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))) = x * sigmoid(2 * ...)
PTRT_INLINE vf vgelu_tanh(vf x) {
  vf b = vmin(splat(20.0f), vmax(splat(-20.0f), x));
  const vf u = b * (b * b * (0.0713548162716f * -1.44269504088896341f) + 1.59576912160573f * -1.44269504088896341f);
  const vf y = x / (vexp2(vmin(splat(126.0f), u)) + 1.0f);
  return select(x < -20.0f, splat(-0.0f), y);
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
