// What all strategies of scatter share: walking the axes, and how an update joins an element of y. The axes of a launch are FREE ones,
// along which updates never meet, then those in whose order updates are applied; their number is known at launch, because threads wait for
// memory anyway and a text per number of axes would have to be compiled. REDUCTION is an index into spec.py's REDUCTIONS.
#pragma once
#include "index.cuh"

struct Spot {
  Idx y, index, update;
};

// Moves by element i, in row-major order, of axes first .. end - 1.
__forceinline__ Spot moved(const Args& a, Spot s, int first, int end, Idx i) {
#pragma unroll 1
  for (int k = end - 1; k >= first; k--) {
    const Idx q = a.size[k].divide(i), c = i - q * a.size[k].n();
    s.y += c * a.y_stride[k];
    s.index += c * a.index_stride[k];
    s.update += c * a.update_stride[k];
    i = q;
  }
  return s;
}

// The number, in the row-major order of the indices, of the tuple at element `free` of the axes 0 .. a.free_axes - 1 and `update` of the
// others.
__forceinline__ i64 number_of(const Args& a, Idx free, Idx update) {
  i64 number = 0;
#pragma unroll 1
  for (int k = a.axes - 1; k >= 0; k--) {
    Idx& i = k < a.free_axes ? free : update;
    const Idx q = a.size[k].divide(i);
    number += static_cast<i64>(i - q * a.size[k].n()) * a.number_stride[k];
    i = q;
  }
  return number;
}

template <class T>
__forceinline__ T complex_combine(T v, T u) {
  if constexpr (REDUCTION == 1) return {v.re + u.re, v.im + u.im};
  else return {v.re * u.re - v.im * u.im, v.re * u.im + v.im * u.re};
}

// Every step is rounded to Y, as if it were stored.
__forceinline__ Value<Y> combine(Value<Y> v, Value<Y> u) {
  if constexpr (REDUCTION == 0) return u;
  else if constexpr (Traits<Y>::kind == kComplex) return complex_combine(v, u);
  else if constexpr (REDUCTION == 1) return op::add<Y>(v, u);
  else if constexpr (REDUCTION == 2) return op::mul<Y>(v, u);
  else if constexpr (REDUCTION == 3) return op::max<Y>(v, u);
  else return op::min<Y>(v, u);
}

// The same with the element in memory, which reduction `none` does not read.
__forceinline__ Value<Y> combined(const Y* y, Value<Y> u) {
  if constexpr (REDUCTION == 0) return u;
  else return combine(value_of(*y), u);
}
