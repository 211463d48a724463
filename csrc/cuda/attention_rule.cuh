// What all attention kernels share: how products of queries and keys become exponents, and how partial softmaxes are put together.
//
// PLAIN (no cap, no mask): exponents are to base 2 and one multiplication makes them. Otherwise they are to base e, because a mask of the
// lowest finite number must not overflow.
#pragma once
#include "types.cuh"

__forceinline__ f32 infinity(f32) { return inf32(); }
__forceinline__ f64 infinity(f64) { return static_cast<f64>(inf32()); }
__forceinline__ f32 larger(f32 x, f32 y) { return fmaxf(x, y); }  // NaN counts as nothing: it reaches the result through the sum
__forceinline__ f64 larger(f64 x, f64 y) { return ::fmax(x, y); }

// The rounding of the exponent to base 2 costs a weight no more than 2^-24 of the largest one.
template <bool BASE_2>
__forceinline__ f32 power(f32 x) {
  return ptx_exp2(BASE_2 ? x : x * 1.44269504088896341f);
}
template <bool BASE_2>
__forceinline__ f64 power(f64 x) {
  if constexpr (BASE_2) return ::exp2(x);
  else return ::exp(x);
}

// What a sum of powers relative to the maximum `before` is worth relative to `now`.
template <bool BASE_2, class A>
__forceinline__ A rescale(A before, A now) {
  return before == now ? A(1) : power<BASE_2>(before - now);
}

// What is subtracted from exponents: their maximum, or 0 where no key was visible.
template <class A>
__forceinline__ A shift_of(A top) {
  return top == -infinity(A(0)) ? A(0) : top;
}

__forceinline__ f32 tangent(f32 x) { return tanhf(x); }
__forceinline__ f64 tangent(f64 x) { return ::tanh(x); }
