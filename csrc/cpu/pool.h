// The windows of a pool launch, and how their results are cut into blocks.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/pool_taps.h"
#include "cpu/reduce_block.h"

namespace ptrt::PTRT_LEVEL {
namespace {

enum class Mode { max, average, lp };
constexpr int64_t kGrain = 16384;  // elements read per task, at least

// Neighbouring results whose windows have the same taps inside x, and of which an average counts the same number.
struct Run {
  int64_t begin, end, lo, hi, count;
};

// One spatial axis.
struct Axis {
  int64_t in = 1, out = 1, k = 1, stride = 1, dilation = 1, begin = 0, end = 0;
  int axis = -1;  // of the operands; -1: this spatial axis does not exist
  std::vector<Run> runs;

  PTRT_COLD void prepare(bool include_pad) {
    for (int64_t o = 0; o < out; o++) {
      int64_t first = k, last = 0, n = 0;
      for (int64_t t = 0; t < k; t++) {
        const int64_t i = at(o, t);
        if (i >= 0 && i < in) {
          first = std::min(first, t);
          last = t + 1;
          n += !include_pad;
        }
        n += include_pad && i >= -begin && i < in + end;
      }
      last = std::max(first, last);
      if (!runs.empty() && runs.back().lo == first && runs.back().hi == last && runs.back().count == n) runs.back().end++;
      else runs.push_back({o, o + 1, first, last, n});
    }
  }
  int64_t at(int64_t o, int64_t tap) const { return o * stride + tap * dilation - begin; }
  int64_t step(const Operand& o) const { return axis < 0 ? 0 : o.strides[axis]; }
  int64_t most_taps() const { return std::min(k, in); }  // inside x
  // The run of result o.
  const Run& run(int64_t o) const {
    size_t i = 0;
    while (runs[i].end <= o) i++;
    return runs[i];
  }
};

struct Config {
  Mode mode;
  int64_t p = 2;
  bool column_major = false, positions = false;
  Axis d, h, w;

  void place(int64_t* index, int64_t id, int64_t ih, int64_t iw) const {
    if (d.axis >= 0) index[d.axis] = id;
    if (h.axis >= 0) index[h.axis] = ih;
    index[w.axis] = iw;
  }
};

// Distances of a box of taps, a run's taps along each axis, from its first tap. Returns how many there are.
PTRT_COLD inline int64_t list_taps(int64_t* to, int64_t nd, int64_t sd, int64_t nh, int64_t sh, int64_t nw, int64_t sw) {
  int64_t* at = to;
  for (int64_t i = 0; i < nd; i++)
    for (int64_t j = 0; j < nh; j++)
      for (int64_t t = 0; t < nw; t++) *at++ = i * sd + j * sh + t * sw;
  return at - to;
}

// A block of results and what they are made from. Steps are in elements.
struct Block {
  int64_t n, channel, lanes, od, oh, rows, ow, width;  // the results
  int64_t first, columns, front, inside;               // columns of x under the windows: the first (may be < 0), all, before x, in x
  const char* x;
  int64_t corner;             // from x to the window's corner of row 0, which may be outside
  int64_t d_tap, h_tap, row;  // steps from tap to tap, and from one row of results to the next
  char* out;
  int64_t out_row, out_col;
  int64_t planes, x_plane, out_plane;  // all of this for several channels, and the steps between them
};

// Where maxima are: the positions of x along each axis, and from a window's corner to its first element along w.
struct Positions {
  int64_t step[3], plane;
  std::vector<int32_t> firsts32;
  std::vector<int64_t> firsts64;
};

// What depends on the type of the elements (pool_elements.h).
class Elements {
 public:
  virtual ~Elements() = default;
  int64_t size = 0, lanes = 0;
  RowsFn max = nullptr, max_even = nullptr, sum = nullptr, mean = nullptr, mean_even = nullptr;  // compute_rows; *_even: of stride 2
  RowsFn max_wrapped = nullptr, mean_wrapped = nullptr;
  bool in_place = false;  // neither source nor sink
  virtual bool reads_directly(const LaunchDesc& desc, int col_axis) const = 0;
  virtual bool writes_directly(const LaunchDesc& desc, int col_axis) const = 0;
  virtual size_t source_scratch(int64_t elements) const = 0;
  virtual size_t sink_scratch(int64_t elements) const = 0;
  virtual void fill(const LaunchDesc& desc, const int64_t* index, int row_axis, int64_t rows, int col_axis, int64_t cols, char* out,
                    char* scratch) const = 0;
  virtual void store(const LaunchDesc& desc, const int64_t* index, int row_axis, int64_t rows, int col_axis, int64_t cols, const char* data,
                     int64_t row_stride, char* scratch) const = 0;
  // n times what means nothing in a sum or a maximum.
  virtual void pad(char* x, int64_t n, bool max) const = 0;
  // What elements are combined as, and what becomes of the result: powers and roots for lp; unsigned integers with their signs flipped
  // (p = 0). There is room behind x for whole vectors.
  virtual void begin(char* x, int64_t n, int64_t p) const = 0;
  virtual void finish(char* x, int64_t n, int64_t p) const = 0;
  // dst[k] = src[k * stride]
  virtual void pick(char* dst, const char* src, int64_t stride, int64_t n) const = 0;
  virtual void find(const LaunchDesc& desc, const Config& c, const Positions& p, const Block& b) const = 0;
};

// Pooling in units, of which a task has a few.
class PoolKernel : public Kernel {
 public:
  PoolKernel(LaunchDesc desc0, Config c, std::unique_ptr<Elements> elements)
      : Kernel(std::move(desc0)), c_(std::move(c)), elements_(std::move(elements)) {}
  PTRT_COLD void run(const RunContext& ctx) override {
    if (units_.total == 0) return;
    ctx.parallel((units_.total + grain_ - 1) / grain_, [&](int64_t task, int worker) {
      const int64_t begin = task * grain_, end = std::min(units_.total, begin + grain_);
      int64_t unit[5] = {};
      units_.seek(unit, begin);
      for (int64_t u = begin; u < end; u++, units_.next(unit)) compute(unit, ctx.thread_scratch(worker));
    });
  }

 protected:
  virtual void compute(const int64_t* unit, char* scratch) const = 0;
  void finish_units(std::initializer_list<int64_t> sizes, int64_t unit_work) {
    for (int64_t n : sizes) units_.add(units_.n, n);
    grain_ = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, unit_work));
  }
  Config c_;
  std::unique_ptr<Elements> elements_;

 private:
  Walk units_;
  int64_t grain_ = 1;
};

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
