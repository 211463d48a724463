// Weights that are no constants, repacked as [phase][block][taps...][channel][filter] in the type of the sums, zero points subtracted and
// columns beyond the filters zero: the layout the convolution kernels expect. One element per thread. kernels/cuda/plans/conv_weights.py
#pragma once

extern "C" __global__ void __launch_bounds__(THREADS) conv_pack(const __grid_constant__ Args a) {
  const Idx i = global_thread();
  if (i >= a.total) return;
  Idx c[AXES + 4];
  unravel<0, AXES + 4>(i, a.size, c);
  W v = static_cast<W>(0);
  if (c[AXES + 3] < a.filters) {
    const Idx filter = c[1] * a.filters + c[AXES + 3];  // of all groups
    const Idx group = a.group_filters->divide(filter);
    Idx at =
        group * a.group_step + (filter - group * a.group_filters->n()) * a.filter_step + c[AXES + 2] * a.channel_step + offset_of(a, c[0]);
#pragma unroll
    for (int k = 0; k < AXES; k++) at += c[2 + k] * a.tap_step[k];
    v = static_cast<W>(value_of(a.x[at])) - static_cast<W>(zero_of_w(a, filter));
  }
  a.w[i] = v;
}
