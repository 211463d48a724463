// nonzero: fixed chunks are counted, then each writes its positions after those of the chunks before it.
#include <algorithm>

#include "cpu/gather_index.h"
#include "cpu/kernels.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kChunk = 1 << 14;

// Zero is all bits 0 under `mask`, which leaves out the sign of floats.
template <class U>
PTRT_INLINE bool nonzero(const char* p, uint64_t mask) {
  U u;
  std::memcpy(&u, p, sizeof u);
  return (u & static_cast<U>(mask)) != 0;
}
struct Pair32 {};  // complex64: either part
struct Pair64 {};
template <>
PTRT_INLINE bool nonzero<Pair32>(const char* p, uint64_t mask) {
  return nonzero<uint32_t>(p, mask) || nonzero<uint32_t>(p + 4, mask);
}
template <>
PTRT_INLINE bool nonzero<Pair64>(const char* p, uint64_t mask) {
  return nonzero<uint64_t>(p, mask) || nonzero<uint64_t>(p + 8, mask);
}

class NonZero final : public Kernel {
 public:
  explicit NonZero(LaunchDesc d) : Kernel(std::move(d)) {
    need(desc.ins.size() == 1 && desc.outs.size() == 1, "nonzero", "expected one input and one output");
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    need(y.dtype == DType::i64 && y.ndim == 2 && y.shape[0] == x.ndim, "nonzero", "y must be int64 [rank, n]");
    const auto e = static_cast<int64_t>(itemsize(x.dtype));
    for (int i = 0; i < x.ndim; i++) axes_.push(x.shape[i], x.strides[i] * e);  // not merged: the coordinates are the result
    if (x.ndim == 0) axes_.push(1, int64_t{0});
    size_ = x.size();
    switch (x.dtype) {
      case DType::f16:
      case DType::bf16: mask_ = 0x7fff; break;
      case DType::f32:
      case DType::c64: mask_ = 0x7fffffff; break;
      case DType::f64:
      case DType::c128: mask_ = 0x7fffffffffffffff; break;
      case DType::f8e4m3fn:
      case DType::f8e5m2: mask_ = 0x7f; break;
      case DType::f4e2m1: mask_ = 0x7; break;
      default: mask_ = ~uint64_t{0};
    }
    need(x.dtype != DType::f8e8m0, "nonzero", "this dtype has no zero");
    if (x.dtype == DType::c64) set<Pair32>();
    else if (x.dtype == DType::c128) set<Pair64>();
    else if (e == 1) set<uint8_t>();
    else if (e == 2) set<uint16_t>();
    else if (e == 4) set<uint32_t>();
    else set<uint64_t>();
  }

  void run(const RunContext& ctx) override {
    const int64_t chunks = ceil_div(size_, kChunk), room = desc.outs[0].shape[1];
    auto* first = reinterpret_cast<int64_t*>(ctx.shared_scratch);
    ctx.parallel(chunks, [&](int64_t t, int) { first[t] = (this->*count_)(t * kChunk, std::min(size_, (t + 1) * kChunk)); });
    int64_t total = 0;
    for (int64_t t = 0; t < chunks; t++) {
      const int64_t n = first[t];
      first[t] = total;
      total += n;
    }
    if (total != room)
      throw KernelError("nonzero: expected " + std::to_string(room) + " non-zero elements, found " + std::to_string(total));
    ctx.parallel(chunks, [&](int64_t t, int) { (this->*write_)(t * kChunk, std::min(size_, (t + 1) * kChunk), first[t]); });
  }

  size_t shared_scratch_bytes() const override { return static_cast<size_t>(ceil_div(size_, kChunk)) * sizeof(int64_t); }

 private:
  template <class U>
  void set() {
    count_ = &NonZero::count<U>;
    write_ = &NonZero::write<U>;
  }
  template <class U>
  int64_t count(int64_t begin, int64_t end) const {
    const char* x = desc.ins[0].as<char>();
    const int64_t s = axes_.stride[axes_.nd - 1][0];
    int64_t n = 0;
    axes_.walk(begin, end, [&](const int64_t* off, int64_t m) {
      const char* p = x + off[0];
      for (int64_t j = 0; j < m; j++) n += nonzero<U>(p + j * s, mask_);
    });
    return n;
  }
  template <class U>
  void write(int64_t begin, int64_t end, int64_t at) const {
    const Operand& y = desc.outs[0];
    const char* x = desc.ins[0].as<char>();
    int64_t* out = y.as<int64_t>() + at * y.strides[1];
    const int last = axes_.nd - 1;
    const int64_t s = axes_.stride[last][0];
    int64_t flat = begin;
    axes_.walk(begin, end, [&](const int64_t* off, int64_t m) {
      int64_t c[kMaxDims], rest = flat;
      for (int i = last; i >= 0; i--) {
        c[i] = rest % axes_.shape[i];
        rest /= axes_.shape[i];
      }
      for (int64_t j = 0; j < m; j++) {
        if (!nonzero<U>(x + off[0] + j * s, mask_)) continue;
        for (int i = 0; i < last; i++) out[i * y.strides[0]] = c[i];
        if (y.shape[0] > 0) out[last * y.strides[0]] = c[last] + j;
        out += y.strides[1];
      }
      flat += m;
    });
  }

  Axes<1> axes_;
  int64_t size_;
  uint64_t mask_;
  int64_t (NonZero::*count_)(int64_t, int64_t) const;
  void (NonZero::*write_)(int64_t, int64_t, int64_t) const;
};

}  // namespace

std::unique_ptr<Kernel> make_nonzero(LaunchDesc desc, BindContext&) { return std::make_unique<NonZero>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
