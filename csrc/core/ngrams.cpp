#include "core/ngrams.h"

namespace ptrt {

int32_t NGrams::intern(const std::u32string& word) {
  const int32_t found = number(word.data(), word.size());
  if (found >= 0) return found;
  words_.push_back(word);
  const bool full = words_.size() * 2 > slots_.size();
  if (full) slots_.assign(slots_.empty() ? 16 : slots_.size() * 2, -1);
  for (size_t k = full ? 0 : words_.size() - 1; k < words_.size(); k++) {
    size_t at = hash(words_[k].data(), words_[k].size()) & (slots_.size() - 1);
    while (slots_[at] >= 0) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = static_cast<int32_t>(k);
  }
  return static_cast<int32_t>(words_.size() - 1);
}

size_t NGrams::place(uint64_t key) const {
  uint64_t h = key * 0x9E3779B97F4A7C15u;
  size_t at = (h ^ h >> 29) & (edges_.size() - 1);
  while (edges_[at].to >= 0 && edges_[at].key != key) at = (at + 1) & (edges_.size() - 1);
  return at;
}

int32_t NGrams::next(int32_t from, int32_t word) const {
  return edges_.empty() ? -1 : edges_[place(static_cast<uint64_t>(from) << 32 | static_cast<uint32_t>(word))].to;
}

int32_t NGrams::grow(int32_t from, int32_t word) {
  const int32_t found = next(from, word);
  if (found >= 0) return found;
  if (++edge_count_ * 2 > edges_.size()) {
    std::vector<Edge> old(edges_.empty() ? 16 : edges_.size() * 2, Edge{0, -1});
    old.swap(edges_);
    for (const Edge& e : old)
      if (e.to >= 0) edges_[place(e.key)] = e;
  }
  const auto node = static_cast<int32_t>(columns_.size());
  columns_.push_back(-1);
  const uint64_t key = static_cast<uint64_t>(from) << 32 | static_cast<uint32_t>(word);
  edges_[place(key)] = {key, node};
  return node;
}

void NGrams::add(const std::vector<std::u32string>& words, int64_t column) {
  int32_t node = 0;
  for (const std::u32string& word : words) node = grow(node, intern(word));
  columns_[static_cast<size_t>(node)] = column;
}

void NGrams::count(const std::vector<int32_t>& numbers, float* row) const {
  const size_t n = numbers.size();
  for (int64_t skip = 1; skip <= skips_ + 1; skip++)
    for (size_t start = 0; start < n; start++) {
      int32_t node = 0;
      for (size_t i = start; i < n; i += static_cast<size_t>(skip)) {
        if (numbers[i] < 0 || (node = next(node, numbers[i])) < 0) break;
        const int64_t column = columns_[static_cast<size_t>(node)];
        if (column >= 0 && (skip == 1 || i > start)) row[column] += 1;  // single words are counted once
      }
    }
}

}  // namespace ptrt
