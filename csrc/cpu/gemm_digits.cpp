// gemm of f32 rows quantised to 16 bits per block of k by constant integers of 8 or 4 bits (spec.py's precision int16): a row's value is
// q = 256 * high + low of two signed bytes, so that sums of products are those of bytes, and exact:
//   y = sum over blocks of float(256 * sum(w high) + sum(w low) - zero * sum(q)) * (scale of b * scale of a)
//
// A stored panel: the values, unsigned (8 bits: [k / 4][column], four values of k in 32 bits; 4 bits: [k / 8][column], k .. k + 3 in the
// lower halves of four bytes and k + 4 .. k + 7 in the upper ones), then [block][column] scales, then zeros as bytes if they differ. A
// packed row of A: for every four values of k the four high digits, then the low ones; beside it the scales of its blocks and the sums of
// their q.
#include "cpu/simd.h"

#if defined(__AVX512VNNI__)
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "cpu/bytes.h"
#include "cpu/gemm_int8_tile.h"
#include "cpu/gemm_packed.h"
#include "cpu/narrow_weights.h"
#include "cpu/tile_finish.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int NV = PackedGemm::kVectors, kColumns = PackedGemm::kColumns;
constexpr int kMost = 32639;                 // 127 * 256 + 127: the largest number of two signed digits
constexpr float kLeast = 0x1p-100f;          // blocks of smaller values count as 0: their reciprocals would not be finite
constexpr int64_t kLongest[] = {256, 4096};  // values in a block of 8 and of 4 bits: their sums stay below 2**31
constexpr int kRows = 4;                     // of a tile

struct Digits {
  const char* values;
  const float* scales;
  const uint8_t* zeros;  // null if all are `zero`
  int32_t zero;
  int64_t K, block, blocks;
};

// `row`: of the scales of A's first row; the sums of its blocks follow, then the next row.
template <bool NIBBLES, int MR>
PTRT_NOINLINE void digit_tile(const TileArgs<float>& g, const Digits& s, const float* row) {
  constexpr int64_t kStep = 8, kStepBytes = kStep * kColumns / (NIBBLES ? 2 : 1);
  vf acc[MR][NV];
  clear(acc);
  const char* p = s.values;
  const auto* a = reinterpret_cast<const unit_t*>(g.A);
  for (int64_t b = 0; b < s.blocks; b++) {
    vi high[MR][NV], low[MR][NV];
    PTRT_UNROLL for (int i = 0; i < MR; i++) {
      const int32_t sum = reinterpret_cast<const unit_t*>(row)[(2 * i + 1) * s.blocks + b];
      PTRT_UNROLL for (int j = 0; j < NV; j++) {
        high[i][j] = vi{};
        if (s.zeros) low[i][j] = widened<uint8_t>(s.zeros + b * kColumns + j * W) * -sum;
        else low[i][j] = splat(-s.zero * sum);
      }
    }
    for (int64_t k = std::min(s.block, s.K - b * s.block); k > 0; k -= kStep) {
      vi w[2][NV];
      PTRT_UNROLL for (int j = 0; j < NV; j++) {
        const vi x = load(reinterpret_cast<const int32_t*>(p + j * kVecBytes));
        w[0][j] = NIBBLES ? x & 0x0f0f0f0f : x;
        w[1][j] = NIBBLES ? (x >> 4) & 0x0f0f0f0f : load(reinterpret_cast<const int32_t*>(p + kStepBytes / 2 + j * kVecBytes));
      }
      PTRT_UNROLL for (int at = 0; at < kStepBytes; at += 64) __builtin_prefetch(p + kAhead + at, 0, 3);
      PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int u = 0; u < 2; u++) {
        const vi ah = splat(a[i * g.lda + 2 * u]), al = splat(a[i * g.lda + 2 * u + 1]);
        PTRT_UNROLL for (int j = 0; j < NV; j++) high[i][j] = dot_unit(high[i][j], w[u][j], ah);
        PTRT_UNROLL for (int j = 0; j < NV; j++) low[i][j] = dot_unit(low[i][j], w[u][j], al);
      }
      p += kStepBytes;
      a += 4;
    }
    PTRT_UNROLL for (int j = 0; j < NV; j++) {
      const vf scale = load(s.scales + b * kColumns + j * W);
      PTRT_UNROLL for (int i = 0; i < MR; i++) acc[i][j] +=
          to_float((high[i][j] << 8) + low[i][j]) * (scale * splat(row[2 * i * s.blocks + b]));
    }
  }
  finish<float, MR, NV>(g, acc);
}

class DigitGemm final : public PackedGemm {
 public:
  DigitGemm(LaunchDesc d, const GemmShape& shape, int64_t block, bool pairs, BindContext& bind)
      : PackedGemm(std::move(d), shape), weights_(desc, s_.K, block, pairs, bind) {
    shift_ = in(1).dtype == DType::i8 ? 128 : in(1).dtype == DType::i4 ? 8 : 0;
    values_bytes_ = static_cast<int64_t>(checked_bytes((s_.K + 7) / 8, kColumns * 8 / (weights_.nibbles ? 2 : 1), 1, 1));
    zero_ = static_cast<int32_t>(weights_.zeros.first) + shift_;
    zeros_ = !weights_.zeros.same;
    Format f;
    f.name = "int16 by int" + std::to_string(weights_.nibbles ? 4 : 8);
    f.key = weights_.key();
    f.per_unit = 2;  // two digits of one byte each
    f.block_units = 0;
    f.speed = 2;
    f.pack_a = true;
    f.panel_bytes = values_bytes_ + static_cast<int64_t>(checked_bytes(weights_.blocks, kColumns * (zeros_ ? 5 : 4), 1, 1));
    f.panel_bytes = (f.panel_bytes + 63) / 64 * 64;
    f.row_bytes = static_cast<int64_t>(checked_bytes(weights_.blocks, 8, 1, 1));
    setup(f, bind);
  }

 private:
  static uint32_t apart(uint32_t four) {  // halves of bytes into the lower halves of bytes
    four = (four | four << 8) & 0x00ff00ff;
    return (four | four << 4) & 0x0f0f0f0f;
  }

  void pack_panel(char* out, const Operand& b, int64_t offset, int64_t n0, int64_t n) const override {
    auto* to = reinterpret_cast<uint8_t*>(out);
    std::fill(to, to + values_bytes_, uint8_t{0});
    for (int64_t j = 0; j < n; j++) {
      const int64_t column = offset + j * s_.bn;
      if (weights_.nibbles) {
        for (int64_t k = 0; k < s_.K; k += 8) {
          const uint32_t word = weights_.eight(b, column, s_.bk, k, s_.K, shift_);
          reinterpret_cast<uint32_t*>(out)[k / 8 * kColumns + j] = apart(word & 0xffff) | apart(word >> 16) << 4;
        }
      } else {
        for (int64_t k = 0; k < s_.K; k++)
          to[(k / 4 * kColumns + j) * 4 + k % 4] = static_cast<uint8_t>(weights_.value(b, column, s_.bk, k) + shift_);
      }
    }
    auto* scales = reinterpret_cast<float*>(out + values_bytes_);
    auto* zeros = reinterpret_cast<uint8_t*>(scales + weights_.blocks * kColumns);
    weights_.each_parameter(n0, n, kColumns, [&](int64_t at, float scale, float zero) {
      scales[at] = scale;
      if (zeros_) zeros[at] = static_cast<uint8_t>(static_cast<int32_t>(zero) + shift_);
    });
  }

  void pack_rows(float* out, int64_t pitch, const Operand& a, int64_t offset, int64_t rows, char* beside) const override {
    constexpr int64_t kPiece = 256;
    float buffer[kPiece];
    const auto item = static_cast<int64_t>(itemsize(a.dtype));
    const int64_t blocks = weights_.blocks, block = weights_.block;
    for (int64_t r = 0; r < rows; r++) {
      const char* source = static_cast<const char*>(a.data) + (offset + r * s_.am) * item;
      const auto piece = [&](int64_t k, int64_t n) {  // values k .. k + n
        if (a.dtype == DType::f32 && s_.ak == 1) return reinterpret_cast<const float*>(source) + k;
        copy_matrix(buffer, kPiece, source + k * s_.ak * item, a.dtype, 0, s_.ak, 1, n);
        return static_cast<const float*>(buffer);
      };
      auto* scales = reinterpret_cast<float*>(beside) + 2 * r * blocks;
      auto* sums = reinterpret_cast<int32_t*>(scales + blocks);
      auto* to = reinterpret_cast<int32_t*>(out + r * pitch);
      for (int64_t b = 0; b < blocks; b++) {
        const int64_t first = b * block, end = std::min(s_.K, first + block);
        vi most = {};
        for (int64_t k = first; k < end; k += kPiece) {
          const int64_t n = std::min(kPiece, end - k);
          const float* x = piece(k, n);
          for (int64_t i = 0; i < n; i += W) {
            const vi bits = (vi)load_n(x + i, static_cast<int>(std::min<int64_t>(W, n - i))) & 0x7fffffff;
            most = bits > most ? bits : most;
          }
        }
        int32_t largest = 0;
        for (int i = 0; i < W; i++) largest = std::max(largest, most[i]);
        float range;
        std::memcpy(&range, &largest, 4);
        const bool finite = largest < 0x7f800000;
        const float inverse = finite && range >= kLeast ? kMost / range : 0.0f;
        scales[b] = finite ? inverse > 0 ? range / kMost : 0.0f : std::numeric_limits<float>::quiet_NaN();
        vi sum = {};
        for (int64_t k = first; k < end; k += kPiece) {
          const int64_t n = std::min(kPiece, end - k);
          const float* x = piece(k, n);
          for (int64_t i = 0; i < n; i += W)
            sum += quantise(to + (k + i) / 2, load_n(x + i, static_cast<int>(std::min<int64_t>(W, n - i))), inverse, (n - i + 7) / 8);
        }
        sums[b] = 0;
        for (int i = 0; i < W; i++) sums[b] += sum[i];
      }
    }
  }

  // The digits of W values, of which the first `eights` times eight are stored.
  static PTRT_INLINE vi quantise(int32_t* to, vf x, float inverse, int64_t eights) {
    vi q = inverse > 0 ? rounded(x * inverse) : vi{};
    q = q > kMost ? splat(kMost) : q < -kMost ? splat(-kMost) : q;
    const vi high = (q + 128) >> 8, low = q - (high << 8);
    const __m128i h = _mm512_maskz_cvtepi32_epi8((__mmask16)-1, (__m512i)high), l = _mm512_maskz_cvtepi32_epi8((__mmask16)-1, (__m512i)low);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_unpacklo_epi32(h, l));
    if (eights > 1) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 4), _mm_unpackhi_epi32(h, l));
    return q;
  }

  const float* units(const char* panel, int64_t, int64_t, float*) const override { return reinterpret_cast<const float*>(panel); }

  void tile(int mr, const TileArgs<float>& whole, const At&, const char* beside) const override {
    using Tile = void (*)(const TileArgs<float>&, const Digits&, const float*);
    static constexpr Tile tiles[][kRows] = {{digit_tile<false, 1>, digit_tile<false, 2>, digit_tile<false, 3>, digit_tile<false, 4>},
                                            {digit_tile<true, 1>, digit_tile<true, 2>, digit_tile<true, 3>, digit_tile<true, 4>}};
    TileArgs<float> g = whole;
    const char* panel = reinterpret_cast<const char*>(g.B);
    const auto* scales = reinterpret_cast<const float*>(panel + values_bytes_);
    const auto* zeros = reinterpret_cast<const uint8_t*>(scales + weights_.blocks * kColumns);
    const Digits digits{panel, scales, zeros_ ? zeros : nullptr, zero_, s_.K, weights_.block, weights_.blocks};
    const auto* row = reinterpret_cast<const float*>(beside);
    for (int m; mr; mr -= m) {
      m = std::min(mr, kRows);
      tiles[weights_.nibbles][m - 1](g, digits, row);
      g.A += m * g.lda;
      g.C += m * g.ldc;
      if (g.R) g.R += m * g.ldr;
      row += 2 * m * weights_.blocks;
    }
  }

  NarrowWeights weights_;
  int32_t shift_, zero_ = 0;
  bool zeros_ = false;
  int64_t values_bytes_;
};

}  // namespace

bool takes_digits(const LaunchDesc& d, int64_t K, int64_t block_or_all, bool pairs, BindContext& bind) {
  const NarrowWeights w(d, K, block_or_all, pairs, bind);
  return w.block <= kLongest[w.nibbles] && (w.blocks == 1 || w.block % 8 == 0) && w.zeros.in_format;
}

std::unique_ptr<Kernel> make_gemm_digits(LaunchDesc desc, const GemmShape& s, int64_t block, bool pairs, BindContext& bind) {
  return std::make_unique<DigitGemm>(std::move(desc), s, block, pairs, bind);
}

}  // namespace ptrt::PTRT_LEVEL
#endif
