// One register-tile call, whatever the arithmetic: what the direct and the transposed convolution are written against.
#pragma once
#include <utility>

#include "cpu/conv.h"
#include "cpu/conv_tile_i16.h"
#include "cpu/tile.h"

namespace ptrt::PTRT_LEVEL {
namespace {

// What one tile call needs to know, whatever the arithmetic.
template <class S, class A>
struct TileCall {
  const S *a, *b;
  A* c;
  const A* bias;
  const A* residual;
  const void* next;
  const int64_t* tap_at;
  const LinearEpilogue* linear;
  int64_t lda, ldb, ldc, ldr, K, taps;
  int rows, nv, n;
};

template <class T>
struct FloatMath {
  typedef T S;
  typedef T A;
  static constexpr int lanes = Lanes<T>::n, k_unit = 1;
  static int max_rows(int nv) { return kMaxRows[nv]; }
  static int vectors(int64_t n) { return panel_vectors(n, lanes); }
  static TileFn<T> fn(int rows, int nv) {
    if constexpr (sizeof(T) == 4) return tile_f32(rows, nv);
    else return tile_f64(rows, nv);
  }
  static void call(const TileCall<S, A>& t) {
    TileArgs<T> g;
    g.A = t.a;
    g.B = t.b;
    g.C = t.c;
    g.bias = t.bias;
    g.R = t.residual;
    g.ldr = t.ldr;
    g.flags = (t.linear->alpha != 1 ? TileArgs<T>::kScale : 0) | (t.linear->clamp_before ? TileArgs<T>::kClampBefore : 0) |
              (t.linear->clamp_after ? TileArgs<T>::kClampAfter : 0);
    g.alpha = static_cast<T>(t.linear->alpha);
    g.lo = static_cast<T>(t.linear->lo);
    g.hi = static_cast<T>(t.linear->hi);
    g.next = t.next;
    g.tap_at = t.tap_at;
    g.lda = t.lda;
    g.K = t.K;
    g.taps = t.taps;
    g.ldb = t.ldb;
    g.bts = t.K * t.ldb;
    g.ldc = t.ldc;
    g.cj = lanes;
    g.n = t.n;
    fn(t.rows, t.nv)(g);
  }
  static T load_weight(const Operand& w, int64_t at, int32_t) {
    return sizeof(T) == 4 ? static_cast<T>(conv_load_f32(w, at)) : static_cast<T>(conv_load_f64(w, at));
  }
};

struct IntMath {
  typedef int16_t S;
  typedef int32_t A;
  static constexpr int lanes = W, k_unit = 2;
  static int max_rows(int) { return kMaxRows16; }
  static int vectors(int64_t n) { return n <= W ? 1 : 2; }
  template <int NV, int... I>
  static void run(const TileArgs16& g, int rows, std::integer_sequence<int, I...>) {
    static constexpr void (*fns[])(const TileArgs16&) = {nullptr, tile_i16<I + 1, NV>...};
    fns[rows](g);
  }
  static void call(const TileCall<S, A>& t) {
    TileArgs16 g;
    g.A = t.a;
    g.B = t.b;
    g.C = t.c;
    g.bias = t.bias;
    g.tap_at = t.tap_at;
    g.lda = t.lda;
    g.pairs = t.K / 2;
    g.taps = t.taps;
    g.ldc = t.ldc;
    g.n = t.n;
    if (t.nv == 1) run<1>(g, t.rows, std::make_integer_sequence<int, kMaxRows16>());
    else run<2>(g, t.rows, std::make_integer_sequence<int, kMaxRows16>());
  }
  static int16_t load_weight(const Operand& w, int64_t at, int32_t zero) { return static_cast<int16_t>(conv_load_i32(w, at) - zero); }
};

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
