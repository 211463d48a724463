// unique: positions sorted by (key, position) form one run per distinct value; its head is the first occurrence.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/topk_sort.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kBlock = 64;

class Unique final : public Kernel {
 public:
  explicit Unique(LaunchDesc d) : Kernel(std::move(d)) {
    need(desc.ins.size() == 1 && desc.outs.size() == 5, "unique", "expected one input and five outputs");
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    need(x.ndim == 1 && y.dtype == x.dtype && same_shape(x, y), "unique", "x and y must be [n]");
    for (size_t i = 1; i < 4; i++)
      need(desc.outs[i].dtype == DType::i64 && same_shape(x, desc.outs[i]), "unique", "outputs must be int64 [n]");
    need(desc.outs[4].dtype == DType::i64 && desc.outs[4].ndim == 1 && desc.outs[4].shape[0] == 1, "unique", "n must be int64 [1]");
    sorted_ = desc.params().i() != 0;
    narrow_ = order_of<uint32_t>(x.dtype, false);
    wide_ = order_of<uint64_t>(x.dtype, false);
    need(narrow_.load || wide_.load, "unique", "this dtype has no order");
    n_ = x.shape[0];
    need(n_ <= int64_t{0xffffffff} || !narrow_.load, "unique", "too many elements");
    item_ = static_cast<int64_t>(itemsize(x.dtype));
  }

  void run(const RunContext& ctx) override {
    int64_t runs = 0;
    if (narrow_.load) runs = all<Pair32>(narrow_, ctx.shared_scratch);
    else if (in_low_half()) runs = all<Pair32>(wide_, ctx.shared_scratch);
    else runs = all<Pair64>(wide_, ctx.shared_scratch);
    *desc.outs[4].as<int64_t>() = runs;
  }

  size_t shared_scratch_bytes() const override { return static_cast<size_t>(n_) * 2 * sizeof(Pair64); }

 private:
  // f(keys, position of the first, how many) for all of them.
  template <class K, class F>
  PTRT_INLINE void blocks(const Order<K>& order, F&& f) const {
    const Operand& x = desc.ins[0];
    const int64_t sx = x.strides[0] * item_;
    K keys[kBlock];
    for (int64_t i = 0; i < n_; i += kBlock) {
      const int64_t m = std::min(kBlock, n_ - i);
      order.load(order, x.as<char>() + i * sx, sx, m, keys);
      f(static_cast<const K*>(keys), i, m);
    }
  }

  // Do keys of 64 bits differ in their low halves only?
  bool in_low_half() const {
    uint64_t first = 0, differ = 0;
    blocks(wide_, [&](const uint64_t* keys, int64_t i, int64_t m) {
      if (i == 0) first = keys[0];
      for (int64_t j = 0; j < m; j++) differ |= keys[j] ^ first;
    });
    return differ >> 32 == 0 && n_ <= int64_t{0xffffffff};
  }

  template <class P, class K>
  PTRT_NOINLINE int64_t all(const Order<K>& order, char* scratch) const {
    auto *pairs = reinterpret_cast<P*>(scratch), *spare = pairs + n_;
    blocks(order, [&](const K* keys, int64_t i, int64_t m) {
      for (int64_t j = 0; j < m; j++) pairs[i + j] = P::make(static_cast<typename P::Key>(keys[j]), i + j);
    });
    const P* at = sort_pairs(pairs, spare, n_);
    const Operand &x = desc.ins[0], &y = desc.outs[0], &first = desc.outs[1], &inverse = desc.outs[2], &counts = desc.outs[3];
    const int64_t sx = x.strides[0] * item_, sy = y.strides[0] * item_, sf = first.strides[0], sc = counts.strides[0];
    auto found = [&](int64_t run, int64_t position, int64_t count) {
      first.as<int64_t>()[run * sf] = position;
      counts.as<int64_t>()[run * sc] = count;
      move_item(y.as<char>() + run * sy, x.as<char>() + position * sx, item_);
    };
    int64_t* number = inverse.as<int64_t>();
    const int64_t si = inverse.strides[0];
    int64_t m = 0;
    for (int64_t i = 0; i < n_;) {
      const int64_t head = at[i].index(), begin = i;
      const auto key = at[i].key();
      do number[at[i].index() * si] = sorted_ ? m : head;
      while (++i < n_ && at[i].key() == key);
      if (sorted_) found(m, head, i - begin);
      else number[head * si] = begin - i;  // the run's length, negative
      m++;
    }
    if (sorted_) return m;
    // Runs in the order of their heads, which lie before what else refers to them.
    auto* runs = reinterpret_cast<int64_t*>(at == pairs ? spare : pairs);  // of each head
    m = 0;
    for (int64_t i = 0; i < n_; i++) {
      const int64_t v = number[i * si];
      if (v < 0) {
        found(m, i, -v);
        runs[i] = m++;
      }
      number[i * si] = runs[v < 0 ? i : v];
    }
    return m;
  }

  bool sorted_;
  int64_t n_, item_;
  Order<uint32_t> narrow_;
  Order<uint64_t> wide_;
};

}  // namespace

std::unique_ptr<Kernel> make_unique(LaunchDesc desc, BindContext&) { return std::make_unique<Unique>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
