// Counting n-grams of words. For host calls (csrc/bindings/host.cpp).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace ptrt {

class NGrams {
 public:
  explicit NGrams(int64_t skips) : skips_(skips) {}

  // An n-gram of these words (Unicode code points) is counted in this column, which is not negative; of equal ones the last counts.
  void add(const std::vector<std::u32string>& words, int64_t column);

  // The number of a word of which some n-gram is made, else -1. C: code units that are code points.
  template <class C>
  int32_t number(const C* word, size_t n) const {
    if (slots_.empty()) return -1;
    for (size_t at = hash(word, n) & (slots_.size() - 1);; at = (at + 1) & (slots_.size() - 1)) {
      const int32_t k = slots_[at];
      if (k < 0 || same(words_[static_cast<size_t>(k)], word, n)) return k;
    }
  }

  // Adds to row[column] the occurrences of every n-gram in a row of words, with up to `skips` words left out between neighbours.
  void count(const std::vector<int32_t>& numbers, float* row) const;

 private:
  struct Edge {
    uint64_t key;  // from << 32 | word
    int32_t to;    // -1: a free place
  };

  template <class C>
  static uint64_t hash(const C* word, size_t n) {
    uint64_t h = n;
    for (size_t i = 0; i < n; i++) h = (h ^ static_cast<uint32_t>(word[i])) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
  }
  template <class C>
  static bool same(const std::u32string& a, const C* word, size_t n) {
    if (a.size() != n) return false;
    for (size_t i = 0; i < n; i++)
      if (a[i] != static_cast<char32_t>(word[i])) return false;
    return true;
  }
  int32_t intern(const std::u32string& word);
  int32_t next(int32_t from, int32_t word) const;
  int32_t grow(int32_t from, int32_t word);
  size_t place(uint64_t key) const;

  int64_t skips_;
  std::vector<std::u32string> words_;
  std::vector<int32_t> slots_;           // open addressing, a power of two
  std::vector<int64_t> columns_ = {-1};  // by node of the trie of n-grams; the root is node 0
  std::vector<Edge> edges_;              // open addressing, a power of two
  size_t edge_count_ = 0;
};

}  // namespace ptrt
