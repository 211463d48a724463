// The instruction set of the register machine: one function per (operation, compute type), each a loop over one tile.
#pragma once
#include "core/vocabulary.h"
#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {

// What registers hold. Every dtype computes in one of these; f16, bf16, float8, float4 in f32, 4- and 2-bit integers in 8 bits.
enum class Comp : int8_t { f32, f64, i8, u8, i16, u16, i32, u32, i64, u64, none };

inline int comp_size(Comp c) {
  constexpr int8_t sizes[] = {4, 8, 1, 1, 2, 2, 4, 4, 8, 8, 0};
  return sizes[static_cast<int>(c)];
}

union Imm {
  double f;
  int64_t i;
  uint64_t u;
};

// Operands of one step on one tile. Bit k of `scalar`: argument k is a single value, not n of them. The output may be the memory of an
// argument; otherwise they do not overlap.
struct Args {
  void* o;
  const void* a[3];
  int64_t n;
  uint32_t scalar;
  Imm imm[2];
};
using Fn = void (*)(const Args&);

struct Pick {
  Fn fn = nullptr;      // null: no such operation on this type
  uint8_t scalars = 0;  // arguments that may be scalar (if all are, the step runs once with n = 1 and need not support it)
};

Pick pick_f32(Op op);          // vm_f32.cpp; results of predicates and comparisons are u8
Pick pick_f64(Op op);          // vm_f64.cpp
Pick pick_int(Op op, Comp c);  // vm_int.cpp
Pick pick_where(int size);     // vm_int.cpp: args are a u8 condition, then two values of `size` bytes
Pick pick_copy(int size);      // vm_cast.cpp
Pick pick_muladd(Comp c);      // vm_f32.cpp, vm_f64.cpp: a * b + c; null for integers
Pick pick_muladd_f64();

// Conversions between compute types, as defined for numpy.astype on x86: see vm_cast.cpp. `steps` receives up to three functions to be
// applied in turn, with the compute type each produces.
struct CastStep {
  Fn fn;
  Comp to;
  Imm imm[2];
};
int cast_steps(Comp from, Comp to, CastStep* steps);
int cast_sat_steps(Comp from, Comp to, int64_t lo, uint64_t hi, CastStep* steps);  // round half to even, saturate to [lo, hi]
CastStep truth_step(Comp from);                                                    // x != 0 as u8
CastStep odd_f32_step();  // f64 to f32, rounding to odd, so that a second rounding to a narrower type is exact

// What QuantizeLinear and DequantizeLinear do to 8 bits, `to` and `from` being i8 or u8, in one step each with the bits of their steps:
// saturated(round(x / scale) + zero) of f32, and (x - zero) * scale as f32.
CastStep quantize_step(Comp to, float scale, int zero);
CastStep dequantize_step(Comp from, float scale, int zero);
Pick quantize_by(Comp to);    // saturated(round(a / b) + c) of f32 a, b and an i8 or u8 c
Pick byte_muladd(Comp from);  // f32(a) * imm[0] + b, rounded once, of an i8 or u8 and an f32

// Storage formats that are not compute types: memory to register and back.
enum class Overflow : int8_t { saturate, wrap, keep_inf };  // float8: Cast, Cast without saturation, the store of an arithmetic result
Fn decode_fn(DType t, Imm* imm);
Fn encode_fn(DType t, Overflow mode, Imm* imm);

// out[r][c] = in[r][c] for elements of `size` bytes (1, 2, 4, 8, 16). Strides in elements. Not overlapping, or identical.
void copy2d(int size, int64_t rows, int64_t cols, const void* in, int64_t in_row, int64_t in_col, void* out, int64_t out_row,
            int64_t out_col);
void fill_n(int size, int64_t n, const void* value, void* out);

}  // namespace ptrt::PTRT_LEVEL
