// 3x3 Winograd convolution for many tiles: a block of output tiles is one task, with V and P in its own workspace, so the transformed
// weights, which every block reads, should stay in a cache.
#include "cpu/winograd.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kTasks = 6;       // per thread, for a balanced split, if the blocks stay large enough for their weights
constexpr int64_t kManyBlocks = 8;  // from here on a block is a task

int64_t all_tiles(const ConvGeometry& g) { return winograd_tiles(g, Winograd<4>::M); }

// The fewest tiles that hide the reading of the weights, from L2 or from further away.
int64_t least_tiles(const ConvGeometry& g) {
  const int64_t weights = g.Cg * g.M * Winograd<4>::A * Winograd<4>::A * 4;
  return weights <= 1 << 20 ? 14 : weights <= 3 << 20 ? 28 : 56;
}

int64_t tiles_per_block(const ConvGeometry& g, int threads) {
  const int64_t most_tiles = g.C <= 64 ? 28 : 56;
  return threads == 1 ? most_tiles : most(least_tiles(g), least(all_tiles(g) / (kTasks * threads), most_tiles));
}

class WinogradBlocks final : public WinogradConv<4> {
 public:
  PTRT_COLD WinogradBlocks(LaunchDesc d, BindContext& bind, const ConvGeometry& g)
      : WinogradConv(std::move(d), g, tiles_per_block(g, bind.threads)) {
    chunk_ = chunk();
    out_bytes_ = out_bytes(chunk_);
    packed_ = bind.packs.get(desc.ins[1], pack_key(), weight_bytes(), [this](void* to) { pack(to); });
  }

  size_t shared_scratch_bytes() const override { return bias_bytes(); }
  size_t thread_scratch_bytes() const override { return work_bytes() + out_bytes_ + out_.scratch_bytes(); }

  void run(const RunContext& ctx) override {
    auto* bias = reinterpret_cast<float*>(ctx.shared_scratch);
    prepare_bias(bias);
    const auto* U = static_cast<const float*>(packed_.get());
    const bool direct = out_.direct(desc);
    ctx.parallel(blocks_, [&](int64_t b, int worker) {
      char* scratch = ctx.thread_scratch(worker);
      const Work w = work(scratch);
      const WinogradTiles t = block(b);
      transform_input(t, w, 0, Cp_);
      for (int64_t xi = 0; xi < A2; xi++) multiply(t.count(), xi, w, U);
      for (int64_t m = 0; m < g_.M; m += direct ? g_.M : chunk_)
        transform_output(t, w.p, bias, m, direct ? g_.M : least(chunk_, g_.M - m), direct, scratch + work_bytes(), out_bytes_);
    });
  }

 private:
  int64_t chunk_ = 0;
  size_t out_bytes_ = 0;
  std::shared_ptr<const void> packed_;
};

}  // namespace

bool winograd_has_many_blocks(const ConvGeometry& g) { return all_tiles(g) / least_tiles(g) >= kManyBlocks; }

std::unique_ptr<Kernel> make_winograd_blocks(LaunchDesc desc, BindContext& bind, const ConvGeometry& g) {
  return std::make_unique<WinogradBlocks>(std::move(desc), bind, g);
}

}  // namespace ptrt::PTRT_LEVEL
