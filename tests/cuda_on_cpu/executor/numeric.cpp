#include "numeric.h"

namespace exe {

double round_to(double x, int mant, int emin, int emax, Rounding mode) {
  if (x != x || x == 0 || std::isinf(x)) return x;
  int e = std::ilogb(x);
  if (e < emin) e = emin;
  const double ulp = std::ldexp(1.0, e - mant), q = std::fabs(x) / ulp;  // exact: a power of two
  const bool neg = x < 0;
  double r = std::floor(q);
  const double rest = q - r;
  bool up = false;
  switch (mode) {
    case kNearest: up = rest > 0.5 || (rest == 0.5 && std::fmod(r, 2.0) != 0); break;
    case kNearestAway: up = rest >= 0.5; break;
    case kZero: break;
    case kDown: up = neg && rest > 0; break;
    case kUp: up = !neg && rest > 0; break;
  }
  double y = (r + up) * ulp;
  const double largest = std::ldexp(2.0 - std::ldexp(1.0, -mant), emax);
  if (y > largest) {
    const bool stay = mode == kZero || (mode == kDown && !neg) || (mode == kUp && neg);
    y = stay ? largest : HUGE_VAL;
  }
  return neg ? -y : y;
}

namespace {

// 8 bits: sign, 7 - mant exponent bits, mant mantissa bits.
uint8_t encode8(double y, int mant, int emin) {
  const uint8_t sign = std::signbit(y) ? 0x80 : 0;
  y = std::fabs(y);
  if (y == 0) return sign;
  int e = std::ilogb(y);
  if (e < emin) return static_cast<uint8_t>(sign | static_cast<int>(std::ldexp(y, mant - emin)));
  const int m = static_cast<int>(std::ldexp(y, mant - e)) - (1 << mant);
  return static_cast<uint8_t>(sign | (e - emin + 1) << mant | m);
}

}  // namespace

uint8_t to_e4m3(double x) {
  if (x != x) return 0x7f;
  double y = round_to(x, 3, -6, 8, kNearest);
  if (std::fabs(y) > 448) y = std::copysign(448.0, x);
  return encode8(y, 3, -6);
}
uint8_t to_e5m2(double x) {
  if (x != x) return 0x7f;
  double y = round_to(x, 2, -14, 15, kNearest);
  if (std::fabs(y) > 57344) y = std::copysign(57344.0, x);
  return encode8(y, 2, -14);
}
float from_e4m3(uint8_t x) {
  const int e = x >> 3 & 15, m = x & 7;
  const float v = e == 15 && m == 7 ? bits<float>(0x7fffffffu)
                  : e == 0          ? std::ldexp(static_cast<float>(m), -9)
                                    : std::ldexp(static_cast<float>(8 + m), e - 10);
  return (x & 0x80) && v == v ? -v : v;
}
float from_e5m2(uint8_t x) { return widen(f16{static_cast<uint16_t>(x << 8)}); }

}  // namespace exe
