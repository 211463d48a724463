// cvt, and the moves between address spaces.
#include <algorithm>
#include <cfenv>

#include "decode.h"
#include "numeric.h"

namespace exe {
namespace {

// A conversion in full; what is common has a handler of its own.
struct Conversion {
  Ty to, from;
  int to_width, from_width;  // of the registers, which may be wider than the types
  bool integral = false;     // rounds to an integer
  Rounding rounding = kNearest;
  bool ftz = false, sat = false, relu = false, satfinite = false;
};

bool real(Ty t) { return t == Ty::kF16 || t == Ty::kBF16 || t == Ty::kF32 || t == Ty::kF64 || t == Ty::kTF32; }

uint64_t load(const char* r, int width, int lane) {
  uint64_t v = 0;
  memcpy(&v, r + lane * width, width);
  return v;
}
template <class T>
T load_as(uint64_t v) {
  T t;
  memcpy(&t, &v, sizeof t);
  return t;
}
int64_t extend(uint64_t v, Ty t) {
  switch (t) {
    case Ty::kS8: return static_cast<int8_t>(v);
    case Ty::kS16: return static_cast<int16_t>(v);
    case Ty::kS32: return static_cast<int32_t>(v);
    case Ty::kU8:
    case Ty::kB8: return static_cast<uint8_t>(v);
    case Ty::kU16:
    case Ty::kB16: return static_cast<uint16_t>(v);
    case Ty::kU32:
    case Ty::kB32: return static_cast<uint32_t>(v);
    default: return static_cast<int64_t>(v);
  }
}
double load_real(uint64_t v, Ty t) {
  switch (t) {
    case Ty::kF16: return widen(load_as<f16>(v));
    case Ty::kBF16: return widen(load_as<bf16>(v));
    case Ty::kF64: return load_as<double>(v);
    default: return load_as<float>(v);
  }
}
double integral(double v, Rounding r) {
  return r == kZero ? std::trunc(v) : r == kDown ? std::floor(v) : r == kUp ? std::ceil(v) : std::nearbyint(v);
}
uint64_t real_to_int(double v, const Conversion& c) {
  const int n = size_of(c.to) * 8;
  if (v != v) return c.from != Ty::kF64 && n < 64 ? 0 : 1ull << (n - 1);
  v = integral(v, c.rounding);
  if (is_signed(c.to)) {
    const double lo = -std::ldexp(1.0, n - 1), hi = std::ldexp(1.0, n - 1);
    if (v < lo) return 1ull << (n - 1);
    if (v >= hi) return (1ull << (n - 1)) - 1;
    return static_cast<uint64_t>(static_cast<int64_t>(v));
  }
  if (v < 0) return 0;
  if (v >= std::ldexp(1.0, n)) return n == 64 ? ~0ull : (1ull << n) - 1;
  return static_cast<uint64_t>(v);
}
// An integer as a double whose last bit is sticky: rounding it to at most 51 bits is rounding the integer.
double int_to_odd(uint64_t v, bool sign) {
  const bool neg = sign && static_cast<int64_t>(v) < 0;
  uint64_t m = neg ? 0 - v : v;
  const int drop = m >> 53 ? 11 - __builtin_clzll(m) : 0;
  if (drop > 0) m = (m >> drop | ((m & ((1ull << drop) - 1)) != 0)) << drop;
  const double d = static_cast<double>(m);
  return neg ? -d : d;
}
uint64_t store_real(double v, const Conversion& c) {
  if (c.integral) v = integral(v, c.rounding);
  const Rounding mode = c.integral ? kNearest : c.rounding;
  if (c.sat) v = v > 0 ? std::min(v, 1.0) : 0.0;
  if (c.relu && v < 0) v = 0;
  uint64_t r = 0;
  auto put = [&r](auto x) { memcpy(&r, &x, sizeof x); };
  switch (c.to) {
    case Ty::kF64: put(canon(v)); break;
    case Ty::kF32: {
      float f = static_cast<float>(mode == kNearest ? v : round_to(v, 23, -126, 127, mode));
      put(canon(c.ftz ? flush(f) : f));
      break;
    }
    case Ty::kTF32: {
      double y = v;
      if (mode == kNearestAway || mode == kNearest || mode == kZero) y = round_to(v, 10, -126, 127, mode);
      if (c.satfinite && std::isinf(y)) y = std::copysign(std::ldexp(2.0 - std::ldexp(1.0, -10), 127), y);
      put(canon(static_cast<float>(y)));
      break;
    }
    case Ty::kF16: {
      f16 h = mode == kNearest ? narrow<f16>(v) : narrow<f16>(round_to(v, 10, -14, 15, mode));
      if (c.satfinite && (h.v & 0x7fff) == 0x7c00) --h.v;
      put(h);
      break;
    }
    default: {
      bf16 h = mode == kNearest ? narrow<bf16>(v) : narrow<bf16>(round_to(v, 7, -126, 127, mode));
      if (c.satfinite && (h.v & 0x7fff) == 0x7f80) --h.v;
      put(h);
    }
  }
  return r;
}
uint64_t convert(uint64_t v, const Conversion& c) {
  const bool from_real = real(c.from), to_real = real(c.to);
  if (from_real) {
    double x = load_real(v, c.from);
    if (c.ftz && c.from == Ty::kF32) x = flush(static_cast<float>(x));
    if (to_real) return store_real(x, c);
    return static_cast<uint64_t>(extend(real_to_int(x, c), c.to));
  }
  const int64_t x = extend(v, c.from);
  const bool negative = is_signed(c.from) && x < 0;
  if (to_real) {
    if (c.to == Ty::kF64) {
      const int saved = fegetround();
      if (c.rounding != kNearest) fesetround(c.rounding == kZero ? FE_TOWARDZERO : c.rounding == kDown ? FE_DOWNWARD : FE_UPWARD);
      volatile double d = is_signed(c.from) ? static_cast<double>(x) : static_cast<double>(static_cast<uint64_t>(x));
      if (c.rounding != kNearest) fesetround(saved);
      return bits<uint64_t>(static_cast<double>(d));
    }
    return store_real(int_to_odd(static_cast<uint64_t>(x), is_signed(c.from)), c);
  }
  if (!c.sat) return static_cast<uint64_t>(extend(static_cast<uint64_t>(x), c.to));
  const int n = size_of(c.to) * 8;
  const uint64_t u = static_cast<uint64_t>(x);
  if (is_signed(c.to)) {
    const uint64_t hi = (1ull << (n - 1)) - 1;
    if (negative) return x < -static_cast<int64_t>(hi) - 1 ? ~hi : u;
    return u > hi ? hi : u;
  }
  const uint64_t hi = n == 64 ? ~0ull : (1ull << n) - 1;
  return negative ? 0 : std::min(u, hi);
}

const Ins* op_cvt(Warp& w, const Ins* i) {
  const Conversion& c = *i->as<Conversion>();
  const char* a = row<char>(w, i->a);
  char* d = row<char>(w, i->d);
  for (uint32_t m = w.mask; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    const uint64_t r = convert(load(a, c.from_width, l), c);
    memcpy(d + l * c.to_width, &r, c.to_width);
  }
  return i + 1;
}

template <class D, class S>
const Ins* op_cast(Warp& w, const Ins* i) {
  lanes(w, row<D>(w, i->d), [](S a) { return static_cast<D>(a); }, row<S>(w, i->a));
  return i + 1;
}
// As above, of a source type narrower than its register.
template <class D, class T, class S>
const Ins* op_cast_low(Warp& w, const Ins* i) {
  lanes(w, row<D>(w, i->d), [](S a) { return static_cast<D>(static_cast<T>(a)); }, row<S>(w, i->a));
  return i + 1;
}
template <class D, class S>
const Ins* op_narrow(Warp& w, const Ins* i) {
  lanes(w, row<D>(w, i->d), [](S a) { return narrow<D>(a); }, row<S>(w, i->a));
  return i + 1;
}
template <class S>
const Ins* op_widen(Warp& w, const Ins* i) {
  lanes(w, row<float>(w, i->d), [](S a) { return widen(a); }, row<S>(w, i->a));
  return i + 1;
}
const Ins* op_f64_f32(Warp& w, const Ins* i) {
  lanes(w, row<double>(w, i->d), [](float a) { return canon(static_cast<double>(a)); }, row<float>(w, i->a));
  return i + 1;
}
const Ins* op_f32_f64(Warp& w, const Ins* i) {
  lanes(w, row<float>(w, i->d), [](double a) { return canon(static_cast<float>(a)); }, row<double>(w, i->a));
  return i + 1;
}
template <int R>
double rounded(double v) {
  return R == kZero ? __builtin_trunc(v) : R == kDown ? __builtin_floor(v) : R == kUp ? __builtin_ceil(v) : __builtin_rint(v);
}
template <int R>
float rounded(float v) {
  return R == kZero ? __builtin_truncf(v) : R == kDown ? __builtin_floorf(v) : R == kUp ? __builtin_ceilf(v) : __builtin_rintf(v);
}
template <class T, int R>
const Ins* op_integral(Warp& w, const Ins* i) {
  lanes(w, row<T>(w, i->d), [](T a) { return canon(rounded<R>(a)); }, row<T>(w, i->a));
  return i + 1;
}
template <class D, int R>
const Ins* op_int_f32(Warp& w, const Ins* i) {
  lanes(
      w, row<D>(w, i->d),
      [](float a) {
        double v = rounded<R>(static_cast<double>(a));
        const double lo = std::is_signed_v<D> ? -2147483648.0 : 0.0, hi = std::is_signed_v<D> ? 2147483647.0 : 4294967295.0;
        v = v > lo ? v : lo;
        v = v < hi ? v : hi;
        v = a != a ? 0.0 : v;
        return static_cast<D>(static_cast<int64_t>(v));
      },
      row<float>(w, i->a));
  return i + 1;
}

Fn by_rounding(Rounding r, Fn n, Fn z, Fn d, Fn u) { return r == kZero ? z : r == kDown ? d : r == kUp ? u : n; }

Fn int_cast(const Conversion& c) {
  const bool s = is_signed(c.from);
  const int t = size_of(c.from), to = size_of(c.to);
  if (c.sat || to != c.to_width) return nullptr;
  // the lower of the widths decides what is kept, the source's sign how it is extended
  if (to == 8) {
    if (c.from_width == 8 && t == 8) return op_cast<uint64_t, uint64_t>;
    if (c.from_width == 4 && t == 4) return s ? Fn(op_cast<int64_t, int32_t>) : Fn(op_cast<uint64_t, uint32_t>);
    if (c.from_width == 2 && t == 2) return s ? Fn(op_cast<int64_t, int16_t>) : Fn(op_cast<uint64_t, uint16_t>);
    if (c.from_width == 2 && t == 1) return s ? Fn(op_cast_low<int64_t, int8_t, uint16_t>) : Fn(op_cast_low<uint64_t, uint8_t, uint16_t>);
  }
  if (to == 4) {
    if (c.from_width == 8 && t >= 4) return op_cast<uint32_t, uint64_t>;
    if (c.from_width == 4 && t == 4) return op_cast<uint32_t, uint32_t>;
    if (c.from_width == 4 && t == 2) return s ? Fn(op_cast_low<int32_t, int16_t, uint32_t>) : Fn(op_cast_low<uint32_t, uint16_t, uint32_t>);
    if (c.from_width == 4 && t == 1) return s ? Fn(op_cast_low<int32_t, int8_t, uint32_t>) : Fn(op_cast_low<uint32_t, uint8_t, uint32_t>);
    if (c.from_width == 2 && t == 2) return s ? Fn(op_cast<int32_t, int16_t>) : Fn(op_cast<uint32_t, uint16_t>);
    if (c.from_width == 2 && t == 1) return s ? Fn(op_cast_low<int32_t, int8_t, uint16_t>) : Fn(op_cast_low<uint32_t, uint8_t, uint16_t>);
  }
  if (to == 2) {
    if (c.from_width == 8 && t >= 2) return op_cast<uint16_t, uint64_t>;
    if (c.from_width == 4 && t >= 2) return op_cast<uint16_t, uint32_t>;
    if (c.from_width == 2 && t == 2) return op_cast<uint16_t, uint16_t>;
    if (c.from_width == 2 && t == 1) return s ? Fn(op_cast_low<int16_t, int8_t, uint16_t>) : Fn(op_cast_low<uint16_t, uint8_t, uint16_t>);
    if (c.from_width == 4 && t == 1) return s ? Fn(op_cast_low<int16_t, int8_t, uint32_t>) : Fn(op_cast_low<uint16_t, uint8_t, uint32_t>);
  }
  return nullptr;
}

Fn common(const Conversion& c) {
  if (c.to_width < size_of(c.to)) return nullptr;
  if (!real(c.from) && !real(c.to)) return int_cast(c);
  if (c.sat || c.ftz || c.relu || c.satfinite || c.to_width != size_of(c.to) || c.from_width != size_of(c.from)) return nullptr;
  if (c.to == c.from && c.integral) {
    if (c.to == Ty::kF32)
      return by_rounding(c.rounding, op_integral<float, kNearest>, op_integral<float, kZero>, op_integral<float, kDown>,
                         op_integral<float, kUp>);
    if (c.to == Ty::kF64)
      return by_rounding(c.rounding, op_integral<double, kNearest>, op_integral<double, kZero>, op_integral<double, kDown>,
                         op_integral<double, kUp>);
  }
  if (c.from == Ty::kF32 && c.to == Ty::kS32)
    return by_rounding(c.rounding, op_int_f32<int32_t, kNearest>, op_int_f32<int32_t, kZero>, op_int_f32<int32_t, kDown>,
                       op_int_f32<int32_t, kUp>);
  if (c.from == Ty::kF32 && c.to == Ty::kU32)
    return by_rounding(c.rounding, op_int_f32<uint32_t, kNearest>, op_int_f32<uint32_t, kZero>, op_int_f32<uint32_t, kDown>,
                       op_int_f32<uint32_t, kUp>);
  if (c.rounding != kNearest || c.integral) return nullptr;
  if (c.to == Ty::kF32) {
    switch (c.from) {
      case Ty::kS32: return op_cast<float, int32_t>;
      case Ty::kU32: return op_cast<float, uint32_t>;
      case Ty::kS64: return op_cast<float, int64_t>;
      case Ty::kU64: return op_cast<float, uint64_t>;
      case Ty::kS16: return op_cast<float, int16_t>;
      case Ty::kU16: return op_cast<float, uint16_t>;
      case Ty::kF16: return op_widen<f16>;
      case Ty::kBF16: return op_widen<bf16>;
      case Ty::kF64: return op_f32_f64;
      default: return nullptr;
    }
  }
  if (c.to == Ty::kF64) {
    switch (c.from) {
      case Ty::kS32: return op_cast<double, int32_t>;
      case Ty::kU32: return op_cast<double, uint32_t>;
      case Ty::kS64: return op_cast<double, int64_t>;
      case Ty::kU64: return op_cast<double, uint64_t>;
      case Ty::kF32: return op_f64_f32;
      default: return nullptr;
    }
  }
  if (c.to == Ty::kF16 && c.from == Ty::kF32) return op_narrow<f16, float>;
  if (c.to == Ty::kBF16 && c.from == Ty::kF32) return op_narrow<bf16, float>;
  return nullptr;
}

// Pairs: two values into the halves of one register, or both halves converted.
struct PairConversion {
  Conversion one;
  bool eight = false;  // the target's parts are 8 bits wide
};
uint64_t convert_part(uint64_t v, const Conversion& c) {
  if (c.to == Ty::kE4M3 || c.to == Ty::kE5M2) {
    double x = load_real(v, c.from);
    if (c.relu && x < 0) x = 0;
    return c.to == Ty::kE4M3 ? to_e4m3(x) : to_e5m2(x);
  }
  if (c.from == Ty::kE4M3 || c.from == Ty::kE5M2) {
    const float x = c.from == Ty::kE4M3 ? from_e4m3(static_cast<uint8_t>(v)) : from_e5m2(static_cast<uint8_t>(v));
    Conversion k = c;
    k.from = Ty::kF32;
    return convert(bits<uint32_t>(x), k);
  }
  return convert(v, c);
}
// imm: Conversion of one part; a: the high part, b: the low one; or, if b is 0, a: both parts
const Ins* op_cvt_pair(Warp& w, const Ins* i) {
  const Conversion& c = *i->as<Conversion>();
  const int part = size_of(c.to) * 8, from = size_of(c.from);
  const char *a = row<char>(w, i->a), *b = row<char>(w, i->b);
  char* d = row<char>(w, i->d);
  for (uint32_t m = w.mask; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    const uint64_t x = i->b ? load(a, from, l) : load(a, 2 * from, l) >> (8 * from);
    const uint64_t y = i->b ? load(b, from, l) : load(a, 2 * from, l) & ((1ull << 8 * from) - 1);
    const uint64_t mask = (1ull << part) - 1;
    const uint64_t r = (convert_part(y, c) & mask) | (convert_part(x, c) & mask) << part;
    memcpy(d + l * c.to_width, &r, c.to_width);
  }
  return i + 1;
}
template <class H>
const Ins* op_narrow_pair(Warp& w, const Ins* i) {
  lanes(
      w, row<uint32_t>(w, i->d), [](float hi, float lo) { return narrow<H>(lo).v | static_cast<uint32_t>(narrow<H>(hi).v) << 16; },
      row<float>(w, i->a), row<float>(w, i->b));
  return i + 1;
}

Ty part_of(Ty t) {
  switch (t) {
    case Ty::kF16x2: return Ty::kF16;
    case Ty::kBF16x2: return Ty::kBF16;
    case Ty::kE4M3x2: return Ty::kE4M3;
    case Ty::kE5M2x2: return Ty::kE5M2;
    default: return t;
  }
}

const Conversion* keep(Decoder& d, const Conversion& c) {
  auto& t = d.program().tables.emplace_back((sizeof(Conversion) + 7) / 8);
  memcpy(t.data(), &c, sizeof c);
  return reinterpret_cast<const Conversion*>(t.data());
}

// cvt.pack.sat: two saturated integers below what is left of c. imm: bits of one, bit 8: signed
const Ins* op_pack(Warp& w, const Ins* i) {
  const int n = static_cast<int>(i->imm & 255);
  const int64_t lo = (i->imm & 256) ? -(1ll << (n - 1)) : 0, hi = (i->imm & 256) ? (1ll << (n - 1)) - 1 : (1ll << n) - 1;
  const uint32_t mask = static_cast<uint32_t>((1ll << n) - 1);
  lanes(
      w, row<uint32_t>(w, i->d),
      [=](int32_t a, int32_t b, uint32_t c) {
        const uint32_t x = static_cast<uint32_t>(std::clamp<int64_t>(a, lo, hi)) & mask,
                       y = static_cast<uint32_t>(std::clamp<int64_t>(b, lo, hi)) & mask;
        return n == 16 ? x << 16 | y : c << (2 * n) | x << n | y;
      },
      row<int32_t>(w, i->a), row<int32_t>(w, i->b), row<uint32_t>(w, i->c));
  return i + 1;
}
void decode_pack(Decoder& d) {
  if (!d.take("sat")) d.unsupported();
  const sv to = d.take_any({"u2", "s2", "u4", "s4", "u8", "s8", "u16", "s16"});
  if (to.empty() || d.take_type() != Ty::kS32) d.unsupported();
  const bool three = d.num_ops() == 4;
  if (three) d.take("b32");
  const int32_t a = d.src(1, 4), b = d.src(2, 4), c = three ? d.src(3, 4) : d.constant(0, 4);
  d.emit(op_pack, d.dst(0, 4), a, b, c, atoi(std::string(to.substr(1)).c_str()) | (to[0] == 's') << 8);
  d.count(kConvert, 2);
}

void decode_cvt(Decoder& d) {
  if (d.take("pack")) return decode_pack(d);
  Conversion c{};
  const sv r = d.take_any({"rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi"});
  c.integral = r.size() == 3 && r[2] == 'i';
  c.rounding = r == "rna" ? kNearestAway : r.size() < 2 || r[1] == 'n' ? kNearest : r[1] == 'z' ? kZero : r[1] == 'm' ? kDown : kUp;
  c.ftz = d.take("ftz");
  c.sat = d.take("sat");
  c.relu = d.take("relu");
  c.satfinite = d.take("satfinite");
  if (!c.relu) c.relu = d.take("relu");
  c.to = d.take_type(), c.from = d.take_type();
  if (c.to == Ty::kNone || c.from == Ty::kNone) d.unsupported("types");
  if (part_of(c.to) != c.to || part_of(c.from) != c.from) {  // pairs
    const int n = size_of(c.to);
    const bool two = d.num_ops() == 3;
    const Ty from = c.from;
    c.to = part_of(c.to), c.from = part_of(c.from), c.to_width = n;
    const int32_t a = d.src(1, size_of(from)), b = two ? d.src(2, size_of(from)) : 0;
    Fn fn = op_cvt_pair;
    if (two && c.from == Ty::kF32 && c.rounding == kNearest && !c.relu && !c.satfinite) {
      if (c.to == Ty::kF16) fn = op_narrow_pair<f16>;
      if (c.to == Ty::kBF16) fn = op_narrow_pair<bf16>;
    }
    d.emit(fn, d.dst(0, n), a, b, 0, reinterpret_cast<int64_t>(keep(d, c)));
    return d.count(kConvert, 2);
  }
  auto width = [&](const Operand& o, Ty t) {
    const int n = size_of(t), reg = size_of(d.reg_type(o));
    return o.kind != Operand::kReg ? std::max(n, 2) : reg >= n ? reg : n;
  };
  c.to_width = width(d.op(0), c.to), c.from_width = width(d.op(1), c.from);
  if (d.op(1).kind == Operand::kSpecial) c.from_width = 4;
  const int32_t a = d.src(1, c.from_width);
  Fn fn = common(c);
  d.emit(fn ? fn : op_cvt, d.dst(0, c.to_width), a, 0, 0, fn ? 0 : reinterpret_cast<int64_t>(keep(d, c)));
  d.count(kConvert, 1);
}

// cvta and isspacep
const Ins* op_offset(Warp& w, const Ins* i) {
  const uint64_t x = static_cast<uint64_t>(i->imm);
  lanes(w, row<uint64_t>(w, i->d), [x](uint64_t a) { return a + x; }, row<uint64_t>(w, i->a));
  return i + 1;
}
void decode_cvta(Decoder& d) {
  const bool to = d.take("to");
  const sv space = d.take_any({"global", "shared", "shared::cta", "shared::cluster", "local", "const", "param", "param::entry"});
  const Ty t = d.take_type();
  if (size_of(t) != 8) d.unsupported("32-bit generic addresses");
  uint64_t tag = space.substr(0, 6) == "shared" ? kSharedTag : space == "local" ? kLocalTag : space.substr(0, 5) == "param" ? kParamTag : 0;
  if (d.op(1).kind == Operand::kVar && space.substr(0, 5) == "param" && d.space_of(d.op(1).var) == Space::kLocal) tag = kLocalTag;
  const int32_t a = d.src(1, 8);
  d.emit(op_offset, d.dst(0, 8), a, 0, 0, static_cast<int64_t>(to ? 0 - tag : tag));
  d.count(kInteger, 1);
}
const Ins* op_isspacep(Warp& w, const Ins* i) {
  const uint64_t tag = static_cast<uint64_t>(i->imm);
  set_pred(w, i->d, bits_of([tag](uint64_t a) { return (a & kTagMask) == tag; }, row<uint64_t>(w, i->a)));
  return i + 1;
}
void decode_isspacep(Decoder& d) {
  const sv space = d.take_any({"global", "shared", "shared::cta", "shared::cluster", "local", "const", "param", "param::entry"});
  const uint64_t tag = space.substr(0, 6) == "shared"  ? kSharedTag
                       : space == "local"              ? kLocalTag
                       : space.substr(0, 5) == "param" ? kParamTag
                                                       : 0;
  const int32_t a = d.src(1, 8);
  if (space == "const") d.unsupported();
  d.emit(op_isspacep, d.dst_pred(d.op(0)), a, 0, 0, static_cast<int64_t>(tag));
}

}  // namespace

void convert_rules(Rules& r) {
  r.any["cvt"] = decode_cvt;
  r.any["cvta"] = decode_cvta;
  r.any["isspacep"] = decode_isspacep;
}

}  // namespace exe
