// softmax, log_softmax and hardmax along one axis. Rows (the axis is contiguous) go through L1 three times: maximum, exponentials with
// their sum, scaling. Where another axis is the contiguous one, the vectors run along that axis and every lane is a row of its own; short
// rows are turned to be lanes.
#include <algorithm>

#include "core/vocabulary.h"
#include "cpu/kernels.h"
#include "cpu/reduce_block.h"
#include "cpu/reduce_vec.h"
#include "cpu/turn_rows.h"

namespace ptrt::PTRT_LEVEL {

namespace {

enum class Mode { softmax, log_softmax, hardmax };
constexpr int64_t kGrain = 16384;  // elements per task, at least
constexpr int64_t kShortRow = 40, kShortHard = 10,
                  kTurnedRows = 128;  // rows that are turned: how long, and how many at a time

// 1 where the first of the largest elements is, a NaN counting as such, and 0 elsewhere.
template <class C>
void hardmax_row(const C* x, int64_t n, C* y) {
  constexpr int L = kLanes<C>;
  const C lowest = -std::numeric_limits<C>::infinity();
  const auto at = [&](int64_t i) __attribute__((always_inline)) {
    return n - i >= L ? vload(x + i) : vload_n(x + i, static_cast<int>(n - i), lowest);
  };
  Vec<C> top = vsplat(lowest);
  NanFlag<C> bad;
  for (int64_t i = 0; i < n; i += L) {
    const Vec<C> v = at(i);
    bad.see(v, v);
    top = max_of(v, top);
    if (n - i >= L) vstore<C>(y + i, Vec<C>{});
    else vstore_n<C>(y + i, Vec<C>{}, static_cast<int>(n - i));
  }
  const Vec<C> wanted = vsplat(max_lanes(top));
  const bool nan = bad.any();
  for (int64_t i = 0; i < n; i += L) {
    const Vec<C> v = at(i);
    const uint32_t bits = lane_bits(nan ? v != v : v == wanted);
    if (!bits) continue;
    y[i + __builtin_ctz(bits)] = 1;
    return;
  }
}

// The same for L rows, one per lane.
template <class C>
void hardmax_lanes(const C* x, int64_t xs, int64_t n, C* y, int64_t ys) {
  Vec<C> best = vload(x), where = {};
  for (int64_t i = 1; i < n; i++) {
    const Vec<C> v = vload(x + i * xs);
    const Mask<C> better = ~(v <= best) & (best == best);
    best = better ? v : best;
    where = better ? vsplat(static_cast<C>(i)) : where;
  }
  for (int64_t i = 0; i < n; i++) vstore<C>(y + i * ys, where == vsplat(static_cast<C>(i)) ? vsplat(C{1}) : Vec<C>{});
}

template <class C>
C row_max(const C* x, int64_t n) {
  constexpr int L = kLanes<C>;
  const C lowest = -std::numeric_limits<C>::infinity();
  if (n < L) {
    C m = lowest;
    for (int64_t i = 0; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
  }
  Vec<C> m[4];
  for (auto& v : m) v = vsplat(lowest);
  int64_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L) PTRT_UNROLL for (int j = 0; j < 4; j++) m[j] = max_of(vload(x + i + j * L), m[j]);
  for (; i + L <= n; i += L) m[0] = max_of(vload(x + i), m[0]);
  m[1] = max_of(vload(x + n - L), m[1]);
  return max_lanes(max_of(max_of(m[0], m[1]), max_of(m[2], m[3])));
}

// y = exp(x - m), if wanted; returns the sum.
template <class C, bool kStore>
double row_exp(const C* x, int64_t n, C m, C* y) {
  constexpr int L = kLanes<C>;
  constexpr int64_t kChunk = 4096;
  double total = 0;
  const Vec<C> vm = vsplat(m);
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t end = std::min(n, begin + kChunk);
    Vec<C> s[4] = {};
    int64_t i = begin;
    for (; i + 4 * L <= end; i += 4 * L) PTRT_UNROLL for (int j = 0; j < 4; j++) {
        Vec<C> e = exp_nonpositive(vload(x + i + j * L) - vm);
        if (kStore) vstore(y + i + j * L, e);
        s[j] += e;
      }
    for (; i + L <= end; i += L) {
      Vec<C> e = exp_nonpositive(vload(x + i) - vm);
      if (kStore) vstore(y + i, e);
      s[0] += e;
    }
    if (i < end) {
      const int k = static_cast<int>(end - i);
      Vec<C> e = exp_nonpositive(vload_n(x + i, k, -std::numeric_limits<C>::infinity()) - vm);
      if (kStore) vstore_n(y + i, e, k);
      s[1] += e;
    }
    total += sum_lanes((s[0] + s[1]) + (s[2] + s[3]));
  }
  return total;
}

// Blocks of rows go through each pass together: the end of one row's reduction then overlaps with the next row.
constexpr int64_t kMaxRows = 64;
template <class C>
void softmax_rows(Mode mode, const C* x, int64_t xs, int64_t rows, int64_t n, C* y, int64_t ys) {
  constexpr int L = kLanes<C>;
  if (mode == Mode::hardmax) {
    for (int64_t r = 0; r < rows; r++) hardmax_row(x + r * xs, n, y + r * ys);
    return;
  }
  C top[kMaxRows], sum[kMaxRows] = {};
  for (int64_t r = 0; r < rows; r++) top[r] = row_max(x + r * xs, n);
  if (mode == Mode::softmax) {
    for (int64_t r = 0; r < rows; r++) sum[r] = C{1} / static_cast<C>(row_exp<C, true>(x + r * xs, n, top[r], y + r * ys));
    for (int64_t r = 0; r < rows; r++) {
      C* row = y + r * ys;
      int64_t i = 0;
      for (; i + L <= n; i += L) vstore<C>(row + i, vload(row + i) * sum[r]);
      if (i < n) vstore_n<C>(row + i, vload_n(row + i, static_cast<int>(n - i), C{0}) * sum[r], static_cast<int>(n - i));
    }
  } else {
    for (int64_t r = 0; r < rows; r++) sum[r] = static_cast<C>(row_exp<C, false>(x + r * xs, n, top[r], nullptr));
    for (int64_t r = 0; r < rows; r += L) vstore<C>(sum + r, vlog(vload(sum + r)));
    for (int64_t r = 0; r < rows; r++) {
      const C* from = x + r * xs;
      C* to = y + r * ys;
      int64_t i = 0;
      for (; i + L <= n; i += L) vstore<C>(to + i, vload(from + i) - top[r] - sum[r]);
      if (i < n) vstore_n<C>(to + i, vload_n(from + i, static_cast<int>(n - i), C{0}) - top[r] - sum[r], static_cast<int>(n - i));
    }
  }
}

// L rows at once, one per lane.
template <class C>
void softmax_lanes(Mode mode, const C* x, int64_t xs, int64_t n, C* y, int64_t ys) {
  if (mode == Mode::hardmax) return hardmax_lanes(x, xs, n, y, ys);
  Vec<C> m = vsplat(-std::numeric_limits<C>::infinity());
  for (int64_t i = 0; i < n; i++) m = max_of(vload(x + i * xs), m);
  Vec<C> sum = {}, part = {};
  for (int64_t i = 0; i < n; i++) {
    Vec<C> e = exp_nonpositive(vload(x + i * xs) - m);
    if (mode == Mode::softmax) vstore(y + i * ys, e);
    part += e;
    if ((i & 63) == 63) {
      sum += part;
      part = Vec<C>{};
    }
  }
  sum += part;
  if (mode == Mode::softmax) {
    const Vec<C> scale = C{1} / sum;
    for (int64_t i = 0; i < n; i++) vstore<C>(y + i * ys, vload(y + i * ys) * scale);
  } else {
    sum = vlog(sum);
    for (int64_t i = 0; i < n; i++) vstore<C>(y + i * ys, vload(x + i * xs) - m - sum);
  }
}

// The same for c < L rows: through a stack copy where that is short, so that an element's result does not depend on its position.
template <class C>
void softmax_tail(Mode mode, const C* x, int64_t xs, int64_t n, C* y, int64_t ys, int64_t c, C* scratch) {
  constexpr int L = kLanes<C>;
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < L; j++) scratch[i * L + j] = j < c ? x[i * xs + j] : C{0};
  softmax_lanes(mode, scratch, L, n, scratch, L);
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < c; j++) y[i * ys + j] = scratch[i * L + j];
}

// Short rows, L at a time, one per lane.
template <class C>
void softmax_short(Mode mode, const C* x, int64_t xs, int64_t rows, int64_t n, C* y, int64_t ys, C* scratch) {
  constexpr int L = kLanes<C>;
  const int64_t pitch = (rows + L - 1) / L * L;
  rows_to_lanes(x, xs, rows, n, scratch, pitch);
  for (int64_t r = 0; r < rows; r += L) softmax_lanes(mode, scratch + r, pitch, n, scratch + r, pitch);
  lanes_to_rows(scratch, pitch, rows, n, y, ys);
}

template <class C>
class Softmax final : public Kernel {
 public:
  Softmax(LaunchDesc d, Mode mode, const std::vector<int>& labels) : Kernel(std::move(d)), mode_(mode), source_(desc), sink_(desc) {
    const Operand& x = desc.ins[0];
    for (int a = 0; a < x.ndim; a++) (labels[static_cast<size_t>(a)] ? axis_ : kept_) = a;
    n_ = x.shape[axis_];
    const int64_t k = x.shape[kept_];
    lanes_ = kept_ > axis_ && k >= kLanes<C> / 2;
    for (int a = 0; a < x.ndim; a++)
      if (a != axis_ && a != kept_) outer_.add(a, x.shape[a]);
    const int64_t n = std::max<int64_t>(n_, 1);
    if (lanes_) per_block_ = std::clamp<int64_t>(32768 / n, kLanes<C>, 256) / kLanes<C> * kLanes<C>;
    else per_block_ = std::clamp<int64_t>(4096 / n, 1, kMaxRows);
    short_ = !lanes_ && n <= (mode == Mode::hardmax ? kShortHard : kShortRow) && k >= kLanes<C> / 2;
    if (short_) per_block_ = kTurnedRows;
    per_block_ = std::max<int64_t>(1, std::min(per_block_, k));
    blocks_ = (k + per_block_ - 1) / per_block_;
    if (__builtin_mul_overflow(n, per_block_, &elements_) || elements_ > int64_t{1} << 40) throw KernelError("softmax: axis too long");
    grain_ = std::max<int64_t>(1, kGrain / elements_);
  }

  size_t thread_scratch_bytes() const override {
    return source_.scratch_bytes(elements_) + sink_.scratch_bytes(elements_) + align64(static_cast<size_t>(elements_) * sizeof(C)) +
           align64(static_cast<size_t>(std::max<int64_t>(n_, 1)) * (short_ ? kTurnedRows * sizeof(C) : kVecBytes));
  }

  PTRT_COLD std::string describe() const override { return lanes_ ? "lanes" : short_ ? "short rows" : "rows"; }

  void run(const RunContext& ctx) override {
    const int64_t units = outer_.total * blocks_;
    if (n_ == 0 || units == 0) return;
    ctx.parallel((units + grain_ - 1) / grain_, [&](int64_t task, int worker) {
      char* scratch = ctx.thread_scratch(worker);
      for (int64_t u = task * grain_; u < std::min(units, (task + 1) * grain_); u++) block(u, scratch);
    });
  }

 private:
  void block(int64_t unit, char* scratch) const {
    char* sink_scratch = scratch + source_.scratch_bytes(elements_);
    C* buffer = reinterpret_cast<C*>(sink_scratch + sink_.scratch_bytes(elements_));
    C* tail = reinterpret_cast<C*>(reinterpret_cast<char*>(buffer) + align64(static_cast<size_t>(elements_) * sizeof(C)));
    int64_t index[kMaxDims] = {};
    outer_.seek(index, unit / blocks_);
    index[kept_] = unit % blocks_ * per_block_;
    const int64_t k = std::min(per_block_, desc.ins[0].shape[kept_] - index[kept_]);
    const int row_axis = lanes_ ? axis_ : kept_, col_axis = lanes_ ? kept_ : axis_;
    const int64_t rows = lanes_ ? n_ : k, cols = lanes_ ? k : n_;
    int64_t xs, ys = cols;
    const C* x = source_.block(desc, index, row_axis, rows, col_axis, cols, scratch, &xs);
    const bool direct = sink_.direct(desc, col_axis);
    C* y = buffer;
    if (direct) {
      y = reinterpret_cast<C*>(element(desc.outs[0], index));
      ys = desc.outs[0].strides[row_axis];
    }
    if (short_) {
      softmax_short(mode_, x, xs, rows, cols, y, ys, tail);
    } else if (!lanes_) {
      softmax_rows(mode_, x, xs, rows, cols, y, ys);
    } else {
      int64_t c = 0;
      for (; c + kLanes<C> <= cols; c += kLanes<C>) softmax_lanes(mode_, x + c, xs, rows, y + c, ys);
      if (c < cols) softmax_tail(mode_, x + c, xs, rows, y + c, ys, cols - c, tail);
    }
    if (!direct) sink_.store(desc, index, row_axis, rows, col_axis, cols, y, ys, sink_scratch);
  }

  Mode mode_;
  Source<C> source_;
  Sink<C> sink_;
  Walk outer_;
  int axis_ = 0, kept_ = 0;
  int64_t n_ = 0, per_block_ = 1, blocks_ = 1, elements_ = 1, grain_ = 1;
  bool lanes_ = false, short_ = false;
};

}  // namespace

std::unique_ptr<Kernel> make_softmax(LaunchDesc desc, BindContext&) {
  Params p = desc.params();
  const auto mode = static_cast<Mode>(p.i());
  const int64_t axis = p.i();
  if (mode < Mode::softmax || mode > Mode::hardmax || axis < 0 || axis >= desc.ins[0].ndim) throw KernelError("softmax: bad parameters");
  std::vector<int> labels(static_cast<size_t>(desc.ins[0].ndim), 0);
  labels[static_cast<size_t>(axis)] = 1;
  labels = canonicalise(desc, labels);
  if (desc.ins[0].dtype == DType::f64) return std::make_unique<Softmax<double>>(std::move(desc), mode, labels);
  return std::make_unique<Softmax<float>>(std::move(desc), mode, labels);
}

}  // namespace ptrt::PTRT_LEVEL
