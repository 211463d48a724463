// The kernel table of one ISA level. Kernel id order; a family's factories are declared in kernels.h.
#include "cpu/kernels.h"
#include "cpu/simd.h"

#define PTRT_STR2(x) #x
#define PTRT_STR(x) PTRT_STR2(x)

#ifdef PTRT_SHARES  // another level, which differs from this one only where bytes or bfloat16 are multiplied
namespace ptrt::PTRT_SHARES {
#define PTRT_KERNEL(name) std::unique_ptr<Kernel> make_##name(LaunchDesc desc, BindContext& bind);
#define PTRT_MISSING(name)
#include "cpu/kernels.inc"
#undef PTRT_KERNEL
#undef PTRT_MISSING
}  // namespace ptrt::PTRT_SHARES
#endif

namespace ptrt::PTRT_LEVEL {

#ifdef PTRT_SHARES
namespace {
constexpr bool equal(const char* a, const char* b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}
constexpr bool own(const char* kernel) { return equal(kernel, "gemm") || equal(kernel, "conv") || equal(kernel, "recurrent"); }
}  // namespace
#define PTRT_MAKER(name) (own(#name) ? make_##name : PTRT_SHARES::make_##name)  // (the linker drops what nobody refers to)
#else
#define PTRT_MAKER(name) make_##name
#endif

const KernelTable& table() {
  static const KernelTable t = {PTRT_STR(PTRT_LEVEL),
                                {
#define PTRT_KERNEL(name) PTRT_MAKER(name),
#define PTRT_MISSING(name) nullptr,
#include "cpu/kernels.inc"
                                }};
  return t;
}

}  // namespace ptrt::PTRT_LEVEL
