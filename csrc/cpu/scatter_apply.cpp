#include "cpu/scatter_apply.h"

#include "core/vocabulary.h"
#include "cpu/half.h"

namespace ptrt::PTRT_LEVEL {
namespace {

struct Bytes16 {
  uint64_t a, b;
};

// Storage type S, and how it is read and written as the type it computes in.
template <class T>
struct Plain {
  using S = T;
  static T get(S s) { return s; }
  static S put(T v) { return v; }
};
struct Half {
  using S = uint16_t;
  static float get(S s) { return f16_to_f32(s); }
  static S put(float v) { return f32_to_f16(v); }
};
struct Bfloat {
  using S = uint16_t;
  static float get(S s) { return bf16_to_f32(s); }
  static S put(float v) { return f32_to_bf16(v); }
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

// Of two numbers, and of two vectors of them.
struct Add {
  template <class T>
  static PTRT_INLINE T of(T a, T b) {
    return static_cast<T>(a + b);
  }
  template <class V>
  static PTRT_INLINE V vector(V a, V b) {
    return a + b;
  }
};
struct Mul {
  template <class T>
  static PTRT_INLINE T of(T a, T b) {
    return static_cast<T>(a * b);
  }
  static uint16_t of(uint16_t a, uint16_t b) { return static_cast<uint16_t>(static_cast<uint32_t>(a) * b); }  // int would overflow
  template <class V>
  static PTRT_INLINE V vector(V a, V b) {
    return a * b;
  }
};
struct Max {  // a NaN on either side stays
  template <class T>
  static PTRT_INLINE T of(T a, T b) {
    const T m = a > b ? a : b;
    return a != a ? a : m;
  }
  template <class V>
  static PTRT_INLINE V vector(V a, V b) {
    return (a > b) | (a != a) ? a : b;
  }
};
struct Min {
  template <class T>
  static PTRT_INLINE T of(T a, T b) {
    const T m = a < b ? a : b;
    return a != a ? a : m;
  }
  template <class V>
  static PTRT_INLINE V vector(V a, V b) {
    return (a < b) | (a != a) ? a : b;
  }
};
struct Or {
  template <class T>
  static PTRT_INLINE T of(T a, T b) {
    return a | b;
  }
};
struct And {
  template <class T>
  static PTRT_INLINE T of(T a, T b) {
    return a & b;
  }
};

template <class S>
void set_points(char* y, const int64_t* offsets, const char* u, int64_t su, int64_t n) {
  for (int64_t j = 0; j < n; j++) std::memcpy(y + offsets[j], u + j * su, sizeof(S));
}

template <class A, class O>
PTRT_INLINE void one(char* y, const char* u) {
  typename A::S a, b;
  std::memcpy(&a, y, sizeof a);
  std::memcpy(&b, u, sizeof b);
  a = A::put(O::of(A::get(a), A::get(b)));
  std::memcpy(y, &a, sizeof a);
}
template <class A, class O>
void points(char* y, const int64_t* offsets, const char* u, int64_t su, int64_t n) {
  for (int64_t j = 0; j < n; j++) one<A, O>(y + offsets[j], u + j * su);
}
template <class A, class O>
void run(char* y, int64_t sy, const char* u, int64_t su, int64_t n) {
  using S = typename A::S;
  constexpr int64_t e = sizeof(S);
  int64_t j = 0;
  if constexpr (std::is_same_v<S, float> || std::is_same_v<S, double> || (std::is_same_v<O, Add> && std::is_same_v<A, Plain<S>>)) {
    typedef S V __attribute__((vector_size(16)));
    if (sy == e && su == e)
      for (; j + 16 / e <= n; j += 16 / e) {
        V a, b;
        std::memcpy(&a, y + j * e, sizeof a);
        std::memcpy(&b, u + j * e, sizeof b);
        a = O::vector(a, b);
        std::memcpy(y + j * e, &a, sizeof a);
      }
  }
  for (; j < n; j++) one<A, O>(y + j * sy, u + j * su);
}

template <class S>
ScatterApply set() {
  return {set_points<S>, copy_fn(sizeof(S))};
}
template <class A, class O>
ScatterApply apply() {
  return {points<A, O>, run<A, O>};
}

template <class A>
ScatterApply sum_or_product(int64_t r) {
  if (r == static_cast<int64_t>(Reduction::add_)) return apply<A, Add>();
  if (r == static_cast<int64_t>(Reduction::mul_)) return apply<A, Mul>();
  return {};
}
template <class A>
ScatterApply extreme(int64_t r) {
  if (r == static_cast<int64_t>(Reduction::max_)) return apply<A, Max>();
  if (r == static_cast<int64_t>(Reduction::min_)) return apply<A, Min>();
  return {};
}
template <class A>
ScatterApply floating(int64_t r) {
  const ScatterApply f = sum_or_product<A>(r);
  return f.run ? f : extreme<A>(r);
}
// Sums and products of integers wrap, so they are done unsigned.
template <class T, class U>
ScatterApply integer(int64_t r) {
  const ScatterApply f = sum_or_product<Plain<U>>(r);
  return f.run ? f : extreme<Plain<T>>(r);
}

}  // namespace

ScatterApply scatter_apply(DType t, int64_t r) {
  if (r == static_cast<int64_t>(Reduction::none_)) {
    switch (itemsize(t)) {
      case 1: return set<uint8_t>();
      case 2: return set<uint16_t>();
      case 4: return set<uint32_t>();
      case 8: return set<uint64_t>();
      case 16: return set<Bytes16>();
      default: return {};
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
      if (r == static_cast<int64_t>(Reduction::add_) || r == static_cast<int64_t>(Reduction::max_)) return apply<Plain<uint8_t>, Or>();
      if (r == static_cast<int64_t>(Reduction::mul_) || r == static_cast<int64_t>(Reduction::min_)) return apply<Plain<uint8_t>, And>();
      return {};
    default: return {};
  }
}

}  // namespace ptrt::PTRT_LEVEL
