// scatter: y[...] = y[...] OP update, updates of one place of y in the row-major order of the indices. (y is a copy of x by now:
// scatter_copy, where the strides are the same, which finds out that y is x's own memory.) Three strategies:
//   scatter_lanes   a thread per free position applies all updates in order: for many free positions, or few updates.
//   scatter_owners  a thread per free position and update: the first of those for one place, found by comparing all, applies the others
//   too. For few
//                   updates to few positions; takes no memory of its own.
//   scatter_runs    (scatter_sorted.cuh) updates are sorted by place, and the first of each run applies it: everything else.
// Rejected: atomics, because the order of float sums would change from run to run; a winner per place of y (as in max_unpool.cuh) for
// reduction `none`, because it reads and writes all of y's places where often only a few are updated in place.
#pragma once
#include "scatter_apply.cuh"

constexpr int BATCH = 4;  // updates whose loads overlap

extern "C" __global__ void __launch_bounds__(THREADS) scatter_lanes(const __grid_constant__ Args a) {
  const Idx i = global_thread();
  if (i >= a.free) return;
  const Spot own = moved(a, {}, 0, a.free_axes, i);
  Y* const y = a.y_data + own.y - a.bias;
  for (Idx first = 0; first < a.updates; first += BATCH) {
    Idx place[BATCH];
    Value<Y> u[BATCH];
#pragma unroll
    for (int k = 0; k < BATCH; k++) {
      place[k] = -1;
      if (first + k >= a.updates) continue;
      const Spot s = moved(a, own, a.free_axes, a.axes, first + k);
      Idx at = a.bias;
      if (add_offset<-1>(a, a.index_data + s.index, at)) place[k] = at;
      else fail_tuple(a, a.index_data + s.index, number_of(a, i, first + k));
      u[k] = value_of(a.update_data[s.update]);
    }
#pragma unroll
    for (int k = 0; k < BATCH; k++)
      if (place[k] >= 0) y[place[k]] = stored<Y>(combined(y + place[k], u[k]));
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) scatter_owners(const __grid_constant__ Args a) {
  const Idx i = global_thread(), update = a.free_size[0].divide(i), free = i - update * a.free;
  if (update >= a.updates) return;
  const Spot lane = moved(a, {}, 0, a.free_axes, free), own = moved(a, lane, a.free_axes, a.axes, update);
  Idx place = a.bias;
  if (!add_offset<-1>(a, a.index_data + own.index, place)) return fail_tuple(a, a.index_data + own.index, number_of(a, free, update));
  for (Idx k = 0; k < update; k++) {
    Idx other = a.bias;
    if (add_offset<-1>(a, a.index_data + moved(a, lane, a.free_axes, a.axes, k).index, other) && other == place) return;
  }
  Y* const y = a.y_data + lane.y - a.bias + place;
  Value<Y> v = combined(y, value_of(a.update_data[own.update]));
  for (Idx k = update + 1; k < a.updates; k++) {
    const Spot s = moved(a, lane, a.free_axes, a.axes, k);
    Idx other = a.bias;
    if (add_offset<-1>(a, a.index_data + s.index, other) && other == place) v = combine(v, value_of(a.update_data[s.update]));
  }
  *y = stored<Y>(v);
}
