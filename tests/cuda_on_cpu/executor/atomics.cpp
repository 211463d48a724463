// atom and red.
#include <algorithm>

#include "access.h"
#include "decode.h"
#include "numeric.h"

namespace exe {
namespace {

enum Op : uint8_t { kAdd, kMin, kMax, kAnd, kOr, kXor, kExch, kCas, kInc, kDec };

template <class T>
T apply_int(int op, T old, T b) {
  using U = std::make_unsigned_t<T>;
  switch (op) {
    case kAdd: return static_cast<T>(U(old) + U(b));
    case kMin: return std::min(old, b);
    case kMax: return std::max(old, b);
    case kAnd: return old & b;
    case kOr: return old | b;
    case kXor: return old ^ b;
    case kInc: return U(old) >= U(b) ? 0 : static_cast<T>(U(old) + 1);
    case kDec: return old == 0 || U(old) > U(b) ? b : static_cast<T>(U(old) - 1);
    default: return b;
  }
}
template <class H>
uint16_t apply_half(int op, uint16_t old, uint16_t b) {
  const float x = widen(H{old}), y = widen(H{b});
  return narrow<H>(op == kAdd ? x + y : op == kMin ? min_number(x, y) : max_number(x, y)).v;
}
template <class H>
uint32_t apply_pair(int op, uint32_t old, uint32_t b) {
  return apply_half<H>(op, static_cast<uint16_t>(old), static_cast<uint16_t>(b)) |
         static_cast<uint32_t>(apply_half<H>(op, static_cast<uint16_t>(old >> 16), static_cast<uint16_t>(b >> 16))) << 16;
}

// T: as the value lies in memory
template <class T>
T apply(Ty type, int op, T old, T b) {
  if constexpr (sizeof(T) == 2) {
    switch (type) {
      case Ty::kF16: return apply_half<f16>(op, old, b);
      case Ty::kBF16: return apply_half<bf16>(op, old, b);
      default: return apply_int<uint16_t>(op, old, b);
    }
  } else if constexpr (sizeof(T) == 4) {
    switch (type) {
      case Ty::kF32:
        return bits<uint32_t>(canon(op == kAdd   ? bits<float>(old) + bits<float>(b)
                                    : op == kMin ? min_number(bits<float>(old), bits<float>(b))
                                                 : max_number(bits<float>(old), bits<float>(b))));
      case Ty::kF16x2: return apply_pair<f16>(op, old, b);
      case Ty::kBF16x2: return apply_pair<bf16>(op, old, b);
      case Ty::kS32: return static_cast<uint32_t>(apply_int<int32_t>(op, static_cast<int32_t>(old), static_cast<int32_t>(b)));
      default: return apply_int<uint32_t>(op, old, b);
    }
  } else {
    switch (type) {
      case Ty::kF64: return bits<uint64_t>(canon(bits<double>(old) + bits<double>(b)));
      case Ty::kS64: return static_cast<uint64_t>(apply_int<int64_t>(op, static_cast<int64_t>(old), static_cast<int64_t>(b)));
      default: return apply_int<uint64_t>(op, old, b);
    }
  }
}

// regs: 0.. values (count of them), 4: the compare value of cas; d: old value (-1: none), of the first element; others in tables
template <class T>
const Ins* op_atom(Warp& w, const Ins* i) {
  const MemOp& m = *i->as<MemOp>();
  alignas(64) uint64_t a[32];
  addresses(w, m, a);
  Request r{a, w.mask, static_cast<int>(sizeof(T)) * m.count, Access::kAtomic, true};
  r.overwrites = m.op == kExch;
  Resolved h;
  resolve(w, i, m.space, m.site, r, h);
  const bool host = w.launch->atomic_host;
  // sums of float32 in global memory flush subnormals; in shared memory they do not
  const bool flushes = sizeof(T) == 4 && static_cast<Ty>(m.type) == Ty::kF32 && m.op == kAdd && m.space != Space::kShared &&
                       !(a[__builtin_ctz(w.mask)] & kTagMask);
  auto combine = [&](T old, T b) {
    if constexpr (sizeof(T) == 4)
      if (flushes) return bits<uint32_t>(canon(flush(flush(bits<float>(old)) + flush(bits<float>(b)))));
    return apply(static_cast<Ty>(m.type), m.op, old, b);
  };
  alignas(64) T old[4][32];
  for (int x = 0; x < 32; ++x) {
    const int l = w.launch->lane_order[x];
    if (!(w.mask >> l & 1)) continue;
    for (int k = 0; k < m.count; ++k) {
      T* p = reinterpret_cast<T*>(h.host[l]) + k;
      const T b = row<T>(w, m.regs[k])[l];
      if (m.op == kCas) {
        const T c = row<T>(w, m.regs[4])[l];  // regs[0]: what to compare with
        T seen = b;
        if (host) __atomic_compare_exchange_n(p, &seen, c, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST), old[k][l] = seen;
        else {
          old[k][l] = *p;
          if (*p == b) *p = c;
        }
      } else if (host) {
        T seen = __atomic_load_n(p, __ATOMIC_SEQ_CST);
        while (!__atomic_compare_exchange_n(p, &seen, combine(seen, b), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        }
        old[k][l] = seen;
      } else {
        old[k][l] = *p;
        *p = combine(*p, b);
      }
    }
  }
  const int32_t* to = &i->d;  // d, a, b, c: rows of the old values
  for (int k = 0; k < m.count; ++k)
    if (to[k]) blend(row<T>(w, to[k]), old[k], w.mask);
  return i + 1;
}

const Ins* op_fence(Warp& w, const Ins* i) {
  fence_block(*w.block);
  return i + 1;
}
void decode_fence(Decoder& d) {
  d.take_any({"sc", "acq_rel", "acquire", "release"});
  if (d.take_any({"cta", "cluster"}).empty() && !d.take_any({"gpu", "gl", "sys"}).empty()) emit_fence(d);
  while (!d.take_next().empty()) {  // fence.proxy and its like
  }
}

void decode_atom(Decoder& d) {
  const bool returns = d.stmt().op == "atom";
  MemOp& m = *d.mem_op();
  m.strong = true;
  d.program().may_spin = true;
  const sv order = d.take_any({"relaxed", "acquire", "release", "acq_rel"});
  d.take_any({"cta", "gpu", "sys", "cluster"});
  if (order == "release" || order == "acq_rel") emit_fence(d);
  m.space = take_space(d);
  const sv op = d.take_any({"add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"});
  d.take_any({"cta", "gpu", "sys", "cluster"});
  d.take("noftz");
  const sv vec = d.take_any({"v2", "v4", "v8"});
  m.count = vec.empty() ? 1 : static_cast<uint8_t>(vec[1] - '0');
  if (m.count > 4) d.unsupported("vector");
  const Ty t = d.take_type();
  for (sv s : d.stmt().mods)
    if (s.find("::") != sv::npos) d.take(s);
  static const std::unordered_map<sv, Op> ops = {{"add", kAdd}, {"min", kMin},   {"max", kMax}, {"and", kAnd}, {"or", kOr},
                                                 {"xor", kXor}, {"exch", kExch}, {"cas", kCas}, {"inc", kInc}, {"dec", kDec}};
  if (op.empty()) d.unsupported("operation");
  m.op = ops.at(op);
  m.type = static_cast<uint8_t>(t);
  m.width = static_cast<uint8_t>(size_of(t));
  const size_t k = returns ? 1 : 0;
  decode_address(d, d.op(k), m);
  auto element = [&](const Operand& o, int e) -> const Operand& { return o.kind == Operand::kVector ? o.elems[e] : o; };
  for (int e = 0; e < m.count; ++e) m.regs[e] = d.src(element(d.op(k + 1), e), t);
  if (m.op == kCas) m.regs[4] = d.src(k + 2, t);
  int32_t to[4] = {0, 0, 0, 0};
  if (returns)
    for (int e = 0; e < m.count; ++e) to[e] = d.dst(element(d.op(0), e), m.width);
  note_access(d, m.space, m.width * m.count);
  Fn fn = m.width == 2 ? Fn(op_atom<uint16_t>) : m.width == 4 ? Fn(op_atom<uint32_t>) : m.width == 8 ? Fn(op_atom<uint64_t>) : nullptr;
  if (!fn) d.unsupported("type");
  d.emit(fn, to[0], to[1], to[2], to[3], reinterpret_cast<int64_t>(&m));
  d.count(kAtomic);
  if (order == "acquire" || order == "acq_rel") emit_fence(d);
}

}  // namespace

void emit_fence(Decoder& d) {
  d.program().uses_fences = true;
  d.emit(op_fence);
}

void atomic_rules(Rules& r) {
  r.any["atom"] = r.any["red"] = decode_atom;
  r.any["membar"] = r.any["fence"] = decode_fence;
}

}  // namespace exe
