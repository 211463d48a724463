// Storage formats that are not compute types: f16, bf16, float8, float4 (registers: f32), 4- and 2-bit integers (registers: 8 bits).
#include "cpu/vm_loops.h"

namespace ptrt::PTRT_LEVEL {
namespace {

PTRT_INLINE uint32_t bits_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}
PTRT_INLINE float float_of(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

// A format with E exponent and M mantissa bits. kMax: largest finite code; kInf: code of infinity or -1; kNan: code of NaN.
template <int E_, int M_, int BIAS_, int MAX_, int INF_, int NAN_, bool NEG_ZERO_>
struct Format {
  static constexpr int E = E_, M = M_, BIAS = BIAS_, MAX = MAX_, INF = INF_, NAN_CODE = NAN_, SIGN = E_ + M_;
  static constexpr bool NEG_ZERO = NEG_ZERO_;
};
using F16 = Format<5, 10, 15, 0x7bff, 0x7c00, 0x7e00, true>;
using E4M3FN = Format<4, 3, 7, 0x7e, -1, 0x7f, true>;
using E4M3FNUZ = Format<4, 3, 8, 0x7f, -1, 0x80, false>;
using E5M2 = Format<5, 2, 15, 0x7b, 0x7c, 0x7e, true>;
using E5M2FNUZ = Format<5, 2, 16, 0x7f, -1, 0x80, false>;
using E2M1 = Format<2, 1, 1, 0x7, -1, 0x8, true>;

// Nearest, ties to even. OVER: the code for finite overflow, INF: for infinity.
template <class F, int OVER, int INF>
PTRT_INLINE uint32_t encode(float x) {
  constexpr int drop = 23 - F::M;
  constexpr uint32_t min_normal = static_cast<uint32_t>(128 - F::BIAS) << 23;
  constexpr uint32_t magic = static_cast<uint32_t>(128 - F::BIAS - F::M + 23) << 23;  // its last bit has the weight of a subnormal's
  const uint32_t bits = bits_of(x), a = bits & 0x7fffffffu;
  const uint32_t normal = ((a + ((1u << (drop - 1)) - 1) + ((a >> drop) & 1)) >> drop) - (static_cast<uint32_t>(127 - F::BIAS) << F::M);
  const uint32_t subnormal = bits_of(float_of(a) + float_of(magic)) - magic;
  uint32_t code = a < min_normal ? subnormal : normal;
  code = static_cast<int32_t>(code) > F::MAX ? static_cast<uint32_t>(OVER) : code;
  code = a == 0x7f800000u ? static_cast<uint32_t>(INF) : code;
  const uint32_t sign = (bits >> 31) << F::SIGN;
  // Without a negative zero the sign bit alone is NaN.
  const uint32_t with_sign = !F::NEG_ZERO && code == 0 ? 0u : code | sign;
  return a > 0x7f800000u ? static_cast<uint32_t>(F::NAN_CODE) : with_sign;
}

template <class F, int OVER, int INF>
void encode8(const Args& s) {
  loop1<uint8_t, float>(s, [](float x) { return static_cast<uint8_t>(encode<F, OVER, INF>(x)); });
}
template <class F>
Fn encode8_fn(Overflow mode) {
  constexpr int lost = F::INF >= 0 ? F::INF : F::NAN_CODE;
  if (mode == Overflow::saturate) return encode8<F, F::MAX, F::MAX>;
  if (mode == Overflow::wrap) return encode8<F, lost, lost>;
  return encode8<F, F::MAX, (F::INF >= 0 ? F::INF : F::MAX)>;
}

struct Table {
  float v[256];
};
template <class F>
const Table& table() {
  static const Table t = [] {
    Table r;
    for (int c = 0; c < 256; c++) {
      const int code = c & ((1 << F::SIGN) - 1), e = code >> F::M, m = code & ((1 << F::M) - 1);
      float x = static_cast<float>(e ? m + (1 << F::M) : m);
      for (int k = (e ? e : 1) - F::BIAS - F::M; k != 0; k += k < 0 ? 1 : -1) x *= k < 0 ? 0.5f : 2.0f;
      if (code > F::MAX) x = code == F::INF ? __builtin_inff() : __builtin_nanf("");
      if (!F::NEG_ZERO && c == F::NAN_CODE) x = __builtin_nanf("");
      r.v[c] = (c >> F::SIGN) & 1 ? -x : x;
    }
    return r;
  }();
  return t;
}
template <class F>
void decode8(const Args& s) {
  const float* t = table<F>().v;
  loop1<float, uint8_t>(s, [t](uint8_t c) { return t[c]; });
}

void encode_e8m0(const Args& s) {  // a power of two, rounded up; the sign is ignored
  loop1<uint8_t, float>(s, [](float x) {
    const uint32_t a = bits_of(x) & 0x7fffffffu, e = a >> 23;
    return static_cast<uint8_t>(e >= 254 ? e : e + ((a & 0x7fffffu) != 0));
  });
}
void encode_e8m0_wrap(const Args& s) {
  loop1<uint8_t, float>(s, [](float x) {
    const uint32_t a = bits_of(x) & 0x7fffffffu, e = a >> 23;
    return static_cast<uint8_t>(e == 255 ? e : e + ((a & 0x7fffffu) != 0));
  });
}
void decode_e8m0(const Args& s) {
  loop1<float, uint8_t>(s,
                        [](uint8_t c) { return c == 255 ? __builtin_nanf("") : float_of(c ? static_cast<uint32_t>(c) << 23 : 0x400000u); });
}

PTRT_INLINE float half_to_float(uint16_t h) {
  const uint32_t u = static_cast<uint32_t>(h & 0x7fff) << 13, sign = static_cast<uint32_t>(h & 0x8000) << 16;
  const uint32_t finite = bits_of(float_of(u) * 0x1p112f);
  return float_of(((h & 0x7c00) == 0x7c00 ? u | 0x7f800000u : finite) | sign);
}
void decode_f16(const Args& s) {
#if defined(__AVX512F__)
  float* o = static_cast<float*>(s.o);
  const uint16_t* a = static_cast<const uint16_t*>(s.a[0]);
  int64_t i = 0;
  for (; i + 16 <= s.n; i += 16) _mm512_storeu_ps(o + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + i))));
  for (; i < s.n; i++) o[i] = half_to_float(a[i]);
#elif defined(__F16C__)
  float* o = static_cast<float*>(s.o);
  const uint16_t* a = static_cast<const uint16_t*>(s.a[0]);
  int64_t i = 0;
  for (; i + 8 <= s.n; i += 8) _mm256_storeu_ps(o + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i))));
  for (; i < s.n; i++) o[i] = half_to_float(a[i]);
#else
  loop1<float, uint16_t>(s, half_to_float);
#endif
}
void encode_f16(const Args& s) {
  uint16_t* o = static_cast<uint16_t*>(s.o);
  const float* a = static_cast<const float*>(s.a[0]);
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= s.n; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(o + i), _mm512_cvtps_ph(_mm512_loadu_ps(a + i), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  for (; i + 8 <= s.n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(o + i), _mm256_cvtps_ph(_mm256_loadu_ps(a + i), _MM_FROUND_TO_NEAREST_INT));
#endif
  PTRT_IVDEP for (int64_t k = i; k < s.n; k++) o[k] = static_cast<uint16_t>(encode<F16, F16::INF, F16::INF>(a[k]));
}

void decode_bf16(const Args& s) {
  loop1<float, uint16_t>(s, [](uint16_t h) { return float_of(static_cast<uint32_t>(h) << 16); });
}
void encode_bf16(const Args& s) {
  loop1<uint16_t, float>(s, [](float x) {
    const uint32_t u = bits_of(x);
    const uint32_t r = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
    return static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : r);
  });
}

// 2- and 4-bit integers: imm[0] is the width. In memory the upper bits are zero; when read they are ignored.
void sign_bits(const Args& s) {
  const int k = 8 - static_cast<int>(s.imm[0].i);
  loop1<int8_t, int8_t>(
      s, [k](int8_t x) { return static_cast<int8_t>(static_cast<int8_t>(static_cast<uint32_t>(static_cast<uint8_t>(x)) << k) >> k); });
}
void mask_bits(const Args& s) {
  const uint8_t mask = static_cast<uint8_t>((1 << s.imm[0].i) - 1);
  loop1<uint8_t, uint8_t>(s, [mask](uint8_t x) { return static_cast<uint8_t>(x & mask); });
}

}  // namespace

Fn decode_fn(DType t, Imm* imm) {
  switch (t) {
    case DType::f16: return decode_f16;
    case DType::bf16: return decode_bf16;
    case DType::f8e4m3fn: return decode8<E4M3FN>;
    case DType::f8e4m3fnuz: return decode8<E4M3FNUZ>;
    case DType::f8e5m2: return decode8<E5M2>;
    case DType::f8e5m2fnuz: return decode8<E5M2FNUZ>;
    case DType::f4e2m1: return decode8<E2M1>;
    case DType::f8e8m0: return decode_e8m0;
    case DType::i4: imm->i = 4; return sign_bits;
    case DType::i2: imm->i = 2; return sign_bits;
    case DType::u4: imm->i = 4; return mask_bits;
    case DType::u2: imm->i = 2; return mask_bits;
    default: return nullptr;
  }
}

Fn encode_fn(DType t, Overflow mode, Imm* imm) {
  switch (t) {
    case DType::f16: return encode_f16;
    case DType::bf16: return encode_bf16;
    case DType::f8e4m3fn: return encode8_fn<E4M3FN>(mode);
    case DType::f8e4m3fnuz: return encode8_fn<E4M3FNUZ>(mode);
    case DType::f8e5m2: return encode8_fn<E5M2>(mode);
    case DType::f8e5m2fnuz: return encode8_fn<E5M2FNUZ>(mode);
    case DType::f4e2m1: return encode8_fn<E2M1>(Overflow::saturate);
    case DType::f8e8m0: return mode == Overflow::wrap ? encode_e8m0_wrap : encode_e8m0;
    case DType::i4:
    case DType::u4: imm->i = 4; return mask_bits;
    case DType::i2:
    case DType::u2: imm->i = 2; return mask_bits;
    default: return nullptr;
  }
}

}  // namespace ptrt::PTRT_LEVEL
