// set and setp.
#include "decode.h"
#include "numeric.h"

namespace exe {
namespace {

enum Cmp { kEq, kNe, kLt, kLe, kGt, kGe, kEqu, kNeu, kLtu, kLeu, kGtu, kGeu, kNum, kNan };

template <int C, class T>
bool holds(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    const bool ordered = a == a && b == b;
    switch (C) {
      case kEq: return a == b;
      case kNe: return ordered && a != b;
      case kLt: return a < b;
      case kLe: return a <= b;
      case kGt: return a > b;
      case kGe: return a >= b;
      case kEqu: return !ordered || a == b;
      case kNeu: return a != b;
      case kLtu: return !(a >= b);
      case kLeu: return !(a > b);
      case kGtu: return !(a <= b);
      case kGeu: return !(a < b);
      case kNum: return ordered;
      default: return !ordered;
    }
  } else {
    switch (C) {
      case kEq: return a == b;
      case kNe: return a != b;
      case kLt: return a < b;
      case kLe: return a <= b;
      case kGt: return a > b;
      default: return a >= b;
    }
  }
}

template <class T, int C>
const Ins* op_setp(Warp& w, const Ins* i) {
  set_pred(w, i->d, bits_of([](T a, T b) { return holds<C, T>(a, b); }, row<T>(w, i->a), row<T>(w, i->b)));
  return i + 1;
}
template <int C>
const Ins* op_setp_ftz(Warp& w, const Ins* i) {
  set_pred(w, i->d,
           bits_of([](float a, float b) { return holds<C, float>(flush(a), flush(b)); }, row<float>(w, i->a), row<float>(w, i->b)));
  return i + 1;
}
template <class H, int C>
const Ins* op_setp_half(Warp& w, const Ins* i) {
  set_pred(w, i->d, bits_of([](H a, H b) { return holds<C, float>(widen(a), widen(b)); }, row<H>(w, i->a), row<H>(w, i->b)));
  return i + 1;
}
// Of pairs: d the low halves, c the high ones.
template <class H, int C>
const Ins* op_setp_pair(Warp& w, const Ins* i) {
  const H *a = row<H>(w, i->a), *b = row<H>(w, i->b);
  uint32_t lo = 0, hi = 0;
  for (int l = 0; l < 32; ++l) {
    lo |= uint32_t(holds<C, float>(widen(a[2 * l]), widen(b[2 * l]))) << l;
    hi |= uint32_t(holds<C, float>(widen(a[2 * l + 1]), widen(b[2 * l + 1]))) << l;
  }
  set_pred(w, i->d, lo), set_pred(w, i->c, hi);
  return i + 1;
}
// d = a op b, c = !a op b: imm 0: and, 1: or, 2: xor, 3: a alone
const Ins* op_combine(Warp& w, const Ins* i) {
  const uint32_t a = pred(w, i->a), b = pred(w, i->b);
  auto f = [&](uint32_t x) { return i->imm == 0 ? x & b : i->imm == 1 ? x | b : i->imm == 2 ? x ^ b : x; };
  const uint32_t p = f(a), q = f(~a);
  set_pred(w, i->d, p);
  if (i->c) set_pred(w, i->c, q);
  return i + 1;
}
// A value by predicate: imm: the one for true; false gives 0.
template <class T>
const Ins* op_value(Warp& w, const Ins* i) {
  const uint32_t p = pred(w, i->a);
  alignas(64) T t[32];
  for (int l = 0; l < 32; ++l) t[l] = (p >> l & 1) ? static_cast<T>(i->imm) : T(0);
  blend(row<T>(w, i->d), t, w.mask);
  return i + 1;
}
const Ins* op_value_pair(Warp& w, const Ins* i) {
  const uint32_t p = pred(w, i->a), q = pred(w, i->b);
  const uint32_t one = static_cast<uint32_t>(i->imm);
  alignas(64) uint32_t t[32];
  for (int l = 0; l < 32; ++l) t[l] = ((p >> l & 1) ? one : 0) | ((q >> l & 1) ? one << 16 : 0);
  blend(row<uint32_t>(w, i->d), t, w.mask);
  return i + 1;
}

template <int C>
Fn pick_type(Ty t, bool ftz) {
  if constexpr (C <= kGe) {
    switch (t) {
      case Ty::kU16:
      case Ty::kB16: return op_setp<uint16_t, C>;
      case Ty::kS16: return op_setp<int16_t, C>;
      case Ty::kU32:
      case Ty::kB32: return op_setp<uint32_t, C>;
      case Ty::kS32: return op_setp<int32_t, C>;
      case Ty::kU64:
      case Ty::kB64: return op_setp<uint64_t, C>;
      case Ty::kS64: return op_setp<int64_t, C>;
      default: break;
    }
  }
  switch (t) {
    case Ty::kF32: return ftz ? op_setp_ftz<C> : op_setp<float, C>;
    case Ty::kF64: return op_setp<double, C>;
    case Ty::kF16: return op_setp_half<f16, C>;
    case Ty::kBF16: return op_setp_half<bf16, C>;
    case Ty::kF16x2: return op_setp_pair<f16, C>;
    case Ty::kBF16x2: return op_setp_pair<bf16, C>;
    default: return nullptr;
  }
}
Fn pick(int c, Ty t, bool ftz) {
  switch (c) {
    case kEq: return pick_type<kEq>(t, ftz);
    case kNe: return pick_type<kNe>(t, ftz);
    case kLt: return pick_type<kLt>(t, ftz);
    case kLe: return pick_type<kLe>(t, ftz);
    case kGt: return pick_type<kGt>(t, ftz);
    case kGe: return pick_type<kGe>(t, ftz);
    case kEqu: return pick_type<kEqu>(t, ftz);
    case kNeu: return pick_type<kNeu>(t, ftz);
    case kLtu: return pick_type<kLtu>(t, ftz);
    case kLeu: return pick_type<kLeu>(t, ftz);
    case kGtu: return pick_type<kGtu>(t, ftz);
    case kGeu: return pick_type<kGeu>(t, ftz);
    case kNum: return pick_type<kNum>(t, ftz);
    case kNan: return pick_type<kNan>(t, ftz);
    default: return nullptr;
  }
}

int take_comparison(Decoder& d) {
  static const std::unordered_map<sv, int> table = {
      {"eq", kEq}, {"ne", kNe},   {"lt", kLt},   {"le", kLe},   {"gt", kGt},   {"ge", kGe},   {"lo", kLt},   {"ls", kLe},   {"hi", kGt},
      {"hs", kGe}, {"equ", kEqu}, {"neu", kNeu}, {"ltu", kLtu}, {"leu", kLeu}, {"gtu", kGtu}, {"geu", kGeu}, {"num", kNum}, {"nan", kNan}};
  auto it = table.find(d.take_next());
  if (it == table.end()) d.unsupported("comparison");
  return it->second;
}

struct Test {
  int32_t p, q;  // the comparison's results; q: of the high halves
  Ty type;
};
// Emits comparison and combination; results in `p`, `q` if these are rows, else in scratch.
void decode_setp(Decoder& d) {
  const int c = take_comparison(d);
  const sv combine = d.take_any({"and", "or", "xor"});
  const bool ftz = d.take("ftz");
  const Ty t = d.take_type();
  const bool pair = t == Ty::kF16x2 || t == Ty::kBF16x2;
  const int32_t a = d.src(1, t), b = d.src(2, t);
  Fn fn = pick(c, t, ftz);
  if (!fn) d.unsupported("type");
  const Operand& o = d.op(0);
  Operand second;
  second.kind = o.reg2 >= 0 ? Operand::kReg : Operand::kSink;
  second.reg = o.reg2;
  const int op = combine == "and" ? 0 : combine == "or" ? 1 : combine == "xor" ? 2 : 3;
  if (pair) {
    const int32_t p = d.dst_pred(o), q = d.dst_pred(second);
    if (combine.empty()) return d.emit(fn, p, a, b, q);
    const int32_t x = d.scratch(0), y = d.scratch(0), e = d.src_pred(d.op(3));
    d.emit(fn, x, a, b, y);
    d.emit(op_combine, p, x, e, 0, op), d.emit(op_combine, q, y, e, 0, op);
  } else if (combine.empty() && o.reg2 < 0) {
    d.emit(fn, d.dst_pred(o), a, b);
  } else {
    const int32_t x = d.scratch(0), e = combine.empty() ? 0 : d.src_pred(d.op(3));
    d.emit(fn, x, a, b);
    d.emit(op_combine, d.dst_pred(o), x, e, o.reg2 >= 0 ? d.dst_pred(second) : 0, op);
  }
  d.count(kInteger, 1);
}
void decode_set(Decoder& d) {
  const int c = take_comparison(d);
  const sv combine = d.take_any({"and", "or", "xor"});
  const bool ftz = d.take("ftz");
  const Ty to = d.take_type(), t = d.take_type();
  const bool pair = t == Ty::kF16x2 || t == Ty::kBF16x2;
  const int32_t a = d.src(1, t), b = d.src(2, t), p = d.scratch(0), q = d.scratch(0);
  Fn fn = pick(c, t, ftz);
  if (!fn) d.unsupported("type");
  d.emit(fn, p, a, b, pair ? q : 0);
  if (!combine.empty()) {
    const int op = combine == "and" ? 0 : combine == "or" ? 1 : 2;
    const int32_t e = d.src_pred(d.op(3));
    d.emit(op_combine, p, p, e, 0, op);
    if (pair) d.emit(op_combine, q, q, e, 0, op);
  }
  int64_t one = -1;
  if (to == Ty::kF32) one = 0x3f800000;
  if (to == Ty::kF16 || to == Ty::kF16x2) one = 0x3c00;
  if (to == Ty::kBF16 || to == Ty::kBF16x2) one = 0x3f80;
  const int n = size_of(to);
  if (pair) {
    if (n != 4) d.unsupported("type");
    d.emit(op_value_pair, d.dst(0, 4), p, q, 0, one == -1 ? 0xffff : one);
  } else {
    d.emit(n == 2 ? Fn(op_value<uint16_t>) : Fn(op_value<uint32_t>), d.dst(0, n), p, 0, 0, one);
  }
  d.count(kInteger, 1);
}

}  // namespace

void compare_rules(Rules& r) {
  r.any["setp"] = decode_setp;
  r.any["set"] = decode_set;
}

}  // namespace exe
