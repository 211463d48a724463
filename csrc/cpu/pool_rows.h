// Pooling of any layout and dtype, a block of rows of results at a time. Two passes: the rows of x under a row of windows become one padded
// line; each line is then combined along itself. Lanes are columns, or pixels of a few channels. Where windows keep the width (stride 1),
// lines go without padding and are combined as if they were one. Operands that are not read in place are staged first. Maxima with
// positions are found in one pass over staged, padded rows.
#pragma once
#include "cpu/pool.h"

namespace ptrt::PTRT_LEVEL {
namespace {

class PoolRows final : public PoolKernel {
 public:
  PTRT_COLD PoolRows(LaunchDesc desc0, Config c, std::unique_ptr<Elements> elements)
      : PoolKernel(std::move(desc0), std::move(c), std::move(elements)) {
    const Operand& x = desc.ins[0];
    const Elements& e = *elements_;
    const bool pixels = !e.in_place && !c_.positions && x.strides[1] == 1 && x.shape[1] >= 4;
    lanes_ = pixels ? std::min<int64_t>(x.shape[1], kMostLanes) : 1;
    col_axis_ = pixels ? 1 : c_.w.axis;
    flips_ = x.dtype == DType::u64;
    staged_ = c_.mode == Mode::lp || flips_ || c_.positions || !e.reads_directly(desc, col_axis_) || (pixels && c_.w.step(x) != lanes_);
    direct_ = e.writes_directly(desc, col_axis_);
    wraps_ = e.max_wrapped && lanes_ == 1 && !c_.positions && c_.w.stride == 1 && c_.w.in == c_.w.out && c_.w.runs.size() > 1 &&
             (!direct_ || c_.h.out == 1 || c_.h.step(desc.outs[0]) == c_.w.out);
    cut(e.size);
    prepare_tables();
  }

  size_t thread_scratch_bytes() const override {
    return tap_bytes() + 2 * bytes_before() + bytes(line_elements()) + bytes(staged_elements()) + bytes(result_elements()) +
           bytes(dense_elements()) + elements_->source_scratch(staged_elements()) + elements_->sink_scratch(result_elements());
  }

  std::string describe() const override { return c_.positions ? "indices" : wraps_ ? "rows, wrapped" : "rows"; }

 private:
  static constexpr int64_t kLineBytes = 16 << 10, kBlockBytes = 16 << 10, kMostLanes = 64;
  static constexpr int64_t kRoom = 4 * kVecBytes;  // behind a buffer: what vectors may touch

  // staged_, direct_ and lanes_ are known.
  PTRT_COLD void cut(int64_t item) {
    const Operand& x = desc.ins[0];
    item *= lanes_;
    const int64_t reach = (c_.w.k - 1) * c_.w.dilation + 1, high = (c_.h.k - 1) * c_.h.dilation + 1;
    const int64_t most_columns = std::max(kLineBytes / item, 4 * reach);
    const auto pieces = [](int64_t n, int64_t most) { return std::max<int64_t>(1, (n + most - 1) / most); };
    int64_t segments = pieces(c_.w.out * c_.w.stride, most_columns);
    width_ = (c_.w.out + segments - 1) / segments;
    segments = width_ ? (c_.w.out + width_ - 1) / width_ : 0;
    columns_ = (width_ - 1) * c_.w.stride + reach;
    const int64_t row_bytes = item * columns_ * (1 + (staged_ ? c_.h.stride * c_.d.most_taps() : 0));
    wraps_ = wraps_ && segments == 1;
    if (wraps_) columns_ = c_.w.in;
    const int64_t blocks = pieces(c_.h.out, std::max<int64_t>(1, kBlockBytes / std::max<int64_t>(1, row_bytes)));
    height_ = (c_.h.out + blocks - 1) / blocks;
    staged_rows_ = staged_ ? std::min(c_.h.in, (height_ - 1) * c_.h.stride + high) : 0;
    if (lanes_ == 1 && !c_.positions && blocks == 1 && segments == 1) {
      const int64_t groups = pieces(x.shape[1], std::max<int64_t>(1, kBlockBytes / std::max<int64_t>(1, row_bytes * height_)));
      planes_ = std::max<int64_t>(1, (x.shape[1] + groups - 1) / groups);
    }
    const int64_t channels = lanes_ * planes_;
    const int64_t taps = c_.positions ? 4 * c_.d.k * c_.h.k * c_.w.k : c_.d.k * c_.h.k + c_.w.k;
    finish_units({x.shape[0], (x.shape[1] + channels - 1) / channels, c_.d.out, blocks, segments}, columns_ * channels * height_ * taps);
  }

  PTRT_COLD Block block_at(const int64_t* unit) const {
    Block b;
    b.n = unit[0], b.od = unit[2];
    b.channel = unit[1] * lanes_ * planes_;
    b.lanes = std::min(lanes_, desc.ins[0].shape[1] - b.channel), b.planes = std::min(planes_, desc.ins[0].shape[1] - b.channel);
    b.oh = unit[3] * height_, b.rows = std::min(height_, c_.h.out - b.oh);
    b.ow = unit[4] * width_, b.width = std::min(width_, c_.w.out - b.ow);
    b.first = c_.w.at(b.ow, 0), b.columns = c_.w.at(b.ow + b.width - 1, c_.w.k - 1) + 1 - b.first;
    if (wraps_) b.first = 0, b.columns = c_.w.in;
    b.front = std::clamp<int64_t>(-b.first, 0, b.columns);
    b.inside = std::max<int64_t>(0, std::min(c_.w.in, b.first + b.columns) - (b.first + b.front));
    if (!staged_) {
      const Operand& x = desc.ins[0];
      const int64_t sd = c_.d.step(x), sh = c_.h.step(x);
      b.corner = c_.d.at(b.od, 0) * sd + c_.h.at(b.oh, 0) * sh + (b.first + b.front) * lanes_;
      b.d_tap = c_.d.dilation * sd, b.h_tap = c_.h.dilation * sh, b.row = c_.h.stride * sh;
      b.x_plane = x.strides[1];
    }
    b.out_plane = direct_ ? desc.outs[0].strides[1] : b.rows * b.width;
    b.out_row = direct_ ? c_.h.step(desc.outs[0]) : b.width * b.lanes;
    b.out_col = direct_ ? c_.w.step(desc.outs[0]) : b.lanes;
    return b;
  }

  PTRT_COLD void prepare_tables() {
    const int64_t room = 2 * kVecBytes;  // more than two vectors of any element
    for (int64_t r = 0; r < (wraps_ ? height_ : 1); r++)
      for (const Run& w : c_.w.runs)
        for (int64_t o = w.begin; o < w.end; o++) {
          if (elements_->size == 4) counts32_.push_back(static_cast<float>(w.count));
          else counts64_.push_back(static_cast<double>(w.count));
          if (wraps_) columns_of_.push_back(static_cast<uint32_t>(o));
        }
    counts32_.resize(counts32_.size() + room);
    counts64_.resize(counts64_.size() + room);
    columns_of_.resize(columns_of_.size() + room);
    if (!c_.positions) return;
    const int64_t d = c_.d.in, h = c_.h.in, w = c_.w.in;
    positions_ = c_.column_major ? Positions{{1, d, d * h}, d * h * w, {}, {}} : Positions{{h * w, w, 1}, d * h * w, {}, {}};
    for (const Run& r : c_.w.runs)
      for (int64_t o = r.begin; o < r.end; o++) positions_.firsts64.push_back(r.lo * c_.w.dilation * positions_.step[2]);
    positions_.firsts64.resize(positions_.firsts64.size() + room);
    for (int64_t n : positions_.firsts64) positions_.firsts32.push_back(static_cast<int32_t>(n));
  }

  // All of a plane.
  int64_t line_elements() const { return c_.positions ? 0 : height_ * columns_ * lanes_; }
  int64_t staged_elements() const { return staged_rows_ * c_.d.most_taps() * columns_ * lanes_; }
  int64_t result_elements() const { return direct_ ? 0 : height_ * width_ * lanes_; }
  bool picks() const { return !c_.positions && lanes_ == 1 && (c_.w.stride > 2 || (c_.w.stride == 2 && !elements_->max_even)); }
  int64_t dense_elements() const { return picks() ? 2 * height_ * columns_ : 0; }
  size_t tap_bytes() const { return align64(static_cast<size_t>(c_.d.most_taps() * c_.h.most_taps() + c_.w.k) * 8); }
  // Of all planes.
  size_t bytes(int64_t elements) const { return elements ? align64(static_cast<size_t>(elements * planes_ * elements_->size + kRoom)) : 0; }
  // What taps reach on either side of lines that wrap, and vectors do not use.
  size_t bytes_before() const { return wraps_ ? bytes(std::max(c_.w.begin, (c_.w.k - 1) * c_.w.dilation)) : 0; }

  PTRT_COLD void compute(const int64_t* unit, char* scratch) const override {
    Block b = block_at(unit);
    auto* taps = reinterpret_cast<int64_t*>(scratch);
    char* lines = scratch += tap_bytes() + bytes_before();
    char* staged = scratch += bytes(line_elements()) + bytes_before();
    char* dense = scratch += bytes(staged_elements());
    char* results = scratch += bytes(dense_elements());
    scratch += bytes(result_elements());
    int64_t index[kMaxDims] = {b.n, b.channel};
    if (staged_) stage(b, index, staged, scratch);
    else b.x = element(desc.ins[0], index);
    c_.place(index, b.od, b.oh, b.ow);
    b.out = direct_ ? element(desc.outs[0], index) : results;
    if (c_.positions) elements_->find(desc, c_, positions_, b);
    else windows(b, lines, dense, taps);
    const int64_t size = elements_->size;
    if (flips_ || c_.mode == Mode::lp)
      for (int64_t r = 0; r < b.rows * b.planes; r++)
        for (int64_t o = 0; o < (lanes_ > 1 ? b.width : 1); o++)
          elements_->finish(b.out + (r / b.rows * b.out_plane + r % b.rows * b.out_row + o * b.out_col) * size,
                            lanes_ > 1 ? b.lanes : b.width, c_.p);
    if (direct_) return;
    const char* out = b.out;
    if (lanes_ == 1)
      for (int64_t plane = 0; plane < b.planes; plane++, index[1]++, out += b.out_plane * size)
        elements_->store(desc, index, c_.h.axis, b.rows, c_.w.axis, b.width, out, b.out_row, scratch);
    else
      for (int64_t r = 0; r < b.rows; r++, out += b.out_row * size) {
        c_.place(index, b.od, b.oh + r, b.ow);
        elements_->store(desc, index, c_.w.axis, b.width, 1, b.lanes, out, b.lanes, scratch);
      }
  }

  // The rows of x under the block are copied to `staged`: for positions between padding, for lp as the terms of its sums.
  PTRT_COLD void stage(Block& b, int64_t* index, char* staged, char* scratch) const {
    const int64_t h0 = std::clamp<int64_t>(c_.h.at(b.oh, 0), 0, c_.h.in), size = elements_->size;
    const int64_t rows = std::clamp<int64_t>(c_.h.at(b.oh + b.rows - 1, c_.h.k - 1) + 1, h0, c_.h.in) - h0;
    const int64_t front = c_.positions ? b.front : 0, pitch = (c_.positions ? b.columns : b.inside) * b.lanes;
    const bool copies = lanes_ == 1 && elements_->reads_directly(desc, col_axis_), at_once = lanes_ == 1 && !c_.positions && !copies;
    const Run& d = c_.d.run(b.od);
    char* to = staged;
    for (int64_t plane = 0; plane < b.planes; plane++)
      for (int64_t i = d.lo; i < d.hi && b.inside; i++)
        for (int64_t r = 0; r < rows; r++, to += pitch * size) {
          index[1] = b.channel + plane;
          c_.place(index, c_.d.at(b.od, i), h0 + r, b.first + b.front);
          if (at_once) {
            elements_->fill(desc, index, c_.h.axis, rows, c_.w.axis, b.inside, to, scratch);
            to += rows * pitch * size;
            break;
          }
          if (c_.positions) {  // (of 0, begin() makes the lowest)
            elements_->pad(to, front, !flips_);
            elements_->pad(to + (front + b.inside) * size, pitch - front - b.inside, !flips_);
          }
          if (copies) std::memcpy(to + front * size, element(desc.ins[0], index), static_cast<size_t>(b.inside * size));
          else if (lanes_ > 1) elements_->fill(desc, index, c_.w.axis, b.inside, 1, b.lanes, to, scratch);
          else elements_->fill(desc, index, -1, 1, c_.w.axis, b.inside, to + front * size, scratch);
        }
    index[1] = b.channel;
    if (c_.mode == Mode::lp || flips_) elements_->begin(staged, (to - staged) / size, c_.p);
    b.x = staged;
    b.x_plane = (d.hi - d.lo) * rows * pitch;
    b.d_tap = rows * pitch, b.h_tap = c_.h.dilation * pitch, b.row = c_.h.stride * pitch;
    b.corner = (c_.h.at(b.oh, 0) - h0) * pitch - d.lo * b.d_tap;
  }

  // Calls f(r0, r1, run) for the rows of the block [r0, r1) that have the same taps along h.
  template <class F>
  PTRT_INLINE void each_run(const Block& b, F f) const {
    const Run* run = &c_.h.run(b.oh);
    for (int64_t r = 0, end; r < b.rows; r = end, run++) f(r, end = std::min(b.rows, run->end - b.oh), *run);
  }

  PTRT_COLD void windows(const Block& b, char* lines, char* dense, int64_t* taps) const {
    const Elements& e = *elements_;
    const int64_t n = b.lanes, pitch = b.columns * n, inside = b.inside * n, size = e.size;
    const bool max = c_.mode == Mode::max, average = c_.mode == Mode::average;
    const Run& d = c_.d.run(b.od);
    each_run(b, [&](int64_t r0, int64_t r1, const Run& h) {
      const int64_t n_taps = list_taps(taps, d.hi - d.lo, b.d_tap, h.hi - h.lo, b.h_tap, 1, 0);
      const char* x = n_taps ? b.x + (b.corner + r0 * b.row + d.lo * b.d_tap + h.lo * b.h_tap) * size : b.x;
      Rows a{lines + (r0 * pitch + b.front * n) * size, pitch, x, b.row, r1 - r0, inside, taps, n_taps};
      a.planes = b.planes, a.x_plane = b.x_plane, a.out_plane = b.rows * pitch;
      (max ? e.max : e.sum)(a);
    });
    if (inside < pitch) {  // what lies between the rows: the padding behind one and before the next
      char *line = lines, *end = lines + b.planes * b.rows * pitch * size;
      e.pad(line, b.front * n, max);
      for (line += (b.front * n + inside) * size; line < end; line += pitch * size) e.pad(line, pitch - inside, max);
    }
    const int64_t none = 0;
    Rows a{b.out, b.out_row, lines, pitch, b.rows, b.width, taps, list_taps(taps, 1, 0, 1, 0, c_.w.k, c_.w.dilation * n)};
    a.planes = b.planes, a.x_plane = b.rows * pitch, a.out_plane = b.out_plane;
    if (average) a.by = size == 4 ? static_cast<const void*>(counts32_.data() + b.ow) : counts64_.data() + b.ow;
    RowsFn along = max ? e.max : e.mean;
    if (wraps_) {
      along = max ? e.max_wrapped : e.mean_wrapped;
      for (int64_t t = 0; t < a.n_taps; t++) taps[t] -= c_.w.begin;
      a.columns = columns_of_.data(), a.wide = c_.w.in;
    } else if (picks()) {  // windows at every column, and of them those that are wanted
      Rows all = a;
      all.out = dense, all.rows = all.planes = 1, all.n = b.planes * b.rows * b.columns - (c_.w.k - 1) * c_.w.dilation, all.by = nullptr;
      (max ? e.max : e.sum)(all);
      char* picked = dense + planes_ * height_ * columns_ * size;
      a.x = picked, a.x_step = b.width, a.taps = &none, a.n_taps = 1, a.x_plane = b.rows * b.width;
      for (int64_t r = 0; r < b.planes * b.rows; r++, dense += b.columns * size, picked += b.width * size)
        e.pick(picked, dense, c_.w.stride, b.width);
    } else if (lanes_ == 1 && c_.w.stride == 2) {
      along = max ? e.max_even : e.mean_even;
    }
    const auto rows = [&](int64_t r0, int64_t r1, int64_t count) {
      a.rows = r1 - r0, a.outer = static_cast<double>(count);
      if (lanes_ > 1) {
        for (; r0 < r1; r0++) pixels(b, a, along, b.out + r0 * b.out_row * size, lines + r0 * pitch * size);
        return;
      }
      along(a);
      a.out = static_cast<char*>(a.out) + a.rows * a.out_step * size, a.x = static_cast<const char*>(a.x) + a.rows * a.x_step * size;
    };
    if (average) each_run(b, [&](int64_t r0, int64_t r1, const Run& h) { rows(r0, r1, d.count * h.count); });
    else rows(0, b.rows, 1);
  }

  // A row of results whose lanes are channels.
  PTRT_COLD void pixels(const Block& b, const Rows& all, RowsFn along, char* out, const char* line) const {
    Rows a = all;
    a.out_step = b.out_col, a.x_step = c_.w.stride * b.lanes, a.n = b.lanes, a.by = nullptr;
    const Run* w = &c_.w.run(b.ow);
    for (int64_t o = 0, end; o < b.width; o = end, w++) {
      end = c_.mode == Mode::average ? std::min(b.width, w->end - b.ow) : b.width;
      a.rows = end - o, a.out = out + o * a.out_step * elements_->size, a.x = line + o * a.x_step * elements_->size;
      if (c_.mode == Mode::average) a.outer = all.outer * static_cast<double>(w->count);
      along(a);
    }
  }

  int64_t lanes_ = 1, planes_ = 1;                                  // channels of a block: one in each lane, or one after the other
  int64_t width_ = 0, columns_ = 0, height_ = 0, staged_rows_ = 0;  // of a block; results and columns of x, results and rows of x
  int col_axis_ = 0;
  bool staged_ = false, direct_ = true, flips_ = false;
  bool wraps_ = false;           // lines follow each other without padding, as do rows of results
  std::vector<float> counts32_;  // elements per window along w; if wraps_, for all rows of a block
  std::vector<double> counts64_;
  std::vector<uint32_t> columns_of_;  // likewise: the column of x that a result is at
  Positions positions_{};
};

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
