// Convolution as an implicit GEMM: one register tile covers some pixels of an output row times a panel of output channels, and sums over
// taps of contiguous channels. The input block of a task is staged once as a channels-last copy with its zero halo (which also converts
// dtypes and strides and keeps the pitch off multiples of 4096 bytes); pointwise convolutions of channels-last floats, and of channels-last
// bytes where bytes are multiplied, read x in place.
#include <algorithm>
#include <type_traits>

#include "cpu/conv_tile.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kBlockBytes = 128 << 10;  // of the result block where results do not go straight to the output
constexpr int64_t kResidentWeights = 128 << 10;
constexpr int64_t kTasks = 16;               // enough for a balanced split over a few cores
constexpr int64_t kStagedBytes = 64;         // in front of a worker's scratch: the block of input that is staged there, or -1
constexpr double kTaskFlops = 2e6;           // below this a task is not worth its dispatch,
constexpr int64_t kTaskWeights = 256 << 10;  // unless it reads so many bytes of weights

template <class P>
class DirectConv : public Kernel {
  typedef typename P::S S;
  typedef typename P::A A;
  static constexpr bool kBytes = std::is_same_v<S, uint8_t>;

 public:
  // `narrow`: inputs of a group, if `g` takes several groups as one (GroupedMath); otherwise 0.
  PTRT_COLD DirectConv(LaunchDesc d, BindContext& bind, const ConvGeometry& g, int64_t narrow = 0)
      : Kernel(std::move(d)),
        g_(g),
        narrow_(narrow),
        math_(conv_math(desc.ins[0].dtype)),
        out_(desc, g, math_, !std::is_same_v<A, double>),
        xs_(conv_strides(desc.ins[0])) {
    plan_panels();
    plan_input();
    plan_blocks(bind.threads);
    plan_sums();
    const Operand& w = desc.ins[1];
    const bool zero_const = !operand(4).present() || operand(4).is_const();
    if (kBytes && w.is_const()) bytes_ = bind.packs.get(w, pack_key(), weight_bytes(), [this](void* to) { pack(to); });
    else if (w.is_const() && zero_const) packed_ = bind.packs.lazily(w, pack_key(), weight_bytes(), [this](void* to) { pack(to); });
    if (packed_ && !packed_->packed()) panel_bytes_ = static_cast<size_t>(round_up(panel_size_ * static_cast<int64_t>(sizeof(S)), 64));
  }

  size_t shared_scratch_bytes() const override {
    return bias_bytes() + out_.quant_bytes() +
           (packed_ || bytes_ ? 0 : static_cast<size_t>(round_up(static_cast<int64_t>(weight_bytes()), 64)));
  }
  size_t thread_scratch_bytes() const override {
    return kStagedBytes + panel_bytes_ + window_bytes_ + stage_bytes_ + block_bytes_ + out_.scratch_bytes();
  }
  PTRT_COLD std::string describe() const override {
    return std::string(std::is_same_v<P, DotMath> ? "dot, " : "") +
           (narrow_ ? "groups of " + std::to_string(narrow_) + " side by side, " : "") + std::string(in_place_ ? "pointwise" : "direct") +
           " " + std::to_string(rows_) + "x" + std::to_string(cols_) + " pixels, " + std::to_string(nr_) + " channels" +
           out_.activation_name();
  }

  void run(const RunContext& ctx) override {
    A* bias = reinterpret_cast<A*>(ctx.shared_scratch);
    QuantColumns columns{};
    if (out_.requantises()) columns = out_.quant_columns(desc, ctx.shared_scratch + bias_bytes());
    const auto* weights = static_cast<const S*>(bytes_.get());  // stays null at a first use: panels are packed as they are needed
    if (packed_) {
      weights = static_cast<const S*>(packed_->use(desc.ins[1], ctx.threads(), [this](void* to) { pack(to); }));
    } else if (!bytes_) {
      S* to = reinterpret_cast<S*>(ctx.shared_scratch + bias_bytes() + out_.quant_bytes());
      weights = to;
      ctx.parallel(panels_, [&](int64_t p, int) { pack_panel(p, to + p * panel_size_, sums_of(to)); });
    }
    prepare_bias(bias, weights);
    for (int w = 0; w < ctx.threads(); w++) *reinterpret_cast<int64_t*>(ctx.thread_scratch(w)) = -1;
    const bool direct = out_.direct(desc);
    ctx.parallel(tasks_, [&](int64_t t, int worker) { task(t, ctx.thread_scratch(worker), weights, bias, columns, direct); });
    if (!weights) give_back(desc.ins[1]);
  }

 private:
  const Operand& operand(size_t k) const {
    static const Operand absent;
    return k < desc.ins.size() ? desc.ins[k] : absent;
  }

  PTRT_COLD void plan_panels() {
    nv_ = P::vectors(g_.Mg);
    nr_ = nv_ * P::lanes(g_.Mg);
    panels_per_group_ = ceil_div(g_.Mg, nr_);
    panels_ = panels_per_group_ * g_.G;
    group_pitch_ = round_up(g_.Cg, P::k_unit);
  }

  PTRT_COLD void plan_input() {
    const Operand& x = desc.ins[0];
    const bool plain = kBytes ? x.dtype == DType::u8 : x.dtype == DType::f32 || x.dtype == DType::f64;
    bool point = plain && g_.taps() == 1 && (g_.C == 1 || xs_.c == 1) && g_.Cg % P::k_unit == 0;
    for (int k = 0; k < 3; k++) point = point && g_.pad[k] == 0 && (g_.out[k] - 1) * g_.stride[k] < g_.in[k];
    in_place_ = point && (xs_.s[2] * g_.stride[2] * static_cast<int64_t>(sizeof(S)) % 4096 != 0 || g_.out[2] == 1 || g_.M <= nr_);
    if (in_place_) {
      pixel_ = xs_.s[2];
      lda_ = pixel_ * g_.stride[2];
      taps_ = {0};
      K_ = inputs();
      panel_size_ = K_ * nr_;
      return;
    }
    bool merged = g_.G == 1 && !narrow_ && g_.dilation[2] == 1;  // a window row is one run of contiguous elements
    if (kBytes && merged) group_pitch_ = g_.Cg;                  // units may straddle pixels
    pixel_ = g_.G * group_pitch_;
    if (pixel_ * g_.stride[2] * static_cast<int64_t>(sizeof(S)) % 4096 == 0) {
      pixel_ += 64 / static_cast<int64_t>(sizeof(S));
      merged = merged && g_.kernel[2] == 1;
      if (kBytes && !merged) {
        group_pitch_ = round_up(g_.Cg, P::k_unit);
        pixel_ = g_.G * group_pitch_ + 64;
      }
    }
    lda_ = pixel_ * g_.stride[2];
    merged_ = merged;
    K_ = narrow_ ? narrow_ : round_up(merged ? g_.kernel[2] * group_pitch_ : group_pitch_, P::k_unit);
    panel_size_ = g_.kernel[0] * g_.kernel[1] * (merged ? 1 : g_.kernel[2]) * K_ * nr_;
  }

  int64_t inputs() const { return narrow_ ? narrow_ : g_.Cg; }  // of every output

  // Extent of the input that n outputs along axis k need.
  int64_t extent(int k, int64_t n) const { return (n - 1) * g_.stride[k] + (g_.kernel[k] - 1) * g_.dilation[k] + 1; }
  int64_t row_elements(int64_t cols) const { return round_up(most(extent(2, cols), 0) * pixel_, 16) + 16; }
  int64_t stage_size(int64_t rows, int64_t cols) const {
    constexpr __int128 limit = int64_t{1} << 32;
    const __int128 row = static_cast<__int128>(most(extent(2, cols), 0)) * pixel_ + 32;
    const __int128 n = row > limit ? row : static_cast<__int128>(most(extent(1, rows), 0)) * g_.kernel[0] * row_elements(cols) * sizeof(S);
    if (n > limit) throw KernelError("conv: the window spans too much of the input");
    return static_cast<int64_t>(n);
  }

  PTRT_COLD void plan_blocks(int threads) {
    const double flops = 2.0 * g_.N * g_.pixels() * g_.M * g_.Cg * g_.taps();
    const int64_t by_work = flops >= kTasks * kTaskFlops ? kTasks : most(1, static_cast<int64_t>(flops / kTaskFlops));
    const int64_t by_weights = least(kTasks, panels_ * panel_size_ * static_cast<int64_t>(sizeof(S)) / kTaskWeights);
    const int64_t some = most(by_work, by_weights), want = some > 1 ? round_up(some, threads) : 1;  // as many for every thread
    const int64_t OH = g_.out[1], OW = g_.out[2];
    cols_ = OW;
    rows_ = OH;
    auto bytes = [&](int64_t rows, int64_t cols) {
      const int64_t results = rows * cols * nr_ * static_cast<int64_t>(sizeof(A));
      if (!in_place_) return most(stage_size(rows, cols), results);
      return most(rows * cols * g_.C * static_cast<int64_t>(sizeof(S)), results);
    };
    while (rows_ > 1 && bytes(rows_, cols_) > kConvStageBytes) rows_ = (rows_ + 1) / 2;
    while (cols_ > kConvStageCols && bytes(rows_, cols_) > kConvStageBytes) cols_ = (cols_ + 1) / 2;
    const int64_t outer = g_.N * g_.out[0];
    auto blocks = [&] { return outer * ceil_div(OH, rows_) * ceil_div(OW, cols_); };
    const bool heavy_weights = panels_ > 1 && g_.Cg * g_.Mg * g_.G * g_.taps() > g_.C * g_.in[0] * g_.in[1] * g_.in[2];
    if (!heavy_weights) {
      while (blocks() < want && rows_ > 1 && rows_ * cols_ >= 56) rows_ = (rows_ + 1) / 2;
      while (blocks() < want && cols_ >= 56) cols_ = (cols_ + 1) / 2;
    }
    panel_groups_ = blocks() >= want ? 1 : least(panels_, ceil_div(want, most(1, blocks())));
    rows_ = most(1, rows_);
    cols_ = most(1, cols_);
    panels_per_task_ = most(1, ceil_div(panels_, most(1, panel_groups_)));
    panel_groups_ = ceil_div(panels_, panels_per_task_);
    tasks_ = blocks() * panel_groups_;
    if (!in_place_) {
      // Rows of pixels that are windows of their own follow each other, so that a tile may span several.
      row_ = g_.taps() == 1 && g_.stride[2] == 1 && g_.stride[1] == 1 ? cols_ * pixel_ : row_elements(cols_);
      plane_ = row_ * most(extent(1, rows_), 0);
      for (int64_t kd = 0; kd < g_.kernel[0]; kd++)
        for (int64_t kh = 0; kh < g_.kernel[1]; kh++)
          for (int64_t kw = 0; kw < (merged_ ? least(1, g_.kernel[2]) : g_.kernel[2]); kw++)
            taps_.push_back(kd * plane_ + kh * g_.dilation[1] * row_ + kw * g_.dilation[2] * pixel_);
      stage_bytes_ = static_cast<size_t>(round_up(stage_size(rows_, cols_) + 64, 64));
    }
    // Results that need a block of scratch are produced a few panels at a time; a chunk never straddles groups' panels unevenly because
    // finish() takes channels of one contiguous range.
    const int64_t per_panel = rows_ * cols_ * nr_ * static_cast<int64_t>(sizeof(A));
    chunk_ = most(1, least(panels_per_task_, kBlockBytes / most(1, per_panel)));
    block_bytes_ = static_cast<size_t>(round_up(static_cast<int64_t>(out_.block_bytes(rows_ * cols_, chunk_ * nr_)), 64));
  }

  // Bytes whose weights have a zero point after all: a sum of products with w instead of w - zero point is too large by the zero point
  // times the sum of the window, of x - its zero point. One sum per output pixel (and group).
  PTRT_COLD void plan_sums() {
    shifted_ = kBytes && !conv_symmetric_weights(desc);
    uniform_ = !operand(4).present() || operand(4).size() == 1;
    if (!shifted_) return;
    const int64_t groups = least(g_.G, ceil_div(panels_per_task_, most(1, panels_per_group_)) + 1);
    window_bytes_ = static_cast<size_t>(round_up(rows_ * cols_ * groups * 4, 64));
  }

  // Behind the bias lie the weights' zero points of all columns, if there are any.
  size_t bias_bytes() const {
    return static_cast<size_t>(round_up(panels_ * nr_ * static_cast<int64_t>(sizeof(A)), 64)) * (shifted_ ? 2 : 1);
  }
  const A* zeros_of(const A* bias) const { return bias + bias_bytes() / 2 / sizeof(A); }
  size_t weight_bytes() const { return static_cast<size_t>(panels_ * panel_size_) * sizeof(S) + (kBytes ? sums_bytes() : 0) + 64; }
  // Bytes: behind the panels lies the sum of every output channel's weights.
  size_t sums_bytes() const { return static_cast<size_t>(panels_ * nr_) * 4; }
  int32_t* sums_of(S* weights) const { return reinterpret_cast<int32_t*>(weights + panels_ * panel_size_); }

  PTRT_COLD std::string pack_key() const {
    std::string key = conv_pack_key("conv", desc.ins[1], g_) + ":I" + std::to_string(inputs()) + ":NR" + std::to_string(nr_) + ":U" +
                      std::to_string(P::k_unit) + ":S" + std::to_string(sizeof(S));
    if (const Operand& z = operand(4); !kBytes && z.present()) {  // subtracted from the weights
      key += ":Z";
      for (int64_t m = 0; m < z.size(); m++) key += std::to_string(conv_load_i32(z, z.ndim ? m * z.strides[0] : 0)) + ",";
    }
    return key;
  }

  void pack(void* to) const {
    auto* first = static_cast<S*>(to);
    for (int64_t p = 0; p < panels_; p++) pack_panel(p, first + p * panel_size_, sums_of(first));
  }

  // [run of contiguous input elements][element / U][NR][U], U = k_unit; `sums` of all panels, for bytes only
  void pack_panel(int64_t p, S* to, int32_t* sums) const {
    const Operand& w = desc.ins[1];
    const Operand& z = operand(4);
    const ConvStrides ws = conv_strides(w);
    constexpr int64_t U = P::k_unit;
    const int64_t group = p / panels_per_group_, first = p % panels_per_group_ * nr_;
    if constexpr (std::is_same_v<P, FloatMath<float>>)
      return conv_pack_panel(w, g_, group * g_.Mg + first, least(nr_, g_.Mg - first), nr_, to);
    if (K_ != group_pitch_ || group_pitch_ != g_.Cg || first + nr_ > g_.Mg) std::fill(to, to + panel_size_, S(0));
    for (int64_t j = 0; j < nr_; j++) {
      int32_t sum = 0;
      if (first + j < g_.Mg) {
        const int64_t m = group * g_.Mg + first + j;
        const int32_t wz = !kBytes && z.present() ? conv_load_i32(z, z.ndim ? m * z.strides[0] : 0) : 0;
        int64_t run = 0;
        for (int64_t kd = 0; kd < g_.kernel[0]; kd++)
          for (int64_t kh = 0; kh < g_.kernel[1]; kh++)
            for (int64_t kw = 0; kw < g_.kernel[2]; kw++) {
              const int64_t from = m * ws.n + kd * ws.s[0] + kh * ws.s[1] + kw * ws.s[2], at = run * K_ + (merged_ ? kw * group_pitch_ : 0);
              if constexpr (kBytes) {
                const uint8_t* bytes = w.as<const uint8_t>() + from;
                const uint8_t flip = w.dtype == DType::u8 ? 0x80 : 0;  // minus 128
                for (int64_t c = 0; c < inputs(); c++) {
                  const auto weight = static_cast<uint8_t>(bytes[c * ws.c] ^ flip);
                  to[((at + c) / U * nr_ + j) * U + (at + c) % U] = weight;
                  sum += static_cast<int8_t>(weight);
                }
              } else {
                for (int64_t c = 0; c < inputs(); c++)
                  to[((at + c) / U * nr_ + j) * U + (at + c) % U] = P::load_weight(w, from + c * ws.c, wz);
              }
              if (!merged_ || kw + 1 == g_.kernel[2]) run++;
            }
      }
      if (kBytes) sums[p * nr_ + j] = sum;
    }
  }

  // Bytes: a sum of products with x instead of x - zero point is too large by the zero point times the sum of the weights.
  int32_t stored_zero() const {
    return (operand(3).present() ? conv_load_i32(operand(3), 0) : 0) + (kBytes && desc.ins[0].dtype == DType::i8 ? 128 : 0);
  }

  // The zero point of output channel m's weights as they are stored.
  int32_t weight_zero(int64_t m) const {
    const Operand& z = operand(4);
    return (z.present() ? conv_load_i32(z, z.ndim && z.size() > 1 ? m * z.strides[0] : 0) : 0) - (desc.ins[1].dtype == DType::u8 ? 128 : 0);
  }

  // The sums of the windows of a block, by [group][row][column].
  void sum_windows(const S* a, int64_t row_step, int64_t groups, const ConvOutBox& box, int32_t* sums) const {
    if constexpr (kBytes) {
      const int64_t run = merged_ ? g_.kernel[2] * g_.Cg : g_.Cg, group_step = in_place_ ? g_.Cg : group_pitch_;
      const auto all = static_cast<uint32_t>(stored_zero() * g_.Cg * g_.taps()),
                 factor = static_cast<uint32_t>(uniform_ ? weight_zero(0) : 1);
      for (int64_t k = 0; k < groups; k++)
        for (int64_t h = 0; h < box.rows; h++)
          for (int64_t w = 0; w < box.cols; w++)
            *sums++ = static_cast<int32_t>((sum_bytes(a + k * group_step + h * row_step + w * lda_, taps_, run) - all) * factor);
    }
  }

  void prepare_bias(A* bias, const S* weights) const {
    const Operand& b = operand(2);
    const int32_t zero = kBytes ? stored_zero() : 0;
    auto* zeros = const_cast<A*>(zeros_of(bias));
    for (int64_t p = 0; p < panels_; p++) {
      const int64_t group = p / panels_per_group_, first = p % panels_per_group_ * nr_;
      for (int64_t j = 0; j < nr_; j++) {
        const int64_t m = group * g_.Mg + first + j;
        A& slot = bias[p * nr_ + j];
        if (first + j >= g_.Mg) slot = A(0);
        else if (math_ == ConvMath::i8) slot = b.present() ? static_cast<A>(conv_load_i32(b, m * b.strides[0])) : A(0);
        else slot = static_cast<A>(out_.bias_value(desc, b, m));
        if constexpr (kBytes) slot -= zero * sums_of(const_cast<S*>(weights))[p * nr_ + j];
        if (shifted_) zeros[p * nr_ + j] = first + j < g_.Mg ? static_cast<A>(weight_zero(m)) : A(0);
      }
    }
  }

  void task(int64_t t, char* scratch, const S* weights, const A* bias, const QuantColumns& columns, bool direct) const {
    auto* staged = reinterpret_cast<int64_t*>(scratch);
    S* panel = reinterpret_cast<S*>(scratch + kStagedBytes);
    auto* sums = reinterpret_cast<int32_t*>(scratch + kStagedBytes + panel_bytes_);
    scratch += kStagedBytes + panel_bytes_ + window_bytes_;
    const int64_t p0 = t % panel_groups_ * panels_per_task_, p1 = least(panels_, p0 + panels_per_task_);
    const int64_t block = t / panel_groups_;
    ConvOutBox box = conv_block(g_, block, rows_, cols_);
    const int64_t first_group = p0 / panels_per_group_, last_group = (p1 - 1) / panels_per_group_;

    const char* x = desc.ins[0].template as<char>() + box.n * xs_.n * static_cast<int64_t>(itemsize(desc.ins[0].dtype));
    const S* a;
    int64_t row_step;
    if (in_place_) {
      a = reinterpret_cast<const S*>(x) + box.od * g_.stride[0] * xs_.s[0] + box.oh * g_.stride[1] * xs_.s[1] + box.ow * lda_ +
          first_group * g_.Cg;
      row_step = g_.stride[1] * xs_.s[1];
    } else {
      ConvBox in;
      const int64_t o[3] = {box.od, box.oh, box.ow};
      for (int k = 0; k < 3; k++) in.begin[k] = o[k] * g_.stride[k] - g_.pad[k];
      in.size[0] = g_.kernel[0];
      in.size[1] = most(0, extent(1, box.rows));
      in.size[2] = most(0, extent(2, box.cols));
      in.depth_step = g_.dilation[0];
      in.c0 = first_group * g_.Cg;
      in.cn = (last_group - first_group + 1) * g_.Cg;
      in.group = g_.Cg;
      in.group_pitch = group_pitch_;
      in.plane = plane_;
      in.row = row_;
      in.pixel = pixel_;
      if (*staged != block) {
        if constexpr (kBytes)
          conv_stage_bytes(desc.ins[0], x, xs_, g_.in, in, static_cast<uint8_t>(stored_zero()), reinterpret_cast<uint8_t*>(scratch));
        else conv_stage(math_, desc.ins[0], x, xs_, g_.in, in, stored_zero(), scratch);
      }
      a = reinterpret_cast<const S*>(scratch);
      row_step = row_ * g_.stride[1];
    }
    if (shifted_ && *staged != block) sum_windows(a, row_step, last_group - first_group + 1, box, sums);
    if (g_.G == 1) *staged = block;
    // Panels [p, q) of a chunk belong to one group, or every group has whole panels: their channels are then one contiguous range.
    for (int64_t p = p0; p < p1;) {
      const int64_t group_end = (p / panels_per_group_ + 1) * panels_per_group_;
      const int64_t q = direct ? p1 : least(least(p1, p + chunk_), g_.Mg % nr_ ? group_end : p1);
      box.m = channel(p);
      box.chans = channel_end(q - 1) - box.m;
      const ConvResult r = direct ? out_.at(desc, box) : ConvResult{scratch + stage_bytes_, box.cols * box.chans, box.chans};
      panels(p, q, a, first_group, row_step, weights, panel, bias, shifted_ ? sums : nullptr, columns, box, r);
      if (!direct || out_.must_finish()) out_.finish(desc, box, r, scratch + stage_bytes_ + block_bytes_);
      p = q;
    }
  }

  int64_t channel(int64_t p) const { return p / panels_per_group_ * g_.Mg + p % panels_per_group_ * nr_; }
  int64_t channel_end(int64_t p) const { return p / panels_per_group_ * g_.Mg + least(g_.Mg, (p % panels_per_group_ + 1) * nr_); }

  // Panels [p0, p1) of the block; without packed weights each is packed into `panel` first. Large weights: panels outer, the pixels' input
  // stays in L2 and the next panel is prefetched. Weights that fit L2 beside the input: pixels outer, so that input and output are streamed
  // once; the next pixels are prefetched.
  void panels(int64_t p0, int64_t p1, const S* a, int64_t first_group, int64_t row_step, const S* weights, S* panel, const A* bias,
              const int32_t* sums, const QuantColumns& columns, const ConvOutBox& box, const ConvResult& r) const {
    const ConvResult res = out_.residual(desc, box), late = out_.residual_of_activation(desc, box);
    typename P::Tile tile(TileShape{taps_.data(), &out_.linear(), lda_, nr_, out_.activates() || out_.requantises() ? nr_ : r.pixel,
                                    res.pixel, K_, static_cast<int64_t>(taps_.size()), nv_});
    int64_t runs = box.rows, length = box.cols;
    if ((in_place_ || g_.taps() == 1) && row_step == box.cols * lda_ && r.row == box.cols * r.pixel && res.row == box.cols * res.pixel &&
        late.row == box.cols * late.pixel) {
      runs = 1;
      length *= box.rows;
    }
    const RowSplit split(length, P::max_rows(nv_));
    const auto item = static_cast<int64_t>(sizeof(S));
    const int64_t group_step = in_place_ ? g_.Cg : group_pitch_;
    // elements that one call prefetches: a line per step
    const int64_t tile_prefetch = K_ / (kBytes ? P::k_unit : 1) * static_cast<int64_t>(taps_.size()) * 64 / item;
    // The next pixels are the next bytes, and more of them than of weights.
    const bool dense = in_place_ && lda_ == g_.C && box.rows * box.cols * g_.C >= panels_ * panel_size_;
    const auto one = [&](int64_t p, int64_t h, int64_t i, const S* next) __attribute__((noinline)) {
      const int64_t w = split.start(i), m = channel(p);
      TileCall<S, A> t;
      t.a = a + (p / panels_per_group_ - first_group) * group_step + h * row_step + w * lda_;
      t.b = weights ? weights + p * panel_size_ : panel;
      t.bias = bias + p * nr_;
      t.next = next;
      t.sums = sums ? sums + ((p / panels_per_group_ - first_group) * box.rows + h) * box.cols + w : nullptr;
      if constexpr (kBytes) t.zeros = uniform_ ? nullptr : zeros_of(bias) + p * nr_;
      t.rows = static_cast<int>(split.rows(i));
      t.n = static_cast<int>(channel_end(p) - m);
      if constexpr (std::is_same_v<A, int32_t>)
        if (out_.requantises()) {  // by way of a block in L1
          alignas(64) A block[kMaxRows[1] * 4 * W];
          t.c = block;
          const int n = t.n;
          t.n = static_cast<int>(nr_);
          tile(t);
          out_.requantise(desc, columns, m, block, nr_, r, (m - box.m) + h * r.row + w * r.pixel, t.rows, n, res,
                          (m - box.m) + h * res.row + w * res.pixel);
          return;
        }
      t.c = reinterpret_cast<A*>(r.data) + (m - box.m) + h * r.row + w * r.pixel;
      t.residual = res.data ? reinterpret_cast<const A*>(res.data) + (m - box.m) + h * res.row + w * res.pixel : nullptr;
      if constexpr (std::is_same_v<A, float>)
        if (out_.activates()) {  // by way of a block in L1: the output is written once, and its misses complete under both loops
          alignas(64) A block[kMaxRows[1] * 4 * W];
          A* to = t.c;
          t.c = block;
          for (int64_t k = 0; k < t.rows; k++)
            for (int64_t j = 0; j < t.n; j += 16) __builtin_prefetch(to + k * r.pixel + j, 1, 3);
          tile(t);
          const auto* from = reinterpret_cast<const A*>(late.data);
          out_.activate(desc, m, block, nr_, to, r.pixel, t.rows, t.n, from ? from + (m - box.m) + h * late.row + w * late.pixel : nullptr,
                        late.pixel);
          return;
        }
      tile(t);
    };
    if (weights && panel_groups_ == 1 && panels_ * panel_size_ * item <= kResidentWeights) {
      for (int64_t h = 0; h < runs; h++)
        for (int64_t i = 0; i < split.blocks; i++)
          for (int64_t p = p0; p < p1; p++) one(p, h, i, dense && p == p0 ? a + h * row_step + split.start(i + 1) * lda_ : nullptr);
      return;
    }
    for (int64_t p = p0; p < p1; p++) {
      if (!weights) pack_panel(p, panel, nullptr);
      const S* next = weights && p + 1 < panels_ ? weights + (p + 1) * panel_size_ : nullptr;
      int64_t prefetched = 0;
      for (int64_t h = 0; h < runs; h++)
        for (int64_t i = 0; i < split.blocks; i++) {
          if (dense && p == p0) one(p, h, i, a + h * row_step + split.start(i + 1) * lda_);
          else one(p, h, i, next && prefetched < panel_size_ ? next + prefetched : nullptr);
          prefetched += tile_prefetch;
        }
    }
  }

  ConvGeometry g_;
  int64_t narrow_;
  ConvMath math_;
  ConvOutput out_;
  ConvStrides xs_;
  int nv_ = 1;
  int64_t nr_ = 0, panels_per_group_ = 0, panels_ = 0, group_pitch_ = 0, panel_size_ = 0;
  bool in_place_ = false, merged_ = false;
  int64_t pixel_ = 0, row_ = 0, plane_ = 0, lda_ = 0, K_ = 0;
  std::vector<int64_t> taps_;
  int64_t rows_ = 1, cols_ = 1, panels_per_task_ = 1, panel_groups_ = 1, tasks_ = 0, chunk_ = 1;
  size_t panel_bytes_ = 0, window_bytes_ = 0, stage_bytes_ = 0, block_bytes_ = 0;
  bool shifted_ = false, uniform_ = true;  // have the weights zero points, and all one
  std::shared_ptr<LazyPack> packed_;
  std::shared_ptr<const void> bytes_;  // packed weights where bytes are multiplied
};

}  // namespace

std::unique_ptr<Kernel> make_direct_conv(LaunchDesc desc, BindContext& bind, const ConvGeometry& g) {
  switch (conv_math(desc.ins[0].dtype)) {
    case ConvMath::f64: return std::make_unique<DirectConv<FloatMath<double>>>(std::move(desc), bind, g);
    case ConvMath::i8:
#if defined(__AVX512VNNI__)
      return std::make_unique<DirectConv<ByteMath>>(std::move(desc), bind, g);
#else
      return std::make_unique<DirectConv<IntMath>>(std::move(desc), bind, g);
#endif
    default: break;
  }
#if defined(__AVX2__)
  const bool narrow = g.G > 1 && g.Cg == g.Mg && g.Cg < W && W % g.Cg == 0 && g.M % W == 0 && g.Cg * g.taps() <= kChain;
  if (narrow) {
    ConvGeometry wide = g;
    wide.G = g.M / W;
    wide.Cg = wide.Mg = W;
    return std::make_unique<DirectConv<GroupedMath>>(std::move(desc), bind, wide, g.Cg);
  }
#endif
  if (dots_pay(g, g.taps())) return std::make_unique<DirectConv<DotMath>>(std::move(desc), bind, g);
  return std::make_unique<DirectConv<FloatMath<float>>>(std::move(desc), bind, g);
}

}  // namespace ptrt::PTRT_LEVEL
