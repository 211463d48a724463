// The second call of a gemm whose k was cut into slices: adds the slices' sums in order, one result per thread, and runs the epilogue. The
// number of slices follows from the shapes alone, so results are the same on every run and every device.
#pragma once

extern "C" __global__ void __launch_bounds__(THREADS) gemm_sum(const __grid_constant__ Args a) {
  const Idx i = global_thread();
  if (i >= a.total) return;
  Lane sum = 0;
#pragma unroll 4
  for (int s = 0; s < a.slices; s++) sum += a.partial[static_cast<Idx>(s) * a.total + i];
  Idx c[RANK] = {};
  const Idx row = a.matrix[0].divide(i), batch = a.matrix[1].divide(row);
  c[RANK - 1] = i - row * a.matrix[0].n();
  c[RANK - 2] = row - batch * a.matrix[1].n();
  unravel<0, RANK - 2>(batch, a.batch, c);
  finish(a, c, batch, sum);
}
