#include "cpu/scatter_apply.h"

#include "core/vocabulary.h"

namespace ptrt::PTRT_LEVEL {
namespace {

struct Bytes16 {
  uint64_t a, b;
};

float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, magnitude = h & 0x7fff;
  uint32_t bits;
  if (magnitude >= 0x7c00) bits = 0x7f800000 | (magnitude & 0x3ff) << 13;
  else if (magnitude >= 0x400) bits = (magnitude << 13) + 0x38000000;
  else {  // subnormal: magnitude * 2^-24 is exact
    const float f = static_cast<float>(magnitude) * 5.9604644775390625e-8f;
    std::memcpy(&bits, &f, sizeof bits);
  }
  bits |= sign;
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

uint16_t float_to_half(float f) {  // to nearest even
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof bits);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00;
  if (bits >= 0x477ff000) return sign | 0x7c00;
  if (bits < 0x38800000) {  // subnormal result: let the addition round
    float m;
    std::memcpy(&m, &bits, sizeof m);
    m += 0.5f;
    std::memcpy(&bits, &m, sizeof bits);
    return sign | static_cast<uint16_t>(bits - 0x3f000000);
  }
  return sign | static_cast<uint16_t>((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
}

// Storage type S, and how it is read and written as the type it computes in.
template <class T>
struct Plain {
  using S = T;
  static T get(S s) { return s; }
  static S put(T v) { return v; }
};
struct Half {
  using S = uint16_t;
  static float get(S s) { return half_to_float(s); }
  static S put(float v) { return float_to_half(v); }
};
struct Bfloat {
  using S = uint16_t;
  static float get(S s) {
    const uint32_t bits = static_cast<uint32_t>(s) << 16;
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
  }
  static S put(float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
};
template <class T>
struct Complex {
  struct C {
    T re, im;
    friend C operator+(C a, C b) { return {a.re + b.re, a.im + b.im}; }
    friend C operator*(C a, C b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
  };
  using S = C;
  static C get(C s) { return s; }
  static C put(C v) { return v; }
};

struct Add {
  template <class T>
  static T of(T a, T b) {
    return static_cast<T>(a + b);
  }
};
struct Mul {
  template <class T>
  static T of(T a, T b) {
    return static_cast<T>(a * b);
  }
  static uint16_t of(uint16_t a, uint16_t b) { return static_cast<uint16_t>(static_cast<uint32_t>(a) * b); }  // int would overflow
};
struct Max {  // a NaN on either side stays
  template <class T>
  static T of(T a, T b) {
    return a > b || a != a ? a : b;
  }
};
struct Min {
  template <class T>
  static T of(T a, T b) {
    return a < b || a != a ? a : b;
  }
};
struct Or {
  template <class T>
  static T of(T a, T b) {
    return a | b;
  }
};
struct And {
  template <class T>
  static T of(T a, T b) {
    return a & b;
  }
};

template <class S>
void set(char* y, const int64_t* offsets, const char* u, int64_t su, int64_t n) {
  for (int64_t j = 0; j < n; j++) std::memcpy(y + offsets[j], u + j * su, sizeof(S));
}

template <class A, class O>
void apply(char* y, const int64_t* offsets, const char* u, int64_t su, int64_t n) {
  using S = typename A::S;
  for (int64_t j = 0; j < n; j++) {
    S a, b;
    std::memcpy(&a, y + offsets[j], sizeof a);
    std::memcpy(&b, u + j * su, sizeof b);
    a = A::put(O::of(A::get(a), A::get(b)));
    std::memcpy(y + offsets[j], &a, sizeof a);
  }
}

template <class A>
ApplyFn sum_or_product(int64_t r) {
  if (r == static_cast<int64_t>(Reduction::add_)) return apply<A, Add>;
  if (r == static_cast<int64_t>(Reduction::mul_)) return apply<A, Mul>;
  return nullptr;
}
template <class A>
ApplyFn extreme(int64_t r) {
  if (r == static_cast<int64_t>(Reduction::max_)) return apply<A, Max>;
  if (r == static_cast<int64_t>(Reduction::min_)) return apply<A, Min>;
  return nullptr;
}
template <class A>
ApplyFn floating(int64_t r) {
  const ApplyFn f = sum_or_product<A>(r);
  return f ? f : extreme<A>(r);
}
// Sums and products of integers wrap, so they are done unsigned.
template <class T, class U>
ApplyFn integer(int64_t r) {
  const ApplyFn f = sum_or_product<Plain<U>>(r);
  return f ? f : extreme<Plain<T>>(r);
}

}  // namespace

ApplyFn scatter_apply(DType t, int64_t r) {
  if (r == static_cast<int64_t>(Reduction::none_)) {
    switch (itemsize(t)) {
      case 1: return set<uint8_t>;
      case 2: return set<uint16_t>;
      case 4: return set<uint32_t>;
      case 8: return set<uint64_t>;
      case 16: return set<Bytes16>;
      default: return nullptr;
    }
  }
  switch (t) {
    case DType::f32: return floating<Plain<float>>(r);
    case DType::f64: return floating<Plain<double>>(r);
    case DType::f16: return floating<Half>(r);
    case DType::bf16: return floating<Bfloat>(r);
    case DType::u8: return integer<uint8_t, uint8_t>(r);
    case DType::i8: return integer<int8_t, uint8_t>(r);
    case DType::u16: return integer<uint16_t, uint16_t>(r);
    case DType::i16: return integer<int16_t, uint16_t>(r);
    case DType::u32: return integer<uint32_t, uint32_t>(r);
    case DType::i32: return integer<int32_t, uint32_t>(r);
    case DType::u64: return integer<uint64_t, uint64_t>(r);
    case DType::i64: return integer<int64_t, uint64_t>(r);
    case DType::c64: return sum_or_product<Complex<float>>(r);
    case DType::c128: return sum_or_product<Complex<double>>(r);
    case DType::boolean:
      if (r == static_cast<int64_t>(Reduction::add_) || r == static_cast<int64_t>(Reduction::max_)) return apply<Plain<uint8_t>, Or>;
      if (r == static_cast<int64_t>(Reduction::mul_) || r == static_cast<int64_t>(Reduction::min_)) return apply<Plain<uint8_t>, And>;
      return nullptr;
    default: return nullptr;
  }
}

}  // namespace ptrt::PTRT_LEVEL
