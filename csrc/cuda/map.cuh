// y = body(x...), one element per thread. kernels/cuda/plans/elementwise.py generates `body`.
#pragma once

extern "C" __global__ void __launch_bounds__(THREADS) map_elements(const __grid_constant__ Args a) {
  const Idx i = global_thread();
  if (i >= a.total) return;
  Idx c[RANK] = {};
  unravel<0, RANK>(i, a.size, c);
  a.y_data[at_y(a, c)] = stored<Y>(body(a, c));
}
