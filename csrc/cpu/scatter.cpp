// scatter: y = x, then y[indices] OP= updates in the row-major order of indices. Work is split only between elements that can never meet:
// lanes orthogonal to the axis (elements), slices of the updated block or places of narrow ones (nd). So every element of y sees its
// updates in order on one worker.
#include <algorithm>
#include <cstdlib>

#include "cpu/kernels.h"
#include "cpu/scatter_apply.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kTaskBytes = 64 << 10;
constexpr int64_t kBatch = 256;  // targets computed before they are applied
constexpr int64_t kLanes = 64;   // lanes of a task, at least, where their elements are neighbours
constexpr int64_t kFew = 4;      // elements of a block that are applied one after the other to many targets

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
    need(apply_.run, "scatter", "this reduction is not defined for this dtype");
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
      lanes_.finish();
      const int64_t across = lanes_.stride[lanes_.nd - 1][1];
      lanes_inner_ = std::abs(across) <= std::abs(idx_step_);
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
    elements_ = mode == 0;
    item_ = e;
  }

  void run(const RunContext& ctx) override {
    copy_x(ctx);
    if (elements_) {
      const int64_t lanes = lanes_.size();
      if (lanes == 0 || along_ == 0) return;
      // Neighbouring lanes are read together: as many as there can be, unless other threads wait for some.
      const int64_t wide = ctx.threads() == 1 ? lanes : std::max(kLanes, ceil_div(lanes, 2 * ctx.threads()));
      const int64_t chunk = std::max<int64_t>(lanes_inner_ ? wide : 1, kTaskBytes / 8 / along_);
      ctx.parallel(ceil_div(lanes, chunk), [&](int64_t t, int) {
        const int64_t begin = t * chunk, end = begin + chunk < lanes ? begin + chunk : lanes;
        wide_ ? elements<int64_t>(begin, end) : elements<int32_t>(begin, end);
      });
    } else {
      const int64_t rows = rows_.size(), block = block_.size();
      if (rows == 0 || block == 0) return;
      // Every task walks all indices, so slices of a block are wide. Of narrow blocks, a task takes those of some places on the first axis.
      const int64_t chunk = kTaskBytes / item_, chunks = ceil_div(block, chunk);
      const int64_t parts = chunks == 1 && parts_ > 0 && block > kFew && rows * block > 2 * chunk ? ctx.threads() : 1;
      ctx.parallel(chunks * parts, [&](int64_t t, int) {
        const int64_t begin = t / parts * chunk, end = begin + chunk < block ? begin + chunk : block;
        wide_ ? slices<int64_t>(rows, begin, end, t % parts, parts) : slices<int32_t>(rows, begin, end, t % parts, parts);
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

  // targets[k] = first + k * dy + index k * step
  template <class I>
  static PTRT_INLINE void find_targets(const char* idx, int64_t di, int axis, int64_t n, int64_t step, int64_t first, int64_t dy,
                                       int64_t* targets, int64_t count) {
    int64_t bad = 0, k = 0;
#if defined(__x86_64__)
    if (di == sizeof(I) && n < int64_t{1} << 31 && step >= 0 && step < int64_t{1} << 31) {  // two at once, by a multiplication of 32 bits
      const __m128i size = _mm_set1_epi64x(n), most = _mm_set1_epi64x(n - 1), by = _mm_set1_epi64x(step), next = _mm_set1_epi64x(2 * dy);
      __m128i at = _mm_set_epi64x(first + dy, first), any = _mm_setzero_si128();
      for (; k + 2 <= count; k += 2) {
        const auto* p = reinterpret_cast<const __m128i*>(idx + k * static_cast<int64_t>(sizeof(I)));
        __m128i v = sizeof(I) == 8 ? _mm_loadu_si128(p) : _mm_cvtepi32_epi64(_mm_loadl_epi64(p));
        v = _mm_add_epi64(v, _mm_and_si128(_mm_cmpgt_epi64(_mm_setzero_si128(), v), size));
        any = _mm_or_si128(any, _mm_or_si128(v, _mm_sub_epi64(most, v)));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(targets + k), _mm_add_epi64(at, _mm_mul_epu32(v, by)));
        at = _mm_add_epi64(at, next);
      }
      bad = _mm_movemask_pd(_mm_castsi128_pd(any)) ? -1 : 0;
      first += k * dy;
    }
#endif
    for (; k < count; k++) {
      I raw;
      std::memcpy(&raw, idx + k * di, sizeof raw);
      const int64_t v = raw + (static_cast<int64_t>(raw) >> 63 & n);
      bad |= v | (n - 1 - v);  // negative: out of range
      targets[k] = first + v * step;
      first += dy;
    }
    if (bad < 0)
      for (k = 0; k < count; k++) checked_index<I>(idx + k * di, axis, n);  // throws
  }

  template <class I>
  void elements(int64_t begin, int64_t end) const {
    const char *idx = desc.ins[1].as<char>(), *u = desc.ins[2].as<char>();
    char* y = desc.outs[0].as<char>();
    const int64_t* step = lanes_.stride[lanes_.nd - 1];
    const int64_t sy = step[0], si = step[1], su = step[2], n = size_[0], s = step_[0];
    const int axis = axis_[0];
    int64_t targets[kBatch];
    // Indices with a step, targets with a step, updates with a step: a stretch in which order matters only if the target's step is 0.
    auto stretch = [&](int64_t count, const char* pi, int64_t di, int64_t ty, int64_t dy, const char* pu, int64_t du) {
      for (int64_t j = 0; j < count; j += kBatch) {
        const int64_t m = count - j < kBatch ? count - j : kBatch;
        find_targets<I>(pi + j * di, di, axis, n, s, ty + j * dy, dy, targets, m);
        apply_.points(y, targets, pu + j * du, du, m);
      }
    };
    lanes_.walk(begin, end, [&](const int64_t* off, int64_t lanes) {
      const char *pi = idx + off[1], *pu = u + off[2];
      if (lanes_inner_ && lanes > 1)
        for (int64_t a = 0; a < along_; a++) stretch(lanes, pi + a * idx_step_, si, off[0], sy, pu + a * u_step_, su);
      else
        for (int64_t l = 0; l < lanes; l++) stretch(along_, pi + l * si, idx_step_, off[0] + l * sy, 0, pu + l * su, u_step_);
    });
  }

  // Applies elements [begin, end) of each block whose place on the first axis is in the part-th of equal parts.
  template <class I>
  void slices(int64_t rows, int64_t begin, int64_t end, int64_t part, int64_t parts) const {
    const char *idx = desc.ins[1].as<char>(), *u = desc.ins[2].as<char>();
    char* y = desc.outs[0].as<char>();
    const int64_t si = rows_.stride[rows_.nd - 1][0], su = rows_.stride[rows_.nd - 1][1];
    const int64_t by = block_.stride[block_.nd - 1][0], bu = block_.stride[block_.nd - 1][1];
    const int64_t low = part * size_[0] / parts, high = (part + 1) * size_[0] / parts;
    int64_t targets[kBatch], more[kBatch];
    rows_.walk(0, rows, [&](const int64_t* off, int64_t n) {
      for (int64_t j = 0; j < n; j += kBatch) {
        const int64_t m = n - j < kBatch ? n - j : kBatch;
        const char *pi = idx + off[0] + j * si, *pu = u + off[1] + j * su;
        for (int64_t k = 0; k < m; k++) targets[k] = 0;
        for (int c = 0; c < parts_; c++) {
          find_targets<I>(pi + c * part_stride_, si, axis_[c], size_[c], step_[c], 0, 0, more, m);
          for (int64_t k = 0; k < m; k++) targets[k] += more[k];
        }
        if (end - begin <= kFew) {
          block_.walk(begin, end, [&](const int64_t* o, int64_t count) {
            for (int64_t b = 0; b < count; b++) apply_.points(y + o[0] + b * by, targets, pu + o[1] + b * bu, su, m);
          });
          continue;
        }
        for (int64_t k = 0; k < m; k++) {
          if (parts > 1) {
            const int64_t place = checked_index<I>(pi + k * si, axis_[0], size_[0]);
            if (place < low || place >= high) continue;
          }
          char* py = y + targets[k];
          if (block_.nd == 1) apply_.run(py + begin * by, by, pu + k * su + begin * bu, bu, end - begin);
          else block_.walk(begin, end, [&](const int64_t* o, int64_t count) { apply_.run(py + o[0], by, pu + k * su + o[1], bu, count); });
        }
      }
    });
  }

  Axes<2> whole_;  // x, y
  Axes<3> lanes_;  // y, indices, updates, without the axis
  Axes<2> rows_;   // indices, updates
  Axes<2> block_;  // y, updates
  int parts_ = 0, axis_[kMaxDims] = {};
  int64_t size_[kMaxDims] = {}, step_[kMaxDims] = {}, part_stride_ = 0;
  int64_t along_ = 0, idx_step_ = 0, u_step_ = 0, item_;
  bool wide_, elements_, lanes_inner_ = false;
  ScatterApply apply_;
  CopyFn copy_;
};

}  // namespace

std::unique_ptr<Kernel> make_scatter(LaunchDesc desc, BindContext&) { return std::make_unique<Scatter>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
