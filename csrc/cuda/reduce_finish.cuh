// Joins the states that the stretches of a row left in scratch ([row][stretch]) and writes the result: one warp per row.
#pragma once
#include "reduce_result.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) reduce_finish(const __grid_constant__ Args a) {
  using S = typename StateOf<OP, X>::type;
  const Idx row = global_thread() >> 5;
  if (row >= a.units) return;
  const S* partial = static_cast<const S*>(partial_of(a)) + row * a.splits;
  S state = S::neutral();
  for (int i = lane_of_warp(); i < a.splits; i += 32) state = state.join(partial[i]);
  state = warp_reduce(state, Join());
  if (lane_of_warp() != 0) return;
  Idx c[RANK] = {};
  unravel<0, KEPT>(row, a.size, c);
  write_result(a, c, state);
}
