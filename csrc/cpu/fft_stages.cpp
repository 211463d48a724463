// The loops of fft of one level: stages of a mixed-radix transform (Stockham's self-sorting form), and what is done before and after them.
#include "cpu/fft_stages.h"

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace ptrt::PTRT_PLAIN {
std::unique_ptr<Kernel> make_fft_with(LaunchDesc desc, const FftLoops& loops);
}

namespace ptrt::PTRT_LEVEL {
namespace {

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

// The source (a, b) and the target (c, d) of a stage; s: elements of an inner loop, of which [begin, end) are done.
struct Pass {
  const double *a, *b;
  double *c, *d;
  int64_t s, begin, end;
};

template <int P, class V>
PTRT_NOINLINE void butterflies(const FftStage& g, const Pass& pass) {
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
        C sums[kLargestFftRadix / 2], differences[kLargestFftRadix / 2], total = first;
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

template <class V>
void run_stage(const FftStage& g, const Pass& pass) {
  switch (g.radix) {
    case 2: return butterflies<2, V>(g, pass);
    case 4: return butterflies<4, V>(g, pass);
    default: break;
  }
  if constexpr (std::is_same_v<V, vd>) {
    if (g.radix == 3) return butterflies<3, V>(g, pass);
    if (g.radix == 5) return butterflies<5, V>(g, pass);
    if (g.radix == 8) return butterflies<8, V>(g, pass);
  }
  butterflies<0, V>(g, pass);
}

bool transform(const std::vector<FftStage>& stages, int64_t lines, double* a, double* b, double* c, double* d) {
  int64_t s = lines;  // a stage of many lines is a stage of one line whose inner loop is that much longer
  for (const FftStage& g : stages) {
    const int64_t whole = s / WD * WD;
    if (whole > 0) run_stage<vd>(g, {a, b, c, d, s, 0, whole});
    if (whole < s) run_stage<double>(g, {a, b, c, d, s, whole, s});
    s *= g.radix;
    double* t = a;
    a = c, c = t;
    t = b, b = d, d = t;
  }
  return stages.size() % 2 != 0;
}

void rotate(double* re, double* im, int64_t rows, int64_t lines, const double* by) {
  for (int64_t k = 0; k < rows; k++, re += lines, im += lines, by += 2) {
    const double c = by[0], s = by[1];
    int64_t l = 0;
    for (; l + WD <= lines; l += WD) {
      const vd r = load(re + l), i = load(im + l);
      store(re + l, r * c - i * s);
      store(im + l, r * s + i * c);
    }
    for (; l < lines; l++) {
      const double r = re[l], i = im[l];
      re[l] = r * c - i * s;
      im[l] = r * s + i * c;
    }
  }
}

template <class F>
PTRT_INLINE void pairs_of_rows(double* re, double* im, int64_t h, int64_t lines, const double* turns, F&& f) {
  for (int64_t k = 1; k <= h / 2; k++) {
    const double c = turns[2 * k], s = turns[2 * k + 1];
    double *r = re + k * lines, *i = im + k * lines, *r2 = re + (h - k) * lines, *i2 = im + (h - k) * lines;
    int64_t l = 0;
    for (; l + WD <= lines; l += WD) {
      vd v[4] = {load(r + l), load(i + l), load(r2 + l), load(i2 + l)};
      f(v, c, s);
      store(r + l, v[0]), store(i + l, v[1]), store(r2 + l, v[2]), store(i2 + l, v[3]);
    }
    for (; l < lines; l++) {
      double v[4] = {r[l], i[l], r2[l], i2[l]};
      f(v, c, s);
      r[l] = v[0], i[l] = v[1], r2[l] = v[2], i2[l] = v[3];
    }
  }
}

// With E, O the transforms of the even and the odd elements: Z = E + i O, X = E + w O.
void unpack(double* re, double* im, int64_t h, int64_t lines, const double* turns) {
  pairs_of_rows(re, im, h, lines, turns, [](auto* v, double c, double s) {
    const auto er = (v[0] + v[2]) * 0.5, ei = (v[1] - v[3]) * 0.5, pr = (v[1] + v[3]) * 0.5, pi = (v[2] - v[0]) * 0.5;
    const auto wr = pr * c - pi * s, wi = pr * s + pi * c;
    v[0] = er + wr, v[1] = ei + wi, v[2] = er - wr, v[3] = wi - ei;
  });
}
void pack(double* re, double* im, int64_t h, int64_t lines, const double* turns) {
  pairs_of_rows(re, im, h, lines, turns, [](auto* v, double c, double s) {
    const auto er = (v[0] + v[2]) * 0.5, ei = (v[1] - v[3]) * 0.5, dr = (v[0] - v[2]) * 0.5, di = (v[1] + v[3]) * 0.5;
    const auto pr = dr * c + di * s, pi = di * c - dr * s;
    v[0] = er - pi, v[1] = ei + pr, v[2] = er + pi, v[3] = pr - ei;
  });
}

constexpr FftLoops kLoops = {W, transform, rotate, unpack, pack};

}  // namespace

std::unique_ptr<Kernel> make_fft(LaunchDesc desc, BindContext&) { return ptrt::PTRT_PLAIN::make_fft_with(std::move(desc), kLoops); }

}  // namespace ptrt::PTRT_LEVEL
