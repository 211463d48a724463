// gemm on tensor cores: f16 and bf16 with sums in f32, 8-bit integers with exact sums in int32 (each operand signed or not).
//
// A block of 4 warps computes BM x BN results from tiles of 64 bytes of k, in a ring of STAGES tiles in shared memory: while one is
// multiplied, the next ones are on their way (cp.async, or registers where elements must be converted or transposed: gemm_stage.cuh). Warps
// multiply pieces of 16 x 8 with mma.sync, whose fragments ldmatrix makes. Blocks with many rows have 64 x 64 results per warp, for the
// most multiplications per byte of shared memory; few rows take 16 x 32.
//
// Zero points of integers: sum (a - za)(b - zb) = sum ab - za sum b - zb sum a + k za zb, modulo 2^32. The sums of rows of A and columns of
// B are added up from shared memory, one line per thread. Rejected: shifting the operands, which do not fit 8 bits then.
#pragma once
#include "gemm.cuh"
#include "gemm_stage.cuh"

constexpr int WARPS_M = THREADS / 32 / WARPS_N, WM = 16 * FM, WN = 8 * FN, BM = WARPS_M * WM, BN = WARPS_N * WN, STAGES = 3;
constexpr bool kBytesKind = same<Number, i32>;
using StageA = Stage<TA, SA, A_MODE, BM, VA, A_LANES_ALONG_K>;
using StageB = Stage<TB, SB, B_MODE, BN, VB, B_LANES_ALONG_K>;

template <class N>
__forceinline__ void multiply(N (&sum)[4], const u32 (&x)[4], u32 y0, u32 y1) {
  if constexpr (kBytesKind) ptx_mma_bytes<Traits<SA>::is_signed, Traits<SB>::is_signed>(sum, x, y0, y1);
  else if constexpr (same<SA, f16>) ptx_mma_f16(sum, x, y0, y1);
  else ptx_mma_bf16(sum, x, y0, y1);
}

// Adds up lines of 64 bytes, one per thread: `sums` of the lines threadIdx.x, threadIdx.x + THREADS, ...
template <bool SIGNED, int LINES>
__forceinline__ void add_lines(const char* lines, i32 (&sums)[(LINES + THREADS - 1) / THREADS]) {
#pragma unroll
  for (int n = 0; n < (LINES + THREADS - 1) / THREADS; n++) {
    const int line = n * THREADS + threadIdx.x;
    if (line >= LINES) break;
#pragma unroll
    for (int chunk = 0; chunk < kChunks; chunk++) {
      const Pack<u32, 4> x = load_pack<u32, 4>(reinterpret_cast<const u32*>(lines + StageB::at(line, chunk)));
#pragma unroll
      for (int w = 0; w < 4; w++) sums[n] = ptx_add_bytes<SIGNED>(sums[n], x.at[w]);
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) gemm_mma(const __grid_constant__ Args a) {
  constexpr int kStage = StageA::kBytes + StageB::kBytes, PITCH = WN + 8, FI = FM < 2 ? FM : 2, kSlab = THREADS / 32 * FI * 16 * PITCH * 4;
  constexpr int kSums = kBytesKind ? (BM + BN) * 4 : 0, kMemory = STAGES * kStage > kSlab + kSums ? STAGES * kStage : kSlab + kSums;
  __shared__ alignas(128) char memory[kMemory];
  Idx c[RANK] = {};
  const Place p = place<BM, BN>(a, c);
  const TA* const from_a = a.a_data + over_batch(a.a_batch, c);
  const TB* const from_b = a.b_data + over_batch(a.b_batch, c);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = warp / WARPS_N * WM, col = warp % WARPS_N * WN;
  const u32 base = ptx_shared_address(memory);
  constexpr Idx KS = StageA::KS;

  StageA stage_a;
  StageB stage_b;
  const auto fetch = [&](int slot, Idx k) {
    char* const to = memory + slot * kStage;
    stage_a.fetch(to, from_a, a.a_row, a.a_k, p.row, a.m, k, p.k_end);
    stage_b.fetch(to + StageA::kBytes, from_b, a.b_row, a.b_k, p.col, a.n, k, p.k_end);
  };
  const auto store = [&](int slot) {
    stage_a.store(memory + slot * kStage);
    stage_b.store(memory + slot * kStage + StageA::kBytes);
  };
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    fetch(s, p.k + s * KS);  // beyond the end: zeros
    store(s);
    ptx_copy_async_commit();
  }

  Number sum[FM][FN][4] = {};
  i32 sum_a[(BM + THREADS - 1) / THREADS] = {}, sum_b[(BN + THREADS - 1) / THREADS] = {};
  int slot = 0;
  for (Idx k = p.k; k < p.k_end; k += KS) {
    ptx_copy_async_wait<STAGES - 2>();
    __syncthreads();  // the tile of k is complete, and nobody reads the one before it
    const int free = slot == 0 ? STAGES - 1 : slot - 1;
    const bool more = k + (STAGES - 1) * KS < p.k_end;
    if (more) fetch(free, k + (STAGES - 1) * KS);
    ptx_copy_async_commit();
    const u32 at_a = base + slot * kStage, at_b = at_a + StageA::kBytes;
#pragma unroll
    for (int step = 0; step < kChunks; step += 2) {
      u32 x[FM][4], y[FN / 2][4];
#pragma unroll
      for (int i = 0; i < FM; i++) ptx_load_matrices<A_MODE == kAlongRows>(x[i], StageA::address_a(at_a, row + i * 16, step));
#pragma unroll
      for (int j = 0; j < FN / 2; j++) ptx_load_matrices<B_MODE == kAlongRows>(y[j], StageB::address_b(at_b, col + j * 16, step));
#pragma unroll
      for (int i = 0; i < FM; i++)
#pragma unroll
        for (int j = 0; j < FN; j++) multiply(sum[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
    }
    if constexpr (kBytesKind && HAS_B_ZERO) add_lines<Traits<TA>::is_signed, BM>(memory + slot * kStage, sum_a);
    if constexpr (kBytesKind && HAS_A_ZERO) add_lines<Traits<TB>::is_signed, BN>(memory + slot * kStage + StageA::kBytes, sum_b);
    if (more) store(free);
    slot = slot == STAGES - 1 ? 0 : slot + 1;
  }
  ptx_copy_async_wait<0>();
  __syncthreads();

  auto* const slab = reinterpret_cast<Number*>(memory) + warp * FI * 16 * PITCH;
  auto* const sums = reinterpret_cast<i32*>(memory + kSlab);  // of the rows of A, then of the columns of B
  if constexpr (kBytesKind) {
#pragma unroll
    for (int n = 0; n < (BM + THREADS - 1) / THREADS; n++)
      if (n * THREADS + threadIdx.x < BM) sums[n * THREADS + threadIdx.x] = sum_a[n];
#pragma unroll
    for (int n = 0; n < (BN + THREADS - 1) / THREADS; n++)
      if (n * THREADS + threadIdx.x < BN) sums[BM + n * THREADS + threadIdx.x] = sum_b[n];
    __syncthreads();
  }
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i0 = 0; i0 < FM; i0 += FI) {
#pragma unroll
    for (int i = i0; i < i0 + FI; i++)
#pragma unroll
      for (int j = 0; j < FN; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int r = i * 16 + g + e / 2 * 8, x = j * 8 + t * 2 + e % 2;
          Number v = sum[i][j][e];
          if constexpr (kBytesKind && (HAS_A_ZERO || HAS_B_ZERO)) {
            const int m = row + r, n = col + x;
            const u32 za = HAS_A_ZERO && p.row + m < a.m ? zero_a(a, c, p.row + m) : 0u;
            const u32 zb = HAS_B_ZERO && p.col + n < a.n ? zero_b(a, c, p.col + n) : 0u;
            v = static_cast<i32>(static_cast<u32>(v) - za * static_cast<u32>(sums[BM + n]) - zb * static_cast<u32>(sums[m]) +
                                 static_cast<u32>(p.k_end - p.k) * za * zb);
          }
          slab[(r - i0 * 16) * PITCH + x] = v;
        }
    __syncwarp();
    emit_rows<16 * FI, WN, PITCH>(a, c, p, p.col + col, slab, [&](int r) { return p.row + row + i0 * 16 + r; });
    __syncwarp();
  }
}
