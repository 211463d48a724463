// Constant weights of gemm in 8- or 4-bit integers with scales and perhaps zero points per block of k and column: spec.py's b_scale.
#pragma once
#include <algorithm>
#include <cmath>
#include <new>
#include <string>

#include "core/launch.h"
#include "cpu/half.h"

namespace ptrt::PTRT_LEVEL {
namespace {

// How far ahead few rows prefetch, in bytes. Weights that are in no cache arrive at 19 GB/s instead of 16 and 13 instead of 10, in 16 bits
// and in floats, even on a core that should be left alone with streams that are merely summed (stream_prefetch_bytes).
constexpr int64_t kAhead = 8192;

struct NarrowWeights {
  const LaunchDesc& desc;
  bool pairs, nibbles;
  int64_t blocks, block;  // values of k per block

  struct Zeros {
    float first;  // of all if they are the same, in b's own numbers
    bool same;
    bool in_format;  // are all numbers that a value of b can be?
  };
  Zeros zeros{0, true, true};

  NarrowWeights(const LaunchDesc& d, int64_t K, int64_t block_or_all, bool two_in_a_byte, BindContext& bind)
      : desc(d), pairs(two_in_a_byte), block(block_or_all ? block_or_all : std::max<int64_t>(1, K)) {
    const Operand &b = d.ins[1], &scale = d.ins[4];
    nibbles = pairs || b.dtype == DType::i4 || b.dtype == DType::u4;
    blocks = scale.shape[scale.ndim - 2];
    constexpr int64_t kMost = int64_t{1} << 31;
    if (blocks < 1 || blocks > kMost || block < 1 || block > kMost || blocks != std::max<int64_t>(1, (K + block - 1) / block))
      throw KernelError("gemm: b_scale has " + std::to_string(blocks) + " blocks of " + std::to_string(block) + " for " +
                        std::to_string(K) + " values");
    const Operand* zero = optional_input(d, 3);
    if (!zero) return;
    if (zero->shape[zero->ndim - 1] * zero->shape[zero->ndim - 2] == 1) {
      zeros = summary(*zero);
      return;
    }
    // There may be as many as a hundredth of b's values, too many to be looked at for every shape.
    const auto kept = bind.packs.get(*zero, "gemm_zeros:" + key(), sizeof(Zeros), [&](void* to) { new (to) Zeros(summary(*zero)); });
    zeros = *static_cast<const Zeros*>(kept.get());
  }

  std::string key() const {  // of what beside b and its layout decides how they are packed
    const auto address = [](const Operand& o) {
      return o.dtype == DType::none ? std::string("-") : std::to_string(reinterpret_cast<uintptr_t>(o.data));
    };
    return std::to_string(static_cast<int>(desc.ins[1].dtype)) + ":" + std::to_string(pairs) + ":" + std::to_string(block) + ":" +
           address(desc.ins[4]) + ":" + address(desc.ins[3]);
  }

  // Value k of the column of b that starts at element `column`.
  int value(const Operand& b, int64_t column, int64_t stride, int64_t k) const {
    return integer(b, column + (pairs ? k / 2 : k) * stride, k & 1);
  }

  // Values k .. k + 7 of that column plus `shift`, of 4 bits each, the first one lowest; 0 from K on.
  uint32_t eight(const Operand& b, int64_t column, int64_t stride, int64_t k, int64_t K, int shift) const {
    uint32_t word = 0;
    if (pairs && stride == 1 && k + 8 <= K && shift == 0) {
      const uint8_t* p = b.as<const uint8_t>() + column + k / 2;
      for (int i = 0; i < 4; i++) word |= static_cast<uint32_t>(p[i]) << (8 * i);
      return word;
    }
    for (int64_t i = 0; i < std::min<int64_t>(8, K - k); i++)
      word |= static_cast<uint32_t>(value(b, column, stride, k + i) + shift) << (4 * i);
    return word;
  }

  // Element [block, column] of b_scale or b_zero.
  float parameter(const Operand& o, int64_t at, int64_t column) const {
    const int r = o.ndim;
    const bool integers = o.dtype == desc.ins[1].dtype;
    const int64_t row = integers && pairs ? at / 2 : at;
    const int64_t i = (o.shape[r - 2] == 1 ? 0 : row * o.strides[r - 2]) + (o.shape[r - 1] == 1 ? 0 : column * o.strides[r - 1]);
    if (integers) return static_cast<float>(integer(o, i, at & 1));
    return o.dtype == DType::f32 ? o.as<const float>()[i] : half_to_float(o.dtype, o.as<const uint16_t>()[i]);
  }

  // f(block * columns + j, scale, zero) of columns n0 + j of all blocks; 0 for j from n on.
  template <class F>
  void each_parameter(int64_t n0, int64_t n, int64_t columns, F f) const {
    const Operand* zero = optional_input(desc, 3);
    for (int64_t g = 0; g < blocks; g++)
      for (int64_t j = 0; j < columns; j++)
        f(g * columns + j, j < n ? parameter(desc.ins[4], g, n0 + j) : 0.0f, zero && j < n ? parameter(*zero, g, n0 + j) : 0.0f);
  }

 private:
  Zeros summary(const Operand& zero) const {
    const Operand& b = desc.ins[1];
    const bool sign = b.dtype == DType::i8 || b.dtype == DType::i4;
    const float least = sign ? nibbles ? -8.0f : -128.0f : 0.0f, most = least + (nibbles ? 15.0f : 255.0f);
    const int64_t rows = zero.shape[zero.ndim - 2] == 1 ? 1 : blocks, columns = zero.shape[zero.ndim - 1];
    Zeros z{columns ? parameter(zero, 0, 0) : 0.0f, true, true};
    for (int64_t at = 0; at < rows; at++)
      for (int64_t n = 0; n < columns; n++) {
        const float x = parameter(zero, at, n);
        z.same &= x == z.first;
        z.in_format &= x >= least && x <= most && x == std::rint(x);
      }
    return z;
  }

  // Integer `i` of b or its zero points, in the storage format of b; `high`: the upper half of a pair.
  int integer(const Operand& o, int64_t i, int64_t high) const {
    if (pairs) return o.as<const uint8_t>()[i] >> (4 * high) & 15;
    if (o.dtype == DType::u8) return o.as<const uint8_t>()[i];
    if (o.dtype == DType::u4) return o.as<const uint8_t>()[i] & 15;
    const int v = o.as<const int8_t>()[i];
    return o.dtype == DType::i4 ? ((v & 15) ^ 8) - 8 : v;
  }
};

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
