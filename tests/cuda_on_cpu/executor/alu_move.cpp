// Moves, packing and selection.
#include <atomic>

#include "decode.h"

namespace exe {
namespace {

const Ins* op_mov_pred(Warp& w, const Ins* i) {
  set_pred(w, i->d, pred(w, i->a));
  return i + 1;
}
template <class T>
const Ins* op_mov(Warp& w, const Ins* i) {
  lanes(w, row<T>(w, i->d), [](T a) { return a; }, row<T>(w, i->a));
  return i + 1;
}

template <class T>
const Ins* op_selp(Warp& w, const Ins* i) {
  const uint32_t p = pred(w, i->c);
  const T *a = row<T>(w, i->a), *b = row<T>(w, i->b);
  T* d = row<T>(w, i->d);
  if (w.mask == ~0u) {
#pragma GCC ivdep
    for (int l = 0; l < 32; ++l) d[l] = (p >> l & 1) ? a[l] : b[l];
  } else {
    alignas(64) T t[32];
    for (int l = 0; l < 32; ++l) t[l] = (p >> l & 1) ? a[l] : b[l];
    blend(d, t, w.mask);
  }
  return i + 1;
}
template <class T, class C>
const Ins* op_slct(Warp& w, const Ins* i) {
  lanes(w, row<T>(w, i->d), [](T a, T b, C c) { return c >= 0 ? a : b; }, row<T>(w, i->a), row<T>(w, i->b), row<C>(w, i->c));
  return i + 1;
}
// Packs and unpacks: a wide value and its parts. imm: list of rows
template <class Wide, class Part>
const Ins* op_pack(Warp& w, const Ins* i) {
  const int64_t* parts = i->as<int64_t>();
  alignas(64) Wide t[32] = {};
  for (size_t k = 0; k < sizeof(Wide) / sizeof(Part); ++k) {
    const Part* p = row<Part>(w, static_cast<int32_t>(parts[k]));
    for (int l = 0; l < 32; ++l) t[l] |= static_cast<Wide>(p[l]) << (8 * sizeof(Part) * k);
  }
  blend(row<Wide>(w, i->d), t, w.mask);
  return i + 1;
}
template <class Wide, class Part>
const Ins* op_unpack(Warp& w, const Ins* i) {
  const int64_t* parts = i->as<int64_t>();
  alignas(64) Wide a[32];
  memcpy(a, row<Wide>(w, i->a), sizeof a);  // a part may be the source itself
  for (size_t k = 0; k < sizeof(Wide) / sizeof(Part); ++k) {
    if (parts[k] < 0) continue;
    lanes(w, row<Part>(w, static_cast<int32_t>(parts[k])), [k](Wide x) { return static_cast<Part>(x >> (8 * sizeof(Part) * k)); }, a);
  }
  return i + 1;
}
uint64_t clock_of(Warp& w) {
  static std::atomic<uint64_t> ticks{0};
  (void)w;
  return ticks += 16;
}
const Ins* op_clock(Warp& w, const Ins* i) {
  const uint64_t now = 1000 + clock_of(w);
  if (i->b == 4) lanes(w, row<uint32_t>(w, i->d), [now](uint32_t) { return static_cast<uint32_t>(now); }, row<uint32_t>(w, i->d));
  else lanes(w, row<uint64_t>(w, i->d), [now](uint64_t) { return now; }, row<uint64_t>(w, i->d));
  return i + 1;
}

template <class H>
Fn by_size(int n, H pick) {
  return n == 2 ? pick(uint16_t()) : n == 4 ? pick(uint32_t()) : n == 8 ? pick(uint64_t()) : nullptr;
}
Fn need(Decoder& d, Fn fn) {
  if (!fn) d.unsupported("type");
  return fn;
}

void decode_selp(Decoder& d) {
  const int n = size_of(d.take_type());
  const int32_t a = d.src(1, n), b = d.src(2, n), c = d.src_pred(d.op(3));
  d.emit(need(d, by_size(n, [](auto x) -> Fn { return op_selp<decltype(x)>; })), d.dst(0, n), a, b, c);
  d.count(kInteger, 1);
}
void decode_slct(Decoder& d) {
  d.take("ftz");
  const int n = size_of(d.take_type());
  const Ty c = d.take_type();
  const int32_t x = d.src(1, n), y = d.src(2, n), z = d.src(3, c);
  Fn fn = c == Ty::kF32 ? by_size(n, [](auto v) -> Fn { return op_slct<decltype(v), float>; })
                        : by_size(n, [](auto v) -> Fn { return op_slct<decltype(v), int32_t>; });
  d.emit(need(d, fn), d.dst(0, n), x, y, z);
  d.count(kInteger, 1);
}
void decode_mov(Decoder& d) {
  const Ty t = d.take_type();
  if (t == Ty::kPred) return d.emit(op_mov_pred, d.dst_pred(d.op(0)), d.src_pred(d.op(1)));
  const int n = size_of(t);
  const Operand &to = d.op(0), &from = d.op(1);
  auto list = [&](const Operand& v, int part, bool source) {
    auto& rows = d.program().tables.emplace_back();
    for (auto& e : v.elems) rows.push_back(e.kind == Operand::kSink ? -1 : source ? d.src(e, part) : d.dst(e, part));
    return reinterpret_cast<int64_t>(rows.data());
  };
  auto pick = [&](int part, bool pack) -> Fn {
    if (n == 4 && part == 2) return pack ? op_pack<uint32_t, uint16_t> : op_unpack<uint32_t, uint16_t>;
    if (n == 8 && part == 4) return pack ? op_pack<uint64_t, uint32_t> : op_unpack<uint64_t, uint32_t>;
    if (n == 8 && part == 2) return pack ? op_pack<uint64_t, uint16_t> : op_unpack<uint64_t, uint16_t>;
    d.unsupported("vector");
  };
  if (from.kind == Operand::kVector) {
    const int part = n / static_cast<int>(from.elems.size());
    const int64_t rows = list(from, part, true);
    d.emit(pick(part, true), d.dst(0, n), 0, 0, 0, rows);
  } else if (to.kind == Operand::kVector) {
    const int part = n / static_cast<int>(to.elems.size());
    const int32_t a = d.src(1, n);
    d.emit(pick(part, false), 0, a, 0, 0, list(to, part, false));
  } else if (from.kind == Operand::kSpecial && (from.name.substr(0, 6) == "%clock" || from.name.substr(0, 12) == "%globaltimer")) {
    d.emit(op_clock, d.dst(0, n), 0, n);
  } else {
    const int32_t a = d.src(1, t);
    d.emit(need(d, by_size(n, [](auto x) -> Fn { return op_mov<decltype(x)>; })), d.dst(0, n), a);
  }
}

}  // namespace

void move_rules(Rules& r) {
  r.any["selp"] = decode_selp;
  r.any["slct"] = decode_slct;
  r.any["mov"] = decode_mov;
}

}  // namespace exe
