// softmax, log_softmax and hardmax of rows of any length and layout, in two sweeps (sweep.cuh): the maximum together with the sum of
// exponentials (states.cuh: Exponentials), then the results. With PARTIALS, the first sweep was a launch of `reduce`, whose blocks left the
// states of the stretches of each row in scratch: few and long rows then occupy the whole device in both sweeps.
#pragma once
#include "softmax_result.cuh"

template <class S>
__forceinline__ RowResult row_result(const S& s) {
  if constexpr (MODE == kHardmax) return {0, 0, s.at};
  else return RowResult::of(s.most, s.sum);
}

template <class A, class S>
__forceinline__ const S* partial_of(const A& a, const S&) {
  return static_cast<const S*>(a.partial);
}

extern "C" __global__ void __launch_bounds__(THREADS, 3) softmax_sweep(const __grid_constant__ Args a) {
  using S = typename StateOf<OP, X>::type;
  __shared__ S parts[PARTS];
  Idx c[RANK] = {};
  const Place p = place(a, c);
  S total[WIDTH];
#pragma unroll
  for (int k = 0; k < WIDTH; k++) total[k] = S::neutral();
  if constexpr (PARTIALS) collect(a, partial_of(a, total[0]), p, total, parts);
  else {
    accumulate(a, p, c, total, [](S& s, Value<X> x, Idx at, int) { s.take(x, at); });
    combine(a, p, total, parts);
  }
  RowResult row[WIDTH];
#pragma unroll
  for (int k = 0; k < WIDTH; k++) row[k] = row_result(total[k]);
#pragma unroll 2
  for (Idx i = p.first; i < p.last; i += 1 << p.log2) {
    Value<X> x[WIDTH];
    Value<Acc> out[WIDTH];
    seek(a, i, c);
    load_xs(a, c, x);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) out[k] = row[k].value(static_cast<Real>(x[k]), position(c, k));
    store_ys(a, c, out);
  }
}
