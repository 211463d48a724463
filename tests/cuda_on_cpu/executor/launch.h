// A launch: its blocks, their barriers, and what the checks and counters share.
#pragma once
#include <atomic>
#include <string>
#include <vector>

#include "counters.h"
#include "memory.h"
#include "state.h"

namespace exe {

struct Options {
  int order = 0;  // 0 forward, 1 reverse, 2 random
  uint64_t seed = 0;
  bool lazy_copies = true;
  bool checks = true;
  int threads = 1;
  int64_t step_limit = INT64_MAX;  // basic blocks entered by warps, per block of the grid
};

struct Rng {
  uint64_t s;
  explicit Rng(uint64_t seed = 0) : s(seed * 0x9e3779b97f4a7c15ull + 0x1234567) {}
  uint64_t next() {
    s += 0x9e3779b97f4a7c15ull;
    uint64_t z = s;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(next() % n); }
};

// One host thread's share of a launch.
struct Launch {
  const Module* module = nullptr;
  const Program* program = nullptr;
  Options options;
  uint32_t grid[3] = {1, 1, 1}, block[3] = {1, 1, 1};
  const uint8_t* params = nullptr;
  Memory* memory = nullptr;
  int64_t shared_bytes = 0, shared_total = 0;  // dynamic; all, gaps included
  bool atomic_host = false;                    // several host threads: atomics must be atomic here, too
  Rng rng;
  MemoryCounters counters;
  std::vector<uint64_t> counts;
  std::vector<Allocation*> variables;  // the module's own
  uint32_t start_time = 0;             // of this launch, for the checks
  // by address: what whoever sees an atomic there (and fences) may rely on: blocks, and up to which time
  std::unordered_map<uint64_t, std::unordered_map<uint32_t, uint32_t>> releases;
  std::vector<Allocation*> sites;  // the allocation each memory instruction used last
  uint8_t lane_order[32];
};

struct Barrier {
  int threads = 0;   // arrived
  int expected = 0;  // 0: the whole block
  const Ins* ins = nullptr;
  uint32_t waiting = 0;  // warps
  int popc = 0;
  bool all = true, any = false;
  uint32_t arrival[32] = {};  // time at which each warp arrived (0: it did not)
};

struct Block {
  Launch* launch = nullptr;
  uint32_t id[3] = {0, 0, 0};
  uint32_t linear = 0;
  int nwarps = 0, nthreads = 0;
  std::vector<Warp> warps;
  std::vector<uint8_t> shared;
  Barrier barriers[16];
  // what is ordered before what (see checks.h)
  uint32_t start_time = 0;
  Cells cells;              // of shared memory
  uint32_t fence_time = 0;  // of the last fence, 0: none
  std::unordered_map<uint32_t, uint32_t> observed,
      acquired;                // other blocks' releases, before and after a fence: all they did before that time
  uint32_t full_time = 0;      // time of the last barrier of the whole block
  uint32_t seen[32][32] = {};  // warp w knows all that warp u did before seen[w][u]
  int64_t steps = 0;
};

const Ins* arrive_at_barrier(Warp& w, const Ins* i, int id, int expected, bool wait);
void run_launch(Launch& launch, std::vector<uint64_t>& counts, MemoryCounters& counters);

}  // namespace exe
