// Bitwise operations, shifts and bit fields.
#include <algorithm>

#include "decode.h"

namespace exe {
namespace {

template <class T>
constexpr uint32_t kBits = sizeof(T) * 8;

struct And {
  template <class T>
  T operator()(T a, T b) const {
    return a & b;
  }
};
struct Or {
  template <class T>
  T operator()(T a, T b) const {
    return a | b;
  }
};
struct Xor {
  template <class T>
  T operator()(T a, T b) const {
    return a ^ b;
  }
};
// Shifts by the width or more give 0, or the sign.
struct Shl {
  template <class T>
  T operator()(T a, uint32_t n) const {
    return n >= kBits<T> ? T(0) : static_cast<T>(a << (n & (kBits<T> - 1)));
  }
};
struct Shr {
  template <class T>
  T operator()(T a, uint32_t n) const {
    if (std::is_signed_v<T>) return static_cast<T>(a >> std::min(n, kBits<T> - 1));
    return n >= kBits<T> ? T(0) : static_cast<T>(a >> (n & (kBits<T> - 1)));
  }
};

template <class T, class F>
const Ins* binary(Warp& w, const Ins* i) {
  lanes(w, row<T>(w, i->d), F{}, row<T>(w, i->a), row<T>(w, i->b));
  return i + 1;
}
template <class T, class F>
const Ins* shift(Warp& w, const Ins* i) {
  lanes(w, row<T>(w, i->d), F{}, row<T>(w, i->a), row<uint32_t>(w, i->b));
  return i + 1;
}
template <class F>
const Ins* binary_pred(Warp& w, const Ins* i) {
  set_pred(w, i->d, F{}(pred(w, i->a), pred(w, i->b)));
  return i + 1;
}
template <class T>
const Ins* op_not(Warp& w, const Ins* i) {
  lanes(w, row<T>(w, i->d), [](T a) { return static_cast<T>(~a); }, row<T>(w, i->a));
  return i + 1;
}
template <class T>
const Ins* op_cnot(Warp& w, const Ins* i) {
  lanes(w, row<T>(w, i->d), [](T a) { return static_cast<T>(a == 0); }, row<T>(w, i->a));
  return i + 1;
}
const Ins* op_not_masked(Warp& w, const Ins* i) {
  set_pred(w, i->d, ~pred(w, i->a));
  return i + 1;
}
template <class T>
const Ins* op_popc(Warp& w, const Ins* i) {
  lanes(w, row<uint32_t>(w, i->d), [](T a) { return static_cast<uint32_t>(__builtin_popcountll(a)); }, row<T>(w, i->a));
  return i + 1;
}
template <class T>
const Ins* op_clz(Warp& w, const Ins* i) {
  lanes(
      w, row<uint32_t>(w, i->d), [](T a) { return static_cast<uint32_t>(a ? __builtin_clzll(a) - (64 - int(kBits<T>)) : int(kBits<T>)); },
      row<T>(w, i->a));
  return i + 1;
}
template <class T, bool kAmount>
const Ins* op_bfind(Warp& w, const Ins* i) {
  lanes(
      w, row<uint32_t>(w, i->d),
      [](T a) {
        if (std::is_signed_v<T> && a < 0) a = ~a;
        const uint64_t u = static_cast<std::make_unsigned_t<T>>(a);
        if (!u) return 0xffffffffu;
        const uint32_t n = 63 - __builtin_clzll(u);
        return kAmount ? kBits<T> - 1 - n : n;
      },
      row<T>(w, i->a));
  return i + 1;
}
template <class T>
const Ins* op_brev(Warp& w, const Ins* i) {
  lanes(
      w, row<T>(w, i->d),
      [](T a) {
        T r = 0;
        for (uint32_t k = 0; k < kBits<T>; ++k) r |= (a >> k & 1) << (kBits<T> - 1 - k);
        return r;
      },
      row<T>(w, i->a));
  return i + 1;
}
template <class T>
const Ins* op_bfe(Warp& w, const Ins* i) {
  lanes(
      w, row<T>(w, i->d),
      [](T a, uint32_t pos, uint32_t len) {
        pos &= 255, len &= 255;
        using U = std::make_unsigned_t<T>;
        const uint32_t msb = kBits<T> - 1;
        const bool sign = std::is_signed_v<T> && len && (a >> std::min(pos + len - 1, msb) & 1);
        U r = pos > msb ? 0 : static_cast<U>(U(a) >> pos);
        // bits from len on, and those shifted in from beyond the end, are the sign
        const uint32_t valid = std::min(len, pos > msb ? 0u : kBits<T> - pos);
        const U keep = valid >= kBits<T> ? ~U(0) : (U(1) << valid) - 1;
        return static_cast<T>((r & keep) | (sign ? ~keep : 0));
      },
      row<T>(w, i->a), row<uint32_t>(w, i->b), row<uint32_t>(w, i->c));
  return i + 1;
}
template <class T>
const Ins* op_bfi(Warp& w, const Ins* i) {
  const int32_t len = static_cast<int32_t>(i->imm);
  lanes(
      w, row<T>(w, i->d),
      [](T a, T b, uint32_t pos, uint32_t n) {
        pos &= 255, n &= 255;
        if (pos >= kBits<T>) return b;
        const T field = (n >= kBits<T> ? ~T(0) : (T(1) << n) - 1) << pos;
        return static_cast<T>((b & ~field) | ((a << pos) & field));
      },
      row<T>(w, i->a), row<T>(w, i->b), row<uint32_t>(w, i->c), row<uint32_t>(w, len));
  return i + 1;
}
// imm: the mode
const Ins* op_prmt(Warp& w, const Ins* i) {
  const int mode = static_cast<int>(i->imm);
  lanes(
      w, row<uint32_t>(w, i->d),
      [mode](uint32_t a, uint32_t b, uint32_t c) {
        const uint64_t bytes = a | uint64_t(b) << 32;
        uint32_t r = 0;
        for (uint32_t k = 0; k < 4; ++k) {
          const uint32_t s = c & 3;
          uint32_t sel = 0;
          switch (mode) {
            case 0: sel = c >> 4 * k & 15; break;
            case 1: sel = (s + k) & 7; break;      // f4e
            case 2: sel = (s - k) & 7; break;      // b4e
            case 3: sel = s; break;                // rc8
            case 4: sel = std::max(k, s); break;   // ecl
            case 5: sel = std::min(k, s); break;   // ecr
            default: sel = (s & 1) * 2 + (k & 1);  // rc16
          }
          uint32_t v = bytes >> 8 * (sel & 7) & 255;
          if (sel & 8) v = (v & 128) ? 255 : 0;
          r |= v << 8 * k;
        }
        return r;
      },
      row<uint32_t>(w, i->a), row<uint32_t>(w, i->b), row<uint32_t>(w, i->c));
  return i + 1;
}
// imm: bit 0: right, bit 1: wraps
const Ins* op_shf(Warp& w, const Ins* i) {
  const int f = static_cast<int>(i->imm);
  lanes(
      w, row<uint32_t>(w, i->d),
      [f](uint32_t a, uint32_t b, uint32_t c) {
        const uint32_t n = (f & 2) ? c & 31 : std::min(c, 32u);
        const uint64_t x = a | uint64_t(b) << 32;
        return static_cast<uint32_t>((f & 1) ? x >> n : x << n >> 32);
      },
      row<uint32_t>(w, i->a), row<uint32_t>(w, i->b), row<uint32_t>(w, i->c));
  return i + 1;
}
const Ins* op_lop3(Warp& w, const Ins* i) {
  uint32_t k[8];
  for (int j = 0; j < 8; ++j) k[j] = (i->imm >> j & 1) ? ~0u : 0u;
  lanes(
      w, row<uint32_t>(w, i->d),
      [&k](uint32_t a, uint32_t b, uint32_t c) {
        return (~a & ~b & ~c & k[0]) | (~a & ~b & c & k[1]) | (~a & b & ~c & k[2]) | (~a & b & c & k[3]) | (a & ~b & ~c & k[4]) |
               (a & ~b & c & k[5]) | (a & b & ~c & k[6]) | (a & b & c & k[7]);
      },
      row<uint32_t>(w, i->a), row<uint32_t>(w, i->b), row<uint32_t>(w, i->c));
  return i + 1;
}
// As lop3, then d|p = (result != 0) op q: imm bit 8: and (else or), p: imm >> 16, q: imm >> 40
const Ins* op_lop3_bool(Warp& w, const Ins* i) {
  op_lop3(w, i);
  const uint32_t some = bits_of([](uint32_t x) { return x != 0; }, row<uint32_t>(w, i->d));
  const uint32_t q = pred(w, static_cast<int32_t>(i->imm >> 40));
  set_pred(w, static_cast<int32_t>(i->imm >> 16 & 0xffffff), (i->imm & 256) ? some & q : some | q);
  return i + 1;
}
// imm: wraps (else clamps)
const Ins* op_bmsk(Warp& w, const Ins* i) {
  const bool wrap = i->imm;
  lanes(
      w, row<uint32_t>(w, i->d),
      [wrap](uint32_t a, uint32_t b) {
        if (wrap) a &= 31, b &= 31;
        return a >= 32 || b == 0 ? 0u : (b >= 32 ? ~0u : (1u << b) - 1) << a;
      },
      row<uint32_t>(w, i->a), row<uint32_t>(w, i->b));
  return i + 1;
}
// imm: bit 0: wraps, bit 1: signed
const Ins* op_szext(Warp& w, const Ins* i) {
  const int f = static_cast<int>(i->imm);
  lanes(
      w, row<uint32_t>(w, i->d),
      [f](uint32_t a, uint32_t n) {
        n = (f & 1) ? n & 31 : std::min(n, 32u);
        if (n == 32) return a;
        const uint32_t low = a & ((1u << n) - 1);
        return (f & 2) && n && (a >> (n - 1) & 1) ? low | ~((1u << n) - 1) : low;
      },
      row<uint32_t>(w, i->a), row<uint32_t>(w, i->b));
  return i + 1;
}
const Ins* op_fns(Warp& w, const Ins* i) {
  lanes_slow(
      w, row<uint32_t>(w, i->d),
      [](uint32_t mask, uint32_t base, int32_t offset) -> uint32_t {
        if (offset == 0) return (base < 32 && (mask >> base & 1)) ? base : ~0u;
        const int step = offset > 0 ? 1 : -1;
        int n = std::abs(offset);
        for (int p = static_cast<int>(base); p >= 0 && p < 32; p += step)
          if ((mask >> p & 1) && --n == 0) return p;
        return ~0u;
      },
      row<uint32_t>(w, i->a), row<uint32_t>(w, i->b), row<int32_t>(w, i->c));
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

template <class F>
void decode_logic(Decoder& d) {
  const Ty t = d.take_type();
  if (t == Ty::kPred) {
    const int32_t a = d.src_pred(d.op(1)), b = d.src_pred(d.op(2));
    d.emit(binary_pred<F>, d.dst_pred(d.op(0)), a, b);
  } else {
    const int n = size_of(t);
    const int32_t a = d.src(1, n), b = d.src(2, n);
    d.emit(need(d, by_size(n, [](auto x) -> Fn { return binary<decltype(x), F>; })), d.dst(0, n), a, b);
  }
  d.count(kInteger, 1);
}
void decode_not(Decoder& d) {
  const Ty t = d.take_type();
  if (t == Ty::kPred) return d.emit(op_not_masked, d.dst_pred(d.op(0)), d.src_pred(d.op(1)));
  const int n = size_of(t);
  const int32_t a = d.src(1, n);
  d.emit(need(d, d.stmt().op == "not" ? by_size(n, [](auto x) -> Fn { return op_not<decltype(x)>; })
                                      : by_size(n, [](auto x) -> Fn { return op_cnot<decltype(x)>; })),
         d.dst(0, n), a);
  d.count(kInteger, 1);
}
void decode_shift(Decoder& d) {
  const bool left = d.stmt().op == "shl";
  const Ty t = d.take_type();
  const int n = size_of(t);
  const int32_t a = d.src(1, n), b = d.src(2, 4);
  Fn fn = left           ? by_size(n, [](auto x) -> Fn { return shift<decltype(x), Shl>; })
          : is_signed(t) ? by_size(n, [](auto x) -> Fn { return shift<std::make_signed_t<decltype(x)>, Shr>; })
                         : by_size(n, [](auto x) -> Fn { return shift<decltype(x), Shr>; });
  d.emit(need(d, fn), d.dst(0, n), a, b);
  d.count(kInteger, 1);
}
void decode_count(Decoder& d) {
  const Ty t = d.take_type();
  const int n = size_of(t);
  const int32_t a = d.src(1, n);
  Fn fn = d.stmt().op == "popc" ? (n == 4   ? Fn(op_popc<uint32_t>)
                                   : n == 8 ? Fn(op_popc<uint64_t>)
                                            : nullptr)
                                : (n == 4   ? Fn(op_clz<uint32_t>)
                                   : n == 8 ? Fn(op_clz<uint64_t>)
                                            : nullptr);
  d.emit(need(d, fn), d.dst(0, 4), a);
  d.count(kInteger, 1);
}
void decode_bfind(Decoder& d) {
  const bool amount = d.take("shiftamt");
  const Ty t = d.take_type();
  const int32_t a = d.src(1, size_of(t));
  Fn fn = nullptr;
  if (t == Ty::kU32) fn = amount ? op_bfind<uint32_t, true> : op_bfind<uint32_t, false>;
  if (t == Ty::kS32) fn = amount ? op_bfind<int32_t, true> : op_bfind<int32_t, false>;
  if (t == Ty::kU64) fn = amount ? op_bfind<uint64_t, true> : op_bfind<uint64_t, false>;
  if (t == Ty::kS64) fn = amount ? op_bfind<int64_t, true> : op_bfind<int64_t, false>;
  d.emit(need(d, fn), d.dst(0, 4), a);
  d.count(kInteger, 1);
}
void decode_brev(Decoder& d) {
  const int n = size_of(d.take_type());
  const int32_t a = d.src(1, n);
  d.emit(need(d, n == 4 ? Fn(op_brev<uint32_t>) : n == 8 ? Fn(op_brev<uint64_t>) : nullptr), d.dst(0, n), a);
  d.count(kInteger, 1);
}
void decode_bfe(Decoder& d) {
  const Ty t = d.take_type();
  const int n = size_of(t);
  const int32_t a = d.src(1, n), b = d.src(2, 4), c = d.src(3, 4);
  Fn fn = t == Ty::kU32   ? Fn(op_bfe<uint32_t>)
          : t == Ty::kS32 ? Fn(op_bfe<int32_t>)
          : t == Ty::kU64 ? Fn(op_bfe<uint64_t>)
          : t == Ty::kS64 ? Fn(op_bfe<int64_t>)
                          : nullptr;
  d.emit(need(d, fn), d.dst(0, n), a, b, c);
  d.count(kInteger, 1);
}
void decode_bfi(Decoder& d) {
  const int n = size_of(d.take_type());
  const int32_t a = d.src(1, n), b = d.src(2, n), c = d.src(3, 4), len = d.src(4, 4);
  d.emit(need(d, n == 4 ? Fn(op_bfi<uint32_t>) : n == 8 ? Fn(op_bfi<uint64_t>) : nullptr), d.dst(0, n), a, b, c, len);
  d.count(kInteger, 1);
}
void decode_prmt(Decoder& d) {
  d.take_type();
  const sv mode = d.take_any({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"});
  const int m = mode.empty() ? 0 : mode == "f4e" ? 1 : mode == "b4e" ? 2 : mode == "rc8" ? 3 : mode == "ecl" ? 4 : mode == "ecr" ? 5 : 6;
  const int32_t a = d.src(1, 4), b = d.src(2, 4), c = d.src(3, 4);
  d.emit(op_prmt, d.dst(0, 4), a, b, c, m);
  d.count(kInteger, 1);
}
void decode_shf(Decoder& d) {
  const bool right = d.take_any({"l", "r"}) == "r", wrap = d.take_any({"clamp", "wrap"}) == "wrap";
  d.take_type();
  const int32_t a = d.src(1, 4), b = d.src(2, 4), c = d.src(3, 4);
  d.emit(op_shf, d.dst(0, 4), a, b, c, right | wrap << 1);
  d.count(kInteger, 1);
}
void decode_lop3(Decoder& d) {
  const sv boolean = d.take_any({"and", "or"});
  d.take_type();
  const int32_t a = d.src(1, 4), b = d.src(2, 4), c = d.src(3, 4);
  int64_t imm = d.op(4).bits & 255;
  if (!boolean.empty()) {
    Operand p;
    p.kind = Operand::kReg, p.reg = d.op(0).reg2;
    const int64_t q = d.src_pred(d.op(5)), to = d.dst_pred(p);
    imm |= (boolean == "and") << 8 | to << 16 | q << 40;
  }
  d.emit(boolean.empty() ? op_lop3 : op_lop3_bool, d.dst(0, 4), a, b, c, imm);
  d.count(kInteger, 1);
}
void decode_mask(Decoder& d) {  // bmsk, szext
  const bool wrap = d.take_any({"wrap", "clamp"}) == "wrap", mask = d.stmt().op == "bmsk";
  const bool sign = is_signed(d.take_type());
  const int32_t a = d.src(1, 4), b = d.src(2, 4);
  d.emit(mask ? op_bmsk : op_szext, d.dst(0, 4), a, b, 0, mask ? wrap : wrap | sign << 1);
  d.count(kInteger, 1);
}
void decode_fns(Decoder& d) {
  d.take_type();
  const int32_t a = d.src(1, 4), b = d.src(2, 4), c = d.src(3, 4);
  d.emit(op_fns, d.dst(0, 4), a, b, c);
  d.count(kInteger, 1);
}

}  // namespace

void bit_rules(Rules& r) {
  r.any["and"] = decode_logic<And>;
  r.any["or"] = decode_logic<Or>;
  r.any["xor"] = decode_logic<Xor>;
  r.any["not"] = r.any["cnot"] = decode_not;
  r.any["shl"] = r.any["shr"] = decode_shift;
  r.any["popc"] = r.any["clz"] = decode_count;
  r.any["bfind"] = decode_bfind;
  r.any["brev"] = decode_brev;
  r.any["bfe"] = decode_bfe;
  r.any["bfi"] = decode_bfi;
  r.any["prmt"] = decode_prmt;
  r.any["shf"] = decode_shf;
  r.any["lop3"] = decode_lop3;
  r.any["bmsk"] = r.any["szext"] = decode_mask;
  r.any["fns"] = decode_fns;
}

}  // namespace exe
