// Steps in f32.
#include <cmath>

#include "cpu/vfmod.h"
#include "cpu/vm_loops.h"
#include "cpu/vmath.h"
#include "cpu/vmath64.h"

namespace ptrt::PTRT_LEVEL {
namespace {

typedef float T;
PTRT_FN1(Neg, T, -x)
PTRT_FN1(Abs, T, __builtin_fabsf(x))
PTRT_FN1(Sign, T, x > 0 ? 1.0f : x < 0 ? -1.0f : x)
PTRT_FN1(Ceil, T, __builtin_ceilf(x))
PTRT_FN1(Floor, T, __builtin_floorf(x))
PTRT_FN1(Round, T, __builtin_rintf(x))
PTRT_FN1(Trunc, T, __builtin_truncf(x))
PTRT_FN1(Sqrt, T, __builtin_sqrtf(x))
PTRT_FN1(Rsqrt, T, 1.0f / __builtin_sqrtf(x))
PTRT_FN1(Recip, T, 1.0f / x)
PTRT_FN1(Relu, T, x < 0 ? 0.0f : x)
PTRT_FN2(Add, T, x + y)
PTRT_FN2(Sub, T, x - y)
PTRT_FN2(Mul, T, x* y)
PTRT_FN2(Div, T, x / y)
PTRT_FN2(Max, T, (x >= y || x != x) ? x : y)
PTRT_FN2(Min, T, (x <= y || x != x) ? x : y)
PTRT_FN1(IsNan, T, static_cast<uint8_t>(x != x))
PTRT_FN1(IsInfPos, T, static_cast<uint8_t>(x == __builtin_inff()))
PTRT_FN1(IsInfNeg, T, static_cast<uint8_t>(x == -__builtin_inff()))
PTRT_FN2(Eq, T, static_cast<uint8_t>(x == y))
PTRT_FN2(Ne, T, static_cast<uint8_t>(x != y))
PTRT_FN2(Lt, T, static_cast<uint8_t>(x < y))
PTRT_FN2(Le, T, static_cast<uint8_t>(x <= y))
PTRT_FN2(Gt, T, static_cast<uint8_t>(x > y))
PTRT_FN2(Ge, T, static_cast<uint8_t>(x >= y))

struct Fmod {
  PTRT_INLINE vf operator()(vf x, vf y) const { return vfmod<T>(x, y); }
};
struct Mod {  // the sign of the divisor, as numpy.mod
  PTRT_INLINE vf operator()(vf x, vf y) const { return vmod<T>(x, y); }
};

#define PTRT_VFN(name, fn)                                  \
  struct name {                                             \
    PTRT_INLINE vf operator()(vf x) const { return fn(x); } \
  };
PTRT_VFN(Exp, vexp)
PTRT_VFN(Expm1, vexpm1)
PTRT_VFN(Log, vlog)
PTRT_VFN(Log1p, vlog1p)
PTRT_VFN(Tanh, vtanh)
PTRT_VFN(Erf, verf)
PTRT_VFN(Sigmoid, vsigmoid)
PTRT_VFN(Softplus, vsoftplus)
PTRT_VFN(Silu, vsilu)
PTRT_VFN(GeluErf, vgelu_erf)
PTRT_VFN(GeluTanh, vgelu_tanh)

#define PTRT_WIDE(name, fn)                                                                     \
  struct name {                                                                                 \
    PTRT_INLINE vf operator()(vf x) const { return joined(fn(low_half(x)), fn(high_half(x))); } \
  };
PTRT_WIDE(Asin, asin_f32)
PTRT_WIDE(Acos, acos_f32)
PTRT_WIDE(Atan, atan_f32)
PTRT_WIDE(Sinh, sinh_f32)
PTRT_WIDE(Cosh, cosh_f32)
PTRT_WIDE(Asinh, asinh_f32)
PTRT_WIDE(Acosh, acosh_f32)
PTRT_WIDE(Atanh, atanh_f32)

// Arguments beyond the range of the vector reduction are rare: their vectors go through libm.
#define PTRT_TRIG(name, fn, libm)                                                             \
  struct name {                                                                               \
    PTRT_INLINE vf operator()(vf x) const {                                                   \
      const bool small = !any(vabs(x) >= splat(static_cast<float>(kTrigLimit)));              \
      if (__builtin_expect(small, 1)) return joined(fn(low_half(x)), fn(high_half(x)));       \
      for (int i = 0; i < W; i++) x[i] = static_cast<float>(libm(static_cast<double>(x[i]))); \
      return x;                                                                               \
    }                                                                                         \
  };
PTRT_TRIG(Sin, sin_f32, std::sin)
PTRT_TRIG(Cos, cos_f32, std::cos)
PTRT_TRIG(Tan, tan_f32, std::tan)

PTRT_FN1(Square, T, x* x)
PTRT_FN1(Cube, T, x * x * x)

// The exponents that models use are powers by multiplication.
void pow_step(const Args& s) {
  float* o = static_cast<float*>(s.o);
  const float *a = static_cast<const float*>(s.a[0]), *b = static_cast<const float*>(s.a[1]);
  const bool one = s.scalar & 2;
  if (one && *b == 2) return step1<T, T, Square>(s);
  if (one && *b == 3) return step1<T, T, Cube>(s);
  const vf e = splat(*b);
  for (int64_t i = 0; i < s.n; i += W) {
    const int n = s.n - i < W ? static_cast<int>(s.n - i) : W;
    const vf x = load_n(a + i, n), y = one ? e : load_n(b + i, n);
    store_n(o + i, joined(pow_f32(low_half(x), low_half(y)), pow_f32(high_half(x), high_half(y))), n);
  }
}

void muladd(const Args& s) {
  T* o = static_cast<T*>(s.o);
  const T *a = static_cast<const T*>(s.a[0]), *b = static_cast<const T*>(s.a[1]), *c = static_cast<const T*>(s.a[2]);
  const int64_t n = s.n;
  const T y = *b, z = *c;
  if (s.scalar & 1) {  // the product commutes, and a product of two scalars would have been a scalar step
    Args swapped = s;
    swapped.a[0] = s.a[1], swapped.a[1] = s.a[0];
    swapped.scalar = (s.scalar & 4) | ((s.scalar & 1) << 1) | ((s.scalar >> 1) & 1);
    if (swapped.scalar & 1) {
      const T p = *a;
      PTRT_IVDEP for (int64_t i = 0; i < n; i++) o[i] = p * y + c[i];
      return;
    }
    return muladd(swapped);
  }
  switch (s.scalar) {
    case 0: PTRT_IVDEP for (int64_t i = 0; i < n; i++) o[i] = a[i] * b[i] + c[i]; break;
    case 2: PTRT_IVDEP for (int64_t i = 0; i < n; i++) o[i] = a[i] * y + c[i]; break;
    case 4: PTRT_IVDEP for (int64_t i = 0; i < n; i++) o[i] = a[i] * b[i] + z; break;
    default: PTRT_IVDEP for (int64_t i = 0; i < n; i++) o[i] = a[i] * y + z;
  }
}

}  // namespace

Pick pick_muladd(Comp c) {
  if (c == Comp::f32) return {muladd, 7};
  return {};
}

Pick pick_f32(Op op) {
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
    case Op::max_: return {step2s<T, T, Max>, 3};
    case Op::min_: return {step2s<T, T, Min>, 3};
    case Op::mod_: return {vstep2<Mod>};
    case Op::fmod_: return {vstep2<Fmod>};
    case Op::pow_: return {pow_step, 2};
    case Op::exp_: return {vstep1<Exp>};
    case Op::expm1_: return {vstep1<Expm1>};
    case Op::log_: return {vstep1<Log>};
    case Op::log1p_: return {vstep1<Log1p>};
    case Op::sin_: return {vstep1<Sin>};
    case Op::cos_: return {vstep1<Cos>};
    case Op::tan_: return {vstep1<Tan>};
    case Op::asin_: return {vstep1<Asin>};
    case Op::acos_: return {vstep1<Acos>};
    case Op::atan_: return {vstep1<Atan>};
    case Op::sinh_: return {vstep1<Sinh>};
    case Op::cosh_: return {vstep1<Cosh>};
    case Op::tanh_: return {vstep1<Tanh>};
    case Op::asinh_: return {vstep1<Asinh>};
    case Op::acosh_: return {vstep1<Acosh>};
    case Op::atanh_: return {vstep1<Atanh>};
    case Op::erf_: return {vstep1<Erf>};
    case Op::sigmoid_: return {vstep1<Sigmoid>};
    case Op::softplus_: return {vstep1<Softplus>};
    case Op::silu_: return {vstep1<Silu>};
    case Op::gelu_erf_: return {vstep1<GeluErf>};
    case Op::gelu_tanh_: return {vstep1<GeluTanh>};
    case Op::isnan_: return {step1<uint8_t, T, IsNan>};
    case Op::isinf_pos_: return {step1<uint8_t, T, IsInfPos>};
    case Op::isinf_neg_: return {step1<uint8_t, T, IsInfNeg>};
    case Op::eq_: return {step2s<uint8_t, T, Eq>, 3};
    case Op::ne_: return {step2s<uint8_t, T, Ne>, 3};
    case Op::lt_: return {step2s<uint8_t, T, Lt>, 3};
    case Op::le_: return {step2s<uint8_t, T, Le>, 3};
    case Op::gt_: return {step2s<uint8_t, T, Gt>, 3};
    case Op::ge_: return {step2s<uint8_t, T, Ge>, 3};
    default: return {};
  }
}

}  // namespace ptrt::PTRT_LEVEL
