// Where 3x3 stride-1 convolutions use Winograd's F(4x4, 3x3) or F(2x2, 3x3): 4 or 2.25 times fewer multiplications than the direct form.
//
// Rounding: F(2) is as exact as the direct form; F(4) amplifies rounding by up to max |A'| x |B'| row sums of its transforms, whose points
// of interpolation are chosen against that; for unit-variance data the tests allow 2e-5 of the largest result.
#include "cpu/winograd.h"

#include <cstdlib>

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kCacheBytes = 2 << 20;  // larger weights come from memory at every run

// Time, in multiply-adds of a vector, per input channel and vector of output channels, over all pixels: the products of every tile and its
// part of the transforms, or the reading of the transformed weights where those take longer, as with few tiles. Fewer than four tiles
// cannot hide the latency of the multiply-adds.
template <int F>
double steps(const ConvGeometry& g, double transform) {
  constexpr int A = Winograd<F>::A, M = Winograd<F>::M;
  const double read = g.Cg * g.M * A * A * 4 > kCacheBytes ? 16 : 2;  // a vector
  const double tiles = static_cast<double>(winograd_tiles(g, M));
  const double products = (tiles < 4 ? 4 : tiles) * A * A;
  return (products > read * A * A ? products : read * A * A) +
         tiles * transform * (1.0 / static_cast<double>(g.Cg) + 1.0 / static_cast<double>(g.Mg));
}

double steps4(const ConvGeometry& g) { return steps<4>(g, 160); }
double steps2(const ConvGeometry& g) { return steps<2>(g, 48); }
double direct_steps(const ConvGeometry& g) { return static_cast<double>(9 * most(g.N * g.pixels(), 16)); }

// V, P and the transformed weights of all groups pass the caches, and products over few channels cost as much to start as to compute: worth
// it if there are enough channels and tiles (measured inside networks: 16 channels at 28x28 and 48 at 14x14 gain a fifth, 16 at 14x14 lose
// one).
bool groups_apply(const ConvGeometry& g) {
  constexpr int64_t kWork = 640;
  const int64_t tiles = winograd_tiles(g, Winograd<4>::M);
  return g.Cg % 16 == 0 && g.Mg % W == 0 && least(g.Cg, g.Mg) * tiles >= kWork;
}

// Images of residues are scattered over x and over the results, so x must be read in place and results go straight to the output; and one
// axis at a time must not save as much.
bool dilation_applies(const LaunchDesc& desc, const ConvGeometry& g) {
  const ConvOutput out(desc, g, ConvMath::f32, true);
  const Operand& x = desc.ins[0];
  return g.G == 1 && x.dtype == DType::f32 && conv_strides(x).c == 1 && out.direct(desc) && !out.must_finish() &&
         least(steps4(g), steps2(g)) * row_winograd_gain(g) < direct_steps(g);
}

}  // namespace

template class WinogradConv<2>;
template class WinogradConv<4>;

bool winograd_enabled() {
  const char* setting = std::getenv("PTRT_WINOGRAD");
  return !setting || std::strcmp(setting, "0") != 0;
}

bool winograd_applies(const LaunchDesc& desc, const ConvGeometry& g) {
  if (!winograd_enabled() || !desc.ins[1].is_const() || conv_math(desc.ins[0].dtype) != ConvMath::f32) return false;
  if (g.kernel[0] != 1 || g.kernel[1] != 3 || g.kernel[2] != 3 || g.in[0] != 1 || g.out[0] != 1 || g.pad[0] != 0) return false;
  if (g.stride[1] != 1 || g.stride[2] != 1 || g.Cg < 16 || g.Mg < 16) return false;
  const bool dilated = g.dilation[1] > 1 || g.dilation[2] > 1;
  if (dilated && (g.dilation[1] > g.out[1] || g.dilation[2] > g.out[2])) return false;  // there would be images without an output
  return (g.G == 1 || groups_apply(g)) && least(steps4(g), steps2(g)) < direct_steps(g) && (!dilated || dilation_applies(desc, g));
}

std::unique_ptr<Kernel> make_winograd_conv(LaunchDesc desc, BindContext& bind, const ConvGeometry& g) {
  if (steps4(g) > steps2(g)) return make_winograd_positions(2, std::move(desc), bind, g);
  if (winograd_has_many_blocks(g)) return make_winograd_blocks(std::move(desc), bind, g);
  return make_winograd_positions(4, std::move(desc), bind, g);
}

}  // namespace ptrt::PTRT_LEVEL
