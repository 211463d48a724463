// Winograd's input transform: v[tile][position of 36][channel] = B' d B of the 6 x 6 inputs d of a tile. One tile of one channel per
// thread, lanes along channels: loads are along memory when channels are last, stores always. kernels/cuda/plans/conv_winograd.py
#pragma once
#include "winograd.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) winograd_input(const __grid_constant__ Args a) {
  const Idx i = global_thread();
  if (i >= a.total) return;
  const Idx tile = a.channels->divide(i), channel = i - tile * a.channels->n();
  Idx c[3];  // batch, rows and columns of tiles
  unravel<0, 3>(tile, a.tiles, c);
  const Idx y0 = c[1] * TILE - a.pad[0], x0 = c[2] * TILE - a.pad[1];
  const f32* const from = a.x + (c[0] * a.x_batch + channel * a.x_channel);
  f32 t[EDGE][EDGE];
#pragma unroll
  for (int x = 0; x < EDGE; x++) {
    f32 d[EDGE], o[EDGE];
#pragma unroll
    for (int y = 0; y < EDGE; y++) {
      const bool inside = y0 + y >= 0 && y0 + y < a.size[0] && x0 + x >= 0 && x0 + x < a.size[1];
      d[y] = inside ? from[(y0 + y) * a.x_step[0] + (x0 + x) * a.x_step[1]] : 0.0f;
    }
    winograd_in(d, o);
#pragma unroll
    for (int y = 0; y < EDGE; y++) t[y][x] = o[y];
  }
  f32* const to = a.v + (tile * (EDGE * EDGE) * a.channels->n() + channel);
#pragma unroll
  for (int y = 0; y < EDGE; y++) {
    f32 o[EDGE];
    winograd_in(t[y], o);
#pragma unroll
    for (int x = 0; x < EDGE; x++) to[(y * EDGE + x) * a.channels->n()] = o[x];
  }
}
