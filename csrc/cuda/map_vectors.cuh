// y = body(x...), WIDTH neighbours along the last axis per thread: 16 bytes per access of the widest operand. Operands that are constant
// along that axis are loaded once. kernels/cuda/plans/elementwise.py generates `body_vector`.
#pragma once

extern "C" __global__ void __launch_bounds__(THREADS) map_vectors(const __grid_constant__ Args a) {
  const Idx i = global_thread();
  if (i >= a.total) return;
  Idx c[RANK] = {};
  unravel<0, RANK>(i, a.size, c);
  c[RANK - 1] *= WIDTH;
  store_pack(a.y_data + at_y(a, c), body_vector(a, c));
}
