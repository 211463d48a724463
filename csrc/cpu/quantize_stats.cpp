// DynamicQuantizeLinear's scale and zero point: the range of all of x, widened to include zero, in one pass.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/reduce_block.h"
#include "cpu/reduce_vec.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kChunk = 4096;
constexpr int64_t kTasks = 64;  // the most pieces that x is cut into

class QuantizeStats final : public Kernel {
 public:
  explicit QuantizeStats(LaunchDesc d) : Kernel(std::move(d)), source_(desc) {
    const Operand& x = desc.ins[0];
    last_ = x.ndim - 1;
    for (int a = 0; a < last_; a++) outer_.add(a, x.shape[a]);
    n_ = x.shape[last_];
    chunk_ = std::clamp<int64_t>(n_, 1, kChunk);
    chunks_ = (n_ + chunk_ - 1) / chunk_;
    steps_ = outer_.total * chunks_;
    tasks_ = std::clamp<int64_t>(steps_ * chunk_ / 32768, 1, std::min(kTasks, std::max<int64_t>(steps_, 1)));
  }

  size_t thread_scratch_bytes() const override { return source_.scratch_bytes(chunk_); }
  size_t shared_scratch_bytes() const override { return sizeof(float) * 2 * kTasks; }

  void run(const RunContext& ctx) override {
    auto* ranges = reinterpret_cast<float*>(ctx.shared_scratch);
    ctx.parallel(tasks_, [&](int64_t task, int worker) {
      range(steps_ * task / tasks_, steps_ * (task + 1) / tasks_, ctx.thread_scratch(worker), ranges + 2 * task);
    });
    float low = 0, high = 0;
    for (int64_t t = 0; t < tasks_; t++) {
      low = std::min(low, ranges[2 * t]);
      high = std::max(high, ranges[2 * t + 1]);
    }
    const float scale = (high - low) / 255.0f;
    const float zero = scale == 0 ? 0.0f : std::nearbyint(-low / scale);
    *desc.outs[0].as<float>() = scale;
    *desc.outs[1].as<uint8_t>() = static_cast<uint8_t>(zero > 0 ? std::min(zero, 255.0f) : 0.0f);
  }

 private:
  void range(int64_t from, int64_t to, char* scratch, float* result) const {
    int64_t index[kMaxDims] = {};
    float low = 0, high = 0;
    if (from < to) outer_.seek(index, from / chunks_);
    for (int64_t s = from; s < to; s++) {
      index[last_] = s % chunks_ * chunk_;
      const int64_t n = std::min(chunk_, n_ - index[last_]);
      int64_t stride;
      const float* x = source_.block(desc, index, -1, 1, last_, n, scratch, &stride);
      vf lo[4], hi[4];
      for (int j = 0; j < 4; j++) lo[j] = hi[j] = vf{};
      int64_t i = 0;
      for (; i + 4 * W <= n; i += 4 * W) PTRT_UNROLL for (int j = 0; j < 4; j++) {
          const vf v = load(x + i + j * W);
          lo[j] = vmin(v, lo[j]);
          hi[j] = vmax(v, hi[j]);
        }
      for (; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
      }
      high = std::max(high, max_lanes(vmax(vmax(hi[0], hi[1]), vmax(hi[2], hi[3]))));
      low = std::min(low, -max_lanes(-vmin(vmin(lo[0], lo[1]), vmin(lo[2], lo[3]))));
      if (s % chunks_ == chunks_ - 1) outer_.next(index);
    }
    result[0] = low;
    result[1] = high;
  }

  Source<float> source_;
  Walk outer_;
  int last_ = 0;
  int64_t n_ = 0, chunk_ = 1, chunks_ = 1, steps_ = 0, tasks_ = 1;
};

}  // namespace

std::unique_ptr<Kernel> make_quantize_stats(LaunchDesc desc, BindContext&) {
  if (desc.outs[0].dtype != DType::f32 || desc.outs[1].dtype != DType::u8)
    throw KernelError("quantize_stats: scale is float32, zero_point uint8");
  LaunchDesc input;  // the outputs have no axes to follow
  input.ins.push_back(desc.ins[0]);
  canonicalise(input, std::vector<int>(static_cast<size_t>(desc.ins[0].ndim), 1));
  Operand& x = desc.ins[0];
  const Operand& merged = input.ins[0];
  x.ndim = merged.ndim;
  std::copy(merged.shape, merged.shape + kMaxDims, x.shape);
  std::copy(merged.strides, merged.strides + kMaxDims, x.strides);
  // canonicalise() closes with a kept axis of size 1: the reduced ones have to be last.
  if (x.ndim > 1 && x.shape[x.ndim - 1] == 1) x.ndim--;
  return std::make_unique<QuantizeStats>(std::move(desc));
}

}  // namespace ptrt::PTRT_LEVEL
