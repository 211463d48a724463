// Which elements of a row are not zero, for nonzero and compress.
#pragma once
#include "cpu/gather_index.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kListed = 256;  // elements that are listed at once

struct Complex128 {};  // complex128: either part

// Zero is all bits 0 under `mask`, which leaves out the sign of floats.
template <class U>
PTRT_INLINE bool nonzero(const char* p, uint64_t mask) {
  U u;
  std::memcpy(&u, p, sizeof u);
  return (u & static_cast<U>(mask)) != 0;
}
template <>
PTRT_INLINE bool nonzero<Complex128>(const char* p, uint64_t mask) {
  return nonzero<uint64_t>(p, mask) | nonzero<uint64_t>(p + 8, mask);
}
template <class U>
constexpr int64_t item_bytes() {
  return std::is_same_v<U, Complex128> ? 16 : static_cast<int64_t>(sizeof(U));
}

// The mask of as many dense elements as 8 bytes hold.
template <class U>
constexpr uint64_t repeated(uint64_t mask) {
  constexpr int bits = sizeof(U) < 8 ? static_cast<int>(sizeof(U)) * 8 : 64;
  if (item_bytes<U>() >= 8) return mask;
  uint64_t r = mask & ((uint64_t{1} << bits % 64) - 1);
  for (int b = bits; b < 64; b *= 2) r |= r << b;
  return r;
}
constexpr int64_t kGroup = 64;  // bytes
PTRT_INLINE bool group_is_zero(const char* p, uint64_t mask) {
  uint64_t any = 0;
  for (int64_t b = 0; b < kGroup; b += 8) {
    uint64_t u;
    std::memcpy(&u, p + b, sizeof u);
    any |= u;
  }
  return (any & mask) == 0;
}

// f(first, count) for stretches of n elements, without those that are all zero.
template <class U, class F>
PTRT_INLINE void groups(const char* x, int64_t s, int64_t n, uint64_t mask, F&& f) {
  constexpr int64_t e = item_bytes<U>(), per = kGroup / e;
  if (s != e) {
    f(int64_t{0}, n);
    return;
  }
  const uint64_t all = repeated<U>(mask);
  int64_t i = 0;
  for (; i + per <= n; i += per)
    if (!group_is_zero(x + i * e, all)) f(i, per);
  if (i < n) f(i, n - i);
}

template <class U>
int64_t count_nonzero(const char* x, int64_t s, int64_t n, uint64_t mask) {
  int64_t found = 0;
  groups<U>(x, s, n, mask, [&](int64_t first, int64_t m) {
    for (int64_t j = first; j < first + m; j++) found += nonzero<U>(x + j * s, mask);
  });
  return found;
}
// Lists the positions (n is at most kListed, and so is the room); returns how many there are.
template <class U>
int64_t list_nonzero(const char* x, int64_t s, int64_t n, uint64_t mask, int32_t* list) {
  int64_t found = 0;
  groups<U>(x, s, n, mask, [&](int64_t first, int64_t m) {
    for (int64_t j = first; j < first + m; j++) {
      list[found] = static_cast<int32_t>(j);
      found += nonzero<U>(x + j * s, mask);
    }
  });
  return found;
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
