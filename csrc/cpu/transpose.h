// Small transpositions in registers, between channels-first and channels-last.
#pragma once
#include "cpu/lanes.h"

namespace ptrt::PTRT_LEVEL {
namespace {

#if defined(__AVX512F__)
// n pixels of three planes, each of consecutive floats, interleaved: what images are stored as, into what the first convolution reads.
inline void interleave3(const float* src, int64_t plane, int64_t n, float* dst) {
  const __m512i ab[3] = {_mm512_setr_epi32(0, 16, 0, 1, 17, 0, 2, 18, 0, 3, 19, 0, 4, 20, 0, 5),
                         _mm512_setr_epi32(21, 0, 6, 22, 0, 7, 23, 0, 8, 24, 0, 9, 25, 0, 10, 26),
                         _mm512_setr_epi32(0, 11, 27, 0, 12, 28, 0, 13, 29, 0, 14, 30, 0, 15, 31, 0)};
  const __m512i c[3] = {_mm512_setr_epi32(0, 1, 16, 3, 4, 17, 6, 7, 18, 9, 10, 19, 12, 13, 20, 15),
                        _mm512_setr_epi32(0, 21, 2, 3, 22, 5, 6, 23, 8, 9, 24, 11, 12, 25, 14, 15),
                        _mm512_setr_epi32(26, 1, 2, 27, 4, 5, 28, 7, 8, 29, 10, 11, 30, 13, 14, 31)};
  int64_t w = 0;
  for (; w + 16 <= n; w += 16, src += 16, dst += 48) {
    const __m512 x = _mm512_loadu_ps(src), y = _mm512_loadu_ps(src + plane), z = _mm512_loadu_ps(src + 2 * plane);
    PTRT_UNROLL for (int k = 0; k < 3; k++)
        _mm512_storeu_ps(dst + 16 * k, _mm512_permutex2var_ps(_mm512_permutex2var_ps(x, ab[k], y), c[k], z));
  }
  for (; w < n; w++, src++, dst += 3) dst[0] = src[0], dst[1] = src[plane], dst[2] = src[2 * plane];
}
#endif

// dst[j * ds + i] = src[i * ss + j] for i < n, j < m: between channels-first and channels-last, W x W elements at a time.
inline void transpose(const float* src, int64_t ss, int64_t n, int64_t m, float* dst, int64_t ds) {
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    int64_t j = 0;
    for (; j + W <= m; j += W) {
      vf r[W], t[W];
      PTRT_UNROLL for (int k = 0; k < W; k++) r[k] = load(src + (i + k) * ss + j);
      PTRT_UNROLL for (int step = 1; step < W; step *= 2) {
        PTRT_UNROLL for (int k = 0; k < W / 2; k++) {
          t[2 * k] = interleave<0>(r[k], r[k + W / 2], std::make_integer_sequence<int, W>());
          t[2 * k + 1] = interleave<W / 2>(r[k], r[k + W / 2], std::make_integer_sequence<int, W>());
        }
        PTRT_UNROLL for (int k = 0; k < W; k++) r[k] = t[k];
      }
      PTRT_UNROLL for (int k = 0; k < W; k++) store(dst + (j + k) * ds + i, r[k]);
    }
    for (; j < m; j++)
      for (int k = 0; k < W; k++) dst[j * ds + i + k] = src[(i + k) * ss + j];
  }
  for (; i < n; i++)
    for (int64_t j = 0; j < m; j++) dst[j * ds + i] = src[i * ss + j];
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
