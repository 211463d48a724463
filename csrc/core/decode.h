// Reads the words written by pytensor_rt/runtime/encode.py and believes none of them: what comes out is safe to hand to a kernel's factory.
#pragma once
#include <vector>

#include "core/launch.h"

namespace ptrt {

struct Const {
  void* data;
  int64_t nbytes;
  bool mapped;  // lives in a read-only file mapping, whose pages may be given back after packing
};

enum BufferKind : int64_t { kArenaBuffer = 0, kConstBuffer = 1, kInputBuffer = 2, kOutputBuffer = 3 };

struct BufferInfo {
  int64_t kind, value, nbytes;  // value: byte offset in the arena, or the number of the constant, input or output
};

// Where an operand lives: a buffer (-1: nowhere) and a byte offset in it.
struct OperandRef {
  int64_t buffer = -1, byte_offset = 0;
  int64_t item = 0, low = 0, high = 0;  // bytes per unit of the offset word (0: empty, anywhere), and those it reaches from there
  size_t word = 0;                      // of the launch that holds the offset
};

// Launches [begin, ends[0]), [ends[0], ends[1]), ... which share no memory that one of them writes.
struct Strands {
  size_t begin = 0;
  std::vector<size_t> ends;
};

class Decoder {
 public:
  // Reads the buffer table and the strands. Throws KernelError.
  Decoder(const int64_t* code, size_t words, const std::vector<Const>& consts);
  const std::vector<BufferInfo>& buffers() const { return buffers_; }
  const std::vector<Strands>& strands() const { return strands_; }  // in order, apart, and within the launches
  int64_t num_launches() const { return n_launches_; }
  // Reads the next launch; `refs` receives one entry per operand, in the order ins, outs, pro_ins, epi_ins. Guarantees: operands as the
  // kernel's spec lists them (optional ones that are missing are appended as absent), known dtypes, every view inside its buffer with a
  // size that cannot overflow, outputs only in memory that may be written and never broadcast, pro_ins and epi_ins of the shape they must
  // have, programs whose registers, operands and axes exist. Throws KernelError.
  LaunchDesc next(std::vector<OperandRef>& refs);
  const int64_t* at() const { return p_; }  // the next launch's words
  // Steps over the next launch if it differs from one with `words` and `refs` in its operands' offsets at most, with which `refs` are then
  // brought up to date; no offset of a constant differs unless `constants_move`. Throws KernelError where a view leaves its buffer.
  bool skip(const std::vector<int64_t>& words, std::vector<OperandRef>& refs, bool constants_move);

 private:
  int64_t word();
  int64_t count(int64_t limit, int64_t words_each);  // of things that are still to be read
  DType dtype();
  Operand operand(OperandRef& ref, bool may_be_hollow, bool written);
  Expr program(int64_t n, size_t loads, int ndim, bool acc);

  const int64_t *p_, *end_, *launch_ = nullptr;
  const std::vector<Const>& consts_;
  std::vector<BufferInfo> buffers_;
  std::vector<Strands> strands_;
  int64_t n_launches_ = 0;
};

}  // namespace ptrt
