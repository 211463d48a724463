// Pieces of attention that work on rows: packing keys and values, masked softmax of a block of scores, the streaming path for few queries.
#pragma once
#include "cpu/float_rows.h"
#include "cpu/tile.h"
#include "cpu/vmath.h"

namespace ptrt::PTRT_LEVEL {
namespace {

template <class S>
using Vec = typename Lanes<S>::V;

PTRT_INLINE vf exp_of(vf x) { return vexp(x); }
PTRT_INLINE vf tanh_of(vf x) { return vtanh(x); }
PTRT_INLINE vd exp_of(vd x) {
  for (int i = 0; i < WD; i++) x[i] = __builtin_exp(x[i]);
  return x;
}
PTRT_INLINE vd tanh_of(vd x) {
  for (int i = 0; i < WD; i++) x[i] = __builtin_tanh(x[i]);
  return x;
}
PTRT_INLINE vf larger(vf a, vf b) { return vmax(a, b); }  // the second if either is NaN
PTRT_INLINE vd larger(vd a, vd b) { return a > b ? a : b; }

// Swaps neighbouring runs of D lanes.
template <int D, class V, int... I>
PTRT_INLINE V swap_lanes(V x, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(x, x, (I ^ D)...);
}
template <class S, int D = Lanes<S>::n / 2>
PTRT_INLINE S fold_max(Vec<S> x) {
  if constexpr (D == 0) return x[0];
  else return fold_max<S, D / 2>(larger(x, swap_lanes<D>(x, std::make_integer_sequence<int, Lanes<S>::n>())));
}
template <class S, int D = Lanes<S>::n / 2>
PTRT_INLINE S fold_sum(Vec<S> x) {  // a tree over the lanes
  if constexpr (D == 0) return x[0];
  else return fold_sum<S, D / 2>(x + swap_lanes<D>(x, std::make_integer_sequence<int, Lanes<S>::n>()));
}
template <class S>
PTRT_INLINE Vec<S> lane_numbers() {
  Vec<S> v;
  for (int i = 0; i < Lanes<S>::n; i++) v[i] = static_cast<S>(i);
  return v;
}

// One stage of a transposition: (a, b) become the vectors whose lanes with bit `d` clear come from a and set from b, taken at bit `d` clear
// (lo) and at bit `d` set (hi).
template <int D, class V, int... I>
PTRT_INLINE void exchange(V& a, V& b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  const V lo = __builtin_shufflevector(a, b, ((I & D) ? n + I - D : I)...);
  const V hi = __builtin_shufflevector(a, b, ((I & D) ? n + I : I + D)...);
  a = lo;
  b = hi;
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
  const S* direct() const {  // rows of unit stride in S's own type, or null
    const bool same = type == (sizeof(S) == 4 ? DType::f32 : DType::f64);
    return same && col == 1 ? static_cast<const S*>(data) + offset : nullptr;
  }
};

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

// Scores as the softmax sees them: capped, masked; -inf from `visible` on. Returns their maximum (NaN counts as nothing).
template <bool kPlain, class S>
PTRT_INLINE S prepare_scores(S* x, int64_t visible, S softcap, const S* mask) {
  constexpr int L = Lanes<S>::n;
  using V = Vec<S>;
  const V none = V{} - static_cast<S>(__builtin_inf());
  V top = none;
  int64_t j = 0;
  for (; j + L <= visible; j += L) {
    V s = load(x + j);
    if (!kPlain) {
      if (softcap > 0) s = tanh_of(s / softcap) * softcap;
      if (mask) s += load(mask + j);
      store(x + j, s);
    }
    top = larger(s, top);
  }
  if (j < visible) {
    V s = load(x + j);
    if (!kPlain) {
      if (softcap > 0) s = tanh_of(s / softcap) * softcap;
      if (mask)
        for (int64_t i = j; i < visible; i++) s[i - j] += mask[i];
    }
    s = lane_numbers<S>() < V{} + static_cast<S>(visible - j) ? s : none;
    store(x + j, s);
    top = larger(s, top);
  }
  return fold_max<S>(top);
}

// Turns `visible` scores of a row into exp(score - max) and zeroes the rest up to `end` (a multiple of the lanes). Updates the running
// maximum and sum; returns the factor that earlier partial results of the row must be scaled by.
template <class S>
S softmax_row(S* x, int64_t visible, int64_t end, S softcap, const S* mask, S& running_max, S& running_sum) {
  constexpr int L = Lanes<S>::n;
  using V = Vec<S>;
  const S inf = static_cast<S>(__builtin_inf());
  const S block_max =
      softcap > 0 || mask ? prepare_scores<false>(x, visible, softcap, mask) : prepare_scores<true>(x, visible, softcap, mask);
  const S new_max = running_max > block_max ? running_max : block_max, shift = new_max == -inf ? S(0) : new_max;
  V sum = {};
  int64_t j = 0;
  for (; j < visible; j += L) {
    const V e = exp_of(load(x + j) - shift);
    sum += e;
    store(x + j, e);
  }
  for (; j < end; j += L) store(x + j, V{});
  S factor = 1;
  if (running_max != new_max && running_max != -inf)
    factor = sizeof(S) == 4 ? S(__builtin_expf(static_cast<float>(running_max - shift))) : S(__builtin_exp(running_max - shift));
  running_sum = running_sum * factor + fold_sum<S>(sum);
  running_max = new_max;
  return factor;
}

// Adds up the lanes of n vectors: lane i of the result is the sum of r[i].
template <class S, int D>
PTRT_INLINE void fold_stage(Vec<S>* r) {
  constexpr int n = Lanes<S>::n;
  if constexpr (D < n) {
    PTRT_UNROLL for (int i = 0; i < n; i += 2 * D) {
      exchange<D>(r[i], r[i + D], std::make_integer_sequence<int, n>());
      r[i] += r[i + D];
    }
    fold_stage<S, 2 * D>(r);
  }
}

// scores[t] = q . k[t], reading the keys in place. scores has room for round_up(count, lanes) elements.
template <class S>
void stream_scores(const S* q, const S* k, int64_t pitch, int64_t count, int64_t depth, S* scores) {
  constexpr int L = Lanes<S>::n;
  const int64_t whole = depth / L * L;
  for (int64_t t = 0; t < count; t += L) {
    const int64_t n = count - t < L ? count - t : L;
    const S* row = k + t * pitch;
    Vec<S> acc[L] = {};
    if (n == L) {
      for (int64_t d = 0; d < whole; d += L) {
        const Vec<S> a = load(q + d);
        PTRT_UNROLL for (int i = 0; i < L; i++) acc[i] += a * load(row + i * pitch + d);
      }
    } else {
      for (int64_t i = 0; i < n; i++)
        for (int64_t d = 0; d < whole; d += L) acc[i] += load(q + d) * load(row + i * pitch + d);
    }
    fold_stage<S, 1>(acc);
    for (int64_t d = whole; d < depth; d++)
      for (int64_t i = 0; i < n; i++) acc[0][i] += q[d] * row[i * pitch + d];
    store(scores + t, acc[0]);
  }
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
