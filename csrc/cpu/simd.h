// Vectors of the ISA level this file is being compiled for. Every csrc/cpu/*.cpp is compiled once per level with PTRT_LEVEL defined as the
// namespace name (v2, v3, v4, v4x, neon), so everything in csrc/cpu lives in `namespace ptrt::PTRT_LEVEL` or an anonymous namespace;
// nothing there may be an inline function or template of a shared namespace (the linker would keep one level's copy for all: an
// illegal-instruction trap). Standard-library templates on hot or vector code are to be avoided for the same reason.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/launch.h"
#include "core/types.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef PTRT_LEVEL
#define PTRT_LEVEL generic
#endif
// The level whose code stands for all where vectors do not matter: the lowest one that is linked (csrc/cpu/table.cpp).
#ifndef PTRT_PLAIN
#define PTRT_PLAIN PTRT_LEVEL
#endif
#define PTRT_INLINE __attribute__((always_inline)) inline
#define PTRT_UNROLL _Pragma("GCC unroll 16")
// The iterations of the loop that follows do not depend on each other.
#if defined(__clang__)
#define PTRT_IVDEP _Pragma("clang loop vectorize(assume_safety)")
#else
#define PTRT_IVDEP _Pragma("GCC ivdep")
#endif
#define PTRT_NOINLINE __attribute__((noinline))
// Keeps a loaded vector in its register: otherwise the compiler may fold the load into every use of it, or use a copy on the stack.
#if defined(__x86_64__)
#define PTRT_KEEP(v) asm volatile("" : "+v"(v))
#else
#define PTRT_KEEP(v) asm volatile("" : "+w"(v))
#endif

namespace ptrt::PTRT_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kVecBytes = 64;
#elif defined(__AVX2__)
constexpr int kVecBytes = 32;
#else
constexpr int kVecBytes = 16;
#endif

constexpr int W = kVecBytes / 4;   // float lanes
constexpr int WD = kVecBytes / 8;  // double lanes

typedef float vf __attribute__((vector_size(kVecBytes)));
typedef int32_t vi __attribute__((vector_size(kVecBytes)));
typedef uint32_t vu __attribute__((vector_size(kVecBytes)));
typedef double vd __attribute__((vector_size(kVecBytes)));
typedef int64_t vl __attribute__((vector_size(kVecBytes)));
// Unaligned, aliasing forms, used only through pointers.
typedef float vf_u __attribute__((vector_size(kVecBytes), aligned(4), may_alias));
typedef int32_t vi_u __attribute__((vector_size(kVecBytes), aligned(4), may_alias));
typedef double vd_u __attribute__((vector_size(kVecBytes), aligned(8), may_alias));

PTRT_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_u*>(p); }
PTRT_INLINE void store(float* p, vf x) { *reinterpret_cast<vf_u*>(p) = x; }
PTRT_INLINE vd load(const double* p) { return *reinterpret_cast<const vd_u*>(p); }
PTRT_INLINE void store(double* p, vd x) { *reinterpret_cast<vd_u*>(p) = x; }
PTRT_INLINE vi load(const int32_t* p) { return *reinterpret_cast<const vi_u*>(p); }
PTRT_INLINE void store(int32_t* p, vi x) { *reinterpret_cast<vi_u*>(p) = x; }
PTRT_INLINE vf splat(float x) { return x - (vf){}; }
PTRT_INLINE vd splat(double x) { return x - (vd){}; }
PTRT_INLINE vi splat(int32_t x) { return x - (vi){}; }

// n < W lanes, the others read as 0 / are left untouched. n may be <= 0.
PTRT_INLINE vf load_n(const float* p, int n) {
  if (n >= W) return load(p);
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_loadu_ps(n <= 0 ? 0 : (__mmask16)((1u << n) - 1), p);
#else
  vf r = {};
  for (int i = 0; i < n; i++) r[i] = p[i];
  return r;
#endif
}
PTRT_INLINE void store_n(float* p, vf x, int n) {
  if (n >= W) {
    store(p, x);
    return;
  }
#if defined(__AVX512F__)
  if (n > 0) _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)x);
#else
  for (int i = 0; i < n; i++) p[i] = x[i];
#endif
}

// IEEE maximum/minimum as the hardware has it: if either is NaN the second operand is returned.
// (The maskz forms avoid false "uninitialized" warnings of gcc 12.)
#if defined(__AVX512F__)
PTRT_INLINE vf vmax(vf a, vf b) { return (vf)_mm512_maskz_max_ps((__mmask16)-1, (__m512)a, (__m512)b); }
PTRT_INLINE vf vmin(vf a, vf b) { return (vf)_mm512_maskz_min_ps((__mmask16)-1, (__m512)a, (__m512)b); }
#else
PTRT_INLINE vf vmax(vf a, vf b) { return a > b ? a : b; }
PTRT_INLINE vf vmin(vf a, vf b) { return a < b ? a : b; }
#endif

// The sum of all lanes, as a tree of halves: (x[0] + x[W / 2]) + ...
PTRT_INLINE float hsum(vf x) {
#if defined(__SSE2__)
#if defined(__AVX512F__)
  const __m512d wide = (__m512d)x;
  const __m256 half = _mm256_add_ps((__m256)_mm512_castpd512_pd256(wide), (__m256)_mm512_extractf64x4_pd(wide, 1));
#elif defined(__AVX2__)
  const __m256 half = (__m256)x;
#endif
#if defined(__AVX2__)
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#else
  const __m128 four = (__m128)x;
#endif
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
  float t[W];
  store(t, x);
  for (int w = W / 2; w; w /= 2)
    for (int i = 0; i < w; i++) t[i] += t[i + w];
  return t[0];
#endif
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
