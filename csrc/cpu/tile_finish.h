// How a register tile begins and ends: zeros, partial sums, epilogue and results. Shared by the tiles of every arithmetic (gemm_tile.cpp,
// gemm_bf16.cpp, ...). Tiles that lack columns of their last vector only use a mask for it, where the level has masks. Other partial tiles
// (fewer than NV * lanes columns) go through a stack buffer and one shared, not unrolled epilogue, which keeps every instance small.
#pragma once
#include "cpu/tile.h"

namespace ptrt::PTRT_LEVEL {
namespace {

template <class T>
using V = typename Lanes<T>::V;

template <class T>
PTRT_NOINLINE void load_partial(const TileArgs<T>& g, T* buffer, int mr, int nv) {
  constexpr int L = Lanes<T>::n;
  for (int i = 0; i < mr; i++)
    for (int j = 0; j < nv; j++) store(buffer + (i * nv + j) * L, load_n(g.S + i * g.lds + j * g.cj, g.n - j * L));
}

template <class T>
PTRT_NOINLINE void finish_partial(const TileArgs<T>& g, const T* buffer, int mr, int nv) {
  constexpr int L = Lanes<T>::n;
  for (int i = 0; i < mr; i++)
    for (int j = 0; j < nv; j++) {
      const int n = g.n - j * L;
      if (n <= 0) break;
      V<T> x = load(buffer + (i * nv + j) * L);
      if (g.last) {
        if (g.flags & TileArgs<T>::kScale) x *= splat(g.alpha);
        if (g.bias) x += load_n(g.bias + j * L, n);
        if (g.flags & TileArgs<T>::kClampBefore) x = vmin(splat(g.hi), vmax(splat(g.lo), x));
        if (g.R) x += load_n(g.R + i * g.ldr + j * L, n);
        if (g.flags & TileArgs<T>::kClampAfter) x = vmin(splat(g.hi), vmax(splat(g.lo), x));
      }
      store_n(g.C + i * g.ldc + j * g.cj, x, n);
    }
}

// The last column vector of a tile, of which n columns exist: all of them, unless the level has masks.
template <class T>
struct LastVector {
#if defined(__AVX512F__)
  static constexpr bool kMasks = true;
  uint32_t mask;
  explicit LastVector(int n) : mask((1u << n) - 1) {}
  PTRT_INLINE vf load(const float* p) const { return (vf)_mm512_maskz_loadu_ps((__mmask16)mask, p); }
  PTRT_INLINE vd load(const double* p) const { return (vd)_mm512_maskz_loadu_pd((__mmask8)mask, p); }
  PTRT_INLINE void store(float* p, vf x) const { _mm512_mask_storeu_ps(p, (__mmask16)mask, (__m512)x); }
  PTRT_INLINE void store(double* p, vd x) const { _mm512_mask_storeu_pd(p, (__mmask8)mask, (__m512d)x); }
#else
  static constexpr bool kMasks = false;
  explicit LastVector(int) {}
  PTRT_INLINE V<T> load(const T* p) const { return PTRT_LEVEL::load(p); }
  PTRT_INLINE void store(T* p, V<T> x) const { PTRT_LEVEL::store(p, x); }
#endif
};

// Adds the partial sums S.
template <class T, int MR, int NV>
PTRT_INLINE void add_partial(const TileArgs<T>& g, V<T> (&acc)[MR][NV]) {
  constexpr int L = Lanes<T>::n;
  if (g.n >= NV * L) {
    const T* s = g.S;
    PTRT_UNROLL for (int i = 0; i < MR; i++, s += g.lds) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] += load(s + j * g.cj);
    return;
  }
  T buffer[MR * NV * L];
  load_partial(g, buffer, MR, NV);
  PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] += load(buffer + (i * NV + j) * L);
}

template <class T, int NV>
PTRT_INLINE void store_row(const TileArgs<T>& g, const LastVector<T>& end, bool whole, T* c, const V<T> (&x)[NV]) {
  PTRT_UNROLL for (int j = 0; j < NV - 1; j++) store(c + j * g.cj, x[j]);
  if (whole) store(c + (NV - 1) * g.cj, x[NV - 1]);
  else end.store(c + (NV - 1) * g.cj, x[NV - 1]);
}

// Adds the partial sums, applies the epilogue to whole accumulators and stores them.
template <class T, int MR, int NV>
PTRT_INLINE void finish(const TileArgs<T>& g, V<T> (&acc)[MR][NV]) {
  constexpr int L = Lanes<T>::n;
  if (g.S) add_partial<T, MR, NV>(g, acc);
  if (LastVector<T>::kMasks ? g.n <= (NV - 1) * L : g.n < NV * L) {
    T buffer[MR * NV * L];
    PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) store(buffer + (i * NV + j) * L, acc[i][j]);
    finish_partial(g, buffer, MR, NV);
    return;
  }
  const LastVector<T> end(g.n - (NV - 1) * L);
  const bool whole = g.n >= NV * L;  // masked stores cost more than plain ones, even with all lanes on
  T* c = g.C;
  if (!g.last) {
    PTRT_UNROLL for (int i = 0; i < MR; i++, c += g.ldc) store_row<T, NV>(g, end, whole, c, acc[i]);
    return;
  }
  if (g.flags & TileArgs<T>::kScale) {
    const V<T> alpha = splat(g.alpha);
    PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] *= alpha;
  }
  // One row after the other to its end, and absent steps as the identity (x + -0 is x, even for -0): stores then go on beside the
  // arithmetic, this tile's and the next one's.
  const T inf = static_cast<T>(__builtin_inf());
  V<T> bias[NV], lo = splat(-inf), hi = splat(inf);
  PTRT_UNROLL for (int j = 0; j < NV; j++) bias[j] = !g.bias      ? splat(T(-0.0))
                                                     : j < NV - 1 ? load(g.bias + j * L)
                                                                  : end.load(g.bias + j * L);
  if (g.R && (g.flags & TileArgs<T>::kClampBefore)) {
    lo = splat(g.lo), hi = splat(g.hi);
    PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vmin(hi, vmax(lo, acc[i][j] + bias[j]));
    PTRT_UNROLL for (int j = 0; j < NV; j++) bias[j] = splat(T(-0.0));
    lo = splat(-inf), hi = splat(inf);
  }
  if (g.flags & (g.R ? TileArgs<T>::kClampAfter : TileArgs<T>::kClampBefore | TileArgs<T>::kClampAfter)) lo = splat(g.lo), hi = splat(g.hi);
  const T* r = g.R;
  if (whole && !r) {
    PTRT_UNROLL for (int i = 0; i < MR; i++, c += g.ldc) PTRT_UNROLL for (int j = 0; j < NV; j++) {
      V<T> x = vmin(hi, vmax(lo, acc[i][j] + bias[j]));
      PTRT_KEEP(x);
      store(c + j * g.cj, x);
    }
    return;
  }
  PTRT_UNROLL for (int i = 0; i < MR; i++, c += g.ldc) {
    PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] += bias[j];
    if (r) {
      PTRT_UNROLL for (int j = 0; j < NV - 1; j++) acc[i][j] += load(r + j * L);
      acc[i][NV - 1] += end.load(r + (NV - 1) * L);
      r += g.ldr;
    }
    PTRT_UNROLL for (int j = 0; j < NV; j++) {
      acc[i][j] = vmin(hi, vmax(lo, acc[i][j]));
      PTRT_KEEP(acc[i][j]);
    }
    store_row<T, NV>(g, end, whole, c, acc[i]);
  }
}

// Tiles for few rows split k over accumulator sets, one per independent chain: as many as the registers hold for one or two rows.
constexpr int kSets = kMaxRows[2] > 6 ? 4 : 2;

// The sum of all sets, in set 0.
template <class VEC, int SETS, int MR, int NV>
PTRT_INLINE void add_sets(VEC (&acc)[SETS][MR][NV]) {
  PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) {
    VEC x = acc[0][i][j];
    PTRT_UNROLL for (int u = 1; u < SETS; u++) x += acc[u][i][j];
    acc[0][i][j] = x;
  }
}

template <class VEC, int MR, int NV>
PTRT_INLINE void clear(VEC (&acc)[MR][NV]) {
  PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = VEC{};
}

// Starts the misses of the output and the residual: they complete under the k loop.
template <class T, int MR, int NV>
PTRT_INLINE void prefetch_results(const TileArgs<T>& g) {
  constexpr int L = Lanes<T>::n;
  const T *c = g.C, *r = g.R;
  PTRT_UNROLL for (int i = 0; i < MR; i++, c += g.ldc) PTRT_UNROLL for (int j = 0; j < NV; j++) __builtin_prefetch(c + j * g.cj, 1, 3);
  if (r) {
    PTRT_UNROLL for (int i = 0; i < MR; i++, r += g.ldr) PTRT_UNROLL for (int j = 0; j < NV; j++) __builtin_prefetch(r + j * L, 0, 3);
  }
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
