// Rows of elements of any float dtype, read into and written from float or double.
#pragma once
#include "cpu/half.h"

namespace ptrt::PTRT_LEVEL {
namespace {

// A float that rounds to f16 or bf16 as the double itself would (round to odd: what is lost stays visible in the last bit).
PTRT_INLINE float for_half(float f) { return f; }
PTRT_INLINE float for_half(double d) {
  const float f = static_cast<float>(d);
  if (static_cast<double>(f) == d || d != d) return f;
  const uint32_t bits = float_to_bits(f);
  return bits_to_float((__builtin_fabs(static_cast<double>(f)) > __builtin_fabs(d) ? bits - 1 : bits) | 1);
}

inline bool is_float_type(DType t) { return t == DType::f32 || t == DType::f64 || t == DType::f16 || t == DType::bf16; }

template <class T>
void load_row(T* dst, DType type, const void* src, int64_t offset, int64_t stride, int64_t n) {
  switch (type) {
    case DType::f32: {
      const float* p = static_cast<const float*>(src) + offset;
      if (stride == 1 && sizeof(T) == 4) std::memcpy(dst, p, static_cast<size_t>(n) * 4);
      else
        for (int64_t i = 0; i < n; i++) dst[i] = static_cast<T>(p[i * stride]);
      break;
    }
    case DType::f64: {
      const double* p = static_cast<const double*>(src) + offset;
      for (int64_t i = 0; i < n; i++) dst[i] = static_cast<T>(p[i * stride]);
      break;
    }
    default: {
      const uint16_t* p = static_cast<const uint16_t*>(src) + offset;
      if constexpr (sizeof(T) == 4)
        if (stride == 1) return halves_to_floats(type, dst, p, n);
      for (int64_t i = 0; i < n; i++) dst[i] = static_cast<T>(half_to_float(type, p[i * stride]));
    }
  }
}

template <class T>
void store_row(const T* src, DType type, void* dst, int64_t offset, int64_t stride, int64_t n) {
  switch (type) {
    case DType::f32: {
      float* p = static_cast<float*>(dst) + offset;
      if (stride == 1 && sizeof(T) == 4) std::memcpy(p, src, static_cast<size_t>(n) * 4);
      else
        for (int64_t i = 0; i < n; i++) p[i * stride] = static_cast<float>(src[i]);
      break;
    }
    case DType::f64: {
      double* p = static_cast<double*>(dst) + offset;
      for (int64_t i = 0; i < n; i++) p[i * stride] = static_cast<double>(src[i]);
      break;
    }
    default: {
      uint16_t* p = static_cast<uint16_t*>(dst) + offset;
      if constexpr (sizeof(T) == 4)
        if (stride == 1) return floats_to_halves(type, p, src, n);
      for (int64_t i = 0; i < n; i++) p[i * stride] = float_to_half(type, for_half(src[i]));
    }
  }
}

// Sizes of scratch and packs, refused when they overflow.
inline int64_t checked_mul(int64_t a, int64_t b) {
  int64_t r;
  if (__builtin_mul_overflow(a, b, &r)) throw KernelError("size overflow");
  return r;
}
inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
