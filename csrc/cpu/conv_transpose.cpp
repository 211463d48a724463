// Transposed convolution in gather form. The outputs whose coordinates leave the same remainders modulo the strides (a phase) see the same
// taps of the kernel, at fixed offsets from input position q = o / stride: every phase is a stride-1 convolution with its own tap table,
// written with strided pixels. A 2x2 stride-2 layer is four matrix products. The input block of a task is staged once for all phases.
#include <algorithm>
#include <type_traits>

#include "cpu/conv_tile.h"
#include "cpu/kernels.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kStageBytes = 256 << 10;                          // of the input block of a task
constexpr int64_t kMostStageBytes = 704 << 10, kFewPositions = 64;  // the same, of blocks with few positions
constexpr int64_t kBlockBytes = 128 << 10;                          // of the result block where results do not go straight to the output
constexpr int64_t kTasks = 16;
constexpr double kTaskFlops = 2e6;

// The taps of the kernel that reach outputs of one phase along one axis: input position q + offset.
struct AxisPhase {
  std::vector<int64_t> tap, offset;
};

struct Axis {
  std::vector<AxisPhase> phases;
  int64_t low = 0, high = 0;  // extreme offsets of all phases
  Axis(int64_t stride, int64_t dilation, int64_t pad, int64_t kernel, int64_t out) {
    bool first = true;
    for (int64_t f = 0; f < least(stride, out); f++) {
      AxisPhase p;
      for (int64_t k = 0; k < kernel; k++) {
        const int64_t shifted = f + pad - k * dilation;
        if (shifted % stride != 0) continue;
        const int64_t offset = shifted / stride;
        p.tap.push_back(k);
        p.offset.push_back(offset);
        low = first ? offset : least(low, offset);
        high = first ? offset : most(high, offset);
        first = false;
      }
      phases.push_back(std::move(p));
    }
  }
  int64_t span() const { return high - low; }
};

// One combination of height and width phases at a given depth phase.
struct Phase {
  std::vector<int64_t> taps;  // offsets in the staged block
  int64_t weights = 0;        // offset of its packed weights within a panel
};

template <class P>
class TransposedConv : public Kernel {
  typedef typename P::S S;
  typedef typename P::A A;

 public:
  // `narrow`: inputs of a group, if `g` takes several groups as one (GroupedMath); otherwise 0.
  TransposedConv(LaunchDesc d, BindContext& bind, const ConvGeometry& g, int64_t narrow = 0)
      : Kernel(std::move(d)),
        g_(g),
        narrow_(narrow),
        math_(conv_math(desc.ins[0].dtype)),
        out_(desc, g, math_, false),
        xs_(conv_strides(desc.ins[0])),
        axes_{axis(0), axis(1), axis(2)} {
    nv_ = P::vectors(g.Mg);
    nr_ = nv_ * P::lanes(g.Mg);
    panels_per_group_ = ceil_div(g.Mg, nr_);
    panels_ = panels_per_group_ * g.G;
    group_pitch_ = round_up(g.Cg, P::k_unit);
    K_ = narrow ? narrow : group_pitch_;
    panel_size_ = g.taps() * K_ * nr_;
    pixel_ = group_pitch_ * g.G;
    if (pixel_ * static_cast<int64_t>(sizeof(S)) % 4096 == 0) pixel_ += 64 / static_cast<int64_t>(sizeof(S));
    plan_blocks();
    plan_phases();
    if (desc.ins[1].is_const()) {
      const std::string key = pack_key();
      packed_ = bind.packs.get(desc.ins[1], key, weight_bytes(), [this](void* to) {
        for (int64_t p = 0; p < panels_; p++) pack_panel(p, static_cast<S*>(to) + p * panel_size_);
      });
    }
  }

  size_t shared_scratch_bytes() const override { return bias_bytes() + (packed_ ? 0 : weight_bytes()); }
  size_t thread_scratch_bytes() const override { return stage_bytes_ + block_bytes_ + out_.scratch_bytes(); }
  std::string describe() const override {
    return std::string(std::is_same_v<P, DotMath> ? "dot, " : "") +
           (narrow_ ? "groups of " + std::to_string(narrow_) + " side by side, " : "") + "transposed " + std::to_string(rows_) + "x" +
           std::to_string(cols_) + " positions, " + std::to_string(phases_.size()) + " phases";
  }

  void run(const RunContext& ctx) override {
    A* bias = reinterpret_cast<A*>(ctx.shared_scratch);
    static const Operand absent;
    const Operand& b = desc.ins.size() > 2 ? desc.ins[2] : absent;
    for (int64_t p = 0; p < panels_; p++)
      for (int64_t j = 0; j < nr_; j++)
        bias[p * nr_ + j] = channel(p) + j < channel_end(p) ? static_cast<A>(out_.bias_value(desc, b, channel(p) + j)) : A(0);
    const S* weights = static_cast<const S*>(packed_.get());
    if (!weights) {
      S* to = reinterpret_cast<S*>(ctx.shared_scratch + bias_bytes());
      weights = to;
      ctx.parallel(panels_, [&](int64_t p, int) { pack_panel(p, to + p * panel_size_); });
    }
    const bool direct = out_.direct(desc);
    ctx.parallel(tasks_, [&](int64_t t, int worker) { task(t, ctx.thread_scratch(worker), weights, bias, direct); });
  }

 private:
  Axis axis(int k) const { return Axis(g_.stride[k], g_.dilation[k], g_.pad[k], g_.kernel[k], g_.out[k]); }
  int64_t positions(int k) const { return ceil_div(g_.out[k], g_.stride[k]); }
  int64_t row_elements(int64_t cols) const { return round_up((cols + axes_[2].span()) * pixel_, 16) + 16; }
  int64_t stage_size(int64_t rows, int64_t cols) const {
    const __int128 n =
        static_cast<__int128>(axes_[0].span() + 1) * (rows + axes_[1].span()) * row_elements(cols) * static_cast<int64_t>(sizeof(S));
    if (n > int64_t{1} << 32) throw KernelError("conv_transpose: the window spans too much of the input");
    return static_cast<int64_t>(n);
  }
  size_t bias_bytes() const { return static_cast<size_t>(round_up(panels_ * nr_ * static_cast<int64_t>(sizeof(A)), 64)); }
  size_t weight_bytes() const { return static_cast<size_t>(panels_ * panel_size_) * sizeof(S) + 64; }

  void plan_blocks() {
    const int64_t scale = g_.stride[1] * g_.stride[2];
    rows_ = positions(1);
    cols_ = positions(2);
    const auto bytes = [&](int64_t rows, int64_t cols) {
      return most(stage_size(rows, cols), rows * cols * scale * nr_ * static_cast<int64_t>(sizeof(A)));
    };
    // All weights pass over a block: with many channels a larger one is better than to read them again for every few positions.
    const auto too_large = [&] { return bytes(rows_, cols_) > (rows_ * cols_ > kFewPositions ? kStageBytes : kMostStageBytes); };
    while (rows_ > 1 && too_large()) rows_ = (rows_ + 1) / 2;
    while (cols_ > 16 && too_large()) cols_ = (cols_ + 1) / 2;
    const double flops = 2.0 * g_.N * g_.C * (narrow_ ? narrow_ : g_.Mg) * g_.taps() * g_.in[0] * g_.in[1] * g_.in[2];
    const int64_t want = flops >= kTasks * kTaskFlops ? kTasks : most(1, static_cast<int64_t>(flops / kTaskFlops));
    const auto blocks = [&] { return g_.N * g_.out[0] * ceil_div(positions(1), rows_) * ceil_div(positions(2), cols_); };
    while (blocks() < want && rows_ > 1 && rows_ * cols_ >= 56) rows_ = (rows_ + 1) / 2;
    while (blocks() < want && cols_ >= 56) cols_ = (cols_ + 1) / 2;
    panels_per_task_ = blocks() >= want ? panels_ : most(1, ceil_div(panels_, ceil_div(want, blocks())));
    panel_groups_ = ceil_div(panels_, panels_per_task_);
    tasks_ = blocks() * panel_groups_;
    row_ = row_elements(cols_);
    plane_ = row_ * (rows_ + axes_[1].span());
    stage_bytes_ = static_cast<size_t>(round_up(stage_size(rows_, cols_) + 64, 64));
    const int64_t pixels = least(rows_ * g_.stride[1], g_.out[1]) * least(cols_ * g_.stride[2], g_.out[2]);
    chunk_ = most(1, least(panels_per_task_, kBlockBytes / most(1, pixels * nr_ * static_cast<int64_t>(sizeof(A)))));
    block_bytes_ = static_cast<size_t>(round_up(static_cast<int64_t>(out_.block_bytes(pixels, chunk_ * nr_)), 64));
  }

  // Calls f(phase number, depth, height and width phases) in packing order.
  template <class F>
  void each_phase(F&& f) const {
    size_t n = 0;
    for (const AxisPhase& d : axes_[0].phases)
      for (const AxisPhase& h : axes_[1].phases)
        for (const AxisPhase& w : axes_[2].phases) f(n++, d, h, w);
  }

  void plan_phases() {
    phases_.resize(axes_[0].phases.size() * axes_[1].phases.size() * axes_[2].phases.size());
    int64_t at = 0;
    each_phase([&](size_t n, const AxisPhase& d, const AxisPhase& h, const AxisPhase& w) {
      Phase& p = phases_[n];
      p.weights = at;
      for (int64_t i : d.offset)
        for (int64_t j : h.offset)
          for (int64_t k : w.offset)
            p.taps.push_back((i - axes_[0].low) * plane_ + (j - axes_[1].low) * row_ + (k - axes_[2].low) * pixel_);
      at += static_cast<int64_t>(p.taps.size()) * K_ * nr_;
    });
  }

  std::string pack_key() const {
    std::string key = conv_pack_key("conv_transpose", desc.ins[1], g_) + ":NR" + std::to_string(nr_) + ":U" + std::to_string(P::k_unit) +
                      ":S" + std::to_string(sizeof(S)) + ":C" + std::to_string(narrow_);
    for (int k = 0; k < 3; k++)  // what the order of the taps depends on
      for (int64_t v : {g_.stride[k], g_.dilation[k], g_.pad[k], g_.out[k]}) key += ":" + std::to_string(v);
    return key;
  }

  void pack_panel(int64_t p, S* to) const {  // [phase][tap][channel / U][NR][U], U = k_unit; channels that are not there are 0
    constexpr int64_t U = P::k_unit;
    const Operand& w = desc.ins[1];
    const ConvStrides ws = conv_strides(w);  // [C, M/group, ...]
    const int64_t inputs = narrow_ ? narrow_ : g_.Cg, outputs = narrow_ ? narrow_ : g_.Mg;
    each_phase([&](size_t n, const AxisPhase& d, const AxisPhase& h, const AxisPhase& v) {
      S* slot = to + phases_[n].weights;
      for (int64_t kd : d.tap)
        for (int64_t kh : h.tap)
          for (int64_t kw : v.tap)
            for (int64_t c0 = 0; c0 < K_; c0 += U)
              for (int64_t j = 0; j < nr_; j++)
                for (int64_t c = c0; c < c0 + U; c++) {
                  const int64_t m = channel(p) + j;
                  const int64_t at = (m / outputs * inputs + c) * ws.n + m % outputs * ws.c + kd * ws.s[0] + kh * ws.s[1] + kw * ws.s[2];
                  *slot++ = m < channel_end(p) && c < inputs ? P::load_weight(w, at, 0) : S(0);
                }
    });
  }

  int64_t channel(int64_t p) const { return p / panels_per_group_ * g_.Mg + p % panels_per_group_ * nr_; }
  int64_t channel_end(int64_t p) const {
    return least(g_.M, p / panels_per_group_ * g_.Mg + least(g_.Mg, (p % panels_per_group_ + 1) * nr_));
  }

  void task(int64_t t, char* scratch, const S* weights, const A* bias, bool direct) const {
    const int64_t p0 = t % panel_groups_ * panels_per_task_, p1 = least(panels_, p0 + panels_per_task_);
    t /= panel_groups_;
    const int64_t cb = ceil_div(positions(2), cols_), rb = ceil_div(positions(1), rows_);
    const int64_t qw = t % cb * cols_;
    t /= cb;
    const int64_t qh = t % rb * rows_;
    t /= rb;
    ConvOutBox box;
    box.od = t % g_.out[0];
    box.n = t / g_.out[0];
    box.oh = qh * g_.stride[1];
    box.ow = qw * g_.stride[2];
    box.rows = least(rows_ * g_.stride[1], g_.out[1] - box.oh);
    box.cols = least(cols_ * g_.stride[2], g_.out[2] - box.ow);
    const int64_t qd = box.od / g_.stride[0], depth_phase = box.od % g_.stride[0];
    const int64_t first_group = p0 / panels_per_group_, last_group = (p1 - 1) / panels_per_group_;
    ConvBox in;
    in.begin[0] = qd + axes_[0].low, in.begin[1] = qh + axes_[1].low, in.begin[2] = qw + axes_[2].low;
    in.size[0] = axes_[0].span() + 1, in.size[1] = ceil_div(box.rows, g_.stride[1]) + axes_[1].span();
    in.size[2] = ceil_div(box.cols, g_.stride[2]) + axes_[2].span();
    in.depth_step = 1;
    in.c0 = first_group * g_.Cg;
    in.cn = least(g_.C - in.c0, (last_group - first_group + 1) * g_.Cg);
    in.group = g_.Cg;
    in.group_pitch = group_pitch_;
    in.plane = plane_, in.row = row_, in.pixel = pixel_;
    const Operand& x = desc.ins[0];
    conv_stage(math_, x, x.as<char>() + box.n * xs_.n * static_cast<int64_t>(itemsize(x.dtype)), xs_, g_.in, in, 0, scratch);
    const S* a = reinterpret_cast<const S*>(scratch);
    const Phase* phases = phases_.data() + static_cast<size_t>(depth_phase) * axes_[1].phases.size() * axes_[2].phases.size();
    for (int64_t p = p0; p < p1;) {
      const int64_t group_end = (p / panels_per_group_ + 1) * panels_per_group_;
      const int64_t q = direct ? p1 : least(least(p1, p + chunk_), g_.Mg % nr_ ? group_end : p1);
      box.m = channel(p);
      box.chans = channel_end(q - 1) - box.m;
      const ConvResult r = direct ? out_.at(desc, box) : ConvResult{scratch + stage_bytes_, box.cols * box.chans, box.chans};
      for (int64_t k = p; k < q; k++) panel(k, a + (k / panels_per_group_ - first_group) * group_pitch_, phases, weights, bias, box, r);
      if (!direct || out_.must_finish()) out_.finish(desc, box, r, scratch + stage_bytes_ + block_bytes_);
      p = q;
    }
  }

  void panel(int64_t p, const S* a, const Phase* phases, const S* weights, const A* bias, const ConvOutBox& box,
             const ConvResult& r) const {
    const ConvResult res = out_.residual(desc, box);
    TileCall<S, A> t;
    t.bias = bias + p * nr_;
    t.n = static_cast<int>(channel_end(p) - channel(p));
    A* c = reinterpret_cast<A*>(r.data) + channel(p) - box.m;
    const A* residual = res.data ? reinterpret_cast<const A*>(res.data) + channel(p) - box.m : nullptr;
    for (int64_t fh = 0; fh < static_cast<int64_t>(axes_[1].phases.size()); fh++)
      for (int64_t fw = 0; fw < static_cast<int64_t>(axes_[2].phases.size()); fw++, phases++) {
        t.b = weights + p * panel_size_ + phases->weights;
        typename P::Tile tile(TileShape{phases->taps.data(), &out_.linear(), pixel_, nr_, r.pixel * g_.stride[2], res.pixel * g_.stride[2],
                                        K_, static_cast<int64_t>(phases->taps.size()), nv_});
        // The weights that come next lie behind these; a call fetches a line of them per step.
        const int64_t steps = K_ * static_cast<int64_t>(phases->taps.size()), line = 64 / static_cast<int64_t>(sizeof(S));
        const S *next = t.b + steps * nr_, *end = std::min(next + steps * nr_, weights + panels_ * panel_size_);
        const int64_t cols = fw < box.cols ? ceil_div(box.cols - fw, g_.stride[2]) : 0;
        const RowSplit split(cols, P::max_rows(nv_));
        for (int64_t h = fh, q = 0; h < box.rows; h += g_.stride[1], q++)
          for (int64_t i = 0; i < split.blocks; i++) {
            const int64_t w = split.start(i);
            t.rows = static_cast<int>(split.rows(i));
            t.a = a + q * row_ + w * pixel_;
            t.c = c + h * r.row + (fw + w * g_.stride[2]) * r.pixel;
            t.residual = residual ? residual + h * res.row + (fw + w * g_.stride[2]) * res.pixel : nullptr;
            t.next = next < end ? next : nullptr;
            next += steps * line;
            tile(t);
          }
      }
  }

  ConvGeometry g_;
  int64_t narrow_;
  ConvMath math_;
  ConvOutput out_;
  ConvStrides xs_;
  Axis axes_[3];
  std::vector<Phase> phases_;
  int nv_ = 1;
  int64_t nr_ = 0, K_ = 0, group_pitch_ = 0, panels_per_group_ = 0, panels_ = 0, panel_size_ = 0, pixel_ = 0, row_ = 0, plane_ = 0;
  int64_t rows_ = 1, cols_ = 1, panels_per_task_ = 1, panel_groups_ = 1, tasks_ = 0, chunk_ = 1;
  size_t stage_bytes_ = 0, block_bytes_ = 0;
  std::shared_ptr<const void> packed_;
};

}  // namespace

std::unique_ptr<Kernel> make_conv_transpose(LaunchDesc desc, BindContext& bind) {
  const ConvGeometry g = conv_geometry(desc, true);
  const Operand& x = desc.ins[0];
  const ConvMath math = conv_math(x.dtype);
  if (math == ConvMath::i8 || desc.ins[1].dtype != x.dtype) throw KernelError("conv_transpose: floating operands of one dtype expected");
  if (desc.ins.size() > 2 && desc.ins[2].present() &&
      (desc.ins[2].ndim != 1 || desc.ins[2].shape[0] != g.M || desc.ins[2].dtype != x.dtype))
    throw KernelError("conv_transpose: bad bias");
  if (math == ConvMath::f64) return std::make_unique<TransposedConv<FloatMath<double>>>(std::move(desc), bind, g);
  // As in make_direct_conv, per output of a phase.
  const int64_t taps = ceil_div(g.taps(), g.stride[0] * g.stride[1] * g.stride[2]);
#if defined(__AVX2__)
  if (g.G > 1 && g.Cg == g.Mg && g.Cg < W && W % g.Cg == 0 && g.Cg * taps <= kChain) {
    ConvGeometry wide = g;
    wide.G = ceil_div(g.M, W);
    wide.Cg = wide.Mg = W;
    return std::make_unique<TransposedConv<GroupedMath>>(std::move(desc), bind, wide, g.Cg);
  }
#endif
  if (dots_pay(g, taps)) return std::make_unique<TransposedConv<DotMath>>(std::move(desc), bind, g);
  return std::make_unique<TransposedConv<FloatMath<float>>>(std::move(desc), bind, g);
}

}  // namespace ptrt::PTRT_LEVEL
