// nonzero: fixed chunks are counted, then each writes its positions after those of the chunks before it. A single thread does not count.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/nonzero_list.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kChunk = 1 << 14;

class NonZero final : public Kernel {
 public:
  explicit NonZero(LaunchDesc d) : Kernel(std::move(d)) {
    need(desc.ins.size() == 1 && desc.outs.size() == 1, "nonzero", "expected one input and one output");
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    need(y.dtype == DType::i64 && y.ndim == 2 && y.shape[0] == x.ndim, "nonzero", "y must be int64 [rank, n]");
    const auto e = static_cast<int64_t>(itemsize(x.dtype));
    for (int i = 0; i < x.ndim; i++) axes_.push(x.shape[i], x.strides[i] * e);
    axes_.finish();
    size_ = x.size();
    switch (x.dtype) {
      case DType::f16:
      case DType::bf16: mask_ = 0x7fff; break;
      case DType::f32: mask_ = 0x7fffffff; break;
      case DType::c64: mask_ = 0x7fffffff7fffffff; break;
      case DType::f64:
      case DType::c128: mask_ = 0x7fffffffffffffff; break;
      case DType::f8e4m3fn:
      case DType::f8e5m2: mask_ = 0x7f; break;
      case DType::f4e2m1: mask_ = 0x7; break;
      default: mask_ = ~uint64_t{0};
    }
    need(x.dtype != DType::f8e8m0, "nonzero", "this dtype has no zero");
    if (e == 1) set<uint8_t>();
    else if (e == 2) set<uint16_t>();
    else if (e == 4) set<uint32_t>();
    else if (e == 8) set<uint64_t>();
    else set<Complex128>();
  }

  void run(const RunContext& ctx) override {
    const int64_t room = desc.outs[0].shape[1];
    if (ctx.threads() == 1 && write(0, size_, 0, room) == room) return;
    const int64_t chunks = ceil_div(size_, kChunk);
    auto* first = reinterpret_cast<int64_t*>(ctx.shared_scratch);
    ctx.parallel(chunks, [&](int64_t t, int) { first[t] = count(t * kChunk, std::min(size_, (t + 1) * kChunk)); });
    int64_t total = 0;
    for (int64_t t = 0; t < chunks; t++) {
      const int64_t n = first[t];
      first[t] = total;
      total += n;
    }
    if (total != room)
      throw KernelError("nonzero: expected " + std::to_string(room) + " non-zero elements, found " + std::to_string(total));
    ctx.parallel(chunks, [&](int64_t t, int) { write(t * kChunk, std::min(size_, (t + 1) * kChunk), first[t], room); });
  }

  size_t shared_scratch_bytes() const override { return static_cast<size_t>(ceil_div(size_, kChunk)) * sizeof(int64_t); }

 private:
  template <class U>
  void set() {
    count_ = count_nonzero<U>;
    list_ = list_nonzero<U>;
  }

  int64_t count(int64_t begin, int64_t end) const {
    const char* x = desc.ins[0].as<char>();
    const int64_t s = axes_.stride[axes_.nd - 1][0];
    int64_t n = 0;
    axes_.walk(begin, end, [&](const int64_t* off, int64_t m) { n += count_(x + off[0], s, m, mask_); });
    return n;
  }

  // Writes the coordinates of those in [begin, end) from position `at` of y; returns the position after them, or one after `room` if they
  // do not fit.
  int64_t write(int64_t begin, int64_t end, int64_t at, int64_t room) const {
    const char* x = desc.ins[0].as<char>();
    const int64_t s = axes_.stride[axes_.nd - 1][0];
    Cursor cursor;
    int32_t list[kListed];
    int64_t flat = begin;
    axes_.walk(begin, end, [&](const int64_t* off, int64_t m) {
      for (int64_t j = 0; j < m && at <= room; j += kListed) {
        const int64_t n = list_(x + off[0] + j * s, s, std::min(kListed, m - j), mask_, list);
        if (n > room - at) at = room + 1;
        else if (n > 0) {
          put(cursor, flat + j, list, n, at);
          at += n;
        }
      }
      flat += m;
    });
    return at;
  }

  struct Cursor {  // a row of x along its last axis
    int64_t begin = -1, c[kMaxDims];
  };

  // Coordinates of the elements base + list[j], from position `at` of y.
  void put(Cursor& row, int64_t base, const int32_t* list, int64_t n, int64_t at) const {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    const int last = x.ndim - 1;
    if (last < 0) return;
    const int64_t inner = x.shape[last], s = y.strides[1];
    int64_t* out = y.as<int64_t>() + at * s;
    for (int64_t j = 0; j < n;) {
      const int64_t position = base + list[j];
      if (row.begin < 0 || position >= row.begin + 2 * inner) {
        int64_t rest = position / inner;
        row.begin = rest * inner;
        for (int i = last - 1; i >= 0; rest /= x.shape[i--]) row.c[i] = rest % x.shape[i];
      } else if (position >= row.begin + inner) {
        row.begin += inner;
        int i = last - 1;
        for (; ++row.c[i] == x.shape[i]; i--) row.c[i] = 0;
      }
      const int64_t shift = base - row.begin, from = j;
      for (int64_t* to = out + last * y.strides[0]; j < n && list[j] + shift < inner; j++) to[j * s] = list[j] + shift;
      for (int i = 0; i < last; i++) {
        int64_t* to = out + i * y.strides[0];
        for (int64_t k = from; k < j; k++) to[k * s] = row.c[i];
      }
    }
  }

  Axes<1> axes_;
  int64_t size_;
  uint64_t mask_;
  int64_t (*count_)(const char*, int64_t, int64_t, uint64_t) = nullptr;
  int64_t (*list_)(const char*, int64_t, int64_t, uint64_t, int32_t*) = nullptr;
};

}  // namespace

std::unique_ptr<Kernel> make_nonzero(LaunchDesc desc, BindContext&) { return std::make_unique<NonZero>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
