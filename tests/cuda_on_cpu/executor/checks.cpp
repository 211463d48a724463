#include "checks.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>

namespace exe {
namespace {

enum : uint8_t { kAtomicWrite = 1, kManyWarps = 2, kManyBlocks = 4, kPending = 8 };

std::string hex(uint64_t v) {
  char b[32];
  snprintf(b, sizeof b, "0x%" PRIx64, v);
  return b;
}
std::string relative(const std::string& name, int64_t offset, int64_t size) {
  return name + (offset < 0 ? "-" + hex(static_cast<uint64_t>(-offset)) : "+" + hex(static_cast<uint64_t>(offset))) + " of " +
         std::to_string(size) + " bytes";
}
const char* verb(Access a) { return a == Access::kLoad ? "read" : a == Access::kStore ? "write" : "atomic"; }
std::string what(const Request& r) { return std::string(verb(r.kind)) + " of " + std::to_string(r.bytes) + " bytes at "; }

// Where the accesses of one warp stand.
struct Now {
  Warp& w;
  const Block& b;
  uint32_t start;  // records before this are of no interest
  uint32_t time;

  // Whether an access at time t by lane `lane` of warp u of this block is ordered before what `self` does now.
  bool ordered(uint32_t t, int u, int lane, int self) const {
    if (t < b.full_time) return true;
    if (u != w.index) return t < b.seen[w.index][u];
    return lane == self || t < w.full_sync || (w.pair_sync && t < w.pair_sync[self * 32 + lane]);
  }
  bool ordered_after(uint32_t t, uint32_t block) const {
    if (b.acquired.empty()) return false;
    auto it = b.acquired.find(block);
    return it != b.acquired.end() && t < it->second;
  }
};

// nullptr, or what the access conflicts with: "written by thread 5" or so.
inline const char* conflict_with_write(const Now& n, const Cell& c, int self, bool strong) {
  if (c.write_time < n.start) return nullptr;
  if (c.flags & kPending) return "a cp.async that was not waited for writes";
  if (c.write_block != n.b.linear)
    return (strong && (c.flags & kAtomicWrite)) || n.ordered_after(c.write_time, c.write_block) ? nullptr : "another block wrote";
  if (n.ordered(c.write_time, c.writer >> 5, c.writer & 31, self)) return nullptr;
  return strong && (c.flags & kAtomicWrite) ? nullptr : "wrote";
}
inline const char* conflict_with_reads(const Now& n, const Cell& c, int self) {
  if (c.read_time < n.start) return nullptr;
  if ((c.flags & kManyBlocks) || c.read_block != n.b.linear)
    return !(c.flags & kManyBlocks) && n.ordered_after(c.read_time, c.read_block) ? nullptr : "another block read";
  if (c.read_time < n.b.full_time) return nullptr;
  if (c.flags & kManyWarps) {
    for (uint32_t m = c.readers; m; m &= m - 1)
      if (!n.ordered(c.read_time, __builtin_ctz(m), -1, self)) return "threads of several warps read";
    return nullptr;
  }
  if (c.read_warp != n.w.index) return n.ordered(c.read_time, c.read_warp, -1, self) ? nullptr : "threads of another warp read";
  if (c.read_time < n.w.full_sync) return nullptr;
  for (uint32_t m = c.readers & ~(1u << self); m; m &= m - 1)
    if (!n.ordered(c.read_time, c.read_warp, __builtin_ctz(m), self)) return "another lane of the warp read";
  return nullptr;
}
inline void record_read(const Now& n, Cell& c, int self) {
  const uint32_t bit = 1u << self;
  if (c.read_time < n.start) {
    c.flags &= static_cast<uint8_t>(~(kManyBlocks | kManyWarps));
    c.read_warp = static_cast<uint8_t>(n.w.index), c.readers = bit;
  } else if (c.read_block != n.b.linear) {
    c.flags |= kManyBlocks;
  } else if (c.read_time < n.b.full_time) {
    c.flags &= static_cast<uint8_t>(~kManyWarps);
    c.read_warp = static_cast<uint8_t>(n.w.index), c.readers = bit;
  } else if (c.flags & kManyWarps) {
    c.readers |= 1u << n.w.index;
  } else if (c.read_warp == n.w.index) {
    if (c.read_time < n.w.full_sync) c.readers = 0;
    else if (n.w.pair_sync)
      for (uint32_t m = c.readers; m; m &= m - 1)
        if (c.read_time < n.w.pair_sync[self * 32 + __builtin_ctz(m)]) c.readers &= ~(m & -m);
    c.readers |= bit;
  } else if (c.read_time < n.b.seen[n.w.index][c.read_warp]) {
    c.read_warp = static_cast<uint8_t>(n.w.index), c.readers = bit;
  } else {
    c.flags |= kManyWarps;
    c.readers = 1u << c.read_warp | 1u << n.w.index;
  }
  c.read_block = n.b.linear;
  c.read_time = n.time;
}
inline void record_write(const Now& n, Cell& c, int self, uint8_t flags) {
  c.write_block = n.b.linear;
  c.write_time = n.time;
  c.writer = static_cast<uint16_t>(n.w.index * 32 + self);
  c.read_time = 0;
  c.flags = flags;
}

// Checks and records one access to one granule. Returns what it conflicts with. In global memory a plain read may meet an atomic: the loops
// around compare-and-swap start with one.
template <bool kGlobal>
inline const char* touch(const Now& n, Cell& c, int self, const Request& r) {
  if (const char* s = conflict_with_write(n, c, self, r.strong || (kGlobal && r.kind == Access::kLoad))) return s;
  if (r.kind == Access::kLoad) {
    if (!r.strong) record_read(n, c, self);
    return nullptr;
  }
  if (!(kGlobal && r.strong))
    if (const char* s = conflict_with_reads(n, c, self)) return s;
  // a plain write of this thread that others have not been ordered after must not hide behind its own atomic
  if (r.kind == Access::kAtomic && c.write_time >= n.start && c.write_time >= n.b.full_time && !(c.flags & kAtomicWrite) &&
      c.write_block == n.b.linear && c.writer == n.w.index * 32 + self)
    return nullptr;
  record_write(n, c, self, static_cast<uint8_t>((r.strong ? kAtomicWrite : 0) | (r.async ? kPending : 0)));
  return nullptr;
}

// Lane `first` has read these cells; lets the other lanes in `rest` that read the same do so at once, if that needs no closer look. Returns
// those that are left.
uint32_t read_along(const Now& n, Cell* c, int count, const Request& r, int first, uint32_t rest) {
  if (r.strong || n.w.pair_sync) return rest;
  uint32_t same = 0;
  for (int l = 0; l < 32; ++l) same |= static_cast<uint32_t>(r.address[l] == r.address[first]) << l;
  same &= rest;
  for (int k = 0; k < count; ++k)
    if (c[k].write_time >= n.b.full_time) return rest;
  for (int k = 0; k < count; ++k)
    if (!(c[k].flags & (kManyWarps | kManyBlocks))) c[k].readers |= same;
  return rest & ~same;
}

std::string conflict_text(const Cell& c, const char* s) {
  std::string t = s;
  if (t == "wrote") t = "thread " + std::to_string(c.writer) + " of the block wrote";
  return ", where " + t + " without an order between the two";
}

// Cells of a stretch of memory: that of an address is cell[(address >> shift) - first].
struct Ground {
  Cell* cell;
  uint64_t first;
  int shift;
};
Ground ground_of(Allocation& a, int granule) {
  if (a.granule == 0 || granule < a.granule) a.granule = granule, a.cells = Cells();
  const int shift = __builtin_ctz(a.granule);
  const size_t n = ((a.hi + a.granule - 1) >> shift) - (a.lo >> shift) + 1;
  if (!a.cells.current(n)) a.cells = Cells(n);
  return {a.cells.data(), a.lo >> shift, shift};
}

// Checks and records the accesses of the lanes in `mask`; where(lane) describes an address.
template <bool kGlobal, class Where>
void touch_lanes(const Now& n, const Ins* i, const Request& r, uint32_t mask, const Ground& g, const Where& where) {
  const int count = std::max(1, r.bytes >> g.shift);
  const bool needs_value = !kGlobal && r.kind != Access::kStore && !r.overwrites;
  for (uint32_t m = mask; m;) {
    const int lane = __builtin_ctz(m);
    m &= m - 1;
    Cell* c = g.cell + ((r.address[lane] >> g.shift) - g.first);
    for (int k = 0; k < count; ++k) {
      if (needs_value && c[k].write_time < n.start) fault(n.w, i, kinds::kUninitialised, what(r) + where(lane) + ", never written", lane);
      if (const char* s = touch<kGlobal>(n, c[k], lane, r))
        fault(n.w, i, kGlobal ? kinds::kGlobalRace : kinds::kRace, what(r) + where(lane) + conflict_text(c[k], s), lane);
    }
    if (r.kind == Access::kLoad && m && r.address[__builtin_ctz(m)] == r.address[lane]) m = read_along(n, c, count, r, lane, m);
  }
}

Allocation* lookup(Launch& l, uint64_t address) {
  if (Allocation* a = l.memory->find(address)) return a;
  for (auto& a : l.variables)
    if (address >= a->lo && address < a->hi) return a;
  return nullptr;
}

void merge(std::unordered_map<uint32_t, uint32_t>& into, const std::unordered_map<uint32_t, uint32_t>& from) {
  for (auto& [block, time] : from) {
    uint32_t& t = into[block];
    t = std::max(t, time);
  }
}
// An atomic, or a relaxed or volatile access, at this address: passes on what fences have made visible.
void exchange_order(Launch& l, Block& b, uint64_t address, Access kind) {
  auto& released = l.releases[address];
  if (kind != Access::kStore) merge(b.observed, released);
  if (kind == Access::kLoad || !b.fence_time) return;
  merge(released, b.acquired);
  uint32_t& t = released[b.linear];
  t = std::max(t, b.fence_time);
}

// Accesses of lanes to an allocation they lie in.
void check_lanes(Warp& w, const Ins* i, Allocation& a, const Request& r, uint32_t mask) {
  Launch& l = *w.launch;
  auto where = [&](int lane) { return relative(a.name, static_cast<int64_t>(r.address[lane] - a.lo), static_cast<int64_t>(a.hi - a.lo)); };
  if (!a.initialised) {
    if (a.written.empty()) a.written.resize(a.hi - a.lo);
    for (uint32_t m = mask; m; m &= m - 1) {
      const int lane = __builtin_ctz(m);
      uint8_t* s = a.written.data() + (r.address[lane] - a.lo);
      if (r.kind != Access::kStore && !r.overwrites && memchr(s, 0, r.bytes))
        fault(w, i, kinds::kUninitialised, what(r) + where(lane) + ", never written", lane);
      if (r.kind != Access::kLoad) memset(s, 1, r.bytes);
    }
  }
  if (a.constant) {
    if (r.kind != Access::kLoad) fault(w, i, kinds::kOutOfBounds, what(r) + "constant " + a.name, __builtin_ctz(mask));
    return;
  }
  if (r.strong && l.program->uses_fences)
    for (uint32_t m = mask; m; m &= m - 1) exchange_order(l, *w.block, r.address[__builtin_ctz(m)], r.kind);
  const Now n{w, *w.block, l.start_time, now()};
  touch_lanes<true>(n, i, r, mask, ground_of(a, l.program->global_granule), where);
}

void check_alignment(Warp& w, const Ins* i, const Request& r) {
  uint64_t low = 0;
  for (int l = 0; l < 32; ++l) low |= (r.mask >> l & 1) ? r.address[l] : 0;
  if (!(low & (r.bytes - 1))) return;
  for (uint32_t m = r.mask; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    if (r.address[l] & (r.bytes - 1)) fault(w, i, kinds::kMisaligned, what(r) + hex(r.address[l]), l);
  }
}

// The lowest and the highest address.
void range(const Request& r, uint64_t& lo, uint64_t& hi) {
  lo = UINT64_MAX, hi = 0;
  for (int l = 0; l < 32; ++l) {
    const bool on = r.mask >> l & 1;
    const uint64_t a = r.address[l];
    lo = on && a < lo ? a : lo;
    hi = on && a > hi ? a : hi;
  }
}

}  // namespace

void check_global(Warp& w, const Ins* i, int site, const Request& r) {
  Launch& l = *w.launch;
  check_alignment(w, i, r);
  uint64_t lo, hi;
  range(r, lo, hi);
  Allocation*& cached = l.sites[site];
  if (!cached || lo < cached->lo || hi + r.bytes > cached->hi) cached = lookup(l, lo);
  if (cached && hi + r.bytes <= cached->hi) return check_lanes(w, i, *cached, r, r.mask);
  for (uint32_t m = r.mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const uint64_t at = r.address[lane];
    Allocation* a = lookup(l, at);
    if (a && at + r.bytes <= a->hi) {
      check_lanes(w, i, *a, r, m & -m);
      continue;
    }
    const Allocation* near = a ? a : l.memory->nearest(at);
    const std::string where = near ? relative(near->name.empty() ? hex(near->lo) : near->name, static_cast<int64_t>(at - near->lo),
                                              static_cast<int64_t>(near->hi - near->lo))
                                   : hex(at) + ", no allocation";
    fault(w, i, kinds::kOutOfBounds, what(r) + where, lane);
  }
}

void check_shared(Warp& w, const Ins* i, const Request& r) {
  Launch& l = *w.launch;
  Block& b = *w.block;
  check_alignment(w, i, r);
  uint64_t lo, hi;
  range(r, lo, hi);
  const Program& p = *l.program;
  auto find = [&](uint64_t first, uint64_t end) -> const Program::SharedVar* {
    for (auto& v : p.shared) {
      const uint64_t at = kSharedBase + v.offset, size = v.size < 0 ? l.shared_bytes : v.size;
      if (first >= at && end <= at + size) return &v;
    }
    return nullptr;
  };
  if (!find(lo, hi + r.bytes)) {
    for (uint32_t m = r.mask; m; m &= m - 1) {
      const int lane = __builtin_ctz(m);
      const uint64_t a = r.address[lane];
      if (find(a, a + r.bytes)) continue;
      const Program::SharedVar* near = nullptr;  // the last variable that starts at or before the address
      for (auto& v : p.shared)
        if (v.offset >= 0 && kSharedBase + v.offset <= a) near = &v;
      fault(w, i, kinds::kOutOfBounds,
            what(r) + (near && a < kSharedBase + (1 << 20)
                           ? "shared " + relative(near->name, static_cast<int64_t>(a - kSharedBase - near->offset),
                                                  near->size < 0 ? l.shared_bytes : near->size)
                           : hex(a) + ", not in shared memory"),
            lane);
    }
  }
  auto where = [&](int lane) {
    const Program::SharedVar* v = find(r.address[lane], r.address[lane] + r.bytes);
    return "shared " +
           relative(v->name, static_cast<int64_t>(r.address[lane] - kSharedBase) - v->offset, v->size < 0 ? l.shared_bytes : v->size);
  };
  const int shift = __builtin_ctz(p.shared_granule);
  touch_lanes<false>(Now{w, b, b.start_time, now()}, i, r, r.mask, Ground{b.cells.data(), kSharedBase >> shift, shift}, where);
}

void check_window(Warp& w, const Ins* i, const Request& r, uint64_t base, int64_t size, const char* name) {
  check_alignment(w, i, r);
  for (uint32_t m = r.mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const int64_t offset = static_cast<int64_t>(r.address[lane] - base);
    if (offset < 0 || offset + r.bytes > size) fault(w, i, kinds::kOutOfBounds, what(r) + relative(name, offset, size), lane);
  }
}

void check_landed(Warp& w, int lane, uint64_t address, int bytes) {
  Launch& l = *w.launch;
  const Now n{w, *w.block, w.block->start_time, now()};
  const int g = l.program->shared_granule;
  Cell* c = w.block->cells.data() + (address - kSharedBase) / g;
  for (int k = 0; k < bytes; k += g, ++c)
    if (c->writer == w.index * 32 + lane && (c->flags & kPending)) record_write(n, *c, lane, 0);
}

void fence_block(Block& b) {
  if (!b.launch->options.checks) return;
  b.fence_time = tick();
  merge(b.acquired, b.observed);
  b.observed.clear();
}

void synchronise_lanes(Warp& w, uint32_t mask) {
  if (!w.launch->options.checks) return;
  const uint32_t t = tick();
  if (mask == w.alive) {
    w.full_sync = t;
    return;
  }
  if (!w.pair_sync) w.pair_sync.reset(new uint32_t[1024]());
  for (uint32_t m = mask; m; m &= m - 1)
    for (uint32_t k = mask; k; k &= k - 1) w.pair_sync[__builtin_ctz(m) * 32 + __builtin_ctz(k)] = t;
}

}  // namespace exe
