// The `conv` kernel: validation and choice of the path.
#include "cpu/conv.h"

#include "cpu/kernels.h"

namespace ptrt::PTRT_LEVEL {

namespace {

// A batch of images of one pixel is one image of as many pixels: then weights are read once for all of them, not once for each.
void batch_as_pixels(LaunchDesc& desc) {
  std::vector<Operand*> images{&desc.ins[0], &desc.outs[0]};
  for (Operand& o : desc.epi_ins) images.push_back(&o);
  const Operand& w = desc.ins[1];
  for (const Operand* o : images) {
    if (o->ndim < 3 || o->shape[0] < 2) return;
    for (int k = 2; k < o->ndim; k++)
      if (o->shape[k] != 1 || w.ndim != o->ndim || w.shape[k] != 1) return;
  }
  for (const int64_t stride : desc.params().ints())
    if (stride != 1) return;
  for (const Instr& i : desc.epilogue)
    if (static_cast<Op>(i.op) == Op::iota_) return;
  for (Operand* o : images) {
    std::swap(o->shape[0], o->shape[o->ndim - 1]);
    std::swap(o->strides[0], o->strides[o->ndim - 1]);
  }
}

}  // namespace

std::unique_ptr<Kernel> make_conv(LaunchDesc desc, BindContext& bind) {
  batch_as_pixels(desc);
  const ConvGeometry g = conv_geometry(desc, false);
  const Operand &x = desc.ins[0], &w = desc.ins[1];
  const ConvMath math = conv_math(x.dtype);
  if (math == ConvMath::i8 ? conv_math(w.dtype) != ConvMath::i8 : w.dtype != x.dtype)
    throw KernelError("conv: weight dtype does not match");
  const auto operand = [&](size_t k) { return k < desc.ins.size() && desc.ins[k].present() ? &desc.ins[k] : nullptr; };
  if (const Operand* b = operand(2)) {
    if (b->ndim != 1 || b->shape[0] != g.M || b->dtype != (math == ConvMath::i8 ? DType::i32 : x.dtype))
      throw KernelError("conv: bad bias");
  }
  if (const Operand* z = operand(3)) {
    if (math != ConvMath::i8 || z->ndim != 0 || z->dtype != x.dtype) throw KernelError("conv: bad x_zero");
  }
  if (const Operand* z = operand(4)) {
    if (math != ConvMath::i8 || z->ndim > 1 || (z->ndim == 1 && z->shape[0] != g.M) || z->dtype != w.dtype)
      throw KernelError("conv: bad w_zero");
  }
  if (plane_conv_applies(desc, g)) return make_plane_conv(std::move(desc), bind, g);
  if (depthwise_applies(desc, g)) return make_depthwise_conv(std::move(desc), bind, g);
  if (tap_conv_skips_padding(desc, g)) return make_tap_conv(std::move(desc), bind, g);
  if (winograd_applies(desc, g)) return make_winograd_conv(std::move(desc), bind, g);
  if (row_winograd_applies(desc, g)) return make_row_winograd_conv(std::move(desc), bind, g);
  if (tap_conv_skips_staging(desc, g)) return make_tap_conv(std::move(desc), bind, g);
  return make_direct_conv(std::move(desc), bind, g);
}

}  // namespace ptrt::PTRT_LEVEL
