// The elementwise half of a recurrent step: gate activations and state updates of one row (one sequence of the batch).
#pragma once
#include "core/vocabulary.h"
#include "cpu/tile.h"
#include "cpu/vmath.h"

namespace ptrt::PTRT_LEVEL {

template <class T>
struct GateActivation {
  Activation kind = Activation::sigmoid_;
  T alpha = 0, beta = 0;
};

template <class T>
struct CellConfig {  // of one direction
  GateActivation<T> f, g, h;
  T clip = 0;  // 0: none
  bool input_forget = false, linear_before_reset = false;
  bool plain = false;  // sigmoid, tanh, tanh, no clip, no peepholes, no coupling
};

namespace {

template <class T>
using Vec = typename Lanes<T>::V;

template <class F>
PTRT_INLINE vd per_lane(vd x, F f) {
  for (int i = 0; i < WD; i++) x[i] = f(x[i]);
  return x;
}
PTRT_INLINE vf act_sigmoid(vf x) { return vsigmoid(x); }
PTRT_INLINE vf act_tanh(vf x) { return vtanh(x); }
PTRT_INLINE vf act_expm1(vf x) { return vexpm1(x); }
PTRT_INLINE vf act_softplus(vf x) { return vsoftplus(x); }
PTRT_INLINE vd act_sigmoid(vd x) {
  return per_lane(x, [](double v) { return v < 0 ? __builtin_exp(v) / (1 + __builtin_exp(v)) : 1 / (1 + __builtin_exp(-v)); });
}
PTRT_INLINE vd act_tanh(vd x) {
  return per_lane(x, [](double v) { return __builtin_tanh(v); });
}
PTRT_INLINE vd act_expm1(vd x) {
  return per_lane(x, [](double v) { return __builtin_expm1(v); });
}
PTRT_INLINE vd act_softplus(vd x) {
  return per_lane(x, [](double v) { return (v > 0 ? v : 0) + __builtin_log1p(__builtin_exp(v > 0 ? -v : v)); });
}

template <class T>
PTRT_NOINLINE Vec<T> activate(const GateActivation<T>& a, Vec<T> x) {
  using V = Vec<T>;
  const V zero = {};
  switch (a.kind) {
    case Activation::sigmoid_: return act_sigmoid(x);
    case Activation::tanh_: return act_tanh(x);
    case Activation::relu_: return x < zero ? zero : x;
    case Activation::affine_: return x * a.alpha + a.beta;
    case Activation::leaky_relu_: return x < zero ? x * a.alpha : x;
    case Activation::thresholded_relu_: return x < zero + a.alpha ? zero : x;
    case Activation::scaled_tanh_: return act_tanh(x * a.beta) * a.alpha;
    case Activation::hard_sigmoid_: {
      V y = x * a.alpha + a.beta;
      y = y < zero ? zero : y;
      return y > zero + T(1) ? zero + T(1) : y;
    }
    case Activation::elu_: return x < zero ? act_expm1(x) * a.alpha : x;
    case Activation::softsign_: return x / ((x < zero ? -x : x) + T(1));
    case Activation::softplus_: return act_softplus(x);
  }
  return x;
}

// tanh(x) = p / q within 6 ulp: a rational minimax approximation (2e-8) of tanh(x) / x in x^2 on [-9, 9], where |tanh| leaves 1 by less
// than 4e-8. q is in [1, 420].
//
// sigmoid(x) = 1 / (1 + e) and 1 - sigmoid(x) = e / (1 + e) with e = odds(x) in [2^-40, 2^40], both small ones precise.
//
// A division of vectors costs as much as e, or p and q, so gates are put over one denominator, which these bounds keep finite (the
// cell state below 1e20).
struct Ratio {
  vf p, q;
};
PTRT_INLINE Ratio tanh_ratio(vf x) {
  x = vmin(splat(9.0f), vmax(splat(-9.0f), x));
  const vf s = x * x;
  return {horner(s, 9.999999797e-01f, 1.338104674e-01f, 3.495612292e-03f, 2.060944488e-05f, 1.335509226e-08f) * x,
          horner(s, 1.0f, 4.671436240e-01f, 2.587707639e-02f, 3.285672844e-04f, 7.776750137e-07f)};
}
PTRT_INLINE vf odds(vf x) { return vexp2(vmin(splat(40.0f), vmax(splat(-40.0f), x * -1.44269504088896341f))); }

// The new h from the sums of the gates; c becomes the new cell state.
PTRT_INLINE vf lstm_cell(vf si, vf so, vf sf, vf sc, vf& c) {
  const vf i = odds(si) + 1.0f, f = odds(sf) + 1.0f;
  const Ratio g = tanh_ratio(sc);
  const vf ig = i * g.q;
  c = (c * ig + g.p * f) / (ig * f);
  const Ratio t = tanh_ratio(c);
  return t.p / ((odds(so) + 1.0f) * t.q);
}

PTRT_INLINE void lstm_plain(int64_t blocks, const float* s, float* h, float* c) {
  for (int64_t b = 0; b < blocks; b++, s += 4 * W, h += W, c += W) {
    vf state = load(c);
    store(h, lstm_cell(load(s), load(s + W), load(s + 2 * W), load(s + 3 * W), state));
    store(c, state);
  }
}

PTRT_INLINE void gru_gates_plain(int64_t blocks, float* zr, const float* h, float* rh) {
  for (int64_t b = 0; b < blocks; b++, zr += 2 * W) {
    const vf r = 1.0f / (odds(load(zr + W)) + 1.0f);
    store(zr, odds(load(zr)));
    store(zr + W, r);
    if (rh) store(rh + b * W, r * load(h + b * W));
  }
}

// z: odds of the update gate's sum; x: the candidate's sum.
PTRT_INLINE vf gru_cell(vf z, vf x, vf h) {
  const Ratio n = tanh_ratio(x);
  return (z * n.p + h * n.q) / ((z + 1.0f) * n.q);
}

PTRT_INLINE void gru_update_plain(int64_t blocks, const float* zr, const float* sh, const float* xh, float* h) {
  for (int64_t b = 0; b < blocks; b++, zr += 2 * W) {
    vf x = load(sh + b * W);
    if (xh) x = x * load(zr + W) + load(xh + b * W);
    store(h + b * W, gru_cell(load(zr), x, load(h + b * W)));
  }
}

PTRT_INLINE vf tanh_plain(vf x) {
  const Ratio t = tanh_ratio(x);
  return t.p / t.q;
}
PTRT_INLINE vd tanh_plain(vd x) { return act_tanh(x); }

template <bool kPlain, class T>
PTRT_INLINE Vec<T> gate(const GateActivation<T>& a, Activation plain_kind, T clip, Vec<T> x) {
  if (kPlain) return plain_kind == Activation::tanh_ ? tanh_plain(x) : act_sigmoid(x);
  if (clip > 0) {
    const Vec<T> hi = Vec<T>{} + clip;
    x = x > hi ? hi : x;
    x = x < -hi ? -hi : x;
  }
  return activate<T>(a, x);
}

// s: gate sums, blocks of [i, o, f, c] vectors. p: peepholes [i, o, f] of `padded` elements each, or null.
template <bool kPlain, class T>
void lstm_row(const CellConfig<T>& cfg, int64_t blocks, const T* s, const T* p, T* h, T* c) {
  constexpr int L = Lanes<T>::n;
  if constexpr (kPlain && sizeof(T) == 4) return lstm_plain(blocks, s, h, c);
  const int64_t padded = blocks * L;
  for (int64_t b = 0; b < blocks; b++, s += 4 * L, h += L, c += L) {
    Vec<T> si = load(s), so = load(s + L), sf = load(s + 2 * L), sc = load(s + 3 * L), c0 = load(c);
    if (!kPlain && p) {
      si += load(p + b * L) * c0;
      sf += load(p + 2 * padded + b * L) * c0;
    }
    const Vec<T> i = gate<kPlain>(cfg.f, Activation::sigmoid_, cfg.clip, si);
    const Vec<T> f = !kPlain && cfg.input_forget ? T(1) - i : gate<kPlain>(cfg.f, Activation::sigmoid_, cfg.clip, sf);
    const Vec<T> c1 = f * c0 + i * gate<kPlain>(cfg.g, Activation::tanh_, cfg.clip, sc);
    if (!kPlain && p) so += load(p + padded + b * L) * c1;
    const Vec<T> o = gate<kPlain>(cfg.f, Activation::sigmoid_, cfg.clip, so);
    store(c, c1);
    store(h, o * gate<kPlain>(cfg.h, Activation::tanh_, T(0), c1));
  }
}

// First half of a GRU step. zr: sums, blocks of [z, r] vectors, replaced by the activated z and r (plain float: odds
// of z). rh: r * h, or null.
template <bool kPlain, class T>
void gru_gates_row(const CellConfig<T>& cfg, int64_t blocks, T* zr, const T* h, T* rh) {
  constexpr int L = Lanes<T>::n;
  if constexpr (kPlain && sizeof(T) == 4) return gru_gates_plain(blocks, zr, h, rh);
  for (int64_t b = 0; b < blocks; b++, zr += 2 * L) {
    const Vec<T> r = gate<kPlain>(cfg.f, Activation::sigmoid_, cfg.clip, load(zr + L));
    store(zr, gate<kPlain>(cfg.f, Activation::sigmoid_, cfg.clip, load(zr)));
    store(zr + L, r);
    if (rh) store(rh + b * L, r * load(h + b * L));
  }
}

// Second half. sh: sums of the candidate gate's recurrent part; xh: its input part (linear_before_reset), or null when sh holds both.
template <bool kPlain, class T>
void gru_update_row(const CellConfig<T>& cfg, int64_t blocks, const T* zr, const T* sh, const T* xh, T* h) {
  constexpr int L = Lanes<T>::n;
  if constexpr (kPlain && sizeof(T) == 4) return gru_update_plain(blocks, zr, sh, xh, h);
  for (int64_t b = 0; b < blocks; b++, zr += 2 * L) {
    Vec<T> x = load(sh + b * L);
    if (xh) x = x * load(zr + L) + load(xh + b * L);
    const Vec<T> n = gate<kPlain>(cfg.g, Activation::tanh_, cfg.clip, x), z = load(zr);
    store(h + b * L, (T(1) - z) * n + z * load(h + b * L));
  }
}

template <class T>
void rnn_row(const CellConfig<T>& cfg, int64_t blocks, const T* s, T* h) {
  constexpr int L = Lanes<T>::n;
  for (int64_t b = 0; b < blocks; b++)
    store(h + b * L, cfg.plain ? tanh_plain(load(s + b * L)) : gate<false>(cfg.f, Activation::tanh_, cfg.clip, load(s + b * L)));
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
