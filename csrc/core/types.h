// Element types and strided operands. No Python, no ISA-specific code.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ptrt {

// Numbering follows onnx.TensorProto.DataType. 4-bit and 2-bit types are stored one element per byte (as ml_dtypes does).
enum class DType : int32_t {
  none = 0,
  f32 = 1,
  u8 = 2,
  i8 = 3,
  u16 = 4,
  i16 = 5,
  i32 = 6,
  i64 = 7,
  boolean = 9,
  f16 = 10,
  f64 = 11,
  u32 = 12,
  u64 = 13,
  c64 = 14,
  c128 = 15,
  bf16 = 16,
  f8e4m3fn = 17,
  f8e4m3fnuz = 18,
  f8e5m2 = 19,
  f8e5m2fnuz = 20,
  u4 = 21,
  i4 = 22,
  f4e2m1 = 23,
  f8e8m0 = 24,
  u2 = 25,
  i2 = 26,
};

constexpr int kMaxDims = 12;

inline bool is_byte(DType t) { return t == DType::i8 || t == DType::u8; }

inline size_t itemsize(DType t) {
  switch (t) {
    case DType::f64:
    case DType::i64:
    case DType::u64:
    case DType::c64: return 8;
    case DType::f32:
    case DType::i32:
    case DType::u32: return 4;
    case DType::f16:
    case DType::bf16:
    case DType::i16:
    case DType::u16: return 2;
    case DType::c128: return 16;
    case DType::none: return 0;
    default: return 1;
  }
}

// A strided view of memory. Strides are in elements; the stride of every axis of size 1 is 0; strides may be 0 or negative.
struct Operand {
  enum Flags : int32_t { kConst = 1, kMapped = 2 };  // kMapped: a const that lives in a read-only file mapping
  void* data = nullptr;       // address of element [0,...,0]; patched between runs, so kernels must not keep derived pointers
  DType dtype = DType::none;  // none: the optional operand is absent
  int32_t ndim = 0;
  int32_t flags = 0;
  int64_t shape[kMaxDims] = {};
  int64_t strides[kMaxDims] = {};

  bool present() const { return dtype != DType::none; }
  bool is_const() const { return flags & kConst; }  // data is valid and final when the kernel is constructed
  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < ndim; i++) n *= shape[i];
    return n;
  }
  bool contiguous() const {  // row-major, ignoring axes of size 1
    int64_t s = 1;
    for (int i = ndim - 1; i >= 0; i--) {
      if (shape[i] != 1 && strides[i] != s) return false;
      s *= shape[i];
    }
    return true;
  }
  // size() if the elements fill one stretch of memory from `data` on, in any order of axes; otherwise 0.
  int64_t dense_size() const {
    int64_t reach = 1;
    for (int i = 0; i < ndim; i++) {
      if (shape[i] == 1) continue;
      if (strides[i] <= 0) return 0;
      reach += (shape[i] - 1) * strides[i];
    }
    return reach == size() ? reach : 0;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace ptrt
