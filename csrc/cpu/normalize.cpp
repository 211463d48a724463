// layer and rms normalisation over any subset of axes. Three ways: `rows` (one contiguous reduced axis: blocks of whole rows), `lanes` (a
// kept axis is the contiguous one: every lane has statistics of its own, or `width` neighbours share theirs, as the channels of a group in
// channels-last memory do), `pieces` (anything else: one set, block by block).
// Statistics are those of blocks of a few thousand elements, two-pass each, combined in double in the order of memory; sets that are large
// and few are cut into fixed segments for the threads.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/normalize_block.h"
#include "cpu/reduce_block.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kGrain = 16384;   // elements per task, at least
constexpr int64_t kChunk = 4096;    // elements of a block: their sum is taken in working precision, and they stay in the first cache
constexpr int64_t kCached = 65536;  // sets of up to this size are evaluated once, larger ones once per pass
constexpr int64_t kSegment = 32768;
constexpr int64_t kMaxSets = 128;  // of a unit, with its columns counted where several make a set

template <class C>
class Normalize final : public Kernel {
  static constexpr C kOne = 1, kZero = 0;

 public:
  Normalize(LaunchDesc d, bool rms, double epsilon, const std::vector<int>& labels, int64_t width)
      : Kernel(std::move(d)), rms_(rms), epsilon_(epsilon), width_(width), source_(desc), sink_(desc) {
    const Operand& x = desc.ins[0];
    int last = 0;
    for (int a = 0; a < x.ndim; a++) (labels[static_cast<size_t>(a)] ? last : kept_) = a;
    for (int a = 0; a < x.ndim; a++) {
      if (labels[static_cast<size_t>(a)]) set_ *= x.shape[a];
      else if (a != kept_) outer_.add(a, x.shape[a]);
    }
    const int64_t k = x.shape[kept_], n = x.shape[last];
    share_ = 1.0 / static_cast<double>(set_ * width_);
    lanes_ = kept_ > last && (k >= kLanes<C> / 2 || width_ > 1);
    rows_ = !lanes_ && set_ == n && n <= kChunk;
    col_axis_ = lanes_ ? kept_ : last;
    if (rows_) {
      row_axis_ = kept_;
      tall_ = sets_ = std::clamp<int64_t>(kChunk / std::max<int64_t>(n, 1), 1, std::clamp<int64_t>(k, 1, kMaxSets / 2));
      wide_ = n;
    } else {
      for (int a = 0; a < x.ndim; a++)
        if (labels[static_cast<size_t>(a)] && (lanes_ || a != last)) row_axis_ = a;
      for (int a = 0; a < x.ndim; a++)
        if (labels[static_cast<size_t>(a)] && a != row_axis_ && a != col_axis_) walk_.add(a, x.shape[a]);
      if (lanes_) sets_ = std::min(kMaxSets / width_ * width_, k);
      wide_ = lanes_ ? sets_ : std::clamp<int64_t>(n, 1, kChunk);
      const int64_t rows = row_axis_ < 0 ? 1 : x.shape[row_axis_];
      tall_ = lanes_ || wide_ == n ? std::clamp<int64_t>(kChunk / wide_, 1, std::max<int64_t>(rows, 1)) : 1;
      down_ = (rows + tall_ - 1) / tall_;
      across_ = lanes_ ? 1 : (n + wide_ - 1) / wide_;
      steps_ = walk_.total * down_ * across_;
      const bool collide = lanes_ && x.strides[row_axis_] * static_cast<int64_t>(sizeof(C)) % 4096 == 0;  // the rows of a block, in a cache
      cached_ = (collide || !source_.direct(desc, col_axis_)) && set_ * sets_ <= kCached;
    }
    blocks_ = (k + sets_ - 1) / sets_;
    const int64_t units = outer_.total * blocks_, work = set_ * sets_;
    grain_ = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, work));
    if (!rows_ && !cached_ && units < 8 && units > 0)  // (segments run in any worker's scratch)
      segments_ = std::clamp<int64_t>(work / kSegment, 1, std::max<int64_t>(1, std::min(steps_, 64 / units)));
    elements_ = rows_ && source_.direct(desc, col_axis_) && sink_.direct(desc, col_axis_) ? 1 : std::max<int64_t>(1, tall_ * wide_);
  }

  size_t thread_scratch_bytes() const override {
    return source_.scratch_bytes(elements_) + sink_.scratch_bytes(elements_) + align64(static_cast<size_t>(elements_) * sizeof(C)) +
           2 * factor_bytes() + (cached_ ? align64(static_cast<size_t>(set_ * sets_) * sizeof(C)) : 0);
  }
  size_t shared_scratch_bytes() const override {
    const auto units = static_cast<size_t>(outer_.total * blocks_);
    return segments_ > 1 ? units * (static_cast<size_t>(segments_) * sizeof(Moments) + sizeof(Statistics)) : 0;
  }

  PTRT_COLD std::string describe() const override {
    return std::string(rows_    ? "rows"
                       : lanes_ ? width_ > 1 ? "groups of lanes" : "lanes"
                                : "pieces") +
           (segments_ > 1 ? " in " + std::to_string(segments_) + " segments" : "");
  }

  void run(const RunContext& ctx) override {
    const int64_t units = outer_.total * blocks_;
    if (units == 0) return;
    if (segments_ > 1) {
      auto* moments = reinterpret_cast<Moments*>(ctx.shared_scratch);
      auto* statistics = reinterpret_cast<Statistics*>(moments + units * segments_);
      const auto step = [&](int64_t task) { return steps_ * task / segments_; };
      ctx.parallel(units * segments_, [&](int64_t task, int worker) {
        const int64_t s = task % segments_;
        measure(task / segments_, step(s), step(s + 1), moments[task], scratch(ctx, worker));
      });
      for (int64_t u = 0; u < units; u++) {
        Moments& m = moments[u * segments_];
        for (int64_t s = 1; s < segments_; s++) combine(m, moments[u * segments_ + s]);
        finish(u, m, statistics[u]);
      }
      ctx.parallel(units * segments_, [&](int64_t task, int worker) {
        const int64_t s = task % segments_;
        write(task / segments_, step(s), step(s + 1), statistics[task / segments_], scratch(ctx, worker));
      });
      return;
    }
    ctx.parallel((units + grain_ - 1) / grain_, [&](int64_t task, int worker) {
      const Scratch s = scratch(ctx, worker);
      for (int64_t u = task * grain_; u < std::min(units, (task + 1) * grain_); u++) {
        if (rows_) {
          rows(u, s);
          continue;
        }
        Moments m;
        Statistics t;
        measure(u, 0, steps_, m, s);
        finish(u, m, t);
        write(u, 0, steps_, t, s);
      }
    });
  }

 private:
  static constexpr int64_t kRoom = kMaxSets + kLanes<C>;
  struct Moments {  // of part of a unit's sets
    double count;
    double sum[kMaxSets], squares[kMaxSets];  // squares: of the differences from the part's own mean
  };
  struct Statistics {
    C mean[kRoom], inv[kRoom];
  };
  struct Scratch {
    char *source, *sink;
    C *buffer, *factor[2], *cache;
  };
  struct Factor {  // scale or bias along a block; with `from`, each row has to be converted
    Numbers<C> numbers;
    int64_t step;  // from column to column
    const Operand* from;
  };

  size_t factor_bytes() const { return align64(static_cast<size_t>(std::max<int64_t>(wide_, 1)) * sizeof(C)); }

  PTRT_NOINLINE Scratch scratch(const RunContext& ctx, int worker) const {
    Scratch s;
    s.source = ctx.thread_scratch(worker);
    s.sink = s.source + source_.scratch_bytes(elements_);
    char* p = s.sink + sink_.scratch_bytes(elements_);
    s.buffer = reinterpret_cast<C*>(p);
    p += align64(static_cast<size_t>(elements_) * sizeof(C));
    for (auto& f : s.factor) {
      f = reinterpret_cast<C*>(p);
      p += factor_bytes();
    }
    s.cache = reinterpret_cast<C*>(p);
    return s;
  }

  // Where a unit begins; returns its number of sets.
  PTRT_NOINLINE int64_t begin(int64_t unit, int64_t* index) const {
    outer_.seek(index, unit / blocks_);
    index[kept_] = unit % blocks_ * sets_;
    return std::min(sets_, desc.ins[0].shape[kept_] - index[kept_]);
  }

  void means(const Moments& m, int64_t n, C* mean) const {
    for (int64_t i = 0; i < n; i += WD) narrowed<C, double>(mean + i, rms_ ? vd{} : load(m.sum + i) * share_);
  }
  void inverses(const Moments& m, int64_t n, C* inv) const {
    if (n == 1) inv[0] = static_cast<C>(1.0 / std::sqrt(m.squares[0] * share_ + epsilon_));
    for (int64_t i = 0; i < n && n > 1; i += WD) narrowed<C, double>(inv + i, 1.0 / vsqrt(load(m.squares + i) * share_ + epsilon_));
  }

  PTRT_NOINLINE void statistics(size_t out, const int64_t* index, const C* values, int64_t n) const {
    if (desc.outs.size() <= out || !desc.outs[out].present()) return;
    const Operand& o = desc.outs[out];
    convert_out(o.dtype, values, n, element(o, index), o.strides[kept_]);
  }

  PTRT_NOINLINE Factor factor(size_t k, const int64_t* index) const {
    if (desc.ins.size() <= k || !desc.ins[k].present()) return {{k == 1 ? &kOne : &kZero, 0}, 0, nullptr};
    const Operand& o = desc.ins[k];
    const int64_t row = row_axis_ < 0 ? 0 : o.strides[row_axis_], step = o.strides[col_axis_];
    const bool ready = o.dtype == dtype_of<C>() && (step == 0 || step == 1);
    return {{ready ? reinterpret_cast<const C*>(element(o, index)) : nullptr, row}, step, ready ? nullptr : &o};
  }
  Numbers<C> row_of(const Factor& f, const int64_t* index, int64_t r, int64_t n, C* scratch) const {
    if (!f.from) return {f.numbers.p + r * f.numbers.row, f.numbers.row};
    const auto item = static_cast<int64_t>(itemsize(f.from->dtype));
    if (r == 0 || f.numbers.row != 0)
      convert_in(f.from->dtype, element(*f.from, index) + r * f.numbers.row * item, f.step, f.step == 0 ? 1 : n, scratch);
    return {scratch, 0};
  }

  // The block of results at `index` from its elements and the statistics of all, of each row (own = 1), or of each column (lanes).
  PTRT_NOINLINE void apply_block(const int64_t* index, int64_t rows, int64_t n, const C* x, int64_t xs, const C* mean, const C* inv,
                                 int64_t own, const Scratch& s) const {
    const bool direct = sink_.direct(desc, col_axis_);
    C* y = s.buffer;
    int64_t ys = n;
    if (direct) {
      y = reinterpret_cast<C*>(element(desc.outs[0], index));
      ys = row_axis_ < 0 ? 0 : desc.outs[0].strides[row_axis_];
    }
    const Factor scale = factor(1, index), bias = factor(2, index);
    const Apply<C> apply =
        lanes_ ? apply_for<C, true>(scale.step != 0, bias.step != 0) : apply_for<C, false>(scale.step != 0, bias.step != 0);
    const int64_t together = scale.from || bias.from ? 1 : rows;
    for (int64_t r = 0; r < rows; r += together)
      apply(x + r * xs, xs, together, n, {mean + r * own, own}, {inv + r * own, own}, row_of(scale, index, r, n, s.factor[0]),
            row_of(bias, index, r, n, s.factor[1]), y + r * ys, ys);
    if (!direct) sink_.store(desc, index, row_axis_, rows, col_axis_, n, y, ys, s.sink);
  }

  PTRT_NOINLINE void rows(int64_t unit, const Scratch& s) const {
    int64_t index[kMaxDims] = {}, xs;
    const int64_t k = begin(unit, index);
    const C* x = source_.block(desc, index, row_axis_, k, col_axis_, wide_, s.source, &xs);
    Moments m;
    Statistics t;
    for (int64_t r = 0; r < k && !rms_; r++) m.sum[r] = static_cast<double>(block_sum<Term::value>(x + r * xs, 0, 1, wide_, C{0}));
    means(m, k, t.mean);
    for (int64_t r = 0; r < k; r++) m.squares[r] = static_cast<double>(block_sum<Term::square>(x + r * xs, 0, 1, wide_, t.mean[r]));
    inverses(m, k, t.inv);
    apply_block(index, k, wide_, x, xs, t.mean, t.inv, 1, s);
    statistics(1, index, t.mean, k);
    statistics(2, index, t.inv, k);
  }

  // Calls f(elements, row stride, rows, columns) for the blocks of steps [from, to) of a unit, `index` at each. `kept`: s.cache has them.
  template <class F>
  void for_blocks(int64_t unit, int64_t from, int64_t to, bool kept, const Scratch& s, F&& f) const {
    int64_t index[kMaxDims] = {};
    const int64_t k = begin(unit, index);
    const Operand& x = desc.ins[0];
    C* cache = s.cache;
    int64_t down = from / across_, across = from - down * across_;
    walk_.seek(index, down / down_);
    down %= down_;
    for (int64_t step = from; step < to; step++) {
      const int64_t row = down * tall_, col = across * wide_;
      if (row_axis_ >= 0) index[row_axis_] = row;
      if (!lanes_) index[col_axis_] = col;
      const int64_t rows = row_axis_ < 0 ? 1 : std::min(tall_, x.shape[row_axis_] - row);
      const int64_t cols = lanes_ ? k : std::min(wide_, x.shape[col_axis_] - col);
      int64_t xs = cols;
      const C* data = cache;
      if (cached_) {
        if (!kept) source_.fill(desc, index, row_axis_, rows, col_axis_, cols, cache, s.source);
        cache += rows * cols;
      } else {
        data = source_.block(desc, index, row_axis_, rows, col_axis_, cols, s.source, &xs);
      }
      f(index, data, xs, rows, cols);
      if (++across < across_) continue;
      across = 0;
      if (++down < down_) continue;
      down = 0;
      walk_.next(index);
    }
  }

  // Adds those of the next part to m (Chan's formula).
  PTRT_NOINLINE void combine(Moments& m, const Moments& part) const {
    const double count = m.count + part.count, share = m.count == 0 ? 0 : 1 / m.count, other = 1 / part.count;
    const double weight = m.count * part.count / count;
    for (int64_t i = 0; i < (lanes_ ? sets_ : 1); i += WD) {
      const vd sum = load(m.sum + i), added = load(part.sum + i), d = rms_ ? vd{} : added * other - sum * share;
      store(m.sum + i, sum + added);
      store(m.squares + i, load(m.squares + i) + load(part.squares + i) + d * d * weight);
    }
    m.count = count;
  }

  PTRT_NOINLINE void measure(int64_t unit, int64_t from, int64_t to, Moments& m, const Scratch& s) const {
    const int64_t sets = lanes_ ? sets_ : 1;
    m.count = 0;
    for (int64_t i = 0; i < sets; i += WD) {
      store(m.sum + i, vd{});
      store(m.squares + i, vd{});
    }
    for_blocks(unit, from, to, false, s, [&](const int64_t*, const C* x, int64_t xs, int64_t rows, int64_t cols) {
      C sum[kRoom] = {}, mean[kRoom] = {}, squares[kRoom] = {}, differences[kRoom] = {};
      const int64_t n = lanes_ ? rows : rows * cols;
      Moments part;
      part.count = static_cast<double>(n);
      const double share = 1 / part.count;
      if (!rms_) {
        if (lanes_) column_sums<Term::value>(x, xs, rows, cols, mean, sum, differences);
        else sum[0] = block_sum<Term::value>(x, xs, rows, cols, C{0});
        for (int64_t i = 0; i < sets; i += WD) narrowed<C, double>(mean + i, widened<double>(sum + i) * share);
      }
      if (lanes_) column_sums<Term::both>(x, xs, rows, cols, mean, squares, differences);
      else squares[0] = block_sum<Term::both>(x, xs, rows, cols, mean[0], differences);
      for (int64_t i = 0; i < sets; i += WD) {
        // The mean is known to working precision only; from the differences from it, the sum and the squares are known better.
        const vd d = widened<double>(differences + i), exact = widened<double>(mean + i) * part.count + d;
        const vd q = widened<double>(squares + i) - (rms_ ? vd{} : d * d * share);
        store(part.sum + i, d == d ? exact : widened<double>(sum + i));
        store(part.squares + i, q < 0.0 ? vd{} : q);
      }
      combine(m, part);
    });
  }

  // From the moments of `width_` neighbouring columns to those of all of them together.
  void join_columns(Moments& m, int64_t columns) const {
    const double share = 1 / m.count;
    for (int64_t c = 0; c < columns; c += width_) {
      double sum = 0, squares = 0;
      for (int64_t i = c; i < c + width_; i++) sum += m.sum[i];
      for (int64_t i = c; i < c + width_; i++) {
        const double d = rms_ ? 0 : m.sum[i] * share - sum * share_;
        squares += m.squares[i] + m.count * d * d;
      }
      for (int64_t i = c; i < c + width_; i++) m.sum[i] = sum, m.squares[i] = squares;
    }
  }

  PTRT_NOINLINE void finish(int64_t unit, Moments& m, Statistics& t) const {
    int64_t index[kMaxDims] = {};
    const int64_t sets = begin(unit, index), k = lanes_ ? sets : 1;
    if (width_ > 1) join_columns(m, sets);
    means(m, k, t.mean);
    inverses(m, k, t.inv);
    statistics(1, index, t.mean, k);
    statistics(2, index, t.inv, k);
  }

  PTRT_NOINLINE void write(int64_t unit, int64_t from, int64_t to, const Statistics& t, const Scratch& s) const {
    for_blocks(unit, from, to, true, s, [&](const int64_t* index, const C* x, int64_t xs, int64_t rows, int64_t cols) {
      apply_block(index, rows, cols, x, xs, t.mean, t.inv, 0, s);
    });
  }

  bool rms_;
  double epsilon_, share_ = 1;  // share_: 1 / elements of a set
  int64_t width_;               // columns that share statistics
  Source<C> source_;
  Sink<C> sink_;
  Walk outer_, walk_;  // over units, over the blocks of a unit
  int kept_ = 0, row_axis_ = -1, col_axis_ = 0;
  // A unit is some sets, a step of it a block of rows and columns.
  int64_t set_ = 1, sets_ = 1, blocks_ = 1, tall_ = 1, wide_ = 1, down_ = 1, across_ = 1, steps_ = 1, elements_ = 1, grain_ = 1,
          segments_ = 1;
  bool lanes_ = false, rows_ = false, cached_ = false;
};

// Channels-last groups: a kept axis around a short normalised one that is contiguous. With both as one kept axis, the statistics of a
// column are those of `width` neighbours: returns how many, and 1 where it is not so.
int64_t columns_of_a_set(LaunchDesc& d, std::vector<int>& labels) {
  const int last = d.ins[0].ndim - 1;
  if (last < 2 || !labels[static_cast<size_t>(last)] || labels[static_cast<size_t>(last - 1)]) return 1;
  const int64_t width = d.ins[0].shape[last], groups = d.ins[0].shape[last - 1];
  if (width < 2 || width > kMaxSets || groups < 2) return 1;
  for (size_t k = 1; k < d.outs.size(); k++)
    if (d.outs[k].present()) return 1;
  int64_t others = 1;
  for (int a = 0; a < last - 1; a++) others *= labels[static_cast<size_t>(a)] ? d.ins[0].shape[a] : 1;
  if (others < 8) return 1;
  const auto even = [&](const Operand& o) { return !o.present() || o.ndim == 0 || o.strides[last - 1] == width * o.strides[last]; };
  const auto all = [&](const std::vector<Operand>& list) { return std::all_of(list.begin(), list.end(), even); };
  if (!all(d.ins) || !all(d.outs) || !all(d.pro_ins) || !all(d.epi_ins)) return 1;
  labels[static_cast<size_t>(last)] = 0;
  labels = canonicalise(d, labels);
  return width;
}

}  // namespace

std::unique_ptr<Kernel> make_normalize(LaunchDesc desc, BindContext&) {
  Params p = desc.params();
  const bool rms = p.i() == 1;
  std::vector<int> labels(static_cast<size_t>(desc.ins[0].ndim), 0);
  for (int64_t a : p.ints()) {
    if (a < 0 || a >= desc.ins[0].ndim) throw KernelError("normalize: axis out of range");
    labels[static_cast<size_t>(a)] = 1;
  }
  const double epsilon = p.f();
  labels = canonicalise(desc, labels);
  const int64_t width = columns_of_a_set(desc, labels);
  if (desc.ins[0].dtype == DType::f64) return std::make_unique<Normalize<double>>(std::move(desc), rms, epsilon, labels, width);
  return std::make_unique<Normalize<float>>(std::move(desc), rms, epsilon, labels, width);
}

}  // namespace ptrt::PTRT_LEVEL
