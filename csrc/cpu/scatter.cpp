// scatter: y = x, then y[indices] OP= updates in the row-major order of indices. Work is split only between elements that can never meet:
// lanes orthogonal to the axis (elements), slices of the updated block (nd). So every element of y sees its updates in order on one worker.
#include "cpu/kernels.h"
#include "cpu/scatter_apply.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kTaskBytes = 64 << 10;
constexpr int kBatch = 256;  // targets computed before they are applied

class Scatter final : public Kernel {
 public:
  explicit Scatter(LaunchDesc d) : Kernel(std::move(d)) {
    need(desc.ins.size() == 3 && desc.outs.size() == 1, "scatter", "expected three inputs and one output");
    const Operand &x = desc.ins[0], &idx = desc.ins[1], &u = desc.ins[2], &y = desc.outs[0];
    need(x.present() && is_index(idx.dtype), "scatter", "indices must be int32 or int64");
    need(same_shape(x, y) && x.dtype == y.dtype && u.dtype == y.dtype, "scatter", "x, updates and y do not match");
    Params p = desc.params();
    const int64_t mode = p.i();
    int64_t axis = p.i();
    apply_ = scatter_apply(y.dtype, p.i());
    need(apply_, "scatter", "this reduction is not defined for this dtype");
    wide_ = idx.dtype == DType::i64;
    const auto e = static_cast<int64_t>(itemsize(y.dtype)), ei = wide_ ? int64_t{8} : int64_t{4};
    copy_ = copy_fn(static_cast<size_t>(e));
    for (int i = 0; i < y.ndim; i++) whole_.push(y.shape[i], x.strides[i] * e, y.strides[i] * e);
    whole_.finish();
    auto component = [&](int64_t a) {
      axis_[parts_] = static_cast<int>(a);
      size_[parts_] = y.shape[a];
      step_[parts_++] = y.strides[a] * e;
    };
    if (mode == 0) {
      if (axis < 0) axis += y.ndim;
      need(axis >= 0 && axis < y.ndim && same_shape(idx, u) && idx.ndim == y.ndim, "scatter", "bad axis or shapes");
      component(axis);
      for (int i = 0; i < y.ndim; i++) {
        if (i == axis) continue;
        need(idx.shape[i] <= y.shape[i], "scatter", "indices are larger than x");
        lanes_.push(idx.shape[i], y.strides[i] * e, idx.strides[i] * ei, u.strides[i] * e);
      }
      along_ = idx.shape[axis];
      idx_step_ = idx.strides[axis] * ei;
      u_step_ = u.strides[axis] * e;
    } else {
      need(mode == 1 && idx.ndim >= 1, "scatter", "bad mode or indices");
      const int64_t k = idx.shape[idx.ndim - 1];
      need(k <= y.ndim && u.ndim == idx.ndim - 1 + y.ndim - k, "scatter", "updates have the wrong rank");
      for (int64_t a = 0; a < k; a++) component(a);
      part_stride_ = idx.strides[idx.ndim - 1] * ei;
      for (int i = 0; i < idx.ndim - 1; i++) {
        need(u.shape[i] == idx.shape[i], "scatter", "updates have the wrong shape");
        rows_.push(idx.shape[i], idx.strides[i] * ei, u.strides[i] * e);
      }
      for (int64_t a = k; a < y.ndim; a++) {
        const int64_t b = idx.ndim - 1 + a - k;
        need(u.shape[b] == y.shape[a], "scatter", "updates have the wrong shape");
        block_.push(y.shape[a], y.strides[a] * e, u.strides[b] * e);
      }
      rows_.finish();
      block_.finish();
    }
    lanes_.finish();
    elements_ = mode == 0;
    item_ = e;
  }

  void run(const RunContext& ctx) override {
    copy_x(ctx);
    if (elements_) {
      const int64_t lanes = lanes_.size();
      if (lanes == 0 || along_ == 0) return;
      const int64_t chunk = kTaskBytes / 8 > along_ ? kTaskBytes / 8 / along_ : 1;
      ctx.parallel(ceil_div(lanes, chunk), [&](int64_t t, int) {
        const int64_t begin = t * chunk, end = begin + chunk < lanes ? begin + chunk : lanes;
        wide_ ? elements<int64_t>(begin, end) : elements<int32_t>(begin, end);
      });
    } else {
      const int64_t rows = rows_.size(), block = block_.size();
      if (rows == 0 || block == 0) return;
      // Every slice walks all indices, so slices are wide.
      const int64_t chunk = kTaskBytes / item_;
      ctx.parallel(ceil_div(block, chunk), [&](int64_t t, int) {
        const int64_t begin = t * chunk, end = begin + chunk < block ? begin + chunk : block;
        wide_ ? slices<int64_t>(rows, begin, end) : slices<int32_t>(rows, begin, end);
      });
    }
  }

 private:
  void copy_x(const RunContext& ctx) {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    const int64_t n = whole_.size();
    bool same = x.data == y.data;
    for (int i = 0; i < y.ndim && same; i++) same = x.strides[i] == y.strides[i];
    if (same || n == 0) return;
    const int64_t chunk = kTaskBytes / item_, last = whole_.nd - 1;
    ctx.parallel(ceil_div(n, chunk), [&](int64_t t, int) {
      const int64_t begin = t * chunk, end = begin + chunk < n ? begin + chunk : n;
      whole_.walk(begin, end, [&](const int64_t* off, int64_t m) {
        copy_(y.as<char>() + off[1], whole_.stride[last][1], x.as<char>() + off[0], whole_.stride[last][0], m);
      });
    });
  }

  template <class I>
  void elements(int64_t begin, int64_t end) const {
    const char *idx = desc.ins[1].as<char>(), *u = desc.ins[2].as<char>();
    char* y = desc.outs[0].as<char>();
    const int64_t* step = lanes_.stride[lanes_.nd - 1];
    const int64_t sy = step[0], si = step[1], su = step[2], n = size_[0], s = step_[0];
    const int axis = axis_[0];
    int64_t targets[kBatch];
    // f(count, index, its step, target, its step, updates, their step): one stretch in which order matters only if the target step is 0
    auto stretch = [&](int64_t count, const char* pi, int64_t di, int64_t ty, int64_t dy, const char* pu, int64_t du) {
      for (int64_t j = 0; j < count; j += kBatch) {
        const int64_t m = count - j < kBatch ? count - j : kBatch;
        for (int64_t k = 0; k < m; k++) targets[k] = ty + (j + k) * dy + checked_index<I>(pi + (j + k) * di, axis, n) * s;
        apply_(y, targets, pu + j * du, du, m);
      }
    };
    const bool lanes_inner = (si < 0 ? -si : si) <= (idx_step_ < 0 ? -idx_step_ : idx_step_);
    lanes_.walk(begin, end, [&](const int64_t* off, int64_t lanes) {
      const char *pi = idx + off[1], *pu = u + off[2];
      if (lanes_inner && lanes > 1)
        for (int64_t a = 0; a < along_; a++) stretch(lanes, pi + a * idx_step_, si, off[0], sy, pu + a * u_step_, su);
      else
        for (int64_t l = 0; l < lanes; l++) stretch(along_, pi + l * si, idx_step_, off[0] + l * sy, 0, pu + l * su, u_step_);
    });
  }

  template <class I>
  PTRT_INLINE int64_t target(const char* idx) const {
    int64_t off = 0;
    for (int k = 0; k < parts_; k++) off += checked_index<I>(idx + k * part_stride_, axis_[k], size_[k]) * step_[k];
    return off;
  }

  template <class I>
  void slices(int64_t rows, int64_t begin, int64_t end) const {
    const char *idx = desc.ins[1].as<char>(), *u = desc.ins[2].as<char>();
    char* y = desc.outs[0].as<char>();
    const int64_t si = rows_.stride[rows_.nd - 1][0], su = rows_.stride[rows_.nd - 1][1];
    const int64_t by = block_.stride[block_.nd - 1][0], bu = block_.stride[block_.nd - 1][1];
    int64_t targets[kBatch];
    if (end - begin == 1) {
      int64_t oy = 0, ou = 0;
      block_.walk(begin, end, [&](const int64_t* off, int64_t) {
        oy = off[0];
        ou = off[1];
      });
      rows_.walk(0, rows, [&](const int64_t* off, int64_t n) {
        for (int64_t j = 0; j < n; j += kBatch) {
          const int64_t m = n - j < kBatch ? n - j : kBatch;
          for (int64_t k = 0; k < m; k++) targets[k] = oy + target<I>(idx + off[0] + (j + k) * si);
          apply_(y, targets, u + ou + off[1] + j * su, su, m);
        }
      });
      return;
    }
    const bool plain = apply_ == scatter_apply(desc.outs[0].dtype, 0);
    rows_.walk(0, rows, [&](const int64_t* off, int64_t n) {
      for (int64_t j = 0; j < n; j++) {
        char* py = y + target<I>(idx + off[0] + j * si);
        const char* pu = u + off[1] + j * su;
        block_.walk(begin, end, [&](const int64_t* o, int64_t count) {
          if (plain) {
            copy_(py + o[0], by, pu + o[1], bu, count);
            return;
          }
          for (int64_t b = 0; b < count; b += kBatch) {
            const int64_t m = count - b < kBatch ? count - b : kBatch;
            for (int64_t k = 0; k < m; k++) targets[k] = o[0] + (b + k) * by;
            apply_(py, targets, pu + o[1] + b * bu, bu, m);
          }
        });
      }
    });
  }

  Axes<2> whole_;  // x, y
  Axes<3> lanes_;  // y, indices, updates, without the axis
  Axes<2> rows_;   // indices, updates
  Axes<2> block_;  // y, updates
  int parts_ = 0, axis_[kMaxDims];
  int64_t size_[kMaxDims], step_[kMaxDims], part_stride_ = 0;
  int64_t along_ = 0, idx_step_ = 0, u_step_ = 0, item_;
  bool wide_, elements_;
  ApplyFn apply_;
  CopyFn copy_;
};

}  // namespace

std::unique_ptr<Kernel> make_scatter(LaunchDesc desc, BindContext&) { return std::make_unique<Scatter>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
