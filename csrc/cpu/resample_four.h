// Four floats, at every level: planes are read by twos or fours of neighbours.
#pragma once
#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {
namespace {

typedef float Four __attribute__((vector_size(16)));

PTRT_INLINE Four load4(const float* p) {
  Four v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
PTRT_INLINE Four load_pairs(const float* p, const float* q) {
  typedef double Two __attribute__((vector_size(16)));
  double a, b;
  std::memcpy(&a, p, sizeof a);
  std::memcpy(&b, q, sizeof b);
  return (Four)Two{a, b};
}
// Sums of neighbours: of a, then of b.
PTRT_INLINE Four pair_sums(Four a, Four b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7); }
// Maxima of neighbours, NaN if one of them is.
PTRT_INLINE Four pair_maxima(Four a, Four b) {
  const Four even = __builtin_shufflevector(a, b, 0, 2, 4, 6), odd = __builtin_shufflevector(a, b, 1, 3, 5, 7);
  return (even > odd) | (even != even) ? even : odd;
}
// With MASK, where w is 0 so is the product.
template <bool MASK>
PTRT_INLINE Four product(Four x, Four w) {
  typedef int32_t Integers __attribute__((vector_size(16)));
  return MASK ? w * (Four)((Integers)x & (w != 0.0f)) : w * x;
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
