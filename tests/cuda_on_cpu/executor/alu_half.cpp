// float16 and bfloat16 arithmetic, alone and in pairs. Every result is the exact one rounded once.
#include "decode.h"
#include "numeric.h"

namespace exe {
namespace {

// a·b + c with the double's last bit sticky: rounding it again gives what one rounding would.
inline double fma_odd(double a, double b, double c) {
  const double p = a * b, s = p + c;  // the product of two halves is exact
  const double bb = s - p, e = (p - (s - bb)) + (c - bb);
  const uint64_t u = bits<uint64_t>(s);
  const bool away = (e > 0) == (s > 0);  // the exact sum's magnitude is beyond s
  const uint64_t v = (u & 1) ? u : away ? u + 1 : u - 1;
  return e != 0 && e == e && s != 0 ? bits<double>(v) : s;
}

struct Add {
  float operator()(float a, float b) const { return a + b; }
};
struct Sub {
  float operator()(float a, float b) const { return a - b; }
};
struct Mul {
  float operator()(float a, float b) const { return a * b; }
};
struct Fma {
  double operator()(float a, float b, float c) const { return fma_odd(a, b, c); }
};
struct Min {
  float operator()(float a, float b) const { return min_number(a, b); }
};
struct Max {
  float operator()(float a, float b) const { return max_number(a, b); }
};
struct Ex2 {
  double operator()(float a) const { return std::exp2(static_cast<double>(a)); }
};
struct Tanh {
  double operator()(float a) const { return std::tanh(static_cast<double>(a)); }
};

enum { kFtz = 1, kSat = 2, kRelu = 4, kNanWins = 8, kXorSign = 16 };

template <class H>
H flush_half(H h) {
  constexpr uint16_t exponent = std::is_same_v<H, f16> ? 0x7c00 : 0x7f80;
  return (h.v & exponent) ? h : H{static_cast<uint16_t>(h.v & 0x8000)};
}
template <class H, class F, class... S>
H one(F f, int flags, S... s) {
  const bool nan = ((widen(s) != widen(s)) || ...);
  H r;
  if (flags & kXorSign) {
    uint16_t sign = 0;
    ((sign ^= s.v & 0x8000), ...);
    r = narrow<H>(f(widen(H{static_cast<uint16_t>(s.v & 0x7fff)})...));
    if ((r.v & 0x7fff) <= (std::is_same_v<H, f16> ? 0x7c00 : 0x7f80)) r.v = static_cast<uint16_t>(r.v | sign);
  } else {
    r = narrow<H>(f(widen((flags & kFtz) ? flush_half(s) : s)...));
  }
  if ((flags & kNanWins) && nan) r = H{0x7fff};
  if (flags & kFtz) r = flush_half(r);
  const float x = widen(r);
  if (flags & kSat) r = x > 0 ? (x < 1 ? r : narrow<H>(1.0f)) : H{0};
  if ((flags & kRelu) && x < 0) r = H{0};
  return r;
}

// A row of pairs is a row of 64 halves.
template <class H, class F, int kArity, bool kPair, bool kModified>
const Ins* op_half(Warp& w, const Ins* i) {
  constexpr int n = kPair ? 64 : 32;
  const int flags = static_cast<int>(i->imm);
  const H *a = row<H>(w, i->a), *b = row<H>(w, i->b), *c = row<H>(w, i->c);
  alignas(64) H t[n];
  F f;
  if constexpr (kModified) {
    for (int l = 0; l < n; ++l) {
      if constexpr (kArity == 1) t[l] = one<H>(f, flags, a[l]);
      if constexpr (kArity == 2) t[l] = one<H>(f, flags, a[l], b[l]);
      if constexpr (kArity == 3) t[l] = one<H>(f, flags, a[l], b[l], c[l]);
    }
  } else {
    for (int l = 0; l < n; ++l) {
      if constexpr (kArity == 1) t[l] = narrow<H>(f(widen(a[l])));
      if constexpr (kArity == 2) t[l] = narrow<H>(f(widen(a[l]), widen(b[l])));
      if constexpr (kArity == 3) t[l] = narrow<H>(f(widen(a[l]), widen(b[l]), widen(c[l])));
    }
  }
  if (w.mask == ~0u) memcpy(row<H>(w, i->d), t, sizeof t);
  else if (kPair) blend(row<uint32_t>(w, i->d), reinterpret_cast<const uint32_t*>(t), w.mask);
  else blend(row<uint16_t>(w, i->d), reinterpret_cast<const uint16_t*>(t), w.mask);
  return i + 1;
}

template <class F, int kArity>
void decode_half(Decoder& d) {
  int flags = 0;
  d.take("rn"), d.take("approx");
  if (d.take("ftz")) flags |= kFtz;
  if (d.take("sat")) flags |= kSat;
  if (d.take("relu")) flags |= kRelu;
  if (d.take("NaN")) flags |= kNanWins;
  if (d.take("xorsign")) flags |= kXorSign, d.take("abs");
  const Ty t = d.take_type();
  const bool pair = t == Ty::kF16x2 || t == Ty::kBF16x2, brain = t == Ty::kBF16 || t == Ty::kBF16x2;
  if (d.num_ops() != kArity + 1) d.unsupported("number of operands");
  const int n = size_of(t);
  int32_t s[3] = {0, 0, 0};
  for (int k = 0; k < kArity; ++k) s[k] = d.src(k + 1, n);
  Fn fn;
  if (flags) {
    fn = brain ? (pair ? Fn(op_half<bf16, F, kArity, true, true>) : Fn(op_half<bf16, F, kArity, false, true>))
               : (pair ? Fn(op_half<f16, F, kArity, true, true>) : Fn(op_half<f16, F, kArity, false, true>));
  } else {
    fn = brain ? (pair ? Fn(op_half<bf16, F, kArity, true, false>) : Fn(op_half<bf16, F, kArity, false, false>))
               : (pair ? Fn(op_half<f16, F, kArity, true, false>) : Fn(op_half<f16, F, kArity, false, false>));
  }
  d.emit(fn, d.dst(0, n), s[0], s[1], s[2], flags);
  d.count(kFp16, (kArity == 3 ? 2 : 1) * (pair ? 2 : 1));
}

// neg and abs: bit operations, whatever the value. imm: the bits to keep, and (>> 32) those to flip
const Ins* op_sign(Warp& w, const Ins* i) {
  const uint32_t keep = static_cast<uint32_t>(i->imm), flip = static_cast<uint32_t>(i->imm >> 32);
  lanes(w, row<uint32_t>(w, i->d), [=](uint32_t a) { return (a & keep) ^ flip; }, row<uint32_t>(w, i->a));
  return i + 1;
}
const Ins* op_sign16(Warp& w, const Ins* i) {
  const uint16_t keep = static_cast<uint16_t>(i->imm), flip = static_cast<uint16_t>(i->imm >> 32);
  lanes(w, row<uint16_t>(w, i->d), [=](uint16_t a) { return static_cast<uint16_t>((a & keep) ^ flip); }, row<uint16_t>(w, i->a));
  return i + 1;
}
void decode_sign(Decoder& d) {
  d.take("ftz");
  const bool neg = d.stmt().op == "neg";
  const Ty t = d.take_type();
  const int n = size_of(t);
  const int64_t keep = neg ? 0xffffffffll : 0x7fff7fffll, flip = neg ? 0x80008000ll : 0;
  const int32_t a = d.src(1, n);
  d.emit(n == 4 ? op_sign : op_sign16, d.dst(0, n), a, 0, 0, keep | flip << 32);
  d.count(kFp16, n / 2);
}

}  // namespace

void half_rules(Rules& r) {
  r.half["add"] = decode_half<Add, 2>;
  r.half["sub"] = decode_half<Sub, 2>;
  r.half["mul"] = decode_half<Mul, 2>;
  r.half["fma"] = decode_half<Fma, 3>;
  r.half["min"] = decode_half<Min, 2>;
  r.half["max"] = decode_half<Max, 2>;
  r.half["ex2"] = decode_half<Ex2, 1>;
  r.half["tanh"] = decode_half<Tanh, 1>;
  r.half["neg"] = r.half["abs"] = decode_sign;
}

}  // namespace exe
