// Determinants of square matrices, in double with partial pivoting.
#include "cpu/float_rows.h"
#include "cpu/kernels.h"

namespace ptrt::PTRT_LEVEL {
namespace {

double determinant(double* a, int64_t n) {
  double det = 1;
  for (int64_t k = 0; k < n; k++) {
    int64_t pivot = k;
    for (int64_t i = k + 1; i < n; i++)
      if (__builtin_fabs(a[i * n + k]) > __builtin_fabs(a[pivot * n + k])) pivot = i;
    if (a[pivot * n + k] == 0) return 0;
    if (pivot != k) {
      det = -det;
      for (int64_t j = k; j < n; j++) {
        const double t = a[k * n + j];
        a[k * n + j] = a[pivot * n + j];
        a[pivot * n + j] = t;
      }
    }
    det *= a[k * n + k];
    for (int64_t i = k + 1; i < n; i++) {
      const double f = a[i * n + k] / a[k * n + k];
      for (int64_t j = k + 1; j < n; j++) a[i * n + j] -= f * a[k * n + j];
    }
  }
  return det;
}

class Det final : public Kernel {
 public:
  explicit Det(LaunchDesc d) : Kernel(std::move(d)) {
    const bool counts = desc.ins.size() == 1 && desc.outs.size() == 1;
    bool ok = counts && desc.ins[0].ndim >= 2 && desc.outs[0].ndim == desc.ins[0].ndim - 2;
    for (int i = 0; ok && i < desc.outs[0].ndim; i++) ok = desc.outs[0].shape[i] == desc.ins[0].shape[i];
    if (!ok || desc.ins[0].shape[desc.ins[0].ndim - 1] != desc.ins[0].shape[desc.ins[0].ndim - 2])
      throw KernelError("linear_algebra: x must be [..., n, n] and y [...]");
    if (!is_float_type(desc.ins[0].dtype) || !is_float_type(desc.outs[0].dtype))
      throw KernelError("linear_algebra: a float dtype is expected");
    n_ = desc.ins[0].shape[desc.ins[0].ndim - 1];
    scratch_ = checked_mul(checked_mul(n_, n_), 8);
  }
  size_t thread_scratch_bytes() const override { return static_cast<size_t>(scratch_); }

  void run(const RunContext& ctx) override {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    ctx.parallel(y.size(), [&](int64_t task, int worker) {
      int64_t from = 0, to = 0;
      for (int i = y.ndim - 1; i >= 0; task /= y.shape[i], i--) {
        from += task % y.shape[i] * x.strides[i];
        to += task % y.shape[i] * y.strides[i];
      }
      double* a = reinterpret_cast<double*>(ctx.thread_scratch(worker));
      for (int64_t i = 0; i < n_; i++) load_row(a + i * n_, x.dtype, x.data, from + i * x.strides[y.ndim], x.strides[y.ndim + 1], n_);
      const double det = determinant(a, n_);
      store_row(&det, y.dtype, y.data, to, 1, 1);
    });
  }

 private:
  int64_t n_ = 0, scratch_ = 0;
};

}  // namespace

std::unique_ptr<Kernel> make_linear_algebra(LaunchDesc desc, BindContext&) { return std::make_unique<Det>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
