// Exact 8-bit dot products: what a packed unit of k is on this ISA level, and the register tile over it.
//
//   VNNI:    4 values of k per 32-bit unit, A as uint8, B as int8 (int8 A is stored + 128, uint8 B - 128; zero points move along)
//   others:  2 values of k per unit, both widened to int16, multiplied and added in pairs (255 * 255 * 2 fits)
#pragma once
#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {
namespace {

#if defined(__AVX512VNNI__)
constexpr int kUnit = 4;
constexpr int kShiftA = 128, kShiftB = -128;  // added to int8 A and to uint8 B
using StoreA = uint8_t;
using StoreB = int8_t;
#else
constexpr int kUnit = 2;
constexpr int kShiftA = 0, kShiftB = 0;
using StoreA = int16_t;
using StoreB = int16_t;
#endif

PTRT_INLINE vi dot_unit(vi acc, vi a, vi b) {
#if defined(__AVX512VNNI__) && defined(__clang__)
  return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#elif defined(__AVX512VNNI__)
  return (vi)__builtin_ia32_vpdpbusd_v16si((__v16si)acc, (__v16si)a, (__v16si)b);  // gcc 12 keeps __m512i accumulators in memory
#elif defined(__AVX512BW__)
  return acc + (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return acc + (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return acc + (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  return acc + (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}

#if defined(__AVX512F__)
constexpr int kIntRows = 14;
#elif defined(__aarch64__)
constexpr int kIntRows = 8;
#elif defined(__AVX2__)
constexpr int kIntRows = 6;
#else
constexpr int kIntRows = 4;
#endif
constexpr int kIntVectors = 2;
constexpr int kIntColumns = kIntVectors * W;

typedef int32_t unit_t __attribute__((may_alias));

// C[i][j] = sum over units of A[i][unit] . B[unit][j] - p[i] * cs[j] - q[i] * zb[j]; the last two terms where p, zb are not null.
struct IntTile {
  const unit_t *A, *B;
  int32_t* C;
  int64_t lda, ldc, units;
  const int32_t *p, *cs, *q, *zb;
  const float *scale, *bias;  // scale not null: C is f32, min(hi, max(lo, sum * scale[j] + bias[j]))
  float lo, hi;
  bool clamp;
  const void* next;  // 64 bytes prefetched per unit
};

template <int MR>
PTRT_NOINLINE void int_tile(const IntTile& g) {
  vi acc[MR][kIntVectors];
  PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < kIntVectors; j++) acc[i][j] = vi{};
  const int64_t lda = g.lda, lda3 = 3 * lda;
  const unit_t *a0 = g.A, *a1 = a0 + 5 * lda, *a2 = a0 + 10 * lda, *b = g.B;
  const char* next = static_cast<const char*>(g.next);
  for (int64_t k = 0; k < g.units; k++) {
    vi bv[kIntVectors];
    PTRT_UNROLL for (int j = 0; j < kIntVectors; j++) bv[j] = load(reinterpret_cast<const int32_t*>(b + j * W));
    b += kIntColumns;
    __builtin_prefetch(next, 0, 2);
    next += 64;
    PTRT_UNROLL for (int i = 0; i < MR; i++) {
      const unit_t* row = i < 5 ? a0 : i < 10 ? a1 : a2;
      const int r = i % 5;
      const vi a = splat(r == 0 ? row[0] : r == 1 ? row[lda] : r == 2 ? row[2 * lda] : r == 3 ? row[lda3] : row[4 * lda]);
      PTRT_UNROLL for (int j = 0; j < kIntVectors; j++) acc[i][j] = dot_unit(acc[i][j], a, bv[j]);
    }
    a0++;
    a1++;
    a2++;
    asm volatile("" : "+r"(a0), "+r"(a1), "+r"(a2));
  }
  if (g.p) {
    PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < kIntVectors; j++) acc[i][j] -=
        splat(g.p[i]) * load(g.cs + j * W);
  }
  if (g.zb) {
    PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < kIntVectors; j++) acc[i][j] -=
        splat(g.q[i]) * load(g.zb + j * W);
  }
  int32_t* c = g.C;
  if (g.scale) {
    const vf lo = splat(g.lo), hi = splat(g.hi);
    PTRT_UNROLL for (int i = 0; i < MR; i++, c += g.ldc) PTRT_UNROLL for (int j = 0; j < kIntVectors; j++) {
      vf x = __builtin_convertvector(acc[i][j], vf) * load(g.scale + j * W) + load(g.bias + j * W);
      if (g.clamp) x = vmin(hi, vmax(lo, x));
      store(c + j * W, (vi)x);
    }
    return;
  }
  PTRT_UNROLL for (int i = 0; i < MR; i++, c += g.ldc) PTRT_UNROLL for (int j = 0; j < kIntVectors; j++) store(c + j * W, acc[i][j]);
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
