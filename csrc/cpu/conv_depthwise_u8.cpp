// Depthwise convolution of bytes on machines that multiply and add four bytes at a time (VNNI). Four rows of the window are
// one step: the input rows under it are interleaved, byte by byte, into a line of 32-bit units (unit = a channel's four rows), which the
// window's columns then walk along. A line under a window of up to three rows is under that of the next output row, too, with weights that
// are one row later. Borders are the input's zero point; that it is not subtracted from the input is made up for in the bias.
//
// Weights less their zero points have nine bits. Where they do not fit in a byte they are sums of two or three, in as many layers of
// products.
//
// Interleaving and packing work within 128-bit lanes, so in between vector j of a lot holds channels 16 * lane + 4 * j + 0..3.
#include "cpu/conv.h"

#if defined(__AVX512VNNI__)

#include <algorithm>
#include <type_traits>

#include "cpu/gemm_int8_tile.h"
#include "cpu/move.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kLineBytes = 16 << 10;     // of a line: it stays in L1
constexpr int64_t kStagedBytes = 256 << 10;  // of a task's input where its channels are not side by side,
constexpr int64_t kStagedMost = 4 << 20;     // or of a single row's
constexpr int64_t kLot = 64;                 // the most channels that are side by side
constexpr double kTaskTaps = 2e5;            // below this many products a task is not worth its dispatch
constexpr int64_t kTasks = 4;                // per thread
constexpr int kQuad = 4;                     // window rows per step
constexpr int kPixels = 4;                   // outputs at a time

// Vectors of 16 * LANES channels as bytes, of 4 * LANES as 32-bit units.
template <int LANES>
struct Lot;

#define PTRT_LOT(LANES, T, P, SUFFIX)                                                                        \
  template <>                                                                                                \
  struct Lot<LANES> {                                                                                        \
    typedef T V;                                                                                             \
    typedef P F;                                                                                             \
    static constexpr int kChannels = 16 * LANES;                                                             \
    PTRT_INLINE static V load(const void* p) { return SUFFIX##_loadu_epi8(p); }                              \
    PTRT_INLINE static V load_n(const void* p, uint64_t mask) { return SUFFIX##_maskz_loadu_epi8(mask, p); } \
    PTRT_INLINE static void store(void* p, V x) { SUFFIX##_storeu_epi8(p, x); }                              \
    PTRT_INLINE static void store_n(void* p, uint64_t mask, V x) { SUFFIX##_mask_storeu_epi8(p, mask, x); }  \
    PTRT_INLINE static V splat8(int x) { return SUFFIX##_set1_epi8(static_cast<char>(x)); }                  \
    PTRT_INLINE static V splat16(int x) { return SUFFIX##_set1_epi16(static_cast<int16_t>(x)); }             \
    PTRT_INLINE static F splat_f(float x) { return SUFFIX##_set1_ps(x); }                                    \
    PTRT_INLINE static F load_f(const float* p) { return SUFFIX##_loadu_ps(p); }                             \
    PTRT_INLINE static V low8(V a, V b) { return SUFFIX##_unpacklo_epi8(a, b); }                             \
    PTRT_INLINE static V high8(V a, V b) { return SUFFIX##_unpackhi_epi8(a, b); }                            \
    PTRT_INLINE static V low16(V a, V b) { return SUFFIX##_unpacklo_epi16(a, b); }                           \
    PTRT_INLINE static V high16(V a, V b) { return SUFFIX##_unpackhi_epi16(a, b); }                          \
    PTRT_INLINE static V dot(V acc, V a, V b) { return SUFFIX##_dpbusd_epi32(acc, a, b); }                   \
    /* (NaN passes the minimum, and converting gives it the least integer) */                                \
    PTRT_INLINE static V rounded(V sum, F scale, F hi) {                                                     \
      return SUFFIX##_cvtps_epi32(SUFFIX##_min_ps(hi, SUFFIX##_mul_ps(SUFFIX##_cvtepi32_ps(sum), scale)));   \
    }                                                                                                        \
    /* Packs saturate: to 16 bits, and with the zero point added to 8. */                                    \
    PTRT_INLINE static V bytes(V a, V b, V c, V d, V zero, bool sign) {                                      \
      const V low = SUFFIX##_adds_epi16(SUFFIX##_packs_epi32(a, b), zero);                                   \
      const V high = SUFFIX##_adds_epi16(SUFFIX##_packs_epi32(c, d), zero);                                  \
      return sign ? SUFFIX##_packs_epi16(low, high) : SUFFIX##_packus_epi16(low, high);                      \
    }                                                                                                        \
  };
PTRT_LOT(4, __m512i, __m512, _mm512)
PTRT_LOT(2, __m256i, __m256, _mm256)
PTRT_LOT(1, __m128i, __m128, _mm)
#undef PTRT_LOT

// Where channel c of a lot of `lanes` lanes lies among its units.
int unit_of(int64_t c, int lanes) { return static_cast<int>(c % 16 / 4 * 4 * lanes + c / 16 * 4 + c % 4); }

// Input rows under n output rows.
int64_t rows_under(const ConvGeometry& g, int64_t n) { return (n - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1; }
bool side_by_side(const ConvGeometry& g, const ConvStrides& xs) { return g.C == 1 || xs.c == 1; }

class ByteDepthwise final : public Kernel {
 public:
  PTRT_COLD ByteDepthwise(LaunchDesc d, BindContext& bind, const ConvGeometry& g)
      : Kernel(std::move(d)), g_(g), out_(desc, g, ConvMath::i8, true), xs_(conv_strides(desc.ins[0])) {
    quads_ = ceil_div(g.kernel[1], kQuad);
    pairs_ = g.kernel[1] < kQuad && g.stride[1] == 1 && g.dilation[1] == 1;
    for (int64_t c = 0; c < g.C;) {  // lots of 64, then of 32 or 16 channels
      const int64_t rest = g.C - c;
      lots_.push_back({c, least(rest, rest > 32 ? 64 : rest > 16 ? 32 : 16), rest > 32 ? 4 : rest > 16 ? 2 : 1, units_});
      c += 16 * lots_.back().lanes;
      units_ += 16 * lots_.back().lanes;
    }
    const int64_t window = (g.kernel[2] - 1) * g.dilation[2] + 1;
    strip_ = least(g.out[2], most(kPixels, (kLineBytes / 256 / quads_ - window) / g.stride[2] + 1));
    line_ = (strip_ - 1) * g.stride[2] + window;
    const auto lots = static_cast<int64_t>(lots_.size());
    const double taps = static_cast<double>(g.N) * static_cast<double>(g.pixels() * g.M * g.taps());
    const int64_t want = bind.threads == 1 ? 1 : least(kTasks * bind.threads, most(1, static_cast<int64_t>(taps / kTaskTaps)));
    rows_ = g.out[1];
    while (rows_ > 1 && (g.N * lots * ceil_div(g.out[1], rows_) < want || staged_bytes(rows_) > size_t{kStagedBytes}))
      rows_ = (rows_ + 1) / 2;
    row_blocks_ = ceil_div(g.out[1], most(1, rows_));
    std::string key = conv_pack_key("conv_depthwise_u8", desc.ins[1], g_) + ":Z";
    for (int64_t c = 0; c < g.C; c++) {
      if (c == 0 || weight_zero(c) != weight_zero(c - 1)) key += std::to_string(c) + "=" + std::to_string(weight_zero(c)) + ",";
      each_weight(c, [&](int64_t, int64_t, int32_t v) { layers_ = most(layers_, v < -128 ? 2 : (v + 126) / 127); });
    }
    packed_ = bind.packs.get(desc.ins[1], key, packed_bytes(), [this](void* to) { pack(static_cast<int8_t*>(to)); });
    const QuantEpilogue& e = out_.quant();
    const auto least_byte = static_cast<float>((e.out == DType::i8 ? -128 : 0) - e.zero2);
    last_ = e.out != DType::f32 && e.lo2 == least_byte && !e.between && !e.divide && !e.clamp && e.shift < 0 && e.residual < 0 &&
            e.table.empty() && e.last.empty();
  }

  size_t shared_scratch_bytes() const override { return out_.quant_bytes() + static_cast<size_t>(units_) * 8; }
  size_t thread_scratch_bytes() const override { return line_bytes() + staged_bytes(rows_) + result_bytes(); }
  PTRT_COLD std::string describe() const override {
    return "depthwise, bytes" + (layers_ > 1 ? " in " + std::to_string(layers_) + " layers" : std::string()) + ", strips of " +
           std::to_string(strip_) + out_.activation_name();
  }

  void run(const RunContext& ctx) override {
    const QuantColumns columns = out_.quant_columns(desc, ctx.shared_scratch);
    auto* scales = reinterpret_cast<float*>(ctx.shared_scratch + out_.quant_bytes());
    auto* biases = reinterpret_cast<int32_t*>(scales + units_);
    const auto* sums = reinterpret_cast<const int32_t*>(static_cast<const int8_t*>(packed_.get()) + sums_offset());
    const uint32_t zero = stored_zero();
    for (const Part& l : lots_)
      for (int64_t c = 0; c < 16 * l.lanes; c++) {
        const int64_t at = l.units + unit_of(c, l.lanes);
        const uint32_t own = 0u - zero * static_cast<uint32_t>(sums[at]);
        biases[at] = static_cast<int32_t>(own + (last_ && c < l.n ? static_cast<uint32_t>(columns.bias[l.first + c]) : 0u));
        scales[at] = c < l.n ? columns.scale[l.first + c] : 0.0f;
      }
    const auto lots = static_cast<int64_t>(lots_.size());
    ctx.parallel(g_.N * row_blocks_ * lots, [&](int64_t t, int worker) {
      const Part& l = lots_[static_cast<size_t>(t % lots)];
      const int64_t n = t / lots / row_blocks_, h0 = t / lots % row_blocks_ * rows_;
      char* line = ctx.thread_scratch(worker);
      switch (l.lanes) {
        case 4: return rows<4>(l, n, h0, line, scales + l.units, biases + l.units, columns);
        case 2: return rows<2>(l, n, h0, line, scales + l.units, biases + l.units, columns);
        default: return rows<1>(l, n, h0, line, scales + l.units, biases + l.units, columns);
      }
    });
  }

 private:
  struct Part {  // channels [first, first + n)
    int64_t first, n;
    int lanes;
    int64_t units;  // before this lot, in all
  };

  uint32_t stored_zero() const {
    const int32_t z = desc.ins.size() > 3 && desc.ins[3].present() ? conv_load_i32(desc.ins[3], 0) : 0;
    return static_cast<uint32_t>(z + (desc.ins[0].dtype == DType::i8 ? 128 : 0));
  }
  int32_t weight_zero(int64_t c) const {
    if (desc.ins.size() < 5 || !desc.ins[4].present()) return 0;
    return conv_load_i32(desc.ins[4], desc.ins[4].ndim ? c * desc.ins[4].strides[0] : 0);
  }
  // f(row, column, weight less its zero point) for the window of channel c.
  template <class F>
  void each_weight(int64_t c, F&& f) const {
    const Operand& w = desc.ins[1];
    const ConvStrides ws = conv_strides(w);
    const int32_t zero = weight_zero(c);
    for (int64_t kh = 0; kh < g_.kernel[1]; kh++)
      for (int64_t kw = 0; kw < g_.kernel[2]; kw++) f(kh, kw, conv_load_i32(w, c * ws.n + kh * ws.s[1] + kw * ws.s[2]) - zero);
  }

  // [lot][layer][quad][column][unit][row in quad], the same one row later if there are pairs, then the sums of every channel's weights by
  // unit.
  int64_t set_bytes() const { return units_ * layers_ * quads_ * g_.kernel[2] * kQuad; }
  size_t sums_offset() const { return static_cast<size_t>(set_bytes() * (pairs_ ? 2 : 1)); }
  size_t packed_bytes() const { return sums_offset() + static_cast<size_t>(units_) * 4; }
  PTRT_COLD void pack(int8_t* to) const {
    std::fill(to, to + packed_bytes(), int8_t{0});
    auto* sums = reinterpret_cast<int32_t*>(to + sums_offset());
    for (const Part& l : lots_)
      for (int64_t c = 0; c < l.n; c++) {
        const int64_t unit = unit_of(c, l.lanes);
        each_weight(l.first + c, [&](int64_t kh, int64_t kw, int32_t v) {
          sums[l.units + unit] += v;
          for (int64_t layer = 0; layer < layers_; layer++) {
            const int32_t part = std::min(127, std::max(-128, v));
            const int64_t step = ((layer * quads_ + kh / kQuad) * g_.kernel[2] + kw) * 16 * l.lanes;
            int8_t* at = to + (l.units * layers_ * quads_ * g_.kernel[2] + step + unit) * kQuad + kh % kQuad;
            at[0] = static_cast<int8_t>(part);
            if (pairs_) at[set_bytes() + 1] = at[0];
            v -= part;
          }
        });
      }
  }

  // Channels of a lot, one beside the other: pixel (h, w) at data[(h - first_row) * row + w * pixel], of rows [first_row, end_row).
  struct Input {
    const uint8_t* data;
    int64_t first_row, end_row, row, pixel;
  };

  // Input and results that do not have their channels side by side are turned on the way, a lot and some rows at a time.
  size_t line_bytes() const { return static_cast<size_t>(quads_ * line_ * 256); }
  size_t staged_bytes(int64_t rows) const {
    return side_by_side(g_, xs_) ? 0 : static_cast<size_t>(least(rows_under(g_, rows), g_.in[1]) * g_.in[2] * kLot);
  }
  size_t result_bytes() const {
    return out_.direct(desc) ? 0 : static_cast<size_t>(rows_ * g_.out[2] * kLot) * itemsize(desc.outs[0].dtype);
  }

  // What `count` output rows from h0 on read.
  Input input(const Part& l, int64_t n, int64_t h0, int64_t count, char* stage) const {
    const auto* x = desc.ins[0].as<uint8_t>() + n * xs_.n + l.first * xs_.c;
    if (side_by_side(g_, xs_)) return {x, 0, g_.in[1], xs_.s[1], xs_.s[2]};
    const int64_t top = h0 * g_.stride[1] - g_.pad[1], first = least(g_.in[1], most(0, top)),
                  end = most(first, least(g_.in[1], top + rows_under(g_, count))), row = g_.in[2] * kLot;
    const bool whole = xs_.s[1] == g_.in[2] * xs_.s[2];
    const int64_t moves = whole ? least(1, end - first) : end - first, pixels = whole ? (end - first) * g_.in[2] : g_.in[2];
    for (int64_t h = 0; h < moves; h++)
      PTRT_PLAIN::move2d(1, pixels, l.n, reinterpret_cast<const char*>(x + (first + h) * xs_.s[1]), xs_.s[2], xs_.c, stage + h * row, kLot,
                         1);
    return {reinterpret_cast<const uint8_t*>(stage), first, end, row, kLot};
  }

  template <int LANES>
  void rows(const Part& l, int64_t n, int64_t h0, char* line, const float* scales, const int32_t* biases,
            const QuantColumns& columns) const {
    const auto* first = static_cast<const int8_t*>(packed_.get()) + l.units * layers_ * quads_ * g_.kernel[2] * kQuad;
    ConvOutBox box{n, 0, h0, 0, l.first, least(rows_, g_.out[1] - h0), g_.out[2], l.n};
    char* stage = line + line_bytes();
    const Input in = input(l, n, h0, box.rows, stage);
    const bool direct = out_.direct(desc);
    const ConvResult r = direct ? out_.at(desc, box) : ConvResult{stage + staged_bytes(rows_), box.cols * l.n, l.n};
    const ConvResult res = out_.residual(desc, box);
    for (int64_t w0 = 0; w0 < g_.out[2]; w0 += strip_) {
      const int64_t cols = least(strip_, g_.out[2] - w0);
      for (int64_t h = 0; h < box.rows; h++) {
        const bool later = pairs_ && h % 2;
        for (int64_t q = 0; q < quads_ && !later; q++) interleave<LANES>(l, in, h0 + h, w0, cols, q, line + q * line_ * (64 * LANES));
        const int8_t* weights = first + (later ? set_bytes() : 0);
        int64_t w = 0;
        for (; w + kPixels <= cols; w += kPixels) pixels<LANES, kPixels>(l, line, w, weights, scales, biases, columns, r, res, h, w0 + w);
        for (; w < cols; w++) pixels<LANES, 1>(l, line, w, weights, scales, biases, columns, r, res, h, w0 + w);
      }
    }
    if (!direct) out_.finish(desc, box, r, nullptr);
  }

  // The line under `cols` outputs from column w0 of row h on, for rows 4 q .. 4 q + 3 of the window.
  template <int LANES>
  PTRT_NOINLINE void interleave(const Part& l, const Input& in, int64_t h, int64_t w0, int64_t cols, int64_t q, char* line) const {
    typedef Lot<LANES> X;
    const Operand& x = desc.ins[0];
    const auto zero = X::splat8(static_cast<int>(stored_zero())), flip = X::splat8(x.dtype == DType::i8 ? 128 : 0);
    const bool whole = l.n == X::kChannels;
    const uint64_t mask = whole ? ~uint64_t{0} : (uint64_t{1} << l.n) - 1;
    // Rows that do not exist, or that only an output row of the next task is under, are one vector of zero points, again and again.
    alignas(64) uint8_t none[64];
    X::store(none, X::splat8(static_cast<int>(stored_zero()) ^ (x.dtype == DType::i8 ? 128 : 0)));
    const int64_t iw0 = w0 * g_.stride[2] - g_.pad[2], count = (cols - 1) * g_.stride[2] + (g_.kernel[2] - 1) * g_.dilation[2] + 1;
    const int64_t first = least(count, most(0, -iw0)), end = most(first, least(count, g_.in[2] - iw0));  // columns that exist
    const uint8_t* from[kQuad];
    int64_t step[kQuad];
    for (int i = 0; i < kQuad; i++) {
      const int64_t kh = q * kQuad + i, ih = h * g_.stride[1] - g_.pad[1] + kh * g_.dilation[1];
      const bool inside = (pairs_ || kh < g_.kernel[1]) && ih >= in.first_row && ih < in.end_row && first < end;
      from[i] = inside ? in.data + (ih - in.first_row) * in.row + (iw0 + first) * in.pixel : none;
      step[i] = inside ? in.pixel : 0;
    }
    for (int64_t k = 0; k < first; k++, line += 64 * LANES) PTRT_UNROLL for (int j = 0; j < 4; j++) X::store(line + 16 * LANES * j, zero);
    const auto columns = [&](auto masked) __attribute__((always_inline)) {
      for (int64_t k = first; k < end; k++, line += 64 * LANES) {
        typename X::V a[kQuad];
        PTRT_UNROLL for (int i = 0; i < kQuad; i++) {
          a[i] = (typename X::V)((decltype(masked)::value ? X::load_n(from[i], mask) : X::load(from[i])) ^ flip);
          from[i] += step[i];
        }
        const auto low01 = X::low8(a[0], a[1]), high01 = X::high8(a[0], a[1]), low23 = X::low8(a[2], a[3]), high23 = X::high8(a[2], a[3]);
        X::store(line, X::low16(low01, low23));
        X::store(line + 16 * LANES, X::high16(low01, low23));
        X::store(line + 32 * LANES, X::low16(high01, high23));
        X::store(line + 48 * LANES, X::high16(high01, high23));
      }
    };
    if (whole) columns(std::false_type());
    else columns(std::true_type());
    for (int64_t k = end; k < count; k++, line += 64 * LANES) PTRT_UNROLL for (int j = 0; j < 4; j++) X::store(line + 16 * LANES * j, zero);
  }

  template <int LANES, int NP>
  PTRT_INLINE void pixels(const Part& l, const char* line, int64_t w, const int8_t* weights, const float* scales, const int32_t* biases,
                          const QuantColumns& columns, const ConvResult& r, const ConvResult& res, int64_t h, int64_t ow) const {
    typedef Lot<LANES> X;
    constexpr int kVectors = 4, kBytes = 16 * LANES;  // of a lot; of a vector
    typename X::V acc[NP][kVectors];
    PTRT_UNROLL for (int i = 0; i < NP; i++) PTRT_UNROLL for (int j = 0; j < kVectors; j++) acc[i][j] = X::load(biases + j * kBytes / 4);
    const int64_t step = g_.stride[2] * kVectors * kBytes;
    for (int64_t q = 0, end = quads_ * layers_; q < end; q++) {
      const char* p = line + (layers_ > 1 ? q % quads_ : q) * line_ * (kVectors * kBytes) + w * step;
      for (int64_t kw = 0; kw < g_.kernel[2]; kw++, p += g_.dilation[2] * kVectors * kBytes, weights += kVectors * kBytes) {
        PTRT_UNROLL for (int j = 0; j < kVectors; j++) {
          const typename X::V b = X::load(weights + j * kBytes);
          PTRT_UNROLL for (int i = 0; i < NP; i++) acc[i][j] = X::dot(acc[i][j], X::load(p + i * step + j * kBytes), b);
        }
      }
    }
    if (last_) {
      const QuantEpilogue& e = out_.quant();
      const auto hi = X::splat_f(e.hi2);
      const auto zero = X::splat16(e.zero2);
      const bool whole = l.n == X::kChannels;
      const uint64_t mask = whole ? ~uint64_t{0} : (uint64_t{1} << l.n) - 1;
      char* out = r.data + h * r.row + ow * r.pixel;
      PTRT_UNROLL for (int j = 0; j < kVectors; j++) {
        const auto scale = X::load_f(scales + j * kBytes / 4);
        PTRT_UNROLL for (int i = 0; i < NP; i++) acc[i][j] = X::rounded(acc[i][j], scale, hi);
      }
      for (int i = 0; i < NP; i++, out += r.pixel) {
        const auto bytes = X::bytes(acc[i][0], acc[i][1], acc[i][2], acc[i][3], zero, e.out == DType::i8);
        if (whole) X::store(out, bytes);
        else X::store_n(out, mask, bytes);
      }
      return;
    }
    alignas(64) int32_t units[NP][64], block[NP * 64];
    for (int i = 0; i < NP; i++) {
      for (int j = 0; j < kVectors; j++) X::store(units[i] + j * kBytes / 4, acc[i][j]);
      for (int lane = 0; lane < LANES; lane++)  // back to the order of the channels
        for (int j = 0; j < kVectors; j++) std::memcpy(block + i * 64 + lane * 16 + j * 4, units[i] + (j * LANES + lane) * 4, 16);
    }
    out_.requantise(desc, columns, l.first, block, 64, r, h * r.row + ow * r.pixel, NP, l.n, res, h * res.row + ow * res.pixel);
  }

  ConvGeometry g_;
  ConvOutput out_;
  ConvStrides xs_;
  std::vector<Part> lots_;
  int64_t layers_ = 1, quads_ = 0, units_ = 0, strip_ = 1, line_ = 0, rows_ = 1, row_blocks_ = 1;
  bool last_ = false, pairs_ = false;  // only the last rounding to bytes; every line serves two output rows
  std::shared_ptr<const void> packed_;
};

}  // namespace

std::unique_ptr<Kernel> make_byte_depthwise_conv(LaunchDesc& desc, BindContext& bind, const ConvGeometry& g) {
  if (conv_math(desc.ins[0].dtype) != ConvMath::i8 || !desc.ins[1].is_const() ||
      (desc.ins.size() > 4 && desc.ins[4].present() && !desc.ins[4].is_const()) || (desc.ins.size() > 2 && desc.ins[2].present()))
    return nullptr;
  const ConvOutput out(desc, g, ConvMath::i8, true);
  const bool turned = !side_by_side(g, conv_strides(desc.ins[0])) || !out.direct(desc);
  if (!out.requantises() || (turned && most(rows_under(g, 1) * g.in[2], 4 * g.out[2]) > kStagedMost / kLot)) return nullptr;
  return std::make_unique<ByteDepthwise>(std::move(desc), bind, g);
}

}  // namespace ptrt::PTRT_LEVEL

#else

namespace ptrt::PTRT_LEVEL {
std::unique_ptr<Kernel> make_byte_depthwise_conv(LaunchDesc&, BindContext&, const ConvGeometry&) { return nullptr; }
}  // namespace ptrt::PTRT_LEVEL

#endif
