// Elements of any float dtype, read into and written from float or double rows.
#pragma once
#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {
namespace {

PTRT_INLINE float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, magnitude = h & 0x7fffu;
  uint32_t bits;
  float f;
  if (magnitude >= 0x7c00u) {
    bits = sign | 0x7f800000u | (magnitude & 0x3ffu) << 13;
  } else if (magnitude >= 0x400u) {
    bits = sign | ((magnitude << 13) + 0x38000000u);
  } else {  // subnormal: an integer multiple of 2^-24
    f = static_cast<float>(magnitude) * 0x1p-24f;
    std::memcpy(&bits, &f, 4);
    bits |= sign;
  }
  std::memcpy(&f, &bits, 4);
  return f;
}

PTRT_INLINE uint16_t float_to_half(float f) {  // round to nearest even
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // subnormal or zero: adding 0.5 aligns the ulp to 2^-24
    float g;
    std::memcpy(&g, &magnitude, 4);
    g += 0.5f;
    uint32_t r;
    std::memcpy(&r, &g, 4);
    return static_cast<uint16_t>(sign | (r - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13));
}

PTRT_INLINE float bf16_to_float(uint16_t h) {
  const uint32_t bits = static_cast<uint32_t>(h) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

PTRT_INLINE uint16_t float_to_bf16(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
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
    case DType::f16: {
      const uint16_t* p = static_cast<const uint16_t*>(src) + offset;
      for (int64_t i = 0; i < n; i++) dst[i] = static_cast<T>(half_to_float(p[i * stride]));
      break;
    }
    default: {
      const uint16_t* p = static_cast<const uint16_t*>(src) + offset;
      for (int64_t i = 0; i < n; i++) dst[i] = static_cast<T>(bf16_to_float(p[i * stride]));
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
    case DType::f16: {
      uint16_t* p = static_cast<uint16_t*>(dst) + offset;
      for (int64_t i = 0; i < n; i++) p[i * stride] = float_to_half(static_cast<float>(src[i]));
      break;
    }
    default: {
      uint16_t* p = static_cast<uint16_t*>(dst) + offset;
      for (int64_t i = 0; i < n; i++) p[i * stride] = float_to_bf16(static_cast<float>(src[i]));
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
