// Sliding windows: one thread per result, or per 16 bytes of neighbouring channels where channels are the fastest axis of x and y. Threads
// follow the memory of y, so neighbouring threads read neighbouring elements of x in either layout. The taps of small windows are unrolled,
// with loads that are predicated instead of branched around, so that all of them are in flight at once; larger windows walk the taps inside
// x only. Rejected: staging x in shared memory, as the overlap of the windows of a block is in the first-level cache already, and sharing
// rows of taps between neighbours along an axis, which pays for large windows with small strides only.
#pragma once
#include "pool_taps.cuh"

template <int S>
__forceinline__ void visit(const Args& a, const Idx (&z)[SPATIAL], Idx at, Idx place, bool inside, Pooled (&out)[WIDTH]) {
  if constexpr (S == SPATIAL) {
    if (!inside) return;
    if constexpr (WIDTH == 1) out[0].take(a, value_of(a.x_data[at]), place);
    else {
      const Pack<X, WIDTH> p = load_pack<X, WIDTH>(a.x_data + at);
#pragma unroll
      for (int i = 0; i < WIDTH; i++) out[i].take(a, value_of(p.at[i]), place);
    }
  } else if constexpr (KERNEL[S] > 0) {
#pragma unroll
    for (int k = 0; k < KERNEL[S]; k++) {
      const Idx i = z[S] + k * (DILATED ? a.dilation[S].n() : Idx(1));
      visit<S + 1>(a, z, at + i * a.step[S], place + i * a.place[S], inside && i >= 0 && i < a.extent[S], out);
    }
  } else {
    const Idx end = taps_before(a, S, z[S], a.extent[S]);
    for (Idx k = taps_before(a, S, z[S], 0); k < end; k++) {
      const Idx i = z[S] + k * (DILATED ? a.dilation[S].n() : Idx(1));
      visit<S + 1>(a, z, at + i * a.step[S], place + i * a.place[S], true, out);
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(const __grid_constant__ Args a) {
  const Idx id = global_thread();
  if (id >= a.total) return;
  Idx c[RANK] = {}, z[SPATIAL];
  unravel<0, RANK>(id, a.size, c);
  c[RANK - 1] *= WIDTH;
  window_corner(a, c, z);
  Pooled out[WIDTH];
  visit<0>(a, z, at_x(a, c), 0, true, out);
  Value<Acc> v[WIDTH];
#pragma unroll
  for (int i = 0; i < WIDTH; i++) v[i] = static_cast<Value<Acc>>(out[i].result(a, z));
  store_lot(a, c, v);
  if (INDICES) store_place(a, c, out[0].where < 0 ? Idx(0) : out[0].where);
}
