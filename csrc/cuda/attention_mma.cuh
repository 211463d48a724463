// attention_tiles for f16 and bf16 on tensor cores: four warps of 16 queries each, tiles of BN keys. Queries stay in registers as
// fragments; the exponentials, rounded to the format of the values, go from the accumulators of the first product straight into the
// fragments of the second. The values of a tile are on their way while its scores are computed, the keys of the next while its results are.
//
// DP and EP are the depths of keys and values rounded up to 16, what is beyond them is 0 in shared memory. An odd number of 16-byte words
// between rows keeps ldmatrix free of bank conflicts.
#pragma once
#include "attention_block.cuh"

constexpr int BM = 64, K_PITCH = DP + 8, V_PITCH = EP + 8;
constexpr int WORK = BN * (K_PITCH + V_PITCH) > BM* K_PITCH ? BN * (K_PITCH + V_PITCH) : BM * K_PITCH;

// Rows of a matrix (element (row, col) at data[at(row) + col * step]) with DEPTH columns into shared memory, 0 outside of `rows` and
// `cols`.
template <int COUNT, int DEPTH, int WIDTH_, bool ACROSS, class At>
__forceinline__ void stage_halves(K* tile, const K* data, At at, Idx step, int rows, int cols) {
  if constexpr (WIDTH_ == 8) {
    const unsigned to = ptx_shared_address(tile);
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < COUNT * (DEPTH / 8); i += THREADS) {
      const int row = i / (DEPTH / 8), col = i % (DEPTH / 8) * 8;
      const bool valid = row < rows && col < cols;
      ptx_copy_async_16(to + (row * (DEPTH + 8) + col) * 2, valid ? data + at(row) + col : data, valid);
    }
    ptx_copy_async_commit();
  } else {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < COUNT * DEPTH; i += THREADS) {
      const int row = ACROSS ? i % COUNT : i / DEPTH, col = ACROSS ? i / COUNT : i % DEPTH;
      tile[row * (DEPTH + 8) + col] = row < rows && col < cols ? data[at(row) + col * step] : K{0};
    }
  }
}

__forceinline__ u32 pair(f32 low, f32 high) {
  if constexpr (same<K, f16>) return ptx_f16x2_of_f32(low, high);
#if __CUDA_ARCH__ >= 800
  else return ptx_bf16x2_of_f32(low, high);
#else
  else return static_cast<u32>(bf16_bits(low)) | static_cast<u32>(bf16_bits(high)) << 16;
#endif
}
__forceinline__ void mma(f32 (&c)[4], const u32 (&x)[4], u32 b0, u32 b1) {
  if constexpr (same<K, f16>) ptx_mma_f16(c, x, b0, b1);
  else ptx_mma_bf16(c, x, b0, b1);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_mma(const __grid_constant__ Args a) {
  __shared__ alignas(16) K work[WORK];  // queries, then keys and values
  __shared__ Rows<BM> info;
  K *keys = work, *values = work + BN * K_PITCH;
  const int lane = static_cast<int>(threadIdx.x) % 32, row0 = static_cast<int>(threadIdx.x) / 32 * 16, g = lane / 4, t2 = lane % 4 * 2;
  const Place p = place_block(a, info);
  const Idx e0 = p.at[3] * EP;
  const K* k_data = a.k_data + p.at[0] * a.k_stride[0] + p.at[1] * a.k_stride[1];
  const K* v_data = a.v_data + p.at[0] * a.v_stride[0] + p.at[1] * a.v_stride[1] + e0 * a.v_stride[3];
  const int columns = static_cast<int>(a.width - e0 < EP ? a.width - e0 : EP);
  auto stage_keys = [&](int k0) {
    stage_halves<BN, DP, KEYS_ACROSS ? 1 : WIDTH, KEYS_ACROSS>(
        keys, k_data, [&](int t) { return (k0 + t) * a.k_stride[2]; }, a.k_stride[3], p.end - k0, a.depth);
  };

  u32 q[DP / 16][4];
  stage_halves<BM, DP, WIDTH, false>(work, a.q_data, [&](int r) { return info.q_at[r]; }, a.q_stride[3], p.rows, a.depth);
  ptx_copy_async_wait<0>();
  __syncthreads();
  const u32 q_from = ptx_shared_address(work + (row0 + lane % 16) * K_PITCH + lane / 16 * 8);
#pragma unroll
  for (int d = 0; d < DP / 16; d++) ptx_load_matrices<false>(q[d], q_from + d * 32);
  __syncthreads();

  // Lanes' rows of the four matrices that hold two neighbouring tiles of eight columns: keys as stored, values transposed.
  const u32 k_from = ptx_shared_address(keys + (lane / 16 * 8 + lane % 8) * K_PITCH + lane / 8 % 2 * 8);
  const u32 v_from = ptx_shared_address(values + lane % 16 * V_PITCH + lane / 16 * 8);
  f32 top[2] = {-inf32(), -inf32()}, sum[2] = {}, out[EP / 8][4] = {};
  if (p.begin < p.end) stage_keys(p.begin);
  for (int k0 = p.begin; k0 < p.end; k0 += BN) {
    stage_halves<BN, EP, WIDTH, false>(values, v_data, [&](int t) { return (k0 + t) * a.v_stride[2]; }, a.v_stride[3], p.end - k0, columns);
    if constexpr (!KEYS_ACROSS) ptx_copy_async_wait<1>();  // keys stored across are there already
    __syncthreads();
    f32 s[BN / 8][4] = {};
#pragma unroll
    for (int d = 0; d < DP / 16; d++)
#pragma unroll
      for (int j = 0; j < BN / 8; j += 2) {
        u32 b[4];
        ptx_load_matrices<false>(b, k_from + (j * 8 * K_PITCH + d * 16) * 2);
        mma(s[j], q[d], b[0], b[1]);
        mma(s[j + 1], q[d], b[2], b[3]);
      }
    __syncthreads();
    const bool more = k0 + BN < p.end;
    if (more) stage_keys(k0 + BN);

    Value<M> masks[BN / 4] = {};
    load_masks(a, info.mask_at[0], p.end, masks, [&](int i) { return k0 + i / 2 * 8 + t2 + i % 2; });
    const bool whole = !MASK && !CAPPED && k0 + BN <= p.common;  // no key is hidden from any row
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = row0 + g + half * 8, limit = min(info.limits[row], p.end);
      f32 most = -inf32();
      auto exponents = [&](int seen) {
#pragma unroll
        for (int j = 0; j < BN / 4; j++) {
          f32& v = s[j / 2][half * 2 + j % 2];
          v = exponent(a, v, masks[j], info.mask_at[row], j / 2 * 8 + t2 + j % 2 + k0, seen);
          most = larger(most, v);
        }
      };
      if (whole) exponents(0x7fffffff);
      else exponents(limit);
      most = larger(most, __shfl_xor_sync(~0u, most, 1));
      most = larger(most, __shfl_xor_sync(~0u, most, 2));
      const f32 now = larger(top[half], most), shift = shift_of(now), factor = rescale<PLAIN>(top[half], now);
      top[half] = now;
      f32 add = 0;
#pragma unroll
      for (int j = 0; j < BN / 4; j++) {
        f32& v = s[j / 2][half * 2 + j % 2];
        v = power<PLAIN>(v - shift);
        add += v;
      }
      sum[half] = sum[half] * factor + add;
#pragma unroll
      for (int j = 0; j < EP / 8; j++) out[j][half * 2] *= factor, out[j][half * 2 + 1] *= factor;
    }
    if (more && !KEYS_ACROSS) ptx_copy_async_wait<1>();
    else ptx_copy_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int k = 0; k < BN / 16; k++) {
      const u32 x[4] = {pair(s[2 * k][0], s[2 * k][1]), pair(s[2 * k][2], s[2 * k][3]), pair(s[2 * k + 1][0], s[2 * k + 1][1]),
                        pair(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
      for (int j = 0; j < EP / 8; j += 2) {
        u32 b[4];
        ptx_load_matrices<true>(b, v_from + (k * 16 * V_PITCH + j * 8) * 2);
        mma(out[j], x, b[0], b[1]);
        mma(out[j + 1], x, b[2], b[3]);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int half = 0; half < 2; half++) {
    sum[half] += __shfl_xor_sync(~0u, sum[half], 1);
    sum[half] += __shfl_xor_sync(~0u, sum[half], 2);
    f32 row[EP / 4];
#pragma unroll
    for (int j = 0; j < EP / 8; j++) row[2 * j] = out[j][half * 2], row[2 * j + 1] = out[j][half * 2 + 1];
    finish_row<2>(a, p, row0 + g + half * 8, e0, columns, t2 == 0, top[half], sum[half], row,
                  [&](int i) { return i / 2 * 8 + t2 + i % 2; });
  }
}
