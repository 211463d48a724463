// Resize by nearest, without programs: elements of any dtype are copied as they are, a line of y at a time. A line runs along one resampled
// axis; its elements are single ones, or rows along an untouched axis that is contiguous in x and in y. Lines that repeat the one before
// (enlarging) are copied from it.
#include <algorithm>

#include "cpu/lanes.h"
#include "cpu/reduce_block.h"
#include "cpu/resample_table.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kGrain = 16384;  // elements written per task, at least

struct Pair {  // complex128
  uint64_t half[2];
};

template <class T>
void copy_elements(char* y, int64_t ys, const char* x, const int64_t* at, int64_t n) {
  auto* to = reinterpret_cast<T*>(y);
  auto* from = reinterpret_cast<const T*>(x);
  if (ys == 1)
    for (int64_t o = 0; o < n; o++) to[o] = from[at[o]];
  else
    for (int64_t o = 0; o < n; o++) to[o * ys] = from[at[o]];
}

// Each of n elements F times (2 or 4).
template <class T, int F>
void repeat_elements(char* y, const char* x, int64_t n) {
  typedef T V __attribute__((vector_size(kVecBytes)));
  constexpr int L = kVecBytes / static_cast<int>(sizeof(T));
  constexpr auto lanes = std::make_integer_sequence<int, L>();
  auto* to = reinterpret_cast<T*>(y);
  auto* from = reinterpret_cast<const T*>(x);
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    V v;
    std::memcpy(&v, from + i, sizeof v);
    V r[4] = {interleave<0>(v, v, lanes), interleave<L / 2>(v, v, lanes)};
    if (F == 4) {
      r[2] = interleave<0>(r[1], r[1], lanes);
      r[3] = interleave<L / 2>(r[1], r[1], lanes);
      r[1] = interleave<L / 2>(r[0], r[0], lanes);
      r[0] = interleave<0>(r[0], r[0], lanes);
    }
    for (int k = 0; k < F; k++) std::memcpy(to + F * i + k * L, &r[k], sizeof v);
  }
  for (; i < n; i++)
    for (int k = 0; k < F; k++) to[F * i + k] = from[i];
}

// As memcpy, whose decisions cost more than copying a short row.
PTRT_INLINE void copy_bytes(char* to, const char* from, int64_t n) {
  if (n < kVecBytes || n > 4 * kVecBytes) {
    std::memcpy(to, from, static_cast<size_t>(n));
    return;
  }
  for (int64_t i = 0; i < n; i += kVecBytes) {
    const int64_t at = std::min(i, n - kVecBytes);
    vf v;
    std::memcpy(&v, from + at, sizeof v);
    std::memcpy(to + at, &v, sizeof v);
  }
}

class ResampleCopy final : public Kernel {
 public:
  PTRT_COLD ResampleCopy(LaunchDesc d, ResamplePlan plan) : Kernel(std::move(d)) {
    const std::vector<ResampleTable>& tables = plan.tables;
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    item_ = static_cast<int64_t>(itemsize(x.dtype));
    auto distance = [&](int a) { return std::abs(x.strides[a]); };
    for (int a = 0; a < x.ndim; a++) {
      const ResampleTable& t = tables[static_cast<size_t>(a)];
      if (t.touched && (line_ < 0 || distance(a) <= distance(line_) || x.shape[line_] == 1)) line_ = a;
      if (!t.touched && x.shape[a] > 1 && x.strides[a] == 1 && y.strides[a] == 1) width_axis_ = a;
    }
    width_ = width_axis_ < 0 ? 1 : x.shape[width_axis_];
    out_ = y.shape[line_];
    for (int a = 0; a < x.ndim; a++)
      if (a != line_ && a != width_axis_ && (row_ < 0 || y.shape[a] > 1)) row_ = a;
    for (int a = 0; a < x.ndim; a++) {
      if (a != line_ && a != width_axis_ && a != row_) outer_.add(a, y.shape[a]);
      Axis axis;
      const ResampleTable& t = tables[static_cast<size_t>(a)];
      for (int64_t i : t.index) axis.offset.push_back(i * x.strides[a]);
      axis.outside = t.outside;
      axes_.push_back(std::move(axis));
    }
    rows_ = row_ < 0 ? 1 : y.shape[row_];
    ys_ = out_ == 1 ? width_ : y.strides[line_];
    std::memcpy(empty_, plan.empty, sizeof empty_);
    if (width_ > 1 && width_ * item_ < kVecBytes && ys_ == width_) flatten(axes_[static_cast<size_t>(line_)]);
    const std::vector<int64_t>& at = axes_[static_cast<size_t>(line_)].offset;
    for (int64_t factor : {2, 4}) {
      bool all = item_ <= 8 && width_ == 1 && ys_ == 1 && out_ % factor == 0;
      for (size_t o = 0; all && o < at.size(); o++) all = at[o] == static_cast<int64_t>(o) / factor;
      if (all) factor_ = factor;
    }
    grain_ = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, out_ * width_));
  }
  std::string describe() const override { return factor_ ? "repeated elements" : width_ > 1 ? "copied rows" : "copied elements"; }

  void run(const RunContext& ctx) override {
    const int64_t total = outer_.total * rows_;
    if (total == 0 || out_ * width_ == 0) return;
    ctx.parallel((total + grain_ - 1) / grain_, [&](int64_t task, int) {
      const int64_t end = std::min(total, (task + 1) * grain_);
      for (int64_t r = task * grain_; r < end;) {
        const int64_t row = r % rows_, n = std::min(end - r, rows_ - row);
        lines(r / rows_, row, n);
        r += n;
      }
    });
  }

 private:
  struct Axis {
    std::vector<int64_t> offset;  // in x; empty: untouched
    std::vector<uint8_t> outside;
    int64_t at(int64_t i, int64_t stride) const { return offset.empty() ? i * stride : offset[static_cast<size_t>(i)]; }
    bool leaves_out(int64_t i) const { return !outside.empty() && outside[static_cast<size_t>(i)]; }
  };

  // Lines of short rows become lines of their elements.
  PTRT_COLD void flatten(Axis& axis) {
    Axis flat;
    for (int64_t o = 0; o < out_; o++)
      for (int64_t c = 0; c < width_; c++) {
        flat.offset.push_back(axis.offset[static_cast<size_t>(o)] + c);
        if (!axis.outside.empty()) flat.outside.push_back(axis.outside[static_cast<size_t>(o)]);
      }
    axis = std::move(flat);
    out_ *= width_;
    width_ = ys_ = 1;
  }

  void lines(int64_t outer, int64_t row, int64_t n) const {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    int64_t index[kMaxDims] = {}, offset = 0;
    outer_.seek(index, outer);
    bool outside = false;
    for (int k = 0; k < outer_.n; k++) {
      const int a = outer_.axis[k];
      const Axis& axis = axes_[static_cast<size_t>(a)];
      offset += axis.at(index[a], x.strides[a]);
      outside = outside || axis.leaves_out(index[a]);
    }
    if (row_ >= 0) index[row_] = row;
    const char *from = static_cast<const char*>(x.data) + offset * item_, *source = nullptr, *before = nullptr;
    char* to = element(y, index);
    const int64_t step = row_ < 0 ? 0 : y.strides[row_] * item_;
    const Axis none, &axis = row_ < 0 ? none : axes_[static_cast<size_t>(row_)];
    const int64_t stride = row_ < 0 ? 0 : x.strides[row_];
    for (int64_t r = row; r < row + n; r++, to += step) {
      const char* p = from + axis.at(r, stride) * item_;
      if (outside || axis.leaves_out(r)) {
        for (int64_t o = 0; o < out_; o++) fill(to, o);
      } else if (p == source && ys_ == width_) {
        copy_bytes(to, before, out_ * width_ * item_);
      } else {
        copy(to, p);
        source = p;
        before = to;
      }
    }
  }

  void copy(char* to, const char* from) const {
    const Axis& axis = axes_[static_cast<size_t>(line_)];
    const int64_t* at = axis.offset.data();
    if (width_ > 1) {
      for (int64_t o = 0; o < out_; o++) copy_bytes(to + o * ys_ * item_, from + at[o] * item_, width_ * item_);
    } else {
      switch (item_) {
        case 1: copy_line<uint8_t>(to, from, at); break;
        case 2: copy_line<uint16_t>(to, from, at); break;
        case 4: copy_line<uint32_t>(to, from, at); break;
        case 8: copy_line<uint64_t>(to, from, at); break;
        default: copy_elements<Pair>(to, ys_, from, at, out_);
      }
    }
    for (size_t o = 0; o < axis.outside.size(); o++)
      if (axis.outside[o]) fill(to, static_cast<int64_t>(o));
  }

  template <class T>
  void copy_line(char* to, const char* from, const int64_t* at) const {
    if (factor_ == 2) repeat_elements<T, 2>(to, from, out_ / 2);
    else if (factor_ == 4) repeat_elements<T, 4>(to, from, out_ / 4);
    else copy_elements<T>(to, ys_, from, at, out_);
  }

  void fill(char* to, int64_t o) const {  // element or row o of a line
    char* p = to + o * ys_ * item_;
    for (int64_t c = 0; c < width_; c++) std::memcpy(p + c * item_, empty_, static_cast<size_t>(item_));
  }

  int line_ = -1, width_axis_ = -1, row_ = -1;
  int64_t item_ = 1, out_ = 0, rows_ = 1, width_ = 1, grain_ = 1;
  int64_t factor_ = 0;   // every element of a line is repeated that often, and both lines are contiguous; 0: no
  int64_t ys_ = 1;       // of y, between the elements of a line
  char empty_[16] = {};  // the extrapolation value
  std::vector<Axis> axes_;
  Walk outer_;  // all axes but line_, width_axis_ and row_
};

}  // namespace

std::unique_ptr<Kernel> make_resample_copy(LaunchDesc desc, ResamplePlan plan) {
  return std::make_unique<ResampleCopy>(std::move(desc), std::move(plan));
}

}  // namespace ptrt::PTRT_LEVEL
