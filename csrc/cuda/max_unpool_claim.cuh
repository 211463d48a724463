// The second step of max_unpool.cuh: which element of x wants a place of y.
#pragma once
#include "status.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) unpool_claim(const __grid_constant__ Args a) {
  const Idx i = global_thread();
  if (i >= a.total) return;
  Idx c[RANK] = {};
  unravel<0, RANK>(i, a.size, c);
  i64 p = load_positions(a, c);
  if (p < 0) p += a.positions;
  if (p < 0 || p >= a.positions) return fail(a.status, Failure::position_out_of_range, 0, p);
  Idx target[RANK_Y] = {}, at = 0;
  unravel<0, RANK_Y>(static_cast<Idx>(p), a.reference, target);
#pragma unroll
  for (int k = 0; k < RANK_Y; k++) {
    if (target[k] >= a.extent[k]) return fail(a.status, Failure::outside_output, 0, p);
    at += target[k] * a.place[k];
  }
  atomicMax(a.writer + at, i);
}
