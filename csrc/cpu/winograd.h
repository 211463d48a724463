// What the two ways of running a 3x3 Winograd convolution share: rectangles of output tiles, the input transform and the output transform
// with its epilogue, and the products between them. Memory order:
//   V [tile][channel / 16][position][16]: a tile's transform writes one sequential stream; the product reads it as C/16 taps of 16
//   U [position][panel][channel of the group][NR], the transformed weights
//   P [tile][channel / W][position][W]
#pragma once
#include <string>

#include "cpu/conv.h"
#include "cpu/tile.h"
#include "cpu/transpose.h"
#include "cpu/winograd_transforms.h"

namespace ptrt::PTRT_LEVEL {

// Two ways to run: a block of output tiles is a task (F(4)), or the steps of a block are divided.
bool winograd_has_many_blocks(const ConvGeometry& g);
std::unique_ptr<Kernel> make_winograd_blocks(LaunchDesc desc, BindContext& bind, const ConvGeometry& g);
std::unique_ptr<Kernel> make_winograd_positions(int f, LaunchDesc desc, BindContext& bind, const ConvGeometry& g);  // F(2) or F(4)

// With dilations the outputs of equal residues modulo them form images of their own, which read every dilation-th pixel of the input: every
// batch entry is as many images as there are residues.
inline int64_t winograd_images(const ConvGeometry& g) { return g.N * g.dilation[1] * g.dilation[2]; }
// Tiles along an axis of the largest image, for tiles of `results` outputs.
inline int64_t winograd_tiles_along(const ConvGeometry& g, int axis, int64_t results) {
  return ceil_div(ceil_div(g.out[axis], g.dilation[axis]), results);
}
inline int64_t winograd_tiles(const ConvGeometry& g, int64_t results) {
  return winograd_images(g) * winograd_tiles_along(g, 1, results) * winograd_tiles_along(g, 2, results);
}

// A rectangle of output tiles of `images` images; with several, it is the whole image.
struct WinogradTiles {
  int64_t n, images, ty, tx, rows, cols;
  int64_t per_image() const { return rows * cols; }
  int64_t count() const { return images * rows * cols; }
};

namespace {

// Row y of the transformed weights of `channels` channels and NV vectors of output channels: u[x * pitch + c * NV * W + j] = (G g
// G')[y][x], with the taps of g as [channel][tap][NV * W].
template <int F, int NV>
PTRT_NOINLINE void winograd_weights(const float* taps, int64_t channels, int y, float* u, int64_t pitch) {
  constexpr int A = Winograd<F>::A, N = NV * W;
  const auto columns = [&](const vf* t) __attribute__((always_inline)) {
    vf o[A];
    Winograd<F>::weights(t, o);
    PTRT_UNROLL for (int x = 0; x < A; x++) store(u + x * pitch, o[x]);
    u += W;
  };
  if (y == 0 || y == A - 1) {
    taps += y ? 6 * N : 0;
    for (int64_t c = 0; c < channels; c++, taps += 9 * N) PTRT_UNROLL for (int j = 0; j < NV; j++) {
        const float* g = taps + j * W;
        const vf t[3] = {load(g), load(g + N), load(g + 2 * N)};
        columns(t);
      }
    return;
  }
  const vf p = splat(static_cast<float>(Winograd<F>::G[y][1])), q = splat(static_cast<float>(Winograd<F>::G[y][2]));
  for (int64_t c = 0; c < channels; c++, taps += 9 * N) PTRT_UNROLL for (int j = 0; j < NV; j++) {
      const float* g = taps + j * W;
      vf t[3];
      PTRT_UNROLL for (int x = 0; x < 3; x++) t[x] = load(g + x * N) + p * load(g + (3 + x) * N) + q * load(g + (6 + x) * N);
      columns(t);
    }
}

}  // namespace

template <int F>
class WinogradConv : public Kernel {
 protected:
  static constexpr int A = Winograd<F>::A, M = Winograd<F>::M, A2 = A * A;
  static constexpr int64_t kTaps = 9;
  static constexpr int64_t kLane = 16;             // channels per V block
  static constexpr int64_t kSkew = 16;             // floats added to a tile's pitch in V and P: keeps it off multiples of 4096 bytes
  static constexpr int64_t kOutBytes = 128 << 10;  // of results that do not go straight to the output

  // target: tiles that a block should have.
  PTRT_COLD WinogradConv(LaunchDesc d, const ConvGeometry& g, int64_t target)
      : Kernel(std::move(d)), g_(g), out_(desc, g, ConvMath::f32, true), xs_(conv_strides(desc.ins[0])) {
    in_place_ = desc.ins[0].dtype == DType::f32 && xs_.c == 1;
    nv_ = panel_vectors(g.Mg, W);
    nr_ = nv_ * W;
    panels_per_group_ = ceil_div(g.Mg, nr_);
    panels_ = panels_per_group_ * g.G;
    Cp_ = round_up(g.C, kLane);
    Kp_ = g.G == 1 ? Cp_ : g.Cg;
    Mp_ = round_up(g.M, W);
    v_pitch_ = A2 * Cp_ + kSkew;
    p_pitch_ = A2 * Mp_ + kSkew;
    images_ = winograd_images(g);
    th_ = winograd_tiles_along(g, 1, M);
    tw_ = winograd_tiles_along(g, 2, M);
    block_cols_ = tw_ <= target + target / 4 ? tw_ : ceil_div(tw_, ceil_div(tw_, target));
    block_rows_ = least(th_, most(1, (target + block_cols_ / 2) / block_cols_));
    block_rows_ = ceil_div(th_, ceil_div(th_, block_rows_));
    row_blocks_ = ceil_div(th_, block_rows_);
    col_blocks_ = ceil_div(tw_, block_cols_);
    if (row_blocks_ * col_blocks_ == 1) block_images_ = most(1, least(images_, target / (th_ * tw_)));
    blocks_ = ceil_div(images_, block_images_) * row_blocks_ * col_blocks_;
    const int64_t tiles = block_images_ * block_rows_ * block_cols_;
    v_bytes_ = static_cast<size_t>(round_up(tiles * v_pitch_ * 4 + 4096, 64));
    p_bytes_ = static_cast<size_t>(round_up(tiles * p_pitch_ * 4 + 4096, 64));
    if (!in_place_) {
      stage_row_ = (block_cols_ * M + 2) * Cp_ + kSkew;
      stage_image_ = (block_rows_ * M + 2) * stage_row_;
      stage_bytes_ = static_cast<size_t>(round_up(block_images_ * stage_image_ * 4 + 64, 64));
    }
  }

  size_t bias_bytes() const { return static_cast<size_t>(round_up(panels_ * nr_ * 4, 64)); }
  // Results that cannot be stored directly pass through memory of out_bytes(), up to chunk() channels at a time.
  int64_t chunk() const { return round_up(most(1, least(g_.M, kOutBytes / (pixels() * 4))), W); }
  size_t out_bytes(int64_t chans) const {
    return static_cast<size_t>(round_up(static_cast<int64_t>(out_.block_bytes(pixels(), chans)), 64));
  }
  PTRT_COLD std::string describe() const override {
    return "winograd F(" + std::to_string(F) + ",3), blocks of " +
           (block_images_ > 1 ? std::to_string(block_images_) + "x" : std::string()) + std::to_string(block_rows_) + "x" +
           std::to_string(block_cols_) + " tiles" + out_.activation_name();
  }

  struct Work {
    float *v, *p, *staged;
  };
  size_t work_bytes() const { return v_bytes_ + p_bytes_ + stage_bytes_; }
  Work work(char* at) const {
    return {reinterpret_cast<float*>(at), reinterpret_cast<float*>(at + v_bytes_), reinterpret_cast<float*>(at + v_bytes_ + p_bytes_)};
  }

  void prepare_bias(float* bias) const { out_.fill_bias(desc, panels_ * nr_, bias); }

  // The first output channel of panel p, and its group's end.
  int64_t channel(int64_t p) const { return p / panels_per_group_ * g_.Mg + p % panels_per_group_ * nr_; }
  int64_t group_end(int64_t p) const { return (p / panels_per_group_ + 1) * g_.Mg; }

  // The weights of input channels [c0, c1) (of its group) for panel p, as [channel][tap][NR].
  void gather(int64_t p, int64_t c0, int64_t c1, float* to) const {
    const Operand& w = desc.ins[1];
    const ConvStrides ws = conv_strides(w);
    const int64_t m0 = channel(p), m1 = least(nr_, group_end(p) - m0), channels = least(c1, g_.Cg) - c0;
    if (m1 < nr_ || channels < c1 - c0) std::memset(to, 0, static_cast<size_t>((c1 - c0) * kTaps * nr_) * 4);
    if (channels <= 0) return;
    if (w.dtype == DType::f32 && ws.s[2] == 1 && ws.s[1] == 3 && ws.c == kTaps) {
      transpose(w.as<float>() + m0 * ws.n + c0 * ws.c, ws.n, m1, channels * kTaps, to, nr_);
      return;
    }
    for (int64_t m = 0; m < m1; m++)
      for (int64_t c = 0; c < channels; c++)
        for (int64_t tap = 0; tap < kTaps; tap++)
          to[(c * kTaps + tap) * nr_ + m] = conv_load_f32(w, (m0 + m) * ws.n + (c0 + c) * ws.c + tap / 3 * ws.s[1] + tap % 3 * ws.s[2]);
  }

  // Row y of U for gathered taps: [column][channel][NR], columns `pitch` apart.
  void transform_weights(const float* taps, int64_t channels, int y, float* u, int64_t pitch) const {
    if (nv_ == 1) winograd_weights<F, 1>(taps, channels, y, u, pitch);
    else if (nv_ == 2) winograd_weights<F, 2>(taps, channels, y, u, pitch);
    else winograd_weights<F, 3>(taps, channels, y, u, pitch);
  }

  PTRT_COLD std::string pack_key() const {
    return conv_pack_key("winograd", desc.ins[1], g_) + ":F" + std::to_string(F) + ":NR" + std::to_string(nr_);
  }
  size_t weight_bytes() const { return static_cast<size_t>(A2 * panels_ * Kp_ * nr_) * 4; }
  void pack(void* to) const {
    constexpr int64_t kChannels = 16;
    alignas(64) float taps[kChannels * kTaps * 3 * W];
    const int64_t position = panels_ * Kp_ * nr_;
    for (int64_t p = 0; p < panels_; p++)
      for (int64_t c = 0; c < Kp_; c += kChannels) {
        gather(p, c, c + kChannels, taps);
        float* u = static_cast<float*>(to) + (p * Kp_ + c) * nr_;
        for (int y = 0; y < A; y++) transform_weights(taps, kChannels, y, u + y * A * position, position);
      }
  }

  WinogradTiles block(int64_t b) const {
    WinogradTiles t;
    t.tx = b % col_blocks_ * block_cols_;
    b /= col_blocks_;
    t.ty = b % row_blocks_ * block_rows_;
    t.n = b / row_blocks_ * block_images_;
    t.images = least(block_images_, images_ - t.n);
    t.rows = least(block_rows_, th_ - t.ty);
    t.cols = least(block_cols_, tw_ - t.tx);
    return t;
  }

  // V of channels [c0, c1), multiples of 16 (the last ones may be padding).
  void transform_input(const WinogradTiles& t, const Work& w, int64_t c0, int64_t c1) const {
    if (!in_place_) stage(t, w.staged, c0, least(c1, g_.C));
    for (int64_t i = 0; i < t.count(); i++) transform_tile(t, i, w.v + i * v_pitch_, w.staged, c0, c1);
  }

  // P of `count` tiles and all channels at position xi.
  void multiply(int64_t count, int64_t xi, const Work& w, const float* U) const {
    for (int64_t p = 0; p < panels_; p++) {
      const float* B = U + (xi * panels_ + p) * Kp_ * nr_;
      product(count, xi, p, 0, Kp_, w, B, B + Kp_ * nr_);
    }
  }

  // P of panel p at position xi, from the weights B of channels [c0, c1) of its group and, if c0 > 0, the partial sums in P; `next` is
  // prefetched.
  void product(int64_t count, int64_t xi, int64_t p, int64_t c0, int64_t c1, const Work& w, const float* B, const float* next) const {
    const RowSplit split(count, kMaxRows[nv_]);
    TileArgs<float> a;
    a.lda = v_pitch_;
    a.ts = A2 * kLane;
    a.taps = (c1 - c0) / kLane;
    a.K = kLane;
    a.B = B;
    a.ldb = nr_;
    a.bts = kLane * nr_;
    a.ldc = a.lds = p_pitch_;
    a.cj = A2 * W;
    a.last = false;
    const int64_t m0 = channel(p), first = p / panels_per_group_ * g_.Cg / kLane;
    a.n = static_cast<int>(round_up(least(nr_, group_end(p) - m0), W));
    for (int64_t i = 0; i < split.blocks; i++) {
      a.A = w.v + xi * kLane + (first + c0 / kLane) * a.ts + split.start(i) * v_pitch_;
      a.C = w.p + xi * W + split.start(i) * p_pitch_ + m0 / W * (A2 * W);
      a.S = c0 ? a.C : nullptr;
      a.next = next && i < nv_ ? next + i * (c1 - c0) * 16 : nullptr;
      tile_f32(static_cast<int>(split.rows(i)), a.n / W)(a);
    }
  }

  // Results of channels [m0, m0 + channels). `scratch` is only used if !direct or must_finish().
  void transform_output(const WinogradTiles& t, const float* products, const float* bias, int64_t m0, int64_t channels, bool direct,
                        char* scratch, size_t out_bytes) const {
    const float* p = products + m0 / W * (A2 * W);
    ConvOutBox box;
    box.od = 0;
    box.m = m0;
    box.chans = channels;
    for (int64_t k = 0; k < t.images; k++, p += t.per_image() * p_pitch_) {
      const Image image = at(t.n + k);
      box.n = image.n;
      box.oh = image.y.first + t.ty * M * g_.dilation[1];
      box.ow = image.x.first + t.tx * M * g_.dilation[2];
      box.rows = least(t.rows * M, image.y.out - t.ty * M);
      box.cols = least(t.cols * M, image.x.out - t.tx * M);
      if (box.rows <= 0 || box.cols <= 0) continue;
      const ConvResult r = direct ? spread(out_.at(desc, box)) : ConvResult{scratch, box.cols * box.chans, box.chans};
      const ConvResult res = spread(out_.residual(desc, box)), late = spread(out_.residual_of_activation(desc, box));
      for (int64_t i = 0; i < t.per_image(); i++) {
        const int64_t y0 = i / t.cols * M, x0 = i % t.cols * M;
        const int h = static_cast<int>(least(M, box.rows - y0)), v = static_cast<int>(least(M, box.cols - x0));
        if (h <= 0 || v <= 0) continue;
        float* out = reinterpret_cast<float*>(r.data) + y0 * r.row + x0 * r.pixel;
        const float* residual = res.data ? reinterpret_cast<const float*>(res.data) + y0 * res.row + x0 * res.pixel : nullptr;
        emit_tile(p + i * p_pitch_, bias + m0, out, r, residual, res, h, v, channels);
        if (!out_.activates()) continue;
        const auto* from = reinterpret_cast<const float*>(late.data);
        for (int y = 0; y < h; y++)
          out_.activate(desc, m0, out + y * r.row, r.pixel, out + y * r.row, r.pixel, v, channels,
                        from ? from + (y0 + y) * late.row + x0 * late.pixel : nullptr, late.pixel);
      }
      if (!direct || out_.must_finish()) out_.finish(desc, box, r, scratch + out_bytes);
    }
  }

 private:
  int64_t pixels() const { return block_rows_ * block_cols_ * M * M; }  // of one image

  // One axis of an image: its first output, how many it has, and its input: the first pixel, how many there are, and which of them the
  // first tap of the first output reads (negative: padding).
  struct Axis {
    int64_t first, out, in_first, in, begin;
  };
  struct Image {
    int64_t n;  // batch entry
    Axis y, x;
  };
  Axis axis(int k, int64_t residue) const {
    const int64_t step = g_.dilation[k], reads = residue - g_.pad[k];
    const int64_t begin = reads >= 0 ? reads / step : -ceil_div(-reads, step), first = reads - begin * step;
    return {residue, ceil_div(most(0, g_.out[k] - residue), step), first, ceil_div(most(0, g_.in[k] - first), step), begin};
  }
  Image at(int64_t image) const {
    const int64_t y = g_.dilation[1], x = g_.dilation[2];
    return {image / (y * x), axis(1, image / x % y), axis(2, image % x)};
  }
  // From one pixel of an image to the next.
  ConvResult spread(const ConvResult& r) const { return {r.data, r.row * g_.dilation[1], r.pixel * g_.dilation[2]}; }

  void stage(const WinogradTiles& t, float* staged, int64_t c0, int64_t c1) const {
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
    for (int64_t image = 0; image < t.images; image++)
      conv_stage(ConvMath::f32, x, x.as<char>() + (t.n + image) * xs_.n * static_cast<int64_t>(itemsize(x.dtype)), xs_, g_.in, b, 0,
                 staged + image * stage_image_ + c0);
  }

  void transform_tile(const WinogradTiles& t, int64_t i, float* v, const float* staged, int64_t c0, int64_t c1) const {
    const int64_t image = i / t.per_image(), ty = i % t.per_image() / t.cols, tx = i % t.cols;
    int64_t row = stage_row_, pixel = Cp_, h0 = 0, w0 = 0, h1 = A, w1 = A;  // window of the tile that lies inside the input
    const float* p = staged + image * stage_image_ + ty * M * row + tx * M * pixel;
    if (in_place_) {
      const Image from = at(t.n + image);
      const int64_t ih = (t.ty + ty) * M + from.y.begin, iw = (t.tx + tx) * M + from.x.begin;
      row = xs_.s[1] * g_.dilation[1];
      pixel = xs_.s[2] * g_.dilation[2];
      p = desc.ins[0].template as<float>() + from.n * xs_.n + from.y.in_first * xs_.s[1] + from.x.in_first * xs_.s[2] + ih * row +
          iw * pixel;
      h0 = most(0, -ih), w0 = most(0, -iw), h1 = least(A, from.y.in - ih), w1 = least(A, from.x.in - iw);
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

 protected:
  ConvGeometry g_;
  ConvOutput out_;
  ConvStrides xs_;
  bool in_place_ = false;
  int nv_ = 1;
  int64_t nr_ = 0, panels_per_group_ = 0, panels_ = 0, Cp_ = 0, Kp_ = 0, Mp_ = 0, v_pitch_ = 0, p_pitch_ = 0, th_ = 0, tw_ = 0;
  int64_t images_ = 0, block_images_ = 1, block_rows_ = 0, block_cols_ = 0, row_blocks_ = 0, col_blocks_ = 0, blocks_ = 0;

 private:
  size_t v_bytes_ = 0, p_bytes_ = 0, stage_bytes_ = 0;
  int64_t stage_row_ = 0, stage_image_ = 0;
};

// Instantiated in winograd.cpp only: it is most of the code.
extern template class WinogradConv<2>;
extern template class WinogradConv<4>;

}  // namespace ptrt::PTRT_LEVEL
