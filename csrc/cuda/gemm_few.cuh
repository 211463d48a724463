// gemm with at most 16 rows, where B is dense along n (or along no axis): all that matters is that B passes through once, in wide loads.
//
// 8 lanes read V neighbouring columns each; the 32 such groups of a block take runs of RUN values of k in turn, as do the slices of k in
// other blocks. A passes through shared memory, as Lane, with the rows of one k side by side. All ROWS x V sums of a thread stay in
// registers; in the end they are added over the groups of a warp by shuffles and over the warps in order. The order of additions does not
// depend on V: weights in 8 or 4 bits give the very bits of their values in f32.
//
// Runs, not single values of k in turn: scale and zero point of a block of weights are loaded once per run.
#pragma once
#include "gemm.cuh"

constexpr int RUN = 8, LANES = 8, GROUPS = THREADS / LANES, COLS = LANES * V, WARPS = THREADS / 32;
constexpr int AHEAD = ROWS * V < 64 ? RUN : RUN / 2;  // packs of B on their way at a time, as registers allow
constexpr int DEPTH = 16384 / sizeof(Lane) / ROWS;    // values of k of A in shared memory: whole rounds of GROUPS runs
static_assert(DEPTH % (GROUPS * RUN) == 0, "");

extern "C" __global__ void __launch_bounds__(THREADS, 2) gemm_few(const __grid_constant__ Args a) {
  constexpr int kSums = WARPS * ROWS * COLS;
  __shared__ alignas(16) Lane memory[DEPTH * ROWS > kSums ? DEPTH * ROWS : kSums];
  Idx c[RANK] = {};
  const Place p = place<ROWS, COLS>(a, c);
  const TA* const from_a = a.a_data + over_batch(a.a_batch, c) + p.row * a.a_row;
  const TB* const from_b = a.b_data + over_batch(a.b_batch, c);
  const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
  const Idx col = p.col + lane * V;
  const bool inside = col < a.n;

  Lane sum[ROWS][V] = {};
  for (Idx k0 = p.k; k0 < p.k_end; k0 += DEPTH) {
    const Idx depth = p.k_end - k0 < DEPTH ? p.k_end - k0 : Idx(DEPTH);
    __syncthreads();
    bring_rows<ROWS, VA, A_LANES_ALONG_K>(a, c, from_a, p.row, k0, depth, depth, [&](int r, int k, const Pack<Lane, VA>& x) {
#pragma unroll
      for (int v = 0; v < VA; v++) memory[(k + v) * ROWS + r] = x.at[v];
    });
    __syncthreads();
    if (!inside) continue;
#pragma unroll 1
    for (Idx k1 = group * RUN; k1 < depth; k1 += GROUPS * RUN) {
      const TB* const q = from_b + (k0 + k1) / H * a.b_k + col * a.b_row;
      Shift shift[V];
#pragma unroll
      for (int i0 = 0; i0 < RUN; i0 += AHEAD) {
        Pack<TB, V> held[AHEAD / H];
#pragma unroll
        for (int i = 0; i < AHEAD; i += H)
          if (k1 + i0 + i < depth) held[i / H] = load_pack<TB, V>(q + (i0 + i) / H * a.b_k);
#pragma unroll
        for (int i = i0; i < i0 + AHEAD; i++) {
          if (k1 + i >= depth) break;
          if (i % (SHIFT_K < RUN ? SHIFT_K : RUN) == 0)
#pragma unroll
            for (int v = 0; v < V; v++) shift[v] = shift_b(a, c, k0 + k1 + i, col + v);
          Lane y[V];
#pragma unroll
          for (int v = 0; v < V; v++) y[v] = right(held[(i - i0) / H].at[v], i % H, shift[v]);
#pragma unroll
          for (int r = 0; r < ROWS; r++) {
            const Lane x = memory[(k1 + i) * ROWS + r];
#pragma unroll
            for (int v = 0; v < V; v++) sum[r][v] += x * y[v];
          }
        }
      }
    }
  }

#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int v = 0; v < V; v++)
#pragma unroll
      for (int k = LANES; k < 32; k *= 2) sum[r][v] += __shfl_xor_sync(0xffffffffu, sum[r][v], k);
  __syncthreads();
  const int warp = threadIdx.x / 32;
  if (threadIdx.x % 32 < LANES)
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int v = 0; v < V; v++) memory[(warp * ROWS + r) * COLS + lane * V + v] = sum[r][v];
  __syncthreads();
  for (int i = threadIdx.x; i < ROWS * COLS; i += THREADS) {
    Lane all = memory[i];
#pragma unroll
    for (int w = 1; w < WARPS; w++) all += memory[w * ROWS * COLS + i];
    c[RANK - 2] = p.row + i / COLS;
    c[RANK - 1] = p.col + i % COLS;
    if (c[RANK - 2] < a.m && c[RANK - 1] < a.n) emit(a, c, p.batch, all);
  }
}
