// Sliding windows, by layout. `channels`: channels are contiguous, each lane is a channel and windows are read where they lie. `rows` and
// `indices` (pool_rows.h): anything else.
#include "core/vocabulary.h"
#include "cpu/kernels.h"
#include "cpu/pool_rows.h"

namespace ptrt::PTRT_LEVEL {

namespace {

template <class C>
class PoolChannels final : public PoolKernel {
 public:
  static bool applies(const LaunchDesc& desc, const Config& c) {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    if (c.mode == Mode::lp || c.positions || !desc.prologue.empty() || x.strides[1] != 1) return false;
    if constexpr (kByte<C>) return desc.epilogue.empty() && y.dtype == x.dtype && y.strides[1] == 1;
    else return x.dtype == dtype_of<C>() && x.shape[1] >= kLanes<C>;
  }

  PoolChannels(LaunchDesc desc0, Config c) : PoolKernel(std::move(desc0), std::move(c)), sink_(desc) {
    const Operand& x = desc.ins[0];
    if constexpr (!kByte<C>) direct_ = sink_.direct(desc, 1);
    blocks_ = std::max<int64_t>(1, (x.shape[1] + kMost - 1) / kMost);
    most_ = (x.shape[1] + blocks_ - 1) / blocks_;
    const int64_t taps = c_.d.k * c_.h.k * c_.w.k;
    finish_units({x.shape[0], x.shape[1] ? blocks_ : 0, c_.d.out, c_.h.out}, c_.w.out * most_ * taps * static_cast<int64_t>(sizeof(C)) / 4);
  }

  size_t thread_scratch_bytes() const override {
    size_t n = tap_bytes();
    if constexpr (!kByte<C>) n += direct_ ? 0 : result_bytes() + sink_.scratch_bytes(c_.w.out * most_);
    return n;
  }

  std::string describe() const override { return "channels"; }

 private:
  static constexpr int64_t kMost = 512;
  size_t tap_bytes() const { return align64(static_cast<size_t>(c_.d.most_taps() * c_.h.most_taps() * c_.w.most_taps()) * 8); }
  size_t result_bytes() const { return align64(static_cast<size_t>(c_.w.out * most_) * sizeof(C)); }

  void compute(const int64_t* unit, char* scratch) const override {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    const Run &d = c_.d.run(unit[2]), &h = c_.h.run(unit[3]);
    const auto first = [&](int64_t block) { return x.shape[1] * block / blocks_; };
    const int64_t channel = first(unit[1]), channels = first(unit[1] + 1) - channel;
    const int64_t sd = c_.d.step(x), sh = c_.h.step(x), sw = c_.w.step(x);
    const int64_t corner = c_.d.at(unit[2], d.lo) * sd + c_.h.at(unit[3], h.lo) * sh;
    int64_t index[kMaxDims] = {unit[0], channel};
    const C* base = reinterpret_cast<const C*>(element(x, index));
    c_.place(index, unit[2], unit[3], 0);
    auto* taps = reinterpret_cast<int64_t*>(scratch);
    C* out = reinterpret_cast<C*>(direct_ ? element(y, index) : scratch + tap_bytes());
    const int64_t step = direct_ ? c_.w.step(y) : channels;
    for (const Run& w : c_.w.runs) {
      const int64_t n_taps =
          list_taps(taps, d.hi - d.lo, c_.d.dilation * sd, h.hi - h.lo, c_.h.dilation * sh, w.hi - w.lo, c_.w.dilation * sw);
      const Rows<C> rows{out + w.begin * step,
                         step,
                         base + (n_taps ? corner + c_.w.at(w.begin, w.lo) * sw : 0),
                         c_.w.stride * sw,
                         w.end - w.begin,
                         channels,
                         taps,
                         n_taps,
                         static_cast<C>(d.count * h.count * w.count)};
      if constexpr (std::is_floating_point<C>::value)
        if (c_.mode == Mode::average) {
          compute_rows<false, 1, true>(rows);
          continue;
        }
      compute_rows<true, 1, false>(rows);
    }
    if constexpr (!kByte<C>)
      if (!direct_) sink_.store(desc, index, c_.w.axis, c_.w.out, 1, channels, out, channels, scratch + tap_bytes() + result_bytes());
  }

  SinkOf<C> sink_;
  int64_t blocks_ = 1, most_ = 1;
  bool direct_ = true;
};

template <class C>
PTRT_COLD std::unique_ptr<Kernel> make_pool_of(LaunchDesc desc, Config c) {
  if (PoolChannels<C>::applies(desc, c)) return std::make_unique<PoolChannels<C>>(std::move(desc), std::move(c));
  if constexpr (kByte<C>)
    if (!PoolRows<C>::applies(desc, c)) return make_pool_of<Computed<C>>(std::move(desc), std::move(c));
  return std::make_unique<PoolRows<C>>(std::move(desc), std::move(c));
}

}  // namespace

std::unique_ptr<Kernel> make_pool(LaunchDesc desc, BindContext&) {
  Params params = desc.params();
  Config c;
  c.mode = static_cast<Mode>(params.i());
  const auto kernel = params.ints(), strides = params.ints(), dilations = params.ints(), pads = params.ints();
  const bool include_pad = params.i() != 0;
  c.p = params.i();
  c.column_major = params.i() != 0;
  const Operand &x = desc.ins[0], &y = desc.outs[0];
  const int spatial = x.ndim - 2;
  const auto n = static_cast<size_t>(spatial);
  if (spatial < 1 || spatial > 3 || kernel.size() != n || strides.size() != n || dilations.size() != n || pads.size() != 2 * n ||
      c.mode < Mode::max || c.mode > Mode::lp)
    throw KernelError("pool: 1 to 3 spatial axes, with parameters for each");
  for (const Operand& o : desc.outs)
    if (o.present() && (o.ndim != x.ndim || o.shape[0] != x.shape[0] || o.shape[1] != x.shape[1] || o.shape[2] != y.shape[2] ||
                        o.shape[o.ndim - 1] != y.shape[o.ndim - 1] || o.shape[o.ndim - 2] != y.shape[o.ndim - 2]))
      throw KernelError("pool: outputs must be [N, C, o...], like x");
  Axis* axes[3] = {&c.d, &c.h, &c.w};
  for (int s = 0; s < spatial; s++) {
    const auto i = static_cast<size_t>(s);
    Axis& a = *axes[3 - spatial + s];
    a.axis = 2 + s;
    a.in = x.shape[2 + s];
    a.out = y.shape[2 + s];
    a.k = kernel[i];
    a.stride = strides[i];
    a.dilation = dilations[i];
    a.begin = pads[i];
    a.end = pads[n + i];
    constexpr int64_t most = int64_t{1} << 31;
    if (a.k < 1 || a.stride < 1 || a.dilation < 1 || a.begin < 0 || a.end < 0 || a.k > (1 << 20) || a.stride > most || a.dilation > most ||
        a.begin > most || a.end > most)
      throw KernelError("pool: bad window");
  }
  for (Axis* a : axes) a->prepare(include_pad);
  c.positions = desc.outs.size() > 1 && desc.outs[1].present();
  if (c.positions && (c.mode != Mode::max || desc.outs[1].dtype != DType::i64))
    throw KernelError("pool: indices are int64, and of max only");
  // Positions are counted in integers of the elements' size.
  const bool wide = c.positions && c.d.in * c.h.in * c.w.in > INT32_MAX;
  switch (x.dtype) {
    case DType::f32:
    case DType::f16:
    case DType::bf16:
      if (!wide) return make_pool_of<float>(std::move(desc), std::move(c));
      [[fallthrough]];
    case DType::f64: return make_pool_of<double>(std::move(desc), std::move(c));
    default: break;
  }
  if (c.mode != Mode::max) throw KernelError("pool: average and lp take floating dtypes");
  if (itemsize(x.dtype) == 8 || x.dtype == DType::u32 || wide) return make_pool_of<int64_t>(std::move(desc), std::move(c));
  if (x.dtype == DType::u8) return make_pool_of<uint8_t>(std::move(desc), std::move(c));
  if (x.dtype == DType::i8) return make_pool_of<int8_t>(std::move(desc), std::move(c));
  return make_pool_of<int32_t>(std::move(desc), std::move(c));
}

}  // namespace ptrt::PTRT_LEVEL
