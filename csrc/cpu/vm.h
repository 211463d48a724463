// The register machine that evaluates fused elementwise programs: `map` bodies, prologues and epilogues.
#pragma once
#include <vector>

#include "core/launch.h"

namespace ptrt::PTRT_LEVEL {

// A two-dimensional strided view; strides in elements of the operand's dtype, any sign, 0 for broadcast.
struct Block {
  void* data = nullptr;
  int64_t row_stride = 0, col_stride = 0;
};

// The index along one axis: base + r * row_step + c * col_step. run() takes an array of them, one per axis that `iota` instructions name.
struct Iota {
  int64_t base = 0, row_step = 0, col_step = 0;
};

// A compiled program. Immutable after construction; run() may be called by many workers at once.
class Vm {
 public:
  // in_types: dtypes of the operands that `load` names; acc: dtype of `acc` instructions (none if there are none).
  Vm(const Expr& program, const std::vector<DType>& in_types, DType acc);
  ~Vm();
  Vm(Vm&&) noexcept;
  Vm& operator=(Vm&&) noexcept;
  DType result() const;          // dtype of the last instruction, which is what `out` must have
  size_t scratch_bytes() const;  // per worker
  void streams();                // operands come from memory: to be called before run()
  // out[r][c] = program(acc[r][c], ins[k][r][c]) for a rows x cols block. out may be the memory of acc or of an input with the same
  // strides. Internally works on L1-sized tiles; blocks of at least a few hundred elements amortise its dispatch.
  void run(int64_t rows, int64_t cols, const Block* ins, Block acc, Block out, char* scratch, const Iota* iota = nullptr) const;

  struct Impl;

 private:
  void tabulate();
  Impl* impl_;
};

// The epilogue of a launch, for kernels that produce their result block by block.
class Epilogue {
 public:
  explicit Epilogue(const LaunchDesc& desc);
  bool empty() const { return !vm_present_; }
  size_t scratch_bytes() const;
  // Stores epilogue(acc, epi_ins) to a box of outs[0]: the block that starts at `index` and spans `rows` along row_axis and `cols` along
  // col_axis (row_axis == -1: a single row). `acc` holds the kernel's own results in desc.acc_dtype, in the output itself or in scratch.
  // Careful: an epi_in may be the memory of outs[0] (in place), in which case acc must not be the output: see `in_place`.
  void apply(const LaunchDesc& desc, const int64_t* index, int row_axis, int64_t rows, int col_axis, int64_t cols, Block acc,
             char* scratch) const;
  // Does an epilogue operand share memory with outs[0] in this run? Then acc has to be kept elsewhere until apply() stores it.
  static bool in_place(const LaunchDesc& desc);

 private:
  bool vm_present_ = false;
  size_t vm_blocks_ = 0;  // bytes at the start of scratch that hold the operands' blocks
  std::vector<Vm> vm_;    // zero or one
};

}  // namespace ptrt::PTRT_LEVEL
