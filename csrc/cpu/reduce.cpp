// Reductions over any axes. `rows`: the contiguous axis is reduced, each vector lane takes part in one sum. `lanes`: the contiguous axis is
// kept, each lane is a sum of its own. Sums are taken in working precision over short stretches and in double from there on, in an order
// that depends on shapes and strides alone; long reductions with few results are cut into fixed segments for the threads.
#include <algorithm>

#include "core/vocabulary.h"
#include "cpu/kernels.h"
#include "cpu/reduce_block.h"
#include "cpu/reduce_pairs.h"
#include "cpu/reduce_steps.h"
#include "cpu/turn_rows.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kGrain = 16384;  // elements per task, at least
constexpr int64_t kChunk = 4096;   // longest stretch of a row in working precision
constexpr int64_t kLaneRows = 32;  // the same for lanes
constexpr int64_t kLaneCols = 256;
constexpr int64_t kMaxRows = 256;
constexpr int64_t kShortest = 8;  // rows of at most so many elements (kinds with exponentials: kShortExp) are turned into lanes
constexpr int64_t kShortExp = 32;
constexpr int64_t kFewElements = 1024;  // of a block: its set-up costs more
constexpr int64_t kSegment = 1 << 16;   // elements per segment, at least

// The same for each of `cols` columns, over all rows.
template <Kind K, class C>
PTRT_NOINLINE void lane_partial(const C* p, int64_t stride, int64_t rows, int64_t cols, Acc<C>* acc, const C* shift, bool fresh) {
  constexpr int L = kLanes<C>;
  constexpr bool nans = is_extreme<K>() && std::is_floating_point<C>::value;
  using V = Vec<C>;
  const C fill = K == Kind::exp ? static_cast<C>(-std::numeric_limits<C>::infinity()) : neutral<K, C>();
  auto columns = [&](int64_t c, auto count, int64_t n) __attribute__((always_inline)) {
    constexpr int U = decltype(count)::value;
    V a[U], s[U];
    PTRT_UNROLL for (int j = 0; j < U; j++) {
      a[j] = vsplat(neutral<K, C>());
      s[j] = K == Kind::exp ? vload(shift + c + j * L) : V{};
    }
    Mask<C> bad[U] = {};
    for (int64_t r = 0; r < rows; r++) PTRT_UNROLL for (int j = 0; j < U; j++) {
        const C* q = p + r * stride + c + j * L;
        const V x = U > 1 || n >= L ? vload(q) : vload_n(q, static_cast<int>(n), fill);
        step<K>(a[j], x, s[j]);
        if constexpr (nans) bad[j] |= x != x;
      }
    PTRT_UNROLL for (int j = 0; j < U; j++) {
      if constexpr (nans) a[j] = bad[j] ? vsplat(std::numeric_limits<C>::quiet_NaN()) : a[j];
      join_lanes<K, C>(acc + c + j * L, a[j], fresh);
    }
  };
  int64_t c = 0;
  for (; c + 4 * L <= cols; c += 4 * L) columns(c, std::integral_constant<int, 4>(), 4 * L);
  for (; c < cols; c += L) columns(c, std::integral_constant<int, 1>(), cols - c);
}

template <class C>
C from_double(double x) {
  if constexpr (std::is_floating_point<C>::value) return static_cast<C>(x);
  using L = std::numeric_limits<C>;
  if (!(x > static_cast<double>(L::lowest()))) return L::lowest();
  return x >= static_cast<double>(L::max()) ? L::max() : static_cast<C>(x);
}

template <class C>
class Reduce final : public Kernel {
  using A = Acc<C>;

 public:
  Reduce(LaunchDesc d, ReduceOp op, const std::vector<int>& labels) : Kernel(std::move(d)), op_(op), source_(desc), sink_(desc) {
    const Operand& x = desc.ins[0];
    for (int a = 0; a < x.ndim; a++) (labels[static_cast<size_t>(a)] ? last_ : kept_) = a;
    if (kept_ < last_ && x.shape[kept_] * x.shape[last_] < kFewElements)  // blocks of rows along the axis that has most of them
      for (int a = 0; a < x.ndim; a++)
        if (labels[static_cast<size_t>(a)] == 0 && x.shape[a] > x.shape[kept_]) kept_ = a;
    for (int a = 0; a < x.ndim; a++)
      if (labels[static_cast<size_t>(a)] == 0 && a != kept_) outer_.add(a, x.shape[a]);
      else if (labels[static_cast<size_t>(a)] == 1 && a != last_) reduced_.add(a, x.shape[a]);
    n_ = x.shape[last_];
    count_ = n_ * reduced_.total;
    const int64_t k = x.shape[kept_];
    lanes_ = kept_ > last_ ? !(k < 8 && n_ >= 32) : n_ < 8 && k >= 16 && !source_.direct(desc, last_);
    if (lanes_) {
      chunk_ = std::clamp<int64_t>(n_, 1, kLaneRows);
      per_block_ = kLaneCols;
    } else {
      chunk_ = std::clamp<int64_t>(n_, 1, kChunk);
      per_block_ = std::clamp<int64_t>(kChunk / chunk_, 1, kMaxRows);
      if (per_block_ > kLanes<C>) per_block_ -= per_block_ % kLanes<C>;
    }
    turned_ = !lanes_ && k >= kLanes<C> / 2 && n_ <= (op_ == ReduceOp::log_sum_exp_ ? kShortExp : kShortest);
    if (turned_) per_block_ = kMaxRows / 2;
    per_block_ = std::max<int64_t>(1, std::min(per_block_, k));
    room_ = (per_block_ + kLanes<C> - 1) / kLanes<C> * kLanes<C>;
    elements_ = chunk_ * per_block_;
    blocks_ = (k + per_block_ - 1) / per_block_;
    chunks_ = (n_ + chunk_ - 1) / chunk_;
    steps_ = reduced_.total * chunks_;
    const int64_t units = outer_.total * blocks_, work = count_ * per_block_;
    grain_ = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, work));
    if (units < 8 && work >= 2 * kSegment && op_ != ReduceOp::log_sum_exp_) segments_ = std::min<int64_t>({work / kSegment, steps_, 64});
  }

  size_t thread_scratch_bytes() const override {
    return source_.scratch_bytes(elements_) + sink_.scratch_bytes(per_block_) + acc_bytes() + 2 * result_bytes() +
           (turned_ ? static_cast<size_t>(n_ * room_) * sizeof(C) : 0);
  }
  size_t shared_scratch_bytes() const override {
    return segments_ > 1 ? static_cast<size_t>(outer_.total * blocks_ * segments_ * room_) * sizeof(A) : 0;
  }
  std::string describe() const override { return lanes_ ? "lanes" : turned_ ? "short rows" : "rows"; }

  void run(const RunContext& ctx) override {
    const int64_t units = outer_.total * blocks_;
    if (units == 0) return;
    if (segments_ > 1) {
      A* partials = reinterpret_cast<A*>(ctx.shared_scratch);
      ctx.parallel(units * segments_, [&](int64_t task, int worker) {
        const int64_t s = task % segments_;
        accumulate(task / segments_, steps_ * s / segments_, steps_ * (s + 1) / segments_, partials + task * room_, nullptr,
                   ctx.thread_scratch(worker));
      });
      for (int64_t u = 0; u < units; u++) {
        A* first = partials + u * segments_ * room_;
        for (int64_t s = 1; s < segments_; s++)
          for (int64_t i = 0; i < per_block_; i++) first[i] = join_op(first[i], first[s * room_ + i]);
        finish(u, first, nullptr, ctx.thread_scratch(0));
      }
      return;
    }
    ctx.parallel((units + grain_ - 1) / grain_, [&](int64_t task, int worker) {
      char* scratch = ctx.thread_scratch(worker);
      A* acc = reinterpret_cast<A*>(scratch + source_.scratch_bytes(elements_) + sink_.scratch_bytes(per_block_));
      C* shift = reinterpret_cast<C*>(reinterpret_cast<char*>(acc) + acc_bytes() + result_bytes());
      for (int64_t u = task * grain_; u < std::min(units, (task + 1) * grain_); u++) {
        if constexpr (std::is_floating_point<C>::value) {
          if (op_ == ReduceOp::log_sum_exp_) {
            sweep<Kind::max>(u, 0, steps_, acc, nullptr, scratch);
            for (int64_t i = 0; i < per_block_; i++) shift[i] = std::isinf(acc[i]) ? C{0} : static_cast<C>(acc[i]);
          }
        }
        accumulate(u, 0, steps_, acc, shift, scratch);
        finish(u, acc, shift, scratch);
      }
    });
  }

 private:
  size_t acc_bytes() const { return align64(static_cast<size_t>(room_) * sizeof(A)); }
  size_t result_bytes() const { return align64(static_cast<size_t>(room_) * sizeof(C)); }

  A join_op(A a, A b) const {
    if (op_ == ReduceOp::max_) return join<Kind::max, A>(a, b);
    if (op_ == ReduceOp::min_) return join<Kind::min, A>(a, b);
    if (op_ == ReduceOp::prod_) return join<Kind::prod, A>(a, b);
    return join<Kind::sum, A>(a, b);
  }

  int64_t begin(int64_t unit, int64_t* index) const {
    outer_.seek(index, unit / blocks_);
    index[kept_] = unit % blocks_ * per_block_;
    return std::min(per_block_, desc.ins[0].shape[kept_] - index[kept_]);
  }

  void accumulate(int64_t unit, int64_t from, int64_t to, A* acc, const C* shift, char* scratch) const {
    switch (op_) {
      case ReduceOp::max_: return sweep<Kind::max>(unit, from, to, acc, shift, scratch);
      case ReduceOp::min_: return sweep<Kind::min>(unit, from, to, acc, shift, scratch);
      case ReduceOp::prod_: return sweep<Kind::prod>(unit, from, to, acc, shift, scratch);
      case ReduceOp::l1_: return sweep<std::is_unsigned<C>::value ? Kind::sum : Kind::abs>(unit, from, to, acc, shift, scratch);
      case ReduceOp::l2_:
      case ReduceOp::sum_square_: return sweep<Kind::square>(unit, from, to, acc, shift, scratch);
      case ReduceOp::log_sum_exp_:
        if constexpr (std::is_floating_point<C>::value) return sweep<Kind::exp>(unit, from, to, acc, shift, scratch);
        return;
      default: return sweep<Kind::sum>(unit, from, to, acc, shift, scratch);
    }
  }

  // Reduces steps [from, to) of a unit (its runs of the reduced axes, chunk by chunk) into acc[0 .. per_block).
  template <Kind K>
  void sweep(int64_t unit, int64_t from, int64_t to, A* acc, const C* shift, char* scratch) const {
    int64_t index[kMaxDims] = {};
    const int64_t k = begin(unit, index);
    for (int64_t i = 0; i < per_block_ && from >= to; i++) acc[i] = neutral<K, A>();
    if (from >= to) return;
    using E = Element<K, C>;
    auto* total = reinterpret_cast<Acc<E>*>(acc);
    auto* shifts = reinterpret_cast<const E*>(shift);
    reduced_.seek(index, from / chunks_);
    int64_t chunk = from % chunks_;
    for (int64_t s = from; s < to; s++) {
      index[last_] = chunk * chunk_;
      const int64_t n = std::min(chunk_, n_ - index[last_]);
      int64_t stride;
      const C* data = lanes_ ? source_.block(desc, index, last_, n, kept_, k, scratch, &stride)
                             : source_.block(desc, index, kept_, k, last_, n, scratch, &stride);
      auto* x = reinterpret_cast<const E*>(data);
      const bool fresh = s == from;
      if (turned_) {
        C* turned = reinterpret_cast<C*>(scratch + source_.scratch_bytes(elements_) + sink_.scratch_bytes(per_block_) + acc_bytes() +
                                         2 * result_bytes());
        rows_to_lanes(data, stride, k, n, turned, room_);
        lane_partial<K>(reinterpret_cast<const E*>(turned), room_, n, (k + kLanes<C> - 1) / kLanes<C> * kLanes<C>, total, shifts, fresh);
      } else if (lanes_) lane_partial<K>(x, stride, n, k, total, shifts, fresh);
      else if (n <= kShortRow<C>) short_rows<K>(x, stride, k, n, total, shifts, fresh);
      else
        for (int64_t r = 0; r < k; r++) {
          const Acc<E> v = row_partial<K>(x + r * stride, n, K == Kind::exp ? shifts[r] : E{0});
          total[r] = fresh ? v : join<K, Acc<E>>(total[r], v);
        }
      if (++chunk == chunks_) {
        chunk = 0;
        reduced_.next(index);
      }
    }
  }

  C result(A a) const {  // of integers
    switch (op_) {
      case ReduceOp::mean_: return count_ ? static_cast<C>(a / static_cast<A>(count_)) : C{0};
      case ReduceOp::l2_: return from_double<C>(std::sqrt(static_cast<double>(a)));
      default: return from_double<C>(std::log(static_cast<double>(a)));
    }
  }

  void finish(int64_t unit, const A* acc, const C* shift, char* scratch) const {
    int64_t index[kMaxDims] = {};
    const int64_t k = begin(unit, index);
    char* sink_scratch = scratch + source_.scratch_bytes(elements_);
    C* out = reinterpret_cast<C*>(sink_scratch + sink_.scratch_bytes(per_block_) + acc_bytes());
    if (count_ == 0 && !std::is_floating_point<C>::value && (op_ == ReduceOp::max_ || op_ == ReduceOp::min_)) {
      for (int64_t i = 0; i < k; i++) out[i] = extreme(desc.acc_dtype);
    } else if (op_ == ReduceOp::mean_ && std::is_floating_point<C>::value) {
      const A share = 1 / static_cast<A>(count_);  // of floats, in double: what is lost does not reach the result's precision
      for (int64_t i = 0; i < k; i += kLanes<A>) {
        const Vec<A> v = vload(acc + i);
        narrowed<C, A>(out + i, sizeof(C) < sizeof(A) ? v * share : v / static_cast<A>(count_));
      }
    } else if (op_ == ReduceOp::l2_ || op_ == ReduceOp::mean_ || op_ == ReduceOp::log_sum_ || op_ == ReduceOp::log_sum_exp_) {
      if constexpr (std::is_same<A, double>::value) {
        for (int64_t i = 0; i < k; i += kLanes<A>) {
          vd v = vload(acc + i);
          v = op_ == ReduceOp::l2_ ? vsqrt(v) : vlog(v);
          narrowed<C, A>(out + i, op_ == ReduceOp::log_sum_exp_ ? v + widened<double>(shift + i) : v);
        }
      } else {
        for (int64_t i = 0; i < k; i++) out[i] = result(acc[i]);
      }
    } else {
      for (int64_t i = 0; i < k; i += kLanes<A>) narrowed<C, A>(out + i, vload(acc + i));
    }
    sink_.store(desc, index, -1, 1, kept_, k, out, k, sink_scratch);
  }

  template <class T>
  C bound() const {
    return static_cast<C>(op_ == ReduceOp::max_ ? std::numeric_limits<T>::lowest() : std::numeric_limits<T>::max());
  }
  C extreme(DType t) const {  // the neutral element of max or min in an integer dtype
    switch (t) {
      case DType::i8: return bound<int8_t>();
      case DType::u8: return bound<uint8_t>();
      case DType::i16: return bound<int16_t>();
      case DType::u16: return bound<uint16_t>();
      case DType::i32: return bound<int32_t>();
      case DType::u32: return bound<uint32_t>();
      case DType::boolean: return bound<bool>();
      default: return bound<C>();
    }
  }

  ReduceOp op_;
  Source<C> source_;
  Sink<C> sink_;
  Walk outer_, reduced_;
  int kept_ = 0, last_ = 0;
  int64_t n_ = 0, count_ = 0, chunk_ = 1, chunks_ = 1, steps_ = 1, per_block_ = 1, room_ = 1, blocks_ = 1, elements_ = 1, grain_ = 1,
          segments_ = 1;
  bool lanes_ = false, turned_ = false;
};

}  // namespace

std::unique_ptr<Kernel> make_reduce(LaunchDesc desc, BindContext&) {
  Params p = desc.params();
  const int64_t code = p.i();
  if (code < 0 || code > static_cast<int64_t>(ReduceOp::sum_square_)) throw KernelError("reduce: bad operation");
  const auto op = static_cast<ReduceOp>(code);
  std::vector<int> labels(static_cast<size_t>(desc.ins[0].ndim), 0);
  for (int64_t a : p.ints()) {
    if (a < 0 || a >= desc.ins[0].ndim) throw KernelError("reduce: axis out of range");
    labels[static_cast<size_t>(a)] = 1;
  }
  labels = canonicalise(desc, labels);
  const bool wide =
      op == ReduceOp::mean_ || op == ReduceOp::l2_ || op == ReduceOp::log_sum_;  // the sum must not wrap at the element's width
  if (auto pairs = make_reduce_pairs<float>(desc, op, labels)) return pairs;
  if (auto pairs = make_reduce_pairs<double>(desc, op, labels)) return pairs;
  switch (desc.ins[0].dtype) {
    case DType::f32:
    case DType::f16:
    case DType::bf16: return std::make_unique<Reduce<float>>(std::move(desc), op, labels);
    case DType::f64: return std::make_unique<Reduce<double>>(std::move(desc), op, labels);
    default: break;
  }
  if (op == ReduceOp::log_sum_exp_) return std::make_unique<Reduce<double>>(std::move(desc), op, labels);
  switch (desc.ins[0].dtype) {
    case DType::u64: return std::make_unique<Reduce<uint64_t>>(std::move(desc), op, labels);
    case DType::i64:
    case DType::u32: return std::make_unique<Reduce<int64_t>>(std::move(desc), op, labels);
    default: break;
  }
  if (wide) return std::make_unique<Reduce<int64_t>>(std::move(desc), op, labels);
  return std::make_unique<Reduce<int32_t>>(std::move(desc), op, labels);
}

}  // namespace ptrt::PTRT_LEVEL
