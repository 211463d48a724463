// Sorting and selecting (key, position) pairs, for topk, unique and nms. The smallest keys are the best, and of equal keys the lower
// position.
#pragma once
#include "cpu/topk_keys.h"

namespace ptrt::PTRT_LEVEL {
namespace {

struct Pair32 {  // keys of 32 bits, positions below 2^32: one word, whose order is that of the pair
  using Key = uint32_t;
  uint64_t v;
  static PTRT_INLINE Pair32 make(Key key, int64_t i) { return {uint64_t{key} << 32 | static_cast<uint32_t>(i)}; }
  PTRT_INLINE Key key() const { return static_cast<Key>(v >> 32); }
  PTRT_INLINE int64_t index() const { return static_cast<int64_t>(v & 0xffffffff); }
};
struct Pair64 {
  using Key = uint64_t;
  uint64_t k;
  int64_t i;
  static PTRT_INLINE Pair64 make(Key key, int64_t i) { return {key, i}; }
  PTRT_INLINE Key key() const { return k; }
  PTRT_INLINE int64_t index() const { return i; }
};

// Sorts n pairs by key, stably: by insertion, or a radix sort that leaves out the bytes that all keys have in common. The result is in the
// array that is returned: one of the two.
template <class P>
PTRT_NOINLINE P* sort_pairs(P* a, P* b, int64_t n) {
  using K = typename P::Key;
  constexpr int64_t kFew = 40;
  if (n <= kFew) {
    for (int64_t i = 1; i < n; i++) {
      const P p = a[i];
      int64_t j = i;
      for (; j > 0 && a[j - 1].key() > p.key(); j--) a[j] = a[j - 1];
      a[j] = p;
    }
    return a;
  }
  K differ = 0;
  for (int64_t i = 1; i < n; i++) differ |= a[i].key() ^ a[0].key();
  for (unsigned shift = 0; shift < sizeof(K) * 8; shift += 8) {
    if ((differ >> shift & 255) == 0) continue;
    // Counted in two halves: neighbours often have the same digit, and an addition waits for the one before it in the same place.
    int64_t first[256] = {}, more[256] = {};
    for (int64_t i = 0; i + 1 < n; i += 2) {
      first[a[i].key() >> shift & 255]++;
      more[a[i + 1].key() >> shift & 255]++;
    }
    if (n & 1) first[a[n - 1].key() >> shift & 255]++;
    int64_t total = 0;
    for (int d = 0; d < 256; d++) {
      const int64_t m = first[d] + more[d];
      first[d] = total;
      total += m;
    }
    for (int64_t i = 0; i < n; i++) b[first[a[i].key() >> shift & 255]++] = a[i];
    P* t = a;
    a = b;
    b = t;
  }
  return a;
}

// What selects at least k of n pairs (0 < k <= n), and hardly more: those below `key`, and the first `ties` of that key.
template <class P>
struct Selection {
  typename P::Key key;
  int64_t ties;
};
template <class P>
PTRT_NOINLINE Selection<P> select_pairs(const P* a, int64_t n, int64_t k) {
  using K = typename P::Key;
  constexpr int kBits = 8, kBins = 1 << kBits;
  K low = a[0].key(), high = low;
  for (int64_t i = 1; i < n; i++) {
    const K key = a[i].key();
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  int64_t under = 0;  // pairs below `low`; the k-th smallest key is in [low, high]
  while (low != high) {
    const K span = high - low;
    const int used = 64 - __builtin_clzll(span), shift = used > kBits ? used - kBits : 0;
    int64_t bins[kBins + 1] = {};  // the last: of the others
    for (int64_t i = 0; i < n; i++) {
      const auto at = static_cast<K>(a[i].key() - low);
      bins[at <= span ? at >> shift : K{kBins}]++;
    }
    int64_t b = 0;
    while (under + bins[b] < k) under += bins[b++];
    low += static_cast<K>(b) << shift;
    const K width = (K{1} << shift) - 1;
    high = high - low < width ? high : low + width;
    if (under + bins[b] <= k + k / 4 + 32) return {high, n};
  }
  return {high, k - under};
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
