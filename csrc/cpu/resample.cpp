// Resize. The lines of the input that an output line needs are combined first, over their whole width (whole cache lines, any number of
// outer axes); the combined line is then resampled along itself. A line's elements are single values, pixels of a few contiguous values or,
// where an untouched axis is the contiguous one (channels-last) and long enough, vectors. If lines of vectors have to be written with the
// line axis contiguous (channels-first), they are transposed between the two steps. Nearest elements without programs: resample_copy.cpp.
#include "cpu/kernels.h"
#include "cpu/reduce_block.h"
#include "cpu/resample_line.h"
#include "cpu/resample_rows.h"
#include "cpu/transpose.h"

namespace ptrt::PTRT_LEVEL {

namespace {

template <class C>
PTRT_NOINLINE void clamp_rows(C* data, int64_t n, C low, C high) {
  constexpr int L = Lanes<C>::n;
  for (int64_t i = 0; i < n; i += L) {
    const int left = static_cast<int>(std::min<int64_t>(L, n - i));
    store_n(data + i, vmin(vmax(load_n(data + i, left), splat(low)), splat(high)), left);
  }
}

void transposed(const float* x, int64_t xs, int64_t n, int64_t m, float* y) { transpose(x, xs, n, m, y, n); }
void transposed(const double* x, int64_t xs, int64_t n, int64_t m, double* y) {
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < m; j++) y[j * n + i] = x[i * xs + j];
}

// Bytes, of images: the general conversion takes them one by one.
PTRT_NOINLINE void widen(const uint8_t* p, int64_t n, double* to) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 8 <= n; i += 8)
    _mm512_storeu_pd(to + i, _mm512_cvtepi32_pd(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + i)))));
#elif defined(__AVX2__)
  for (; i + 4 <= n; i += 4) {
    int32_t four;
    std::memcpy(&four, p + i, sizeof four);
    _mm256_storeu_pd(to + i, _mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(four))));
  }
#endif
  for (; i < n; i++) to[i] = p[i];
}

template <class C>
class Resample final : public Kernel {
  using Layout = ResamplePlan::Layout;

 public:
  PTRT_COLD Resample(LaunchDesc d, ResamplePlan plan) : Kernel(std::move(d)), p_(std::move(plan)), source_(desc), sink_(desc) {
    for (int a : p_.outer) outer_.add(a, desc.outs[0].shape[a]);
    std::memcpy(&extrapolation_, p_.empty, sizeof(C));
    if constexpr (sizeof(C) == 8)
      if (p_.acc == DType::i64) integers_.emplace_back(desc);
    auto take = [&](size_t bytes) {
      const size_t at = scratch_bytes_;
      scratch_bytes_ += align64(bytes);
      return at;
    };
    const auto line = static_cast<size_t>(p_.in * p_.width) * sizeof(C), row_taps = static_cast<size_t>(p_.row_taps);
    combined_at_ = take(line);
    lines_at_ = take(p_.read ? 0 : row_taps * line);
    columns_at_ = take(p_.layout == Layout::columns ? line : 0);
    out_at_ = take(static_cast<size_t>(p_.written ? 0 : p_.held * p_.out * p_.width) * sizeof(C));
    product_at_ = take(static_cast<size_t>(p_.products) * sizeof(Product));
    keys_at_ = take(row_taps * sizeof(int64_t));
    slots_at_ = take(row_taps * sizeof(int64_t));
    scratch_at_ = take(std::max(source_.scratch_bytes(p_.in * p_.width), sink_.scratch_bytes(p_.held * p_.out * p_.width)));
  }

  size_t thread_scratch_bytes() const override { return scratch_bytes_; }
  std::string describe() const override {
    switch (p_.layout) {
      case Layout::elements: return "elements";
      case Layout::pixels: return "pixels";
      case Layout::vectors: return "vectors";
      default: return "columns";
    }
  }

  void run(const RunContext& ctx) override {
    const int64_t total = outer_.total * p_.blocks * p_.rows;
    if (total == 0 || p_.out == 0) return;
    ctx.parallel((total + p_.grain - 1) / p_.grain, [&](int64_t task, int worker) {
      const int64_t end = std::min(total, (task + 1) * p_.grain);
      for (int64_t r = task * p_.grain; r < end;) {
        const int64_t row = r % p_.rows, n = std::min(end - r, p_.rows - row);
        stretch(r / p_.rows, row, n, ctx.thread_scratch(worker));
        r += n;
      }
    });
  }

 private:
  struct Taps {  // of one output along one axis
    const int64_t* index;
    const C* weight;
    int64_t count;
  };
  struct Product {  // one combination of taps of the other combined axes
    int64_t number, offset;
    C weight;
  };
  struct Stretch {  // some consecutive rows of an outer position
    int64_t target[kMaxDims] = {};
    int64_t width;     // of this block of vectors
    int64_t products;  // that have a weight
    Product* product;
    C *combined, *lines;    // lines: of x, converted
    int64_t *keys, *slots;  // keys: which row and product a line is of
    char* scratch;
  };
  struct Line {
    const C* x;
    int64_t pitch;  // between its vectors
  };

  void stretch(int64_t outer, int64_t row, int64_t n, char* memory) const {
    const Operand& y = desc.outs[0];
    Stretch s;
    outer_.seek(s.target, outer / p_.blocks);
    s.width = 1;
    if (p_.vector >= 0) {
      s.target[p_.vector] = outer % p_.blocks * p_.width;
      s.width = std::min(p_.width, y.shape[p_.vector] - s.target[p_.vector]);
    }
    s.product = reinterpret_cast<Product*>(memory + product_at_);
    s.combined = reinterpret_cast<C*>(memory + combined_at_);
    s.lines = reinterpret_cast<C*>(memory + lines_at_);
    s.keys = reinterpret_cast<int64_t*>(memory + keys_at_);
    s.slots = reinterpret_cast<int64_t*>(memory + slots_at_);
    s.scratch = memory + scratch_at_;
    std::fill(s.keys, s.keys + p_.row_taps, int64_t{-1});
    const bool outside = !find_products(s);

    C* columns = reinterpret_cast<C*>(memory + columns_at_);
    C* held = reinterpret_cast<C*>(memory + out_at_);
    const int64_t n_out = p_.out * s.width;
    for (int64_t done = 0; done < n;) {
      const int64_t lines = std::min(p_.held, n - done);
      for (int64_t k = 0; k < lines; k++) {
        int64_t target[kMaxDims];
        std::copy(s.target, s.target + kMaxDims, target);
        if (p_.row >= 0) target[p_.row] = row + done + k;
        C* to = p_.written ? reinterpret_cast<C*>(element(y, target)) : held + k * n_out;
        const bool fill = outside || (p_.row >= 0 && table(p_.row).leaves_out(target[p_.row]));
        line(s, row + done + k, fill, columns, to);
      }
      if (!p_.written) {
        if (p_.clamps) clamp_rows(held, lines * n_out, static_cast<C>(p_.low), static_cast<C>(p_.high));
        int64_t target[kMaxDims];
        std::copy(s.target, s.target + kMaxDims, target);
        if (p_.row >= 0) target[p_.row] = row + done;
        if (p_.vector < 0) store(target, p_.row, lines, p_.line, p_.out, held, s.scratch);
        else store(target, p_.line, p_.out, p_.vector, s.width, held, s.scratch);
      }
      done += lines;
    }
  }

  // Lists the products of the other axes; false: the position is outside along one of them.
  bool find_products(Stretch& s) const {
    s.products = 0;
    for (int a : p_.others)
      if (table(a).leaves_out(s.target[a])) return false;
    int64_t index[kMaxDims] = {};
    for (int64_t p = 0; p < p_.products; p++) {
      Product& to = s.product[s.products];
      to = {p, 0, 1};
      if (product_index(s, p, index, &to.weight)) s.products++;
      else continue;
      for (int a : p_.others) to.offset += index[a] * desc.ins[0].strides[a];
    }
    return true;
  }
  bool product_index(const Stretch& s, int64_t product, int64_t* index, C* weight) const {
    *weight = 1;
    for (int a : p_.others) {
      const Taps taps = taps_of(a, s.target[a]);
      const int64_t k = product % table(a).taps;
      product /= table(a).taps;
      if (k >= taps.count) return false;
      index[a] = taps.index[k];
      *weight *= taps.weight[k];
    }
    return true;
  }

  // The weighted sum of the lines of x that row `row` reads: a line of x itself where that is one.
  Line combine(const Stretch& s, int64_t row) const {
    const C one = 1;
    const Taps taps = p_.combines ? taps_of(p_.row, row) : Taps{&row, &one, 1};
    const bool single = s.products == 1 && taps.count == 1 && taps.weight[0] == 1 && s.product[0].weight == 1;
    const Operand& x = desc.ins[0];
    int64_t step = s.width;
    if (p_.read && p_.vector >= 0) step = x.strides[p_.line];
    int64_t from[kMaxDims];
    std::copy(s.target, s.target + kMaxDims, from);
    for (int a : p_.others) from[a] = 0;
    if (p_.row >= 0) from[p_.row] = 0;
    for (int64_t p = 0; p < s.products; p++) {
      const C* base = s.lines;
      const int64_t* at = s.slots;
      int64_t pitch = p_.in * s.width;
      if (p_.read) {
        base = reinterpret_cast<const C*>(element(x, from)) + s.product[p].offset;
        at = taps.index;
        pitch = p_.row < 0 ? 0 : x.strides[p_.row];
      } else {
        for (int64_t k = 0; k < taps.count; k++) s.slots[k] = converted(s, s.product[p].number, taps.index[k]);
      }
      if (single && (p_.layout != Layout::pixels || step == s.width)) return {base + at[0] * pitch, step};
      const int64_t rows = step == s.width ? 1 : p_.in, n = step == s.width ? p_.in * s.width : s.width;
      for (int64_t r = 0; r < rows; r++) {
        C* to = s.combined + r * n;
        const C* row_of_x = base + r * step;
        if (p_.nearest) std::copy_n(row_of_x + at[0] * pitch, n, to);
        else weighted_rows(to, n, row_of_x, at, pitch, taps.weight, taps.count, s.product[p].weight, p > 0);
      }
    }
    return {s.combined, s.width};
  }

  // The number of the line that holds row `i` of x for a product. Rows that are needed together have different numbers, and stay for the
  // next output row.
  int64_t converted(const Stretch& s, int64_t product, int64_t i) const {
    const int64_t slot = i % p_.row_taps, key = product * (int64_t{1} << 40) + i;
    if (s.keys[slot] != key) {
      int64_t index[kMaxDims];
      std::copy(s.target, s.target + kMaxDims, index);
      C weight;
      product_index(s, product, index, &weight);
      index[p_.line] = 0;
      if (p_.row >= 0) index[p_.row] = i;
      C* to = s.lines + slot * p_.in * s.width;
      if (p_.vector < 0) fill(index, -1, 1, p_.line, p_.in, to, s.scratch);
      else fill(index, p_.line, p_.in, p_.vector, s.width, to, s.scratch);
      s.keys[slot] = key;
    }
    return slot;
  }

  void fill(const int64_t* index, int row_axis, int64_t rows, int col_axis, int64_t cols, C* out, char* scratch) const {
    const Operand& x = desc.ins[0];
    if constexpr (sizeof(C) == 8) {
      if (!integers_.empty()) {
        integers_[0].source.fill(desc, index, row_axis, rows, col_axis, cols, reinterpret_cast<int64_t*>(out), scratch);
        return;
      }
      if (!source_.has_program() && x.dtype == DType::u8 && x.strides[col_axis] == 1 && (rows == 1 || x.strides[row_axis] == cols)) {
        widen(reinterpret_cast<const uint8_t*>(element(x, index)), rows * cols, out);
        return;
      }
    }
    source_.fill(desc, index, row_axis, rows, col_axis, cols, out, scratch);
  }

  void store(const int64_t* index, int row_axis, int64_t rows, int col_axis, int64_t cols, const C* data, char* scratch) const {
    if constexpr (sizeof(C) == 8)
      if (!integers_.empty()) {
        integers_[0].sink.store(desc, index, row_axis, rows, col_axis, cols, reinterpret_cast<const int64_t*>(data), cols, scratch);
        return;
      }
    sink_.store(desc, index, row_axis, rows, col_axis, cols, data, cols, scratch);
  }

  void line(const Stretch& s, int64_t row, bool outside, C* columns, C* to) const {
    const Operand& y = desc.outs[0];
    const int64_t width = s.width, each = p_.layout == Layout::columns ? 1 : width;  // contiguous values of a pixel of y
    const int64_t ys = p_.layout == Layout::vectors && p_.written ? y.strides[p_.line] : each;
    const int64_t lines = p_.layout == Layout::columns ? width : 1, next = p_.layout == Layout::columns ? y.strides[p_.vector] : 0;
    if (!outside) {
      const Line from = combine(s, row);
      if (p_.layout == Layout::vectors) {
        const ResampleTable& t = table(p_.line);
        if (!p_.nearest) weighted_line(to, p_.out, ys, width, from.x, from.pitch, t.index.data(), weights<C>(t.weight32, t.weight), t.taps);
        else
          for (int64_t o = 0; o < p_.out; o++) std::copy_n(from.x + t.index[static_cast<size_t>(o)] * from.pitch, width, to + o * ys);
      } else if (p_.layout == Layout::columns) {
        transposed(from.x, from.pitch, p_.in, width, columns);
        for (int64_t c = 0; c < width; c++) resample_line(p_.taps, p_.nearest, columns + c * p_.in, to + c * next);
      } else {
        resample_line(p_.taps, p_.nearest, from.x, to);
      }
    }
    for (int64_t l = 0; l < lines; l++, to += next) {
      if (outside)
        for (int64_t o = 0; o < p_.out; o++) std::fill(to + o * ys, to + o * ys + each, extrapolation_);
      else
        for (int64_t o : p_.left_out) std::fill(to + o * ys, to + o * ys + each, extrapolation_);
    }
  }

  Taps taps_of(int axis, int64_t output) const {
    const ResampleTable& t = table(axis);
    const ResampleTable::Kept kept = t.kept[static_cast<size_t>(output)];
    const int64_t i = output * t.taps + kept.first;
    return {t.index.data() + i, weights<C>(t.weight32, t.weight) + i, kept.count};
  }
  const ResampleTable& table(int axis) const { return p_.tables[static_cast<size_t>(axis)]; }

  ResamplePlan p_;
  C extrapolation_;
  struct Integers {
    explicit Integers(const LaunchDesc& d) : source(d), sink(d) {}
    Source<int64_t> source;
    Sink<int64_t> sink;
  };
  std::vector<Integers> integers_;  // zero or one: nearest elements of integers, whose bits are carried as those of doubles
  Source<C> source_;
  Sink<C> sink_;
  Walk outer_;
  size_t scratch_bytes_ = 0, combined_at_ = 0, lines_at_ = 0, columns_at_ = 0, out_at_ = 0, product_at_ = 0, keys_at_ = 0, slots_at_ = 0,
         scratch_at_ = 0;
};

}  // namespace

template <class C>
void weighted_rows(C* out, int64_t n, const C* x, const int64_t* at, int64_t pitch, const C* weight, int64_t taps, C scale, bool add) {
  weighted_row<0>(out, n, x, at, pitch, weight, taps, scale, add);
}
template void weighted_rows<float>(float*, int64_t, const float*, const int64_t*, int64_t, const float*, int64_t, float, bool);
template void weighted_rows<double>(double*, int64_t, const double*, const int64_t*, int64_t, const double*, int64_t, double, bool);

std::unique_ptr<Kernel> make_resample(LaunchDesc desc, BindContext&) {
  ResamplePlan plan = PTRT_PLAIN::resample_plan(desc, kVecBytes, {kWindow<float>, kWindow<double>});
  if (plan.copies) return PTRT_PLAIN::make_resample_copy(std::move(desc), std::move(plan));
  if (plan.acc == DType::f32) return std::make_unique<Resample<float>>(std::move(desc), std::move(plan));
  return std::make_unique<Resample<double>>(std::move(desc), std::move(plan));
}

}  // namespace ptrt::PTRT_LEVEL
