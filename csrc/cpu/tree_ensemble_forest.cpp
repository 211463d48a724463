#include "cpu/tree_ensemble_forest.h"

#include <cmath>
#include <limits>
#include <vector>

#include "core/vocabulary.h"

namespace ptrt::PTRT_LEVEL {
namespace {

enum In { kX, kFeatures, kThresholds, kModes, kTrue, kFalse, kRoots, kTargets, kWeights, kRanges, kMissing, kMembers };

void check(bool ok, const char* what) { need(ok, "tree_ensemble", what); }

double real(const Operand& o, int64_t i) {
  return o.dtype == DType::f64 ? o.as<double>()[i * o.strides[0]] : static_cast<double>(o.as<float>()[i * o.strides[0]]);
}
int32_t i32(const Operand& o, int64_t i) { return o.as<int32_t>()[i * o.strides[0]]; }
uint8_t u8(const Operand& o, int64_t i) { return o.as<uint8_t>()[i * o.strides[0]]; }

bool is_mode(uint8_t mode, NodeMode m) { return mode == static_cast<uint8_t>(m); }

class Builder {
 public:
  Builder(const LaunchDesc& d, int64_t n_targets) : d_(d), n_(d.ins[kFeatures].size()), trees_(d.ins[kRoots].size()) {
    const int64_t leaves = d.ins[kTargets].size(), features = d.ins[kX].shape[1];
    check(n_ < (int64_t{1} << 30) && leaves < (int64_t{1} << 31), "too many nodes");
    check(features < (int64_t{1} << 30), "too many features");
    single_ = n_targets == 1;
    fast_ = true;
    for (int64_t i = 0; i < n_; i++) {
      const uint8_t mode = u8(d.ins[kModes], i);
      const int64_t begin = i32(d.ins[kRanges], i), end = i32(d.ins[kRanges], i + 1);
      check(mode <= static_cast<uint8_t>(NodeMode::member_), "bad node mode");
      check(begin >= 0 && begin <= end && end <= leaves, "bad leaf range");
      if (is_mode(mode, NodeMode::leaf_)) {
        single_ = single_ && end - begin == 1;
        continue;
      }
      const int64_t f = i32(d.ins[kFeatures], i), a = i32(d.ins[kTrue], i), b = i32(d.ins[kFalse], i);
      check(f >= 0 && f < features, "feature out of range");
      check(a >= 0 && a < n_ && b >= 0 && b < n_, "child out of range");
      fast_ = fast_ && mode <= static_cast<uint8_t>(NodeMode::gt_);
    }
    for (int64_t i = 0; i < leaves; i++) {
      const int64_t t = i32(d.ins[kTargets], i);
      check(t >= 0 && t < n_targets, "target out of range");
    }
    for (int64_t t = 0; t < trees_; t++) check(i32(d.ins[kRoots], t) >= 0 && i32(d.ins[kRoots], t) < n_, "root out of range");
    measure();
  }

  // Heights of all reachable nodes, by a walk with an explicit stack; a node met again while it is open closes a cycle.
  void measure() {
    height_.assign(static_cast<size_t>(n_), -1);
    std::vector<uint8_t> open(static_cast<size_t>(n_), 0), seen(static_cast<size_t>(n_), 0);
    std::vector<int32_t> stack;
    auto push = [&](int32_t i) {
      if (seen[static_cast<size_t>(i)]) fast_ = false;  // a shared subtree has no place next to two siblings
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
  }

  Forest::Header header(size_t node_bytes) const {
    Forest::Header h{};
    h.fast = fast_;
    h.single = single_;
    h.nodes = n_;
    h.trees = trees_;
    int64_t at = static_cast<int64_t>(sizeof(Forest::Header)) / 8;
    auto take = [&](int64_t count, size_t item) {
      at = (at + 7) / 8 * 8;
      const int64_t here = at;
      at += ceil_div(count * static_cast<int64_t>(item), 8);
      return here;
    };
    const int64_t leaves = d_.ins[kTargets].size();
    h.roots = take(trees_, 4);
    h.heights = take(trees_, 4);
    h.node = take(n_, node_bytes);
    h.weight = take(n_, 8);
    h.range = take(n_ * 2, 4);
    h.target = take(leaves, 4);
    h.value = take(leaves, 8);
    h.members = take(d_.ins.size() > kMembers ? d_.ins[kMembers].size() : 0, 8);
    h.words = at;
    return h;
  }

  bool fast() const { return fast_; }

  template <class C>
  void fill(int64_t* words, Forest::Header h) const {
    auto* roots = reinterpret_cast<int32_t*>(words + h.roots);
    auto* heights = reinterpret_cast<int32_t*>(words + h.heights);
    auto* weight = reinterpret_cast<double*>(words + h.weight);
    auto* range = reinterpret_cast<int32_t*>(words + h.range);
    for (int64_t t = 0; t < trees_; t++) heights[t] = height_[static_cast<size_t>(i32(d_.ins[kRoots], t))];
    for (int64_t i = 0; i < d_.ins[kTargets].size(); i++) {
      reinterpret_cast<int32_t*>(words + h.target)[i] = i32(d_.ins[kTargets], i);
      reinterpret_cast<double*>(words + h.value)[i] = real(d_.ins[kWeights], i);
    }
    auto payload = [&](int64_t from, int64_t to) {
      const int32_t begin = i32(d_.ins[kRanges], from), end = i32(d_.ins[kRanges], from + 1);
      range[2 * to] = begin;
      range[2 * to + 1] = end;
      weight[to] = end > begin ? real(d_.ins[kWeights], begin) : 0;
    };
    if (fast_) fill_fast<C>(reinterpret_cast<FastNode<C>*>(words + h.node), roots, h, payload);
    else fill_any<C>(reinterpret_cast<AnyNode<C>*>(words + h.node), roots, reinterpret_cast<double*>(words + h.members), payload);
    *reinterpret_cast<Forest::Header*>(words) = h;
  }

 private:
  struct Test {  // mode and threshold as `x <= threshold`, with the children perhaps exchanged
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
    const bool exchange = (mode == NodeMode::gt_ || mode == NodeMode::gte_) && t == t;
    return {static_cast<double>(strict ? below : t), exchange, exchange ? !missing : missing};
  }

  template <class C, class P>
  void fill_fast(FastNode<C>* nodes, int32_t* roots, Forest::Header& h, P&& payload) const {
    std::vector<int32_t> from;  // original numbers, in the new order
    from.reserve(static_cast<size_t>(n_));
    std::vector<uint8_t> missing(static_cast<size_t>(n_), 0);
    for (int64_t t = 0; t < trees_; t++) {
      roots[t] = static_cast<int32_t>(from.size());
      size_t next = from.size();
      from.push_back(i32(d_.ins[kRoots], t));
      for (; next < from.size(); next++) {
        const int32_t i = from[next];
        FastNode<C>& node = nodes[next];
        payload(i, static_cast<int64_t>(next));
        if (is_mode(u8(d_.ins[kModes], i), NodeMode::leaf_)) {
          node = {std::numeric_limits<C>::quiet_NaN(), 0, static_cast<int32_t>(next) - 1};
          continue;
        }
        const Test test = normalized<C>(i);
        node = {static_cast<C>(test.threshold), i32(d_.ins[kFeatures], i), static_cast<int32_t>(from.size())};
        missing[next] = test.missing_true;
        h.missing |= test.missing_true;
        const int32_t yes = i32(d_.ins[kTrue], i), no = i32(d_.ins[kFalse], i);
        from.push_back(test.exchange ? no : yes);
        from.push_back(test.exchange ? yes : no);
      }
    }
    h.nodes = static_cast<int64_t>(from.size());
    if (h.missing)
      for (size_t k = 0; k < from.size(); k++) nodes[k].feature = nodes[k].feature << 1 | missing[k];
  }

  template <class C, class P>
  void fill_any(AnyNode<C>* nodes, int32_t* roots, double* members, P&& payload) const {
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
              leaf ? 0 : i32(d_.ins[kFeatures], i),
              leaf ? self : i32(d_.ins[kTrue], i),
              leaf ? self : i32(d_.ins[kFalse], i),
              0,
              0,
              mode,
              u8(d_.ins[kMissing], i)};
      payload(i, i);
      if (!is_mode(mode, NodeMode::member_)) continue;
      check(at <= n_members, "member_sets has fewer sets than there are member nodes");
      node.member_begin = static_cast<int32_t>(at);
      while (at < n_members && members[at] == members[at]) at++;
      node.member_end = static_cast<int32_t>(at++);
    }
  }

  const LaunchDesc& d_;
  int64_t n_, trees_;
  bool single_, fast_;
  std::vector<int32_t> height_;
};

}  // namespace

template <class C>
std::shared_ptr<const void> pack_forest(const LaunchDesc& desc, int64_t n_targets, PackCache& packs) {
  std::string layout =
      "forest:" + std::to_string(sizeof(C)) + ":" + std::to_string(n_targets) + ":" + std::to_string(desc.ins[kX].shape[1]);
  for (size_t k = 1; k < desc.ins.size(); k++) {
    const Operand& o = desc.ins[k];
    layout += ":" + std::to_string(reinterpret_cast<uintptr_t>(o.data));
    if (o.present()) layout += "," + std::to_string(o.shape[0]) + "," + std::to_string(o.strides[0]);
  }
  const Builder builder(desc, n_targets);
  const Forest::Header h = builder.header(builder.fast() ? sizeof(FastNode<C>) : sizeof(AnyNode<C>));
  return packs.get(desc.ins[kThresholds], layout, static_cast<size_t>(h.words) * 8,
                   [&](void* memory) { builder.fill<C>(static_cast<int64_t*>(memory), h); });
}

template std::shared_ptr<const void> pack_forest<float>(const LaunchDesc&, int64_t, PackCache&);
template std::shared_ptr<const void> pack_forest<double>(const LaunchDesc&, int64_t, PackCache&);

}  // namespace ptrt::PTRT_LEVEL
