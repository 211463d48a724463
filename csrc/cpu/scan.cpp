// Cumulative sums and products along one axis; f16, bf16 and f32 run in double and are rounded once per element. `lanes`: a kept axis is
// the contiguous one, every lane runs along the axis by itself. `rows`: the axis is; a sum adds the running value to the prefix sums of a
// vector, where that gives the same integers or rounds in double what is stored as float; everything else goes element by element.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/reduce_block.h"
#include "cpu/reduce_vec.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kGrain = 8192;  // elements per task, at least
constexpr int64_t kChunk = 4096;
constexpr int64_t kCols = 256;  // columns of a block of lanes
constexpr int64_t kMaxRows = 64;

template <class C>
struct Wide {
  using type = C;
};
template <>
struct Wide<float> {
  using type = double;
};
template <>
struct Wide<int32_t> {
  using type = uint32_t;
};
template <>
struct Wide<int64_t> {
  using type = uint64_t;
};

template <class C>
class Scan final : public Kernel {
  using A = typename Wide<C>::type;
  static constexpr int L = kLanes<A>;
  using V = Vec<A>;

 public:
  Scan(LaunchDesc d, bool product, bool exclusive, bool reverse, const std::vector<int>& labels)
      : Kernel(std::move(d)), product_(product), exclusive_(exclusive), reverse_(reverse), source_(desc), sink_(desc) {
    const Operand& x = desc.ins[0];
    for (int a = 0; a < x.ndim; a++) (labels[static_cast<size_t>(a)] ? axis_ : kept_) = a;
    for (int a = 0; a < x.ndim; a++)
      if (a != axis_ && a != kept_) outer_.add(a, x.shape[a]);
    n_ = x.shape[axis_];
    lanes_ = kept_ > axis_ && x.shape[kept_] > 1;
    per_block_ = std::clamp<int64_t>(lanes_ ? kCols : kChunk / std::max<int64_t>(1, n_), 1, lanes_ ? kCols : kMaxRows);
    per_block_ = std::max<int64_t>(1, std::min(per_block_, x.shape[kept_]));
    chunk_ = std::clamp<int64_t>(n_, 1, std::max<int64_t>(1, kChunk / (lanes_ ? per_block_ : 1)));
    blocks_ = (x.shape[kept_] + per_block_ - 1) / per_block_;
    grain_ = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, n_ * per_block_));
  }

  size_t thread_scratch_bytes() const override {
    const int64_t elements = chunk_ * per_block_;
    return source_.scratch_bytes(elements) + align64(static_cast<size_t>(elements) * sizeof(C)) + sink_.scratch_bytes(elements);
  }
  std::string describe() const override { return lanes_ ? "lanes" : "rows"; }

  void run(const RunContext& ctx) override {
    const int64_t units = outer_.total * blocks_;
    if (units == 0 || n_ == 0) return;
    ctx.parallel((units + grain_ - 1) / grain_, [&](int64_t task, int worker) {
      for (int64_t u = task * grain_; u < std::min(units, (task + 1) * grain_); u++) block(u, ctx.thread_scratch(worker));
    });
  }

 private:
  template <class T>
  PTRT_INLINE T next(T total, T x) const {
    return product_ ? total * x : total + x;
  }
  static PTRT_INLINE V get(const C* p, int64_t n) {
    if (n >= L) return widened<A>(p);
    C t[L] = {};
    __builtin_memcpy(t, p, static_cast<size_t>(n) * sizeof(C));
    return widened<A>(t);
  }
  static PTRT_INLINE void put(C* p, V v, int64_t n) {
    if (n >= L) return narrowed<C, A>(p, v);
    C t[L];
    narrowed<C, A>(t, v);
    __builtin_memcpy(p, t, static_cast<size_t>(n) * sizeof(C));
  }

  void block(int64_t unit, char* scratch) const {
    const int64_t elements = chunk_ * per_block_;
    C* buffer = reinterpret_cast<C*>(scratch + source_.scratch_bytes(elements));
    char* sink_scratch = reinterpret_cast<char*>(buffer) + align64(static_cast<size_t>(elements) * sizeof(C));
    int64_t index[kMaxDims] = {};
    outer_.seek(index, unit / blocks_);
    index[kept_] = unit % blocks_ * per_block_;
    const int64_t k = std::min(per_block_, desc.ins[0].shape[kept_] - index[kept_]);
    A total[kCols + L];
    for (A& t : total) t = product_ ? A{1} : A{0};
    const int row_axis = lanes_ ? axis_ : kept_, col_axis = lanes_ ? kept_ : axis_;
    const bool direct = sink_.direct(desc, col_axis);
    const int64_t chunks = (n_ + chunk_ - 1) / chunk_;
    for (int64_t b = 0; b < chunks; b++) {
      index[axis_] = (reverse_ ? chunks - 1 - b : b) * chunk_;
      const int64_t n = std::min(chunk_, n_ - index[axis_]), rows = lanes_ ? n : k, cols = lanes_ ? k : n;
      int64_t xs = 0, ys = cols;
      const C* x = source_.block(desc, index, row_axis, rows, col_axis, cols, scratch, &xs);
      C* y = buffer;
      if (direct) {
        y = reinterpret_cast<C*>(element(desc.outs[0], index));
        ys = desc.outs[0].strides[row_axis];
      }
      if (lanes_) {
        int64_t c = 0;
        for (; c + 4 * L <= k; c += 4 * L) columns<4>(x + c, xs, n, L, total + c, y + c, ys);
        for (; c < k; c += L) columns<1>(x + c, xs, n, std::min<int64_t>(L, k - c), total + c, y + c, ys);
      } else {
        for (int64_t r = 0; r < k; r++) total[r] = row(x + r * xs, n, total[r], y + r * ys);
      }
      if (!direct) sink_.store(desc, index, row_axis, rows, col_axis, cols, y, ys, sink_scratch);
    }
  }

  // Goes on with `total` along the rows, in U vectors of columns; a single vector may have less than L columns.
  template <int U>
  void columns(const C* x, int64_t xs, int64_t rows, int64_t cols, A* total, C* y, int64_t ys) const {
    if (reverse_) {
      x += (rows - 1) * xs;
      y += (rows - 1) * ys;
      xs = -xs;
      ys = -ys;
    }
    V t[U];
    PTRT_UNROLL for (int j = 0; j < U; j++) t[j] = vload(total + j * L);
    for (int64_t r = 0; r < rows; r++, x += xs, y += ys) PTRT_UNROLL for (int j = 0; j < U; j++) {
        const V before = t[j];
        t[j] = next(before, get(x + j * L, U > 1 ? L : cols));
        put(y + j * L, exclusive_ ? before : t[j], U > 1 ? L : cols);
      }
    PTRT_UNROLL for (int j = 0; j < U; j++) vstore<A>(total + j * L, t[j]);
  }

  template <int D, int... I>
  static PTRT_INLINE V later(V v, std::integer_sequence<int, I...>) {  // every lane D lanes on, zeros before
    return __builtin_shufflevector(V{}, v, (I < D ? I : L + I - D)...);
  }
  template <int D = 1>
  static PTRT_INLINE V prefix_sums(V v) {
    if constexpr (D < L) return prefix_sums<2 * D>(v + later<D>(v, std::make_integer_sequence<int, L>()));
    else return v;
  }

  // Goes on with `total` along n contiguous elements; returns what it becomes.
  A row(const C* x, int64_t n, A total, C* y) const {
    if (!product_ && !reverse_ && !std::is_same<C, double>::value) {
      V before = vsplat(total);
      for (int64_t i = 0; i < n; i += L) {
        V v = prefix_sums(get(x + i, n - i));
        const V sum = vsplat(v[L - 1]);
        if (exclusive_) v = later<1>(v, std::make_integer_sequence<int, L>());
        put(y + i, before + v, n - i);
        before += sum;
      }
      return before[0];
    }
    const int64_t step = reverse_ ? -1 : 1, first = reverse_ ? n - 1 : 0;
    x += first;
    y += first;
    const auto run = [&](auto join) {
      for (int64_t i = 0; i < n; i++, x += step, y += step) {
        const A before = total;
        total = join(total, static_cast<A>(*x));
        *y = static_cast<C>(exclusive_ ? before : total);
      }
    };
    if (product_) run([](A a, A b) { return a * b; });
    else run([](A a, A b) { return a + b; });
    return total;
  }

  bool product_, exclusive_, reverse_;
  Source<C> source_;
  Sink<C> sink_;
  Walk outer_;
  int axis_ = 0, kept_ = 0;
  int64_t n_ = 0, chunk_ = 1, per_block_ = 1, blocks_ = 1, grain_ = 1;
  bool lanes_ = false;
};

}  // namespace

std::unique_ptr<Kernel> make_scan(LaunchDesc desc, BindContext&) {
  Params p = desc.params();
  const bool product = p.i() == 1;
  const int64_t axis = p.i();
  const bool exclusive = p.i() != 0, reverse = p.i() != 0;
  if (axis < 0 || axis >= desc.ins[0].ndim) throw KernelError("scan: axis out of range");
  std::vector<int> labels(static_cast<size_t>(desc.ins[0].ndim), 0);
  labels[static_cast<size_t>(axis)] = 1;
  labels = canonicalise(desc, labels);
  switch (desc.ins[0].dtype) {
    case DType::f32:
    case DType::f16:
    case DType::bf16: return std::make_unique<Scan<float>>(std::move(desc), product, exclusive, reverse, labels);
    case DType::f64: return std::make_unique<Scan<double>>(std::move(desc), product, exclusive, reverse, labels);
    case DType::i64:
    case DType::u64: return std::make_unique<Scan<int64_t>>(std::move(desc), product, exclusive, reverse, labels);
    default: return std::make_unique<Scan<int32_t>>(std::move(desc), product, exclusive, reverse, labels);
  }
}

}  // namespace ptrt::PTRT_LEVEL
