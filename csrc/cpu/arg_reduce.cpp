// Position of the largest or smallest value along one axis. `rows`: the axis is the contiguous one: first the row's extreme, by vectors,
// then where it is. `lanes`: a kept axis is: every lane keeps its best value and that value's place. A NaN counts as the extreme. The
// smallest value is the largest of values whose order is reversed bit by bit, and the last place is the first one from the end, so that the
// loops know one order and one direction.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/reduce_block.h"
#include "cpu/reduce_vec.h"
#include "cpu/turn_rows.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kGrain = 16384;  // elements per task, at least
constexpr int64_t kChunk = 4096;
constexpr int64_t kCols = 256;  // columns of a block of lanes
constexpr int64_t kMaxRows = 64;
constexpr int64_t kShortRow = 24;  // rows of at most so many values are turned into lanes

template <class C>
using Place = std::conditional_t<sizeof(C) == 4, int32_t, int64_t>;  // as wide as a value, so that a mask of values selects places

template <class C>
class ArgReduce final : public Kernel {
  static constexpr int L = kLanes<C>;
  static constexpr bool floating = std::is_floating_point<C>::value;
  using V = Vec<C>;
  using M = Mask<C>;

 public:
  ArgReduce(LaunchDesc d, bool max, bool last, const std::vector<int>& labels) : Kernel(std::move(d)), last_(last), source_(desc) {
    if (!max) reverse_ = floating ? std::numeric_limits<Place<C>>::min() : Place<C>{-1};
    const Operand& x = desc.ins[0];
    for (int a = 0; a < x.ndim; a++) (labels[static_cast<size_t>(a)] ? axis_ : kept_) = a;
    for (int a = 0; a < x.ndim; a++)
      if (a != axis_ && a != kept_) outer_.add(a, x.shape[a]);
    n_ = x.shape[axis_];
    const int64_t k = x.shape[kept_];
    lanes_ = kept_ > axis_ && k >= L / 2;
    turned_ = !lanes_ && n_ <= kShortRow && k >= L / 2;
    per_block_ = turned_ ? kCols : std::clamp<int64_t>(lanes_ ? kCols : kChunk / std::max<int64_t>(1, n_), 1, lanes_ ? kCols : kMaxRows);
    per_block_ = std::max<int64_t>(1, std::min<int64_t>(per_block_, k));
    chunk_ = std::clamp<int64_t>(n_, 1, std::max<int64_t>(1, kChunk / (lanes_ ? per_block_ : 1)));
    blocks_ = (k + per_block_ - 1) / per_block_;
    grain_ = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, n_ * per_block_));
  }

  size_t thread_scratch_bytes() const override {
    return source_.scratch_bytes(chunk_ * per_block_) + (turned_ ? static_cast<size_t>(n_ * kCols) * sizeof(C) : 0);
  }
  std::string describe() const override { return lanes_ ? "lanes" : turned_ ? "short rows" : "rows"; }

  void run(const RunContext& ctx) override {
    const int64_t units = outer_.total * blocks_;
    if (units == 0) return;
    ctx.parallel((units + grain_ - 1) / grain_, [&](int64_t task, int worker) {
      for (int64_t u = task * grain_; u < std::min(units, (task + 1) * grain_); u++) block(u, ctx.thread_scratch(worker));
    });
  }

 private:
  PTRT_INLINE V ordered(V x) const { return (V)((M)x ^ (M{} + reverse_)); }

  void block(int64_t unit, char* scratch) const {
    int64_t index[kMaxDims] = {};
    outer_.seek(index, unit / blocks_);
    index[kept_] = unit % blocks_ * per_block_;
    const int64_t k = std::min(per_block_, desc.ins[0].shape[kept_] - index[kept_]);
    C best[kCols + L];
    Place<C> where[kCols + L];
    const int64_t chunks = (n_ + chunk_ - 1) / chunk_;
    for (int64_t b = 0; b < chunks; b++) {
      const int64_t i = (last_ ? chunks - 1 - b : b) * chunk_, n = std::min(chunk_, n_ - i);
      int64_t stride;
      index[axis_] = i;
      if (lanes_) {
        const C* x = source_.block(desc, index, axis_, n, kept_, k, scratch, &stride);
        lanes(x, stride, k, i, n, b == 0, best, where);
      } else if (turned_) {
        const C* x = source_.block(desc, index, kept_, k, axis_, n, scratch, &stride);
        C* turned = reinterpret_cast<C*>(scratch + source_.scratch_bytes(chunk_ * per_block_));
        rows_to_lanes(x, stride, k, n, turned, kCols);
        lanes(turned, kCols, k, i, n, true, best, where);
      } else {
        const C* x = source_.block(desc, index, kept_, k, axis_, n, scratch, &stride);
        for (int64_t r = 0; r < k; r++) {
          const C* row = x + r * stride;
          const C v = extreme(row, n);
          if (b != 0 && !(floating ? !(v <= best[r]) && best[r] == best[r] : v > best[r])) continue;
          best[r] = v;
          where[r] = static_cast<Place<C>>(i + find(row, n, v));
        }
      }
    }
    index[axis_] = 0;
    const Operand& y = desc.outs[0];
    auto* to = reinterpret_cast<int64_t*>(element(y, index));
    for (int64_t c = 0; c < k; c++) to[c * y.strides[kept_]] = where[c];
  }

  // The best of n values from place i on in each of k columns.
  void lanes(const C* x, int64_t stride, int64_t k, int64_t i, int64_t n, bool fresh, C* best, Place<C>* where) const {
    const int64_t step = last_ ? -1 : 1, first = last_ ? n - 1 : 0;
    int64_t c = 0;
    for (; c + 4 * L <= k; c += 4 * L) columns<4>(x + first * stride + c, step * stride, n, L, i + first, step, fresh, best + c, where + c);
    for (; c < k; c += L)
      columns<1>(x + first * stride + c, step * stride, n, std::min<int64_t>(L, k - c), i + first, step, fresh, best + c, where + c);
  }

  // The best of `rows` values and of what came before (`fresh`: nothing) in each of U vectors of columns; a single vector may have less
  // than L columns. `place` is the first row's, the next ones' are `step` apart.
  template <int U>
  void columns(const C* x, int64_t stride, int64_t rows, int64_t cols, int64_t place, int64_t step, bool fresh, C* best,
               Place<C>* where) const {
    const auto get = [&](int j) __attribute__((always_inline)) {
      return ordered(U > 1 || cols == L ? vload(x + j * L) : vload_n(x, static_cast<int>(cols), C{0}));
    };
    V b[U];
    M w[U], at = M{} + static_cast<Place<C>>(place);
    PTRT_UNROLL for (int j = 0; j < U; j++) {
      b[j] = fresh ? get(j) : vload(best + j * L);
      w[j] = fresh ? at : vload(where + j * L);
    }
    for (int64_t r = 0; r < rows; r++, x += stride, at += static_cast<Place<C>>(step)) PTRT_UNROLL for (int j = 0; j < U; j++) {
        const V v = get(j);
        M better = v > b[j];
        if constexpr (floating) better = ~(v <= b[j]) & (b[j] == b[j]);
        b[j] = better ? v : b[j];
        w[j] = better ? at : w[j];
      }
    PTRT_UNROLL for (int j = 0; j < U; j++) {
      vstore<C>(best + j * L, b[j]);
      vstore<Place<C>>(where + j * L, w[j]);
    }
  }

  // The extreme of n > 0 values, in the loops' order; NaN if there is one.
  C extreme(const C* p, int64_t n) const {
    NanFlag<C> bad;
    const auto rest = [&](int64_t i) __attribute__((always_inline)) { return ordered(vload_n(p + i, static_cast<int>(n - i), p[0])); };
    V m = n < L ? rest(0) : ordered(vload(p)), other = m;
    int64_t i = 0;
    for (; i + 2 * L <= n; i += 2 * L) {
      const V x = ordered(vload(p + i)), y = ordered(vload(p + i + L));
      bad.see(x, y);
      m = max_of(x, m);
      other = max_of(y, other);
    }
    if (i + L <= n) {
      const V x = ordered(vload(p + i));
      bad.see(x, x);
      m = max_of(x, m);
      i += L;
    }
    if (i < n) {
      const V x = rest(i);
      bad.see(x, x);
      other = max_of(x, other);
    }
    if constexpr (floating)
      if (bad.any()) return std::numeric_limits<C>::quiet_NaN();
    return max_lanes(max_of(other, m));
  }

  // Where v is among n values: the first place, or the last one.
  int64_t find(const C* row, int64_t n, C v) const {
    const V wanted = vsplat(v);
    const int64_t groups = (n + 63) / 64;
    for (int64_t g = 0; g < groups; g++) {
      const int64_t begin = (last_ ? groups - 1 - g : g) * 64, end = std::min(n, begin + 64);
      uint64_t bits = 0;
      for (int64_t i = begin; i < end; i += L) {
        const int count = static_cast<int>(std::min<int64_t>(L, end - i));
        const V x = ordered(count == L ? vload(row + i) : vload_n(row + i, count, C{0}));
        bits |= uint64_t{lane_bits(v == v ? x == wanted : x != x) & ((1u << count) - 1)} << (i - begin);
      }
      if (bits) return begin + (last_ ? 63 - __builtin_clzll(bits) : __builtin_ctzll(bits));
    }
    return 0;
  }

  bool last_, lanes_ = false, turned_ = false;
  Place<C> reverse_ = 0;
  Source<C> source_;
  Walk outer_;
  int axis_ = 0, kept_ = 0;
  int64_t n_ = 0, chunk_ = 1, per_block_ = 1, blocks_ = 1, grain_ = 1;
};

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
    case DType::bf16: return std::make_unique<ArgReduce<float>>(std::move(desc), max, last, labels);
    case DType::f64: return std::make_unique<ArgReduce<double>>(std::move(desc), max, last, labels);
    case DType::u64: return std::make_unique<ArgReduce<uint64_t>>(std::move(desc), max, last, labels);
    case DType::i64:
    case DType::u32: return std::make_unique<ArgReduce<int64_t>>(std::move(desc), max, last, labels);
    default: return std::make_unique<ArgReduce<int32_t>>(std::move(desc), max, last, labels);
  }
}

}  // namespace ptrt::PTRT_LEVEL
