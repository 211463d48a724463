// f16 and bf16 from and to float: scalars and contiguous rows. Rounding is to nearest even; NaN stays NaN.
#pragma once
#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {
namespace {

PTRT_INLINE float bits_to_float(uint32_t u) {
  float f;
  std::memcpy(&f, &u, sizeof f);
  return f;
}
PTRT_INLINE uint32_t float_to_bits(float f) {
  uint32_t u;
  std::memcpy(&u, &f, sizeof u);
  return u;
}

PTRT_INLINE float f16_to_f32(uint16_t h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#elif defined(__aarch64__)
  __fp16 x;
  std::memcpy(&x, &h, sizeof x);
  return x;
#else
  const uint32_t sign = (h & 0x8000u) << 16, magnitude = h & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  if (magnitude >= 0x400u) return bits_to_float(sign | ((magnitude << 13) + (112u << 23)));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
  return sign ? -subnormal : subnormal;
#endif
}
PTRT_INLINE uint16_t f32_to_f16(float f) {
#if defined(__F16C__)
  return _cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__aarch64__)
  const __fp16 x = f;
  uint16_t h;
  std::memcpy(&h, &x, sizeof h);
  return h;
#else
  const uint32_t u = float_to_bits(f), sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to at least 65520
  if (magnitude < 0x38800000u) {                                               // subnormal: adding 0.5 lets the FPU round at 2^-24
    const float shifted = bits_to_float(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (float_to_bits(shifted) - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | ((magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13));
#endif
}

PTRT_INLINE float bf16_to_f32(uint16_t h) { return bits_to_float(static_cast<uint32_t>(h) << 16); }
PTRT_INLINE uint16_t f32_to_bf16(float f) {
  const uint32_t u = float_to_bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(u >> 16 | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

PTRT_INLINE float half_to_float(DType t, uint16_t h) { return t == DType::f16 ? f16_to_f32(h) : bf16_to_f32(h); }
PTRT_INLINE uint16_t float_to_half(DType t, float f) { return t == DType::f16 ? f32_to_f16(f) : f32_to_bf16(f); }

// dst may not overlap src.
inline void halves_to_floats(DType t, float* dst, const uint16_t* src, int64_t n) {
  int64_t i = 0;
  if (t == DType::f16) {
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16)
      _mm512_storeu_ps(dst + i, _mm512_maskz_cvtph_ps((__mmask16)-1, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(src + i))));
#elif defined(__F16C__)
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(src + i))));
#endif
    for (; i < n; i++) dst[i] = f16_to_f32(src[i]);
  } else {
    for (; i < n; i++) dst[i] = bf16_to_f32(src[i]);
  }
}

// dst may be the memory of src (the row shrinks in place).
inline void floats_to_halves(DType t, uint16_t* dst, const float* src, int64_t n) {
  int64_t i = 0;
  if (t == DType::f16) {
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + i),
                          _mm512_maskz_cvtps_ph((__mmask16)-1, _mm512_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    for (; i + 8 <= n; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + i), _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < n; i++) {
      float f;
      std::memcpy(&f, src + i, sizeof f);
      const uint16_t h = f32_to_f16(f);
      std::memcpy(dst + i, &h, sizeof h);
    }
  } else {
    for (; i + W <= n; i += W) {
      const vi u = (vi)load(src + i);
      const vi nan = (u & 0x7fffffff) > 0x7f800000;
      const vi rounded = (vi)((vu)(u + 0x7fff + ((vi)((vu)u >> 16) & 1)) >> 16), quiet = (vi)((vu)u >> 16) | 0x40;
      typedef uint16_t half_vector __attribute__((vector_size(W * 2), aligned(2), may_alias));
      *reinterpret_cast<half_vector*>(dst + i) = __builtin_convertvector((vu)(nan ? quiet : rounded), half_vector);
    }
    for (; i < n; i++) {
      float f;
      std::memcpy(&f, src + i, sizeof f);
      const uint16_t h = f32_to_bf16(f);
      std::memcpy(dst + i, &h, sizeof h);
    }
  }
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
