#include "cpu/tree_ensemble_forest.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/vocabulary.h"

namespace ptrt::PTRT_LEVEL {
namespace {

enum In { kX, kFeatures, kThresholds, kModes, kTrue, kFalse, kRoots, kTargets, kWeights, kRanges, kMissing, kMembers };

// A tree is not walked while it has at most this many tests per lane and level: a step takes about 4 cycles, a test of all lanes 2.
constexpr int64_t kMaskGain = 2, kMostLeaves = 1024;

void check(bool ok, const char* what) { need(ok, "tree_ensemble", what); }

double real(const Operand& o, int64_t i) {
  return o.dtype == DType::f64 ? o.as<double>()[i * o.strides[0]] : static_cast<double>(o.as<float>()[i * o.strides[0]]);
}
int32_t i32(const Operand& o, int64_t i) { return o.as<int32_t>()[i * o.strides[0]]; }
uint8_t u8(const Operand& o, int64_t i) { return o.as<uint8_t>()[i * o.strides[0]]; }

bool is_mode(uint8_t mode, NodeMode m) { return mode == static_cast<uint8_t>(m); }

class Builder {
 public:
  Builder(const LaunchDesc& d, int64_t n_targets, bool sums, int vector_bytes)
      : d_(d), n_(d.ins[kFeatures].size()), trees_(d.ins[kRoots].size()), targets_(n_targets), sums_(sums), vector_bytes_(vector_bytes) {
    const int64_t leaves = d.ins[kTargets].size(), features = d.ins[kX].shape[1];
    check(n_ < (int64_t{1} << 30) && leaves < (int64_t{1} << 31), "too many nodes");
    check(features < (int64_t{1} << 31) / kTreeRows, "too many features");
    leaf_of_.assign(static_cast<size_t>(n_), 0);
    column_.assign(static_cast<size_t>(features), -1);
    for (int64_t i = 0; i < n_; i++) {
      const uint8_t mode = u8(d.ins[kModes], i);
      const int64_t begin = i32(d.ins[kRanges], i), end = i32(d.ins[kRanges], i + 1);
      check(mode <= static_cast<uint8_t>(NodeMode::member_), "bad node mode");
      check(begin >= 0 && begin <= end && end <= leaves, "bad leaf range");
      if (is_mode(mode, NodeMode::leaf_)) continue;
      const int64_t f = i32(d.ins[kFeatures], i), a = i32(d.ins[kTrue], i), b = i32(d.ins[kFalse], i);
      check(f >= 0 && f < features, "feature out of range");
      check(a >= 0 && a < n_ && b >= 0 && b < n_, "child out of range");
      if (int32_t& column = column_[static_cast<size_t>(f)]; column < 0) {
        column = static_cast<int32_t>(used_.size());
        used_.push_back(static_cast<int32_t>(f));
      }
      fast_ = fast_ && mode <= static_cast<uint8_t>(NodeMode::gt_);
    }
    for (int64_t i = 0; i < leaves; i++) {
      const int64_t t = i32(d.ins[kTargets], i);
      check(t >= 0 && t < n_targets, "target out of range");
    }
    for (int64_t t = 0; t < trees_; t++) check(i32(d.ins[kRoots], t) >= 0 && i32(d.ins[kRoots], t) < n_, "root out of range");
    measure();
    number_leaves();
    choose_weights();
  }

  // Heights of all reachable nodes, by a walk with an explicit stack; a node met again while it is open closes a cycle.
  void measure() {
    height_.assign(static_cast<size_t>(n_), -1);
    std::vector<uint8_t> open(static_cast<size_t>(n_), 0), seen(static_cast<size_t>(n_), 0);
    std::vector<int32_t> stack;
    auto push = [&](int32_t i) {
      shared_ |= seen[static_cast<size_t>(i)];
      seen[static_cast<size_t>(i)] = 1;
      stack.push_back(i);
    };
    for (int64_t t = 0; t < trees_; t++) {
      push(i32(d_.ins[kRoots], t));
      while (!stack.empty()) {
        const int32_t i = stack.back();
        const auto k = static_cast<size_t>(i);
        if (height_[k] >= 0) {
          stack.pop_back();
          continue;
        }
        if (is_mode(u8(d_.ins[kModes], i), NodeMode::leaf_)) {
          height_[k] = 0;
          stack.pop_back();
          continue;
        }
        const int32_t children[2] = {i32(d_.ins[kTrue], i), i32(d_.ins[kFalse], i)};
        if (!open[k]) {
          open[k] = 1;
          for (int32_t c : children) {
            check(!open[static_cast<size_t>(c)] || height_[static_cast<size_t>(c)] >= 0, "the trees contain a cycle");
            push(c);
          }
        } else {
          height_[k] = 1 + std::max(height_[static_cast<size_t>(children[0])], height_[static_cast<size_t>(children[1])]);
          stack.pop_back();
        }
      }
    }
    fast_ = fast_ && !shared_;  // a shared subtree has no place next to two siblings
  }

  template <class C>
  Forest::Header header() const {
    Forest::Header h{};
    h.fast = fast_;
    h.trees = trees_;
    h.features = static_cast<int64_t>(used_.size());
    h.weights = weights_;
    h.single = d_.ins[kWeights].dtype == DType::f32;
    h.pitch = weights_ == Weights::of_leaf ? ceil_div(targets_, kWeightsPad) * kWeightsPad : 1;
    for (int64_t t = 0; t < trees_; t++) {
      const TreeInfo& tree = info_[static_cast<size_t>(t)];
      const int32_t height = height_[static_cast<size_t>(i32(d_.ins[kRoots], t))];
      h.walked += tree.words == 0;
      h.widest = std::max<int64_t>(h.widest, tree.words);
      h.steps += height;
      if (tree.words == 0) h.walked_steps += height;
    }
    h.tests = static_cast<int64_t>(tests_.size());
    int64_t at = ceil_div(static_cast<int64_t>(sizeof(Forest::Header)), 8);
    auto take = [&](int64_t count, size_t item) {
      at = (at + 7) / 8 * 8;
      const int64_t here = at;
      at += ceil_div(count * static_cast<int64_t>(item), 8);
      return here;
    };
    const int64_t entries = d_.ins[kTargets].size();
    h.roots = take(padded_trees(), 4);
    h.heights = take(padded_trees(), 4);
    h.node = take(n_, fast_ ? sizeof(FastNode<C>) : sizeof(AnyNode<C>));
    h.leaf_of = take(n_, 4);
    h.range = take(static_cast<int64_t>(leaves_.size()) * 2, 4);
    h.target = take(entries, 4);
    h.value = take(entries, 8);
    h.members = take(d_.ins.size() > kMembers ? d_.ins[kMembers].size() : 0, 8);
    h.info = take(trees_, sizeof(TreeInfo));
    h.lists = take(static_cast<int64_t>(lists_.size()), sizeof(MaskList));
    h.thresholds = take(h.tests, sizeof(C));
    h.mask_features = take(h.tests, 4);
    h.keeps = take(h.tests, sizeof(C));
    h.used = take(h.features, 4);
    // (Whole vectors are read from a tree's first leaf on.)
    h.row = take(weights_ == Weights::entries ? 0 : static_cast<int64_t>(leaves_.size()) * h.pitch + 2 * kMaskPad, h.single ? 4 : 8);
    h.words = at;
    return h;
  }

  template <class C>
  void fill(int64_t* words, Forest::Header h) const {
    std::memset(words, 0, static_cast<size_t>(h.words) * 8);
    auto *roots = part<int32_t>(words, h.roots), *heights = part<int32_t>(words, h.heights), *range = part<int32_t>(words, h.range);
    for (int64_t t = 0; t < trees_; t++) heights[t] = height_[static_cast<size_t>(i32(d_.ins[kRoots], t))];
    for (int64_t i = 0; i < d_.ins[kTargets].size(); i++) {
      part<int32_t>(words, h.target)[i] = i32(d_.ins[kTargets], i);
      part<double>(words, h.value)[i] = real(d_.ins[kWeights], i);
    }
    for (size_t k = 0; k < leaves_.size(); k++) {
      range[2 * k] = i32(d_.ins[kRanges], leaves_[k]);
      range[2 * k + 1] = i32(d_.ins[kRanges], leaves_[k] + 1);
    }
    if (fast_) fill_fast<C>(words, h);
    else fill_any<C>(words, h);
    for (int64_t t = trees_; t < padded_trees(); t++) roots[t] = roots[0];
    fill_masks<C>(words, h);
    if (h.single) fill_rows(part<float>(words, h.row), h);
    else fill_rows(part<double>(words, h.row), h);
    *reinterpret_cast<Forest::Header*>(words) = h;
  }

 private:
  template <class T>
  static T* part(int64_t* words, int64_t at) {
    return reinterpret_cast<T*>(words + at);
  }
  // Walks go through several trees in step: what is beyond the last one is the first again.
  int64_t padded_trees() const { return ceil_div(trees_, kTreeRows) * kTreeRows; }

  struct Test {  // mode and threshold as `x <= threshold` (or ==), with the children perhaps exchanged
    double threshold;
    bool exchange, missing_true;
  };
  template <class C>
  Test normalized(int32_t i) const {
    const auto mode = static_cast<NodeMode>(u8(d_.ins[kModes], i));
    const bool missing = u8(d_.ins[kMissing], i) != 0;
    const auto t = static_cast<C>(real(d_.ins[kThresholds], i));
    constexpr C inf = std::numeric_limits<C>::infinity();
    const bool strict = mode == NodeMode::lt_ || mode == NodeMode::gte_;  // x < t is x <= the number before t
    const C below = t == -inf ? std::numeric_limits<C>::quiet_NaN() : std::nextafter(t, -inf);
    if (mode == NodeMode::neq_) return {static_cast<double>(t), true, false};  // NaN differs from everything
    const bool exchange = (mode == NodeMode::gt_ || mode == NodeMode::gte_) && t == t;
    return {static_cast<double>(strict ? below : t), exchange, exchange ? !missing : missing};
  }

  // ----------------------------------------------------------------------------------------------------------------------- masks
  struct MaskTest {
    int32_t node, feature;
    uint64_t clear;  // leaves of its word that it rules out, as bits of 64, the first leaf highest
  };
  struct LeafRange {
    int32_t node, begin, end;  // the leaves below the true child
  };

  bool wide() const { return d_.ins[kX].dtype == DType::f64 || d_.ins[kThresholds].dtype == DType::f64; }
  Test test(int32_t i) const { return wide() ? normalized<double>(i) : normalized<float>(i); }

  // Leaves and tests of a tree, true children first. Returns whether every test has a section.
  bool spread(int32_t root, std::vector<int32_t>& leaves, std::vector<LeafRange>& tests) const {
    bool sections = true;
    std::vector<std::pair<int32_t, int32_t>> stack{{root, -1}};  // a node, or the test whose true branch is done
    while (!stack.empty()) {
      const auto [i, done] = stack.back();
      stack.pop_back();
      if (done >= 0) {
        tests[static_cast<size_t>(done)].end = static_cast<int32_t>(leaves.size());
        continue;
      }
      if (is_mode(u8(d_.ins[kModes], i), NodeMode::leaf_)) {
        leaves.push_back(i);
        continue;
      }
      const Test t = test(i);
      sections = sections && !is_mode(u8(d_.ins[kModes], i), NodeMode::member_) && !(t.missing_true && t.threshold != t.threshold);
      const int32_t yes = i32(d_.ins[t.exchange ? kFalse : kTrue], i), no = i32(d_.ins[t.exchange ? kTrue : kFalse], i);
      tests.push_back({i, static_cast<int32_t>(leaves.size()), 0});
      stack.emplace_back(no, -1);
      stack.emplace_back(-1, static_cast<int32_t>(tests.size()) - 1);
      stack.emplace_back(yes, -1);
    }
    return sections;
  }

  int32_t column(int32_t node) const { return column_[static_cast<size_t>(i32(d_.ins[kFeatures], node))]; }

  LeafTest section(int32_t node) const {
    const auto mode = static_cast<NodeMode>(u8(d_.ins[kModes], node));
    const bool equal = mode == NodeMode::eq_ || mode == NodeMode::neq_, tracked = test(node).missing_true;
    return equal ? tracked ? kEqTracked : kEq : tracked ? kLeqTracked : kLeq;
  }

  // Numbers the leaves, tree by tree from the left, and lists the tests of the trees that are not walked.
  void number_leaves() {
    info_.assign(static_cast<size_t>(trees_), TreeInfo{});
    std::vector<int32_t> leaves;
    std::vector<LeafRange> tests;
    for (int64_t t = 0; t < trees_ && !shared_; t++) {
      const int32_t root = i32(d_.ins[kRoots], t), height = height_[static_cast<size_t>(root)];
      leaves.clear();
      tests.clear();
      const bool sections = spread(root, leaves, tests);
      TreeInfo& tree = info_[static_cast<size_t>(t)];
      tree.leaf = static_cast<int32_t>(leaves_.size());
      for (const int32_t leaf : leaves) {
        leaf_of_[static_cast<size_t>(leaf)] = static_cast<int32_t>(leaves_.size());
        leaves_.push_back(leaf);
      }
      const int64_t bits = wide() ? 64 : 32, lanes = vector_bytes_ * 8 / bits, n = static_cast<int64_t>(leaves.size());
      int64_t listed = 0;  // tests, once for every word that they rule leaves out of
      for (const LeafRange& r : tests) listed += (r.end - 1) / bits - r.begin / bits + 1;
      if (sections && (n <= bits || (n <= kMostLeaves && listed <= kMaskGain * lanes * height)))
        list_tests(tests, ceil_div(n, bits), bits, tree);
    }
    for (int64_t i = 0; i < n_ && shared_; i++)
      if (is_mode(u8(d_.ins[kModes], i), NodeMode::leaf_)) {
        leaf_of_[static_cast<size_t>(i)] = static_cast<int32_t>(leaves_.size());
        leaves_.push_back(static_cast<int32_t>(i));
      }
  }

  // One list of tests per word of leaves.
  void list_tests(const std::vector<LeafRange>& tests, int64_t words, int64_t bits, TreeInfo& tree) {
    tree.lists = static_cast<int32_t>(lists_.size());
    tree.words = static_cast<int32_t>(words);
    std::vector<MaskTest> sections[kLeafTests];
    for (int64_t first = 0; first < words * bits; first += bits) {
      for (const LeafRange& r : tests) {
        const int64_t begin = std::max<int64_t>(r.begin - first, 0), end = std::min(r.end - first, bits);
        if (begin >= end) continue;
        const uint64_t run = end - begin == 64 ? ~uint64_t{0} : (uint64_t{1} << (end - begin)) - 1;
        sections[section(r.node)].push_back({r.node, column(r.node), run << (64 - end)});
      }
      MaskList list{};
      for (int s = 0; s < kLeafTests; s++) {
        list.first[s] = static_cast<int32_t>(tests_.size());
        list.count[s] = static_cast<int32_t>(sections[s].size());
        tests_.insert(tests_.end(), sections[s].begin(), sections[s].end());
        tests_.resize(ceil_div(static_cast<int64_t>(tests_.size()), kMaskPad) * kMaskPad, MaskTest{-1, 0, 0});
        sections[s].clear();
      }
      lists_.push_back(list);
    }
  }

  template <class C>
  void fill_masks(int64_t* words, const Forest::Header& h) const {
    typedef LeafMask<C> U;
    std::memcpy(words + h.info, info_.data(), info_.size() * sizeof(TreeInfo));
    std::memcpy(words + h.lists, lists_.data(), lists_.size() * sizeof(MaskList));
    std::memcpy(words + h.used, used_.data(), used_.size() * 4);
    for (size_t k = 0; k < tests_.size(); k++) {
      const MaskTest& t = tests_[k];
      part<C>(words, h.thresholds)[k] = t.node < 0 ? C(0) : static_cast<C>(normalized<C>(t.node).threshold);
      part<int32_t>(words, h.mask_features)[k] = t.feature;
      part<U>(words, h.keeps)[k] = static_cast<U>(~(t.clear >> (64 - 8 * sizeof(U))));
    }
  }

  // --------------------------------------------------------------------------------------------------------------------- weights
  void choose_weights() {
    weights_ = Weights::entries;
    if (!sums_) return;
    bool one = true, distinct = true;
    int64_t entries = 0;
    std::vector<int64_t> last(static_cast<size_t>(targets_), -1);
    for (size_t k = 0; k < leaves_.size(); k++) {
      const int32_t begin = i32(d_.ins[kRanges], leaves_[k]), end = i32(d_.ins[kRanges], leaves_[k] + 1);
      one = one && end - begin <= 1;
      entries += end - begin;
      for (int32_t e = begin; e < end && distinct; e++) {
        int64_t& leaf = last[static_cast<size_t>(i32(d_.ins[kTargets], e))];
        distinct = leaf != static_cast<int64_t>(k);
        leaf = static_cast<int64_t>(k);
      }
    }
    if (one && (targets_ == 1 || trees_have_one_target())) weights_ = Weights::of_tree;
    else if (distinct && 2 * entries >= targets_ * static_cast<int64_t>(leaves_.size()) && targets_ <= 64) weights_ = Weights::of_leaf;
  }

  bool trees_have_one_target() {
    if (shared_) return false;
    for (size_t t = 0; t < info_.size(); t++) {
      const size_t end = t + 1 < info_.size() ? static_cast<size_t>(info_[t + 1].leaf) : leaves_.size();
      int32_t target = -1;
      for (auto k = static_cast<size_t>(info_[t].leaf); k < end; k++) {
        const int32_t begin = i32(d_.ins[kRanges], leaves_[k]);
        if (begin == i32(d_.ins[kRanges], leaves_[k] + 1)) continue;
        const int32_t here = i32(d_.ins[kTargets], begin);
        if (target >= 0 && here != target) return false;
        target = here;
      }
      info_[t].target = std::max(target, 0);
    }
    return true;
  }

  template <class T>
  void fill_rows(T* rows, const Forest::Header& h) const {
    for (size_t k = 0; k < leaves_.size() && h.weights != Weights::entries; k++)
      for (int32_t e = i32(d_.ins[kRanges], leaves_[k]); e < i32(d_.ins[kRanges], leaves_[k] + 1); e++)
        rows[static_cast<int64_t>(k) * h.pitch + (h.weights == Weights::of_leaf ? i32(d_.ins[kTargets], e) : 0)] =
            static_cast<T>(real(d_.ins[kWeights], e));
  }

  template <class C>
  void fill_fast(int64_t* words, Forest::Header& h) const {
    auto* nodes = part<FastNode<C>>(words, h.node);
    auto *roots = part<int32_t>(words, h.roots), *leaf_of = part<int32_t>(words, h.leaf_of);
    std::vector<int32_t> from;  // original numbers, in the new order
    from.reserve(static_cast<size_t>(n_));
    for (int64_t t = 0; t < trees_; t++) {
      roots[t] = static_cast<int32_t>(from.size());
      size_t next = from.size();
      from.push_back(i32(d_.ins[kRoots], t));
      for (; next < from.size(); next++) {
        const int32_t i = from[next];
        FastNode<C>& node = nodes[next];
        leaf_of[next] = leaf_of_[static_cast<size_t>(i)];
        if (is_mode(u8(d_.ins[kModes], i), NodeMode::leaf_)) {
          node = {std::numeric_limits<C>::quiet_NaN(), 0, static_cast<int32_t>(next) - 1};
          continue;
        }
        const Test test = normalized<C>(i);
        node = {static_cast<C>(test.threshold), column(i) * kTreeRows | test.missing_true, static_cast<int32_t>(from.size())};
        h.missing |= test.missing_true;
        const int32_t yes = i32(d_.ins[kTrue], i), no = i32(d_.ins[kFalse], i);
        from.push_back(test.exchange ? no : yes);
        from.push_back(test.exchange ? yes : no);
      }
    }
  }

  template <class C>
  void fill_any(int64_t* words, const Forest::Header& h) const {
    auto* nodes = part<AnyNode<C>>(words, h.node);
    auto *roots = part<int32_t>(words, h.roots), *leaf_of = part<int32_t>(words, h.leaf_of);
    auto* members = part<double>(words, h.members);
    for (int64_t t = 0; t < trees_; t++) roots[t] = i32(d_.ins[kRoots], t);
    const Operand* sets = d_.ins.size() > kMembers && d_.ins[kMembers].present() ? &d_.ins[kMembers] : nullptr;
    const int64_t n_members = sets ? sets->size() : 0;
    for (int64_t i = 0; i < n_members; i++) members[i] = real(*sets, i);
    int64_t at = 0;
    for (int64_t i = 0; i < n_; i++) {
      const uint8_t mode = u8(d_.ins[kModes], i);
      const bool leaf = is_mode(mode, NodeMode::leaf_);
      const auto self = static_cast<int32_t>(i);
      AnyNode<C>& node = nodes[i];
      node = {static_cast<C>(real(d_.ins[kThresholds], i)),
              leaf ? 0 : column(static_cast<int32_t>(i)) * kTreeRows,
              leaf ? self : i32(d_.ins[kTrue], i),
              leaf ? self : i32(d_.ins[kFalse], i),
              0,
              0,
              mode,
              u8(d_.ins[kMissing], i)};
      leaf_of[i] = leaf_of_[static_cast<size_t>(i)];
      if (!is_mode(mode, NodeMode::member_)) continue;
      check(at <= n_members, "member_sets has fewer sets than there are member nodes");
      node.member_begin = static_cast<int32_t>(at);
      while (at < n_members && members[at] == members[at]) at++;
      node.member_end = static_cast<int32_t>(at++);
    }
  }

  const LaunchDesc& d_;
  int64_t n_, trees_, targets_;
  bool sums_;
  int vector_bytes_;
  bool fast_ = true, shared_ = false;
  Weights weights_ = Weights::entries;
  std::vector<int32_t> height_, leaf_of_;  // by node
  std::vector<int32_t> leaves_;            // nodes
  std::vector<int32_t> used_, column_;     // features in use; by feature, its number among them or -1
  std::vector<TreeInfo> info_;
  std::vector<MaskList> lists_;
  std::vector<MaskTest> tests_;
};

}  // namespace

template <class C>
std::shared_ptr<const void> pack_forest(const LaunchDesc& desc, int64_t n_targets, bool sums, int vector_bytes, PackCache& packs) {
  std::string layout =
      "forest:" + std::to_string(sizeof(C)) + ":" + std::to_string(n_targets) + (sums ? ":S" : ":") + std::to_string(desc.ins[kX].shape[1]);
  for (size_t k = 1; k < desc.ins.size(); k++) {
    const Operand& o = desc.ins[k];
    layout += ":" + std::to_string(reinterpret_cast<uintptr_t>(o.data));
    if (o.present()) layout += "," + std::to_string(o.shape[0]) + "," + std::to_string(o.strides[0]);
  }
  if (auto packed = packs.find(desc.ins[kThresholds], layout)) return packed;
  const Builder builder(desc, n_targets, sums, vector_bytes);
  const Forest::Header h = builder.header<C>();
  return packs.get(desc.ins[kThresholds], layout, static_cast<size_t>(h.words) * 8,
                   [&](void* memory) { builder.fill<C>(static_cast<int64_t*>(memory), h); });
}

template std::shared_ptr<const void> pack_forest<float>(const LaunchDesc&, int64_t, bool, int, PackCache&);
template std::shared_ptr<const void> pack_forest<double>(const LaunchDesc&, int64_t, bool, int, PackCache&);

}  // namespace ptrt::PTRT_LEVEL
