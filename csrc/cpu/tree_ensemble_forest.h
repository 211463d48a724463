// A tree ensemble as the kernel walks it: checked, renumbered and packed into one block of memory.
#pragma once
#include "cpu/gather_index.h"

namespace ptrt::PTRT_LEVEL {

// Nodes of a forest whose every test is `x <= threshold`: the false child follows the true child. A leaf's threshold is NaN and its `left`
// is the node before it, so that stepping from a leaf stays there and all rows can take the same number of steps.
template <class C>
struct FastNode {
  C threshold;
  int32_t feature;  // with missing values: feature << 1 | (NaN goes to the true child)
  int32_t left;
};

template <class C>
struct AnyNode {
  C threshold;
  int32_t feature, yes, no;
  int32_t member_begin, member_end;  // values of the set, for mode `member`
  uint8_t mode, missing_true;
};

// Views of the packed block. Positions are in 64-bit words from its start.
struct Forest {
  struct Header {
    int64_t fast, missing, single, nodes, trees;  // single: one weight per leaf and one target
    int64_t roots, heights, node, weight, range, target, value, members, words;
  };
  const int64_t* words;
  const Header& header() const { return *reinterpret_cast<const Header*>(words); }
  template <class T>
  const T* at(int64_t word) const {
    return reinterpret_cast<const T*>(words + word);
  }
};

// The packed forest, from constant operands in the order of the vocabulary (ins[0] is x). Throws KernelError if any index is out of range
// or if the graph has a cycle. C: the type in which x is compared with thresholds.
template <class C>
std::shared_ptr<const void> pack_forest(const LaunchDesc& desc, int64_t n_targets, PackCache& packs);

}  // namespace ptrt::PTRT_LEVEL
