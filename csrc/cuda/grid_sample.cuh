// GridSample: a thread finds the taps of one output place and applies them to LOT channels (lots.cuh). Places become positions in f64, are
// rounded to f32 as in the specification's sample code, and from there on all is exact in f32; only reflections, which few places need,
// divide in f64. Rejected: positions for all channels from a launch of their own, which costs a round trip through memory to save
// arithmetic that hides behind the loads.
#pragma once
#include "lots.cuh"

enum GridOp { kLinear, kNearest, kCubic };
enum Padding { kZeros, kBorder, kReflection };
constexpr int TAPS = OP == kCubic ? 4 : OP == kLinear ? 2 : 1;

// Mirrored at both borders until inside.
__forceinline__ f64 reflected(f64 x, f64 low, f64 high) {
  const f64 range = high - low;
  if (range <= 0) return low;
  if (x >= low && x <= high) return x;
  const f64 d = x < low ? low - x : x - high, n = ::floor(d / range), r = d - n * range;
  const bool even = n - 2 * ::floor(n / 2) == 0;
  return (x < low) == even ? low + r : high - r;
}

template <class T>
struct AxisTaps {
  Idx at[TAPS];
  T weight[TAPS];  // 0: not read

  // `place`: in [-1, 1].
  __forceinline__ void find(f64 place, Idx size, Idx step) {
    const f64 length = static_cast<f64>(size), low = ALIGN ? 0.0 : -0.5, high = ALIGN ? length - 1 : length - 0.5;
    f32 x = static_cast<f32>(ALIGN ? (place + 1) / 2 * (length - 1) : ((place + 1) * length - 1) / 2);
    if (!(fabsf(x) < 1e9f)) x = x > 0 ? 1e9f : -1e9f;  // NaN too
    if (OP == kNearest) x = rintf(x);
    if (PADDING != kZeros && (x < static_cast<f32>(low) || x > static_cast<f32>(high))) {
      if (PADDING == kBorder) x = fminf(fmaxf(x, 0.0f), static_cast<f32>(length - 1));
      else x = static_cast<f32>(reflected(x, low, high));
    }
    const f32 whole = OP == kNearest ? truncf(x) : floorf(x);
    const T r = static_cast<T>(x - whole), s = T(1) - r, A = T(-0.75);
    if constexpr (OP == kNearest) weight[0] = T(1);
    else if constexpr (OP == kLinear) {
      weight[0] = s;
      weight[1] = r;
    } else {
      weight[0] = ((A * (r + 1) - 5 * A) * (r + 1) + 8 * A) * (r + 1) - 4 * A;
      weight[1] = ((A + 2) * r - (A + 3)) * r * r + 1;
      weight[2] = ((A + 2) * s - (A + 3)) * s * s + 1;
      weight[3] = ((A * (s + 1) - 5 * A) * (s + 1) + 8 * A) * (s + 1) - 4 * A;
    }
#pragma unroll
    for (int k = 0; k < TAPS; k++) {
      Idx i = static_cast<Idx>(whole) + k - (OP == kCubic);
      if (i < 0 || i >= size) {
        if (PADDING == kZeros) weight[k] = T(0);
        if (PADDING == kReflection) i = static_cast<Idx>(reflected(static_cast<f64>(i), low, high));
        i = i < 0 ? Idx(0) : i >= size ? size - 1 : i;
      }
      at[k] = i * step;
    }
  }
};

template <int S, class T>
__forceinline__ void add_taps(const Args& a, const AxisTaps<T> (&taps)[SPATIAL], Idx at, T w, int n, T (&sum)[LOT]) {
  if constexpr (S == SPATIAL) {
    if (w == T(0)) return;
    Value<X> v[LOT];
    load_lot<X>(a, at, n, v);
#pragma unroll
    for (int i = 0; i < LOT; i++) sum[i] += w * static_cast<T>(v[i]);
  } else {
#pragma unroll
    for (int k = 0; k < TAPS; k++) add_taps<S + 1>(a, taps, at + taps[S].at[k], S == 0 ? taps[S].weight[k] : w * taps[S].weight[k], n, sum);
  }
}

// T: what sums are kept in. The one tap of the nearest element is a copy, of any type.
template <class T, class D>
__forceinline__ void sample(const Args& a, Idx (&c)[RANK]) {
  AxisTaps<T> taps[SPATIAL];
  const Idx place = at_grid(a, c);
#pragma unroll
  for (int s = 0; s < SPATIAL; s++)
    taps[s].find(static_cast<f64>(value_of(a.grid_data[place + (SPATIAL - 1 - s) * a.grid_step])), a.extent[s], a.step[s]);
  const int n = lot_size(a, c);
  Value<D> v[LOT];
  if constexpr (OP == kNearest) {
    Idx at = at_x(a, c);
    bool inside = true;
#pragma unroll
    for (int s = 0; s < SPATIAL; s++) {
      at += taps[s].at[0];
      inside = inside && taps[s].weight[0] != T(0);
    }
#pragma unroll
    for (int i = 0; i < LOT; i++) v[i] = Value<D>(0);
    if (inside) load_lot<D>(a, at, n, v);
  } else {
    T sum[LOT];
#pragma unroll
    for (int i = 0; i < LOT; i++) sum[i] = T(0);
    add_taps<0>(a, taps, at_x(a, c), T(1), n, sum);
#pragma unroll
    for (int i = 0; i < LOT; i++) v[i] = op::cast<D, T>(sum[i]);
  }
  store_lot<D>(a, at_y(a, c), n, v);
}

extern "C" __global__ void __launch_bounds__(THREADS) grid_sample(const __grid_constant__ Args a) {
  const Idx id = global_thread();
  if (id >= a.total) return;
  Idx c[RANK] = {};
  unravel<0, RANK>(id, a.size, c);
  sample<Sum, X>(a, c);
}
