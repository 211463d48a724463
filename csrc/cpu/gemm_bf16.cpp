// gemm on pairs of bf16 (AVX512_BF16, which v4x is compiled with but not every CPU of that level has): A is rounded when it is packed, B is
// kept in bf16, products are summed in f32. The instruction takes subnormal numbers for zeros.
#include <algorithm>
#include <utility>

#include "cpu/gemm_packed.h"
#include "cpu/half.h"
#include "cpu/tile_finish.h"

namespace ptrt::PTRT_LEVEL {

#if defined(__AVX512BF16__)
namespace {

typedef int32_t pair_t __attribute__((may_alias));

PTRT_INLINE vf dot_pairs(vf acc, vf a, vf b) { return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b); }

// 32 consecutive values as pairs; subnormal numbers become zeros.
PTRT_INLINE vf to_pairs(vf lo, vf hi) { return (vf)_mm512_cvtne2ps_pbh((__m512)hi, (__m512)lo); }

template <int MR>
PTRT_NOINLINE void pair_tile(const TileArgs<float>& g) {
  constexpr int NV = PackedGemm::kVectors;
  vf acc[MR][NV];
  clear(acc);
  if (g.K >= 32) prefetch_results<float, MR, NV>(g);
  const char* next = static_cast<const char*>(g.next ? g.next : g.B);
  const int64_t lda = g.lda, lda3 = 3 * lda;
  const float *a0 = g.A, *a1 = a0 + 5 * lda, *a2 = a0 + 10 * lda, *b = g.B;  // three base pointers: as in gemm_tile.cpp
  for (int64_t k = 0; k < g.K; k++) {
    vf bv[NV];
    PTRT_UNROLL for (int j = 0; j < NV; j++) bv[j] = load(b + j * W);
    b += NV * W;
    __builtin_prefetch(next, 0, 2);
    next += 64;
    PTRT_UNROLL for (int i = 0; i < MR; i++) {
      const float* p = i < 5 ? a0 : i < 10 ? a1 : a2;
      const int r = i % 5;
      const float* q = r == 0 ? p : r == 1 ? p + lda : r == 2 ? p + 2 * lda : r == 3 ? p + lda3 : p + 4 * lda;
      const vf a = (vf)_mm512_set1_epi32(*reinterpret_cast<const pair_t*>(q));
      PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = dot_pairs(acc[i][j], a, bv[j]);
    }
    a0++;
    a1++;
    a2++;
    asm volatile("" : "+r"(a0), "+r"(a1), "+r"(a2));
  }
  finish<float, MR, NV>(g, acc);
}

// For one to four rows: k is split over SETS accumulators, and B is prefetched within the panel.
template <int MR, int SETS>
PTRT_NOINLINE void small_pair_tile(const TileArgs<float>& g) {
  constexpr int NV = PackedGemm::kVectors;
  const int64_t ahead = stream_prefetch_bytes() / 4;
  vf acc[SETS][MR][NV];
  PTRT_UNROLL for (int u = 0; u < SETS; u++) clear(acc[u]);
  const float *a = g.A, *b = g.B;
  const int64_t lda = g.lda;
  int64_t k = 0;
  const auto step = [&](vf(&to)[MR][NV]) {
    vf bv[NV];
    PTRT_UNROLL for (int j = 0; j < NV; j++) {
      bv[j] = load(b + j * W);
      __builtin_prefetch(b + j * W + ahead, 0, 3);
    }
    PTRT_UNROLL for (int i = 0; i < MR; i++) {
      const vf s = (vf)_mm512_set1_epi32(*reinterpret_cast<const pair_t*>(a + i * lda));
      PTRT_UNROLL for (int j = 0; j < NV; j++) to[i][j] = dot_pairs(to[i][j], s, bv[j]);
    }
    a++;
    b += NV * W;
  };
  for (; k + SETS <= g.K; k += SETS) {
    PTRT_UNROLL for (int u = 0; u < SETS; u++) step(acc[u]);
  }
  for (; k < g.K; k++) step(acc[0]);
  add_sets(acc);
  finish<float, MR, NV>(g, acc[0]);
}

template <int... I>
TileFn<float> pick(int mr, std::integer_sequence<int, I...>) {
  static constexpr TileFn<float> fns[] = {nullptr, pair_tile<I + 1>...};
  return fns[mr];
}

class Bf16Gemm final : public PackedGemm {
 public:
  Bf16Gemm(LaunchDesc d, const GemmShape& shape, BindContext& bind) : PackedGemm(std::move(d), shape) {
    Format f;
    f.name = "bf16 pairs of " + std::to_string(static_cast<int>(in(s_.ib).dtype));
    f.per_unit = 2;
    f.speed = 2;
    f.pack_a = true;
    f.panel_bytes = static_cast<int64_t>(checked_bytes((s_.K + 1) / 2, kColumns, 4, 1));
    setup(f, bind);
  }

 private:
  static constexpr int64_t kRows = 16, kSteps = 64;  // of a block on its way through the stack

  // out[row][k / 2] for a strided source: by blocks that fit in L1.
  void pack_rows(float* out, int64_t pitch, const Operand& a, int64_t offset, int64_t rows, char*) const override {
    const auto item = static_cast<int64_t>(itemsize(a.dtype));
    const char* source = static_cast<const char*>(a.data) + offset * item;
    for (int64_t r0 = 0; r0 < rows; r0 += kRows) {
      const int64_t nr = std::min(kRows, rows - r0);
      if (a.dtype == DType::bf16 && (s_.ak == 1 || s_.K == 1)) {  // pairs already
        for (int64_t r = r0; r < r0 + nr; r++) {
          auto* to = reinterpret_cast<char*>(out + r * pitch);
          std::memcpy(to, source + r * s_.am * item, static_cast<size_t>(s_.K * item));
          if (s_.K % 2) std::memset(to + s_.K * item, 0, static_cast<size_t>(item));
        }
        continue;
      }
      if (a.dtype == DType::f32 && (s_.ak == 1 || s_.K == 1)) {
        for (int64_t r = r0; r < r0 + nr; r++) round_row(out + r * pitch, reinterpret_cast<const float*>(source) + r * s_.am, s_.K);
        continue;
      }
      for (int64_t k = 0; k < s_.K; k += kSteps) {
        float buffer[kRows * kSteps];
        const int64_t nk = std::min(kSteps, s_.K - k);
        copy_matrix(buffer, kSteps, source + (r0 * s_.am + k * s_.ak) * item, a.dtype, s_.am, s_.ak, nr, nk);
        for (int64_t r = 0; r < nr; r++) round_row(out + (r0 + r) * pitch + k / 2, buffer + r * kSteps, nk);
      }
    }
  }

  static void round_row(float* out, const float* x, int64_t n) {
    int64_t k = 0;
    for (; k + 2 * W <= n; k += 2 * W) store(out + k / 2, to_pairs(load(x + k), load(x + k + W)));
    const int rest = static_cast<int>(n - k);
    if (rest > 0) store_n(out + k / 2, to_pairs(load_n(x + k, rest), load_n(x + k + W, rest - W)), (rest + 1) / 2);
  }

  void pack_panel(char* out, const Operand& b, int64_t offset, int64_t, int64_t n) const override {
    const auto item = static_cast<int64_t>(itemsize(b.dtype));
    auto* to = reinterpret_cast<float*>(out);
    for (int64_t k = 0; k < s_.K; k += kSteps) {
      float buffer[kSteps * kColumns] = {};
      const int64_t nk = std::min(kSteps, s_.K - k);
      copy_matrix(buffer, kColumns, static_cast<const char*>(b.data) + (offset + k * s_.bk) * item, b.dtype, s_.bk, s_.bn, nk, n);
      for (int64_t i = 0; i < nk; i += 2, to += kColumns)
        for (int j = 0; j < kVectors; j++) {
          const vu even = rounded(load(buffer + i * kColumns + j * W)), odd = rounded(load(buffer + (i + 1) * kColumns + j * W));
          store(to + j * W, (vf)(even >> 16 | (odd & 0xffff0000u)));
        }
    }
  }

  // bf16 in the upper half of every lane, to nearest even.
  static vu rounded(vf x) {
    const vu u = (vu)x;
    return (vi)(u & 0x7fffffffu) > 0x7f800000 ? u | 0x400000u : u + 0x7fffu + (u >> 16 & 1u);
  }

  const float* units(const char* panel, int64_t k0, int64_t, float*) const override {
    return reinterpret_cast<const float*>(panel) + k0 * kColumns;
  }

  void tile(int mr, const TileArgs<float>& g, const At&, const char*) const override {
    static constexpr TileFn<float> small[] = {nullptr, small_pair_tile<1, kSets>, small_pair_tile<2, kSets>, small_pair_tile<3, kSets / 2>,
                                              small_pair_tile<4, kSets / 2>};
    (few_rows() ? small[mr] : pick(mr, std::make_integer_sequence<int, kMaxRows[kVectors]>()))(g);
  }
};

}  // namespace

std::unique_ptr<Kernel> make_gemm_bf16(LaunchDesc desc, const GemmShape& s, BindContext& bind) {
  if (!cpu_has_bf16()) return make_gemm_halves(std::move(desc), s, DType::bf16, true, bind);
  return std::make_unique<Bf16Gemm>(std::move(desc), s, bind);
}

#else

std::unique_ptr<Kernel> make_gemm_bf16(LaunchDesc desc, const GemmShape& s, BindContext& bind) {
  return make_gemm_halves(std::move(desc), s, DType::bf16, true, bind);
}

#endif

}  // namespace ptrt::PTRT_LEVEL
