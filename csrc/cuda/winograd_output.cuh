// Winograd's output transform: the 4 x 4 results of a tile, A' p A of its 36 sums p[tile][position][filter]. One tile of one filter per
// thread, lanes along filters. The results pass through shared memory, each thread its own, so that the epilogue's code is there once.
#pragma once
#include "winograd.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) winograd_output(const __grid_constant__ Args a) {
  __shared__ f32 results[TILE * TILE][THREADS];
  const Idx i = global_thread();
  if (i >= a.total) return;
  const Idx tile = a.filters->divide(i), filter = i - tile * a.filters->n();
  const f32* const from = a.partial + (tile * (EDGE * EDGE) * a.filters->n() + filter);
  f32 t[TILE][EDGE];
#pragma unroll
  for (int x = 0; x < EDGE; x++) {
    f32 m[EDGE], o[TILE];
#pragma unroll
    for (int y = 0; y < EDGE; y++) m[y] = from[(y * EDGE + x) * a.filters->n()];
    winograd_out(m, o);
#pragma unroll
    for (int y = 0; y < TILE; y++) t[y][x] = o[y];
  }
#pragma unroll
  for (int y = 0; y < TILE; y++) {
    f32 o[TILE];
    winograd_out(t[y], o);
#pragma unroll
    for (int x = 0; x < TILE; x++) results[y * TILE + x][threadIdx.x] = o[x];
  }
  Idx c[3];
  unravel<0, 3>(tile, a.tiles, c);
#pragma unroll 1
  for (int k = 0; k < TILE * TILE; k++) {
    const Idx y = c[1] * TILE + k / TILE, x = c[2] * TILE + k % TILE;
    if (y < a.out[0] && x < a.out[1]) finish(a, (c[0] * a.out[0] + y) * a.out[1] + x, filter, results[k][threadIdx.x]);
  }
}
