// Sliding windows, by layout. `channels`: channels are contiguous, each lane is a channel and windows are read where they lie. `rows` and
// `indices` (pool_rows.h): anything else.
#include "core/vocabulary.h"
#include "cpu/kernels.h"
#include "cpu/pool_elements.h"
#include "cpu/pool_rows.h"

namespace ptrt::PTRT_LEVEL {

namespace {

class PoolChannels final : public PoolKernel {
 public:
  static bool applies(const LaunchDesc& desc, const Config& c, const Elements& e) {
    const Operand& x = desc.ins[0];
    if (c.mode == Mode::lp || c.positions || !desc.prologue.empty() || x.strides[1] != 1) return false;
    return e.in_place ? desc.outs[0].strides[1] == 1 : x.dtype != DType::u64 && e.reads_directly(desc, 1) && x.shape[1] >= e.lanes;
  }

  PTRT_COLD PoolChannels(LaunchDesc desc0, Config c, std::unique_ptr<Elements> elements)
      : PoolKernel(std::move(desc0), std::move(c), std::move(elements)) {
    const int64_t channels = desc.ins[0].shape[1];
    direct_ = elements_->writes_directly(desc, 1);
    blocks_ = (channels + kMost - 1) / kMost;
    most_ = channels ? (channels + blocks_ - 1) / blocks_ : 0;
    const int64_t taps = c_.d.k * c_.h.k * c_.w.k;
    finish_units({desc.ins[0].shape[0], blocks_, c_.d.out, c_.h.out}, c_.w.out * most_ * taps * elements_->size / 4);
  }

  size_t thread_scratch_bytes() const override {
    return tap_bytes() + (direct_ ? 0 : result_bytes() + elements_->sink_scratch(c_.w.out * most_));
  }

  std::string describe() const override { return "channels"; }

 private:
  static constexpr int64_t kMost = 512;
  size_t tap_bytes() const { return align64(static_cast<size_t>(c_.d.most_taps() * c_.h.most_taps() * c_.w.most_taps()) * 8); }
  size_t result_bytes() const { return align64(static_cast<size_t>(c_.w.out * most_ * elements_->size)); }

  PTRT_COLD void compute(const int64_t* unit, char* scratch) const override {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    const Run &d = c_.d.run(unit[2]), &h = c_.h.run(unit[3]);
    const auto first = [&](int64_t block) { return x.shape[1] * block / blocks_; };
    const int64_t channel = first(unit[1]), channels = first(unit[1] + 1) - channel;
    const int64_t sd = c_.d.step(x), sh = c_.h.step(x), sw = c_.w.step(x), size = elements_->size;
    const int64_t corner = c_.d.at(unit[2], d.lo) * sd + c_.h.at(unit[3], h.lo) * sh;
    int64_t index[kMaxDims] = {unit[0], channel};
    const char* base = element(x, index);
    c_.place(index, unit[2], unit[3], 0);
    auto* taps = reinterpret_cast<int64_t*>(scratch);
    char* out = direct_ ? element(y, index) : scratch + tap_bytes();
    const int64_t step = direct_ ? c_.w.step(y) : channels;
    for (const Run& w : c_.w.runs) {
      const int64_t n_taps =
          list_taps(taps, d.hi - d.lo, c_.d.dilation * sd, h.hi - h.lo, c_.h.dilation * sh, w.hi - w.lo, c_.w.dilation * sw);
      const char* from = base + (n_taps ? corner + c_.w.at(w.begin, w.lo) * sw : 0) * size;
      Rows a{out + w.begin * step * size, step, from, c_.w.stride * sw, w.end - w.begin, channels, taps, n_taps};
      a.outer = static_cast<double>(d.count * h.count * w.count);
      (c_.mode == Mode::max ? elements_->max : elements_->mean)(a);
    }
    if (!direct_) elements_->store(desc, index, c_.w.axis, c_.w.out, 1, channels, out, channels, scratch + tap_bytes() + result_bytes());
  }

  int64_t blocks_ = 1, most_ = 1;
  bool direct_ = true;
};

PTRT_COLD std::unique_ptr<Elements> elements_of(const LaunchDesc& desc, const Config& c) {
  const Operand &x = desc.ins[0], &y = desc.outs[0];
  // Bytes are pooled as such where they are read and written in place. Positions are counted in integers of the elements' size.
  const bool in_place =
      !c.positions && desc.prologue.empty() && desc.epilogue.empty() && y.dtype == x.dtype &&
      ((x.strides[1] == 1 && y.strides[1] == 1) || ((c.w.in == 1 || c.w.step(x) == 1) && (c.w.out == 1 || c.w.step(y) == 1)));
  const bool wide = c.positions && c.d.in * c.h.in * c.w.in > INT32_MAX;
  switch (x.dtype) {
    case DType::f64: return std::make_unique<ElementsOf<double>>(desc);
    case DType::f32:
    case DType::f16:
    case DType::bf16:
      if (wide) return std::make_unique<ElementsOf<double>>(desc);
      return std::make_unique<ElementsOf<float>>(desc);
    case DType::i64:
    case DType::u64:
    case DType::u32: return std::make_unique<ElementsOf<int64_t>>(desc);
    case DType::u8:
      if (in_place) return std::make_unique<ElementsOf<uint8_t>>(desc);
      break;
    case DType::i8:
      if (in_place) return std::make_unique<ElementsOf<int8_t>>(desc);
      break;
    default: break;
  }
  if (wide) return std::make_unique<ElementsOf<int64_t>>(desc);
  return std::make_unique<ElementsOf<int32_t>>(desc);
}

}  // namespace

PTRT_COLD std::unique_ptr<Kernel> make_pool(LaunchDesc desc, BindContext&) {
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
  const bool floats = x.dtype == DType::f32 || x.dtype == DType::f64 || x.dtype == DType::f16 || x.dtype == DType::bf16;
  if (c.mode != Mode::max && !floats) throw KernelError("pool: average and lp take floating dtypes");
  std::unique_ptr<Elements> elements = elements_of(desc, c);
  if (PoolChannels::applies(desc, c, *elements)) return std::make_unique<PoolChannels>(std::move(desc), std::move(c), std::move(elements));
  return std::make_unique<PoolRows>(std::move(desc), std::move(c), std::move(elements));
}

}  // namespace ptrt::PTRT_LEVEL
