// topk along one axis. Candidates that beat the current k-th best are appended to a buffer of about 2k; when it is full it is cut back to
// the best k, which raises the bar. So a lane costs one vectorised comparison per element plus O(k log) work, whatever its order.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/topk_keys.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int kBlock = 64;

// A candidate: larger is better, and of equal keys the lower index is.
struct Packed {  // keys of up to 32 bits, lanes of up to 2^32 elements
  uint64_t v;
  static Packed make(uint64_t key, int64_t i) { return {key << 32 | (0xffffffffu - static_cast<uint32_t>(i))}; }
  uint64_t key() const { return v >> 32; }
  int64_t index() const { return static_cast<int64_t>(0xffffffffu - static_cast<uint32_t>(v)); }
};
struct Wide {
  uint64_t k;
  int64_t i;
  static Wide make(uint64_t key, int64_t i) { return {key, i}; }
  uint64_t key() const { return k; }
  int64_t index() const { return i; }
};
struct Better {
  bool operator()(Packed a, Packed b) const { return a.v > b.v; }
  bool operator()(Wide a, Wide b) const { return a.k != b.k ? a.k > b.k : a.i < b.i; }
};

class TopK final : public Kernel {
 public:
  explicit TopK(LaunchDesc d) : Kernel(std::move(d)) {
    need(desc.ins.size() == 1 && desc.outs.size() == 2, "topk", "expected one input and two outputs");
    const Operand &x = desc.ins[0], &v = desc.outs[0], &i = desc.outs[1];
    need(v.dtype == x.dtype && i.dtype == DType::i64 && same_shape(v, i) && v.ndim == x.ndim, "topk", "x, values and indices do not match");
    Params p = desc.params();
    int64_t axis = p.i();
    k_ = p.i();
    largest_ = p.i() != 0;
    if (axis < 0) axis += x.ndim;
    need(axis >= 0 && axis < x.ndim, "topk", "bad axis");
    n_ = x.shape[axis];
    need(k_ >= 0 && k_ <= n_ && v.shape[axis] == k_, "topk", "k does not fit");
    const auto e = static_cast<int64_t>(itemsize(x.dtype));
    sx_ = x.strides[axis] * e;
    sv_ = v.strides[axis] * e;
    si_ = i.strides[axis] * 8;
    for (int a = 0; a < x.ndim; a++) {
      if (a == axis) continue;
      need(x.shape[a] == v.shape[a], "topk", "outputs have the wrong shape");
      lanes_.push(x.shape[a], x.strides[a] * e, v.strides[a] * e, i.strides[a] * 8);
    }
    lanes_.finish();
    count_ = lanes_.size();
    room_ = std::min(n_, 2 * k_ + 4 * kBlock);
    const bool known = with_key(x.dtype, [&](auto key) {
      using K = decltype(key);
      if (sizeof(typename K::Bits) <= 4 && n_ <= int64_t{0xffffffff}) lane_ = &TopK::lane<K, Packed>;
      else lane_ = &TopK::lane<K, Wide>;
    });
    need(known, "topk", "this dtype has no order");
    chunk_ = std::max<int64_t>(1, (int64_t{1} << 14) / std::max<int64_t>(n_, 1));
  }

  void run(const RunContext& ctx) override {
    if (count_ == 0 || k_ == 0) return;
    ctx.parallel(ceil_div(count_, chunk_), [&](int64_t t, int worker) {
      char* scratch = ctx.thread_scratch(worker);
      const int64_t* step = lanes_.stride[lanes_.nd - 1];
      lanes_.walk(t * chunk_, std::min(count_, (t + 1) * chunk_), [&](const int64_t* off, int64_t m) {
        for (int64_t j = 0; j < m; j++)
          (this->*lane_)(desc.ins[0].as<char>() + off[0] + j * step[0], desc.outs[0].as<char>() + off[1] + j * step[1],
                         desc.outs[1].as<char>() + off[2] + j * step[2], scratch);
      });
    });
  }

  size_t thread_scratch_bytes() const override { return static_cast<size_t>(room_) * sizeof(Wide); }

 private:
  template <class K, class C>
  void lane(const char* x, char* values, char* indices, char* scratch) const {
    using U = typename K::Bits;
    C* best = reinterpret_cast<C*>(scratch);
    int64_t have = 0;
    const U flip = largest_ ? U{0} : static_cast<U>(~U{0});
    U bar = 0;  // once k candidates are known, later elements must be above this key
    bool full = false;
    auto cut = [&] {
      std::nth_element(best, best + (k_ - 1), best + have, Better{});
      have = k_;
      bar = static_cast<U>(best[k_ - 1].key());
      full = true;
    };
    auto scan = [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; j++) {
        const U key = static_cast<U>(K::of(load_bits<U>(x + j * sx_)) ^ flip);
        if (full && key <= bar) continue;
        if (have == room_) {
          cut();
          if (key <= bar) continue;
        }
        best[have++] = C::make(key, j);
      }
    };
    int64_t j = 0;
    for (; j + kBlock <= n_; j += kBlock) {
      if (full) {
        U any = 0;
        if (sx_ == sizeof(U))
          for (int b = 0; b < kBlock; b++)
            any |= static_cast<U>(static_cast<U>(K::of(load_bits<U>(x + (j + b) * static_cast<int64_t>(sizeof(U)))) ^ flip) > bar);
        else any = 1;
        if (!any) continue;
      }
      scan(j, j + kBlock);
    }
    scan(j, n_);
    if (have > k_) cut();
    std::sort(best, best + k_, Better{});
    for (int64_t r = 0; r < k_; r++) {
      const int64_t at = best[r].index();
      std::memcpy(values + r * sv_, x + at * sx_, sizeof(U));
      std::memcpy(indices + r * si_, &at, sizeof at);
    }
  }

  Axes<3> lanes_;
  int64_t k_, n_, sx_, sv_, si_, count_, room_, chunk_;
  bool largest_;
  void (TopK::*lane_)(const char*, char*, char*, char*) const = nullptr;
};

}  // namespace

std::unique_ptr<Kernel> make_topk(LaunchDesc desc, BindContext&) { return std::make_unique<TopK>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
