// What a reduction does with one element, one vector, one row, and a group of short rows.
#pragma once
#include "cpu/lanes.h"
#include "cpu/reduce_vec.h"

namespace ptrt::PTRT_LEVEL {
namespace {

enum class Kind { sum, abs, square, prod, max, min, exp };

template <class C>
struct AccOf {
  using type = C;
};
template <>
struct AccOf<float> {
  using type = double;
};
template <class C>
using Acc = typename AccOf<C>::type;

template <Kind K, class A>
A neutral() {
  using L = std::numeric_limits<A>;
  if (K == Kind::prod) return 1;
  if (K == Kind::max) return L::has_infinity ? -L::infinity() : L::lowest();
  if (K == Kind::min) return L::has_infinity ? L::infinity() : L::max();
  return 0;
}

// One element, or one vector of them, into a running value.
template <Kind K, class V>
PTRT_INLINE void step(V& a, V x, V shift) {
  if constexpr (K == Kind::sum) a += x;
  if constexpr (K == Kind::abs) a += x < V{} ? -x : x;
  if constexpr (K == Kind::square) a += x * x;
  if constexpr (K == Kind::prod) a *= x;
  if constexpr (K == Kind::max) a = max_of(x, a);
  if constexpr (K == Kind::min) a = x < a ? x : a;
  if constexpr (K == Kind::exp) a += exp_of(x - shift);
}

template <Kind K, class V>
PTRT_INLINE V join_vectors(V a, V b) {
  if constexpr (K == Kind::prod) return a * b;
  else if constexpr (K == Kind::max) return max_of(b, a);
  else if constexpr (K == Kind::min) return b < a ? b : a;
  else return a + b;
}

// Two running values into one.
template <Kind K, class A>
PTRT_INLINE A join(A a, A b) {
  if (K == Kind::prod) return static_cast<A>(a * b);
  if (K == Kind::max) return a != a ? a : b != b ? b : a > b ? a : b;
  if (K == Kind::min) return a != a ? a : b != b ? b : a < b ? a : b;
  return static_cast<A>(a + b);
}

template <Kind K>
constexpr bool is_extreme() {
  return K == Kind::max || K == Kind::min;
}

// Two vectors of running values into one; a NaN stays.
template <Kind K, class C>
PTRT_INLINE Vec<C> join_kept(Vec<C> a, Vec<C> b) {
  if constexpr (is_extreme<K>() && std::is_floating_point<C>::value) return ((K == Kind::max ? b > a : b < a) | (b != b)) ? b : a;
  else return join_vectors<K>(a, b);
}

// Joins a vector of partial results to the running values; `fresh`: there are none.
template <Kind K, class C, class A>
PTRT_INLINE void join_lanes(A* acc, Vec<C> x, bool fresh) {
  PTRT_KEEP(x);  // its parts are read from memory: without this the caller's loop keeps it there
  C t[kLanes<C>];
  vstore(t, x);
  PTRT_UNROLL for (int i = 0; i < kLanes<C>; i += kLanes<A>) {
    const Vec<A> v = widened<A>(t + i);
    vstore<A>(acc + i, fresh ? v : join_kept<K, A>(vload(acc + i), v));
  }
}

// Unsigned arithmetic for integer sums and products, so that they wrap.
template <class C>
struct WrapOf {
  using type = C;
};
template <>
struct WrapOf<int32_t> {
  using type = uint32_t;
};
template <>
struct WrapOf<int64_t> {
  using type = uint64_t;
};
template <Kind K, class C>
using Element = std::conditional_t<K == Kind::sum || K == Kind::square || K == Kind::prod, typename WrapOf<C>::type, C>;

template <Kind K, class C>
PTRT_NOINLINE Acc<C> row_partial(const C* p, int64_t n, C shift) {
  constexpr int L = kLanes<C>, U = K == Kind::exp ? 2 : 8;
  using V = Vec<C>;
  const V vshift = vsplat(shift);
  const C fill = K == Kind::exp ? static_cast<C>(-std::numeric_limits<C>::infinity()) : neutral<K, C>();
  NanFlag<C> bad;
  V first = vsplat(neutral<K, C>());
  int64_t i = 0;
  if (n >= U * L) {
    V a[U];
    PTRT_UNROLL for (int j = 0; j < U; j++) a[j] = first;
    for (; i + U * L <= n; i += U * L) PTRT_UNROLL for (int j = 0; j < U; j += 2) {
        const V x = vload(p + i + j * L), y = vload(p + i + (j + 1) * L);
        step<K>(a[j], x, vshift);
        step<K>(a[j + 1], y, vshift);
        if constexpr (is_extreme<K>()) bad.see(x, y);
      }
    PTRT_UNROLL for (int w = U / 2; w; w /= 2) PTRT_UNROLL for (int j = 0; j < w; j++) a[j] = join_vectors<K>(a[j], a[j + w]);
    first = a[0];
  }
  for (; i + L <= n; i += L) {
    const V x = vload(p + i);
    step<K>(first, x, vshift);
    if constexpr (is_extreme<K>()) bad.see(x, x);
  }
  if (i < n) {
    const V x = vload_n(p + i, static_cast<int>(n - i), fill);
    step<K>(first, x, vshift);
    if constexpr (is_extreme<K>()) bad.see(x, x);
  }
  if constexpr (is_extreme<K>() && std::is_floating_point<C>::value)
    if (bad.any()) return std::numeric_limits<Acc<C>>::quiet_NaN();
  C total;
  if constexpr (K == Kind::max) total = max_lanes(first);
  else if constexpr (K == Kind::min && std::is_floating_point<C>::value) total = -max_lanes(-first);
  else if constexpr (K == Kind::min || K == Kind::prod) total = tree<C>(first, [](C x, C y) { return join<K, C>(x, y); });
  else total = sum_lanes(first);
  return static_cast<Acc<C>>(total);
}

// Up to here a row's own tree over lanes would cost more than its share of a group's, and the two running values of a row take at most 32
// vectors each, as many as those of longer rows.
template <class C>
constexpr int64_t kShortRow = 64 * kLanes<C>;

// acc[r] = join(acc[r], reduction of row r), r < k. As many rows as a vector has lanes fold their partial vectors together; acc has room
// for k rounded up to whole vectors.
template <Kind K, class C>
PTRT_NOINLINE void short_rows(const C* p, int64_t stride, int64_t k, int64_t n, Acc<C>* acc, const C* shift, bool fresh) {
  constexpr int L = kLanes<C>;
  using V = Vec<C>;
  const C fill = K == Kind::exp ? static_cast<C>(-std::numeric_limits<C>::infinity()) : neutral<K, C>();
  constexpr bool nans = is_extreme<K>() && std::is_floating_point<C>::value;
  const V nothing = vsplat(neutral<K, C>());
  const int64_t whole = n / L * L;
  const int tail = static_cast<int>(n - whole);
  for (int64_t r0 = 0; r0 < k; r0 += L) {
    const int rows = static_cast<int>(k - r0 < L ? k - r0 : L);
    V part[L];
    for (int r = rows; r < L; r++) part[r] = nothing;
    for (int r = 0; r < rows; r++) {
      const C* row = p + (r0 + r) * stride;
      const V s = vsplat(K == Kind::exp ? shift[r0 + r] : C{0});
      V a = nothing, b = nothing;
      NanFlag<C> bad;
      int64_t i = 0;
      for (; i + 2 * L <= whole; i += 2 * L) {
        const V x = vload(row + i), y = vload(row + i + L);
        step<K>(a, x, s);
        step<K>(b, y, s);
        if constexpr (nans) bad.see(x, y);
      }
      if (i < whole) {
        const V x = vload(row + i);
        step<K>(a, x, s);
        if constexpr (nans) bad.see(x, x);
      }
      if (tail) {
        const V x = vload_n(row + whole, tail, fill);
        step<K>(b, x, s);
        if constexpr (nans) bad.see(x, x);
      }
      part[r] = join_vectors<K>(a, b);
      if constexpr (nans)
        if (bad.any()) part[r] = vsplat(std::numeric_limits<C>::quiet_NaN());
    }
    fold_lanes(part, [](V a, V b) __attribute__((always_inline)) { return join_kept<K, C>(a, b); });
    join_lanes<K, C>(acc + r0, part[0], fresh);
  }
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
