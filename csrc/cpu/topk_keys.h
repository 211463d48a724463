// Total orders for topk and unique: every value maps to an unsigned key of its own size, ascending; -0 equals 0 and all NaNs are one, the
// largest.
#pragma once
#include "cpu/gather_index.h"

namespace ptrt::PTRT_LEVEL {
namespace {

template <class U>
struct UnsignedKey {
  using Bits = U;
  static PTRT_INLINE U of(U u) { return u; }
};
template <class U>
struct SignedKey {
  using Bits = U;
  static PTRT_INLINE U of(U u) { return static_cast<U>(u ^ static_cast<U>(U{1} << (sizeof(U) * 8 - 1))); }
};
template <class U, U Infinity>
struct FloatKey {
  using Bits = U;
  static PTRT_INLINE U of(U u) {
    constexpr auto top = static_cast<U>(U{1} << (sizeof(U) * 8 - 1));
    const auto magnitude = static_cast<U>(u & static_cast<U>(~top));
    const U negative = static_cast<U>(~u), positive = static_cast<U>(u | top);
    const U key = (u & top) != 0 && magnitude != 0 ? negative : positive;
    return magnitude > Infinity ? static_cast<U>(~U{0}) : key;
  }
};

// f(Key{}) for the key type of a dtype; false if values of this dtype have no order.
template <class F>
bool with_key(DType t, F&& f) {
  switch (t) {
    case DType::f32: f(FloatKey<uint32_t, 0x7f800000u>{}); return true;
    case DType::f64: f(FloatKey<uint64_t, 0x7ff0000000000000u>{}); return true;
    case DType::f16: f(FloatKey<uint16_t, 0x7c00>{}); return true;
    case DType::bf16: f(FloatKey<uint16_t, 0x7f80>{}); return true;
    case DType::u8:
    case DType::boolean: f(UnsignedKey<uint8_t>{}); return true;
    case DType::u16: f(UnsignedKey<uint16_t>{}); return true;
    case DType::u32: f(UnsignedKey<uint32_t>{}); return true;
    case DType::u64: f(UnsignedKey<uint64_t>{}); return true;
    case DType::i8: f(SignedKey<uint8_t>{}); return true;
    case DType::i16: f(SignedKey<uint16_t>{}); return true;
    case DType::i32: f(SignedKey<uint32_t>{}); return true;
    case DType::i64: f(SignedKey<uint64_t>{}); return true;
    default: return false;
  }
}

template <class U>
PTRT_INLINE U load_bits(const char* p) {
  U u;
  std::memcpy(&u, p, sizeof u);
  return u;
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
