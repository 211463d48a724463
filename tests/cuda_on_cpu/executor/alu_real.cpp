// float32 and float64 arithmetic. Approximations are computed in double precision and rounded once.
#include <cfenv>

#include "decode.h"
#include "numeric.h"

namespace exe {
namespace {

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct Sub {
  template <class T>
  T operator()(T a, T b) const {
    return a - b;
  }
};
struct Mul {
  template <class T>
  T operator()(T a, T b) const {
    return a * b;
  }
};
struct Div {
  template <class T>
  T operator()(T a, T b) const {
    return a / b;
  }
};
struct Fma {
  float operator()(float a, float b, float c) const { return __builtin_fmaf(a, b, c); }
  double operator()(double a, double b, double c) const { return __builtin_fma(a, b, c); }
};
struct Sqrt {
  float operator()(float a) const { return __builtin_sqrtf(a); }
  double operator()(double a) const { return __builtin_sqrt(a); }
};
struct Rcp {
  template <class T>
  T operator()(T a) const {
    return T(1) / a;
  }
};
struct Rsqrt {
  float operator()(float a) const { return static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(a))); }
  double operator()(double a) const { return 1.0 / __builtin_sqrt(a); }
};
struct Ex2 {
  float operator()(float x) const {
    // 2^n · 2^f with |f| <= 1/2, the series of exp(f ln 2)
    double v = x;
    v = v > 200.0 ? 200.0 : v;
    v = v < -200.0 ? -200.0 : v;
    const double shifted = v + 0x1.8p52, n = shifted - 0x1.8p52, f = (v - n) * 0x1.62e42fefa39efp-1;
    double p = 1.0 / 39916800;
    p = __builtin_fma(p, f, 1.0 / 3628800);
    p = __builtin_fma(p, f, 1.0 / 362880);
    p = __builtin_fma(p, f, 1.0 / 40320);
    p = __builtin_fma(p, f, 1.0 / 5040);
    p = __builtin_fma(p, f, 1.0 / 720);
    p = __builtin_fma(p, f, 1.0 / 120);
    p = __builtin_fma(p, f, 1.0 / 24);
    p = __builtin_fma(p, f, 1.0 / 6);
    p = __builtin_fma(p, f, 0.5);
    p = __builtin_fma(p, f, 1.0);
    p = __builtin_fma(p, f, 1.0);
    const double scale = bits<double>((bits<uint64_t>(shifted) + 1023) << 52);
    const float r = static_cast<float>(p * scale);
    return x != x ? x : r;
  }
};
struct Lg2 {
  float operator()(float x) const {
    const double v = x;
    const uint64_t u = bits<uint64_t>(v);
    const int64_t e = static_cast<int64_t>(u - 0x3fe6a09e667f3bcdull) >> 52;
    const double m = bits<double>(u - (static_cast<uint64_t>(e) << 52));
    const double t = (m - 1.0) / (m + 1.0), s = t * t;
    double p = 1.0 / 21;
    p = __builtin_fma(p, s, 1.0 / 19);
    p = __builtin_fma(p, s, 1.0 / 17);
    p = __builtin_fma(p, s, 1.0 / 15);
    p = __builtin_fma(p, s, 1.0 / 13);
    p = __builtin_fma(p, s, 1.0 / 11);
    p = __builtin_fma(p, s, 1.0 / 9);
    p = __builtin_fma(p, s, 1.0 / 7);
    p = __builtin_fma(p, s, 1.0 / 5);
    p = __builtin_fma(p, s, 1.0 / 3);
    p = __builtin_fma(p, s, 1.0);
    float r = static_cast<float>(static_cast<double>(e) + 2.8853900817779268 * t * p);
    r = x == 0 ? -bits<float>(0x7f800000u) : r;
    r = x < 0 ? bits<float>(0x7fffffffu) : r;
    return x == bits<float>(0x7f800000u) || x != x ? x : r;
  }
};
struct Sin {
  float operator()(float a) const { return static_cast<float>(std::sin(static_cast<double>(a))); }
};
struct Cos {
  float operator()(float a) const { return static_cast<float>(std::cos(static_cast<double>(a))); }
};
struct Tanh {
  float operator()(float a) const { return static_cast<float>(std::tanh(static_cast<double>(a))); }
};
struct Neg {
  float operator()(float a) const { return bits<float>(bits<uint32_t>(a) ^ 0x80000000u); }
  double operator()(double a) const { return bits<double>(bits<uint64_t>(a) ^ (1ull << 63)); }
};
struct Abs {
  float operator()(float a) const { return bits<float>(bits<uint32_t>(a) & 0x7fffffffu); }
  double operator()(double a) const { return bits<double>(bits<uint64_t>(a) & ~(1ull << 63)); }
};
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return min_number(a, b);
  }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return max_number(a, b);
  }
};
// 1/x and 1/sqrt(x) of the upper words, as the hardware's coarse double approximations do
struct RcpCoarse {
  double operator()(double a) const { return bits<double>(bits<uint64_t>(1.0 / bits<double>(bits<uint64_t>(a) >> 32 << 32)) >> 32 << 32); }
};
struct RsqrtCoarse {
  double operator()(double a) const {
    return bits<double>(bits<uint64_t>(1.0 / std::sqrt(bits<double>(bits<uint64_t>(a) >> 32 << 32))) >> 32 << 32);
  }
};

template <class T>
T saturate(T x) {
  return x > T(0) ? (x < T(1) ? x : T(1)) : T(0);  // NaN gives 0
}
// What the modifiers add to f: imm bit 0: flushes subnormals, bit 1: saturates, bits 2..: rounding, of Rounding.
template <class T, class F, class... S>
T modified(F f, bool ftz, bool sat, S... s) {
  T r;
  if (std::is_same_v<T, float>) {
    r = ftz ? flush(static_cast<float>(f(static_cast<T>(flush(static_cast<float>(s)))...))) : f(s...);
  } else {
    r = f(s...);
  }
  return sat ? saturate(r) : canon(r);
}
class RoundingScope {
 public:
  explicit RoundingScope(int r) : changed_(r != kNearest), saved_(changed_ ? fegetround() : 0) {
    if (changed_) fesetround(r == kZero ? FE_TOWARDZERO : r == kDown ? FE_DOWNWARD : FE_UPWARD);
  }
  ~RoundingScope() {
    if (changed_) fesetround(saved_);
  }

 private:
  bool changed_;
  int saved_;
};

template <class T, class F>
const Ins* unary(Warp& w, const Ins* i) {
  lanes(w, row<T>(w, i->d), [](T a) { return canon(F{}(a)); }, row<T>(w, i->a));
  return i + 1;
}
template <class T, class F>
const Ins* unary_exact(Warp& w, const Ins* i) {  // moves bits
  lanes(w, row<T>(w, i->d), F{}, row<T>(w, i->a));
  return i + 1;
}
template <class T, class F>
const Ins* binary(Warp& w, const Ins* i) {
  lanes(w, row<T>(w, i->d), [](T a, T b) { return canon(F{}(a, b)); }, row<T>(w, i->a), row<T>(w, i->b));
  return i + 1;
}
template <class T, class F>
const Ins* ternary(Warp& w, const Ins* i) {
  lanes(w, row<T>(w, i->d), [](T a, T b, T c) { return canon(F{}(a, b, c)); }, row<T>(w, i->a), row<T>(w, i->b), row<T>(w, i->c));
  return i + 1;
}
// With modifiers; never called for an inactive lane.
template <class T, class F, int kArity>
__attribute__((noinline)) const Ins* with_modifiers(Warp& w, const Ins* i) {
  const bool ftz = i->imm & 1, sat = i->imm & 2;
  RoundingScope scope(static_cast<int>(i->imm >> 2));
  T* d = row<T>(w, i->d);
  const T *a = row<T>(w, i->a), *b = row<T>(w, i->b), *c = row<T>(w, i->c);
  F f;
  if constexpr (kArity == 1) lanes_slow(w, d, [&](T x) { return modified<T>(f, ftz, sat, x); }, a);
  if constexpr (kArity == 2) lanes_slow(w, d, [&](T x, T y) { return modified<T>(f, ftz, sat, x, y); }, a, b);
  if constexpr (kArity == 3) lanes_slow(w, d, [&](T x, T y, T z) { return modified<T>(f, ftz, sat, x, y, z); }, a, b, c);
  return i + 1;
}
// Flushing alone is common enough to be fast.
template <class F, int kArity>
const Ins* flushing(Warp& w, const Ins* i) {
  float* d = row<float>(w, i->d);
  const float *a = row<float>(w, i->a), *b = row<float>(w, i->b), *c = row<float>(w, i->c);
  if constexpr (kArity == 1) lanes(w, d, [](float x) { return canon(flush(F{}(flush(x)))); }, a);
  if constexpr (kArity == 2) lanes(w, d, [](float x, float y) { return canon(flush(F{}(flush(x), flush(y)))); }, a, b);
  if constexpr (kArity == 3)
    lanes(w, d, [](float x, float y, float z) { return canon(flush(F{}(flush(x), flush(y), flush(z)))); }, a, b, c);
  return i + 1;
}

// Pairs of float32: a row of them is a row of 64 values. imm: flushes subnormals
template <class F, int kArity>
const Ins* pairs(Warp& w, const Ins* i) {
  const float *a = row<float>(w, i->a), *b = row<float>(w, i->b), *c = row<float>(w, i->c);
  alignas(64) float t[64];
  F f;
  for (int l = 0; l < 64; ++l) {
    if constexpr (kArity == 1) t[l] = a[l];
    if constexpr (kArity == 2) t[l] = modified<float>(f, i->imm & 1, false, a[l], b[l]);
    if constexpr (kArity == 3) t[l] = modified<float>(f, i->imm & 1, false, a[l], b[l], c[l]);
  }
  blend(row<uint64_t>(w, i->d), reinterpret_cast<const uint64_t*>(t), w.mask);
  return i + 1;
}

struct Modifiers {
  bool ftz = false, sat = false;
  int rounding = kNearest;
};
Modifiers take_modifiers(Decoder& d) {
  Modifiers m;
  const sv r = d.take_any({"rn", "rz", "rm", "rp"});
  m.rounding = r == "rz" ? kZero : r == "rm" ? kDown : r == "rp" ? kUp : kNearest;
  m.ftz = d.take("ftz");
  m.sat = d.take("sat");
  return m;
}

template <class F, int kArity>
void emit_real(Decoder& d, const Modifiers& m, Ty t, Fn f32, Fn f64, Cls cls, int flops) {
  const bool pair = t == Ty::kF32x2;
  if ((t != Ty::kF32 && t != Ty::kF64 && !pair) || (pair && (m.sat || m.rounding != kNearest || kArity == 1))) d.unsupported("type");
  const int n = size_of(t);
  int32_t s[3] = {0, 0, 0};
  for (int k = 0; k < kArity; ++k) s[k] = d.src(k + 1, t);
  if (pair) {
    d.emit(pairs<F, kArity>, d.dst(0, n), s[0], s[1], s[2], m.ftz);
    return d.count(kFp32, 2 * flops);
  }
  Fn fn = t == Ty::kF32 ? f32 : f64;
  if (m.ftz && t == Ty::kF32 && !m.sat && m.rounding == kNearest) fn = flushing<F, kArity>;
  else if (m.ftz || m.sat || m.rounding != kNearest)
    fn = t == Ty::kF32 ? Fn(with_modifiers<float, F, kArity>) : Fn(with_modifiers<double, F, kArity>);
  d.emit(fn, d.dst(0, n), s[0], s[1], s[2], m.ftz | m.sat << 1 | m.rounding << 2);
  d.count(cls == kOther ? (t == Ty::kF32 ? kFp32 : kFp64) : cls, flops);
}

template <class F>
void decode_binary(Decoder& d) {
  d.take_any({"full", "approx"});
  const Modifiers m = take_modifiers(d);
  emit_real<F, 2>(d, m, d.take_type(), binary<float, F>, binary<double, F>, kOther, 1);
}
void decode_fma(Decoder& d) {
  const Modifiers m = take_modifiers(d);
  emit_real<Fma, 3>(d, m, d.take_type(), ternary<float, Fma>, ternary<double, Fma>, kOther, 2);
}
template <class F>
void decode_root(Decoder& d) {
  const bool approx = d.take("approx");
  const Modifiers m = take_modifiers(d);
  const Ty t = d.take_type();
  if (t == Ty::kF64 && approx && m.ftz) {
    using C = std::conditional_t<std::is_same_v<F, Rcp>, RcpCoarse, RsqrtCoarse>;
    Modifiers none;
    return emit_real<C, 1>(d, none, t, nullptr, unary<double, C>, kSpecialFunction, 1);
  }
  emit_real<F, 1>(d, m, t, unary<float, F>, unary<double, F>, approx ? kSpecialFunction : kOther, 1);
}
template <class F>
const Ins* slow_function(Warp& w, const Ins* i) {
  lanes_slow(w, row<float>(w, i->d), [](float a) { return canon(F{}(a)); }, row<float>(w, i->a));
  return i + 1;
}
template <class F, bool kSlow>
void decode_function(Decoder& d) {
  d.take("approx");
  const Modifiers m = take_modifiers(d);
  const Ty t = d.take_type();
  if (t != Ty::kF32) d.unsupported("type");
  const int32_t a = d.src(1, t);
  Fn fn = m.ftz ? (kSlow ? Fn(with_modifiers<float, F, 1>) : Fn(flushing<F, 1>)) : (kSlow ? Fn(slow_function<F>) : Fn(unary<float, F>));
  d.emit(fn, d.dst(0, 4), a, 0, 0, m.ftz);
  d.count(kSpecialFunction, 1);
}
template <class F>
void decode_sign(Decoder& d) {
  const bool ftz = d.take("ftz");
  const Ty t = d.take_type();
  const int32_t a = d.src(1, t);
  d.emit(t == Ty::kF64 ? Fn(unary_exact<double, F>)
         : ftz         ? Fn(flushing<F, 1>)
                       : Fn(unary_exact<float, F>),
         d.dst(0, size_of(t)), a, 0, 0, ftz);
  d.count(t == Ty::kF64 ? kFp64 : kFp32, 1);
}

// imm: bit 0: flushes, bit 1: NaN wins, bit 2: of the absolute values, with the product's sign; bit 3: three operands
template <class T, class F>
const Ins* minmax_modified(Warp& w, const Ins* i) {
  const int f = static_cast<int>(i->imm);
  auto one = [f](T a, T b) {
    if constexpr (std::is_same_v<T, float>)
      if (f & 1) a = flush(a), b = flush(b);
    const bool negative = std::signbit(a) != std::signbit(b);
    if (f & 4) a = Abs{}(a), b = Abs{}(b);
    T r = F{}(a, b);
    if ((f & 2) && (a != a || b != b)) return canon(a + b);
    if ((f & 4) && r == r) r = negative ? Neg{}(r) : r;
    return r;
  };
  if (f & 8)
    lanes_slow(w, row<T>(w, i->d), [&](T a, T b, T c) { return one(one(a, b), c); }, row<T>(w, i->a), row<T>(w, i->b), row<T>(w, i->c));
  else lanes_slow(w, row<T>(w, i->d), one, row<T>(w, i->a), row<T>(w, i->b));
  return i + 1;
}
template <class T, class F>
const Ins* minmax_nan(Warp& w, const Ins* i) {
  lanes(
      w, row<T>(w, i->d),
      [](T a, T b) {
        const T r = F{}(a, b);
        return a != a || b != b ? canon(a + b) : r;
      },
      row<T>(w, i->a), row<T>(w, i->b));
  return i + 1;
}
template <class F>
void decode_minmax(Decoder& d) {
  const bool ftz = d.take("ftz"), nan = d.take("NaN"), xorsign = d.take("xorsign");
  d.take("abs");
  const Ty t = d.take_type();
  const bool three = d.num_ops() == 4;
  const int32_t a = d.src(1, t), b = d.src(2, t), c = three ? d.src(3, t) : 0;
  Fn fn;
  if (ftz || xorsign || three) fn = t == Ty::kF32 ? Fn(minmax_modified<float, F>) : Fn(minmax_modified<double, F>);
  else if (nan) fn = t == Ty::kF32 ? Fn(minmax_nan<float, F>) : Fn(minmax_nan<double, F>);
  else fn = t == Ty::kF32 ? Fn(binary<float, F>) : Fn(binary<double, F>);
  d.emit(fn, d.dst(0, size_of(t)), a, b, c, ftz | nan << 1 | xorsign << 2 | three << 3);
  d.count(t == Ty::kF64 ? kFp64 : kFp32, 1);
}

template <class T>
const Ins* op_copysign(Warp& w, const Ins* i) {  // the sign of a on b
  lanes(w, row<T>(w, i->d), [](T a, T b) { return std::copysign(b, a); }, row<T>(w, i->a), row<T>(w, i->b));
  return i + 1;
}
void decode_copysign(Decoder& d) {
  const Ty t = d.take_type();
  const int32_t a = d.src(1, t), b = d.src(2, t);
  d.emit(t == Ty::kF32 ? Fn(op_copysign<float>) : Fn(op_copysign<double>), d.dst(0, size_of(t)), a, b);
  d.count(t == Ty::kF64 ? kFp64 : kFp32, 1);
}
template <class T>
const Ins* op_testp(Warp& w, const Ins* i) {
  const int f = static_cast<int>(i->imm);
  const uint32_t r = bits_of(
      [f](T a) {
        const int c = std::fpclassify(a);
        switch (f) {
          case 0: return c != FP_NAN && c != FP_INFINITE;
          case 1: return c == FP_INFINITE;
          case 2: return c != FP_NAN;
          case 3: return c == FP_NAN;
          case 4: return c == FP_NORMAL || c == FP_ZERO;
          default: return c == FP_SUBNORMAL;
        }
      },
      row<T>(w, i->a));
  set_pred(w, i->d, r);
  return i + 1;
}
void decode_testp(Decoder& d) {
  int k = 0, f = -1;
  for (sv s : {"finite", "infinite", "number", "notanumber", "normal", "subnormal"}) {
    if (d.take(s)) f = k;
    ++k;
  }
  const Ty t = d.take_type();
  const int32_t a = d.src(1, t);
  d.emit(t == Ty::kF32 ? Fn(op_testp<float>) : Fn(op_testp<double>), d.dst_pred(d.op(0)), a, 0, 0, f);
}

}  // namespace

void real_rules(Rules& r) {
  r.real["add"] = decode_binary<Add>;
  r.real["sub"] = decode_binary<Sub>;
  r.real["mul"] = decode_binary<Mul>;
  r.real["div"] = decode_binary<Div>;
  r.real["fma"] = r.real["mad"] = decode_fma;
  r.real["sqrt"] = decode_root<Sqrt>;
  r.real["rcp"] = decode_root<Rcp>;
  r.real["rsqrt"] = decode_root<Rsqrt>;
  r.real["ex2"] = decode_function<Ex2, false>;
  r.real["lg2"] = decode_function<Lg2, false>;
  r.real["sin"] = decode_function<Sin, true>;
  r.real["cos"] = decode_function<Cos, true>;
  r.real["tanh"] = decode_function<Tanh, true>;
  r.real["min"] = decode_minmax<Min>;
  r.real["max"] = decode_minmax<Max>;
  r.real["neg"] = decode_sign<Neg>;
  r.real["abs"] = decode_sign<Abs>;
  r.real["copysign"] = decode_copysign;
  r.any["testp"] = decode_testp;
}

}  // namespace exe
