// The transforms of Winograd's F(4x4, 3x3), F(2x2, 3x3) and, in one dimension, F(9 - k, k) (Lavin & Gray 2016), on one vector of channels
// at a time.
#pragma once
#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {
namespace {

template <int F>
struct Winograd;

template <>
struct Winograd<4> {
  static constexpr int A = 6, M = 4;  // input and output tile sizes
  // The points of interpolation are 0, +-P, +-Q and infinity. Against the usual 1 and 2 these halve the rounding error (its maximum falls
  // to a quarter), and all their powers used here are exact in float32.
  static constexpr double P = 0.625, Q = 1.5, PP = P * P, QQ = Q * Q;
  static PTRT_INLINE void input(const vf* d, vf* o) {
    constexpr float p = P, q = Q, pp = PP, qq = QQ, product = PP * QQ, sum = PP + QQ;
    const vf a = d[4] - qq * d[2], b = p * (d[3] - qq * d[1]), c = d[4] - pp * d[2], e = q * (d[3] - pp * d[1]);
    o[0] = product * d[0] - sum * d[2] + d[4];
    o[1] = a + b;
    o[2] = a - b;
    o[3] = c + e;
    o[4] = c - e;
    o[5] = product * d[1] - sum * d[3] + d[5];
  }
  // The factors that make the transform of a weight an interpolation (1 / (P P Q Q), GP and GQ) are applied here, to one sum per output
  // tile, and not to the weights: their transform is then made of powers of P and Q alone.
  static constexpr double GP = 1 / (2 * PP * (PP - QQ)), GQ = 1 / (2 * QQ * (QQ - PP));
  static PTRT_INLINE void output(const vf* m, vf* o) {
    constexpr float g = 1 / (PP * QQ), p[4] = {GP, GP * P, GP * PP, GP * PP * P}, q[4] = {GQ, GQ * Q, GQ * QQ, GQ * QQ * Q};
    const vf a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], e = m[3] - m[4];
    o[0] = g * m[0] + p[0] * a + q[0] * c;
    o[1] = p[1] * b + q[1] * e;
    o[2] = p[2] * a + q[2] * c;
    o[3] = p[3] * b + q[3] * e + m[5];
  }
  static PTRT_INLINE void weights(const vf* g, vf* o) {
    constexpr float p = P, q = Q, pp = PP, qq = QQ;
    const vf a = g[0] + pp * g[2], b = p * g[1], c = g[0] + qq * g[2], e = q * g[1];
    o[0] = g[0];
    o[1] = a + b;
    o[2] = a - b;
    o[3] = c + e;
    o[4] = c - e;
    o[5] = g[2];
  }
  static constexpr double G[A][3] = {{1, 0, 0}, {1, P, PP}, {1, -P, PP}, {1, Q, QQ}, {1, -Q, QQ}, {0, 0, 1}};
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
  // (As above: the halves of the weights' transform are applied here.)
  static PTRT_INLINE void output(const vf* m, vf* o) {
    o[0] = m[0] + 0.5f * (m[1] + m[2]);
    o[1] = 0.5f * (m[1] - m[2]) - m[3];
  }
  static PTRT_INLINE void weights(const vf* g, vf* o) {
    const vf a = g[0] + g[2];
    o[0] = g[0];
    o[1] = a + g[1];
    o[2] = a - g[1];
    o[3] = g[2];
  }
  static constexpr double G[A][3] = {{1, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 1}};
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

// One dimension: 8 points, 0, +-1, +-2, +-1/2 and infinity, for windows of k taps and 9 - k results, k = 3 .. 7. All constants of the
// transforms are exact in float32.
struct RowWinograd {
  static constexpr int A = 8;
  // o[i * step] = (B' d)[i], d read at p[x * pixel].
  static PTRT_INLINE void input(const vf* d, float* o, int64_t step) {
    store(o, d[6] - d[0] + 5.25f * (d[2] - d[4]));
    const vf a = d[6] + d[2] - 4.25f * d[4], b = d[5] + d[1] - 4.25f * d[3];
    store(o + step, a + b);
    store(o + 2 * step, a - b);
    const vf c = d[6] - 1.25f * d[4] + 0.25f * d[2], e = 2.0f * d[5] - 2.5f * d[3] + 0.5f * d[1];
    store(o + 3 * step, c + e);
    store(o + 4 * step, c - e);
    const vf f = d[6] - 5.0f * d[4] + 4.0f * d[2], g = 0.5f * d[5] - 2.5f * d[3] + 2.0f * d[1];
    store(o + 5 * step, f + g);
    store(o + 6 * step, f - g);
    store(o + 7 * step, d[7] - d[1] + 5.25f * (d[3] - d[5]));
  }
  // The M results of the products m[i * W].
  template <int M>
  static PTRT_INLINE void output(const float* m, vf* o) {
    const vf a = load(m + W), b = load(m + 2 * W), c = load(m + 3 * W), d = load(m + 4 * W), e = load(m + 5 * W), f = load(m + 6 * W);
    const vf even[3] = {a + b, c + d, e + f}, odd[3] = {a - b, c - d, e - f};
    PTRT_UNROLL for (int i = 0; i < M; i++) {
      const vf* x = i % 2 ? odd : even;
      o[i] = x[0] + static_cast<float>(1 << i) * x[1] + 1.0f / static_cast<float>(1 << i) * x[2];
    }
    o[0] += load(m);
    o[M - 1] += load(m + 7 * W);
  }
  // Row i of G for k taps, in double.
  static void weights(int i, int64_t k, double* g) {
    constexpr double points[A - 1] = {0, 1, -1, 2, -2, 0.5, -0.5};
    double scale = 1, power = 1;
    for (int j = 0; j < A - 1 && i < A - 1; j++)
      if (j != i) scale *= points[i] - points[j];
    for (int64_t x = 0; x < k; x++) {
      g[x] = i == A - 1 ? (x == k - 1) : power / scale;
      if (i < A - 1) power *= points[i];
    }
  }
};

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
