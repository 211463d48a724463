// y = 0, then x's elements at the positions that max pooling recorded. Positions are checked; the last writer in row-major order wins.
#include <algorithm>
#include <atomic>
#include <string>
#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/reduce_block.h"

namespace ptrt::PTRT_LEVEL {

namespace {

class MaxUnpool final : public Kernel {
 public:
  MaxUnpool(LaunchDesc d, const std::vector<int64_t>& shape)
      : Kernel(std::move(d)), item_(static_cast<int64_t>(itemsize(desc.outs[0].dtype))) {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    const int n = y.ndim;
    for (int a = n - 1; a >= 0; a--) {
      size_[a] = shape[static_cast<size_t>(a)];
      if (size_[a] < 0) throw KernelError("max_unpool: bad reference shape");
      dense_ = dense_ && y.shape[a] == size_[a] && (size_[a] == 1 || y.strides[a] == total_);
      if (__builtin_mul_overflow(total_, size_[a], &total_)) throw KernelError("max_unpool: bad reference shape");
    }
    for (int a = 0; a < n; a++) {
      (a < n - 1 ? rows_ : row_).add(a, x.shape[a]);
      out_.add(a, y.shape[a]);
    }
    planes_ = dense_ && n > 2 && x.shape[0] == size_[0] && x.shape[1] == size_[1] ? size_[0] * size_[1] : 0;
  }

  std::string describe() const override { return planes_ ? "planes" : dense_ ? "dense" : "strided"; }

  // Positions mostly lie in the plane (n, c) that they belong to. Then planes are independent, and each is filled while the cache holds it;
  // if one position does not, everything is done again in order.
  void run(const RunContext& ctx) override {
    char* y = desc.outs[0].as<char>();
    if (planes_) {
      const int64_t plane = total_ / planes_, grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, plane));
      std::atomic<bool> elsewhere{false};
      ctx.parallel((planes_ + grain - 1) / grain, [&](int64_t task, int) {
        for (int64_t k = task * grain; k < std::min(planes_, (task + 1) * grain); k++) {
          const int64_t rows = rows_.total / planes_, item = item_;
          char* to = y + k * plane * item;
          std::memset(to, 0, static_cast<size_t>(plane * item));
          const auto put = [=](auto size) {
            return [=](int64_t p, const char* from) {
              if (p < k * plane || p >= (k + 1) * plane) return false;
              std::memcpy(to + (p - k * plane) * size, from, static_cast<size_t>(size));
              return true;
            };
          };
          const int64_t begin = k * rows, end = begin + rows;
          const bool inside = item == 4 ? scatter(begin, end, put(std::integral_constant<int, 4>())) : scatter(begin, end, put(item));
          if (!inside) elsewhere = true;
        }
      });
      if (!elsewhere) return;
    }
    clear(ctx);
    scatter(0, rows_.total, [&](int64_t p, const char* from) {
      std::memcpy(y + place(p) * item_, from, static_cast<size_t>(item_));
      return true;
    });
  }

 private:
  static constexpr int64_t kGrain = 1 << 16;

  // Calls put(position, element) for rows [begin, end) of x until it says no.
  template <class F>
  bool scatter(int64_t begin, int64_t end, F put) const {
    const Operand &x = desc.ins[0], &positions = desc.ins[1];
    const int last = x.ndim - 1;
    const int64_t n = row_.total, item = item_, xs = last < 0 ? 0 : x.strides[last], ps = last < 0 ? 0 : positions.strides[last];
    int64_t index[kMaxDims] = {};
    if (n == 0) return true;
    rows_.seek(index, begin);
    for (int64_t r = begin; r < end; r++, rows_.next(index)) {
      const char* from = element(x, index);
      const auto* at = reinterpret_cast<const int64_t*>(element(positions, index));
      for (int64_t k = 0; k < n; k++)
        if (!put(at[k * ps], from + k * xs * item)) return false;
    }
    return true;
  }

  // Where in y a position is, in elements.
  int64_t place(int64_t p) const {
    if (p < 0) p += total_;
    if (p < 0 || p >= total_) throw KernelError("max_unpool: index " + std::to_string(p) + " is out of range");
    if (dense_) return p;
    const Operand& y = desc.outs[0];
    int64_t at = 0;
    for (int a = y.ndim - 1; a >= 0; a--) {
      const int64_t i = p % size_[a];
      p /= size_[a];
      if (i >= y.shape[a]) throw KernelError("max_unpool: an index points outside the output");
      at += i * y.strides[a];
    }
    return at;
  }

  void clear(const RunContext& ctx) const {
    const Operand& y = desc.outs[0];
    ctx.parallel((out_.total + kGrain - 1) / kGrain, [&](int64_t task, int) {
      const int64_t begin = task * kGrain, end = std::min(out_.total, begin + kGrain);
      if (dense_) {
        std::memset(y.as<char>() + begin * item_, 0, static_cast<size_t>((end - begin) * item_));
        return;
      }
      int64_t index[kMaxDims] = {};
      out_.seek(index, begin);
      for (int64_t i = begin; i < end; i++, out_.next(index)) std::memset(element(y, index), 0, static_cast<size_t>(item_));
    });
  }

  int64_t size_[kMaxDims] = {}, total_ = 1, planes_ = 0, item_;
  bool dense_ = true;  // y has the shape that positions are counted in, row by row
  Walk rows_, row_, out_;
};

}  // namespace

std::unique_ptr<Kernel> make_max_unpool(LaunchDesc desc, BindContext&) {
  Params p = desc.params();
  const auto shape = p.ints();
  const Operand &x = desc.ins[0], &positions = desc.ins[1], &y = desc.outs[0];
  if (positions.dtype != DType::i64 || x.dtype != y.dtype || shape.size() != static_cast<size_t>(y.ndim) || x.ndim != y.ndim ||
      positions.ndim != x.ndim)
    throw KernelError("max_unpool: operands do not match");
  for (int a = 0; a < x.ndim; a++)
    if (positions.shape[a] != x.shape[a]) throw KernelError("max_unpool: operands do not match");
  return std::make_unique<MaxUnpool>(std::move(desc), shape);
}

}  // namespace ptrt::PTRT_LEVEL
