// What normalize_rows and normalize_sweep share. LAYER: the mean is subtracted; otherwise it counts as 0 (rms). The plan generates
// load_scales, load_biases (1 and 0 where absent), store_mean and store_inverse (nothing where absent).
#pragma once
#include "sweep.cuh"

using Real = RealOf<X>;

__forceinline__ Real mean_of(const Args& a, Real sum) { return LAYER ? sum / static_cast<Real>(a.count) : Real(0); }
__forceinline__ Real inverse_of(const Args& a, Real squares) {
  return Real(1) / op::sqrt<Real>(squares / static_cast<Real>(a.count) + a.epsilon);
}

// Results of the WIDTH elements at c, whose deviations from the mean are d.
__forceinline__ void store_normalized(const Args& a, Idx (&c)[RANK], const Real (&d)[WIDTH], const Real (&inverse)[WIDTH]) {
  Real scale[WIDTH], bias[WIDTH];
  load_scales(a, c, scale);
  load_biases(a, c, bias);
  Value<Acc> out[WIDTH];
#pragma unroll
  for (int k = 0; k < WIDTH; k++) out[k] = finished<Acc>(d[k] * inverse[k] * scale[k] + bias[k]);
  store_ys(a, c, out);
}

// The statistics of the rows of p, from the one thread that shall write them.
__forceinline__ void store_statistics(const Args& a, const Place& p, Idx (&c)[RANK], const Real (&mean)[WIDTH],
                                      const Real (&inverse)[WIDTH]) {
  if (!p.inside || p.lane != 0 || blockIdx.y != 0) return;
  const Idx first = c[KEPT - 1];
#pragma unroll
  for (int k = 0; k < (COLUMNS ? WIDTH : 1); k++) {
    if (COLUMNS) c[KEPT - 1] = first + k;
    store_mean(a, c, mean[k]);
    store_inverse(a, c, inverse[k]);
  }
  c[KEPT - 1] = first;
}
