// gemm with at most 16 rows, where B is dense along k: a warp computes COLS columns at a time as dot products, each lane reading V stored
// elements (V * H values) of a column per step. A passes through shared memory as Lane, a row after the other; chunks of 16 bytes are
// permuted so that lanes which read V * H values each meet all banks. Sums are added over the lanes by shuffles, so the order does not
// depend on the device.
#pragma once
#include "gemm.cuh"

constexpr int WARPS = THREADS / 32, STEP = 32 * V * H, kSide = 16 / sizeof(Lane);
constexpr int DEPTH = 32768 / sizeof(Lane) / ROWS;  // values of k of A in shared memory
static_assert(DEPTH % STEP == 0 && V * H <= 32, "");

// Where value k of a row lies: a lane reads V * H / kSide chunks in turn, 8 lanes at a time.
__forceinline__ int placed(int k) {
  const int chunk = k / kSide;
  return (chunk ^ ((chunk >> 3) & 7)) * kSide + k % kSide;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) gemm_dots(const __grid_constant__ Args a) {
  __shared__ alignas(16) Lane memory[ROWS * DEPTH];
  Idx c[RANK] = {};
  const Place p = place<ROWS, WARPS * COLS>(a, c);
  const TA* const from_a = a.a_data + over_batch(a.a_batch, c) + p.row * a.a_row;
  const TB* const from_b = a.b_data + over_batch(a.b_batch, c);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Idx col = p.col + warp * COLS;

  Lane sum[ROWS][COLS] = {};
  for (Idx k0 = p.k; k0 < p.k_end; k0 += DEPTH) {
    const Idx depth = p.k_end - k0 < DEPTH ? p.k_end - k0 : Idx(DEPTH), whole = (depth + STEP - 1) / STEP * STEP;
    __syncthreads();
    bring_rows<ROWS, VA, A_LANES_ALONG_K>(a, c, from_a, p.row, k0, depth, whole,
                                          [&](int r, int k, const Pack<Lane, VA>& x) { store_pack(memory + r * DEPTH + placed(k), x); });
    __syncthreads();
#pragma unroll 2
    for (Idx k1 = lane * (V * H); k1 < depth; k1 += STEP) {
      Pack<TB, V> held[COLS];
#pragma unroll
      for (int j = 0; j < COLS; j++) {
        held[j] = Pack<TB, V>{};
        if (col + j < a.n) held[j] = load_pack<TB, V>(from_b + (k0 + k1) / H * a.b_k + (col + j) * a.b_row);
      }
      Shift shift[COLS];
#pragma unroll
      for (int i = 0; i < V * H; i += kSide) {
        Lane y[COLS][kSide];
#pragma unroll
        for (int j = 0; j < COLS; j++)
#pragma unroll
          for (int e = 0; e < kSide && i + e < V * H; e++) {
            const int at = i + e;
            const bool valid = col + j < a.n && (H == 1 || k1 + at < depth);  // a last pair may be half empty
            if (at % (SHIFT_K < V * H ? SHIFT_K : V * H) == 0 && valid) shift[j] = shift_b(a, c, k0 + k1 + at, col + j);
            y[j][e] = valid ? right(held[j].at[at / H], at % H, shift[j]) : Lane(0);
          }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
          constexpr int N = V * H < kSide ? V * H : kSide;
          const Pack<Lane, N> x = load_pack<Lane, N>(memory + r * DEPTH + placed(static_cast<int>(k1) + i));
#pragma unroll
          for (int e = 0; e < N; e++)
#pragma unroll
            for (int j = 0; j < COLS; j++) sum[r][j] += x.at[e] * y[j][e];
        }
      }
    }
  }

#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int j = 0; j < COLS; j++)
#pragma unroll
      for (int k = 1; k < 32; k *= 2) sum[r][j] += __shfl_xor_sync(0xffffffffu, sum[r][j], k);
#pragma unroll
  for (int first = 0; first < ROWS * COLS; first += 32) {
    Lane mine = 0;  // lane r * COLS + j - first writes result (r, j)
#pragma unroll
    for (int i = first; i < first + 32 && i < ROWS * COLS; i++)
      if (lane == i - first) mine = sum[i / COLS][i % COLS];
    c[RANK - 2] = p.row + (first + lane) / COLS;
    c[RANK - 1] = col + (first + lane) % COLS;
    if (first + lane < ROWS * COLS && c[RANK - 2] < a.m && c[RANK - 1] < a.n) emit(a, c, p.batch, mine);
  }
}
