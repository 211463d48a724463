// What the pooling kernels have in common: which taps of a window lie inside x, and how the values under them become one.
#pragma once

enum PoolMode { kMax, kAverage, kLp };

using C = Value<X>;  // f32 for the narrow floats

__forceinline__ f32 power(f32 x, f32 p) { return powf(x, p); }
__forceinline__ f64 power(f64 x, f64 p) { return ::pow(x, p); }
__forceinline__ f32 root(f32 x) { return sqrtf(x); }
__forceinline__ f64 root(f64 x) { return ::sqrt(x); }

// The first element under each window, per spatial axis: negative in the leading padding.
__forceinline__ void window_corner(const Args& a, const Idx (&c)[RANK], Idx (&z)[SPATIAL]) {
#pragma unroll
  for (int s = 0; s < SPATIAL; s++) z[s] = (SLOT[s] < 0 ? Idx(0) : c[SLOT[s] < 0 ? 0 : SLOT[s]] * a.stride[s]) - a.begin[s];
}

// How many taps of axis s lie before `bound`.
__forceinline__ Idx taps_before(const Args& a, int s, Idx z, Idx bound) {
  if (bound <= z) return 0;
  const Idx n = DILATED ? a.dilation[s].divide(bound - z + a.dilation[s].n() - 1) : bound - z;
  return n < a.kernel[s].n() ? n : a.kernel[s].n();
}

// How many elements the average divides by: those inside x, or inside x and its pads.
__forceinline__ Idx window_count(const Args& a, const Idx (&z)[SPATIAL]) {
  Idx n = 1;
#pragma unroll
  for (int s = 0; s < SPATIAL; s++) n *= taps_before(a, s, z[s], a.counted[s]) - (INCLUDE_PAD ? Idx(0) : taps_before(a, s, z[s], 0));
  return n;
}

template <class T>
__forceinline__ T lp_term(const Args& a, T x) {
  if constexpr (P == 2) return x * x;
  const T magnitude = x < 0 ? -x : x;
  if constexpr (P == 1) return magnitude;
  else return power(magnitude, static_cast<T>(a.p));
}
template <class T>
__forceinline__ T lp_root(const Args& a, T sum) {
  if constexpr (P == 1) return sum;
  else if constexpr (P == 2) return root(sum);
  else return power(sum, T(1) / static_cast<T>(a.p));
}

// One result under construction. A NaN is the largest value; of equal values the first one's place is kept. `where`: negative until a value
// was taken.
template <class T>
struct PooledOf {
  T value;
  Idx where;
  __forceinline__ PooledOf() : value(MODE == kMax ? lowest<X>() : T(0)), where(-1) {}
  __forceinline__ void take(const Args& a, T v, Idx at) {
    if constexpr (MODE == kAverage) value += v;
    else if constexpr (MODE == kLp) value += lp_term(a, v);
    else if constexpr (!INDICES) value = op::max<X>(v, value);
    else if (where < 0 || v > value || (v != v && value == value)) {
      value = v;
      where = at;
    }
  }
  // Also all that `o` was made of.
  __forceinline__ void join(const PooledOf& o) {
    if constexpr (MODE != kMax) value += o.value;
    else if constexpr (!INDICES) value = op::max<X>(o.value, value);
    else {
      const bool nan = value != value, other_nan = o.value != o.value;
      const bool greater = o.value > value || (other_nan && !nan), equal = o.value == value || (other_nan && nan);
      if (o.where >= 0 && (where < 0 || greater || (equal && o.where < where))) *this = o;
    }
  }
  __forceinline__ T result(const Args& a, const Idx (&z)[SPATIAL]) const {
    if constexpr (MODE == kAverage) return value / static_cast<T>(window_count(a, z));
    else if constexpr (MODE == kLp) return lp_root(a, value);
    else return value;
  }
};
using Pooled = PooledOf<C>;
