// nms: ONNX NonMaxSuppression-11. Each (batch, class) selects on its own into scratch; the selections are then joined in order. Candidates
// are sorted a group at a time, the best ones first: mostly a few of them suffice.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/topk_sort.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int kLanes = 8;       // boxes compared at once
constexpr int64_t kBlock = 64;  // scores looked at at once
typedef float Four __attribute__((vector_size(16)));

PTRT_INLINE Four four(const float* p) {
  Four v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
PTRT_INLINE Four lesser(Four a, Four b) { return b < a ? b : a; }
PTRT_INLINE Four greater(Four a, Four b) { return a < b ? b : a; }

class Nms final : public Kernel {
 public:
  explicit Nms(LaunchDesc d) : Kernel(std::move(d)) {
    need(desc.ins.size() == 2 && desc.outs.size() == 2, "nms", "expected two inputs and two outputs");
    const Operand &boxes = desc.ins[0], &scores = desc.ins[1], &out = desc.outs[0], &n = desc.outs[1];
    need(boxes.dtype == DType::f32 && scores.dtype == DType::f32, "nms", "boxes and scores must be float");
    need(boxes.ndim == 3 && scores.ndim == 3 && boxes.shape[2] == 4, "nms", "boxes must be [B, S, 4] and scores [B, C, S]");
    need(boxes.shape[0] == scores.shape[0] && boxes.shape[1] == scores.shape[2], "nms", "boxes and scores do not match");
    need(out.dtype == DType::i64 && out.ndim == 2 && out.shape[1] == 3, "nms", "selected must be int64 [capacity, 3]");
    need(n.dtype == DType::i64 && n.ndim == 1 && n.shape[0] == 1, "nms", "n must be int64 [1]");
    Params p = desc.params();
    center_ = p.i() != 0;
    const int64_t most = p.i();
    iou_ = static_cast<float>(p.f());
    nearly_ = iou_ - __builtin_fabsf(iou_) * 0x1p-20f;
    threshold_ = static_cast<float>(p.f());
    has_threshold_ = p.i() != 0;
    spatial_ = scores.shape[2];
    need(spatial_ < int64_t{1} << 31, "nms", "too many boxes");
    per_class_ = std::max<int64_t>(0, std::min(most, spatial_));
    classes_ = scores.shape[1];
    tasks_ = scores.shape[0] * classes_;
  }

  size_t shared_scratch_bytes() const override { return static_cast<size_t>(tasks_) * (8 + static_cast<size_t>(per_class_) * 4); }
  size_t thread_scratch_bytes() const override {
    return static_cast<size_t>(spatial_) * 3 * sizeof(Pair32) + static_cast<size_t>(per_class_ + kLanes) * 5 * sizeof(float);
  }

  void run(const RunContext& ctx) override {
    const Operand& out = desc.outs[0];
    auto* counts = reinterpret_cast<int64_t*>(ctx.shared_scratch);
    auto* picked = reinterpret_cast<int32_t*>(counts + tasks_);
    ctx.parallel(tasks_, [&](int64_t t, int worker) { counts[t] = select(t, picked + t * per_class_, ctx.thread_scratch(worker)); });
    int64_t n = 0;
    for (int64_t t = 0; t < tasks_; t++) {
      if (n + counts[t] > out.shape[0]) throw KernelError("nms: more boxes were selected than the output has room for");
      for (int64_t i = 0; i < counts[t]; i++, n++) {
        int64_t* row = out.as<int64_t>() + n * out.strides[0];
        row[0] = t / classes_;
        row[out.strides[1]] = t % classes_;
        row[2 * out.strides[1]] = picked[t * per_class_ + i];
      }
    }
    *desc.outs[1].as<int64_t>() = n;
  }

 private:
  int64_t select(int64_t task, int32_t* picked, char* scratch) const {
    const Operand &boxes = desc.ins[0], &scores = desc.ins[1];
    const char* score = scores.as<char>() + (task / classes_ * scores.strides[0] + task % classes_ * scores.strides[1]) * 4;
    const float* box = boxes.as<float>() + task / classes_ * boxes.strides[0];
    auto *candidates = reinterpret_cast<Pair32*>(scratch), *group = candidates + spatial_, *spare = group + spatial_;
    auto* kept = reinterpret_cast<float*>(spare + spatial_);  // y0, x0, y1, x1, area of the boxes selected so far, one array each
    int64_t n = collect(score, scores.strides[2] * 4, candidates), m = 0;
    for (int64_t size = 4 * per_class_ + 64; n > 0 && m < per_class_; size *= 4) {
      const uint32_t last = n > 2 * size ? select_pairs(candidates, n, size).key : ~uint32_t{0};
      int64_t best = 0, rest = 0;
      for (int64_t i = 0; i < n; i++) {
        const Pair32 p = candidates[i];
        group[best] = p;
        candidates[rest] = p;
        best += p.key() <= last;
        rest += p.key() > last;
      }
      const Pair32* sorted = sort_pairs(group, spare, best);
      for (int64_t c = 0; c < best && m < per_class_; c++)
        if (add(box, sorted[c].index(), kept, m)) picked[m++] = static_cast<int32_t>(sorted[c].index());
      n = rest;
    }
    return m;
  }

  // The boxes whose scores are not NaN and above the threshold, with keys that descend.
  int64_t collect(const char* score, int64_t step, Pair32* candidates) const {
    uint32_t keys[kBlock], bar = ~uint32_t{0};
    if (has_threshold_) {
      order_.load(order_, reinterpret_cast<const char*>(&threshold_), 4, 1, keys);
      bar = keys[0] > 0 ? keys[0] - 1 : 0;  // (a NaN's key is 0)
    }
    int64_t n = 0;
    for (int64_t i = 0; i < spatial_; i += kBlock) {
      const int64_t m = std::min(kBlock, spatial_ - i);
      if (has_threshold_ && step == 4 && m == kBlock && !any_beyond(score + i * 4, kBlock, threshold_, false)) continue;
      order_.load(order_, score + i * step, step, m, keys);
      for (int64_t j = 0; j < m; j++) {
        candidates[n] = Pair32::make(keys[j], i + j);
        n += keys[j] - 1 < bar;
      }
    }
    return n;
  }

  // Makes a box the m-th of the kept ones, unless it overlaps one of them too much.
  bool add(const float* boxes, int64_t index, float* kept, int64_t m) const {
    const Operand& o = desc.ins[0];
    const float* b = boxes + index * o.strides[1];
    const int64_t s = o.strides[2], stride = per_class_ + kLanes;
    float y0, x0, y1, x1;
    if (center_) {
      const float hx = b[2 * s] / 2, hy = b[3 * s] / 2;
      x0 = b[0] - hx;
      x1 = b[0] + hx;
      y0 = b[s] - hy;
      y1 = b[s] + hy;
    } else {
      y0 = std::min(b[0], b[2 * s]);
      y1 = std::max(b[0], b[2 * s]);
      x0 = std::min(b[s], b[3 * s]);
      x1 = std::max(b[s], b[3 * s]);
    }
    const float area = (y1 - y0) * (x1 - x0);
    if (area > 0) {
      const Four zero{}, top = y0 - zero, left = x0 - zero, bottom = y1 - zero, right = x1 - zero;
      // (intersection, area of both) with four of the kept boxes
      auto overlap = [&](const float* k, Four& both, Four& total, Four& other) {
        const Four h = lesser(bottom, four(k + 2 * stride)) - greater(top, four(k));
        const Four w = lesser(right, four(k + 3 * stride)) - greater(left, four(k + stride));
        both = (h > zero ? h : zero) * (w > zero ? w : zero);
        other = four(k + 4 * stride);
        total = area + other - both;
      };
      for (int64_t first = 0; first < m; first += kLanes) {
        Keys64 perhaps{};  // without a division; hardly ever set where the answer is no
        for (int64_t part = 0; part < kLanes; part += 4) {
          Four both, total, other;
          overlap(kept + first + part, both, total, other);
          perhaps |= (Keys64)((both > zero) & (both >= total * nearly_));
        }
        if ((perhaps[0] | perhaps[1]) == 0) continue;
        for (int64_t part = 0; part < kLanes; part += 4) {
          Four both, total, other;
          overlap(kept + first + part, both, total, other);
          const Keys64 any = (Keys64)((both > zero) & (other > zero) & (total > zero) & (both / total > iou_));
          if ((any[0] | any[1]) != 0) return false;
        }
      }
    }
    if (m % kLanes == 0)  // boxes not there yet have no area
      for (int j = 0; j < 5; j++) std::memset(kept + j * stride + m, 0, kLanes * sizeof(float));
    kept[m] = y0;
    kept[stride + m] = x0;
    kept[2 * stride + m] = y1;
    kept[3 * stride + m] = x1;
    kept[4 * stride + m] = area;
    return true;
  }

  bool center_, has_threshold_;
  float iou_, threshold_, nearly_;  // nearly_: at most iou_, whatever a product with it and a division are rounded to
  int64_t spatial_, per_class_, classes_, tasks_;
  Order<uint32_t> order_ = order_of<uint32_t>(DType::f32, true);
};

}  // namespace

std::unique_ptr<Kernel> make_nms(LaunchDesc desc, BindContext&) { return std::make_unique<Nms>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
