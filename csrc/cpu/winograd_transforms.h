// The transforms of Winograd's F(4x4, 3x3) and F(2x2, 3x3) (Lavin & Gray 2016), on one vector of channels at a time.
#pragma once
#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {
namespace {

template <int F>
struct Winograd;

template <>
struct Winograd<4> {
  static constexpr int A = 6, M = 4;  // input and output tile sizes
  static PTRT_INLINE void input(const vf* d, vf* o) {
    const vf a = d[4] - 4.f * d[2], b = d[3] - 4.f * d[1], c = d[4] - d[2], e = 2.f * (d[3] - d[1]);
    o[0] = 4.f * d[0] - 5.f * d[2] + d[4];
    o[1] = a + b;
    o[2] = a - b;
    o[3] = c + e;
    o[4] = c - e;
    o[5] = 4.f * d[1] - 5.f * d[3] + d[5];
  }
  static PTRT_INLINE void output(const vf* m, vf* o) {
    const vf p = m[1] + m[2], q = m[1] - m[2], r = m[3] + m[4], s = m[3] - m[4];
    o[0] = m[0] + p + r;
    o[1] = q + 2.f * s;
    o[2] = p + 4.f * r;
    o[3] = q + 8.f * s + m[5];
  }
  static constexpr double G[A][3] = {
      {1. / 4, 0, 0}, {-1. / 6, -1. / 6, -1. / 6}, {-1. / 6, 1. / 6, -1. / 6}, {1. / 24, 1. / 12, 1. / 6}, {1. / 24, -1. / 12, 1. / 6},
      {0, 0, 1}};
};

template <>
struct Winograd<2> {
  static constexpr int A = 4, M = 2;
  static PTRT_INLINE void input(const vf* d, vf* o) {
    o[0] = d[0] - d[2];
    o[1] = d[1] + d[2];
    o[2] = d[2] - d[1];
    o[3] = d[1] - d[3];
  }
  static PTRT_INLINE void output(const vf* m, vf* o) {
    o[0] = m[0] + m[1] + m[2];
    o[1] = m[1] - m[2] - m[3];
  }
  static constexpr double G[A][3] = {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}};
};

// One input tile: V[xi * step] = (B' d B)[xi], d read at p[y * row + x * pixel].
template <int F>
PTRT_INLINE void winograd_input(const float* p, int64_t row, int64_t pixel, float* v, int64_t step) {
  constexpr int A = Winograd<F>::A;
  vf t[A][A];
  PTRT_UNROLL for (int x = 0; x < A; x++) {
    vf d[A], o[A];
    PTRT_UNROLL for (int y = 0; y < A; y++) d[y] = load(p + y * row + x * pixel);
    Winograd<F>::input(d, o);
    PTRT_UNROLL for (int y = 0; y < A; y++) t[y][x] = o[y];
  }
  PTRT_UNROLL for (int y = 0; y < A; y++) {
    vf o[A];
    Winograd<F>::input(t[y], o);
    PTRT_UNROLL for (int x = 0; x < A; x++) store(v + (y * A + x) * step, o[x]);
  }
}

// One output tile: emit(y, x, value) for the M x M results of the products m[xi * W].
template <int F, class Emit>
PTRT_INLINE void winograd_output(const float* m, Emit&& emit) {
  constexpr int A = Winograd<F>::A, M = Winograd<F>::M;
  vf t[M][A];
  PTRT_UNROLL for (int x = 0; x < A; x++) {
    vf d[A], o[M];
    PTRT_UNROLL for (int y = 0; y < A; y++) d[y] = load(m + (y * A + x) * W);
    Winograd<F>::output(d, o);
    PTRT_UNROLL for (int y = 0; y < M; y++) t[y][x] = o[y];
  }
  PTRT_UNROLL for (int y = 0; y < M; y++) {
    vf o[M];
    Winograd<F>::output(t[y], o);
    PTRT_UNROLL for (int x = 0; x < M; x++) emit(y, x, o[x]);
  }
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
