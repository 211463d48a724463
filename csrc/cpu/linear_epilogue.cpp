#include "cpu/linear_epilogue.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/vocabulary.h"

namespace ptrt::PTRT_LEVEL {
namespace {

// What one register of the program holds.
struct Value {
  enum Kind { kOther, kConst, kLoad, kChain } kind = kOther;
  double constant = 0;
  int operand = 0;
  LinearEpilogue chain;
};

bool only_along(const Operand& o, int axis) {
  for (int i = 0; i < o.ndim; i++)
    if (i != axis && o.strides[i] != 0) return false;
  return true;
}

bool add_operand(LinearEpilogue& c, const Operand& o, int number, int bias_axis) {
  const bool clamped = c.clamp_before || c.clamp_after;
  if (!clamped && c.bias < 0 && only_along(o, bias_axis)) {
    c.bias = number;
    return true;
  }
  if (c.residual >= 0) return false;
  c.residual = number;
  return true;
}

void clamp(LinearEpilogue& c, bool is_max, double bound) {
  if (!c.clamp_before && !c.clamp_after) {
    (c.residual < 0 ? c.clamp_before : c.clamp_after) = true;
    c.lo = -std::numeric_limits<double>::infinity();
    c.hi = -c.lo;
  }
  // Keeps lo <= hi, so that min(hi, max(lo, x)) equals the clamps in program order.
  c.lo = is_max ? std::max(c.lo, bound) : std::min(c.lo, bound);
  c.hi = is_max ? std::max(c.hi, bound) : std::min(c.hi, bound);
}

Value evaluate(const LaunchDesc& desc, const std::vector<Value>& regs, const Instr& in, int bias_axis) {
  Value v;
  if (in.dtype != desc.acc_dtype) return v;
  const auto arg = [&](int k) -> const Value& { return regs[static_cast<size_t>(in.args[k])]; };
  switch (static_cast<Op>(in.op)) {
    case Op::acc_: v.kind = Value::kChain; return v;
    case Op::const_:
      v.kind = Value::kConst;
      v.constant = in.f;
      return v;
    case Op::load_:
      if (desc.epi_ins[static_cast<size_t>(in.args[0])].dtype != desc.acc_dtype) return v;
      v.kind = Value::kLoad;
      v.operand = in.args[0];
      return v;
    case Op::id_: return arg(0);
    case Op::relu_:
      v = arg(0);
      if (v.kind != Value::kChain || (v.chain.clamp_before && v.chain.residual >= 0)) return Value{};
      clamp(v.chain, true, 0.0);
      return v;
    case Op::add_:
    case Op::mul_:
    case Op::max_:
    case Op::min_: break;
    default: return v;
  }
  const bool left = arg(0).kind == Value::kChain;
  const Value &x = left ? arg(0) : arg(1), &y = left ? arg(1) : arg(0);
  if (x.kind != Value::kChain || y.kind == Value::kChain || y.kind == Value::kOther) return v;
  v = x;
  LinearEpilogue& c = v.chain;
  const bool clamped = c.clamp_before || c.clamp_after;
  switch (static_cast<Op>(in.op)) {
    case Op::add_:
      if (y.kind != Value::kLoad || !add_operand(c, desc.epi_ins[static_cast<size_t>(y.operand)], y.operand, bias_axis)) return Value{};
      return v;
    case Op::mul_:
      if (y.kind != Value::kConst || clamped || c.bias >= 0 || c.residual >= 0) return Value{};
      c.alpha *= y.constant;
      return v;
    default:
      if (y.kind != Value::kConst || std::isnan(y.constant) || (c.clamp_before && c.residual >= 0)) return Value{};
      clamp(c, static_cast<Op>(in.op) == Op::max_, y.constant);
      return v;
  }
}

}  // namespace

LinearEpilogue linear_epilogue(const LaunchDesc& desc, int bias_axis) {
  LinearEpilogue none;
  const DType t = desc.outs[0].dtype;
  if (t != DType::f32 && t != DType::f64) return none;
  if (desc.epilogue.empty()) {
    none.ok = true;
    return none;
  }
  if (desc.acc_dtype != t) return none;
  std::vector<Value> regs;
  for (const Instr& in : desc.epilogue) regs.push_back(evaluate(desc, regs, in, bias_axis));
  if (regs.back().kind != Value::kChain) return none;
  LinearEpilogue e = regs.back().chain;
  e.ok = true;
  return e;
}

}  // namespace ptrt::PTRT_LEVEL
