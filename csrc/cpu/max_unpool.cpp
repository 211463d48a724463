// y = 0, then x's elements at the positions that max pooling recorded. Positions are checked; the last writer in row-major order wins.
#include <algorithm>
#include <string>

#include "cpu/kernels.h"
#include "cpu/reduce_block.h"

namespace ptrt::PTRT_LEVEL {

namespace {

class MaxUnpool final : public Kernel {
 public:
  MaxUnpool(LaunchDesc d, const std::vector<int64_t>& shape) : Kernel(std::move(d)) {
    for (int a = 0; a < desc.outs[0].ndim; a++) {
      size_[a] = shape[static_cast<size_t>(a)];
      if (size_[a] < 0 || __builtin_mul_overflow(total_, size_[a], &total_)) throw KernelError("max_unpool: bad reference shape");
      in_.add(a, desc.ins[0].shape[a]);
      out_.add(a, desc.outs[0].shape[a]);
    }
  }

  void run(const RunContext& ctx) override {
    const Operand &x = desc.ins[0], &positions = desc.ins[1], &y = desc.outs[0];
    const size_t item = itemsize(y.dtype);
    const int64_t kGrain = 1 << 16;
    ctx.parallel((out_.total + kGrain - 1) / kGrain, [&](int64_t task, int) {
      int64_t index[kMaxDims] = {};
      out_.seek(index, task * kGrain);
      for (int64_t i = task * kGrain; i < std::min(out_.total, (task + 1) * kGrain); i++, out_.next(index))
        std::memset(element(y, index), 0, item);
    });
    int64_t index[kMaxDims] = {}, target[kMaxDims] = {};
    for (int64_t i = 0; i < in_.total; i++, in_.next(index)) {
      int64_t p = *reinterpret_cast<const int64_t*>(element(positions, index));
      if (p < 0) p += total_;
      if (p < 0 || p >= total_) throw KernelError("max_unpool: index " + std::to_string(p) + " is out of range");
      for (int a = y.ndim - 1; a >= 0; a--) {
        target[a] = p % size_[a];
        p /= size_[a];
        if (target[a] >= y.shape[a]) throw KernelError("max_unpool: an index points outside the output");
      }
      std::memcpy(element(y, target), element(x, index), item);
    }
  }

 private:
  int64_t size_[kMaxDims] = {}, total_ = 1;
  Walk in_, out_;
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
