// scan where neighbours along the axis are neighbours in memory, or nothing is: 2^log2 threads (part of a warp, or the block) walk a row
// tile by tile. A thread takes RUN neighbours, sums them one after the other, and the threads' totals are scanned by shuffles (block.cuh).
#pragma once
#include "scan_sums.cuh"

constexpr int PER = WIDTH < 4 ? 4 / WIDTH : 1, RUN = PER * WIDTH;  // loads, elements of a thread per tile

extern "C" __global__ void __launch_bounds__(THREADS, 4) scan_rows(const __grid_constant__ Args a) {
  __shared__ A parts[THREADS / 32];
  Idx c[RANK] = {};
  const Place p = place(a, c);
  const Combine join;
  const Idx begin = static_cast<Idx>(blockIdx.y) * a.share, rest = a.steps - begin, end = begin + (rest < a.share ? rest : a.share);
  const Idx row = p.unit * static_cast<Idx>(gridDim.y);
  A carry = kNeutral;
  if constexpr (PHASE == kApply) {
    const A* totals = totals_of(a) + row;
    for (int i = p.lane; p.inside && i < static_cast<int>(blockIdx.y); i += 1 << p.log2) carry = join(carry, totals[i]);
    carry = group_reduce(carry, p.log2, parts, join);
  }
#pragma unroll 1
  for (Idx tile = begin; tile < end; tile += static_cast<Idx>(PER) << p.log2) {  // the same for all threads: there are barriers inside
    const Idx mine = tile + p.lane * PER;
    A run[RUN];
#pragma unroll
    for (int j = 0; j < PER; j++) {
      Value<X> x[WIDTH] = {};
      const bool have = mine + j < p.last;
      if (have) {
        seek(a, mine + j, c);
        load_xs(a, c, x);
      }
#pragma unroll
      for (int k = 0; k < WIDTH; k++) run[j * WIDTH + k] = have ? static_cast<A>(x[k]) : kNeutral;
    }
#pragma unroll
    for (int k = 1; k < RUN; k++) run[k] = join(run[k - 1], run[k]);
    if constexpr (PHASE == kTotals) {
      carry = join(carry, run[RUN - 1]);
      continue;
    }
    A total;
    A before = join(carry, group_scan_exclusive(run[RUN - 1], kNeutral, p.log2, parts, join, total));
    carry = join(carry, total);
#pragma unroll
    for (int j = 0; j < PER; j++) {
      if (mine + j >= p.last) break;
      Value<Acc> out[WIDTH];
#pragma unroll
      for (int k = 0; k < WIDTH; k++) {
        const int at = j * WIDTH + k;
        const A upto = join(before, run[at]), without = at > 0 ? join(before, run[at > 0 ? at - 1 : 0]) : before;
        out[k] = op::cast<Acc, A>(a.exclusive ? without : upto);
      }
      seek(a, mine + j, c);
      store_ys(a, c, out);
    }
  }
  if constexpr (PHASE == kTotals) {
    carry = group_reduce(carry, p.log2, parts, join);
    if (p.inside && p.lane == 0) totals_of(a)[row + static_cast<Idx>(blockIdx.y)] = carry;
  }
}
