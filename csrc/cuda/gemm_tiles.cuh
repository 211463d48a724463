// gemm on the ordinary arithmetic units, for every type: f32 (never TF32), f64, integers that wrap, weights that are dequantised on their
// way.
//
// A block of 4 warps computes BM x BN results, each thread TM x TN of them in registers, from tiles of BK values of k in shared memory. The
// next tile travels through registers while this one is multiplied; two buffers make one barrier per tile enough. Memory is read in packs
// along whichever axis is dense and stored in shared memory with k as the slow axis, so that both fragments of a thread are 16-byte loads:
// 4 groups of 8 lanes read 4 different rows (broadcast) and 8 neighbouring packs of columns, without bank conflicts.
//
// Sums of floats are kept in chains of at most CHUNK additions that are then added to a second set of registers (LONG). Rejected: a second
// set in shared memory (it would be larger than the tiles), slices of k in scratch for all launches (M * N * slices of it).
#pragma once
#include "gemm.cuh"

constexpr int WARPS_N = 2, WM = 4 * TM, WN = 8 * TN, BM = THREADS / 32 / WARPS_N * WM, BN = WARPS_N * WN, CHUNK = 256;
constexpr int kSide = 16 / sizeof(Lane);  // of a 16-byte access
constexpr int PITCH_A = BM + kSide, PITCH_B = BN + kSide;
constexpr int PM = TM < 4 ? TM : 4, PN = TN < 4 ? TN : 4;  // neighbouring rows and columns of a thread

// The part of a thread in one operand's tile of ROWS x BK, as packs of V stored elements along k or along the rows. A stored element holds
// H values of k.
template <class T, int ROWS, int V, int H, bool ALONG_K>
struct Part {
  static constexpr int KS = BK / H, TOTAL = ROWS * KS / V, PACKS = (TOTAL + THREADS - 1) / THREADS;
  static constexpr int PER = ALONG_K ? KS / V : ROWS / V;
  Pack<T, V> held[PACKS];

  static __forceinline__ void at(int i, int& row, int& k) {
    row = ALONG_K ? i / PER : i % PER * V;
    k = ALONG_K ? i % PER * V : i / PER;
  }
  // Rows from `row0`, stored elements of k from `k0`; what is outside is left as 0 bits.
  __forceinline__ void fetch(const T* from, Idx row_stride, Idx k_stride, Idx row0, Idx rows, Idx k0, Idx k_end) {
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
      const int i = p * THREADS + threadIdx.x;
      int r, k;
      at(i, r, k);
      held[p] = Pack<T, V>{};
      if ((TOTAL % THREADS == 0 || i < TOTAL) && row0 + r < rows && k0 + k < k_end)
        held[p] = load_pack<T, V>(from + (row0 + r) * row_stride + (k0 + k) * k_stride);
    }
  }
  // convert(pack, element, row, k): the H values of an element; k is that of the first, within the tile.
  template <int PITCH, class F>
  __forceinline__ void store(Lane (*to)[PITCH], F convert) const {
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
      const int i = p * THREADS + threadIdx.x;
      if (TOTAL % THREADS != 0 && i >= TOTAL) break;
      int r, k;
      at(i, r, k);
      Lane x[H][V];
#pragma unroll
      for (int v = 0; v < V; v++)
#pragma unroll
        for (int h = 0; h < H; h++) x[h][v] = convert(held[p].at[v], ALONG_K ? r : r + v, ((ALONG_K ? k + v : k) * H) + h, h);
#pragma unroll
      for (int h = 0; h < H; h++) {
        if constexpr (ALONG_K) {
#pragma unroll
          for (int v = 0; v < V; v++) to[(k + v) * H + h][r] = x[h][v];
        } else {
          constexpr int W = V < kSide ? V : kSide;
#pragma unroll
          for (int v = 0; v < V; v += W) {
            Pack<Lane, W> pack;
#pragma unroll
            for (int w = 0; w < W; w++) pack.at[w] = x[h][v + w];
            store_pack(&to[k * H + h][r + v], pack);
          }
        }
      }
    }
  }
};

// N neighbours from shared memory.
template <int N>
__forceinline__ void take(const Lane* from, Lane* to) {
  constexpr int W = N < kSide ? N : kSide;
#pragma unroll
  for (int i = 0; i < N; i += W) {
    const Pack<Lane, W> pack = load_pack<Lane, W>(from + i);
#pragma unroll
    for (int w = 0; w < W; w++) to[i + w] = pack.at[w];
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gemm_tiles(const __grid_constant__ Args a) {
  constexpr int kTiles = 2 * BK * (PITCH_A + PITCH_B), kSlab = THREADS / 32 * 4 * PM * (WN + kSide);
  __shared__ alignas(16) Lane memory[kTiles > kSlab ? kTiles : kSlab];
  auto* const tile_a = reinterpret_cast<Lane(*)[BK][PITCH_A]>(memory);
  auto* const tile_b = reinterpret_cast<Lane(*)[BK][PITCH_B]>(memory + 2 * BK * PITCH_A);
  Idx c[RANK] = {};
  const Place p = place<BM, BN>(a, c);
  const TA* const from_a = a.a_data + over_batch(a.a_batch, c);
  const TB* const from_b = a.b_data + over_batch(a.b_batch, c);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, ty = lane / 8, tx = lane % 8;
  const int row = warp / WARPS_N * WM, col = warp % WARPS_N * WN;

  Part<TA, BM, VA, 1, A_ALONG_K> part_a;
  Part<TB, BN, VB, H, B_ALONG_K> part_b;
  const Idx b_end = (p.k_end + H - 1) / H;
  const auto fetch = [&](Idx k) {
    part_a.fetch(from_a, a.a_row, a.a_k, p.row, a.m, k, p.k_end);
    part_b.fetch(from_b, a.b_row, a.b_k, p.col, a.n, k / H, b_end);
  };
  const auto store = [&](int buffer, Idx k0) {
    part_a.store(tile_a[buffer],
                 [&](TA x, int r, int k, int) { return p.row + r < a.m && k0 + k < p.k_end ? left(a, c, x, p.row + r) : Lane(0); });
    part_b.store(tile_b[buffer], [&](TB x, int r, int k, int h) {
      return p.col + r < a.n && k0 + k < p.k_end ? right(x, h, shift_b(a, c, k0 + k, p.col + r)) : Lane(0);
    });
  };

  Lane sum[TM][TN] = {}, total[LONG ? TM : 1][TN] = {};
  if (p.k < p.k_end) {
    fetch(p.k);
    store(0, p.k);
  }
  __syncthreads();
  int buffer = 0, chained = 0;
  for (Idx k = p.k; k < p.k_end; k += BK) {
    const bool more = k + BK < p.k_end;
    if (more) fetch(k + BK);
#pragma unroll
    for (int kk = 0; kk < BK; kk++) {
      Lane x[TM], y[TN];
#pragma unroll
      for (int i = 0; i < TM; i += PM) take<PM>(&tile_a[buffer][kk][row + i * 4 + ty * PM], x + i);
#pragma unroll
      for (int j = 0; j < TN; j += PN) take<PN>(&tile_b[buffer][kk][col + j * 8 + tx * PN], y + j);
#pragma unroll
      for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++) sum[i][j] += x[i] * y[j];
    }
    if constexpr (LONG) {
      chained += BK;
      if (chained == CHUNK) {
        chained = 0;
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
          for (int j = 0; j < TN; j++) total[i][j] += sum[i][j], sum[i][j] = 0;
      }
    }
    buffer ^= 1;
    if (more) store(buffer, k + BK);
    __syncthreads();
  }

  constexpr int PITCH = WN + kSide;
  Lane* const slab = memory + warp * 4 * PM * PITCH;
#pragma unroll
  for (int i0 = 0; i0 < TM; i0 += PM) {
#pragma unroll
    for (int i = i0; i < i0 + PM; i++)
#pragma unroll
      for (int j = 0; j < TN; j++) {
        if constexpr (LONG) sum[i][j] += total[i][j];
        slab[(ty * PM + i - i0) * PITCH + j / PN * (8 * PN) + tx * PN + j % PN] = sum[i][j];
      }
    __syncwarp();
    emit_rows<4 * PM, WN, PITCH>(a, c, p, p.col + col, slab, [&](int r) { return p.row + row + i0 * 4 + r; });
    __syncwarp();
  }
}
