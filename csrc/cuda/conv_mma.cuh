// Convolution as an implicit matrix product (see conv_tile_core.cuh) on tensor cores: f16 and bf16 with sums in f32, 8-bit integers with
// exact sums in int32. A block of 4 warps computes BM pixels x BN filters of a group from tiles of 64 bytes of products, in a ring of
// STAGES tiles in shared memory; the fragments are those of gemm_mma.cuh.
//   x: chunks of 16 bytes of channels by cp.async, from a line of zero points where the window leaves x; or element by element (GATHER:
//   channels
//      first, few channels), whose latency the other blocks of a multiprocessor hide. IN_TAP: the elements of a word are of one tap.
//   weights: [group][filter][a.pitch products], a multiple of 16 bytes, repacked by kernels/cuda/plans/conv_mma.py. Those of integers have
//   their
//      zero points subtracted; that of x is in the results times the sum of the weights, which `finish` subtracts: padding is the zero
//      point then.
#pragma once
#include "conv_input.cuh"
#include "conv_lines.cuh"

constexpr int STAGES = 3, WARPS_M = THREADS / 32 / WARPS_N, WM = 16 * FM, WN = 8 * FN, BM = WARPS_M * WM, BN = WARPS_N * WN;
constexpr int E = sizeof(X), PER = 16 / E, KS = LINE / E;  // bytes of an element, elements of a chunk and of a tile
constexpr int UNITS = BM * kChunks / THREADS;
constexpr int kRight = BM * LINE, kStage = kRight + BN * LINE;  // bytes: where the weights of a tile are, and of a tile
static_assert(UNITS * THREADS == BM * kChunks, "every thread moves as many chunks");

// Which chunk of the tile of x a thread moves as its n-th.
__forceinline__ int row_of(int n) { return K_FAST ? (n * THREADS + threadIdx.x) / kChunks : (n * THREADS + threadIdx.x) % BM; }
__forceinline__ int chunk_of(int n) { return K_FAST ? threadIdx.x % kChunks : (n * THREADS + threadIdx.x) / BM; }

// Brings a tile of x to shared memory, nobody reading there.
__forceinline__ void fetch_x(const Args& a, const Rows<BM>& rows, char* memory, Idx group, Idx k, Idx end) {
  if constexpr (!GATHER) {
    Column c = column(a, group, k + chunk_of(0) * PER, end);
#pragma unroll
    for (int n = 0; n < UNITS; n++) {
      if (!K_FAST && n > 0) c = column(a, group, k + chunk_of(n) * PER, end);
      const bool inside = is_inside(a, rows, row_of(n), c);
      const X* const from = inside ? a.x + (rows.base[row_of(n)] + c.memory) : fill_of_x(a);
      ptx_copy_async_16(ptx_shared_address(memory + line_at(row_of(n), chunk_of(n))), from, inside || FILLED);
    }
  } else {
    constexpr int WORD = 4 / E;
    const X zero = *fill_of_x(a);
#pragma unroll 1
    for (int word = 0; word < PER; word += WORD) {
      Column c[WORD];
#pragma unroll
      for (int n = 0; n < UNITS; n++) {
        Pack<X, WORD> v;
#pragma unroll
        for (int j = 0; j < WORD; j++) {
          const Idx at = k + chunk_of(n) * PER + word;
          if (n == 0 || !K_FAST) {
            if (!IN_TAP || j == 0) c[j] = column(a, group, at + j, end);
            else {
              c[j] = c[0];
              c[j].memory += j * a.x_channel;
            }
          }
          v.at[j] = is_inside(a, rows, row_of(n), c[j]) ? a.x[rows.base[row_of(n)] + c[j].memory] : zero;
        }
        store_pack(reinterpret_cast<X*>(memory + line_at(row_of(n), chunk_of(n))) + word, v);
      }
    }
  }
}

__forceinline__ void multiply(i32 (&sum)[4], const u32 (&x)[4], u32 y0, u32 y1) {
  ptx_mma_bytes<Traits<X>::is_signed, Traits<W>::is_signed>(sum, x, y0, y1);
}
__forceinline__ void multiply(f32 (&sum)[4], const u32 (&x)[4], u32 y0, u32 y1) {
  if constexpr (same<X, f16>) ptx_mma_f16(sum, x, y0, y1);
  else ptx_mma_bf16(sum, x, y0, y1);
}

extern "C" __global__ void __launch_bounds__(THREADS) conv_mma(const __grid_constant__ Args a) {
  constexpr int PITCH = WN + 8, kSlab = THREADS / 32 * 16 * PITCH * 4, kRing = STAGES * kStage;
  __shared__ alignas(128) char memory[kRing > kSlab ? kRing : kSlab];
  __shared__ Rows<BM> rows;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = warp / WARPS_N * WM, col = warp % WARPS_N * WN;
  const Idx tile = a.columns->divide(static_cast<Idx>(blockIdx.x)), of_column = static_cast<Idx>(blockIdx.x) - tile * a.columns->n();
  const Idx group = a.group_columns->divide(of_column), filter = (of_column - group * a.group_columns->n()) * BN, pixel = tile * BM;
  for (int r = threadIdx.x; r < BM; r += THREADS) rows.set(a, r, pixel + r);
  __syncthreads();
  const u32 base = ptx_shared_address(memory);
  const W* const w = weights_of(a) + group * a.filters * a.pitch;
  Idx k = SPLIT ? static_cast<Idx>(blockIdx.y) * a.slice : 0;
  const Idx end = SPLIT && k + a.slice < a.depth ? k + a.slice : a.depth;
  const auto fetch = [&](int slot, Idx at) {
    fetch_x(a, rows, memory + slot * kStage, group, at, end);
    copy_lines<BN, KS>(base + slot * kStage + kRight, w, a.pitch, filter, a.filters, at, end);
  };
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    fetch(s, k + s * KS);  // beyond the end: zeros
    ptx_copy_async_commit();
  }
  S sum[FM][FN][4] = {};
  int slot = 0;
  for (; k < end; k += KS) {
    ptx_copy_async_wait<STAGES - 2>();
    __syncthreads();  // the tile of k is complete, and nobody reads the one before it
    const int free = slot == 0 ? STAGES - 1 : slot - 1;
    const bool more = k + (STAGES - 1) * KS < end;
    if (more) fetch(free, k + (STAGES - 1) * KS);
    ptx_copy_async_commit();
    const u32 at_x = base + slot * kStage, at_w = at_x + kRight;
#pragma unroll
    for (int step = 0; step < kChunks; step += 2) {
      u32 x[FM][4], y[FN / 2][4];
#pragma unroll
      for (int i = 0; i < FM; i++) ptx_load_matrices<false>(x[i], left_address(at_x, row + i * 16, step));
#pragma unroll
      for (int j = 0; j < FN / 2; j++) ptx_load_matrices<false>(y[j], right_address(at_w, col + j * 16, step));
#pragma unroll
      for (int i = 0; i < FM; i++)
#pragma unroll
        for (int j = 0; j < FN; j++) multiply(sum[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
    }
    slot = slot == STAGES - 1 ? 0 : slot + 1;
  }
  ptx_copy_async_wait<0>();
  __syncthreads();
  // Results pass through shared memory, 16 rows of a warp at a time: stores follow memory, and the epilogue's code is there once.
  S* const slab = reinterpret_cast<S*>(memory) + warp * 16 * PITCH;
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < FM; i++) {
#pragma unroll
    for (int j = 0; j < FN; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) slab[(g + e / 2 * 8) * PITCH + j * 8 + t * 2 + e % 2] = sum[i][j][e];
    __syncwarp();
#pragma unroll 1
    for (int e = lane; e < 16 * WN; e += 32) {
      const int r = CHANNELS_FAST ? e / WN : e % 16, n = CHANNELS_FAST ? e % WN : e / 16;
      const Idx p = pixel + row + i * 16 + r, m = filter + col + n;
      if (p < a.pixels && m < a.filters) finish(a, p, group * a.filters + m, slab[r * PITCH + n]);
    }
    __syncwarp();
  }
}
