// Few rows times a matrix that is read where it lies: each of its elements is used once, so packing would double the traffic.
#pragma once
#include <cstdint>

namespace ptrt::PTRT_LEVEL {

constexpr int kFewRows = 4;

// C[i][j] = sum over k of A[i * lda + k * ks] * B[k * ldb + j], for i < mr <= kFewRows, j < n: rows of B are contiguous. C is dense in n.
template <class T>
void axpy_rows(int mr, int64_t n, int64_t K, const T* A, int64_t lda, int64_t ks, const T* B, int64_t ldb, T* C, int64_t ldc);

// C[i][j] = sum over k of A[i * lda + k] * B[j * ldb + k]: columns of B (and rows of A) are contiguous.
template <class T>
void dot_rows(int mr, int64_t n, int64_t K, const T* A, int64_t lda, const T* B, int64_t ldb, T* C, int64_t ldc);

}  // namespace ptrt::PTRT_LEVEL
