// y = 0, then x's elements at recorded positions; of several for one place the last in row-major order wins. Three steps: every place of y
// starts with no writer (unpool_clear), the largest number of an element that wants it stays (unpool_claim, an atomic maximum, whose result
// does not depend on the order), and every place reads its writer (unpool_read), which also writes the zeros, once and in the order of y's
// memory. Rejected: zeros, then a scatter of the values, where the winner of a place would depend on timing.
#pragma once

extern "C" __global__ void __launch_bounds__(THREADS) unpool_clear(const __grid_constant__ Args a) {
  const Idx i = global_thread();
  if (i < a.total) a.writer[i] = -1;
}
