// The transforms of Winograd's F(4x4, 3x3) (Lavin & Gray 2016), along one axis. The points of interpolation are 0, +-P, +-Q and infinity:
// against the usual 1 and 2 these halve the rounding error, and all their powers used here are exact in f32. The factors that make the
// transform of a weight an interpolation (1 / (P P Q Q), GP and GQ) are applied to results and not to weights, whose transform is made of
// powers of P and Q alone (csrc/cpu/winograd_transforms.h). F(2x2, 3x3) was rejected: it moves four floats where F(4x4) moves 2.25 and
// saves 2.25 times the multiplications instead of four. A fused kernel was rejected: the 36 positions of a tile of channels do not fit
// registers and shared memory.
#pragma once
#include "view.cuh"

constexpr int EDGE = 6, TILE = 4;  // of input and output tiles
constexpr f64 P = 0.625, Q = 1.5, PP = P * P, QQ = Q * Q;

__forceinline__ void winograd_in(const f32 (&d)[EDGE], f32 (&o)[EDGE]) {
  constexpr f32 p = P, q = Q, pp = PP, qq = QQ, product = PP * QQ, sum = PP + QQ;
  const f32 a = d[4] - qq * d[2], b = p * (d[3] - qq * d[1]), c = d[4] - pp * d[2], e = q * (d[3] - pp * d[1]);
  o[0] = product * d[0] - sum * d[2] + d[4];
  o[1] = a + b;
  o[2] = a - b;
  o[3] = c + e;
  o[4] = c - e;
  o[5] = product * d[1] - sum * d[3] + d[5];
}

__forceinline__ void winograd_out(const f32 (&m)[EDGE], f32 (&o)[TILE]) {
  constexpr f64 GP = 1 / (2 * PP * (PP - QQ)), GQ = 1 / (2 * QQ * (QQ - PP));
  constexpr f32 g = 1 / (PP * QQ), p0 = GP, p1 = GP * P, p2 = GP * PP, p3 = GP * PP * P, q0 = GQ, q1 = GQ * Q, q2 = GQ * QQ,
                q3 = GQ * QQ * Q;
  const f32 a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], e = m[3] - m[4];
  o[0] = g * m[0] + p0 * a + q0 * c;
  o[1] = p1 * b + q1 * e;
  o[2] = p2 * a + q2 * c;
  o[3] = p3 * b + q3 * e + m[5];
}
