// compress: the positions that the condition selects are listed once, then slices are copied.
#include <algorithm>

#include "cpu/gather_index.h"
#include "cpu/kernels.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kTaskBytes = 64 << 10;

class Compress final : public Kernel {
 public:
  explicit Compress(LaunchDesc d) : Kernel(std::move(d)) {
    need(desc.ins.size() == 2 && desc.outs.size() == 1, "compress", "expected two inputs and one output");
    const Operand &x = desc.ins[0], &c = desc.ins[1], &y = desc.outs[0];
    need(c.dtype == DType::boolean && c.ndim == 1, "compress", "condition must be bool [n]");
    need(x.present() && x.dtype == y.dtype && x.ndim == y.ndim, "compress", "x and y do not match");
    int64_t axis = desc.params().i();
    if (axis < 0) axis += x.ndim;
    need(axis >= 0 && axis < x.ndim && c.shape[0] <= x.shape[axis], "compress", "condition is longer than the axis");
    const auto e = static_cast<int64_t>(itemsize(x.dtype));
    for (int i = 0; i < x.ndim; i++) {
      need(i == axis || x.shape[i] == y.shape[i], "compress", "y has the wrong shape");
      if (i == axis) outer_.push(y.shape[i], int64_t{0}, y.strides[i] * e, int64_t{1});
      else if (i < axis) outer_.push(x.shape[i], x.strides[i] * e, y.strides[i] * e, int64_t{0});
      else block_.push(x.shape[i], x.strides[i] * e, y.strides[i] * e);
    }
    outer_.finish();
    block_.finish();
    copy_ = copy_fn(static_cast<size_t>(e));
    step_ = x.strides[axis] * e;
    selected_ = y.shape[axis];
    count_ = outer_.size();
    block_size_ = block_.size();
    chunk_ = std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(8, block_size_ * e));
  }

  void run(const RunContext& ctx) override {
    const Operand& c = desc.ins[1];
    auto* offsets = reinterpret_cast<int64_t*>(ctx.shared_scratch);
    int64_t n = 0;
    for (int64_t i = 0; i < c.shape[0]; i++) {
      if (!c.as<uint8_t>()[i * c.strides[0]]) continue;
      if (n < selected_) offsets[n] = i * step_;
      n++;
    }
    if (n != selected_) throw KernelError("compress: expected " + std::to_string(selected_) + " true elements, found " + std::to_string(n));
    if (count_ == 0 || block_size_ == 0) return;
    const char* x = desc.ins[0].as<char>();
    char* y = desc.outs[0].as<char>();
    const int64_t *step = outer_.stride[outer_.nd - 1], *inner = block_.stride[block_.nd - 1];
    ctx.parallel(ceil_div(count_, chunk_), [&](int64_t t, int) {
      outer_.walk(t * chunk_, std::min(count_, (t + 1) * chunk_), [&](const int64_t* off, int64_t m) {
        for (int64_t j = 0; j < m; j++) {
          const char* px = x + off[0] + j * step[0] + offsets[off[2] + j * step[2]];
          char* py = y + off[1] + j * step[1];
          block_.walk(0, block_size_, [&](const int64_t* o, int64_t b) { copy_(py + o[1], inner[1], px + o[0], inner[0], b); });
        }
      });
    });
  }

  size_t shared_scratch_bytes() const override { return static_cast<size_t>(selected_) * sizeof(int64_t); }

 private:
  Axes<3> outer_;  // x, y (bytes), position in the list of selected slices
  Axes<2> block_;  // x, y
  int64_t step_, selected_, count_, block_size_, chunk_;
  CopyFn copy_;
};

}  // namespace

std::unique_ptr<Kernel> make_compress(LaunchDesc desc, BindContext&) { return std::make_unique<Compress>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
