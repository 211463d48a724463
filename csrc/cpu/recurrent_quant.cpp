#include "cpu/recurrent_quant.h"

#include "cpu/reduce_vec.h"

namespace ptrt::PTRT_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kRows = 8;  // of a tile: bounded by the number of registers
#else
constexpr int kRows = 4;
#endif
typedef StoreA narrow_t __attribute__((vector_size(W * sizeof(StoreA))));

struct Tile {
  const int32_t *a, *b, *colsum, *left;
  const float *scale, *add;
  float* c;
  int64_t lda, ldadd, ldc, words;
  int32_t zero;
  float a_scale;
};

template <int MR, int SETS>
PTRT_NOINLINE void quant_tile(const Tile& t) {
  constexpr int NV = 2;
  vi acc[SETS][MR][NV];
  PTRT_UNROLL for (int s = 0; s < SETS; s++) PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++)
      acc[s][i][j] = vi{};
  const int32_t *a = t.a, *b = t.b;
  const int64_t lda = t.lda;
  int64_t k = 0;
  for (; k + SETS <= t.words; k += SETS) {
    PTRT_UNROLL for (int s = 0; s < SETS; s++) {
      const vi w0 = load(b), w1 = load(b + W);
      PTRT_UNROLL for (int i = 0; i < MR; i++) {
        const vi x = splat(a[i * lda + k + s]);
        acc[s][i][0] = dot_unit(acc[s][i][0], x, w0);
        acc[s][i][1] = dot_unit(acc[s][i][1], x, w1);
      }
      b += NV * W;
    }
  }
  for (; k < t.words; k++, b += NV * W)
    PTRT_UNROLL for (int j = 0; j < NV; j++) PTRT_UNROLL for (int i = 0; i < MR; i++) acc[0][i][j] =
        dot_unit(acc[0][i][j], splat(a[i * lda + k]), load(b + j * W));
  PTRT_UNROLL for (int j = 0; j < NV; j++) {
    const vi zero = load(t.colsum + j * W) * t.zero, left = load(t.left + j * W);
    const vf scale = load(t.scale + j * W) * t.a_scale;
    PTRT_UNROLL for (int i = 0; i < MR; i++) {
      vi sum = acc[0][i][j];
      PTRT_UNROLL for (int s = 1; s < SETS; s++) sum += acc[s][i][j];
      vf x = __builtin_convertvector(sum - zero - left * a[i * lda + t.words], vf) * scale;
      if (t.add) x += load(t.add + i * t.ldadd + j * W);
      store(t.c + i * t.ldc + j * W, x);
    }
  }
}

}  // namespace

void QuantRange::widen(const float* x, int64_t n) {
  vf vlo = splat(lo), vhi = splat(hi);
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    vlo = vmin(load(x + i), vlo);
    vhi = vmax(load(x + i), vhi);
  }
  lo = -max_lanes(-vlo);
  hi = max_lanes(vhi);
  for (; i < n; i++) {
    lo = x[i] < lo ? x[i] : lo;
    hi = x[i] > hi ? x[i] : hi;
  }
}

void QuantRange::finish() {
  scale = lo == hi ? 1.0f : (hi - lo) / 255.0f;
  const float z = __builtin_nearbyintf(0.0f - lo / scale);
  zero = z > 0 ? (z < 255 ? static_cast<int32_t>(z) : 255) : 0;
}

void quantize_row(const QuantRange& q, const float* x, int64_t k, int32_t* words) {
  const vf lo = splat(static_cast<float>(-q.zero)), hi = splat(static_cast<float>(255 - q.zero));
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest even integer
  auto quantized = [&](vf v) { return (vi)(vmin(hi, vmax(lo, v / q.scale)) + magic) - ((vi)splat(magic) - q.zero); };
  const int64_t n = quant_words(k);
  if (n > 0) words[n - 1] = 0;  // the unused end of the last unit
  StoreA* out = reinterpret_cast<StoreA*>(words);
  vi sums = {};
  int64_t i = 0;
  for (; i + W <= k; i += W) {
    const vi r = quantized(load(x + i));
    sums += r;
    const narrow_t narrow = __builtin_convertvector(r, narrow_t);
    std::memcpy(out + i, &narrow, sizeof narrow);
  }
  int32_t sum = 0;
  for (int j = 0; j < W; j++) sum += sums[j];
  if (i < k) {
    const vi r = quantized(load_n(x + i, static_cast<int>(k - i)));
    for (int j = 0; i + j < k; j++) {
      out[i + j] = static_cast<StoreA>(r[j]);
      sum += r[j];
    }
  }
  words[n] = sum;
}

void quant_gemm(int64_t m, const int32_t* a, int64_t lda, const QuantRange& q, const QuantWeights& b, const float* add, int64_t ldadd,
                float* c, int64_t ldc) {
  Tile t;
  t.lda = lda;
  t.ldadd = ldadd;
  t.ldc = ldc;
  t.words = b.words;
  t.zero = q.zero;
  t.a_scale = q.scale;
  for (int64_t v = 0; v < b.vecs; v += 2) {
    t.b = b.panels + v * W * b.words;
    t.colsum = b.colsum + v * W;
    t.left = b.left + v * W;
    t.scale = b.scale + v * W;
    for (int64_t i = 0; i < m;) {
      t.a = a + i * lda;
      t.add = add ? add + i * ldadd + v * W : nullptr;
      t.c = c + i * ldc + v * W;
      const int64_t rest = m - i;
      if (rest >= kRows) {
        quant_tile<kRows, 1>(t);
        i += kRows;
      } else if (rest >= 4) {
        quant_tile<4, 1>(t);
        i += 4;
      } else if (rest >= 2) {
        quant_tile<2, 2>(t);
        i += 2;
      } else {
        quant_tile<1, 4>(t);
        i += 1;
      }
    }
  }
}

}  // namespace ptrt::PTRT_LEVEL
