// The parts of pooling that depend on the type of the elements: float, double, int32_t, int64_t, and uint8_t and int8_t for what is read
// and written in place.
#pragma once
#include <cmath>

#include "cpu/pool.h"

namespace ptrt::PTRT_LEVEL {
namespace {

template <class C>
class ElementsOf final : public Elements {
  static constexpr bool kByte = sizeof(C) == 1, kFloat = std::is_floating_point<C>::value;
  struct Nothing {
    explicit Nothing(const LaunchDesc&) {}
  };
  typedef std::conditional_t<kByte, int32_t, C> Computed;
  typedef Mask<Computed> Places;  // a vector of positions in a plane of x
  typedef std::decay_t<decltype(Places{}[0])> Place;

 public:
  PTRT_COLD explicit ElementsOf(const LaunchDesc& desc) : source_(desc), sink_(desc) {
    size = sizeof(C), lanes = kLanes<C>, in_place = kByte;
    max = compute_rows<C, true, 1, false>;
    if constexpr (std::is_same<C, float>::value || kByte) max_even = compute_rows<C, true, 2, false>;
    if constexpr (kFloat) {
      sum = compute_rows<C, false, 1, false>, mean = compute_rows<C, false, 1, true>;
      if constexpr (std::is_same<C, float>::value) mean_even = compute_rows<C, false, 2, true>;
    }
    if constexpr (std::is_same<C, float>::value)
      max_wrapped = compute_rows<C, true, 1, false, true>, mean_wrapped = compute_rows<C, false, 1, true, true>;
  }

  bool reads_directly(const LaunchDesc& desc, int col_axis) const override {
    if constexpr (kByte) return true;
    else return source_.direct(desc, col_axis);
  }
  bool writes_directly(const LaunchDesc& desc, int col_axis) const override {
    if constexpr (kByte) return true;
    else return sink_.direct(desc, col_axis);
  }
  size_t source_scratch(int64_t elements) const override {
    if constexpr (kByte) return 0;
    else return source_.scratch_bytes(elements);
  }
  size_t sink_scratch(int64_t elements) const override {
    if constexpr (kByte) return 0;
    else return sink_.scratch_bytes(elements);
  }
  void fill(const LaunchDesc& desc, const int64_t* index, int row_axis, int64_t rows, int col_axis, int64_t cols, char* out,
            char* scratch) const override {
    if constexpr (!kByte) source_.fill(desc, index, row_axis, rows, col_axis, cols, reinterpret_cast<C*>(out), scratch);
  }
  void store(const LaunchDesc& desc, const int64_t* index, int row_axis, int64_t rows, int col_axis, int64_t cols, const char* data,
             int64_t row_stride, char* scratch) const override {
    if constexpr (!kByte) sink_.store(desc, index, row_axis, rows, col_axis, cols, reinterpret_cast<const C*>(data), row_stride, scratch);
  }
  void pad(char* x, int64_t n, bool max) const override {
    for (C *to = reinterpret_cast<C*>(x), *end = to + n; to < end; to++) {
      *to = neutral<C>(max);
      asm volatile("" : "+r"(to));  // a few elements: not worth the call of memset that the compiler would make of it
    }
  }
  void begin(char* data, int64_t n, int64_t p) const override {
    C* x = reinterpret_cast<C*>(data);
    if constexpr (kFloat) {
      if (p != 1 && p != 2)
        for (int64_t k = 0; k < n; k++) x[k] = std::pow(std::fabs(x[k]), static_cast<C>(p));
      else
        for (int64_t k = 0; k < n; k += kLanes<C>) {
          const Vec<C> v = vload(x + k);
          vstore<C>(x + k, p == 2 ? v * v : v < 0 ? -v : v);
        }
    } else if constexpr (sizeof(C) == 8) {
      for (int64_t k = 0; k < n; k++) x[k] ^= std::numeric_limits<C>::min();
    }
  }
  void finish(char* data, int64_t n, int64_t p) const override {
    C* x = reinterpret_cast<C*>(data);
    if constexpr (kFloat) {
      if (p == 2)
        for (int64_t k = 0; k < n; k++) x[k] = std::sqrt(x[k]);
      else if (p != 1)
        for (int64_t k = 0; k < n; k++) x[k] = std::pow(x[k], C{1} / static_cast<C>(p));
    } else {
      begin(data, n, p);
    }
  }
  void pick(char* dst, const char* src, int64_t stride, int64_t n) const override {
    for (int64_t k = 0; k < n; k++) reinterpret_cast<C*>(dst)[k] = reinterpret_cast<const C*>(src)[k * stride];
  }

  // Of equal elements the first counts, and a NaN is greater than anything.
  void find(const LaunchDesc& desc, const Config& c, const Positions& p, const Block& b) const override {
    if constexpr (!kByte) {
      constexpr int64_t L = kLanes<C>;
      const Operand& to = desc.outs[1];
      const Run& d = c.d.run(b.od);
      const C* x = reinterpret_cast<const C*>(b.x);
      C* out = reinterpret_cast<C*>(b.out);
      const Place* firsts;
      if constexpr (sizeof(Place) == 4) firsts = p.firsts32.data();
      else firsts = p.firsts64.data();
      int64_t index[kMaxDims] = {b.n, b.channel};
      const int64_t plane = (b.n * desc.ins[0].shape[1] + b.channel) * p.plane, stride = c.w.stride, to_step = c.w.step(to);
      const int64_t zd = c.d.dilation * p.step[0], zh = c.h.dilation * p.step[1], zw = c.w.dilation * p.step[2];
      for (int64_t r = 0; r < b.rows; r++, out += b.out_row) {
        const Run& h = c.h.run(b.oh + r);
        c.place(index, b.od, b.oh + r, b.ow);
        auto* places = reinterpret_cast<int64_t*>(element(to, index));
        int64_t corner = plane + c.d.at(b.od, 0) * p.step[0] + c.h.at(b.oh + r, 0) * p.step[1] + b.first * p.step[2];
        for (int64_t o = 0; o < b.width; o += L) {
          const int n = static_cast<int>(std::min(L, b.width - o));
          Vec<C> best = vsplat(neutral<C>(true));
          Places where = vload(firsts + b.ow + o) + static_cast<Place>(d.lo * zd + h.lo * zh);  // from the window's corner
          for (int64_t i = d.lo; i < d.hi; i++)
            for (int64_t j = h.lo; j < h.hi; j++) {
              const C* at = x + (b.corner + r * b.row + i * b.d_tap + j * b.h_tap + o * stride);
              for (int64_t t = 0; t < c.w.k; t++, at += c.w.dilation) {
                Vec<C> v{};
                if (stride == 1) v = every<1, Vec<C>>(at);
                else if (stride == 2) v = every<2, Vec<C>>(at);
                else
                  for (int l = 0; l < n; l++) v[l] = at[l * stride];
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
          for (int l = 0; l < n; l++, corner += stride * p.step[2]) places[(o + l) * to_step] = corner + found[l];
        }
        for (const Run& w : c.w.runs)  // windows without an element
          if (d.lo == d.hi || h.lo == h.hi || w.lo == w.hi)
            for (int64_t o = std::max(b.ow, w.begin); o < std::min(b.ow + b.width, w.end); o++) places[(o - b.ow) * to_step] = plane;
      }
    }
  }

 private:
  std::conditional_t<kByte, Nothing, Source<Computed>> source_;
  std::conditional_t<kByte, Nothing, Sink<Computed>> sink_;
};

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
