// scan where neighbours in memory belong to different rows: each thread walks a stretch of one row, neighbouring threads have neighbouring
// rows, and the 2^log2 threads of a row in a block take stretches of their own. No thread waits for another.
#pragma once
#include "scan_sums.cuh"

constexpr int kAhead = 8;  // loads in flight

extern "C" __global__ void __launch_bounds__(THREADS) scan_columns(const __grid_constant__ Args a) {
  Idx c[RANK] = {};
  const Place p = place(a, c);
  const Idx stretch = (static_cast<Idx>(blockIdx.y) << p.log2) + p.lane, begin = stretch * a.share;
  if (!p.inside || begin >= a.steps) return;
  const Idx rest = a.steps - begin, end = begin + (rest < a.share ? rest : a.share);
  const Combine join;
  A carry = kNeutral;
  if constexpr (PHASE == kApply) {
    const A* totals = totals_of(a) + p.unit;
#pragma unroll 8
    for (Idx i = 0; i < stretch; i++) carry = join(carry, totals[i * a.units]);
  }
  const auto step = [&](Idx i, A x) {
    const A before = carry;
    carry = join(carry, x);
    if constexpr (PHASE != kTotals) {
      const Value<Acc> out[1] = {op::cast<Acc, A>(a.exclusive ? before : carry)};
      seek(a, i, c);
      store_ys(a, c, out);
    }
  };
  Value<X> x[kAhead][1];
  Idx i = begin;
#pragma unroll 1
  for (; i + kAhead <= end; i += kAhead) {
#pragma unroll
    for (int j = 0; j < kAhead; j++) {
      seek(a, i + j, c);
      load_xs(a, c, x[j]);
    }
#pragma unroll
    for (int j = 0; j < kAhead; j++) step(i + j, static_cast<A>(x[j][0]));
  }
#pragma unroll 1
  for (; i < end; i++) {
    seek(a, i, c);
    load_xs(a, c, x[0]);
    step(i, static_cast<A>(x[0][0]));
  }
  if constexpr (PHASE == kTotals) totals_of(a)[stretch * a.units + p.unit] = carry;
}
