// Recurrent weights that are no constants, in the order in which recurrent_steps reads them: [direction][pack of k][gate][unit][k of the
// pack], 0 beyond the last k. Integers are kept signed: unsigned ones less 128.
#pragma once
#include "types.cuh"

template <class T>
__forceinline__ T signed_byte(T x) {
  return x;
}
__forceinline__ i8 signed_byte(u8 x) { return static_cast<i8>(static_cast<int>(x) - 128); }

extern "C" __global__ void __launch_bounds__(THREADS) recurrent_pack(const __grid_constant__ Args a) {
  const Idx i = global_thread();
  if (i >= a.total) return;
  Idx c[4] = {};  // direction, pack, gate, unit
  unravel<0, 4>(i, a.size, c);
  Pack<P, KQ> out;
#pragma unroll
  for (int u = 0; u < KQ; u++) {
    const Idx k = c[1] * KQ + u;
    P v = {};
    if (k < a.hidden) {
      v = signed_byte(a.r_data[c[0] * a.r_stride[0] + (c[2] * a.hidden + c[3]) * a.r_stride[1] + k * a.r_stride[2]]);
    }
    out.at[u] = v;
  }
  store_pack(a.packed + i * KQ, out);
}
