// Activations of convolutions and products, over blocks that were just stored.
#include <type_traits>

#include "cpu/linear_epilogue.h"
#include "cpu/vmath.h"

namespace ptrt::PTRT_LEVEL {

namespace {

struct Step {
  vf a, b, lo, hi;
};

#if defined(__AVX512F__)
// 1 + e^-x in a third fewer steps than vexp takes: the exponent is rounded once, to 2^-24 of itself, so the error grows with |x|: 2e-7 of
// the result for |x| < 4, 2e-6 at 32, where e^-x is negligible or the result is.
PTRT_INLINE vf one_and_exp_of_minus(vf x) {
  const vf z = vmax(splat(-126.0f), x * -1.44269504088896341f);
  const vf n = (vf)_mm512_maskz_roundscale_ps((__mmask16)-1, (__m512)z, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const vf p = horner(z - n, 1.0000001f, 0.69314694f, 0.24022120f, 0.055507135f, 0.0096755419f, 0.0013276471f);
  return (vf)_mm512_maskz_scalef_ps((__mmask16)-1, (__m512)p, (__m512)n) + 1.0f;
}
PTRT_INLINE vf quick_silu(vf x) { return x / one_and_exp_of_minus(x); }
PTRT_INLINE vf quick_sigmoid(vf x) { return 1.0f / one_and_exp_of_minus(vmax(splat(-126.0f), x)); }
#else
PTRT_INLINE vf quick_silu(vf x) { return vsilu(x); }
PTRT_INLINE vf quick_sigmoid(vf x) { return vsigmoid(x); }
#endif

template <Activation K>
PTRT_INLINE vf apply(vf x, const Step& s) {
  if constexpr (K == Activation::silu) return quick_silu(x);
  if constexpr (K == Activation::sigmoid) return quick_sigmoid(x);
  if constexpr (K == Activation::tanh) return vtanh(x);
  if constexpr (K == Activation::gelu_erf) return vgelu_erf(x);
  if constexpr (K == Activation::gelu_tanh) return vgelu_tanh(x);
  if constexpr (K == Activation::leaky) return select(x < 0.0f, x * s.a, x);
  const vf h = vmin(splat(1.0f), vmax(vf{}, x * s.a + s.b));
  return K == Activation::hard_swish ? x * h : h;
}

template <Activation K>
PTRT_NOINLINE void block(const Step& s, const float* x, int64_t x_row, float* y, int64_t y_row, int64_t rows, int64_t n, const float* r,
                         int64_t r_row) {
  for (int64_t i = 0; i < rows; i++, x += x_row, y += y_row, r += r_row) {
    int64_t j = 0;
    if (r)
      for (; j + W <= n; j += W) store(y + j, vmin(s.hi, vmax(s.lo, apply<K>(load(x + j), s) + load(r + j))));
    else
      for (; j + W <= n; j += W) store(y + j, vmin(s.hi, vmax(s.lo, apply<K>(load(x + j), s))));
    if (j == n) continue;
    const int rest = static_cast<int>(n - j);
    const vf v = apply<K>(load_n(x + j, rest), s);
    store_n(y + j, vmin(s.hi, vmax(s.lo, r ? v + load_n(r + j, rest) : v)), rest);
  }
}

// x * scale + shift [+ residual] [clamp] per column.
PTRT_NOINLINE void scaled_block(const Step& s, const float* x, int64_t x_row, float* y, int64_t y_row, int64_t rows, int64_t n,
                                const float* r, int64_t r_row, const float* scale, const float* shift) {
  for (int64_t j = 0; j < n; j += W) {
    const int count = n - j < W ? static_cast<int>(n - j) : W;
    const vf a = load_n(scale + j, count), b = shift ? load_n(shift + j, count) : vf{};
    for (int64_t i = 0; i < rows; i++) {
      vf v = load_n(x + i * x_row + j, count) * a + b;
      if (r) v += load_n(r + i * r_row + j, count);
      store_n(y + i * y_row + j, vmin(s.hi, vmax(s.lo, v)), count);
    }
  }
}

}  // namespace

std::string activation_name(const LinearEpilogue& e) {
  static const char* const names[] = {"", "silu", "sigmoid", "tanh", "hard_sigmoid", "hard_swish", "leaky", "gelu_erf", "gelu_tanh"};
  std::string name = e.activation != Activation::none ? std::string(", then ") + names[static_cast<int>(e.activation)] : std::string();
  return e.post() ? name + ", then scaled" : name;
}

void apply_activation(const LinearEpilogue& e, const float* from, int64_t from_row, float* to, int64_t to_row, int64_t rows, int64_t n,
                      const float* residual, int64_t residual_row, const float* scale, const float* shift) {
  if (e.post()) {
    if (e.activation != Activation::none) {
      LinearEpilogue first = e;
      first.post_scale = -1;
      first.clamp_after = false;
      apply_activation(first, from, from_row, to, to_row, rows, n, nullptr, 0);
      from = to;
      from_row = to_row;
    }
    const float inf = __builtin_inff();
    const Step s{{}, {}, splat(e.clamp_after ? static_cast<float>(e.lo) : -inf), splat(e.clamp_after ? static_cast<float>(e.hi) : inf)};
    return scaled_block(s, from, from_row, to, to_row, rows, n, residual, residual ? residual_row : 0, scale, shift);
  }
  const float inf = __builtin_inff();
  const Step s{splat(static_cast<float>(e.act_a)), splat(static_cast<float>(e.act_b)),
               splat(e.clamp_after ? static_cast<float>(e.lo) : -inf), splat(e.clamp_after ? static_cast<float>(e.hi) : inf)};
  if (to_row == n && from_row == n && !residual) n *= rows, rows = 1;
  const auto run = [&](auto kind) {
    block<decltype(kind)::value>(s, from, from_row, to, to_row, rows, n, residual, residual ? residual_row : 0);
  };
  switch (e.activation) {
#define PTRT_CASE(name) \
  case Activation::name: run(std::integral_constant<Activation, Activation::name>()); break;
    PTRT_CASE(silu)
    PTRT_CASE(sigmoid)
    PTRT_CASE(tanh)
    PTRT_CASE(hard_sigmoid)
    PTRT_CASE(hard_swish)
    PTRT_CASE(leaky)
    PTRT_CASE(gelu_erf)
    PTRT_CASE(gelu_tanh)
#undef PTRT_CASE
    case Activation::none: break;
  }
}

}  // namespace ptrt::PTRT_LEVEL
