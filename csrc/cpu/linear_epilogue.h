// Epilogue programs that a register tile can evaluate before it stores its accumulators: alpha * acc [* scales per column] [+ bias per
// column] [+ residual] with one clamp (relu, relu6, clip) before or after the residual. Everything else goes through `Epilogue` (vm.h).
#pragma once
#include "core/launch.h"

namespace ptrt::PTRT_LEVEL {

struct LinearEpilogue {
  bool ok = false;  // the whole program has this form (an empty program has)
  double alpha = 1;
  int scale[2] = {-1, -1};                         // numbers of operands like bias that multiply acc (dequantising_epilogue only)
  int bias = -1;                                   // number of the epilogue operand that varies only along bias_axis, or -1
  int residual = -1;                               // number of the operand of full shape, or -1
  bool clamp_before = false, clamp_after = false;  // at most one: before or after the residual is added
  double lo = 0, hi = 0;
};

// Recognises desc.epilogue. Only for acc, operands and output of one dtype, f32 or f64.
LinearEpilogue linear_epilogue(const LaunchDesc& desc, int bias_axis);

// The same for an int32 acc that is first cast to f32 and then possibly multiplied by scales; not for an empty program.
LinearEpilogue dequantising_epilogue(const LaunchDesc& desc, int bias_axis);

}  // namespace ptrt::PTRT_LEVEL
