// Convolution of few channels to few channels (blurs, gradients and other filters of images, waveforms and attention's rows), one plane
// after another with output columns as lanes: with channels as lanes most of a vector would be idle. Rows of the input are staged with
// their zero halo, columns apart by the stride in rows of their own, so that every tap reads contiguous values. A register tile is four
// output rows high: an input vector, once loaded, goes to all rows whose windows it lies in.
#include "cpu/conv.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kFew = 4, kFewInputs = 16;                       // channels of a group, out and in
constexpr int64_t kStageBytes = 256 << 10, kMostStaged = 1 << 20;  // of the rows under a task
constexpr int64_t kColumns = 2048;                                 // of a task
constexpr int64_t kTasks = 4;                                      // per thread
constexpr double kTaskFlops = 2e5;
constexpr int kRows = 4;  // of a register tile

struct Window {
  const float *x, *w;  // staged: channel 0 of the group, first row and column of the tile; weights of one output channel
  const int64_t* col;  // where a window column starts in a staged row
  int64_t plane, row;  // steps in the staged input: to the next channel, to the next row
  int64_t channels, kh, kw;
  int64_t stride, dilation;  // of rows
};

// Output rows LO .. HI of the tile take the input row at p; w: the weights that row 0 has for it.
template <int LO, int HI, int V>
PTRT_INLINE void input_row(const Window& g, const float* p, const float* w, vf (&acc)[kRows][V]) {
  for (int64_t k = 0; k < g.kw; k++) {
    vf x[V];
    PTRT_UNROLL for (int v = 0; v < V; v++) {
      x[v] = load(p + g.col[k] + v * W);
      PTRT_KEEP(x[v]);
    }
    PTRT_UNROLL for (int r = LO; r <= HI; r++) {
      const vf weight = splat(w[k - r * g.kw]);
      PTRT_UNROLL for (int v = 0; v < V; v++) acc[r][v] += weight * x[v];
    }
  }
}

template <int V>
PTRT_NOINLINE void sum_rows(const Window& g, float* out, int64_t out_row) {
  vf acc[kRows][V] = {};
  for (int64_t c = 0; c < g.channels; c++) {
    const float *plane = g.x + c * g.plane, *weights = g.w + c * g.kh * g.kw;
    if (g.stride == 1 && g.dilation == 1) {
      for (int64_t i = 0; i < g.kh + kRows - 1; i++) {  // input rows; window row i - r for output row r
        const float *p = plane + i * g.row, *w = weights + i * g.kw;
        switch (most(0, i - g.kh + 1) * kRows + least(kRows - 1, i)) {
          case 0: input_row<0, 0>(g, p, w, acc); break;
          case 1: input_row<0, 1>(g, p, w, acc); break;
          case 2: input_row<0, 2>(g, p, w, acc); break;
          case 3: input_row<0, 3>(g, p, w, acc); break;
          case 5: input_row<1, 1>(g, p, w, acc); break;
          case 6: input_row<1, 2>(g, p, w, acc); break;
          case 7: input_row<1, 3>(g, p, w, acc); break;
          case 10: input_row<2, 2>(g, p, w, acc); break;
          case 11: input_row<2, 3>(g, p, w, acc); break;
          default: input_row<3, 3>(g, p, w, acc);
        }
      }
      continue;
    }
    for (int64_t y = 0; y < g.kh; y++)
      for (int64_t k = 0; k < g.kw; k++) {
        const vf weight = splat(weights[y * g.kw + k]);
        PTRT_UNROLL for (int r = 0; r < kRows; r++) {
          const float* p = plane + (r * g.stride + y * g.dilation) * g.row + g.col[k];
          PTRT_UNROLL for (int v = 0; v < V; v++) acc[r][v] += weight * load(p + v * W);
        }
      }
  }
  PTRT_UNROLL for (int r = 0; r < kRows; r++) PTRT_UNROLL for (int v = 0; v < V; v++) store(out + r * out_row + v * W, acc[r][v]);
}

// One output row.
template <int V>
PTRT_NOINLINE void sum_row(const Window& g, float* out) {
  vf acc[V] = {};
  for (int64_t c = 0; c < g.channels; c++)
    for (int64_t y = 0; y < g.kh; y++) {
      const float *p = g.x + c * g.plane + y * g.dilation * g.row, *w = g.w + (c * g.kh + y) * g.kw;
      for (int64_t k = 0; k < g.kw; k++) {
        const vf weight = splat(w[k]);
        PTRT_UNROLL for (int v = 0; v < V; v++) acc[v] += weight * load(p + g.col[k] + v * W);
      }
    }
  PTRT_UNROLL for (int v = 0; v < V; v++) store(out + v * W, acc[v]);
}

// Input under n outputs along axis k.
int64_t extent(const ConvGeometry& g, int k, int64_t n) { return (n - 1) * g.stride[k] + (g.kernel[k] - 1) * g.dilation[k] + 1; }

// Floats staged for a block, or more than any that is.
int64_t stage_floats(const ConvGeometry& g, int64_t rows, int64_t cols) {
  constexpr int64_t kTooMany = int64_t{1} << 40;
  const __int128 row = static_cast<__int128>(extent(g, 2, cols)) + 6 * W * g.stride[2];
  const __int128 n = row * extent(g, 1, round_up(rows, kRows)) * g.Cg;
  return n > kTooMany ? kTooMany : static_cast<int64_t>(n);
}

class PlaneConv final : public Kernel {
 public:
  PTRT_COLD PlaneConv(LaunchDesc d, BindContext& bind, const ConvGeometry& g)
      : Kernel(std::move(d)), g_(g), out_(desc, g, ConvMath::f32, false), xs_(conv_strides(desc.ins[0])) {
    rows_ = g.out[1];
    cols_ = least(g.out[2], kColumns);
    while (rows_ > kRows && stage_floats(g, rows_, cols_) * 4 > kStageBytes) rows_ = round_up(ceil_div(rows_, 2), kRows);
    while (cols_ > 4 * W && stage_floats(g, rows_, cols_) * 4 > kStageBytes) cols_ = round_up(ceil_div(cols_, 2), W);
    const double flops = 2.0 * g.N * g.pixels() * g.M * g.Cg * g.taps();
    const int64_t most_tasks = bind.threads == 1 ? 1 : kTasks * bind.threads,
                  want = least(most_tasks, static_cast<int64_t>(flops / kTaskFlops));
    auto blocks = [&] { return g.N * g.G * ceil_div(g.out[1], rows_) * ceil_div(g.out[2], cols_); };
    while (blocks() < want && rows_ > kRows) rows_ = round_up(ceil_div(rows_, 2), kRows);
    while (blocks() < want && cols_ > 8 * W) cols_ = round_up(ceil_div(cols_, 2), W);
    blocks_ = blocks();
    phase_ = round_up(ceil_div(extent(g, 2, cols_), g.stride[2]), W) + 4 * W;
    row_ = phase_ * g.stride[2];
    plane_ = extent(g, 1, round_up(rows_, kRows)) * row_;
    for (int64_t k = 0; k < g.kernel[2]; k++) col_.push_back(k * g.dilation[2] % g.stride[2] * phase_ + k * g.dilation[2] / g.stride[2]);
    block_row_ = round_up(cols_, W);
    stage_bytes_ = static_cast<size_t>(round_up(g.Cg * plane_ * 4, 64));
    block_bytes_ = static_cast<size_t>(round_up(round_up(rows_, kRows) * block_row_ * 4, 64)) + out_.block_bytes(0, 0);
    for (int64_t m = 0; m < g.M; m++) {
      const ConvStrides ws = conv_strides(desc.ins[1]);
      for (int64_t c = 0; c < g.Cg; c++)
        for (int64_t y = 0; y < g.kernel[1]; y++)
          for (int64_t k = 0; k < g.kernel[2]; k++)
            weights_.push_back(conv_load_f32(desc.ins[1], m * ws.n + c * ws.c + y * ws.s[1] + k * ws.s[2]));
    }
  }

  size_t shared_scratch_bytes() const override { return static_cast<size_t>(round_up(g_.M * 4, 64)); }
  size_t thread_scratch_bytes() const override { return stage_bytes_ + block_bytes_ + out_.scratch_bytes(); }
  PTRT_COLD std::string describe() const override { return "planes, " + std::to_string(rows_) + "x" + std::to_string(cols_) + " pixels"; }

  void run(const RunContext& ctx) override {
    auto* bias = reinterpret_cast<float*>(ctx.shared_scratch);
    out_.fill_bias(desc, g_.M, bias);
    ctx.parallel(blocks_, [&](int64_t t, int worker) { task(t, ctx.thread_scratch(worker), bias); });
  }

 private:
  // Input column `at` of the block's first window on, one in `stride`, to contiguous floats; zeros beyond the image.
  void stage_row(const float* from, int64_t at, float* to) const {
    const int64_t s = g_.stride[2], step = s * xs_.s[2];
    for (int64_t p = 0; p < s; p++, at++, to += phase_) {
      const int64_t first = least(phase_, at < 0 ? ceil_div(-at, s) : 0);
      const int64_t end = most(first, least(phase_, g_.in[2] > at ? ceil_div(g_.in[2] - at, s) : 0));
      std::memset(to, 0, static_cast<size_t>(first) * 4);
      const float* x = from + (at + first * s) * xs_.s[2];
      if (step == 1) std::memcpy(to + first, x, static_cast<size_t>(end - first) * 4);
      else
        for (int64_t i = first; i < end; i++, x += step) to[i] = *x;
      std::memset(to + end, 0, static_cast<size_t>(phase_ - end) * 4);
    }
  }

  void task(int64_t t, char* scratch, const float* bias) const {
    const int64_t group = t % g_.G;
    ConvOutBox box = conv_block(g_, t / g_.G, rows_, cols_);
    auto* staged = reinterpret_cast<float*>(scratch);
    auto* block = reinterpret_cast<float*>(scratch + stage_bytes_);
    const int64_t y0 = box.oh * g_.stride[1] - g_.pad[1], x0 = box.ow * g_.stride[2] - g_.pad[2];
    const int64_t rows = extent(g_, 1, round_up(box.rows, kRows));
    for (int64_t c = 0; c < g_.Cg; c++) {
      const float* plane = desc.ins[0].as<float>() + box.n * xs_.n + (group * g_.Cg + c) * xs_.c;
      for (int64_t y = 0; y < rows; y++) {
        float* to = staged + c * plane_ + y * row_;
        if (y0 + y >= 0 && y0 + y < g_.in[1]) stage_row(plane + (y0 + y) * xs_.s[1], x0, to);
        else std::memset(to, 0, static_cast<size_t>(row_) * 4);
      }
    }
    for (int64_t m = 0; m < g_.Mg; m++) {
      box.m = group * g_.Mg + m;
      box.chans = 1;
      sum(staged, weights_.data() + box.m * g_.Cg * g_.taps(), box, block);
      finish(box, block, bias[box.m], scratch + stage_bytes_ + block_bytes_);
    }
  }

  void sum(const float* staged, const float* weights, const ConvOutBox& box, float* block) const {
    Window g{staged, weights, col_.data(), plane_, row_, g_.Cg, g_.kernel[1], g_.kernel[2], g_.stride[1], g_.dilation[1]};
    int64_t h = 0;
    for (; h + kRows / 2 < box.rows; h += kRows)
      for (int64_t w = 0; w < box.cols; w += 2 * W) {
        g.x = staged + h * g_.stride[1] * row_ + w;
        if (w + W < box.cols) sum_rows<2>(g, block + h * block_row_ + w, block_row_);
        else sum_rows<1>(g, block + h * block_row_ + w, block_row_);
      }
    for (; h < box.rows; h++)
      for (int64_t w = 0; w < box.cols;) {
        g.x = staged + h * g_.stride[1] * row_ + w;
        float* out = block + h * block_row_ + w;
        const int64_t left = ceil_div(box.cols - w, W);
        if (left >= 8) sum_row<8>(g, out), w += 8 * W;
        else if (left >= 4) sum_row<4>(g, out), w += 4 * W;
        else if (left >= 2) sum_row<2>(g, out), w += 2 * W;
        else sum_row<1>(g, out), w += W;
      }
  }

  // One channel's block of sums to the output.
  void finish(const ConvOutBox& box, float* block, float bias, char* scratch) const {
    if (!out_.fused()) {
      for (int64_t i = 0; i < box.rows * block_row_; i += W) store(block + i, load(block + i) + splat(bias));
      out_.finish(desc, box, ConvResult{reinterpret_cast<char*>(block), block_row_, 1}, scratch);
      return;
    }
    const VectorEpilogue e(out_.linear());
    const ConvResult r = out_.at(desc, box), res = out_.residual(desc, box);
    const vf b = splat(bias);
    for (int64_t h = 0; h < box.rows; h++) {
      const float *from = block + h * block_row_, *residual = reinterpret_cast<const float*>(res.data) + (res.data ? h * res.row : 0);
      float* to = reinterpret_cast<float*>(r.data) + h * r.row;
      for (int64_t w = 0; w < box.cols; w += W) {
        const int n = static_cast<int>(least(W, box.cols - w));
        vf y = load(from + w);
        if (!res.data) {
          y = e(y, b);
        } else if (res.pixel == 1) {
          y = e(y, b, load_n(residual + w, n));
        } else {
          vf added = {};
          for (int i = 0; i < n; i++) added[i] = residual[(w + i) * res.pixel];
          y = e(y, b, added);
        }
        if (r.pixel == 1) store_n(to + w, y, n);
        else
          for (int i = 0; i < n; i++) to[(w + i) * r.pixel] = y[i];
      }
    }
  }

  ConvGeometry g_;
  ConvOutput out_;
  ConvStrides xs_;
  int64_t rows_ = 0, cols_ = 0, blocks_ = 0, phase_ = 0, row_ = 0, plane_ = 0, block_row_ = 0;
  size_t stage_bytes_ = 0, block_bytes_ = 0;
  std::vector<int64_t> col_;
  std::vector<float> weights_;
};

}  // namespace

bool plane_conv_applies(const LaunchDesc& desc, const ConvGeometry& g) {
  if (desc.ins[0].dtype != DType::f32 || desc.outs[0].dtype != DType::f32 || !desc.ins[1].is_const()) return false;
  if (g.kernel[0] != 1 || g.in[0] != 1 || g.out[0] != 1 || g.pad[0] != 0) return false;
  if (stage_floats(g, kRows, least(g.out[2], 4 * W)) * 4 > kMostStaged) return false;  // windows far wider than what is in them
  const bool planes = (g.C == 1 || conv_strides(desc.ins[0]).s[2] == 1) && (g.M == 1 || conv_strides(desc.outs[0]).s[2] == 1);
  return g.Mg <= kFew && g.Cg <= kFewInputs && (planes ? g.G < W : g.C <= kFewInputs / 2 && g.M <= kFew) && g.taps() >= 3 &&
         g.Cg * g.taps() <= 256 && g.out[2] >= W && g.pixels() >= 16 * W;
}

std::unique_ptr<Kernel> make_plane_conv(LaunchDesc desc, BindContext& bind, const ConvGeometry& g) {
  return std::make_unique<PlaneConv>(std::move(desc), bind, g);
}

}  // namespace ptrt::PTRT_LEVEL
