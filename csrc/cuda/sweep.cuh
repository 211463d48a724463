// How the threads of a block share out rows: sets of elements that are reduced to one result each. The axes of a launch are KEPT axes,
// whose coordinates number the rows, then REDUCED axes; the plan (kernels/cuda/plans/row_layout.py) says how they lie in memory:
//
// * COLUMNS false: elements of a row are neighbours. 2^log2 neighbouring threads share a row; WIDTH neighbours are loaded at once.
// * COLUMNS true: elements of different rows are neighbours. Neighbouring threads have neighbouring rows, WIDTH of them each;
//   the 2^log2 threads that share them are THREADS >> log2 apart.
//
// Where WIDTH is 1, which of the two is a field. In both, the thread of lane k takes elements (packs) k, k + lanes, ... of the stretch of
// the row that is the block's: blockIdx.y numbers stretches of `share` steps. A warp's loads are contiguous either way. The number of lanes
// is a field, not a constant: it costs a few shuffles in a loop, and saves compiling a kernel per row length.
#pragma once
#include "states.cuh"

constexpr int AXIS = COLUMNS ? KEPT - 1 : RANK - 1;                            // the axis of packs
constexpr int PARTS = COLUMNS || WIDTH == 1 ? WIDTH * THREADS : THREADS / 32;  // states in shared memory that `combine` needs
constexpr int kBatch = COLUMNS && WIDTH > 4 ? 2 : 4;                           // loads in flight per thread: as many as registers allow
constexpr int kChain = 16;                                                     // loads whose elements are added up one after the other
static_assert(kChain % kBatch == 0, "");

__forceinline__ bool columns(const Args& a) { return WIDTH == 1 ? a.columns : COLUMNS; }

struct Place {
  Idx unit;         // number of the row, or of the pack of WIDTH rows
  Idx first, last;  // the steps of this thread: first, first + 2^log2, ... < last
  int lane, log2;
  bool inside;
};

// Where this thread works; sets the kept coordinates of c.
__forceinline__ Place place(const Args& a, Idx (&c)[RANK]) {
  Place p;
  p.log2 = a.log2;
  const int thread = static_cast<int>(threadIdx.x), units = THREADS >> a.log2;
  const int unit = columns(a) ? thread & (units - 1) : thread >> a.log2;
  p.lane = columns(a) ? thread / units : thread & ((1 << a.log2) - 1);
  p.unit = static_cast<Idx>(blockIdx.x) * units + unit;
  p.inside = p.unit < a.units;
  const Idx begin = static_cast<Idx>(blockIdx.y) * a.share, rest = a.steps - begin;
  p.last = p.inside ? begin + (rest < a.share ? rest : a.share) : 0;
  p.first = begin + p.lane;
  unravel<0, KEPT>(p.inside ? p.unit : 0, a.size, c);
  if (COLUMNS) c[KEPT - 1] *= WIDTH;
  return p;
}

// The coordinates of step i of the row.
__forceinline__ void seek(const Args& a, Idx i, Idx (&c)[RANK]) {
  unravel<KEPT, RANK - KEPT>(i, a.size, c);
  if (!COLUMNS) c[RANK - 1] *= WIDTH;
}
// The position along the last reduced axis of element k of a step.
__forceinline__ Idx position(const Idx (&c)[RANK], int k) { return c[RANK - 1] + (COLUMNS ? 0 : k); }

// Calls take(state k, element k, position, k) for all elements of this thread's steps. Sums of a few loads are formed first, then added to
// the total: no chain of roundings gets longer than kChain plus the number of such sums.
template <class S, class F>
__forceinline__ void accumulate(const Args& a, const Place& p, Idx (&c)[RANK], S (&total)[WIDTH], F take) {
  Idx left = p.first < p.last ? (p.last - p.first + (1 << p.log2) - 1) >> p.log2 : 0, i = p.first;
#pragma unroll 1
  while (left > 0) {
    S part[WIDTH];
#pragma unroll
    for (int k = 0; k < WIDTH; k++) part[k] = S::neutral();
    int n = left < kChain ? static_cast<int>(left) : kChain;
    left -= n;
#pragma unroll 1
    for (; n >= kBatch; n -= kBatch) {
      Value<X> v[kBatch][WIDTH];
      Idx at[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; j++, i += 1 << p.log2) {
        seek(a, i, c);
        at[j] = position(c, 0);
        load_xs(a, c, v[j]);
      }
#pragma unroll
      for (int j = 0; j < kBatch; j++)
#pragma unroll
        for (int k = 0; k < WIDTH; k++) take(part[k], v[j][k], at[j] + (COLUMNS ? 0 : k), k);
    }
#pragma unroll 1
    for (; n > 0; n--, i += 1 << p.log2) {
      Value<X> v[WIDTH];
      seek(a, i, c);
      load_xs(a, c, v);
#pragma unroll
      for (int k = 0; k < WIDTH; k++) take(part[k], v[k], position(c, k), k);
    }
#pragma unroll
    for (int k = 0; k < WIDTH; k++) total[k] = total[k].join(part[k]);
  }
}

// Joins the states of all threads that share rows. Afterwards each has all of it: COLUMNS: state k is that of row unit * WIDTH + k; else
// all WIDTH states are that of the row. All threads of the block must call.
template <class S>
__forceinline__ void combine(const Args& a, const Place& p, S (&total)[WIDTH], S* parts) {
  if (columns(a)) {
    if (p.log2 == 0) return;
    const int thread = static_cast<int>(threadIdx.x), units = THREADS >> p.log2;
    __syncthreads();
    for (int h = 1 << p.log2 >> 1; h > 0; h >>= 1) {
#pragma unroll
      for (int k = 0; k < WIDTH; k++)
        if (p.lane >= h && p.lane < 2 * h) parts[k * THREADS + thread] = total[k];
      __syncthreads();
#pragma unroll
      for (int k = 0; k < WIDTH; k++)
        if (p.lane < h) total[k] = total[k].join(parts[k * THREADS + thread + h * units]);
    }
#pragma unroll
    for (int k = 0; k < WIDTH; k++)
      if (p.lane == 0) parts[k * THREADS + thread] = total[k];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < WIDTH; k++) total[k] = parts[k * THREADS + (thread & (units - 1))];
  } else {
#pragma unroll
    for (int h = WIDTH / 2; h > 0; h /= 2)
#pragma unroll
      for (int k = 0; k < h; k++) total[k] = total[k].join(total[k + h]);
    const S all = group_reduce(total[0], p.log2, parts, Join());
#pragma unroll
    for (int k = 0; k < WIDTH; k++) total[k] = all;
  }
}

// Rows that are cut into stretches leave one state per stretch in scratch: [row][stretch].
template <class S>
__forceinline__ void leave(S* partial, const Place& p, const S (&total)[WIDTH]) {
  if (!p.inside || p.lane != 0) return;
#pragma unroll
  for (int k = 0; k < (COLUMNS ? WIDTH : 1); k++)
    partial[((COLUMNS ? p.unit * WIDTH : p.unit) + k) * static_cast<Idx>(gridDim.y) + static_cast<Idx>(blockIdx.y)] = total[k];
}
// The states of whole rows from those of their stretches. All threads of the block must call.
template <class S>
__forceinline__ void collect(const Args& a, const S* partial, const Place& p, S (&total)[WIDTH], S* parts) {
#pragma unroll
  for (int k = 0; k < WIDTH; k++) {
    total[k] = S::neutral();
    if (k > 0 && !COLUMNS) continue;
    const S* row = partial + ((COLUMNS ? p.unit * WIDTH : p.unit) + k) * static_cast<Idx>(gridDim.y);
    if (p.inside)
      for (int i = p.lane; i < static_cast<int>(gridDim.y); i += 1 << p.log2) total[k] = total[k].join(row[i]);
  }
  combine(a, p, total, parts);
}
