// The register tile that gemm, pointwise and direct convolution and Winograd share:
//
//   C[i][j] = epilogue(S[i][j] + sum over t < taps, k < K of A[i*lda + t*ts + k*ks] * B[t*bts + k*ldb + j])    i < MR, j < NV * lanes
//
// A is never packed: its elements are broadcast straight from memory, so a row of A may be a matrix row, an image row's window (taps:
// window rows, K: window columns times channels) or a column of a transposed matrix (lda 1, ks = pitch). B is packed: `ldb` columns per k
// step, normally panels of NV * lanes columns. All strides are in elements.
//
// Measured limits (csrc users must respect the first two): a row pitch lda that is a multiple of 4096 bytes thrashes L1 (half speed) when
// there are many rows; more accumulators than kMaxRows spill; B should be prefetched one panel ahead (`next`), which hides DRAM in whole
// models.
#pragma once
#include "cpu/lanes.h"
#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {

template <class T>
struct TileArgs {
  const T* A = nullptr;
  const T* B = nullptr;
  T* C = nullptr;
  const T* S = nullptr;        // partial sums of earlier K blocks (may be C); null: none
  const T* R = nullptr;        // residual, null if none; may be the memory of C when C is written only by `last`
  const T* bias = nullptr;     // one per column, null if none; only `n` elements are read
  const void* next = nullptr;  // memory to prefetch, next_step (up to 64) bytes per k step; null: none
  int64_t lda = 0, ks = 1, ts = 0;
  int64_t K = 0, taps = 1;
  const int64_t* tap_at = nullptr;  // offset in A of every tap; null: t * ts
  int64_t ldb = 0, bts = 0;
  int64_t ldc = 0, lds = 0, ldr = 0;  // row strides
  int64_t next_step = 64;
  int64_t cj = 0;    // distance between the column vectors of C and S: the lane count, except in blocked layouts
  int n = 0;         // valid columns; C, S, R and bias are not touched beyond (B always has all NV * lanes)
  bool last = true;  // false: store plain partial sums
  enum Flags : int { kScale = 1, kClampBefore = 2, kClampAfter = 4 };  // clamps: before or after the residual is added
  int flags = 0;
  T alpha = 1, lo = 0, hi = 0;  // value = alpha * sum + bias; NaN passes through clamps
};

// The longest chain of additions. The rounding error of a chain grows with its length, so sums of more products are added up from even
// chains: a function of the number of products alone. Products that come in several calls (S) are several chains; calls that each bring one
// chain_length of them give the bits of a single call.
constexpr int64_t kChain = 256;
inline int64_t chain_length(int64_t products) {
  const int64_t chains = (products + kChain - 1) / kChain;
  return chains > 1 ? ((products + chains - 1) / chains + 15) / 16 * 16 : kChain;
}

template <class T>
using TileFn = void (*)(const TileArgs<T>&);

// The most rows a tile of `nv` vectors may have without spilling, 0 where that width is not built.
#if defined(__AVX512F__)
constexpr int kMaxRows[] = {0, 14, 14, 9, 6};
#elif defined(__aarch64__)
constexpr int kMaxRows[] = {0, 14, 12, 8, 6};
#elif defined(__AVX2__)
constexpr int kMaxRows[] = {0, 10, 6, 4, 0};
#else
constexpr int kMaxRows[] = {0, 8, 5, 0, 0};
#endif

// The tile of mr rows (1 .. kMaxRows[nv]) and nv column vectors (1 .. 4; f64: 1 .. 2, to keep the code small). `half`: at most half of the
// last vector's columns are valid; levels with half vectors then compute no more (with cores that take two steps for a whole one, a
// 24-column product is a quarter faster).
TileFn<float> tile_f32(int mr, int nv, bool half = false);
TileFn<double> tile_f64(int mr, int nv);

// For one to four rows (memory-bound): k is split over several accumulator sets and B is prefetched within the panel. Same contract, taps
// == 1, S null, last true; mr 1 .. 4, nv 1 .. 2. `next` only says that B comes from beyond the L2: null or not.
TileFn<float> small_tile_f32(int mr, int nv);
TileFn<double> small_tile_f64(int mr, int nv);

// How many vectors wide the panels of a packed B with n columns are, so that the last panel wastes little.
inline int panel_vectors(int64_t n, int lanes) {
  const int64_t v = (n + lanes - 1) / lanes;
  if (v <= 1) return 1;
  if (kMaxRows[3] && (v == 3 || (v % 2 == 1 && v % 3 != 1))) return 3;
  return 2;
}

// TileArgs::next_step with which `tiles` calls that go through a panel together prefetch the next one: evenly, because a core that waits
// for many lines at once stalls the loads of the panel at hand as well.
inline int64_t prefetch_step(int64_t panel_row_bytes, int64_t tiles) {
  const int64_t step = (panel_row_bytes + 16 * tiles - 1) / (16 * tiles) * 16;
  return step > 64 ? 64 : step;
}

// M rows cut into blocks of at most `most` rows whose sizes differ by at most one (no small tail tile).
struct RowSplit {
  int64_t blocks, small, extra;  // the first `extra` blocks have small + 1 rows
  RowSplit(int64_t m, int64_t most) : blocks((m + most - 1) / most), small(blocks ? m / blocks : 0), extra(blocks ? m % blocks : 0) {}
  int64_t rows(int64_t block) const { return small + (block < extra); }
  int64_t start(int64_t block) const { return block * small + (block < extra ? block : extra); }
};

}  // namespace ptrt::PTRT_LEVEL
