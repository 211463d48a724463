// layer and rms normalisation of rows of any length and layout (sweep.cuh): a sweep for the mean, one for the squares of the deviations
// from it, one for the results. STAGE kWhole: all three by the blocks that own the rows. Few and long rows are cut into stretches instead,
// with a launch per sweep that occupies the whole device: kFirst leaves sums (rms: squares) in `partial`, kSquares those of the squares in
// `squares`, and kApply joins them, as every block does for itself. Rejected: variance from sums and sums of squares (cancels where the
// mean is large), and Welford's update (a division per element).
#pragma once
#include "normalize_result.cuh"

enum NormalizeStage { kWhole, kFirst, kSquares, kApply };

using S = Running<kSum, Real>;

// The sum over this block's steps of x, or of (x - mean)^2.
template <bool SQUARE>
__forceinline__ void sum(const Args& a, const Place& p, Idx (&c)[RANK], const Real (&mean)[WIDTH], S (&total)[WIDTH], S* parts) {
#pragma unroll
  for (int k = 0; k < WIDTH; k++) total[k] = S::neutral();
  accumulate(a, p, c, total, [&](S& s, Value<X> x, Idx, int k) {
    const Real d = static_cast<Real>(x) - (SQUARE && LAYER ? mean[k] : Real(0));
    s.value += SQUARE ? d * d : d;
  });
  combine(a, p, total, parts);
}

template <class A>
__forceinline__ S* partial_of(const A& a) {
  return static_cast<S*>(a.partial);
}
template <class A>
__forceinline__ S* squares_of(const A& a) {
  return static_cast<S*>(a.squares);
}

extern "C" __global__ void __launch_bounds__(THREADS, 4) normalize_sweep(const __grid_constant__ Args a) {
  __shared__ S parts[PARTS];
  Idx c[RANK] = {};
  const Place p = place(a, c);
  S total[WIDTH];
  Real mean[WIDTH] = {}, inverse[WIDTH];
  if constexpr (LAYER) {
    if constexpr (STAGE == kWhole || STAGE == kFirst) sum<false>(a, p, c, mean, total, parts);
    else collect(a, partial_of(a), p, total, parts);
    if constexpr (STAGE == kFirst) return leave(partial_of(a), p, total);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) mean[k] = mean_of(a, total[k].value);
  }
  if constexpr (STAGE == kApply) collect(a, squares_of(a), p, total, parts);
  else sum<true>(a, p, c, mean, total, parts);
  if constexpr (STAGE == kFirst || STAGE == kSquares) return leave(squares_of(a), p, total);
  else {
#pragma unroll
    for (int k = 0; k < WIDTH; k++) inverse[k] = inverse_of(a, total[k].value);
    store_statistics(a, p, c, mean, inverse);
#pragma unroll 2
    for (Idx i = p.first; i < p.last; i += 1 << p.log2) {
      Value<X> x[WIDTH];
      Real d[WIDTH];
      seek(a, i, c);
      load_xs(a, c, x);
#pragma unroll
      for (int k = 0; k < WIDTH; k++) d[k] = static_cast<Real>(x[k]) - mean[k];
      store_normalized(a, c, d, inverse);
    }
  }
}
