// What a reduction keeps of the elements it has seen: one structure per kind, of registers, with neutral(), take(element, position along
// the reduced axis), join(other) and result<Acc>(finish, number of elements). OP is a number of `Reduction`; X the storage type of the
// elements.
//
// * Sums of floats are kept in f32 (f64: f64); sweep.cuh bounds the length of the chains. Integers are summed in 64 bits and wrap.
// * log_sum_exp is one pass: a sum that is scaled anew whenever the maximum grows. One exponential per element either way.
// * An extreme's position breaks ties, so the order in which elements are taken does not matter.
// No structure has padding or constructors: they travel through shared memory and scratch.
#pragma once
#include "block.cuh"
#include "ops.cuh"

// kArg*: the position of the extreme. kRange: the smallest and largest value, and 0. The numbers are those of kernels/cuda/plans/rows.py.
enum Reduction { kSum, kSquare, kAbs, kProd, kMax, kMin, kLogSumExp, kArgMax, kArgMin, kLastArgMax, kLastArgMin, kRange };
// What becomes of a sum: a field, so that e.g. sum, mean and log_sum are one kernel.
enum Finish { kPlain, kMean, kRoot, kLog };

template <int OP, class X>
struct SumOf {
  using Real = typename Select<same<X, f64> || !is_float<X>, f64, f32>::type;
  using Plain = typename Select<is_float<X>, Real, u64>::type;
  using type = typename Select<OP == kMax || OP == kMin, Value<X>, Plain>::type;
};

// What softmax and normalize compute in, and their result v as the kernel's result type Acc (narrow floats are rounded when they are
// stored).
template <class X>
using RealOf = typename Select<same<X, f64>, f64, f32>::type;
template <class Acc, class R>
__forceinline__ Value<Acc> finished(R v) {
  if constexpr (same<Value<Acc>, R>) return v;
  else return op::cast<Acc, R>(v);
}

template <class T>
__forceinline__ T exp_of(T x) {
  if constexpr (same<T, f64>) return ::exp(x);
  else return expf(x);
}
template <class T>
__forceinline__ T log_of(T x) {
  if constexpr (same<T, f64>) return ::log(x);
  else return logf(x);
}
template <class T>
__forceinline__ T magnitude(T x) {
  if constexpr (same<T, f64>) return ::fabs(x);
  else return fabsf(x);
}

// Sums, products and extremes.
template <int OP, class X>
struct Running {
  using T = typename SumOf<OP, X>::type;
  T value;

  static __forceinline__ Running neutral() {
    if constexpr (OP == kMax) return {lowest<X>()};
    else if constexpr (OP == kMin) return {highest<X>()};
    else return {static_cast<T>(OP == kProd)};
  }
  __forceinline__ void take(Value<X> x, i64) {
    if constexpr (OP == kMax) value = op::max<X>(x, value);
    else if constexpr (OP == kMin) value = op::min<X>(x, value);
    else {
      const T t = static_cast<T>(x);
      if constexpr (OP == kProd) value *= t;
      else if constexpr (OP == kSquare) value += t * t;
      else if constexpr (OP == kAbs && is_float<X>) value += magnitude(t);
      else if constexpr (OP == kAbs) value += x < Value<X>(0) ? 0 - t : t;
      else value += t;
    }
  }
  __forceinline__ Running join(Running o) const {
    if constexpr (OP == kMax) return {op::max<X>(value, o.value)};
    else if constexpr (OP == kMin) return {op::min<X>(value, o.value)};
    else if constexpr (OP == kProd) return {static_cast<T>(value * o.value)};
    else return {static_cast<T>(value + o.value)};
  }
  template <class Acc>
  __forceinline__ Value<Acc> result(int finish, i64 count) const {
    if constexpr (OP == kMax || OP == kMin) return op::cast<Acc, X>(value);
    else if constexpr (is_float<X>) {
      T v = value;
      if (OP == kSum && finish == kMean) v /= static_cast<T>(count);
      if (OP == kSum && finish == kLog) v = log_of(v);
      if (OP == kSquare && finish == kRoot) v = op::sqrt<T>(v);
      return op::cast<Acc, T>(v);
    } else {
      using W = typename Select<same<X, u64>, u64, i64>::type;
      const W v = static_cast<W>(value);
      if (OP == kSum && finish == kMean) return op::cast<Acc, W>(count ? v / static_cast<W>(count) : W(0));
      if (OP == kSum && finish == kLog) return op::cast<Acc, f64>(::log(static_cast<f64>(v)));
      if (OP == kSquare && finish == kRoot) return op::cast<Acc, f64>(::sqrt(static_cast<f64>(v)));
      return op::cast<Acc, W>(v);
    }
  }
};
template <int OP, class X>
__forceinline__ Running<OP, X> shuffle_xor(Running<OP, X> s, int k) {
  return {shuffle_xor(s.value, k)};
}

// The maximum and the sum of exp(x - maximum). Where the maximum is infinite, terms equal to it count 1, so that the logarithm is right.
template <class X>
struct Exponentials {
  using T = typename SumOf<kLogSumExp, X>::Real;
  T most, sum;

  static __forceinline__ Exponentials neutral() { return {-static_cast<T>(inf32()), T(0)}; }
  __forceinline__ void take(Value<X> x, i64) {
    const T t = static_cast<T>(x);
    const T e = t == most ? T(1) : exp_of(-magnitude(t - most));
    if (t > most) {
      sum = sum * e + T(1);
      most = t;
    } else sum += e;
  }
  __forceinline__ Exponentials join(Exponentials o) const {
    const T m = o.most > most ? o.most : most;
    return {m, scaled(m) + o.scaled(m)};
  }
  __forceinline__ T scaled(T m) const { return most == m ? sum : sum * exp_of(most - m); }
  template <class Acc>
  __forceinline__ Value<Acc> result(int, i64) const {
    return op::cast<Acc, T>(log_of(sum) + most);
  }
};
template <class X>
__forceinline__ Exponentials<X> shuffle_xor(Exponentials<X> s, int k) {
  return {shuffle_xor(s.most, k), shuffle_xor(s.sum, k)};
}

// The extreme value and its position. A NaN is the most extreme value, and equal to any other NaN.
template <int OP, class X>
struct Extreme {
  static constexpr bool max = OP == kArgMax || OP == kLastArgMax, last = OP == kLastArgMax || OP == kLastArgMin;
  using Real = typename Select<sizeof(Idx) == 8 || same<X, f64>, f64, f32>::type;
  using Short = typename Select<is_int<X> && Traits<X>::bits == 32, Value<X>, i32>::type;
  using Integer = typename Select<sizeof(Idx) == 8, i64, Short>::type;
  using Number = typename Select<is_float<X>, Real, Integer>::type;
  using T = typename Select<is_int<X> && Traits<X>::bits == 64, Value<X>, Number>::type;
  using At = typename Select<sizeof(T) == 8, i64, Idx>::type;
  T value;
  At at;

  static __forceinline__ Extreme neutral() {
    constexpr At beyond = static_cast<At>(last ? -1 : sizeof(At) == 8 ? 0x7fffffffffffffffll : 0x7fffffffll);
    return {static_cast<T>(max ? lowest<X>() : highest<X>()), beyond};
  }
  __forceinline__ bool beats(const Extreme& o) const {
    if constexpr (is_float<X>) {
      const bool nan = value != value, other = o.value != o.value;
      if (nan != other) return nan;
      if (nan) return last ? at > o.at : at < o.at;
    }
    if (value != o.value) return max ? value > o.value : value < o.value;
    return last ? at > o.at : at < o.at;
  }
  __forceinline__ Extreme join(Extreme o) const { return beats(o) ? *this : o; }
  __forceinline__ void take(Value<X> x, i64 position) { *this = join({static_cast<T>(x), static_cast<At>(position)}); }
  template <class Acc>
  __forceinline__ Value<Acc> result(int, i64) const {
    return op::cast<Acc, i64>(static_cast<i64>(at));
  }
};
template <int OP, class X>
__forceinline__ Extreme<OP, X> shuffle_xor(Extreme<OP, X> s, int k) {
  return {shuffle_xor(s.value, k), shuffle_xor(s.at, k)};
}

// The range of values, widened to include 0. NaN is skipped.
template <class X>
struct Range {
  f32 low, high;

  static __forceinline__ Range neutral() { return {0.0f, 0.0f}; }
  __forceinline__ void take(Value<X> x, i64) {
    const f32 v = static_cast<f32>(x);
    low = v < low ? v : low;
    high = v > high ? v : high;
  }
  __forceinline__ Range join(Range o) const { return {o.low < low ? o.low : low, o.high > high ? o.high : high}; }
};
template <class X>
__forceinline__ Range<X> shuffle_xor(Range<X> s, int k) {
  return {shuffle_xor(s.low, k), shuffle_xor(s.high, k)};
}

template <int OP, class X>
struct StateOf {
  using Other = typename Select<OP == kRange, Range<X>, Running<OP, X>>::type;
  using Sum = typename Select<OP == kLogSumExp, Exponentials<X>, Other>::type;
  using type = typename Select<(OP >= kArgMax && OP < kRange), Extreme<OP, X>, Sum>::type;
};

struct Join {
  template <class S>
  __forceinline__ S operator()(S a, S b) const {
    return a.join(b);
  }
};
