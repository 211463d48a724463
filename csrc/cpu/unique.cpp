// unique: positions sorted by (key, position) form one run per distinct value; its head is the first occurrence.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/topk_keys.h"

namespace ptrt::PTRT_LEVEL {
namespace {

struct Entry {
  uint64_t key;
  int64_t index;
};
struct Before {
  bool operator()(const Entry& a, const Entry& b) const { return a.key != b.key ? a.key < b.key : a.index < b.index; }
};

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
    const bool known = with_key(x.dtype, [&](auto key) { fill_ = &Unique::fill<decltype(key)>; });
    need(known, "unique", "this dtype has no order");
    copy_ = copy_fn(itemsize(x.dtype));
  }

  void run(const RunContext& ctx) override {
    const int64_t n = desc.ins[0].shape[0];
    auto* entries = reinterpret_cast<Entry*>(ctx.shared_scratch);
    auto* groups = entries + n;  // (first occurrence, where its run starts in `entries`)
    (this->*fill_)(entries);
    std::sort(entries, entries + n, Before{});
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++)
      if (i == 0 || entries[i].key != entries[i - 1].key) groups[m++] = {static_cast<uint64_t>(entries[i].index), i};
    if (!sorted_) std::sort(groups, groups + m, Before{});
    const Operand &x = desc.ins[0], &y = desc.outs[0], &first = desc.outs[1], &inverse = desc.outs[2], &counts = desc.outs[3];
    const auto e = static_cast<int64_t>(itemsize(x.dtype));
    for (int64_t g = 0; g < m; g++) {
      const auto at = static_cast<int64_t>(groups[g].key);
      int64_t i = groups[g].index;
      const uint64_t key = entries[i].key;
      const int64_t start = i;
      for (; i < n && entries[i].key == key; i++) inverse.as<int64_t>()[entries[i].index * inverse.strides[0]] = g;
      first.as<int64_t>()[g * first.strides[0]] = at;
      counts.as<int64_t>()[g * counts.strides[0]] = i - start;
      copy_(y.as<char>() + g * y.strides[0] * e, e, x.as<char>() + at * x.strides[0] * e, e, 1);
    }
    *desc.outs[4].as<int64_t>() = m;
  }

  size_t shared_scratch_bytes() const override { return static_cast<size_t>(desc.ins[0].shape[0]) * 2 * sizeof(Entry); }

 private:
  template <class K>
  void fill(Entry* entries) const {
    using U = typename K::Bits;
    const Operand& x = desc.ins[0];
    for (int64_t i = 0; i < x.shape[0]; i++)
      entries[i] = {K::of(load_bits<U>(x.as<char>() + i * x.strides[0] * static_cast<int64_t>(sizeof(U)))), i};
  }

  bool sorted_;
  CopyFn copy_;
  void (Unique::*fill_)(Entry*) const = nullptr;
};

}  // namespace

std::unique_ptr<Kernel> make_unique(LaunchDesc desc, BindContext&) { return std::make_unique<Unique>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
