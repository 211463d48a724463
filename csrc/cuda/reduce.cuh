// reduce, arg_reduce and quantize_stats: rows (sweep.cuh) to one state each (states.cuh), and that to a result. With SPLIT, a row is cut
// into stretches for several blocks, whose states go to scratch and are joined by reduce_finish: for results so few that their rows would
// leave most of the device idle. Rejected: atomics (the order of additions would vary), and a last block that joins (needs a counter to be
// cleared).
#pragma once
#include "reduce_result.cuh"
#include "sweep.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) reduce(const __grid_constant__ Args a) {
  using S = typename StateOf<OP, X>::type;
  __shared__ S parts[PARTS];
  Idx c[RANK] = {};
  const Place p = place(a, c);
  S total[WIDTH];
#pragma unroll
  for (int k = 0; k < WIDTH; k++) total[k] = S::neutral();
  accumulate(a, p, c, total, [](S& s, Value<X> x, Idx at, int) { s.take(x, at); });
  combine(a, p, total, parts);
  if constexpr (SPLIT) leave(static_cast<S*>(partial_of(a)), p, total);
  else if (p.inside && p.lane == 0) {
#pragma unroll
    for (int k = 0; k < (COLUMNS ? WIDTH : 1); k++) {
      write_result(a, c, total[k]);
      if (COLUMNS) c[KEPT - 1]++;
    }
  }
}
