// Number formats and the arithmetic PTX defines differently from C++.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace exe {

template <class To, class From>
inline To bits(From f) {
  static_assert(sizeof(To) == sizeof(From));
  To t;
  memcpy(&t, &f, sizeof t);
  return t;
}

// Results that are NaN are this NaN, whatever the operands' payload.
inline float canon(float x) { return x != x ? bits<float>(0x7fffffffu) : x; }
inline double canon(double x) { return x != x ? bits<double>(0xfff8000000000000ull) : x; }
inline float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

// 16-bit floats as they lie in memory. All conversions are exact or rounded once, to nearest even.
struct f16 {
  uint16_t v;
};
struct bf16 {
  uint16_t v;
};

inline float widen(f16 h) {
  const uint32_t s = (h.v & 0x8000u) << 16, e = (h.v >> 10) & 31, m = h.v & 0x3ff;
  const uint32_t normal = s | ((e + 112) << 23) | (m << 13);
  const float sub = bits<float>(bits<uint32_t>(static_cast<float>(static_cast<int32_t>(m)) * 0x1p-24f) | s);
  const uint32_t special = s | 0x7f800000u | (m << 13);
  return e == 0 ? sub : e == 31 ? (m ? bits<float>(0x7fffffffu) : bits<float>(special)) : bits<float>(normal);
}
inline float widen(bf16 h) { return canon(bits<float>(static_cast<uint32_t>(h.v) << 16)); }
inline float widen(float x) { return x; }
inline double widen(double x) { return x; }

template <class T>
T narrow(float x);
template <>
inline f16 narrow<f16>(float x) {
  const uint32_t u = bits<uint32_t>(x), s = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  // normal: round the mantissa in place; subnormal: adding 0.5 aligns and rounds it
  const uint32_t r = a + 0xfffu + ((a >> 13) & 1);
  const uint32_t normal = (r - (112u << 23)) >> 13;
  const uint32_t sub = bits<uint32_t>(bits<float>(a) + 0.5f) - 0x3f000000u;
  uint32_t h = a < 0x38800000u ? sub : normal;
  h = a >= 0x477ff000u ? 0x7c00u : h;
  h = a > 0x7f800000u ? 0x7fffu : (h | s);
  return {static_cast<uint16_t>(h)};
}
template <>
inline bf16 narrow<bf16>(float x) {
  const uint32_t u = bits<uint32_t>(x);
  const uint32_t r = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  return {static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : r)};
}
template <>
inline float narrow<float>(float x) {
  return x;
}
// double → float that keeps what a second rounding needs to know (round to odd).
inline float to_odd(double x) {
  float f = static_cast<float>(x);
  if (x != x || static_cast<double>(f) == x) return f;
  uint32_t u = bits<uint32_t>(f);
  if ((u & 0x7fffffffu) == 0x7f800000u) return bits<float>((u & 0x80000000u) | 0x7f7fffffu);
  if (std::fabs(static_cast<double>(f)) > std::fabs(x)) --u;  // toward zero
  return bits<float>(u | 1);
}
template <class T>
inline T narrow(double x) {
  return narrow<T>(to_odd(x));
}

enum Rounding : uint8_t { kNearest, kZero, kDown, kUp, kNearestAway };

// Rounds to a format with `mant` stored mantissa bits and exponents emin..emax (unbiased, of normal numbers); beyond the largest: infinity
// or the largest, as the mode says.
double round_to(double x, int mant, int emin, int emax, Rounding mode);

// 8-bit floats: e4m3 has no infinity and one NaN (0x7f), e5m2 is a short half. Saturates to the largest finite value; NaN stays NaN.
uint8_t to_e4m3(double x);
uint8_t to_e5m2(double x);
float from_e4m3(uint8_t x);
float from_e5m2(uint8_t x);

// minimum and maximum: a NaN operand gives the other; -0 < +0.
template <class T>
inline T min_number(T a, T b) {
  T r = a < b ? a : b;
  r = a == b ? (std::signbit(a) ? a : b) : r;
  r = a != a ? b : r;
  r = b != b ? a : r;
  return canon(r);
}
template <class T>
inline T max_number(T a, T b) {
  T r = a > b ? a : b;
  r = a == b ? (std::signbit(a) ? b : a) : r;
  r = a != a ? b : r;
  r = b != b ? a : r;
  return canon(r);
}

}  // namespace exe
