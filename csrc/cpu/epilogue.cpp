// Programs applied as epilogues, to the blocks in which a kernel produces its result.
#include "cpu/vm.h"

namespace ptrt::PTRT_LEVEL {
namespace {

std::vector<DType> dtypes(const std::vector<Operand>& ops) {
  std::vector<DType> t;
  for (const Operand& o : ops) t.push_back(o.dtype);
  return t;
}

}  // namespace

Epilogue::Epilogue(const LaunchDesc& desc) {
  if (desc.epilogue.empty()) return;
  vm_.emplace_back(desc.epilogue, dtypes(desc.epi_ins), desc.acc_dtype);
  if (vm_[0].result() != desc.outs[0].dtype) throw KernelError("epilogue: the result has another dtype than the output");
  vm_blocks_ = (desc.epi_ins.size() * sizeof(Block) + 63) & ~size_t{63};
  vm_present_ = true;
}

size_t Epilogue::scratch_bytes() const { return vm_present_ ? vm_[0].scratch_bytes() + vm_blocks_ : 0; }

bool Epilogue::in_place(const LaunchDesc& desc) {
  for (const Operand& o : desc.epi_ins)
    if (o.data == desc.outs[0].data) return true;
  return false;
}

void Epilogue::apply(const LaunchDesc& desc, const int64_t* index, int row_axis, int64_t rows, int col_axis, int64_t cols, Block acc,
                     char* scratch) const {
  auto block = [&](const Operand& o) {
    int64_t at = 0;
    for (int i = 0; i < o.ndim; i++) at += index[i] * o.strides[i];
    return Block{static_cast<char*>(o.data) + at * static_cast<int64_t>(itemsize(o.dtype)), row_axis < 0 ? 0 : o.strides[row_axis],
                 o.strides[col_axis]};
  };
  Block* ins = reinterpret_cast<Block*>(scratch);
  for (size_t k = 0; k < desc.epi_ins.size(); k++) ins[k] = block(desc.epi_ins[k]);
  Iota iota[kMaxDims];
  for (int i = 0; i < desc.outs[0].ndim; i++) iota[i] = {index[i], i == row_axis, i == col_axis};
  vm_[0].run(rows, cols, ins, acc, block(desc.outs[0]), scratch + vm_blocks_, iota);
}

}  // namespace ptrt::PTRT_LEVEL
