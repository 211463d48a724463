// unique: unique_tiles and sort_merge.cuh sort items of (key, position), so that equal values form a run whose head is their first
// occurrence. The rest is a chain of steps over the sorted items or over x, each of which needs the one before it to be complete;
// unique_steps does steps `begin_step` to `end_step`, all of them if the launch is one block.
//   0  counts heads per chunk of the sorted items
//   1  numbers the runs: group[position] = 2 * run + (is a first occurrence), starts[run]; the last chunk knows how many there are
//   sorted:  2  everything, per position
//   by first occurrence:  3  counts first occurrences per chunk of x;  4  renumbers the runs in their order;  5  inverse, per position
#pragma once
#include "select.cuh"
#include "sort.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) unique_tiles(const __grid_constant__ Args a) {
  sort_tiles<Item>(
      a, [&](Idx, Idx i) { return item_of<Item>(static_cast<u64>(key(a.x_data[i * a.x_step])), static_cast<u64>(i)); },
      [&](Idx, Idx chunk, int rank, Item item) { a.to[(chunk << a.log_width) + rank] = item; });
}

// What is known of run `run`, as number `at` of the results.
__forceinline__ void emit(const Args& a, Idx at, Idx run, Idx position) {
  a.y_data[at * a.y_step] = a.x_data[position * a.x_step];
  a.first_data[at * a.first_step] = position;
  a.counts_data[at * a.counts_step] = a.starts[run + 1] - a.starts[run];
}

extern "C" __global__ void __launch_bounds__(THREADS) unique_steps(const __grid_constant__ Args a) {
  const Idx block = static_cast<Idx>(blockIdx.x), begin = block * a.chunk, end = begin + a.chunk < a.length ? begin + a.chunk : a.length;
  const auto head = [&](Idx i) { return i == 0 || key_of(a.items[i]) != key_of(a.items[i - 1]); };
  const auto occurs_first = [&](Idx p) { return (a.group[p] & 1) != 0; };
  const auto due = [&](int step) { return a.begin_step <= step && step <= a.end_step; };
  if (due(0)) {
    const Idx n = block_count(begin, end, head);
    if (threadIdx.x == 0) a.sums[block] = n;
    __syncthreads();
  }
  if (due(1)) {
    const Idx runs = block_number(begin, end, block_sum(a.sums, block), head, [&](Idx i, Idx rank, bool on) {
      const Idx run = rank - !on;
      a.group[at_of(a.items[i])] = 2 * run + on;
      if (on) a.starts[run] = i;
    });
    if (end == a.length && threadIdx.x == 0) {
      a.starts[runs] = a.length;
      a.n_data[0] = runs;
    }
    __syncthreads();
  }
  if (due(2) && a.sorted)
    for (Idx p = begin + threadIdx.x; p < end; p += THREADS) {
      const Idx group = a.group[p], run = group >> 1;
      a.inverse_data[p * a.inverse_step] = run;
      if (group & 1) emit(a, run, run, p);
    }
  if (a.sorted) return;
  if (due(3)) {
    const Idx n = block_count(begin, end, occurs_first);
    if (threadIdx.x == 0) a.sums[block] = n;
    __syncthreads();
  }
  if (due(4)) {
    block_number(begin, end, block_sum(a.sums, block), occurs_first, [&](Idx p, Idx rank, bool on) {
      if (!on) return;
      const Idx run = a.group[p] >> 1;
      a.renumbered[run] = rank;
      emit(a, rank, run, p);
    });
    __syncthreads();
  }
  if (due(5))
    for (Idx p = begin + threadIdx.x; p < end; p += THREADS) a.inverse_data[p * a.inverse_step] = a.renumbered[a.group[p] >> 1];
}
