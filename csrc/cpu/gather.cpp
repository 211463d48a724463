// gather: values are only moved, so everything is templated on the element size. All three modes are one loop: an outer nest over (x,
// indices, y), a few index components that add to x's offset, and an inner block that is copied as it is.
#include <algorithm>

#include "cpu/gather_index.h"
#include "cpu/kernels.h"
#include "cpu/vm.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kTaskBytes = 64 << 10;
constexpr int64_t kTile = 4096;  // elements gathered before the epilogue sees them
constexpr int64_t kColumns = 512;

class Gather final : public Kernel {
 public:
  explicit Gather(LaunchDesc d) : Kernel(std::move(d)), epilogue_(desc) {
    need(desc.ins.size() == 2 && desc.outs.size() == 1, "gather", "expected two inputs and one output");
    const Operand &x = desc.ins[0], &idx = desc.ins[1], &y = desc.outs[0];
    need(x.present() && y.present() && is_index(idx.dtype), "gather", "indices must be int32 or int64");
    need(desc.epilogue.empty() ? x.dtype == y.dtype : x.dtype == desc.acc_dtype, "gather", "dtypes differ");
    Params p = desc.params();
    const int64_t mode = p.i();
    int64_t axis = p.i(), batch = p.i();
    const auto e = static_cast<int64_t>(itemsize(x.dtype)), ei = static_cast<int64_t>(itemsize(idx.dtype));
    item_ = e;
    auto outer = [&](int64_t n, int64_t sx, int64_t si, int64_t sy) { outer_.push(n, sx * e, si * ei, sy * e); };
    auto component = [&](int64_t a) {
      axis_[parts_] = static_cast<int>(a);
      size_[parts_] = x.shape[a];
      step_[parts_++] = x.strides[a] * e;
    };
    int out = 0;  // axes of y so far
    auto matches = [&](int64_t n) { need(out < y.ndim && y.shape[out] == n, "gather", "y has the wrong shape"); };
    auto block = [&](int64_t first) {
      for (auto a = first; a < x.ndim; a++, out++) {
        matches(x.shape[a]);
        block_.push(x.shape[a], x.strides[a] * e, y.strides[out] * e);
      }
    };
    if (mode == 2) {
      need(idx.ndim >= 1 && batch >= 0 && batch < idx.ndim && batch <= x.ndim, "gather", "bad batch_dims");
      const int64_t k = idx.shape[idx.ndim - 1];
      need(k <= x.ndim - batch, "gather", "too many index components");
      for (; out < idx.ndim - 1; out++) {
        matches(idx.shape[out]);
        if (out < batch) need(x.shape[out] == idx.shape[out], "gather", "batch axes differ");
        outer(idx.shape[out], out < batch ? x.strides[out] : 0, idx.strides[out], y.strides[out]);
      }
      for (int64_t a = 0; a < k; a++) component(batch + a);
      part_stride_ = idx.strides[idx.ndim - 1] * ei;
      block(batch + k);
    } else {
      if (axis < 0) axis += x.ndim;
      need(axis >= 0 && axis < x.ndim, "gather", "bad axis");
      component(axis);
      if (mode == 0) {
        for (; out < axis; out++) {
          matches(x.shape[out]);
          outer(x.shape[out], x.strides[out], 0, y.strides[out]);
        }
        for (int i = 0; i < idx.ndim; i++, out++) {
          matches(idx.shape[i]);
          outer(idx.shape[i], 0, idx.strides[i], y.strides[out]);
        }
        block(axis + 1);
      } else {
        need(mode == 1 && idx.ndim == x.ndim, "gather", "indices must have the rank of x");
        for (; out < idx.ndim; out++) {
          matches(idx.shape[out]);
          need(out == axis || idx.shape[out] <= x.shape[out], "gather", "indices are larger than x");
          outer(idx.shape[out], out == axis ? 0 : x.strides[out], idx.strides[out], y.strides[out]);
        }
      }
    }
    need(out == y.ndim, "gather", "y has the wrong rank");
    if (!epilogue_.empty()) {
      all_outer_ = outer_;
      all_block_ = block_;
      tiling(y);
    }
    outer_.finish();
    block_.finish();
    const bool wide = idx.dtype == DType::i64;
    switch (e) {
      case 1: wide ? set<1, int64_t>() : set<1, int32_t>(); break;
      case 2: wide ? set<2, int64_t>() : set<2, int32_t>(); break;
      case 4: wide ? set<4, int64_t>() : set<4, int32_t>(); break;
      case 8: wide ? set<8, int64_t>() : set<8, int32_t>(); break;
      default: wide ? set<16, int64_t>() : set<16, int32_t>(); break;
    }
    count_ = outer_.size();
    block_size_ = block_.size();
    same_columns_ = mode != 2 && outer_.nd > 1 && outer_.shape[outer_.nd - 1] <= kColumns;
    for (int i = 0; i < outer_.nd - 1; i++) same_columns_ = same_columns_ && outer_.stride[i][1] == 0;
    // The work is split by outer positions, and within one only along the block's slowest axis.
    const int64_t bytes = block_size_ * e;
    chunk_ = bytes >= kTaskBytes ? 1 : kTaskBytes / (bytes > 8 ? bytes : 8);
    const int64_t slice = bytes / (block_.shape[0] > 0 ? block_.shape[0] : 1);
    piece_ = slice >= kTaskBytes ? 1 : kTaskBytes / (slice > 0 ? slice : 1);
    if (piece_ > block_.shape[0]) piece_ = block_.shape[0];
  }

  void run(const RunContext& ctx) override {
    if (count_ == 0 || block_size_ == 0) return;
    if (!epilogue_.empty()) {
      ctx.parallel(boxes_, [&](int64_t t, int worker) { (this->*box_)(t, ctx.thread_scratch(worker)); });
      return;
    }
    const int64_t pieces = ceil_div(block_.shape[0], piece_), chunks = ceil_div(count_, chunk_);
    ctx.parallel(chunks * pieces, [&](int64_t t, int) {
      const int64_t begin = t / pieces * chunk_, end = begin + chunk_ < count_ ? begin + chunk_ : count_;
      const int64_t b0 = t % pieces * piece_, b1 = b0 + piece_ < block_.shape[0] ? b0 + piece_ : block_.shape[0];
      (this->*run_)(begin, end, b0, b1);
    });
  }

  size_t thread_scratch_bytes() const override {
    return epilogue_.empty() ? 0 : static_cast<size_t>(kTile * item_) + epilogue_.scratch_bytes();
  }

  std::string describe() const override {
    if (block_size_ == 1) return "elements";
    return contiguous_block() ? "rows of " + std::to_string(block_size_ * item_) + " bytes" : "strided blocks";
  }

 private:
  template <int E, class I>
  void set() {
    run_ = &Gather::go<E, I>;
    box_ = &Gather::box<E, I>;
  }

  // With an epilogue, y is cut into boxes of at most kTile elements along its last two axes.
  void tiling(const Operand& y) {
    const int64_t n = y.ndim > 0 ? y.shape[y.ndim - 1] : 1, m = y.ndim > 1 ? y.shape[y.ndim - 2] : 1;
    cols_ = std::max<int64_t>(1, std::min(n, kTile));
    rows_ = std::max<int64_t>(1, std::min(m, kTile / cols_));
    boxes_ = ceil_div(n, cols_) * ceil_div(m, rows_);
    for (int i = 0; i < y.ndim - 2; i++) boxes_ *= y.shape[i];
  }

  template <int E, class I>
  void box(int64_t t, char* scratch) const {
    const Operand& y = desc.outs[0];
    const int last = y.ndim - 1;
    int64_t index[kMaxDims] = {}, rows = 1, cols = 1;
    for (int i = last; i >= 0; i--) {
      const int64_t step = i == last ? cols_ : i == last - 1 ? rows_ : 1, n = ceil_div(y.shape[i], step);
      index[i] = t % n * step;
      t /= n;
      if (i == last) cols = std::min(cols_, y.shape[i] - index[i]);
      if (i == last - 1) rows = std::min(rows_, y.shape[i] - index[i]);
    }
    int64_t at[kMaxDims];
    std::copy(index, index + kMaxDims, at);
    for (int64_t r = 0; r < rows; r++) {
      if (last > 0) at[last - 1] = index[last - 1] + r;
      row<E, I>(at, cols, scratch + r * cols * E);
    }
    epilogue_.apply(desc, index, last - 1, rows, last < 0 ? 0 : last, cols, {scratch, cols, 1}, scratch + kTile * item_);
  }

  // `cols` gathered elements from position `at` of y along its last axis.
  template <int E, class I>
  void row(const int64_t* at, int64_t cols, char* out) const {
    const char *x = desc.ins[0].as<char>(), *idx = desc.ins[1].as<char>();
    for (int i = 0; i < all_outer_.nd; i++) {
      x += at[i] * all_outer_.stride[i][0];
      idx += at[i] * all_outer_.stride[i][1];
    }
    if (all_block_.nd > 0) {
      x += offset<I>(idx);
      for (int i = 0; i < all_block_.nd; i++) x += at[all_outer_.nd + i] * all_block_.stride[i][0];
      copy_elements<E>(out, E, x, all_block_.stride[all_block_.nd - 1][0], cols);
      return;
    }
    const int inner = all_outer_.nd - 1;
    const int64_t sx = inner < 0 ? 0 : all_outer_.stride[inner][0], si = inner < 0 ? 0 : all_outer_.stride[inner][1];
    if (parts_ == 1) {
      const int64_t n = size_[0], s = step_[0];
      const int axis = axis_[0];
      for (int64_t c = 0; c < cols; c++) std::memcpy(out + c * E, x + c * sx + checked_index<I>(idx + c * si, axis, n) * s, E);
      return;
    }
    for (int64_t c = 0; c < cols; c++) std::memcpy(out + c * E, x + c * sx + offset<I>(idx + c * si), E);
  }

  bool contiguous_block() const { return block_.nd == 1 && block_.stride[0][0] == item_ && block_.stride[0][1] == item_; }

  template <class I>
  PTRT_INLINE int64_t offset(const char* idx) const {
    int64_t off = 0;
    for (int k = 0; k < parts_; k++) off += checked_index<I>(idx + k * part_stride_, axis_[k], size_[k]) * step_[k];
    return off;
  }

  template <int E, class I>
  void go(int64_t begin, int64_t end, int64_t b0, int64_t b1) const {
    const char *x = desc.ins[0].as<char>(), *idx = desc.ins[1].as<char>();
    char* y = desc.outs[0].as<char>();
    const int64_t* step = outer_.stride[outer_.nd - 1];
    const int64_t sx = step[0], si = step[1], sy = step[2];
    if (block_size_ == 1 && parts_ == 1) {
      const int64_t n = size_[0], s = step_[0];
      const int axis = axis_[0];
      if (same_columns_) {
        int64_t at[kColumns];
        const int64_t m = outer_.shape[outer_.nd - 1];
        for (int64_t j = 0; j < m; j++) at[j] = j * sx + checked_index<I>(idx + j * si, axis, n) * s;
        const int64_t *up = outer_.stride[outer_.nd - 2], above = outer_.shape[outer_.nd - 2];
        while (begin < end) {  // by whole rows of the last two axes, as far as they go
          int64_t off[3] = {}, rest = begin / m, c = rest % above;
          for (int i = outer_.nd - 2; i >= 0; i--) {
            off[0] += rest % outer_.shape[i] * outer_.stride[i][0];
            off[2] += rest % outer_.shape[i] * outer_.stride[i][2];
            rest /= outer_.shape[i];
          }
          const char* px = x + off[0];
          char* py = y + off[2];
          for (int64_t j = begin % m; c < above && begin < end; c++, j = 0, px += up[0], py += up[2]) {
            const int64_t stop = std::min(m, j + (end - begin));
            begin += stop - j;
            for (; j < stop; j++) std::memcpy(py + j * sy, px + at[j], E);
          }
        }
        return;
      }
      outer_.walk(begin, end, [&](const int64_t* off, int64_t m) {
        const char *px = x + off[0], *pi = idx + off[1];
        char* py = y + off[2];
        for (; m >= 4; m -= 4, px += 4 * sx, pi += 4 * si, py += 4 * sy) {  // all are looked at before one is stored
          const char* from[4];
          PTRT_UNROLL for (int j = 0; j < 4; j++) from[j] = px + j * sx + checked_index<I>(pi + j * si, axis, n) * s;
          PTRT_UNROLL for (int j = 0; j < 4; j++) std::memcpy(py + j * sy, from[j], E);
        }
        for (int64_t j = 0; j < m; j++) std::memcpy(py + j * sy, px + j * sx + checked_index<I>(pi + j * si, axis, n) * s, E);
      });
      return;
    }
    const bool rows = contiguous_block();
    const int64_t bx = block_.stride[0][0], by = block_.stride[0][1];
    const int64_t slice = block_size_ / block_.shape[0];
    const int64_t ix = block_.stride[block_.nd - 1][0], iy = block_.stride[block_.nd - 1][1];
    outer_.walk(begin, end, [&](const int64_t* off, int64_t m) {
      for (int64_t j = 0; j < m; j++) {
        const char* px = x + off[0] + j * sx + offset<I>(idx + off[1] + j * si);
        char* py = y + off[2] + j * sy;
        if (rows) std::memcpy(py + b0 * by, px + b0 * bx, static_cast<size_t>((b1 - b0) * E));
        else block_.walk(b0 * slice, b1 * slice, [&](const int64_t* o, int64_t n) { copy_elements<E>(py + o[1], iy, px + o[0], ix, n); });
      }
    });
  }

  Axes<3> outer_;  // x, indices, y
  Axes<2> block_;  // x, y
  Epilogue epilogue_;
  Axes<3> all_outer_;  // as above, one entry per axis of y, for epilogues
  Axes<2> all_block_;
  int64_t rows_ = 1, cols_ = 1, boxes_ = 0;
  bool same_columns_ = false;  // every row of the outer axes takes the same few indices: they are looked at once per task
  int parts_ = 0, axis_[kMaxDims];
  int64_t size_[kMaxDims], step_[kMaxDims], part_stride_ = 0;
  int64_t item_, count_, block_size_, chunk_, piece_;
  void (Gather::*run_)(int64_t, int64_t, int64_t, int64_t) const;
  void (Gather::*box_)(int64_t, char*) const;
};

}  // namespace

std::unique_ptr<Kernel> make_gather(LaunchDesc desc, BindContext&) { return std::make_unique<Gather>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
