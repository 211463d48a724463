// Steps in integers (booleans are u8). Everything wraps and nothing traps.
#include "cpu/vm_loops.h"

namespace ptrt::PTRT_LEVEL {
namespace {

template <class T>
struct IntOps {
  using U = std::make_unsigned_t<T>;
  using P = std::conditional_t<sizeof(T) < 4, uint32_t, U>;  // unsigned and not promoted to int
  static constexpr bool is_signed = std::is_signed<T>::value;
  static constexpr int bits = sizeof(T) * 8;

  PTRT_FN1(Neg, T, static_cast<T>(P{0} - static_cast<P>(x)))
  PTRT_FN1(Abs, T, x < 0 ? static_cast<T>(P{0} - static_cast<P>(x)) : x)
  PTRT_FN1(Sign, T, static_cast<T>((x > 0) - (x < 0)))
  PTRT_FN1(Relu, T, x < 0 ? T{0} : x)
  PTRT_FN1(Not, T, static_cast<T>(~x))
  PTRT_FN2(Add, T, static_cast<T>(static_cast<P>(x) + static_cast<P>(y)))
  PTRT_FN2(Sub, T, static_cast<T>(static_cast<P>(x) - static_cast<P>(y)))
  PTRT_FN2(Mul, T, static_cast<T>(static_cast<P>(x) * static_cast<P>(y)))
  PTRT_FN2(Max, T, x > y ? x : y)
  PTRT_FN2(Min, T, x < y ? x : y)
  PTRT_FN2(And, T, static_cast<T>(x& y))
  PTRT_FN2(Or, T, static_cast<T>(x | y))
  PTRT_FN2(Xor, T, static_cast<T>(x ^ y))
  PTRT_FN2(Shl, T, static_cast<U>(y) >= bits ? T{0} : static_cast<T>(static_cast<P>(x) << (static_cast<U>(y) & (bits - 1))))
  PTRT_FN2(Shr, T, static_cast<U>(y) >= bits ? T{0} : static_cast<T>(x >> (static_cast<U>(y) & (bits - 1))))
  PTRT_FN2(Eq, T, static_cast<uint8_t>(x == y))
  PTRT_FN2(Ne, T, static_cast<uint8_t>(x != y))
  PTRT_FN2(Lt, T, static_cast<uint8_t>(x < y))
  PTRT_FN2(Le, T, static_cast<uint8_t>(x <= y))
  PTRT_FN2(Gt, T, static_cast<uint8_t>(x > y))
  PTRT_FN2(Ge, T, static_cast<uint8_t>(x >= y))

  static T negated(T x) { return static_cast<T>(P{0} - static_cast<P>(x)); }
  struct Div {
    T operator()(T x, T y) const {
      if (y == 0) return 0;
      if (is_signed && y == static_cast<T>(-1)) return negated(x);
      return static_cast<T>(x / y);
    }
  };
  struct Fmod {
    T operator()(T x, T y) const {
      if (y == 0 || (is_signed && y == static_cast<T>(-1))) return 0;
      return static_cast<T>(x % y);
    }
  };
  struct Mod {
    T operator()(T x, T y) const {
      T r = Fmod()(x, y);
      return r != 0 && (r < 0) != (y < 0) ? static_cast<T>(r + y) : r;
    }
  };
  // By squaring. A negative exponent gives the truncated reciprocal power: 0 except for bases 1 and -1 (and 0 for base 0).
  struct Pow {
    T operator()(T x, T y) const {
      if (y < 0) {
        if (x == 1) return 1;
        if (x == static_cast<T>(-1)) return y & 1 ? x : T{1};
        return 0;
      }
      P base = static_cast<P>(x), r = 1;
      for (U e = static_cast<U>(y); e; e = static_cast<U>(e >> 1)) {
        if (e & 1) r *= base;
        base *= base;
      }
      return static_cast<T>(r);
    }
  };

  static Pick pick(Op op) {
    using UI = U;  // sign does not matter: shared with the unsigned type
    using O = IntOps<U>;
    switch (op) {
      case Op::neg_: return {step1<UI, UI, typename O::Neg>};
      case Op::abs_: return {step1<T, T, Abs>};
      case Op::sign_: return {step1<T, T, Sign>};
      case Op::relu_: return {step1<T, T, Relu>};
      case Op::bnot_: return {step1<UI, UI, typename O::Not>};
      case Op::add_: return {step2s<UI, UI, typename O::Add>, 3};
      case Op::sub_: return {step2s<UI, UI, typename O::Sub>, 3};
      case Op::mul_: return {step2s<UI, UI, typename O::Mul>, 3};
      case Op::div_: return {step2<T, T, Div>};
      case Op::mod_: return {step2<T, T, Mod>};
      case Op::fmod_: return {step2<T, T, Fmod>};
      case Op::pow_: return {step2<T, T, Pow>};
      case Op::max_: return {step2<T, T, Max>};
      case Op::min_: return {step2<T, T, Min>};
      case Op::band_: return {step2<UI, UI, typename O::And>};
      case Op::bor_: return {step2<UI, UI, typename O::Or>};
      case Op::bxor_: return {step2<UI, UI, typename O::Xor>};
      case Op::shl_: return {step2<UI, UI, typename O::Shl>};
      case Op::shr_: return {step2<T, T, Shr>};
      case Op::eq_: return {step2<uint8_t, UI, typename O::Eq>};
      case Op::ne_: return {step2<uint8_t, UI, typename O::Ne>};
      case Op::lt_: return {step2<uint8_t, T, Lt>};
      case Op::le_: return {step2<uint8_t, T, Le>};
      case Op::gt_: return {step2<uint8_t, T, Gt>};
      case Op::ge_: return {step2<uint8_t, T, Ge>};
      default: return {};
    }
  }
};

PTRT_FN2(LAnd, uint8_t, static_cast<uint8_t>((x != 0) & (y != 0)))
PTRT_FN2(LOr, uint8_t, static_cast<uint8_t>((x | y) != 0))
PTRT_FN2(LXor, uint8_t, static_cast<uint8_t>((x != 0) != (y != 0)))
PTRT_FN1(LNot, uint8_t, static_cast<uint8_t>(x == 0))

template <class T>
void where(const Args& s) {
  T* o = static_cast<T*>(s.o);
  const uint8_t* c = static_cast<const uint8_t*>(s.a[0]);
  const T *a = static_cast<const T*>(s.a[1]), *b = static_cast<const T*>(s.a[2]);
  const int64_t n = s.n;
  const T x = *a, y = *b;
  switch (s.scalar & 6) {
    case 0:
      PTRT_IVDEP for (int64_t i = 0; i < n; i++) {
        const T u = a[i], v = b[i];
        o[i] = c[i] ? u : v;
      }
      break;
    case 2:
      PTRT_IVDEP for (int64_t i = 0; i < n; i++) {
        const T v = b[i];
        o[i] = c[i] ? x : v;
      }
      break;
    case 4:
      PTRT_IVDEP for (int64_t i = 0; i < n; i++) {
        const T u = a[i];
        o[i] = c[i] ? u : y;
      }
      break;
    default: PTRT_IVDEP for (int64_t i = 0; i < n; i++) o[i] = c[i] ? x : y;
  }
}

}  // namespace

Pick pick_where(int size) {
  switch (size) {
    case 1: return {where<uint8_t>, 6};
    case 2: return {where<uint16_t>, 6};
    case 4: return {where<uint32_t>, 6};
    default: return {where<uint64_t>, 6};
  }
}

Pick pick_int(Op op, Comp c) {
  switch (op) {
    case Op::ceil_:
    case Op::floor_:
    case Op::round_:
    case Op::trunc_: return pick_copy(comp_size(c));
    case Op::land_: return {step2<uint8_t, uint8_t, LAnd>};
    case Op::lor_: return {step2<uint8_t, uint8_t, LOr>};
    case Op::lxor_: return {step2<uint8_t, uint8_t, LXor>};
    case Op::lnot_: return {step1<uint8_t, uint8_t, LNot>};
    default: break;
  }
  switch (c) {
    case Comp::i8: return IntOps<int8_t>::pick(op);
    case Comp::u8: return IntOps<uint8_t>::pick(op);
    case Comp::i16: return IntOps<int16_t>::pick(op);
    case Comp::u16: return IntOps<uint16_t>::pick(op);
    case Comp::i32: return IntOps<int32_t>::pick(op);
    case Comp::u32: return IntOps<uint32_t>::pick(op);
    case Comp::i64: return IntOps<int64_t>::pick(op);
    case Comp::u64: return IntOps<uint64_t>::pick(op);
    default: return {};
  }
}

}  // namespace ptrt::PTRT_LEVEL
