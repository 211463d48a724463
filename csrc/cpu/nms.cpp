// nms: ONNX NonMaxSuppression-11. Each (batch, class) selects on its own into scratch; the selections are then joined in order.
#include <algorithm>

#include "cpu/gather_index.h"
#include "cpu/kernels.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int kBlock = 16;

struct Candidate {
  float score;
  int32_t index;
};
struct Better {
  bool operator()(const Candidate& a, const Candidate& b) const { return a.score != b.score ? a.score > b.score : a.index < b.index; }
};

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
    return static_cast<size_t>(spatial_) * sizeof(Candidate) + static_cast<size_t>(per_class_ + kBlock) * 5 * sizeof(float);
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
    const float* score = scores.as<float>() + task / classes_ * scores.strides[0] + task % classes_ * scores.strides[1];
    const float* box = boxes.as<float>() + task / classes_ * boxes.strides[0];
    auto* candidates = reinterpret_cast<Candidate*>(scratch);
    int64_t n = 0;
    for (int64_t i = 0; i < spatial_; i++) {
      const float s = score[i * scores.strides[2]];
      if (s == s && (!has_threshold_ || s > threshold_)) candidates[n++] = {s, static_cast<int32_t>(i)};
    }
    std::sort(candidates, candidates + n, Better{});
    const int64_t stride = per_class_ + kBlock;
    auto* kept = reinterpret_cast<float*>(candidates + spatial_);  // y0, x0, y1, x1, area of the boxes selected so far, one array each
    int64_t m = 0;
    for (int64_t c = 0; c < n && m < per_class_; c++) {
      const float* b = box + candidates[c].index * boxes.strides[1];
      const int64_t s = boxes.strides[2];
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
      bool suppressed = false;
      for (int64_t first = 0; first < m && !suppressed; first += kBlock) {
        const float* k = kept + first;
        int any = 0;
        for (int j = 0; j < kBlock; j++) {
          const float h = std::min(y1, k[2 * stride + j]) - std::max(y0, k[j]);
          const float w = std::min(x1, k[3 * stride + j]) - std::max(x0, k[stride + j]);
          const float both = (h > 0 ? h : 0) * (w > 0 ? w : 0);
          const float other = k[4 * stride + j], total = area + other - both;
          any |= (both > 0) & (area > 0) & (other > 0) & (total > 0) & (both / total > iou_);
        }
        suppressed = any != 0;
      }
      if (suppressed) continue;
      if (m % kBlock == 0)  // boxes not there yet have no area
        for (int j = 0; j < 5; j++)
          for (int i = 0; i < kBlock; i++) kept[j * stride + m + i] = 0;
      kept[m] = y0;
      kept[stride + m] = x0;
      kept[2 * stride + m] = y1;
      kept[3 * stride + m] = x1;
      kept[4 * stride + m] = area;
      picked[m++] = candidates[c].index;
    }
    return m;
  }

  bool center_, has_threshold_;
  float iou_, threshold_;
  int64_t spatial_, per_class_, classes_, tasks_;
};

}  // namespace

std::unique_ptr<Kernel> make_nms(LaunchDesc desc, BindContext&) { return std::make_unique<Nms>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
