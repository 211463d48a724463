// Random words as vectors of numbers.
#pragma once
#include "cpu/lanes.h"

namespace ptrt::PTRT_LEVEL {
namespace {

typedef uint64_t vq __attribute__((vector_size(kVecBytes)));
typedef uint32_t vw __attribute__((vector_size(kVecBytes / 2)));
using Order = std::make_integer_sequence<int, WD>;

// Numbers of WD elements: of 32 bits or, from two words each, 64, without the last ones.
template <bool Wide>
PTRT_INLINE vd fractions(const uint32_t* words, int without) {
  const vq exponent = (vq)splat(0x1p52);  // an integer in the fraction of this number is exact
  if constexpr (Wide) {
    vq x;
    std::memcpy(&x, words, sizeof x);
    x = (x << 32 | x >> 32) >> without;
    return ((vd)(x >> 32 | exponent) - 0x1p52) * 0x1p32 + ((vd)((x & 0xffffffffu) | exponent) - 0x1p52);
  } else {
    vw x;
    std::memcpy(&x, words, sizeof x);
    return (vd)(__builtin_convertvector(x, vq) >> without | exponent) - 0x1p52;
  }
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
