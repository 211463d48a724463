// Raw counts of a launch. Most follow from how often each basic block ran; the memory system counts its own.
#pragma once
#include <cstdint>

namespace exe {

enum Cls : uint8_t {
  kOther,
  kInteger,
  kFp32,
  kFp64,
  kFp16,
  kSpecialFunction,
  kConvert,
  kMmaF16,
  kMmaBF16,
  kMmaTF32,
  kMmaF64,
  kMmaInt8,
  kMmaFp8,
  kShuffle,
  kVote,
  kBarrier,
  kWarpSync,
  kAtomic,
  kControl,
  kLoadStore,
  kNumCls
};

struct MemoryCounters {
  int64_t global_load_requests = 0, global_load_sectors = 0, global_load_bytes = 0;
  int64_t global_store_requests = 0, global_store_sectors = 0, global_store_bytes = 0;
  int64_t shared_load_requests = 0, shared_load_wavefronts = 0, shared_load_ideal = 0, shared_load_bytes = 0;
  int64_t shared_store_requests = 0, shared_store_wavefronts = 0, shared_store_ideal = 0, shared_store_bytes = 0;
  int64_t local_requests = 0, local_bytes = 0, param_requests = 0;
  int64_t global_atomics = 0, shared_atomics = 0;  // lanes
  int64_t divergent_branches = 0;
};
constexpr int kNumMemoryCounters = sizeof(MemoryCounters) / sizeof(int64_t);

}  // namespace exe
