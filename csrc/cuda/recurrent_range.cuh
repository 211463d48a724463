// The range of a quantised layer's input, widened to contain 0: one pair (least, most) per block; recurrent_inputs puts them together.
// Steps beyond the longest sequence do not count, as in onnxruntime.
#pragma once
#include "recurrent_cell.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) recurrent_range(const __grid_constant__ Args a) {
  __shared__ f32 least[THREADS / 32], most[THREADS / 32];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  int longest = 0;
  for (Idx n = lane; n < a.size[1].n(); n += 32) longest = max(longest, length_of(a, n));
#pragma unroll
  for (int d = 16; d > 0; d /= 2) longest = max(longest, __shfl_xor_sync(~0u, longest, d));
  const Idx total = longest * a.size[1].n() * a.size[2].n(), step = static_cast<Idx>(gridDim.x) * THREADS;
  f32 lo = 0, hi = 0;
  for (Idx i = global_thread(); i < total; i += step) {
    Idx c[3] = {};
    unravel<0, 3>(i, a.size, c);
    const f32 v = value_of(a.x_data[c[0] * a.x_stride[0] + c[1] * a.x_stride[1] + c[2] * a.x_stride[2]]);
    lo = fminf(lo, v);
    hi = fmaxf(hi, v);
  }
  spread_range(lo, hi);
  if (lane == 0) least[warp] = lo, most[warp] = hi;
  __syncthreads();
  if (warp > 0) return;
  lo = lane < THREADS / 32 ? least[lane] : 0.0f;
  hi = lane < THREADS / 32 ? most[lane] : 0.0f;
  spread_range(lo, hi);
  if (lane == 0) {
    a.ranges[2 * blockIdx.x] = lo;
    a.ranges[2 * blockIdx.x + 1] = hi;
  }
}
