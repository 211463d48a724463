// compress: the positions that the condition selects are listed once, then slices are copied. More than one thread lists fixed chunks of
// the condition after they have been counted.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/nonzero_list.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kTaskBytes = 64 << 10;
constexpr int64_t kChunk = 1 << 15;  // of the condition

using PickFn = void (*)(char* y, int64_t sy, const char* x, const int64_t* offsets, int64_t n);
template <int E>
void pick(char* y, int64_t sy, const char* x, const int64_t* offsets, int64_t n) {
  if (sy == E)
    for (int64_t j = 0; j < n; j++) std::memcpy(y + j * E, x + offsets[j], E);
  else
    for (int64_t j = 0; j < n; j++) std::memcpy(y + j * sy, x + offsets[j], E);
}

// Short blocks by whole vectors, of which the last two may overlap: a call of memcpy costs more than that.
PTRT_INLINE void copy_bytes(char* y, const char* x, int64_t n) {
  if (n < 16 || n > 128) {
    std::memcpy(y, x, static_cast<size_t>(n));
    return;
  }
  for (int64_t i = 0; i < n - 16; i += 16) std::memcpy(y + i, x + i, 16);
  std::memcpy(y + n - 16, x + n - 16, 16);
}

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
    step_ = x.strides[axis] * e;
    selected_ = y.shape[axis];
    count_ = outer_.size();
    block_size_ = block_.size();
    chunk_ = std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(8, block_size_ * e));
    // A block of bytes without gaps counts as one element.
    const int64_t* inner = block_.stride[block_.nd - 1];
    const bool dense = block_size_ == 1 || (block_.nd == 1 && inner[0] == e && inner[1] == e);
    bytes_ = dense ? block_size_ * e : 0;
    copy_ = copy_fn(static_cast<size_t>(e));
    switch (bytes_) {
      case 1: pick_ = pick<1>; break;
      case 2: pick_ = pick<2>; break;
      case 4: pick_ = pick<4>; break;
      case 8: pick_ = pick<8>; break;
      case 16: pick_ = pick<16>; break;
      default: break;
    }
  }

  void run(const RunContext& ctx) override {
    const int64_t n = list(ctx);
    if (n != selected_) throw KernelError("compress: expected " + std::to_string(selected_) + " true elements, found " + std::to_string(n));
    if (count_ == 0 || block_size_ == 0) return;
    const int64_t* offsets = reinterpret_cast<int64_t*>(ctx.shared_scratch);
    const char* x = desc.ins[0].as<char>();
    char* y = desc.outs[0].as<char>();
    const int64_t *step = outer_.stride[outer_.nd - 1], *inner = block_.stride[block_.nd - 1];
    ctx.parallel(ceil_div(count_, chunk_), [&](int64_t t, int) {
      outer_.walk(t * chunk_, std::min(count_, (t + 1) * chunk_), [&](const int64_t* off, int64_t m) {
        if (pick_ && step[2] == 1) {
          pick_(y + off[1], step[1], x + off[0], offsets + off[2], m);
          return;
        }
        for (int64_t j = 0; j < m; j++) {
          const char* px = x + off[0] + j * step[0] + offsets[off[2] + j * step[2]];
          char* py = y + off[1] + j * step[1];
          if (bytes_) copy_bytes(py, px, bytes_);
          else block_.walk(0, block_size_, [&](const int64_t* o, int64_t b) { copy_(py + o[1], inner[1], px + o[0], inner[0], b); });
        }
      });
    });
  }

  size_t shared_scratch_bytes() const override {
    return static_cast<size_t>(selected_ + ceil_div(desc.ins[1].shape[0], kChunk)) * sizeof(int64_t);
  }

 private:
  // Lists the offsets of what is selected; how much that is. If that is not what y has room for, the list is of no use.
  int64_t list(const RunContext& ctx) const {
    const Operand& c = desc.ins[1];
    const int64_t n = c.shape[0], s = c.strides[0], chunks = ceil_div(n, kChunk);
    auto *offsets = reinterpret_cast<int64_t*>(ctx.shared_scratch), *first = offsets + selected_;
    const bool count = ctx.threads() > 1 && chunks > 1;
    if (count)
      ctx.parallel(chunks, [&](int64_t t, int) {
        first[t] = count_nonzero<uint8_t>(c.as<char>() + t * kChunk * s, s, std::min(kChunk, n - t * kChunk), ~uint64_t{0});
      });
    int64_t total = 0;
    auto chunk = [&](int64_t t, int64_t at) {
      int32_t found[kListed];
      for (int64_t i = t * kChunk, end = std::min(n, i + kChunk); i < end; i += kListed) {
        const int64_t m = list_nonzero<uint8_t>(c.as<char>() + i * s, s, std::min(kListed, end - i), ~uint64_t{0}, found);
        for (int64_t j = 0; j < m && at + j < selected_; j++) offsets[at + j] = (i + found[j]) * step_;
        at += m;
      }
      return at;
    };
    if (!count) {
      for (int64_t t = 0; t < chunks; t++) total = chunk(t, total);
      return total;
    }
    for (int64_t t = 0; t < chunks; t++) {
      const int64_t m = first[t];
      first[t] = total;
      total += m;
    }
    ctx.parallel(chunks, [&](int64_t t, int) { chunk(t, first[t]); });
    return total;
  }

  Axes<3> outer_;  // x, y (bytes), position in the list of selected slices
  Axes<2> block_;  // x, y
  int64_t step_, selected_, count_, block_size_, chunk_, bytes_;
  CopyFn copy_;
  PickFn pick_ = nullptr;
};

}  // namespace

std::unique_ptr<Kernel> make_compress(LaunchDesc desc, BindContext&) { return std::make_unique<Compress>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
