// Depthwise convolution (one input channel per output channel) of two-dimensional windows: vectors run over channels, a register tile
// covers several pixels of an output row. Channels-last floats are read in place, with clipped windows at the border; anything else is
// staged with its zero halo, a block of channels at a time. 8-bit inputs are computed in floats: sums of up to 258 products of values in
// [-255, 255] stay below 2^24 and are therefore exact.
#include <type_traits>
#include <utility>

#include "cpu/conv.h"

namespace ptrt::PTRT_LEVEL {

namespace {

struct Tile {
  const float *in, *weights, *bias, *residual;  // in and weights at the first tap of the clipped window
  void* out;                                    // float, or int32_t for 8-bit inputs
  int64_t row, col, pixel;                      // steps in the input: between window rows, window columns, output pixels
  int64_t kh, kw;                               // clipped window
  int64_t weight_row, weight_block;             // steps in the weights: between window rows, between blocks of W channels
  int64_t out_pixel, residual_pixel, channels;
  int64_t first, end;  // columns of the input segment under the tile that exist; the others are zero (only for KW != 0)
  int64_t next_out;    // to the output row below, whose lines (and the input's) are prefetched; 0: do not
  const LinearEpilogue* linear;
};

// KW columns of a window row of NW pixels: their weights stay in registers, every input vector is loaded once and goes to all pixels that
// see it. BORDER: columns outside [first, end) do not exist.
template <int NW, int KW, int S, bool TAIL, bool BORDER>
PTRT_INLINE void window_row(const Tile& t, const float* p, const float* w, int n, int64_t first, int64_t end, vf* acc) {
  vf wv[KW];
  PTRT_UNROLL for (int k = 0; k < KW; k++) wv[k] = load(w + k * W);
  static_assert((NW - 1) * S + KW <= 32);  // or the accumulators would be indexed at run time
  _Pragma("GCC unroll 32") for (int j = 0; j < (NW - 1) * S + KW; j++, p += t.col) {
    if (BORDER && (j < first || j >= end)) continue;
    vf x = TAIL ? load_n(p, n) : load(p);
    PTRT_KEEP(x);
    PTRT_UNROLL for (int i = 0; i < NW; i++) {
      const int k = j - i * S;
      if (k >= 0 && k < KW) acc[i] += wv[k] * x;
    }
  }
}

// KW > 0: the whole window row of that width, undilated, at stride S. KW < 0: the same of any width, a few columns at a time. KW = 0: any
// window.
template <int NW, int KW, int S, class Out, bool TAIL>
PTRT_INLINE void channel_block(const Tile& t, const VectorEpilogue& e, int64_t c, const float* weights, int n) {
  vf acc[NW];
  PTRT_UNROLL for (int i = 0; i < NW; i++) acc[i] = vf{};
  constexpr int kColumns = 3;  // at a time
  const bool border = KW != 0 && (t.first > 0 || t.end < (NW - 1) * S + (KW > 0 ? KW : t.kw));
  for (int64_t y = 0; y < t.kh; y++) {
    const float *p = t.in + c + y * t.row, *w = weights + y * t.weight_row;
    if constexpr (KW > 0) {
      if (border) window_row<NW, KW, S, TAIL, true>(t, p, w, n, t.first, t.end, acc);
      else window_row<NW, KW, S, TAIL, false>(t, p, w, n, t.first, t.end, acc);
    } else if constexpr (KW < 0) {
      int64_t x = 0;
      for (; x + kColumns <= t.kw; x += kColumns, p += kColumns * t.col, w += kColumns * W) {
        if (border) window_row<NW, kColumns, S, TAIL, true>(t, p, w, n, t.first - x, t.end - x, acc);
        else window_row<NW, kColumns, S, TAIL, false>(t, p, w, n, t.first - x, t.end - x, acc);
      }
      for (; x < t.kw; x++, p += t.col, w += W) window_row<NW, 1, S, TAIL, true>(t, p, w, n, t.first - x, t.end - x, acc);
    } else {
      for (int64_t x = 0; x < t.kw; x++, p += t.col, w += W) {
        const vf wv = load(w);
        PTRT_UNROLL for (int i = 0; i < NW; i++) acc[i] += wv * (TAIL ? load_n(p + i * t.pixel, n) : load(p + i * t.pixel));
      }
    }
  }
  const vf bias = load(t.bias + c);
  Out* out = static_cast<Out*>(t.out) + c;
  if (KW != 0 && t.next_out) {
    for (int y = 0; y < S; y++) {
      const float* below = t.in + c + (t.kh + y) * t.row;
      PTRT_UNROLL for (int i = 0; i < NW * S; i++) __builtin_prefetch(below + i * t.col, 0, 3);
    }
    PTRT_UNROLL for (int i = 0; i < NW; i++) __builtin_prefetch(out + t.next_out + i * t.out_pixel, 1, 3);
  }
  if constexpr (std::is_same_v<Out, int32_t>) {
    PTRT_UNROLL for (int i = 0; i < NW; i++, out += t.out_pixel) {
      const vi r = __builtin_convertvector(acc[i] + bias, vi);
      if (TAIL) store_n(reinterpret_cast<float*>(out), (vf)r, n);
      else store(out, r);
    }
  } else if (t.residual) {
    const float* r = t.residual + c;
    PTRT_UNROLL for (int i = 0; i < NW; i++, r += t.residual_pixel) acc[i] = e(acc[i], bias, TAIL ? load_n(r, n) : load(r));
  } else {
    PTRT_UNROLL for (int i = 0; i < NW; i++) acc[i] = e(acc[i], bias);
  }
  if constexpr (std::is_same_v<Out, float>) {
    PTRT_UNROLL for (int i = 0; i < NW; i++, out += t.out_pixel) {
      if (TAIL) store_n(out, acc[i], n);
      else store(out, acc[i]);
    }
  }
}

template <int NW, int KW, int S, class Out>
PTRT_NOINLINE void tile(const Tile& t) {
  const VectorEpilogue e(*t.linear);
  const float* w = t.weights;
  int64_t c = 0;
  for (; c + W <= t.channels; c += W, w += t.weight_block) channel_block<NW, KW, S, Out, false>(t, e, c, w, W);
  if (c < t.channels) channel_block<NW, KW, S, Out, true>(t, e, c, w, static_cast<int>(t.channels - c));
}

#if defined(__AVX512F__)
constexpr int kPixels = 8;
#else
constexpr int kPixels = 6;
#endif

typedef void (*TileFn)(const Tile&);
template <int KW, int S, class Out, int... I>
const TileFn* tiles(std::integer_sequence<int, I...>) {
  static constexpr TileFn fns[] = {nullptr, tile<I + 1, KW, S, Out>...};
  return fns;
}
template <int KW, int S>
const TileFn* tiles(bool integer) {
  constexpr auto sizes = std::make_integer_sequence<int, kPixels>();
  return integer ? tiles<0, 1, int32_t>(sizes) : tiles<KW, S, float>(sizes);
}
// Tiles of 1 .. kPixels pixels for whole windows of kw columns.
bool has_tiles(int64_t kw, int64_t stride, int64_t dilation) {
  return dilation == 1 && (stride == 1 ? kw > 1 : stride == 2 && (kw == 3 || kw == 5));
}
const TileFn* pick_tiles(int64_t kw, int64_t stride, int64_t dilation, bool integer) {
  if (dilation == 1 && stride == 1 && kw == 3) return tiles<3, 1>(integer);
  if (dilation == 1 && stride == 1 && kw == 5) return tiles<5, 1>(integer);
  if (dilation == 1 && stride == 1 && kw == 7) return tiles<7, 1>(integer);
  if (dilation == 1 && stride == 1 && kw > 1) return tiles<-1, 1>(integer);
  if (dilation == 1 && stride == 2 && kw == 3) return tiles<3, 2>(integer);
  if (dilation == 1 && stride == 2 && kw == 5) return tiles<5, 2>(integer);
  return tiles<0, 1>(integer);
}

constexpr int64_t kChannels = 64;           // of a staged block
constexpr int64_t kBlockBytes = 128 << 10;  // of results that do not go straight to the output, and of staged input
// Input under the window of a strip of output columns stays in L1 from row to row. Images that L2 (nearly) holds are processed a few
// channels at a time, in wide strips; of larger ones all channels of a pixel are read at once, as they lie in memory.
constexpr int64_t kSmallImage = 3 << 20, kChunk = 64, kChunkStripBytes = 64 << 10, kStripBytes = 16 << 10;
constexpr double kTaskFlops = 2e5;
constexpr int64_t kFewPixels = 256;  // below this the convolution before divides its channels over the threads, not its pixels
constexpr int64_t kTasks = 4;        // per thread

class DepthwiseConv : public Kernel {
 public:
  PTRT_COLD DepthwiseConv(LaunchDesc d, BindContext& bind, const ConvGeometry& g)
      : Kernel(std::move(d)),
        g_(g),
        integer_(conv_math(desc.ins[0].dtype) == ConvMath::i8),
        out_(desc, g, conv_math(desc.ins[0].dtype), true),
        floats_(out_.requantises_floats(desc)),
        xs_(conv_strides(desc.ins[0])) {
    const Operand& x = desc.ins[0];
    segments_ = (!integer_ || floats_) && has_tiles(g.kernel[2], g.stride[2], g.dilation[2]);
    in_place_ = x.dtype == DType::f32 && (g.C == 1 || xs_.c == 1) && (segments_ || g.out[2] >= 6 * (g.kernel[2] - 1));
    channels_ = in_place_ && g.taps() <= 9 ? round_up(g.C, W) : least(kChannels, round_up(g.C, W));
    const double flops = 2.0 * g.N * g.pixels() * g.M * g.taps();
    const int64_t most_tasks = bind.threads == 1 ? 1 : kTasks * bind.threads;
    const int64_t some =
        flops >= static_cast<double>(most_tasks) * kTaskFlops ? most_tasks : most(1, static_cast<int64_t>(flops / kTaskFlops));
    const int64_t want = some > 1 ? round_up(some, bind.threads) : 1;  // as many for every thread
    const bool small = g.C * (g.in[1] * g.in[2] + g.out[1] * g.out[2]) * 4 <= kSmallImage;
    chunk_ = small ? kChunk : channels_;
    strip_bytes_ = small ? kChunkStripBytes : kStripBytes;
    rows_ = g.out[1];
    cols_ = g.out[2];
    // Where sums pass through scratch (which depends on the run), a task's block of results has to fit as well.
    auto bytes = [&](int64_t rows, int64_t cols) {
      const int64_t staged = in_place_ ? 0 : stage_floats(rows, cols) * 4;
      return in_place_ ? rows * cols * channels_ : most(staged, rows * cols * channels_ * 4);
    };
    // (Rows under the window of two blocks are staged twice: few channels rather than few rows.)
    while (!in_place_ && channels_ > W && bytes(least(rows_, 4 * extent(1, 1)), cols_) > kBlockBytes)
      channels_ = round_up(ceil_div(channels_, 2), W);
    while (rows_ > 1 && bytes(rows_, cols_) > kBlockBytes) rows_ = (rows_ + 1) / 2;
    while (cols_ > 32 && bytes(rows_, cols_) > kBlockBytes) cols_ = (cols_ + 1) / 2;
    auto tasks = [&] { return g.N * ceil_div(g.C, channels_) * ceil_div(g.out[1], rows_) * ceil_div(g.out[2], cols_); };
    while (g.pixels() < kFewPixels && tasks() < want && channels_ > kChunk) channels_ = round_up(ceil_div(channels_, 2), W);
    while (tasks() < want && rows_ > 1) rows_ = (rows_ + 1) / 2;
    while (tasks() < want && cols_ > 64) cols_ = (cols_ + 1) / 2;
    channel_blocks_ = ceil_div(g.C, channels_);
    tasks_ = tasks();
    row_ = extent(2, cols_) * channels_ + W;
    stage_bytes_ = in_place_ ? 0 : static_cast<size_t>(stage_floats(rows_, cols_)) * 4 + 64;
    stage_bytes_ = static_cast<size_t>(round_up(static_cast<int64_t>(stage_bytes_), 64));
    block_bytes_ = static_cast<size_t>(round_up(static_cast<int64_t>(out_.block_bytes(rows_ * cols_, channels_)), 64));
    if (desc.ins[1].is_const() && (!operand(4).present() || operand(4).is_const()))
      packed_ = bind.packs.get(desc.ins[1], pack_key(), weight_bytes(), [this](void* to) { pack(static_cast<float*>(to)); });
  }

  size_t shared_scratch_bytes() const override { return bias_bytes() + out_.quant_bytes() + (packed_ ? 0 : weight_bytes()); }
  size_t thread_scratch_bytes() const override { return stage_bytes_ + block_bytes_ + out_.scratch_bytes(); }
  PTRT_COLD std::string describe() const override {
    return "depthwise " + std::to_string(rows_) + "x" + std::to_string(cols_) + (in_place_ ? ", in place" : ", staged") +
           out_.activation_name();
  }

  void run(const RunContext& ctx) override {
    auto* bias = reinterpret_cast<float*>(ctx.shared_scratch);
    for (int64_t m = 0; m < g_.M; m++) {
      bias[m] = integer_ ? 0.0f : static_cast<float>(out_.bias_value(desc, operand(2), m));
    }
    const auto* weights = static_cast<const float*>(packed_.get());
    if (!weights) {
      auto* to = reinterpret_cast<float*>(ctx.shared_scratch + bias_bytes() + out_.quant_bytes());
      pack(to);
      weights = to;
    }
    QuantColumns columns{};
    if (out_.requantises()) columns = out_.quant_columns(desc, ctx.shared_scratch + bias_bytes());
    const bool direct = out_.direct(desc);
    ctx.parallel(tasks_, [&](int64_t t, int worker) { task(t, ctx.thread_scratch(worker), weights, bias, columns, direct); });
  }

 private:
  const Operand& operand(size_t k) const {
    static const Operand absent;
    return k < desc.ins.size() ? desc.ins[k] : absent;
  }
  int64_t extent(int k, int64_t n) const { return (n - 1) * g_.stride[k] + (g_.kernel[k] - 1) * g_.dilation[k] + 1; }
  int64_t stage_floats(int64_t rows, int64_t cols) const {
    const __int128 n = static_cast<__int128>(extent(1, rows)) * (static_cast<__int128>(extent(2, cols)) * channels_ + W);
    if (n > int64_t{1} << 30) throw KernelError("conv: the window spans too much of the input");
    return static_cast<int64_t>(n);
  }
  size_t bias_bytes() const { return static_cast<size_t>(round_up(round_up(g_.M, W) * 4, 64)); }
  size_t weight_bytes() const { return static_cast<size_t>(round_up(g_.M, W) * g_.taps()) * 4 + 64; }

  PTRT_COLD std::string pack_key() const {
    std::string key = conv_pack_key("conv_depthwise", desc.ins[1], g_) + ":W" + std::to_string(W);
    if (const Operand& z = operand(4); z.present()) {
      key += ":Z";
      for (int64_t m = 0; m < z.size(); m++) key += std::to_string(conv_load_i32(z, z.ndim ? m * z.strides[0] : 0)) + ",";
    }
    return key;
  }

  void pack(float* to) const {  // [block of W channels][window row][window column][W]
    const Operand &w = desc.ins[1], &z = operand(4);
    const ConvStrides ws = conv_strides(w);
    for (int64_t m = 0; m < round_up(g_.M, W); m++) {
      float* block = to + m / W * W * g_.taps() + m % W;
      const int32_t wz = m < g_.M && z.present() ? conv_load_i32(z, z.ndim ? m * z.strides[0] : 0) : 0;
      for (int64_t kh = 0; kh < g_.kernel[1]; kh++)
        for (int64_t kw = 0; kw < g_.kernel[2]; kw++) {
          const int64_t at = m * ws.n + kh * ws.s[1] + kw * ws.s[2];
          block[(kh * g_.kernel[2] + kw) * W] = m >= g_.M  ? 0.0f
                                                : integer_ ? static_cast<float>(conv_load_i32(w, at) - wz)
                                                           : conv_load_f32(w, at);
        }
    }
  }

  void task(int64_t t, char* scratch, const float* weights, const float* bias, const QuantColumns& columns, bool direct) const {
    const int64_t c0 = t % channel_blocks_ * channels_;
    ConvOutBox box = conv_block(g_, t / channel_blocks_, rows_, cols_);
    box.m = c0;
    box.chans = least(channels_, g_.C - c0);
    const Operand& x = desc.ins[0];
    const char* data = x.as<char>() + box.n * xs_.n * static_cast<int64_t>(itemsize(x.dtype));
    const float* in;
    Tile tile;
    int64_t h0 = box.oh * g_.stride[1] - g_.pad[1], w0 = box.ow * g_.stride[2] - g_.pad[2], row, pixel, height = g_.in[1], width = g_.in[2];
    if (in_place_) {
      in = reinterpret_cast<const float*>(data) + c0;
      row = xs_.s[1];
      pixel = xs_.s[2];
    } else {
      ConvBox b;
      b.begin[0] = 0, b.begin[1] = h0, b.begin[2] = w0;
      b.size[0] = 1, b.size[1] = extent(1, box.rows), b.size[2] = extent(2, box.cols);
      b.depth_step = 1;
      b.c0 = c0;
      b.cn = b.group = b.group_pitch = box.chans;
      b.row = row = row_;
      b.pixel = pixel = channels_;
      b.plane = 0;
      const int32_t x_zero = operand(3).present() ? conv_load_i32(operand(3), 0) : 0;
      conv_stage(ConvMath::f32, x, data, xs_, g_.in, b, x_zero, scratch);
      in = reinterpret_cast<const float*>(scratch);
      h0 = w0 = 0;
      height = b.size[1];
      width = b.size[2];
    }
    const ConvResult r = direct ? out_.at(desc, box) : ConvResult{scratch + stage_bytes_, box.cols * box.chans, box.chans};
    const ConvResult res = out_.residual(desc, box), late = out_.residual_of_activation(desc, box);
    tile.bias = bias + c0;
    tile.row = g_.dilation[1] * row;
    tile.col = g_.dilation[2] * pixel;
    tile.pixel = g_.stride[2] * pixel;
    tile.weight_row = g_.kernel[2] * W;
    tile.weight_block = g_.taps() * W;
    tile.out_pixel = r.pixel;
    tile.residual_pixel = res.pixel;
    tile.channels = box.chans;
    tile.next_out = in_place_ ? r.row : 0;
    tile.linear = &out_.linear();
    const int64_t s = g_.stride[2], d = g_.dilation[2];
    // Output columns [left, right) see the whole window.
    const int64_t left = least(box.cols, w0 < 0 ? ceil_div(-w0, s) : 0);
    const int64_t room = width - w0 - (g_.kernel[2] - 1) * d;
    const int64_t right = most(left, least(box.cols, room > 0 ? ceil_div(room, s) : 0));
    const bool integers = integer_ && !floats_;
    const TileFn *whole = pick_tiles(g_.kernel[2], s, d, integers), *clipped = tiles<0, 1>(integers);
    const int64_t strip = most(kPixels, strip_bytes_ / (g_.kernel[1] * s * least(chunk_, box.chans) * 4) / kPixels * kPixels);
    for (int64_t cc = 0; cc < box.chans; cc += chunk_) {
      tile.channels = least(chunk_, box.chans - cc);
      tile.bias = bias + c0 + cc;
      for (int64_t x0 = 0; x0 < box.cols; x0 += strip) {
        const int64_t x1 = least(box.cols, x0 + strip);
        const int64_t a = segments_ ? x0 : most(x0, least(x1, left)), b = segments_ ? x1 : most(a, least(x1, right));
        for (int64_t h = 0; h < box.rows; h++) {
          const int64_t ih = h0 + h * g_.stride[1];
          const int64_t kh0 = ih < 0 ? least(g_.kernel[1], ceil_div(-ih, g_.dilation[1])) : 0;
          const int64_t kh1 = most(kh0, least(g_.kernel[1], height > ih ? ceil_div(height - ih, g_.dilation[1]) : 0));
          tile.kh = kh1 - kh0;
          auto emit = [&](const TileFn* fns, int64_t w, int64_t n, int64_t kw0, int64_t kw1) {
            tile.kw = kw1 - kw0;
            tile.first = -(w0 + w * s);
            tile.end = width + tile.first;
            tile.in = in + cc + (ih + kh0 * g_.dilation[1]) * row + (w0 + w * s + kw0 * d) * pixel;
            tile.weights = weights + (c0 + cc) * g_.taps() + (kh0 * g_.kernel[2] + kw0) * W;
            if (out_.requantises()) {  // by way of a block in L1
              alignas(64) float block[kPixels * kChannels];
              tile.out = block;
              tile.out_pixel = kChannels;
              tile.residual = nullptr;
              fns[n](tile);
              const int64_t at = cc + h * r.row + w * r.pixel, residual_at = cc + h * res.row + w * res.pixel;
              if (floats_) {
                out_.requantise(desc, columns, c0 + cc, block, kChannels, r, at, n, tile.channels, res, residual_at);
              } else {
                const auto* sums = reinterpret_cast<const int32_t*>(block);
                out_.requantise(desc, columns, c0 + cc, sums, kChannels, r, at, n, tile.channels, res, residual_at);
              }
              return;
            }
            tile.out = r.data + (cc + h * r.row + w * r.pixel) * 4;
            tile.residual = res.data ? reinterpret_cast<const float*>(res.data) + cc + h * res.row + w * res.pixel : nullptr;
            fns[n](tile);
            if (out_.activates()) {
              const auto* from = reinterpret_cast<const float*>(late.data);
              out_.activate(desc, c0 + cc, static_cast<float*>(tile.out), r.pixel, static_cast<float*>(tile.out), r.pixel, n, tile.channels,
                            from ? from + cc + h * late.row + w * late.pixel : nullptr, late.pixel);
            }
          };
          auto border = [&](int64_t w) {
            const int64_t iw = w0 + w * s;
            const int64_t kw0 = iw < 0 ? least(g_.kernel[2], ceil_div(-iw, d)) : 0;
            emit(clipped, w, 1, kw0, most(kw0, least(g_.kernel[2], width > iw ? ceil_div(width - iw, d) : 0)));
          };
          for (int64_t w = x0; w < a; w++) border(w);
          const int64_t blocks = ceil_div(b - a, kPixels);
          for (int64_t i = 0, w = a; i < blocks; i++) {
            const int64_t n = (b - a) / blocks + (i < (b - a) % blocks);
            emit(whole, w, n, 0, g_.kernel[2]);
            w += n;
          }
          for (int64_t w = b; w < x1; w++) border(w);
        }
      }
    }
    if (integer_ && !out_.requantises()) add_integer_bias(box, r);
    if (!direct || out_.must_finish()) out_.finish(desc, box, r, scratch + stage_bytes_ + block_bytes_);
  }

  void add_integer_bias(const ConvOutBox& box, const ConvResult& r) const {  // in integers: a large bias would not be exact as a float
    const Operand& b = operand(2);
    if (!b.present()) return;
    for (int64_t h = 0; h < box.rows; h++)
      for (int64_t w = 0; w < box.cols; w++) {
        auto* out = reinterpret_cast<uint32_t*>(r.data) + h * r.row + w * r.pixel;
        for (int64_t c = 0; c < box.chans; c++) out[c] += static_cast<uint32_t>(conv_load_i32(b, (box.m + c) * b.strides[0]));
      }
  }

  ConvGeometry g_;
  bool integer_;
  ConvOutput out_;
  bool floats_;  // 8-bit inputs whose sums stay floats up to requantise()
  ConvStrides xs_;
  bool in_place_ = false, segments_ = false;
  int64_t chunk_ = 0, strip_bytes_ = 0, channels_ = 0, channel_blocks_ = 0, rows_ = 0, cols_ = 0, tasks_ = 0, row_ = 0;
  size_t stage_bytes_ = 0, block_bytes_ = 0;
  std::shared_ptr<const void> packed_;
};

}  // namespace

bool depthwise_applies(const LaunchDesc& desc, const ConvGeometry& g) {
  return g.Cg == 1 && g.Mg == 1 && g.C > 1 && g.taps() > 0 && g.kernel[0] == 1 && g.in[0] == 1 && g.out[0] == 1 && g.pad[0] == 0 &&
         conv_math(desc.ins[0].dtype) != ConvMath::f64 && (conv_math(desc.ins[0].dtype) == ConvMath::f32 || g.taps() <= 258);
}

std::unique_ptr<Kernel> make_depthwise_conv(LaunchDesc desc, BindContext& bind, const ConvGeometry& g) {
  if (auto kernel = make_byte_depthwise_conv(desc, bind, g)) return kernel;
  return std::make_unique<DepthwiseConv>(std::move(desc), bind, g);
}

}  // namespace ptrt::PTRT_LEVEL
