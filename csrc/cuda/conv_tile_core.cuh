// Convolution as a matrix product whose left side, pixels x (taps x channels), is never made: tiles of it are gathered from x as they are
// needed ("implicit GEMM"). A block computes BM pixels x BN filters of one group, a thread TM x TN of them in registers; tiles of BK
// products alternate between two shared buffers, and the next one travels through registers while the current one is multiplied.
//   x: with K_FAST, lanes run along channels, VA of them (16 bytes) per load where memory permits; else along pixels, for channels-first x.
//   weights: [group][product][a.pitch], 16 bytes per load; kernels/cuda/plans/conv_weights.py repacks them.
// SPLIT: block y adds up the products of slice y alone and leaves them in a.partial, for conv_finish to add in order: results do not depend
// on which block is first. The results go through shared memory so that stores follow memory, and the epilogue's code is there once.
// Rejected: an im2col copy (as much traffic as nine times x for a 3x3 window), and tables of addresses (division is cheaper than their
// loads).
#pragma once
#include "view.cuh"

constexpr int VB = 16 / sizeof(Value<Sum>), TX = BN / TN, TY = BM / TM;
constexpr int PITCH_A = BM + VB, PITCH_B = BN + VB;  // keeps 16-byte alignment and moves rows to other banks
constexpr int PARTS = TM / VB, SLAB = TY * VB;       // rows of results that pass through shared memory at a time
static_assert(TX * TY == BLOCK, "a thread computes TM x TN results");

struct Shared {
  union {
    struct {
      S x[2][BK][PITCH_A], w[2][BK][PITCH_B];
    };
    S results[SLAB][PITCH_B];
  };
  Rows<BM> rows;
};

// Which elements of the tile of x a thread moves.
constexpr int A_LANES = K_FAST ? BK / VA : BM;  // lanes until the other coordinate advances
constexpr int A_STEP = BLOCK / A_LANES, A_LOADS = (K_FAST ? BM : BK) / A_STEP;
constexpr int B_LANES = BN / VB, B_STEP = BLOCK / B_LANES < BK ? BLOCK / B_LANES : BK, B_LOADS = BK / B_STEP;

struct Tile {
  Pack<S, VA> x[A_LOADS];
  Pack<S, VB> w[B_LOADS];

  __forceinline__ void load(const Args& a, const Shared& s, Idx group, Idx filter, Idx k, Idx end) {
    const int lane = threadIdx.x % A_LANES, step = threadIdx.x / A_LANES;
    if constexpr (K_FAST) {
      const Column c = column(a, group, k + lane * VA, end);
#pragma unroll
      for (int i = 0; i < A_LOADS; i++) x[i] = fetch<VA>(a, s.rows, step + i * A_STEP, c);
    } else {
#pragma unroll
      for (int i = 0; i < A_LOADS; i++) x[i] = fetch<VA>(a, s.rows, lane, column(a, group, k + step + i * A_STEP, end));
    }
    const Idx m = filter + threadIdx.x % B_LANES * VB;
#pragma unroll
    for (int i = 0; i < B_LOADS; i++) {
      const Idx at = k + threadIdx.x / B_LANES + i * B_STEP;
      if (at < end && m < a.pitch) {
        w[i] = load_pack<S, VB>(weights_of(a) + (group * a.depth + at) * a.pitch + m);
      } else {
#pragma unroll
        for (int j = 0; j < VB; j++) w[i].at[j] = 0;
      }
    }
  }
  __forceinline__ void store(Shared& s, int buffer) const {
    const int lane = threadIdx.x % A_LANES, step = threadIdx.x / A_LANES;
#pragma unroll
    for (int i = 0; i < A_LOADS; i++)
#pragma unroll
      for (int j = 0; j < VA; j++) {
        if constexpr (K_FAST) s.x[buffer][lane * VA + j][step + i * A_STEP] = x[i].at[j];
        else s.x[buffer][step + i * A_STEP][lane] = x[i].at[j];
      }
    const int row = threadIdx.x / B_LANES;
#pragma unroll
    for (int i = 0; i < B_LOADS; i++)
      if (B_LANES * B_STEP == BLOCK || row < B_STEP) store_pack(&s.w[buffer][row + i * B_STEP][threadIdx.x % B_LANES * VB], w[i]);
  }
};

// The products of the tile in a buffer. So many unrolled that reads and multiplications overlap, so few that registers are enough.
constexpr int UNROLL = TM * TN >= 64 ? 2 : 8;
__forceinline__ void multiply(const Shared& s, int buffer, int tx, int ty, S (&sum)[TM][TN]) {
#pragma unroll(UNROLL)
  for (int d = 0; d < BK; d++) {
    S x[TM], w[TN];
#pragma unroll
    for (int i = 0; i < TM; i += VB) {
      const Pack<S, VB> v = load_pack<S, VB>(&s.x[buffer][d][i * TY + ty * VB]);
#pragma unroll
      for (int j = 0; j < VB; j++) x[i + j] = v.at[j];
    }
#pragma unroll
    for (int i = 0; i < TN; i += VB) {
      const Pack<S, VB> v = load_pack<S, VB>(&s.w[buffer][d][i * TX + tx * VB]);
#pragma unroll
      for (int j = 0; j < VB; j++) w[i + j] = v.at[j];
    }
#pragma unroll
    for (int i = 0; i < TM; i++)
#pragma unroll
      for (int j = 0; j < TN; j++) sum[i][j] += x[i] * w[j];
  }
}

__forceinline__ void compute_tile(const Args& a) {
  __shared__ Shared s;
  const int tx = threadIdx.x % TX, ty = threadIdx.x / TX;
  // Blocks of the same pixels are neighbours: they read the same x.
  const Idx tile = a.columns->divide(static_cast<Idx>(blockIdx.x)), of_column = static_cast<Idx>(blockIdx.x) - tile * a.columns->n();
  const Idx group = a.group_columns->divide(of_column), filter = (of_column - group * a.group_columns->n()) * BN, pixel = tile * BM;
  for (int row = threadIdx.x; row < BM; row += BLOCK) s.rows.set(a, row, pixel + row);
  __syncthreads();
  Idx k = SPLIT ? static_cast<Idx>(blockIdx.y) * a.slice : 0;
  const Idx end = SPLIT && k + a.slice < a.depth ? k + a.slice : a.depth;
  S sum[TM][TN];
#pragma unroll
  for (int i = 0; i < TM; i++)
#pragma unroll
    for (int j = 0; j < TN; j++) sum[i][j] = 0;
  Tile next;
  // One step loads the next tile and multiplies the current one, of which the first step has none: the code of the loads is there once.
  for (int step = 0;; step++, k += BK) {
    const bool more = k < end;
    if (more) next.load(a, s, group, filter, k, end);
    if (step > 0) multiply(s, (step - 1) % 2, tx, ty, sum);
    if (!more) break;
    next.store(s, step % 2);
    __syncthreads();
  }
#pragma unroll
  for (int part = 0; part < PARTS; part++) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < VB; i++)
#pragma unroll
      for (int j = 0; j < TN; j += VB) {
        Pack<S, VB> v;
#pragma unroll
        for (int e = 0; e < VB; e++) v.at[e] = sum[part * VB + i][j + e];
        store_pack(&s.results[ty * VB + i][j * TX + tx * VB], v);
      }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < SLAB * BN; i += BLOCK) {
      const int row = CHANNELS_FAST ? i / BN : i % SLAB, col = CHANNELS_FAST ? i % BN : i / SLAB;
      const Idx p = pixel + part * SLAB + row, m = filter + col;
      if (p >= a.pixels || m >= a.filters) continue;
      finish(a, p, group * a.filters + m, s.results[row][col]);
    }
  }
}
