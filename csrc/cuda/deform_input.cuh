// The input of a deformable convolution for conv_tile_core.cuh: an element of the tile is x sampled (bi-, tri-)linearly at the position of
// its pixel and tap plus an offset from memory, times a mask. Corners outside of x count as 0 and are not read. Offsets are read again for
// every channel (from L1: neighbouring lanes share them); sharing them in shared memory would need a tile order in which a block has all
// channels of a tap at once, which wide channels do not fit. kernels/cuda/plans/conv_deform.py
#pragma once
#include "view.cuh"

using S = Value<Sum>;
constexpr int SPATIAL = AXES - 1;

template <int N>
struct Rows {
  Idx base[N], offset[N], mask[N];
  Idx at[SPATIAL][N];

  __forceinline__ void set(const Args& a, int row, Idx pixel) {
    Idx o[AXES];
    unravel<0, AXES>(pixel < a.pixels ? pixel : a.pixels - 1, a.out, o);
    base[row] = o[0] * a.x_step[0];
    Idx at_offset = 0, at_mask = 0;
#pragma unroll
    for (int k = 0; k < AXES; k++) {
      at_offset += o[k] * a.offset_step[k];
      at_mask += o[k] * a.mask_step[k];
      if (k > 0) at[k - 1][row] = o[k] * a.stride[k] - a.pad[k];
    }
    offset[row] = at_offset;
    mask[row] = at_mask;
  }
};

struct Column {
  Idx memory, offset, mask, moved[SPATIAL];
  bool inside;
};

__forceinline__ Column column(const Args& a, Idx group, Idx k, Idx end) {
  Column c;
  c.inside = k < end;
  const Idx tap = a.channels->divide(k), channel = group * a.channels->n() + k - tap * a.channels->n();
  const Idx point = a.part->divide(channel) * a.taps + tap;
  c.memory = channel * a.x_channel;
  c.offset = point * SPATIAL * a.offset_channel;
  c.mask = point * a.mask_channel;
  Idx left = tap;
#pragma unroll
  for (int i = SPATIAL - 1; i >= 0; i--) {
    const Idx rest = i == 0 ? 0 : a.kernel[i + 1].divide(left);
    c.moved[i] = (left - rest * a.kernel[i + 1].n()) * a.dilation[i + 1];
    left = rest;
  }
  return c;
}

template <int N, int R>
__forceinline__ Pack<S, N> fetch(const Args& a, const Rows<R>& rows, int row, const Column& c) {
  static_assert(N == 1, "every channel is sampled");
  Pack<S, N> v;
  v.at[0] = 0;
  if (!c.inside) return v;
  S part[SPATIAL];
  Idx first[SPATIAL];
  bool near = true;
#pragma unroll
  for (int i = 0; i < SPATIAL; i++) {
    const S shift = value_of(a.offset[rows.offset[row] + c.offset + i * a.offset_channel]);
    const S at = static_cast<S>(rows.at[i][row] + c.moved[i]) + shift;
    near = near && at > S(-1) && at < static_cast<S>(a.size[i + 1]);  // NaN is not
    const S low = floor(near ? at : S(0));
    part[i] = (near ? at : S(0)) - low;
    first[i] = static_cast<Idx>(low);
  }
  if (!near) return v;
  S sum = 0;
#pragma unroll
  for (int corner = 0; corner < 1 << SPATIAL; corner++) {
    S weight = 1;
    Idx memory = rows.base[row] + c.memory;
    bool inside = true;
#pragma unroll
    for (int i = 0; i < SPATIAL; i++) {
      const int high = corner >> (SPATIAL - 1 - i) & 1;
      const Idx position = first[i] + high;
      inside = inside && position >= 0 && position < a.size[i + 1];
      weight *= high ? part[i] : S(1) - part[i];
      memory += position * a.x_step[i + 1];
    }
    if (inside && weight != S(0)) sum += weight * value_of(a.x[memory]);
  }
  v.at[0] = sum * mask_of(a, rows.mask[row] + c.mask);
  return v;
}
