// GridSample: the taps of an output position are found once, then applied to all channels.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/reduce_block.h"
#include "cpu/reduce_vec.h"

namespace ptrt::PTRT_LEVEL {

namespace {

enum class Mode { linear, nearest, cubic };
enum class Padding { zeros, border, reflection };

double reflect(double x, double low, double high) {
  const double range = high - low;
  if (range <= 0) return low;
  if (x < low || x > high) {
    const double d = x < low ? low - x : x - high, n = std::floor(d / range), r = d - n * range;
    const bool even = std::fmod(n, 2.0) == 0;
    return (x < low) == even ? low + r : high - r;
  }
  return x;
}

template <class C>
class GridSample final : public Kernel {
 public:
  GridSample(LaunchDesc d, Mode mode, Padding padding, bool align) : Kernel(std::move(d)), mode_(mode), padding_(padding), align_(align) {
    const Operand& y = desc.outs[0];
    dims_ = desc.ins[0].ndim - 2;
    channels_ = y.shape[1];
    positions_.add(0, y.shape[0]);
    for (int a = 0; a < dims_; a++) positions_.add(2 + a, y.shape[2 + a]);
    grain_ = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, channels_));
  }

  size_t thread_scratch_bytes() const override { return 2 * align64(static_cast<size_t>(channels_) * sizeof(C)); }

  void run(const RunContext& ctx) override {
    ctx.parallel((positions_.total + grain_ - 1) / grain_, [&](int64_t task, int worker) {
      C* sum = reinterpret_cast<C*>(ctx.thread_scratch(worker));
      C* row = reinterpret_cast<C*>(ctx.thread_scratch(worker) + align64(static_cast<size_t>(channels_) * sizeof(C)));
      int64_t index[kMaxDims] = {};
      const int64_t begin = task * grain_, end = std::min(positions_.total, begin + grain_);
      positions_.seek(index, begin);
      for (int64_t i = begin; i < end; i++, positions_.next(index)) sample(index, sum, row);
    });
  }

 private:
  void sample(const int64_t* index, C* sum, C* row) const {
    const Operand &x = desc.ins[0], &grid = desc.ins[1], &y = desc.outs[0];
    const auto item = static_cast<int64_t>(itemsize(x.dtype));
    // grid is [N, o..., dims]: its axes are y's without the channels.
    int64_t at = index[0] * grid.strides[0];
    for (int a = 0; a < dims_; a++) at += index[2 + a] * grid.strides[1 + a];
    int64_t offset[3][4];
    double weight[3][4];
    int taps[3];
    for (int a = 0; a < dims_; a++) {
      double n;
      const int64_t where = at + (dims_ - 1 - a) * grid.strides[1 + dims_];
      convert_in(grid.dtype, static_cast<const char*>(grid.data) + where * static_cast<int64_t>(itemsize(grid.dtype)), 1, 1, &n);
      taps[a] = axis_taps(n, x.shape[2 + a], x.strides[2 + a], offset[a], weight[a]);
    }
    std::fill(sum, sum + channels_, C{0});
    int64_t total = 1;
    for (int a = 0; a < dims_; a++) total *= taps[a];
    const char* base = static_cast<const char*>(x.data) + index[0] * x.strides[0] * item;
    for (int64_t t = 0; t < total; t++) {
      int64_t rest = t, o = 0;
      double w = 1;
      for (int a = dims_ - 1; a >= 0; a--) {
        const int64_t k = rest % taps[a];
        rest /= taps[a];
        o += offset[a][k];
        w *= weight[a][k];
      }
      const C factor = static_cast<C>(w);
      const C* p = reinterpret_cast<const C*>(base + o * item);
      int64_t step = x.strides[1];
      if (x.dtype != dtype_of<C>()) {
        convert_in(x.dtype, p, step, channels_, row);
        p = row;
        step = 1;
      }
      if (step == 1)
        for (int64_t c = 0; c < channels_; c++) sum[c] += factor * p[c];
      else
        for (int64_t c = 0; c < channels_; c++) sum[c] += factor * p[c * step];
    }
    convert_out(y.dtype, sum, channels_, element(y, index), y.strides[1]);
  }

  // The elements of one axis that coordinate n in [-1, 1] reads: element offsets and weights. Returns their number (0: all outside).
  int axis_taps(double n, int64_t size, int64_t stride, int64_t* offset, double* weight) const {
    const auto length = static_cast<double>(size);
    const double low = align_ ? 0.0 : -0.5, high = align_ ? length - 1 : length - 0.5;
    // The specification's sample code keeps positions in single precision; so does this.
    double x = static_cast<float>(align_ ? (n + 1) / 2 * (length - 1) : ((n + 1) * length - 1) / 2);
    if (!(std::fabs(x) < 1e9)) x = x > 0 ? 1e9 : -1e9;  // also NaN
    if (mode_ == Mode::nearest) x = std::nearbyint(x);
    if (x < low || x > high) {
      if (padding_ == Padding::border) x = std::clamp(x, 0.0, length - 1);
      else if (padding_ == Padding::reflection) x = static_cast<float>(reflect(x, low, high));
    }
    double w[4] = {1, 0, 0, 0};
    int first = 0, count = 1;
    const double floor = mode_ == Mode::nearest ? std::trunc(x) : std::floor(x), r = x - floor;
    if (mode_ == Mode::linear) {
      w[0] = 1 - r;
      w[1] = r;
      count = 2;
    } else if (mode_ == Mode::cubic) {
      const double a = -0.75, s = 1 - r;
      w[0] = ((a * (r + 1) - 5 * a) * (r + 1) + 8 * a) * (r + 1) - 4 * a;
      w[1] = ((a + 2) * r - (a + 3)) * r * r + 1;
      w[2] = ((a + 2) * s - (a + 3)) * s * s + 1;
      w[3] = ((a * (s + 1) - 5 * a) * (s + 1) + 8 * a) * (s + 1) - 4 * a;
      first = -1;
      count = 4;
    }
    int kept = 0;
    for (int k = 0; k < count; k++) {
      double i = floor + first + k;
      if (i < 0 || i > length - 1) {
        if (padding_ == Padding::zeros) continue;
        if (padding_ == Padding::reflection) i = std::trunc(reflect(i, low, high));
        i = std::clamp(i, 0.0, length - 1);
      }
      offset[kept] = static_cast<int64_t>(i) * stride;
      weight[kept++] = w[k];
    }
    return kept;
  }

  Mode mode_;
  Padding padding_;
  bool align_;
  int dims_ = 0;
  int64_t channels_ = 0, grain_ = 1;
  Walk positions_;
};

}  // namespace

std::unique_ptr<Kernel> make_grid_sample(LaunchDesc desc, BindContext&) {
  Params p = desc.params();
  const auto mode = static_cast<Mode>(p.i());
  const auto padding = static_cast<Padding>(p.i());
  const bool align = p.i() != 0;
  const Operand &x = desc.ins[0], &grid = desc.ins[1], &y = desc.outs[0];
  if (x.ndim < 3 || x.ndim > 5 || grid.ndim != x.ndim || y.ndim != x.ndim || grid.shape[grid.ndim - 1] != x.ndim - 2 ||
      !convertible(grid.dtype) || !convertible(x.dtype) || x.dtype != y.dtype)
    throw KernelError("grid_sample: operands do not match, or more than 3 spatial axes");
  for (int a = 2; a < x.ndim; a++)
    if (x.shape[a] == 0 && y.size() > 0) throw KernelError("grid_sample: nothing to sample from");
  switch (x.dtype) {
    case DType::f32:
    case DType::f16:
    case DType::bf16: return std::make_unique<GridSample<float>>(std::move(desc), mode, padding, align);
    case DType::f64: return std::make_unique<GridSample<double>>(std::move(desc), mode, padding, align);
    default: break;
  }
  if (mode != Mode::nearest) return std::make_unique<GridSample<double>>(std::move(desc), mode, padding, align);
  if (x.dtype == DType::u64) return std::make_unique<GridSample<uint64_t>>(std::move(desc), mode, padding, align);
  return std::make_unique<GridSample<int64_t>>(std::move(desc), mode, padding, align);
}

}  // namespace ptrt::PTRT_LEVEL
