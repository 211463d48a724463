#include "cpu/linear_epilogue.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/vocabulary.h"
#include "cpu/half.h"

namespace ptrt::PTRT_LEVEL {
namespace {

// What one register of the program holds.
struct Value {
  enum Kind { kOther, kConst, kLoads, kAcc, kChain } kind = kOther;
  double constant = 0;
  int operands[2] = {-1, -1};  // kLoads: an operand, or the product of two
  LinearEpilogue chain;
  int source = -1;  // kChain with an activation: the register it was applied to
};

bool only_along(const Operand& o, int axis) {
  for (int i = 0; i < o.ndim; i++)
    if (i != axis && o.strides[i] != 0) return false;
  return true;
}

bool add_operand(LinearEpilogue& c, const Operand& o, int number, int bias_axis) {
  const bool clamped = c.clamp_before || c.clamp_after || c.activation != Activation::none;
  if (c.post() && c.post_shift < 0 && c.residual < 0 && !c.clamp_after && only_along(o, bias_axis) && o.strides[bias_axis] == 1) {
    c.post_shift = number;
    return true;
  }
  if (!clamped && c.bias < 0 && only_along(o, bias_axis)) {
    c.bias = number;
    return true;
  }
  if (c.residual >= 0 || c.clamp_after) return false;
  c.residual = number;
  return true;
}

void clamp(LinearEpilogue& c, bool is_max, double bound) {
  if (!c.clamp_before && !c.clamp_after) {
    (c.residual < 0 && c.activation == Activation::none && !c.post() ? c.clamp_before : c.clamp_after) = true;
    c.lo = -std::numeric_limits<double>::infinity();
    c.hi = -c.lo;
  }
  // Keeps lo <= hi, so that min(hi, max(lo, x)) equals the clamps in program order.
  c.lo = is_max ? std::max(c.lo, bound) : std::min(c.lo, bound);
  c.hi = is_max ? std::max(c.hi, bound) : std::min(c.hi, bound);
}

struct Recogniser {
  const LaunchDesc& desc;
  int axis;
  bool dequantise;   // acc is an int32 that has to be cast
  bool activations;  // may be recognised
  bool post;         // may a scale follow a clamp or an activation?
  std::vector<Value> regs;

  const Operand& operand(int k) const { return desc.epi_ins[static_cast<size_t>(k)]; }

  Value evaluate(const Instr& in) const {
    const auto arg = [&](int k) -> const Value& { return regs[static_cast<size_t>(in.args[k])]; };
    Value v;
    const auto op = static_cast<Op>(in.op);
    if (op == Op::acc_) {
      v.kind = dequantise ? Value::kAcc : Value::kChain;
      return v;
    }
    if (in.dtype != desc.outs[0].dtype) return v;
    switch (op) {
      case Op::const_:
        v.kind = Value::kConst;
        v.constant = in.f;
        return v;
      case Op::load_:
        if (operand(in.args[0]).dtype != in.dtype) return v;
        v.kind = Value::kLoads;
        v.operands[0] = in.args[0];
        return v;
      case Op::cast_:
        if (arg(0).kind == Value::kAcc) v.kind = Value::kChain;
        return v;
      case Op::id_: return arg(0);
      case Op::relu_:
        v = arg(0);
        if (v.kind != Value::kChain || (v.chain.clamp_before && (v.chain.residual >= 0 || v.chain.post()))) return Value{};
        clamp(v.chain, true, 0.0);
        return v;
      case Op::sigmoid_: return activated(in.args[0], Activation::sigmoid);
      case Op::silu_: return activated(in.args[0], Activation::silu);
      case Op::tanh_: return activated(in.args[0], Activation::tanh);
      case Op::gelu_erf_: return activated(in.args[0], Activation::gelu_erf);
      case Op::gelu_tanh_: return activated(in.args[0], Activation::gelu_tanh);
      case Op::where_: return leaky(in);
      case Op::mul_:
        if (v = gated(in.args[0], in.args[1]); v.kind == Value::kChain) return v;
        return binary(op, arg(0), arg(1));
      case Op::min_:
        if (v = hard_sigmoid(in); v.kind == Value::kChain) return v;
        [[fallthrough]];
      case Op::add_:
      case Op::max_: return binary(op, arg(0), arg(1));
      default: return v;
    }
  }

  Value activated(int source, Activation kind, double a = 0, double b = 0) const {
    Value v = regs[static_cast<size_t>(source)];
    const LinearEpilogue& c = v.chain;
    if (!activations || v.kind != Value::kChain || c.clamp_before || c.residual >= 0 || c.activation != Activation::none || c.post())
      return Value{};
    v.source = source;
    v.chain.activation = kind;
    v.chain.act_a = a;
    v.chain.act_b = b;
    return v;
  }

  Value gated(int a, int b) const {  // x * sigmoid(x), x * hard_sigmoid(x)
    for (int swap = 0; swap < 2; swap++) {
      const int x = swap ? b : a;
      const Value& g = regs[static_cast<size_t>(swap ? a : b)];
      if (g.kind != Value::kChain || g.source != x || g.chain.clamp_after || g.chain.residual >= 0 || g.chain.post()) continue;
      const Activation of = g.chain.activation;
      if (of == Activation::sigmoid) return activated(x, Activation::silu);
      if (of == Activation::hard_sigmoid) return activated(x, Activation::hard_swish, g.chain.act_a, g.chain.act_b);
    }
    return Value{};
  }

  const Instr* instr(int k, Op op) const {
    const Instr& in = desc.epilogue[static_cast<size_t>(k)];
    return static_cast<Op>(in.op) == op && in.dtype == desc.outs[0].dtype ? &in : nullptr;
  }
  // op(x, constant) in either order; -1 if instruction k is not that.
  int with_constant(int k, Op op, double& value) const {
    const Instr* in = instr(k, op);
    for (int swap = 0; in && swap < 2; swap++)
      if (const Instr* c = instr(in->args[!swap], Op::const_)) {
        value = c->f;
        return in->args[swap];
      }
    return -1;
  }

  Value hard_sigmoid(const Instr& in) const {  // min(max(x * a + b, 0), 1)
    double a = 1, b = 0, lo = -1, hi = -1;
    int k = with_constant(static_cast<int>(&in - desc.epilogue.data()), Op::min_, hi);
    if (k >= 0) k = with_constant(k, Op::max_, lo);
    if (k >= 0) k = with_constant(k, Op::add_, b);
    if (k < 0 || lo != 0 || hi != 1) return Value{};
    if (const int inner = with_constant(k, Op::mul_, a); inner >= 0) k = inner;
    return activated(k, Activation::hard_sigmoid, a, b);
  }

  Value leaky(const Instr& in) const {  // where(x < 0, x * a, x)
    const int x = in.args[2];
    const Instr& less = desc.epilogue[static_cast<size_t>(in.args[0])];
    double a = 0;
    if (static_cast<Op>(less.op) != Op::lt_ || less.args[0] != x || with_constant(in.args[1], Op::mul_, a) != x) return Value{};
    const Instr* zero = instr(less.args[1], Op::const_);
    return zero && zero->f == 0 ? activated(x, Activation::leaky, a) : Value{};
  }

  Value binary(Op op, const Value& a, const Value& b) const {
    Value v;
    if (op == Op::mul_ && a.kind == Value::kLoads && b.kind == Value::kLoads && a.operands[1] < 0 && b.operands[1] < 0) {
      v.kind = Value::kLoads;
      v.operands[0] = a.operands[0];
      v.operands[1] = b.operands[0];
      return v;
    }
    const bool left = a.kind == Value::kChain;
    const Value &x = left ? a : b, &y = left ? b : a;
    if (x.kind != Value::kChain || (y.kind != Value::kConst && y.kind != Value::kLoads)) return v;
    v = x;
    LinearEpilogue& c = v.chain;
    bool ok = false;
    if (op == Op::add_) {
      ok = y.kind == Value::kLoads && y.operands[1] < 0 && add_operand(c, operand(y.operands[0]), y.operands[0], axis);
    } else if (op == Op::mul_ && post && y.kind == Value::kLoads && y.operands[1] < 0 && scales_result(c, y.operands[0])) {
      ok = true;
    } else if (op == Op::mul_) {
      ok = !c.clamp_before && !c.clamp_after && c.bias < 0 && c.residual < 0 && c.activation == Activation::none;
      if (y.kind == Value::kConst) c.alpha *= y.constant;
      else ok = ok && dequantise && multiply(c, y.operands[0]) && (y.operands[1] < 0 || multiply(c, y.operands[1]));
    } else {
      ok = y.kind == Value::kConst && !std::isnan(y.constant) && !(c.clamp_before && (c.residual >= 0 || c.post()));
      if (ok) clamp(c, op == Op::max_, y.constant);
    }
    return ok ? v : Value{};
  }

  bool scales_result(LinearEpilogue& c, int number) const {
    if (c.post() || c.residual >= 0 || c.clamp_after || !(c.clamp_before || c.activation != Activation::none)) return false;
    if (!only_along(operand(number), axis) || operand(number).strides[axis] != 1) return false;
    c.post_scale = number;
    return true;
  }

  bool multiply(LinearEpilogue& c, int number) const {
    int& free = c.scale[0] < 0 ? c.scale[0] : c.scale[1];
    if (free >= 0 || !only_along(operand(number), axis)) return false;
    free = number;
    return true;
  }

  LinearEpilogue result() {
    for (const Instr& in : desc.epilogue) regs.push_back(evaluate(in));
    LinearEpilogue e;
    if (regs.back().kind == Value::kChain) {
      e = regs.back().chain;
      e.ok = true;
    }
    return e;
  }
};

}  // namespace

LinearEpilogue linear_epilogue(const LaunchDesc& desc, int bias_axis, bool activations, bool post) {
  LinearEpilogue none;
  const DType t = desc.outs[0].dtype;
  if (t != DType::f32 && t != DType::f64) return none;
  if (desc.epilogue.empty()) {
    none.ok = true;
    return none;
  }
  if (desc.acc_dtype != t) return none;
  return Recogniser{desc, bias_axis, false, activations && t == DType::f32, post && t == DType::f32, {}}.result();
}

LinearEpilogue clamping_epilogue(const LaunchDesc& desc) {
  const DType t = desc.outs[0].dtype;
  LinearEpilogue e;
  if ((t != DType::f16 && t != DType::bf16) || desc.acc_dtype != t || desc.epilogue.empty()) return e;
  e = Recogniser{desc, 0, false, false, false, {}}.result();
  if (!e.ok || !e.clamp_before || e.alpha != 1 || e.bias >= 0 || e.residual >= 0) return LinearEpilogue{};
  e.lo = half_to_float(t, float_to_half(t, static_cast<float>(e.lo)));
  e.hi = half_to_float(t, float_to_half(t, static_cast<float>(e.hi)));
  return e;
}

LinearEpilogue dequantising_epilogue(const LaunchDesc& desc, int bias_axis) {
  if (desc.epilogue.empty() || desc.acc_dtype != DType::i32 || desc.outs[0].dtype != DType::f32) return LinearEpilogue{};
  return Recogniser{desc, bias_axis, true, false, false, {}}.result();
}

}  // namespace ptrt::PTRT_LEVEL
