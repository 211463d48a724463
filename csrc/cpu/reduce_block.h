// Blocks of a launch as rows of a compute type: reading any operand (or prologue) of any strides and dtype, storing results through the
// epilogue. What reduce, softmax, normalize, arg_reduce and pool have in common.
#pragma once
#include <vector>

#include "core/launch.h"
#include "cpu/simd.h"
#include "cpu/vm.h"

namespace ptrt::PTRT_LEVEL {

// dst[i] = src[i * stride], i < n, converted from `from` to C (float, double, int32_t, int64_t or uint64_t). Throws KernelError for dtypes
// that are no numbers of C++ (complex, float8, 4 and 2 bits).
template <class C>
void convert_in(DType from, const void* src, int64_t stride, int64_t n, C* dst);
// dst[i * stride] = src[i] converted to `to` (floats to nearest even; integers wrap).
template <class C>
void convert_out(DType to, const C* src, int64_t n, void* dst, int64_t stride);
bool convertible(DType t);

template <class C>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::f32;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::f64;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::i32;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::i64;
}
template <>
constexpr DType dtype_of<uint64_t>() {
  return DType::u64;
}

// Rewrites the operands of a launch whose operands all have ins[0]'s rank: axes of size 1 go, axes are ordered by falling stride of the
// input, neighbours with equal labels are merged where every operand's strides allow. Returns the labels of the axes that remain; the
// result has at least one axis of label 0 and one of label 1. Programs with `iota` keep their axes.
std::vector<int> canonicalise(LaunchDesc& desc, std::vector<int> labels);

inline size_t align64(size_t n) { return (n + 63) & ~size_t{63}; }

// Address of element `index` of an operand.
PTRT_INLINE char* element(const Operand& o, const int64_t* index) {
  int64_t offset = 0;
  for (int a = 0; a < o.ndim; a++) offset += index[a] * o.strides[a];
  return static_cast<char*>(o.data) + offset * static_cast<int64_t>(itemsize(o.dtype));
}

// Operand 0 of a launch, or its prologue, as blocks of C.
template <class C>
class Source {
 public:
  explicit Source(const LaunchDesc& desc);
  // Scratch that block() needs for blocks of at most `elements` elements.
  size_t scratch_bytes(int64_t elements) const;
  // Does block() hand out the operand's own memory for blocks along this column axis?
  bool direct(const LaunchDesc& desc, int col_axis) const {
    return !program_ && desc.ins[0].dtype == dtype_of<C>() && (desc.ins[0].strides[col_axis] == 1 || desc.ins[0].shape[col_axis] <= 1);
  }
  bool has_program() const { return program_; }
  // The rows x cols block that starts at `index`: columns contiguous, rows *row_stride apart. row_axis < 0: a single row.
  const C* block(const LaunchDesc& desc, const int64_t* index, int row_axis, int64_t rows, int col_axis, int64_t cols, char* scratch,
                 int64_t* row_stride) const;
  // The same, always copied to `out` (columns contiguous, rows `cols` apart).
  void fill(const LaunchDesc& desc, const int64_t* index, int row_axis, int64_t rows, int col_axis, int64_t cols, C* out,
            char* scratch) const;

 private:
  bool program_ = false;
  DType result_;
  std::vector<Vm> vm_;  // zero or one
};

// Stores blocks of results of type C to outs[0].
template <class C>
class Sink {
 public:
  explicit Sink(const LaunchDesc& desc);
  size_t scratch_bytes(int64_t elements) const;
  // May results be written straight into outs[0] as C, with contiguous columns? (No conversion, no epilogue.)
  bool direct(const LaunchDesc& desc, int col_axis) const {
    return epilogue_.empty() && desc.outs[0].dtype == dtype_of<C>() &&
           (desc.outs[0].strides[col_axis] == 1 || desc.outs[0].shape[col_axis] <= 1);
  }
  void store(const LaunchDesc& desc, const int64_t* index, int row_axis, int64_t rows, int col_axis, int64_t cols, const C* data,
             int64_t row_stride, char* scratch) const;

 private:
  Epilogue epilogue_;
};

// An odometer over some axes of an index.
struct Walk {
  int n = 0;
  int axis[kMaxDims];
  int64_t size[kMaxDims];
  int64_t total = 1;
  void add(int a, int64_t s) {
    axis[n] = a;
    size[n++] = s;
    total *= s;
  }
  void seek(int64_t* index, int64_t position) const {
    for (int i = n - 1; i >= 0; i--) {
      index[axis[i]] = position % size[i];
      position /= size[i];
    }
  }
  void next(int64_t* index) const {
    for (int i = n - 1; i >= 0; i--) {
      if (++index[axis[i]] < size[i]) return;
      index[axis[i]] = 0;
    }
  }
};

}  // namespace ptrt::PTRT_LEVEL
