// tree_ensemble: blocks of rows pass through one tree after another. In small trees all tests are done, rows as lanes, and the leaf follows
// from those that fail; large ones are walked, a group of rows in step, so that their loads overlap and nothing is predicted. Sums are kept
// in double, in the order of the trees.
#include <algorithm>
#include <tuple>

#include "core/vocabulary.h"
#include "cpu/kernels.h"
#include "cpu/tree_ensemble_masks.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int kGroup = 16;                       // rows or trees in step
constexpr int kStepCycles = 4, kTestCycles = 2;  // of a walk, and of a vector of rows
constexpr int kFewRows = 3;                      // of which each has the tests of a tree as lanes

enum Aggregate { kSum, kAverage, kMin, kMax };

class TreeEnsemble final : public Kernel {
  template <class C>
  using Walk = void (TreeEnsemble::*)(const int32_t*, const int32_t*, bool, const C*, int32_t*) const;

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
    const bool sums = aggregate_ == kSum || aggregate_ == kAverage;
    const auto pack = wide ? PTRT_PLAIN::pack_forest<double> : PTRT_PLAIN::pack_forest<float>;
    pack_ = pack(desc, targets_, sums, kVecBytes, bind.packs);
    forest_.words = static_cast<const int64_t*>(pack_.get());
    const Forest::Header& h = forest_.header();
    auto choose = [&](auto value, auto compare) {
      typedef decltype(value) X;
      typedef decltype(compare) C;
      task_ = &TreeEnsemble::task<X, C>;
      std::get<Walk<C>>(walks_) = !h.fast     ? &TreeEnsemble::walk_any<C>
                                  : h.missing ? &TreeEnsemble::walk_fast<C, true>
                                              : &TreeEnsemble::walk_fast<C, false>;
      wide_ = sizeof(C) == 8;
    };
    if (x.dtype == DType::f64) choose(double{}, double{});
    else if (wide) choose(float{}, double{});
    else choose(float{}, float{});
#if defined(__AVX512CD__)
    row_by_tests_ = !wide_ && h.walked == 0 && h.widest <= 2;
#endif
    pitch_ = h.weights == Weights::of_leaf ? h.pitch : targets_;
    int64_t at = 0;
    auto take = [&](int64_t count, size_t item) {
      const int64_t here = at;
      at += ceil_div(count * static_cast<int64_t>(item), 64) * 64;
      return here;
    };
    off_sum_ = take(kTreeRows * pitch_, 8);
    off_have_ = take(aggregate_ >= kMin ? kTreeRows * targets_ : 0, 8);
    off_columns_ = take(kTreeRows * std::max<int64_t>(h.features, 1), wide_ ? 8 : 4);  // or a row, of 64 values at least
    scratch_ = static_cast<size_t>(at);
  }

  size_t thread_scratch_bytes() const override { return scratch_; }

  void run(const RunContext& ctx) override {
    const int64_t n = desc.ins[0].shape[0];
    ctx.parallel(ceil_div(n, kTreeRows),
                 [&](int64_t t, int w) { (this->*task_)(t * kTreeRows, std::min(n, (t + 1) * kTreeRows), ctx.thread_scratch(w)); });
  }

  std::string describe() const override {
    const Forest::Header& h = forest_.header();
    const char* walk = h.fast ? h.missing ? " in step, NaN tracked" : " in step" : " of any modes";
    return std::to_string(h.trees) + " trees, " + (h.walked ? std::to_string(h.walked) + walk : "by tests");
  }

 private:
  static void check(bool ok, const char* what) { need(ok, "tree_ensemble", what); }

  // leaves[i]: the node where row i (or, of_trees, the row in tree i) of kGroup ends, from trees' roots and heights; x: columns (the row).
  template <class C, bool Missing>
  void walk_fast(const int32_t* roots, const int32_t* heights, bool of_trees, const C* x, int32_t* leaves) const {
    if (of_trees) steps<C, Missing, true>(roots, heights, x, leaves);
    else steps<C, Missing, false>(roots, heights, x, leaves);
  }

  // The trees of a row, half a group at a time: they end at different heights.
  template <class C, bool Missing, bool OfTrees, int G = OfTrees ? kGroup / 2 : kGroup>
  PTRT_INLINE void steps(const int32_t* roots, const int32_t* heights, const C* x, int32_t* leaves) const {
    const FastNode<C>* nodes = forest_.at<FastNode<C>>(forest_.header().node);
    for (int begin = 0; begin < kGroup; begin += G) {
      // Unsigned numbers become addresses without being extended.
      uint32_t at[G];
      int32_t height = 0;
      for (int i = 0; i < G; i++) {
        at[i] = static_cast<uint32_t>(roots[OfTrees ? begin + i : 0]);
        height = std::max(height, heights[OfTrees ? begin + i : 0]);
      }
      for (int32_t d = 0; d < height; d++) {
        uint32_t moved = 0;
        PTRT_UNROLL for (int i = 0; i < G; i++) {
          const FastNode<C>& node = nodes[at[i]];
          const auto column = static_cast<uint32_t>(node.feature);
          const C v = OfTrees ? x[column / kTreeRows] : *(x + (Missing ? column & ~1u : column) + i);
          bool no = !(v <= node.threshold);
          if constexpr (Missing) no = no & ((v == v) | ((node.feature & 1) == 0));
          const uint32_t next = static_cast<uint32_t>(node.left) + no;
          if (OfTrees || d % 4 == 3) moved |= next ^ at[i];
          at[i] = next;
        }
        if ((OfTrees || d % 4 == 3) && !moved) break;
      }
      for (int i = 0; i < G; i++) leaves[begin + i] = static_cast<int32_t>(at[i]);
    }
  }

  template <class C>
  void walk_any(const int32_t* roots, const int32_t*, bool of_trees, const C* x, int32_t* leaves) const {
    const Forest::Header& h = forest_.header();
    const AnyNode<C>* nodes = forest_.at<AnyNode<C>>(h.node);
    const double* members = forest_.at<double>(h.members);
    for (int i = 0; i < kGroup; i++) {
      int32_t at = roots[of_trees ? i : 0];
      for (;;) {
        const AnyNode<C>& node = nodes[at];
        const auto mode = static_cast<NodeMode>(node.mode);
        if (mode == NodeMode::leaf_) break;
        const C v = of_trees ? x[node.feature / kTreeRows] : x[node.feature + i];
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
      leaves[i] = at;
    }
  }

  void add(double& sum, double& have, double w) const {
    switch (aggregate_) {
      case kMin: sum = have != 0 && sum <= w ? sum : w; break;
      case kMax: sum = have != 0 && sum >= w ? sum : w; break;
      default: sum += w; return;
    }
    have = 1;
  }

  // Where sums are: [target][row] for weights of trees, otherwise [row][pitch_].
  int64_t sum_at(int64_t row, int64_t target) const {
    return forest_.header().weights == Weights::of_tree ? target * kTreeRows + row : row * pitch_ + target;
  }

  // Adds what n rows get from leaves[r] of a tree.
  void arrive(const TreeInfo& tree, const int32_t* leaves, int n, double* sum, double* have) const {
    const Forest::Header& h = forest_.header();
    const int64_t first = tree.leaf;
    if (h.weights == Weights::of_tree) {
      double* to = sum + tree.target * kTreeRows;
      if (h.single) add_weights(forest_.at<float>(h.row) + first, leaves, n, to, tree.words == 1);
      else add_weights(forest_.at<double>(h.row) + first, leaves, n, to, false);
    } else if (h.weights == Weights::of_leaf) {
      for (int r = 0; r < n; r++) {
        const int64_t leaf = (first + leaves[r]) * h.pitch;
        if (h.single) add_row(forest_.at<float>(h.row) + leaf, sum + r * pitch_);
        else add_row(forest_.at<double>(h.row) + leaf, sum + r * pitch_);
      }
    } else {
      const int32_t *range = forest_.at<int32_t>(h.range) + 2 * first, *target = forest_.at<int32_t>(h.target);
      const double* value = forest_.at<double>(h.value);
      for (int r = 0; r < n; r++)
        for (int32_t k = range[2 * leaves[r]]; k < range[2 * leaves[r] + 1]; k++)
          add(sum[r * pitch_ + target[k]], have[r * targets_ + target[k]], value[k]);
    }
  }

  // `small`: at most 32 leaves, of a float tree.
  template <class T>
  void add_weights(const T* weights, const int32_t* leaves, int n, double* sum, bool small) const {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
      if (small && !wide_ && n >= 4) {  // (leaves and sums are there for kTreeRows rows)
        const __m512 low = _mm512_loadu_ps(weights), high = _mm512_loadu_ps(weights + 16);
        for (int r = 0; r < n; r += 16, sum += 16) {
          const __m512 w = _mm512_permutex2var_ps(low, _mm512_loadu_si512(leaves + r), high);
          const __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(w));
          const __m512d b = _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(w), 1)));
          _mm512_storeu_pd(sum, _mm512_add_pd(_mm512_loadu_pd(sum), a));
          _mm512_storeu_pd(sum + 8, _mm512_add_pd(_mm512_loadu_pd(sum + 8), b));
        }
        return;
      }
#endif
    (void)small;
    for (int r = 0; r < n; r++) sum[r] += static_cast<double>(weights[leaves[r]]);
  }

  void add_row(const float* weights, double* sum) const {
    typedef float Half __attribute__((vector_size(kVecBytes / 2), aligned(4), may_alias));
    for (int64_t c = 0; c < pitch_; c += WD)
      store(sum + c, load(sum + c) + __builtin_convertvector(*reinterpret_cast<const Half*>(weights + c), vd));
  }
  void add_row(const double* weights, double* sum) const {
    for (int64_t c = 0; c < pitch_; c += WD) store(sum + c, load(sum + c) + load(weights + c));
  }

  template <class X, class C>
  void task(int64_t begin, int64_t end, char* scratch) const {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    const Forest::Header& h = forest_.header();
    const int n = static_cast<int>(end - begin);
    auto* sum = reinterpret_cast<double*>(scratch + off_sum_);
    auto* have = reinterpret_cast<double*>(scratch + off_have_);  // 1 where a target got any weight
    const int padded = static_cast<int>(ceil_div(n, kGroup) * kGroup);
    if (h.weights == Weights::of_tree)
      for (int64_t c = 0; c < targets_; c++) std::fill(sum + c * kTreeRows, sum + c * kTreeRows + padded, 0.0);
    else std::fill(sum, sum + n * pitch_, 0.0);
    if (aggregate_ >= kMin) std::fill(have, have + n * targets_, 0.0);
    const int32_t* used = forest_.at<int32_t>(h.used);
    const X* from = x.as<X>() + begin * x.strides[0];
    const auto value = [&](int64_t r, int64_t f) { return static_cast<C>(from[r * x.strides[0] + used[f] * x.strides[1]]); };
    const bool tests = row_by_tests_ && n <= kFewRows;
    const bool walks =
        n < kGroup && n * h.steps * kStepCycles < h.walked_steps * kGroup * kStepCycles + ceil_div(n, Lanes<C>::n) * h.tests * kTestCycles;
    auto* columns = reinterpret_cast<C*>(scratch + off_columns_);
    if (tests || walks) {
      for (int r = 0; r < n; r++) {
        for (int64_t f = 0; f < h.features; f++) columns[f] = value(r, f);  // a row, side by side
        if (tests) row_by_tests(reinterpret_cast<const float*>(columns), sum + sum_at(r, 0), have + r * targets_);
        else row_by_walks(columns, sum + sum_at(r, 0), have + r * targets_);
      }
    } else {
      for (int64_t f = 0; f < h.features; f++) {
        for (int r = 0; r < n; r++) columns[f * kTreeRows + r] = value(r, f);
        for (int r = n; r < padded; r++) columns[f * kTreeRows + r] = C(0);
      }
      many_rows(columns, n, sum, have);
    }
    const double scale = aggregate_ == kAverage && h.trees > 0 ? static_cast<double>(h.trees) : 1.0;
    for (int64_t r = 0; r < n; r++)
      for (int64_t c = 0; c < targets_; c++) {
        const double v = sum[sum_at(r, c)] / scale;
        const int64_t at = (begin + r) * y.strides[0] + c * y.strides[1];
        if (y.dtype == DType::f64) y.as<double>()[at] = v;
        else y.as<float>()[at] = static_cast<float>(v);
      }
  }

  template <class C>
  PTRT_NOINLINE void many_rows(const C* columns, int n, double* sum, double* have) const {
    constexpr int L = Lanes<C>::n, kAtOnce = 4 * L;
    const Forest::Header& h = forest_.header();
    const int32_t *roots = forest_.at<int32_t>(h.roots), *heights = forest_.at<int32_t>(h.heights),
                  *leaf_of = forest_.at<int32_t>(h.leaf_of);
    const TreeInfo* info = forest_.at<TreeInfo>(h.info);
    const MaskTests<C> tests{forest_.at<C>(h.thresholds), forest_.at<int32_t>(h.mask_features), forest_.at<LeafMask<C>>(h.keeps)};
    int32_t leaves[kTreeRows] = {};
    for (int64_t t = 0; t < h.trees; t++) {
      int r = 0;
      if (info[t].words) {
        const MaskList* lists = forest_.at<MaskList>(h.lists) + info[t].lists;
        for (; r + kAtOnce <= n; r += kAtOnce) reach<C, 4>(tests, lists, info[t].words, columns + r, leaves + r);
        for (; r < n; r += L) reach<C, 1>(tests, lists, info[t].words, columns + r, leaves + r);
      } else {
        for (; r < n; r += kGroup) (this->*std::get<Walk<C>>(walks_))(roots + t, heights + t, false, columns + r, leaves + r);
        for (r = 0; r < n; r++) leaves[r] = leaf_of[leaves[r]] - info[t].leaf;
      }
      arrive(info[t], leaves, n, sum, have);
    }
  }

  template <class C>
  PTRT_NOINLINE void row_by_walks(const C* row, double* sum, double* have) const {
    const Forest::Header& h = forest_.header();
    const int32_t *roots = forest_.at<int32_t>(h.roots), *heights = forest_.at<int32_t>(h.heights),
                  *leaf_of = forest_.at<int32_t>(h.leaf_of);
    const TreeInfo* info = forest_.at<TreeInfo>(h.info);
    for (int64_t t = 0; t < h.trees; t += kGroup) {
      const int m = static_cast<int>(std::min<int64_t>(kGroup, h.trees - t));
      int32_t leaves[kGroup];
      (this->*std::get<Walk<C>>(walks_))(roots + t, heights + t, true, row, leaves);
      for (int i = 0; i < m; i++) {
        const int32_t leaf = leaf_of[leaves[i]] - info[t + i].leaf;
        arrive(info[t + i], &leaf, 1, sum, have);
      }
    }
  }

  PTRT_NOINLINE void row_by_tests(const float* values, double* sum, double* have) const {
#if defined(__AVX512CD__)
    const Forest::Header& h = forest_.header();
    __m512 held[4];
    for (int k = 0; k < 4; k++) held[k] = _mm512_loadu_ps(values + 16 * k);
    const TreeInfo* info = forest_.at<TreeInfo>(h.info);
    const MaskTests<float> tests{forest_.at<float>(h.thresholds), forest_.at<int32_t>(h.mask_features), forest_.at<uint32_t>(h.keeps)};
    for (int64_t t = 0; t < h.trees; t++) {
      const MaskList* lists = forest_.at<MaskList>(h.lists) + info[t].lists;
      const int32_t leaf = h.features <= 32   ? reach_row<2>(tests, lists, info[t].words, values, held)
                           : h.features <= 64 ? reach_row<4>(tests, lists, info[t].words, values, held)
                                              : reach_row<0>(tests, lists, info[t].words, values, held);
      arrive(info[t], &leaf, 1, sum, have);
    }
#else
    (void)values, (void)sum, (void)have;
#endif
  }

  Aggregate aggregate_;
  int64_t targets_, pitch_ = 0;
  bool wide_ = false, row_by_tests_ = false;
  int64_t off_sum_ = 0, off_have_ = 0, off_columns_ = 0;
  size_t scratch_ = 0;
  std::shared_ptr<const void> pack_;
  Forest forest_{};
  void (TreeEnsemble::*task_)(int64_t, int64_t, char*) const;
  std::tuple<Walk<float>, Walk<double>> walks_{};
};

}  // namespace

std::unique_ptr<Kernel> make_tree_ensemble(LaunchDesc desc, BindContext& bind) {
  return std::make_unique<TreeEnsemble>(std::move(desc), bind);
}

}  // namespace ptrt::PTRT_LEVEL
