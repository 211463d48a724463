// nonzero: the coordinates of the elements that are not zero, in row-major order (select.cuh: nonzero_count, then nonzero_write; one chunk
// needs no count). Elements are read as words, of which `mask` leaves out the bits that do not matter: the sign of a float. x is read along
// axes that were merged (X_RANK of them), the coordinates are those of the axes as they are. compress uses it to list the positions of its
// condition.
#pragma once
#include "select.cuh"
#include "status.cuh"

__forceinline__ bool is_zero(u64 x, u64 mask) { return (x & mask) == 0; }
__forceinline__ bool is_zero(c128 x, u64) { return x.re == 0 && x.im == 0; }

__forceinline__ bool flagged(const Args& a, Idx i) {
  Idx c[X_RANK] = {};
  unravel<0, X_RANK>(i, a.x_size, c);
  return !is_zero(a.x_data[at_x(a, c)], a.mask);
}
__forceinline__ Idx chunk_end(const Args& a, Idx begin) { return begin + a.chunk < a.total ? begin + a.chunk : a.total; }

extern "C" __global__ void __launch_bounds__(THREADS) nonzero_count(const __grid_constant__ Args a) {
  const Idx begin = static_cast<Idx>(blockIdx.x) * a.chunk;
  const Idx n = block_count(begin, chunk_end(a, begin), [&](Idx i) { return flagged(a, i); });
  if (threadIdx.x == 0) a.counts[blockIdx.x] = n;
}

extern "C" __global__ void __launch_bounds__(THREADS) nonzero_write(const __grid_constant__ Args a) {
  const Idx begin = static_cast<Idx>(blockIdx.x) * a.chunk, end = chunk_end(a, begin);
  const Idx found = block_number(
      begin, end, block_sum(a.counts, static_cast<Idx>(blockIdx.x)), [&](Idx i) { return flagged(a, i); },
      [&](Idx i, Idx rank, bool on) {
        if (!on || rank >= a.room) return;
        Idx c[RANK] = {};
        unravel<0, RANK>(i, a.size, c);
#pragma unroll
        for (int k = 0; k < RANK; k++) a.y_data[k * a.y_stride[0] + rank * a.y_stride[1]] = c[k];
      });
  if (end != a.total || found == a.room) return;
  if (threadIdx.x == 0) fail(a.status, Failure::wrong_count, 0, found);
  for (Idx i = found + threadIdx.x; i < a.room; i += THREADS)  // nothing undefined, because compress reads it before the failure is seen
    for (int k = 0; k < RANK; k++) a.y_data[k * a.y_stride[0] + i * a.y_stride[1]] = 0;
}
