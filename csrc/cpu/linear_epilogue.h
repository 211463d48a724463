// Epilogue programs that a register tile can evaluate before it stores its accumulators: alpha * acc [* scales per column] [+ bias per
// column] [+ residual] with one clamp (relu, relu6, clip) before or after the residual, or, for callers that ask, an activation before the
// residual. Everything else goes through `Epilogue` (vm.h).
#pragma once
#include <string>

#include "core/launch.h"

namespace ptrt::PTRT_LEVEL {

// hard_sigmoid: clamp(a * x + b, 0, 1). hard_swish: x times that. leaky: a * x where x < 0.
enum class Activation { none, silu, sigmoid, tanh, hard_sigmoid, hard_swish, leaky, gelu_erf, gelu_tanh };

struct LinearEpilogue {
  bool ok = false;  // the whole program has this form (an empty program has)
  double alpha = 1;
  int scale[2] = {-1, -1};                         // numbers of operands like bias that multiply acc (dequantising_epilogue only)
  int bias = -1;                                   // number of the epilogue operand that varies only along bias_axis, or -1
  int residual = -1;                               // number of the operand of full shape, or -1
  bool clamp_before = false, clamp_after = false;  // at most one: before or after the residual is added
  double lo = 0, hi = 0;
  Activation activation = Activation::none;  // of alpha * acc + bias; there is no clamp_before then
  double act_a = 0, act_b = 0;
  int post_scale = -1, post_shift = -1;  // operands like bias that multiply, and are added to, the clamped or activated value
  bool post() const { return post_scale >= 0; }
};

// The part of a linear epilogue with an activation that follows the bias: activation [* scale + shift] [+ residual] [clamp], for `rows`
// rows of `n` floats, from memory to memory or in place. The sums should still be in L1. `residual` may be null; `scale` and `shift` are
// the values of post_scale and post_shift for these columns.
void apply_activation(const LinearEpilogue& e, const float* from, int64_t from_row, float* to, int64_t to_row, int64_t rows, int64_t n,
                      const float* residual, int64_t residual_row, const float* scale = nullptr, const float* shift = nullptr);
std::string activation_name(const LinearEpilogue& e);  // ", then silu", for describe(); empty without an activation

// Recognises desc.epilogue. Only for acc, operands and output of one dtype, f32 or f64. Programs with an activation are not `ok` unless
// `activations`, those with a scale after a clamp or an activation not unless `post`, and both only in f32.
LinearEpilogue linear_epilogue(const LaunchDesc& desc, int bias_axis, bool activations = false, bool post = false);

// For f16 and bf16: an epilogue that only clamps, which may be done before a float result is rounded (rounding keeps order, and the bounds
// are f16 or bf16 numbers).
LinearEpilogue clamping_epilogue(const LaunchDesc& desc);

// The same for an int32 acc that is first cast to f32 and then possibly multiplied by scales; not for an empty program.
LinearEpilogue dequantising_epilogue(const LaunchDesc& desc, int bias_axis);

}  // namespace ptrt::PTRT_LEVEL
