// gather: y[c] = x[direct part of c + what the indices at c say], for every mode. plans/indexing.py merges y's axes in the order of its
// memory for all operands at once, and a plain copy moves the largest units (up to 16 bytes) into which rows of x and y can be cut, as if
// they were the elements. One thread moves one unit: neighbours along a row load the same index, which costs one access per warp. Rejected:
// a warp or block per row with the index in shared memory, which leaves threads idle for short rows and gains nothing for long ones.
#pragma once
#include "index.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) gather(const __grid_constant__ Args a) {
  const Idx i = global_thread();
  if (i >= a.total) return;
  Idx c[RANK] = {};
  unravel<0, RANK>(i, a.size, c);
  c[RANK - 1] *= WIDTH;
  Idx from = offset_of(c, a.x_stride);
  const auto* const tuple = a.index_data + offset_of(c, a.index_stride);
  if (!add_offset<PARTS>(a, tuple, from)) {
    i64 number = 0;
    for (int k = 0; k < RANK; k++) number += static_cast<i64>(c[k]) * a.number_stride[k];
    return fail_tuple(a, tuple, number);
  }
  Value<Acc> v[WIDTH];
  if constexpr (WIDTH == 1) v[0] = value_of(a.x_data[from]);
  else {
    const Pack<X, WIDTH> p = load_pack<X, WIDTH>(a.x_data + from);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) v[k] = value_of(p.at[k]);
  }
  store_lot(a, c, v);
}
