// Resize. The lines of the input that an output line needs are combined first, over their whole width (whole cache lines, any number of
// outer axes); the combined line is then resampled along itself. A line's elements are single values or, where an untouched axis is the
// contiguous one (channels-last), vectors. If such a line has to be written with the line axis contiguous (channels-first), it is
// transposed between the two steps, when it is small.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/reduce_block.h"
#include "cpu/reduce_vec.h"
#include "cpu/resample_table.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kGrain = 16384;  // elements written per task, at least

template <class C>
class Resample final : public Kernel {
 public:
  Resample(LaunchDesc d, ResampleMode mode, double extrapolation, std::vector<ResampleTable> tables, std::vector<int> touched)
      : Kernel(std::move(d)),
        mode_(mode),
        extrapolation_(static_cast<C>(extrapolation)),
        source_(desc),
        sink_(desc),
        tables_(std::move(tables)) {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    line_ = touched.empty() ? x.ndim - 1 : touched.back();
    for (int a = 0; a < x.ndim; a++)
      if (a != line_ && tables_[static_cast<size_t>(a)].taps == 0 && x.strides[a] == 1 && x.shape[a] >= 4) vector_ = a;
    width_ = vector_ < 0 ? 1 : std::min<int64_t>(x.shape[vector_], 256);
    blocks_ = vector_ < 0 ? 1 : (x.shape[vector_] + width_ - 1) / width_;
    for (int a = 0; a < x.ndim; a++)
      if (a != line_ && a != vector_) outer_.add(a, y.shape[a]);
    for (int a : touched)
      if (a != line_) combined_.push_back(a);
    in_ = x.shape[line_];
    out_ = y.shape[line_];
    const ResampleTable& t = tables_[static_cast<size_t>(line_)];
    for (double w : t.weight) weight_.push_back(static_cast<C>(w));
    // Tap-major copies, so that the loop over outputs is the inner one.
    for (int64_t k = 0; k < t.taps; k++)
      for (int64_t o = 0; o < out_; o++) {
        position_.push_back(static_cast<int32_t>(t.index[static_cast<size_t>(o * t.taps + k)]));
        across_.push_back(weight_[static_cast<size_t>(o * t.taps + k)]);
      }
    if (in_ > INT32_MAX) throw KernelError("resample: axis too long");
    grain_ = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, out_ * width_));
  }

  size_t thread_scratch_bytes() const override {
    return source_.scratch_bytes(in_ * width_) + align64(static_cast<size_t>(in_ * width_) * sizeof(C)) +
           align64(static_cast<size_t>(out_ * width_) * sizeof(C)) + align64(static_cast<size_t>(in_) * sizeof(C)) +
           sink_.scratch_bytes(out_ * width_);
  }
  std::string describe() const override { return vector_ < 0 ? "elements" : "vectors"; }

  void run(const RunContext& ctx) override {
    const int64_t units = outer_.total * blocks_;
    if (units == 0) return;
    ctx.parallel((units + grain_ - 1) / grain_, [&](int64_t task, int worker) {
      Repeat repeat;
      for (int64_t u = task * grain_; u < std::min(units, (task + 1) * grain_); u++) line(u, ctx.thread_scratch(worker), repeat);
    });
  }

 private:
  struct Repeat {  // the line before, if it was read straight from the input and written straight to the output
    const C *x = nullptr, *out = nullptr;
  };

  void line(int64_t unit, char* scratch, Repeat& repeat) const {
    const Operand& y = desc.outs[0];
    C* combined = reinterpret_cast<C*>(scratch + source_.scratch_bytes(in_ * width_));
    C* out = reinterpret_cast<C*>(reinterpret_cast<char*>(combined) + align64(static_cast<size_t>(in_ * width_) * sizeof(C)));
    C* column = reinterpret_cast<C*>(reinterpret_cast<char*>(out) + align64(static_cast<size_t>(out_ * width_) * sizeof(C)));
    char* sink_scratch = reinterpret_cast<char*>(column) + align64(static_cast<size_t>(in_) * sizeof(C));
    int64_t target[kMaxDims] = {};
    outer_.seek(target, unit / blocks_);
    int64_t width = 1;
    if (vector_ >= 0) {
      target[vector_] = unit % blocks_ * width_;
      width = std::min(width_, y.shape[vector_] - target[vector_]);
    }
    const int row_axis = vector_ < 0 ? -1 : line_, col_axis = vector_ < 0 ? line_ : vector_;
    const int64_t rows = vector_ < 0 ? 1 : out_, cols = vector_ < 0 ? out_ : width;
    int64_t ys = cols;
    const bool direct = sink_.direct(desc, col_axis);
    if (direct) {
      out = reinterpret_cast<C*>(element(y, target));
      ys = row_axis < 0 ? 0 : y.strides[row_axis];
    }
    bool outside = false;
    for (int a : combined_) {
      auto& flags = tables_[static_cast<size_t>(a)].outside;
      outside = outside || (!flags.empty() && flags[static_cast<size_t>(target[a])]);
    }
    if (vector_ >= 0 && !direct && !outside && sink_.direct(desc, line_)) {
      int64_t xs = width;
      const C* x = combine(target, width, combined, scratch, &xs);
      for (int64_t c = 0; c < width; c++, target[vector_]++) {
        for (int64_t i = 0; i < in_; i++) column[i] = x[i * xs + c];
        elements(column, reinterpret_cast<C*>(element(y, target)));
      }
      return;
    }
    if (outside) {
      for (int64_t r = 0; r < rows; r++) std::fill(out + r * ys, out + r * ys + cols, extrapolation_);
    } else {
      int64_t xs = width;
      const C* x = combine(target, width, combined, scratch, &xs);
      if (vector_ < 0 && direct && x == repeat.x) {
        std::memcpy(out, repeat.out, static_cast<size_t>(out_) * sizeof(C));  // enlarging by nearest repeats lines
      } else if (vector_ < 0) {
        elements(x, out);
        if (direct && source_.direct(desc, line_) && x != combined) repeat = {x, out};
      }
      if (vector_ >= 0) vectors(x, xs, width, out, ys);
    }
    if (!direct) {
      if (mode_ != ResampleMode::nearest) saturate(out, rows * cols);
      sink_.store(desc, target, row_axis, rows, col_axis, cols, out, ys, sink_scratch);
    }
  }

  // The weighted sum of the input lines that output line `target` reads; straight from the input if that is one line.
  const C* combine(const int64_t* target, int64_t width, C* combined, char* scratch, int64_t* xs) const {
    int64_t index[kMaxDims], taps = 1;
    std::copy(target, target + kMaxDims, index);
    for (int a : combined_) taps *= tables_[static_cast<size_t>(a)].taps;
    const int64_t rows = vector_ < 0 ? 1 : in_, cols = vector_ < 0 ? in_ : width;
    const int row_axis = vector_ < 0 ? -1 : line_, col_axis = vector_ < 0 ? line_ : vector_;
    index[line_] = 0;
    bool first = true;
    for (int64_t t = 0; t < taps; t++) {
      double weight = 1;
      int64_t rest = t;
      for (size_t k = combined_.size(); k-- > 0;) {
        const int a = combined_[k];
        const ResampleTable& table = tables_[static_cast<size_t>(a)];
        const auto at = static_cast<size_t>(target[a] * table.taps + rest % table.taps);
        rest /= table.taps;
        index[a] = table.index[at];
        weight *= table.weight[at];
      }
      if (weight == 0 && taps > 1) continue;
      const C* x = source_.block(desc, index, row_axis, rows, col_axis, cols, scratch, xs);
      if (weight == 1) return x;  // weights sum to 1: the others are 0, or the axes are nearest
      const C w = static_cast<C>(weight);
      for (int64_t r = 0; r < rows; r++) {
        const C* from = x + r * *xs;
        C* to = combined + r * cols;
        if (first)
          for (int64_t c = 0; c < cols; c++) to[c] = w * from[c];
        else
          for (int64_t c = 0; c < cols; c++) to[c] += w * from[c];
      }
      first = false;
    }
    *xs = cols;
    return combined;
  }

  void elements(const C* x, C* out) const {
    const ResampleTable& t = tables_[static_cast<size_t>(line_)];
    const int64_t taps = std::max<int64_t>(t.taps, 0);
    if (taps == 0) {
      std::copy(x, x + out_, out);
      return;
    }
    const int32_t* at = position_.data();
    if (mode_ == ResampleMode::nearest) {
      for (int64_t o = 0; o < out_; o++) out[o] = x[at[o]];
    } else if (taps == 2) {
      const C *w0 = across_.data(), *w1 = w0 + out_;
      for (int64_t o = 0; o < out_; o++) out[o] = w0[o] * x[at[o]] + w1[o] * x[at[out_ + o]];
    } else {
      for (int64_t o = 0; o < out_; o++) out[o] = across_[static_cast<size_t>(o)] * x[at[o]];
      for (int64_t k = 1; k < taps; k++) {
        const C* w = across_.data() + k * out_;
        for (int64_t o = 0; o < out_; o++) out[o] += w[o] * x[at[k * out_ + o]];
      }
    }
    if (!t.outside.empty())
      for (int64_t o = 0; o < out_; o++)
        if (t.outside[static_cast<size_t>(o)]) out[o] = extrapolation_;
  }

  void vectors(const C* x, int64_t xs, int64_t width, C* out, int64_t ys) const {
    const ResampleTable& t = tables_[static_cast<size_t>(line_)];
    for (int64_t o = 0; o < out_; o++) {
      C* to = out + o * ys;
      if (t.taps == 0) {
        std::copy(x + o * xs, x + o * xs + width, to);
        continue;
      }
      if (!t.outside.empty() && t.outside[static_cast<size_t>(o)]) {
        std::fill(to, to + width, extrapolation_);
        continue;
      }
      const int64_t* at = t.index.data() + o * t.taps;
      const C* w = weight_.data() + o * t.taps;
      if (mode_ == ResampleMode::nearest) {
        std::memcpy(to, x + at[0] * xs, static_cast<size_t>(width) * sizeof(C));
      } else if (t.taps == 2) {
        const C *a = x + at[0] * xs, *b = x + at[1] * xs;
        for (int64_t c = 0; c < width; c++) to[c] = w[0] * a[c] + w[1] * b[c];
      } else {
        for (int64_t c = 0; c < width; c++) to[c] = w[0] * x[at[0] * xs + c];
        for (int64_t k = 1; k < t.taps; k++) {
          const C* from = x + at[k] * xs;
          for (int64_t c = 0; c < width; c++) to[c] += w[k] * from[c];
        }
      }
    }
  }

  // Integer results of cubic interpolation may overshoot their type.
  void saturate(C* data, int64_t n) const {
    double low, high;
    switch (desc.acc_dtype) {
      case DType::i8: low = -128, high = 127; break;
      case DType::u8: low = 0, high = 255; break;
      case DType::i16: low = -32768, high = 32767; break;
      case DType::u16: low = 0, high = 65535; break;
      case DType::i32: low = INT32_MIN, high = INT32_MAX; break;
      case DType::u32: low = 0, high = UINT32_MAX; break;
      default: return;
    }
    for (int64_t i = 0; i < n; i++) data[i] = static_cast<C>(std::clamp(static_cast<double>(data[i]), low, high));
  }

  ResampleMode mode_;
  C extrapolation_;
  Source<C> source_;
  Sink<C> sink_;
  std::vector<ResampleTable> tables_;  // one per axis; taps 0: untouched
  std::vector<C> weight_, across_;     // of the line axis: output-major, tap-major
  std::vector<int32_t> position_;      // tap-major
  std::vector<int> combined_;
  Walk outer_;
  int line_ = 0, vector_ = -1;
  int64_t in_ = 0, out_ = 0, width_ = 1, blocks_ = 1, grain_ = 1;
};

template <class C, class... A>
std::unique_ptr<Kernel> make(A&&... a) {
  return std::make_unique<Resample<C>>(std::forward<A>(a)...);
}

}  // namespace

std::unique_ptr<Kernel> make_resample(LaunchDesc desc, BindContext&) {
  Params p = desc.params();
  ResampleOptions o;
  o.mode = static_cast<ResampleMode>(p.i());
  o.coordinates = static_cast<Coordinates>(p.i());
  o.nearest = static_cast<NearestMode>(p.i());
  const auto scales = p.floats(), roi = p.floats();
  o.cubic_a = p.f();
  o.exclude_outside = p.i() != 0;
  const double extrapolation = p.f();
  o.antialias = p.i() != 0;
  const Operand &x = desc.ins[0], &y = desc.outs[0];
  const auto rank = static_cast<size_t>(x.ndim);
  const bool crop = o.coordinates == Coordinates::tf_crop_and_resize_;
  if (rank == 0 || y.ndim != x.ndim || scales.size() != rank || (crop && roi.size() != 2 * rank))
    throw KernelError("resample: parameters do not match x");
  std::vector<ResampleTable> tables(rank);
  std::vector<int> touched;
  for (int a = 0; a < x.ndim; a++) {
    const auto i = static_cast<size_t>(a);
    tables[i].taps = 0;
    const double start = crop ? roi[i] : 0, end = crop ? roi[rank + i] : 1;
    if (scales[i] == 1 && x.shape[a] == y.shape[a] && start == 0 && end == 1) continue;
    if (!(scales[i] > 0) || (x.shape[a] == 0 && y.shape[a] > 0)) throw KernelError("resample: bad scale");
    if (x.shape[a] > 0) tables[i] = resample_table(o, x.shape[a], y.shape[a], scales[i], start, end);
    touched.push_back(a);
  }
  const bool nearest = o.mode == ResampleMode::nearest;
  switch (x.dtype) {
    case DType::f32:
    case DType::f16:
    case DType::bf16: return make<float>(std::move(desc), o.mode, extrapolation, std::move(tables), touched);
    case DType::f64: return make<double>(std::move(desc), o.mode, extrapolation, std::move(tables), touched);
    default: break;
  }
  if (!nearest) return make<double>(std::move(desc), o.mode, extrapolation, std::move(tables), touched);
  if (x.dtype == DType::u64) return make<uint64_t>(std::move(desc), o.mode, extrapolation, std::move(tables), touched);
  if (x.dtype == DType::i64 || x.dtype == DType::u32)
    return make<int64_t>(std::move(desc), o.mode, extrapolation, std::move(tables), touched);
  return make<int32_t>(std::move(desc), o.mode, extrapolation, std::move(tables), touched);
}

}  // namespace ptrt::PTRT_LEVEL
