// Steps in f64: the common elementary functions are own vector code, the others come from libm.
#include <cmath>

#include "cpu/vfmod.h"
#include "cpu/vm_loops.h"
#include "cpu/vmath64.h"

namespace ptrt::PTRT_LEVEL {
namespace {

typedef double T;
PTRT_FN1(Neg, T, -x)
PTRT_FN1(Abs, T, __builtin_fabs(x))
PTRT_FN1(Sign, T, x > 0 ? 1.0 : x < 0 ? -1.0 : x)
PTRT_FN1(Ceil, T, __builtin_ceil(x))
PTRT_FN1(Floor, T, __builtin_floor(x))
PTRT_FN1(Round, T, __builtin_rint(x))
PTRT_FN1(Trunc, T, __builtin_trunc(x))
PTRT_FN1(Sqrt, T, __builtin_sqrt(x))
PTRT_FN1(Rsqrt, T, 1.0 / __builtin_sqrt(x))
PTRT_FN1(Recip, T, 1.0 / x)
PTRT_FN1(Relu, T, x < 0 ? 0.0 : x)
PTRT_FN2(Add, T, x + y)
PTRT_FN2(Sub, T, x - y)
PTRT_FN2(Mul, T, x* y)
PTRT_FN2(Div, T, x / y)
PTRT_FN2(Max, T, (x >= y || x != x) ? x : y)
PTRT_FN2(Min, T, (x <= y || x != x) ? x : y)
PTRT_FN2(Pow, T, std::pow(x, y))
PTRT_FN1(IsNan, T, static_cast<uint8_t>(x != x))
PTRT_FN1(IsInfPos, T, static_cast<uint8_t>(x == __builtin_inf()))
PTRT_FN1(IsInfNeg, T, static_cast<uint8_t>(x == -__builtin_inf()))
PTRT_FN2(Eq, T, static_cast<uint8_t>(x == y))
PTRT_FN2(Ne, T, static_cast<uint8_t>(x != y))
PTRT_FN2(Lt, T, static_cast<uint8_t>(x < y))
PTRT_FN2(Le, T, static_cast<uint8_t>(x <= y))
PTRT_FN2(Gt, T, static_cast<uint8_t>(x > y))
PTRT_FN2(Ge, T, static_cast<uint8_t>(x >= y))

struct Fmod {
  PTRT_INLINE vd operator()(vd x, vd y) const { return vfmod<T>(x, y); }
};
struct Mod {  // the sign of the divisor, as numpy.mod
  PTRT_INLINE vd operator()(vd x, vd y) const { return vmod<T>(x, y); }
};

PTRT_FN1(Expm1, T, std::expm1(x))
PTRT_FN1(Tan, T, std::tan(x))
PTRT_FN1(Asin, T, std::asin(x))
PTRT_FN1(Acos, T, std::acos(x))
PTRT_FN1(Atan, T, std::atan(x))
PTRT_FN1(Sinh, T, std::sinh(x))
PTRT_FN1(Cosh, T, std::cosh(x))
PTRT_FN1(Asinh, T, std::asinh(x))
PTRT_FN1(Acosh, T, std::acosh(x))
PTRT_FN1(Atanh, T, std::atanh(x))
PTRT_FN1(Erf, T, std::erf(x))
PTRT_FN1(GeluErf, T, x == -__builtin_inf() ? -0.0 : x * 0.5 * std::erfc(x * -0.70710678118654752440))

struct Exp {
  PTRT_INLINE vd operator()(vd x) const { return vexp(x); }
};
struct Log {
  PTRT_INLINE vd operator()(vd x) const { return vlog(x); }
};
struct Log1p {
  PTRT_INLINE vd operator()(vd x) const { return vlog1p(x); }
};
struct Tanh {
  PTRT_INLINE vd operator()(vd x) const { return vtanh(x); }
};
struct Sigmoid {
  PTRT_INLINE vd operator()(vd x) const { return vsigmoid(x); }
};
struct Silu {
  PTRT_INLINE vd operator()(vd x) const { return x * vsigmoid(x); }
};
struct Softplus {
  PTRT_INLINE vd operator()(vd x) const { return select(x > 0.0, x, vd{}) + vlog1p(vexp(-vabs(x))); }
};
struct GeluTanh {
  PTRT_INLINE vd operator()(vd x) const {
    const vd b = vmind(splat(40.0), vmaxd(splat(-40.0), x));
    return select(x < -40.0, splat(-0.0), x * vsigmoid(b * (b * b * (0.044715 * 1.5957691216057308)) + b * 1.5957691216057308));
  }
};
#define PTRT_TRIG(name, fn, libm)                                  \
  struct name {                                                    \
    PTRT_INLINE vd operator()(vd x) const {                        \
      const bool small = !any((vl)(vabs(x) >= splat(kTrigLimit))); \
      if (__builtin_expect(small, 1)) return fn(x);                \
      for (int i = 0; i < WD; i++) x[i] = libm(x[i]);              \
      return x;                                                    \
    }                                                              \
  };
PTRT_TRIG(Sin, vsin, std::sin)
PTRT_TRIG(Cos, vcos, std::cos)

void muladd(const Args& s) {
  T* o = static_cast<T*>(s.o);
  const T *a = static_cast<const T*>(s.a[0]), *b = static_cast<const T*>(s.a[1]), *c = static_cast<const T*>(s.a[2]);
  const int64_t n = s.n;
  PTRT_IVDEP for (int64_t i = 0; i < n; i++) o[i] = a[i] * b[i] + c[i];
}

}  // namespace

Pick pick_muladd_f64() { return {muladd, 0}; }

Pick pick_f64(Op op) {
  switch (op) {
    case Op::neg_: return {step1<T, T, Neg>};
    case Op::abs_: return {step1<T, T, Abs>};
    case Op::sign_: return {step1<T, T, Sign>};
    case Op::ceil_: return {step1<T, T, Ceil>};
    case Op::floor_: return {step1<T, T, Floor>};
    case Op::round_: return {step1<T, T, Round>};
    case Op::trunc_: return {step1<T, T, Trunc>};
    case Op::sqrt_: return {step1<T, T, Sqrt>};
    case Op::rsqrt_: return {step1<T, T, Rsqrt>};
    case Op::recip_: return {step1<T, T, Recip>};
    case Op::relu_: return {step1<T, T, Relu>};
    case Op::add_: return {step2s<T, T, Add>, 3};
    case Op::sub_: return {step2s<T, T, Sub>, 3};
    case Op::mul_: return {step2s<T, T, Mul>, 3};
    case Op::div_: return {step2s<T, T, Div>, 3};
    case Op::max_: return {step2<T, T, Max>};
    case Op::min_: return {step2<T, T, Min>};
    case Op::mod_: return {vstep2d<Mod>};
    case Op::fmod_: return {vstep2d<Fmod>};
    case Op::pow_: return {step2<T, T, Pow>};
    case Op::exp_: return {vstep1d<Exp>};
    case Op::expm1_: return {step1<T, T, Expm1>};
    case Op::log_: return {vstep1d<Log>};
    case Op::log1p_: return {vstep1d<Log1p>};
    case Op::sin_: return {vstep1d<Sin>};
    case Op::cos_: return {vstep1d<Cos>};
    case Op::tan_: return {step1<T, T, Tan>};
    case Op::asin_: return {step1<T, T, Asin>};
    case Op::acos_: return {step1<T, T, Acos>};
    case Op::atan_: return {step1<T, T, Atan>};
    case Op::sinh_: return {step1<T, T, Sinh>};
    case Op::cosh_: return {step1<T, T, Cosh>};
    case Op::tanh_: return {vstep1d<Tanh>};
    case Op::asinh_: return {step1<T, T, Asinh>};
    case Op::acosh_: return {step1<T, T, Acosh>};
    case Op::atanh_: return {step1<T, T, Atanh>};
    case Op::erf_: return {step1<T, T, Erf>};
    case Op::sigmoid_: return {vstep1d<Sigmoid>};
    case Op::softplus_: return {vstep1d<Softplus>};
    case Op::silu_: return {vstep1d<Silu>};
    case Op::gelu_erf_: return {step1<T, T, GeluErf>};
    case Op::gelu_tanh_: return {vstep1d<GeluTanh>};
    case Op::isnan_: return {step1<uint8_t, T, IsNan>};
    case Op::isinf_pos_: return {step1<uint8_t, T, IsInfPos>};
    case Op::isinf_neg_: return {step1<uint8_t, T, IsInfNeg>};
    case Op::eq_: return {step2<uint8_t, T, Eq>};
    case Op::ne_: return {step2<uint8_t, T, Ne>};
    case Op::lt_: return {step2<uint8_t, T, Lt>};
    case Op::le_: return {step2<uint8_t, T, Le>};
    case Op::gt_: return {step2<uint8_t, T, Gt>};
    case Op::ge_: return {step2<uint8_t, T, Ge>};
    default: return {};
  }
}

}  // namespace ptrt::PTRT_LEVEL
