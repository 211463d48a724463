// y = x before a scatter, in units of up to 16 bytes, where both have the same strides. If y is x's own memory there is nothing to do; that
// is known only where memory is placed, which is after planning.
#pragma once
#include "view.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) scatter_copy(const __grid_constant__ Args a) {
  Idx i = global_thread();
  if (a.x_data == a.y_data || i >= a.total) return;
  Idx at = 0;
#pragma unroll 1
  for (int k = a.axes - 1; k >= 0; k--) {
    const Idx q = a.size[k].divide(i);
    at += (i - q * a.size[k].n()) * a.stride[k];
    i = q;
  }
  a.y_data[at] = a.x_data[at];
}
