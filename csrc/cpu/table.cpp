// The kernel table of one ISA level. Kernel id order; a family's factories are declared in kernels.h.
#include <initializer_list>

#include "cpu/kernels.h"
#include "cpu/simd.h"

#define PTRT_STR2(x) #x
#define PTRT_STR(x) PTRT_STR2(x)

// Levels that lend this one kernels, so that no code is there twice for nothing: PTRT_SHARES differs from this level only where bytes or
// bfloat16 are multiplied; PTRT_PLAIN is the lowest level, whose code for kernels without vector code is as good as any.
#define PTRT_MISSING(name)
#define PTRT_KERNEL(name) std::unique_ptr<Kernel> make_##name(LaunchDesc desc, BindContext& bind);
#ifdef PTRT_SHARES
namespace ptrt::PTRT_SHARES {
#include "cpu/kernels.inc"
}  // namespace ptrt::PTRT_SHARES
#else
#define PTRT_SHARES PTRT_LEVEL
#endif
namespace ptrt::PTRT_PLAIN {
#include "cpu/kernels.inc"
}  // namespace ptrt::PTRT_PLAIN
#undef PTRT_KERNEL
#undef PTRT_MISSING

namespace ptrt::PTRT_LEVEL {

namespace {
constexpr bool equal(const char* a, const char* b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}
constexpr bool is_one_of(const char* kernel, std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (equal(kernel, name)) return true;
  return false;
}
constexpr bool multiplies(const char* kernel) { return is_one_of(kernel, {"gemm", "conv", "recurrent"}); }
constexpr bool plain(const char* kernel) {
  return is_one_of(kernel, {"scatter", "topk", "nonzero", "compress", "unique", "nms", "linear_algebra", "col2im", "max_unpool"});
}
}  // namespace

// (The linker drops what nobody refers to.)
#define PTRT_MAKER(name) \
  (plain(#name) ? ptrt::PTRT_PLAIN::make_##name : multiplies(#name) ? ptrt::PTRT_LEVEL::make_##name : ptrt::PTRT_SHARES::make_##name)

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
