// Discrete Fourier transforms of any length, in double. Lengths whose prime factors are small: Stockham's self-sorting mixed-radix
// transform. Others: Bluestein's, a convolution by transforms of a power of two. Real and imaginary parts are kept apart, so inner loops
// are plain.
#include "cpu/float_rows.h"
#include "cpu/kernels.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kLargestRadix = 31;
constexpr double kTwoPi = 6.283185307179586477;

struct Stage {
  int64_t radix, rest;  // the sub-length before the stage is radix * rest
};

// A mixed-radix transform of length n; tables are made at bind.
class Transform {
 public:
  static bool suits(int64_t n) {
    for (int64_t p = 2; p <= kLargestRadix; p++)
      while (n % p == 0) n /= p;
    return n == 1;
  }
  void prepare(int64_t n) {
    n_ = n;
    re_.resize(static_cast<size_t>(n));
    im_.resize(static_cast<size_t>(n));
    for (int64_t k = 0; k < n; k++) {
      const double angle = kTwoPi * static_cast<double>(k) / static_cast<double>(n);
      re_[static_cast<size_t>(k)] = __builtin_cos(angle);
      im_[static_cast<size_t>(k)] = -__builtin_sin(angle);
    }
    int64_t rest = n;
    auto take = [&](int64_t p) {
      while (rest % p == 0) stages_.push_back({p, rest /= p});
    };
    take(4);
    for (int64_t p = 2; p <= kLargestRadix; p++) take(p);
  }
  // In (a, b), with (c, d) as the other buffer; the result is in (a, b).
  void run(double* a, double* b, double* c, double* d) const {
    double *re = a, *im = b;
    int64_t s = 1;
    for (const Stage& stage : stages_) {
      if (stage.radix == 2) radix2(stage, s, a, b, c, d);
      else if (stage.radix == 4) radix4(stage, s, a, b, c, d);
      else any_radix(stage, s, a, b, c, d);
      double* t = a;
      a = c, c = t;
      t = b, b = d, d = t;
      s *= stage.radix;
    }
    if (a != re) {
      std::memcpy(re, a, static_cast<size_t>(n_) * sizeof(double));
      std::memcpy(im, b, static_cast<size_t>(n_) * sizeof(double));
    }
  }

 private:
  double wr(int64_t k) const { return re_[static_cast<size_t>(k % n_)]; }
  double wi(int64_t k) const { return im_[static_cast<size_t>(k % n_)]; }

  void radix2(const Stage& g, int64_t s, const double* a, const double* b, double* c, double* d) const {
    const int64_t half = s * g.rest;
    for (int64_t k = 0; k < g.rest; k++) {
      const double cr = wr(k * s), ci = wi(k * s);
      const double *x = a + s * k, *y = b + s * k;
      double *u = c + 2 * s * k, *v = d + 2 * s * k;
      for (int64_t j = 0; j < s; j++) {
        const double dr = x[j] - x[j + half], di = y[j] - y[j + half];
        u[j] = x[j] + x[j + half];
        v[j] = y[j] + y[j + half];
        u[j + s] = dr * cr - di * ci;
        v[j + s] = dr * ci + di * cr;
      }
    }
  }

  void radix4(const Stage& g, int64_t s, const double* a, const double* b, double* c, double* d) const {
    const int64_t q = s * g.rest;
    for (int64_t k = 0; k < g.rest; k++) {
      const double c1 = wr(k * s), s1 = wi(k * s), c2 = wr(2 * k * s), s2 = wi(2 * k * s), c3 = wr(3 * k * s), s3 = wi(3 * k * s);
      const double *x = a + s * k, *y = b + s * k;
      double *u = c + 4 * s * k, *v = d + 4 * s * k;
      for (int64_t j = 0; j < s; j++) {
        const double pr = x[j] + x[j + 2 * q], pi = y[j] + y[j + 2 * q], mr = x[j] - x[j + 2 * q], mi = y[j] - y[j + 2 * q];
        const double or_ = x[j + q] + x[j + 3 * q], oi = y[j + q] + y[j + 3 * q];
        const double nr = y[j + q] - y[j + 3 * q], ni = x[j + 3 * q] - x[j + q];  // -i times the difference
        u[j] = pr + or_;
        v[j] = pi + oi;
        const double r1 = mr + nr, i1 = mi + ni, r2 = pr - or_, i2 = pi - oi, r3 = mr - nr, i3 = mi - ni;
        u[j + s] = r1 * c1 - i1 * s1;
        v[j + s] = r1 * s1 + i1 * c1;
        u[j + 2 * s] = r2 * c2 - i2 * s2;
        v[j + 2 * s] = r2 * s2 + i2 * c2;
        u[j + 3 * s] = r3 * c3 - i3 * s3;
        v[j + 3 * s] = r3 * s3 + i3 * c3;
      }
    }
  }

  void any_radix(const Stage& g, int64_t s, const double* a, const double* b, double* c, double* d) const {
    const int64_t p = g.radix, q = s * g.rest, unit = n_ / p;
    for (int64_t k = 0; k < g.rest; k++)
      for (int64_t r = 0; r < p; r++) {
        const double cr = wr(k * r * s), ci = wi(k * r * s);
        double *u = c + s * (r + p * k), *v = d + s * (r + p * k);
        for (int64_t j = 0; j < s; j++) u[j] = v[j] = 0;
        for (int64_t t = 0; t < p; t++) {
          const double er = wr(t * r % p * unit), ei = wi(t * r % p * unit);
          const double tr = er * cr - ei * ci, ti = er * ci + ei * cr;
          const double *x = a + s * k + t * q, *y = b + s * k + t * q;
          for (int64_t j = 0; j < s; j++) {
            u[j] += x[j] * tr - y[j] * ti;
            v[j] += x[j] * ti + y[j] * tr;
          }
        }
      }
  }

  int64_t n_ = 1;
  std::vector<double> re_, im_;
  std::vector<Stage> stages_;
};

class Fft final : public Kernel {
 public:
  explicit Fft(LaunchDesc d) : Kernel(std::move(d)) {
    Params p = desc.params();
    int64_t axis = p.i();
    inverse_ = p.i() != 0;
    onesided_ = p.i() != 0;
    if (desc.ins.size() != 1 || desc.outs.size() != 1) throw KernelError("fft: wrong number of operands");
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    bool ok = x.ndim >= 2 && y.ndim == x.ndim && is_float_type(x.dtype) && is_float_type(y.dtype);
    if (ok && axis < 0) axis += x.ndim;
    ok = ok && axis >= 0 && axis < x.ndim - 1;
    for (int i = 0; ok && i < x.ndim; i++)
      ok = i == axis || i == x.ndim - 1 ? (i == axis || (x.shape[i] <= 2 && y.shape[i] <= 2)) : x.shape[i] == y.shape[i];
    if (!ok) throw KernelError("fft: x and y must be [..., n, ..., 1 or 2] of floating dtype with equal batch axes");
    axis_ = static_cast<int>(axis);
    const int64_t m = y.shape[axis];
    n_ = !onesided_ || inverse_ ? m : x.shape[axis] == 2 * m - 1 ? 2 * m - 1 : 2 * m - 2;
    if (n_ < 1) n_ = 1;
    if (n_ > int64_t{1} << 40) throw KernelError("fft: the transform is too long");
    work_ = n_;
    if (Transform::suits(n_)) {
      transform_.prepare(n_);
    } else {
      work_ = 1;
      while (work_ < 2 * n_ - 1) work_ *= 2;
      transform_.prepare(work_);
      prepare_chirp();
    }
  }
  size_t thread_scratch_bytes() const override { return static_cast<size_t>(checked_mul(4 * 8, work_)); }
  std::string describe() const override { return work_ == n_ ? "mixed radix" : "Bluestein, length " + std::to_string(work_); }

  void run(const RunContext& ctx) override {
    const Operand& y = desc.outs[0];
    int64_t lines = 1;
    for (int i = 0; i < y.ndim - 1; i++) lines *= i == axis_ ? 1 : y.shape[i];
    const int64_t per_task = work_ >= 2048 ? 1 : 2048 / work_;
    ctx.parallel((lines + per_task - 1) / per_task, [&](int64_t task, int worker) {
      double* scratch = reinterpret_cast<double*>(ctx.thread_scratch(worker));
      for (int64_t line = task * per_task; line < lines && line < (task + 1) * per_task; line++) one(line, scratch);
    });
  }

 private:
  void prepare_chirp() {  // exp(-i pi k^2 / n), and the transform of its conjugate's cyclic extension
    const auto n = static_cast<size_t>(n_), m = static_cast<size_t>(work_);
    chirp_re_.resize(n);
    chirp_im_.resize(n);
    kernel_re_.assign(m, 0);
    kernel_im_.assign(m, 0);
    for (size_t k = 0; k < n; k++) {
      const auto square = static_cast<double>(static_cast<unsigned __int128>(k) * k % (2 * n));
      const double angle = kTwoPi / 2 * square / static_cast<double>(n_);
      chirp_re_[k] = __builtin_cos(angle);
      chirp_im_[k] = -__builtin_sin(angle);
      const size_t mirror = (m - k) % m;
      kernel_re_[k] = kernel_re_[mirror] = chirp_re_[k];
      kernel_im_[k] = kernel_im_[mirror] = -chirp_im_[k];
    }
    std::vector<double> c(m), d(m);
    transform_.run(kernel_re_.data(), kernel_im_.data(), c.data(), d.data());
  }

  void one(int64_t line, double* scratch) const {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    const int last = x.ndim - 1;
    int64_t from = 0, to = 0;
    for (int i = last - 1; i >= 0; i--) {
      if (i == axis_) continue;
      from += line % y.shape[i] * x.strides[i];
      to += line % y.shape[i] * y.strides[i];
      line /= y.shape[i];
    }
    double *re = scratch, *im = re + work_, *c = im + work_, *d = c + work_;
    const bool hermitian = onesided_ && inverse_;
    const int64_t wanted = hermitian ? n_ / 2 + 1 : n_, given = x.shape[axis_] < wanted ? x.shape[axis_] : wanted;
    std::memset(scratch, 0, static_cast<size_t>(2 * work_) * sizeof(double));
    load_row(re, x.dtype, x.data, from, x.strides[axis_], given);
    if (x.shape[last] == 2) load_row(im, x.dtype, x.data, from + x.strides[last], x.strides[axis_], given);
    if (hermitian) {
      im[0] = 0;
      if (n_ % 2 == 0) im[n_ / 2] = 0;
      for (int64_t k = 1; k < (n_ + 1) / 2; k++) {
        re[n_ - k] = re[k];
        im[n_ - k] = -im[k];
      }
    }
    if (inverse_)  // conjugate, transform, conjugate, divide by n
      for (int64_t k = 0; k < n_; k++) im[k] = -im[k];
    if (work_ == n_) transform_.run(re, im, c, d);
    else bluestein(re, im, c, d);
    if (inverse_)
      for (int64_t k = 0; k < n_; k++) {
        re[k] /= static_cast<double>(n_);
        im[k] /= -static_cast<double>(n_);
      }
    store_row(re, y.dtype, y.data, to, y.strides[axis_], y.shape[axis_]);
    if (y.shape[last] == 2) store_row(im, y.dtype, y.data, to + y.strides[last], y.strides[axis_], y.shape[axis_]);
  }

  void bluestein(double* re, double* im, double* c, double* d) const {
    auto rotate = [&](double& r, double& i, double cr, double ci) {
      const double t = r * cr - i * ci;
      i = r * ci + i * cr;
      r = t;
    };
    for (int64_t k = 0; k < n_; k++) rotate(re[k], im[k], chirp_re_[static_cast<size_t>(k)], chirp_im_[static_cast<size_t>(k)]);
    transform_.run(re, im, c, d);
    for (int64_t k = 0; k < work_; k++) {
      rotate(re[k], im[k], kernel_re_[static_cast<size_t>(k)], kernel_im_[static_cast<size_t>(k)]);
      im[k] = -im[k];
    }
    transform_.run(re, im, c, d);  // of the conjugate: the inverse's conjugate, times its length
    const double scale = 1 / static_cast<double>(work_);
    for (int64_t k = 0; k < n_; k++) {
      re[k] *= scale;
      im[k] *= -scale;
      rotate(re[k], im[k], chirp_re_[static_cast<size_t>(k)], chirp_im_[static_cast<size_t>(k)]);
    }
  }

  int axis_ = 0;
  bool inverse_ = false, onesided_ = false;
  int64_t n_ = 1, work_ = 1;  // transform length; length of the arrays worked on
  Transform transform_;
  std::vector<double> chirp_re_, chirp_im_, kernel_re_, kernel_im_;
};

}  // namespace

std::unique_ptr<Kernel> make_fft(LaunchDesc desc, BindContext&) { return std::make_unique<Fft>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
