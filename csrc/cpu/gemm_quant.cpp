// gemm in 8 bits with f32 operands: a constant B is kept as int8 with a scale per column, rows of A are quantised to uint8 with a scale and
// a zero point each when they are packed, the sum of products is exact, and becomes f32 in registers:
//   y = float(sum qa qb - zero[m] * sum qb) * (scale_a[m] * scale_b[n])
// A stored panel is its units (gemm_int8_tile.h), then the scales and the sums of its columns. A B that comes as int8 with a scale is kept
// as it is.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/bytes.h"
#include "cpu/gemm_int8_tile.h"
#include "cpu/gemm_packed.h"
#include "cpu/tile_finish.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int NV = PackedGemm::kVectors, kColumns = PackedGemm::kColumns;
static_assert(kColumns == kIntColumns, "a unit's row is as long as in the integer kernel");
constexpr int64_t kMaxK = int64_t{1} << 16;  // sums of 255 * 127 stay below 2**31
constexpr float kLeast = 0x1p-100f;          // ranges below count as zero: their reciprocals would not be finite

struct RowScale {
  float scale;
  int32_t zero;
};

// SETS > 1: for few rows; k is split over accumulator sets, and B is prefetched within the panel.
template <int MR, int SETS>
PTRT_NOINLINE void quant_tile(const TileArgs<float>& g, const RowScale* rows) {
  vi acc[SETS][MR][NV];
  PTRT_UNROLL for (int u = 0; u < SETS; u++) PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++)
      acc[u][i][j] = vi{};
  if (g.K >= 32) prefetch_results<float, MR, NV>(g);
  const int64_t lda = g.lda, lda3 = 3 * lda;
  const auto *a0 = reinterpret_cast<const unit_t*>(g.A), *a1 = a0 + 5 * lda, *a2 = a0 + 10 * lda;  // as in gemm_tile.cpp
  const auto* b = reinterpret_cast<const int32_t*>(g.B);
  const char* next = SETS > 1 ? reinterpret_cast<const char*>(g.B) + 4096 : static_cast<const char*>(g.next ? g.next : g.B);
  const auto step = [&](vi(&to)[MR][NV]) __attribute__((always_inline)) {
    vi bv[NV];
    PTRT_UNROLL for (int j = 0; j < NV; j++) bv[j] = load(b + j * W);
    b += kColumns;
    __builtin_prefetch(next, 0, SETS > 1 ? 3 : 2);
    if (SETS > 1) __builtin_prefetch(next + 64, 0, 3);
    next += SETS > 1 ? kColumns * 4 : 64;
    PTRT_UNROLL for (int i = 0; i < MR; i++) {
      const unit_t* row = i < 5 ? a0 : i < 10 ? a1 : a2;
      const int r = i % 5;
      const vi a = splat(r == 0 ? row[0] : r == 1 ? row[lda] : r == 2 ? row[2 * lda] : r == 3 ? row[lda3] : row[4 * lda]);
      PTRT_UNROLL for (int j = 0; j < NV; j++) to[i][j] = dot_unit(to[i][j], a, bv[j]);
    }
    a0++;
    a1++;
    a2++;
    asm volatile("" : "+r"(a0), "+r"(a1), "+r"(a2));
  };
  int64_t k = 0;
  for (; k + SETS <= g.K; k += SETS) {
    PTRT_UNROLL for (int u = 0; u < SETS; u++) step(acc[u]);
  }
  for (; k < g.K; k++) step(acc[0]);
  const auto* scales = reinterpret_cast<const float*>(b);
  const int32_t* sums = b + kColumns;
  add_sets(acc);
  vf out[MR][NV];
  PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) {
    const vi x = acc[0][i][j] - splat(rows[i].zero) * load(sums + j * W);
    out[i][j] = __builtin_convertvector(x, vf) * (splat(rows[i].scale) * load(scales + j * W));
  }
  finish<float, MR, NV>(g, out);
}

using TileQuant = void (*)(const TileArgs<float>&, const RowScale*);

template <int... I>
TileQuant pick(int mr, std::integer_sequence<int, I...>) {
  static constexpr TileQuant fns[] = {nullptr, quant_tile<I + 1, 1>...};
  return fns[mr];
}

// The smallest and largest value and the largest magnitude's bits (at least those of infinity if a value is not finite).
struct Range {
  float lo = 0, hi = 0;
  int32_t bits = 0;

  void add(const float* x, int64_t n) {
    vf low = splat(lo), high = splat(hi);
    vi most = splat(bits);
    for (int64_t k = 0; k < n; k += W) {
      const vf v = load_n(x + k, static_cast<int>(std::min<int64_t>(W, n - k)));
      const vi u = (vi)v & 0x7fffffff;
      most = u > most ? u : most;
      low = vmin(v, low);
      high = vmax(v, high);
    }
    for (int i = 0; i < W; i++) {
      lo = std::min(lo, low[i]);
      hi = std::max(hi, high[i]);
      bits = std::max(bits, most[i]);
    }
  }
  bool finite() const { return bits < 0x7f800000; }
};

class QuantGemm final : public PackedGemm {
 public:
  QuantGemm(LaunchDesc d, const GemmShape& shape, BindContext& bind) : PackedGemm(std::move(d), shape) {
    if (s_.K > kMaxK) throw KernelError("gemm: int8 takes sums of at most 65536 products");
    Format f;
    f.name = "int8 of " + std::to_string(static_cast<int>(in(s_.ib).dtype));
    if (const Operand* scale = optional_input(desc, 4)) f.key = std::to_string(reinterpret_cast<uintptr_t>(scale->data));
    f.per_unit = kUnit;
    f.block_units = 0;
    f.speed = kUnit;
    f.pack_a = true;
    f.panel_bytes = static_cast<int64_t>(checked_bytes((s_.K + kUnit - 1) / kUnit + 2, kColumns, 4, 1));
    f.row_bytes = sizeof(RowScale);
    setup(f, bind);
  }

 private:
  static constexpr int64_t kSteps = 256;  // values of a row at a time on the way through the stack

  // Calls f(values, first k, count) for the pieces of the row of `o` that starts at `offset`; `buffer` holds kSteps values.
  template <class F>
  static void pieces(const Operand& o, int64_t offset, int64_t stride, int64_t n, float* buffer, F&& f) {
    const auto item = static_cast<int64_t>(itemsize(o.dtype));
    const char* source = static_cast<const char*>(o.data) + offset * item;
    if (o.dtype == DType::f32 && stride == 1) {
      f(reinterpret_cast<const float*>(source), int64_t{0}, n);
      return;
    }
    for (int64_t k = 0; k < n; k += kSteps) {
      const int64_t count = std::min(kSteps, n - k);
      copy_matrix(buffer, kSteps, source + k * stride * item, o.dtype, 0, stride, 1, count);
      f(static_cast<const float*>(buffer), k, count);
    }
  }

  void pack_rows(float* out, int64_t pitch, const Operand& a, int64_t offset, int64_t rows, char* beside) const override {
    const int64_t padded = (s_.K + kUnit - 1) / kUnit * kUnit;
    float buffer[kSteps];
    for (int64_t r = 0; r < rows; r++) {
      auto* to = reinterpret_cast<StoreA*>(out + r * pitch);
      auto& row = reinterpret_cast<RowScale*>(beside)[r];
      const int64_t at = offset + r * s_.am;
      Range range;
      pieces(a, at, s_.ak, s_.K, buffer, [&](const float* x, int64_t, int64_t n) { range.add(x, n); });
      const float width = range.hi - range.lo;
      const bool finite = range.finite() && width <= std::numeric_limits<float>::max();
      const float inverse = finite && width >= kLeast ? 255.0f / width : 0.0f;
      row.scale = finite ? inverse > 0 ? width / 255.0f : 0.0f : std::numeric_limits<float>::quiet_NaN();
      row.zero = inverse > 0 ? static_cast<int32_t>(std::nearbyint(-range.lo * inverse)) : 0;
      if (inverse > 0)
        pieces(a, at, s_.ak, s_.K, buffer, [&](const float* x, int64_t k, int64_t n) { quantise(to + k, x, n, inverse, row.zero); });
      else std::fill(to, to + s_.K, StoreA{0});
      std::fill(to + s_.K, to + padded, StoreA{0});
    }
  }

  // to = clamp(round(x * inverse) + zero, 0, 255)
  static void quantise(StoreA* to, const float* x, int64_t n, float inverse, int32_t zero) {
    typedef StoreA bytes __attribute__((vector_size(W * sizeof(StoreA)), aligned(1), may_alias));
    const vi most = splat(int32_t{255}), least = vi{}, offset = splat(zero);
    for (int64_t k = 0; k < n; k += W) {
      const int rest = static_cast<int>(std::min<int64_t>(W, n - k));
      vi q = rounded(load_n(x + k, rest) * inverse) + offset;
      q = q > most ? most : q;
      q = q < least ? least : q;
#if defined(__AVX512VNNI__)
      const bytes narrow = (bytes)_mm512_maskz_cvtepi32_epi8((__mmask16)-1, (__m512i)q);
#else
      const bytes narrow = __builtin_convertvector(q, bytes);
#endif
      if (rest == W) *reinterpret_cast<bytes*>(to + k) = narrow;
      else std::memcpy(to + k, &narrow, static_cast<size_t>(rest) * sizeof(StoreA));
    }
  }

  void pack_panel(char* out, const Operand& b, int64_t offset, int64_t n0, int64_t n) const override {
    const Operand* scale = optional_input(desc, 4);
    const int64_t units = (s_.K + kUnit - 1) / kUnit;
    auto* to = reinterpret_cast<StoreB*>(out);
    auto* scales = reinterpret_cast<float*>(out + units * kColumns * 4);
    auto* sums = reinterpret_cast<int32_t*>(scales + kColumns);
    std::fill(to, to + units * kColumns * kUnit, StoreB{0});
    float buffer[kSteps];
    for (int64_t j = 0; j < kColumns; j++) {
      scales[j] = 0;
      sums[j] = 0;
      if (j >= n) continue;
      const auto put = [&](int64_t k, int32_t q) {
        to[(k / kUnit * kColumns + j) * kUnit + k % kUnit] = static_cast<StoreB>(q);
        sums[j] += q;
      };
      if (scale) {
        const int r = scale->ndim;
        scales[j] = scale->as<const float>()[scale->shape[r - 1] == 1 ? 0 : (n0 + j) * scale->strides[r - 1]];
        for (int64_t k = 0; k < s_.K; k++) put(k, b.as<const int8_t>()[offset + k * s_.bk + j * s_.bn]);
        continue;
      }
      Range range;
      pieces(b, offset + j * s_.bn, s_.bk, s_.K, buffer, [&](const float* x, int64_t, int64_t count) { range.add(x, count); });
      const float most = std::max(range.hi, -range.lo), inverse = range.finite() && most >= kLeast ? 127.0f / most : 0.0f;
      scales[j] = range.finite() ? inverse > 0 ? most / 127.0f : 0.0f : std::numeric_limits<float>::quiet_NaN();
      if (!(inverse > 0)) continue;
      pieces(b, offset + j * s_.bn, s_.bk, s_.K, buffer, [&](const float* x, int64_t k0, int64_t count) {
        for (int64_t k = 0; k < count; k++) put(k0 + k, static_cast<int32_t>(std::nearbyint(x[k] * inverse)));
      });
    }
  }

  const float* units(const char* panel, int64_t, int64_t, float*) const override { return reinterpret_cast<const float*>(panel); }

  void tile(int mr, const TileArgs<float>& g, const At&, const char* beside) const override {
    static constexpr TileQuant small[] = {nullptr, quant_tile<1, kSets>, quant_tile<2, kSets>, quant_tile<3, kSets / 2>,
                                          quant_tile<4, kSets / 2>};
    const auto* rows = reinterpret_cast<const RowScale*>(beside);
    (few_rows() ? small[mr] : pick(mr, std::make_integer_sequence<int, kMaxRows[NV]>()))(g, rows);
  }
};

}  // namespace

std::unique_ptr<Kernel> make_gemm_quant(LaunchDesc desc, const GemmShape& s, BindContext& bind) {
  return std::make_unique<QuantGemm>(std::move(desc), s, bind);
}

}  // namespace ptrt::PTRT_LEVEL
