// Copies between strided matrices and dense row-major ones, with conversion. Transposes go through registers, a square of vectors at a
// time.
#include <algorithm>
#include <type_traits>
#include <utility>

#include "cpu/gemm.h"
#include "cpu/half.h"
#include "cpu/lanes.h"
#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {
namespace {

// Rows become columns by log2(lanes) rounds of interleaving row i with row i + lanes / 2.
template <class V, int L>
PTRT_INLINE void transpose(V (&r)[L]) {
  using Index = std::make_integer_sequence<int, L>;
  PTRT_UNROLL for (int step = 1; step < L; step *= 2) {
    V t[L];
    PTRT_UNROLL for (int i = 0; i < L / 2; i++) {
      t[2 * i] = interleave<0>(r[i], r[i + L / 2], Index{});
      t[2 * i + 1] = interleave<L / 2>(r[i], r[i + L / 2], Index{});
    }
    PTRT_UNROLL for (int i = 0; i < L; i++) r[i] = t[i];
  }
}

// dst[r * ld + c] = src[r + c * cs]: the source's columns are contiguous.
template <class T>
void copy_transposed(T* dst, int64_t ld, const T* src, int64_t cs, int64_t rows, int64_t cols) {
  constexpr int L = Lanes<T>::n;
  int64_t r = 0;
  for (; r + L <= rows; r += L) {
    int64_t c = 0;
    for (; c + L <= cols; c += L) {
      typename Lanes<T>::V v[L];
      PTRT_UNROLL for (int i = 0; i < L; i++) v[i] = load(src + r + (c + i) * cs);
      transpose(v);
      PTRT_UNROLL for (int i = 0; i < L; i++) store(dst + (r + i) * ld + c, v[i]);
    }
    for (; c < cols; c++)
      for (int i = 0; i < L; i++) dst[(r + i) * ld + c] = src[r + i + c * cs];
  }
  for (; r < rows; r++)
    for (int64_t c = 0; c < cols; c++) dst[r * ld + c] = src[r + c * cs];
}

template <class T>
PTRT_INLINE void copy_row(T* dst, const T* src, int64_t n) {  // rows are often a panel wide: too short to call memcpy
  constexpr int L = Lanes<T>::n;
  int64_t i = 0;
  for (; i + L <= n; i += L) store(dst + i, load(src + i));
  if (i < n) store_n(dst + i, load_n(src + i, static_cast<int>(n - i)), static_cast<int>(n - i));
}

template <class T>
void copy_same(T* dst, int64_t ld, const T* src, int64_t rs, int64_t cs, int64_t rows, int64_t cols) {
  if (cs == 1) {
    for (int64_t r = 0; r < rows; r++) copy_row(dst + r * ld, src + r * rs, cols);
  } else if (rs == 1) {
    copy_transposed(dst, ld, src, cs, rows, cols);
  } else {
    for (int64_t r = 0; r < rows; r++)
      for (int64_t c = 0; c < cols; c++) dst[r * ld + c] = src[r * rs + c * cs];
  }
}

constexpr int kChunk = 256;  // elements converted at a time

void copy_halves(float* dst, int64_t ld, const uint16_t* src, DType t, int64_t rs, int64_t cs, int64_t rows, int64_t cols) {
  if (cs == 1) {
    for (int64_t r = 0; r < rows; r++) halves_to_floats(t, dst + r * ld, src + r * rs, cols);
  } else if (rs == 1) {  // convert W columns of the source at a time, then transpose them from the buffer
    float buffer[W * kChunk];
    for (int64_t r = 0; r < rows; r += kChunk)
      for (int64_t c = 0; c < cols; c += W) {
        const int64_t nr = std::min<int64_t>(kChunk, rows - r), nc = std::min<int64_t>(W, cols - c);
        for (int64_t i = 0; i < nc; i++) halves_to_floats(t, buffer + i * kChunk, src + r + (c + i) * cs, nr);
        copy_transposed(dst + r * ld + c, ld, buffer, kChunk, nr, nc);
      }
  } else {
    for (int64_t r = 0; r < rows; r++)
      for (int64_t c = 0; c < cols; c++) dst[r * ld + c] = half_to_float(t, src[r * rs + c * cs]);
  }
}

}  // namespace

template <class T>
void copy_matrix(T* dst, int64_t ld, const void* src, DType dtype, int64_t rs, int64_t cs, int64_t rows, int64_t cols) {
  if constexpr (std::is_same_v<T, float>) {
    if (dtype != DType::f32) {
      copy_halves(dst, ld, static_cast<const uint16_t*>(src), dtype, rs, cs, rows, cols);
      return;
    }
  }
  copy_same(dst, ld, static_cast<const T*>(src), rs, cs, rows, cols);
}

template <class T>
void store_matrix(void* dst, DType dtype, int64_t rs, int64_t cs, const T* src, int64_t ld, int64_t rows, int64_t cols) {
  if constexpr (std::is_same_v<T, float>) {
    if (dtype != DType::f32) {
      auto* out = static_cast<uint16_t*>(dst);
      for (int64_t r = 0; r < rows; r++)
        if (cs == 1) floats_to_halves(dtype, out + r * rs, src + r * ld, cols);
        else
          for (int64_t c = 0; c < cols; c++) out[r * rs + c * cs] = float_to_half(dtype, src[r * ld + c]);
      return;
    }
  }
  T* out = static_cast<T*>(dst);
  for (int64_t r = 0; r < rows; r++)
    if (cs == 1) copy_row(out + r * rs, src + r * ld, cols);
    else
      for (int64_t c = 0; c < cols; c++) out[r * rs + c * cs] = src[r * ld + c];
}

template <class T>
void pack_panels(T* out, const void* src, DType dtype, int64_t bk, int64_t bn, int64_t K, int64_t N, int nr, const PanelRange& range) {
  const auto item = static_cast<int64_t>(itemsize(dtype));
  const int64_t rows = range.k1 - range.k0;
  for (int64_t p = range.p0; p < range.p1; p++) {
    T* panel = out + (p * K + range.k0) * nr;
    const int64_t n = std::min<int64_t>(nr, N - p * nr);
    copy_matrix(panel, nr, static_cast<const char*>(src) + (range.k0 * bk + p * nr * bn) * item, dtype, bk, bn, rows, n);
    if (n < nr)
      for (int64_t k = 0; k < rows; k++) std::fill(panel + k * nr + n, panel + (k + 1) * nr, T{0});
  }
}

template void copy_matrix<float>(float*, int64_t, const void*, DType, int64_t, int64_t, int64_t, int64_t);
template void copy_matrix<double>(double*, int64_t, const void*, DType, int64_t, int64_t, int64_t, int64_t);
template void store_matrix<float>(void*, DType, int64_t, int64_t, const float*, int64_t, int64_t, int64_t);
template void store_matrix<double>(void*, DType, int64_t, int64_t, const double*, int64_t, int64_t, int64_t);
template void pack_panels<float>(float*, const void*, DType, int64_t, int64_t, int64_t, int64_t, int, const PanelRange&);
template void pack_panels<double>(double*, const void*, DType, int64_t, int64_t, int64_t, int64_t, int, const PanelRange&);

}  // namespace ptrt::PTRT_LEVEL
