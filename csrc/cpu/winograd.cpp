// 3x3 stride-1 convolution by Winograd's F(4x4, 3x3) or F(2x2, 3x3): 4 or 2.25 times fewer multiplications than the direct form.
//
// Output tiles are processed in rectangular blocks, in three steps: V = transformed input, products P = V * U for each of the A*A positions
// (register tiles of tile.h, over tiles x output channels), output transform with the epilogue. Memory order of the workspace:
//   V [tile][channel / 16][position][16]: a tile's transform writes one sequential stream; the product reads it as C/16 taps of 16
//   P [tile][channel / W][position][W]
// With many blocks, a block is one task and has its own workspace. With few (small images), the steps are parallel inside a block.
//
// Rounding: F(2) is as exact as the direct form; F(4) amplifies rounding by up to max |A'| x |B'| row sums of its transforms, whose points
// of interpolation are chosen against that; for unit-variance data the tests allow 2e-5 of the largest result.
#include <cstdlib>

#include "cpu/conv.h"
#include "cpu/tile.h"
#include "cpu/winograd_transforms.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kLane = 16;       // channels per V block
constexpr int64_t kSkew = 16;       // floats added to a tile's pitch in V and P: keeps it off multiples of 4096 bytes
constexpr int64_t kManyBlocks = 8;  // from here on a block is a task

// A rectangle of output tiles of one batch entry.
struct Tiles {
  int64_t n, ty, tx, rows, cols;
  int64_t count() const { return rows * cols; }
};

template <int F>
class WinogradConv : public Kernel {
  static constexpr int A = Winograd<F>::A, M = Winograd<F>::M, A2 = A * A;

 public:
  WinogradConv(LaunchDesc d, BindContext& bind, const ConvGeometry& g)
      : Kernel(std::move(d)), g_(g), out_(desc, g, ConvMath::f32, true), xs_(conv_strides(desc.ins[0])) {
    in_place_ = desc.ins[0].dtype == DType::f32 && xs_.c == 1;
    nv_ = panel_vectors(g.M, W);
    nr_ = nv_ * W;
    panels_ = ceil_div(g.M, nr_);
    Cp_ = round_up(g.C, kLane);
    Mp_ = round_up(g.M, W);
    v_pitch_ = A2 * Cp_ + kSkew;
    p_pitch_ = A2 * Mp_ + kSkew;
    const int64_t th = ceil_div(g.out[1], M), tw = ceil_div(g.out[2], M), target = g.C <= 64 ? 28 : 56;
    block_cols_ = tw <= target + target / 4 ? tw : ceil_div(tw, ceil_div(tw, target));
    block_rows_ = least(th, most(1, (target + block_cols_ / 2) / block_cols_));
    block_rows_ = ceil_div(th, ceil_div(th, block_rows_));
    row_blocks_ = ceil_div(th, block_rows_);
    col_blocks_ = ceil_div(tw, block_cols_);
    blocks_ = g.N * row_blocks_ * col_blocks_;
    const int64_t tiles = block_rows_ * block_cols_, pixels = tiles * M * M;
    v_bytes_ = static_cast<size_t>(round_up(tiles * v_pitch_ * 4 + 4096, 64));
    p_bytes_ = static_cast<size_t>(round_up(tiles * p_pitch_ * 4 + 4096, 64));
    if (!in_place_) {
      stage_row_ = (block_cols_ * M + 2) * Cp_ + kSkew;
      stage_bytes_ = static_cast<size_t>(round_up((block_rows_ * M + 2) * stage_row_ * 4 + 64, 64));
    }
    chunk_ = round_up(most(1, least(g.M, (128 << 10) / (pixels * 4))), W);
    out_bytes_ = static_cast<size_t>(round_up(static_cast<int64_t>(out_.block_bytes(pixels, chunk_)), 64));
    const std::string key = conv_pack_key("winograd", desc.ins[1], g) + ":F" + std::to_string(F) + ":NR" + std::to_string(nr_);
    packed_ = bind.packs.get(desc.ins[1], key, static_cast<size_t>(A2 * panels_ * Cp_ * nr_) * 4,
                             [this](void* to) { pack(static_cast<float*>(to)); });
  }

  bool many() const { return blocks_ >= kManyBlocks; }
  size_t bias_bytes() const { return static_cast<size_t>(round_up(panels_ * nr_ * 4, 64)); }
  size_t work_bytes() const { return v_bytes_ + p_bytes_ + stage_bytes_; }
  size_t shared_scratch_bytes() const override { return bias_bytes() + (many() ? 0 : work_bytes()); }
  size_t thread_scratch_bytes() const override { return (many() ? work_bytes() : 0) + out_bytes_ + out_.scratch_bytes(); }
  std::string describe() const override {
    return "winograd F(" + std::to_string(F) + ",3), blocks of " + std::to_string(block_rows_) + "x" + std::to_string(block_cols_) +
           " tiles" + out_.activation_name();
  }

  void run(const RunContext& ctx) override {
    auto* bias = reinterpret_cast<float*>(ctx.shared_scratch);
    static const Operand absent;
    for (int64_t m = 0; m < panels_ * nr_; m++)
      bias[m] = m < g_.M ? static_cast<float>(out_.bias_value(desc, desc.ins.size() > 2 ? desc.ins[2] : absent, m)) : 0.0f;
    const auto* U = static_cast<const float*>(packed_.get());
    const bool direct = out_.direct(desc);
    if (many()) {
      ctx.parallel(blocks_, [&](int64_t b, int worker) {
        char* scratch = ctx.thread_scratch(worker);
        const Work w = work(scratch, bias);
        const Tiles t = tiles(b);
        if (!in_place_) stage(t, w, 0, g_.C);
        for (int64_t i = 0; i < t.count(); i++) transform_input(t, i, w, 0, Cp_);
        for (int64_t xi = 0; xi < A2; xi++) multiply(t.count(), xi, w, U);
        for (int64_t m = 0; m < g_.M; m += direct ? g_.M : chunk_)
          transform_output(t, w, m, direct ? g_.M : least(chunk_, g_.M - m), direct, scratch + work_bytes());
      });
      return;
    }
    const Work w = work(ctx.shared_scratch + bias_bytes(), bias);
    const int64_t in_step = most(kLane, round_up(Cp_ / 8, kLane)), out_step = least(chunk_, most(W, round_up(Mp_ / 8, W)));
    for (int64_t b = 0; b < blocks_; b++) {
      const Tiles t = tiles(b);
      ctx.parallel(ceil_div(Cp_, in_step), [&](int64_t k, int) {
        const int64_t c0 = k * in_step, c1 = least(Cp_, c0 + in_step);
        if (!in_place_) stage(t, w, c0, least(c1, g_.C));
        for (int64_t i = 0; i < t.count(); i++) transform_input(t, i, w, c0, c1);
      });
      ctx.parallel(A2, [&](int64_t xi, int) { multiply(t.count(), xi, w, U); });
      ctx.parallel(ceil_div(g_.M, out_step), [&](int64_t k, int worker) {
        transform_output(t, w, k * out_step, least(out_step, g_.M - k * out_step), direct, ctx.thread_scratch(worker));
      });
    }
  }

 private:
  struct Work {
    float *v, *p, *stage;
    const float* bias;
  };
  Work work(char* at, const float* bias) const {
    return {reinterpret_cast<float*>(at), reinterpret_cast<float*>(at + v_bytes_), reinterpret_cast<float*>(at + v_bytes_ + p_bytes_),
            bias};
  }

  Tiles tiles(int64_t b) const {
    const int64_t th = ceil_div(g_.out[1], M), tw = ceil_div(g_.out[2], M);
    Tiles t;
    t.tx = b % col_blocks_ * block_cols_;
    b /= col_blocks_;
    t.ty = b % row_blocks_ * block_rows_;
    t.n = b / row_blocks_;
    t.rows = least(block_rows_, th - t.ty);
    t.cols = least(block_cols_, tw - t.tx);
    return t;
  }

  void pack(float* to) const {  // [position][panel][channel][NR]; the transform is done in double
    const Operand& w = desc.ins[1];
    const ConvStrides ws = conv_strides(w);
    std::memset(to, 0, static_cast<size_t>(A2 * panels_ * Cp_ * nr_) * 4);
    for (int64_t m = 0; m < g_.M; m++)
      for (int64_t c = 0; c < g_.C; c++) {
        double t[A][3];
        const int64_t at = m * ws.n + c * ws.c;
        double k[3][3];
        for (int y = 0; y < 3; y++)
          for (int x = 0; x < 3; x++) k[y][x] = conv_load_f64(w, at + y * ws.s[1] + x * ws.s[2]);
        for (int i = 0; i < A; i++)
          for (int x = 0; x < 3; x++)
            t[i][x] = Winograd<F>::G[i][0] * k[0][x] + Winograd<F>::G[i][1] * k[1][x] + Winograd<F>::G[i][2] * k[2][x];
        float* slot = to + (m / nr_ * Cp_ + c) * nr_ + m % nr_;
        for (int i = 0; i < A; i++)
          for (int j = 0; j < A; j++)
            slot[(i * A + j) * panels_ * Cp_ * nr_] =
                static_cast<float>(t[i][0] * Winograd<F>::G[j][0] + t[i][1] * Winograd<F>::G[j][1] + t[i][2] * Winograd<F>::G[j][2]);
      }
  }

  void stage(const Tiles& t, const Work& w, int64_t c0, int64_t c1) const {
    if (c1 <= c0) return;
    const Operand& x = desc.ins[0];
    ConvBox b;
    b.begin[0] = 0, b.begin[1] = t.ty * M - g_.pad[1], b.begin[2] = t.tx * M - g_.pad[2];
    b.size[0] = 1, b.size[1] = t.rows * M + 2, b.size[2] = t.cols * M + 2;
    b.depth_step = 1;
    b.c0 = c0;
    b.cn = b.group = b.group_pitch = c1 - c0;
    b.plane = 0;
    b.row = stage_row_;
    b.pixel = Cp_;
    conv_stage(ConvMath::f32, x, x.as<char>() + t.n * xs_.n * static_cast<int64_t>(itemsize(x.dtype)), xs_, g_.in, b, 0, w.stage + c0);
  }

  // Channels [c0, c1) of tile i, both multiples of 16 (the last ones may be padding).
  void transform_input(const Tiles& t, int64_t i, const Work& w, int64_t c0, int64_t c1) const {
    const int64_t ty = i / t.cols, tx = i % t.cols;
    float* v = w.v + i * v_pitch_;
    int64_t row = stage_row_, pixel = Cp_, h0 = 0, w0 = 0, h1 = A, w1 = A;  // window of the tile that lies inside the input
    const float* p = w.stage + ty * M * row + tx * M * pixel;
    if (in_place_) {
      const int64_t ih = (t.ty + ty) * M - g_.pad[1], iw = (t.tx + tx) * M - g_.pad[2];
      row = xs_.s[1];
      pixel = xs_.s[2];
      p = desc.ins[0].as<float>() + t.n * xs_.n + ih * row + iw * pixel;
      h0 = most(0, -ih), w0 = most(0, -iw), h1 = least(A, g_.in[1] - ih), w1 = least(A, g_.in[2] - iw);
    }
    const bool whole = h0 == 0 && w0 == 0 && h1 == A && w1 == A;
    for (int64_t c = c0; c < c1; c += W) {
      float* to = v + c / kLane * (A2 * kLane) + c % kLane;
      if (whole && c + W <= g_.C) {
        winograd_input<F>(p + c, row, pixel, to, kLane);
        continue;
      }
      const int n = static_cast<int>(least(W, g_.C - c));
      float patch[A2 * W];
      for (int64_t y = 0; y < A; y++)
        for (int64_t x = 0; x < A; x++) {
          const bool inside = y >= h0 && y < h1 && x >= w0 && x < w1 && n > 0;
          store(patch + (y * A + x) * W, inside ? load_n(p + y * row + x * pixel + c, n) : vf{});
        }
      winograd_input<F>(patch, A * W, W, to, kLane);
    }
  }

  void multiply(int64_t count, int64_t xi, const Work& w, const float* U) const {
    const RowSplit split(count, kMaxRows[nv_]);
    const int64_t panel = Cp_ * nr_;
    TileArgs<float> a;
    a.lda = v_pitch_;
    a.ts = A2 * kLane;
    a.taps = Cp_ / kLane;
    a.K = kLane;
    a.ldb = nr_;
    a.bts = kLane * nr_;
    a.ldc = p_pitch_;
    a.cj = A2 * W;
    a.last = false;
    for (int64_t p = 0; p < panels_; p++) {
      const float* B = U + (xi * panels_ + p) * panel;
      a.B = B;
      a.n = static_cast<int>(least(nr_, Mp_ - p * nr_));
      for (int64_t i = 0; i < split.blocks; i++) {
        a.A = w.v + xi * kLane + split.start(i) * v_pitch_;
        a.C = w.p + xi * W + split.start(i) * p_pitch_ + p * nv_ * A2 * W;
        a.next = i < nv_ ? B + panel + i * Cp_ * 16 : nullptr;
        tile_f32(static_cast<int>(split.rows(i)), a.n / W)(a);
      }
    }
  }

  void transform_output(const Tiles& t, const Work& w, int64_t m0, int64_t channels, bool direct, char* scratch) const {
    ConvOutBox box;
    box.n = t.n;
    box.od = 0;
    box.oh = t.ty * M;
    box.ow = t.tx * M;
    box.m = m0;
    box.rows = least(t.rows * M, g_.out[1] - box.oh);
    box.cols = least(t.cols * M, g_.out[2] - box.ow);
    box.chans = channels;
    const ConvResult r = direct ? out_.at(desc, box) : ConvResult{scratch, box.cols * box.chans, box.chans};
    const ConvResult res = out_.residual(desc, box), late = out_.residual_of_activation(desc, box);
    for (int64_t i = 0; i < t.count(); i++) {
      const int64_t y0 = i / t.cols * M, x0 = i % t.cols * M;
      const int h = static_cast<int>(least(M, box.rows - y0)), v = static_cast<int>(least(M, box.cols - x0));
      float* out = reinterpret_cast<float*>(r.data) + y0 * r.row + x0 * r.pixel;
      const float* residual = res.data ? reinterpret_cast<const float*>(res.data) + y0 * res.row + x0 * res.pixel : nullptr;
      emit_tile(w.p + i * p_pitch_ + m0 / W * (A2 * W), w.bias + m0, out, r, residual, res, h, v, channels);
      if (!out_.activates()) continue;
      const auto* from = reinterpret_cast<const float*>(late.data);
      for (int y = 0; y < h; y++)
        out_.activate(out + y * r.row, r.pixel, out + y * r.row, r.pixel, v, channels,
                      from ? from + (y0 + y) * late.row + x0 * late.pixel : nullptr, late.pixel);
    }
    if (!direct || out_.must_finish()) out_.finish(desc, box, r, scratch + out_bytes_);
  }

  void emit_tile(const float* p, const float* bias, float* out, const ConvResult& r, const float* residual, const ConvResult& res, int h,
                 int w, int64_t channels) const {
    const VectorEpilogue e(out_.linear());
    for (int64_t m = 0; m < channels; m += W, p += A2 * W) {
      const int n = static_cast<int>(least(W, channels - m));
      const vf b = load(bias + m);
      if (h == M && w == M && n == W && !residual) {
        winograd_output<F>(p,
                           [&](int y, int x, vf v) __attribute__((always_inline)) { store(out + y * r.row + x * r.pixel + m, e(v, b)); });
        continue;
      }
      winograd_output<F>(p, [&](int y, int x, vf v) __attribute__((always_inline)) {
        if (y >= h || x >= w) return;
        v = residual ? e(v, b, load_n(residual + y * res.row + x * res.pixel + m, n)) : e(v, b);
        store_n(out + y * r.row + x * r.pixel + m, v, n);
      });
    }
  }

  ConvGeometry g_;
  ConvOutput out_;
  ConvStrides xs_;
  bool in_place_ = false;
  int nv_ = 1;
  int64_t nr_ = 0, panels_ = 0, Cp_ = 0, Mp_ = 0, v_pitch_ = 0, p_pitch_ = 0, stage_row_ = 0, chunk_ = 0;
  int64_t block_rows_ = 0, block_cols_ = 0, row_blocks_ = 0, col_blocks_ = 0, blocks_ = 0;
  size_t v_bytes_ = 0, p_bytes_ = 0, stage_bytes_ = 0, out_bytes_ = 0;
  std::shared_ptr<const void> packed_;
};

}  // namespace

bool winograd_enabled() {
  const char* setting = std::getenv("PTRT_WINOGRAD");
  return !setting || std::strcmp(setting, "0") != 0;
}

bool winograd_applies(const LaunchDesc& desc, const ConvGeometry& g) {
  return winograd_enabled() && desc.ins[1].is_const() && conv_math(desc.ins[0].dtype) == ConvMath::f32 && g.G == 1 && g.C >= 16 &&
         g.M >= 16 && g.kernel[0] == 1 && g.kernel[1] == 3 && g.kernel[2] == 3 && g.in[0] == 1 && g.out[0] == 1 && g.pad[0] == 0 &&
         g.stride[1] == 1 && g.stride[2] == 1 && g.dilation[1] == 1 && g.dilation[2] == 1 && g.out[1] >= 4 && g.out[2] >= 4;
}

std::unique_ptr<Kernel> make_winograd_conv(LaunchDesc desc, BindContext& bind, const ConvGeometry& g) {
  // F(4) transforms weights to 4 times their size: not worth it where few tiles share them.
  if (g.out[1] >= 12 && g.out[2] >= 12) return std::make_unique<WinogradConv<4>>(std::move(desc), bind, g);
  return std::make_unique<WinogradConv<2>>(std::move(desc), bind, g);
}

}  // namespace ptrt::PTRT_LEVEL
