// One register-tile call, whatever the arithmetic: what the direct and the transposed convolution are written against.
#pragma once
#include <utility>

#include "cpu/conv.h"
#include "cpu/conv_tile_grouped.h"
#include "cpu/conv_tile_i16.h"
#include "cpu/conv_tile_u8.h"
#include "cpu/tile.h"

namespace ptrt::PTRT_LEVEL {
namespace {

// What the tile calls of a block have in common.
struct TileShape {
  const int64_t* tap_at;
  const LinearEpilogue* linear;
  int64_t lda, ldb, ldc, ldr, K, taps;
  int nv;
};

// What differs from call to call. n: valid columns.
template <class S, class A>
struct TileCall {
  const S *a, *b;
  A* c;
  const A *bias, *residual;
  const void* next;
  const int32_t *sums = nullptr, *zeros = nullptr;  // as in UnitTileArgs
  int rows, n;
};

template <class T>
struct FloatMath {
  typedef T S;
  typedef T A;
  static constexpr int L = Lanes<T>::n, k_unit = 1;
  static int lanes(int64_t) { return L; }
  static int max_rows(int nv) { return kMaxRows[nv]; }
  static int vectors(int64_t n) { return sizeof(T) == 4 ? panel_vectors(n, L) : n <= L ? 1 : 2; }  // as wide as tile.h builds them
  static TileFn<T> fn(int rows, int nv, bool half) {
    if constexpr (sizeof(T) == 4) return tile_f32(rows, nv, half);
    else return tile_f64(rows, nv);
  }
  class Tile {
   public:
    explicit Tile(const TileShape& t) : nv_(t.nv) {
      g_.flags = (t.linear->alpha != 1 ? TileArgs<T>::kScale : 0) | (t.linear->clamp_before ? TileArgs<T>::kClampBefore : 0) |
                 (t.linear->clamp_after ? TileArgs<T>::kClampAfter : 0);
      g_.alpha = static_cast<T>(t.linear->alpha);
      g_.lo = static_cast<T>(t.linear->lo);
      g_.hi = static_cast<T>(t.linear->hi);
      g_.ldr = t.ldr;
      g_.tap_at = t.tap_at;
      g_.lda = t.lda;
      g_.K = t.K;
      g_.taps = t.taps;
      g_.ldb = t.ldb;
      g_.bts = t.K * t.ldb;
      g_.ldc = t.ldc;
      g_.cj = L;
    }
    void operator()(const TileCall<S, A>& t) {
      const int nv = t.n >= nv_ * L ? nv_ : (t.n + L - 1) / L;  // last channels: as few vectors as hold them
      call(t, fn(t.rows, nv, nv * L - t.n >= L / 2));
    }

   protected:
    void call(const TileCall<S, A>& t, TileFn<T> tile) {
      g_.A = t.a;
      g_.B = t.b;
      g_.C = t.c;
      g_.bias = t.bias;
      g_.R = t.residual;
      g_.next = t.next;
      g_.n = t.n;
      tile(g_);
    }

   private:
    TileArgs<T> g_;
    int nv_;
  };
  static T load_weight(const Operand& w, int64_t at, int32_t) {
    return sizeof(T) == 4 ? static_cast<T>(conv_load_f32(w, at)) : static_cast<T>(conv_load_f64(w, at));
  }
};

// For layers with one to four output channels, where a register tile would leave most lanes idle: lanes run along the window's channels (in
// multiples of W, padded with zeros) and every output is a dot product. Weights: [block of W][output][W].
struct DotMath {
  typedef float S;
  typedef float A;
  static constexpr int k_unit = W;
  static int lanes(int64_t outputs) { return static_cast<int>(outputs); }
  static int max_rows(int) { return 4; }
  static int vectors(int64_t) { return 1; }

  class Tile {
   public:
    explicit Tile(const TileShape& t) : t_(t) {
      const float inf = __builtin_inff(), lo = static_cast<float>(t.linear->lo), hi = static_cast<float>(t.linear->hi);
      alpha_ = static_cast<float>(t.linear->alpha);
      for (int k = 0; k < 2; k++) {
        const bool on = k ? t.linear->clamp_after : t.linear->clamp_before;
        lo_[k] = on ? lo : -inf;
        hi_[k] = on ? hi : inf;
      }
    }
    void operator()(const TileCall<S, A>& c) const {
      switch (t_.ldb) {
        case 1: dispatch<1>(c); break;
        case 2: dispatch<2>(c); break;
        case 3: dispatch<3>(c); break;
        default: dispatch<4>(c);
      }
    }

   private:
    float clamp(float v, int k) const {  // passes NaN through
      v = lo_[k] > v ? lo_[k] : v;
      return hi_[k] < v ? hi_[k] : v;
    }
    template <int NM>
    void dispatch(const TileCall<S, A>& c) const {
      switch (c.rows) {
        case 1: rows<1, NM>(c); break;
        case 2: rows<2, NM>(c); break;
        case 3: rows<3, NM>(c); break;
        default: rows<4, NM>(c);
      }
    }
    template <int R, int NM>
    PTRT_NOINLINE void rows(const TileCall<S, A>& c) const {
      vf acc[R][NM];
      PTRT_UNROLL for (int i = 0; i < R; i++) PTRT_UNROLL for (int m = 0; m < NM; m++) acc[i][m] = vf{};
      const float* b = c.b;
      for (int64_t t = 0; t < t_.taps; t++) {
        const float* a = c.a + t_.tap_at[t];
        for (int64_t k = 0; k < t_.K; k += W, b += NM * W) {
          vf w[NM];
          PTRT_UNROLL for (int m = 0; m < NM; m++) w[m] = load(b + m * W);
          PTRT_UNROLL for (int i = 0; i < R; i++) {
            const vf x = load(a + i * t_.lda + k);
            PTRT_UNROLL for (int m = 0; m < NM; m++) acc[i][m] += x * w[m];
          }
        }
      }
      PTRT_UNROLL for (int i = 0; i < R; i++) PTRT_UNROLL for (int m = 0; m < NM; m++) {
        if (m >= c.n) break;
        float v = clamp(hsum(acc[i][m]) * alpha_ + c.bias[m], 0);
        if (c.residual) v += c.residual[i * t_.ldr + m];
        c.c[i * t_.ldc + m] = clamp(v, 1);
      }
    }
    TileShape t_;
    float alpha_, lo_[2], hi_[2];
  };
  static float load_weight(const Operand& w, int64_t at, int32_t) { return conv_load_f32(w, at); }
};

#if defined(__AVX2__)
// Groups of few channels, taken as groups of W (conv_tile_grouped.h); K is the number of inputs of a real group.
struct GroupedMath {
  typedef float S;
  typedef float A;
  static constexpr int k_unit = 1;
  static int lanes(int64_t) { return W; }
  static int max_rows(int) { return kGroupedRows; }
  static int vectors(int64_t) { return 1; }
  class Tile : FloatMath<float>::Tile {
   public:
    using FloatMath<float>::Tile::Tile;
    void operator()(const TileCall<S, A>& t) { run(t, std::make_integer_sequence<int, kGroupedRows>()); }

   private:
    template <int... I>
    void run(const TileCall<S, A>& t, std::integer_sequence<int, I...>) {
      static constexpr TileFn<float> fns[] = {nullptr, tile_grouped<I + 1>...};
      call(t, fns[t.rows]);
    }
  };
  static float load_weight(const Operand& w, int64_t at, int32_t) { return conv_load_f32(w, at); }
};
#endif

// Is DotMath faster, with so many taps per output? Steps per pixel: of a register tile one vector wide, and of dot products with their
// final sums.
inline bool dots_pay(const ConvGeometry& g, int64_t taps) {
  constexpr int64_t kMostOutputs = 4;
  const int64_t tile = g.Cg * taps, dot = g.M * (round_up(g.Cg, W) / W * taps + 6);
  return g.G == 1 && g.M <= kMostOutputs && tile > dot + dot / 2;
}

// Sums of products of integers, in 32-bit units of UNIT elements. Tiles::tile<MR, NV>: the register tile, of at most ROWS rows.
template <class Element, int UNIT, int ROWS, class Tiles>
struct UnitMath {
  typedef Element S;
  typedef int32_t A;
  static constexpr int k_unit = UNIT;
  static int lanes(int64_t) { return W; }
  static int max_rows(int) { return ROWS; }
  static int vectors(int64_t n) { return n <= W ? 1 : 2; }
  class Tile {
   public:
    explicit Tile(const TileShape& t) : nv_(t.nv) {
      g_.tap_at = t.tap_at;
      g_.lda = t.lda;
      g_.units = t.K / UNIT;
      g_.taps = t.taps;
      g_.ldc = t.ldc;
    }
    void operator()(const TileCall<S, A>& t) {
      g_.A = t.a;
      g_.B = t.b;
      g_.C = t.c;
      g_.bias = t.bias;
      g_.next = t.next;
      g_.sums = t.sums;
      g_.zeros = t.zeros;
      g_.n = t.n;
      if (nv_ == 1) run<1>(t.rows, std::make_integer_sequence<int, ROWS>());
      else run<2>(t.rows, std::make_integer_sequence<int, ROWS>());
    }

   private:
    template <int NV, int... I>
    void run(int rows, std::integer_sequence<int, I...>) const {
      static constexpr void (*fns[])(const UnitTileArgs<S>&) = {nullptr, Tiles::template tile<I + 1, NV>...};
      fns[rows](g_);
    }
    UnitTileArgs<S> g_;
    int nv_;
  };
};

struct Tiles16 {
  template <int MR, int NV>
  static constexpr auto tile = tile_i16<MR, NV>;
};
struct IntMath : UnitMath<int16_t, 2, kMaxRows16, Tiles16> {
  static int16_t load_weight(const Operand& w, int64_t at, int32_t zero) { return static_cast<int16_t>(conv_load_i32(w, at) - zero); }
};

#if defined(__AVX512VNNI__)
// Inputs as uint8 (int8 plus 128), weights as int8 (uint8 minus 128).
struct Tiles8 {
  template <int MR, int NV>
  static constexpr auto tile = tile_u8<MR, NV>;
};
struct ByteMath : UnitMath<uint8_t, 4, kMaxRows8, Tiles8> {};
#endif

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
