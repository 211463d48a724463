// Cumulative sums and products along one axis, in index order; f16, bf16 and f32 run in double and are rounded once per element.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/reduce_block.h"
#include "cpu/reduce_vec.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kGrain = 8192;  // elements per task, at least
constexpr int64_t kCols = 64;

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

 public:
  Scan(LaunchDesc d, bool product, bool exclusive, bool reverse, const std::vector<int>& labels)
      : Kernel(std::move(d)), product_(product), exclusive_(exclusive), reverse_(reverse), source_(desc), sink_(desc) {
    const Operand& x = desc.ins[0];
    for (int a = 0; a < x.ndim; a++) (labels[static_cast<size_t>(a)] ? axis_ : kept_) = a;
    for (int a = 0; a < x.ndim; a++)
      if (a != axis_ && a != kept_) outer_.add(a, x.shape[a]);
    n_ = x.shape[axis_];
    lanes_ = kept_ > axis_ && x.shape[kept_] > 1;
    chunk_ = std::clamp<int64_t>(n_, 1, lanes_ ? 64 : 4096);
    per_block_ = lanes_ ? std::min(kCols, x.shape[kept_]) : 1;
    per_block_ = std::max<int64_t>(1, per_block_);
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
  void block(int64_t unit, char* scratch) const {
    C* out = reinterpret_cast<C*>(scratch + source_.scratch_bytes(chunk_ * per_block_));
    char* sink_scratch = reinterpret_cast<char*>(out) + align64(static_cast<size_t>(chunk_ * per_block_) * sizeof(C));
    int64_t index[kMaxDims] = {};
    outer_.seek(index, unit / blocks_);
    index[kept_] = unit % blocks_ * per_block_;
    const int64_t k = std::min(per_block_, desc.ins[0].shape[kept_] - index[kept_]);
    A total[kCols];
    for (int64_t c = 0; c < k; c++) total[c] = product_ ? A{1} : A{0};
    const int64_t chunks = (n_ + chunk_ - 1) / chunk_;
    for (int64_t b = 0; b < chunks; b++) {
      const int64_t begin = (reverse_ ? chunks - 1 - b : b) * chunk_, n = std::min(chunk_, n_ - begin);
      index[axis_] = begin;
      int64_t stride = 0;
      const int row_axis = lanes_ ? axis_ : -1, col_axis = lanes_ ? kept_ : axis_;
      const C* x = source_.block(desc, index, row_axis, lanes_ ? n : 1, col_axis, lanes_ ? k : n, scratch, &stride);
      const int64_t step = lanes_ ? stride : 1;
      if (k == 1) {  // the running value stays in a register
        A sum = total[0];
        for (int64_t r = 0; r < n; r++) {
          const int64_t i = reverse_ ? n - 1 - r : r;
          const A before = sum;
          sum = product_ ? before * static_cast<A>(x[i * step]) : before + static_cast<A>(x[i * step]);
          out[i] = static_cast<C>(exclusive_ ? before : sum);
        }
        total[0] = sum;
      }
      for (int64_t r = 0; r < n && k > 1; r++) {
        const int64_t i = reverse_ ? n - 1 - r : r;
        const C* from = x + i * step;
        C* to = out + i * k;
        for (int64_t c = 0; c < k; c++) {
          const A before = total[c];
          total[c] = product_ ? before * static_cast<A>(from[c]) : before + static_cast<A>(from[c]);
          to[c] = static_cast<C>(exclusive_ ? before : total[c]);
        }
      }
      sink_.store(desc, index, row_axis, lanes_ ? n : 1, col_axis, lanes_ ? k : n, out, lanes_ ? k : n, sink_scratch);
    }
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
    case DType::u64: return std::make_unique<Scan<uint64_t>>(std::move(desc), product, exclusive, reverse, labels);
    case DType::i64:
    case DType::u32: return std::make_unique<Scan<int64_t>>(std::move(desc), product, exclusive, reverse, labels);
    default: return std::make_unique<Scan<int32_t>>(std::move(desc), product, exclusive, reverse, labels);
  }
}

}  // namespace ptrt::PTRT_LEVEL
