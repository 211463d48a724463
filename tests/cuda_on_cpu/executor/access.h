// From the addresses of a request to host memory, with checks and counts on the way.
#pragma once
#include "checks.h"
#include "launch.h"

namespace exe {

enum class Pattern : uint8_t { kScattered, kRow, kUniform };  // kRow: all lanes, one after the other without gaps

struct Resolved {
  alignas(64) uint64_t host[32];  // of the active lanes
  Pattern pattern;
};

// Resolves `address` (of the space's window, or generic) for the active lanes; checks and counts.
void resolve(Warp& w, const Ins* i, Space space, int site, const Request& r, Resolved& out);
// base + offset of all lanes
inline void addresses(Warp& w, const MemOp& m, uint64_t* a) {
  const uint64_t off = static_cast<uint64_t>(m.offset);
  if (m.wide_address) {
    const uint64_t* b = row<uint64_t>(w, m.address);
    for (int l = 0; l < 32; ++l) a[l] = b[l] + off;
  } else {
    const uint32_t* b = row<uint32_t>(w, m.address);
    for (int l = 0; l < 32; ++l) a[l] = static_cast<uint32_t>(b[l] + static_cast<uint32_t>(off));
  }
}

int sectors_of(const uint64_t* a, uint32_t mask, int bytes);
// Wavefronts of a shared-memory request, and how many it would take without bank conflicts.
void wavefronts_of(const uint64_t* a, uint32_t mask, int bytes, int64_t& wavefronts, int64_t& ideal);

class Decoder;
struct Operand;
// Decodes an address operand: fills address, offset, wide_address; returns the space an unspecified one turns out to be.
void decode_address(Decoder& d, const Operand& o, MemOp& m);
Space take_space(Decoder& d);
void emit_fence(Decoder& d);
void note_access(Decoder& d, Space space, int bytes);  // for the granules of the checks

}  // namespace exe
