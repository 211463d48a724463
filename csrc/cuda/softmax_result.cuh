// What all elements of a row of softmax, log_softmax or hardmax have in common, and an element's result from it.
#pragma once
#include "sweep.cuh"

enum SoftmaxMode { kSoftmax, kLogSoftmax, kHardmax };  // MODE, in the order of kernels/spec.py

using Real = RealOf<X>;

struct RowResult {
  Real most, scale;                     // scale: 1 / sum, or log(sum)
  typename Extreme<kArgMax, X>::At at;  // of the largest element, for hardmax

  // A row that is all -inf, or has +inf, is NaN throughout: the largest element minus itself is.
  static __forceinline__ RowResult of(Real most, Real sum) {
    const Real total = sum + (most - most);
    return {most, MODE == kSoftmax ? Real(1) / total : log_of(total), 0};
  }
  __forceinline__ Value<Acc> value(Real x, Idx position) const {
    if constexpr (MODE == kHardmax) return finished<Acc>(static_cast<Real>(position == at));
    else if constexpr (MODE == kSoftmax) return finished<Acc>(exp_of(x - most) * scale);
    else return finished<Acc>(x - most - scale);
  }
};
