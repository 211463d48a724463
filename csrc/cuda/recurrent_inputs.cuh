// The input products of a stretch of steps: sums[direction][step][n][gate, unit] = x[time, n] w + bias, for tiles of 8 * TM rows (step, n)
// and 64 columns. Times run backwards where the direction does, so that the steps read what they need in order. In the quantised form both
// operands become their integers without zero points, whose sums are exact, on their way to shared memory.
#pragma once
#include "recurrent_cell.cuh"
#include "stage.cuh"

constexpr int BM = 8 * TM, BN = 64, DC = 32, TN = BN / 16;

extern "C" __global__ void __launch_bounds__(THREADS) recurrent_inputs(const __grid_constant__ Args a) {
  using Sum = Select<QUANT, i32, A>::type;
  __shared__ alignas(16) Sum rows_tile[DC * BM];
  __shared__ alignas(16) Sum columns_tile[DC * BN];
  __shared__ Idx x_at[BM];
  const int tid = static_cast<int>(threadIdx.x), tx = tid % 16, ty = tid / 16;
  Idx at[3] = {};  // direction, rows, columns
  unravel<0, 3>(static_cast<Idx>(blockIdx.x), a.blocks, at);
  const Idx first = at[1] * BM, column = at[2] * BN;
  const int rows = static_cast<int>(a.rows - first < BM ? a.rows - first : BM);
  const int columns = static_cast<int>(a.columns - column < BN ? a.columns - column : BN);
  const bool backward = a.backward || at[0] == 1;
  if (tid < rows) {
    const Idx s = a.batch[0].divide(first + tid), n = first + tid - s * a.batch[0].n();
    const int step = a.first_step + static_cast<int>(s);
    x_at[tid] = time_of(backward, step, length_of(a, n)) * a.x_stride[0] + n * a.x_stride[1];
  }
  f32 lo = 0, hi = 0;
  if constexpr (QUANT) {
    const int lane = tid % 32;
    if (lane < a.range_parts) lo = a.ranges[2 * lane], hi = a.ranges[2 * lane + 1];
    spread_range(lo, hi);
  }
  const Quantizer range(lo, hi);

  const W* w = a.w_data + at[0] * a.w_stride[0] + column * a.w_stride[1];
  Sum sums[TM][TN] = {};
  for (int d0 = 0; d0 < a.depth; d0 += DC) {
    const int deep = a.depth - d0 < DC ? a.depth - d0 : DC;
    __syncthreads();
    stage_columns<BM, DC, WIDTH, false>(
        rows_tile, a.x_data + d0 * a.x_stride[2], [&](int r) { return x_at[r]; }, a.x_stride[2], rows, deep,
        [&](Value<X> v, int) {
          if constexpr (QUANT) return static_cast<Sum>(range.shifted(v));
          else return static_cast<Sum>(v);
        });
    stage_columns<BN, DC, WEIGHTS_ACROSS ? 1 : WIDTH, WEIGHTS_ACROSS>(
        columns_tile, w + d0 * a.w_stride[2], [&](int r) { return r * a.w_stride[1]; }, a.w_stride[2], columns, deep,
        [&](Value<W> v, int r) {
          if constexpr (QUANT)
            return static_cast<Sum>(v) - static_cast<Sum>(a.zero[at[0] * a.zero_stride[0] + (column + r) * a.zero_stride[1]]);
          else return static_cast<Sum>(v);
        });
    __syncthreads();
    multiply<BM, BN>(rows_tile, 0, columns_tile, deep, ty, tx, sums);
  }

  A add[TN] = {}, scale[TN];
#pragma unroll
  for (int j = 0; j < TN; j++) {
    const int c = owned<BN, TN>(tx, j);
    if (c >= columns) continue;
    const Idx gate = column + c, bias = at[0] * a.bias_stride[0];
    if (a.has_bias) {
      add[j] = static_cast<A>(value_of(a.bias[bias + gate * a.bias_stride[1]]));
      if (gate < a.bias_both) add[j] += static_cast<A>(value_of(a.bias[bias + (a.columns + gate) * a.bias_stride[1]]));
    }
    if constexpr (QUANT) scale[j] = range.scale * a.scale[at[0] * a.scale_stride[0] + gate * a.scale_stride[1]];
    else scale[j] = 1;
  }
  constexpr int G = PACKED ? 16 / static_cast<int>(sizeof(A)) : 1;
#pragma unroll
  for (int i = 0; i < TM; i++) {
    const int r = owned<BM, TM>(ty, i);
#pragma unroll
    for (int j = 0; j < TN; j += G) {
      const int c = owned<BN, TN>(tx, j);
      if (r >= rows || c >= columns) continue;
      Pack<A, G> out;
#pragma unroll
      for (int u = 0; u < G; u++) out.at[u] = fused(static_cast<A>(sums[i][j + u]), scale[j + u], add[j + u]);
      store_pack(a.sums + (at[0] * a.rows + first + r) * a.columns + column + c, out);
    }
  }
}
