// gemm in f32 with a B that is kept in 16 bits: tiles read a panel's block widened into thread scratch, few rows widen in registers.
#include <utility>

#include "cpu/gemm_packed.h"
#include "cpu/half.h"
#include "cpu/tile_finish.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int NV = PackedGemm::kVectors;

typedef uint16_t halves_u __attribute__((vector_size(W * 2), aligned(2), may_alias));

// W values of one 16-bit format.
template <bool F16>
PTRT_INLINE vf widen(const uint16_t* p) {
  if constexpr (!F16) {
#if defined(__AVX512F__)  // gcc 12 widens generic vectors step by step
    return (vf)((vi)_mm512_maskz_cvtepu16_epi32((__mmask16)-1, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))) << 16);
#elif defined(__AVX2__)
    return (vf)((vi)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))) << 16);
#endif
    return (vf)(__builtin_convertvector(*reinterpret_cast<const halves_u*>(p), vu) << 16);
  } else {
#if defined(__AVX512F__)
    return (vf)_mm512_maskz_cvtph_ps((__mmask16)-1, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    vf r = {};
    for (int i = 0; i < W; i++) r[i] = f16_to_f32(p[i]);
    return r;
#endif
  }
}

// The small tile of gemm_tile.cpp with a B of 16 bits; the same additions in the same order.
template <bool F16, int MR, int SETS>
PTRT_NOINLINE void small_tile(const TileArgs<float>& g) {
  const int64_t ahead = stream_prefetch_bytes() / 2;
  vf acc[SETS][MR][NV];
  PTRT_UNROLL for (int u = 0; u < SETS; u++) PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++)
      acc[u][i][j] = vf{};
  const float* a = g.A;
  const auto* b = reinterpret_cast<const uint16_t*>(g.B);
  const int64_t lda = g.lda;
  const auto step = [&](vf(&to)[MR][NV]) {
    vf bv[NV];
    PTRT_UNROLL for (int j = 0; j < NV; j++) bv[j] = widen<F16>(b + j * W);
    __builtin_prefetch(b + ahead, 0, 3);
    b += NV * W;
    PTRT_UNROLL for (int i = 0; i < MR; i++) {
      const vf s = splat(a[i * lda]);
      PTRT_UNROLL for (int j = 0; j < NV; j++) to[i][j] += s * bv[j];
    }
    a++;
  };
  int64_t k = 0;
  for (; k + SETS <= g.K; k += SETS) {
    PTRT_UNROLL for (int u = 0; u < SETS; u++) step(acc[u]);
  }
  for (; k < g.K; k++) step(acc[0]);
  add_sets(acc);
  finish<float, MR, NV>(g, acc[0]);
}

template <bool F16>
TileFn<float> pick_small(int mr) {
  static constexpr TileFn<float> fns[] = {small_tile<F16, 1, kSets>, small_tile<F16, 2, kSets>, small_tile<F16, 3, kSets / 2>,
                                          small_tile<F16, 4, kSets / 2>};
  return fns[mr - 1];
}

class HalvesGemm final : public PackedGemm {
 public:
  HalvesGemm(LaunchDesc d, const GemmShape& shape, DType stored, bool round_a, BindContext& bind)
      : PackedGemm(std::move(d), shape), stored_(stored), round_a_(round_a) {
    Format f;
    f.name = (stored == DType::f16 ? "f16 of " : "bf16 of ") + std::to_string(static_cast<int>(in(s_.ib).dtype));
    f.block_units = few_rows() ? 0 : f.block_units;
    f.pack_a = round_a;
    f.expand = !few_rows();
    f.panel_bytes = static_cast<int64_t>(checked_bytes(s_.K, kColumns, 2, 1));
    setup(f, bind);
  }

 private:
  static constexpr int64_t kSteps = 64;  // of k at a time on the way through the stack

  void pack_rows(float* out, int64_t pitch, const Operand& a, int64_t offset, int64_t rows, char* beside) const override {
    PackedGemm::pack_rows(out, pitch, a, offset, rows, beside);
    if (!round_a_ || a.dtype == stored_) return;
    for (int64_t r = 0; r < rows; r++)
      for (int64_t k = 0; k < s_.K; k++) out[r * pitch + k] = half_to_float(stored_, float_to_half(stored_, out[r * pitch + k]));
  }

  void pack_panel(char* out, const Operand& b, int64_t offset, int64_t, int64_t n) const override {
    const auto item = static_cast<int64_t>(itemsize(b.dtype));
    auto* to = reinterpret_cast<uint16_t*>(out);
    for (int64_t k = 0; k < s_.K; k += kSteps) {
      float buffer[kSteps * kColumns] = {};
      const int64_t nk = k + kSteps < s_.K ? kSteps : s_.K - k;
      copy_matrix(buffer, kColumns, static_cast<const char*>(b.data) + (offset + k * s_.bk) * item, b.dtype, s_.bk, s_.bn, nk, n);
      floats_to_halves(stored_, to + k * kColumns, buffer, nk * kColumns);
    }
  }

  const float* units(const char* panel, int64_t k0, int64_t units, float* scratch) const override {
    const auto* from = reinterpret_cast<const uint16_t*>(panel) + k0 * kColumns;
    if (few_rows()) return reinterpret_cast<const float*>(from);
    halves_to_floats(stored_, scratch, from, units * kColumns);
    return scratch;
  }

  void tile(int mr, const TileArgs<float>& g, const At&, const char*) const override {
    if (!few_rows()) tile_f32(mr, g.n > W ? NV : 1)(g);
    else if (stored_ == DType::f16) pick_small<true>(mr)(g);
    else pick_small<false>(mr)(g);
  }

  DType stored_;
  bool round_a_;
};

}  // namespace

std::unique_ptr<Kernel> make_gemm_halves(LaunchDesc desc, const GemmShape& s, DType stored, bool round_a, BindContext& bind) {
  return std::make_unique<HalvesGemm>(std::move(desc), s, stored, round_a, bind);
}

}  // namespace ptrt::PTRT_LEVEL
