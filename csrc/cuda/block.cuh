// Reductions and prefix sums of one value per thread, across a warp or a block. All are fixed trees: equal inputs give equal bits, whatever
// the order in which warps run.
//
// * `join(a, b)` combines two values. Reductions take it as commutative and associative up to rounding;
//   scans keep the order of the threads.
// * T is a number of registers (Value<T>), or a struct for which overloads shuffle_xor(v, k) and shuffle_up(v, k) are found beside it.
// * All threads of the warp (of the block) must call; threads without work pass a neutral value. Blocks are one-dimensional whole warps.
// * `shared` is __shared__ T[threads / 32]. The block-wide functions begin with a barrier, so one array may serve call after call;
//   other data in shared memory written before a call may be read by all threads after it.
#pragma once
#include "types.cuh"

constexpr u32 kWholeWarp = 0xffffffffu;

__forceinline__ int lane_of_warp() { return static_cast<int>(threadIdx.x & 31); }
__forceinline__ int warp_of_block() { return static_cast<int>(threadIdx.x >> 5); }

// The value of lane `lane ^ k`; of lane `lane - k` (its own where there is none); of lane `from`.
template <class T>
__forceinline__ T shuffle_xor(T v, int k) {
  if constexpr (sizeof(T) < 4) return static_cast<T>(__shfl_xor_sync(kWholeWarp, static_cast<int>(v), k));
  else return __shfl_xor_sync(kWholeWarp, v, k);
}
template <class T>
__forceinline__ T shuffle_up(T v, int k) {
  if constexpr (sizeof(T) < 4) return static_cast<T>(__shfl_up_sync(kWholeWarp, static_cast<int>(v), k));
  else return __shfl_up_sync(kWholeWarp, v, k);
}
template <class T>
__forceinline__ T shuffle_from(T v, int from) {
  if constexpr (sizeof(T) < 4) return static_cast<T>(__shfl_sync(kWholeWarp, static_cast<int>(v), from));
  else return __shfl_sync(kWholeWarp, v, from);
}

struct Add {
  template <class T>
  __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {  // skips NaN where one of the two is a number
  template <class T>
  __forceinline__ T operator()(T a, T b) const {
    return a > b || b != b ? a : b;
  }
};

// Over each aligned stretch of LANES lanes (a power of two): all its lanes get the result.
template <int LANES = 32, class T, class F>
__forceinline__ T warp_reduce(T v, F join) {
#pragma unroll
  for (int k = LANES / 2; k > 0; k /= 2) v = join(v, shuffle_xor(v, k));
  return v;
}

// The same over each aligned group of 2^log2 threads, where log2 is known at launch and the same for the whole block. Groups may be larger
// than a warp; `shared` and the barriers are only used then. All threads of a group get the result.
template <class T, class F>
__forceinline__ T group_reduce(T v, int log2, T* shared, F join) {
  for (int k = 1 << (log2 < 5 ? log2 : 5) >> 1; k > 0; k >>= 1) v = join(v, shuffle_xor(v, k));
  if (log2 <= 5) return v;
  __syncthreads();
  if (lane_of_warp() == 0) shared[warp_of_block()] = v;
  __syncthreads();
  const int warps = 1 << (log2 - 5);
  v = shared[(warp_of_block() & ~(warps - 1)) + (lane_of_warp() & (warps - 1))];
  for (int k = warps >> 1; k > 0; k >>= 1) v = join(v, shuffle_xor(v, k));
  return v;
}

// Over the block, whose size is a power of two of at least 32: all threads get the result.
template <int BLOCK, class T, class F>
__forceinline__ T block_reduce(T v, T* shared, F join) {
  static_assert(BLOCK % 32 == 0 && (BLOCK & (BLOCK - 1)) == 0 && BLOCK <= 1024, "whole warps, a power of two");
  v = warp_reduce(v, join);
  if constexpr (BLOCK == 32) return v;
  __syncthreads();
  if (lane_of_warp() == 0) shared[warp_of_block()] = v;
  __syncthreads();
  v = shared[lane_of_warp() % (BLOCK / 32)];
  return warp_reduce<BLOCK / 32>(v, join);
}

// Inclusive prefix over each aligned stretch of 2^log2 lanes of a warp, in the order of the lanes: join(sum of earlier lanes, own value).
template <class T, class F>
__forceinline__ T warp_scan(T v, F join, int log2 = 5) {
  const int lane = lane_of_warp() & ((1 << log2) - 1);
#pragma unroll
  for (int k = 1; k < 32; k *= 2) {
    const T earlier = shuffle_up(v, k);
    if (lane >= k) v = join(earlier, v);
  }
  return v;
}

// Prefix over the block (whole warps, at most 1024 threads): returns the join of `v` of all earlier threads (`neutral` for the first) and,
// in `total`, that of all threads.
template <class T, class F>
__forceinline__ T block_scan_exclusive(T v, T neutral, T* shared, F join, T& total) {
  const int warps = static_cast<int>(blockDim.x >> 5);
  const T upto = warp_scan(v, join);
  __syncthreads();
  if (lane_of_warp() == 31) shared[warp_of_block()] = upto;
  __syncthreads();
  const T sums = warp_scan(lane_of_warp() < warps ? shared[lane_of_warp()] : neutral, join);
  total = shuffle_from(sums, warps - 1);
  const T warps_before = shuffle_from(sums, (warp_of_block() + 31) & 31), lanes_before = shuffle_up(upto, 1);
  const T before = warp_of_block() == 0 ? neutral : warps_before;
  return lane_of_warp() == 0 ? before : join(before, lanes_before);
}

// The same over each aligned group of 2^log2 threads: up to a warp, or else the whole block. log2 is the same for all threads.
template <class T, class F>
__forceinline__ T group_scan_exclusive(T v, T neutral, int log2, T* shared, F join, T& total) {
  if (log2 > 5) return block_scan_exclusive(v, neutral, shared, join, total);
  const int last = (1 << log2) - 1;
  const T upto = warp_scan(v, join, log2), before = shuffle_up(upto, 1);
  total = shuffle_from(upto, lane_of_warp() | last);
  return (lane_of_warp() & last) == 0 ? neutral : before;
}
