// The compiled form of a program, shared by the compiler (vm.cpp) and the interpreter (vm_run.cpp).
#pragma once
#include <vector>

#include "cpu/byte_table.h"
#include "cpu/vm.h"
#include "cpu/vm_ops.h"

namespace ptrt::PTRT_LEVEL {

constexpr int64_t kTile = 512;  // elements per register, or twice as many: see Vm::Impl::tile

struct Value {
  enum Kind : int8_t { kInput, kConst, kIota, kTemp };
  Kind kind;
  Comp comp;      // none: the raw bytes of a storage format
  int8_t size;    // bytes per element
  int32_t index;  // operand number or axis
  Imm imm;        // constants
  int32_t slot = -1;
};

struct Step {
  Fn fn;
  int32_t dst, arg[3];
  int32_t splat[3];  // slots for arguments that are scalar in a run but may not be for fn
  uint8_t n_args, scalars;
  Imm imm[2];
};

struct Vm::Impl {
  std::vector<Value> values;
  std::vector<Step> steps;
  std::vector<int8_t> in_size;  // bytes per element of each operand, 0 if it is not used; the last one is acc
  int root = 0;
  int slots = 0;
  size_t slot_bytes = 0;
  // Elements per register. Twice kTile where the registers stay in the L1 all the same; where operands stream from memory, short tiles let
  // the loads of the next one overlap with this one's steps.
  int64_t tile = kTile;
  DType result = DType::none;
  ByteTable table;  // of programs of one 8-bit operand: the results for its 256 values; empty if there is none
};

}  // namespace ptrt::PTRT_LEVEL
