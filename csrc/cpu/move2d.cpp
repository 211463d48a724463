// Two-dimensional moves. Where neither side's rows are the other's, tiles of P rows of Q elements are turned in registers.
#include <algorithm>
#include <utility>

#include "cpu/lanes.h"
#include "cpu/move.h"

namespace ptrt::PTRT_LEVEL {
namespace {

template <int BYTES>
struct UnsignedOf;
template <>
struct UnsignedOf<1> {
  using type = uint8_t;
};
template <>
struct UnsignedOf<2> {
  using type = uint16_t;
};
template <>
struct UnsignedOf<4> {
  using type = uint32_t;
};
template <>
struct UnsignedOf<8> {
  using type = uint64_t;
};
typedef uint64_t Raw16 __attribute__((vector_size(16)));
template <>
struct UnsignedOf<16> {
  using type = Raw16;
};
template <int BYTES>
using Unsigned = typename UnsignedOf<BYTES>::type;

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(16)));
};
template <>
struct VectorOf<Raw16> {
  using type = Raw16;
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int kLanesOf = 16 / sizeof(T);

template <class T>
PTRT_INLINE T get(const char* p) {
  T x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
template <class T>
PTRT_INLINE void put(char* p, T x) {
  __builtin_memcpy(p, &x, sizeof x);
}

// Rows of K to 2 K bytes, as their first and their last K.
template <int K>
void short_rows(int64_t rows, int64_t bytes, const char* in, int64_t ir, char* out, int64_t orow) {
  using U = Unsigned<K>;
  for (; rows > 0; rows--, in += ir, out += orow) {
    const U first = get<U>(in), last = get<U>(in + bytes - K);
    put(out, first), put(out + bytes - K, last);
  }
}

void move_rows(int64_t rows, int64_t bytes, const char* in, int64_t ir, char* out, int64_t orow) {
  if (bytes >= 256) {
    for (; rows > 0; rows--, in += ir, out += orow)
      if (in != out) std::memcpy(out, in, static_cast<size_t>(bytes));
  } else if (bytes > 32) {
    for (; rows > 0; rows--, in += ir, out += orow) {
      for (int64_t b = 0; b < bytes - 16; b += 16) put(out + b, get<Raw16>(in + b));
      put(out + bytes - 16, get<Raw16>(in + bytes - 16));
    }
  } else if (bytes >= 16) {
    short_rows<16>(rows, bytes, in, ir, out, orow);
  } else if (bytes >= 8) {
    short_rows<8>(rows, bytes, in, ir, out, orow);
  } else if (bytes >= 4) {
    short_rows<4>(rows, bytes, in, ir, out, orow);
  } else if (bytes >= 2) {
    short_rows<2>(rows, bytes, in, ir, out, orow);
  } else {
    short_rows<1>(rows, bytes, in, ir, out, orow);
  }
}

template <class V, int... I>
PTRT_INLINE V evens(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I)...);
}
template <class V, int... I>
PTRT_INLINE V backwards(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (static_cast<int>(sizeof...(I)) - 1 - I)...);
}

// Any strides. Every second element and elements backwards by vectors, as far as they reach no memory beyond the first and last element.
template <class T>
void gather_rows(int64_t rows, int64_t cols, const char* in, int64_t ir, int64_t ic, char* out, int64_t orow, int64_t oc) {
  constexpr int L = kLanesOf<T>, S = sizeof(T);
  for (; rows > 0; rows--, in += ir, out += orow) {
    const char* p = in;
    char* q = out;
    int64_t c = cols;
    if constexpr (L > 1) {
      if (oc == S && ic == 2 * S)
        for (; c > L; c -= L, p += 32, q += 16)
          put(q, evens(get<Vector<T>>(p), get<Vector<T>>(p + 16), std::make_integer_sequence<int, L>()));
      else if (oc == S && ic == -S)
        for (; c >= L; c -= L, p -= 16, q += 16) put(q, backwards(get<Vector<T>>(p + S - 16), std::make_integer_sequence<int, L>()));
    }
    for (; c >= 4; c -= 4, p += 4 * ic, q += 4 * oc) {
      const T x[4] = {get<T>(p), get<T>(p + ic), get<T>(p + 2 * ic), get<T>(p + 3 * ic)};
      put(q, x[0]), put(q + oc, x[1]), put(q + 2 * oc, x[2]), put(q + 3 * oc, x[3]);
    }
    for (; c > 0; c--, p += ic, q += oc) put(q, get<T>(p));
  }
}

// 16 bytes: pieces of B bytes, `step` bytes apart.
template <int B, int... I>
PTRT_INLINE auto load_pieces(const char* p, int64_t step, std::integer_sequence<int, I...>) {
  using U = Unsigned<B>;
  return Vector<U>{get<U>(p + I * step)...};
}

// The lanes of the first half and of the second by turns.
template <class V, int... I>
PTRT_INLINE V folded(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I / 2 + I % 2 * static_cast<int>(sizeof...(I)) / 2)...);
}

// P rows of Q elements, ic bytes apart, become Q rows of P elements: log2(P) perfect shuffles of all of them. Only the first p rows are
// read (Q a whole vector) and only the first q written (P a whole vector).
template <class T, int P, int Q, int p, int q>
PTRT_INLINE void turn_tile(const char* in, int64_t ic, char* out, int64_t orow) {
  constexpr int L = kLanesOf<T>, N = P * Q / L, S = sizeof(T);
  constexpr int from = L / Q, to = L / P;  // pieces of a vector
  constexpr auto lanes = std::make_integer_sequence<int, L>();
  using V = Vector<T>;
  V v[N], t[N];
  PTRT_UNROLL for (int i = 0; i < N; i++) {
    if constexpr (from == 1) v[i] = get<V>(in + (i < p ? i : p - 1) * ic);
    else if (ic == Q * S) v[i] = get<V>(in + i * 16);
    else v[i] = (V)load_pieces<Q * S>(in + i * from * ic, ic, std::make_integer_sequence<int, from>());
  }
  if constexpr (P > 1) PTRT_UNROLL for (int stage = 1; stage < P; stage *= 2) {
      if constexpr (N == 1) {
        t[0] = folded(v[0], lanes);
      } else {
        PTRT_UNROLL for (int i = 0; i < N / 2; i++) {
          t[2 * i] = interleave<0>(v[i], v[i + N / 2], lanes);
          t[2 * i + 1] = interleave<L / 2>(v[i], v[i + N / 2], lanes);
        }
      }
      PTRT_UNROLL for (int i = 0; i < N; i++) v[i] = t[i];
    }
  PTRT_UNROLL for (int i = 0; i < N; i++) {
    if constexpr (to == 1) {
      if (i < q) put(out + i * orow, v[i]);
    } else if (orow == P * S) {
      put(out + i * 16, v[i]);
    } else {
      using U = Unsigned<P * S>;
      PTRT_UNROLL for (int k = 0; k < to; k++) put<U>(out + (i * to + k) * orow, ((Vector<U>)v[i])[k]);
    }
  }
}

// The tiles of a block of rows x cols: all of a cache line of each row that is written, then the next rows, then the next cache line.
// The last tiles begin earlier and do some elements twice.
template <class T, int P, int Q, int p = P, int q = Q>
void turn_tiles(int64_t rows, int64_t cols, const char* in, int64_t ic, char* out, int64_t orow) {
  constexpr int64_t S = sizeof(T), kLine = 64 / S;
  for (int64_t rs = 0; rs < rows; rs += kLine)
    for (int64_t cs = 0; cs < cols; cs += kLine)
      for (int64_t r = rs, re = std::min(rs + kLine, rows); r < re; r += Q) {
        const int64_t i = std::min(r, rows - Q);
        for (int64_t c = cs, ce = std::min(cs + kLine, cols); c < ce; c += P) {
          const int64_t j = std::min(c, cols - P);
          turn_tile<T, P, Q, p, q>(in + i * S + j * ic, ic, out + i * orow + j * S, orow);
        }
      }
}

using TurnTiles = void (*)(int64_t, int64_t, const char*, int64_t, char*, int64_t);
// The largest tiles of at most p x q elements; null if they are less than a vector.
template <class T, int P = kLanesOf<T>, int Q = kLanesOf<T>>
TurnTiles tiles_of(int64_t p, int64_t q) {
  if (p < P) {
    if constexpr (P > 2) return tiles_of<T, P / 2, Q>(p, q);
    return nullptr;
  }
  if (q < Q) {
    if constexpr (Q > 2 && P * Q / 2 >= kLanesOf<T>) return tiles_of<T, P, Q / 2>(p, q);
    return nullptr;
  }
  return turn_tiles<T, P, Q>;
}

// out[r][c] = in[c][r], both with the last index contiguous; false if there are too few elements for vectors.
template <class T>
bool turn(int64_t rows, int64_t cols, const char* in, int64_t ic, char* out, int64_t orow) {
  constexpr int64_t L = kLanesOf<T>, S = sizeof(T);
  int64_t r = rows, c = cols;  // what tiles cover
  TurnTiles tiles = nullptr;
  if constexpr (L >= 4) {                        // three, the channels of images, as four
    if (rows == 3 && cols > L && ic >= 3 * S) {  // rows of the input are read with what follows them: not the last
      c = cols - 1;
      tiles = turn_tiles<T, L, 4, L, 3>, r = 4;
    } else if (cols == 3 && rows > L && orow == 3 * S) {  // what is written too much the next row overwrites
      r = rows - 1;
      tiles = turn_tiles<T, 4, L, 3, L>, c = 4;
    }
  }
  if (!tiles) tiles = tiles_of<T>(cols, rows);
  if (!tiles) return false;
  tiles(r, c, in, ic, out, orow);
  if (c < cols) gather_rows<T>(1, rows, in + c * ic, 0, S, out + c * S, 0, orow);
  if (r < rows) gather_rows<T>(1, cols, in + r * S, 0, ic, out + r * orow, 0, S);
  return true;
}

template <class T>
void move(int64_t rows, int64_t cols, const char* in, int64_t ir, int64_t ic, char* out, int64_t orow, int64_t oc) {
  constexpr int64_t S = sizeof(T);
  if (rows > 1 && oc == S && ir == S && turn<T>(rows, cols, in, ic, out, orow)) return;
  if (rows > cols && (oc != S || cols < 4)) std::swap(rows, cols), std::swap(ir, ic), std::swap(orow, oc);
  gather_rows<T>(rows, cols, in, ir, ic, out, orow, oc);
}

}  // namespace

void move2d(int size, int64_t rows, int64_t cols, const char* in, int64_t ir, int64_t ic, char* out, int64_t orow, int64_t oc) {
  if (rows > 1 && (cols == 1 || (oc != size && orow == size))) std::swap(rows, cols), std::swap(ir, ic), std::swap(orow, oc);
  if (oc == size && ic == size) {
    if (ir == orow && ir == cols * size) cols *= rows, rows = 1;
    return move_rows(rows, cols * size, in, ir, out, orow);
  }
  switch (size) {
    case 1: return move<uint8_t>(rows, cols, in, ir, ic, out, orow, oc);
    case 2: return move<uint16_t>(rows, cols, in, ir, ic, out, orow, oc);
    case 4: return move<uint32_t>(rows, cols, in, ir, ic, out, orow, oc);
    case 8: return move<uint64_t>(rows, cols, in, ir, ic, out, orow, oc);
    default: return move<Raw16>(rows, cols, in, ir, ic, out, orow, oc);
  }
}

}  // namespace ptrt::PTRT_LEVEL
