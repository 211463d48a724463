// How scatter combines an update with an element: one function per dtype and reduction, over many elements at once.
#pragma once
#include "cpu/gather_index.h"

namespace ptrt::PTRT_LEVEL {

// y[offsets[j]] = y[offsets[j]] OP u[j * su], j ascending (so duplicates combine in order); strides and offsets in bytes.
using ApplyFn = void (*)(char* y, const int64_t* offsets, const char* u, int64_t su, int64_t n);

// Null: not defined for this dtype. `reduction` is a value of the vocabulary's Reduction.
ApplyFn scatter_apply(DType t, int64_t reduction);

}  // namespace ptrt::PTRT_LEVEL
