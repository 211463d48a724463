// ONNX Col2Im: columns of windows added back into an image. One task per image plane, in a fixed order of window elements.
#include "cpu/float_rows.h"
#include "cpu/kernels.h"

namespace ptrt::PTRT_LEVEL {
namespace {

template <class T>
PTRT_INLINE void add_to(T& to, T v) {
  if constexpr (static_cast<T>(0.5) != T(0)) to += v;
  else to = static_cast<T>(static_cast<uint64_t>(to) + static_cast<uint64_t>(v));  // wraps
}

class Col2Im final : public Kernel {
 public:
  explicit Col2Im(LaunchDesc d) : Kernel(std::move(d)) {
    auto require = [](bool ok, const char* what) {
      if (!ok) throw KernelError(std::string("col2im: ") + what);
    };
    require(desc.ins.size() == 1 && desc.outs.size() == 1, "wrong number of operands");
    Params p = desc.params();
    kernel_ = p.ints();
    strides_ = p.ints();
    dilations_ = p.ints();
    pads_ = p.ints();
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    rank_ = static_cast<int>(kernel_.size());
    const auto n = kernel_.size();
    require(rank_ > 0 && strides_.size() == n && dilations_.size() == n && pads_.size() == 2 * n,
            "one kernel size, stride, dilation and two pads per axis");
    require(x.ndim == 3 && y.ndim == rank_ + 2 && x.dtype == y.dtype && x.shape[0] == y.shape[0], "x must be [N, C*prod(kernel), L]");
    points_ = 1;
    int64_t windows = 1;
    for (size_t i = 0; i < n; i++) {
      require(kernel_[i] > 0 && strides_[i] > 0 && dilations_[i] > 0, "kernel, strides and dilations must be positive");
      const int64_t room = y.shape[i + 2] + pads_[i] + pads_[n + i] - checked_mul(dilations_[i], kernel_[i] - 1) - 1;
      require(room >= 0, "the window is larger than the padded image");
      windows_.push_back(room / strides_[i] + 1);
      windows = checked_mul(windows, windows_.back());
      points_ = checked_mul(points_, kernel_[i]);
      plane_ = checked_mul(plane_, y.shape[i + 2]);
    }
    require(x.shape[1] == checked_mul(y.shape[1], points_) && x.shape[2] == windows, "x does not fit the image and the windows");
  }
  // Sums of f16 and bf16 are kept in float until the plane is complete.
  size_t thread_scratch_bytes() const override { return static_cast<size_t>(checked_mul(plane_, 8)); }

  void run(const RunContext& ctx) override {
    const Operand& y = desc.outs[0];
    ctx.parallel(y.shape[0] * y.shape[1], [&](int64_t task, int worker) {
      char* scratch = ctx.thread_scratch(worker);
      const int64_t n = task / y.shape[1], c = task % y.shape[1];
      switch (y.dtype) {
        case DType::f64: return plane<double, double>(n, c, scratch);
        case DType::f32: return plane<float, float>(n, c, scratch);
        case DType::f16:
        case DType::bf16: return plane<uint16_t, float>(n, c, scratch);
        case DType::i64:
        case DType::u64: return plane<uint64_t, uint64_t>(n, c, scratch);
        case DType::i32:
        case DType::u32: return plane<uint32_t, uint32_t>(n, c, scratch);
        case DType::i16:
        case DType::u16: return plane<uint16_t, uint16_t>(n, c, scratch);
        case DType::i8:
        case DType::u8: return plane<uint8_t, uint8_t>(n, c, scratch);
        case DType::boolean: return plane<uint8_t, uint8_t>(n, c, scratch);
        default: throw KernelError("col2im: unsupported dtype");
      }
    });
  }

 private:
  // T: an element in memory; S: what sums are kept in.
  template <class T, class S>
  void plane(int64_t n, int64_t c, char* scratch) const {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    S* sums = reinterpret_cast<S*>(scratch);
    std::memset(sums, 0, static_cast<size_t>(plane_) * sizeof(S));
    const int last = rank_ - 1;
    const int64_t wide = y.shape[rank_ + 1], step = strides_[static_cast<size_t>(last)], across = windows_[static_cast<size_t>(last)];
    for (int64_t k = 0; k < points_; k++) {
      const T* from = x.as<const T>() + n * x.strides[0] + (c * points_ + k) * x.strides[1];
      int64_t shift[kMaxDims], rest = k;  // position of window 0's element k
      for (int i = last; i >= 0; rest /= kernel_[static_cast<size_t>(i)], i--)
        shift[i] = rest % kernel_[static_cast<size_t>(i)] * dilations_[static_cast<size_t>(i)] - pads_[static_cast<size_t>(i)];
      int64_t first = shift[last] < 0 ? (-shift[last] + step - 1) / step : 0,
              end = wide > shift[last] ? (wide - shift[last] + step - 1) / step : 0;
      end = end < across ? end : across;
      for (int64_t row = 0; row < x.shape[2] / (across > 0 ? across : 1); row++) {
        int64_t at = 0, scale = wide, r = row;
        bool inside = true;
        for (int i = last - 1; i >= 0; i--) {
          const int64_t w = windows_[static_cast<size_t>(i)], pos = r % w * strides_[static_cast<size_t>(i)] + shift[i];
          r /= w;
          inside = inside && pos >= 0 && pos < y.shape[i + 2];
          at += pos * scale;
          scale *= y.shape[i + 2];
        }
        if (!inside) continue;
        S* to = sums + at + shift[last];
        const T* source = from + row * across * x.strides[2];
        for (int64_t j = first; j < end; j++) add_to(to[j * step], value<S>(source[j * x.strides[2]]));
      }
    }
    T* out = y.as<T>() + n * y.strides[0] + c * y.strides[1];
    for (int64_t row = 0; row < plane_ / wide; row++) {
      int64_t at = 0, r = row;
      for (int i = rank_; i >= 2; r /= y.shape[i], i--) at += r % y.shape[i] * y.strides[i];
      for (int64_t j = 0; j < wide; j++) out[at + j * y.strides[rank_ + 1]] = element<T>(sums[row * wide + j]);
    }
  }
  template <class S, class T>
  S value(T v) const {
    if constexpr (sizeof(S) != sizeof(T)) return half_to_float(desc.ins[0].dtype, v);
    else return v;
  }
  template <class T, class S>
  T element(S v) const {
    if constexpr (sizeof(S) != sizeof(T)) return float_to_half(desc.ins[0].dtype, v);
    else return desc.ins[0].dtype == DType::boolean ? T(v != 0) : v;
  }

  std::vector<int64_t> kernel_, strides_, dilations_, pads_, windows_;
  int rank_ = 0;
  int64_t points_ = 1, plane_ = 1;
};

}  // namespace

std::unique_ptr<Kernel> make_col2im(LaunchDesc desc, BindContext&) { return std::make_unique<Col2Im>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
