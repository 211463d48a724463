#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <new>

namespace exe {

namespace {

std::mutex mutex;  // of all below but the time
std::atomic<uint32_t> time_now{1};
uint32_t generation = 1, launches = 0;
constexpr uint32_t kLate = 3u << 30;

struct Chunk {
  void* data;
  uint32_t generation;
};
std::multimap<size_t, Chunk> pool;
size_t pooled = 0;
constexpr size_t kPoolLimit = size_t(256) << 20;

}  // namespace

uint32_t now() { return time_now.load(std::memory_order_relaxed); }
uint32_t tick() { return time_now.fetch_add(1, std::memory_order_relaxed) + 1; }

ClockScope::ClockScope() {
  std::lock_guard<std::mutex> lock(mutex);
  if (launches++ == 0 && now() > kLate) time_now = 1, ++generation;
}
ClockScope::~ClockScope() {
  std::lock_guard<std::mutex> lock(mutex);
  --launches;
}

Cells::Cells(size_t n) {
  std::lock_guard<std::mutex> lock(mutex);
  bytes_ = 4096;
  while (bytes_ < n * sizeof(Cell)) bytes_ *= 2;
  generation_ = generation;
  auto it = pool.find(bytes_);
  if (it != pool.end()) {
    data_ = static_cast<Cell*>(it->second.data);
    if (it->second.generation != generation) memset(it->second.data, 0, bytes_);
    pooled -= bytes_;
    pool.erase(it);
    return;
  }
  void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<Cell*>(p);
}
Cells::~Cells() {
  if (!data_) return;
  std::lock_guard<std::mutex> lock(mutex);
  if (pooled + bytes_ > kPoolLimit) {
    munmap(data_, bytes_);
  } else {
    pool.emplace(bytes_, Chunk{data_, generation_});
    pooled += bytes_;
  }
}
bool Cells::current(size_t n) const { return data_ && bytes_ >= n * sizeof(Cell) && generation_ == generation; }

void Memory::add(uint64_t address, uint64_t bytes, std::string name, bool initialised) {
  auto a = std::make_unique<Allocation>();
  a->lo = address, a->hi = address + bytes;
  a->name = std::move(name);
  a->initialised = initialised || bytes == 0;
  by_address_[address] = std::move(a);
}
bool Memory::remove(uint64_t address) { return by_address_.erase(address) != 0; }

bool Memory::mark_initialised(uint64_t address, uint64_t bytes) {
  Allocation* a = find(address);
  if (!a || address + bytes > a->hi) return false;
  if (a->initialised) return true;
  if (address == a->lo && bytes == a->hi - a->lo) {
    a->initialised = true;
    a->written = {};
    return true;
  }
  if (a->written.empty()) a->written.resize(a->hi - a->lo);
  std::fill_n(a->written.begin() + static_cast<int64_t>(address - a->lo), bytes, 1);
  return true;
}

Allocation* Memory::find(uint64_t address) {
  auto it = by_address_.upper_bound(address);
  if (it == by_address_.begin()) return nullptr;
  Allocation* a = (--it)->second.get();
  return address < a->hi ? a : nullptr;
}
Allocation* Memory::nearest(uint64_t address) {
  auto next = by_address_.upper_bound(address);
  Allocation *best = nullptr, *after = next == by_address_.end() ? nullptr : next->second.get();
  if (next != by_address_.begin()) best = std::prev(next)->second.get();
  if (!best || (after && after->lo - address < address - best->hi)) best = after;
  return best;
}
}  // namespace exe
