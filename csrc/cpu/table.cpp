// The kernel table of one ISA level. Kernel id order; a family's factories are declared in kernels.h.
#include "cpu/kernels.h"
#include "cpu/simd.h"

#define PTRT_STR2(x) #x
#define PTRT_STR(x) PTRT_STR2(x)

namespace ptrt::PTRT_LEVEL {

const KernelTable& table() {
  static const KernelTable t = {PTRT_STR(PTRT_LEVEL),
                                {
#define PTRT_KERNEL(name) make_##name,
#define PTRT_MISSING(name) nullptr,
#include "cpu/kernels.inc"
                                }};
  return t;
}

}  // namespace ptrt::PTRT_LEVEL
