// Factories of every kernel this backend implements, declared from kernels.inc.
#pragma once
#include "core/launch.h"
#include "core/vocabulary.h"

namespace ptrt::PTRT_LEVEL {

#define PTRT_KERNEL(name) std::unique_ptr<Kernel> make_##name(LaunchDesc desc, BindContext& bind);
#define PTRT_MISSING(name)
#include "cpu/kernels.inc"
#undef PTRT_KERNEL
#undef PTRT_MISSING

}  // namespace ptrt::PTRT_LEVEL
