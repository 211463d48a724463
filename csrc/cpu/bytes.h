// Bytes as vectors of numbers, and back.
#pragma once
#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {
namespace {

PTRT_INLINE vf to_float(vi x) { return __builtin_convertvector(x, vf); }
#if defined(__AVX512F__)
template <class B>
PTRT_INLINE vi widened(__m128i b) {
  constexpr bool sign = B(-1) < B(0);
  return (vi)(sign ? _mm512_cvtepi8_epi32(b) : _mm512_cvtepu8_epi32(b));
}
#endif
// W int8 or uint8 values. (gcc 12 converts vectors of bytes one by one.)
template <class B>
PTRT_INLINE vi widened(const void* p) {
#if defined(__AVX512F__)
  return widened<B>(_mm_loadu_si128(static_cast<const __m128i*>(p)));
#elif defined(__AVX2__)
  constexpr bool sign = B(-1) < B(0);
  const __m128i b = _mm_loadl_epi64(static_cast<const __m128i*>(p));
  return (vi)(sign ? _mm256_cvtepi8_epi32(b) : _mm256_cvtepu8_epi32(b));
#else
  vi r;
  const B* b = static_cast<const B*>(p);
  for (int i = 0; i < W; i++) r[i] = b[i];
  return r;
#endif
}
// To the nearest integer, to even; |x| < 2^31. A separate step, so that a product before it is rounded first.
PTRT_INLINE vi rounded(vf x) {
#if defined(__AVX512F__)
  return (vi)_mm512_cvtps_epi32((__m512)x);
#elif defined(__AVX2__)
  return (vi)_mm256_cvtps_epi32((__m256)x);
#elif defined(__SSE2__)
  return (vi)_mm_cvtps_epi32((__m128)x);
#else
  vi r;
  for (int i = 0; i < W; i++) r[i] = static_cast<int32_t>(__builtin_rintf(x[i]));
  return r;
#endif
}
// Within [lo, hi]; NaN becomes lo.
PTRT_INLINE vf bounded(vf x, vf lo, vf hi) { return vmin(vmax(x, lo), hi); }

// The first n values; the other lanes are 0.
template <class B>
PTRT_INLINE vf load_bytes(const B* p, int n) {
  if (n >= W) return to_float(widened<B>(p));
#if defined(__AVX512F__)
  return to_float(widened<B>(_mm_maskz_loadu_epi8(static_cast<__mmask16>((1 << n) - 1), p)));
#else
  B some[W] = {};
  for (int i = 0; i < n; i++) some[i] = p[i];
  return to_float(widened<B>(some));
#endif
}

// The low bytes of the first n (at most W) values.
PTRT_INLINE void store_bytes(uint8_t* p, vi x, int n) {
#if defined(__AVX512F__)
  const __m128i b = _mm512_cvtepi32_epi8((__m512i)x);
  if (n >= W) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), b);
    return;
  }
  _mm_mask_storeu_epi8(p, static_cast<__mmask16>((1 << n) - 1), b);
#else
#if defined(__AVX2__)
  const __m256i low = _mm256_and_si256((__m256i)x, _mm256_set1_epi32(255));
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)), b = _mm_packus_epi16(words, words);
  if (n >= W) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), b);
    return;
  }
#endif
  for (int i = 0; i < n && i < W; i++) p[i] = static_cast<uint8_t>(x[i]);
#endif
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
