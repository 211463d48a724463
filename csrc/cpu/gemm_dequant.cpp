// gemm in f32 with a constant B of 8- or 4-bit integers, a scale and perhaps a zero point per column and block of k. B stays narrow: tiles
// read a panel's block dequantised into thread scratch, few rows dequantise in registers. Both multiply by exactly (q - zero) * scale.
//
// A stored panel: the values [k][column] (4 bits: k in pairs, the even one in the low half), then [block][column] scales, then zeros.
#include <algorithm>
#include <utility>

#include "core/vocabulary.h"
#include "cpu/gemm_packed.h"
#include "cpu/half.h"
#include "cpu/tile_finish.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int NV = PackedGemm::kVectors, kColumns = PackedGemm::kColumns;

typedef int8_t signed_bytes __attribute__((vector_size(W), aligned(1), may_alias));
typedef uint8_t unsigned_bytes __attribute__((vector_size(W), aligned(1), may_alias));

// Signed 8-bit values, or unsigned halves of a byte.
template <bool NIBBLES>
PTRT_INLINE vi integers(const char* p, int high) {
#if defined(__AVX512F__)  // gcc 12 widens generic vectors step by step
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  if constexpr (!NIBBLES) return (vi)_mm512_maskz_cvtepi8_epi32((__mmask16)-1, bytes);
  const vi u = (vi)_mm512_maskz_cvtepu8_epi32((__mmask16)-1, bytes);
#elif defined(__AVX2__)
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  if constexpr (!NIBBLES) return (vi)_mm256_cvtepi8_epi32(bytes);
  const vi u = (vi)_mm256_cvtepu8_epi32(bytes);
#else
  if constexpr (!NIBBLES) return __builtin_convertvector(*reinterpret_cast<const signed_bytes*>(p), vi);
  const vi u = __builtin_convertvector(*reinterpret_cast<const unsigned_bytes*>(p), vi);
#endif
  return high ? (vi)((vu)u >> 4) : u & 15;
}

// Where the values, scales and zeros of a panel are.
struct Stored {
  const char* values;
  const float *scales, *zeros;  // of the block that k = 0 lies in
  int64_t block, left;          // values of k per block; those left in the first one
};

// f(set, k, w) for k < K, with w the NV vectors of dequantised weights of step k. Within a block, steps are dealt out to SETS sets in turn;
// those that remain go to set 0.
template <bool NIBBLES, int SETS, class F>
PTRT_INLINE void each_step(Stored s, int64_t k0, int64_t K, F&& f) {
  const char* p = s.values + (NIBBLES ? k0 / 2 : k0) * kColumns;
  int64_t k = k0;
  for (const int64_t end = k0 + K; k < end; s.left = s.block, s.scales += kColumns, s.zeros += kColumns) {
    vf scale[NV], zero[NV];
    PTRT_UNROLL for (int j = 0; j < NV; j++) scale[j] = load(s.scales + j * W), zero[j] = load(s.zeros + j * W);
    const auto step = [&](int set, int high) __attribute__((always_inline)) {
      vf w[NV];
      PTRT_UNROLL for (int j = 0; j < NV; j++) w[j] =
          (__builtin_convertvector(integers<NIBBLES>(p + j * W, high), vf) - zero[j]) * scale[j];
      if (!NIBBLES || high) p += kColumns;
      f(set, k - k0, w);
      k++;
    };
    const int64_t stop = std::min(end, k + s.left);
    if constexpr (SETS > 1) {
      if (NIBBLES && k & 1) step(0, 1);
      while (k + SETS <= stop) {  // k is even; a pragma to unroll what is in here would unroll this loop, too
        step(0, 0);
        step(1, 1);
        if constexpr (SETS == 4) {
          step(2, 0);
          step(3, 1);
        }
      }
    }
    while (k < stop) step(0, k & 1);
  }
}

template <bool NIBBLES>
void expand(const Stored& s, int64_t k0, int64_t K, float* out) {
  each_step<NIBBLES, 4>(s, k0, K, [&](int, int64_t k, const vf(&w)[NV]) __attribute__((always_inline)) {
    PTRT_UNROLL for (int j = 0; j < NV; j++) store(out + k * kColumns + j * W, w[j]);
  });
}

// One to four rows: k is split over SETS accumulators.
template <bool NIBBLES, int MR, int SETS>
PTRT_NOINLINE void small_tile(const TileArgs<float>& g, const Stored& s) {
  vf acc[SETS][MR][NV];
  PTRT_UNROLL for (int u = 0; u < SETS; u++) PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++)
      acc[u][i][j] = vf{};
  const float* a = g.A;
  const int64_t lda = g.lda;
  const char* ahead = s.values + stream_prefetch_bytes();
  each_step<NIBBLES, SETS>(s, 0, g.K, [&](int set, int64_t, const vf(&w)[NV]) __attribute__((always_inline)) {
    __builtin_prefetch(ahead, 0, 3);
    ahead += NIBBLES ? kColumns / 2 : kColumns;
    PTRT_UNROLL for (int i = 0; i < MR; i++) {
      const vf x = splat(a[i * lda]);
      PTRT_UNROLL for (int j = 0; j < NV; j++) acc[set][i][j] += x * w[j];
    }
    a++;
  });
  add_sets(acc);
  finish<float, MR, NV>(g, acc[0]);
}

using TileStored = void (*)(const TileArgs<float>&, const Stored&);

class DequantGemm final : public PackedGemm {
 public:
  DequantGemm(LaunchDesc d, const GemmShape& shape, int64_t block, bool pairs, BindContext& bind)
      : PackedGemm(std::move(d), shape), pairs_(pairs) {
    const Operand &b = in(1), &scale = in(4);
    const int r = scale.ndim;
    blocks_ = scale.shape[r - 2];
    block_ = block ? block : std::max<int64_t>(1, s_.K);
    constexpr int64_t kMost = int64_t{1} << 31;
    if (blocks_ < 1 || blocks_ > kMost || block_ < 1 || block_ > kMost || blocks_ != std::max<int64_t>(1, (s_.K + block_ - 1) / block_))
      throw KernelError("gemm: b_scale has " + std::to_string(blocks_) + " blocks of " + std::to_string(block_) + " for " +
                        std::to_string(s_.K) + " values");
    nibbles_ = pairs || b.dtype == DType::i4 || b.dtype == DType::u4;
    // Stored values are those of b plus this: signed bytes, or halves of bytes from 0 to 15.
    shift_ = b.dtype == DType::i4 ? 8 : b.dtype == DType::u8 && !pairs ? -128 : 0;
    values_bytes_ = static_cast<int64_t>(checked_bytes(nibbles_ ? (s_.K + 1) / 2 : s_.K, kColumns, 1, 1));
    const auto address = [](const Operand* o) { return o ? std::to_string(reinterpret_cast<uintptr_t>(o->data)) : std::string("-"); };
    Format f;
    f.name = std::string(nibbles_ ? "int4" : "int8") + " weights";
    f.key = std::to_string(static_cast<int>(b.dtype)) + ":" + std::to_string(pairs) + ":" + std::to_string(block_) + ":" + address(&scale) +
            ":" + address(optional_input(desc, 3));
    f.block_units = few_rows() ? 0 : f.block_units;
    f.expand = true;
    f.panel_bytes = values_bytes_ + static_cast<int64_t>(checked_bytes(2 * blocks_, kColumns, 4, 1));
    setup(f, bind);
  }

 private:
  // Integer `i` of b or its zero points, in the storage format of b; `high`: the upper half of a pair.
  int value(const Operand& o, int64_t i, int64_t high) const {
    if (pairs_) return o.as<const uint8_t>()[i] >> (4 * high) & 15;
    if (o.dtype == DType::u8) return o.as<const uint8_t>()[i];
    if (o.dtype == DType::u4) return o.as<const uint8_t>()[i] & 15;
    const int v = o.as<const int8_t>()[i];
    return o.dtype == DType::i4 ? ((v & 15) ^ 8) - 8 : v;
  }

  // Element [block, column] of b_scale or b_zero.
  float parameter(const Operand& o, int64_t block, int64_t column) const {
    const int r = o.ndim;
    const bool integers = o.dtype == in(1).dtype;
    const int64_t row = integers && pairs_ ? block / 2 : block;
    const int64_t i = (o.shape[r - 2] == 1 ? 0 : row * o.strides[r - 2]) + (o.shape[r - 1] == 1 ? 0 : column * o.strides[r - 1]);
    if (integers) return static_cast<float>(value(o, i, block & 1));
    return o.dtype == DType::f32 ? o.as<const float>()[i] : half_to_float(o.dtype, o.as<const uint16_t>()[i]);
  }

  void pack_panel(char* out, const Operand& b, int64_t offset, int64_t n0, int64_t n) const override {
    std::fill(out, out + values_bytes_, char{0});
    for (int64_t j = 0; j < n; j++)
      for (int64_t k = 0; k < s_.K; k++) {
        const int v = value(b, offset + (pairs_ ? k / 2 : k) * s_.bk + j * s_.bn, k & 1) + shift_;
        if (nibbles_) out[k / 2 * kColumns + j] = static_cast<char>(out[k / 2 * kColumns + j] | v << (4 * (k & 1)));
        else out[k * kColumns + j] = static_cast<char>(v);
      }
    auto* scales = reinterpret_cast<float*>(out + values_bytes_);
    const Operand* zero = optional_input(desc, 3);
    for (int64_t g = 0; g < blocks_; g++)
      for (int64_t j = 0; j < kColumns; j++) {
        scales[g * kColumns + j] = j < n ? parameter(in(4), g, n0 + j) : 0.0f;
        scales[(blocks_ + g) * kColumns + j] = (zero && j < n ? parameter(*zero, g, n0 + j) : 0.0f) + static_cast<float>(shift_);
      }
  }

  const float* units(const char* panel, int64_t k0, int64_t units, float* scratch) const override {
    if (few_rows()) return reinterpret_cast<const float*>(panel);
    const Stored s = stored(panel, k0);
    if (nibbles_) expand<true>(s, k0, units, scratch);
    else expand<false>(s, k0, units, scratch);
    return scratch;
  }

  Stored stored(const char* panel, int64_t k0) const {
    const auto* scales = reinterpret_cast<const float*>(panel + values_bytes_) + k0 / block_ * kColumns;
    return Stored{panel, scales, scales + blocks_ * kColumns, block_, block_ - k0 % block_};
  }

  void tile(int mr, const TileArgs<float>& g, const At&, const char*) const override {
    static constexpr TileStored bytes[] = {small_tile<false, 1, kSets>, small_tile<false, 2, kSets>, small_tile<false, 3, kSets / 2>,
                                           small_tile<false, 4, kSets / 2>};
    static constexpr TileStored nibbles[] = {small_tile<true, 1, kSets>, small_tile<true, 2, kSets>, small_tile<true, 3, kSets / 2>,
                                             small_tile<true, 4, kSets / 2>};
    if (few_rows()) (nibbles_ ? nibbles : bytes)[mr - 1](g, stored(reinterpret_cast<const char*>(g.B), 0));
    else tile_f32(mr, g.n > W ? NV : 1)(g);
  }

  bool pairs_, nibbles_ = false;
  int shift_ = 0;
  int64_t blocks_ = 1, block_ = 1, values_bytes_ = 0;
};

// Can rows of A be quantised and multiplied by B's own bytes? Where a launch asks for int8 (kernels/spec.py).
bool takes_bytes(const LaunchDesc& d) {
  Params p = d.params();
  p.f();
  const Operand &b = d.ins[1], &scale = d.ins[4];
  return static_cast<GemmPrecision>(p.i()) == GemmPrecision::int8_ && d.ins[0].dtype == DType::f32 && b.dtype == DType::i8 &&
         scale.dtype == DType::f32 && scale.shape[scale.ndim - 2] == 1 && !optional_input(d, 3) &&
         d.ins[0].shape[d.ins[0].ndim - 1] <= 65536;
}

}  // namespace

std::unique_ptr<Kernel> make_gemm_dequant(LaunchDesc desc, const GemmShape& s, int64_t block, bool pairs, BindContext& bind) {
  if (takes_bytes(desc)) return make_gemm_quant(std::move(desc), s, bind);
  return std::make_unique<DequantGemm>(std::move(desc), s, block, pairs, bind);
}

}  // namespace ptrt::PTRT_LEVEL
