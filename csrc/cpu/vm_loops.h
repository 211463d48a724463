// Loop templates of the register machine's steps.
#pragma once
#include <type_traits>

#include "cpu/vm_ops.h"

namespace ptrt::PTRT_LEVEL {
namespace {

// Scalar element functions, vectorised by the compiler. `ivdep`: an output that is an argument's memory is met at the same index only.
template <class O, class A, class F>
PTRT_INLINE void loop1(const Args& s, F f) {
  O* o = static_cast<O*>(s.o);
  const A* a = static_cast<const A*>(s.a[0]);
  const int64_t n = s.n;
  PTRT_IVDEP for (int64_t i = 0; i < n; i++) o[i] = f(a[i]);
}

template <class O, class A, class F>
PTRT_INLINE void loop2(const Args& s, F f) {
  O* o = static_cast<O*>(s.o);
  const A *a = static_cast<const A*>(s.a[0]), *b = static_cast<const A*>(s.a[1]);
  const int64_t n = s.n;
  PTRT_IVDEP for (int64_t i = 0; i < n; i++) o[i] = f(a[i], b[i]);
}

// The same, with either argument (not both) allowed to be scalar.
template <class O, class A, class F>
PTRT_INLINE void loop2s(const Args& s, F f) {
  O* o = static_cast<O*>(s.o);
  const A *a = static_cast<const A*>(s.a[0]), *b = static_cast<const A*>(s.a[1]);
  const int64_t n = s.n;
  if (s.scalar & 2) {
    const A y = *b;
    PTRT_IVDEP for (int64_t i = 0; i < n; i++) o[i] = f(a[i], y);
  } else if (s.scalar & 1) {
    const A x = *a;
    PTRT_IVDEP for (int64_t i = 0; i < n; i++) o[i] = f(x, b[i]);
  } else {
    PTRT_IVDEP for (int64_t i = 0; i < n; i++) o[i] = f(a[i], b[i]);
  }
}

// A function object `F` as a step.
template <class O, class A, class F>
void step1(const Args& s) {
  loop1<O, A>(s, F());
}
template <class O, class A, class F>
void step2(const Args& s) {
  loop2<O, A>(s, F());
}
template <class O, class A, class F>
void step2s(const Args& s) {
  loop2s<O, A>(s, F());
}

// Functions on whole vectors.
template <class F>
void vstep1d(const Args& s) {
  double* o = static_cast<double*>(s.o);
  const double* a = static_cast<const double*>(s.a[0]);
  F f;
  int64_t i = 0;
  for (; i + WD <= s.n; i += WD) store(o + i, f(load(a + i)));
  if (i < s.n) {
    double t[WD] = {};
    std::memcpy(t, a + i, static_cast<size_t>(s.n - i) * 8);
    store(t, f(load(t)));
    std::memcpy(o + i, t, static_cast<size_t>(s.n - i) * 8);
  }
}
template <class F>
void vstep1(const Args& s) {
  float* o = static_cast<float*>(s.o);
  const float* a = static_cast<const float*>(s.a[0]);
  F f;
  int64_t i = 0;
  for (; i + W <= s.n; i += W) store(o + i, f(load(a + i)));
  if (i < s.n) store_n(o + i, f(load_n(a + i, static_cast<int>(s.n - i))), static_cast<int>(s.n - i));
}

// The same of two arguments, neither of them scalar.
template <class F>
void vstep2(const Args& s) {
  const float *a = static_cast<const float*>(s.a[0]), *b = static_cast<const float*>(s.a[1]);
  float* o = static_cast<float*>(s.o);
  for (int64_t i = 0; i < s.n; i += W) {
    const int n = s.n - i < W ? static_cast<int>(s.n - i) : W;
    store_n(o + i, F()(load_n(a + i, n), load_n(b + i, n)), n);
  }
}
template <class F>
void vstep2d(const Args& s) {
  const double *a = static_cast<const double*>(s.a[0]), *b = static_cast<const double*>(s.a[1]);
  double* o = static_cast<double*>(s.o);
  int64_t i = 0;
  for (; i + WD <= s.n; i += WD) store(o + i, F()(load(a + i), load(b + i)));
  if (i < s.n) {
    double x[WD] = {}, y[WD] = {};
    std::memcpy(x, a + i, static_cast<size_t>(s.n - i) * 8);
    std::memcpy(y, b + i, static_cast<size_t>(s.n - i) * 8);
    store(x, F()(load(x), load(y)));
    std::memcpy(o + i, x, static_cast<size_t>(s.n - i) * 8);
  }
}

#define PTRT_FN1(name, T, expr)                             \
  struct name {                                             \
    PTRT_INLINE auto operator()(T x) const { return expr; } \
  };
#define PTRT_FN2(name, T, expr)                                  \
  struct name {                                                  \
    PTRT_INLINE auto operator()(T x, T y) const { return expr; } \
  };

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
