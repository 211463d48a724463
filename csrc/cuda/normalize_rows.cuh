// layer and rms normalisation of rows that fit in registers: 2^log2 threads hold a row, up to ITEMS packs each, which are read once; the
// variance is that of the deviations from the mean (two-pass), at no cost in memory traffic. Other rows: normalize_sweep.cuh.
#pragma once
#include "normalize_result.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) normalize_rows(const __grid_constant__ Args a) {
  __shared__ Real parts[THREADS / 32];
  Idx c[RANK] = {};
  const Place p = place(a, c);
  Real v[ITEMS][WIDTH];
#pragma unroll
  for (int j = 0; j < ITEMS; j++) {
    const Idx i = p.first + (static_cast<Idx>(j) << p.log2);
    Value<X> x[WIDTH] = {};
    if (i < p.last) {
      seek(a, i, c);
      load_xs(a, c, x);
    }
#pragma unroll
    for (int k = 0; k < WIDTH; k++) v[j][k] = static_cast<Real>(x[k]);
  }
  const auto reduced = [&](auto term) {
    Real sums[WIDTH] = {};
#pragma unroll
    for (int j = 0; j < ITEMS; j++)
#pragma unroll
      for (int k = 0; k < WIDTH; k++) sums[k] += term(v[j][k]);
#pragma unroll
    for (int h = WIDTH / 2; h > 0; h /= 2)
#pragma unroll
      for (int k = 0; k < h; k++) sums[k] += sums[k + h];
    return group_reduce(sums[0], p.log2, parts, Add());
  };
  Real mean[WIDTH], inverse[WIDTH];
  mean[0] = LAYER ? mean_of(a, reduced([](Real x) { return x; })) : Real(0);
  if (LAYER) {
#pragma unroll
    for (int j = 0; j < ITEMS; j++)
      if (p.first + (static_cast<Idx>(j) << p.log2) < p.last) {
#pragma unroll
        for (int k = 0; k < WIDTH; k++) v[j][k] -= mean[0];
      }
  }
  inverse[0] = inverse_of(a, reduced([](Real x) { return x * x; }));
#pragma unroll
  for (int k = 1; k < WIDTH; k++) {
    mean[k] = mean[0];
    inverse[k] = inverse[0];
  }
  store_statistics(a, p, c, mean, inverse);
#pragma unroll
  for (int j = 0; j < ITEMS; j++) {
    const Idx i = p.first + (static_cast<Idx>(j) << p.log2);
    if (i >= p.last) break;
    seek(a, i, c);
    store_normalized(a, c, v[j], inverse);
  }
}
