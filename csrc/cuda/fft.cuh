// Discrete Fourier transforms of any length, in f64. One launch is one step of Stockham's self-sorting transform with a large radix R: a
// block gathers BATCH columns of R elements, transforms them in shared memory (the same algorithm with radices 4, 2 and small primes, of
// which the BATCH columns are merely more of its innermost dimension), multiplies by the step's twiddles and writes them where the next
// step wants them. Lengths up to a few thousand are one step; longer ones are a few steps through scratch, whose reads (later steps: and
// writes) run along neighbouring columns. Lengths with a large prime factor are Bluestein's convolution by transforms of a power of two: in
// one block where that fits (FUSED), else two transforms in a row. Real and imaginary parts lie apart in shared memory, so accesses of
// neighbouring threads are of neighbouring banks; where threads of a step run along a column, BATCH is odd for the same reason. Rejected: a
// butterfly's elements kept in registers between stages, which needs a kernel for every length.
#pragma once

constexpr int MAX_STAGES = 12;

__forceinline__ c128 times(c128 x, c128 y) { return {x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re}; }

// Columns in shared memory: element t of column b is at t * batch + b, imaginary parts behind all real ones. (An offset, not a pointer, so
// that the compiler knows the memory to be shared.)
extern __shared__ f64 shared[];
struct Columns {
  int at, size;
  __forceinline__ c128 get(int i) const { return {shared[at + i], shared[at + size + i]}; }
  __forceinline__ void set(int i, c128 v) const {
    shared[at + i] = v.re;
    shared[at + size + i] = v.im;
  }
};

// One stage from x to y; `s`: how far its innermost dimension reaches; W: powers of the root of unity of order R.
__forceinline__ void radix4(const Args& a, int stage, int size, const Columns& x, const Columns& y) {
  const int q = size / 4, s = a.span[stage].n(), unit = a.unit[stage];
#pragma unroll 1  // the loops of a block are short, and unrolling them costs registers
  for (int w = threadIdx.x; w < q; w += THREADS) {
    const int k = a.span[stage].divide(w), to = w + 3 * s * k;
    const c128 x0 = x.get(w), x1 = x.get(w + q), x2 = x.get(w + 2 * q), x3 = x.get(w + 3 * q);
    const c128 p = {x0.re + x2.re, x0.im + x2.im}, m = {x0.re - x2.re, x0.im - x2.im};
    const c128 o = {x1.re + x3.re, x1.im + x3.im}, n = {x1.im - x3.im, x3.re - x1.re};  // n: -i times the difference
    y.set(to, {p.re + o.re, p.im + o.im});
    y.set(to + s, times({m.re + n.re, m.im + n.im}, a.roots[k * unit]));
    y.set(to + 2 * s, times({p.re - o.re, p.im - o.im}, a.roots[2 * k * unit]));
    y.set(to + 3 * s, times({m.re - n.re, m.im - n.im}, a.roots[3 * k * unit]));
  }
}
__forceinline__ void radix2(const Args& a, int stage, int size, const Columns& x, const Columns& y) {
  const int q = size / 2, s = a.span[stage].n();
#pragma unroll 1
  for (int w = threadIdx.x; w < q; w += THREADS) {
    const int k = a.span[stage].divide(w), to = w + s * k;
    const c128 x0 = x.get(w), x1 = x.get(w + q);
    y.set(to, {x0.re + x1.re, x0.im + x1.im});
    y.set(to + s, times({x0.re - x1.re, x0.im - x1.im}, a.roots[k * a.unit[stage]]));
  }
}
__forceinline__ void any_radix(const Args& a, int stage, int size, int p, const Columns& x, const Columns& y) {  // a thread per result
  const int s = a.span[stage].n(), q = a.apart[stage], step = a.radix / p;
#pragma unroll 1
  for (int w = threadIdx.x; w < size; w += THREADS) {
    const int k = a.block[stage].divide(w), rest = w - k * s * p, r = a.span[stage].divide(rest), from = rest - r * s + s * k;
    c128 sum = x.get(from);
    int e = 0;
#pragma unroll 1
    for (int t = 1; t < p; t++) {
      e += r * step;
      if (e >= a.radix) e -= a.radix;
      const c128 v = times(x.get(from + t * q), a.roots[e]);
      sum.re += v.re;
      sum.im += v.im;
    }
    y.set(w, times(sum, a.roots[k * r * a.unit[stage]]));
  }
}

// Transforms the columns at `at`; returns where the result is.
__forceinline__ int transform(const Args& a, int size, int at) {
  for (int stage = 0; stage < a.stages; stage++) {
    const int p = a.radices[stage], to = 2 * size - at;
    const Columns x = {at, size}, y = {to, size};
    if (p == 4) radix4(a, stage, size, x, y);
    else if (p == 2) radix2(a, stage, size, x, y);
    else any_radix(a, stage, size, p, x, y);
    __syncthreads();
    at = to;
  }
  return at;
}

// Element i of the signal of a line: cropped, padded with zeros, continued from half a spectrum; conjugated for the inverse.
__forceinline__ c128 signal(const Args& a, Idx line, Idx i) {
  Idx c[RANK] = {};
  unravel<0, RANK>(line, a.size, c);
  const bool mirrored = a.hermitian && i > a.length / 2;
  const Idx k = mirrored ? a.length - i : i;
  c128 v = {0, 0};
  if (k < a.given) {
    const Idx at = at_x(a, c) + k * a.x_step;
    v.re = static_cast<f64>(value_of(a.x_data[at]));
    if (a.x_complex) v.im = static_cast<f64>(value_of(a.x_data[at + a.x_part]));
    if (a.hermitian && (k == 0 || 2 * k == a.length)) v.im = 0;
  }
  if (mirrored != a.inverse) v.im = -v.im;
  return v;
}

__forceinline__ c128 load(const Args& a, Idx line, Idx i) {
  if (!FIRST) return a.source[line * a.total + i];
  if (CHIRP && i >= a.length) return {0, 0};
  const c128 v = signal(a, line, i);
  return CHIRP ? times(v, a.chirp[i]) : v;
}

__forceinline__ void store(const Args& a, Idx line, Idx i, c128 v) {
  if (!LAST) {
    if (SPECTRUM) {  // the convolution, whose inverse transform is the conjugate's
      v = times(v, a.spectrum[i]);
      v.im = -v.im;
    }
    a.target[line * a.total + i] = v;
    return;
  }
  if (i >= a.wanted) return;
  if (CHIRP) v = times({v.re * a.scale, -v.im * a.scale}, a.chirp[i]);
  if (a.inverse) v = {v.re / static_cast<f64>(a.length), -v.im / static_cast<f64>(a.length)};
  Idx c[RANK] = {};
  unravel<0, RANK>(line, a.size, c);
  const Idx at = at_y(a, c) + i * a.y_step;
  a.y_data[at] = stored<Y>(op::cast<Y, f64>(v.re));
  if (a.y_complex) a.y_data[at + a.y_part] = stored<Y>(op::cast<Y, f64>(v.im));
}

extern "C" __global__ void __launch_bounds__(THREADS) fft_step(const __grid_constant__ Args a) {
  const int batch = a.batch[0].n(), size = a.radix * batch;
  int at = 0;
  const Idx first = static_cast<Idx>(blockIdx.x) * batch;
#pragma unroll 1
  for (int e = threadIdx.x; e < size; e += THREADS) {
    const int outer = a.along ? a.column[0].divide(e) : a.batch[0].divide(e);
    const int t = a.along ? e - outer * a.radix : outer, b = a.along ? outer : e - outer * batch;
    const Idx u = first + b;
    c128 v = {0, 0};
    if (u < a.units) {
      const Idx line = a.quotient[0].divide(u), m = u - line * a.quotient[0].n();
      v = load(a, line, m + t * a.quotient[0].n());
    }
    Columns{at, size}.set(t * batch + b, v);
  }
  __syncthreads();
#pragma unroll 1
  for (int round = 0; round < (FUSED ? 2 : 1); round++) {
    if (round == 1) {
      const Columns x = {at, size};
#pragma unroll 1
      for (int e = threadIdx.x; e < size; e += THREADS) {
        const c128 v = times(x.get(e), a.spectrum[a.batch[0].divide(e)]);
        x.set(e, {v.re, -v.im});
      }
      __syncthreads();
    }
    at = transform(a, size, at);
  }
#pragma unroll 1
  for (int e = threadIdx.x; e < size; e += THREADS) {
    const int outer = a.along_out ? a.column[0].divide(e) : a.batch[0].divide(e);
    const int r = a.along_out ? e - outer * a.radix : outer, b = a.along_out ? outer : e - outer * batch;
    const Idx u = first + b;
    if (u >= a.units) continue;
    const Idx line = a.quotient[0].divide(u), m = u - line * a.quotient[0].n(), s = a.before[0].n(), k = a.before[0].divide(m),
              j = m - k * s;
    c128 v = Columns{at, size}.get(r * batch + b);
    if (TWIDDLED) {
      const Idx e_n = k * r * s, high = a.coarse[0].divide(e_n);
      v = times(v, times(a.high_roots[high], a.low_roots[e_n - high * a.coarse[0].n()]));
    }
    store(a, line, j + s * (r + a.radix * k), v);
  }
}
