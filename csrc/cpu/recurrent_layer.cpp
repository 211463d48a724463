#include "cpu/recurrent_layer.h"

#include <initializer_list>

namespace ptrt::PTRT_LEVEL {
namespace {

void require(bool ok, const char* what) {
  if (!ok) throw KernelError(std::string("recurrent: ") + what);
}

void shaped(const Operand& o, std::initializer_list<int64_t> shape, const char* what) {
  bool ok = o.ndim == static_cast<int>(shape.size());
  for (int i = 0; ok && i < o.ndim; i++) ok = o.shape[i] == shape.begin()[i];
  require(ok, what);
}

int32_t byte_at(const Operand& o, int64_t offset) { return o.dtype == DType::i8 ? o.as<int8_t>()[offset] : o.as<uint8_t>()[offset]; }
int64_t channel(const Operand& o, int64_t d, int64_t gate) { return d * o.strides[0] + (o.ndim == 2 ? gate * o.strides[1] : 0); }

struct Decoded {
  int64_t cell, direction;
  std::vector<int64_t> activations;
  std::vector<double> alphas, betas;
  double clip;
  bool linear_before_reset, input_forget;
  explicit Decoded(const LaunchDesc& desc) {
    Params p = desc.params();
    cell = p.i();
    direction = p.i();
    activations = p.ints();
    alphas = p.floats();
    betas = p.floats();
    clip = p.f();
    linear_before_reset = p.i() != 0;
    input_forget = p.i() != 0;
  }
};

}  // namespace

void RecurrentLayer::parse(const LaunchDesc& desc, int lane_count) {
  require(desc.ins.size() <= kNumIns && desc.outs.size() <= kNumOuts, "too many operands");
  const Decoded p(desc);
  require(p.cell >= kLstm && p.cell <= kRnn && p.direction >= 0 && p.direction <= 2, "bad parameters");
  cell = static_cast<int>(p.cell);
  dirs = p.direction == 2 ? 2 : 1;
  reverse[0] = p.direction == 1;
  linear_before_reset = p.linear_before_reset;
  gates = cell == kLstm ? 4 : cell == kGru ? 3 : 1;
  const size_t functions = cell == kLstm ? 3 : cell == kGru ? 2 : 1;
  require(p.activations.size() == functions * static_cast<size_t>(dirs) && p.alphas.size() == p.activations.size() &&
              p.betas.size() == p.activations.size(),
          "one activation, alpha and beta per gate function and direction expected");
  for (const int64_t a : p.activations) require(a >= 0 && a <= static_cast<int64_t>(Activation::softplus_), "bad activation");

  const Operand &x = in(desc, kX), &w = in(desc, kW), &r = in(desc, kR);
  quant = in(desc, kWScale).present();
  require(x.ndim == 3 && w.ndim == 3 && r.ndim == 3, "x, w and r must have rank 3");
  T = x.shape[0], N = x.shape[1], I = x.shape[2], H = quant ? r.shape[1] : r.shape[2];
  require(T < INT32_MAX, "too many time steps");
  const int64_t gh = checked_mul(gates, H);
  require(is_float_type(x.dtype), "x must be floating point");
  if (quant) {
    require(cell == kLstm && x.dtype == DType::f32, "only a float32 LSTM can be quantised");
    shaped(w, {dirs, I, gh}, "w must be [dirs, I, G*H]");
    shaped(r, {dirs, H, gh}, "r must be [dirs, H, G*H]");
    for (const int k : {kW, kR, kWZero, kRZero})
      require(in(desc, k).dtype == DType::i8 || in(desc, k).dtype == DType::u8, "weights and zero points must be 8-bit");
    for (const int k : {kWScale, kRScale, kWZero, kRZero}) {
      const Operand& o = in(desc, k);
      require(o.ndim >= 1 && o.ndim <= 2 && o.shape[0] == dirs && (o.ndim == 1 || o.shape[1] == gh), "bad scale or zero point shape");
    }
    require(in(desc, kWScale).dtype == DType::f32 && in(desc, kRScale).dtype == DType::f32, "scales must be float32");
    require(I <= 1 << 14 && H <= 1 << 14, "a quantised layer's depth may overflow 32-bit sums");
  } else {
    require(w.dtype == x.dtype && r.dtype == x.dtype, "all floating operands must have one dtype");
    shaped(w, {dirs, gh, I}, "w must be [dirs, G*H, I]");
    shaped(r, {dirs, gh, H}, "r must be [dirs, G*H, H]");
  }
  for (const int k : {kB, kH0, kC0, kP})
    if (in(desc, k).present()) require(in(desc, k).dtype == x.dtype, "all floating operands must have one dtype");
  for (const Operand& o : desc.outs)
    if (o.present()) require(o.dtype == x.dtype, "outputs must have x's dtype");
  if (in(desc, kB).present()) shaped(in(desc, kB), {dirs, 2 * gh}, "b must be [dirs, 2*G*H]");
  if (in(desc, kP).present()) shaped(in(desc, kP), {dirs, 3 * H}, "p must be [dirs, 3*H]");
  for (const int k : {kH0, kC0})
    if (in(desc, k).present()) shaped(in(desc, k), {dirs, N, H}, "initial states must be [dirs, N, H]");
  for (const int k : {kYh, kYc})
    if (out(desc, k).present()) shaped(out(desc, k), {dirs, N, H}, "final states must be [dirs, N, H]");
  if (out(desc, kY).present()) shaped(out(desc, kY), {T, dirs, N, H}, "y must be [T, dirs, N, H]");
  if (in(desc, kLengths).present()) {
    shaped(in(desc, kLengths), {N}, "lengths must be [N]");
    require(in(desc, kLengths).dtype == DType::i32, "lengths must be int32");
  }

  lanes = lane_count;
  blocks = (H + lanes - 1) / lanes;
  padded = blocks * lanes;
  cols = checked_mul(gates, padded);
  n_groups = cell == kGru ? 2 : 1;
  const int together = cell == kGru ? 2 : gates;
  groups[0] = {together, 0, blocks * together, 0};
  if (cell == kGru) groups[1] = {1, 2, blocks, 2 * padded};
  w_depth = quant ? quant_words(I) : I;
  r_depth = quant ? quant_words(H) : H;
}

template <class S>
CellConfig<S> RecurrentLayer::config(const LaunchDesc& desc, int64_t dir) const {
  const Decoded p(desc);
  CellConfig<S> c;
  GateActivation<S>* slots[3] = {&c.f, &c.g, &c.h};
  const size_t functions = cell == kLstm ? 3 : cell == kGru ? 2 : 1;
  c.plain = !(p.clip > 0) && !p.input_forget && !in(desc, kP).present();
  for (size_t k = 0; k < functions; k++) {
    const size_t at = static_cast<size_t>(dir) * functions + k;
    *slots[k] = {static_cast<Activation>(p.activations[at]), static_cast<S>(p.alphas[at]), static_cast<S>(p.betas[at])};
    const Activation usual = cell == kRnn || k > 0 ? Activation::tanh_ : Activation::sigmoid_;
    c.plain = c.plain && slots[k]->kind == usual;
  }
  c.clip = static_cast<S>(p.clip > 0 ? p.clip : 0);
  c.input_forget = p.input_forget;
  return c;
}

std::string RecurrentLayer::pack_key(const LaunchDesc& desc, int which) const {
  std::string key = "recurrent:" + std::to_string(static_cast<int>(in(desc, which).dtype)) + ":L" + std::to_string(lanes) + ":g" +
                    std::to_string(gates) + ":" + std::to_string(which);
  auto add = [&](const Operand& o) {
    for (int i = 0; i < o.ndim; i++) key += "," + std::to_string(o.shape[i]) + "/" + std::to_string(o.strides[i]);
  };
  add(in(desc, which));
  if (quant) {
    const Operand& z = in(desc, which == kW ? kWZero : kRZero);
    key += ":z" + std::to_string(reinterpret_cast<uintptr_t>(z.data)) + "/" + std::to_string(static_cast<int>(z.dtype));
    add(z);
  }
  return key;
}

template <class F>
void RecurrentLayer::each_column(F f) const {
  for (int g = 0; g < n_groups; g++)
    for (int64_t v = 0; v < groups[g].vecs; v++)
      for (int j = 0; j < lanes; j++) {
        const int64_t hidden = v / groups[g].gates * lanes + j, gate = groups[g].first + v % groups[g].gates;
        if (hidden < H) f(g, v * lanes + j, gate * H + hidden, hidden);
      }
}

template <class S>
void RecurrentLayer::pack(const LaunchDesc& desc, int which, S* to) const {
  const Operand& o = in(desc, which);
  const int64_t k_size = which == kW ? I : H, depth = which == kW ? w_depth : r_depth;
  if (padded != H) std::memset(to, 0, static_cast<size_t>(weight_elements(which)) * sizeof(S));
  for (int64_t d = 0; d < dirs; d++)
    each_column([&](int g, int64_t at, int64_t gate, int64_t) {
      const int64_t panel = at / (2 * lanes) * 2, wide = panel + 1 < groups[g].vecs ? 2 * lanes : lanes;
      S* column = to + (d * cols + groups[g].col + panel * lanes) * depth + (at - panel * lanes);
      if constexpr (sizeof(S) == 4 && S(0.5f) == 0) {  // int32_t: units of recurrent_quant.h
        const Operand& z = in(desc, which == kW ? kWZero : kRZero);
        const int32_t zero = byte_at(z, channel(z, d, gate)), shift = quant_shift(o.dtype == DType::u8, zero);
        const int64_t base = d * o.strides[0] + gate * o.strides[2];
        int32_t sum = 0;
        for (int64_t k = 0; k < k_size; k += kUnit) {
          StoreB unit[kUnit] = {};
          for (int64_t u = 0; u < kUnit && k + u < k_size; u++) {
            const int32_t value = byte_at(o, base + (k + u) * o.strides[1]);
            unit[u] = static_cast<StoreB>(value - shift);
            sum += value - zero;
          }
          std::memcpy(column + k / kUnit * wide, unit, 4);
        }
        int32_t* sums = to + dirs * cols * depth + d * cols + at;
        sums[0] = sum;
        sums[dirs * cols] = zero - shift;
      } else {
        for (int64_t k0 = 0; k0 < k_size; k0 += 64) {
          S part[64];
          const int64_t n = k_size - k0 < 64 ? k_size - k0 : 64;
          load_row(part, o.dtype, o.data, d * o.strides[0] + gate * o.strides[1] + k0 * o.strides[2], o.strides[2], n);
          for (int64_t k = 0; k < n; k++) column[(k0 + k) * wide] = part[k];
        }
      }
    });
}

template <class S>
void RecurrentLayer::pack_small(const LaunchDesc& desc, S* to) const {
  const Operand &b = in(desc, kB), &p = in(desc, kP);
  auto value = [](const Operand& o, int64_t offset) {
    S v;
    load_row(&v, o.dtype, o.data, offset, 1, 1);
    return v;
  };
  for (int64_t d = 0; d < dirs; d++) {
    S *bias = to + d * small_stride(), *late = bias + cols, *peepholes = late + padded, *w_scales = peepholes + 3 * padded;
    std::memset(bias, 0, static_cast<size_t>(small_stride()) * sizeof(S));
    if (b.present() || quant)
      each_column([&](int g, int64_t at, int64_t gate, int64_t hidden) {
        at += groups[g].col;
        if (b.present()) {
          const S wb = value(b, d * b.strides[0] + gate * b.strides[1]),
                  rb = value(b, d * b.strides[0] + (gates * H + gate) * b.strides[1]);
          const bool apart = g == 1 && linear_before_reset;
          bias[at] = apart ? wb : wb + rb;
          if (apart) late[hidden] = rb;
        }
        if (quant) {
          w_scales[at] = static_cast<S>(in(desc, kWScale).as<float>()[channel(in(desc, kWScale), d, gate)]);
          w_scales[cols + at] = static_cast<S>(in(desc, kRScale).as<float>()[channel(in(desc, kRScale), d, gate)]);
        }
      });
    if (p.present())
      for (int k = 0; k < 3; k++)
        load_row(peepholes + k * padded, p.dtype, p.data, d * p.strides[0] + k * H * p.strides[1], p.strides[1], H);
  }
}

template CellConfig<float> RecurrentLayer::config(const LaunchDesc&, int64_t) const;
template CellConfig<double> RecurrentLayer::config(const LaunchDesc&, int64_t) const;
template void RecurrentLayer::pack(const LaunchDesc&, int, float*) const;
template void RecurrentLayer::pack(const LaunchDesc&, int, double*) const;
template void RecurrentLayer::pack(const LaunchDesc&, int, int32_t*) const;
template void RecurrentLayer::pack_small(const LaunchDesc&, float*) const;
template void RecurrentLayer::pack_small(const LaunchDesc&, double*) const;

}  // namespace ptrt::PTRT_LEVEL
