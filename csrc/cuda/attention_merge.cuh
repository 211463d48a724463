// The results of attention_tiles over splits of the keys, put together in the order of the splits: one result per thread.
#pragma once
#include "attention_rule.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_merge(const __grid_constant__ Args a) {
  const Idx i = global_thread();
  if (i >= a.total) return;
  Idx c[4] = {};
  unravel<0, 4>(i, a.size, c);
  const Idx row = (c[0] * a.size[1].n() + c[1]) * a.size[2].n() + c[2];
  A top = -infinity(A(0));
  for (int k = 0; k < a.splits; k++) top = larger(top, a.tops[k * a.all_rows + row]);
  A sum = 0, out = 0;
  for (int k = 0; k < a.splits; k++) {
    const Idx part = k * a.all_rows + row;
    const A factor = rescale<PLAIN>(a.tops[part], top);
    sum += factor * a.sums[part];
    out += factor * a.parts[part * a.size[3].n() + c[3]];
  }
  store_y(a, c, static_cast<Value<Acc>>(out * (sum == A(0) ? static_cast<A>(a.masked) : A(1) / sum)));
}
