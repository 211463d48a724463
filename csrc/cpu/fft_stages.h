// Mixed-radix transforms (Stockham's self-sorting form) of lines that lie side by side: element i of line l is at i * lines + l. Real and
// imaginary parts are kept apart, so every butterfly is the same arithmetic on whole vectors: a stage of many lines is a stage of one line
// whose inner loop is that much longer.
#pragma once
#include <vector>

#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kLargestRadix = 31;
constexpr double kTwoPi = 6.283185307179586477;

PTRT_INLINE double load_as(const double* p, double) { return *p; }
PTRT_INLINE vd load_as(const double* p, vd) { return load(p); }
PTRT_INLINE void store(double* p, double x) { *p = x; }

template <class V>  // vd or double
struct Complex {
  V re, im;
  PTRT_INLINE Complex operator+(Complex o) const { return {re + o.re, im + o.im}; }
  PTRT_INLINE Complex operator-(Complex o) const { return {re - o.re, im - o.im}; }
  PTRT_INLINE Complex turned() const { return {im, -re}; }  // times -i
};

struct Stage {
  int64_t radix, rest;           // the sub-length before the stage is radix * rest
  std::vector<double> twiddles;  // of each k < rest, for r = 1 .. radix - 1: cos and sin of -2 pi k r / (radix * rest)
  std::vector<double> roots;     // cos and sin of -2 pi k / radix
};

// The source (a, b) and the target (c, d) of a stage; s: elements of an inner loop, of which [begin, end) are done.
struct Pass {
  const double *a, *b;
  double *c, *d;
  int64_t s, begin, end;
};

template <int P, class V>
void run_stage(const Stage& g, const Pass& pass) {
  using C = Complex<V>;
  constexpr int64_t step = sizeof(V) / sizeof(double);
  const int64_t p = P ? P : g.radix, s = pass.s, apart = s * g.rest;
  const double *x = pass.a, *y = pass.b, *t = g.twiddles.data();
  double *u = pass.c, *v = pass.d;
  for (int64_t k = 0; k < g.rest; k++, x += s, y += s, u += s * p, v += s * p, t += 2 * (p - 1)) {
    for (int64_t j = pass.begin; j < pass.end; j += step) {
      auto in = [&](int64_t i)
                    __attribute__((always_inline)) { return C{load_as(x + j + i * apart, V{}), load_as(y + j + i * apart, V{})}; };
      auto out = [&](int64_t r, C z) __attribute__((always_inline)) {
        if (r > 0) {
          const double c = t[2 * r - 2], q = t[2 * r - 1];
          z = {z.re * c - z.im * q, z.re * q + z.im * c};
        }
        store(u + j + r * s, z.re);
        store(v + j + r * s, z.im);
      };
      auto four = [&](C a, C b, C c, C d, int64_t first, int64_t by) __attribute__((always_inline)) {
        const C e = a + c, f = a - c, g2 = b + d, h = (b - d).turned();
        out(first, e + g2);
        out(first + by, f + h);
        out(first + 2 * by, e - g2);
        out(first + 3 * by, f - h);
      };
      if constexpr (P == 2) {
        const C a = in(0), b = in(1);
        out(0, a + b);
        out(1, a - b);
      } else if constexpr (P == 3) {
        const C a = in(0), b = in(1), c = in(2), sum = b + c, d = (b - c).turned();
        const C m{a.re - sum.re * 0.5, a.im - sum.im * 0.5}, n{d.re * 0.86602540378443864676, d.im * 0.86602540378443864676};
        out(0, a + sum);
        out(1, m + n);
        out(2, m - n);
      } else if constexpr (P == 4) {
        four(in(0), in(1), in(2), in(3), 0, 1);
      } else if constexpr (P == 5) {
        constexpr double c1 = 0.30901699437494742410, s1 = 0.95105651629515357212, c2 = -0.80901699437494742410,
                         s2 = 0.58778525229247312917;
        const C a = in(0), p1 = in(1) + in(4), p2 = in(2) + in(3), m1 = (in(1) - in(4)).turned(), m2 = (in(2) - in(3)).turned();
        out(0, a + p1 + p2);
        const C f{a.re + p1.re * c1 + p2.re * c2, a.im + p1.im * c1 + p2.im * c2}, g1{m1.re * s1 + m2.re * s2, m1.im * s1 + m2.im * s2};
        out(1, f + g1);
        out(4, f - g1);
        const C h{a.re + p1.re * c2 + p2.re * c1, a.im + p1.im * c2 + p2.im * c1}, g2{m1.re * s2 - m2.re * s1, m1.im * s2 - m2.im * s1};
        out(2, h + g2);
        out(3, h - g2);
      } else if constexpr (P == 8) {
        constexpr double h = 0.70710678118654752440;
        const C a = in(0), b = in(1), c = in(2), d = in(3), e = in(4), f = in(5), g1 = in(6), k1 = in(7);
        four(a + e, b + f, c + g1, d + k1, 0, 2);
        const C q = b - f, w = d - k1;
        four(a - e, C{(q.re + q.im) * h, (q.im - q.re) * h}, (c - g1).turned(), C{(w.im - w.re) * h, (w.re + w.im) * -h}, 1, 2);
      } else {  // any odd radix: elements i and p - i together
        const int64_t half = p / 2;
        const double* root = g.roots.data();
        const C first = in(0);
        C sums[kLargestRadix / 2], differences[kLargestRadix / 2], total = first;
        for (int64_t i = 0; i < half; i++) {
          const C z = in(i + 1), w = in(p - 1 - i);
          sums[i] = z + w;
          differences[i] = z - w;
          total = total + sums[i];
        }
        out(0, total);
        for (int64_t r = 1; r <= half; r++) {
          C m = first, n{};
          int64_t at = 0;
          for (int64_t i = 0; i < half; i++) {
            at = at + r < p ? at + r : at + r - p;
            const double c = root[2 * at], q = root[2 * at + 1];
            m = {m.re + sums[i].re * c, m.im + sums[i].im * c};
            n = {n.re - differences[i].im * q, n.im + differences[i].re * q};
          }
          out(r, m + n);
          out(p - r, m - n);
        }
      }
    }
  }
}

// A mixed-radix transform of length n; tables are made at bind.
class Transform {
 public:
  static bool suits(int64_t n) {
    for (int64_t p = 2; p <= kLargestRadix; p++)
      while (n % p == 0) n /= p;
    return n == 1;
  }

  void prepare(int64_t n) {
    int64_t rest = n;
    auto take = [&](int64_t p) {
      Stage g{p, rest / p, {}, {}};
      auto angle = [](std::vector<double>& to, int64_t k, int64_t of) {
        const double turn = kTwoPi * static_cast<double>(k) / static_cast<double>(of);
        to.push_back(__builtin_cos(turn));
        to.push_back(-__builtin_sin(turn));
      };
      g.twiddles.reserve(static_cast<size_t>(2 * (p - 1) * g.rest));
      for (int64_t k = 0; k < g.rest; k++)
        for (int64_t r = 1; r < p; r++) angle(g.twiddles, k * r, rest);
      for (int64_t k = 0; k < p; k++) angle(g.roots, k, p);
      rest = g.rest;
      stages_.push_back(std::move(g));
    };
    int twos = __builtin_ctzll(static_cast<unsigned long long>(n));
    for (; twos >= 3 && twos != 4; twos -= 3) take(8);
    for (; twos >= 2; twos -= 2) take(4);
    if (twos) take(2);
    for (int64_t p = 3; p <= kLargestRadix; p += 2)
      while (rest % p == 0) take(p);
  }

  // Transforms what is in (a, b), with (c, d) as the other memory. Is the result in (c, d)?
  bool run(int64_t lines, double* a, double* b, double* c, double* d) const {
    int64_t s = lines;
    for (const Stage& g : stages_) {
      const int64_t whole = s / WD * WD;
      if (whole > 0) dispatch<vd>(g, {a, b, c, d, s, 0, whole});
      if (whole < s) dispatch<double>(g, {a, b, c, d, s, whole, s});
      s *= g.radix;
      double* t = a;
      a = c, c = t;
      t = b, b = d, d = t;
    }
    return stages_.size() % 2 != 0;
  }

 private:
  template <class V>
  static void dispatch(const Stage& g, const Pass& pass) {
    switch (g.radix) {
      case 2: return run_stage<2, V>(g, pass);
      case 3: return run_stage<3, V>(g, pass);
      case 4: return run_stage<4, V>(g, pass);
      case 5: return run_stage<5, V>(g, pass);
      case 8: return run_stage<8, V>(g, pass);
      default: return run_stage<0, V>(g, pass);
    }
  }

  std::vector<Stage> stages_;
};

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
