// Joins neighbouring sorted runs of `run` items of each sequence (sort.cuh): a block makes SORT_TILE items of the result. It finds by
// binary search which stretches of the two runs they come from, and merges these in shared memory.
#pragma once
#include "sort.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) sort_merge(const __grid_constant__ Args a) {
  __shared__ Item s[slot(SORT_TILE)];
  __shared__ Idx split[2];
  const Idx block = static_cast<Idx>(blockIdx.x), sequence = a.blocks[0].divide(block);
  const Idx out = (block - sequence * a.blocks[0].n()) * SORT_TILE;  // the block's first item within its sequence
  const Idx first = out & ~(2 * a.run - 1);
  const Idx na = a.run < a.n - first ? a.run : a.n - first, nb = a.run < a.n - first - na ? a.run : a.n - first - na;
  const Item *x = a.from + sequence * a.n + first, *y = x + na;
  const Idx begin = out - first, end = begin + SORT_TILE < na + nb ? begin + SORT_TILE : na + nb;
  if (threadIdx.x % 32 == 0 && threadIdx.x < 64)
    split[threadIdx.x / 32] =
        merge_split<Idx>(na, nb, threadIdx.x == 0 ? begin : end, [=](Idx i) { return x[i]; }, [=](Idx i) { return y[i]; });
  __syncthreads();
  const Idx x0 = split[0], y0 = begin - x0;
  const int count_x = static_cast<int>(split[1] - x0), count = static_cast<int>(end - begin);
  for (int p = threadIdx.x; p < count; p += THREADS) s[slot(p)] = p < count_x ? x[x0 + p] : y[y0 + p - count_x];
  __syncthreads();
  Item r[SORT_ITEMS];
  const int own = threadIdx.x * SORT_ITEMS;
  merge_items(s, 0, count_x, count_x, count, own < count ? own : count, r);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < SORT_ITEMS; k++) s[slot(own + k)] = r[k];
  __syncthreads();
  Item* const to = a.to + sequence * a.n + out;
  for (int p = threadIdx.x; p < count; p += THREADS) to[p] = s[slot(p)];
}
