// Activations of convolutions, over blocks that were just stored.
#include <type_traits>

#include "cpu/conv.h"
#include "cpu/vmath.h"

namespace ptrt::PTRT_LEVEL {

namespace {

struct Step {
  vf a, b, lo, hi;
};

template <Activation K>
PTRT_INLINE vf apply(vf x, const Step& s) {
  if constexpr (K == Activation::silu) return vsilu(x);
  if constexpr (K == Activation::sigmoid) return vsigmoid(x);
  if constexpr (K == Activation::tanh) return vtanh(x);
  if constexpr (K == Activation::gelu_erf) return vgelu_erf(x);
  if constexpr (K == Activation::gelu_tanh) return vgelu_tanh(x);
  if constexpr (K == Activation::leaky) return select(x < 0.0f, x * s.a, x);
  const vf h = vmin(splat(1.0f), vmax(vf{}, x * s.a + s.b));
  return K == Activation::hard_swish ? x * h : h;
}

// Without a residual, c is read as a stream of vectors whose calculations overlap; the last, partial one goes through masks.
template <Activation K>
PTRT_NOINLINE void block(const Step& s, float* c, int64_t pixel, int64_t rows, int64_t n, const float* r, int64_t residual_pixel) {
  for (int64_t i = 0; i < rows; i++, c += pixel, r += residual_pixel) {
    int64_t j = 0;
    if (r)
      for (; j + W <= n; j += W) store(c + j, vmin(s.hi, vmax(s.lo, apply<K>(load(c + j), s) + load(r + j))));
    else
      for (; j + W <= n; j += W) store(c + j, vmin(s.hi, vmax(s.lo, apply<K>(load(c + j), s))));
    if (j == n) continue;
    const int rest = static_cast<int>(n - j);
    const vf y = apply<K>(load_n(c + j, rest), s);
    store_n(c + j, vmin(s.hi, vmax(s.lo, r ? y + load_n(r + j, rest) : y)), rest);
  }
}

}  // namespace

std::string ConvOutput::activation_name() const {
  static const char* const names[] = {"", "silu", "sigmoid", "tanh", "hard_sigmoid", "hard_swish", "leaky", "gelu_erf", "gelu_tanh"};
  return activates() ? std::string(", then ") + names[static_cast<int>(linear_.activation)] : std::string();
}

void ConvOutput::activate(float* at, int64_t pixel, int64_t rows, int64_t n, const float* residual, int64_t residual_pixel) const {
  const float inf = __builtin_inff();
  const bool clamp = linear_.clamp_after;
  const Step s{splat(static_cast<float>(linear_.act_a)), splat(static_cast<float>(linear_.act_b)),
               splat(clamp ? static_cast<float>(linear_.lo) : -inf), splat(clamp ? static_cast<float>(linear_.hi) : inf)};
  if (pixel == n && !residual) n *= rows, rows = 1;
  const auto run = [&](auto kind) { block<decltype(kind)::value>(s, at, pixel, rows, n, residual, residual ? residual_pixel : 0); };
  switch (linear_.activation) {
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
