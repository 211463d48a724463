// A reduction of what two operands make of each other, where each lacks one of two kept axes: all distances between two sets of points.
#pragma once
#include <memory>
#include <vector>

#include "core/vocabulary.h"
#include "cpu/reduce_block.h"

namespace ptrt::PTRT_LEVEL {

// `labels` as canonicalise() returned them. Null if the launch is no such reduction, or too small to be worth it; desc is then untouched.
template <class C>
std::unique_ptr<Kernel> make_reduce_pairs(LaunchDesc& desc, ReduceOp op, const std::vector<int>& labels);

}  // namespace ptrt::PTRT_LEVEL
