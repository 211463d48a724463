// tree_ensemble: blocks of rows walk one tree after another, a group of rows in step, so that their loads overlap and nothing is predicted.
// Sums are kept in double, in the order of the trees.
#include <algorithm>

#include "core/vocabulary.h"
#include "cpu/kernels.h"
#include "cpu/tree_ensemble_forest.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int kRows = 128;  // per task
constexpr int kGroup = 16;  // rows in step

enum Aggregate { kSum, kAverage, kMin, kMax };

class TreeEnsemble final : public Kernel {
 public:
  TreeEnsemble(LaunchDesc d, BindContext& bind) : Kernel(std::move(d)) {
    check(desc.ins.size() == 11 || desc.ins.size() == 12, "expected eleven or twelve inputs");
    check(desc.outs.size() == 1, "expected one output");
    const auto& in = desc.ins;
    const Operand &x = in[0], &y = desc.outs[0];
    auto real = [](const Operand& o) { return o.dtype == DType::f32 || o.dtype == DType::f64; };
    for (size_t k = 1; k < in.size(); k++)
      if (in[k].present()) check(in[k].is_const() && in[k].ndim == 1, "the trees must be constant vectors");
    for (size_t k : {1u, 4u, 5u, 6u, 7u, 9u}) check(in[k].dtype == DType::i32, "node indices must be int32");
    check(real(x) && real(in[2]) && real(in[8]) && real(y), "x, thresholds, weights and y must be float or double");
    check(in[3].dtype == DType::u8 && in[10].dtype == DType::boolean, "modes must be uint8 and missing_true bool");
    check(in.size() == 11 || !in[11].present() || real(in[11]), "member_sets must be float or double");
    const int64_t nodes = in[1].shape[0];
    for (size_t k : {2u, 3u, 4u, 5u, 10u}) check(in[k].shape[0] == nodes, "node arrays differ in length");
    check(in[9].shape[0] == nodes + 1 && in[7].shape[0] == in[8].shape[0], "leaf arrays differ in length");
    Params p = desc.params();
    aggregate_ = static_cast<Aggregate>(p.i());
    targets_ = p.i();
    check(aggregate_ >= kSum && aggregate_ <= kMax && targets_ >= 1 && targets_ < (int64_t{1} << 24), "bad parameters");
    check(x.ndim == 2 && y.ndim == 2 && y.shape[0] == x.shape[0] && y.shape[1] == targets_, "y must be [n, n_targets]");
    // Both sides of a test are exact in the wider of the two types.
    const bool wide = x.dtype == DType::f64 || in[2].dtype == DType::f64;
    pack_ = wide ? pack_forest<double>(desc, targets_, bind.packs) : pack_forest<float>(desc, targets_, bind.packs);
    forest_.words = static_cast<const int64_t*>(pack_.get());
    const Forest::Header& h = forest_.header();
    auto choose = [&](auto value, auto compare) {
      using X = decltype(value);
      using C = decltype(compare);
      walk_ = !h.fast     ? &TreeEnsemble::walk_any<X, C>
              : h.missing ? &TreeEnsemble::walk_fast<X, C, true>
                          : &TreeEnsemble::walk_fast<X, C, false>;
      task_ = &TreeEnsemble::task<X>;
    };
    if (x.dtype == DType::f64) choose(double{}, double{});
    else if (wide) choose(float{}, double{});
    else choose(float{}, float{});
    packed_rows_ = x.shape[1] > 1 && x.strides[1] != 1;
  }

  size_t thread_scratch_bytes() const override {
    const Operand& x = desc.ins[0];
    return kRows * static_cast<size_t>(targets_) * 16 + (packed_rows_ ? kRows * static_cast<size_t>(x.shape[1]) * itemsize(x.dtype) : 0);
  }

  void run(const RunContext& ctx) override {
    const int64_t n = desc.ins[0].shape[0];
    ctx.parallel(ceil_div(n, kRows),
                 [&](int64_t t, int w) { (this->*task_)(t * kRows, std::min(n, (t + 1) * kRows), ctx.thread_scratch(w)); });
  }

  std::string describe() const override {
    const Forest::Header& h = forest_.header();
    return std::to_string(h.trees) + " trees, " + (h.fast ? h.missing ? "in step, NaN tracked" : "in step" : "any modes");
  }

 private:
  static void check(bool ok, const char* what) { need(ok, "tree_ensemble", what); }

  // leaves[r]: where row r of n ends in trees[r * tree_step]: many rows through one tree (tree_step 0), or one row (stride 0) through many
  // trees.
  template <class X, class C, bool Missing>
  void walk_fast(int64_t tree, int64_t tree_step, const void* rows, int64_t stride, int n, int32_t* leaves) const {
    const Forest::Header& h = forest_.header();
    const FastNode<C>* nodes = forest_.at<FastNode<C>>(h.node);
    const int32_t *root = forest_.at<int32_t>(h.roots) + tree, *heights = forest_.at<int32_t>(h.heights) + tree;
    for (int first = 0; first < n; first += kGroup) {
      const X* x[kGroup];
      int32_t at[kGroup], height = 0;
      for (int i = 0; i < kGroup; i++) {
        const int64_t r = std::min(first + i, n - 1);
        x[i] = static_cast<const X*>(rows) + r * stride;
        at[i] = root[r * tree_step];
        height = std::max(height, heights[r * tree_step]);
      }
      for (int32_t d = 0; d < height; d++) {
        int32_t moved = 0;
        PTRT_UNROLL for (int i = 0; i < kGroup; i++) {
          const FastNode<C>& node = nodes[at[i]];
          const X v = x[i][Missing ? node.feature >> 1 : node.feature];
          const bool yes =
              Missing ? (static_cast<C>(v) <= node.threshold) | ((v != v) & (node.feature & 1)) : static_cast<C>(v) <= node.threshold;
          const int32_t next = node.left + (yes ? 0 : 1);
          moved |= next ^ at[i];
          at[i] = next;
        }
        if (!moved) break;
      }
      for (int i = 0; i < std::min(kGroup, n - first); i++) leaves[first + i] = at[i];
    }
  }

  template <class X, class C>
  void walk_any(int64_t tree, int64_t tree_step, const void* rows, int64_t stride, int n, int32_t* leaves) const {
    const Forest::Header& h = forest_.header();
    const AnyNode<C>* nodes = forest_.at<AnyNode<C>>(h.node);
    const double* members = forest_.at<double>(h.members);
    for (int r = 0; r < n; r++) {
      const X* x = static_cast<const X*>(rows) + r * stride;
      int32_t at = forest_.at<int32_t>(h.roots)[tree + r * tree_step];
      for (;;) {
        const AnyNode<C>& node = nodes[at];
        const auto mode = static_cast<NodeMode>(node.mode);
        if (mode == NodeMode::leaf_) break;
        const auto v = static_cast<C>(x[node.feature]);
        bool yes = false;
        switch (mode) {
          case NodeMode::leq_: yes = v <= node.threshold; break;
          case NodeMode::lt_: yes = v < node.threshold; break;
          case NodeMode::gte_: yes = v >= node.threshold; break;
          case NodeMode::gt_: yes = v > node.threshold; break;
          case NodeMode::eq_: yes = v == node.threshold; break;
          case NodeMode::neq_: yes = v != node.threshold; break;
          default:
            for (int32_t k = node.member_begin; k < node.member_end && !yes; k++) yes = v == static_cast<C>(members[k]);
        }
        at = yes || (v != v && node.missing_true) ? node.yes : node.no;
      }
      leaves[r] = at;
    }
  }

  void add(double& sum, double& have, double w) const {
    switch (aggregate_) {
      case kMin: sum = have != 0 && sum <= w ? sum : w; break;
      case kMax: sum = have != 0 && sum >= w ? sum : w; break;
      default: sum += w;
    }
    have = 1;
  }

  template <class X>
  void task(int64_t begin, int64_t end, char* scratch) const {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    const Forest::Header& h = forest_.header();
    const int n = static_cast<int>(end - begin);
    const X* rows = x.as<X>() + begin * x.strides[0];
    int64_t stride = x.strides[0];
    auto* sum = reinterpret_cast<double*>(scratch);
    double* have = sum + kRows * targets_;  // 1 where a target got any weight
    if (packed_rows_) {
      auto* packed = reinterpret_cast<X*>(have + kRows * targets_);
      for (int64_t r = 0; r < n; r++)
        for (int64_t f = 0; f < x.shape[1]; f++) packed[r * x.shape[1] + f] = rows[r * stride + f * x.strides[1]];
      rows = packed;
      stride = x.shape[1];
    }
    std::fill(sum, sum + n * targets_, 0.0);
    std::fill(have, have + n * targets_, 0.0);
    int32_t leaves[kRows];
    const double *weight = forest_.at<double>(h.weight), *value = forest_.at<double>(h.value);
    const int32_t *range = forest_.at<int32_t>(h.range), *target = forest_.at<int32_t>(h.target);
    const bool plain = h.single && aggregate_ <= kAverage;
    auto arrive = [&](int64_t r, int32_t leaf) {
      if (plain) {
        sum[r] += weight[leaf];
        return;
      }
      for (int32_t k = range[2 * leaf]; k < range[2 * leaf + 1]; k++)
        add(sum[r * targets_ + target[k]], have[r * targets_ + target[k]], value[k]);
    };
    if (n >= kGroup / 2) {
      for (int64_t t = 0; t < h.trees; t++) {
        (this->*walk_)(t, 0, rows, stride, n, leaves);
        for (int r = 0; r < n; r++) arrive(r, leaves[r]);
      }
    } else {  // few rows: trees in step instead
      for (int r = 0; r < n; r++)
        for (int64_t t = 0; t < h.trees; t += kRows) {
          const int m = static_cast<int>(std::min<int64_t>(kRows, h.trees - t));
          (this->*walk_)(t, 1, rows + r * stride, 0, m, leaves);
          for (int i = 0; i < m; i++) arrive(r, leaves[i]);
        }
    }
    const double scale = aggregate_ == kAverage && h.trees > 0 ? static_cast<double>(h.trees) : 1.0;
    for (int64_t r = 0; r < n; r++)
      for (int64_t c = 0; c < targets_; c++) {
        const double v = sum[r * targets_ + c] / scale;
        const int64_t at = (begin + r) * y.strides[0] + c * y.strides[1];
        if (y.dtype == DType::f64) y.as<double>()[at] = v;
        else y.as<float>()[at] = static_cast<float>(v);
      }
  }

  Aggregate aggregate_;
  int64_t targets_;
  bool packed_rows_;
  std::shared_ptr<const void> pack_;
  Forest forest_{};
  void (TreeEnsemble::*walk_)(int64_t, int64_t, const void*, int64_t, int, int32_t*) const;
  void (TreeEnsemble::*task_)(int64_t, int64_t, char*) const;
};

}  // namespace

std::unique_ptr<Kernel> make_tree_ensemble(LaunchDesc desc, BindContext& bind) {
  return std::make_unique<TreeEnsemble>(std::move(desc), bind);
}

}  // namespace ptrt::PTRT_LEVEL
