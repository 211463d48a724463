// softmax, log_softmax and hardmax of rows that fit in registers: 2^log2 threads hold a row, up to ITEMS packs each, which are read once
// and written once. Longer rows, and rows across the memory order: softmax_sweep.cuh.
#pragma once
#include "softmax_result.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) softmax_rows(const __grid_constant__ Args a) {
  using Best = Extreme<kArgMax, X>;
  __shared__ Real parts[THREADS / 32];
  __shared__ Best best_parts[THREADS / 32];
  Idx c[RANK] = {};
  const Place p = place(a, c);
  Real v[ITEMS][WIDTH];
  Best best = Best::neutral();
#pragma unroll
  for (int j = 0; j < ITEMS; j++) {
    const Idx i = p.first + (static_cast<Idx>(j) << p.log2);
    Value<X> x[WIDTH] = {};
    if (i < p.last) {
      seek(a, i, c);
      load_xs(a, c, x);
    }
#pragma unroll
    for (int k = 0; k < WIDTH; k++) {
      v[j][k] = i < p.last ? static_cast<Real>(x[k]) : -static_cast<Real>(inf32());
      if constexpr (MODE == kHardmax)
        if (i < p.last) best.take(x[k], position(c, k));
    }
  }
  RowResult row;
  if constexpr (MODE == kHardmax) row.at = group_reduce(best, p.log2, best_parts, Join()).at;
  else {
    Real most = v[0][0];
#pragma unroll
    for (int j = 0; j < ITEMS; j++)
#pragma unroll
      for (int k = 0; k < WIDTH; k++) most = Larger()(v[j][k], most);
    most = group_reduce(most, p.log2, parts, Larger());
    Real sums[WIDTH] = {};
#pragma unroll
    for (int j = 0; j < ITEMS; j++)
#pragma unroll
      for (int k = 0; k < WIDTH; k++) {
        const Real e = exp_of(v[j][k] - most);
        sums[k] += e;
        if constexpr (MODE == kSoftmax) v[j][k] = e;
      }
#pragma unroll
    for (int h = WIDTH / 2; h > 0; h /= 2)
#pragma unroll
      for (int k = 0; k < h; k++) sums[k] += sums[k + h];
    row = RowResult::of(most, group_reduce(sums[0], p.log2, parts, Add()));
  }
#pragma unroll
  for (int j = 0; j < ITEMS; j++) {
    const Idx i = p.first + (static_cast<Idx>(j) << p.log2);
    if (i >= p.last) break;
    seek(a, i, c);
    Value<Acc> out[WIDTH];
#pragma unroll
    for (int k = 0; k < WIDTH; k++) {
      if constexpr (MODE == kSoftmax) out[k] = finished<Acc>(v[j][k] * row.scale);
      else out[k] = row.value(v[j][k], position(c, k));
    }
    store_ys(a, c, out);
  }
}
