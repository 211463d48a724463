// Integer arithmetic, carry chains included.
#include <algorithm>
#include <limits>

#include "decode.h"
#include "numeric.h"

namespace exe {
namespace {

template <class T>
struct Wider;
template <>
struct Wider<int16_t> {
  using type = int32_t;
};
template <>
struct Wider<uint16_t> {
  using type = uint32_t;
};
template <>
struct Wider<int32_t> {
  using type = int64_t;
};
template <>
struct Wider<uint32_t> {
  using type = uint64_t;
};
template <>
struct Wider<int64_t> {
  using type = __int128;
};
template <>
struct Wider<uint64_t> {
  using type = unsigned __int128;
};
template <class T>
using Wide = typename Wider<T>::type;
template <class T>
constexpr int kBits = sizeof(T) * 8;
template <class T>
using Un = std::make_unsigned_t<T>;

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(Un<T>(a) + Un<T>(b));
  }
};
struct Sub {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(Un<T>(a) - Un<T>(b));
  }
};
struct MulLo {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(uint64_t(Un<T>(a)) * uint64_t(Un<T>(b)));
  }
};
struct MulHi {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>((Wide<T>(a) * Wide<T>(b)) >> kBits<T>);
  }
};
// A divisor of 0 gives all ones, and the dividend as the remainder; the most negative number by -1 wraps.
struct Div {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) return static_cast<T>(-1);
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return static_cast<T>(0 - Un<T>(a));
    return static_cast<T>(a / b);
  }
};
struct Rem {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) return a;
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
    return static_cast<T>(a % b);
  }
};
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
struct Abs {
  template <class T>
  T operator()(T a) const {
    return a < 0 ? static_cast<T>(0 - Un<T>(a)) : a;
  }
};
struct Neg {
  template <class T>
  T operator()(T a) const {
    return static_cast<T>(0 - Un<T>(a));
  }
};
struct AddSat {
  int32_t operator()(int32_t a, int32_t b) const { return static_cast<int32_t>(std::clamp<int64_t>(int64_t(a) + b, INT32_MIN, INT32_MAX)); }
};
struct SubSat {
  int32_t operator()(int32_t a, int32_t b) const { return static_cast<int32_t>(std::clamp<int64_t>(int64_t(a) - b, INT32_MIN, INT32_MAX)); }
};
template <class F>
struct Halves {  // f on each 16-bit half
  template <class T>
  T operator()(T a, T b) const {
    using H = std::conditional_t<std::is_signed_v<T>, int16_t, uint16_t>;
    F f;
    const uint32_t lo = uint16_t(f(H(a), H(b))), hi = uint16_t(f(H(uint32_t(a) >> 16), H(uint32_t(b) >> 16)));
    return static_cast<T>(lo | hi << 16);
  }
};
template <class T>
int64_t low24(T a) {
  return std::is_signed_v<T> ? int64_t(int32_t(uint32_t(a) << 8) >> 8) : int64_t(uint32_t(a) & 0xffffff);
}
struct Mul24Lo {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(low24(a) * low24(b));
  }
};
struct Mul24Hi {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>((low24(a) * low24(b)) >> 16);
  }
};
struct Sad {
  template <class T>
  T operator()(T a, T b, T c) const {
    return static_cast<T>(Un<T>(c) + (a < b ? Un<T>(b) - Un<T>(a) : Un<T>(a) - Un<T>(b)));
  }
};
template <class F>
struct Plus {  // f(a, b) + c
  template <class T>
  T operator()(T a, T b, T c) const {
    return static_cast<T>(Un<T>(F{}(a, b)) + Un<T>(c));
  }
};
struct MadHiSat {
  int32_t operator()(int32_t a, int32_t b, int32_t c) const { return AddSat{}(MulHi{}(a, b), c); }
};

template <class T, class F>
const Ins* unary(Warp& w, const Ins* i) {
  lanes(w, row<T>(w, i->d), F{}, row<T>(w, i->a));
  return i + 1;
}
template <class T, class F>
const Ins* binary(Warp& w, const Ins* i) {
  lanes(w, row<T>(w, i->d), F{}, row<T>(w, i->a), row<T>(w, i->b));
  return i + 1;
}
template <class T, class F>
const Ins* binary_slow(Warp& w, const Ins* i) {
  lanes_slow(w, row<T>(w, i->d), F{}, row<T>(w, i->a), row<T>(w, i->b));
  return i + 1;
}
template <class T, class F>
const Ins* ternary(Warp& w, const Ins* i) {
  lanes(w, row<T>(w, i->d), F{}, row<T>(w, i->a), row<T>(w, i->b), row<T>(w, i->c));
  return i + 1;
}
template <class T>
const Ins* mul_wide(Warp& w, const Ins* i) {
  lanes(w, row<Wide<T>>(w, i->d), [](T a, T b) { return static_cast<Wide<T>>(Wide<T>(a) * Wide<T>(b)); }, row<T>(w, i->a), row<T>(w, i->b));
  return i + 1;
}
template <class T>
const Ins* mad_wide(Warp& w, const Ins* i) {
  using U = Un<Wide<T>>;
  lanes(
      w, row<U>(w, i->d), [](T a, T b, U c) { return static_cast<U>(U(Wide<T>(a) * Wide<T>(b)) + c); }, row<T>(w, i->a), row<T>(w, i->b),
      row<U>(w, i->c));
  return i + 1;
}

// The handler for T chosen by the type: all sizes and signs.
#define EXE_PICK_INT(NAME, HANDLER)               \
  template <class F>                              \
  Fn NAME(Ty t) {                                 \
    switch (t) {                                  \
      case Ty::kU16:                              \
      case Ty::kB16: return HANDLER<uint16_t, F>; \
      case Ty::kS16: return HANDLER<int16_t, F>;  \
      case Ty::kU32:                              \
      case Ty::kB32: return HANDLER<uint32_t, F>; \
      case Ty::kS32: return HANDLER<int32_t, F>;  \
      case Ty::kU64:                              \
      case Ty::kB64: return HANDLER<uint64_t, F>; \
      case Ty::kS64: return HANDLER<int64_t, F>;  \
      default: return nullptr;                    \
    }                                             \
  }
EXE_PICK_INT(pick_binary, binary)
EXE_PICK_INT(pick_slow, binary_slow)
EXE_PICK_INT(pick_ternary, ternary)

// The unsigned type of the same size: for what does not depend on the sign.
Ty plain(Ty t) {
  switch (size_of(t)) {
    case 2: return Ty::kU16;
    case 4: return Ty::kU32;
    case 8: return Ty::kU64;
    default: return Ty::kNone;
  }
}
template <class F>
Fn pick_plain(Ty t) {
  return t == Ty::kU16   ? Fn(binary<uint16_t, F>)
         : t == Ty::kU32 ? Fn(binary<uint32_t, F>)
         : t == Ty::kU64 ? Fn(binary<uint64_t, F>)
                         : nullptr;
}
template <class F>
Fn pick_plain3(Ty t) {
  return t == Ty::kU16   ? Fn(ternary<uint16_t, F>)
         : t == Ty::kU32 ? Fn(ternary<uint32_t, F>)
         : t == Ty::kU64 ? Fn(ternary<uint64_t, F>)
                         : nullptr;
}

// Carry chains. imm bit 0: reads the carry, bit 1: writes it; c: the carry's predicate.
template <class T, bool kSubtract>
const Ins* add_carry(Warp& w, const Ins* i) {
  const T *a = row<T>(w, i->a), *b = row<T>(w, i->b);
  T* d = row<T>(w, i->d);
  const uint32_t in = (i->imm & 1) ? pred(w, i->c) : 0;
  uint32_t out = 0;
  for (uint32_t m = w.mask; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    const unsigned __int128 c = in >> l & 1;
    const unsigned __int128 r = kSubtract ? (unsigned __int128)a[l] - b[l] - c : (unsigned __int128)a[l] + b[l] + c;
    d[l] = static_cast<T>(r);
    out |= static_cast<uint32_t>(r >> kBits<T> & 1) << l;  // the borrow of a subtraction
  }
  if (i->imm & 2) set_pred(w, i->c, out);
  return i + 1;
}
// imm: as above, bit 2: the high half of the product, bit 3: signed; c: addend; the carry's predicate is imm >> 8.
template <class T>
const Ins* mad_carry(Warp& w, const Ins* i) {
  const T *a = row<T>(w, i->a), *b = row<T>(w, i->b), *c = row<T>(w, i->c);
  T* d = row<T>(w, i->d);
  const int32_t carry = static_cast<int32_t>(i->imm >> 8);
  const uint32_t in = (i->imm & 1) ? pred(w, carry) : 0;
  uint32_t out = 0;
  using S = std::make_signed_t<T>;
  for (uint32_t m = w.mask; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    const unsigned __int128 p =
        (i->imm & 8) ? static_cast<unsigned __int128>(static_cast<__int128>(S(a[l])) * S(b[l])) : (unsigned __int128)a[l] * b[l];
    const T half = static_cast<T>((i->imm & 4) ? p >> kBits<T> : p);
    const unsigned __int128 r = (unsigned __int128)half + c[l] + (in >> l & 1);
    d[l] = static_cast<T>(r);
    out |= static_cast<uint32_t>(r >> kBits<T> & 1) << l;
  }
  if (i->imm & 2) set_pred(w, carry, out);
  return i + 1;
}

void emit2(Decoder& d, Fn fn, Ty t) {
  if (!fn) d.unsupported("type");
  const int32_t a = d.src(1, size_of(t)), b = d.src(2, size_of(t));
  d.emit(fn, d.dst(0, size_of(t)), a, b);
  d.count(kInteger, 1);
}
void emit3(Decoder& d, Fn fn, Ty t) {
  if (!fn) d.unsupported("type");
  const int32_t a = d.src(1, size_of(t)), b = d.src(2, size_of(t)), c = d.src(3, size_of(t));
  d.emit(fn, d.dst(0, size_of(t)), a, b, c);
  d.count(kInteger, 1);
}

template <bool kSubtract>
void decode_add(Decoder& d) {
  const sv op = d.stmt().op;
  const bool in = op == "addc" || op == "subc", out = d.take("cc"), sat = d.take("sat");
  const Ty t = d.take_type();
  const int n = size_of(t);
  if (in || out) {
    Fn fn = n == 4 ? Fn(add_carry<uint32_t, kSubtract>) : n == 8 ? Fn(add_carry<uint64_t, kSubtract>) : nullptr;
    if (!fn) d.unsupported("type");
    const int32_t a = d.src(1, n), b = d.src(2, n);
    d.emit(fn, d.dst(0, n), a, b, d.carry(), in | out << 1);
    return d.count(kInteger, 1);
  }
  if (sat) {
    if (t != Ty::kS32) d.unsupported("type");
    return emit2(d, binary<int32_t, std::conditional_t<kSubtract, SubSat, AddSat>>, t);
  }
  using F = std::conditional_t<kSubtract, Sub, Add>;
  if (t == Ty::kU16x2 || t == Ty::kS16x2) return emit2(d, binary<uint32_t, Halves<F>>, t);
  emit2(d, pick_plain<F>(plain(t)), t);
}

void decode_mul(Decoder& d) {
  const sv part = d.take_any({"lo", "hi", "wide"});
  const Ty t = d.take_type();
  const int n = size_of(t);
  if (part == "wide") {
    Fn fn = t == Ty::kU16   ? Fn(mul_wide<uint16_t>)
            : t == Ty::kS16 ? Fn(mul_wide<int16_t>)
            : t == Ty::kU32 ? Fn(mul_wide<uint32_t>)
            : t == Ty::kS32 ? Fn(mul_wide<int32_t>)
                            : nullptr;
    if (!fn) d.unsupported("type");
    const int32_t a = d.src(1, n), b = d.src(2, n);
    d.emit(fn, d.dst(0, 2 * n), a, b);
    return d.count(kInteger, 1);
  }
  emit2(d, part == "hi" ? pick_binary<MulHi>(t) : pick_plain<MulLo>(plain(t)), t);
}

void decode_mad(Decoder& d) {
  const sv op = d.stmt().op;
  const sv part = d.take_any({"lo", "hi", "wide"});
  const bool in = op == "madc", out = d.take("cc"), sat = d.take("sat");
  const Ty t = d.take_type();
  const int n = size_of(t);
  if (in || out) {
    Fn fn = n == 4 ? Fn(mad_carry<uint32_t>) : n == 8 ? Fn(mad_carry<uint64_t>) : nullptr;
    if (!fn || part == "wide") d.unsupported("type");
    const int32_t a = d.src(1, n), b = d.src(2, n), c = d.src(3, n);
    d.emit(fn, d.dst(0, n), a, b, c, in | out << 1 | (part == "hi") << 2 | is_signed(t) << 3 | int64_t(d.carry()) << 8);
    return d.count(kInteger, 1);
  }
  if (part == "wide") {
    Fn fn = t == Ty::kU16   ? Fn(mad_wide<uint16_t>)
            : t == Ty::kS16 ? Fn(mad_wide<int16_t>)
            : t == Ty::kU32 ? Fn(mad_wide<uint32_t>)
            : t == Ty::kS32 ? Fn(mad_wide<int32_t>)
                            : nullptr;
    if (!fn) d.unsupported("type");
    const int32_t a = d.src(1, n), b = d.src(2, n), c = d.src(3, 2 * n);
    d.emit(fn, d.dst(0, 2 * n), a, b, c);
    return d.count(kInteger, 1);
  }
  if (sat) {
    if (t != Ty::kS32 || part != "hi") d.unsupported("saturation");
    return emit3(d, ternary<int32_t, MadHiSat>, t);
  }
  emit3(d, part == "hi" ? pick_ternary<Plus<MulHi>>(t) : pick_plain3<Plus<MulLo>>(plain(t)), t);
}

void decode_mul24(Decoder& d) {
  const bool hi = d.take_any({"lo", "hi"}) == "hi", mad = d.stmt().op == "mad24";
  const Ty t = d.take_type();
  if (t != Ty::kU32 && t != Ty::kS32) d.unsupported("type");
  const bool s = t == Ty::kS32;
  if (mad) {
    emit3(d,
          hi ? (s ? Fn(ternary<int32_t, Plus<Mul24Hi>>) : Fn(ternary<uint32_t, Plus<Mul24Hi>>))
             : (s ? Fn(ternary<int32_t, Plus<Mul24Lo>>) : Fn(ternary<uint32_t, Plus<Mul24Lo>>)),
          t);
  } else {
    emit2(d,
          hi ? (s ? Fn(binary<int32_t, Mul24Hi>) : Fn(binary<uint32_t, Mul24Hi>))
             : (s ? Fn(binary<int32_t, Mul24Lo>) : Fn(binary<uint32_t, Mul24Lo>)),
          t);
  }
}

template <class F>
void decode_slow(Decoder& d) {
  const Ty t = d.take_type();
  emit2(d, pick_slow<F>(t), t);
}
template <class F>
void decode_minmax(Decoder& d) {
  const bool relu = d.take("relu");
  const Ty t = d.take_type();
  if (relu) d.unsupported("relu");
  if (t == Ty::kU16x2) return emit2(d, binary<uint32_t, Halves<F>>, t);
  if (t == Ty::kS16x2) return emit2(d, binary<int32_t, Halves<F>>, t);
  emit2(d, pick_binary<F>(t), t);
}
template <class F>
void decode_unary(Decoder& d) {
  const Ty t = d.take_type();
  Fn fn = t == Ty::kS16 ? Fn(unary<int16_t, F>) : t == Ty::kS32 ? Fn(unary<int32_t, F>) : t == Ty::kS64 ? Fn(unary<int64_t, F>) : nullptr;
  if (!fn) d.unsupported("type");
  const int32_t a = d.src(1, size_of(t));
  d.emit(fn, d.dst(0, size_of(t)), a);
  d.count(kInteger, 1);
}
void decode_sad(Decoder& d) {
  const Ty t = d.take_type();
  emit3(d, pick_ternary<Sad>(t), t);
}

// dp4a, dp2a: imm bit 0: a signed, bit 1: b signed, bit 2: the high half of b (dp2a)
const Ins* op_dp4a(Warp& w, const Ins* i) {
  const int f = static_cast<int>(i->imm);
  lanes(
      w, row<uint32_t>(w, i->d),
      [f](uint32_t a, uint32_t b, uint32_t c) {
        for (int k = 0; k < 4; ++k) {
          const int x = (f & 1) ? int8_t(a >> 8 * k) : uint8_t(a >> 8 * k), y = (f & 2) ? int8_t(b >> 8 * k) : uint8_t(b >> 8 * k);
          c += static_cast<uint32_t>(x * y);
        }
        return c;
      },
      row<uint32_t>(w, i->a), row<uint32_t>(w, i->b), row<uint32_t>(w, i->c));
  return i + 1;
}
const Ins* op_dp2a(Warp& w, const Ins* i) {
  const int f = static_cast<int>(i->imm);
  lanes(
      w, row<uint32_t>(w, i->d),
      [f](uint32_t a, uint32_t b, uint32_t c) {
        if (f & 4) b >>= 16;
        for (int k = 0; k < 2; ++k) {
          const int x = (f & 1) ? int16_t(a >> 16 * k) : uint16_t(a >> 16 * k), y = (f & 2) ? int8_t(b >> 8 * k) : uint8_t(b >> 8 * k);
          c += static_cast<uint32_t>(x) * static_cast<uint32_t>(y);
        }
        return c;
      },
      row<uint32_t>(w, i->a), row<uint32_t>(w, i->b), row<uint32_t>(w, i->c));
  return i + 1;
}
void decode_dp(Decoder& d) {
  const bool four = d.stmt().op == "dp4a";
  const bool hi = !four && d.take_any({"lo", "hi"}) == "hi";
  const bool x = is_signed(d.take_type()), y = is_signed(d.take_type());
  const int32_t a = d.src(1, 4), b = d.src(2, 4), c = d.src(3, 4);
  d.emit(four ? op_dp4a : op_dp2a, d.dst(0, 4), a, b, c, x | y << 1 | hi << 2);
  d.count(kInteger, four ? 8 : 4);
}

}  // namespace

void integer_rules(Rules& r) {
  r.integer["add"] = r.integer["addc"] = decode_add<false>;
  r.integer["sub"] = r.integer["subc"] = decode_add<true>;
  r.integer["mul"] = decode_mul;
  r.integer["mad"] = r.integer["madc"] = decode_mad;
  r.integer["mul24"] = r.integer["mad24"] = decode_mul24;
  r.integer["div"] = decode_slow<Div>;
  r.integer["rem"] = decode_slow<Rem>;
  r.integer["min"] = decode_minmax<Min>;
  r.integer["max"] = decode_minmax<Max>;
  r.integer["abs"] = decode_unary<Abs>;
  r.integer["neg"] = decode_unary<Neg>;
  r.integer["sad"] = decode_sad;
  r.any["dp4a"] = r.any["dp2a"] = decode_dp;
}

}  // namespace exe
