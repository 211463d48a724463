// The integer products of a quantised recurrent layer: activations quantised to uint8 as DynamicQuantizeLinear does, exact int32 sums.
#pragma once
#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {

struct QuantRange {
  float lo = 0, hi = 0;  // always contains 0
  float scale = 1;
  int32_t zero = 0;
  void widen(const float* x, int64_t n);
  void finish();  // sets scale and zero
};

// Both operands are kept as int16 minus their zero points, two neighbours in k per 32-bit word, so that one multiply-add of pairs is exact.
inline int64_t quant_words(int64_t k) { return (k + 1) / 2; }
void quantize_row(const QuantRange& q, const float* x, int64_t k, int32_t* words);

// c[m][j] = (sum over k of a[m][k] * b[k][j]) * (a_scale * scale[j]) + (add ? add[m*ldadd + j] : 0) for vecs * W columns; b: panels of two
// vectors (the last may have one) of packed words. add == c is allowed.
void quant_gemm(int64_t m, int64_t words, const int32_t* a, int64_t lda, const int32_t* b, int64_t vecs, float a_scale, const float* scale,
                const float* add, int64_t ldadd, float* c, int64_t ldc);

}  // namespace ptrt::PTRT_LEVEL
