// topk along one axis: topk_tiles sorts tiles of a sequence (sort.cuh) and keeps the first k of each; what is kept is sorted again in
// tiles, until one tile is left, whose first k are the result. If k is too large for that to shrink quickly, everything is kept and joined
// by sort_merge.cuh, and topk_write writes the first k. Rejected: selecting the k-th key by radix passes before sorting k items, which
// reads x once per digit and needs many launches for one short sequence.
#pragma once
#include "sort.cuh"

// Result number `rank` of a sequence.
__forceinline__ void emit(const Args& a, Idx sequence, Idx rank, Item item) {
  Idx c[RANK] = {};
  unravel<0, RANK>(sequence, a.size, c);
  const Idx at = at_of(item);
  a.values_data[at_values(a, c) + rank * a.values_step] = a.x_data[at_x(a, c) + at * a.x_step];
  a.indices_data[at_indices(a, c) + rank * a.indices_step] = at;
}

extern "C" __global__ void __launch_bounds__(THREADS) topk_tiles(const __grid_constant__ Args a) {
  sort_tiles<Item>(
      a,
      [&](Idx sequence, Idx i) {
        if (!a.first) return a.from[sequence * a.length + i];
        Idx c[RANK] = {};
        unravel<0, RANK>(sequence, a.size, c);
        return item_of<Item>(static_cast<u64>(key(a.x_data[at_x(a, c) + i * a.x_step])) ^ a.flip, static_cast<u64>(i));
      },
      [&](Idx sequence, Idx chunk, int rank, Item item) {
        if (!a.last) a.to[(sequence * a.chunks[0].n() + chunk) * a.keep + rank] = item;
        else emit(a, sequence, rank, item);
      });
}

extern "C" __global__ void __launch_bounds__(THREADS) topk_write(const __grid_constant__ Args a) {
  const Idx i = global_thread(), sequence = a.rank_size[0].divide(i);
  if (sequence < a.sequences) {
    const Idx rank = i - sequence * a.rank_size[0].n();
    emit(a, sequence, rank, a.from[sequence * a.length + rank]);
  }
}
