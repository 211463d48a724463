// A tree ensemble as the kernel reads it: checked, renumbered and packed into one block of memory.
#pragma once
#include <type_traits>

#include "cpu/gather_index.h"

namespace ptrt::PTRT_LEVEL {

constexpr int kTreeRows = 64;  // that pass through the trees together, as columns: kTreeRows values of each feature in use

// Nodes of a forest whose every test is `x <= threshold`: the false child follows the true child. A leaf's threshold is NaN and its `left`
// is the node before it, so that stepping from a leaf stays there and all rows can take the same number of steps.
template <class C>
struct alignas(16) FastNode {
  C threshold;
  int32_t feature;  // where its column starts; the lowest bit: NaN goes to the true child
  int32_t left;
};

template <class C>
struct AnyNode {
  C threshold;
  int32_t feature, yes, no;
  int32_t member_begin, member_end;  // values of the set, for mode `member`
  uint8_t mode, missing_true;
};

// Small trees are not walked (QuickScorer; Lucchese et al. 2015). A tree's leaves are numbered from the left, the true child first. A test
// that fails rules out the leaves below its true child; of those that no test has ruled out, the first is the one that a walk would reach.
// Tests may be done in any order, so rows of vectors do them without branches: a bit per leaf, the first leaf in the highest bit, and a
// list of tests per word of leaves.
template <class C>
using LeafMask = std::conditional_t<sizeof(C) == 4, uint32_t, uint64_t>;

// What rules leaves out, in the order of the sections of a list; NaN passes the tracked tests and fails the others.
enum LeafTest { kLeq, kLeqTracked, kEq, kEqTracked, kLeafTests };

struct MaskList {
  // Sections start at multiples of kMaskPad and are filled up with tests that rule out nothing.
  int32_t first[kLeafTests], count[kLeafTests];
};
constexpr int kMaskPad = 16;
constexpr int kWeightsPad = 8;

struct TreeInfo {
  int32_t words, lists;  // its lists of tests; none: the tree is walked
  int32_t leaf;          // number of its first leaf
  int32_t target;        // of all its leaves, for Weights::of_tree
};

// How weights are kept beside the list of (target, weight) of every leaf. of_tree: one weight per leaf, all leaves of a tree for one
// target; of_leaf: a row of weights of all targets per leaf. Sums only; targets without a weight have 0, which changes no sum (they start
// with +0).
enum class Weights : int64_t { entries, of_tree, of_leaf };

// Views of the packed block. Positions are in 64-bit words from its start.
struct Forest {
  struct Header {
    int64_t fast, missing, trees;
    int64_t steps, walked_steps, tests;  // heights of all trees, of those that are walked; tests in lists
    int64_t walked, widest;              // trees that are walked; most lists of a tree
    int64_t features;                    // in use: tests count those in `used`
    Weights weights;
    int64_t single, pitch;  // weights of a tree or a leaf are float32, exactly; how many a leaf has
    int64_t roots, heights, node, leaf_of, range, target, value, members;
    int64_t info, lists, thresholds, mask_features, keeps, used, row;
    int64_t words;
  };
  const int64_t* words;
  const Header& header() const { return *reinterpret_cast<const Header*>(words); }
  template <class T>
  const T* at(int64_t word) const {
    return reinterpret_cast<const T*>(words + word);
  }
};

}  // namespace ptrt::PTRT_LEVEL

namespace ptrt::PTRT_PLAIN {

// The packed forest, from constant operands in the order of the vocabulary (ins[0] is x). Throws KernelError if any index is out of range
// or if the graph has a cycle. C: the type in which x is compared with thresholds. `sums`: weights are added up. vector_bytes: of those who
// read it. (One copy of this code serves all levels.)
template <class C>
std::shared_ptr<const void> pack_forest(const LaunchDesc& desc, int64_t n_targets, bool sums, int vector_bytes, PackCache& packs);

}  // namespace ptrt::PTRT_PLAIN
