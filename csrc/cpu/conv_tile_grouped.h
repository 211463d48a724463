// The register tile of convolutions in groups of few channels: a vector of W outputs covers W / n groups of n inputs and n outputs each,
// whose inputs are W neighbouring channels. In step k every lane takes input k of its own group, by a permutation where other tiles
// broadcast, so that no lane is idle.
#pragma once
#include <utility>

#include "cpu/tile_finish.h"

namespace ptrt::PTRT_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kGroupedRows = 12;
PTRT_INLINE vf permuted(vf x, vi from) { return (vf)_mm512_permutexvar_ps((__m512i)from, (__m512)x); }
#elif defined(__AVX2__)
constexpr int kGroupedRows = 5;
PTRT_INLINE vf permuted(vf x, vi from) { return (vf)_mm256_permutevar8x32_ps((__m256)x, (__m256i)from); }
#else
constexpr int kGroupedRows = 0;  // four lanes hold a group of four
#endif

#if defined(__AVX2__)

// A: [pixel][W channels] at every tap, B: [tap][input of a group][W], K: inputs of a group.
template <int MR>
PTRT_NOINLINE void tile_grouped(const TileArgs<float>& g) {
  vf acc[MR][1];
  PTRT_UNROLL for (int i = 0; i < MR; i++) acc[i][0] = vf{};
  vi first;  // the first lane of every lane's group
  for (int l = 0; l < W; l++) first[l] = l / static_cast<int>(g.K) * static_cast<int>(g.K);
  const float* b = g.B;
  for (int64_t t = 0; t < g.taps; t++) {
    const float* a = g.A + g.tap_at[t];
    vf x[MR];
    PTRT_UNROLL for (int i = 0; i < MR; i++) x[i] = load(a + i * g.lda);
    vi from = first;
    for (int64_t k = 0; k < g.K; k++, b += W, from += 1) {
      const vf w = load(b);
      PTRT_UNROLL for (int i = 0; i < MR; i++) acc[i][0] += permuted(x[i], from) * w;
    }
  }
  finish<float, MR, 1>(g, acc);
}

#endif

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
