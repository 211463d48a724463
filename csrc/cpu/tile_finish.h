// How a register tile begins and ends: partial sums in, epilogue and results out. Shared by the tiles of every arithmetic (gemm_tile.cpp,
// gemm_bf16.cpp, ...). Partial tiles (fewer than NV * lanes columns) go through a stack buffer and one shared, not unrolled epilogue, which
// keeps every instance small.
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

// Applies the epilogue to whole accumulators and stores them.
template <class T, int MR, int NV>
PTRT_INLINE void finish(const TileArgs<T>& g, V<T> (&acc)[MR][NV]) {
  constexpr int L = Lanes<T>::n;
  if (g.n < NV * L) {
    T buffer[MR * NV * L];
    PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) store(buffer + (i * NV + j) * L, acc[i][j]);
    finish_partial(g, buffer, MR, NV);
    return;
  }
  if (g.last) {
    if (g.flags & TileArgs<T>::kScale) {
      const V<T> alpha = splat(g.alpha);
      PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] *= alpha;
    }
    if (g.bias) {
      PTRT_UNROLL for (int j = 0; j < NV; j++) {
        const V<T> b = load(g.bias + j * L);
        PTRT_UNROLL for (int i = 0; i < MR; i++) acc[i][j] += b;
      }
    }
    const V<T> lo = splat(g.lo), hi = splat(g.hi);
    if (g.flags & TileArgs<T>::kClampBefore) {
      PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vmin(hi, vmax(lo, acc[i][j]));
    }
    if (g.R) {
      const T* r = g.R;
      PTRT_UNROLL for (int i = 0; i < MR; i++, r += g.ldr) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] += load(r + j * L);
    }
    if (g.flags & TileArgs<T>::kClampAfter) {
      PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vmin(hi, vmax(lo, acc[i][j]));
    }
  }
  T* c = g.C;
  PTRT_UNROLL for (int i = 0; i < MR; i++, c += g.ldc) PTRT_UNROLL for (int j = 0; j < NV; j++) store(c + j * g.cj, acc[i][j]);
}

// The accumulators that a tile starts from: zeros, or the partial sums S.
template <class T, int MR, int NV>
PTRT_INLINE void begin(const TileArgs<T>& g, V<T> (&acc)[MR][NV]) {
  constexpr int L = Lanes<T>::n;
  if (!g.S) {
    PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = V<T>{};
  } else if (g.n >= NV * L) {
    const T* s = g.S;
    PTRT_UNROLL for (int i = 0; i < MR; i++, s += g.lds) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = load(s + j * g.cj);
  } else {
    T buffer[MR * NV * L];
    load_partial(g, buffer, MR, NV);
    PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = load(buffer + (i * NV + j) * L);
  }
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
