// The third step of max_unpool.cuh: y, from the elements that won their places.
#pragma once

extern "C" __global__ void __launch_bounds__(THREADS) unpool_read(const __grid_constant__ Args a) {
  const Idx i = global_thread();
  if (i >= a.total) return;
  Idx c[RANK] = {}, from[RANK_X] = {};
  unravel<0, RANK>(i, a.size, c);
  const Idx w = a.writer[i];
  X v = {};
  if (w >= 0) {
    unravel<0, RANK_X>(w, a.x_size, from);
    v = a.x_data[at_x(a, from)];
  }
  a.y_data[at_y(a, c)] = v;
}
