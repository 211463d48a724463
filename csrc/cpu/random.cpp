// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11). Which words an element takes, and how, is written down once for all
// backends in kernels/ref/signal.py. A task fills a fixed stretch of elements, so results do not depend on threads.
#include "cpu/float_rows.h"
#include "cpu/kernels.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kStretch = 1024;  // elements of a task: a multiple of 4

struct Philox {
  uint64_t seed, stream;
  void block(uint64_t number, uint32_t* out) const {
    uint32_t c0 = static_cast<uint32_t>(number), c1 = static_cast<uint32_t>(number >> 32), c2 = static_cast<uint32_t>(stream),
             c3 = static_cast<uint32_t>(stream >> 32), k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; round++) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
      c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
      c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
      c1 = static_cast<uint32_t>(p1);
      c3 = static_cast<uint32_t>(p0);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
  }
};

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

class Random final : public Kernel {
 public:
  explicit Random(LaunchDesc d) : Kernel(std::move(d)) {
    if (desc.ins.size() != 1 || desc.outs.size() != 1 || desc.ins[0].dtype != DType::u64 || desc.ins[0].size() != 1)
      throw KernelError("random: seed must be uint64 [1]");
    if (!is_float_type(desc.outs[0].dtype)) throw KernelError("random: y must be floating point");
    Params p = desc.params();
    normal_ = p.i() != 0;
    a_ = p.f();
    b_ = p.f();
    stream_ = static_cast<uint64_t>(p.i());
  }
  size_t thread_scratch_bytes() const override { return kStretch * (sizeof(double) + 2 * sizeof(uint32_t)); }

  void run(const RunContext& ctx) override {
    const Operand& y = desc.outs[0];
    const Philox philox{*desc.ins[0].as<uint64_t>(), stream_};
    const int64_t total = y.size();
    const bool dense = y.contiguous();
    ctx.parallel((total + kStretch - 1) / kStretch, [&](int64_t task, int worker) {
      double* v = reinterpret_cast<double*>(ctx.thread_scratch(worker));
      uint32_t* words = reinterpret_cast<uint32_t*>(v + kStretch);
      const int64_t first = task * kStretch, n = total - first < kStretch ? total - first : kStretch;
      const int64_t per = y.dtype == DType::f64 ? 2 : 1, pairs = (n + 1) / 2 * 2;
      for (int64_t k = 0; k < pairs * per; k += 4) philox.block(static_cast<uint64_t>((first * per + k) / 4), words + k);
      if (normal_) fill_normal(words, pairs, v);
      else fill_uniform(words, n, v);
      if (dense) {
        store_row(v, y.dtype, y.data, first, 1, n);
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
  double fraction(const uint32_t* words, int64_t k) const {  // 53 bits of words 2k, 2k+1
    return static_cast<double>((uint64_t{words[2 * k]} << 32 | words[2 * k + 1]) >> 11) * 0x1p-53;
  }

  void fill_uniform(const uint32_t* words, int64_t n, double* v) const {
    const DType t = desc.outs[0].dtype;
    const double below = next_below(narrowed(b_, t), t);
    for (int64_t i = 0; i < n; i++) {
      const double u = t == DType::f64 ? fraction(words, i) : static_cast<double>(words[i] >> 8) * 0x1p-24;
      v[i] = a_ + (b_ - a_) * u;
      if (a_ < b_ && narrowed(v[i], t) >= b_) v[i] = below;
    }
  }

  void fill_normal(const uint32_t* words, int64_t pairs, double* v) const {
    const bool wide = desc.outs[0].dtype == DType::f64;
    for (int64_t i = 0; i < pairs; i += 2) {
      const double u1 = wide ? fraction(words, i) + 0x1p-53 : static_cast<double>(words[i]) * 0x1p-32 + 0x1p-32;
      const double u2 = wide ? fraction(words, i + 1) : static_cast<double>(words[i + 1]) * 0x1p-32;
      const double r = __builtin_sqrt(-2 * __builtin_log(u1)), angle = 6.283185307179586477 * u2;
      v[i] = a_ + b_ * (r * __builtin_cos(angle));
      v[i + 1] = a_ + b_ * (r * __builtin_sin(angle));
    }
  }

  bool normal_ = false;
  double a_ = 0, b_ = 1;
  uint64_t stream_ = 0;
};

}  // namespace

std::unique_ptr<Kernel> make_random(LaunchDesc desc, BindContext&) { return std::make_unique<Random>(std::move(desc)); }

}  // namespace ptrt::PTRT_LEVEL
