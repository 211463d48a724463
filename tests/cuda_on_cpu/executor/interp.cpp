// The scheduler: lane groups of a warp, warps of a block, blocks of a launch.
#include <algorithm>
#include <exception>
#include <thread>

#include "checks.h"
#include "launch.h"

namespace exe {

namespace {

// Basic blocks a warp, or some lanes of one, may run before others get a turn. Lanes that do not wait for others meet these where their
// paths join; a turn that ends before keeps them apart.
constexpr int64_t kWarpSlice = 1 << 16, kLaneSlice = 1 << 20, kSpinningSlice = 256;

std::string thread_name(const Launch& l, int t) {
  const uint32_t* b = l.block;
  return std::to_string(t % b[0]) + "," + std::to_string(t / b[0] % b[1]) + "," + std::to_string(t / (b[0] * b[1]));
}

}  // namespace

void fault(Warp& w, const Ins* i, const char* kind, const std::string& what, int lane) {
  const Launch& l = *w.launch;
  const Block& b = *w.block;
  std::string m = l.program->name;
  if (i) {
    const size_t at = static_cast<size_t>(i - l.program->code.data());
    const Meta& meta =
        l.program->meta[at + (at + 1 < l.program->meta.size() && l.program->meta[at].text.empty())];  // of a block's head: its first
    m += ", PTX line " + std::to_string(meta.line) + ": " + std::string(meta.text);
  }
  m += "\nblock (" + std::to_string(b.id[0]) + "," + std::to_string(b.id[1]) + "," + std::to_string(b.id[2]) + ")";
  if (lane >= 0) m += ", thread (" + thread_name(l, w.index * 32 + lane) + ")";
  throw Fault(kind, m + ": " + what);
}

namespace {

bool same_place(const Group& a, const Group& b) {
  return a.pc == b.pc && a.depth == b.depth && std::equal(a.stack, a.stack + a.depth, b.stack);
}

// Joins groups at the same place. Returns whether a parked one grew.
void merge(Warp& w) {
  for (int x = 0; x < w.ngroups; ++x) {
    for (int y = x + 1; y < w.ngroups;) {
      if (!same_place(w.groups[x], w.groups[y])) {
        ++y;
        continue;
      }
      w.groups[x].mask |= w.groups[y].mask;
      w.groups[x].parked = false;
      w.groups[y] = w.groups[--w.ngroups];
    }
  }
}

// The deepest call, then the lowest address: the order in which lanes meet again.
bool before(const Group& a, const Group& b) { return a.depth != b.depth ? a.depth > b.depth : a.pc < b.pc; }

int pick(Warp& w, bool random) {
  int best = -1, n = 0;
  for (int x = 0; x < w.ngroups; ++x) n += !w.groups[x].parked;
  if (n == 0) return -1;
  if (random) {
    int k = static_cast<int>(w.launch->rng.below(n));
    for (int x = 0; x < w.ngroups; ++x)
      if (!w.groups[x].parked && k-- == 0) return x;
  }
  for (int x = 0; x < w.ngroups; ++x) {
    if (w.groups[x].parked || (n > 1 && w.groups[x].pc == w.tired)) continue;
    if (best < 0 || before(w.groups[x], w.groups[best])) best = x;
  }
  return best;
}

// Runs a warp until it waits at a barrier, is done, or has used up its turn.
void run_warp(Warp& w) {
  Launch& l = *w.launch;
  const bool random = l.options.order == 2;
  for (;;) {
    if (w.ngroups > 1) merge(w);
    int g = pick(w, random && w.ngroups > 1);
    w.tired = nullptr;
    w.resolve = false;
    if (g < 0) {
      if (w.ngroups == 0) {
        w.state = Warp::kDone;
        return;
      }
      g = 0;  // all are parked: this one acts or faults
      for (int x = 1; x < w.ngroups; ++x)
        if (before(w.groups[x], w.groups[g])) g = x;
      w.groups[g].parked = false;
      w.resolve = true;
    }
    w.current = g;
    w.mask = w.groups[g].mask;
    w.limit = reinterpret_cast<const Ins*>(UINTPTR_MAX);
    int64_t fuel = w.ngroups == 1 ? kWarpSlice : l.program->may_spin ? kSpinningSlice : kLaneSlice;
    if (w.ngroups > 1) {
      if (random) {
        fuel = 1 + l.rng.below(4);
      } else {
        for (int x = 0; x < w.ngroups; ++x)
          if (x != g && w.groups[x].depth == w.groups[g].depth && w.groups[x].pc > w.groups[g].pc)
            w.limit = std::min(w.limit, w.groups[x].pc);
      }
    } else if (random && l.options.checks) {
      fuel = 1 + l.rng.below(16);
    }
    w.fuel = fuel;
    const Ins* i = w.groups[g].pc;
    do i = i->fn(w, i);
    while (i);
    w.block->steps += fuel - std::max<int64_t>(w.fuel, 0);
    Group& now = w.groups[w.current];
    switch (w.stop) {
      case Stop::kDiverge: now.pc = w.pc; break;
      case Stop::kYield:
        now.pc = w.pc;
        if (w.fuel < 0) {
          if (w.block->steps > l.options.step_limit)
            fault(w, w.pc, kinds::kDeadlock, "more basic blocks than the step limit", __builtin_ctz(w.mask));
          w.tired = w.pc;
          if (w.block->nwarps > 1 && (!random || l.rng.below(2))) return;
        }
        break;
      case Stop::kExit:
        w.alive &= ~w.mask;
        w.groups[w.current] = w.groups[--w.ngroups];
        for (int x = 0; x < w.ngroups; ++x) w.groups[x].parked = false;  // fewer to wait for
        break;
      case Stop::kPark:
        now.pc = w.pc;
        now.parked = true;
        break;
      case Stop::kBarrier:
        now.pc = w.pc;
        if (w.state == Warp::kWaiting) return;
        break;
      case Stop::kNone: break;
    }
  }
}

void complete(Block& b, Barrier& bar) {
  const uint32_t time = b.launch->options.checks ? tick() : 1;
  uint32_t seen[32] = {};
  if (b.launch->options.checks && bar.expected) {
    for (int u = 0; u < b.nwarps; ++u)
      if (bar.arrival[u])
        for (int v = 0; v < b.nwarps; ++v) seen[v] = std::max({seen[v], b.seen[u][v], v == u ? bar.arrival[u] + 1 : 0});
  }
  for (int k = 0; k < b.nwarps; ++k) {
    if (!(bar.waiting >> k & 1)) continue;
    Warp& w = b.warps[k];
    if (bar.expected) memcpy(b.seen[k], seen, sizeof seen);
    w.full_sync = time;
    const Ins* i = w.barrier_ins;
    w.mask = w.barrier_mask;
    if (i->imm & 4) {
      lanes(w, row<uint32_t>(w, i->d), [n = static_cast<uint32_t>(bar.popc)](uint32_t) { return n; }, row<uint32_t>(w, i->d));
    } else if (i->imm & 24) {
      set_pred(w, i->d, ((i->imm & 8) ? bar.all : bar.any) ? ~0u : 0u);
    }
    w.state = Warp::kReady;
    w.barrier = -1;
  }
  if (!bar.expected) b.full_time = time;
  bar = Barrier();
}

std::string describe_waiting(Block& b) {
  int waiting = 0, done = 0;
  std::string lines;
  for (int k = 0; k < b.nwarps; ++k) {
    const Warp& w = b.warps[k];
    if (w.state == Warp::kDone) done += __builtin_popcount(w.lanes);
    if (w.state != Warp::kWaiting) continue;
    waiting += __builtin_popcount(w.lanes);
    const std::string line = std::to_string(b.launch->program->meta[w.barrier_ins - b.launch->program->code.data()].line);
    if (lines.find(line) == std::string::npos) lines += (lines.empty() ? "" : ", ") + line;
  }
  return std::to_string(waiting) + " threads of the block wait at a barrier (PTX line " + lines + "), " + std::to_string(done) +
         " have exited";
}

void init_warp(Launch& l, Block& b, int index, char* arena) {
  Warp& w = b.warps[index];
  w.regs = arena;
  w.block = &b;
  w.launch = &l;
  w.index = index;
  const int n = std::min(32, b.nthreads - 32 * index);
  w.lanes = w.alive = n == 32 ? ~0u : (1u << n) - 1;
  w.ngroups = 1;
  w.current = 0;
  w.groups[0] = Group();
  w.groups[0].mask = w.lanes;
  w.groups[0].pc = l.program->code.data();
  w.counts = l.counts.data();
  w.shared = b.shared.data() - kSharedBase;
  w.param = l.params - kParamBase;
  w.state = Warp::kReady;
  w.barrier = -1;
  w.tired = nullptr;
  w.full_sync = 0;
  w.pair_sync.reset();
  w.copies.clear();
  memset(w.committed, 0, sizeof w.committed);
  for (auto& s : l.program->specials) {
    if (s.name[1] != 'c' || s.name[2] != 't') continue;  // only %ctaid changes from block to block
    std::fill_n(row<uint32_t>(w, s.offset), 32, b.id[s.name.back() - 'x']);
  }
}

uint32_t special_value(const Launch& l, const std::string& name, uint32_t thread) {
  const uint32_t lane = thread % 32, *n = l.block;
  const int axis = name[name.size() - 2] == '.' ? name.back() - 'x' : 0;
  if (name.compare(0, 4, "%tid") == 0) return axis == 0 ? thread % n[0] : axis == 1 ? thread / n[0] % n[1] : thread / (n[0] * n[1]);
  if (name.compare(0, 5, "%ntid") == 0) return n[axis];
  if (name.compare(0, 7, "%nctaid") == 0) return l.grid[axis];
  if (name == "%laneid") return lane;
  if (name == "%warpid") return thread / 32;
  if (name == "%nwarpid") return (n[0] * n[1] * n[2] + 31) / 32;
  if (name == "%lanemask_eq") return 1u << lane;
  if (name == "%lanemask_lt") return (1u << lane) - 1;
  if (name == "%lanemask_le") return (2u << lane) - 1;
  if (name == "%lanemask_gt") return ~((2u << lane) - 1);
  if (name == "%lanemask_ge") return ~((1u << lane) - 1);
  if (name == "%dynamic_smem_size") return static_cast<uint32_t>(l.shared_bytes);
  if (name == "%total_smem_size") return static_cast<uint32_t>(l.shared_bytes + l.program->static_shared);
  return name == "%nsmid" || name == "%cluster_nctarank";
}

// What stays the same for all blocks: constants, and the special registers of warp `index`.
void init_arena(const Launch& launch, int index, char* arena) {
  const Program& p = *launch.program;
  for (auto& s : p.specials) {
    uint32_t* r = reinterpret_cast<uint32_t*>(arena + s.offset);
    for (uint32_t l = 0; l < 32; ++l) r[l] = special_value(launch, s.name, index * 32 + l);
  }
  for (auto& c : p.consts) {
    char* r = arena + c.offset;
    if (c.width == 0) memcpy(r, &c.bits, 4);
    for (int l = 0; l < 32; ++l) memcpy(r + l * c.width, &c.bits, c.width);
  }
}

// What one host thread runs blocks with; kept from launch to launch.
struct Scratch {
  Block block;
  std::vector<char> registers, local;
  std::vector<int> order;  // of the warps
  char* base = nullptr;    // of the first warp's registers
  size_t stride = 0;       // between warps
};

void run_block(Launch& l, Scratch& scratch) {
  Block& b = scratch.block;
  std::vector<int>& order = scratch.order;
  b.steps = 0;
  if (!b.shared.empty()) memset(b.shared.data(), 0xff, b.shared.size());
  for (auto& bar : b.barriers) bar = Barrier();
  if (l.options.checks) {
    b.full_time = b.start_time = tick();
    b.fence_time = 0;
    b.observed.clear(), b.acquired.clear();
    memset(b.seen, 0, sizeof b.seen);
  }
  for (int k = 0; k < b.nwarps; ++k) {
    init_warp(l, b, k, scratch.base + k * scratch.stride);
    if (l.program->local_bytes)
      b.warps[k].local = reinterpret_cast<uint8_t*>(scratch.local.data()) + size_t(k) * 32 * l.program->local_bytes;
  }
  if (l.program->local_bytes) memset(scratch.local.data(), 0xff, size_t(l.program->local_bytes) * 32 * b.nwarps);
  int done = 0;
  while (done < b.nwarps) {
    if (l.options.order == 2)
      for (int k = b.nwarps; k > 1; --k) std::swap(order[k - 1], order[l.rng.below(k)]);
    bool ran = false;
    for (int k : order) {
      Warp& w = b.warps[k];
      if (w.state != Warp::kReady) continue;
      ran = true;
      run_warp(w);
      if (w.state == Warp::kDone) ++done;
    }
    if (!ran && done < b.nwarps) {
      for (int k = 0; k < b.nwarps; ++k) {
        Warp& w = b.warps[k];
        if (w.state != Warp::kWaiting) continue;
        w.mask = w.barrier_mask;
        fault(w, w.barrier_ins, kinds::kDivergentBarrier, describe_waiting(b) + ": it can never complete", __builtin_ctz(w.barrier_mask));
      }
    }
  }
}

void run_share(Launch& l, std::atomic<uint64_t>& next, uint64_t nblocks, std::atomic<bool>& failed) {
  const Program& p = *l.program;
  static thread_local Scratch scratch;
  Block& b = scratch.block;
  b.launch = &l;
  b.nthreads = l.block[0] * l.block[1] * l.block[2];
  b.nwarps = (b.nthreads + 31) / 32;
  if (b.warps.size() < static_cast<size_t>(b.nwarps)) b.warps = std::vector<Warp>(b.nwarps);
  b.shared.resize(l.shared_total);
  const size_t cells = l.shared_total / p.shared_granule + 1;
  if (l.options.checks && !b.cells.current(cells)) b.cells = Cells(cells);
  l.counts.assign(2 * p.num_blocks, 0);
  l.sites.assign(p.num_sites, nullptr);
  for (int k = 0; k < 32; ++k) l.lane_order[k] = l.options.order == 1 ? 31 - k : k;
  // odd multiples of a cache line apart, so that the warps' rows do not compete for the same sets
  scratch.stride = (p.arena_bytes + 127) / 128 * 128 + 64;
  scratch.registers.resize(std::max(scratch.registers.size(), scratch.stride * b.nwarps + 64));
  scratch.base = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(scratch.registers.data()) + 63) / 64 * 64);
  if (l.options.checks)
    memset(scratch.base, 0xff, scratch.stride * b.nwarps);  // so that a register without a value has the same one in every run
  scratch.local.resize(std::max(scratch.local.size(), size_t(p.local_bytes) * 32 * b.nwarps));
  for (int k = 0; k < b.nwarps; ++k) init_arena(l, k, scratch.base + k * scratch.stride);
  scratch.order.resize(b.nwarps);
  for (int k = 0; k < b.nwarps; ++k) scratch.order[k] = l.options.order == 1 ? b.nwarps - 1 - k : k;
  // random: an affine permutation of the blocks
  uint64_t step = 1, shift = 0;
  if (l.options.order == 2) {
    Rng r(l.options.seed);
    shift = r.next() % nblocks;
    auto gcd = [](uint64_t x, uint64_t y) {
      while (y) x %= y, std::swap(x, y);
      return x;
    };
    do step = 1 + r.next() % nblocks;
    while (gcd(step, nblocks) != 1);
  }
  for (uint64_t k; (k = next++) < nblocks && !failed;) {
    uint64_t n = l.options.order == 1   ? nblocks - 1 - k
                 : l.options.order == 2 ? static_cast<uint64_t>((static_cast<unsigned __int128>(k) * step + shift) % nblocks)
                                        : k;
    b.linear = static_cast<uint32_t>(n);
    b.id[0] = n % l.grid[0];
    b.id[1] = n / l.grid[0] % l.grid[1];
    b.id[2] = static_cast<uint32_t>(n / (uint64_t(l.grid[0]) * l.grid[1]));
    if (l.options.order == 2)
      for (int x = 32; x > 1; --x) std::swap(l.lane_order[x - 1], l.lane_order[l.rng.below(x)]);
    run_block(l, scratch);
  }
}

}  // namespace

const Ins* arrive_at_barrier(Warp& w, const Ins* i, int id, int expected, bool wait) {
  Block& b = *w.block;
  Barrier& bar = b.barriers[id];
  const std::string name = "barrier " + std::to_string(id);
  if (bar.threads && bar.expected != expected)
    fault(w, i, kinds::kDivergentBarrier, name + " is waited for with another number of threads");
  if (bar.threads && !expected && bar.ins && bar.ins != i && (i->imm & 2))
    fault(w, i, kinds::kDivergentBarrier,
          "other threads of the block wait at another barrier (PTX line " +
              std::to_string(w.launch->program->meta[bar.ins - w.launch->program->code.data()].line) + ")",
          __builtin_ctz(w.mask));
  bar.expected = expected;
  bar.ins = i;
  bar.threads += __builtin_popcount(w.mask);
  bar.arrival[w.index] = now();
  if (i->imm & 28) {
    const uint32_t p = pred(w, i->c) & w.mask;
    bar.popc += __builtin_popcount(p);
    bar.any |= p != 0;
    bar.all &= p == w.mask;
  }
  const int need = expected ? expected : b.nthreads;
  if (bar.threads > need) fault(w, i, kinds::kDivergentBarrier, name + ": more threads than it waits for", __builtin_ctz(w.mask));
  if (wait) {
    bar.waiting |= 1u << w.index;
    w.barrier = id;
    w.barrier_ins = i;
    w.barrier_mask = w.mask;
    w.state = Warp::kWaiting;  // complete() may make it ready at once
    stop(w, Stop::kBarrier, i + 1);
  }
  if (!wait && w.launch->options.checks) tick();  // what this warp does from now on is not covered
  if (bar.threads == need) complete(b, bar);
  return wait ? nullptr : i + 1;
}

void run_launch(Launch& first, std::vector<uint64_t>& counts, MemoryCounters& counters) {
  const uint64_t nblocks = uint64_t(first.grid[0]) * first.grid[1] * first.grid[2];
  const int n = first.options.checks ? 1 : static_cast<int>(std::min<uint64_t>(std::max(first.options.threads, 1), nblocks));
  std::vector<Launch> shares(n, first);
  std::vector<std::exception_ptr> errors(n);
  std::atomic<uint64_t> next{0};
  std::atomic<bool> failed{false};
  auto work = [&](int k) {
    try {
      shares[k].atomic_host = n > 1;
      shares[k].rng = Rng(first.options.seed + 1000 * k);
      run_share(shares[k], next, nblocks, failed);
    } catch (...) {
      errors[k] = std::current_exception();
      failed = true;
    }
  };
  std::vector<std::thread> threads;
  for (int k = 1; k < n; ++k) threads.emplace_back(work, k);
  work(0);
  for (auto& t : threads) t.join();
  counts.assign(2 * first.program->num_blocks, 0);
  for (auto& s : shares) {
    for (size_t k = 0; k < s.counts.size(); ++k) counts[k] += s.counts[k];
    auto* from = reinterpret_cast<const int64_t*>(&s.counters);
    auto* to = reinterpret_cast<int64_t*>(&counters);
    for (int k = 0; k < kNumMemoryCounters; ++k) to[k] += from[k];
  }
  for (auto& e : errors)
    if (e) std::rethrow_exception(e);
}

}  // namespace exe
