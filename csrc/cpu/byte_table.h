// A function of one byte: what elementwise programs of a single 8-bit operand come down to.
#pragma once
#include <cstdint>
#include <vector>

namespace ptrt::PTRT_LEVEL {

class ByteTable {
 public:
  ByteTable() = default;
  // `entries`: the results of 1, 2, 4 or 8 bytes each for the bytes 0 to 255.
  ByteTable(const void* entries, int size);
  bool empty() const { return entries_.empty(); }
  // out[r][c] = entry of in[r][c]; row strides in elements. Results of one byte may replace what they are computed from.
  void look_up(int64_t rows, int64_t cols, const void* in, int64_t in_row, void* out, int64_t out_row) const;

 private:
  std::vector<uint8_t> entries_;
  std::vector<uint8_t> planes_;  // of entries of 4 bytes: all first bytes, all second ones, ...
  int size_ = 0;
};

}  // namespace ptrt::PTRT_LEVEL
