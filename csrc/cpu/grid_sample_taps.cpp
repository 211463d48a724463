// GridSample. The taps of a block of output positions are found once, then applied to all channels. Three ways: nearest elements of any
// dtype are copied; planes of floats (channels-first) are read by pairs (linear) or fours (cubic) of neighbours along the last axis, for
// four positions at a time; everything else adds up rows of channels, position by position. A tap of weight 0 is not read, so that what
// lies there does not matter even if it is NaN.
#include <algorithm>
#include <cmath>

#include "cpu/reduce_block.h"
#include "cpu/resample_four.h"
#include "cpu/resample_rows.h"

namespace ptrt::PTRT_LEVEL {

namespace {

enum class Mode { linear, nearest, cubic };
enum class Padding { zeros, border, reflection };

constexpr int kBlock = 128;  // positions, at most

double reflect(double x, double low, double high) {
  const double range = high - low;
  if (range <= 0) return low;
  if (x < low || x > high) {
    const double d = x < low ? low - x : x - high, n = std::floor(d / range), r = d - n * range;
    const bool even = std::floor(n / 2) * 2 == n;
    return (x < low) == even ? low + r : high - r;
  }
  return x;
}

class GridSample final : public Kernel {
 public:
  GridSample(LaunchDesc d, Mode mode, Padding padding, bool align, RowFunctions<float> f32, RowFunctions<double> f64)
      : Kernel(std::move(d)), mode_(mode), padding_(padding), align_(align), f32_(f32), f64_(f64) {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    dims_ = x.ndim - 2;
    channels_ = y.shape[1];
    positions_.add(0, y.shape[0]);
    for (int a = 0; a < dims_; a++) positions_.add(2 + a, y.shape[2 + a]);
    const int count = mode == Mode::cubic ? 4 : mode == Mode::linear ? 2 : 1;
    for (int a = 0; a + 1 < dims_; a++) rows_ *= count;
    const int64_t last = x.shape[x.ndim - 1];
    if (mode == Mode::nearest) way_ = Way::copies;
    else if (x.dtype == DType::f32 && x.strides[x.ndim - 1] == 1 && last >= count) way_ = Way::planes;
    else way_ = Way::rows;
    wide_ = x.dtype != DType::f32 && x.dtype != DType::f16 && x.dtype != DType::bf16;
    block_ = std::min<int64_t>(kBlock, 1024 / rows_);
    grain_ = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, channels_ * block_));
  }

  size_t thread_scratch_bytes() const override {
    const auto block = static_cast<size_t>(block_), channels = static_cast<size_t>(channels_);
    return align64(2 * block * sizeof(int64_t)) + align64(static_cast<size_t>(rows_) * block * (sizeof(int64_t) + sizeof(Four))) +
           2 * align64(channels * sizeof(double));
  }
  std::string describe() const override { return way_ == Way::copies ? "copies" : way_ == Way::planes ? "planes" : "rows"; }

  void run(const RunContext& ctx) override {
    const int64_t blocks = (positions_.total + block_ - 1) / block_;
    if (channels_ == 0) return;
    ctx.parallel((blocks + grain_ - 1) / grain_, [&](int64_t task, int worker) {
      for (int64_t b = task * grain_; b < std::min(blocks, (task + 1) * grain_); b++) {
        const int64_t begin = b * block_, n = std::min(block_, positions_.total - begin);
        char* scratch = ctx.thread_scratch(worker);
        if (way_ == Way::copies) copy(begin, n, scratch);
        else if (mode_ == Mode::cubic) interpolate<4>(begin, n, scratch);
        else interpolate<2>(begin, n, scratch);
      }
    });
  }

 private:
  enum class Way { copies, planes, rows };

  template <int COUNT>
  void interpolate(int64_t begin, int64_t n, char* scratch) const {
    if (way_ == Way::planes) planes<COUNT>(begin, n, scratch);
    else if (wide_) add_rows<double, COUNT>(begin, n, scratch);
    else add_rows<float, COUNT>(begin, n, scratch);
  }

  // The COUNT neighbours along one axis that a coordinate reads. Weight 0: outside of x, and index 0.
  template <int COUNT>
  struct Taps {
    int64_t index[COUNT];
    double weight[COUNT];
    int64_t first;  // of the neighbours, before any of them was moved into x
    bool inside;    // none was
  };

  // n: a coordinate in [-1, 1].
  template <int COUNT>
  PTRT_INLINE void find(double n, int64_t size, Taps<COUNT>& t) const {
    const auto length = static_cast<double>(size);
    // The specification's sample code keeps positions in single precision; so does this.
    double x = static_cast<float>(align_ ? (n + 1) / 2 * (length - 1) : ((n + 1) * length - 1) / 2);
    if (!(std::fabs(x) < 1e9)) x = x > 0 ? 1e9 : -1e9;  // also NaN
    if (COUNT == 1) x = std::nearbyint(x);
    const double low = align_ ? 0.0 : -0.5, high = align_ ? length - 1 : length - 0.5;
    if (padding_ != Padding::zeros && (x < low || x > high)) {
      if (padding_ == Padding::border) x = std::clamp(x, 0.0, length - 1);
      else x = static_cast<float>(reflect(x, low, high));
    }
    const double floor = COUNT == 1 ? std::trunc(x) : std::floor(x), r = x - floor, s = 1 - r;
    if constexpr (COUNT == 1) {
      t.weight[0] = 1;
    } else if constexpr (COUNT == 2) {
      t.weight[0] = s;
      t.weight[1] = r;
    } else {
      const double a = -0.75;
      t.weight[0] = ((a * (r + 1) - 5 * a) * (r + 1) + 8 * a) * (r + 1) - 4 * a;
      t.weight[1] = ((a + 2) * r - (a + 3)) * r * r + 1;
      t.weight[2] = ((a + 2) * s - (a + 3)) * s * s + 1;
      t.weight[3] = ((a * (s + 1) - 5 * a) * (s + 1) + 8 * a) * (s + 1) - 4 * a;
    }
    t.first = static_cast<int64_t>(floor) - (COUNT == 4);
    t.inside = t.first >= 0 && t.first + COUNT <= size;
    PTRT_UNROLL for (int k = 0; k < COUNT; k++) t.index[k] = t.first + k;
    if (!t.inside) move_inside(t.index, t.weight, COUNT, length, low, high);
  }
  PTRT_NOINLINE void move_inside(int64_t* index, double* weight, int count, double length, double low, double high) const {
    for (int k = 0; k < count; k++) {
      auto i = static_cast<double>(index[k]);
      if (i >= 0 && i <= length - 1) continue;
      if (padding_ == Padding::zeros) weight[k] = i = 0;
      else if (padding_ == Padding::reflection) i = std::trunc(reflect(i, low, high));
      index[k] = static_cast<int64_t>(std::clamp(i, 0.0, length - 1));
    }
  }

  // Calls each(k, taps of all axes, offset of the image in x, offset in y) for position begin + k, k < n.
  template <int COUNT, class F>
  PTRT_INLINE void each_position(int64_t begin, int64_t n, F each) const {
    const Operand &x = desc.ins[0], &grid = desc.ins[1], &y = desc.outs[0];
    int64_t index[kMaxDims] = {};
    positions_.seek(index, begin);
    const int last = dims_ + 1;  // the last axis of y, and the axis after its own in the grid, which is [N, o..., dims]
    const int64_t step = grid.strides[last], item = static_cast<int64_t>(itemsize(grid.dtype));
    Taps<COUNT> t[3];
    for (int64_t k = 0; k < n;) {
      int64_t at = index[0] * grid.strides[0], to = index[0] * y.strides[0];
      for (int a = 0; a < dims_; a++) {
        at += index[2 + a] * grid.strides[1 + a];
        to += index[2 + a] * y.strides[2 + a];
      }
      const int64_t end = std::min(n, k + y.shape[last] - index[last]);
      for (; k < end; k++, at += grid.strides[last - 1], to += y.strides[last]) {
        const char* p = static_cast<const char*>(grid.data) + at * item;
        for (int a = dims_ - 1; a >= 0; a--, p += step * item) {  // the grid names the last axis first
          double c;
          if (grid.dtype == DType::f32) c = *reinterpret_cast<const float*>(p);
          else convert_in(grid.dtype, p, 1, 1, &c);
          find(c, x.shape[2 + a], t[a]);
        }
        each(k, t, index[0] * x.strides[0], to);
      }
      if (k < n) positions_.seek(index, begin + k);
    }
  }

  // Offsets and weights of the combinations of taps of the first `axes` axes.
  template <class C, int COUNT>
  PTRT_INLINE int combine(const Taps<COUNT>* t, int axes, int64_t base, int64_t* offset, C* weight) const {
    const Operand& x = desc.ins[0];
    int n = 1;
    offset[0] = base;
    weight[0] = 1;
    for (int a = 0; a < axes; a++) {
      for (int i = n - 1; i >= 0; i--) PTRT_UNROLL for (int k = COUNT - 1; k >= 0; k--) {
          offset[i * COUNT + k] = offset[i] + t[a].index[k] * x.strides[2 + a];
          weight[i * COUNT + k] = weight[i] * static_cast<C>(t[a].weight[k]);
        }
      n *= COUNT;
    }
    return n;
  }

  void copy(int64_t begin, int64_t n, char* scratch) const {
    auto *from = reinterpret_cast<int64_t*>(scratch), *to = from + block_;
    each_position<1>(begin, n, [&](int64_t k, const Taps<1>* t, int64_t base, int64_t target) {
      bool inside = true;
      for (int a = 0; a < dims_; a++) {
        base += t[a].index[0] * desc.ins[0].strides[2 + a];
        inside = inside && t[a].weight[0] != 0;
      }
      from[k] = inside ? base : kOutside;
      to[k] = target;
    });
    switch (itemsize(desc.ins[0].dtype)) {
      case 1: return copy_as<uint8_t>(from, to, n);
      case 2: return copy_as<uint16_t>(from, to, n);
      case 4: return copy_as<uint32_t>(from, to, n);
      default: return copy_as<uint64_t>(from, to, n);
    }
  }
  template <class T>
  void copy_as(const int64_t* from, const int64_t* to, int64_t n) const {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    if (x.strides[1] == 1 && y.strides[1] == 1) {
      const auto bytes = static_cast<size_t>(channels_) * sizeof(T);
      for (int64_t k = 0; k < n; k++) {
        if (from[k] == kOutside) std::memset(y.as<T>() + to[k], 0, bytes);
        else std::memcpy(y.as<T>() + to[k], x.as<T>() + from[k], bytes);
      }
      return;
    }
    for (int64_t c = 0; c < channels_; c++) {
      const T* p = x.as<T>() + c * x.strides[1];
      T* q = y.as<T>() + c * y.strides[1];
      for (int64_t k = 0; k < n; k++) {
        const T v = p[from[k] == kOutside ? 0 : from[k]];
        q[to[k]] = from[k] == kOutside ? T{0} : v;
      }
    }
  }

  // A row: the neighbours along the last axis, for one combination of taps of the others. Tables are [four positions][row][position].
  template <int COUNT>
  void planes(int64_t begin, int64_t n, char* scratch) const {
    auto *to = reinterpret_cast<int64_t*>(scratch), *masks = to + block_;
    char* tables = scratch + align64(2 * static_cast<size_t>(block_) * sizeof(int64_t));
    auto* offset = reinterpret_cast<int64_t*>(tables);
    auto* weight = reinterpret_cast<float*>(offset + block_ * rows_);
    const Operand& x = desc.ins[0];
    const int64_t size = x.shape[x.ndim - 1];
    each_position<COUNT>(begin, n, [&](int64_t k, const Taps<COUNT>* t, int64_t base, int64_t target) {
      int64_t row[16];
      float w[16], window[4] = {};
      combine(t, dims_ - 1, base, row, w);
      const Taps<COUNT>& last = t[dims_ - 1];
      const int64_t start = std::clamp<int64_t>(last.first, 0, size - COUNT), at = k / 4 * 4 * rows_ + k % 4;
      bool zero = false;
      for (int a = 0; a < dims_; a++) PTRT_UNROLL for (int i = 0; i < COUNT; i++) zero |= t[a].weight[i] == 0;
      if (last.inside) PTRT_UNROLL for (int i = 0; i < COUNT; i++) window[i] = static_cast<float>(last.weight[i]);
      else
        for (int i = 0; i < COUNT; i++)
          if (last.weight[i] != 0) window[last.index[i] - start] += static_cast<float>(last.weight[i]);
      for (int r = 0; r < rows_; r++) {
        offset[at + 4 * r] = row[r] + start;
        PTRT_UNROLL for (int i = 0; i < COUNT; i++) weight[(at + 4 * r) * COUNT + i] = w[r] * window[i];
      }
      to[k] = target;
      masks[k / 4] = (k % 4 != 0 && masks[k / 4]) || zero || !last.inside;
    });
    for (int64_t k = n; k % 4 != 0; k++)  // positions that are computed, but not written
      for (int r = 0; r < rows_; r++) {
        const int64_t at = k / 4 * 4 * rows_ + 4 * r + k % 4;
        offset[at] = offset[at - 1];
        std::fill_n(weight + at * COUNT, COUNT, 0.0f);
      }
    for (int64_t c = 0; c < channels_; c++) {
      const float* p = x.as<float>() + c * x.strides[1];
      for (int64_t k = 0; k < n; k += 4) {
        const int64_t at = k * rows_;
        const Four v =
            masks[k / 4] ? four<COUNT, true>(p, offset + at, weight + at * COUNT) : four<COUNT, false>(p, offset + at, weight + at * COUNT);
        write(v, c, to + k, n - k);
      }
    }
  }

  // Four positions of a plane.
  template <int COUNT, bool MASK>
  PTRT_INLINE Four four(const float* p, const int64_t* offset, const float* weight) const {
    Four a[4] = {};
    if constexpr (COUNT == 2) {
      for (int r = 0; r < rows_; r++, offset += 4, weight += 8) {
        a[0] += product<MASK>(load_pairs(p + offset[0], p + offset[1]), load4(weight));
        a[1] += product<MASK>(load_pairs(p + offset[2], p + offset[3]), load4(weight + 4));
      }
      return pair_sums(a[0], a[1]);
    } else {
      for (int r = 0; r < rows_; r++, offset += 4, weight += 16)
        PTRT_UNROLL for (int i = 0; i < 4; i++) a[i] += product<MASK>(load4(p + offset[i]), load4(weight + 4 * i));
      return pair_sums(pair_sums(a[0], a[1]), pair_sums(a[2], a[3]));
    }
  }

  void write(Four v, int64_t channel, const int64_t* to, int64_t n) const {
    const Operand& y = desc.outs[0];
    float* q = y.as<float>() + channel * y.strides[1];
    if (n >= 4 && to[1] - to[0] == 1 && to[2] - to[0] == 2 && to[3] - to[0] == 3) {
      std::memcpy(q + to[0], &v, sizeof v);
      return;
    }
    for (int64_t i = 0; i < std::min<int64_t>(n, 4); i++) q[to[i]] = v[i];
  }

  template <class C, int COUNT>
  void add_rows(int64_t begin, int64_t n, char* scratch) const {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    C* sum = reinterpret_cast<C*>(scratch);
    C* row = reinterpret_cast<C*>(scratch + align64(static_cast<size_t>(channels_) * sizeof(C)));
    const bool direct = x.dtype == dtype_of<C>() && (x.strides[1] == 1 || channels_ == 1);
    const auto item = static_cast<int64_t>(itemsize(x.dtype));
    each_position<COUNT>(begin, n, [&](int64_t, const Taps<COUNT>* t, int64_t base, int64_t target) {
      int64_t offset[64], kept = 0;
      C factor[64];
      const int taps = combine(t, dims_, base, offset, factor);
      for (int i = 0; i < taps; i++) {
        offset[kept] = offset[i];
        factor[kept] = factor[i];
        kept += factor[i] != 0;
      }
      char* q = static_cast<char*>(y.data) + target * item;
      const bool written = direct && y.strides[1] == 1;
      C* out = written ? reinterpret_cast<C*>(q) : sum;
      if (direct && kept > 0 && channels_ < 4) {
        for (int64_t c = 0; c < channels_; c++) {
          C a = 0;
          for (int64_t i = 0; i < kept; i++) a += factor[i] * x.as<C>()[offset[i] + c];
          out[c] = a;
        }
      } else if (direct && kept > 0) {
        rows<C>().sum(out, channels_, x.as<C>(), offset, 1, factor, kept, 1, false);
      } else {
        std::fill(out, out + channels_, C{0});
        for (int64_t i = 0; i < kept; i++) {
          convert_in(x.dtype, static_cast<const char*>(x.data) + offset[i] * item, x.strides[1], channels_, row);
          for (int64_t c = 0; c < channels_; c++) out[c] += factor[i] * row[c];
        }
      }
      if (!written) convert_out(y.dtype, out, channels_, q, y.strides[1]);
    });
  }

  template <class C>
  const RowFunctions<C>& rows() const {
    if constexpr (sizeof(C) == 4) return f32_;
    else return f64_;
  }

  static constexpr int64_t kOutside = INT64_MIN;

  Mode mode_;
  Padding padding_;
  bool align_, wide_ = false;
  Way way_ = Way::rows;
  int dims_ = 0;
  int64_t channels_ = 0, rows_ = 1, block_ = 1, grain_ = 1;
  Walk positions_;
  RowFunctions<float> f32_;
  RowFunctions<double> f64_;
};

}  // namespace

std::unique_ptr<Kernel> grid_sample_of(LaunchDesc desc, RowFunctions<float> f32, RowFunctions<double> f64) {
  Params p = desc.params();
  const auto mode = static_cast<Mode>(p.i());
  const auto padding = static_cast<Padding>(p.i());
  const bool align = p.i() != 0;
  const Operand &x = desc.ins[0], &grid = desc.ins[1], &y = desc.outs[0];
  if (x.ndim < 3 || x.ndim > 5 || grid.ndim != x.ndim || y.ndim != x.ndim || grid.shape[grid.ndim - 1] != x.ndim - 2 ||
      !convertible(grid.dtype) || !convertible(x.dtype) || x.dtype != y.dtype)
    throw KernelError("grid_sample: operands do not match, or more than 3 spatial axes");
  for (int a = 2; a < x.ndim; a++)
    if (x.shape[a] == 0 && y.size() > 0) throw KernelError("grid_sample: nothing to sample from");
  return std::make_unique<GridSample>(std::move(desc), mode, padding, align, f32, f64);
}

}  // namespace ptrt::PTRT_LEVEL
