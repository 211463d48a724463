// Deformable convolution: for a stretch of output positions the sampled input is gathered into columns (weights of the corners are shared
// by all channels of an offset group), which the register tile multiplies by the filters.
#include "cpu/float_rows.h"
#include "cpu/kernels.h"
#include "cpu/tile.h"
#include "cpu/vm.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int kMaxSpatial = 3;

template <class S>
class DeformConv final : public Kernel {
  static constexpr int L = Lanes<S>::n;
  static constexpr int64_t kStretch = 8 * L;  // output positions along the last axis
  enum In { kX, kW, kOffset, kB, kMask };

 public:
  explicit DeformConv(LaunchDesc d) : Kernel(std::move(d)), epilogue_(desc) {
    check();
    points_ = 1;
    for (int i = 0; i < spatial_; i++) points_ = checked_mul(points_, desc.ins[kW].shape[i + 2]);
    depth_ = checked_mul(desc.ins[kW].shape[1], points_);
    const Operand& y = desc.outs[0];
    const int64_t wide = y.shape[spatial_ + 1];
    stretches_ = (wide + kStretch - 1) / kStretch;
    filters_ = desc.ins[kW].shape[0] / group_;
    corners_ = 1 << spatial_;
    int64_t at = 0, k = 0;
    auto place = [&](int64_t count, int64_t item) {
      off_[k++] = at;
      at += round_up(checked_mul(count, item), 64);
    };
    const auto s = static_cast<int64_t>(sizeof(S));
    place(checked_mul(depth_, kStretch), s);    // columns
    place(checked_mul(filters_, kStretch), s);  // sums
    place(checked_mul(filters_, kStretch), s);  // results in acc dtype
    place(kStretch * corners_, s);              // corner weights
    place(kStretch * corners_, 8);              // corner offsets
    place(static_cast<int64_t>(epilogue_.scratch_bytes()), 1);
    per_thread_ = at;
    shared_ = checked_mul(checked_mul(desc.ins[kW].shape[0], depth_ + 1), s);
  }
  size_t shared_scratch_bytes() const override { return static_cast<size_t>(shared_); }
  size_t thread_scratch_bytes() const override { return static_cast<size_t>(per_thread_); }

  void run(const RunContext& ctx) override {
    const Operand &w = desc.ins[kW], &y = desc.outs[0];
    S* filters = reinterpret_cast<S*>(ctx.shared_scratch);
    const int64_t last = w.shape[spatial_ + 1];
    for (int64_t row = 0; row < w.shape[0] * (last > 0 ? depth_ / last : 0); row++) {
      int64_t at = 0, r = row;
      for (int i = spatial_; i >= 0; r /= w.shape[i], i--) at += r % w.shape[i] * w.strides[i];
      load_row(filters + row * last, w.dtype, w.data, at, w.strides[spatial_ + 1], last);
    }
    int64_t outer = y.shape[0] * group_;
    for (int i = 0; i < spatial_ - 1; i++) outer *= y.shape[i + 2];
    ctx.parallel(outer * stretches_, [&](int64_t task, int worker) { stretch(task, filters, ctx.thread_scratch(worker)); });
  }

 private:
  void check() {
    auto require = [](bool ok, const char* what) {
      if (!ok) throw KernelError(std::string("deform_conv: ") + what);
    };
    require(desc.ins.size() >= 3 && desc.ins.size() <= 5 && desc.outs.size() == 1, "wrong number of operands");
    Params p = desc.params();
    strides_ = p.ints();
    dilations_ = p.ints();
    pads_ = p.ints();
    group_ = p.i();
    parts_ = p.i();
    const Operand &x = desc.ins[kX], &w = desc.ins[kW], &o = desc.ins[kOffset], &y = desc.outs[0];
    spatial_ = x.ndim - 2;
    require(spatial_ >= 1 && spatial_ <= kMaxSpatial && w.ndim == x.ndim && o.ndim == x.ndim && y.ndim == x.ndim,
            "x, w, offset and y need one rank, 3 to 5");
    const auto n = static_cast<size_t>(spatial_);
    require(strides_.size() == n && dilations_.size() == n && pads_.size() == 2 * n, "one stride, dilation and two pads per axis");
    require(group_ > 0 && parts_ > 0 && x.shape[1] % group_ == 0 && w.shape[0] % group_ == 0 && x.shape[1] % parts_ == 0,
            "channels must be multiples of the groups");
    require(w.shape[1] == x.shape[1] / group_ && y.shape[0] == x.shape[0] && y.shape[1] == w.shape[0] && o.shape[0] == x.shape[0],
            "shapes do not fit together");
    int64_t points = parts_;
    for (int i = 0; i < spatial_; i++) {
      require(o.shape[i + 2] == y.shape[i + 2], "offset must have y's spatial axes");
      points = checked_mul(points, w.shape[i + 2]);
    }
    require(o.shape[1] == points * spatial_, "offset must have offset_group * prod(kernel) * spatial channels");
    if (has(kMask)) {
      const Operand& m = desc.ins[kMask];
      bool ok = m.ndim == x.ndim && m.shape[0] == x.shape[0] && m.shape[1] == points && m.dtype == x.dtype;
      for (int i = 0; ok && i < spatial_; i++) ok = m.shape[i + 2] == y.shape[i + 2];
      require(ok, "mask must be [N, offset_group * prod(kernel), o...]");
    }
    if (has(kB)) require(desc.ins[kB].ndim == 1 && desc.ins[kB].shape[0] == w.shape[0] && desc.ins[kB].dtype == x.dtype, "b must be [M]");
    acc_ = desc.epilogue.empty() ? y.dtype : desc.acc_dtype;
    require(is_float_type(x.dtype) && w.dtype == x.dtype && o.dtype == x.dtype && is_float_type(acc_), "one floating dtype is expected");
  }
  bool has(int k) const { return desc.ins.size() > static_cast<size_t>(k) && desc.ins[static_cast<size_t>(k)].present(); }

  // Offsets and weights of the corners around the sample of every position of a stretch; outside of x the weight is 0.
  void corners(const int64_t* index, int64_t count, int64_t part, int64_t point, S* weight, int64_t* offset) const {
    const Operand &x = desc.ins[kX], &w = desc.ins[kW], &o = desc.ins[kOffset];
    int64_t tap[kMaxSpatial], rest = point, base = index[0] * o.strides[0], mask_base = 0;
    for (int i = spatial_ - 1; i >= 0; rest /= w.shape[i + 2], i--) tap[i] = rest % w.shape[i + 2];
    for (int i = 0; i < spatial_; i++) base += index[i + 2] * o.strides[i + 2];
    const int64_t channel = (part * points_ + point) * spatial_;
    if (has(kMask)) {
      const Operand& m = desc.ins[kMask];
      mask_base = index[0] * m.strides[0] + (part * points_ + point) * m.strides[1];
      for (int i = 0; i < spatial_; i++) mask_base += index[i + 2] * m.strides[i + 2];
    }
    for (int64_t p = 0; p < count; p++) {
      S *wp = weight + p * corners_, scale = 1;
      int64_t* op = offset + p * corners_;
      if (has(kMask)) {
        const Operand& m = desc.ins[kMask];
        load_row(&scale, m.dtype, m.data, mask_base + p * m.strides[spatial_ + 1], 1, 1);
      }
      for (int c = 0; c < corners_; c++) wp[c] = scale, op[c] = 0;
      for (int i = 0; i < spatial_; i++) {
        S shift;
        load_row(&shift, o.dtype, o.data, base + (channel + i) * o.strides[1] + p * o.strides[spatial_ + 1], 1, 1);
        const auto k = static_cast<size_t>(i);
        const int64_t out = index[i + 2] + (i == spatial_ - 1 ? p : 0);
        S at = static_cast<S>(out * strides_[k] + tap[i] * dilations_[k] - pads_[k]) + shift;
        const int64_t size = x.shape[i + 2];
        if (!(at > -1 && at < static_cast<S>(size))) at = -2;  // NaN too
        const S low = sizeof(S) == 4 ? S(__builtin_floorf(static_cast<float>(at))) : S(__builtin_floor(at));
        const int64_t first = static_cast<int64_t>(low);
        for (int c = 0; c < corners_; c++) {
          const int high = c >> (spatial_ - 1 - i) & 1;
          const int64_t pos = first + high;
          const bool inside = pos >= 0 && pos < size;
          wp[c] *= !inside ? S(0) : high ? at - low : S(1) - (at - low);
          op[c] += inside ? pos * x.strides[i + 2] : 0;
        }
      }
    }
  }

  void stretch(int64_t task, const S* filters, char* scratch) const {
    const Operand &x = desc.ins[kX], &y = desc.outs[0];
    S* columns = reinterpret_cast<S*>(scratch + off_[0]);
    S* sums = reinterpret_cast<S*>(scratch + off_[1]);
    S* weight = reinterpret_cast<S*>(scratch + off_[3]);
    int64_t* offset = reinterpret_cast<int64_t*>(scratch + off_[4]);
    int64_t index[2 + kMaxSpatial] = {};
    index[spatial_ + 1] = task % stretches_ * kStretch;
    task /= stretches_;
    for (int i = spatial_ - 2; i >= 0; task /= y.shape[i + 2], i--) index[i + 2] = task % y.shape[i + 2];
    const int64_t g = task % group_;
    index[0] = task / group_;
    const int64_t left = y.shape[spatial_ + 1] - index[spatial_ + 1], count = left < kStretch ? left : kStretch;
    const int64_t channels = depth_ / (points_ > 0 ? points_ : 1), per_part = x.shape[1] / parts_;
    std::memset(columns, 0, static_cast<size_t>(depth_ * kStretch) * sizeof(S));
    int64_t known = -1;
    for (int64_t point = 0; point < points_; point++, known = -1)
      for (int64_t c = 0; c < channels; c++) {
        const int64_t channel = g * channels + c, part = channel / per_part;
        if (part != known) corners(index, count, part, point, weight, offset);
        known = part;
        S* to = columns + (c * points_ + point) * kStretch;
        const int64_t base = index[0] * x.strides[0] + channel * x.strides[1];
        const S* native = x.dtype == (sizeof(S) == 4 ? DType::f32 : DType::f64) ? x.template as<const S>() + base : nullptr;
        for (int64_t p = 0; p < count; p++) {
          S sum = 0;
          for (int k = 0; k < corners_; k++) {
            const S f = weight[p * corners_ + k];
            if (f == 0) continue;  // outside, where there is nothing to read
            S v;
            if (native) v = native[offset[p * corners_ + k]];
            else load_row(&v, x.dtype, x.data, base + offset[p * corners_ + k], 1, 1);
            sum += f * v;
          }
          to[p] = sum;
        }
      }
    multiply(filters + g * filters_ * depth_, columns, count, sums);
    finish(g, index, count, sums, scratch);
  }

  void multiply(const S* filters, const S* columns, int64_t count, S* sums) const {
    TileArgs<S> t;
    t.cj = L;
    t.lda = t.K = depth_;
    t.ldb = t.ldc = kStretch;
    const RowSplit split(filters_, kMaxRows[2]);
    for (int64_t v = 0; v * L < count; v += 2)
      for (int64_t i = 0; i < split.blocks; i++) {
        t.A = filters + split.start(i) * depth_;
        t.B = columns + v * L;
        t.C = sums + split.start(i) * kStretch + v * L;
        t.n = 2 * L;
        const int rows = static_cast<int>(split.rows(i));
        if constexpr (sizeof(S) == 4) tile_f32(rows, 2)(t);
        else tile_f64(rows, 2)(t);
      }
  }

  void finish(int64_t g, int64_t* index, int64_t count, S* sums, char* scratch) const {
    const Operand& y = desc.outs[0];
    const bool direct = epilogue_.empty();
    for (int64_t m = 0; m < filters_; m++) {
      S* row = sums + m * kStretch;
      if (has(kB)) {
        S b;
        load_row(&b, desc.ins[kB].dtype, desc.ins[kB].data, (g * filters_ + m) * desc.ins[kB].strides[0], 1, 1);
        for (int64_t p = 0; p < count; p++) row[p] += b;
      }
      if (direct) {
        int64_t at = index[0] * y.strides[0] + (g * filters_ + m) * y.strides[1];
        for (int i = 0; i < spatial_; i++) at += index[i + 2] * y.strides[i + 2];
        store_row(row, y.dtype, y.data, at, y.strides[spatial_ + 1], count);
      } else {
        store_row(row, acc_, scratch + off_[2], m * kStretch, 1, count);
      }
    }
    if (direct) return;
    index[1] = g * filters_;
    epilogue_.apply(desc, index, 1, filters_, spatial_ + 1, count, Block{scratch + off_[2], kStretch, 1}, scratch + off_[5]);
  }

  Epilogue epilogue_;
  std::vector<int64_t> strides_, dilations_, pads_;
  DType acc_ = DType::none;
  int spatial_ = 2, corners_ = 4;
  int64_t group_ = 1, parts_ = 1, points_ = 1, depth_ = 0, filters_ = 0, stretches_ = 0, shared_ = 0, per_thread_ = 0;
  int64_t off_[6] = {};
};

}  // namespace

std::unique_ptr<Kernel> make_deform_conv(LaunchDesc desc, BindContext&) {
  if (desc.ins.empty()) throw KernelError("deform_conv: x is missing");
  if (desc.ins[0].dtype == DType::f64) return std::make_unique<DeformConv<double>>(std::move(desc));
  return std::make_unique<DeformConv<float>>(std::move(desc));
}

}  // namespace ptrt::PTRT_LEVEL
