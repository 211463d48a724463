// Geometry and output handling shared by the convolution kernels.

#include "cpu/conv.h"
#include "cpu/half.h"
#include "cpu/move.h"
#include "cpu/transpose.h"

namespace ptrt::PTRT_LEVEL {

namespace {

[[noreturn]] void bad(const char* what) { throw KernelError(std::string("conv: ") + what); }

}  // namespace

ConvMath conv_math(DType x) {
  switch (x) {
    case DType::f32:
    case DType::f16:
    case DType::bf16: return ConvMath::f32;
    case DType::f64: return ConvMath::f64;
    case DType::u8:
    case DType::i8: return ConvMath::i8;
    default: bad("unsupported dtype");
  }
}

ConvStrides conv_strides(const Operand& o) {
  ConvStrides s;
  s.n = o.strides[0];
  s.c = o.strides[1];
  for (int k = 0; k < o.ndim - 2; k++) s.s[3 - (o.ndim - 2) + k] = o.strides[2 + k];
  return s;
}

ConvGeometry conv_geometry(const LaunchDesc& desc, bool transpose) {
  const Operand &x = desc.ins.at(0), &w = desc.ins.at(1), &y = desc.outs.at(0);
  ConvGeometry g;
  g.spatial = x.ndim - 2;
  if (g.spatial < 1 || g.spatial > 3 || w.ndim != x.ndim || y.ndim != x.ndim) bad("expected 1 to 3 spatial axes");
  Params p = desc.params();
  const auto strides = p.ints(), dilations = p.ints(), pads = p.ints();
  g.G = p.i();
  const auto n = static_cast<size_t>(g.spatial);
  if (strides.size() != n || dilations.size() != n || pads.size() != 2 * n) bad("strides, dilations and pads must match the spatial axes");
  g.N = x.shape[0];
  g.C = x.shape[1];
  g.M = y.shape[1];
  if (y.shape[0] != g.N || g.G < 1 || g.C % g.G || g.M % g.G) bad("batch or groups do not match");
  if (y.size() == 0) bad("the output is empty");
  g.Cg = g.C / g.G;
  g.Mg = g.M / g.G;
  if (transpose ? (w.shape[0] != g.C || w.shape[1] != g.Mg) : (w.shape[0] != g.M || w.shape[1] != g.Cg)) bad("weight shape does not match");
  const int first = 3 - g.spatial;
  constexpr int64_t kMax = int64_t{1} << 31;
  for (int k = 0; k < g.spatial; k++) {
    const auto u = static_cast<size_t>(k);
    g.in[first + k] = x.shape[2 + k];
    g.kernel[first + k] = w.shape[2 + k];
    g.out[first + k] = y.shape[2 + k];
    g.stride[first + k] = strides[u];
    g.dilation[first + k] = dilations[u];
    g.pad[first + k] = pads[u];
    if (strides[u] < 1 || dilations[u] < 1 || strides[u] >= kMax || dilations[u] >= kMax || pads[u] <= -kMax || pads[u] >= kMax ||
        w.shape[2 + k] >= kMax || x.shape[2 + k] >= kMax || y.shape[2 + k] >= kMax)
      bad("stride, dilation or pad out of range");
    if ((w.shape[2 + k] - 1) * dilations[u] >= kMax || ((transpose ? x : y).shape[2 + k] - 1) * strides[u] >= 4 * kMax)
      bad("the window spans too much of the input");
  }
  return g;
}

ConvOutBox conv_block(const ConvGeometry& g, int64_t block, int64_t rows, int64_t cols) {
  const int64_t row_blocks = ceil_div(g.out[1], rows), col_blocks = ceil_div(g.out[2], cols);
  ConvOutBox box{};
  box.ow = block % col_blocks * cols;
  block /= col_blocks;
  box.oh = block % row_blocks * rows;
  block /= row_blocks;
  box.od = block % g.out[0];
  box.n = block / g.out[0];
  box.rows = least(rows, g.out[1] - box.oh);
  box.cols = least(cols, g.out[2] - box.ow);
  return box;
}

void conv_pack_panel(const Operand& w, const ConvGeometry& g, int64_t m0, int64_t rows, int64_t nr, float* to) {
  const ConvStrides ws = conv_strides(w);
  const int64_t taps = g.taps(), C = g.Cg;
  if (rows < nr) std::memset(to, 0, static_cast<size_t>(taps * C * nr) * 4);
  const bool dense = (g.kernel[2] == 1 || ws.s[2] == 1) && (g.kernel[1] == 1 || ws.s[1] == g.kernel[2]) &&
                     (g.kernel[0] == 1 || ws.s[0] == g.kernel[1] * g.kernel[2]) && (C == 1 || ws.c == taps);
  if (w.dtype != DType::f32 || !dense) {
    for (int64_t kd = 0, tap = 0; kd < g.kernel[0]; kd++)
      for (int64_t kh = 0; kh < g.kernel[1]; kh++)
        for (int64_t kw = 0; kw < g.kernel[2]; kw++, tap++)
          for (int64_t c = 0; c < C; c++)
            for (int64_t j = 0; j < rows; j++)
              to[(tap * C + c) * nr + j] = conv_load_f32(w, (m0 + j) * ws.n + c * ws.c + kd * ws.s[0] + kh * ws.s[1] + kw * ws.s[2]);
    return;
  }
  const float* from = w.as<float>() + m0 * ws.n;  // [row][channel][tap]
  if (taps == 1) return transpose(from, ws.n, rows, C, to, nr);
  constexpr int64_t kLines = 64;
  alignas(64) float lines[kLines * 4 * W];  // panels are up to 4 vectors wide
  for (int64_t at = 0; at < C * taps; at += kLines) {
    const int64_t n = least(kLines, C * taps - at);
    transpose(from + at, ws.n, rows, n, lines, nr);
    for (int64_t i = 0; i < n; i++)
      std::memcpy(to + ((at + i) % taps * C + (at + i) / taps) * nr, lines + i * nr, static_cast<size_t>(rows) * 4);
  }
}

std::string conv_pack_key(const char* kind, const Operand& w, const ConvGeometry& g) {
  std::string key = std::string(kind) + ":" + std::to_string(static_cast<int>(w.dtype)) + ":G" + std::to_string(g.G);
  for (int k = 0; k < w.ndim; k++) key += ":" + std::to_string(w.shape[k]) + "/" + std::to_string(w.strides[k]);
  return key;
}

float conv_load_f32(const Operand& o, int64_t offset) {
  switch (o.dtype) {
    case DType::f16: return f16_to_f32(o.as<uint16_t>()[offset]);
    case DType::bf16: return bf16_to_f32(o.as<uint16_t>()[offset]);
    default: return o.as<float>()[offset];
  }
}
double conv_load_f64(const Operand& o, int64_t offset) { return o.dtype == DType::f64 ? o.as<double>()[offset] : conv_load_f32(o, offset); }
int32_t conv_load_i32(const Operand& o, int64_t offset) {
  switch (o.dtype) {
    case DType::u8: return o.as<uint8_t>()[offset];
    case DType::i8: return o.as<int8_t>()[offset];
    default: return o.as<int32_t>()[offset];
  }
}

bool conv_symmetric_weights(const LaunchDesc& desc) {
  const int32_t wanted = desc.ins[1].dtype == DType::u8 ? 128 : 0;
  if (desc.ins.size() < 5 || !desc.ins[4].present()) return wanted == 0;
  const Operand& z = desc.ins[4];
  if (!z.is_const()) return false;
  for (int64_t m = 0; m < z.size(); m++)
    if (conv_load_i32(z, z.ndim ? m * z.strides[0] : 0) != wanted) return false;
  return true;
}

ConvOutput::ConvOutput(const LaunchDesc& desc, const ConvGeometry& g, ConvMath math, bool activations)
    : epilogue_(desc), g_(g), math_(math) {
  const Operand& y = desc.outs[0];
  ys_ = conv_strides(y);
  acc_size_ = math == ConvMath::f64 ? 8 : 4;
  channels_last_ = y.shape[1] == 1 || y.strides[1] == 1;
  const DType own = math == ConvMath::f64 ? DType::f64 : math == ConvMath::i8 ? DType::i32 : DType::f32;
  const bool narrow = math == ConvMath::f32 && (desc.acc_dtype == DType::f16 || desc.acc_dtype == DType::bf16);
  if (desc.acc_dtype != own && !narrow) bad("unsupported result dtype");
  if (epilogue_.empty() && y.dtype != desc.acc_dtype) bad("output dtype does not match");
  same_type_ = desc.acc_dtype == own && y.dtype == own;
  fused_ = desc.epilogue.empty();
  if (!fused_ && same_type_ && math != ConvMath::i8) {
    linear_ = linear_epilogue(desc, 1, activations, activations);
    fused_ = linear_.ok;
    if (fused_ && linear_.residual >= 0) {
      rs_ = conv_strides(desc.epi_ins[static_cast<size_t>(linear_.residual)]);
      fused_ = g.M == 1 || rs_.c == 1;
    }
  }
  if (!fused_ && narrow) {
    linear_ = clamping_epilogue(desc);
    fused_ = linear_.ok;
  }
  if (!fused_ && math == ConvMath::i8 && activations) {
    quant_ = quant_epilogue(desc, 1);
    if (quant_.residual >= 0) rs_ = conv_strides(desc.epi_ins[static_cast<size_t>(quant_.residual)]);
    quant_.ok = quant_.ok && (quant_.residual < 0 || g.M == 1 || rs_.c == 1);
    fused_ = quant_.ok;
  }
  out_size_ = quant_.ok ? itemsize(y.dtype) : acc_size_;
  if (!fused_) linear_ = LinearEpilogue();
  before_activation_.ok = true;
  before_activation_.alpha = linear_.alpha;
  before_activation_.bias = linear_.bias;
  if (linear_.clamp_before) {  // before a scale
    before_activation_.clamp_before = true;
    before_activation_.lo = linear_.lo;
    before_activation_.hi = linear_.hi;
  }
}

double ConvOutput::bias_value(const LaunchDesc& desc, const Operand& b, int64_t m) const {
  double v = b.present() ? linear_.alpha * conv_load_f64(b, m * b.strides[0]) : 0.0;
  if (linear_.bias >= 0) {
    const Operand& e = desc.epi_ins[static_cast<size_t>(linear_.bias)];
    v += conv_load_f64(e, m * e.strides[1]);
  }
  return v;
}

void ConvOutput::fill_bias(const LaunchDesc& desc, int64_t padded, float* bias) const {
  static const Operand absent;
  const Operand& b = desc.ins.size() > 2 ? desc.ins[2] : absent;
  for (int64_t m = 0; m < padded; m++) bias[m] = m < g_.M ? static_cast<float>(bias_value(desc, b, m)) : 0.0f;
}

ConvResult ConvOutput::residual(const LaunchDesc& desc, const ConvOutBox& b) const {
  return activates() ? ConvResult{nullptr, 0, 0} : residual_at(desc, b);
}
ConvResult ConvOutput::residual_of_activation(const LaunchDesc& desc, const ConvOutBox& b) const {
  return activates() ? residual_at(desc, b) : ConvResult{nullptr, 0, 0};
}
ConvResult ConvOutput::residual_at(const LaunchDesc& desc, const ConvOutBox& b) const {
  const int k = quant_.ok ? quant_.residual : linear_.residual;
  if (k < 0) return {nullptr, 0, 0};
  const Operand& from = desc.epi_ins[static_cast<size_t>(k)];
  const int64_t o = b.n * rs_.n + b.m * rs_.c + b.od * rs_.s[0] + b.oh * rs_.s[1] + b.ow * rs_.s[2];
  return {from.as<char>() + o * static_cast<int64_t>(itemsize(from.dtype)), rs_.s[1], rs_.s[2]};
}

void ConvOutput::requantise(const LaunchDesc& desc, const QuantColumns& c, int64_t m, const void* from, bool floats, int64_t from_pixel,
                            const ConvResult& r, int64_t at, int64_t rows, int64_t n, const ConvResult& res, int64_t residual_at) const {
  const DType type = quant_.residual >= 0 ? desc.epi_ins[static_cast<size_t>(quant_.residual)].dtype : DType::none;
  const void* residual = res.data ? res.data + residual_at * static_cast<int64_t>(itemsize(type)) : nullptr;
  apply_quant(quant_, QuantColumns{c.scale + m, c.shift + m, c.bias + m}, from, floats, from_pixel,
              r.data + at * static_cast<int64_t>(out_size_), r.pixel, rows, n, residual, type, res.pixel);
}

bool ConvOutput::direct(const LaunchDesc& desc) const {
  // (What activate() reads beside its own values must not have been overwritten by them.)
  if (quant_.ok) return channels_last_;
  return channels_last_ && same_type_ && ((fused_ && !activates()) || !Epilogue::in_place(desc));
}

ConvResult ConvOutput::at(const LaunchDesc& desc, const ConvOutBox& b) const {
  const int64_t o = b.n * ys_.n + b.m * ys_.c + b.od * ys_.s[0] + b.oh * ys_.s[1] + b.ow * ys_.s[2];
  return {desc.outs[0].as<char>() + o * static_cast<int64_t>(out_size_), ys_.s[1], ys_.s[2]};
}

size_t ConvOutput::scratch_bytes() const { return fused_ ? 0 : epilogue_.scratch_bytes() + 64; }

namespace {
// A row of a box in f16 or bf16; `to` may be the memory of `from` if its pixels are no further apart.
void round_pixels(DType type, const ConvOutBox& b, const float* from, int64_t from_pixel, uint16_t* to, int64_t to_pixel) {
  if (from_pixel == b.chans && to_pixel == b.chans) return floats_to_halves(type, to, from, b.cols * b.chans);
  for (int64_t w = 0; w < b.cols; w++) floats_to_halves(type, to + w * to_pixel, from + w * from_pixel, b.chans);
}

template <class T, class F>
void store_box(const ConvOutBox& b, const ConvResult& r, const ConvStrides& ys, char* y, F&& convert) {
  typedef decltype(convert(T())) To;
  constexpr int64_t kChunk = 16;
  for (int64_t h = 0; h < b.rows; h++) {
    const T* row = reinterpret_cast<const T*>(r.data) + h * r.row;
    To* out = reinterpret_cast<To*>(y) + h * ys.s[1];
    if (ys.c == 1 || b.chans == 1) {
      for (int64_t w = 0; w < b.cols; w++)
        for (int64_t m = 0; m < b.chans; m++) out[w * ys.s[2] + m] = convert(row[w * r.pixel + m]);
      continue;
    }
    for (int64_t w0 = 0; w0 < b.cols; w0 += kChunk) {
      const int64_t w1 = w0 + kChunk < b.cols ? w0 + kChunk : b.cols;
      for (int64_t m = 0; m < b.chans; m++)
        for (int64_t w = w0; w < w1; w++) out[w * ys.s[2] + m * ys.c] = convert(row[w * r.pixel + m]);
    }
  }
}
}  // namespace

void ConvOutput::store(const LaunchDesc& desc, const ConvOutBox& b, const ConvResult& r) const {
  const Operand& y = desc.outs[0];
  const int64_t o = b.n * ys_.n + b.m * ys_.c + b.od * ys_.s[0] + b.oh * ys_.s[1] + b.ow * ys_.s[2];
  const auto item = static_cast<int64_t>(itemsize(y.dtype));
  char* to = y.as<char>() + o * item;
  if (quant_.ok) {
    const bool whole = r.row == b.cols * r.pixel && ys_.s[1] == b.cols * ys_.s[2];
    for (int64_t h = 0; h < (whole ? 1 : b.rows); h++)
      PTRT_PLAIN::move2d(static_cast<int>(item), whole ? b.rows * b.cols : b.cols, b.chans, r.data + h * r.row * item, r.pixel * item, item,
                         to + h * ys_.s[1] * item, ys_.s[2] * item, ys_.c * item);
  } else if (math_ == ConvMath::f64) store_box<double>(b, r, ys_, to, [](double v) { return v; });
  else if (math_ == ConvMath::i8) store_box<int32_t>(b, r, ys_, to, [](int32_t v) { return v; });
  else if ((y.dtype == DType::f16 || y.dtype == DType::bf16) && ys_.c == 1)
    for (int64_t h = 0; h < b.rows; h++)
      round_pixels(y.dtype, b, reinterpret_cast<const float*>(r.data) + h * r.row, r.pixel, reinterpret_cast<uint16_t*>(to) + h * ys_.s[1],
                   ys_.s[2]);
  else if (y.dtype == DType::f16) store_box<float>(b, r, ys_, to, [](float v) { return f32_to_f16(v); });
  else if (y.dtype == DType::bf16) store_box<float>(b, r, ys_, to, [](float v) { return f32_to_bf16(v); });
  else if (ys_.s[2] == 1 && ys_.c != 1)
    for (int64_t h = 0; h < b.rows; h++)
      transpose(reinterpret_cast<const float*>(r.data) + h * r.row, r.pixel, b.cols, b.chans, reinterpret_cast<float*>(to) + h * ys_.s[1],
                ys_.c);
  else store_box<float>(b, r, ys_, to, [](float v) { return v; });
}

void ConvOutput::finish(const LaunchDesc& desc, const ConvOutBox& b, const ConvResult& r, char* scratch) const {
  if (fused_) {
    store(desc, b, r);
    return;
  }
  const bool narrow = desc.acc_dtype == DType::f16 || desc.acc_dtype == DType::bf16;
  const int axis_w = g_.spatial + 1;
  int64_t index[5] = {b.n, b.m, 0, 0, 0};
  const int64_t at[3] = {b.od, b.oh, b.ow};
  for (int k = 0; k < g_.spatial; k++) index[2 + k] = at[3 - g_.spatial + k];
  for (int64_t h = 0; h < b.rows; h++) {
    char* row = r.data + h * r.row * static_cast<int64_t>(acc_size_);
    Block acc{row, r.pixel, 1};
    if (narrow) {  // f16 and bf16 results are rounded before the epilogue sees them; in place, front to back
      round_pixels(desc.acc_dtype, b, reinterpret_cast<const float*>(row), r.pixel, reinterpret_cast<uint16_t*>(row), b.chans);
      acc.row_stride = b.chans;
    }
    if (b.chans == 1) epilogue_.apply(desc, index, -1, 1, axis_w, b.cols, Block{row, 0, acc.row_stride}, scratch);
    else epilogue_.apply(desc, index, axis_w, b.cols, 1, b.chans, acc, scratch);
    if (g_.spatial >= 2) index[g_.spatial]++;
  }
}

}  // namespace ptrt::PTRT_LEVEL
