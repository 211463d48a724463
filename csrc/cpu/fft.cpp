// Discrete Fourier transforms of any length, in double. Lengths whose prime factors are small: a mixed-radix transform (fft_stages.h).
// Others: Bluestein's, a convolution by transforms of a power of two. A group of lines is transformed side by side. Signals of real
// numbers, of even length, are transformed as half as many complex ones: even elements are real parts, odd ones imaginary parts. An inverse
// transform is a forward one with real and imaginary parts exchanged on both sides.
#include <algorithm>

#include "cpu/fft_stages.h"
#include "cpu/float_rows.h"
#include "cpu/kernels.h"
#include "cpu/transpose.h"
#include "cpu/vmath64.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr double kTwoPi = 6.283185307179586477;
constexpr int64_t kNear = 1536, kFar = 16384;  // numbers of a group that fit the first-level cache, and the second
constexpr int64_t kMostLines = 64;
constexpr int64_t kRun = 64;     // elements of a line that are moved at once
constexpr int64_t kTile = 2048;  // floats of lines that are transposed at once

PTRT_COLD void push_turn(std::vector<double>& to, double angle) {
  to.push_back(__builtin_cos(angle));
  to.push_back(-__builtin_sin(angle));
}

PTRT_COLD bool suits(int64_t n) {
  for (int64_t p = 2; p <= kLargestFftRadix; p++)
    while (n % p == 0) n /= p;
  return n == 1;
}

// Stages of radix 8 are for vectors only: the first two of a single line are of radix 4.
PTRT_COLD std::vector<FftStage> stages_of(int64_t n, int64_t lines) {
  std::vector<FftStage> stages;
  int64_t rest = n;
  auto take = [&](int64_t p) {
    FftStage g{p, rest / p, {}, {}};
    g.twiddles.reserve(static_cast<size_t>(2 * (p - 1) * g.rest));
    for (int64_t k = 0; k < g.rest; k++)
      for (int64_t r = 1; r < p; r++) push_turn(g.twiddles, kTwoPi * static_cast<double>(k * r) / static_cast<double>(rest));
    for (int64_t k = 0; k < p; k++) push_turn(g.roots, kTwoPi * static_cast<double>(k) / static_cast<double>(p));
    rest = g.rest;
    stages.push_back(std::move(g));
  };
  int twos = __builtin_ctzll(static_cast<unsigned long long>(n));
  while (rest > 1) {
    const bool eight = twos >= 3 && twos != 4 && (lines > 1 || stages.size() >= 2);
    int64_t p = twos == 0 ? 3 : eight ? 8 : twos >= 2 ? 4 : 2;
    while (rest % p != 0) p += 2;
    take(p);
    twos -= p == 8 ? 3 : p == 4 ? 2 : p == 2 ? 1 : 0;
  }
  return stages;
}

class Fft final : public Kernel {
 public:
  PTRT_COLD Fft(LaunchDesc d, const FftLoops& loops) : Kernel(std::move(d)), loops_(loops) {
    Params p = desc.params();
    int64_t axis = p.i();
    inverse_ = p.i() != 0;
    onesided_ = p.i() != 0;
    if (desc.ins.size() != 1 || desc.outs.size() != 1) throw KernelError("fft: wrong number of operands");
    const Operand &x = desc.ins[0], &y = desc.outs[0];
    bool ok = x.ndim >= 2 && y.ndim == x.ndim && is_float_type(x.dtype) && is_float_type(y.dtype);
    if (ok && axis < 0) axis += x.ndim;
    ok = ok && axis >= 0 && axis < x.ndim - 1;
    for (int i = 0; ok && i < x.ndim; i++)
      ok = i == axis || i == x.ndim - 1 ? (i == axis || (x.shape[i] <= 2 && y.shape[i] <= 2)) : x.shape[i] == y.shape[i];
    if (!ok) throw KernelError("fft: x and y must be [..., n, ..., 1 or 2] of floating dtype with equal batch axes");
    axis_ = static_cast<int>(axis);
    const int64_t m = y.shape[axis];
    n_ = !onesided_ || inverse_ ? m : x.shape[axis] == 2 * m - 1 ? 2 * m - 1 : 2 * m - 2;
    if (n_ < 1) n_ = 1;
    if (n_ > int64_t{1} << 40) throw KernelError("fft: the transform is too long");
    const bool real = x.shape[x.ndim - 1] != 2 && !inverse_;
    hermitian_ = onesided_ && inverse_;
    packed_ = n_ % 2 == 0 && (real || hermitian_);
    length_ = packed_ ? n_ / 2 : n_;
    work_ = length_;
    if (!suits(length_)) {
      work_ = 1;
      while (work_ < 2 * length_ - 1) work_ *= 2;
    }
    if (packed_)
      for (int64_t k = 0; k <= length_ / 2; k++) push_turn(turns_, kTwoPi * static_cast<double>(k) / static_cast<double>(n_));
    rows_ = std::max(work_, n_);
    lines_ = 1;
    for (int i = 0; i < y.ndim - 1; i++) lines_ *= i == axis_ ? 1 : y.shape[i];
    const int64_t w = loops_.lines;
    group_ = rows_ * w > kFar || lines_ == 1 ? 1 : w;
    if (group_ == w) group_ = std::clamp(std::min(kNear / rows_, lines_ + w - 1) / w * w, w, kMostLines);
    stages_ = stages_of(work_, group_);
    if (work_ != length_) prepare_chirp();
  }
  size_t thread_scratch_bytes() const override {
    return static_cast<size_t>(checked_mul(8, checked_mul(4, checked_mul(rows_, group_)) + kTile / 2));
  }
  std::string describe() const override {
    return work_ == length_ ? packed_ ? "mixed radix, packed" : "mixed radix" : packed_ ? "Bluestein, packed" : "Bluestein";
  }

  void run(const RunContext& ctx) override {
    ctx.parallel((lines_ + group_ - 1) / group_,
                 [&](int64_t task, int worker) { group(task * group_, reinterpret_cast<double*>(ctx.thread_scratch(worker))); });
  }

 private:
  PTRT_COLD void prepare_chirp() {  // exp(-i pi k^2 / n), and the transform of its conjugate's cyclic extension, divided by its length
    const auto n = static_cast<size_t>(length_), m = static_cast<size_t>(work_);
    std::vector<double> re(m), im(m), c(m), d(m);
    for (size_t k = 0; k < n; k++) {
      const auto square = static_cast<double>(static_cast<unsigned __int128>(k) * k % (2 * n));
      const double angle = kTwoPi / 2 * square / static_cast<double>(length_);
      push_turn(chirp_, angle);
      const size_t mirror = (m - k) % m;
      re[k] = re[mirror] = chirp_[2 * k];
      im[k] = im[mirror] = -chirp_[2 * k + 1];
    }
    const bool moved = loops_.transform(group_ == 1 ? stages_ : stages_of(work_, 1), 1, re.data(), im.data(), c.data(), d.data());
    for (size_t k = 0; k < m; k++) {
      spectrum_.push_back((moved ? c : re)[k] / static_cast<double>(m));
      spectrum_.push_back((moved ? d : im)[k] / static_cast<double>(m));
    }
  }

  // Where the lines of a group begin, in elements: `step` apart from each other if `even`.
  struct Places {
    int64_t at[kMostLines], step;
    bool even;
  };
  void find(const Operand& o, int64_t first, int64_t count, Places& p) const {
    for (int64_t l = 0; l < count; l++) {
      int64_t line = first + l;
      p.at[l] = 0;
      for (int i = o.ndim - 2; i >= 0; i--) {
        if (i == axis_) continue;
        p.at[l] += line % o.shape[i] * o.strides[i];
        line /= o.shape[i];
      }
    }
    p.step = count > 1 ? p.at[1] - p.at[0] : 0;
    p.even = true;
    for (int64_t l = 1; l < count; l++) p.even = p.even && p.at[l] - p.at[l - 1] == p.step;
  }

  void group(int64_t first, double* scratch) const {
    const int64_t count = std::min(group_, lines_ - first), room = rows_ * group_;
    double *a = scratch, *b = a + room, *c = b + room, *d = c + room, *line = d + room;
    double *&re = inverse_ ? b : a, *&im = inverse_ ? a : b;
    gather(first, count, re, im, line);
    if (hermitian_) packed_ ? pack_spectrum(re, im) : mirror(re, im, n_ / 2 + 1);
    if (work_ != length_) bluestein(a, b, c, d);
    else if (loops_.transform(stages_, group_, a, b, c, d)) a = c, b = d;
    if (inverse_) {
      const double scale = 1 / static_cast<double>(length_);
      for (int64_t i = 0; i < length_ * group_; i++) re[i] *= scale, im[i] *= scale;
    }
    if (packed_ && !inverse_) unpack_spectrum(re, im);
    scatter(first, count, re, im, line);
  }

  // Lines as columns of doubles, followed by zeros. Interleaved numbers are real and imaginary parts in turn.
  void gather(int64_t first, int64_t count, double* re, double* im, double* line) const {
    const Operand& x = desc.ins[0];
    const int last = x.ndim - 1;
    const bool pairs = x.shape[last] == 2, spread = packed_ && !inverse_;
    const int64_t step = x.strides[axis_], wanted = hermitian_ ? n_ / 2 + 1 : n_, given = std::min(x.shape[axis_], wanted);
    Places p;
    find(x, first, count, p);
    auto row = [&](int64_t i, bool interleaved) { return (interleaved && i % 2 ? im : re) + (interleaved ? i / 2 : i) * group_; };
    const int64_t filled = spread ? (given + 1) / 2 : given, used = std::max(work_, wanted);
    for (double* part : {re, im}) {
      const int64_t from = part == im && !pairs && !spread ? 0 : spread && part == im ? given / 2 : filled;
      std::memset(part + from * group_, 0, static_cast<size_t>((spread ? work_ : used) - from) * static_cast<size_t>(group_) * 8);
      if (count < group_) std::memset(part, 0, static_cast<size_t>(from * group_) * 8);
    }
    if (count > 1 && p.even && std::abs(p.step) < std::abs(step)) {  // elements of the lines are neighbours
      for (int part = 0; part < (pairs ? 2 : 1); part++)
        for (int64_t i = 0; i < given; i++)
          load_row(part ? im + i * group_ : row(i, spread), x.dtype, x.data, p.at[0] + part * x.strides[last] + i * step, p.step, count);
      return;
    }
    if (count == group_ && p.even && count > 1 && x.dtype == DType::f32 && step == (pairs ? 2 : 1) && (!pairs || x.strides[last] == 1)) {
      const bool interleaved = pairs || spread;
      auto* tile = reinterpret_cast<float*>(line);
      const int64_t n = pairs ? 2 * given : given, run = kTile / group_;
      for (int64_t i = 0; i < n; i += run) {
        const int64_t m = std::min(run, n - i);
        transpose(x.as<float>() + p.at[0] + i, p.step, group_, m, tile, group_);
        for (int64_t k = 0; k < m; k++) {
          double* to = row(i + k, interleaved);
          const float* from = tile + k * group_;
          for (int64_t l = 0; l < group_; l += WD) {
            vh v;
            std::memcpy(&v, from + l, sizeof v);
            store(to + l, __builtin_convertvector(v, vd));
          }
        }
      }
      return;
    }
    for (int64_t l = 0; l < count; l++)
      for (int part = 0; part < (pairs ? 2 : 1); part++)
        for (int64_t i = 0; i < given; i += kRun) {
          const int64_t m = std::min(kRun, given - i);
          load_row(line, x.dtype, x.data, p.at[l] + part * x.strides[last] + i * step, step, m);
          for (int64_t k = 0; k < m; k++) (part ? im + (i + k) * group_ : row(i + k, spread))[l] = line[k];
        }
  }

  void scatter(int64_t first, int64_t count, const double* re, const double* im, double* line) const {
    const Operand& y = desc.outs[0];
    const int last = y.ndim - 1;
    const bool pairs = y.shape[last] == 2, spread = packed_ && inverse_;
    const int64_t step = y.strides[axis_], wanted = y.shape[axis_];
    Places p;
    find(y, first, count, p);
    auto row = [&](int64_t i, bool interleaved) { return (interleaved && i % 2 ? im : re) + (interleaved ? i / 2 : i) * group_; };
    if (spread && pairs)  // a real signal's imaginary parts
      for (int64_t l = 0; l < count; l++)
        for (int64_t i = 0; i < wanted; i += kRun) {
          std::memset(line, 0, kRun * sizeof(double));
          store_row(line, y.dtype, y.data, p.at[l] + y.strides[last] + i * step, step, std::min(kRun, wanted - i));
        }
    const int parts = pairs && !spread ? 2 : 1;
    if (count > 1 && p.even && std::abs(p.step) < std::abs(step)) {
      for (int part = 0; part < parts; part++)
        for (int64_t i = 0; i < wanted; i++)
          store_row(part ? im + i * group_ : row(i, spread), y.dtype, y.data, p.at[0] + part * y.strides[last] + i * step, p.step, count);
      return;
    }
    if (count == group_ && p.even && count > 1 && y.dtype == DType::f32 && step == parts && pairs == (parts == 2) &&
        (!pairs || y.strides[last] == 1)) {
      const bool interleaved = pairs || spread;
      auto* tile = reinterpret_cast<float*>(line);
      const int64_t n = wanted * parts, run = kTile / group_;
      for (int64_t i = 0; i < n; i += run) {
        const int64_t m = std::min(run, n - i);
        for (int64_t k = 0; k < m; k++) {
          const double* from = row(i + k, interleaved);
          float* to = tile + k * group_;
          for (int64_t l = 0; l < group_; l += WD) {
            const vh v = __builtin_convertvector(load(from + l), vh);
            std::memcpy(to + l, &v, sizeof v);
          }
        }
        transpose(tile, group_, m, group_, y.as<float>() + p.at[0] + i, p.step);
      }
      return;
    }
    for (int64_t l = 0; l < count; l++)
      for (int part = 0; part < parts; part++)
        for (int64_t i = 0; i < wanted; i += kRun) {
          const int64_t m = std::min(kRun, wanted - i);
          for (int64_t k = 0; k < m; k++) line[k] = (part ? im + (i + k) * group_ : row(i + k, spread))[l];
          store_row(line, y.dtype, y.data, p.at[l] + part * y.strides[last] + i * step, step, m);
        }
  }

  // The second half of the spectrum of real numbers, of which the first `given` elements are there.
  void mirror(double* re, double* im, int64_t given) const {
    for (int64_t l = 0; l < group_; l++) {
      im[l] = 0;
      if (n_ % 2 == 0) im[n_ / 2 * group_ + l] = 0;
    }
    for (int64_t k = given; k < n_; k++)
      for (int64_t l = 0; l < group_; l++) {
        re[k * group_ + l] = re[(n_ - k) * group_ + l];
        im[k * group_ + l] = -im[(n_ - k) * group_ + l];
      }
  }

  // From the transform of even elements + i odd ones to the spectrum.
  void unpack_spectrum(double* re, double* im) const {
    for (int64_t l = 0; l < group_; l++) {
      const double r = re[l], i = im[l];
      re[l] = r + i;
      re[length_ * group_ + l] = r - i;
      im[l] = im[length_ * group_ + l] = 0;
    }
    loops_.unpack(re, im, length_, group_, turns_.data());
    if (!onesided_) mirror(re, im, n_ / 2 + 1);
  }
  // The other way round.
  void pack_spectrum(double* re, double* im) const {
    for (int64_t l = 0; l < group_; l++) {
      const double first = re[l], last = re[length_ * group_ + l];
      re[l] = (first + last) * 0.5;
      im[l] = (first - last) * 0.5;
    }
    loops_.pack(re, im, length_, group_, turns_.data());
  }

  // Transforms (a, b) and leaves the result there; (c, d) is the other memory. The pointers may be exchanged.
  void bluestein(double*& a, double*& b, double*& c, double*& d) const {
    loops_.rotate(a, b, length_, group_, chirp_.data());
    std::memset(a + length_ * group_, 0, static_cast<size_t>((work_ - length_) * group_) * sizeof(double));
    std::memset(b + length_ * group_, 0, static_cast<size_t>((work_ - length_) * group_) * sizeof(double));
    if (loops_.transform(stages_, group_, a, b, c, d)) std::swap(a, c), std::swap(b, d);
    loops_.rotate(a, b, work_, group_, spectrum_.data());
    if (loops_.transform(stages_, group_, b, a, d, c)) std::swap(a, c), std::swap(b, d);  // inverse
    loops_.rotate(a, b, length_, group_, chirp_.data());
  }

  int axis_ = 0;
  bool inverse_ = false, onesided_ = false, hermitian_ = false, packed_ = false;  // hermitian: from half a spectrum to real numbers
  int64_t n_ = 1, length_ = 1, work_ = 1, rows_ = 1;  // of the transform; of complex numbers; of the arrays worked on; their room
  int64_t lines_ = 1, group_ = 1;
  const FftLoops& loops_;
  std::vector<FftStage> stages_;
  std::vector<double> turns_, chirp_, spectrum_;
};

}  // namespace

std::unique_ptr<Kernel> make_fft_with(LaunchDesc desc, const FftLoops& loops);
std::unique_ptr<Kernel> make_fft_with(LaunchDesc desc, const FftLoops& loops) { return std::make_unique<Fft>(std::move(desc), loops); }

}  // namespace ptrt::PTRT_LEVEL
