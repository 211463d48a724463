// topk along one axis. Keys that ascend from the best are compared with a bar, the worst one that can still be needed. A small k: what is
// below the bar is inserted into a sorted list. Others: it is appended to a buffer of about 2k, which is cut back when it is full, and that
// lowers the bar. So a lane costs a few vectorised operations per element plus O(k log) work, whatever its order.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/topk_sort.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kBlock = 64;     // elements whose keys are made at once
constexpr int64_t kPart = 16;      // elements that are passed over together if none of them is below the bar
constexpr int64_t kInserted = 16;  // most of the k that are kept in a sorted list

// Is one of kPart keys below the bar?
template <class K>
PTRT_INLINE bool any_below(const K* keys, K bar) {
  using Vec = KeyVec<K>;
  const Vec limit = bar - Vec{};
  Vec found{};
  for (int64_t i = 0; i < kPart; i += 16 / sizeof(K)) {
    Vec k;
    std::memcpy(&k, keys + i, sizeof k);
    found |= (Vec)(k < limit);
  }
  const Keys64 two = (Keys64)found;
  return (two[0] | two[1]) != 0;
}

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
    const auto e = item_ = static_cast<int64_t>(itemsize(x.dtype));
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
    room_ = std::max(k_, std::min(n_, 2 * k_ + 4 * kBlock));
    narrow_ = order_of<uint32_t>(x.dtype, largest_);
    wide_ = order_of<uint64_t>(x.dtype, largest_);
    need((narrow_.load || wide_.load) && (!narrow_.load || n_ <= int64_t{0xffffffff}), "topk", "this dtype has no order");
    filtered_ = x.dtype == DType::f32 && sx_ == 4;
    chunk_ = std::max<int64_t>(1, (int64_t{1} << 14) / std::max<int64_t>(n_, 1));
  }

  void run(const RunContext& ctx) override {
    if (count_ == 0 || k_ == 0) return;
    ctx.parallel(ceil_div(count_, chunk_), [&](int64_t t, int worker) {
      char* scratch = ctx.thread_scratch(worker);
      const int64_t* step = lanes_.stride[lanes_.nd - 1];
      lanes_.walk(t * chunk_, std::min(count_, (t + 1) * chunk_), [&](const int64_t* off, int64_t m) {
        for (int64_t j = 0; j < m; j++) {
          const char* x = desc.ins[0].as<char>() + off[0] + j * step[0];
          char *values = desc.outs[0].as<char>() + off[1] + j * step[1], *indices = desc.outs[1].as<char>() + off[2] + j * step[2];
          if (narrow_.load) one<Pair32>(narrow_, x, values, indices, scratch);
          else one<Pair64>(wide_, x, values, indices, scratch);
        }
      });
    });
  }

  size_t thread_scratch_bytes() const override { return static_cast<size_t>(2 * room_) * sizeof(Pair64); }

 private:
  template <class P>
  void one(const Order<typename P::Key>& order, const char* lane, char* values, char* indices, char* scratch) const {
    using K = typename P::Key;
    P *best = reinterpret_cast<P*>(scratch), *other = best + room_;
    K keys[kBlock], bar = 0;
    int64_t have = 0;
    bool full = false;  // is there a bar?
    float value = 0;    // of the bar
    auto raise = [&](K key) {
      bar = key;
      full = true;
      if (sizeof(K) != 4) return;
      const auto u = static_cast<uint32_t>(key ^ order.flip), top = 0x80000000u, bits = u & top ? u ^ top : ~u;
      std::memcpy(&value, &bits, sizeof value);
    };
    for (int64_t j = 0; j < n_; j += kBlock) {
      const int64_t m = n_ - j < kBlock ? n_ - j : kBlock;
      const char* x = lane + j * sx_;
      const bool whole = full && m == kBlock;
      if (whole && filtered_ && !any_beyond(x, kBlock, value, !largest_)) continue;
      // Of a lane in random order, this is how far a block holds more than one of the k best so far.
      const bool dense = k_ > kInserted && j < kBlock * k_, unseen = whole && filtered_ && !dense;
      if (!unseen) order.load(order, x, sx_, m, keys);
      if (have + m > room_) raise(cut(best, have));
      for (int64_t first = 0; first < m; first += kPart) {
        const int64_t part = m - first < kPart ? m - first : kPart;
        if (unseen) {
          if (!any_beyond(x + first * 4, kPart, value, !largest_)) continue;
          order.load(order, x + first * 4, 4, kPart, keys + first);
        } else if (whole && !dense && !any_below(keys + first, bar)) {
          continue;
        }
        if (k_ <= kInserted) {
          for (int64_t i = first; i < first + part; i++) {
            if (full && keys[i] >= bar) continue;
            int64_t r = full ? k_ - 1 : have++;
            for (; r > 0 && best[r - 1].key() > keys[i]; r--) best[r] = best[r - 1];
            best[r] = P::make(keys[i], j + i);
            if (have == k_) raise(best[k_ - 1].key());
          }
        } else {
          for (int64_t i = first; i < first + part; i++) {
            best[have] = P::make(keys[i], j + i);
            have += !full || keys[i] < bar;
          }
        }
      }
    }
    if (k_ > kInserted) {
      if (have > k_) cut(best, have);
      best = sort_pairs(best, other, have);
    }
    for (int64_t r = 0; r < k_; r++) {
      const int64_t at = best[r].index();
      move_item(values + r * sv_, lane + at * sx_, item_);
      std::memcpy(indices + r * si_, &at, sizeof at);
    }
  }

  // Drops pairs that are not among the k best, nearly all of them; those that come later are not among them either unless they are below
  // the key that is returned.
  template <class P>
  typename P::Key cut(P* best, int64_t& have) const {
    Selection<P> s = select_pairs(best, have, k_);
    int64_t kept = 0;
    for (int64_t i = 0; i < have; i++) {
      const P p = best[i];
      const bool tie = p.key() == s.key && s.ties > 0;
      s.ties -= tie;
      best[kept] = p;
      kept += tie || p.key() < s.key;
    }
    have = kept;
    return s.key;
  }

  Axes<3> lanes_;
  int64_t k_, n_, item_, sx_, sv_, si_, count_, room_, chunk_;
  bool largest_, filtered_;
  Order<uint32_t> narrow_;
  Order<uint64_t> wide_;
};

}  // namespace

std::unique_ptr<Kernel> make_topk(LaunchDesc desc, BindContext&) { return std::make_unique<TopK>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
