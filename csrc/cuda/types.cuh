// Element types. A storage type `T` is what lies in memory; Value<T> is what registers hold: narrow floats compute in f32 and are rounded
// to T after every instruction, 4- and 2-bit integers compute in 8 bits. NVRTC has no standard headers, so the few names needed are made
// here.
#pragma once
#ifdef __CUDACC_RTC__
#define PTRT_TABLE constexpr
#else  // nvcc, unlike NVRTC with --device-as-default-execution-space, takes what is not marked for host code
#undef __forceinline__
#define __forceinline__ __device__ __inline__ __attribute__((always_inline))
#define PTRT_TABLE static __device__ constexpr  // arrays of constants
#endif
#include "ptx.cuh"

using i8 = signed char;
using u8 = unsigned char;
using i16 = short;
using u16 = unsigned short;
using i32 = int;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;
using f32 = float;
using f64 = double;

// Storage formats that C++ has no type for. Struct tags, so that overloads and traits can tell them apart.
struct f16 {
  u16 bits;
};
struct bf16 {
  u16 bits;
};
struct f8e4m3fn {
  u8 bits;
};
struct f8e4m3fnuz {
  u8 bits;
};
struct f8e5m2 {
  u8 bits;
};
struct f8e5m2fnuz {
  u8 bits;
};
struct f8e8m0fnu {
  u8 bits;
};
struct f4e2m1fn {  // one element per byte
  u8 bits;
};
struct u4 {  // 4- and 2-bit integers: one element per byte, whose upper bits are written as 0 and ignored when read
  u8 bits;
};
struct i4 {
  u8 bits;
};
struct u2 {
  u8 bits;
};
struct i2 {
  u8 bits;
};
struct alignas(8) c64 {
  f32 re, im;
};
struct alignas(16) c128 {
  f64 re, im;
};

template <bool B, class T, class F>
struct Select {
  using type = T;
};
template <class T, class F>
struct Select<false, T, F> {
  using type = F;
};
template <class A, class B>
constexpr bool same = false;
template <class A>
constexpr bool same<A, A> = true;

enum Kind { kFloat, kInt, kBool, kComplex };
template <class T>
struct Traits;
#define PTRT_TRAITS(T, VALUE, KIND, BITS, SIGNED)                       \
  template <>                                                           \
  struct Traits<T> {                                                    \
    using Value = VALUE;                                                \
    static constexpr Kind kind = KIND;                                  \
    static constexpr int bits = BITS;                                   \
    static constexpr bool is_signed = SIGNED, narrow = !same<T, VALUE>; \
  };
PTRT_TRAITS(f32, f32, kFloat, 32, true)
PTRT_TRAITS(f64, f64, kFloat, 64, true)
PTRT_TRAITS(f16, f32, kFloat, 16, true)
PTRT_TRAITS(bf16, f32, kFloat, 16, true)
PTRT_TRAITS(f8e4m3fn, f32, kFloat, 8, true)
PTRT_TRAITS(f8e4m3fnuz, f32, kFloat, 8, true)
PTRT_TRAITS(f8e5m2, f32, kFloat, 8, true)
PTRT_TRAITS(f8e5m2fnuz, f32, kFloat, 8, true)
PTRT_TRAITS(f8e8m0fnu, f32, kFloat, 8, true)
PTRT_TRAITS(f4e2m1fn, f32, kFloat, 4, true)
PTRT_TRAITS(i8, i8, kInt, 8, true)
PTRT_TRAITS(u8, u8, kInt, 8, false)
PTRT_TRAITS(i16, i16, kInt, 16, true)
PTRT_TRAITS(u16, u16, kInt, 16, false)
PTRT_TRAITS(i32, i32, kInt, 32, true)
PTRT_TRAITS(u32, u32, kInt, 32, false)
PTRT_TRAITS(i64, i64, kInt, 64, true)
PTRT_TRAITS(u64, u64, kInt, 64, false)
PTRT_TRAITS(u4, u8, kInt, 4, false)
PTRT_TRAITS(i4, i8, kInt, 4, true)
PTRT_TRAITS(u2, u8, kInt, 2, false)
PTRT_TRAITS(i2, i8, kInt, 2, true)
PTRT_TRAITS(bool, bool, kBool, 8, false)
PTRT_TRAITS(c64, c64, kComplex, 64, true)
PTRT_TRAITS(c128, c128, kComplex, 128, true)
#undef PTRT_TRAITS

template <class T>
using Value = typename Traits<T>::Value;
template <class T>
constexpr bool is_float = Traits<T>::kind == kFloat;
template <class T>
constexpr bool is_int = Traits<T>::kind == kInt;

// What sums of T are kept in: f32 for f32 and narrower, f64, and the type itself (wrapping) for integers.
template <class T>
using Accumulator = Value<T>;

__forceinline__ u32 bits_of(f32 x) { return __float_as_uint(x); }
__forceinline__ f32 float_of(u32 x) { return __uint_as_float(x); }
__forceinline__ f32 inf32() { return __uint_as_float(0x7f800000u); }
__forceinline__ f32 nan32() { return __uint_as_float(0x7fc00000u); }

// Float formats of E exponent and M mantissa bits. kMax: largest finite code; kInf: code of infinity or -1; kNan: code of NaN.
template <class T>
struct Format;
#define PTRT_FORMAT(T, E_, M_, BIAS_, MAX_, INF_, NAN_, NEG_ZERO_)                                              \
  template <>                                                                                                   \
  struct Format<T> {                                                                                            \
    static constexpr int E = E_, M = M_, kBias = BIAS_, kMax = MAX_, kInf = INF_, kNan = NAN_, kSign = E_ + M_; \
    static constexpr bool kNegZero = NEG_ZERO_;                                                                 \
  };
PTRT_FORMAT(f8e4m3fn, 4, 3, 7, 0x7e, -1, 0x7f, true)
PTRT_FORMAT(f8e4m3fnuz, 4, 3, 8, 0x7f, -1, 0x80, false)
PTRT_FORMAT(f8e5m2, 5, 2, 15, 0x7b, 0x7c, 0x7e, true)
PTRT_FORMAT(f8e5m2fnuz, 5, 2, 16, 0x7f, -1, 0x80, false)
PTRT_FORMAT(f4e2m1fn, 2, 1, 1, 0x7, -1, 0x8, true)
#undef PTRT_FORMAT

// What becomes of values too large for a float8: Cast, Cast without saturation, the result of arithmetic.
enum Overflow { kSaturate, kWrap, kKeepInf };

template <class T>
__forceinline__ f32 decode(u8 code) {
  using F = Format<T>;
  const u32 sign = static_cast<u32>(code >> F::kSign) << 31, rest = code & ((1u << F::kSign) - 1);
  if (!F::kNegZero && code == F::kNan) return nan32();
  if constexpr (same<T, f8e4m3fn>)
    if (rest == 0x7f) return float_of(0x7fc00000u | sign);
  if (F::kInf >= 0 && rest >= static_cast<u32>(F::kInf)) return float_of((rest == F::kInf ? 0x7f800000u : 0x7fc00000u) | sign);
  const u32 e = rest >> F::M, m = rest & ((1u << F::M) - 1);
  const f32 unit = float_of(static_cast<u32>(127 + 1 - F::kBias - F::M) << 23);  // of a subnormal number
  const f32 magnitude = e == 0 ? static_cast<f32>(m) * unit : float_of(((e + 127 - F::kBias) << 23) | (m << (23 - F::M)));
  return float_of(bits_of(magnitude) | sign);
}

// Nearest, ties to even.
template <class T, Overflow MODE>
__forceinline__ u8 encode(f32 x) {
  using F = Format<T>;
  constexpr int lost = F::kInf >= 0 ? F::kInf : F::kNan;
  constexpr int over = MODE == kWrap ? lost : F::kMax;
  constexpr int infinite = MODE == kWrap ? lost : MODE == kKeepInf && F::kInf >= 0 ? F::kInf : F::kMax;
  constexpr int drop = 23 - F::M;
  constexpr u32 min_normal = static_cast<u32>(128 - F::kBias) << 23;
  constexpr u32 magic = static_cast<u32>(128 - F::kBias - F::M + 23) << 23;  // its last bit has the weight of a subnormal's
  const u32 bits = bits_of(x), a = bits & 0x7fffffffu;
  if (a > 0x7f800000u) return F::kNan;
  const u32 normal = ((a + ((1u << (drop - 1)) - 1) + ((a >> drop) & 1)) >> drop) - (static_cast<u32>(127 - F::kBias) << F::M);
  const u32 subnormal = bits_of(float_of(a) + float_of(magic)) - magic;
  u32 code = a < min_normal ? subnormal : normal;
  if (static_cast<i32>(code) > F::kMax) code = over;
  if (a == 0x7f800000u) code = infinite;
  return !F::kNegZero && code == 0 ? 0 : code | ((bits >> 31) << F::kSign);
}

// f64 to f32, rounding to odd, so that a second rounding to a narrower type is exact.
__forceinline__ f32 odd_f32(f64 x) {
  const f32 down = __double2float_rz(x);
  return static_cast<f64>(down) == x || x != x ? down : float_of(bits_of(down) | 1);
}

__forceinline__ u16 bf16_bits(f32 x) {
  const u32 u = bits_of(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fc0 | static_cast<u16>((u >> 31) << 15);
  return static_cast<u16>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// float8e8m0 with ONNX's default rounding: up, to the next power of two, ignoring the sign. NaN and infinity give NaN.
template <bool SATURATE>
__forceinline__ u8 e8m0_bits(f32 x) {
  const u32 bits = bits_of(x), e = (bits >> 23) & 0xff;
  return static_cast<u8>(e + ((bits & 0x7fffff) != 0 && e < (SATURATE ? 254 : 255)));
}

// Memory to register.
template <class T>
__forceinline__ Value<T> value_of(T x) {
  if constexpr (same<T, f16>) return ptx_f32_of_f16(x.bits);
  else if constexpr (same<T, bf16>) return float_of(static_cast<u32>(x.bits) << 16);
  else if constexpr (same<T, f8e8m0fnu>)
    return x.bits == 0xff ? nan32() : x.bits == 0 ? float_of(0x00400000u) : float_of(static_cast<u32>(x.bits) << 23);
  else if constexpr (is_float<T> && Traits<T>::bits <= 8) return decode<T>(x.bits);
  else if constexpr (same<T, u4>) return x.bits & 15;
  else if constexpr (same<T, u2>) return x.bits & 3;
  else if constexpr (same<T, i4>) return static_cast<i8>(x.bits << 4) >> 4;
  else if constexpr (same<T, i2>) return static_cast<i8>(x.bits << 6) >> 6;
  else return x;
}

// Register to memory: the register holds a value of T already, so nothing is lost but what arithmetic put out of range.
template <class T, Overflow MODE = kKeepInf>
__forceinline__ T stored(Value<T> x) {
  if constexpr (same<T, f16>) return f16{ptx_f16_of_f32(x)};
  else if constexpr (same<T, bf16>) return bf16{bf16_bits(x)};
  else if constexpr (same<T, f8e8m0fnu>) return f8e8m0fnu{e8m0_bits<MODE == kSaturate>(x)};
  else if constexpr (is_float<T> && Traits<T>::bits <= 8) return T{encode<T, MODE>(x)};
  else if constexpr (is_int<T> && Traits<T>::bits < 8) return T{static_cast<u8>(x & ((1 << Traits<T>::bits) - 1))};
  else return x;
}

// A register rounded (wrapped) to what T can hold.
template <class T>
__forceinline__ Value<T> rounded(Value<T> x) {
  if constexpr (Traits<T>::narrow) return value_of<T>(stored<T>(x));
  else return x;
}

template <class T>
__forceinline__ Value<T> lowest() {
  if constexpr (same<T, f64>) return -static_cast<f64>(inf32());
  else if constexpr (is_float<T>) return -inf32();
  else if constexpr (same<T, bool>) return false;
  else return Traits<T>::is_signed ? static_cast<Value<T>>(-(1ll << (Traits<T>::bits - 1))) : Value<T>{0};
}
template <class T>
__forceinline__ Value<T> highest() {
  if constexpr (same<T, f64>) return static_cast<f64>(inf32());
  else if constexpr (is_float<T>) return inf32();
  else if constexpr (same<T, bool>) return true;
  else return static_cast<Value<T>>(Traits<T>::is_signed ? (1ull << (Traits<T>::bits - 1)) - 1 : ~0ull >> (64 - Traits<T>::bits));
}

// N elements moved at once; N * sizeof(T) is a power of two up to 16.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
template <int BYTES>
struct Word;
template <>
struct Word<1> {
  using type = u8;
};
template <>
struct Word<2> {
  using type = u16;
};
template <>
struct Word<4> {
  using type = u32;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};
template <class T, int N>
__forceinline__ Pack<T, N> load_pack(const T* p) {  // p is aligned to N * sizeof(T)
  using W = typename Word<sizeof(T) * N>::type;
  union {
    W word;
    Pack<T, N> pack;
  } u;
  u.word = *reinterpret_cast<const W*>(p);
  return u.pack;
}
template <class T, int N>
__forceinline__ void store_pack(T* p, const Pack<T, N>& x) {
  using W = typename Word<sizeof(T) * N>::type;
  union {
    W word;
    Pack<T, N> pack;
  } u;
  u.pack = x;
  *reinterpret_cast<W*>(p) = u.word;
}
