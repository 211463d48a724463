// What resampling is made of: weighted sums of rows, and of the elements of one row that a table names.
#pragma once
#include <algorithm>

#include "cpu/lanes.h"
#include "cpu/resample_table.h"

namespace ptrt::PTRT_LEVEL {
namespace {

// out[i] = sum over t < taps of weight[t] * (x + at[t] * pitch)[i], i < n, times `scale`; `add`: added to out[i]. T: taps, 0 if not known.
template <int T, class C>
PTRT_INLINE void weighted_row(C* out, int64_t n, const C* x, const int64_t* at, int64_t pitch, const C* weight, int64_t taps, C scale,
                              bool add) {
  using V = typename Lanes<C>::V;
  constexpr int L = Lanes<C>::n;
  constexpr int kBlock = 4;
  if (T) taps = T;
  auto finish = [&](V a, C* to, int left) {
    if (scale != 1) a *= splat(scale);
    if (add) a += load_n(to, left);
    store_n(to, a, left);
  };
  int64_t i = 0;
  for (; i + kBlock * L <= n; i += kBlock * L) {
    V a[kBlock];
    PTRT_UNROLL for (int k = 0; k < kBlock; k++) a[k] = splat(weight[0]) * load(x + at[0] * pitch + i + k * L);
    for (int64_t t = 1; t < taps; t++)
      PTRT_UNROLL for (int k = 0; k < kBlock; k++) a[k] += splat(weight[t]) * load(x + at[t] * pitch + i + k * L);
    PTRT_UNROLL for (int k = 0; k < kBlock; k++) finish(a[k], out + i + k * L, L);
  }
  for (; i < n; i += L) {
    int left = L;
    if (i + L > n && n >= L && !add) i = n - L;  // a few elements twice
    else if (i + L > n) left = static_cast<int>(n - i);
    V a = splat(weight[0]) * load_n(x + at[0] * pitch + i, left);
    for (int64_t t = 1; t < taps; t++) a += splat(weight[t]) * load_n(x + at[t] * pitch + i, left);
    finish(a, out + i, left);
  }
}

// A line of vectors of n elements, `ys` apart, each from its own `taps` rows.
template <class C>
PTRT_NOINLINE void weighted_line(C* out, int64_t outputs, int64_t ys, int64_t n, const C* x, int64_t pitch, const int64_t* at,
                                 const C* weight, int64_t taps) {
  if (taps == 2)
    for (int64_t o = 0; o < outputs; o++, at += 2, weight += 2) weighted_row<2, C>(out + o * ys, n, x, at, pitch, weight, 2, 1, false);
  else
    for (int64_t o = 0; o < outputs; o++, at += taps, weight += taps)
      weighted_row<0, C>(out + o * ys, n, x, at, pitch, weight, taps, 1, false);
}

// The lanes of one vector: p[at[i]]. WINDOW: all at[i] are within that many vectors, which may be read.
template <class C>
constexpr int kWindow = 0;  // the most
#if defined(__AVX512F__)
template <>
constexpr int kWindow<float> = 2;
template <>
constexpr int kWindow<double> = 2;
template <int WINDOW>
PTRT_INLINE vf pick(const float* p, const int32_t* at) {
  const __m512i i = _mm512_loadu_si512(at);
  if (WINDOW == 0) return (vf)_mm512_i32gather_ps(i, p, 4);
  if (WINDOW == 1) return (vf)_mm512_permutexvar_ps(i, _mm512_loadu_ps(p));
  return (vf)_mm512_permutex2var_ps(_mm512_loadu_ps(p), i, _mm512_loadu_ps(p + W));
}
template <int WINDOW>
PTRT_INLINE vd pick(const double* p, const int32_t* at) {
  const __m256i i = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  if (WINDOW == 0) return (vd)_mm512_i32gather_pd(i, p, 8);
  if (WINDOW == 1) return (vd)_mm512_permutexvar_pd(_mm512_cvtepi32_epi64(i), _mm512_loadu_pd(p));
  return (vd)_mm512_permutex2var_pd(_mm512_loadu_pd(p), _mm512_cvtepi32_epi64(i), _mm512_loadu_pd(p + WD));
}
#elif defined(__AVX2__)
template <>
constexpr int kWindow<float> = 2;
template <int WINDOW>
PTRT_INLINE vf pick(const float* p, const int32_t* at) {
  const __m256i i = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  if (WINDOW == 0) return (vf)_mm256_i32gather_ps(p, i, 4);
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(p), i);
  if (WINDOW == 1) return (vf)low;
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(p + W), i);
  return (vf)_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28)));
}
template <int WINDOW>
PTRT_INLINE vd pick(const double* p, const int32_t* at) {
  return (vd)_mm256_i32gather_pd(p, _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)), 8);
}
#else
template <int WINDOW, class C>
PTRT_INLINE typename Lanes<C>::V pick(const C* p, const int32_t* at) {
  typename Lanes<C>::V v = {};
  PTRT_UNROLL for (int i = 0; i < Lanes<C>::n; i++) v[i] = p[at[i]];
  return v;
}
#endif

template <class C>
PTRT_INLINE const C* weights(const std::vector<float>& f32, const std::vector<double>& f64) {
  if constexpr (sizeof(C) == 4) return f32.data();
  else return f64.data();
}

template <int WINDOW, class C>
PTRT_INLINE void resample_line_as(const ResampleLine& line, bool nearest, const C* x, C* out) {
  if constexpr (WINDOW <= kWindow<C>) {
    constexpr int L = Lanes<C>::n;
    const int32_t *at = line.at.data(), *base = line.base.data();
    const C* w = weights<C>(line.weight32, line.weight);
    for (int64_t i = 0; i < line.n; i += L) {
      auto a = pick<WINDOW>(x + *base, at);
      if (!nearest) {
        a *= load(w);
        for (int64_t k = 1; k < line.taps; k++) a += load(w + k * L) * pick<WINDOW>(x + base[k], at + k * L);
        w += line.taps * L;
      }
      at += line.taps * L;
      base += line.taps;
      store_n(out + i, a, static_cast<int>(std::min<int64_t>(L, line.n - i)));
    }
  }
}

// The line `out` of the line x.
template <class C>
PTRT_NOINLINE void resample_line(const ResampleLine& line, bool nearest, const C* x, C* out) {
  if (line.window == 1) resample_line_as<1>(line, nearest, x, out);
  else if (line.window == 2) resample_line_as<2>(line, nearest, x, out);
  else resample_line_as<0>(line, nearest, x, out);
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
