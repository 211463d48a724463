// Pieces of attention that work on rows: packing keys and values, masked softmax of a block of scores, the streaming path for few queries.
#pragma once
#include "cpu/float_rows.h"
#include "cpu/tile.h"
#include "cpu/vmath.h"

namespace ptrt::PTRT_LEVEL {
namespace {

template <class S>
using Vec = typename Lanes<S>::V;

PTRT_INLINE vf exp2_of(vf x) { return vexp2(x); }
PTRT_INLINE vf tanh_of(vf x) { return vtanh(x); }
PTRT_INLINE vd exp2_of(vd x) {
  for (int i = 0; i < WD; i++) x[i] = __builtin_exp2(x[i]);
  return x;
}
PTRT_INLINE vd tanh_of(vd x) {
  for (int i = 0; i < WD; i++) x[i] = __builtin_tanh(x[i]);
  return x;
}
PTRT_INLINE vf larger(vf a, vf b) { return vmax(a, b); }  // the second if either is NaN
PTRT_INLINE vd larger(vd a, vd b) { return a > b ? a : b; }

template <class S>
PTRT_INLINE Vec<S> lane_numbers() {
  Vec<S> v;
  for (int i = 0; i < Lanes<S>::n; i++) v[i] = static_cast<S>(i);
  return v;
}

template <class S, int D>
PTRT_INLINE void transpose_stage(Vec<S>* r) {
  constexpr int n = Lanes<S>::n;
  if constexpr (D < n) {
    PTRT_UNROLL for (int i = 0; i < n; i++) {
      if (!(i & D)) exchange<D>(r[i], r[i + D], std::make_integer_sequence<int, n>());
    }
    transpose_stage<S, 2 * D>(r);
  }
}
template <class S>
PTRT_INLINE void transpose(const S* from, int64_t from_pitch, S* to, int64_t to_pitch) {
  constexpr int n = Lanes<S>::n;
  Vec<S> r[n];
  PTRT_UNROLL for (int i = 0; i < n; i++) r[i] = load(from + i * from_pitch);
  transpose_stage<S, 1>(r);
  PTRT_UNROLL for (int i = 0; i < n; i++) store(to + i * to_pitch, r[i]);
}

// A matrix [rows, cols] inside a strided operand.
struct Rows {
  const void* data;
  DType type;
  int64_t offset, row, col;  // of the first element; strides
  template <class S>
  bool plain() const {  // rows of unit stride in S's own type? (`data` may not be known yet)
    return type == (sizeof(S) == 4 ? DType::f32 : DType::f64) && col == 1;
  }
  bool halves() const { return (type == DType::f16 || type == DType::bf16) && col == 1; }
  template <class S>
  const S* direct() const {  // such rows, or null
    return plain<S>() ? static_cast<const S*>(data) + offset : nullptr;
  }
};

// Rows [first, last) into the L2.
template <class S>
PTRT_INLINE void prefetch_rows(const Rows& r, int64_t first, int64_t last, int64_t width) {
  const S* p = r.direct<S>();
  for (int64_t t = first; p && t < last; t++)
    for (int64_t j = 0; j < width; j += 64 / static_cast<int64_t>(sizeof(S))) __builtin_prefetch(p + t * r.row + j, 0, 2);
}

// Keys [first, first + count) transposed into panels of two vectors of keys (the last may have one): [depth][keys of the panel], zero
// beyond `count`. temp: lanes * round_up(depth, lanes) elements.
template <class S>
void pack_keys(const Rows& k, int64_t first, int64_t count, int64_t depth, S* to, S* temp) {
  constexpr int L = Lanes<S>::n;
  const int64_t vecs = (count + L - 1) / L, wide_depth = round_up(depth, L);
  const S* direct = k.direct<S>();
  for (int64_t v = 0; v < vecs; v++) {
    const int64_t panel = v / 2 * 2, wide = panel + 1 < vecs ? 2 * L : L, rows = count - v * L < L ? count - v * L : L;
    S* column = to + panel * L * depth + (v - panel) * L;
    const S* from = temp;
    int64_t pitch = wide_depth, whole = depth / L * L;
    if (direct && rows == L) {
      from = direct + (first + v * L) * k.row;
      pitch = k.row;
    } else {
      for (int64_t i = 0; i < L; i++) {
        if (i < rows) load_row(temp + i * wide_depth, k.type, k.data, k.offset + (first + v * L + i) * k.row, k.col, depth);
        else std::memset(temp + i * wide_depth, 0, static_cast<size_t>(depth) * sizeof(S));
      }
    }
    for (int64_t d = 0; d < whole; d += L) transpose(from + d, pitch, column + d * wide, wide);
    for (int64_t d = whole; d < depth; d++)
      for (int64_t i = 0; i < L; i++) column[d * wide + i] = from[i * pitch + d];
  }
}

// Values [first, first + count) as panels of two vectors of columns: [count][columns of the panel], zero beyond `width`.
template <class S>
void pack_values(const Rows& v, int64_t first, int64_t count, int64_t width, S* to, S* temp) {
  constexpr int L = Lanes<S>::n;
  const int64_t vecs = (width + L - 1) / L;
  const S* direct = width % L == 0 ? v.direct<S>() : nullptr;
  std::memset(temp, 0, static_cast<size_t>(vecs * L) * sizeof(S));
  for (int64_t t = 0; t < count; t++) {
    const S* from = direct ? direct + (first + t) * v.row : temp;
    if (!direct) load_row(temp, v.type, v.data, v.offset + (first + t) * v.row, v.col, width);
    for (int64_t p = 0; p < vecs; p += 2) {
      const int64_t nv = p + 1 < vecs ? 2 : 1;
      S* out = to + p * L * count + t * nv * L;
      for (int64_t j = 0; j < nv; j++) store(out + j * L, load(from + (p + j) * L));
    }
  }
}

// How raw products q . k become exponents of two. `plain`: exponent = product * rate. Otherwise a first pass stores capped and masked
// scores.
template <class S>
struct ScoreRule {
  S scale = 1, softcap = 0, rate = 1;
  bool plain = true;
  ScoreRule() = default;
  ScoreRule(double scale_, double softcap_, bool masked) : scale(static_cast<S>(scale_)), softcap(static_cast<S>(softcap_)) {
    const double log2_e = 1.44269504088896340736;
    plain = scale > 0 && !(softcap > 0) && !masked;  // the largest product is the largest score
    rate = static_cast<S>(plain ? scale_ * log2_e : log2_e);
  }
};

// One row as the softmax sees it: -inf from `visible` to the end of its vector. Returns the largest elements (NaN counts as nothing).
template <bool kPlain, class S>
PTRT_INLINE Vec<S> prepare_scores(S* x, int64_t visible, const ScoreRule<S> rule, const S* mask) {
  constexpr int L = Lanes<S>::n;
  using V = Vec<S>;
  const V none = V{} - static_cast<S>(__builtin_inf());
  auto score = [&](V s) {
    s *= rule.scale;
    return rule.softcap > 0 ? tanh_of(s / rule.softcap) * rule.softcap : s;
  };
  V top = none;
  int64_t j = 0;
  for (; j + L <= visible; j += L) {
    V s = load(x + j);
    if (!kPlain) {
      s = score(s);
      if (mask) s += load(mask + j);
      store(x + j, s);
    }
    top = larger(s, top);
  }
  if (j < visible) {
    V s = load(x + j);
    if (!kPlain) {
      s = score(s);
      if (mask) s += load_n(mask + j, static_cast<int>(visible - j));
    }
    s = lane_numbers<S>() < V{} + static_cast<S>(visible - j) ? s : none;
    store(x + j, s);
    top = larger(s, top);
  }
  return top;
}

// m <= lanes rows of products become 2^(exponent - largest exponent so far), the first visible(i) of them, and zeros up to `end` (a
// multiple of the lanes). Updates the running largest exponents and sums; factor: what earlier partial results of the rows must be scaled
// by. mask(i): row i's mask or null, valid until the next call.
template <bool kPlain, class S, class Visible, class Mask>
PTRT_INLINE void softmax_rows(S* x, int64_t pitch, int m, Visible visible, int64_t end, const ScoreRule<S> rule, Mask mask, S* top, S* sum,
                              S* factor) {
  constexpr int L = Lanes<S>::n;
  using V = Vec<S>;
  const V none = V{} - static_cast<S>(__builtin_inf());
  V r[L];
  for (int i = 0; i < L; i++) r[i] = none;
  for (int i = 0; i < m; i++) r[i] = prepare_scores<kPlain>(x + i * pitch, visible(i), rule, mask(i));
  fold_lanes(r, [](V a, V b) { return larger(a, b); });
  const V before = load_n(top, m), now = larger(before, r[0] * rule.rate);
  const V scaled = before == now ? V{} + S(1) : exp2_of(before - now);
  S shift[L];
  store(shift, now == none ? V{} : now);
  for (int i = 0; i < L; i++) r[i] = V{};
  for (int i = 0; i < m; i++) {
    S* row = x + i * pitch;
    const int64_t n = visible(i);
    V s = {};
    int64_t j = 0;
    for (; j < n; j += L) {
      const V e = exp2_of(load(row + j) * rule.rate - shift[i]);
      s += e;
      store(row + j, e);
    }
    for (; j < end; j += L) store(row + j, V{});
    r[i] = s;
  }
  fold_lanes(r, [](V a, V b) { return a + b; });
  store_n(sum, load_n(sum, m) * scaled + r[0], m);
  store_n(top, now, m);
  store_n(factor, scaled, m);
}

// scores[t] = q . k[t], reading the keys in place. scores has room for round_up(count, lanes) elements. kVecs: vectors of a key, 0: any.
template <int kVecs, class S>
PTRT_INLINE void stream_scores(const S* q, const S* k, int64_t pitch, int64_t count, int64_t depth, S* scores) {
  constexpr int L = Lanes<S>::n;
  using V = Vec<S>;
  const int64_t whole = kVecs ? kVecs * L : depth / L * L;
  V held[kVecs ? kVecs : 1];
  for (int d = 0; d < kVecs; d++) held[d] = load(q + d * L);
  for (int64_t t = 0; t < count; t += L) {
    const int64_t n = count - t < L ? count - t : L;
    const S* row = k + t * pitch;
    V acc[L] = {};
    if (n == L) {
      if constexpr (kVecs > 0) {  // rows in turn, as they lie in memory
        PTRT_UNROLL for (int i = 0; i < L; i++) {
          V a = held[0] * load(row + i * pitch);
          PTRT_UNROLL for (int d = 1; d < kVecs; d++) a += held[d] * load(row + i * pitch + d * L);
          acc[i] = a;
        }
      } else {
        for (int64_t d = 0; d < whole; d += L) {
          const V a = load(q + d);
          PTRT_UNROLL for (int i = 0; i < L; i++) acc[i] += a * load(row + i * pitch + d);
        }
      }
    } else {
      for (int64_t i = 0; i < n; i++)
        for (int64_t d = 0; d < whole; d += L) acc[i] += load(q + d) * load(row + i * pitch + d);
    }
    fold_lanes(acc, [](V a, V b) { return a + b; });
    for (int64_t d = whole; d < depth; d++)
      for (int64_t i = 0; i < n; i++) acc[0][i] += q[d] * row[i * pitch + d];
    store(scores + t, acc[0]);
  }
}

template <class S>
PTRT_NOINLINE void stream_scores(const S* q, const S* k, int64_t pitch, int64_t count, int64_t depth, S* scores) {
  constexpr int L = Lanes<S>::n;
  if (depth == 2 * L) stream_scores<2>(q, k, pitch, count, depth, scores);
  else if (depth == 4 * L) stream_scores<4>(q, k, pitch, count, depth, scores);
  else if (depth == 8 * L && L == 16) stream_scores<8>(q, k, pitch, count, depth, scores);  // 8 vectors of q and 16 sums need 32 registers
  else stream_scores<0>(q, k, pitch, count, depth, scores);
}

// o[e] = o[e] * factor + sum of p[t] * v[t][e]; o has round_up(width, lanes) elements.
template <class S>
void stream_values(const S* p, const S* v, int64_t pitch, int64_t count, int64_t width, S factor, S* o) {
  constexpr int L = Lanes<S>::n, kVecs = 4;
  using V = Vec<S>;
  int64_t e = 0;
  for (; e + kVecs * L <= width; e += kVecs * L) {
    V acc[2][kVecs];
    PTRT_UNROLL for (int j = 0; j < kVecs; j++) {
      acc[0][j] = load(o + e + j * L) * factor;
      acc[1][j] = V{};
    }
    int64_t t = 0;
    for (; t + 2 <= count; t += 2)
      PTRT_UNROLL for (int u = 0; u < 2; u++) PTRT_UNROLL for (int j = 0; j < kVecs; j++) acc[u][j] +=
          p[t + u] * load(v + (t + u) * pitch + e + j * L);
    if (t < count) PTRT_UNROLL for (int j = 0; j < kVecs; j++) acc[0][j] += p[t] * load(v + t * pitch + e + j * L);
    PTRT_UNROLL for (int j = 0; j < kVecs; j++) store(o + e + j * L, acc[0][j] + acc[1][j]);
  }
  for (; e + L <= width; e += L) {
    V acc = load(o + e) * factor;
    for (int64_t t = 0; t < count; t++) acc += p[t] * load(v + t * pitch + e);
    store(o + e, acc);
  }
  for (; e < width; e++) {
    S acc = o[e] * factor;
    for (int64_t t = 0; t < count; t++) acc += p[t] * v[t * pitch + e];
    o[e] = acc;
  }
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
