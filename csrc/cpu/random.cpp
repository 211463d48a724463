// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11). Which words an element takes, and how, is written down once for all
// backends in kernels/ref/signal.py. A task fills a fixed stretch of elements, so results do not depend on threads.
#include "cpu/float_rows.h"
#include "cpu/kernels.h"
#include "cpu/random_fill.h"
#include "cpu/random_words.h"
#include "cpu/vmath64.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kStretch = 1024;  // elements of a task: a multiple of 4
constexpr int64_t kMost = 16;       // elements are made by so many

double narrowed(double v, DType t) {  // to the dtype and back
  switch (t) {
    case DType::f64: return v;
    case DType::f32: return static_cast<float>(v);
    case DType::f16: return f16_to_f32(f32_to_f16(for_half(v)));
    default: return bf16_to_f32(f32_to_bf16(for_half(v)));
  }
}

// The next value of the dtype below v (which is one of its values).
double next_below(double v, DType t) {
  if (t == DType::f64) return __builtin_nextafter(v, -__builtin_inf());
  if (t == DType::f32) return __builtin_nextafterf(static_cast<float>(v), -__builtin_inff());
  const auto value = [t](uint16_t h) { return static_cast<double>(t == DType::f16 ? f16_to_f32(h) : bf16_to_f32(h)); };
  uint16_t h = t == DType::f16 ? f32_to_f16(static_cast<float>(v)) : f32_to_bf16(static_cast<float>(v));
  if ((h & 0x7fff) == 0) return value(0x8001);
  h = static_cast<uint16_t>(h & 0x8000 ? h + 1 : h - 1);
  return value(h);
}

// The least double that the dtype rounds to `b` or above.
double reaching(double b, DType t) {
  const auto value = [](int64_t order) {  // doubles in their order
    const int64_t bits = order < 0 ? order ^ INT64_MAX : order;
    double d;
    std::memcpy(&d, &bits, sizeof d);
    return d;
  };
  int64_t high = 0x7ff0000000000000, low = ~high;  // infinity reaches everything, what is below its negative is no number
  while (high - 1 > low) {
    const int64_t middle = (low & high) + ((low ^ high) >> 1);
    (narrowed(value(middle), t) >= b ? high : low) = middle;
  }
  return value(high);
}

class Random final : public Kernel {
 public:
  PTRT_COLD Random(LaunchDesc d, const RandomFill& fill) : Kernel(std::move(d)), fill_(fill) {
    if (desc.ins.size() != 1 || desc.outs.size() != 1 || desc.ins[0].dtype != DType::u64 || desc.ins[0].size() != 1)
      throw KernelError("random: seed must be uint64 [1]");
    if (!is_float_type(desc.outs[0].dtype)) throw KernelError("random: y must be floating point");
    Params p = desc.params();
    normal_ = p.i() != 0;
    range_.a = p.f();
    range_.b = p.f();
    stream_ = static_cast<uint64_t>(p.i());
    const DType t = desc.outs[0].dtype;
    range_.below = next_below(narrowed(range_.b, t), t);
    range_.reaching = range_.a < range_.b ? reaching(range_.b, t) : __builtin_nan("");
  }
  size_t thread_scratch_bytes() const override { return (kStretch + kMost) * (sizeof(double) + 2 * sizeof(uint32_t)); }

  void run(const RunContext& ctx) override {
    const Operand& y = desc.outs[0];
    const uint64_t seed = *desc.ins[0].as<uint64_t>();
    const int64_t total = y.size();
    const bool dense = y.contiguous();
    ctx.parallel((total + kStretch - 1) / kStretch, [&](int64_t task, int worker) {
      double* v = reinterpret_cast<double*>(ctx.thread_scratch(worker));
      uint32_t* words = reinterpret_cast<uint32_t*>(v + kStretch + kMost);
      const int64_t first = task * kStretch, n = total - first < kStretch ? total - first : kStretch;
      const int64_t per = y.dtype == DType::f64 ? 2 : 1, count = (n + kMost - 1) / kMost * kMost;
      fill_.philox(seed, stream_, static_cast<uint64_t>(first * per / 4), (count * per + 3) / 4, words);
      if (normal_) y.dtype == DType::f64 ? normal<true>(words, count, v) : normal<false>(words, count, v);
      else fill_.uniform(words, count, y.dtype == DType::f64, range_, v);
      if (dense) {
        int64_t i = 0;
        if (y.dtype == DType::f32)
          for (; i + WD <= n; i += WD) {
            const vh h = __builtin_convertvector(load(v + i), vh);
            std::memcpy(y.as<float>() + first + i, &h, sizeof h);
          }
        store_row(v + i, y.dtype, y.data, first + i, 1, n - i);
        return;
      }
      for (int64_t i = 0; i < n; i++) {
        int64_t rest = first + i, at = 0;
        for (int d = y.ndim - 1; d >= 0; rest /= y.shape[d], d--) at += rest % y.shape[d] * y.strides[d];
        store_row(v + i, y.dtype, y.data, at, 1, 1);
      }
    });
  }

 private:
  // a + product, rounded twice on every machine.
  PTRT_INLINE vd shifted(vd product) const {
    PTRT_KEEP(product);
    return range_.a + product;
  }

  template <bool Wide>
  void normal(const uint32_t* words, int64_t n, double* v) const {
    constexpr double unit = Wide ? 0x1p-53 : 0x1p-32;
    for (int64_t i = 0; i < n; i += 2 * WD) {
      vd u1 = fractions<Wide>(words + i * (Wide ? 2 : 1), Wide ? 11 : 0),
         u2 = fractions<Wide>(words + (i + WD) * (Wide ? 2 : 1), Wide ? 11 : 0);
      exchange<1>(u1, u2, Order());
      u1 = u1 * unit + unit;
      u2 *= unit;
      const vd r = vsqrt(vlog(u1) * -2.0), angle = u2 * 6.283185307179586477;
      vl q;
      vd s, c;
      quadrant<true>(angle, q, s, c);
      const vl odd = (q & 1) != 0;
      const vd sine = (vd)((vl)select(odd, c, s) ^ ((q & 2) << 62)), cosine = (vd)((vl)select(odd, s, c) ^ (((q + 1) & 2) << 62));
      vd x = shifted(range_.b * (r * cosine)), y = shifted(range_.b * (r * sine));
      exchange<1>(x, y, Order());
      store(v + i, x);
      store(v + i + WD, y);
    }
  }

  bool normal_ = false;
  RandomRange range_;
  const RandomFill& fill_;
  uint64_t stream_ = 0;
};

}  // namespace

std::unique_ptr<Kernel> make_random_with(LaunchDesc desc, const RandomFill& fill);
std::unique_ptr<Kernel> make_random_with(LaunchDesc desc, const RandomFill& fill) {
  return std::make_unique<Random>(std::move(desc), fill);
}

}  // namespace ptrt::PTRT_LEVEL
