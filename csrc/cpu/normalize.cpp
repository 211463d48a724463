// layer and rms normalisation over any subset of axes. Three ways: `rows` (one contiguous reduced axis: blocks of whole rows), `lanes` (a
// kept axis is the contiguous one: every lane has statistics of its own), `pieces` (anything else: a set of equal runs). Variance is
// two-pass.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/reduce_block.h"
#include "cpu/reduce_vec.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kGrain = 16384;   // elements per task, at least
constexpr int64_t kChunk = 4096;    // elements summed in one go in working precision; longer sums go on in double
constexpr int64_t kCached = 65536;  // sets of up to this size are evaluated once, larger ones once per pass
constexpr int64_t kLaneCols = 64;

// Sum of x (kSquare: of (x - shift)^2) over at most kChunk elements.
template <class C, bool kSquare>
C chunk_sum(const C* x, int64_t n, C shift) {
  constexpr int L = kLanes<C>;
  Vec<C> s[4] = {};
  const Vec<C> vs = vsplat(shift);
  auto term = [&](Vec<C> v) {
    v -= vs;
    return kSquare ? v * v : v;
  };
  int64_t i = 0;
  if (kSquare) {
    for (; i + 4 * L <= n; i += 4 * L) PTRT_UNROLL for (int j = 0; j < 4; j++) s[j] += term(vload(x + i + j * L));
    for (; i + L <= n; i += L) s[0] += term(vload(x + i));
  } else {
    for (; i + 4 * L <= n; i += 4 * L) PTRT_UNROLL for (int j = 0; j < 4; j++) s[j] += vload(x + i + j * L);
    for (; i + L <= n; i += L) s[0] += vload(x + i);
  }
  C total = sum_lanes((s[0] + s[1]) + (s[2] + s[3]));
  for (; i < n; i++) {
    const C d = kSquare ? x[i] - shift : x[i];
    total += kSquare ? d * d : d;
  }
  return total;
}

template <class C, bool kSquare>
double row_sum(const C* x, int64_t n, C shift) {
  double total = 0;
  for (int64_t i = 0; i < n; i += kChunk) total += chunk_sum<C, kSquare>(x + i, std::min(kChunk, n - i), shift);
  return total;
}

// scale or bias along a run: one value for all of it, a vector, or absent.
template <class C>
struct Factor {
  const C* p = nullptr;
  int64_t step = 0;  // 0 or 1
};

template <class C, bool kScale, bool kBias>
void apply_vectors(const C* x, int64_t n, C mean, C inv, const C* scale, const C* bias, C* y) {
  constexpr int L = kLanes<C>;
  const Vec<C> vm = vsplat(mean), vi = vsplat(inv);
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    Vec<C> v = (vload(x + i) - vm) * vi;
    if (kScale) v = v * vload(scale + i);
    if (kBias) v = v + vload(bias + i);
    vstore<C>(y + i, v);
  }
  for (; i < n; i++) {
    C v = (x[i] - mean) * inv;
    if (kScale) v = v * scale[i];
    if (kBias) v = v + bias[i];
    y[i] = v;
  }
}

template <class C>
void apply_row(const C* x, int64_t n, C mean, C inv, Factor<C> scale, Factor<C> bias, C* y) {
  if ((!scale.p || scale.step) && (!bias.p || bias.step)) {
    if (scale.p && bias.p) apply_vectors<C, true, true>(x, n, mean, inv, scale.p, bias.p, y);
    else if (scale.p) apply_vectors<C, true, false>(x, n, mean, inv, scale.p, bias.p, y);
    else if (bias.p) apply_vectors<C, false, true>(x, n, mean, inv, scale.p, bias.p, y);
    else apply_vectors<C, false, false>(x, n, mean, inv, scale.p, bias.p, y);
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    C v = (x[i] - mean) * inv;
    if (scale.p) v = v * scale.p[i * scale.step];
    if (bias.p) v = v + bias.p[i * bias.step];
    y[i] = v;
  }
}

template <class C>
class Normalize final : public Kernel {
 public:
  Normalize(LaunchDesc d, bool rms, double epsilon, const std::vector<int>& labels)
      : Kernel(std::move(d)), rms_(rms), epsilon_(epsilon), source_(desc), sink_(desc) {
    const Operand& x = desc.ins[0];
    for (int a = 0; a < x.ndim; a++) (labels[static_cast<size_t>(a)] ? last_ : kept_) = a;
    for (int a = 0; a < x.ndim; a++)
      if (labels[static_cast<size_t>(a)] == 0 && a != kept_) outer_.add(a, x.shape[a]);
      else if (labels[static_cast<size_t>(a)] == 1 && a != last_) reduced_.add(a, x.shape[a]);
    n_ = x.shape[last_];
    set_ = n_ * reduced_.total;
    const int64_t k = x.shape[kept_];
    lanes_ = kept_ > last_ && k >= kLanes<C> / 2;
    rows_ = !lanes_ && reduced_.n == 0 && (n_ <= kCached || (source_.direct(desc, last_) && sink_.direct(desc, last_)));
    if (rows_) {
      per_block_ = std::clamp<int64_t>(4096 / std::max<int64_t>(n_, 1), 1, 64);
      elements_ = source_.direct(desc, last_) && sink_.direct(desc, last_) ? 1 : std::max<int64_t>(1, per_block_ * n_);
    } else if (lanes_) {
      per_block_ = kLaneCols;
      chunk_ = std::min<int64_t>(std::max<int64_t>(n_, 1), 64);
      elements_ = chunk_ * kLaneCols;
    } else {
      chunk_ = std::min<int64_t>(std::max<int64_t>(n_, 1), kChunk);
      elements_ = chunk_;
      cached_ = !source_.direct(desc, last_) && set_ <= kCached;
    }
    per_block_ = std::max<int64_t>(1, std::min(per_block_, k));
    blocks_ = (k + per_block_ - 1) / per_block_;
    grain_ = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, set_ * per_block_));
  }

  size_t thread_scratch_bytes() const override {
    return source_.scratch_bytes(elements_) + sink_.scratch_bytes(elements_) + align64(static_cast<size_t>(elements_) * sizeof(C)) +
           2 * factor_bytes() + (cached_ ? align64(static_cast<size_t>(set_) * sizeof(C)) : 0);
  }

  PTRT_COLD std::string describe() const override { return rows_ ? "rows" : lanes_ ? "lanes" : "pieces"; }

  void run(const RunContext& ctx) override {
    const int64_t units = outer_.total * blocks_;
    if (units == 0) return;
    ctx.parallel((units + grain_ - 1) / grain_, [&](int64_t task, int worker) {
      Scratch s;
      s.source = ctx.thread_scratch(worker);
      s.sink = s.source + source_.scratch_bytes(elements_);
      s.buffer = reinterpret_cast<C*>(s.sink + sink_.scratch_bytes(elements_));
      char* p = reinterpret_cast<char*>(s.buffer) + align64(static_cast<size_t>(elements_) * sizeof(C));
      for (auto& f : s.factor) {
        f = reinterpret_cast<C*>(p);
        p += factor_bytes();
      }
      s.cache = reinterpret_cast<C*>(p);
      for (int64_t u = task * grain_; u < std::min(units, (task + 1) * grain_); u++) {
        int64_t index[kMaxDims] = {};
        outer_.seek(index, u / blocks_);
        index[kept_] = u % blocks_ * per_block_;
        const int64_t k = std::min(per_block_, desc.ins[0].shape[kept_] - index[kept_]);
        if (rows_) row_block(index, k, s);
        else if (lanes_) lane_block(index, k, s);
        else
          for (int64_t r = 0; r < k; r++, index[kept_]++) pieces(index, s);
      }
    });
  }

 private:
  struct Scratch {
    char *source, *sink;
    C *buffer, *factor[2], *cache;
  };

  size_t factor_bytes() const { return align64(static_cast<size_t>(std::max<int64_t>({n_ * rows_, chunk_, kLaneCols})) * sizeof(C)); }

  // Operand 1 (scale) or 2 (bias) along an axis at `index`. `keep`: what the scratch holds is still right.
  Factor<C> factor(int k, const int64_t* index, int axis, int64_t n, C* scratch, bool keep) const {
    if (desc.ins.size() <= static_cast<size_t>(k) || !desc.ins[static_cast<size_t>(k)].present()) return {};
    const Operand& o = desc.ins[static_cast<size_t>(k)];
    const int64_t stride = o.strides[axis];
    if (o.dtype == dtype_of<C>() && (stride == 1 || stride == 0)) return {reinterpret_cast<const C*>(element(o, index)), stride};
    if (!keep) convert_in(o.dtype, element(o, index), stride, stride == 0 ? 1 : n, scratch);
    return {scratch, stride != 0};
  }
  bool fixed(int k, int axis) const {
    return desc.ins.size() > static_cast<size_t>(k) && desc.ins[static_cast<size_t>(k)].strides[axis] == 0;
  }

  void statistics(int out, const int64_t* index, C value) const {
    if (desc.outs.size() <= static_cast<size_t>(out) || !desc.outs[static_cast<size_t>(out)].present()) return;
    const Operand& o = desc.outs[static_cast<size_t>(out)];
    convert_out(o.dtype, &value, 1, element(o, index), 1);
  }

  C inverse(double sum_of_squares) const { return static_cast<C>(1.0 / std::sqrt(sum_of_squares / static_cast<double>(set_) + epsilon_)); }

  void row_block(int64_t* index, int64_t k, Scratch& s) const {
    if (n_ == 0 && !has_statistics()) return;
    int64_t xs, ys = n_;
    const C* x = source_.block(desc, index, kept_, k, last_, n_, s.source, &xs);
    const bool direct = sink_.direct(desc, last_);
    C* y = s.buffer;
    if (direct) {
      y = reinterpret_cast<C*>(element(desc.outs[0], index));
      ys = desc.outs[0].strides[kept_];
    }
    const int64_t first = index[kept_];
    for (int64_t r = 0; r < k; r++, index[kept_]++) {
      const C mean = rms_ ? C{0} : static_cast<C>(row_sum<C, false>(x + r * xs, n_, C{0}) / static_cast<double>(n_));
      const C inv = inverse(row_sum<C, true>(x + r * xs, n_, mean));
      const Factor<C> scale = factor(1, index, last_, n_, s.factor[0], r > 0 && fixed(1, kept_));
      const Factor<C> bias = factor(2, index, last_, n_, s.factor[1], r > 0 && fixed(2, kept_));
      apply_row(x + r * xs, n_, mean, inv, scale, bias, y + r * ys);
      statistics(1, index, mean);
      statistics(2, index, inv);
    }
    index[kept_] = first;
    if (!direct) sink_.store(desc, index, kept_, k, last_, n_, y, ys, s.sink);
  }

  bool has_statistics() const { return desc.outs.size() > 1; }

  // Calls f(data, index, n) for every run of the set at `index`, in order. `pass`: 0 fills the cache.
  template <class F>
  void for_pieces(int64_t* index, int pass, const Scratch& s, F&& f) const {
    C* cache = s.cache;
    for (int64_t p = 0; p < reduced_.total; p++) {
      for (int64_t i = 0; i < n_; i += chunk_) {
        const int64_t n = std::min(chunk_, n_ - i);
        index[last_] = i;
        const C* data;
        int64_t step;
        if (cached_) {
          if (pass == 0) source_.fill(desc, index, -1, 1, last_, n, cache, s.source);
          data = cache;
          cache += n;
        } else {
          data = source_.block(desc, index, -1, 1, last_, n, s.source, &step);
        }
        f(data, n);
      }
      reduced_.next(index);
    }
    index[last_] = 0;
  }

  void pieces(int64_t* index, Scratch& s) const {
    double total = 0;
    C mean = 0;
    int pass = 0;
    if (!rms_) {
      for_pieces(index, pass++, s, [&](const C* x, int64_t n) { total += chunk_sum<C, false>(x, n, C{0}); });
      mean = static_cast<C>(total / static_cast<double>(set_));
      total = 0;
    }
    for_pieces(index, pass++, s, [&](const C* x, int64_t n) { total += chunk_sum<C, true>(x, n, mean); });
    const C inv = inverse(total);
    const bool direct = sink_.direct(desc, last_);
    for_pieces(index, pass, s, [&](const C* x, int64_t n) {
      const Factor<C> scale = factor(1, index, last_, n, s.factor[0], false), bias = factor(2, index, last_, n, s.factor[1], false);
      C* y = direct ? reinterpret_cast<C*>(element(desc.outs[0], index)) : s.buffer;
      apply_row(x, n, mean, inv, scale, bias, y);
      if (!direct) sink_.store(desc, index, -1, 1, last_, n, y, n, s.sink);
    });
    statistics(1, index, mean);
    statistics(2, index, inv);
  }

  // Calls f(data, row stride, rows) for every block of the sets of `k` neighbouring columns.
  template <class F>
  void for_lanes(int64_t* index, int64_t k, const Scratch& s, F&& f) const {
    for (int64_t p = 0; p < reduced_.total; p++) {
      for (int64_t i = 0; i < n_; i += chunk_) {
        index[last_] = i;
        int64_t xs;
        const int64_t rows = std::min(chunk_, n_ - i);
        const C* x = source_.block(desc, index, last_, rows, kept_, k, s.source, &xs);
        f(x, xs, rows);
      }
      reduced_.next(index);
    }
    index[last_] = 0;
  }

  void lane_block(int64_t* index, int64_t k, Scratch& s) const {
    constexpr int L = kLanes<C>;
    double total[kLaneCols];
    C mean[kLaneCols] = {}, inv[kLaneCols];
    auto sums = [&](auto term) {
      for (double& t : total) t = 0;
      for_lanes(index, k, s, [&](const C* x, int64_t xs, int64_t rows) {
        int64_t c = 0;
        for (; c + L <= k; c += L) {
          Vec<C> sum = {};
          const Vec<C> m = vload(mean + c);
          for (int64_t r = 0; r < rows; r++) sum += term(vload(x + r * xs + c) - m);
          for (int l = 0; l < L; l++) total[c + l] += sum[l];
        }
        for (; c < k; c++) {
          C sum = 0;
          for (int64_t r = 0; r < rows; r++) sum += term(x[r * xs + c] - mean[c]);
          total[c] += sum;
        }
      });
    };
    if (!rms_) {
      sums([](auto v) { return v; });
      for (int64_t c = 0; c < k; c++) mean[c] = static_cast<C>(total[c] / static_cast<double>(set_));
    }
    sums([](auto v) { return v * v; });
    for (int64_t c = 0; c < k; c++) inv[c] = inverse(total[c]);
    const bool direct = sink_.direct(desc, kept_);
    bool first = true;
    for_lanes(index, k, s, [&](const C* x, int64_t xs, int64_t rows) {
      C* y = s.buffer;
      int64_t ys = k;
      if (direct) {
        y = reinterpret_cast<C*>(element(desc.outs[0], index));
        ys = desc.outs[0].strides[last_];
      }
      const int64_t begin = index[last_];
      for (int64_t r = 0; r < rows; r++, index[last_]++) {
        const Factor<C> scale = lane_factor(1, index, k, s.factor[0], !first), bias = lane_factor(2, index, k, s.factor[1], !first);
        first = false;
        const C* row = x + r * xs;
        C* out = y + r * ys;
        int64_t c = 0;
        for (; c + L <= k; c += L) {
          Vec<C> v = (vload(row + c) - vload(mean + c)) * vload(inv + c);
          if (scale.p) v = v * vload(scale.p + c);
          if (bias.p) v = v + vload(bias.p + c);
          vstore<C>(out + c, v);
        }
        for (; c < k; c++) {
          C v = (row[c] - mean[c]) * inv[c];
          if (scale.p) v = v * scale.p[c];
          if (bias.p) v = v + bias.p[c];
          out[c] = v;
        }
      }
      index[last_] = begin;
      if (!direct) sink_.store(desc, index, last_, rows, kept_, k, y, ys, s.sink);
    });
    const int64_t begin = index[kept_];
    for (int64_t c = 0; c < k; c++, index[kept_]++) {
      statistics(1, index, mean[c]);
      statistics(2, index, inv[c]);
    }
    index[kept_] = begin;
  }

  // Like factor(), but always a vector along the kept axis; kept in scratch while no reduced axis moves it.
  Factor<C> lane_factor(int k, const int64_t* index, int64_t n, C* scratch, bool later) const {
    if (desc.ins.size() <= static_cast<size_t>(k) || !desc.ins[static_cast<size_t>(k)].present()) return {};
    const Operand& o = desc.ins[static_cast<size_t>(k)];
    if (o.dtype == dtype_of<C>() && o.strides[kept_] == 1) return {reinterpret_cast<const C*>(element(o, index)), 1};
    bool moves = o.strides[last_] != 0;
    for (int i = 0; i < reduced_.n; i++) moves = moves || o.strides[reduced_.axis[i]] != 0;
    if (moves || !later) convert_in(o.dtype, element(o, index), o.strides[kept_], n, scratch);
    return {scratch, 1};
  }

  bool rms_;
  double epsilon_;
  Source<C> source_;
  Sink<C> sink_;
  Walk outer_, reduced_;
  int kept_ = 0, last_ = 0;
  int64_t n_ = 0, set_ = 0, per_block_ = 1, blocks_ = 1, elements_ = 1, chunk_ = 1, grain_ = 1;
  bool lanes_ = false, rows_ = false, cached_ = false;
};

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
  if (desc.ins[0].dtype == DType::f64) return std::make_unique<Normalize<double>>(std::move(desc), rms, epsilon, labels);
  return std::make_unique<Normalize<float>>(std::move(desc), rms, epsilon, labels);
}

}  // namespace ptrt::PTRT_LEVEL
