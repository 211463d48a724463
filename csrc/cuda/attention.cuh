// y = softmax(scale * q k^T) v, one tile of 8 * TM queries per block, tile by tile of 64 keys with an online softmax: the scores never
// exist as a whole.
//
// Any sizes and strides: depths are staged 32 at a time, results computed EC columns at a time (a block per EC columns; the scores are
// computed again for each). Keeping the queries of all depths in shared memory would save a part of the staging, but deep heads would not
// fit. The exponentials take the place of the staged queries and keys.
//
// Few rows and many keys: the keys are SPLIT over blocks, which leave sums, maxima and unscaled results for attention_merge.
#pragma once
#include "attention_block.cuh"
#include "stage.cuh"

constexpr int BM = 8 * TM, BN = 64, DC = 32, TN = BN / 16, EC = 16 * TE, VC = BN < 2048 / EC ? BN : 2048 / EC;
constexpr int WORK = DC * (BM + BN) > BN* BM ? DC * (BM + BN) : BN * BM;

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_tiles(const __grid_constant__ Args a) {
  __shared__ alignas(16) A work[WORK];  // queries and keys, then exponentials
  __shared__ alignas(16) A values[VC * EC];
  __shared__ Rows<BM> info;
  const int tid = static_cast<int>(threadIdx.x), x = tid % 16, y = tid / 16;
  const Place p = place_block(a, info);
  const Idx e0 = p.at[3] * EC;
  const K* k_data = a.k_data + p.at[0] * a.k_stride[0] + p.at[1] * a.k_stride[1];
  const V* v_data = a.v_data + p.at[0] * a.v_stride[0] + p.at[1] * a.v_stride[1] + e0 * a.v_stride[3];
  const int columns = static_cast<int>(a.width - e0 < EC ? a.width - e0 : EC);
  A top[TM], sum[TM] = {}, out[TM][TE] = {};
#pragma unroll
  for (int i = 0; i < TM; i++) top[i] = -infinity(A(0));

  for (int k0 = p.begin; k0 < p.end; k0 += BN) {
    const int count = p.end - k0 < BN ? p.end - k0 : BN;
    A s[TM][TN] = {};
    for (int d0 = 0; d0 < a.depth; d0 += DC) {
      const int deep = a.depth - d0 < DC ? a.depth - d0 : DC;
      __syncthreads();
      stage_columns<BM, DC, WIDTH, false>(
          work, a.q_data + d0 * a.q_stride[3], [&](int r) { return info.q_at[r]; }, a.q_stride[3], p.rows, deep);
      stage_columns<BN, DC, KEYS_ACROSS ? 1 : WIDTH, KEYS_ACROSS>(
          work + DC * BM, k_data + d0 * a.k_stride[3], [&](int t) { return (k0 + t) * a.k_stride[2]; }, a.k_stride[3], count, deep);
      __syncthreads();
      multiply<BM, BN>(work, 0, work + DC * BM, deep, y, x, s);
    }
    Value<M> masks[TN] = {};
    load_masks(a, info.mask_at[0], p.end, masks, [&](int j) { return k0 + owned<BN, TN>(x, j); });
#pragma unroll
    for (int i = 0; i < TM; i++) {
      const int row = owned<BM, TM>(y, i), limit = min(info.limits[row], p.end);
      A most = -infinity(A(0));
#pragma unroll
      for (int j = 0; j < TN; j++) {
        s[i][j] = exponent(a, s[i][j], masks[j], info.mask_at[row], k0 + owned<BN, TN>(x, j), limit);
        most = larger(most, s[i][j]);
      }
#pragma unroll
      for (int d = 8; d > 0; d /= 2) most = larger(most, __shfl_xor_sync(~0u, most, d));
      const A now = larger(top[i], most), shift = shift_of(now), factor = rescale<PLAIN>(top[i], now);
      top[i] = now;
      A add = 0;
#pragma unroll
      for (int j = 0; j < TN; j++) {
        s[i][j] = power<PLAIN>(s[i][j] - shift);
        add += s[i][j];
      }
      sum[i] = sum[i] * factor + add;
#pragma unroll
      for (int j = 0; j < TE; j++) out[i][j] *= factor;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < TN; j++) {
      A column[TM];
#pragma unroll
      for (int i = 0; i < TM; i++) column[i] = s[i][j];
      put<BM, TM>(work, owned<BN, TN>(x, j), y, column);
    }
    for (int v0 = 0; v0 < count; v0 += VC) {
      const int some = count - v0 < VC ? count - v0 : VC;
      if (v0) __syncthreads();
      stage_rows<EC, VC, WIDTH>(values, v_data, [&](int t) { return (k0 + v0 + t) * a.v_stride[2]; }, a.v_stride[3], some, columns);
      __syncthreads();
      multiply<BM, EC>(work, v0, values, some, y, x, out);
    }
  }

#pragma unroll
  for (int i = 0; i < TM; i++) {
#pragma unroll
    for (int d = 8; d > 0; d /= 2) sum[i] += __shfl_xor_sync(~0u, sum[i], d);
    finish_row <
        TE<4 ? TE : 4>(a, p, owned<BM, TM>(y, i), e0, columns, x == 0, top[i], sum[i], out[i], [&](int j) { return owned<EC, TE>(x, j); });
  }
}
