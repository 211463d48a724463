// The integer products of a quantised recurrent layer: activations quantised to uint8 as DynamicQuantizeLinear does, exact int32 sums.
//
// Units of k are those of gemm_int8_tile.h: four uint8 x int8 with VNNI, else two int16. Activations are kept as they are quantised;
// weights are shifted to fit (and there is what is left of the zero points):
//
//   sum over k of (a - a_zero) * (w - w_zero) = dot(a, stored) - a_zero * colsum - rowsum(a) * left
//
// where colsum = sum of (w - w_zero) and left = w_zero - shift.
#pragma once
#include "cpu/gemm_int8_tile.h"

namespace ptrt::PTRT_LEVEL {

struct QuantRange {
  float lo = 0, hi = 0;  // always contains 0
  float scale = 1;
  int32_t zero = 0;
  void widen(const float* x, int64_t n);
  void finish();  // sets scale and zero
};

inline int64_t quant_words(int64_t k) { return (k + kUnit - 1) / kUnit; }
// What is subtracted from a weight to store it; the int16 form holds the differences themselves.
inline int32_t quant_shift(bool is_unsigned, int32_t zero) { return kUnit == 4 ? (is_unsigned ? -kShiftB : 0) : zero; }

// Row of k values in quant_words(k) words, followed by their sum.
void quantize_row(const QuantRange& q, const float* x, int64_t k, int32_t* words);

// Packed weights of one product: panels of two vectors of columns; per column colsum and left.
struct QuantWeights {
  const int32_t *panels, *colsum, *left;
  const float* scale;
  int64_t words, vecs;  // vecs: even
};

// c[m][j] = (exact sum) * (q.scale * scale[j]) + (add ? add[m*ldadd + j] : 0) for vecs * W columns; rows of `a` as quantize_row makes them.
void quant_gemm(int64_t m, const int32_t* a, int64_t lda, const QuantRange& q, const QuantWeights& b, const float* add, int64_t ldadd,
                float* c, int64_t ldc);

}  // namespace ptrt::PTRT_LEVEL
