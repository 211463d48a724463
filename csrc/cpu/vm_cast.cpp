// Conversions between compute types.
//
// Integers wrap. Floats truncate towards zero; what lies outside the range is defined as x86 has it, which is what NumPy shows there: to 8
// and 16 bits by way of int32 and to uint32 by way of int64, of which the low bits are kept; NaN and values outside int32 (int64) give the
// lowest int32 (int64). To uint64, negative values go by way of int64, and values from 2^64 on and NaN give 2^63.
#include "cpu/bytes.h"
#include "cpu/vm_loops.h"

namespace ptrt::PTRT_LEVEL {
namespace {

template <class O, class A>
void conv(const Args& s) {
  loop1<O, A>(s, [](A x) { return static_cast<O>(x); });
}

template <class A>
void to_i32(const Args& s) {
  loop1<int32_t, A>(s, [](A x) {
    const bool ok =
        x > static_cast<A>(-2147483904.0) && x < static_cast<A>(2147483648.0) && (sizeof(A) == 4 || x > static_cast<A>(-2147483649.0));
    const int32_t r = static_cast<int32_t>(ok ? x : A{0});
    return ok ? r : INT32_MIN;
  });
}

template <class A>
void to_i64(const Args& s) {
  loop1<int64_t, A>(s, [](A x) {
    const bool ok = x >= static_cast<A>(-9223372036854775808.0) && x < static_cast<A>(9223372036854775808.0);
    const int64_t r = static_cast<int64_t>(ok ? x : A{0});
    return ok ? r : INT64_MIN;
  });
}

template <class A>
void to_u64(const Args& s) {
  loop1<uint64_t, A>(s, [](A x) {
    constexpr A half = static_cast<A>(9223372036854775808.0);
    if (x >= half) return x < 2 * half ? static_cast<uint64_t>(x - half) + (uint64_t{1} << 63) : uint64_t{1} << 63;
    return x >= -half ? static_cast<uint64_t>(static_cast<int64_t>(x)) : uint64_t{1} << 63;
  });
}

template <class A>
void truth(const Args& s) {
  loop1<uint8_t, A>(s, [](A x) { return static_cast<uint8_t>(x != 0); });
}

template <class T>
void copy(const Args& s) {
  if (s.o != s.a[0]) std::memmove(s.o, s.a[0], static_cast<size_t>(s.n) * sizeof(T));
}
struct Pair {
  uint64_t a, b;
};

void to_odd(const Args& s) {
  loop1<float, double>(s, [](double x) {
    float f = static_cast<float>(x);
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    if (static_cast<double>(f) != x) bits = (bits - (__builtin_fabs(static_cast<double>(f)) > __builtin_fabs(x) ? 1u : 0u)) | 1u;
    std::memcpy(&f, &bits, 4);
    return f;
  });
}

// What quantised models do to every element, in explicit vectors: this file is compiled for size.
template <class A>
void byte_to_float(const Args& s) {
  float* o = static_cast<float*>(s.o);
  const A* a = static_cast<const A*>(s.a[0]);
  int64_t i = 0;
  for (; i + W <= s.n; i += W) store(o + i, to_float(widened<A>(a + i)));
  for (; i < s.n; i++) o[i] = a[i];
}
template <class A>
void byte_to_i32(const Args& s) {
  int32_t* o = static_cast<int32_t*>(s.o);
  const A* a = static_cast<const A*>(s.a[0]);
  int64_t i = 0;
  for (; i + W <= s.n; i += W) store(o + i, widened<A>(a + i));
  for (; i < s.n; i++) o[i] = a[i];
}
void i32_to_float(const Args& s) {
  float* o = static_cast<float*>(s.o);
  const int32_t* a = static_cast<const int32_t*>(s.a[0]);
  int64_t i = 0;
  for (; i + W <= s.n; i += W) store(o + i, to_float(load(a + i)));
  for (; i < s.n; i++) o[i] = static_cast<float>(a[i]);
}
void i32_to_byte(const Args& s) {  // the low bits
  uint8_t* o = static_cast<uint8_t*>(s.o);
  const int32_t* a = static_cast<const int32_t*>(s.a[0]);
  for (int64_t i = 0; i < s.n; i += W) {
    if (i + W <= s.n) store_bytes(o + i, load(a + i), W);
    else
      for (int64_t k = i; k < s.n; k++) o[k] = static_cast<uint8_t>(a[k]);
  }
}

// imm[0]: the scale, imm[1]: the zero point.
template <class B, bool DIVIDES>
void quantize(const Args& s) {
  const float* a = static_cast<const float*>(s.a[0]);
  uint8_t* o = static_cast<uint8_t*>(s.o);
  constexpr int least = B(-1) < B(0) ? -128 : 0;
  const int zero = static_cast<int>(s.imm[1].i);
  const vf scale = splat(static_cast<float>(s.imm[0].f)), lo = splat(static_cast<float>(least - zero)),
           hi = splat(static_cast<float>(least + 255 - zero));
  const vi add = splat(zero);
  for (int64_t i = 0; i < s.n; i += W) {
    const int n = s.n - i < W ? static_cast<int>(s.n - i) : W;
    vf x = n == W ? load(a + i) : load_n(a + i, n);
    if (DIVIDES) x /= scale;
    store_bytes(o + i, rounded(bounded(x, lo, hi)) + add, n);
  }
}
template <class B>
void quantize_each(const Args& s) {
  const float *a = static_cast<const float*>(s.a[0]), *b = static_cast<const float*>(s.a[1]);
  const B* c = static_cast<const B*>(s.a[2]);
  uint8_t* o = static_cast<uint8_t*>(s.o);
  constexpr float least = B(-1) < B(0) ? -128 : 0;
  const bool one_scale = s.scalar & 2, one_zero = s.scalar & 4;
  if (one_scale && one_zero) {
    Args constant = s;
    constant.imm[0].f = static_cast<double>(*b), constant.imm[1].i = *c;
    return quantize<B, true>(constant);
  }
  vf scale = splat(*b), zero = splat(static_cast<float>(*c));
  for (int64_t i = 0; i < s.n; i += W) {
    const int n = s.n - i < W ? static_cast<int>(s.n - i) : W;
    if (!one_scale) scale = load_n(b + i, n);
    if (!one_zero) zero = load_bytes(c + i, n);
    store_bytes(o + i, rounded(bounded(load_n(a + i, n) / scale, least - zero, least + 255 - zero)) + rounded(zero), n);
  }
}
template <class B>
void dequantize(const Args& s) {
  const B* a = static_cast<const B*>(s.a[0]);
  float* o = static_cast<float*>(s.o);
  const vf scale = splat(static_cast<float>(s.imm[0].f)), zero = splat(static_cast<float>(s.imm[1].i));
  int64_t i = 0;
  for (; i + W <= s.n; i += W) store(o + i, (to_float(widened<B>(a + i)) - zero) * scale);
  if (i < s.n) store_n(o + i, (load_bytes(a + i, static_cast<int>(s.n - i)) - zero) * scale, static_cast<int>(s.n - i));
}

template <class B>
void muladd_bytes(const Args& s) {
  const B* a = static_cast<const B*>(s.a[0]);
  const float* b = static_cast<const float*>(s.a[1]);
  float* o = static_cast<float*>(s.o);
  const float factor = static_cast<float>(s.imm[0].f);
  const bool one = s.scalar & 2;
  vf sum = splat(*b);
  int64_t i = 0;
  for (; i + W <= s.n; i += W) {
    if (!one) sum = load(b + i);
    store(o + i, to_float(widened<B>(a + i)) * splat(factor) + sum);
  }
  for (; i < s.n; i++) o[i] = static_cast<float>(a[i]) * factor + b[one ? 0 : i];
}

// Saturating conversions: imm[0], imm[1] are the bounds.
void sat_float_byte(const Args& s) {  // bounds of 8 bits or less; the result is int32
  const float* a = static_cast<const float*>(s.a[0]);
  int32_t* o = static_cast<int32_t*>(s.o);
  const vf lo = splat(static_cast<float>(s.imm[0].i)), hi = splat(static_cast<float>(s.imm[1].i));
  for (int64_t i = 0; i < s.n; i += W) {
    const int n = s.n - i < W ? static_cast<int>(s.n - i) : W;
    store_n(reinterpret_cast<float*>(o + i), (vf)rounded(bounded(load_n(a + i, n), lo, hi)), n);
  }
}
template <class A>
void sat_float_i32(const Args& s) {  // bounds within int32
  const A lo = static_cast<A>(s.imm[0].i), hi = static_cast<A>(s.imm[1].i);
  const int32_t top = static_cast<int32_t>(s.imm[1].i);
  loop1<int32_t, A>(s, [lo, hi, top](A x) {
    A r = sizeof(A) == 4 ? static_cast<A>(__builtin_rintf(static_cast<float>(x))) : static_cast<A>(__builtin_rint(x));
    r = r > lo ? r : lo;  // NaN: the lower bound
    const bool over = r >= hi;
    const int32_t v = static_cast<int32_t>(over ? A{0} : r);
    return over ? top : v;
  });
}
template <class A>
void sat_float_i64(const Args& s) {  // bounds of 32 or 64 bits, signed or not; the result is their low 64 bits
  const int64_t lo = s.imm[0].i;
  const uint64_t hi = s.imm[1].u;
  loop1<int64_t, A>(s, [lo, hi](A x) {
    const double r = __builtin_rint(static_cast<double>(x));
    if (!(r > static_cast<double>(lo))) return lo;
    if (r >= static_cast<double>(hi)) return static_cast<int64_t>(hi);
    return r < 9223372036854775808.0 ? static_cast<int64_t>(r) : static_cast<int64_t>(static_cast<uint64_t>(r));
  });
}
void sat_i64(const Args& s) {  // from signed
  const int64_t lo = s.imm[0].i;
  const uint64_t hi = s.imm[1].u;
  loop1<int64_t, int64_t>(s, [lo, hi](int64_t x) {
    if (x < lo) return lo;
    return x > 0 && static_cast<uint64_t>(x) > hi ? static_cast<int64_t>(hi) : x;
  });
}
void sat_u64(const Args& s) {
  const uint64_t hi = s.imm[1].u;
  loop1<uint64_t, uint64_t>(s, [hi](uint64_t x) { return x > hi ? hi : x; });
}
void sat_i32(const Args& s) {
  const int32_t lo = static_cast<int32_t>(s.imm[0].i), hi = static_cast<int32_t>(s.imm[1].i);
  loop1<int32_t, int32_t>(s, [lo, hi](int32_t x) { return x < lo ? lo : x > hi ? hi : x; });
}

bool is_float(Comp c) { return c == Comp::f32 || c == Comp::f64; }
bool is_signed(Comp c) { return c == Comp::i8 || c == Comp::i16 || c == Comp::i32 || c == Comp::i64; }
int64_t i64_of(uint64_t x) { return static_cast<int64_t>(x); }

Fn resize_fn(Comp from, int to) {  // int to int of another size
  switch (from) {
    case Comp::i8: return to == 2 ? conv<int16_t, int8_t> : to == 4 ? byte_to_i32<int8_t> : conv<int64_t, int8_t>;
    case Comp::u8: return to == 2 ? conv<uint16_t, uint8_t> : to == 4 ? byte_to_i32<uint8_t> : conv<uint64_t, uint8_t>;
    case Comp::i16: return to == 1 ? conv<uint8_t, uint16_t> : to == 4 ? conv<int32_t, int16_t> : conv<int64_t, int16_t>;
    case Comp::u16: return to == 1 ? conv<uint8_t, uint16_t> : to == 4 ? conv<uint32_t, uint16_t> : conv<uint64_t, uint16_t>;
    case Comp::i32: return to == 1 ? i32_to_byte : to == 2 ? conv<uint16_t, uint32_t> : conv<int64_t, int32_t>;
    case Comp::u32: return to == 1 ? i32_to_byte : to == 2 ? conv<uint16_t, uint32_t> : conv<uint64_t, uint32_t>;
    default: return to == 1 ? conv<uint8_t, uint64_t> : to == 2 ? conv<uint16_t, uint64_t> : conv<uint32_t, uint64_t>;
  }
}

}  // namespace

Pick pick_copy(int size) {
  switch (size) {
    case 1: return {copy<uint8_t>};
    case 2: return {copy<uint16_t>};
    case 4: return {copy<uint32_t>};
    case 8: return {copy<uint64_t>};
    default: return {copy<Pair>};
  }
}

CastStep odd_f32_step() { return {to_odd, Comp::f32, {}}; }

CastStep truth_step(Comp from) {
  Fn fn = nullptr;
  if (from == Comp::f32) fn = truth<float>;
  else if (from == Comp::f64) fn = truth<double>;
  else switch (comp_size(from)) {
      case 1: fn = truth<uint8_t>; break;
      case 2: fn = truth<uint16_t>; break;
      case 4: fn = truth<uint32_t>; break;
      default: fn = truth<uint64_t>;
    }
  return {fn, Comp::u8, {}};
}

CastStep quantize_step(Comp to, float scale, int zero) {
  CastStep s{nullptr, to, {}};
  if (to == Comp::i8) s.fn = scale == 1 ? quantize<int8_t, false> : quantize<int8_t, true>;
  else s.fn = scale == 1 ? quantize<uint8_t, false> : quantize<uint8_t, true>;
  s.imm[0].f = static_cast<double>(scale);
  s.imm[1].i = zero;
  return s;
}

CastStep dequantize_step(Comp from, float scale, int zero) {
  CastStep s{from == Comp::i8 ? dequantize<int8_t> : dequantize<uint8_t>, Comp::f32, {}};
  s.imm[0].f = static_cast<double>(scale);
  s.imm[1].i = zero;
  return s;
}

Pick quantize_by(Comp to) { return {to == Comp::i8 ? quantize_each<int8_t> : quantize_each<uint8_t>, 6}; }

Pick byte_muladd(Comp from) { return {from == Comp::i8 ? muladd_bytes<int8_t> : muladd_bytes<uint8_t>, 2}; }

int cast_steps(Comp from, Comp to, CastStep* steps) {
  int n = 0;
  auto add = [&](Fn fn, Comp c) { steps[n++] = {fn, c, {}}; };
  if (from == to) return 0;
  if (is_float(to)) {
    const bool f32 = to == Comp::f32;
    switch (from) {
      case Comp::f32: add(conv<double, float>, to); break;
      case Comp::f64: add(conv<float, double>, to); break;
      case Comp::i8: add(f32 ? byte_to_float<int8_t> : conv<double, int8_t>, to); break;
      case Comp::u8: add(f32 ? byte_to_float<uint8_t> : conv<double, uint8_t>, to); break;
      case Comp::i16: add(f32 ? conv<float, int16_t> : conv<double, int16_t>, to); break;
      case Comp::u16: add(f32 ? conv<float, uint16_t> : conv<double, uint16_t>, to); break;
      case Comp::i32: add(f32 ? i32_to_float : conv<double, int32_t>, to); break;
      case Comp::u32: add(f32 ? conv<float, uint32_t> : conv<double, uint32_t>, to); break;
      case Comp::i64: add(f32 ? conv<float, int64_t> : conv<double, int64_t>, to); break;
      default: add(f32 ? conv<float, uint64_t> : conv<double, uint64_t>, to);
    }
    return n;
  }
  if (is_float(from)) {
    const bool f32 = from == Comp::f32;
    if (to == Comp::u64) {
      add(f32 ? to_u64<float> : to_u64<double>, Comp::u64);
    } else if (to == Comp::i64 || to == Comp::u32) {
      add(f32 ? to_i64<float> : to_i64<double>, Comp::i64);
    } else {
      add(f32 ? to_i32<float> : to_i32<double>, Comp::i32);
    }
    from = steps[0].to;
  }
  if (comp_size(from) != comp_size(to)) add(resize_fn(from, comp_size(to)), to);
  if (n) steps[n - 1].to = to;
  return n;
}

int cast_sat_steps(Comp from, Comp to, int64_t lo, uint64_t hi, CastStep* steps) {
  int n = 0;
  auto add = [&](Fn fn, Comp c) { steps[n++] = {fn, c, {}}; };
  const bool fits = comp_size(to) < 4 || to == Comp::i32;  // the bounds are int32
  Comp wide;
  if (is_float(from)) {
    if (fits && from == Comp::f32 && comp_size(to) == 1) add(sat_float_byte, wide = Comp::i32);
    else if (fits) add(from == Comp::f32 ? sat_float_i32<float> : sat_float_i32<double>, wide = Comp::i32);
    else add(from == Comp::f32 ? sat_float_i64<float> : sat_float_i64<double>, wide = Comp::i64);
  } else {
    const bool narrow = fits && (comp_size(from) < 4 || from == Comp::i32);
    wide = narrow ? Comp::i32 : is_signed(from) ? Comp::i64 : Comp::u64;
    if (comp_size(from) != comp_size(wide)) add(resize_fn(from, comp_size(wide)), wide);
    add(narrow ? sat_i32 : is_signed(from) ? sat_i64 : sat_u64, wide);
  }
  steps[n - 1].imm[0].i = lo;
  steps[n - 1].imm[1].i = i64_of(hi);
  if (comp_size(wide) != comp_size(to)) add(resize_fn(wide, comp_size(to)), to);
  steps[n - 1].to = to;
  return n;
}

}  // namespace ptrt::PTRT_LEVEL
