// Total orders for topk, unique and nms: every value maps to an unsigned key, ascending; -0 equals 0 and all NaNs are one, the largest.
// Keys are 32 bits wide for elements of up to 4 bytes (floats fill them from the top), 64 for others.
#pragma once
#include "cpu/gather_index.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kKeysAtOnce = 64;

typedef uint32_t Keys32 __attribute__((vector_size(16)));
typedef uint64_t Keys64 __attribute__((vector_size(16)));
template <class K>
using KeyVec = std::conditional_t<sizeof(K) == 4, Keys32, Keys64>;

template <class K>
struct Order {
  // keys[i] = key of x[i], i < n <= kKeysAtOnce, from any byte stride; writes whole vectors, so up to 3 more keys.
  void (*load)(const Order& order, const char* x, int64_t sx, int64_t n, K* keys) = nullptr;
  K infinity = 0;  // floats: the bits of that value, as they stand in a key
  K change = 0;    // integers: what to combine with: the sign's bit
  K flip = 0;      // all ones: keys descend
};

template <class K, class U, bool Float>
void load_keys(const Order<K>& order, const char* x, int64_t sx, int64_t n, K* keys) {
  using Vec = KeyVec<K>;
  using Signed = std::conditional_t<sizeof(K) == 4, int32_t, int64_t>;
  typedef Signed SignedVec __attribute__((vector_size(16)));
  constexpr int64_t count = 16 / sizeof(K);
  typedef U Packed __attribute__((vector_size(count * sizeof(U))));
  constexpr K top = K{1} << (sizeof(K) * 8 - 1);
  U dense[kKeysAtOnce];  // (what is stored element by element may not be loaded as a vector at once)
  if (sx != sizeof(U)) {
    for (int64_t i = 0; i < n; i++) std::memcpy(dense + i, x + i * sx, sizeof(U));
    x = reinterpret_cast<const char*>(dense);
  }
  auto make = [&](Packed u, K* to) {
    Vec k = __builtin_convertvector(u, Vec);
    if (Float) {
      if (sizeof(U) < sizeof(K)) k <<= (sizeof(K) - sizeof(U)) * 8;
      const Vec magnitude = k & ~top;
      k &= (Vec)(magnitude != 0);
      k ^= (Vec)((SignedVec)k < 0) | top;
      k |= (Vec)((SignedVec)magnitude > static_cast<Signed>(order.infinity));
    } else {
      k ^= order.change;
    }
    k ^= order.flip;
    std::memcpy(to, &k, sizeof k);
  };
  int64_t i = 0;
  for (; i + count <= n; i += count) {
    Packed u;
    std::memcpy(&u, x + i * static_cast<int64_t>(sizeof(U)), sizeof u);
    make(u, keys + i);
  }
  if (i == n) return;
  Packed u{};
  for (int64_t j = 0; i + j < n; j++) {
    U one;
    std::memcpy(&one, x + (i + j) * static_cast<int64_t>(sizeof(U)), sizeof one);
    u[j] = one;
  }
  make(u, keys + i);
}

// The order of a dtype whose keys are of type K; `load` is null if there is none. (An integer's sign sits where the integer's top bit is.)
template <class K>
Order<K> order_of(DType t, bool descending) {
  Order<K> o;
  auto floats = [&](auto u, uint64_t infinity) {
    o.load = load_keys<K, decltype(u), true>;
    o.infinity = static_cast<K>(infinity);
  };
  auto integers = [&](auto u, bool sign) {
    o.load = load_keys<K, decltype(u), false>;
    o.change = sign ? K{1} << (sizeof(u) * 8 - 1) : K{0};
  };
  if constexpr (sizeof(K) == 4) {
    switch (t) {
      case DType::f32: floats(uint32_t{}, 0x7f800000); break;
      case DType::f16: floats(uint16_t{}, 0x7c000000); break;
      case DType::bf16: floats(uint16_t{}, 0x7f800000); break;
      case DType::u8:
      case DType::boolean:
      case DType::i8: integers(uint8_t{}, t == DType::i8); break;
      case DType::u16:
      case DType::i16: integers(uint16_t{}, t == DType::i16); break;
      case DType::u32:
      case DType::i32: integers(uint32_t{}, t == DType::i32); break;
      default: break;
    }
  } else {
    switch (t) {
      case DType::f64: floats(uint64_t{}, 0x7ff0000000000000); break;
      case DType::u64:
      case DType::i64: integers(uint64_t{}, t == DType::i64); break;
      default: break;
    }
  }
  if (descending) o.flip = static_cast<K>(~K{0});
  return o;
}

// One element of `item` bytes (1, 2, 4 or 8).
PTRT_INLINE void move_item(char* y, const char* x, int64_t item) {
  if (item == 4) std::memcpy(y, x, 4);
  else if (item == 8) std::memcpy(y, x, 8);
  else if (item == 2) std::memcpy(y, x, 2);
  else *y = *x;
}

// Is one of n floats possibly above (`below`: below) the bar? A NaN counts as one that is. n: a multiple of 16.
PTRT_INLINE bool any_beyond(const char* x, int64_t n, float bar, bool below) {
  typedef float Four __attribute__((vector_size(16)));
  const Four limit = bar - Four{};
  Keys32 found{};
  for (int64_t i = 0; i < n; i += 16)
    for (int64_t j = 0; j < 16; j += 4) {
      Four v;
      std::memcpy(&v, x + (i + j) * 4, sizeof v);
      found |= below ? (Keys32) ~(v >= limit) : (Keys32) ~(v <= limit);
    }
  const Keys64 two = (Keys64)found;
  return (two[0] | two[1]) != 0;
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
