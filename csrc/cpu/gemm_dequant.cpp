// gemm in f32 with a constant B of 8- or 4-bit integers, a scale and perhaps a zero point per column and block of k. B stays narrow: tiles
// read a panel's block dequantised into thread scratch, exactly (q - zero) * scale; few rows multiply by q - zero, and a block's sum by its
// scale.
//
// A stored panel: the values [k][column] (4 bits: [k / 8][column], eight values of k in 32 bits, the first one lowest), then
// [block][column] scales, then zeros if they differ.
#include <algorithm>
#include <utility>

#include "core/vocabulary.h"
#include "cpu/gemm_packed.h"
#include "cpu/narrow_weights.h"
#include "cpu/tile_finish.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int NV = PackedGemm::kVectors, kColumns = PackedGemm::kColumns;

typedef int8_t signed_bytes __attribute__((vector_size(W), aligned(1), may_alias));

constexpr int kGroup = 8;                                        // 4-bit values of a column that lie in 32 bits
constexpr int64_t kGroupBytes = int64_t{kColumns} * kGroup / 2;  // of a panel

// Where the values, scales and zeros of a panel are.
struct Stored {
  const char* values;
  const float *scales, *zeros;  // of the block that k = 0 lies in; zeros are null if all are `zero`
  float zero;
  int64_t block, left;  // values of k per block; those left in the first one
};

// The values of one step k, less the zero point. ZEROS: zero points differ.
template <bool NIBBLES, bool ZEROS>
struct Values {
  // AVX-512 looks 4 bits up among 16 floats, from which a common zero point has been subtracted.
#if defined(__AVX512F__)
  static constexpr bool kTable = NIBBLES;
#else
  static constexpr bool kTable = false;
#endif
  static constexpr bool kSubtracts = ZEROS || !kTable;
  vf table, zero[NV];

  PTRT_INLINE explicit Values(float common) {
    for (int i = 0; i < W; i++) table[i] = static_cast<float>(i) - (kSubtracts ? 0.0f : common);
    PTRT_UNROLL for (int j = 0; j < NV; j++) zero[j] = splat(common);
  }
  PTRT_INLINE void block(const float* zeros) {
    if constexpr (ZEROS) PTRT_UNROLL for (int j = 0; j < NV; j++) zero[j] = load(zeros + j * W);
  }
  PTRT_INLINE vf difference(vf value, int j) const { return kSubtracts ? value - zero[j] : value; }
  PTRT_INLINE vf nibble(vi words, int i, int j) const {
    const vu shifted = (vu)words >> (4 * i);
#if defined(__AVX512F__)  // of an index the low 4 bits are read
    return difference((vf)_mm512_permutexvar_ps((__m512i)shifted, (__m512)table), j);
#else
    return difference(__builtin_convertvector((vi)(shifted & 15), vf), j);
#endif
  }
  PTRT_INLINE vf byte(const char* p, int j) const {
#if defined(__AVX512F__)  // gcc 12 widens generic vectors step by step
    const vi x = (vi)_mm512_maskz_cvtepi8_epi32((__mmask16)-1, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__AVX2__)
    const vi x = (vi)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
    const vi x = __builtin_convertvector(*reinterpret_cast<const signed_bytes*>(p), vi);
#endif
    return difference(__builtin_convertvector(x, vf), j);
  }

  // f(set, k, w) for k0 <= k < stop, with w the NV vectors of values of step k. Steps are dealt out to SETS sets in turn; those that remain
  // go to set 0.
  template <int SETS, class F>
  PTRT_INLINE void each(const char* values, int64_t k, int64_t stop, F&& f) const {
    const auto step = [&](int set) __attribute__((always_inline)) {
      vf w[NV];
      PTRT_UNROLL for (int j = 0; j < NV; j++) {
        if constexpr (NIBBLES) {
          const char* words = values + k / kGroup * kGroupBytes + j * kVecBytes;
          w[j] = nibble(load(reinterpret_cast<const int32_t*>(words)), static_cast<int>(k % kGroup), j);
        } else {
          w[j] = byte(values + k * kColumns + j * W, j);
        }
      }
      f(set, k++, w);
    };
    while (k + SETS <= stop) {
      if constexpr (NIBBLES)
        if (k % kGroup == 0 && k + kGroup <= stop) {
          vi words[NV];
          const char* p = values + k / kGroup * kGroupBytes;
          PTRT_UNROLL for (int j = 0; j < NV; j++) words[j] = load(reinterpret_cast<const int32_t*>(p + j * kVecBytes));
          PTRT_UNROLL for (int i = 0; i < kGroup; i++) {
            vf w[NV];
            PTRT_UNROLL for (int j = 0; j < NV; j++) w[j] = nibble(words[j], i, j);
            f(i % SETS, k + i, w);
          }
          k += kGroup;
          continue;
        }
      step(0);
      if constexpr (SETS > 1) step(1);
      if constexpr (SETS == 4) {
        step(2);
        step(3);
      }
    }
    while (k < stop) step(0);
  }
};

template <bool NIBBLES, bool ZEROS>
void expand(Stored s, int64_t k0, int64_t K, float* out) {
  Values<NIBBLES, ZEROS> v(s.zero);
  for (int64_t k = k0; k < k0 + K; s.left = s.block, s.scales += kColumns) {
    const int64_t stop = std::min(k0 + K, k + s.left);
    v.block(s.zeros);
    if (ZEROS) s.zeros += kColumns;
    vf scale[NV];
    PTRT_UNROLL for (int j = 0; j < NV; j++) scale[j] = load(s.scales + j * W);
    v.template each<1>(s.values, k, stop, [&](int, int64_t at, const vf(&w)[NV]) __attribute__((always_inline)) {
      PTRT_UNROLL for (int j = 0; j < NV; j++) store(out + (at - k0) * kColumns + j * W, w[j] * scale[j]);
    });
    k = stop;
  }
}

// One to four rows: k is split over SETS accumulators within a block, whose sum its scale multiplies.
template <bool NIBBLES, bool ZEROS, int MR, int SETS>
PTRT_NOINLINE void small_tile(const TileArgs<float>& g, const Stored& stored) {
  Values<NIBBLES, ZEROS> v(stored.zero);
  Stored s = stored;
  vf acc[MR][NV];
  clear(acc);
  const int64_t lda = g.lda;
  for (int64_t k = 0; k < g.K; s.scales += kColumns) {
    const int64_t stop = std::min(g.K, k + s.block);
    v.block(s.zeros);
    if (ZEROS) s.zeros += kColumns;
    vf part[SETS][MR][NV];
    PTRT_UNROLL for (int u = 0; u < SETS; u++) clear(part[u]);
    v.template each<SETS>(s.values, k, stop, [&](int set, int64_t at, const vf(&w)[NV]) __attribute__((always_inline)) {
      if (!NIBBLES || at % (kGroup * 64 / kGroupBytes) == 0)
        __builtin_prefetch(s.values + (NIBBLES ? at * kColumns / 2 : at * kColumns) + kAhead, 0, 3);
      PTRT_UNROLL for (int i = 0; i < MR; i++) {
        const vf x = splat(g.A[i * lda + at]);
        PTRT_UNROLL for (int j = 0; j < NV; j++) part[set][i][j] += x * w[j];
      }
    });
    add_sets(part);
    PTRT_UNROLL for (int j = 0; j < NV; j++) {
      const vf scale = load(s.scales + j * W);
      PTRT_UNROLL for (int i = 0; i < MR; i++) acc[i][j] += part[0][i][j] * scale;
    }
    k = stop;
  }
  finish<float, MR, NV>(g, acc);
}

using TileStored = void (*)(const TileArgs<float>&, const Stored&);

class DequantGemm final : public PackedGemm {
 public:
  DequantGemm(LaunchDesc d, const GemmShape& shape, int64_t block, bool pairs, BindContext& bind)
      : PackedGemm(std::move(d), shape), weights_(desc, s_.K, block, pairs, bind), blocks_(weights_.blocks), block_(weights_.block) {
    const Operand& b = in(1);
    nibbles_ = weights_.nibbles;
    // Stored values are those of b plus this: signed bytes, or halves of bytes from 0 to 15.
    shift_ = b.dtype == DType::i4 ? 8 : b.dtype == DType::u8 && !nibbles_ ? -128 : 0;
    values_bytes_ = nibbles_ ? static_cast<int64_t>(checked_bytes((s_.K + kGroup - 1) / kGroup, kGroupBytes, 1, 1))
                             : static_cast<int64_t>(checked_bytes(s_.K, kColumns, 1, 1));
    zero_ = static_cast<float>(shift_) + weights_.zeros.first;
    zeros_ = !weights_.zeros.same || !nibbles_;  // beside bytes they are too few to have code of their own for one
    Format f;
    f.name = std::string(nibbles_ ? "int4" : "int8") + " weights";
    f.key = weights_.key();
    f.block_units = few_rows() ? 0 : f.block_units;
    f.expand = true;
    f.panel_bytes = values_bytes_ + static_cast<int64_t>(checked_bytes((zeros_ ? 2 : 1) * blocks_, kColumns, 4, 1));
    setup(f, bind);
  }

 private:
  void pack_panel(char* out, const Operand& b, int64_t offset, int64_t n0, int64_t n) const override {
    std::fill(out, out + values_bytes_, char{0});
    auto* words = reinterpret_cast<uint32_t*>(out);
    for (int64_t j = 0; j < n; j++) {
      const int64_t column = offset + j * s_.bn;
      if (nibbles_) {
        for (int64_t k = 0; k < s_.K; k += kGroup) words[k / kGroup * kColumns + j] = weights_.eight(b, column, s_.bk, k, s_.K, shift_);
      } else {
        for (int64_t k = 0; k < s_.K; k++) out[k * kColumns + j] = static_cast<char>(weights_.value(b, column, s_.bk, k) + shift_);
      }
    }
    auto* scales = reinterpret_cast<float*>(out + values_bytes_);
    weights_.each_parameter(n0, n, kColumns, [&](int64_t at, float scale, float zero) {
      scales[at] = scale;
      if (zeros_) scales[blocks_ * kColumns + at] = zero + static_cast<float>(shift_);
    });
  }

  const float* units(const char* panel, int64_t k0, int64_t units, float* scratch) const override {
    if (few_rows()) return reinterpret_cast<const float*>(panel);
    const Stored s = stored(panel, k0);
    static constexpr void (*kinds[])(Stored, int64_t, int64_t, float*) = {expand<false, true>, expand<true, false>, expand<true, true>};
    kinds[nibbles_ + (nibbles_ && zeros_)](s, k0, units, scratch);
    return scratch;
  }

  Stored stored(const char* panel, int64_t k0) const {
    const auto* scales = reinterpret_cast<const float*>(panel + values_bytes_) + k0 / block_ * kColumns;
    return Stored{panel, scales, zeros_ ? scales + blocks_ * kColumns : nullptr, zero_, block_, block_ - k0 % block_};
  }

  void tile(int mr, const TileArgs<float>& g, const At&, const char*) const override {
    if (few_rows()) kTiles[nibbles_ + (nibbles_ && zeros_)][mr - 1](g, stored(reinterpret_cast<const char*>(g.B), 0));
    else tile_f32(mr, g.n > W ? NV : 1)(g);
  }

  template <bool NIBBLES, bool ZEROS>
  static constexpr TileStored kRows[] = {small_tile<NIBBLES, ZEROS, 1, kSets>, small_tile<NIBBLES, ZEROS, 2, kSets>,
                                         small_tile<NIBBLES, ZEROS, 3, kSets / 2>, small_tile<NIBBLES, ZEROS, 4, kSets / 2>};
  static constexpr const TileStored* kTiles[] = {kRows<false, true>, kRows<true, false>, kRows<true, true>};

  NarrowWeights weights_;
  bool nibbles_ = false, zeros_ = false;
  int shift_ = 0;
  float zero_ = 0;
  int64_t blocks_, block_, values_bytes_ = 0;
};

// Can rows of A be quantised and multiplied by B's own bytes?
bool takes_bytes(const LaunchDesc& d) {
  const Operand &b = d.ins[1], &scale = d.ins[4];
  return d.ins[0].dtype == DType::f32 && b.dtype == DType::i8 && scale.dtype == DType::f32 && scale.shape[scale.ndim - 2] == 1 &&
         !optional_input(d, 3) && d.ins[0].shape[d.ins[0].ndim - 1] <= 65536;
}

}  // namespace

std::unique_ptr<Kernel> make_gemm_dequant(LaunchDesc desc, const GemmShape& s, int64_t block, bool pairs, GemmPrecision precision,
                                          BindContext& bind) {
  if (precision == GemmPrecision::int8_ && takes_bytes(desc)) return make_gemm_quant(std::move(desc), s, bind);
#if defined(__AVX512VNNI__)
  if (precision == GemmPrecision::int16_ && takes_digits(desc, s.K, block, pairs, bind))
    return make_gemm_digits(std::move(desc), s, block, pairs, bind);
#endif
  return std::make_unique<DequantGemm>(std::move(desc), s, block, pairs, bind);
}

}  // namespace ptrt::PTRT_LEVEL
