// Pooling of any layout and dtype, a block of rows of results at a time. Two passes: the rows of x under a row of windows become one padded
// line; each line is then combined along itself. Lanes are columns, or pixels of a few channels. Operands that are not read in place are
// staged first. Maxima with positions are found in one pass over staged, padded rows.
#pragma once
#include <cmath>

#include "cpu/pool.h"

namespace ptrt::PTRT_LEVEL {
namespace {

// A block of results and what they are made from.
struct Block {
  int64_t n, channel, lanes, od, oh, rows, ow, width;  // the results
  int64_t first, columns, front, inside;               // columns of x under the windows: the first (may be < 0), all, before x, in x
  int64_t corner;                      // of the rows read: from their first element to the window's corner of row 0, which may be outside
  int64_t d_tap, h_tap, row;           // their steps from tap to tap, and from one row of results to the next
  int64_t out_row, out_col;            // steps of the results
  int64_t planes, x_plane, out_plane;  // all of this for several channels, and the steps between them
};

// The blocks of a launch: what does not depend on the type of the elements.
class PoolBlocks : public PoolKernel {
 public:
  std::string describe() const override { return c_.positions ? "indices" : "rows"; }

 protected:
  using PoolKernel::PoolKernel;
  static constexpr int64_t kLineBytes = 16 << 10, kBlockBytes = 16 << 10;

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

  Block block_at(const int64_t* unit) const {
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

  int64_t line_elements() const { return c_.positions ? 0 : height_ * columns_ * lanes_; }
  int64_t staged_elements() const { return staged_rows_ * c_.d.most_taps() * columns_ * lanes_; }
  int64_t result_elements() const { return direct_ ? 0 : height_ * width_ * lanes_; }  // (all three: of a plane)
  bool picks() const { return !c_.positions && lanes_ == 1 && c_.w.stride > 2; }
  int64_t dense_elements() const { return picks() ? 2 * height_ * columns_ : 0; }
  size_t tap_bytes() const { return align64(static_cast<size_t>(c_.d.most_taps() * c_.h.most_taps() + c_.w.k) * 8); }

  int64_t lanes_ = 1, planes_ = 1;                                  // channels of a block: one in each lane, or one after the other
  int64_t width_ = 0, columns_ = 0, height_ = 0, staged_rows_ = 0;  // of a block; results and columns of x, results and rows of x
  bool staged_ = false, direct_ = true;
  bool wraps_ = false;  // lines follow each other without padding, as do rows of results
};

template <class C>
class PoolRows final : public PoolBlocks {
 public:
  // Bytes are read and written in place only; other elements always fit.
  static bool applies(const LaunchDesc& desc, const Config& c) {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    return c.mode == Mode::max && !c.positions && desc.prologue.empty() && desc.epilogue.empty() && y.dtype == x.dtype &&
           (c.w.in == 1 || c.w.step(x) == 1) && (c.w.out == 1 || c.w.step(y) == 1);
  }

  PoolRows(LaunchDesc desc0, Config c) : PoolBlocks(std::move(desc0), std::move(c)), source_(desc), sink_(desc) {
    const Operand& x = desc.ins[0];
    const int64_t channels = x.shape[1];
    const bool pixels = !kByte<C> && !c_.positions && x.strides[1] == 1 && channels >= 4;
    lanes_ = pixels ? std::min<int64_t>(channels, kMostLanes) : 1;
    col_axis_ = pixels ? 1 : c_.w.axis;
    if constexpr (!kByte<C>) {
      flips_ = x.dtype == DType::u64;
      staged_ = c_.mode == Mode::lp || flips_ || c_.positions || !source_.direct(desc, col_axis_) || (pixels && c_.w.step(x) != lanes_);
      direct_ = sink_.direct(desc, col_axis_);
    }
    if constexpr (std::is_same<C, float>::value)
      wraps_ = lanes_ == 1 && !c_.positions && c_.w.stride <= 2 && c_.w.in == c_.w.stride * c_.w.out && c_.w.runs.size() > 1 &&
               (!direct_ || c_.h.out == 1 || c_.h.step(desc.outs[0]) == c_.w.out);
    cut(sizeof(C));
    for (const Run& r : c_.w.runs) counts_.insert(counts_.end(), static_cast<size_t>(r.end - r.begin), static_cast<C>(r.count));
    if (wraps_) {
      for (size_t k = 0, n = counts_.size(); k < n * static_cast<size_t>(height_); k++) {
        columns_of_.push_back(static_cast<uint32_t>(k % n) * static_cast<uint32_t>(c_.w.stride));
        if (k >= n) counts_.push_back(counts_[k - n]);
      }
      columns_of_.resize(columns_of_.size() + kLanes<C>);
    }
    counts_.resize(counts_.size() + 2 * kLanes<C>);
    if (c_.positions) prepare_positions();
  }

  size_t thread_scratch_bytes() const override {
    size_t n = tap_bytes() + 2 * bytes_before() + bytes(line_elements()) + bytes(staged_elements()) + bytes(result_elements()) +
               bytes(dense_elements());  // of all planes
    if constexpr (!kByte<C>) n += source_.scratch_bytes(staged_elements()) + sink_.scratch_bytes(result_elements());
    return n;
  }

 private:
  static constexpr int64_t kMostLanes = 64;
  static constexpr int64_t kRoom = 4 * kLanes<C>;  // elements behind a buffer that vectors may touch
  typedef Mask<Computed<C>> Places;                // a vector of positions in a plane of x
  typedef std::decay_t<decltype(Places{}[0])> Place;

  size_t bytes(int64_t elements) const { return align64(static_cast<size_t>(elements * planes_ + (elements ? kRoom : 0)) * sizeof(C)); }

  // What taps reach on either side of lines that wrap, and vectors do not use.
  size_t bytes_before() const { return wraps_ ? bytes(std::max(c_.w.begin, (c_.w.k - 1) * c_.w.dilation)) : 0; }

  void compute(const int64_t* unit, char* scratch) const override {
    Block b = block_at(unit);
    auto* taps = reinterpret_cast<int64_t*>(scratch);
    C* lines = reinterpret_cast<C*>(scratch += tap_bytes() + bytes_before());
    C* staged = reinterpret_cast<C*>(scratch += bytes(line_elements()) + bytes_before());
    C* dense = reinterpret_cast<C*>(scratch += bytes(staged_elements()));
    C* results = reinterpret_cast<C*>(scratch += bytes(dense_elements()));
    scratch += bytes(result_elements());
    int64_t index[kMaxDims] = {b.n, b.channel};
    const C* x = staged;
    if (staged_) stage(b, index, staged, scratch);
    else x = reinterpret_cast<const C*>(element(desc.ins[0], index));
    c_.place(index, b.od, b.oh, b.ow);
    C* out = direct_ ? reinterpret_cast<C*>(element(desc.outs[0], index)) : results;
    if constexpr (!kByte<C>) {
      if (c_.positions) find(b, x, out);
    }
    if (!c_.positions) {
      if constexpr (std::is_floating_point<C>::value)
        c_.mode == Mode::max ? windows<true>(b, x, out, lines, dense, taps) : windows<false>(b, x, out, lines, dense, taps);
      else windows<true>(b, x, out, lines, dense, taps);
    }
    if (flips_ || (c_.mode == Mode::lp && c_.p != 1))
      for (int64_t r = 0; r < b.rows * b.planes; r++)
        for (int64_t o = 0; o < (lanes_ > 1 ? b.width : 1); o++)
          finish(out + r / b.rows * b.out_plane + r % b.rows * b.out_row + o * b.out_col, lanes_ > 1 ? b.lanes : b.width);
    if (!direct_) store(b, index, out, scratch);
  }

  // The rows of x under the block are copied to `staged`: for positions between padding, for lp as the terms of its sums.
  PTRT_NOINLINE void stage(Block& b, int64_t* index, C* staged, char* scratch) const {
    if constexpr (!kByte<C>) {
      const int64_t h0 = std::clamp<int64_t>(c_.h.at(b.oh, 0), 0, c_.h.in);
      const int64_t rows = std::clamp<int64_t>(c_.h.at(b.oh + b.rows - 1, c_.h.k - 1) + 1, h0, c_.h.in) - h0;
      const int64_t front = c_.positions ? b.front : 0, pitch = (c_.positions ? b.columns : b.inside) * b.lanes;
      const bool copies = lanes_ == 1 && source_.direct(desc, col_axis_), at_once = lanes_ == 1 && !c_.positions && !copies;
      const Run& d = c_.d.run(b.od);
      C* to = staged;
      b.x_plane = (d.hi - d.lo) * rows * pitch;
      for (int64_t plane = 0; plane < b.planes; plane++)
        for (int64_t i = d.lo; i < d.hi && b.inside; i++)
          for (int64_t r = 0; r < rows; r++, to += pitch) {
            index[1] = b.channel + plane;
            c_.place(index, c_.d.at(b.od, i), h0 + r, b.first + b.front);
            if (at_once) {
              source_.fill(desc, index, c_.h.axis, rows, c_.w.axis, b.inside, to, scratch);
              to += rows * pitch;
              break;
            }
            if (c_.positions) {
              pad(to, front, flips_ ? C{0} : neutral<C>(true));  // (begin() makes the lowest of 0)
              pad(to + front + b.inside, pitch - front - b.inside, flips_ ? C{0} : neutral<C>(true));
            }
            if (copies) std::memcpy(to + front, element(desc.ins[0], index), static_cast<size_t>(b.inside) * sizeof(C));
            else if (lanes_ > 1) source_.fill(desc, index, c_.w.axis, b.inside, 1, b.lanes, to, scratch);
            else source_.fill(desc, index, -1, 1, c_.w.axis, b.inside, to + front, scratch);
          }
      index[1] = b.channel;
      if (c_.mode == Mode::lp || flips_) begin(staged, to - staged);
      b.d_tap = rows * pitch, b.h_tap = c_.h.dilation * pitch, b.row = c_.h.stride * pitch;
      b.corner = (c_.h.at(b.oh, 0) - h0) * pitch - d.lo * b.d_tap;
    }
  }

  // A few elements: not worth the call of memset that the compiler would make of it.
  PTRT_INLINE static void pad(C* x, int64_t n, C value) {
    for (C* end = x + n; x < end; x++) {
      *x = value;
      asm volatile("" : "+r"(x));
    }
  }

  // Calls f(r0, r1, run) for the rows of the block [r0, r1) that have the same taps along h.
  template <class F>
  PTRT_INLINE void each_run(const Block& b, F f) const {
    const Run* run = &c_.h.run(b.oh);
    for (int64_t r = 0, end; r < b.rows; r = end, run++) f(r, end = std::min(b.rows, run->end - b.oh), *run);
  }

  template <bool kMax>
  PTRT_NOINLINE void windows(const Block& b, const C* from, C* to, C* lines, C* dense, int64_t* taps) const {
    const int64_t n = b.lanes, pitch = b.columns * n;
    const Run& d = c_.d.run(b.od);
    each_run(b, [&](int64_t r0, int64_t r1, const Run& h) {
      const C* x = from + (b.corner + r0 * b.row + d.lo * b.d_tap + h.lo * b.h_tap);
      const int64_t n_taps = list_taps(taps, d.hi - d.lo, b.d_tap, h.hi - h.lo, b.h_tap, 1, 0);
      Rows<C> a{lines + r0 * pitch + b.front * n, pitch, x, b.row, r1 - r0, b.inside * n, taps, n_taps};
      a.planes = b.planes, a.x_plane = b.x_plane, a.out_plane = b.rows * pitch;
      compute_rows<kMax, 1, false>(a);
    });
    if (b.inside < b.columns) {  // what lies between the rows, of which the padding on either side is one piece
      const int64_t inside = b.inside * n;
      C *line = lines, *end = lines + b.planes * b.rows * pitch;
      pad(line, b.front * n, neutral<C>(kMax));
      for (line += b.front * n + inside; line < end; line += pitch) pad(line, pitch - inside, neutral<C>(kMax));
    }
    const int64_t n_taps = list_taps(taps, 1, 0, 1, 0, c_.w.k, c_.w.dilation * n), none = 0;
    const bool average = c_.mode == Mode::average;
    Rows<C> a{to, b.out_row, lines, pitch, b.rows, b.width, taps, n_taps, 1, average ? counts_.data() + b.ow : nullptr};
    a.planes = b.planes, a.x_plane = b.rows * pitch, a.out_plane = b.out_plane;
    if (wraps_) {
      for (int64_t t = 0; t < n_taps; t++) taps[t] -= c_.w.begin;
      a.columns = columns_of_.data(), a.wide = c_.w.in;
    }
    if (picks()) {
      pick<kMax>(b, a, dense);
      a.x = dense + planes_ * height_ * columns_, a.x_step = b.width, a.taps = &none, a.n_taps = 1, a.x_plane = b.rows * b.width;
    }
    const auto rows = [&](int64_t r0, int64_t r1, int64_t count) {
      a.rows = r1 - r0;
      if (average) a.outer = static_cast<C>(count);
      if (lanes_ > 1) {
        for (; r0 < r1; r0++) pixels<kMax>(b, a, to + r0 * b.out_row, lines + r0 * pitch);
        return;
      }
      if constexpr (std::is_same<C, float>::value)
        if (wraps_) {
          if (c_.w.stride == 2) compute_rows<kMax, 2, !kMax, true>(a);
          else compute_rows<kMax, 1, !kMax, true>(a);
        }
      if (wraps_) {
      } else if (c_.w.stride == 2) compute_rows<kMax, 2, !kMax>(a);
      else compute_rows<kMax, 1, !kMax>(a);
      a.out += a.rows * a.out_step, a.x += a.rows * a.x_step;
    };
    if (average) each_run(b, [&](int64_t r0, int64_t r1, const Run& h) { rows(r0, r1, d.count * h.count); });
    else rows(0, b.rows, 1);
  }

  // A row of results whose lanes are channels.
  template <bool kMax>
  void pixels(const Block& b, const Rows<C>& all, C* out, const C* line) const {
    Rows<C> a = all;
    a.out_step = b.out_col, a.x_step = c_.w.stride * b.lanes, a.n = b.lanes, a.by = nullptr;
    const Run* w = &c_.w.run(b.ow);
    for (int64_t o = 0, end; o < b.width; o = end, w++) {
      end = c_.mode == Mode::average ? std::min(b.width, w->end - b.ow) : b.width;
      a.rows = end - o, a.out = out + o * a.out_step, a.x = line + o * a.x_step;
      if (c_.mode == Mode::average) a.outer = all.outer * static_cast<C>(w->count);
      compute_rows<kMax, 1, !kMax>(a);
    }
  }

  // Strides above 2: windows at every column, and of them those that are wanted, behind them.
  template <bool kMax>
  void pick(const Block& b, Rows<C> a, C* dense) const {
    a.out = dense, a.rows = a.planes = 1, a.n = b.planes * b.rows * b.columns - (c_.w.k - 1) * c_.w.dilation;
    compute_rows<kMax, 1, false>(a);
    C* picked = dense + planes_ * height_ * columns_;
    for (int64_t r = 0; r < b.planes * b.rows; r++, dense += b.columns)
      for (int64_t o = 0; o < b.width; o++) *picked++ = dense[o * c_.w.stride];
  }

  // What elements are combined as, and what becomes of the result: powers and roots for lp, and unsigned integers with their signs flipped.
  // There is room behind x for whole vectors.
  PTRT_NOINLINE void begin(C* x, int64_t n) const {
    if constexpr (std::is_floating_point<C>::value) {
      if (c_.p != 1 && c_.p != 2)
        for (int64_t k = 0; k < n; k++) x[k] = std::pow(std::fabs(x[k]), static_cast<C>(c_.p));
      else
        for (int64_t k = 0; k < n; k += kLanes<C>) {
          const Vec<C> v = vload(x + k);
          vstore<C>(x + k, c_.p == 2 ? v * v : v < 0 ? -v : v);
        }
    } else {
      for (int64_t k = 0; k < n; k++) x[k] ^= std::numeric_limits<C>::min();
    }
  }
  PTRT_NOINLINE void finish(C* x, int64_t n) const {
    if constexpr (std::is_floating_point<C>::value) {
      if (c_.p == 2)
        for (int64_t k = 0; k < n; k++) x[k] = std::sqrt(x[k]);
      else
        for (int64_t k = 0; k < n; k++) x[k] = std::pow(x[k], C{1} / static_cast<C>(c_.p));
    } else {
      begin(x, n);
    }
  }

  PTRT_COLD void prepare_positions() {
    const int64_t d = c_.d.in, h = c_.h.in, w = c_.w.in;
    if (c_.column_major) place_step_[0] = 1, place_step_[1] = d, place_step_[2] = d * h;
    else place_step_[0] = h * w, place_step_[1] = w, place_step_[2] = 1;
    plane_ = d * h * w;
    for (const Run& r : c_.w.runs)
      firsts_.insert(firsts_.end(), static_cast<size_t>(r.end - r.begin), static_cast<Place>(r.lo * c_.w.dilation * place_step_[2]));
    firsts_.resize(firsts_.size() + kLanes<C>);
  }

  // Maxima and where they are: of equal elements the first, and a NaN is greater than anything.
  PTRT_NOINLINE void find(const Block& b, const C* x, C* out) const {
    constexpr int64_t L = kLanes<C>;
    const Operand& to = desc.outs[1];
    const Run& d = c_.d.run(b.od);
    int64_t index[kMaxDims] = {b.n, b.channel};
    const int64_t plane = (b.n * desc.ins[0].shape[1] + b.channel) * plane_, stride = c_.w.stride, to_step = c_.w.step(to);
    const int64_t zd = c_.d.dilation * place_step_[0], zh = c_.h.dilation * place_step_[1], zw = c_.w.dilation * place_step_[2];
    for (int64_t r = 0; r < b.rows; r++, out += b.out_row) {
      const Run& h = c_.h.run(b.oh + r);
      c_.place(index, b.od, b.oh + r, b.ow);
      auto* places = reinterpret_cast<int64_t*>(element(to, index));
      int64_t corner = plane + c_.d.at(b.od, 0) * place_step_[0] + c_.h.at(b.oh + r, 0) * place_step_[1] + b.first * place_step_[2];
      for (int64_t o = 0; o < b.width; o += L) {
        const int n = static_cast<int>(std::min(L, b.width - o));
        Vec<C> best = vsplat(neutral<C>(true));
        Places where = vload(firsts_.data() + b.ow + o) + static_cast<Place>(d.lo * zd + h.lo * zh);  // from the window's corner
        for (int64_t i = d.lo; i < d.hi; i++)
          for (int64_t j = h.lo; j < h.hi; j++) {
            const C* p = x + (b.corner + r * b.row + i * b.d_tap + j * b.h_tap + o * stride);
            for (int64_t t = 0; t < c_.w.k; t++, p += c_.w.dilation) {
              Vec<C> v{};
              if (stride == 1) v = every<1, Vec<C>>(p);
              else if (stride == 2) v = every<2, Vec<C>>(p);
              else
                for (int l = 0; l < n; l++) v[l] = p[l * stride];
              auto take = v > best;
              if constexpr (std::is_floating_point<C>::value) take |= (v != v) & (best == best);
              best = take ? v : best;
              where = take ? Places{} + static_cast<Place>(i * zd + j * zh + t * zw) : where;
            }
          }
        if (n == L) vstore<C>(out + o, best);
        else vstore_n<C>(out + o, best, n);
        Place found[L];
        vstore<Place>(found, where);
        for (int l = 0; l < n; l++, corner += stride * place_step_[2]) places[(o + l) * to_step] = corner + found[l];
      }
      for (const Run& w : c_.w.runs)  // windows without an element
        if (d.lo == d.hi || h.lo == h.hi || w.lo == w.hi)
          for (int64_t o = std::max(b.ow, w.begin); o < std::min(b.ow + b.width, w.end); o++) places[(o - b.ow) * to_step] = plane;
    }
  }

  PTRT_NOINLINE void store(const Block& b, int64_t* index, const C* out, char* scratch) const {
    if constexpr (!kByte<C>) {
      if (lanes_ == 1) {
        for (int64_t plane = 0; plane < b.planes; plane++, index[1]++, out += b.out_plane)
          sink_.store(desc, index, c_.h.axis, b.rows, c_.w.axis, b.width, out, b.out_row, scratch);
        return;
      }
      for (int64_t r = 0; r < b.rows; r++, out += b.out_row) {
        c_.place(index, b.od, b.oh + r, b.ow);
        sink_.store(desc, index, c_.w.axis, b.width, 1, b.lanes, out, b.lanes, scratch);
      }
    }
  }

  SourceOf<C> source_;
  SinkOf<C> sink_;
  int col_axis_ = 0;
  bool flips_ = false;
  std::vector<C> counts_;             // elements per window along w; if wraps_, of all rows of a block
  std::vector<uint32_t> columns_of_;  // likewise: the column of x that a result is at
  std::vector<Place> firsts_;         // from a window's corner to its first element along w
  int64_t place_step_[3] = {}, plane_ = 0;
};

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
