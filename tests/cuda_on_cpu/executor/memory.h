// The allocations a kernel may touch, with what is known of their bytes.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "types.h"

namespace exe {

// Who touched a granule last (see checks.cpp).
struct Cell {
  uint32_t write_block, write_time, read_block, read_time, readers;
  uint16_t writer;  // thread
  uint8_t read_warp, flags;
};

// The time of all checks of the process; what is older than a launch does not concern it, so that cells need no clearing.
uint32_t now();
uint32_t tick();  // the new time
// Launches run inside one of these; the clock may start again when none is about.
struct ClockScope {
  ClockScope();
  ~ClockScope();
};

// An array of cells that are older than any launch that begins later. Memory that is not touched is not taken; what is given back is used
// again.
class Cells {
 public:
  Cells() = default;
  explicit Cells(size_t n);
  Cells(Cells&& o) noexcept { *this = std::move(o); }
  Cells& operator=(Cells&& o) noexcept {
    std::swap(data_, o.data_), std::swap(bytes_, o.bytes_), std::swap(generation_, o.generation_);
    return *this;
  }
  ~Cells();
  Cell* data() const { return data_; }
  bool current(size_t n) const;  // whether there are that many, of this turn of the clock

 private:
  Cell* data_ = nullptr;
  size_t bytes_ = 0;
  uint32_t generation_ = 0;
};

struct Allocation {
  uint64_t lo = 0, hi = 0;
  std::string name;
  bool constant = false;
  bool initialised = false;      // all of it
  std::vector<uint8_t> written;  // else: one byte per byte
  Cells cells;
  int granule = 0;  // bytes a cell stands for
};

class Memory {
 public:
  void add(uint64_t address, uint64_t bytes, std::string name, bool initialised);
  bool remove(uint64_t address);
  bool mark_initialised(uint64_t address, uint64_t bytes);
  Allocation* find(uint64_t address);     // nullptr: none
  Allocation* nearest(uint64_t address);  // for messages

 private:
  std::map<uint64_t, std::unique_ptr<Allocation>> by_address_;
};

}  // namespace exe
