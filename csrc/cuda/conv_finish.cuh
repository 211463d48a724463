// Adds the slices that conv_tile left, in their order, and finishes each result: one per thread. Lanes run along filters, as the slices
// lie.
#pragma once

extern "C" __global__ void __launch_bounds__(THREADS) conv_finish(const __grid_constant__ Args a) {
  const Idx i = global_thread();
  if (i >= a.total) return;
  const Idx pixel = a.all_filters->divide(i);
  Value<Sum> v = a.partial[i];
  for (int k = 1; k < a.slices; k++) v += a.partial[i + k * a.total];
  finish(a, pixel, i - pixel * a.all_filters->n(), v);
}
