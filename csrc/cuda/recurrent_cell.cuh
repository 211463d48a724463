// What recurrent kernels share: gate activations, the time that a step stands for, and the dynamic quantisation of activations.
#pragma once
#include "ops.cuh"
#include "status.cuh"

__forceinline__ f32 tangent(f32 x) { return tanhf(x); }
__forceinline__ f64 tangent(f64 x) { return ::tanh(x); }
// Explicit, so that every variant of a kernel gives the same bits.
__forceinline__ f32 fused(f32 x, f32 y, f32 z) { return fmaf(x, y, z); }
__forceinline__ f64 fused(f64 x, f64 y, f64 z) { return ::fma(x, y, z); }
__forceinline__ f32 exp_less_one(f32 x) { return expm1f(x); }
__forceinline__ f64 exp_less_one(f64 x) { return ::expm1(x); }

enum Cell { LSTM, GRU, RNN };

// In the order of spec.py's ACTIVATIONS.
enum Activation { kSigmoid, kTanh, kRelu, kAffine, kLeakyRelu, kThresholdedRelu, kScaledTanh, kHardSigmoid, kElu, kSoftsign, kSoftplus };

template <class A>
__forceinline__ A activate(int kind, A alpha, A beta, A x) {
  switch (kind) {
    case kSigmoid: return op::sigmoid_(x);
    case kTanh: return tangent(x);
    case kRelu: return x < A(0) ? A(0) : x;
    case kAffine: return x * alpha + beta;
    case kLeakyRelu: return x < A(0) ? x * alpha : x;
    case kThresholdedRelu: return x < alpha ? A(0) : x;
    case kScaledTanh: return tangent(x * beta) * alpha;
    case kHardSigmoid: {
      const A y = x * alpha + beta;
      return y < A(0) ? A(0) : y > A(1) ? A(1) : y;
    }
    case kElu: return x < A(0) ? exp_less_one(x) * alpha : x;
    case kSoftsign: return x / (A(1) + (x < A(0) ? -x : x));
    default: return op::softplus_(x);
  }
}

// The length of sequence n, within 0 .. steps. A bad one is reported.
template <class Args_>
__forceinline__ int length_of(const Args_& a, Idx n) {
  if (!a.has_lengths) return a.all_steps;
  const int length = a.lengths[n * a.lengths_stride];
  if (length < 0 || length > a.all_steps) fail(a.status, Failure::bad_sequence_length, 0, length);
  return length < 0 ? 0 : length > a.all_steps ? a.all_steps : length;
}
__forceinline__ int time_of(bool backward, int step, int length) { return backward && step < length ? length - 1 - step : step; }

// uint8 quantisation as DynamicQuantizeLinear does it, of values between lo <= 0 and hi >= 0.
struct Quantizer {
  f32 scale;
  int zero;
  __forceinline__ Quantizer(f32 lo, f32 hi) {
    scale = lo == hi ? 1.0f : (hi - lo) / 255.0f;
    const f32 z = rintf(0.0f - lo / scale);
    zero = z > 0.0f ? (z < 255.0f ? static_cast<int>(z) : 255) : 0;
  }
  __forceinline__ int shifted(f32 x) const {  // the quantised value less the zero point
    return static_cast<int>(rintf(fminf(static_cast<f32>(255 - zero), fmaxf(static_cast<f32>(-zero), x / scale))));
  }
};

__forceinline__ void spread_range(f32& lo, f32& hi) {  // over the lanes of a warp
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    lo = fminf(lo, __shfl_xor_sync(~0u, lo, d));
    hi = fmaxf(hi, __shfl_xor_sync(~0u, hi, d));
  }
}
