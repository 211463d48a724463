// What scan_rows and scan_columns share. Sums and products of floats run in f64, so that each element is rounded once: a few additions per
// element do not outweigh the memory traffic even where f64 is slow. Integers wrap.
//
// PHASE kWhole: a row is one stretch. Few long rows are cut into stretches: kTotals leaves the total of each in scratch, kApply starts from
// the join of those before its own. Reversed scans are the same on flipped operands. Rejected: a single launch in which each stretch waits
// for the one before it (decoupled look-back): it depends on the order in which blocks are started.
#pragma once
#include "sweep.cuh"

enum ScanPhase { kWhole, kTotals, kApply };

using Integer = typename Select<(Traits<X>::bits > 32), u64, u32>::type;
using A = typename Select<is_float<X>, f64, Integer>::type;

struct Combine {
  __forceinline__ A operator()(A a, A b) const { return PRODUCT ? a * b : a + b; }
};
constexpr A kNeutral = PRODUCT ? 1 : 0;

template <class G>
__forceinline__ A* totals_of(const G& a) {
  return static_cast<A*>(a.partial);
}
