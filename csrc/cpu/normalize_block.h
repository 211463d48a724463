// What normalisation does with a block of elements: sums over all of it or of every column, and the result from the statistics.
#pragma once
#include <algorithm>

#include "cpu/reduce_vec.h"
#include "cpu/vmath64.h"

namespace ptrt::PTRT_LEVEL {
namespace {

enum class Term { value, square, both };  // x, (x - shift)^2, or this and x - shift

template <Term T, class V>
PTRT_INLINE void add_term(V x, V shift, V& sum, V& differences) {
  if (T != Term::value) x -= shift;
  if (T == Term::both) differences += x;
  sum += T == Term::value ? x : x * x;
}

// The sum of a term over rows of n elements, xs apart: a few thousand elements, so that working precision will do.
template <Term T, class C>
C block_sum(const C* x, int64_t xs, int64_t rows, int64_t n, C shift, C* differences = nullptr) {
  constexpr int L = kLanes<C>;
  if (xs == n) {
    n *= rows;
    rows = 1;
  }
  Vec<C> s[4] = {}, d[4] = {};
  const Vec<C> vs = vsplat(shift);
  for (int64_t r = 0; r < rows; r++, x += xs) {
    int64_t i = 0;
    for (; i + 4 * L <= n; i += 4 * L) PTRT_UNROLL for (int j = 0; j < 4; j++) add_term<T>(vload(x + i + j * L), vs, s[j], d[j]);
    for (; i + L <= n; i += L) add_term<T>(vload(x + i), vs, s[0], d[0]);
    if (i < n) add_term<T>(vload_n(x + i, static_cast<int>(n - i), T == Term::value ? C{0} : shift), vs, s[1], d[1]);
  }
  if (T == Term::both) *differences = sum_lanes((d[0] + d[1]) + (d[2] + d[3]));
  return sum_lanes((s[0] + s[1]) + (s[2] + s[3]));
}

// The same for each of k columns. The arrays have room for k rounded up to whole vectors.
template <Term T, class C>
void column_sums(const C* x, int64_t xs, int64_t rows, int64_t k, const C* shift, C* sums, C* differences) {
  constexpr int L = kLanes<C>;
  const auto columns = [&](int64_t c, auto count, int64_t n) __attribute__((always_inline)) {
    constexpr int U = decltype(count)::value;
    Vec<C> s[U] = {}, d[U] = {}, m[U];
    PTRT_UNROLL for (int j = 0; j < U; j++) m[j] = vload(shift + c + j * L);
    const C* p = x + c;
    for (int64_t r = 0; r < rows; r++, p += xs)
      PTRT_UNROLL for (int j = 0; j < U; j++)
          add_term<T>(U > 1 || n >= L ? vload(p + j * L) : vload_n(p, static_cast<int>(n), C{0}), m[j], s[j], d[j]);
    PTRT_UNROLL for (int j = 0; j < U; j++) {
      vstore<C>(sums + c + j * L, s[j]);
      if (T == Term::both) vstore<C>(differences + c + j * L, d[j]);
    }
  };
  int64_t c = 0;
  for (; c + 4 * L <= k; c += 4 * L) columns(c, std::integral_constant<int, 4>(), 4 * L);
  for (; c < k; c += L) columns(c, std::integral_constant<int, 1>(), k - c);
}

// Where the numbers for a block's rows begin: those of the next row lie `row` further on.
template <class C>
struct Numbers {
  const C* p;
  int64_t row;
};

// y = (x - mean) * inv * scale + bias for rows of n elements. kOwn: every column has mean and inv, else every row has one; kScale, kBias:
// every column has one, else every row.
template <class C>
using Apply = void (*)(const C* x, int64_t xs, int64_t rows, int64_t n, Numbers<C> mean, Numbers<C> inv, Numbers<C> scale, Numbers<C> bias,
                       C* y, int64_t ys);

template <class C, bool kOwn, bool kScale, bool kBias>
void apply(const C* x, int64_t xs, int64_t rows, int64_t n, Numbers<C> mean, Numbers<C> inv, Numbers<C> scale, Numbers<C> bias, C* y,
           int64_t ys) {
  constexpr int L = kLanes<C>;
  for (int64_t r = 0; r < rows; r++) {
    const Vec<C> m = vsplat(*mean.p), f = vsplat(*inv.p), s = vsplat(*scale.p), b = vsplat(*bias.p);
    const auto at = [](bool vector, const C* p, int64_t i, int count, Vec<C> one) __attribute__((always_inline)) {
      return !vector ? one : count == L ? vload(p + i) : vload_n(p + i, count, C{0});
    };
    const auto result = [&](int64_t i, int count) __attribute__((always_inline)) {
      const Vec<C> v = (at(true, x, i, count, m) - at(kOwn, mean.p, i, count, m)) * at(kOwn, inv.p, i, count, f);
      return v * at(kScale, scale.p, i, count, s) + at(kBias, bias.p, i, count, b);
    };
    int64_t i = 0;
    for (; i + L <= n; i += L) vstore<C>(y + i, result(i, L));
    if (i < n) vstore_n(y + i, result(i, static_cast<int>(n - i)), static_cast<int>(n - i));
    x += xs;
    y += ys;
    mean.p += mean.row;
    inv.p += inv.row;
    scale.p += scale.row;
    bias.p += bias.row;
  }
}

template <class C, bool kOwn>
Apply<C> apply_for(bool scale, bool bias) {
  if (scale) return bias ? apply<C, kOwn, true, true> : apply<C, kOwn, true, false>;
  return bias ? apply<C, kOwn, false, true> : apply<C, kOwn, false, false>;
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
