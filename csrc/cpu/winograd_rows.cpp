// Convolution by one-dimensional Winograd, F(9 - k, k), along one axis whose window has k = 3 .. 7 taps and stride 1: 1.75 to 2.5 times
// fewer multiplications than the direct form. Taps of the other axis, of any stride and dilation, are summed in the products: this serves
// 1-d convolutions, 1 x k and k x 1 windows, 5 x 5 windows and dilated ones.
//
// Output tiles of 9 - k results along the line axis are processed in blocks. V = transformed input of the whole block; then, one panel of
// output channels after the other, the products P = V * U for the 8 positions and their output transform, while P is in L2.
//   V [input row][tile][channel / 16][position][16]    P [tile][panel's vectors][position][W]    U [panel][position][cross
//   tap][channel][NR]
// With dilation d the outputs of equal residue modulo d form lines of their own; tile t of a block is residue t % d. Where a tile of each
// of them is too much for a block, a block has one tile of some residues ("lanes"), and its results are `results` runs that lie d apart.
// With many blocks, a block is one task and has its own workspace. With few, the two steps are parallel inside a block.
#include "cpu/conv.h"
#include "cpu/tile.h"
#include "cpu/winograd_transforms.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int kA = RowWinograd::A;
constexpr int64_t kLane = 16;               // channels per V block
constexpr int64_t kSkew = 16;               // floats added to a tile's pitch in V and P: keeps it off multiples of 4096 bytes
constexpr int64_t kManyBlocks = 8;          // from here on a block is a task
constexpr int64_t kInputBytes = 512 << 10;  // of V, unless that leaves too few tiles to share the weights
constexpr int64_t kMostTiles = 84, kLeastTiles = 42;

// A rectangle of output tiles: `rows` along the cross axis, `steps` groups of a tile for each of `lanes` residues, from `lane` on, along
// the line. All residues, or one step.
struct Tiles {
  int64_t n, row, step, lane, rows, steps, lanes;
  int64_t line() const { return steps * lanes; }
};

// The line axis and its window.
struct Line {
  int along = 0, cross = 0;  // axes of the geometry; along 0: the convolution has none
  int64_t taps = 0, results = 0, steps = 0;
  double gain = 1;  // how many times fewer multiplications
};

Line line_of(const ConvGeometry& g) {
  Line best;
  double most_gain = 1.4;
  for (int along = 2; along > 0; along--) {
    const int64_t k = g.kernel[along], d = g.dilation[along];
    if (k < 3 || k > 7 || g.stride[along] != 1) continue;
    Line l{along, 3 - along, k, kA + 1 - k, 0, 1};
    l.steps = ceil_div(ceil_div(g.out[along], d), l.results);
    const double used = static_cast<double>(g.out[along]) / (static_cast<double>(l.steps) * static_cast<double>(d * l.results));
    const double gain = static_cast<double>(k * l.results) / kA * used;
    if (gain > most_gain) most_gain = l.gain = gain, best = l;
  }
  return best;
}

class RowWinogradConv : public Kernel {
 public:
  PTRT_COLD RowWinogradConv(LaunchDesc d, BindContext& bind, const ConvGeometry& g)
      : Kernel(std::move(d)), g_(g), line_(line_of(g)), out_(desc, g, ConvMath::f32, true), xs_(conv_strides(desc.ins[0])) {
    in_place_ = desc.ins[0].dtype == DType::f32 && xs_.c == 1;
    step_ = g.dilation[line_.along];
    nv_ = panel_vectors(g.M, W);
    nr_ = nv_ * W;
    panels_ = ceil_div(g.M, nr_);
    Cp_ = round_up(g.C, kLane);
    v_pitch_ = kA * Cp_ + kSkew;
    p_pitch_ = kA * nr_ + kSkew;
    plan_blocks();
    slice_ = g.kernel[line_.cross] * Cp_ * nr_;
    const int64_t tap_rows = cross_step_ * block_line() * v_pitch_;
    for (int64_t y = 0; y < g.kernel[line_.cross]; y++)
      for (int64_t c = 0; c < Cp_ / kLane; c++) taps_.push_back(y * tap_rows + c * (kA * kLane));
    const std::string key =
        conv_pack_key("winograd_rows", desc.ins[1], g) + ":A" + std::to_string(line_.along) + ":NR" + std::to_string(nr_);
    packed_ = bind.packs.get(desc.ins[1], key, static_cast<size_t>(panels_ * kA * slice_) * 4,
                             [this](void* to) { pack(static_cast<float*>(to)); });
  }

  bool many() const { return blocks_ >= kManyBlocks; }
  size_t bias_bytes() const { return static_cast<size_t>(round_up(panels_ * nr_ * 4, 64)); }
  size_t input_bytes() const { return v_bytes_ + stage_bytes_; }
  size_t shared_scratch_bytes() const override { return bias_bytes() + (many() ? 0 : input_bytes()); }
  size_t thread_scratch_bytes() const override { return (many() ? input_bytes() : 0) + p_bytes_ + out_bytes_ + out_.scratch_bytes(); }
  PTRT_COLD std::string describe() const override {
    return "winograd F(" + std::to_string(line_.results) + "," + std::to_string(line_.taps) + ") along axis " +
           std::to_string(line_.along + g_.spatial - 1) + ", blocks of " + std::to_string(block_rows_) + "x" +
           std::to_string(block_line()) + " tiles" + out_.activation_name();
  }

  void run(const RunContext& ctx) override {
    auto* bias = reinterpret_cast<float*>(ctx.shared_scratch);
    out_.fill_bias(desc, panels_ * nr_, bias);
    const bool direct = out_.direct(desc);
    if (many()) {
      ctx.parallel(blocks_, [&](int64_t b, int worker) {
        char* scratch = ctx.thread_scratch(worker);
        const Tiles t = tiles(b);
        transform_input(t, scratch, 0, Cp_);
        for (int64_t p = 0; p < panels_; p++) panel(t, p, scratch, scratch + input_bytes(), bias, direct);
      });
      return;
    }
    char* input = ctx.shared_scratch + bias_bytes();
    const int64_t channels = most(kLane, round_up(Cp_ / 8, kLane));
    for (int64_t b = 0; b < blocks_; b++) {
      const Tiles t = tiles(b);
      ctx.parallel(ceil_div(Cp_, channels),
                   [&](int64_t k, int) { transform_input(t, input, k * channels, least(Cp_, (k + 1) * channels)); });
      ctx.parallel(panels_, [&](int64_t p, int worker) { panel(t, p, input, ctx.thread_scratch(worker), bias, direct); });
    }
  }

 private:
  // Input rows of V. Taps of the cross axis that lie so far apart that they share no row of a block have rows of their own.
  int64_t reach(int64_t rows) const { return (rows - 1) * g_.stride[line_.cross] + 1; }  // of one tap
  int64_t cross_extent(int64_t rows) const { return (g_.kernel[line_.cross] - 1) * cross_step_ + reach(rows); }
  int64_t input_row(int64_t y) const { return y / cross_step_ * g_.dilation[line_.cross] + y % cross_step_; }
  int64_t along_extent(int64_t steps) const { return step_ * (line_.results * (steps - 1) + kA); }
  bool split() const { return block_lanes_ < step_; }
  int64_t block_line() const { return block_steps_ * block_lanes_; }  // tiles along the line

  PTRT_COLD void plan_blocks() {
    const int64_t rows = g_.out[line_.cross], taps = g_.kernel[line_.cross];
    const int64_t target = most(kLeastTiles, least(kMostTiles, kInputBytes / (kA * 4 * Cp_)));
    block_rows_ = taps > 1 ? least(rows, 4) : 1;
    const int64_t lanes = most(1, target / block_rows_), steps = most(1, lanes / step_);
    block_lanes_ = step_ <= lanes + lanes / 4 ? step_ : ceil_div(step_, ceil_div(step_, lanes));
    block_steps_ = line_.steps <= steps + steps / 4 ? line_.steps : ceil_div(line_.steps, ceil_div(line_.steps, steps));
    if (split()) block_steps_ = 1;
    block_rows_ = least(rows, most(block_rows_, target / block_line()));
    block_rows_ = ceil_div(rows, ceil_div(rows, block_rows_));
    cross_step_ = least(g_.dilation[line_.cross], reach(block_rows_));
    row_blocks_ = ceil_div(rows, block_rows_);
    step_blocks_ = ceil_div(line_.steps, block_steps_);
    lane_blocks_ = ceil_div(step_, block_lanes_);
    blocks_ = g_.N * row_blocks_ * step_blocks_ * lane_blocks_;
    const int64_t tiles = block_rows_ * block_line();
    const __int128 v = static_cast<__int128>(cross_extent(block_rows_)) * block_line() * v_pitch_;
    if (v > int64_t{1} << 31) throw KernelError("conv: the window spans too much of the input");
    v_bytes_ = static_cast<size_t>(round_up(static_cast<int64_t>(v) * 4 + 4096, 64));
    p_bytes_ = static_cast<size_t>(round_up(tiles * p_pitch_ * 4, 64));
    if (!in_place_) {
      const int64_t length = split() ? kA * block_lanes_ : along_extent(block_steps_);
      const int64_t height = line_.along == 2 ? cross_extent(block_rows_) : length;
      const int64_t width = line_.along == 2 ? length : cross_extent(block_rows_);
      stage_row_ = width * Cp_ + kSkew;
      stage_bytes_ = static_cast<size_t>(round_up(height * stage_row_ * 4 + 64, 64));
    }
    out_bytes_ = static_cast<size_t>(round_up(static_cast<int64_t>(out_.block_bytes(tiles * line_.results, nr_)), 64));
  }

  Tiles tiles(int64_t b) const {
    Tiles t;
    t.lane = b % lane_blocks_ * block_lanes_;
    b /= lane_blocks_;
    t.step = b % step_blocks_ * block_steps_;
    b /= step_blocks_;
    t.row = b % row_blocks_ * block_rows_;
    t.n = b / row_blocks_;
    t.rows = least(block_rows_, g_.out[line_.cross] - t.row);
    t.steps = least(block_steps_, line_.steps - t.step);
    t.lanes = least(block_lanes_, step_ - t.lane);
    return t;
  }

  void pack(float* to) const {  // the transform is done in double
    const Operand& w = desc.ins[1];
    const ConvStrides ws = conv_strides(w);
    std::memset(to, 0, static_cast<size_t>(panels_ * kA * slice_) * 4);
    for (int i = 0; i < kA; i++) {
      double g[kA];
      RowWinograd::weights(i, line_.taps, g);
      for (int64_t m = 0; m < g_.M; m++)
        for (int64_t y = 0; y < g_.kernel[line_.cross]; y++)
          for (int64_t c = 0; c < g_.C; c++) {
            double sum = 0;
            for (int64_t x = 0; x < line_.taps; x++)
              sum += g[x] * conv_load_f64(w, m * ws.n + c * ws.c + y * ws.s[line_.cross] + x * ws.s[line_.along]);
            to[((m / nr_ * kA + i) * g_.kernel[line_.cross] + y) * Cp_ * nr_ + c * nr_ + m % nr_] = static_cast<float>(sum);
          }
    }
  }

  // V's channels [c0, c1), both multiples of 16 (the last ones may be padding).
  void transform_input(const Tiles& t, char* scratch, int64_t c0, int64_t c1) const {
    auto* v = reinterpret_cast<float*>(scratch);
    auto* staged = reinterpret_cast<float*>(scratch + v_bytes_);
    const Operand& x = desc.ins[0];
    int64_t begin[3] = {0, 0, 0};
    begin[line_.cross] = t.row * g_.stride[line_.cross] - g_.pad[line_.cross];
    begin[line_.along] = t.step * line_.results * step_ + t.lane - g_.pad[line_.along];
    const int64_t rows = cross_extent(t.rows), length = split() ? (kA - 1) * step_ + t.lanes : along_extent(t.steps);
    const float* p = staged;
    int64_t row = line_.along == 2 ? stage_row_ : Cp_, pixel = line_.along == 2 ? Cp_ : stage_row_;
    int64_t tap = step_ * pixel;                              // from a tile's input to its next
    int64_t first = 0, end = length, top = 0, bottom = rows;  // what of the block exists
    if (in_place_) {
      row = xs_.s[line_.cross];
      pixel = xs_.s[line_.along];
      tap = step_ * pixel;
      p = x.as<float>() + t.n * xs_.n + begin[line_.cross] * row + begin[line_.along] * pixel;
      first = -begin[line_.along], end = g_.in[line_.along] + first;
      top = -begin[line_.cross], bottom = g_.in[line_.cross] + top;
    } else if (c0 < g_.C) {
      if (split()) tap = t.lanes * pixel;
      ConvBox b;
      for (int k = 0; k < 3; k++) b.begin[k] = begin[k];
      b.size[0] = 1;
      b.size[line_.cross] = rows, b.size[line_.along] = split() ? t.lanes : length;
      b.depth_step = 1;
      b.c0 = c0;
      b.cn = b.group = b.group_pitch = least(c1, g_.C) - c0;
      b.plane = 0;
      b.row = stage_row_;
      b.pixel = Cp_;
      const char* image = x.as<char>() + t.n * xs_.n * static_cast<int64_t>(itemsize(x.dtype));
      const int64_t cross = line_.along == 2 ? stage_row_ : Cp_, apart = g_.dilation[line_.cross];
      const bool rows_apart = cross_step_ < apart;
      if (rows_apart) b.size[line_.cross] = reach(t.rows);
      for (int64_t j = 0; j < (rows_apart ? g_.kernel[line_.cross] : 1); j++)
        for (int64_t k = 0; k < (split() ? kA : 1); k++) {
          b.begin[line_.cross] = begin[line_.cross] + j * apart;
          b.begin[line_.along] = begin[line_.along] + k * step_;
          conv_stage(ConvMath::f32, x, image, xs_, g_.in, b, 0, staged + j * cross_step_ * cross + k * tap + c0);
        }
    }
    for (int64_t y = 0; y < rows; y++) {
      const int64_t h = in_place_ ? input_row(y) : y;
      const bool inside = h >= top && h < bottom;
      if (y % cross_step_ >= reach(t.rows)) continue;  // no output reads it
      for (int64_t i = 0; i < t.line(); i++) {
        const int64_t at = i / t.lanes * line_.results * step_ + i % t.lanes;  // its first input, relative to the block
        float* to = v + (y * block_line() + i) * v_pitch_;
        const float* from = p + h * row + at * pixel;
        const bool whole = inside && at >= first && at + (kA - 1) * step_ < end;
        for (int64_t c = c0; c < c1; c += W) {
          const int n = static_cast<int>(least(W, g_.C - c));
          vf d[kA];
          if (whole && n == W) {
            PTRT_UNROLL for (int k = 0; k < kA; k++) d[k] = load(from + c + k * tap);
          } else {
            for (int k = 0; k < kA; k++) {
              const int64_t w = at + k * step_;
              d[k] = inside && w >= first && w < end && n > 0 ? load_n(from + c + k * tap, n) : vf{};
            }
          }
          RowWinograd::input(d, to + c / kLane * (kA * kLane) + c % kLane, kLane);
        }
      }
    }
  }

  // All of the block's results in the channels of one panel.
  void panel(const Tiles& t, int64_t p, const char* input, char* scratch, const float* bias, bool direct) const {
    const auto* v = reinterpret_cast<const float*>(input);
    auto* products = reinterpret_cast<float*>(scratch);
    multiply(t, p, v, products);
    const int64_t m0 = p * nr_;
    ConvOutBox box;
    box.n = t.n;
    box.od = 0;
    box.m = m0;
    box.chans = least(nr_, g_.M - m0);
    const int64_t first = t.step * line_.results * step_ + t.lane, left = g_.out[line_.along] - first;
    const int64_t length = split() ? left : least(t.steps * line_.results * step_, left);  // that the tiles' results may reach
    const int64_t run = split() ? least(t.lanes, left) : length;                           // of results side by side
    (line_.along == 2 ? box.ow : box.oh) = first;
    (line_.along == 2 ? box.cols : box.rows) = run;
    (line_.along == 2 ? box.oh : box.ow) = t.row;
    (line_.along == 2 ? box.rows : box.cols) = t.rows;
    if (run <= 0) return;
    const ConvResult r = direct ? out_.at(desc, box) : ConvResult{scratch + p_bytes_, box.cols * box.chans, box.chans};
    const Place place(line_, r), residual(line_, out_.residual(desc, box)), late(line_, out_.residual_of_activation(desc, box));
    // From a tile's result to its next.
    const int64_t next = split() && !direct ? box.rows * box.cols * box.chans : place.pixel * step_;
    const VectorEpilogue e(out_.linear());
    for (int64_t y = 0; y < t.rows; y++)
      for (int64_t i = 0; i < t.line(); i++) {
        const int64_t at = i / t.lanes * line_.results * step_ + i % t.lanes;
        if (at >= length) continue;
        const int count = static_cast<int>(least(line_.results, ceil_div(length - at, step_)));
        const float* from = products + (y * t.line() + i) * p_pitch_;
        float* to = place.at(y, at);
        emit(from, to, next, residual.at(y, at), residual.pixel * step_, bias + m0, box.chans, count, e);
        if (out_.activates()) out_.activate(desc, m0, to, next, to, next, count, box.chans, late.at(y, at), late.pixel * step_);
      }
    if (direct && !out_.must_finish()) return;
    const int64_t runs = split() ? least(line_.results, ceil_div(length, step_)) : 1;
    for (int64_t j = 0; j < runs; j++) {
      (line_.along == 2 ? box.ow : box.oh) = first + j * step_;
      (line_.along == 2 ? box.cols : box.rows) = split() ? least(run, left - j * step_) : run;
      const ConvResult part{r.data + j * next * static_cast<int64_t>(sizeof(float)), r.row, r.pixel};
      out_.finish(desc, box, part, scratch + p_bytes_ + out_bytes_);
    }
  }

  // A box's memory with the axes named by what they are to this kernel.
  struct Place {
    float* data;
    int64_t row, pixel;
    Place(const Line& l, const ConvResult& r)
        : data(reinterpret_cast<float*>(r.data)), row(l.along == 2 ? r.row : r.pixel), pixel(l.along == 2 ? r.pixel : r.row) {}
    float* at(int64_t y, int64_t x) const { return data ? data + y * row + x * pixel : nullptr; }
  };

  void multiply(const Tiles& t, int64_t p, const float* v, float* products) const {
    const int64_t width = t.line();
    const bool one_run = g_.stride[line_.cross] == 1 && width == block_line();
    const int64_t runs = one_run ? 1 : t.rows, length = one_run ? t.rows * width : width;
    const RowSplit split(length, kMaxRows[nv_]);
    TileArgs<float> a;
    a.lda = v_pitch_;
    a.tap_at = taps_.data();
    a.taps = static_cast<int64_t>(taps_.size());
    a.K = kLane;
    a.ldb = nr_;
    a.bts = kLane * nr_;
    a.ldc = p_pitch_;
    a.cj = kA * W;
    a.n = static_cast<int>(least(nr_, round_up(g_.M, W) - p * nr_));
    a.last = false;
    const auto* U = static_cast<const float*>(packed_.get());
    for (int64_t xi = 0; xi < kA; xi++) {
      const bool end = xi + 1 == kA && p + 1 == panels_;
      a.B = U + (p * kA + xi) * slice_;
      int64_t calls = 0;
      for (int64_t y = 0; y < runs; y++)
        for (int64_t i = 0; i < split.blocks; i++, calls++) {
          a.A = v + (y * g_.stride[line_.cross] * block_line() + split.start(i)) * v_pitch_ + xi * kLane;
          a.C = products + (y * width + split.start(i)) * p_pitch_ + xi * W;
          a.next = calls < nv_ && !end ? a.B + slice_ + calls * a.taps * kLane * 16 : nullptr;
          tile_f32(static_cast<int>(split.rows(i)), a.n / W)(a);
        }
    }
  }

  void emit(const float* from, float* to, int64_t pixel, const float* residual, int64_t residual_pixel, const float* bias, int64_t channels,
            int count, const VectorEpilogue& e) const {
    switch (line_.results) {
      case 2: emit<2>(from, to, pixel, residual, residual_pixel, bias, channels, count, e); break;
      case 3: emit<3>(from, to, pixel, residual, residual_pixel, bias, channels, count, e); break;
      case 4: emit<4>(from, to, pixel, residual, residual_pixel, bias, channels, count, e); break;
      case 5: emit<5>(from, to, pixel, residual, residual_pixel, bias, channels, count, e); break;
      default: emit<6>(from, to, pixel, residual, residual_pixel, bias, channels, count, e);
    }
  }
  template <int M>
  PTRT_NOINLINE static void emit(const float* from, float* to, int64_t pixel, const float* residual, int64_t residual_pixel,
                                 const float* bias, int64_t channels, int count, const VectorEpilogue& e) {
    for (int64_t m = 0; m < channels; m += W, from += kA * W) {
      const int n = static_cast<int>(least(W, channels - m));
      const vf b = load(bias + m);
      vf o[M];
      RowWinograd::output<M>(from, o);
      PTRT_UNROLL for (int i = 0; i < M; i++) {
        if (i == count) break;
        const vf y = residual ? e(o[i], b, load_n(residual + i * residual_pixel + m, n)) : e(o[i], b);
        store_n(to + i * pixel + m, y, n);
      }
    }
  }

  ConvGeometry g_;
  Line line_;
  ConvOutput out_;
  ConvStrides xs_;
  bool in_place_ = false;
  int nv_ = 1;
  int64_t step_ = 1, nr_ = 0, panels_ = 0, Cp_ = 0, v_pitch_ = 0, p_pitch_ = 0, slice_ = 0, stage_row_ = 0;
  int64_t block_rows_ = 0, block_steps_ = 0, block_lanes_ = 0, cross_step_ = 1, row_blocks_ = 0, step_blocks_ = 0, lane_blocks_ = 0,
          blocks_ = 0;
  std::vector<int64_t> taps_;
  size_t v_bytes_ = 0, p_bytes_ = 0, stage_bytes_ = 0, out_bytes_ = 0;
  std::shared_ptr<const void> packed_;
};

}  // namespace

double row_winograd_gain(const ConvGeometry& g) {
  const Line l = line_of(g);
  return l.along > 0 ? l.gain : 1;
}

bool row_winograd_applies(const LaunchDesc& desc, const ConvGeometry& g) {
  if (!winograd_enabled() || !desc.ins[1].is_const() || conv_math(desc.ins[0].dtype) != ConvMath::f32) return false;
  if (g.G != 1 || g.C < 16 || g.M < 16 || g.kernel[0] != 1 || g.in[0] != 1 || g.out[0] != 1 || g.pad[0] != 0) return false;
  const Line l = line_of(g);
  // The weights grow to 8 / k of their size: there must be results enough to share the reading of them.
  return l.along > 0 && g.kernel[l.cross] >= 1 && g.pixels() * l.taps >= 256;
}

std::unique_ptr<Kernel> make_row_winograd_conv(LaunchDesc desc, BindContext& bind, const ConvGeometry& g) {
  return std::make_unique<RowWinogradConv>(std::move(desc), bind, g);
}

}  // namespace ptrt::PTRT_LEVEL
