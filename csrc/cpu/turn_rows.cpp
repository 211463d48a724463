// A vector holds a piece of N elements of each of L / N rows, N vectors those of L rows: log2(N) stages of exchanges between pairs of
// vectors turn them. Pieces are read and written whole where that is within the rows; what a row's piece has too much the next row
// overwrites.
#include "cpu/turn_rows.h"

#include <algorithm>

#include "cpu/lanes.h"
#include "cpu/reduce_vec.h"

namespace ptrt::PTRT_LEVEL {
namespace {

template <class C, int N>
struct PieceOf {
  typedef C type __attribute__((vector_size(N * sizeof(C))));
};
template <class C, int N>
using Piece = typename PieceOf<C, N>::type;

template <class P, int... I>
PTRT_INLINE auto both(P a, P b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, I...);
}
template <int OFFSET, class V, int... I>
PTRT_INLINE auto part(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (OFFSET + I)...);
}

// The pieces of rows 0, N, 2 N, ... as one vector, and from it.
template <int M, int N, class C>
PTRT_INLINE Piece<C, M> load_pieces(const C* p, int64_t step) {
  if constexpr (M == N) {
    Piece<C, N> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  } else {
    return both(load_pieces<M / 2, N>(p, step), load_pieces<M / 2, N>(p + M / 2 / N * step, step), std::make_integer_sequence<int, M>());
  }
}
template <int M, int N, int Q, class C>
PTRT_INLINE void store_piece(Piece<C, M> v, C* p) {
  const Piece<C, N> x = part<Q * N>(v, std::make_integer_sequence<int, N>());
  __builtin_memcpy(p, &x, sizeof x);
}

template <int D, int N, class V>
PTRT_INLINE void turn(V (&v)[N]) {
  if constexpr (D < N) {
    PTRT_UNROLL for (int i = 0; i < N; i++) if (!(i & D))
        exchange<D>(v[i], v[i + D], std::make_integer_sequence<int, sizeof(V) / sizeof(v[0][0])>());
    turn<2 * D>(v);
  }
}

// L rows of n <= N elements, or with care: `count` rows, touching nothing else.
template <class C, int N>
PTRT_NOINLINE void in_group(const C* rows, int64_t stride, int count, int n, bool whole, C* out, int64_t pitch) {
  constexpr int L = kLanes<C>;
  Vec<C> v[N];
  if (whole) {
    PTRT_UNROLL for (int r = 0; r < N; r++) v[r] = load_pieces<L, N>(rows + r * stride, N * stride);
  } else {
    C t[N * L] = {};
    for (int r = 0; r < count; r++)
      for (int i = 0; i < n; i++) __builtin_memcpy(t + r % N * L + r / N * N + i, rows + r * stride + i, sizeof(C));
    PTRT_UNROLL for (int r = 0; r < N; r++) v[r] = vload(t + r * L);
  }
  turn<1>(v);
  PTRT_UNROLL for (int i = 0; i < N; i++) if (i < n) vstore(out + i * pitch, v[i]);
}
template <class C, int N>
PTRT_NOINLINE void out_group(const C* in, int64_t pitch, int count, int n, bool whole, C* rows, int64_t stride) {
  constexpr int L = kLanes<C>;
  Vec<C> v[N];
  PTRT_UNROLL for (int i = 0; i < N; i++) v[i] = i < n ? vload(in + i * pitch) : Vec<C>{};
  turn<1>(v);
  if (whole) {
    PTRT_UNROLL for (int r = 0; r < N; r++) store_piece<L, N, 0>(v[r], rows + r * stride);
    if constexpr (L / N >= 2) PTRT_UNROLL for (int r = 0; r < N; r++) store_piece<L, N, 1>(v[r], rows + (N + r) * stride);
    if constexpr (L / N >= 4) {
      PTRT_UNROLL for (int r = 0; r < N; r++) store_piece<L, N, 2>(v[r], rows + (2 * N + r) * stride);
      PTRT_UNROLL for (int r = 0; r < N; r++) store_piece<L, N, 3>(v[r], rows + (3 * N + r) * stride);
    }
    return;
  }
  C t[N * L];
  PTRT_UNROLL for (int r = 0; r < N; r++) vstore(t + r * L, v[r]);
  for (int r = 0; r < count; r++)
    for (int i = 0; i < n; i++) __builtin_memcpy(rows + r * stride + i, t + r % N * L + r / N * N + i, sizeof(C));
}

// f(first column, columns, N) for each stretch of columns, the last one first.
template <int L, class F>
PTRT_INLINE void stretches(int64_t n, F f) {
  for (int64_t i = (n - 1) / L * L; i >= 0; i -= L) {
    const int m = static_cast<int>(std::min<int64_t>(L, n - i));
    if (L >= 16 && m <= L / 4) f(i, m, std::integral_constant<int, L >= 16 ? L / 4 : L>());
    else if (L >= 8 && m <= L / 2) f(i, m, std::integral_constant<int, L >= 8 ? L / 2 : L>());
    else f(i, m, std::integral_constant<int, L>());
  }
}

template <class U>
void in_rows(const U* rows, int64_t stride, int64_t count, int64_t n, U* out, int64_t pitch) {
  constexpr int L = kLanes<U>;
  const int64_t end = (count - 1) * stride + n;
  stretches<L>(n, [&](int64_t i, int m, auto pieces) __attribute__((always_inline)) {
    constexpr int N = decltype(pieces)::value;
    for (int64_t r = 0; r < count; r += L) {
      const bool whole = stride >= n && (r + L - 1) * stride + i + N <= end;
      in_group<U, N>(rows + r * stride + i, stride, static_cast<int>(std::min<int64_t>(L, count - r)), m, whole, out + i * pitch + r,
                     pitch);
    }
  });
}
template <class U>
void out_rows(const U* in, int64_t pitch, int64_t count, int64_t n, U* rows, int64_t stride) {
  constexpr int L = kLanes<U>;
  const int64_t end = (count - 1) * stride + n;
  for (int64_t r = 0; r < count; r += L)
    stretches<L>(n, [&](int64_t i, int m, auto pieces) __attribute__((always_inline)) {
      constexpr int N = decltype(pieces)::value;
      const bool whole = r + L <= count && (m == N || (stride == n && (r + L - 1) * stride + i + N <= end));
      out_group<U, N>(in + i * pitch + r, pitch, static_cast<int>(std::min<int64_t>(L, count - r)), m, whole, rows + r * stride + i,
                      stride);
    });
}

}  // namespace

template <class C>
void rows_to_lanes(const C* rows, int64_t stride, int64_t count, int64_t n, C* out, int64_t pitch) {
  using U = std::conditional_t<sizeof(C) == 4, uint32_t, uint64_t>;
  in_rows(reinterpret_cast<const U*>(rows), stride, count, n, reinterpret_cast<U*>(out), pitch);
}
template <class C>
void lanes_to_rows(const C* in, int64_t pitch, int64_t count, int64_t n, C* rows, int64_t stride) {
  using U = std::conditional_t<sizeof(C) == 4, uint32_t, uint64_t>;
  out_rows(reinterpret_cast<const U*>(in), pitch, count, n, reinterpret_cast<U*>(rows), stride);
}

#define PTRT_INSTANTIATE(C)                                                         \
  template void rows_to_lanes<C>(const C*, int64_t, int64_t, int64_t, C*, int64_t); \
  template void lanes_to_rows<C>(const C*, int64_t, int64_t, int64_t, C*, int64_t);
PTRT_INSTANTIATE(float)
PTRT_INSTANTIATE(double)
PTRT_INSTANTIATE(int32_t)
PTRT_INSTANTIATE(int64_t)
PTRT_INSTANTIATE(uint64_t)

}  // namespace ptrt::PTRT_LEVEL
