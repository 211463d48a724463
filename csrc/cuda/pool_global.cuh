// Windows so large, or so few, that one thread per result would be slow: LANES threads share the taps of a result and join what they found
// in a tree in shared memory. A block makes THREADS / LANES results. Where channels are the fastest axis of x (RESULTS_FIRST), neighbouring
// threads read neighbouring channels of one tap, otherwise neighbouring taps of one window. The tree is fixed, so are the bits of the sum.
#pragma once
#include "pool_taps.cuh"

constexpr int RESULTS = THREADS / LANES;
constexpr int CHAIN = 64;  // terms a thread adds up before it starts a new sum

extern "C" __global__ void __launch_bounds__(THREADS) pool_shared(const __grid_constant__ Args a) {
  __shared__ C values[THREADS];
  __shared__ Idx places[INDICES ? THREADS : 1];
  const int thread = threadIdx.x;
  const int result = RESULTS_FIRST ? thread % RESULTS : thread / LANES, lane = RESULTS_FIRST ? thread / RESULTS : thread % LANES;
  constexpr int apart = RESULTS_FIRST ? RESULTS : 1;  // of neighbouring lanes
  const Idx id = static_cast<Idx>(blockIdx.x) * RESULTS + result;
  const bool real = id < a.total;
  Idx c[RANK] = {}, z[SPATIAL];
  unravel<0, RANK>(real ? id : Idx(0), a.size, c);
  window_corner(a, c, z);
  Pooled out;
  if (real) {
    const Idx corner = at_x(a, c);
    for (Idx begin = lane; begin < a.volume; begin += CHAIN * LANES) {
      const Idx end = a.volume - begin < CHAIN * LANES ? a.volume : begin + CHAIN * LANES;
      Pooled part;
      for (Idx t = begin; t < end; t += LANES) {
        Idx k[SPATIAL], at = corner;
        unravel<0, SPATIAL>(t, a.kernel, k);
        bool inside = true;
#pragma unroll
        for (int s = 0; s < SPATIAL; s++) {
          const Idx i = z[s] + k[s] * (DILATED ? a.dilation[s].n() : Idx(1));
          inside = inside && i >= 0 && i < a.extent[s];
          at += i * a.step[s];
        }
        if (inside) part.take(a, value_of(a.x_data[at]), t);
      }
      out.join(part);
    }
  }
  for (int step = LANES / 2; step > 0; step /= 2) {
    values[thread] = out.value;
    if constexpr (INDICES) places[thread] = out.where;
    __syncthreads();
    if (lane < step) {
      Pooled other;
      other.value = values[thread + step * apart];
      if constexpr (INDICES) other.where = places[thread + step * apart];
      out.join(other);
    }
    __syncthreads();
  }
  if (lane != 0 || !real) return;
  const Value<Acc> v[1] = {static_cast<Value<Acc>>(out.result(a, z))};
  store_lot(a, c, v);
  if (INDICES) {
    Idx k[SPATIAL], place = 0;
    unravel<0, SPATIAL>(out.where < 0 ? Idx(0) : out.where, a.kernel, k);
#pragma unroll
    for (int s = 0; s < SPATIAL; s++) place += (z[s] + k[s] * a.dilation[s].n()) * a.place[s];
    store_place(a, c, out.where < 0 ? Idx(0) : place);
  }
}
