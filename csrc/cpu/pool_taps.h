// What all windows are made of: rows of results, each the combination (maximum or sum) of elements at given distances: the taps. A vector
// holds neighbouring results: columns of a plane, or channels.
#pragma once
#include <limits>
#include <type_traits>

#include "cpu/lanes.h"
#include "cpu/reduce_vec.h"

namespace ptrt::PTRT_LEVEL {
namespace {

template <class C>
constexpr C neutral(bool max) {
  using L = std::numeric_limits<C>;
  return !max ? C{0} : L::has_infinity ? -L::infinity() : L::lowest();
}

// b, or a where that is greater: one instruction.
template <class V>
PTRT_INLINE V greater_of(V a, V b) {
  return a > b ? a : b;
}
#if defined(__AVX512F__)
PTRT_INLINE vf greater_of(vf a, vf b) { return vmax(a, b); }
PTRT_INLINE vd greater_of(vd a, vd b) { return (vd)_mm512_maskz_max_pd((__mmask8)-1, (__m512d)a, (__m512d)b); }
#endif

// The combination of a with one more tap. A NaN stays; v and a may be single elements.
template <bool kMax, bool kFloat, class V>
PTRT_INLINE V combine(V a, V v) {
  if constexpr (!kMax) return a + v;
  else if constexpr (kFloat) return v != v ? v : greater_of(v, a);
  else return greater_of(v, a);
}

// A vector (or a single element) of every S-th element from p. S = 2 reads one element more than it needs.
template <int S, class V, class C>
PTRT_INLINE V every(const C* p) {
  constexpr int n = sizeof(V) / sizeof(C);
  if constexpr (S == 1 || n == 1) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
  } else if constexpr (sizeof(C) == 1) {
    typedef uint16_t Pairs __attribute__((vector_size(2 * sizeof(V))));
    Pairs v;
    std::memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, V);
  } else {
    const V a = every<1, V>(p), b = every<1, V>(p + n);
    if constexpr (n == 2) return __builtin_shufflevector(a, b, 0, 2);
    else if constexpr (n == 4) return __builtin_shufflevector(a, b, 0, 2, 4, 6);
    else if constexpr (n == 8) return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
    else return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  }
}

#if defined(__AVX512F__)
// The first n lanes.
template <class C>
PTRT_INLINE Vec<C> load_part(const C* p, int n) {
  if constexpr (sizeof(C) == 1) return (Vec<C>)_mm512_maskz_loadu_epi8(~__mmask64{0} >> (64 - n), p);
  else if constexpr (sizeof(C) == 4) return (Vec<C>)_mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << n) - 1), p);
  else return (Vec<C>)_mm512_maskz_loadu_epi64(static_cast<__mmask8>((1u << n) - 1), p);
}
template <class C>
PTRT_INLINE void store_part(C* p, Vec<C> v, int n) {
  if constexpr (sizeof(C) == 1) _mm512_mask_storeu_epi8(p, ~__mmask64{0} >> (64 - n), (__m512i)v);
  else if constexpr (sizeof(C) == 4) _mm512_mask_storeu_epi32(p, static_cast<__mmask16>((1u << n) - 1), (__m512i)v);
  else _mm512_mask_storeu_epi64(p, static_cast<__mmask8>((1u << n) - 1), (__m512i)v);
}
#endif

template <class V>
struct Columns {
  typedef uint32_t type __attribute__((vector_size(sizeof(V))));
};

// Rows of results: out[r * out_step + k] = the combination of x[r * x_step + k * S + taps[t]] over t < n_taps, for k < n; with kDivide that
// over `outer`, times by[k] if there is such a table. kWrap: rows follow each other without padding, so taps are only those for which
// columns[k] + taps[t] is in [0, wide). Steps are in elements.
struct Rows {
  void* out;
  int64_t out_step;
  const void* x;
  int64_t x_step, rows, n;
  const int64_t* taps;
  int64_t n_taps;
  double outer = 1;
  const void* by = nullptr;
  const uint32_t* columns = nullptr;
  int64_t wide = 0;
  int64_t planes = 1, x_plane = 0, out_plane = 0;  // all of this several times
};
typedef void (*RowsFn)(Rows);

// The results of a row at k and, with kPair, at `other`; V is a vector or a single element. T: the number of taps, 0 for any. part: how
// many lanes of a vector are meant, where vectors can have masks.
template <bool kMax, int S, bool kDivide, bool kWrap, int T, bool kPair, class V, class C>
PTRT_INLINE void results(const Rows& a, const int64_t* taps, const C* x, C* out, int64_t k, int64_t other, [[maybe_unused]] int part) {
  constexpr bool kFloat = std::is_floating_point<C>::value;
  const auto load = [&](const C* p) __attribute__((always_inline)) {
#if defined(__AVX512F__)
    if constexpr (S == 1 && !kPair) return load_part(p, part);
#endif
    return every<S, V>(p);
  };
  const auto element = [&](int64_t at, int64_t tap) __attribute__((always_inline)) {
    V v = load(x + at * S + tap);
    if constexpr (kWrap) {
      typedef std::conditional_t<std::is_same_v<V, C>, uint32_t, typename Columns<V>::type> I;
      const I column = every<1, I>(a.columns + at) + static_cast<uint32_t>(tap), wide = I{} + static_cast<uint32_t>(a.wide);
      v = column < wide ? v : V{} + neutral<C>(kMax);
    }
    return v;
  };
  V v = element(k, taps[0]), w{};
  if (kPair) w = element(other, taps[0]);
  const auto add = [&](int64_t tap) __attribute__((always_inline)) {
    v = combine<kMax, kFloat>(v, element(k, tap));
    if (kPair) w = combine<kMax, kFloat>(w, element(other, tap));
  };
  if constexpr (T > 0) {
    PTRT_UNROLL for (int t = 1; t < T; t++) add(taps[t]);
  } else {
    for (const int64_t *tap = taps + 1, *end = taps + a.n_taps; tap != end; tap++) add(*tap);
  }
  if constexpr (kDivide) {
    V d = V{} + static_cast<C>(a.outer), e = d;
    if (const C* by = static_cast<const C*>(a.by)) {
      d *= every<1, V>(by + k);
      if (kPair) e *= every<1, V>(by + other);
    }
    v /= d;
    if (kPair) w /= e;
  }
#if defined(__AVX512F__)
  if constexpr (!kPair) return store_part(out + k, v, part);
#endif
  std::memcpy(out + k, &v, sizeof v);
  if (kPair) std::memcpy(out + other, &w, sizeof w);
}

template <bool kMax, int S, bool kDivide, bool kWrap, int T, class C>
PTRT_INLINE void each_row(const Rows& a, const C* x, C* out) {
  typedef Vec<C> V;
  constexpr int64_t L = kLanes<C>;
  int64_t few[T ? T : 1];
  for (int t = 0; t < T; t++) few[t] = a.taps[t];
  const int64_t* taps = T ? few : a.taps;
  const int64_t n = a.n;
  for (int64_t r = 0; r < a.rows; r++, x += a.x_step, out += a.out_step) {
    int64_t k = 0;
    for (; k + L < n && n >= L; k += 2 * L)  // the last may overlap the one before
      results<kMax, S, kDivide, kWrap, T, true, V>(a, taps, x, out, k, std::min(k + L, n - L), 0);
    if (k >= n) continue;
#if defined(__AVX512F__)
    results<kMax, S, kDivide, kWrap, T, false, V>(a, taps, x, out, k, 0, static_cast<int>(std::min(L, n - k)));
#else
    if (n >= L) {
      results<kMax, S, kDivide, kWrap, T, false, V>(a, taps, x, out, n - L, 0, 0);
      continue;
    }
    typedef C Few __attribute__((vector_size(16)));
    constexpr int64_t F = 16 / sizeof(C);
    if constexpr (F < L) {
      for (; k + F < n && n >= F; k += 2 * F) results<kMax, S, kDivide, kWrap, T, true, Few>(a, taps, x, out, k, std::min(k + F, n - F), 0);
    }
    for (; k < n; k++) results<kMax, S, kDivide, kWrap, T, false, C>(a, taps, x, out, k, 0, 0);
#endif
  }
}

// Tables and, for S = 2, x have two vectors of room behind their end.
template <class C, bool kMax, int S, bool kDivide, bool kWrap = false>
void compute_rows(Rows a) {
  const C* x = static_cast<const C*>(a.x);
  C* out = static_cast<C*>(a.out);
  const auto merge = [&] { return a.out_step == a.n && a.x_step == a.n * S; };
  if ((!kDivide || kWrap) && merge()) a.n *= a.rows, a.rows = 1;
  if (a.rows == 1) a.rows = a.planes, a.x_step = a.x_plane, a.out_step = a.out_plane, a.planes = 1;
  if (!kDivide && !kWrap && merge()) a.n *= a.rows, a.rows = 1;
  for (; a.planes > 0; a.planes--, x += a.x_plane, out += a.out_plane) {
    if (a.n_taps == 0) {  // windows without an element of x
      for (int64_t r = 0; r < a.rows; r++)
        for (int64_t k = 0; k < a.n; k++) out[r * a.out_step + k] = kDivide ? static_cast<C>(0 / a.outer) : neutral<C>(kMax);
      continue;
    }
    constexpr bool kUnroll = std::is_same<C, float>::value;
    if (kUnroll && a.n_taps == 3) each_row<kMax, S, kDivide, kWrap, kUnroll ? 3 : 0>(a, x, out);
    else each_row<kMax, S, kDivide, kWrap, 0>(a, x, out);
  }
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
