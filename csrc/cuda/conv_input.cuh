// How the tile kernels of convolutions read x: rows of a tile are output pixels, columns are products (tap, channel of the group), in this
// order. An element's address is the sum of one part of its row and one of its column. kernels/cuda/plans/conv_problem.py: fields
#pragma once
#include "view.cuh"

using S = Value<Sum>;

// What the rows of a tile have of their own: the memory of tap 0, channel 0, and its position along the axes that need checks.
template <int N>
struct Rows {
  Idx base[N];
  Idx at[AXES][N];

  __forceinline__ void set(const Args& a, int row, Idx pixel) {  // pixels beyond the last one repeat it; their results are not stored
    Idx o[AXES];
    unravel<0, AXES>(pixel < a.pixels ? pixel : a.pixels - 1, a.out, o);
    Idx memory = 0;
#pragma unroll
    for (int k = 0; k < AXES; k++) {
      const Idx position = o[k] * a.stride[k] - pad_of(a, k);
      memory += position * a.x_step[k];
      if (CHECKED >> k & 1) at[k][row] = position;
    }
    base[row] = memory;
  }
};

constexpr int lowest_bit(int x) { return x & 1 ? 0 : 1 + lowest_bit(x >> 1); }

struct Column {
  Idx memory, moved[AXES];
  bool inside;
};

__forceinline__ Column column(const Args& a, Idx group, Idx k, Idx end) {
  constexpr int first = TAPPED ? lowest_bit(TAPPED) : 0;  // the first axis with taps needs no division
  Column c;
  c.inside = k < end;
  Idx tap = TAPPED ? a.channels->divide(k) : 0;
  c.memory = group * a.x_group + (k - tap * a.channels->n()) * a.x_channel;
#pragma unroll
  for (int i = AXES - 1; i >= 0; i--) {
    c.moved[i] = 0;
    if (TAPPED >> i & 1) {
      const Idx rest = i == first ? 0 : a.kernel[i].divide(tap);
      c.moved[i] = (tap - rest * a.kernel[i].n()) * a.dilation[i];
      tap = rest;
      c.memory += c.moved[i] * a.x_step[i];
    }
  }
  return c;
}

template <int N>
__forceinline__ bool is_inside(const Args& a, const Rows<N>& rows, int row, const Column& c) {
  bool inside = c.inside;
#pragma unroll
  for (int i = 0; i < AXES; i++)
    if (CHECKED >> i & 1) {
      const Idx position = rows.at[i][row] + c.moved[i];
      inside = inside && position >= 0 && position < a.size[i];
    }
  return inside;
}

// N neighbouring channels of a row, less the zero point; 0 outside of x.
template <int N, int R>
__forceinline__ Pack<S, N> fetch(const Args& a, const Rows<R>& rows, int row, const Column& c) {
  Pack<S, N> v;
  if (is_inside(a, rows, row, c)) {
    const Pack<X, N> p = load_pack<X, N>(a.x + (rows.base[row] + c.memory));
    const S zero = zero_of_x(a);
#pragma unroll
    for (int i = 0; i < N; i++) v.at[i] = static_cast<S>(value_of(p.at[i])) - zero;
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) v.at[i] = 0;
  }
  return v;
}
