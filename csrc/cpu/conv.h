// What the convolution kernels share: canonical geometry, the staged (zero-haloed, channels-last) copy of an input block, and the way a
// finished block of results reaches the output.
#pragma once
#include <string>
#include <vector>

#include "cpu/linear_epilogue.h"
#include "cpu/quant_epilogue.h"
#include "cpu/simd.h"
#include "cpu/vm.h"

namespace ptrt::PTRT_LEVEL {

namespace {
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// A linear epilogue in vector registers, without branches: absent steps are the identity (also on NaN, which vmax and vmin pass through).
struct VectorEpilogue {
  vf alpha, lo_before, hi_before, lo_after, hi_after;
  explicit VectorEpilogue(const LinearEpilogue& e) {
    const float inf = __builtin_inff(), lo = static_cast<float>(e.lo), hi = static_cast<float>(e.hi);
    alpha = splat(static_cast<float>(e.alpha));
    lo_before = splat(e.clamp_before ? lo : -inf);
    hi_before = splat(e.clamp_before ? hi : inf);
    lo_after = splat(e.clamp_after ? lo : -inf);
    hi_after = splat(e.clamp_after ? hi : inf);
  }
  PTRT_INLINE vf operator()(vf sum, vf bias) const { return vmin(hi_before, vmax(lo_before, sum * alpha + bias)); }
  PTRT_INLINE vf operator()(vf sum, vf bias, vf residual) const { return vmin(hi_after, vmax(lo_after, (*this)(sum, bias) + residual)); }
};

}  // namespace

// Three spatial axes (depth, height, width); a convolution with fewer has leading axes of size 1.
struct ConvGeometry {
  int spatial = 0;                                     // spatial axes of the operands
  int64_t N = 0, C = 0, M = 0, G = 1, Cg = 0, Mg = 0;  // batch, channels in and out, groups, channels per group
  int64_t in[3] = {1, 1, 1}, kernel[3] = {1, 1, 1}, out[3] = {1, 1, 1};
  int64_t stride[3] = {1, 1, 1}, dilation[3] = {1, 1, 1}, pad[3] = {0, 0, 0};  // pad: at the beginning; the end follows from `out`
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t pixels() const { return out[0] * out[1] * out[2]; }
};

// Strides of a [batch, channel, spatial...] operand in canonical axes; 0 for axes of size 1.
struct ConvStrides {
  int64_t n = 0, c = 0, s[3] = {0, 0, 0};
};

// Validates ranks, shapes and parameters; throws KernelError.
ConvGeometry conv_geometry(const LaunchDesc& desc, bool transpose);
ConvStrides conv_strides(const Operand& o);

// The arithmetic a convolution is done in: staged inputs and packed weights of type S, sums of type A.
enum class ConvMath { f32, f64, i8 };
ConvMath conv_math(DType x);

// A box of the (virtually zero-padded) input. Only channels [c0, c0 + cn) are copied; `group` consecutive channels are padded with zeros to
// `group_pitch` elements. dst element (d, h, w, c) is at d * plane + h * row + w * pixel + c / group * group_pitch + c % group. Depth i of
// the box is input depth begin[0] + i * depth_step.
struct ConvBox {
  int64_t begin[3], size[3], depth_step;
  int64_t c0, cn, group, group_pitch;
  int64_t plane, row, pixel;
};
// `data` points at the batch entry; x_zero is subtracted from 8-bit elements. Elements of dst between pixels' channels and the pitch are
// not written, except those of group padding. dst is float, double or int16_t according to `math`.
void conv_stage(ConvMath math, const Operand& x, const char* data, const ConvStrides& xs, const int64_t* in, const ConvBox& box,
                int32_t x_zero, void* dst);
// The same for 8-bit elements that stay bytes: int8 plus 128, and `fill` where there is no input.
void conv_stage_bytes(const Operand& x, const char* data, const ConvStrides& xs, const int64_t* in, const ConvBox& box, uint8_t fill,
                      uint8_t* dst);

// 8-bit weights: is their zero point 0 once they are int8 (uint8 minus 128)?
bool conv_symmetric_weights(const LaunchDesc& desc);

// Scalar access for packing: element `offset` of an operand, converted.
float conv_load_f32(const Operand& o, int64_t offset);
double conv_load_f64(const Operand& o, int64_t offset);
int32_t conv_load_i32(const Operand& o, int64_t offset);

// Where results of one output box go. Values are of type A (float, double, int32).
struct ConvResult {
  char* data;          // element (oh, ow, m) of the box at data + (oh * row + ow * pixel + m) * sizeof(A)
  int64_t row, pixel;  // in elements
};
struct ConvOutBox {
  int64_t n, od, oh, ow, m;   // start
  int64_t rows, cols, chans;  // extent along height, width, channels
};

// The output side of a convolution: direct stores where the output is channels-last in the sums' own type, a scratch block otherwise.
class ConvOutput {
 public:
  // activations: the kernel calls activate() on everything it computes, if activates(), and requantise(), if requantises().
  ConvOutput(const LaunchDesc& desc, const ConvGeometry& g, ConvMath math, bool activations);
  bool channels_last() const { return channels_last_; }
  // May sums be written into the output itself in this run?
  bool direct(const LaunchDesc& desc) const;
  ConvResult at(const LaunchDesc& desc, const ConvOutBox& box) const;  // the box in the output itself
  size_t block_bytes(int64_t pixels, int64_t chans) const { return static_cast<size_t>(pixels * chans) * acc_size_ + 64; }
  size_t scratch_bytes() const;  // what finish() needs beside the block
  // Turns sums at `r` (in the output or in scratch) into outputs: epilogue, conversion, any strides.
  void finish(const LaunchDesc& desc, const ConvOutBox& box, const ConvResult& r, char* scratch) const;
  // Is there something to do after the sums were written to the output itself?
  bool must_finish() const { return !epilogue_.empty() && !fused_; }
  // If fused() (always without an epilogue), whoever computes the sums stores alpha * sum + bias_value [clamped] [+ residual] [clamped]
  // as linear() says, and finish() only moves what was computed in scratch. With an activation linear() ends at the bias; the rest is done
  // by activate(), soon after a few values were stored: they should still be in L1.
  const LinearEpilogue& linear() const { return activates() ? before_activation_ : linear_; }
  bool fused() const { return fused_; }
  bool activates() const { return linear_.activation != Activation::none || linear_.post(); }
  std::string activation_name() const { return quant_.ok ? quant_epilogue_name(quant_) : PTRT_LEVEL::activation_name(linear_); }
  // `rows` pixels of `n` channels from m on, from memory to memory or in place; residual as residual_of_activation() gives it for the same
  // place.
  void activate(const LaunchDesc& desc, int64_t m, const float* from, int64_t from_pixel, float* to, int64_t pixel, int64_t rows, int64_t n,
                const float* residual, int64_t residual_pixel) const {
    const auto post = [&](int k) { return k >= 0 ? desc.epi_ins[static_cast<size_t>(k)].as<const float>() + m : nullptr; };
    apply_activation(linear_, from, from_pixel, to, pixel, rows, n, residual, residual_pixel, post(linear_.post_scale),
                     post(linear_.post_shift));
  }
  // int32 sums with an epilogue that requantise() knows. at() and residual() are then counted in elements of the output and of the
  // residual.
  bool requantises() const { return quant_.ok; }
  const QuantEpilogue& quant() const { return quant_; }
  size_t quant_bytes() const { return quant_.ok ? quant_columns_bytes(g_.M) : 0; }
  QuantColumns quant_columns(const LaunchDesc& desc, void* memory) const { return gather_quant_columns(quant_, desc, 1, g_.M, memory); }
  bool requantises_floats(const LaunchDesc& desc) const { return quant_.ok && quant_takes_floats(quant_, desc); }
  // `rows` pixels of `n` channels from m on: sums (int32 or float) to outputs at element `at` of r, with the residual at element
  // `residual_at` of res.
  template <class T>
  void requantise(const LaunchDesc& desc, const QuantColumns& c, int64_t m, const T* from, int64_t from_pixel, const ConvResult& r,
                  int64_t at, int64_t rows, int64_t n, const ConvResult& res, int64_t residual_at) const {
    requantise(desc, c, m, from, T(0.5f) > T(0), from_pixel, r, at, rows, n, res, residual_at);
  }
  double bias_value(const LaunchDesc& desc, const Operand& b, int64_t m) const;  // b: the kernel's own bias or absent
  // bias_value() of every output channel, then zeros up to `padded`.
  void fill_bias(const LaunchDesc& desc, int64_t padded, float* bias) const;
  // What linear() adds, and what activate() adds; data is null if there is none.
  ConvResult residual(const LaunchDesc& desc, const ConvOutBox& box) const;
  ConvResult residual_of_activation(const LaunchDesc& desc, const ConvOutBox& box) const;

 private:
  void store(const LaunchDesc& desc, const ConvOutBox& box, const ConvResult& r) const;
  ConvResult residual_at(const LaunchDesc& desc, const ConvOutBox& box) const;
  void requantise(const LaunchDesc& desc, const QuantColumns& c, int64_t m, const void* from, bool floats, int64_t from_pixel,
                  const ConvResult& r, int64_t at, int64_t rows, int64_t n, const ConvResult& res, int64_t residual_at) const;
  Epilogue epilogue_;
  LinearEpilogue linear_, before_activation_;
  QuantEpilogue quant_;
  ConvStrides rs_;  // of the residual
  ConvGeometry g_;
  ConvMath math_;
  ConvStrides ys_;
  size_t acc_size_, out_size_;  // bytes of a sum, and of what at() points to
  bool channels_last_, same_type_, fused_;
};

// Of the input block that a task of a direct convolution stages: it stays in L2 while all weight panels pass over it.
constexpr int64_t kConvStageBytes = 320 << 10;
constexpr int64_t kConvStageCols = 32;  // of results, at least

// The output box of block number `block`: blocks of rows x cols outputs, columns innermost, then rows, depth and batch entries. m and chans
// are left to the caller.
ConvOutBox conv_block(const ConvGeometry& g, int64_t block, int64_t rows, int64_t cols);

// Each takes a validated launch.
std::unique_ptr<Kernel> make_direct_conv(LaunchDesc desc, BindContext& bind, const ConvGeometry& g);
std::unique_ptr<Kernel> make_depthwise_conv(LaunchDesc desc, BindContext& bind, const ConvGeometry& g);
// Null, and `desc` untouched, if it does not apply.
std::unique_ptr<Kernel> make_byte_depthwise_conv(LaunchDesc& desc, BindContext& bind, const ConvGeometry& g);
std::unique_ptr<Kernel> make_tap_conv(LaunchDesc desc, BindContext& bind, const ConvGeometry& g);
std::unique_ptr<Kernel> make_winograd_conv(LaunchDesc desc, BindContext& bind, const ConvGeometry& g);
std::unique_ptr<Kernel> make_row_winograd_conv(LaunchDesc desc, BindContext& bind, const ConvGeometry& g);
std::unique_ptr<Kernel> make_plane_conv(LaunchDesc desc, BindContext& bind, const ConvGeometry& g);
bool winograd_enabled();  // PTRT_WINOGRAD=0 turns the transforms off
bool winograd_applies(const LaunchDesc& desc, const ConvGeometry& g);
bool row_winograd_applies(const LaunchDesc& desc, const ConvGeometry& g);
double row_winograd_gain(const ConvGeometry& g);  // how many times fewer multiplications than the direct form's
bool depthwise_applies(const LaunchDesc& desc, const ConvGeometry& g);
bool tap_conv_skips_padding(const LaunchDesc& desc, const ConvGeometry& g);
bool tap_conv_skips_staging(const LaunchDesc& desc, const ConvGeometry& g);
bool plane_conv_applies(const LaunchDesc& desc, const ConvGeometry& g);

// Packs `rows` output channels from m0 on as [tap][input channel of the group][nr], nr >= rows.
void conv_pack_panel(const Operand& w, const ConvGeometry& g, int64_t m0, int64_t rows, int64_t nr, float* to);

// Names a constant's layout for PackCache: what every packing depends on, whatever it packs.
std::string conv_pack_key(const char* kind, const Operand& w, const ConvGeometry& g);

}  // namespace ptrt::PTRT_LEVEL
