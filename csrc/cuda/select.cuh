// Numbering the flagged ones of a stretch of elements in order: what nonzero, compress and unique are made of. A launch is cut into at most
// as many chunks as a block can add up quickly; a first kernel counts each chunk's flags, a second one adds up the counts before its own
// chunk and numbers its flags on from there. Rejected: one pass with blocks that wait for their predecessors' sums, which saves reading the
// flags twice but needs blocks to be started in order, and memory to be cleared first.
#pragma once
#include "block.cuh"
#include "view.cuh"

constexpr int SELECT_WARPS = THREADS / 32, SELECT_ITEMS = 32 / SELECT_WARPS, SELECT_TILE = THREADS * SELECT_ITEMS;

// The sum of counts[0..n), for all threads.
__forceinline__ Idx block_sum(const Idx* counts, Idx n) {
  __shared__ Idx shared[SELECT_WARPS];
  Idx sum = 0;
  for (Idx i = threadIdx.x; i < n; i += THREADS) sum += counts[i];
  return block_reduce<THREADS>(sum, shared, Add{});
}

// How many of [begin, end) are flagged, for all threads.
template <class Flag>
__forceinline__ Idx block_count(Idx begin, Idx end, Flag flag) {
  __shared__ Idx shared[SELECT_WARPS];
  Idx sum = 0;
  for (Idx i = begin + threadIdx.x; i < end; i += THREADS) sum += flag(i) ? 1 : 0;
  return block_reduce<THREADS>(sum, shared, Add{});
}

// Calls each(i, rank, flagged) for [begin, end), where rank is `rank` plus the number of flagged ones in [begin, i). Returns the rank of
// `end`.
template <class Flag, class Each>
__forceinline__ Idx block_number(Idx begin, Idx end, Idx rank, Flag flag, Each each) {
  __shared__ int before[33];  // [item][warp]: flagged ones of the tile before that warp's 32 elements
  const int lane = lane_of_warp(), warp = warp_of_block();
  for (Idx first = begin; first < end; first += SELECT_TILE) {
    u32 votes[SELECT_ITEMS];
#pragma unroll
    for (int k = 0; k < SELECT_ITEMS; k++) {
      const Idx i = first + k * THREADS + threadIdx.x;
      votes[k] = __ballot_sync(kWholeWarp, i < end && flag(i));
      if (lane == 0) before[k * SELECT_WARPS + warp] = __popc(votes[k]);
    }
    __syncthreads();
    if (warp == 0) {
      const int own = before[lane], upto = warp_scan(own, Add{});
      before[lane] = upto - own;
      if (lane == 31) before[32] = upto;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < SELECT_ITEMS; k++) {
      const Idx i = first + k * THREADS + threadIdx.x;
      if (i < end) each(i, rank + before[k * SELECT_WARPS + warp] + __popc(votes[k] & ((1u << lane) - 1)), (votes[k] >> lane & 1) != 0);
    }
    rank += before[32];
    __syncthreads();
  }
  return rank;
}
