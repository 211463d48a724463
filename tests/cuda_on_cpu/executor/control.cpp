// Branches, calls and barriers.
#include "decode.h"
#include "launch.h"

namespace exe {

const Ins* op_head(Warp& w, const Ins* i) {
  if (__builtin_expect((i >= w.limit) | (--w.fuel < 0), 0)) return stop(w, Stop::kYield, i);
  uint64_t* c = w.counts + 2 * i->imm;
  c[0]++;
  c[1] += __builtin_popcount(w.mask);
  return i + 1;
}

namespace {

// The lanes in `taken` go to `to`, the others go on.
const Ins* branch(Warp& w, const Ins* i, uint32_t taken, const Ins* to) {
  if (taken == w.mask) return to;
  if (!taken) return i + 1;
  w.launch->counters.divergent_branches++;
  Group& g = w.groups[w.current];
  Group& n = w.groups[w.ngroups++];
  n = g;
  n.mask = taken;
  n.pc = to;
  n.parked = false;
  g.mask = w.mask & ~taken;
  return stop(w, Stop::kDiverge, i + 1);
}

}  // namespace

const Ins* op_bra(Warp& w, const Ins* i) { return branch(w, i, pred(w, i->a) & w.mask, i->as<Ins>()); }
const Ins* op_bra_not(Warp& w, const Ins* i) { return branch(w, i, ~pred(w, i->a) & w.mask, i->as<Ins>()); }
const Ins* op_bra_always(Warp&, const Ins* i) { return i->as<Ins>(); }

const Ins* op_predicate(Warp& w, const Ins* i) {
  const uint32_t m = w.mask & (pred(w, i->a) ^ static_cast<uint32_t>(i->b));
  if (!m) return i + i->imm;
  w.unpredicated = w.mask;
  w.mask = m;
  return i + 1;
}
const Ins* op_unpredicate(Warp& w, const Ins* i) {
  w.mask = w.unpredicated;
  return i + 1;
}
const Ins* op_not_pred(Warp& w, const Ins* i) {
  pred(w, i->d) = ~pred(w, i->a);
  return i + 1;
}

const Ins* op_exit(Warp& w, const Ins* i) { return stop(w, Stop::kExit, i); }
const Ins* op_call(Warp& w, const Ins* i) {
  Group& g = w.groups[w.current];
  g.stack[g.depth++] = i + 1;
  if (w.ngroups > 1) return stop(w, Stop::kYield, i->as<Ins>());
  return i->as<Ins>();
}
const Ins* op_ret(Warp& w, const Ins* i) {
  Group& g = w.groups[w.current];
  if (g.depth == 0) return stop(w, Stop::kExit, i);
  const Ins* to = g.stack[--g.depth];
  if (w.ngroups > 1) return stop(w, Stop::kYield, to);
  return to;
}
const Ins* op_trap(Warp& w, const Ins* i) { fault(w, i, kinds::kTrap, i->imm ? "assertion failed" : "trap", __builtin_ctz(w.mask)); }
const Ins* op_copy_param(Warp& w, const Ins* i) {
  const int64_t stride = w.launch->program->local_bytes;
  for (uint32_t m = w.mask; m; m &= m - 1) {
    uint8_t* l = w.local + __builtin_ctz(m) * stride;
    memcpy(l + i->b, l + i->a, i->imm);
  }
  return i + 1;
}

namespace {

const Ins* op_brx(Warp& w, const Ins* i) {
  const uint32_t* index = row<uint32_t>(w, i->a);
  const int64_t* table = i->as<int64_t>();
  uint32_t rest = w.mask;
  const Ins* first = nullptr;
  Group& g = w.groups[w.current];
  while (rest) {
    const uint32_t k = index[__builtin_ctz(rest)];
    if (k >= static_cast<uint32_t>(i->b))
      fault(w, i, kinds::kOutOfBounds, "branch index " + std::to_string(k) + " of " + std::to_string(i->b), __builtin_ctz(rest));
    uint32_t m = 0;
    for (uint32_t r = rest; r; r &= r - 1)
      if (index[__builtin_ctz(r)] == k) m |= r & -r;
    rest &= ~m;
    const Ins* to = reinterpret_cast<const Ins*>(table[k]);
    if (!first) {
      if (!rest) return to;
      first = to;
      g.mask = m;
    } else {
      Group& n = w.groups[w.ngroups++];
      n = g;
      n.mask = m, n.pc = to, n.parked = false;
    }
  }
  w.launch->counters.divergent_branches++;
  return stop(w, Stop::kDiverge, first);
}

// A collective that needs all living lanes of the warp here: true if they are not (yet).
bool incomplete(Warp& w) { return w.mask != w.alive; }

// a: barrier number, b: threads (or 0); imm: what of kBarWait, kBarAligned, and the reduction
enum { kWait = 1, kAligned = 2, kPopc = 4, kAnd = 8, kOr = 16 };

const Ins* op_bar(Warp& w, const Ins* i) {
  const int id = static_cast<int>(row<uint32_t>(w, i->a)[__builtin_ctz(w.mask)]);
  const int expected = i->b ? static_cast<int>(row<uint32_t>(w, i->b)[__builtin_ctz(w.mask)]) : 0;
  if (incomplete(w)) {
    if (!w.resolve) return stop(w, Stop::kPark, i);
    fault(w, i, kinds::kDivergentBarrier,
          std::to_string(__builtin_popcount(w.mask)) + " of the " + std::to_string(__builtin_popcount(w.alive)) +
              " running threads of the warp reach this barrier",
          __builtin_ctz(w.mask));
  }
  if (w.alive != w.lanes) fault(w, i, kinds::kDivergentBarrier, "threads of the warp have exited", __builtin_ctz(w.mask));
  if (id < 0 || id > 15) fault(w, i, kinds::kDivergentBarrier, "barrier " + std::to_string(id));
  if (expected % 32 || expected > 1024) fault(w, i, kinds::kDivergentBarrier, "a barrier of " + std::to_string(expected) + " threads");
  return arrive_at_barrier(w, i, id, expected, i->imm & kWait);
}

void decode_bar(Decoder& d) {
  const Stmt& s = d.stmt();
  if (d.take("warp")) return decode_warp_barrier(d);
  d.take("cta");
  int flags = s.op == "bar" ? kAligned : 0;
  if (d.take("aligned")) flags |= kAligned;
  Ty t = Ty::kNone;
  int32_t dst = 0, p = 0;
  size_t k = 0;
  if (d.take("sync")) flags |= kWait;
  else if (d.take("arrive")) {
  } else if (d.take("red")) {
    flags |= kWait | (d.take("popc") ? kPopc : d.take("and") ? kAnd : d.take("or") ? kOr : 0);
    t = d.take_type();
    dst = flags & kPopc ? d.dst(0, 4) : d.dst_pred(d.op(0));
    p = d.src_pred(d.op(d.num_ops() - 1));
    k = 1;
  } else d.unsupported();
  const size_t rest = d.num_ops() - k - (t != Ty::kNone);
  const int32_t id = rest > 0 ? d.src(k, 4) : d.constant(0, 4), n = rest > 1 ? d.src(k + 1, 4) : 0;
  d.emit(op_bar, dst, id, n, p, flags);
  d.count(kBarrier);
  d.end_block();
}

void decode_bra(Decoder& d) {
  d.take("uni");
  const Stmt& s = d.stmt();
  if (s.pred < 0) d.emit_branch(op_bra_always, 0, d.op(0).name);
  else d.emit_branch(s.pred_negated ? op_bra_not : op_bra, d.reg_row(s.pred), d.op(0).name);
  d.count(kControl);
  d.end_block();
}
void decode_brx(Decoder& d) {
  d.take("idx"), d.take("uni");
  d.emit_jump_table(op_brx, d.src(0, 4), *d.targets(d.op(1).name));
  d.count(kControl);
  d.end_block();
}
void decode_exit(Decoder& d) {
  d.take("uni");
  d.emit(d.stmt().op == "exit" || d.in_entry() ? op_exit : op_ret);
  d.count(kControl);
  d.end_block();
}
void decode_trap(Decoder& d) {
  d.emit(op_trap);
  d.count(kControl);
  d.end_block();
}
void decode_call(Decoder& d) {
  d.take("uni");
  size_t k = 0;
  const Operand *returns = nullptr, *params = nullptr;
  if (d.op(0).kind == Operand::kVector) returns = &d.op(k++);
  if (d.op(k).kind != Operand::kName) d.unsupported("indirect call");
  const sv name = d.op(k++).name;
  if (k < d.num_ops() && d.op(k).kind == Operand::kVector) params = &d.op(k++);
  d.call(name, returns, params);
}

}  // namespace

void control_rules(Rules& r) {
  r.any["bra"] = decode_bra;
  r.any["brx"] = decode_brx;
  r.any["ret"] = r.any["exit"] = decode_exit;
  r.any["trap"] = decode_trap;
  r.any["call"] = decode_call;
  r.any["bar"] = r.any["barrier"] = decode_bar;
  for (sv s : {"nanosleep", "prefetch", "prefetchu", "discard", "applypriority", "brkpt", "pmevent", "griddepcontrol"})
    r.any[s] = [](Decoder& d) {
      while (!d.take_next().empty()) {
      }
    };
}

}  // namespace exe
