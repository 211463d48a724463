// Sliding windows. `channels`: channels are contiguous floats, each lane is a channel and the window is walked in place. `rows`: any layout
// and dtype; the window's rows are combined into one padded row (of single elements, or of channel vectors), which is then combined along
// itself. `indices`: one plane at a time, element by element.
#include <algorithm>

#include "core/vocabulary.h"
#include "cpu/kernels.h"
#include "cpu/reduce_block.h"
#include "cpu/reduce_vec.h"

namespace ptrt::PTRT_LEVEL {

namespace {

enum class Mode { max, average, lp };
constexpr int64_t kGrain = 16384;  // elements read per task, at least

// One spatial axis: for every output position the taps that fall inside x, and how many of them the average counts.
struct Axis {
  int64_t in = 1, out = 1, k = 1, stride = 1, dilation = 1, begin = 0, end = 0;
  int axis = -1;  // of the operands; -1: this spatial axis does not exist
  std::vector<int64_t> lo, hi, count;

  void prepare(bool include_pad) {
    for (int64_t o = 0; o < out; o++) {
      int64_t first = k, last = 0, n = 0;
      for (int64_t t = 0; t < k; t++) {
        const int64_t i = o * stride + t * dilation - begin;
        if (i >= 0 && i < in) {
          first = std::min(first, t);
          last = t + 1;
          n += !include_pad;
        }
        n += include_pad && i >= -begin && i < in + end;
      }
      lo.push_back(first);
      hi.push_back(std::max(first, last));
      count.push_back(n);
    }
  }
  int64_t at(int64_t o, int64_t tap) const { return o * stride + tap * dilation - begin; }
  int64_t step(const Operand& o) const { return axis < 0 ? 0 : o.strides[axis]; }
};

struct Config {
  Mode mode;
  int64_t p = 2;
  bool column_major = false;
  Axis d, h, w;
};

template <class C>
C lowest() {
  using L = std::numeric_limits<C>;
  return L::has_infinity ? -L::infinity() : L::lowest();
}

// Lanes [begin of a, begin of a + L) with every second element.
template <class C>
PTRT_INLINE Vec<C> load_even(const C* p) {
  constexpr int L = kLanes<C>;
  Vec<C> v;
  for (int i = 0; i < L; i++) v[i] = p[2 * i];
  return v;
}
#if defined(__AVX512F__)
PTRT_INLINE Vec<float> load_even(const float* p) {
  const __m512i pick = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return (vf)_mm512_permutex2var_ps(_mm512_loadu_ps(p), pick, _mm512_loadu_ps(p + 16));
}
#elif defined(__SSE2__)
PTRT_INLINE Vec<float> load_even(const float* p) {
#if defined(__AVX2__)
  const __m256 s = _mm256_shuffle_ps(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8), 0x88);
  return (vf)_mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(s), 0xd8));
#else
  return (vf)_mm_shuffle_ps(_mm_loadu_ps(p), _mm_loadu_ps(p + 4), 0x88);
#endif
}
#endif

template <class C>
class Pool final : public Kernel {
 public:
  Pool(LaunchDesc desc0, Config c) : Kernel(std::move(desc0)), c_(std::move(c)), source_(desc), sink_(desc) {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    indices_ = desc.outs.size() > 1 && desc.outs[1].present();
    const int64_t channels = x.shape[1];
    const bool last = x.strides[1] == 1 && channels >= 4;
    if (indices_) {
      elements_ = c_.d.in * c_.h.in * c_.w.in;
    } else if (std::is_floating_point<C>::value && c_.mode != Mode::lp && source_.direct(desc, 1) && last && channels >= kLanes<C>) {
      in_place_ = true;
      per_block_ = std::min<int64_t>(channels, 512);
    } else {
      per_block_ = last ? std::min<int64_t>(channels, 64) : 1;
      elements_ = c_.w.in * per_block_;
      padded_ = std::max(c_.w.begin + c_.w.in, (c_.w.out - 1) * c_.w.stride + (c_.w.k - 1) * c_.w.dilation + 1) + 2 * kLanes<C> * 2;
    }
    blocks_ = (channels + per_block_ - 1) / per_block_;
    units_.add(0, y.shape[0]);
    units_.add(1, blocks_);
    units_.add(2, c_.d.out);
    units_.add(3, c_.h.out);
    for (int64_t n : c_.w.count) counts_.push_back(static_cast<C>(n));
    const int64_t work =
        indices_ ? c_.d.out * c_.h.out * c_.w.out * c_.d.k * c_.h.k * c_.w.k : c_.w.out * per_block_ * c_.d.k * c_.h.k * c_.w.k;
    grain_ = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, work));
  }

  size_t thread_scratch_bytes() const override {
    return source_.scratch_bytes(elements_) + sink_.scratch_bytes(c_.w.out * per_block_) +
           align64(static_cast<size_t>(padded_ * per_block_) * sizeof(C)) + align64(static_cast<size_t>(c_.w.out * per_block_) * sizeof(C));
  }

  std::string describe() const override { return indices_ ? "indices" : in_place_ ? "channels" : "rows"; }

  void run(const RunContext& ctx) override {
    const int64_t units = indices_ ? desc.outs[0].shape[0] * desc.outs[0].shape[1] : units_.total;
    if (units == 0) return;
    ctx.parallel((units + grain_ - 1) / grain_, [&](int64_t task, int worker) {
      char* scratch = ctx.thread_scratch(worker);
      const int64_t begin = task * grain_, end = std::min(units, begin + grain_);
      if (indices_) {
        for (int64_t u = begin; u < end; u++) plane(u, scratch);
        return;
      }
      int64_t unit[4] = {};  // n, block of channels, output position along d and h
      units_.seek(unit, begin);
      for (int64_t u = begin; u < end; u++, units_.next(unit)) row(unit, scratch);
    });
  }

 private:
  void row(const int64_t* unit, char* scratch) const {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    const int64_t od = unit[2], oh = unit[3];
    int64_t index[kMaxDims] = {unit[0], unit[1] * per_block_};
    const int64_t channels = std::min(per_block_, x.shape[1] - index[1]);
    char* sink_scratch = scratch + source_.scratch_bytes(elements_);
    C* padded = reinterpret_cast<C*>(sink_scratch + sink_.scratch_bytes(c_.w.out * per_block_));
    C* out = reinterpret_cast<C*>(reinterpret_cast<char*>(padded) + align64(static_cast<size_t>(padded_ * per_block_) * sizeof(C)));
    int64_t target[kMaxDims] = {index[0], index[1]};
    if (c_.d.axis >= 0) target[c_.d.axis] = od;
    if (c_.h.axis >= 0) target[c_.h.axis] = oh;
    const bool vectors = per_block_ > 1;
    const int col_axis = vectors ? 1 : c_.w.axis;
    int64_t ys = channels;
    const bool direct = sink_.direct(desc, col_axis);
    if (direct) {
      out = reinterpret_cast<C*>(element(y, target));
      ys = vectors ? y.strides[c_.w.axis] : 0;
    }
    if (in_place_) {
      walk(index, od, oh, channels, out, ys);
    } else {
      gather_rows(index, od, oh, channels, padded, scratch);
      const int64_t outer = c_.d.count[static_cast<size_t>(od)] * c_.h.count[static_cast<size_t>(oh)];
      if (vectors) along_vectors(padded, channels, outer, out, ys);
      else along(padded, outer, out);
    }
    if (!direct) {
      if (vectors) sink_.store(desc, target, c_.w.axis, c_.w.out, 1, channels, out, channels, sink_scratch);
      else sink_.store(desc, target, -1, 1, c_.w.axis, c_.w.out, out, c_.w.out, sink_scratch);
    }
  }

  // channels: lanes are channels, the window is read where it lies.
  void walk(const int64_t* index, int64_t od, int64_t oh, int64_t channels, C* out, int64_t ys) const {
    const Operand& x = desc.ins[0];
    const C* base = reinterpret_cast<const C*>(element(x, index));
    const int64_t sd = c_.d.step(x), sh = c_.h.step(x), sw = c_.w.step(x);
    const auto d = static_cast<size_t>(od), h = static_cast<size_t>(oh);
    for (int64_t o = 0; o < c_.w.out; o++) {
      const auto w = static_cast<size_t>(o);
      const double count = static_cast<double>(c_.d.count[d] * c_.h.count[h] * c_.w.count[w]);
      const C* corner = base + c_.d.at(od, 0) * sd + c_.h.at(oh, 0) * sh + c_.w.at(o, 0) * sw;
      auto chunk = [&](int64_t first, auto unroll) {
        constexpr int U = decltype(unroll)::value, L = kLanes<C>;
        Vec<C> a[U];
        for (auto& v : a) v = vsplat(c_.mode == Mode::max ? lowest<C>() : C{0});
        for (int64_t i = c_.d.lo[d]; i < c_.d.hi[d]; i++)
          for (int64_t j = c_.h.lo[h]; j < c_.h.hi[h]; j++) {
            const C* p = corner + i * c_.d.dilation * sd + j * c_.h.dilation * sh + first;
            const int64_t tap = c_.w.dilation * sw;
            if (c_.mode == Mode::max) {
              for (int64_t t = c_.w.lo[w]; t < c_.w.hi[w]; t++)
                PTRT_UNROLL for (int v = 0; v < U; v++) a[v] = max_of(vload(p + t * tap + v * L), a[v]);
            } else {
              for (int64_t t = c_.w.lo[w]; t < c_.w.hi[w]; t++) PTRT_UNROLL for (int v = 0; v < U; v++) a[v] += vload(p + t * tap + v * L);
            }
          }
        for (int v = 0; v < U; v++) {
          if (c_.mode == Mode::average) a[v] /= vsplat(static_cast<C>(count));
          vstore<C>(out + o * ys + first + v * L, a[v]);
        }
      };
      constexpr int L = kLanes<C>;
      int64_t i = 0;
      for (; i + 4 * L <= channels; i += 4 * L) chunk(i, std::integral_constant<int, 4>());
      for (; i + L <= channels; i += L) chunk(i, std::integral_constant<int, 1>());
      if (i < channels) {
        if (channels >= L) chunk(channels - L, std::integral_constant<int, 1>());
        else short_chunk(corner, sd, sh, sw, d, h, w, count, channels, out + o * ys);
      }
    }
  }

  // The last block of channels may be shorter than a vector.
  void short_chunk(const C* corner, int64_t sd, int64_t sh, int64_t sw, size_t d, size_t h, size_t w, double count, int64_t channels,
                   C* out) const {
    for (int64_t c = 0; c < channels; c++) {
      C a = c_.mode == Mode::max ? lowest<C>() : C{0};
      for (int64_t i = c_.d.lo[d]; i < c_.d.hi[d]; i++)
        for (int64_t j = c_.h.lo[h]; j < c_.h.hi[h]; j++)
          for (int64_t t = c_.w.lo[w]; t < c_.w.hi[w]; t++) {
            const C v = corner[i * c_.d.dilation * sd + j * c_.h.dilation * sh + t * c_.w.dilation * sw + c];
            if (c_.mode == Mode::max) a = v > a ? v : a;
            else a += v;
          }
      out[c] = c_.mode == Mode::average ? a / static_cast<C>(count) : a;
    }
  }

  C term(C x) const {
    if constexpr (std::is_floating_point<C>::value) {
      if (c_.mode == Mode::lp) return c_.p == 1 ? std::fabs(x) : c_.p == 2 ? x * x : std::pow(std::fabs(x), static_cast<C>(c_.p));
    }
    return x;
  }
  C root(C sum, int64_t count) const {
    if constexpr (std::is_floating_point<C>::value) {
      if (c_.mode == Mode::average) return sum / static_cast<C>(count);
      if (c_.mode == Mode::lp) return c_.p == 1 ? sum : c_.p == 2 ? std::sqrt(sum) : std::pow(sum, C{1} / static_cast<C>(c_.p));
    }
    return sum;
  }

  template <Mode M>
  void combine(C* __restrict to, const C* __restrict from, int64_t n, bool first) const {
    if (first)
      for (int64_t k = 0; k < n; k++) to[k] = M == Mode::lp ? term(from[k]) : from[k];
    else if (M == Mode::max)
      for (int64_t k = 0; k < n; k++) to[k] = from[k] > to[k] ? from[k] : to[k];
    else
      for (int64_t k = 0; k < n; k++) to[k] += M == Mode::lp ? term(from[k]) : from[k];
  }

  // The rows of a window combined into one row, between `begin` and enough trailing neutral elements.
  void gather_rows(int64_t* index, int64_t od, int64_t oh, int64_t channels, C* padded, char* scratch) const {
    const C neutral = c_.mode == Mode::max ? lowest<C>() : C{0};
    C* row = padded + c_.w.begin * channels;
    const auto d = static_cast<size_t>(od), h = static_cast<size_t>(oh);
    const bool vectors = per_block_ > 1;
    bool first = true;
    std::fill(padded, row, neutral);
    std::fill(row + c_.w.in * channels, padded + padded_ * channels, neutral);
    for (int64_t i = c_.d.lo[d]; i < c_.d.hi[d]; i++)
      for (int64_t j = c_.h.lo[h]; j < c_.h.hi[h]; j++) {
        if (c_.d.axis >= 0) index[c_.d.axis] = c_.d.at(od, i);
        if (c_.h.axis >= 0) index[c_.h.axis] = c_.h.at(oh, j);
        int64_t xs = 0;
        const int64_t rows = vectors ? c_.w.in : 1, cols = vectors ? channels : c_.w.in;
        const C* x = source_.block(desc, index, vectors ? c_.w.axis : -1, rows, vectors ? 1 : c_.w.axis, cols, scratch, &xs);
        for (int64_t r = 0; r < rows; r++) {
          if (c_.mode == Mode::max) combine<Mode::max>(row + r * cols, x + r * xs, cols, first);
          else if (c_.mode == Mode::average) combine<Mode::average>(row + r * cols, x + r * xs, cols, first);
          else combine<Mode::lp>(row + r * cols, x + r * xs, cols, first);
        }
        first = false;
      }
    if (first) std::fill(row, row + c_.w.in * channels, neutral);
  }

  void along_vectors(const C* padded, int64_t channels, int64_t outer, C* out, int64_t ys) const {
    for (int64_t o = 0; o < c_.w.out; o++) {
      C* to = out + o * ys;
      for (int64_t t = 0; t < c_.w.k; t++) {
        const C* from = padded + (o * c_.w.stride + t * c_.w.dilation) * channels;
        if (t == 0)
          for (int64_t k = 0; k < channels; k++) to[k] = from[k];
        else if (c_.mode == Mode::max)
          for (int64_t k = 0; k < channels; k++) to[k] = from[k] > to[k] ? from[k] : to[k];
        else
          for (int64_t k = 0; k < channels; k++) to[k] += from[k];
      }
      if (c_.mode != Mode::max)
        for (int64_t k = 0; k < channels; k++) to[k] = root(to[k], outer * c_.w.count[static_cast<size_t>(o)]);
    }
  }

  template <bool kMax, int kStride>
  void along_lanes(const C* padded, C* out) const {
    constexpr int L = kLanes<C>;
    for (int64_t o = 0; o < c_.w.out; o += L) {  // the padded row has room for the last vector's excess
      const C* p = padded + o * kStride;
      auto at = [&](int64_t t) {
        if constexpr (kStride == 1) return vload(p + t);
        else return load_even(p + t);
      };
      Vec<C> a = at(0);
      for (int64_t t = 1; t < c_.w.k; t++) {
        const Vec<C> v = at(t * c_.w.dilation);
        if constexpr (kMax) a = max_of(v, a);
        else a += v;
      }
      if (o + L <= c_.w.out) vstore<C>(out + o, a);
      else vstore_n<C>(out + o, a, static_cast<int>(c_.w.out - o));
    }
  }

  void along(const C* padded, int64_t outer, C* __restrict out) const {
    if (c_.w.stride == 1) c_.mode == Mode::max ? along_lanes<true, 1>(padded, out) : along_lanes<false, 1>(padded, out);
    else if (c_.w.stride == 2) c_.mode == Mode::max ? along_lanes<true, 2>(padded, out) : along_lanes<false, 2>(padded, out);
    else
      for (int64_t o = 0; o < c_.w.out; o++) {
        const C* p = padded + o * c_.w.stride;
        C a = p[0];
        for (int64_t t = 1; t < c_.w.k; t++) {
          const C v = p[t * c_.w.dilation];
          if (c_.mode == Mode::max) a = v > a ? v : a;
          else a += v;
        }
        out[o] = a;
      }
    if (c_.mode == Mode::average) {
      const C rows = static_cast<C>(outer);
      const C* counts = counts_.data();
      for (int64_t o = 0; o < c_.w.out; o++) out[o] /= rows * counts[o];
    } else if (c_.mode == Mode::lp) {
      for (int64_t o = 0; o < c_.w.out; o++) out[o] = root(out[o], 0);
    }
  }

  // One (n, c) plane with the position of every maximum.
  void plane(int64_t unit, char* scratch) const {
    const Operand &x = desc.ins[0], &positions = desc.outs[1];
    int64_t index[kMaxDims] = {unit / x.shape[1], unit % x.shape[1]};
    C* data = reinterpret_cast<C*>(scratch);
    for (int64_t d = 0; d < c_.d.in; d++)
      for (int64_t h = 0; h < c_.h.in; h++) {
        if (c_.d.axis >= 0) index[c_.d.axis] = d;
        if (c_.h.axis >= 0) index[c_.h.axis] = h;
        source_.fill(desc, index, -1, 1, c_.w.axis, c_.w.in, data + (d * c_.h.in + h) * c_.w.in, nullptr);
      }
    char* sink_scratch = scratch + source_.scratch_bytes(elements_);
    C* out = reinterpret_cast<C*>(sink_scratch + sink_.scratch_bytes(c_.w.out * per_block_));
    const int64_t size = c_.d.in * c_.h.in * c_.w.in;
    for (int64_t od = 0; od < c_.d.out; od++)
      for (int64_t oh = 0; oh < c_.h.out; oh++) {
        if (c_.d.axis >= 0) index[c_.d.axis] = od;
        if (c_.h.axis >= 0) index[c_.h.axis] = oh;
        auto* to = reinterpret_cast<int64_t*>(element(positions, index));
        for (int64_t ow = 0; ow < c_.w.out; ow++) {
          const auto d = static_cast<size_t>(od), h = static_cast<size_t>(oh), w = static_cast<size_t>(ow);
          C best = lowest<C>();
          int64_t where = -1;
          for (int64_t i = c_.d.lo[d]; i < c_.d.hi[d]; i++)
            for (int64_t j = c_.h.lo[h]; j < c_.h.hi[h]; j++)
              for (int64_t t = c_.w.lo[w]; t < c_.w.hi[w]; t++) {
                const int64_t zd = c_.d.at(od, i), zh = c_.h.at(oh, j), zw = c_.w.at(ow, t);
                const C v = data[(zd * c_.h.in + zh) * c_.w.in + zw];
                if (where >= 0 && !(v > best)) continue;
                best = v;
                where = c_.column_major ? zd + c_.d.in * (zh + c_.h.in * zw) : (zd * c_.h.in + zh) * c_.w.in + zw;
              }
          out[ow] = best;
          to[ow * positions.strides[c_.w.axis]] = unit * size + std::max<int64_t>(where, 0);
        }
        sink_.store(desc, index, -1, 1, c_.w.axis, c_.w.out, out, c_.w.out, sink_scratch);
      }
  }

  Config c_;
  Source<C> source_;
  Sink<C> sink_;
  Walk units_;
  std::vector<C> counts_;  // elements per window along w
  int64_t per_block_ = 1, blocks_ = 1, elements_ = 1, padded_ = 0, grain_ = 1;
  bool indices_ = false, in_place_ = false;
};

// The maximum of channels-last bytes, a vector of channels at a time.
template <class B>
class BytePool final : public Kernel {
 public:
  static bool applies(const LaunchDesc& desc, const Config& c) {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    return c.mode == Mode::max && !(desc.outs.size() > 1 && desc.outs[1].present()) && desc.prologue.empty() && desc.epilogue.empty() &&
           y.dtype == x.dtype && (x.shape[1] == 1 || (x.strides[1] == 1 && y.strides[1] == 1));
  }
  BytePool(LaunchDesc desc0, Config c) : Kernel(std::move(desc0)), c_(std::move(c)) {
    const Operand& y = desc.outs[0];
    rows_ = y.shape[0] * c_.d.out * c_.h.out;
    const int64_t work = c_.w.out * y.shape[1] * c_.d.k * c_.h.k * c_.w.k / kVecBytes;
    grain_ = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, work));
  }
  std::string describe() const override { return "channels"; }
  void run(const RunContext& ctx) override {
    if (rows_ == 0 || desc.outs[0].size() == 0) return;
    ctx.parallel((rows_ + grain_ - 1) / grain_, [&](int64_t task, int) {
      for (int64_t r = task * grain_, end = std::min(rows_, r + grain_); r < end; r++) row(r);
    });
  }

 private:
  static constexpr int64_t kFew = 16;

  void row(int64_t r) const {
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    const int64_t oh = r % c_.h.out, od = r / c_.h.out % c_.d.out, n = r / c_.h.out / c_.d.out, channels = x.shape[1];
    const int64_t sd = c_.d.step(x), sh = c_.h.step(x), sw = c_.w.step(x);
    const B* base = x.as<const B>() + n * x.strides[0] + c_.d.at(od, 0) * sd + c_.h.at(oh, 0) * sh;
    B* out = y.as<B>() + n * y.strides[0] + od * c_.d.step(y) + oh * c_.h.step(y);
    const auto d = static_cast<size_t>(od), h = static_cast<size_t>(oh);
    for (int64_t o = 0; o < c_.w.out; o++, out += c_.w.step(y)) {
      const auto w = static_cast<size_t>(o);
      const B* corner = base + c_.w.at(o, 0) * sw;
      const auto each_tap = [&](auto f) __attribute__((always_inline)) {
        for (int64_t i = c_.d.lo[d]; i < c_.d.hi[d]; i++)
          for (int64_t j = c_.h.lo[h]; j < c_.h.hi[h]; j++)
            for (int64_t t = c_.w.lo[w]; t < c_.w.hi[w]; t++)
              f(corner + i * c_.d.dilation * sd + j * c_.h.dilation * sh + t * c_.w.dilation * sw);
      };
      const auto vector = [&](int64_t c, auto bytes) __attribute__((always_inline)) {
        typedef B Lot __attribute__((vector_size(decltype(bytes)::value)));
        Lot most = std::numeric_limits<B>::lowest() - Lot{};
        each_tap([&](const B* p) __attribute__((always_inline)) {
          Lot v;
          std::memcpy(&v, p + c, sizeof v);
          most = v > most ? v : most;
        });
        std::memcpy(out + c, &most, sizeof most);
      };
      typedef std::integral_constant<int, kFew> Few;
      int64_t c = 0;
      for (; c + kVecBytes <= channels; c += kVecBytes) vector(c, std::integral_constant<int, kVecBytes>());
      for (; c + kFew <= channels; c += kFew) vector(c, Few());
      if (c < channels && channels >= kFew) {  // the last vector overlaps the one before
        vector(channels - kFew, Few());
        continue;
      }
      for (; c < channels; c++) {
        B most = std::numeric_limits<B>::lowest();
        each_tap([&](const B* p) { most = p[c] > most ? p[c] : most; });
        out[c] = most;
      }
    }
  }

  Config c_;
  int64_t rows_ = 0, grain_ = 1;
};

}  // namespace

std::unique_ptr<Kernel> make_pool(LaunchDesc desc, BindContext&) {
  Params params = desc.params();
  Config c;
  c.mode = static_cast<Mode>(params.i());
  const auto kernel = params.ints(), strides = params.ints(), dilations = params.ints(), pads = params.ints();
  const bool include_pad = params.i() != 0;
  c.p = params.i();
  c.column_major = params.i() != 0;
  const Operand &x = desc.ins[0], &y = desc.outs[0];
  const int spatial = x.ndim - 2;
  const auto n = static_cast<size_t>(spatial);
  if (spatial < 1 || spatial > 3 || kernel.size() != n || strides.size() != n || dilations.size() != n || pads.size() != 2 * n ||
      c.mode < Mode::max || c.mode > Mode::lp)
    throw KernelError("pool: 1 to 3 spatial axes, with parameters for each");
  for (const Operand& o : desc.outs)
    if (o.present() && (o.ndim != x.ndim || o.shape[0] != x.shape[0] || o.shape[1] != x.shape[1] || o.shape[2] != y.shape[2] ||
                        o.shape[o.ndim - 1] != y.shape[o.ndim - 1] || o.shape[o.ndim - 2] != y.shape[o.ndim - 2]))
      throw KernelError("pool: outputs must be [N, C, o...], like x");
  Axis* axes[3] = {&c.d, &c.h, &c.w};
  for (int s = 0; s < spatial; s++) {
    const auto i = static_cast<size_t>(s);
    Axis& a = *axes[3 - spatial + s];
    a.axis = 2 + s;
    a.in = x.shape[2 + s];
    a.out = y.shape[2 + s];
    a.k = kernel[i];
    a.stride = strides[i];
    a.dilation = dilations[i];
    a.begin = pads[i];
    a.end = pads[n + i];
    constexpr int64_t most = int64_t{1} << 31;
    if (a.k < 1 || a.stride < 1 || a.dilation < 1 || a.begin < 0 || a.end < 0 || a.k > (1 << 20) || a.stride > most || a.dilation > most ||
        a.begin > most || a.end > most)
      throw KernelError("pool: bad window");
  }
  for (Axis* a : axes) a->prepare(include_pad);
  const DType t = x.dtype;
  const bool positions = desc.outs.size() > 1 && desc.outs[1].present();
  if (positions && (c.mode != Mode::max || desc.outs[1].dtype != DType::i64)) throw KernelError("pool: indices are int64, and of max only");
  if (t == DType::f64) return std::make_unique<Pool<double>>(std::move(desc), std::move(c));
  if (t == DType::f32 || t == DType::f16 || t == DType::bf16) return std::make_unique<Pool<float>>(std::move(desc), std::move(c));
  if (c.mode != Mode::max) throw KernelError("pool: average and lp take floating dtypes");
  if (t == DType::u8 && BytePool<uint8_t>::applies(desc, c)) return std::make_unique<BytePool<uint8_t>>(std::move(desc), std::move(c));
  if (t == DType::i8 && BytePool<int8_t>::applies(desc, c)) return std::make_unique<BytePool<int8_t>>(std::move(desc), std::move(c));
  if (t == DType::u64) return std::make_unique<Pool<uint64_t>>(std::move(desc), std::move(c));
  if (t == DType::i64 || t == DType::u32) return std::make_unique<Pool<int64_t>>(std::move(desc), std::move(c));
  return std::make_unique<Pool<int32_t>>(std::move(desc), std::move(c));
}

}  // namespace ptrt::PTRT_LEVEL
