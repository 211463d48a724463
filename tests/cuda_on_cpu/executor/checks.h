// Checks of every access: bounds, alignment, initialisation, races.
//
// What is ordered: an access at time t by a thread of another warp u of the block lies before what warp w does now if t < seen[w][u]; by
// another lane of the same warp, if t is before the last synchronisation that covered both lanes; by another block, if that block fenced
// and then did an atomic that this block has seen and then fenced itself. Time stands still between synchronisations. Lockstep and warp
// shuffles order nothing.
#pragma once
#include "launch.h"

namespace exe {

enum class Access : uint8_t { kLoad, kStore, kAtomic };

// What a request does: `bytes` at each of the addresses of the lanes in `mask`.
struct Request {
  const uint64_t* address;
  uint32_t mask;
  int bytes;
  Access kind;
  bool strong;              // ordered against other strong accesses: atomics, volatile, relaxed, ...
  bool async = false;       // cp.async: lands later
  bool overwrites = false;  // an atomic exchange: what was there does not matter
};

// Throw Fault.
void check_global(Warp& w, const Ins* i, int site, const Request& r);
void check_shared(Warp& w, const Ins* i, const Request& r);
void check_window(Warp& w, const Ins* i, const Request& r, uint64_t base, int64_t size, const char* name);
// The bytes of an asynchronous copy have landed: lane's writes to shared memory are as if done now.
void check_landed(Warp& w, int lane, uint64_t address, int bytes);

// A fence of the device's scope by some thread of the block. (That the block's other threads are ordered before it is taken for granted.)
void fence_block(Block& b);

// bar.warp.sync of these lanes.
void synchronise_lanes(Warp& w, uint32_t mask);

}  // namespace exe
