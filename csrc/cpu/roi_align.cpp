// RoiAlign (ONNX 16): the bilinear taps of a bin are found once, then applied to all channels.
#include <algorithm>
#include <string>

#include "cpu/kernels.h"
#include "cpu/reduce_block.h"
#include "cpu/reduce_vec.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr double kMaxSamples = 1 << 20;  // per bin and axis: more can only come from nonsense

template <class C>
class RoiAlign final : public Kernel {
 public:
  RoiAlign(LaunchDesc d, bool max, int64_t ratio, double scale, bool half)
      : Kernel(std::move(d)), max_(max), ratio_(ratio), scale_(scale), half_(half) {
    const Operand& y = desc.outs[0];
    channels_ = y.shape[1];
    bins_.add(0, y.shape[0]);
    bins_.add(2, y.shape[2]);
    bins_.add(3, y.shape[3]);
    grain_ = std::max<int64_t>(1, 2048 / std::max<int64_t>(1, channels_));
  }

  size_t thread_scratch_bytes() const override { return 2 * align64(static_cast<size_t>(channels_) * sizeof(C)); }

  void run(const RunContext& ctx) override {
    ctx.parallel((bins_.total + grain_ - 1) / grain_, [&](int64_t task, int worker) {
      C* sum = reinterpret_cast<C*>(ctx.thread_scratch(worker));
      C* row = reinterpret_cast<C*>(ctx.thread_scratch(worker) + align64(static_cast<size_t>(channels_) * sizeof(C)));
      int64_t index[kMaxDims] = {};
      const int64_t begin = task * grain_, end = std::min(bins_.total, begin + grain_);
      bins_.seek(index, begin);
      for (int64_t i = begin; i < end; i++, bins_.next(index)) bin(index, sum, row);
    });
  }

 private:
  struct Span {
    double start, size;
    int64_t samples;
  };

  Span span(const double* roi, int axis, int64_t bins, int64_t bin) const {  // axis 0: x, 1: y
    const double offset = half_ ? 0.5 : 0.0;
    const double start = roi[axis] * scale_ - offset;
    double length = roi[axis + 2] * scale_ - offset - start;
    if (!half_) length = std::max(length, 1.0);
    const double size = length / static_cast<double>(bins), samples = ratio_ > 0 ? static_cast<double>(ratio_) : std::ceil(size);
    if (!(samples <= kMaxSamples)) throw KernelError("roi_align: a region is too large");
    return {start + static_cast<double>(bin) * size, size, std::max<int64_t>(0, static_cast<int64_t>(samples))};
  }

  void bin(const int64_t* index, C* sum, C* row) const {
    const Operand &x = desc.ins[0], &rois = desc.ins[1], &batches = desc.ins[2], &y = desc.outs[0];
    const int64_t batch = *(batches.as<int64_t>() + index[0] * batches.strides[0]);
    if (batch < 0 || batch >= x.shape[0]) throw KernelError("roi_align: batch index " + std::to_string(batch) + " is out of range");
    double roi[4];
    const char* from = static_cast<const char*>(rois.data) + index[0] * rois.strides[0] * static_cast<int64_t>(itemsize(rois.dtype));
    convert_in(rois.dtype, from, rois.strides[1], 4, roi);
    const Span v = span(roi, 1, y.shape[2], index[2]), h = span(roi, 0, y.shape[3], index[3]);
    const char* base = static_cast<const char*>(x.data) + batch * x.strides[0] * static_cast<int64_t>(itemsize(x.dtype));
    std::fill(sum, sum + channels_, C{0});
    bool first = true;
    for (int64_t i = 0; i < v.samples; i++)
      for (int64_t j = 0; j < h.samples; j++) {
        int64_t at[2][2];
        double w[2][2];
        const bool inside = taps(v, i, x.shape[2], x.strides[2], at[0], w[0]) & taps(h, j, x.shape[3], x.strides[3], at[1], w[1]);
        for (int t = 0; t < 4; t++) {
          if (!inside) {
            if (max_ && t == 0) reduce(nullptr, 0, C{0}, first, sum);
            continue;
          }
          int64_t step = x.strides[1];
          const C* p = read(base, at[0][t / 2] + at[1][t % 2], &step, row);
          reduce(p, step, static_cast<C>(w[0][t / 2] * w[1][t % 2]), first && t == 0, sum);
        }
        first = false;
      }
    if (!max_) {
      const C count = static_cast<C>(std::max<int64_t>(v.samples * h.samples, 1));
      for (int64_t c = 0; c < channels_; c++) sum[c] /= count;
    }
    convert_out(y.dtype, sum, channels_, element(y, index), y.strides[1]);
  }

  const C* read(const char* base, int64_t offset, int64_t* step, C* row) const {
    const Operand& x = desc.ins[0];
    const char* p = base + offset * static_cast<int64_t>(itemsize(x.dtype));
    if (x.dtype == dtype_of<C>()) return reinterpret_cast<const C*>(p);
    convert_in(x.dtype, p, *step, channels_, row);
    *step = 1;
    return row;
  }

  // p == nullptr: zeros.
  void reduce(const C* p, int64_t step, C w, bool first, C* sum) const {
    for (int64_t c = 0; c < channels_; c++) {
      const C v = p ? w * p[c * step] : C{0};
      if (max_) sum[c] = first || v > sum[c] ? v : sum[c];
      else sum[c] += v;
    }
  }

  // The two neighbours of sample k of a bin along one axis; false: it lies outside of x.
  static bool taps(const Span& s, int64_t k, int64_t size, int64_t stride, int64_t* at, double* w) {
    double p = s.start + (static_cast<double>(k) + 0.5) * s.size / static_cast<double>(s.samples);
    if (!(p >= -1.0 && p <= static_cast<double>(size))) return false;
    p = std::max(p, 0.0);
    int64_t low = static_cast<int64_t>(p), high = low + 1;
    if (low >= size - 1) {
      low = high = size - 1;
      p = static_cast<double>(low);
    }
    at[0] = low * stride;
    at[1] = high * stride;
    w[1] = p - static_cast<double>(low);
    w[0] = 1 - w[1];
    return true;
  }

  bool max_;
  int64_t ratio_;
  double scale_;
  bool half_;
  int64_t channels_ = 0, grain_ = 1;
  Walk bins_;
};

}  // namespace

std::unique_ptr<Kernel> make_roi_align(LaunchDesc desc, BindContext&) {
  Params p = desc.params();
  const bool max = p.i() == 1;
  const int64_t ratio = p.i();
  const double scale = p.f();
  const bool half = p.i() != 0;
  const Operand &x = desc.ins[0], &rois = desc.ins[1], &batches = desc.ins[2], &y = desc.outs[0];
  if (x.ndim != 4 || y.ndim != 4 || rois.ndim != 2 || rois.shape[1] != 4 || batches.ndim != 1 || batches.dtype != DType::i64 ||
      rois.shape[0] != y.shape[0] || batches.shape[0] != y.shape[0] || x.dtype != y.dtype)
    throw KernelError("roi_align: operands do not match");
  if ((x.shape[2] == 0 || x.shape[3] == 0) && y.size() > 0) throw KernelError("roi_align: nothing to sample from");
  switch (x.dtype) {
    case DType::f32:
    case DType::f16:
    case DType::bf16: return std::make_unique<RoiAlign<float>>(std::move(desc), max, ratio, scale, half);
    case DType::f64: return std::make_unique<RoiAlign<double>>(std::move(desc), max, ratio, scale, half);
    default: throw KernelError("roi_align: floating dtypes only");
  }
}

}  // namespace ptrt::PTRT_LEVEL
