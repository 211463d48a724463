// Convolution as a sum of shifted 1x1 convolutions, one per tap of the window, each over the outputs that it reaches without leaving the
// input: for dilated windows that mostly lie in the padding (the atrous convolutions of segmentation heads), where staging a zero-haloed
// window and multiplying its zeros would be most of the work, and for those that span so much more than a block of results that staging is
// (the last layers of a WaveNet). x is read in place.
#include "cpu/conv.h"
#include "cpu/tile.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kPixels = 224;     // of a block: its sums stay in L2 from tap to tap
constexpr int64_t kTasks = 4;        // per thread
constexpr double kStagingCost = 16;  // of one value, in multiply-adds

struct Range {
  int64_t begin, end;
  int64_t size() const { return end > begin ? end - begin : 0; }
};

// The outputs along an axis for which tap j reads the input.
Range reach(const ConvGeometry& g, int axis, int64_t j) {
  const int64_t s = g.stride[axis], at = j * g.dilation[axis] - g.pad[axis];  // of output 0
  const int64_t first = at < 0 ? ceil_div(-at, s) : 0;
  const int64_t end = g.in[axis] > at ? ceil_div(g.in[axis] - at, s) : 0;
  return {least(first, g.out[axis]), least(end, g.out[axis])};
}

class TapConv final : public Kernel {
 public:
  TapConv(LaunchDesc d, BindContext& bind, const ConvGeometry& g)
      : Kernel(std::move(d)), g_(g), out_(desc, g, ConvMath::f32, true), xs_(conv_strides(desc.ins[0])) {
    nv_ = panel_vectors(g.M, W);
    nr_ = nv_ * W;
    panels_ = ceil_div(g.M, nr_);
    cols_ = least(g.out[2], kPixels);
    rows_ = least(g.out[1], most(1, kPixels / cols_));
    const int64_t blocks = g.N * g.out[0] * ceil_div(g.out[1], rows_) * ceil_div(g.out[2], cols_);
    panel_groups_ = bind.threads == 1 ? 1 : least(panels_, ceil_div(kTasks * bind.threads, blocks));
    panels_per_task_ = ceil_div(panels_, panel_groups_);
    panel_groups_ = ceil_div(panels_, panels_per_task_);
    tasks_ = blocks * panel_groups_;
    sums_bytes_ = static_cast<size_t>(round_up(rows_ * cols_ * nr_ * 4, 64));
    out_bytes_ = static_cast<size_t>(round_up(static_cast<int64_t>(out_.block_bytes(rows_ * cols_, nr_)), 64));
    const std::string key = conv_pack_key("taps", desc.ins[1], g) + ":NR" + std::to_string(nr_);
    packed_ = bind.packs.lazily(desc.ins[1], key, static_cast<size_t>(panels_ * panel_size()) * 4, [this](void* to) { pack(to); });
    if (!packed_->packed()) panel_bytes_ = static_cast<size_t>(round_up(panel_size() * 4, 64));
  }

  size_t shared_scratch_bytes() const override { return static_cast<size_t>(round_up(panels_ * nr_ * 4, 64)); }
  size_t thread_scratch_bytes() const override { return panel_bytes_ + sums_bytes_ + out_bytes_ + out_.scratch_bytes(); }
  std::string describe() const override {
    return "tap by tap, " + std::to_string(rows_) + "x" + std::to_string(cols_) + " pixels, " + std::to_string(nr_) + " channels" +
           out_.activation_name();
  }

  void run(const RunContext& ctx) override {
    auto* bias = reinterpret_cast<float*>(ctx.shared_scratch);
    out_.fill_bias(desc, panels_ * nr_, bias);
    const auto* weights = static_cast<const float*>(packed_->use(desc.ins[1], ctx.threads(), [this](void* to) { pack(to); }));
    const bool direct = out_.direct(desc);
    ctx.parallel(tasks_, [&](int64_t t, int worker) { task(t, ctx.thread_scratch(worker), weights, bias, direct); });
    if (!weights) give_back(desc.ins[1]);
  }

 private:
  int64_t panel_size() const { return g_.taps() * g_.C * nr_; }
  void pack(void* to) const {
    for (int64_t p = 0; p < panels_; p++) pack_panel(p, static_cast<float*>(to) + p * panel_size());
  }
  void pack_panel(int64_t p, float* to) const { conv_pack_panel(desc.ins[1], g_, p * nr_, least(nr_, g_.M - p * nr_), nr_, to); }

  void task(int64_t t, char* scratch, const float* weights, const float* bias, bool direct) const {
    auto *panel = reinterpret_cast<float*>(scratch), *sums = reinterpret_cast<float*>(scratch + panel_bytes_);
    char* result = scratch + panel_bytes_ + sums_bytes_;
    const int64_t p0 = t % panel_groups_ * panels_per_task_, p1 = least(panels_, p0 + panels_per_task_);
    ConvOutBox box = conv_block(g_, t / panel_groups_, rows_, cols_);
    for (int64_t p = p0; p < p1; p++) {
      if (!weights) pack_panel(p, panel);
      std::memset(sums, 0, static_cast<size_t>(box.rows * box.cols * nr_) * 4);
      add_taps(box, weights ? weights + p * panel_size() : panel, sums);
      box.m = p * nr_;
      box.chans = least(nr_, g_.M - box.m);
      const ConvResult r = direct ? out_.at(desc, box) : ConvResult{result, box.cols * box.chans, box.chans};
      finish(box, sums, bias + box.m, r);
      if (!direct || out_.must_finish()) out_.finish(desc, box, r, result + out_bytes_);
    }
  }

  void add_taps(const ConvOutBox& box, const float* weights, float* sums) const {
    const float* x = desc.ins[0].as<float>() + box.n * xs_.n;
    int64_t tap = 0;
    for (int64_t kd = 0; kd < g_.kernel[0]; kd++)
      for (int64_t kh = 0; kh < g_.kernel[1]; kh++)
        for (int64_t kw = 0; kw < g_.kernel[2]; kw++, tap++) {
          const Range depth = reach(g_, 0, kd), high = reach(g_, 1, kh), wide = reach(g_, 2, kw);
          if (box.od < depth.begin || box.od >= depth.end) continue;
          const Range rows{most(high.begin, box.oh), least(high.end, box.oh + box.rows)};
          const Range cols{most(wide.begin, box.ow), least(wide.end, box.ow + box.cols)};
          if (!rows.size() || !cols.size()) continue;
          const float* from = x + source(0, box.od, kd) + source(1, rows.begin, kh) + source(2, cols.begin, kw);
          float* to = sums + ((rows.begin - box.oh) * box.cols + cols.begin - box.ow) * nr_;
          const float* w = weights + tap * g_.C * nr_;
          const int64_t row = g_.stride[1] * xs_.s[1], pixel = g_.stride[2] * xs_.s[2];
          if (cols.size() == box.cols && row == box.cols * pixel) {  // rows follow one another in memory
            add(from, pixel, rows.size() * box.cols, w, to);
            continue;
          }
          for (int64_t h = 0; h < rows.size(); h++) add(from + h * row, pixel, cols.size(), w, to + h * box.cols * nr_);
        }
  }

  // Offset of the input that tap j of output o reads along an axis.
  int64_t source(int axis, int64_t o, int64_t j) const {
    return (o * g_.stride[axis] + j * g_.dilation[axis] - g_.pad[axis]) * xs_.s[axis];
  }

  void add(const float* x, int64_t pixel, int64_t pixels, const float* weights, float* sums) const {
    const RowSplit split(pixels, kMaxRows[nv_]);
    alignas(64) float part[kMaxRows[1] * 4 * W];  // of one tap: shorter chains of additions round less
    TileArgs<float> a;
    a.lda = pixel;
    a.K = g_.C;
    a.B = weights;
    a.ldb = a.ldc = nr_;
    a.cj = W;
    a.n = static_cast<int>(nr_);
    a.last = false;
    a.C = part;
    for (int64_t i = 0; i < split.blocks; i++) {
      a.A = x + split.start(i) * pixel;
      a.next = i < nv_ ? reinterpret_cast<const char*>(weights + g_.C * nr_) + i * g_.C * 64 : nullptr;
      tile_f32(static_cast<int>(split.rows(i)), nv_)(a);
      float* to = sums + split.start(i) * nr_;
      for (int64_t j = 0; j < split.rows(i) * nr_; j += W) store(to + j, load(to + j) + load(part + j));
    }
  }

  void finish(const ConvOutBox& box, const float* sums, const float* bias, const ConvResult& r) const {
    const VectorEpilogue e(out_.linear());
    const ConvResult res = out_.residual(desc, box), late = out_.residual_of_activation(desc, box);
    for (int64_t h = 0; h < box.rows; h++) {
      float* out = reinterpret_cast<float*>(r.data) + h * r.row;
      const float* residual = res.data ? reinterpret_cast<const float*>(res.data) + h * res.row : nullptr;
      for (int64_t w = 0; w < box.cols; w++)
        for (int64_t m = 0; m < box.chans; m += W) {
          const int n = static_cast<int>(least(W, box.chans - m));
          const vf sum = load(sums + (h * box.cols + w) * nr_ + m), b = load(bias + m);
          store_n(out + w * r.pixel + m, residual ? e(sum, b, load_n(residual + w * res.pixel + m, n)) : e(sum, b), n);
        }
      if (!out_.activates()) continue;
      const auto* from = reinterpret_cast<const float*>(late.data);
      out_.activate(desc, box.m, out, r.pixel, out, r.pixel, box.cols, box.chans, from ? from + h * late.row : nullptr, late.pixel);
    }
  }

  ConvGeometry g_;
  ConvOutput out_;
  ConvStrides xs_;
  int nv_ = 1;
  int64_t nr_ = 0, panels_ = 0, rows_ = 0, cols_ = 0, panel_groups_ = 0, panels_per_task_ = 0, tasks_ = 0;
  size_t panel_bytes_ = 0, sums_bytes_ = 0, out_bytes_ = 0;
  std::shared_ptr<LazyPack> packed_;
};

bool dilated_floats(const LaunchDesc& desc, const ConvGeometry& g) {
  const Operand &x = desc.ins[0], &w = desc.ins[1];
  if (x.dtype != DType::f32 || !w.is_const() || g.G != 1 || g.C < 16 || g.taps() == 1 || conv_strides(x).c != 1) return false;
  for (int axis = 0; axis < 3; axis++)
    if (g.kernel[axis] > 1 && g.dilation[axis] > 1) return true;
  return false;
}

}  // namespace

bool tap_conv_skips_padding(const LaunchDesc& desc, const ConvGeometry& g) {
  if (!dilated_floats(desc, g)) return false;
  double used = 1;  // of the window
  for (int axis = 0; axis < 3; axis++) {
    int64_t reached = 0;
    for (int64_t j = 0; j < g.kernel[axis]; j++) reached += reach(g, axis, j).size();
    used *= static_cast<double>(reached) / static_cast<double>(g.kernel[axis] * g.out[axis]);
  }
  return used < 0.6;
}

bool tap_conv_skips_staging(const LaunchDesc& desc, const ConvGeometry& g) {
  if (!dilated_floats(desc, g)) return false;
  int64_t rows = g.out[1], cols = g.out[2];  // of a block of results, as the direct form chooses them
  const auto staged = [&] {                  // pixels
    return static_cast<double>(g.kernel[0]) * static_cast<double>((rows - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1) *
           static_cast<double>((cols - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1);
  };
  const double most_pixels = static_cast<double>(kConvStageBytes) / static_cast<double>(4 * g.C);
  while (rows > 1 && staged() > most_pixels) rows = (rows + 1) / 2;
  while (cols > kConvStageCols && staged() > most_pixels) cols = (cols + 1) / 2;
  return staged() * kStagingCost > static_cast<double>(rows * cols * g.taps() * g.M);
}

std::unique_ptr<Kernel> make_tap_conv(LaunchDesc desc, BindContext& bind, const ConvGeometry& g) {
  return std::make_unique<TapConv>(std::move(desc), bind, g);
}

}  // namespace ptrt::PTRT_LEVEL
