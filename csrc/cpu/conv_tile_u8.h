// The register tile of 8-bit convolutions on machines that multiply and add four bytes at a time (VNNI): A as uint8, B as int8, sums exact.
// Zero points are not subtracted: the caller's bias and sums of windows hold their part of the sums.
#pragma once
#include <vector>

#include "cpu/conv_tile_i16.h"
#include "cpu/gemm_int8_tile.h"

namespace ptrt::PTRT_LEVEL {
namespace {

#if defined(__AVX512VNNI__)

constexpr int kMaxRows8 = 14;

// The sum of runs of bytes, one at every tap.
PTRT_INLINE uint32_t sum_bytes(const uint8_t* a, const std::vector<int64_t>& taps, int64_t run) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sum = _mm512_setzero_si512();
  for (const int64_t tap : taps) {
    const uint8_t* p = a + tap;
    int64_t n = run;
    for (; n >= 64; n -= 64, p += 64) sum = _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(p), ones);
    if (n > 0) sum = _mm512_dpbusd_epi32(sum, _mm512_maskz_loadu_epi8((uint64_t{1} << n) - 1, p), ones);
  }
  return static_cast<uint32_t>(_mm512_reduce_add_epi32(sum));
}

template <int MR, int NV>
PTRT_NOINLINE void tile_u8(const UnitTileArgs<uint8_t>& g) {  // (B: int8)
  vi acc[MR][NV];
  PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vi{};
  const uint8_t* b = g.B;
  const int64_t lda = g.lda, lda3 = 3 * lda;
  const char* next = static_cast<const char*>(g.next ? g.next : g.B);
  for (int64_t t = 0; t < g.taps; t++) {
    const uint8_t *a0 = g.A + g.tap_at[t], *a1 = a0 + 5 * lda, *a2 = a0 + 10 * lda;  // three base pointers: as in gemm_tile.cpp
    for (int64_t k = 0; k < g.units; k++) {
      vi bv[NV];
      PTRT_UNROLL for (int j = 0; j < NV; j++) bv[j] = load(reinterpret_cast<const int32_t*>(b) + j * W);
      b += NV * W * 4;
      __builtin_prefetch(next, 0, 2);
      next += 64;
      PTRT_UNROLL for (int i = 0; i < MR; i++) {
        const uint8_t* row = i < 5 ? a0 : i < 10 ? a1 : a2;
        const int r = i % 5;
        const uint8_t* p = r == 0 ? row : r == 1 ? row + lda : r == 2 ? row + 2 * lda : r == 3 ? row + lda3 : row + 4 * lda;
        int32_t four;
        std::memcpy(&four, p, 4);
        const vi a = splat(four);
        PTRT_UNROLL for (int j = 0; j < NV; j++) {
          PTRT_KEEP(bv[j]);
          acc[i][j] = dot_unit(acc[i][j], a, bv[j]);
        }
      }
      a0 += 4;
      a1 += 4;
      a2 += 4;
      asm volatile("" : "+r"(a0), "+r"(a1), "+r"(a2));
    }
  }
  PTRT_UNROLL for (int j = 0; j < NV; j++) {
    const vi bias = load(g.bias + j * W);
    PTRT_UNROLL for (int i = 0; i < MR; i++) acc[i][j] += bias;
  }
  if (g.sums) {
    PTRT_UNROLL for (int j = 0; j < NV; j++) {
      const vi zeros = g.zeros ? load(g.zeros + j * W) : splat(int32_t{1});
      PTRT_UNROLL for (int i = 0; i < MR; i++) acc[i][j] -= splat(g.sums[i]) * zeros;
    }
  }
  int32_t* c = g.C;
  if (g.n == NV * W) {
    PTRT_UNROLL for (int i = 0; i < MR; i++, c += g.ldc) PTRT_UNROLL for (int j = 0; j < NV; j++) store(c + j * W, acc[i][j]);
    return;
  }
  PTRT_UNROLL for (int i = 0; i < MR; i++, c += g.ldc) PTRT_UNROLL for (int j = 0; j < NV; j++)
      store_n(reinterpret_cast<float*>(c + j * W), (vf)acc[i][j], g.n - j * W);
}

#endif

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
