// 3x3 Winograd convolution for few tiles or many channels. A block of output tiles is processed in three parallel steps: V, over input
// channels; P = V * U, over positions, so that V of one position stays in L1 while all its weights pass; the output transform, over output
// channels.
//
// Until the weights are packed (a first use, or always where they are to stay in the file), they are transformed on the way, and the tasks
// of the second step are panels of output channels: the same sums in the same order. (As the only way, this would save three quarters of
// the memory, but it took a fifth longer with 64 tiles and a third with 16: V of all positions passes every panel.)
#include "cpu/winograd.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kTiles = 56;

template <int F>
class WinogradPositions final : public WinogradConv<F> {
  typedef WinogradConv<F> Base;
  using Base::A, Base::A2, Base::blocks_, Base::Cp_, Base::desc, Base::g_, Base::kLane, Base::kSkew, Base::kTaps, Base::Kp_, Base::Mp_,
      Base::nr_, Base::out_, Base::panels_;

 public:
  PTRT_COLD WinogradPositions(LaunchDesc d, BindContext& bind, const ConvGeometry& g) : Base(std::move(d), g, kTiles) {
    out_step_ = least(this->chunk(), most(W, round_up(Mp_ / 8, W)));
    out_bytes_ = this->out_bytes(out_step_);
    packed_ = bind.packs.lazily(desc.ins[1], this->pack_key(), this->weight_bytes(), [this](void* to) { this->pack(to); });
    if (!packed_->packed()) {
      stretch_ = least(Kp_, chain_length(Kp_));
      u_pitch_ = stretch_ * nr_ + kSkew;
      u_bytes_ = static_cast<size_t>(round_up(A * u_pitch_ * 4, 64));
      taps_bytes_ = static_cast<size_t>(stretch_ * kTaps * nr_ * 4);
    }
  }

  size_t shared_scratch_bytes() const override { return this->bias_bytes() + this->work_bytes(); }
  size_t thread_scratch_bytes() const override { return u_bytes_ + taps_bytes_ + out_bytes_ + out_.scratch_bytes(); }

  void run(const RunContext& ctx) override {
    auto* bias = reinterpret_cast<float*>(ctx.shared_scratch);
    this->prepare_bias(bias);
    const auto w = this->work(ctx.shared_scratch + this->bias_bytes());
    const auto* U = static_cast<const float*>(packed_->use(desc.ins[1], ctx.threads(), [this](void* to) { this->pack(to); }));
    const bool direct = out_.direct(desc);
    const int64_t in_step = most(kLane, round_up(Cp_ / 8, kLane));
    for (int64_t b = 0; b < blocks_; b++) {
      const WinogradTiles t = this->block(b);
      ctx.parallel(ceil_div(Cp_, in_step),
                   [&](int64_t k, int) { this->transform_input(t, w, k * in_step, least(Cp_, (k + 1) * in_step)); });
      if (U) ctx.parallel(A2, [&](int64_t xi, int) { this->multiply(t.count(), xi, w, U); });
      else ctx.parallel(panels_, [&](int64_t p, int worker) { multiply_on_the_way(t.count(), p, w, ctx.thread_scratch(worker)); });
      ctx.parallel(ceil_div(g_.M, out_step_), [&](int64_t k, int worker) {
        const int64_t m = k * out_step_;
        this->transform_output(t, w.p, bias, m, least(out_step_, g_.M - m), direct, ctx.thread_scratch(worker) + u_bytes_ + taps_bytes_,
                               out_bytes_);
      });
    }
    if (!U) give_back(desc.ins[1]);
  }

 private:
  void multiply_on_the_way(int64_t count, int64_t p, const typename Base::Work& w, char* scratch) const {
    auto *U = reinterpret_cast<float*>(scratch), *taps = reinterpret_cast<float*>(scratch + u_bytes_);
    for (int64_t c0 = 0; c0 < Kp_; c0 += stretch_) {
      const int64_t c1 = least(Kp_, c0 + stretch_);
      this->gather(p, c0, c1, taps);
      for (int y = 0; y < A; y++) {
        this->transform_weights(taps, c1 - c0, y, U, u_pitch_);
        for (int x = 0; x < A; x++) this->product(count, y * A + x, p, c0, c1, w, U + x * u_pitch_, nullptr);
      }
    }
  }

  int64_t stretch_ = 0;  // channels transformed on the way at a time: a chain of additions
  int64_t u_pitch_ = 0, out_step_ = 0;
  size_t u_bytes_ = 0, taps_bytes_ = 0, out_bytes_ = 0;
  std::shared_ptr<LazyPack> packed_;
};

}  // namespace

std::unique_ptr<Kernel> make_winograd_positions(int f, LaunchDesc desc, BindContext& bind, const ConvGeometry& g) {
  if (f == 2) return std::make_unique<WinogradPositions<2>>(std::move(desc), bind, g);
  return std::make_unique<WinogradPositions<4>>(std::move(desc), bind, g);
}

}  // namespace ptrt::PTRT_LEVEL
