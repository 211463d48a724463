// How scatter combines an update with an element: functions of a dtype and a reduction, over many elements at once.
#pragma once
#include "cpu/gather_index.h"

namespace ptrt::PTRT_LEVEL {

struct ScatterApply {
  // y[offsets[j]] = y[offsets[j]] OP u[j * su], j ascending (so duplicates combine in order); strides and offsets in bytes.
  void (*points)(char* y, const int64_t* offsets, const char* u, int64_t su, int64_t n);
  // y[j * sy] = y[j * sy] OP u[j * su]
  CopyFn run;
};

// Null: not defined for this dtype. `reduction` is a value of the vocabulary's Reduction.
ScatterApply scatter_apply(DType t, int64_t reduction);

}  // namespace ptrt::PTRT_LEVEL
