// RoiAlign (ONNX 16), a row of bins at a time. Along each axis the samples of a bin are turned into taps once. Averages are separable: taps
// on the same row or column are merged. Where channels are contiguous, rows of them are combined; planes (channels-first) are read by fours
// of neighbouring columns, four bins at a time.
#include <algorithm>
#include <cmath>
#include <string>

#include "cpu/reduce_block.h"
#include "cpu/resample_four.h"
#include "cpu/resample_rows.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr double kMaxSamples = 1 << 20;  // per bin and axis: more can only come from nonsense
constexpr int kChunk = 32;               // samples along an axis that are turned into taps at once
constexpr int64_t kPlanes = 32;          // that all regions read before the next ones, so that they stay in the cache
constexpr int kList = 1024;              // taps that are applied at once

template <class C>
class RoiAlign final : public Kernel {
 public:
  RoiAlign(LaunchDesc d, bool max, int64_t ratio, double scale, bool half, RowFunctions<C> rows)
      : Kernel(std::move(d)), max_(max), ratio_(ratio), scale_(scale), half_(half), rows_(rows) {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    channels_ = y.shape[1];
    width_ = y.shape[3];
    contiguous_ = x.dtype == dtype_of<C>() && (x.strides[1] == 1 || channels_ == 1);
    planes_ = sizeof(C) == 4 && x.dtype == DType::f32 && !contiguous_ && x.strides[3] == 1 && x.shape[3] >= 4 && y.dtype == DType::f32;
    part_ = planes_ ? std::min(channels_, kPlanes) : channels_;
    grain_ = std::max<int64_t>(1, 2048 / std::max<int64_t>(1, part_ * width_));
  }

  size_t thread_scratch_bytes() const override {
    const size_t table = planes_ ? static_cast<size_t>(width_ + 3) * sizeof(Bin) : 0;
    return align64(sizeof(List)) + 2 * align64(static_cast<size_t>(channels_) * sizeof(C)) + align64(table);
  }
  std::string describe() const override { return planes_ ? "planes" : "rows"; }

  void run(const RunContext& ctx) override {
    const Operand& y = desc.outs[0];
    const int64_t rows = y.shape[0] * y.shape[2];
    if (channels_ * width_ * rows == 0) return;
    const int64_t total = rows * ((channels_ + part_ - 1) / part_);
    ctx.parallel((total + grain_ - 1) / grain_, [&](int64_t task, int worker) {
      for (int64_t u = task * grain_; u < std::min(total, (task + 1) * grain_); u++)
        row_of_bins(u % rows / y.shape[2], u % y.shape[2], u / rows * part_, ctx.thread_scratch(worker));
    });
  }

 private:
  struct Span {  // of a bin, along one axis
    double start, size;
    int64_t samples;
  };
  struct Sample {  // two neighbours
    int64_t low, high;
    double weight[2];
  };
  struct Taps {  // of some samples along one axis
    int n = 0;
    bool outside = false;  // some sample is
    int64_t index[2 * kChunk];
    double weight[2 * kChunk];
  };
  struct List {
    int64_t offset[kList];
    C weight[kList];
  };
  struct Bin {  // what a bin of a row reads of its columns: averages, weights of four columns each; maxima, of a sample's two neighbours,
                // twice
    int n;
    int64_t column[2 * kChunk];
    Four weight[2 * kChunk];
    bool outside;
  };

  struct Rows {  // what all bins of a row read of their rows: averages, a weight; maxima, of a sample's two neighbours, each twice
    int n;
    int64_t offset[2 * kChunk];
    Four weight[2 * kChunk];
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

  // The neighbours of sample k of a bin along one axis; false: it lies outside of x.
  static bool locate(const Span& s, int64_t k, int64_t size, Sample& to) {
    double p = s.start + (static_cast<double>(k) + 0.5) * s.size / static_cast<double>(s.samples);
    if (!(p >= -1.0 && p <= static_cast<double>(size))) return false;
    p = std::max(p, 0.0);
    to.low = static_cast<int64_t>(p);
    to.high = to.low + 1;
    if (to.low >= size - 1) {
      to.low = to.high = size - 1;
      p = static_cast<double>(to.low);
    }
    to.weight[1] = p - static_cast<double>(to.low);
    to.weight[0] = 1 - to.weight[1];
    return true;
  }

  // The taps of up to kChunk samples from sample `first` on. For averages, taps on the same element are one.
  void find(const Span& s, int64_t first, int64_t size, Taps& t) const {
    t.n = 0;
    t.outside = false;
    Sample sample;
    for (int64_t k = first; k < std::min(s.samples, first + kChunk); k++) {
      if (!locate(s, k, size, sample)) {
        t.outside = true;
        continue;
      }
      for (int i = 0; i < 2; i++) {
        const int64_t index = i ? sample.high : sample.low;
        int at = t.n;
        if (!max_)
          for (int before = 1; before <= 2; before++)
            if (t.n >= before && t.index[t.n - before] == index) at = t.n - before;
        if (at == t.n) {
          t.index[at] = index;
          t.weight[at] = 0;
          t.n++;
        }
        t.weight[at] += sample.weight[i];
      }
    }
  }

  void row_of_bins(int64_t region, int64_t row, int64_t channel, char* scratch) const {
    const Operand &x = desc.ins[0], &rois = desc.ins[1], &batches = desc.ins[2], &y = desc.outs[0];
    const int64_t batch = *(batches.as<int64_t>() + region * batches.strides[0]);
    if (batch < 0 || batch >= x.shape[0]) throw KernelError("roi_align: batch index " + std::to_string(batch) + " is out of range");
    double roi[4];
    const char* from = static_cast<const char*>(rois.data) + region * rois.strides[0] * static_cast<int64_t>(itemsize(rois.dtype));
    convert_in(rois.dtype, from, rois.strides[1], 4, roi);
    const Span v = span(roi, 1, y.shape[2], row), h = span(roi, 0, width_, 0);
    const int64_t base = batch * x.strides[0], target = region * y.strides[0] + row * y.strides[2];
    if (planes_ && v.samples <= kChunk && h.samples <= kChunk) {
      if constexpr (sizeof(C) == 4) {
        auto* bins = reinterpret_cast<Bin*>(scratch + align64(sizeof(List)) + 2 * align64(static_cast<size_t>(channels_) * sizeof(C)));
        planes(v, h, base, target, channel, bins);
      }
      return;
    }
    if (channel > 0) return;  // the first part does it for all channels
    for (int64_t j = 0; j < width_; j++)
      bin(v, {h.start + static_cast<double>(j) * h.size, h.size, h.samples}, base, target + j * y.strides[3], scratch);
  }

  void bin(const Span& v, const Span& h, int64_t base, int64_t target, char* scratch) const {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    List& list = *reinterpret_cast<List*>(scratch);
    C* held = reinterpret_cast<C*>(scratch + align64(sizeof(List)));
    C* row = reinterpret_cast<C*>(reinterpret_cast<char*>(held) + align64(static_cast<size_t>(channels_) * sizeof(C)));
    const bool written = y.dtype == dtype_of<C>() && (y.strides[1] == 1 || channels_ == 1);
    C* out = written ? y.as<C>() + target : held;
    const double share = max_ ? 1.0 : 1.0 / static_cast<double>(std::max<int64_t>(v.samples * h.samples, 1));
    bool fresh = true, outside = false;
    int n = 0;
    Taps rows, columns;
    for (int64_t i = 0; i < v.samples; i += kChunk) {
      find(v, i, x.shape[2], rows);
      for (int64_t j = 0; j < h.samples; j += kChunk) {
        find(h, j, x.shape[3], columns);
        outside = outside || rows.outside || columns.outside;
        for (int r = 0; r < rows.n; r++) {
          if (n + columns.n > kList) {
            apply(list, n, fresh, out, row);
            fresh = false;
            n = 0;
          }
          for (int c = 0; c < columns.n; c++) {
            list.offset[n] = base + rows.index[r] * x.strides[2] + columns.index[c] * x.strides[3];
            list.weight[n++] = static_cast<C>(rows.weight[r] * columns.weight[c] * share);
          }
        }
      }
    }
    if (n > 0) apply(list, n, fresh, out, row);
    else if (fresh) std::fill(out, out + channels_, C{0});
    if (max_ && outside)  // a sample there is 0
      for (int64_t c = 0; c < channels_; c++) out[c] = out[c] < 0 ? 0 : out[c];
    if (!written)
      convert_out(y.dtype, out, channels_, static_cast<char*>(y.data) + target * static_cast<int64_t>(itemsize(y.dtype)), y.strides[1]);
  }

  void apply(const List& list, int n, bool fresh, C* out, C* row) const {
    const Operand& x = desc.ins[0];
    const int64_t zero = 0;
    if (contiguous_) {
      if (max_) rows_.greatest(out, channels_, x.as<C>(), list.offset, list.weight, n, !fresh);
      else rows_.sum(out, channels_, x.as<C>(), list.offset, 1, list.weight, n, 1, !fresh);
      return;
    }
    for (int t = 0; t < n; t++, fresh = false) {
      const char* p = static_cast<const char*>(x.data) + list.offset[t] * static_cast<int64_t>(itemsize(x.dtype));
      convert_in(x.dtype, p, x.strides[1], channels_, row);
      if (max_) rows_.greatest(out, channels_, row, &zero, list.weight + t, 1, !fresh);
      else rows_.sum(out, channels_, row, &zero, 1, list.weight + t, 1, 1, !fresh);
    }
  }

  void planes(const Span& v, const Span& h, int64_t base, int64_t target, int64_t channel, Bin* bins) const {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    Taps rows, columns;
    find(v, 0, x.shape[2], rows);
    const double share = 1.0 / static_cast<double>(std::max<int64_t>(v.samples * h.samples, 1));
    for (int64_t j = 0; j < width_; j++) {
      find({h.start + static_cast<double>(j) * h.size, h.size, h.samples}, 0, x.shape[3], columns);
      Bin& b = bins[j];
      b.n = 0;
      b.outside = columns.outside || rows.outside || columns.n == 0 || rows.n == 0;
      if (max_) {
        for (int c = 0; c < columns.n; c += 2) {
          const auto w0 = static_cast<float>(columns.weight[c]), w1 = static_cast<float>(columns.weight[c + 1]);
          b.column[b.n] = columns.index[c] == columns.index[c + 1] ? ~columns.index[c] : columns.index[c];
          b.weight[b.n++] = Four{w0, w1, w0, w1};
        }
        continue;
      }
      for (int c = 0; c < columns.n; c++) {
        if (b.n == 0 || columns.index[c] < b.column[b.n - 1] || columns.index[c] >= b.column[b.n - 1] + 4) {  // (bins may be reversed)
          b.column[b.n] = std::min(columns.index[c], x.shape[3] - 4);
          b.weight[b.n++] = Four{};
        }
        b.weight[b.n - 1][columns.index[c] - b.column[b.n - 1]] += static_cast<float>(columns.weight[c] * share);
      }
    }
    for (int64_t j = width_; j % 4 != 0; j++) bins[j].n = 0;
    Rows r;
    r.n = rows.n;
    for (int i = 0; i < rows.n; i++) {
      r.offset[i] = rows.index[i] * x.strides[2];
      const auto w0 = static_cast<float>(rows.weight[i]), w1 = static_cast<float>(rows.weight[max_ ? i | 1 : i]);
      r.weight[i] = Four{w0, w0, w1, w1};
    }
    for (int64_t c = channel; c < std::min(channels_, channel + part_); c++) {
      const float* p = x.as<float>() + base + c * x.strides[1];
      float* q = y.as<float>() + target + c * y.strides[1];
      for (int64_t j = 0; j < width_; j += 4) {
        Four a[4];
        for (int i = 0; i < 4; i++) a[i] = max_ ? greatest(p, r, bins[j + i]) : sum(p, r, bins[j + i]);
        const Four v =
            max_ ? pair_maxima(pair_maxima(a[0], a[1]), pair_maxima(a[2], a[3])) : pair_sums(pair_sums(a[0], a[1]), pair_sums(a[2], a[3]));
        for (int64_t i = 0; i < std::min<int64_t>(4, width_ - j); i++)
          q[(j + i) * y.strides[3]] = max_ && bins[j + i].outside && v[i] < 0 ? 0 : v[i];
      }
    }
  }

  // Of a plane, four columns' parts of the sum of a bin. What lies on columns without weight does not matter, even if it is NaN.
  PTRT_INLINE static Four sum(const float* p, const Rows& rows, const Bin& b) {
    Four a = {};
    for (int k = 0; k < b.n; k++) {
      Four s = {};
      for (int r = 0; r < rows.n; r++) s += rows.weight[r] * load4(p + rows.offset[r] + b.column[k]);
      a += product<true>(s, b.weight[k]);
    }
    return a;
  }

  // The maxima of the upper left, upper right, lower left, lower right neighbours of all samples; NaN stays.
  PTRT_INLINE static Four greatest(const float* p, const Rows& rows, const Bin& b) {
    Four m = Four{} - __builtin_inff();
    auto nan = m != m;
    for (int r = 0; r < rows.n; r += 2) {
      const Four w = rows.weight[r];
      const float *upper = p + rows.offset[r], *lower = p + rows.offset[r + 1];
      for (int k = 0; k < b.n; k++) {
        const int64_t column = b.column[k];
        Four x;
        if (column >= 0) x = load_pairs(upper + column, lower + column);
        else x = Four{upper[~column], upper[~column], lower[~column], lower[~column]};  // the last column, twice
        x *= w * b.weight[k];
        nan |= x != x;
        m = x > m ? x : m;
      }
    }
    return nan ? m + __builtin_nanf("") : m;
  }

  bool max_;
  int64_t ratio_;
  double scale_;
  bool half_, contiguous_ = false, planes_ = false;
  RowFunctions<C> rows_;
  int64_t channels_ = 0, width_ = 0, part_ = 0, grain_ = 1;
};

}  // namespace

std::unique_ptr<Kernel> roi_align_of(LaunchDesc desc, RowFunctions<float> f32, RowFunctions<double> f64) {
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
    case DType::bf16: return std::make_unique<RoiAlign<float>>(std::move(desc), max, ratio, scale, half, f32);
    case DType::f64: return std::make_unique<RoiAlign<double>>(std::move(desc), max, ratio, scale, half, f64);
    default: throw KernelError("roi_align: floating dtypes only");
  }
}

}  // namespace ptrt::PTRT_LEVEL
