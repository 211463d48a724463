// Epilogues of exact int32 sums that quantised models have, in one pass over sums that are still in L1:
//
//   v = float(sum + bias) * scale [+ shift]                  per column
//   v = s1 * float(round(v), within the bounds of a type)    a Quantize- and a DequantizeLinear, if there is one
//   v = v + residual                                         float32, or 8-bit: (r - zero) * scale
//   v = clamp(v)
//   out = v in float32, or round(v / s2) + zero, saturated to 8 bits, or that dequantised again: s3 * float(...) in float32
//
// Instead of s1 * float(...) there may be any function of the byte that the pair stands for (SiLU, ...): a table of its 256 values, after
// which the program may be over. So may there be of the 8-bit result, in its place.
//
// Instead of v + residual, com.microsoft QLinearAdd has byte * s1 + (residual * scale + offset) in fused multiply-adds, zero points
// included.
//
// Zero points of a Quantize- and DequantizeLinear pair cancel; rounding is half to even; NaN saturates to the lower bound.
#pragma once
#include <string>

#include "core/launch.h"
#include "cpu/byte_table.h"

namespace ptrt::PTRT_LEVEL {

struct QuantEpilogue {
  bool ok = false;            // the whole program has this form (an empty program has not)
  double alpha = 1;           // constant factors of scale
  int scales[2] = {-1, -1};   // epilogue operands that are factors of it: scalars or one value per column
  int bias = -1, shift = -1;  // an int32 and a float32 operand, likewise
  bool between = false;       // the pair in the middle: within [lo1, hi1] after subtracting the zero point
  float lo1 = 0, hi1 = 0, s1 = 1;
  ByteTable table;         // instead of s1: float32, or results if `lookup`; empty if there is none
  int32_t table_zero = 0;  // what is added to the rounded value to make it the byte
  bool lookup = false;
  int residual = -1;
  float residual_zero = 0, residual_scale = 1;
  bool fused = false;  // with `offset`, and `back` added to the rounded value again
  float offset = 0, back = 0;
  bool clamp = false;
  float lo = 0, hi = 0;
  bool divide = false;             // by s2
  float s2 = 1, lo2 = 0, hi2 = 0;  // results rounded to 8 bits: within [lo2, hi2], then plus zero2
  int32_t zero2 = 0;
  bool again = false;  // and dequantised
  float s3 = 1;
  ByteTable last;  // of 8-bit results: what is stored for each, in 8 bits; empty if they are
  DType out = DType::none;
};

// Recognises desc.epilogue of a launch whose acc_dtype is int32; columns run along `axis`.
QuantEpilogue quant_epilogue(const LaunchDesc& desc, int axis);

std::string quant_epilogue_name(const QuantEpilogue& e);  // ", then ...", for describe()

// What varies by column, gathered at the start of a run: `columns` values of each, padded to whole vectors.
struct QuantColumns {
  const float *scale, *shift;
  const int32_t* bias;
};
size_t quant_columns_bytes(int64_t columns);
QuantColumns gather_quant_columns(const QuantEpilogue& e, const LaunchDesc& desc, int axis, int64_t columns, void* memory);

// May the sums be floats, which are exact below 2^24? Only if adding the bias to one rounds as converting the integer does.
bool quant_takes_floats(const QuantEpilogue& e, const LaunchDesc& desc);

// `rows` rows of `n` sums at `from` (int32, or float if `floats`; rows `from_row` elements apart, readable in whole vectors) to outputs at
// `to`; `c` holds the columns of these sums. Row strides of outputs and residual in elements of their types.
void apply_quant(const QuantEpilogue& e, const QuantColumns& c, const void* from, bool floats, int64_t from_row, void* to, int64_t to_row,
                 int64_t rows, int64_t n, const void* residual, DType residual_type, int64_t residual_row);

}  // namespace ptrt::PTRT_LEVEL
