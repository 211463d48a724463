// Elementary functions of double vectors, and the f32 functions that are computed in double (at most 1 ulp of f32). Error bounds of the f64
// forms: vexp 1, vlog 1.5, vtanh 3, vsigmoid 2.5, vsin and vcos 1.5 ulp (for |x| < 2^20; beyond, a loop over libm). Held by
// tests/kernels/test_vmath.py.
#pragma once
#include <cmath>

#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {
namespace {

PTRT_INLINE vd vabs(vd x) { return (vd)((vl)x & (vl{} + INT64_MAX)); }
PTRT_INLINE vd copysign(vd magnitude, vd sign) { return (vd)((vl)magnitude | ((vl)sign & (vl{} + INT64_MIN))); }
PTRT_INLINE vd select(vl mask, vd a, vd b) { return mask ? a : b; }
PTRT_INLINE vd vmaxd(vd a, vd b) { return a > b ? a : b; }  // of a NaN: b
PTRT_INLINE vd vmind(vd a, vd b) { return a < b ? a : b; }
PTRT_INLINE vd vsqrt(vd x) {
#if defined(__AVX512F__)
  return (vd)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX2__)
  return (vd)_mm256_sqrt_pd((__m256d)x);
#else
  for (int i = 0; i < WD; i++) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}

PTRT_INLINE vd hornerd(vd, double c) { return splat(c); }
template <class... C>
PTRT_INLINE vd hornerd(vd x, double c, C... rest) {
  return hornerd(x, rest...) * x + c;
}

constexpr double kMagic64 = 6755399441055744.0;  // 1.5 * 2^52

// x = n * ln 2 + r, |r| <= ln 2 / 2.
PTRT_INLINE vd reduce_ln2(vd x, vl& n) {
  vd z = x * 1.4426950408889634074 + kMagic64;
  n = (vl)z - (vl)splat(kMagic64);
  z -= kMagic64;
  return (x - z * 0x1.62e42fefa2000p-1) - z * 0x1.9ef35793c7673p-41;
}
PTRT_INLINE vd exp2i(vl n) { return (vd)((n + 1023) << 52); }

PTRT_INLINE vd expm1_reduced(vd r) {
  vd p = hornerd(r, 0.5, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800,
                 1.0 / 479001600, 1.0 / 6227020800.0);
  return p * (r * r) + r;
}

PTRT_INLINE vd vexp(vd x) {
  vl n;
  vd r = reduce_ln2(vmind(splat(710.0), vmaxd(splat(-746.0), x)), n);
  vl half = n >> 1;
  return (expm1_reduced(r) + 1.0) * exp2i(half) * exp2i(n - half);
}

// For |x| <= 700.
PTRT_INLINE vd expm1_bounded(vd x) {
  vl n;
  vd p = expm1_reduced(reduce_ln2(x, n)), s = exp2i(n);
  return s * p + (s - 1.0);
}

// log(u * (1 + c/u)) for positive finite u and |c| at most half an ulp of u.
PTRT_INLINE vd log_core(vd u, vd c_over_u) {
  vl tiny = u < 2.2250738585072014e-308;
  u = select(tiny, u * 18014398509481984.0, u);  // 2^54
  const int64_t root = 0x3fe6a09e667f3bcd;       // sqrt(1/2)
  vl bits = (vl)u - (vl{} + root);
  vl e = (bits >> 52) + (tiny & (vl{} - 54));
  vd f = (vd)((bits & (vl{} + 0x000fffffffffffff)) + root) - 1.0;
  vd n = (vd)(e + (vl)splat(kMagic64)) - kMagic64;
  vd s = f / (f + 2.0), z = s * s, h = f * f * 0.5;
  vd p = z * hornerd(z, 2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11, 2.0 / 13, 2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21);
  return n * 0x1.62e42fefa2000p-1 + (f - (h - (s * (h + p) + (n * 0x1.9ef35793c7673p-41 + c_over_u))));
}

PTRT_INLINE vd vlog(vd x) {
  vd y = log_core(x, vd{});
  const vd inf = splat(__builtin_inf());
  y = select(x == inf, x, y);
  y = select(x == 0.0, -inf, y);
  return select((x < 0.0) | (x != x), splat(__builtin_nan("")), y);
}

PTRT_INLINE vd vlog1p(vd x) {
  vd u = x + 1.0;
  vd y = log_core(u, (x - (u - 1.0)) / u);
  const vd inf = splat(__builtin_inf());
  y = select((x == inf) | (x == 0.0), x, y);
  y = select(x == -1.0, -inf, y);
  return select((x < -1.0) | (x != x), splat(__builtin_nan("")), y);
}

PTRT_INLINE vd vtanh(vd x) {
  vd m = expm1_bounded(vmind(splat(20.0), vabs(x)) * -2.0);
  vd y = copysign(vabs(m) / (m + 2.0), x);
  return select(x == x, y, x);
}

PTRT_INLINE vd vsigmoid(vd x) {
  vd e = vexp(-vabs(x));
  return select(x < 0.0, e, splat(1.0)) / (e + 1.0);
}

// Sine and cosine of the remainder of x modulo pi/2, and the quadrant, for |x| < 2^20. `Exact`: to f64, else to about 1e-10, for f32.
template <bool Exact>
PTRT_INLINE void quadrant(vd x, vl& q, vd& s, vd& c) {
  vd z = x * 0.63661977236758134308 + kMagic64;
  q = (vl)z - (vl)splat(kMagic64);
  z -= kMagic64;
  vd r = (x - z * 0x1.921fb54400000p+0) - z * 0x1.0b4611a600000p-34;
  if (Exact) r -= z * 0x1.3198a2e037073p-69;
  vd t = r * r;
  if (Exact) {
    s = r + r * t *
                hornerd(t, -1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800.0, -1.0 / 1307674368000.0,
                        1.0 / 355687428096000.0);
    c = 1.0 - (0.5 * t - t * t *
                             hornerd(t, 1.0 / 24, -1.0 / 720, 1.0 / 40320, -1.0 / 3628800, 1.0 / 479001600, -1.0 / 87178291200.0,
                                     1.0 / 20922789888000.0, -1.0 / 6402373705728000.0));
  } else {
    s = r + r * t * hornerd(t, -1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800);
    c = hornerd(t, 1.0, -0.5, 1.0 / 24, -1.0 / 720, 1.0 / 40320, -1.0 / 3628800);
  }
}
template <bool Exact>
PTRT_INLINE vd sine(vd x, int turn) {  // turn 1: cosine
  vl q;
  vd s, c;
  quadrant<Exact>(x, q, s, c);
  q += turn;
  vd y = select((q & 1) != 0, c, s);
  return (vd)((vl)y ^ ((q & 2) << 62));
}
PTRT_INLINE vd vsin(vd x) { return select(x == 0.0, x, sine<true>(x, 0)); }
PTRT_INLINE vd vcos(vd x) { return sine<true>(x, 1); }
PTRT_INLINE vd sin_f32(vd x) { return select(x == 0.0, x, sine<false>(x, 0)); }
PTRT_INLINE vd cos_f32(vd x) { return sine<false>(x, 1); }
PTRT_INLINE vd tan_f32(vd x) {
  vl q;
  vd s, c;
  quadrant<false>(x, q, s, c);
  vl odd = (q & 1) != 0;
  return select(x == 0.0, x, select(odd, -c, s) / select(odd, s, c));
}
constexpr double kTrigLimit = 1048576.0;  // of a NaN, sine and cosine are NaN on either path

// Is any lane of a comparison true?
PTRT_INLINE bool any(vi mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps((__m256)mask) != 0;
#else
  int32_t r = 0;
  for (int i = 0; i < W; i++) r |= mask[i];
  return r != 0;
#endif
}
PTRT_INLINE bool any(vl mask) { return any((vi)mask); }

// To about 1e-12: for f32.
PTRT_INLINE vd atan_f32(vd x) {
  vd a = vabs(x);
  vl big = a > 1.0;
  a = select(big, 1.0 / a, a);
  vl mid = a > 0.41421356237309503;
  vd t = select(mid, (a - 1.0) / (a + 1.0), a), z = t * t;
  vd y = t + t * z *
                 hornerd(z, -3.33333332964133366e-01, 1.99999944035812477e-01, -1.42854265142282222e-01, 1.11040536678840812e-01,
                         -8.99727355601413481e-02, 6.99307296912269755e-02, -3.79553711486293258e-02);
  y = select(mid, y + 0.78539816339744830962, y);
  y = select(big, 1.57079632679489661923 - y, y);
  return copysign(y, x);
}
PTRT_INLINE vd asin_f32(vd x) { return atan_f32(x / vsqrt((1.0 - x) * (x + 1.0))); }
PTRT_INLINE vd acos_f32(vd x) {
  vd y = atan_f32(vsqrt((1.0 - x) / (x + 1.0))) * 2.0;
  return select(x == -1.0, splat(3.14159265358979323846), y);
}
PTRT_INLINE vd sinh_f32(vd x) {
  vd m = expm1_bounded(vmind(splat(100.0), vabs(x)));
  return select(x == x, copysign((m + m / (m + 1.0)) * 0.5, x), x);
}
PTRT_INLINE vd cosh_f32(vd x) {
  vd e = vexp(vmind(splat(100.0), vabs(x)));
  return (e + 1.0 / e) * 0.5;
}
PTRT_INLINE vd asinh_f32(vd x) {
  vd a = vabs(x), s = a * a;
  vd y = vlog1p(a + s / (vsqrt(s + 1.0) + 1.0));
  return copysign(select(a == __builtin_inf(), a, vabs(y)), x);
}
PTRT_INLINE vd acosh_f32(vd x) {
  vd t = x - 1.0;
  return select(x < 1.0, splat(__builtin_nan("")), vlog1p(t + vsqrt(t * (t + 2.0))));
}
PTRT_INLINE vd atanh_f32(vd x) {
  vd a = vabs(x);
  vd y = vlog1p(2.0 * a / (1.0 - a)) * 0.5;
  return select(a > 1.0, splat(__builtin_nan("")), copysign(vabs(y), x));
}

// pow with the special cases of C.
PTRT_INLINE vd pow_f32(vd x, vd y) {
  vd a = vabs(x);
  // log(a), to 1e-12: f32 values are normal here
  const int64_t root = 0x3fe6a09e667f3bcd;  // sqrt(1/2)
  vl bits = (vl)a - (vl{} + root);
  vd f = (vd)((bits & (vl{} + 0x000fffffffffffff)) + root) - 1.0;
  vd e = (vd)((bits >> 52) + (vl)splat(kMagic64)) - kMagic64;
  vd s = f / (f + 2.0), z = s * s;
  vd l = e * 0.69314718055994530942 + s * hornerd(z, 2.0, 2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11, 2.0 / 13, 2.0 / 15);
  l = select(a == 0.0, splat(-__builtin_inf()), select(a < __builtin_inf(), l, a));
  // exp, to 1e-10, over the range of f32
  vl i;
  vd t = reduce_ln2(vmind(splat(100.0), vmaxd(splat(-120.0), y * l)), i);
  vd r = hornerd(t, 1.0, 1.0, 0.5, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880) * exp2i(i);
  r = select(((a == 1.0) & (vabs(y) == __builtin_inf())) | (y == 0.0) | (x == 1.0), splat(1.0), r);
  // |y| < 2^31 can be odd; every larger float is even.
  vl small = vabs(y) < 2147483648.0;
  vd n = select(small, (select(small, y, vd{}) + kMagic64) - kMagic64, y);
  vl whole = n == y;
  vl odd = small & whole & ((((vl)(select(small, y, vd{}) + kMagic64)) & 1) != 0);
  r = select(odd & ((vl)x < 0), -r, r);
  return select((x < 0.0) & (a != __builtin_inf()) & (whole == 0) & (y == y), splat(__builtin_nan("")), r);
}

// f32 by way of f64.
typedef float vh __attribute__((vector_size(kVecBytes / 2)));
PTRT_INLINE vd low_half(vf x) {
  vh h;
  std::memcpy(&h, &x, sizeof h);
  return __builtin_convertvector(h, vd);
}
PTRT_INLINE vd high_half(vf x) {
  vh h;
  std::memcpy(&h, reinterpret_cast<const char*>(&x) + sizeof h, sizeof h);
  return __builtin_convertvector(h, vd);
}
PTRT_INLINE vf joined(vd lo, vd hi) {
  vh a = __builtin_convertvector(lo, vh), b = __builtin_convertvector(hi, vh);
  vf r;
  std::memcpy(&r, &a, sizeof a);
  std::memcpy(reinterpret_cast<char*>(&r) + sizeof a, &b, sizeof b);
  return r;
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
