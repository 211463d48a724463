// Windows added back into an image, in gather form: one thread per element of y adds the window elements that lie on it, in the order of
// the window's elements, so that results are the same on every run. A scatter of windows would need atomics.
// kernels/cuda/plans/conv_deform.py
#pragma once

struct Image {
  Idx at[AXES];  // position, plus the padding
};

// The window elements along axis I and those after it: `point` is their number so far, `window` that of the window, `x` the plane.
template <int I>
__forceinline__ void gather(const Args& a, const Image& image, Idx x, Idx point, Idx window, Total& sum) {
  if constexpr (I == AXES) {
    sum += static_cast<Total>(value_of(a.x[x + point * a.x_point + window * a.x_window]));
  } else {
    for (int k = 0; k < a.taps[I]; k++) {
      const Idx from = image.at[I] - k * a.dilation[I];
      if (from < 0) break;
      const Idx w = a.stride[I].divide(from);
      if (w * a.stride[I].n() == from && w < a.windows[I])
        gather<I + 1>(a, image, x, point * a.taps[I] + k, window * a.windows[I] + w, sum);
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) col2im(const __grid_constant__ Args a) {
  const Idx i = global_thread();
  if (i >= a.total) return;
  Idx c[AXES + 2];
  unravel<0, AXES + 2>(i, a.y_size, c);
  Image image;
#pragma unroll
  for (int k = 0; k < AXES; k++) image.at[k] = c[2 + k] + a.pad[k];
  Total sum = 0;
  gather<0>(a, image, c[0] * a.x_batch + c[1] * a.x_channel, 0, 0, sum);
  a.y_data[at_y(a, c)] = stored<Y>(static_cast<Value<Y>>(sum));
}
