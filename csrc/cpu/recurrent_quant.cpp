#include "cpu/recurrent_quant.h"

namespace ptrt::PTRT_LEVEL {
namespace {

PTRT_INLINE vi pairs(vi acc, vi a, vi b) {  // acc + a.lo * b.lo + a.hi * b.hi in every 32-bit lane, lo and hi being int16 halves
#if defined(__AVX512VNNI__)
  return (vi)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
  return acc + (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return acc + (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return acc + (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  return acc + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}

template <int MR, int NV, int SETS>
PTRT_NOINLINE void quant_tile(int64_t words, const int32_t* a, int64_t lda, const int32_t* b, float a_scale, const float* scale,
                              const float* add, int64_t ldadd, float* c, int64_t ldc) {
  vi acc[SETS][MR][NV];
  PTRT_UNROLL for (int s = 0; s < SETS; s++) PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++)
      acc[s][i][j] = vi{};
  int64_t k = 0;
  for (; k + SETS <= words; k += SETS) {
    PTRT_UNROLL for (int s = 0; s < SETS; s++) {
      PTRT_UNROLL for (int j = 0; j < NV; j++) {
        const vi w = load(b + j * W);
        PTRT_UNROLL for (int i = 0; i < MR; i++) acc[s][i][j] = pairs(acc[s][i][j], splat(a[i * lda + k + s]), w);
      }
      b += NV * W;
    }
  }
  for (; k < words; k++, b += NV * W)
    PTRT_UNROLL for (int j = 0; j < NV; j++) PTRT_UNROLL for (int i = 0; i < MR; i++) acc[0][i][j] =
        pairs(acc[0][i][j], splat(a[i * lda + k]), load(b + j * W));
  PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) {
    vi sum = acc[0][i][j];
    PTRT_UNROLL for (int s = 1; s < SETS; s++) sum += acc[s][i][j];
    vf x = __builtin_convertvector(sum, vf) * (load(scale + j * W) * a_scale);
    if (add) x += load(add + i * ldadd + j * W);
    store(c + i * ldc + j * W, x);
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
  lo = -hmax(-vlo);
  hi = hmax(vhi);
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
  int16_t* out = reinterpret_cast<int16_t*>(words);
  for (int64_t i = 0; i < k; i += W) {
    const int n = static_cast<int>(k - i < W ? k - i : W);
    vf v = load_n(x + i, n) / q.scale;
    v = vmin(hi, vmax(lo, v));
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest even integer
    const vi r = (vi)(v + magic) - (vi)splat(magic);
    for (int j = 0; j < n; j++) out[i + j] = static_cast<int16_t>(r[j]);
  }
  if (k & 1) out[k] = 0;
}

void quant_gemm(int64_t m, int64_t words, const int32_t* a, int64_t lda, const int32_t* b, int64_t vecs, float a_scale, const float* scale,
                const float* add, int64_t ldadd, float* c, int64_t ldc) {
  for (int64_t v = 0; v < vecs; v += 2) {
    const bool two = v + 1 < vecs;
    const int32_t* panel = b + v * W * words;
    for (int64_t i = 0; i < m;) {
      const int32_t* ai = a + i * lda;
      const float* di = add ? add + i * ldadd + v * W : nullptr;
      float* ci = c + i * ldc + v * W;
      const float* si = scale + v * W;
      const int64_t left = m - i;
      if (left >= 4) {
        two ? quant_tile<4, 2, 1>(words, ai, lda, panel, a_scale, si, di, ldadd, ci, ldc)
            : quant_tile<4, 1, 1>(words, ai, lda, panel, a_scale, si, di, ldadd, ci, ldc);
        i += 4;
      } else {
        two ? quant_tile<1, 2, 4>(words, ai, lda, panel, a_scale, si, di, ldadd, ci, ldc)
            : quant_tile<1, 1, 4>(words, ai, lda, panel, a_scale, si, di, ldadd, ci, ldc);
        i += 1;
      }
    }
  }
}

}  // namespace ptrt::PTRT_LEVEL
