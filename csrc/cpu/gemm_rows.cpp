#include "cpu/gemm_rows.h"

#include <algorithm>

#include "cpu/lanes.h"

namespace ptrt::PTRT_LEVEL {
namespace {

template <class T>
using V = typename Lanes<T>::V;

// C += the sum of KU steps of k. (A chain through all of k would round more.)
template <class T, int MR, int KU, bool FIRST>
void axpy_step(int64_t n, const T* A, int64_t lda, int64_t ks, const T* B, int64_t ldb, T* C, int64_t ldc) {
  constexpr int L = Lanes<T>::n;
  V<T> a[MR][KU];
  PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int u = 0; u < KU; u++) a[i][u] = splat(A[i * lda + u * ks]);
  int64_t j = 0;
  for (; j + L <= n; j += L) {
    V<T> c[MR];
    PTRT_UNROLL for (int i = 0; i < MR; i++) c[i] = V<T>{};
    PTRT_UNROLL for (int u = 0; u < KU; u++) {
      const V<T> b = load(B + u * ldb + j);
      PTRT_UNROLL for (int i = 0; i < MR; i++) c[i] += a[i][u] * b;
    }
    PTRT_UNROLL for (int i = 0; i < MR; i++) store(C + i * ldc + j, FIRST ? c[i] : load(C + i * ldc + j) + c[i]);
  }
  if (j == n) return;
  const int rest = static_cast<int>(n - j);
  for (int i = 0; i < MR; i++) {
    V<T> c = {};
    for (int u = 0; u < KU; u++) c += splat(A[i * lda + u * ks]) * load_n(B + u * ldb + j, rest);
    store_n(C + i * ldc + j, FIRST ? c : load_n(C + i * ldc + j, rest) + c, rest);
  }
}

template <class T, int MR>
void axpy(int64_t n, int64_t K, const T* A, int64_t lda, int64_t ks, const T* B, int64_t ldb, T* C, int64_t ldc) {
  constexpr int KU = kVecBytes == 64 ? (MR <= 2 ? 8 : 4) : (MR == 1 ? 8 : MR == 2 ? 4 : 2);
  int64_t k = 0;
  if (K < KU) {
    for (int i = 0; i < MR; i++) std::fill(C + i * ldc, C + i * ldc + n, T{0});
  } else {
    axpy_step<T, MR, KU, true>(n, A, lda, ks, B, ldb, C, ldc);
    k = KU;
  }
  for (; k + KU <= K; k += KU) axpy_step<T, MR, KU, false>(n, A + k * ks, lda, ks, B + k * ldb, ldb, C, ldc);
  for (; k < K; k++) axpy_step<T, MR, 1, false>(n, A + k * ks, lda, ks, B + k * ldb, ldb, C, ldc);
}

// Sums of L vectors in L lanes: halves are added while rows interleave.
template <class T>
PTRT_INLINE V<T> sum_rows(V<T> (&r)[Lanes<T>::n]) {
  constexpr int L = Lanes<T>::n;
  using Index = std::make_integer_sequence<int, L>;
  PTRT_UNROLL for (int count = L; count > 1; count /= 2) {
    PTRT_UNROLL for (int i = 0; i < count / 2; i++) {
      const V<T> a = r[i], b = r[i + count / 2];
      r[i] = interleave<0>(a, b, Index{}) + interleave<L / 2>(a, b, Index{});
    }
  }
  return r[0];
}

// sums[i][c] = lane-wise partial sums of row i of A times column c of B, COLS columns.
template <class T, int MR, int COLS>
PTRT_INLINE void dot_columns(int64_t K, const T* A, int64_t lda, const T* B, int64_t ldb, V<T> (*sums)[Lanes<T>::n], int first) {
  constexpr int L = Lanes<T>::n;
  const int64_t whole = K / L * L, ldb3 = 3 * ldb;
  const int rest = static_cast<int>(K - whole);
  V<T> acc[MR][COLS];
  PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int c = 0; c < COLS; c++) acc[i][c] = V<T>{};
  const T *b0 = B, *b1 = B + 4 * ldb;  // two base pointers reach eight columns without spilling, as in the tiles
  for (int64_t k = 0; k < whole; k += L) {
    V<T> a[MR];
    PTRT_UNROLL for (int i = 0; i < MR; i++) a[i] = load(A + i * lda + k);
    PTRT_UNROLL for (int c = 0; c < COLS; c++) {
      const T* b = c < 4 ? b0 : b1;
      const V<T> x = load(c % 4 == 0 ? b : c % 4 == 1 ? b + ldb : c % 4 == 2 ? b + 2 * ldb : b + ldb3);
      PTRT_UNROLL for (int i = 0; i < MR; i++) acc[i][c] += a[i] * x;
    }
    b0 += L;
    b1 += L;
    asm volatile("" : "+r"(b0), "+r"(b1));
  }
  if (rest) {
    V<T> a[MR];
    PTRT_UNROLL for (int i = 0; i < MR; i++) a[i] = load_n(A + i * lda + whole, rest);
    PTRT_UNROLL for (int c = 0; c < COLS; c++) {
      const V<T> x = load_n(B + c * ldb + whole, rest);
      PTRT_UNROLL for (int i = 0; i < MR; i++) acc[i][c] += a[i] * x;
    }
  }
  PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int c = 0; c < COLS; c++) sums[i][first + c] = acc[i][c];
}

template <class T, int MR>
void dot(int64_t n, int64_t K, const T* A, int64_t lda, const T* B, int64_t ldb, T* C, int64_t ldc) {
  constexpr int L = Lanes<T>::n, kSums = kVecBytes == 64 ? 16 : 8, kShare = MR == 3 ? 4 : MR;
  constexpr int kMost = kSums / kShare < 8 ? kSums / kShare : 8, kColumns = L < kMost ? L : kMost;  // bounded by the number of registers
  for (int64_t j = 0; j < n; j += L) {
    V<T> sums[MR][L];
    const int columns = static_cast<int>(std::min<int64_t>(L, n - j));
    int c = 0;
    for (; c + kColumns <= columns; c += kColumns) {
      const T* b = B + (j + c) * ldb;
      if (K * static_cast<int64_t>(sizeof(T)) <= 1024) {  // the hardware does not follow short columns
        for (int next = kColumns; next < 2 * kColumns; next++)
          for (int64_t k = 0; k < K; k += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(b + next * ldb + k, 0, 3);
      }
      dot_columns<T, MR, kColumns>(K, A, lda, b, ldb, sums, c);
    }
    for (; c < columns; c++) dot_columns<T, MR, 1>(K, A, lda, B + (j + c) * ldb, ldb, sums, c);
    for (int i = 0; i < MR; i++) {
      for (c = columns; c < L; c++) sums[i][c] = V<T>{};
      store_n(C + i * ldc + j, sum_rows<T>(sums[i]), columns);
    }
  }
}

}  // namespace

template <class T>
void axpy_rows(int mr, int64_t n, int64_t K, const T* A, int64_t lda, int64_t ks, const T* B, int64_t ldb, T* C, int64_t ldc) {
  switch (mr) {
    case 1: axpy<T, 1>(n, K, A, lda, ks, B, ldb, C, ldc); break;
    case 2: axpy<T, 2>(n, K, A, lda, ks, B, ldb, C, ldc); break;
    case 3: axpy<T, 3>(n, K, A, lda, ks, B, ldb, C, ldc); break;
    default: axpy<T, 4>(n, K, A, lda, ks, B, ldb, C, ldc);
  }
}

template <class T>
void dot_rows(int mr, int64_t n, int64_t K, const T* A, int64_t lda, const T* B, int64_t ldb, T* C, int64_t ldc) {
  switch (mr) {
    case 1: dot<T, 1>(n, K, A, lda, B, ldb, C, ldc); break;
    case 2: dot<T, 2>(n, K, A, lda, B, ldb, C, ldc); break;
    case 3: dot<T, 3>(n, K, A, lda, B, ldb, C, ldc); break;
    default: dot<T, 4>(n, K, A, lda, B, ldb, C, ldc);
  }
}

template void axpy_rows<float>(int, int64_t, int64_t, const float*, int64_t, int64_t, const float*, int64_t, float*, int64_t);
template void axpy_rows<double>(int, int64_t, int64_t, const double*, int64_t, int64_t, const double*, int64_t, double*, int64_t);
template void dot_rows<float>(int, int64_t, int64_t, const float*, int64_t, const float*, int64_t, float*, int64_t);
template void dot_rows<double>(int, int64_t, int64_t, const double*, int64_t, const double*, int64_t, double*, int64_t);

}  // namespace ptrt::PTRT_LEVEL
