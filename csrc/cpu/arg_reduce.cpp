// Position of the largest or smallest value along one axis: first the value, by vectors, then where it is. A NaN counts as the extreme.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/reduce_block.h"
#include "cpu/reduce_vec.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kGrain = 16384;  // elements per task, at least
constexpr int64_t kChunk = 4096;

// Does `x` take the place of `best`, which comes before it?
template <bool kMax, bool kLast, class C>
PTRT_INLINE bool beats(C x, C best) {
  if constexpr (std::is_floating_point<C>::value) {
    if (x != x) return kLast || best == best;
    if (best != best) return false;
  }
  if (kLast) return kMax ? x >= best : x <= best;
  return kMax ? x > best : x < best;
}

// The extreme of n > 0 values; NaN if there is one.
template <bool kMax, class C>
C extreme(const C* p, int64_t n) {
  constexpr int L = kLanes<C>;
  C best = p[0];
  int64_t i = 0;
  if (n >= 2 * L) {
    Vec<C> m[2] = {vload(p), vload(p + L)};
    Mask<C> bad = {};
    auto take = [&](Vec<C>& a, Vec<C> x) {
      a = kMax ? max_of(x, a) : (x < a ? x : a);
      if constexpr (std::is_floating_point<C>::value) bad |= x != x;
    };
    for (; i + 2 * L <= n; i += 2 * L) {
      take(m[0], vload(p + i));
      take(m[1], vload(p + i + L));
    }
    take(m[0], m[1]);
    C t[L];
    vstore(t, m[0]);
    best = t[0];
    for (int l = 1; l < L; l++) best = kMax ? (t[l] > best ? t[l] : best) : (t[l] < best ? t[l] : best);
    if constexpr (std::is_floating_point<C>::value)
      for (int l = 0; l < L; l++)
        if (bad[l]) best = std::numeric_limits<C>::quiet_NaN();
  }
  for (; i < n; i++)
    if (beats<kMax, false>(p[i], best)) best = p[i];
  return best;
}

template <class C, bool kMax, bool kLast>
class ArgReduce final : public Kernel {
 public:
  ArgReduce(LaunchDesc d, const std::vector<int>& labels) : Kernel(std::move(d)), source_(desc) {
    const Operand& x = desc.ins[0];
    for (int a = 0; a < x.ndim; a++) (labels[static_cast<size_t>(a)] ? axis_ : kept_) = a;
    for (int a = 0; a < x.ndim; a++)
      if (a != axis_ && a != kept_) outer_.add(a, x.shape[a]);
    n_ = x.shape[axis_];
    const int64_t k = x.shape[kept_];
    lanes_ = kept_ > axis_ && k >= kLanes<C> / 2;
    chunk_ = std::clamp<int64_t>(n_, 1, lanes_ ? 64 : kChunk);
    per_block_ = std::max<int64_t>(1, std::min<int64_t>(lanes_ ? 64 : std::clamp<int64_t>(kChunk / chunk_, 1, 64), k));
    blocks_ = (k + per_block_ - 1) / per_block_;
    grain_ = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, n_ * per_block_));
  }

  size_t thread_scratch_bytes() const override { return source_.scratch_bytes(chunk_ * per_block_); }
  std::string describe() const override { return lanes_ ? "lanes" : "rows"; }

  void run(const RunContext& ctx) override {
    const int64_t units = outer_.total * blocks_;
    if (units == 0) return;
    ctx.parallel((units + grain_ - 1) / grain_, [&](int64_t task, int worker) {
      for (int64_t u = task * grain_; u < std::min(units, (task + 1) * grain_); u++) block(u, ctx.thread_scratch(worker));
    });
  }

 private:
  void block(int64_t unit, char* scratch) const {
    int64_t index[kMaxDims] = {};
    outer_.seek(index, unit / blocks_);
    index[kept_] = unit % blocks_ * per_block_;
    const int64_t k = std::min(per_block_, desc.ins[0].shape[kept_] - index[kept_]);
    C best[64];
    int64_t where[64] = {};
    for (int64_t i = 0; i < n_; i += chunk_) {
      const int64_t n = std::min(chunk_, n_ - i);
      int64_t stride;
      index[axis_] = i;
      if (lanes_) {
        const C* x = source_.block(desc, index, axis_, n, kept_, k, scratch, &stride);
        for (int64_t r = 0; r < n; r++)
          for (int64_t c = 0; c < k; c++) {
            const C v = x[r * stride + c];
            const bool better = (i == 0 && r == 0) || beats<kMax, kLast>(v, best[c]);
            best[c] = better ? v : best[c];
            where[c] = better ? i + r : where[c];
          }
      } else {
        const C* x = source_.block(desc, index, kept_, k, axis_, n, scratch, &stride);
        for (int64_t r = 0; r < k; r++) {
          const C* row = x + r * stride;
          const C v = extreme<kMax>(row, n);
          if (i != 0 && !beats<kMax, kLast>(v, best[r])) continue;
          best[r] = v;
          where[r] = i + find(row, n, v);
        }
      }
    }
    index[axis_] = 0;
    const Operand& y = desc.outs[0];
    auto* to = reinterpret_cast<int64_t*>(element(y, index));
    for (int64_t c = 0; c < k; c++) to[c * y.strides[kept_]] = where[c];
  }

  static int64_t find(const C* row, int64_t n, C v) {
    auto same = [&](int64_t i) { return v == v ? row[i] == v : row[i] != row[i]; };
    int64_t i = kLast ? n - 1 : 0;
    while (!same(i)) i += kLast ? -1 : 1;
    return i;
  }

  Source<C> source_;
  Walk outer_;
  int axis_ = 0, kept_ = 0;
  int64_t n_ = 0, chunk_ = 1, per_block_ = 1, blocks_ = 1, grain_ = 1;
  bool lanes_ = false;
};

template <class C>
std::unique_ptr<Kernel> make(LaunchDesc desc, bool max, bool last, const std::vector<int>& labels) {
  if (max && last) return std::make_unique<ArgReduce<C, true, true>>(std::move(desc), labels);
  if (max) return std::make_unique<ArgReduce<C, true, false>>(std::move(desc), labels);
  if (last) return std::make_unique<ArgReduce<C, false, true>>(std::move(desc), labels);
  return std::make_unique<ArgReduce<C, false, false>>(std::move(desc), labels);
}

}  // namespace

std::unique_ptr<Kernel> make_arg_reduce(LaunchDesc desc, BindContext&) {
  Params p = desc.params();
  const bool max = p.i() == 0;
  const int64_t axis = p.i();
  const bool last = p.i() != 0;
  const Operand& x = desc.ins[0];
  if (axis < 0 || axis >= x.ndim || desc.outs[0].dtype != DType::i64) throw KernelError("arg_reduce: bad axis or output type");
  if (x.shape[axis] == 0 && desc.outs[0].size() != 0) throw KernelError("arg_reduce: no element along the axis");
  std::vector<int> labels(static_cast<size_t>(x.ndim), 0);
  labels[static_cast<size_t>(axis)] = 1;
  labels = canonicalise(desc, labels);
  switch (desc.ins[0].dtype) {
    case DType::f32:
    case DType::f16:
    case DType::bf16: return make<float>(std::move(desc), max, last, labels);
    case DType::f64: return make<double>(std::move(desc), max, last, labels);
    case DType::u64: return make<uint64_t>(std::move(desc), max, last, labels);
    case DType::i64:
    case DType::u32: return make<int64_t>(std::move(desc), max, last, labels);
    default: return make<int32_t>(std::move(desc), max, last, labels);
  }
}

}  // namespace ptrt::PTRT_LEVEL
