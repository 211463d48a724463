// What the lanes of a warp do together: shuffles, votes, matches, reductions, bar.warp.sync.
#include "warp_ops.h"

#include <algorithm>

#include "checks.h"
#include "decode.h"
#include "numeric.h"

namespace exe {

Together together(Warp& w, const Ins* i, const uint32_t* masks) {
  uint32_t all = 0;
  for (int l = 0; l < 32; ++l) all |= (w.mask >> l & 1) ? masks[l] : 0;
  if (!(all & w.alive & ~w.mask)) {
    if (w.launch->options.checks)
      for (uint32_t m = w.mask; m; m &= m - 1)
        if (!(masks[__builtin_ctz(m)] >> __builtin_ctz(m) & 1))
          fault(w, i, kinds::kInactiveLane, "the lane is not in its own mask", __builtin_ctz(m));
    return Together::kReady;
  }
  return w.resolve ? Together::kNever : Together::kWait;
}

bool whole_warp(Warp& w, const Ins* i) {
  if (w.mask == ~0u) return true;
  if (!w.resolve && w.mask != w.alive) return stop(w, Stop::kPark, i), false;
  fault(w, i, kinds::kInactiveLane, "needs all 32 lanes; " + std::to_string(__builtin_popcount(w.mask)) + " are here",
        __builtin_ctz(w.mask));
}

namespace {

[[noreturn]] void never(Warp& w, const Ins* i, const uint32_t* masks) {
  uint32_t all = 0;
  for (uint32_t m = w.mask; m; m &= m - 1) all |= masks[__builtin_ctz(m)];
  fault(w, i, kinds::kInactiveLane,
        "lane " + std::to_string(__builtin_ctz(all & w.alive & ~w.mask)) + " is in the mask and never comes here", __builtin_ctz(w.mask));
}
// Waits for the lanes in the masks; on return of true they are here.
#define EXE_TOGETHER(masks)                               \
  switch (together(w, i, masks)) {                        \
    case Together::kReady: break;                         \
    case Together::kWait: return stop(w, Stop::kPark, i); \
    case Together::kNever: never(w, i, masks);            \
  }

enum { kUp, kDown, kBfly, kIdx };

// d: result, a: value, b: lane or delta, c: mask; imm: row of the clamp, mode << 32, row of the predicate << 40 (0: none)
template <int kMode>
const Ins* op_shfl(Warp& w, const Ins* i) {
  const uint32_t *a = row<uint32_t>(w, i->a), *b = row<uint32_t>(w, i->b), *masks = row<uint32_t>(w, i->c);
  const uint32_t* c = row<uint32_t>(w, static_cast<int32_t>(i->imm & 0x7fffffff));
  EXE_TOGETHER(masks)
  alignas(64) uint32_t t[32], from[32];
  uint32_t valid = 0;
  for (int l = 0; l < 32; ++l) {
    const int bv = b[l] & 31, cv = c[l] & 31, seg = c[l] >> 8 & 31;
    const int top = (l & seg) | (cv & ~seg), bottom = l & seg;
    const int j = kMode == kUp ? l - bv : kMode == kDown ? l + bv : kMode == kBfly ? l ^ bv : bottom | (bv & ~seg);
    const bool ok = kMode == kUp ? j >= top : j <= top;
    from[l] = static_cast<uint32_t>(ok ? j : l);
    valid |= static_cast<uint32_t>(ok) << l;
  }
  for (int l = 0; l < 32; ++l) t[l] = a[from[l] & 31];
  if (w.launch->options.checks) {
    for (uint32_t m = w.mask; m; m &= m - 1) {
      const int l = __builtin_ctz(m);
      if (!((w.mask & masks[l]) >> from[l] & 1))
        fault(w, i, kinds::kInactiveLane, "shuffles from lane " + std::to_string(from[l]) + ", which is not active", l);
    }
  }
  blend(row<uint32_t>(w, i->d), t, w.mask);
  const int32_t p = static_cast<int32_t>(i->imm >> 32);
  if (p) set_pred(w, p, valid);
  return i + 1;
}
void decode_shfl(Decoder& d) {
  if (!d.take("sync")) d.unsupported();
  const sv mode = d.take_any({"up", "down", "bfly", "idx"});
  d.take_type();
  const Operand& o = d.op(0);
  Operand second;
  second.kind = Operand::kReg, second.reg = o.reg2;
  const int64_t p = o.reg2 >= 0 ? d.dst_pred(second) : 0;
  const int32_t a = d.src(1, 4), b = d.src(2, 4), m = d.src(4, 4);
  const int64_t c = d.src(3, 4);
  Fn fn = mode == "up" ? op_shfl<kUp> : mode == "down" ? op_shfl<kDown> : mode == "bfly" ? op_shfl<kBfly> : op_shfl<kIdx>;
  d.emit(fn, d.dst(0, 4), a, b, m, c | p << 32);
  d.count(kShuffle);
}

// imm: 0 all, 1 any, 2 uni, 3 ballot; c: mask
const Ins* op_vote(Warp& w, const Ins* i) {
  const uint32_t* masks = row<uint32_t>(w, i->c);
  EXE_TOGETHER(masks)
  const uint32_t p = pred(w, i->a);
  alignas(64) uint32_t t[32];
  uint32_t bits = 0;
  for (int l = 0; l < 32; ++l) {
    const uint32_t m = masks[l] & w.mask, q = p & m;
    t[l] = q;
    const bool r = i->imm == 0 ? q == m : i->imm == 1 ? q != 0 : q == 0 || q == m;
    bits |= static_cast<uint32_t>(r) << l;
  }
  if (i->imm == 3) blend(row<uint32_t>(w, i->d), t, w.mask);
  else set_pred(w, i->d, bits);
  return i + 1;
}
void decode_vote(Decoder& d) {
  if (!d.take("sync")) d.unsupported();
  const sv mode = d.take_any({"all", "any", "uni", "ballot"});
  d.take_type();
  const int32_t a = d.src_pred(d.op(1)), m = d.src(2, 4);
  const bool ballot = mode == "ballot";
  d.emit(op_vote, ballot ? d.dst(0, 4) : d.dst_pred(d.op(0)), a, 0, m, mode == "all" ? 0 : mode == "any" ? 1 : mode == "uni" ? 2 : 3);
  d.count(kVote);
}

// c: mask; imm: bit 0: all, predicate << 32
template <class T>
const Ins* op_match(Warp& w, const Ins* i) {
  const uint32_t* masks = row<uint32_t>(w, i->c);
  EXE_TOGETHER(masks)
  const T* a = row<T>(w, i->a);
  alignas(64) uint32_t t[32] = {};
  uint32_t p = 0;
  for (uint32_t x = w.mask; x; x &= x - 1) {
    const int l = __builtin_ctz(x);
    const uint32_t m = masks[l] & w.mask;
    for (uint32_t y = m; y; y &= y - 1)
      if (a[__builtin_ctz(y)] == a[l]) t[l] |= y & -y;
    if (i->imm & 1) {
      if (t[l] == m) p |= 1u << l;
      else t[l] = 0;
    }
  }
  blend(row<uint32_t>(w, i->d), t, w.mask);
  if (i->imm >> 32) set_pred(w, static_cast<int32_t>(i->imm >> 32), p);
  return i + 1;
}
void decode_match(Decoder& d) {
  const bool all = d.take_any({"any", "all"}) == "all";
  if (!d.take("sync")) d.unsupported();
  const Ty t = d.take_type();
  Operand second;
  second.kind = Operand::kReg, second.reg = d.op(0).reg2;
  const int64_t p = second.reg >= 0 ? d.dst_pred(second) : 0;
  const int32_t a = d.src(1, size_of(t)), m = d.src(2, 4);
  d.emit(size_of(t) == 8 ? op_match<uint64_t> : op_match<uint32_t>, d.dst(0, 4), a, 0, m, all | p << 32);
  d.count(kVote);
}

// imm: operation
enum { kAdd, kMinU, kMaxU, kMinS, kMaxS, kAnd, kOr, kXor, kMinF, kMaxF, kMinFAbs, kMaxFAbs, kReduceNan = 16 };
uint32_t reduce(int op, uint32_t x, uint32_t y) {
  const float fx = bits<float>(op & 2 ? x : x), fy = bits<float>(y);
  switch (op & 15) {
    case kAdd: return x + y;
    case kMinU: return std::min(x, y);
    case kMaxU: return std::max(x, y);
    case kMinS: return static_cast<uint32_t>(std::min(static_cast<int32_t>(x), static_cast<int32_t>(y)));
    case kMaxS: return static_cast<uint32_t>(std::max(static_cast<int32_t>(x), static_cast<int32_t>(y)));
    case kAnd: return x & y;
    case kOr: return x | y;
    case kXor: return x ^ y;
    default: break;
  }
  if ((op & kReduceNan) && (fx != fx || fy != fy)) return 0x7fffffffu;
  switch (op & 15) {
    case kMinF: return bits<uint32_t>(min_number(fx, fy));
    case kMaxF: return bits<uint32_t>(max_number(fx, fy));
    case kMinFAbs: return bits<uint32_t>(min_number(std::fabs(fx), std::fabs(fy)));
    default: return bits<uint32_t>(max_number(std::fabs(fx), std::fabs(fy)));
  }
}
const Ins* op_redux(Warp& w, const Ins* i) {
  const uint32_t *a = row<uint32_t>(w, i->a), *masks = row<uint32_t>(w, i->c);
  EXE_TOGETHER(masks)
  alignas(64) uint32_t t[32] = {};
  for (uint32_t x = w.mask; x; x &= x - 1) {
    const int l = __builtin_ctz(x);
    uint32_t m = masks[l] & w.mask;
    uint32_t r = a[__builtin_ctz(m)];
    const int op = static_cast<int>(i->imm);
    if ((op & 15) >= kMinFAbs) r &= 0x7fffffffu;
    for (m &= m - 1; m; m &= m - 1) r = reduce(op, r, a[__builtin_ctz(m)]);
    t[l] = r;
  }
  blend(row<uint32_t>(w, i->d), t, w.mask);
  return i + 1;
}
void decode_redux(Decoder& d) {
  if (!d.take("sync")) d.unsupported();
  const sv op = d.take_any({"add", "min", "max", "and", "or", "xor"});
  const bool abs = d.take("abs"), nan = d.take("NaN");
  const Ty t = d.take_type();
  int k;
  if (t == Ty::kF32) k = (op == "min" ? (abs ? kMinFAbs : kMinF) : (abs ? kMaxFAbs : kMaxF)) | (nan ? kReduceNan : 0);
  else if (op == "min") k = is_signed(t) ? kMinS : kMinU;
  else if (op == "max") k = is_signed(t) ? kMaxS : kMaxU;
  else k = op == "add" ? kAdd : op == "and" ? kAnd : op == "or" ? kOr : kXor;
  const int32_t a = d.src(1, 4), m = d.src(2, 4);
  d.emit(op_redux, d.dst(0, 4), a, 0, m, k);
  d.count(kShuffle);
}

const Ins* op_activemask(Warp& w, const Ins* i) {
  lanes(w, row<uint32_t>(w, i->d), [m = w.mask](uint32_t) { return m; }, row<uint32_t>(w, i->d));
  return i + 1;
}
void decode_activemask(Decoder& d) {
  d.take_type();
  d.emit(op_activemask, d.dst(0, 4));
}
// d: the leader's lane, b: predicate, c: mask
const Ins* op_elect(Warp& w, const Ins* i) {
  const uint32_t* masks = row<uint32_t>(w, i->c);
  EXE_TOGETHER(masks)
  uint32_t p = 0;
  for (uint32_t x = w.mask; x; x &= x - 1) {
    const int l = __builtin_ctz(x), leader = __builtin_ctz(masks[l] & w.mask);
    row<uint32_t>(w, i->d)[l] = leader;
    if (leader == l) p |= 1u << l;
  }
  set_pred(w, i->b, p);
  return i + 1;
}
void decode_elect(Decoder& d) {
  if (!d.take("sync")) d.unsupported();
  Operand second;
  second.kind = d.op(0).reg2 >= 0 ? Operand::kReg : Operand::kSink, second.reg = d.op(0).reg2;
  const int32_t m = d.src(1, 4), p = d.dst_pred(second);
  d.emit(op_elect, d.dst(0, 4), 0, p, m);
}

// c: mask
const Ins* op_warp_barrier(Warp& w, const Ins* i) {
  const uint32_t* masks = row<uint32_t>(w, i->c);
  const Together t = together(w, i, masks);
  if (t == Together::kWait) return stop(w, Stop::kPark, i);
  if (t == Together::kNever) {
    // lanes may meet at different bar.warp.sync if their masks are the same
    const uint32_t mask = masks[__builtin_ctz(w.mask)];
    uint32_t here = w.mask;
    for (int g = 0; g < w.ngroups; ++g) {
      const Group& x = w.groups[g];
      if (g != w.current && x.parked && x.pc->fn == op_warp_barrier && row<uint32_t>(w, x.pc->c)[__builtin_ctz(x.mask)] == mask)
        here |= x.mask;
    }
    if (mask & w.alive & ~here) never(w, i, masks);
    for (int g = 0; g < w.ngroups; ++g) {
      Group& x = w.groups[g];
      if (g != w.current && (x.mask & here)) ++x.pc, x.parked = false;
    }
    synchronise_lanes(w, mask & w.alive);
    return stop(w, Stop::kYield, i + 1);
  }
  for (uint32_t rest = w.mask; rest;) {
    const uint32_t mask = masks[__builtin_ctz(rest)];
    rest &= ~(mask | 1u << __builtin_ctz(rest));
    synchronise_lanes(w, mask & w.alive);
  }
  return i + 1;
}

}  // namespace

void decode_warp_barrier(Decoder& d) {
  if (!d.take("sync")) d.unsupported();
  d.emit(op_warp_barrier, 0, 0, 0, d.src(0, 4));
  d.count(kWarpSync);
}

void warp_rules(Rules& r) {
  r.any["shfl"] = decode_shfl;
  r.any["vote"] = decode_vote;
  r.any["match"] = decode_match;
  r.any["redux"] = decode_redux;
  r.any["activemask"] = decode_activemask;
  r.any["elect"] = decode_elect;
}

}  // namespace exe
