// The opcodes of kernels/spec.py, one function each: op::NAME<D>(registers...), where D is the instruction's dtype (for comparisons,
// predicates and casts also S, that of its operand). Arithmetic in a narrow format is done in f32 and rounded to it. What integers do at
// their limits, and floats that become integers, is what the C++ backend (csrc/cpu/vm_*.cpp) does.
#pragma once
#include "types.cuh"

namespace op {

// The unsigned type integers of T compute in: at least 32 bits, so that nothing is promoted to int and overflows.
template <class T>
using Wide = typename Select<(Traits<T>::bits > 32), u64, u32>::type;
template <class T>
__forceinline__ Value<T> wrap(Wide<T> x) {
  return rounded<T>(static_cast<Value<T>>(x));
}
template <class T>
__forceinline__ Wide<T> raw(Value<T> x) {
  return static_cast<Wide<T>>(x);
}

// Conversions
// ------------------------------------------------------------------------------------------------------------------------------
template <class A>
__forceinline__ i32 i32_of_float(A x) {
  const bool ok =
      x > static_cast<A>(-2147483904.0) && x < static_cast<A>(2147483648.0) && (sizeof(A) == 4 || x > static_cast<A>(-2147483649.0));
  return ok ? static_cast<i32>(x) : static_cast<i32>(0x80000000u);
}
template <class A>
__forceinline__ i64 i64_of_float(A x) {
  const bool ok = x >= static_cast<A>(-9223372036854775808.0) && x < static_cast<A>(9223372036854775808.0);
  return ok ? static_cast<i64>(x) : static_cast<i64>(1ull << 63);
}
template <class A>
__forceinline__ u64 u64_of_float(A x) {
  constexpr A half = static_cast<A>(9223372036854775808.0);
  if (x >= half) return x < 2 * half ? static_cast<u64>(static_cast<i64>(x - half)) + (1ull << 63) : 1ull << 63;
  return x >= -half ? static_cast<u64>(static_cast<i64>(x)) : 1ull << 63;
}
template <class D, class A>
__forceinline__ Value<D> int_of_float(A x) {
  if constexpr (same<D, u64>) return u64_of_float(x);
  else if constexpr (same<D, i64>) return i64_of_float(x);
  else if constexpr (same<D, u32>) return static_cast<u32>(i64_of_float(x));
  else return wrap<D>(static_cast<u32>(i32_of_float(x)));
}

template <class D, class S, Overflow MODE>
__forceinline__ Value<D> convert(Value<S> x) {
  if constexpr (same<D, S>) return x;
  else if constexpr (same<D, bool>) return x != Value<S>(0);
  else if constexpr (is_float<D>) {
    if constexpr (!Traits<D>::narrow) return static_cast<Value<D>>(x);
    else if constexpr (same<D, f16> && same<Value<S>, f64>) return ptx_f32_of_f16(ptx_f16_of_f64(x));
    else if constexpr (same<Value<S>, f64>) return value_of<D>(stored<D, MODE>(odd_f32(x)));
    else if constexpr (is_int<S> && Traits<S>::bits >= 32) return value_of<D>(stored<D, MODE>(odd_f32(static_cast<f64>(x))));
    else return value_of<D>(stored<D, MODE>(static_cast<f32>(x)));
  } else if constexpr (is_float<S>) return int_of_float<D>(x);
  else return wrap<D>(static_cast<Wide<D>>(x));
}
template <class D, class S>
__forceinline__ Value<D> cast(Value<S> x) {
  return convert<D, S, kSaturate>(x);
}
template <class D, class S>
__forceinline__ Value<D> cast_wrap(Value<S> x) {
  return convert<D, S, kWrap>(x);
}
template <class D, class S>
__forceinline__ Value<D> cast_sat(Value<S> x) {
  if constexpr (is_float<D> || same<D, bool>) return cast<D, S>(x);
  else if constexpr (is_float<S>) {
    using A = Value<S>;
    const A v = same<A, f64> ? static_cast<A>(rint(static_cast<f64>(x))) : static_cast<A>(rintf(static_cast<f32>(x)));
    const A lo = static_cast<A>(lowest<D>()), hi = static_cast<A>(highest<D>());
    if (v >= hi) return highest<D>();
    return v > lo ? int_of_float<D>(v) : lowest<D>();
  } else {
    if constexpr (Traits<S>::is_signed) {
      const i64 v = x, lo = static_cast<i64>(lowest<D>());
      if (v < lo) return lowest<D>();
      if (v > 0 && static_cast<u64>(v) > static_cast<u64>(highest<D>())) return highest<D>();
    } else if (static_cast<u64>(x) > static_cast<u64>(highest<D>())) return highest<D>();
    return static_cast<Value<D>>(x);
  }
}

// A function of floats: in f32 or f64, rounded to D; of integers: in f64, truncated.
#define PTRT_FLOAT1(NAME, EXPR32, EXPR64)     \
  template <class D>                          \
  __forceinline__ Value<D> NAME(Value<D> a) { \
    if constexpr (is_int<D>) {                \
      const f64 x = static_cast<f64>(a);      \
      return int_of_float<D>(EXPR64);         \
    } else if constexpr (same<D, f64>) {      \
      const f64 x = a;                        \
      return EXPR64;                          \
    } else {                                  \
      const f32 x = a;                        \
      return rounded<D>(EXPR32);              \
    }                                         \
  }
// The same, but integers have a meaning of their own.
#define PTRT_MIXED1(NAME, EXPR32, EXPR64, INT)      \
  template <class D>                                \
  __forceinline__ Value<D> NAME(Value<D> x) {       \
    if constexpr (!is_float<D>) return INT;         \
    else if constexpr (same<D, f64>) return EXPR64; \
    else return rounded<D>(EXPR32);                 \
  }

PTRT_MIXED1(neg, -x, -x, wrap<D>(0 - raw<D>(x)))
PTRT_MIXED1(abs, fabsf(x), ::fabs(x), x < Value<D>(0) ? wrap<D>(0 - raw<D>(x)) : x)
PTRT_MIXED1(sign, x != x ? x : static_cast<f32>((x > 0) - (x < 0)), x != x ? x : static_cast<f64>((x > 0) - (x < 0)),
            static_cast<Value<D>>((x > Value<D>(0)) - (x < Value<D>(0))))
PTRT_MIXED1(ceil, ceilf(x), ::ceil(x), x)
PTRT_MIXED1(floor, floorf(x), ::floor(x), x)
PTRT_MIXED1(round, rintf(x), ::rint(x), x)
PTRT_MIXED1(trunc, truncf(x), ::trunc(x), x)
PTRT_MIXED1(relu, x < 0 ? 0.0f : x, x < 0 ? 0.0 : x, x < Value<D>(0) ? Value<D>(0) : x)
PTRT_FLOAT1(sqrt, sqrtf(x), ::sqrt(x))
PTRT_FLOAT1(rsqrt, 1.0f / sqrtf(x), 1.0 / ::sqrt(x))
PTRT_FLOAT1(exp, expf(x), ::exp(x))
PTRT_FLOAT1(expm1, expm1f(x), ::expm1(x))
PTRT_FLOAT1(log, logf(x), ::log(x))
PTRT_FLOAT1(log1p, log1pf(x), ::log1p(x))
PTRT_FLOAT1(sin, sinf(x), ::sin(x))
PTRT_FLOAT1(cos, cosf(x), ::cos(x))
PTRT_FLOAT1(tan, tanf(x), ::tan(x))
PTRT_FLOAT1(asin, asinf(x), ::asin(x))
PTRT_FLOAT1(acos, acosf(x), ::acos(x))
PTRT_FLOAT1(atan, atanf(x), ::atan(x))
PTRT_FLOAT1(sinh, sinhf(x), ::sinh(x))
PTRT_FLOAT1(cosh, coshf(x), ::cosh(x))
PTRT_FLOAT1(tanh, tanhf(x), ::tanh(x))
PTRT_FLOAT1(asinh, asinhf(x), ::asinh(x))
PTRT_FLOAT1(acosh, acoshf(x), ::acosh(x))
PTRT_FLOAT1(atanh, atanhf(x), ::atanh(x))
PTRT_FLOAT1(erf, erff(x), ::erf(x))

__forceinline__ f32 sigmoid_(f32 x) {  // without overflow and without losing small results
  const f32 e = expf(-fabsf(x));
  return (x >= 0 ? 1.0f : e) / (1.0f + e);
}
__forceinline__ f64 sigmoid_(f64 x) {
  const f64 e = ::exp(-::fabs(x));
  return (x >= 0 ? 1.0 : e) / (1.0 + e);
}
__forceinline__ f32 softplus_(f32 x) { return x != x ? x : fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }
__forceinline__ f64 softplus_(f64 x) { return x != x ? x : ::fmax(x, 0.0) + ::log1p(::exp(-::fabs(x))); }
template <class A>
__forceinline__ A gated(A x, A gate) {  // x * gate with its limit, -0, at -inf
  return x == -static_cast<A>(inf32()) ? -A(0) : x * gate;
}
PTRT_FLOAT1(sigmoid, sigmoid_(x), sigmoid_(x))
PTRT_FLOAT1(softplus, softplus_(x), softplus_(x))
PTRT_FLOAT1(silu, x* sigmoid_(x), x* sigmoid_(x))
PTRT_FLOAT1(gelu_erf, gated(x, 0.5f * erfcf(-x * 0.70710678118654752f)), gated(x, 0.5 * ::erfc(-x * 0.70710678118654752440)))
PTRT_FLOAT1(gelu_tanh, gated(x, sigmoid_(1.5957691216057308f * (x + 0.044715f * x * x * x))),
            gated(x, sigmoid_(1.59576912160573071176 * (x + 0.044715 * x * x * x))))

// Arithmetic
// --------------------------------------------------------------------------------------------------------------------------------
#define PTRT_ARITHMETIC(NAME, OP)                                       \
  template <class D>                                                    \
  __forceinline__ Value<D> NAME(Value<D> a, Value<D> b) {               \
    if constexpr (!is_float<D>) return wrap<D>(raw<D>(a) OP raw<D>(b)); \
    else return rounded<D>(a OP b);                                     \
  }
PTRT_ARITHMETIC(add, +)
PTRT_ARITHMETIC(sub, -)
template <class D>
__forceinline__ Value<D> mul(Value<D> a, Value<D> b) {  // rounded: not contracted with a sum, as the model's operators would not be
  if constexpr (!is_float<D>) return wrap<D>(raw<D>(a) * raw<D>(b));
  else if constexpr (same<D, f64>) return __dmul_rn(a, b);
  else return rounded<D>(__fmul_rn(a, b));
}

template <class D>
__forceinline__ Value<D> div(Value<D> a, Value<D> b) {
  if constexpr (is_float<D>) return rounded<D>(a / b);
  else {
    if (b == Value<D>(0)) return 0;
    if constexpr (Traits<D>::is_signed)
      if (b == static_cast<Value<D>>(-1)) return wrap<D>(0 - raw<D>(a));
    return static_cast<Value<D>>(a / b);
  }
}
template <class D>
__forceinline__ Value<D> fmod(Value<D> a, Value<D> b) {
  if constexpr (same<D, f64>) return ::fmod(a, b);
  else if constexpr (is_float<D>) return rounded<D>(fmodf(a, b));
  else {
    if (b == Value<D>(0)) return 0;
    if constexpr (Traits<D>::is_signed)
      if (b == static_cast<Value<D>>(-1)) return 0;
    return static_cast<Value<D>>(a % b);
  }
}
template <class D>
__forceinline__ Value<D> mod(Value<D> a, Value<D> b) {  // the sign of the divisor
  if constexpr (is_float<D>) {
    Value<D> r = fmod<D>(a, b);
    if (r == 0) return b < 0 ? -Value<D>(0) : Value<D>(0);
    if ((r < 0) != (b < 0)) r += b;
    return rounded<D>(r);
  } else {
    const Value<D> r = fmod<D>(a, b);
    return r != Value<D>(0) && (r < Value<D>(0)) != (b < Value<D>(0)) ? static_cast<Value<D>>(r + b) : r;
  }
}
template <class D>
__forceinline__ Value<D> recip(Value<D> x) {
  if constexpr (same<D, f64>) return 1.0 / x;
  else if constexpr (is_float<D>) return rounded<D>(1.0f / x);
  else return div<D>(Value<D>(1), x);
}
template <class D>
__forceinline__ Value<D> pow(Value<D> x, Value<D> y) {
  if constexpr (same<D, f64>) return ::pow(x, y);
  else if constexpr (is_float<D>) return rounded<D>(powf(x, y));
  else {  // by squaring; a negative exponent gives the truncated reciprocal power
    if constexpr (Traits<D>::is_signed)
      if (y < 0) return x == 1 ? 1 : x == -1 ? (y & 1 ? x : Value<D>(1)) : Value<D>(0);
    Wide<D> base = raw<D>(x), r = 1;
    for (Wide<D> e = raw<D>(y); e; e >>= 1) {
      if (e & 1) r *= base;
      base *= base;
    }
    return wrap<D>(r);
  }
}
template <class D>
__forceinline__ Value<D> max(Value<D> a, Value<D> b) {  // NaN wins
  if constexpr (is_float<D>) return a != a || a > b ? a : b;
  else return a > b ? a : b;
}
template <class D>
__forceinline__ Value<D> min(Value<D> a, Value<D> b) {
  if constexpr (is_float<D>) return a != a || a < b ? a : b;
  else return a < b ? a : b;
}

// Predicates, comparisons, logic
// ------------------------------------------------------------------------------------------------------------
template <class D, class S>
__forceinline__ bool isnan(Value<S> x) {
  return x != x;
}
template <class D, class S>
__forceinline__ bool isinf_pos(Value<S> x) {
  return is_float<S> && x == static_cast<Value<S>>(inf32());
}
template <class D, class S>
__forceinline__ bool isinf_neg(Value<S> x) {
  return is_float<S> && x == static_cast<Value<S>>(-inf32());
}
#define PTRT_COMPARISON(NAME, OP)                     \
  template <class D, class S>                         \
  __forceinline__ bool NAME(Value<S> a, Value<S> b) { \
    return a OP b;                                    \
  }
PTRT_COMPARISON(eq, ==)
PTRT_COMPARISON(ne, !=)
PTRT_COMPARISON(lt, <)
PTRT_COMPARISON(le, <=)
PTRT_COMPARISON(gt, >)
PTRT_COMPARISON(ge, >=)
PTRT_COMPARISON(land, &&)
PTRT_COMPARISON(lor, ||)
template <class D, class S>
__forceinline__ bool lxor(Value<S> a, Value<S> b) {
  return (a != Value<S>(0)) != (b != Value<S>(0));
}
template <class D, class S>
__forceinline__ bool lnot(Value<S> a) {
  return !a;
}
template <class D>
__forceinline__ Value<D> where(bool c, Value<D> a, Value<D> b) {
  return c ? a : b;
}
template <class D>
__forceinline__ Value<D> id(Value<D> x) {
  return x;
}

// Bits
// --------------------------------------------------------------------------------------------------------------------------------------
#define PTRT_BITS(NAME, OP)                               \
  template <class D>                                      \
  __forceinline__ Value<D> NAME(Value<D> a, Value<D> b) { \
    return wrap<D>(raw<D>(a) OP raw<D>(b));               \
  }
PTRT_BITS(band, &)
PTRT_BITS(bor, |)
PTRT_BITS(bxor, ^)
template <class D>
__forceinline__ Value<D> bnot(Value<D> x) {
  if constexpr (same<D, bool>) return !x;
  else return wrap<D>(~raw<D>(x));
}
template <class D>
__forceinline__ Value<D> shl(Value<D> a, Value<D> b) {
  return b < Value<D>(0) || static_cast<u64>(b) >= Traits<D>::bits ? Value<D>(0) : wrap<D>(raw<D>(a) << static_cast<u32>(b));
}
template <class D>
__forceinline__ Value<D> shr(Value<D> a, Value<D> b) {
  return b < Value<D>(0) || static_cast<u64>(b) >= Traits<D>::bits ? Value<D>(0) : static_cast<Value<D>>(a >> static_cast<u32>(b));
}
#undef PTRT_FLOAT1
#undef PTRT_MIXED1
#undef PTRT_ARITHMETIC
#undef PTRT_COMPARISON
#undef PTRT_BITS
}  // namespace op
