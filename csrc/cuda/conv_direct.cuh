// Convolution with few products per result: depthwise, and groups of few channels. Each thread keeps V filters x P pixels along the last
// axis in registers and walks the taps; no shared memory, since neighbouring threads' inputs meet in L1. Lanes run along filters if
// CHANNELS_FAST, which is along memory when channels are last, else along pixels. WINDOW > 0: along the last axis, the taps are known when
// compiling and the inputs of all P pixels are loaded once for all of them. Weights lie as [tap][channel of the group][filter of all
// groups], a.pitch filters wide. kernels/cuda/plans/conv_direct.py
#pragma once

constexpr int LAST = AXES - 1, SPAN = (P - 1) * STRIDE + (WINDOW > 0 ? WINDOW : 1);  // SPAN: inputs of P pixels
constexpr bool LAST_CHECKED = CHECKED >> LAST & 1;

struct Walk {
  Idx at[AXES];  // position of the first pixel at tap 0
  Idx x, group;  // memory: channel 0 of the group in that batch entry; its steps
  Idx filter;
  int pixels;
};

template <int N>
__forceinline__ Pack<Value<Sum>, N> load_x(const Args& a, Idx offset, bool inside) {
  Pack<Value<Sum>, N> v;
  if (inside) {
    const Pack<X, N> p = load_pack<X, N>(a.x + offset);
    const Value<Sum> zero = zero_of_x(a);
#pragma unroll
    for (int i = 0; i < N; i++) v.at[i] = static_cast<Value<Sum>>(value_of(p.at[i])) - zero;
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) v.at[i] = 0;
  }
  return v;
}

__forceinline__ bool in_last(const Args& a, Idx position) { return !LAST_CHECKED || (position >= 0 && position < a.size[LAST]); }

// The taps along the last axis, of one channel.
__forceinline__ void taps_of_row(const Args& a, const Walk& t, Idx x, Idx w, Value<Sum> (&sum)[P][V]) {
  if constexpr (WINDOW > 0) {
    Pack<Value<Sum>, V> row[SPAN];
#pragma unroll
    for (int i = 0; i < SPAN; i++) {
      const Idx position = t.at[LAST] + i;
      row[i] = load_x<V>(a, x + position * a.x_step[LAST], in_last(a, position) && i < (t.pixels - 1) * STRIDE + WINDOW);
    }
#pragma unroll
    for (int k = 0; k < WINDOW; k++) {
      const Pack<W, V> f = load_pack<W, V>(weights_of(a) + w + k * a.w_tap);
#pragma unroll
      for (int p = 0; p < P; p++)
#pragma unroll
        for (int v = 0; v < V; v++) sum[p][v] += row[p * STRIDE + k].at[v] * static_cast<Value<Sum>>(f.at[v]);
    }
  } else {
    const int taps = (TAPPED >> LAST & 1) ? static_cast<int>(a.taps[LAST]) : 1;
    for (int k = 0; k < taps; k++) {
      const Pack<W, V> f = load_pack<W, V>(weights_of(a) + w + k * a.w_tap);
#pragma unroll
      for (int p = 0; p < P; p++) {
        const Idx position = t.at[LAST] + p * a.stride[LAST] + k * a.dilation[LAST];
        const Pack<Value<Sum>, V> v = load_x<V>(a, x + position * a.x_step[LAST], p < t.pixels && in_last(a, position));
#pragma unroll
        for (int i = 0; i < V; i++) sum[p][i] += v.at[i] * static_cast<Value<Sum>>(f.at[i]);
      }
    }
  }
}

// The taps along axis I and those after it.
template <int I>
__forceinline__ void walk(const Args& a, const Walk& t, Idx x, Idx w, Value<Sum> (&sum)[P][V]) {
  if constexpr (I == LAST) {
    for (int c = 0; c < a.channels; c++, x += a.x_channel, w += a.pitch) taps_of_row(a, t, x, w, sum);
  } else {
    const int taps = (TAPPED >> I & 1) ? static_cast<int>(a.taps[I]) : 1;
    for (int k = 0; k < taps; k++) {
      const Idx position = t.at[I] + k * a.dilation[I];
      if (!(CHECKED >> I & 1) || (position >= 0 && position < a.size[I]))
        walk<I + 1>(a, t, x + position * a.x_step[I], w + k * a.w_step[I], sum);
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) conv_direct(const __grid_constant__ Args a) {
  __shared__ Pack<Value<Sum>, V> staged[THREADS / 32][P][32];
  const Idx thread = global_thread(), i = thread < a.total ? thread : a.total - 1;
  Idx filter, strip;
  if constexpr (CHANNELS_FAST) {
    strip = a.filters->divide(i);
    filter = (i - strip * a.filters->n()) * V;
  } else {
    filter = a.strips->divide(i);
    strip = i - filter * a.strips->n();
    filter *= V;
  }
  Idx o[AXES];
  unravel<0, AXES>(strip, a.strip_size, o);
  o[LAST] *= P;
  Walk t;
  const Idx left = thread < a.total ? a.out[LAST].n() - o[LAST] : 0;
  t.pixels = left < P ? static_cast<int>(left) : P;
  Idx pixel = 0;
#pragma unroll
  for (int k = 0; k < AXES; k++) {
    pixel = pixel * a.out[k].n() + o[k];
    t.at[k] = o[k] * a.stride[k] - pad_of(a, k);
  }
  const Idx group = a.group_filters->divide(filter);
  Value<Sum> sum[P][V];
#pragma unroll
  for (int p = 0; p < P; p++)
#pragma unroll
    for (int v = 0; v < V; v++) sum[p][v] = 0;
  if (a.any) walk<0>(a, t, group * a.x_group, filter, sum);
  // Through shared memory, so that the lanes of a warp store neighbours and the epilogue's code is there once.
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int p = 0; p < P; p++) {
#pragma unroll
    for (int v = 0; v < V; v++) staged[warp][p][lane].at[v] = sum[p][v];
  }
  __syncwarp();
#pragma unroll 1
  for (int e = lane; e < 32 * V; e += 32) {
    const int from = e / V;
    const int pixels = __shfl_sync(~0u, t.pixels, from);
    const Idx first = __shfl_sync(~0u, pixel, from), m = __shfl_sync(~0u, filter, from) + e % V;
#pragma unroll 1
    for (int p = 0; p < pixels; p++) finish(a, first + p, m, staged[warp][p][from].at[e % V]);
  }
}
