// What runs: decoded instructions, and the state of warps, blocks and launches.
#pragma once
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "parse.h"
#include "types.h"

namespace exe {

struct Warp;
struct Block;
struct Launch;
struct Ins;
class Allocations;
struct Allocation;

// A handler does one instruction for all active lanes and returns the next one; nullptr: the scheduler has to act (Warp::stop says why).
using Fn = const Ins* (*)(Warp&, const Ins*);

// Operands are byte offsets into the warp's register arena: a row of 32 values each, or one 32-bit word for a predicate.
struct Ins {
  Fn fn = nullptr;
  int32_t d = 0, a = 0, b = 0, c = 0;
  int64_t imm = 0;  // a constant, flags, a branch target (const Ins*), or a description (MemOp*, MmaOp*)
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(imm);
  }
};

// A load, store or atomic.
struct MemOp {
  Space space = Space::kGeneric;
  uint8_t width = 4;         // bytes of one element in memory
  uint8_t count = 1;         // elements (.v2, .v4, .v8)
  uint8_t reg_width = 4;     // bytes of one element in its register row
  bool sign = false;         // extends to reg_width with the sign
  bool wide_address = true;  // 64-bit address rows
  bool strong = false;       // volatile, relaxed, acquire, release: ordered against atomics
  int32_t address = 0;       // row
  int64_t offset = 0;
  std::array<int32_t, 8> regs{};  // rows; -1: _
  uint8_t op = 0, type = 0;       // of an atomic
  int32_t site = 0;               // for the cached allocation
};

// What the counters and the messages need to know of an instruction; kept aside, not in the way of the interpreter.
struct Meta {
  int32_t line = 0;
  sv text;
  int32_t block = -1;
  uint8_t cls = 0;       // Cls of counters.h
  bool leading = false;  // the first of its PTX instruction
  uint16_t amount = 0;   // floating-point or integer operations per lane
};

struct ConstRow {
  int32_t offset, width;
  uint64_t bits;
};
struct SpecialRow {
  int32_t offset;
  std::string name;
};

// An entry with all functions it calls.
struct Program {
  std::string name;
  std::vector<Ins> code;
  std::vector<Meta> meta;
  std::vector<ConstRow> consts;
  std::vector<SpecialRow> specials;
  std::deque<MemOp> mem;
  std::deque<std::vector<int64_t>> tables;  // jump tables and other lists, kept here
  int32_t arena_bytes = 0;
  int32_t local_bytes = 0;
  int32_t num_blocks = 0;  // basic blocks, for the counters
  int32_t num_sites = 0;
  int32_t param_bytes = 0;
  int32_t registers = 0;
  int32_t max_threads = 0;
  int32_t required[3] = {0, 0, 0};
  struct SharedVar {
    std::string name;
    int64_t offset, size;
  };
  std::vector<SharedVar> shared;                 // static ones, then (size -1) the dynamic part
  int64_t static_shared = 0;                     // bytes without the gaps this executor puts between variables
  int64_t dynamic_offset = 0;                    // where the dynamic part starts
  int shared_granule = 16, global_granule = 16;  // the narrowest access in the code
  bool uses_fences = false;
  bool may_spin = false;  // has atomics, or volatile loads and their like: lanes may wait for each other in loops
};

struct Module {
  std::unique_ptr<ModuleAst> ast;
  std::vector<std::unique_ptr<Program>> programs;
  std::unordered_map<std::string, Program*> by_name;
  struct Storage {
    std::string name;
    std::unique_ptr<uint8_t[]> memory;
    uint64_t address;
    int64_t size;
    bool constant;
  };
  std::vector<Storage> storage;                 // .global and .const variables
  std::unordered_map<int, uint64_t> addresses;  // by variable
};

enum class Stop : uint8_t { kNone, kYield, kExit, kDiverge, kBarrier, kPark };

struct Group {
  uint32_t mask = 0;
  const Ins* pc = nullptr;
  bool parked = false;
  uint8_t depth = 0;
  const Ins* stack[12];
};

struct AsyncCopy {
  uint32_t mask;  // lanes whose copy has not landed
  int bytes;
  uint64_t dst[32], src[32];
  uint8_t valid[32];  // bytes read; the rest is filled with zeros
  uint32_t group[32];
  const Ins* ins;
};

struct Warp {
  char* regs = nullptr;
  uint32_t mask = 0;           // active lanes, predicate applied
  uint32_t unpredicated = 0;   // active lanes while a predicated instruction runs
  const Ins* limit = nullptr;  // a group that gets here yields: other lanes wait at or before it
  int64_t fuel = 0;            // basic blocks until this warp or group gives way
  uint64_t* counts = nullptr;  // two per basic block: times entered, by how many lanes
  uint8_t* shared = nullptr;   // host address of shared address 0
  const uint8_t* param = nullptr;
  uint8_t* local = nullptr;  // of lane 0
  Block* block = nullptr;
  Launch* launch = nullptr;
  const Ins* pc = nullptr;  // where to go on after a stop
  Stop stop = Stop::kNone;
  const Ins* tired = nullptr;  // where lanes have used up their turn: others are next
  bool resolve = false;        // no lane can run: a parked instruction must act now, or fault
  enum State : uint8_t { kReady, kWaiting, kDone } state = kReady;
  int index = 0;
  uint32_t lanes = 0;  // that exist
  uint32_t alive = 0;  // that have not exited
  int ngroups = 0, current = 0;
  Group groups[32];
  // barriers
  int barrier = -1;
  const Ins* barrier_ins = nullptr;
  uint32_t barrier_mask = 0;
  // order within the warp
  uint32_t full_sync = 0;                 // time of the last synchronisation of all lanes
  std::unique_ptr<uint32_t[]> pair_sync;  // [32][32], when a part of the lanes has synchronised
  // asynchronous copies
  std::deque<AsyncCopy> copies;
  uint32_t committed[32];
};

template <class T>
inline T* row(Warp& w, int32_t offset) {
  return reinterpret_cast<T*>(__builtin_assume_aligned(w.regs + offset, sizeof(T) * 32 < 64 ? 32 : 64));
}
inline uint32_t& pred(Warp& w, int32_t offset) { return *reinterpret_cast<uint32_t*>(w.regs + offset); }

// Copies the active lanes of a row that was computed aside.
template <class T>
inline void blend(T* d, const T* s, uint32_t m) {
  for (int l = 0; l < 32; ++l) d[l] = (m >> l & 1) ? s[l] : d[l];
}

// d[l] = f(s[l]...) for the active lanes.
template <class D, class F, class... S>
inline void lanes(Warp& w, D* d, F f, const S*... s) {
  const uint32_t m = w.mask;
  if (__builtin_expect(m == ~0u, 1)) {
#pragma GCC ivdep
    for (int l = 0; l < 32; ++l) d[l] = f(s[l]...);
  } else {
    alignas(64) D t[32];
    for (int l = 0; l < 32; ++l) t[l] = f(s[l]...);
    blend(d, t, m);
  }
}
// As `lanes`, but never calls f for an inactive lane: for slow functions.
template <class D, class F, class... S>
inline void lanes_slow(Warp& w, D* d, F f, const S*... s) {
  for (uint32_t m = w.mask; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    d[l] = f(s[l]...);
  }
}
// Bits of the active lanes for which f holds.
template <class F, class... S>
inline uint32_t bits_of(F f, const S*... s) {
  uint32_t r = 0;
  for (int l = 0; l < 32; ++l) r |= static_cast<uint32_t>(f(s[l]...)) << l;
  return r;
}
inline void set_pred(Warp& w, int32_t offset, uint32_t bits) {
  uint32_t& p = pred(w, offset);
  p = (p & ~w.mask) | (bits & w.mask);
}

// Gives control back to the scheduler.
inline const Ins* stop(Warp& w, Stop why, const Ins* pc) {
  w.stop = why, w.pc = pc;
  return nullptr;
}

[[noreturn]] void fault(Warp& w, const Ins* i, const char* kind, const std::string& what, int lane = -1);

namespace kinds {
constexpr const char *kOutOfBounds = "out_of_bounds", *kMisaligned = "misaligned", *kUninitialised = "uninitialised_read", *kRace = "race",
                     *kGlobalRace = "global_race", *kDivergentBarrier = "divergent_barrier", *kDeadlock = "deadlock",
                     *kInvalidLaunch = "invalid_launch", *kTrap = "trap", *kInactiveLane = "inactive_lane";
}

}  // namespace exe
