// The register tile of 8-bit convolutions. Both operands were shifted by their zero points and widened to int16 (range [-255, 255]), so a
// pair of products fits int32 and sums are exact: C[i][j] = bias[j] + sum over taps and pairs of channels.
#pragma once
#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {
namespace {

// Of tiles that multiply 32-bit units of elements S: pairs of 16 bits here, four bytes in conv_tile_u8.h.
template <class S>
struct UnitTileArgs {
  const S *A = nullptr, *B = nullptr;  // B: [tap][unit][NV * W][elements of a unit]
  int32_t* C = nullptr;
  const int32_t* bias = nullptr;
  const int64_t* tap_at = nullptr;
  const void* next = nullptr;  // memory that may be prefetched, 64 bytes per unit
  // Of bytes, if weights have a zero point: what to subtract from every row, if `zeros` is given times the zero point of every column.
  const int32_t *sums = nullptr, *zeros = nullptr;
  int64_t lda = 0, units = 0, taps = 0, ldc = 0;
  int n = 0;  // columns that are stored
};

PTRT_INLINE vi pair_dot(vi acc, vi a, vi b) {
#if defined(__AVX512VNNI__)
  return (vi)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
  return acc + (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return acc + (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return acc + (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  return acc + ((vi)((vu)a << 16) >> 16) * ((vi)((vu)b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}

template <int MR, int NV>
PTRT_NOINLINE void tile_i16(const UnitTileArgs<int16_t>& g) {
  vi acc[MR][NV];
  PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vi{};
  const int16_t* b = g.B;
  for (int64_t t = 0; t < g.taps; t++) {
    const int16_t* a = g.A + g.tap_at[t];
    for (int64_t k = 0; k < g.units; k++, a += 2, b += NV * W * 2) {
      vi bv[NV];
      PTRT_UNROLL for (int j = 0; j < NV; j++) bv[j] = load(reinterpret_cast<const int32_t*>(b) + j * W);
      PTRT_UNROLL for (int i = 0; i < MR; i++) {
        int32_t pair;
        std::memcpy(&pair, a + i * g.lda, 4);
        const vi av = splat(pair);
        PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = pair_dot(acc[i][j], av, bv[j]);
      }
    }
  }
  for (int i = 0; i < MR; i++) {
    int32_t row[NV * W];
    for (int j = 0; j < NV; j++) store(row + j * W, acc[i][j]);
    for (int j = 0; j < g.n; j++) g.C[i * g.ldc + j] = row[j] + g.bias[j];
  }
}

#if defined(__AVX512F__)
constexpr int kMaxRows16 = 12;
#else
constexpr int kMaxRows16 = 5;
#endif

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
