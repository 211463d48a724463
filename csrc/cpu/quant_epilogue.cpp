// Recognises what the epilogue of 8-bit products is. quant_apply.cpp applies it.
#include "cpu/quant_epilogue.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/vocabulary.h"
#include "cpu/vm.h"

namespace ptrt::PTRT_LEVEL {
namespace {

double least_of(DType t) { return t == DType::u8 ? 0 : -128; }
double most_of(DType t) { return t == DType::u8 ? 255 : 127; }

// What one register of the program holds. The main chain passes through the stages in this order and may skip those of a part.
struct Value {
  enum Kind { kOther, kConst, kLoad, kSide, kChain } kind = kOther;
  enum Stage { kSum, kFloat, kRounded, kShifted, kByte, kByteAgain, kFloatAgain, kDone } stage = kSum;
  double constant = 0;
  int operand = -1;             // kLoad, kSide
  DType type = DType::none;     // kLoad, kSide: of the operand
  double zero = 0, factor = 1;  // kSide: (operand - zero) * factor in float32
  bool multiplied = false, moved = false;
  double offset = 0;  // kSide: added to it, if `moved`
  double raw = 0;     // kFloatAgain: the zero point that was not subtracted
  QuantEpilogue chain;
  double quantised_zero = 0;  // kRounded on: the zero point that was added
  bool scaled = false, second = false, subtracted = false;
  int function = -1;  // kFloatAgain: the instruction that is a function of the byte, if it is not a plain dequantisation
};

bool only_along(const Operand& o, int axis) {
  for (int i = 0; i < o.ndim; i++)
    if (i != axis && o.strides[i] != 0) return false;
  return true;
}

struct Recogniser {
  const LaunchDesc& desc;
  int axis;
  std::vector<Value> regs;
  struct Byte {              // made by quantising the main chain
    int at = -1;             // the instruction
    std::vector<char> pure;  // of every instruction: is it a function of that byte alone?
  };
  Byte first, second;
  std::vector<char> fixed = {};  // of every instruction: is it the same for all elements?

  const Operand& operand(int k) const { return desc.epi_ins[static_cast<size_t>(k)]; }
  const Value& arg(const Instr& in, int k) const { return regs[static_cast<size_t>(in.args[k])]; }

  Value evaluate(const Instr& in) const {
    Value v;
    switch (static_cast<Op>(in.op)) {
      case Op::acc_: v.kind = Value::kChain; return v;
      case Op::const_:
        if (in.dtype != DType::f32 && in.dtype != DType::i32 && !is_byte(in.dtype)) return v;
        v.kind = Value::kConst;
        v.constant = in.dtype == DType::f32 ? in.f : static_cast<double>(in.i);
        return v;
      case Op::load_:
        v.kind = Value::kLoad;
        v.operand = in.args[0];
        v.type = in.dtype;
        return v;
      case Op::id_: return arg(in, 0);
      case Op::cast_: return cast(arg(in, 0), in.dtype);
      case Op::cast_sat_: return quantise(arg(in, 0), in.dtype);
      case Op::round_: return round(arg(in, 0));
      case Op::relu_: return clamp(arg(in, 0), Op::max_, 0);
      case Op::max_:
      case Op::min_: return clamp(arg(in, 0), arg(in, 1), static_cast<Op>(in.op));
      case Op::sub_: return subtract(arg(in, 0), arg(in, 1));
      case Op::mul_: {
        const Value a = multiply(arg(in, 0), arg(in, 1));
        return a.kind == Value::kOther ? multiply(arg(in, 1), arg(in, 0)) : a;
      }
      case Op::div_: return divide(arg(in, 0), arg(in, 1));
      case Op::add_: {
        const Value a = add(arg(in, 0), arg(in, 1));
        return a.kind == Value::kOther ? add(arg(in, 1), arg(in, 0)) : a;
      }
      default: return v;
    }
  }

  Value cast(Value v, DType to) const {
    if (v.kind == Value::kConst && (to == DType::f32 || to == DType::i32)) return v;
    if (v.kind == Value::kLoad && is_byte(v.type) && (to == DType::f32 || to == DType::i32)) {
      v.kind = Value::kSide;
      return v;
    }
    if (v.kind == Value::kSide && to == DType::f32) return v;
    if (v.kind != Value::kChain) return Value{};
    if (v.stage == Value::kSum && to == DType::f32) v.stage = Value::kFloat;
    else if (v.stage == Value::kByte && (to == DType::f32 || to == DType::i32)) v.stage = Value::kByteAgain;
    else if (v.stage != Value::kByteAgain || to != DType::f32) return Value{};
    return v;
  }

  Value round(Value v) const {
    if (v.kind != Value::kChain || (v.stage != Value::kFloat && v.stage != Value::kFloatAgain) || v.raw != 0) return Value{};
    v.second = v.stage == Value::kFloatAgain;
    if (!v.second && v.chain.clamp) return Value{};
    v.stage = Value::kRounded;
    return v;
  }

  Value quantise(Value v, DType to) const {
    if (v.kind == Value::kChain && (v.stage == Value::kFloat || v.stage == Value::kFloatAgain)) v = round(v);  // cast_sat rounds, too
    if (v.kind != Value::kChain || !is_byte(to) || (v.stage != Value::kRounded && v.stage != Value::kShifted)) return Value{};
    const auto lo = static_cast<float>(least_of(to) - v.quantised_zero), hi = static_cast<float>(most_of(to) - v.quantised_zero);
    QuantEpilogue& c = v.chain;
    if (v.second) {
      if (c.out != DType::none) return Value{};
      c.lo2 = lo, c.hi2 = hi, c.zero2 = static_cast<int32_t>(v.quantised_zero), c.out = to;
    } else {
      c.lo1 = lo, c.hi1 = hi, c.between = true;
    }
    v.stage = Value::kByte;
    v.type = to;
    return v;
  }

  Value clamp(const Value& a, const Value& b, Op op) const {
    if (b.kind == Value::kConst) return clamp(a, op, b.constant);
    return a.kind == Value::kConst ? clamp(b, op, a.constant) : Value{};
  }
  Value clamp(Value v, Op op, double bound) const {
    if (v.kind == Value::kChain && v.stage == Value::kByte) {
      float &lo = v.second ? v.chain.lo2 : v.chain.lo1, &hi = v.second ? v.chain.hi2 : v.chain.hi1;
      const auto b = static_cast<float>(bound - v.quantised_zero);
      lo = op == Op::max_ ? std::max(lo, b) : std::min(lo, b);
      hi = op == Op::max_ ? std::max(hi, b) : std::min(hi, b);
      return v;
    }
    if (v.kind != Value::kChain || v.stage != Value::kFloatAgain || v.chain.divide || v.raw != 0 || std::isnan(bound)) return Value{};
    QuantEpilogue& c = v.chain;
    if (!c.clamp) {
      c.clamp = true;
      c.lo = -std::numeric_limits<float>::infinity();
      c.hi = -c.lo;
    }
    const auto b = static_cast<float>(bound);  // keeps lo <= hi
    c.lo = op == Op::max_ ? std::max(c.lo, b) : std::min(c.lo, b);
    c.hi = op == Op::max_ ? std::max(c.hi, b) : std::min(c.hi, b);
    return v;
  }

  Value subtract(Value a, const Value& b) const {
    if (b.kind != Value::kConst) return Value{};
    if (a.kind == Value::kSide && !a.multiplied && a.zero == 0) {
      a.zero = b.constant;
      return a;
    }
    if (a.kind != Value::kChain || a.stage != Value::kByteAgain || a.subtracted || b.constant != a.quantised_zero) return Value{};
    a.subtracted = true;
    return a;
  }

  Value multiply(Value a, const Value& b) const {
    if (a.kind == Value::kSide && b.kind == Value::kConst && !a.multiplied) {
      a.multiplied = true;
      a.factor = b.constant;
      return a;
    }
    if (a.kind != Value::kChain) return Value{};
    QuantEpilogue& c = a.chain;
    if (a.stage == Value::kFloat && c.shift < 0 && !c.clamp) {
      if (b.kind == Value::kConst && !a.scaled) {
        c.alpha = b.constant;
      } else if (b.kind == Value::kLoad && b.type == DType::f32 && only_along(operand(b.operand), axis) && c.scales[1] < 0 &&
                 c.alpha == 1) {
        c.scales[c.scales[0] >= 0] = b.operand;
      } else {
        return Value{};
      }
      a.scaled = true;
      return a;
    }
    if (a.stage != Value::kByteAgain || b.kind != Value::kConst) return Value{};
    if (!a.subtracted) a.raw = a.quantised_zero;
    if (a.second) {
      if (a.raw != 0) return Value{};
      c.again = true;
      c.s3 = static_cast<float>(b.constant);
      a.stage = Value::kDone;
      return a;
    }
    c.s1 = static_cast<float>(b.constant);
    a.stage = Value::kFloatAgain;
    a.quantised_zero = 0;
    a.subtracted = false;
    return a;
  }

  Value divide(Value a, const Value& b) const {
    if (a.kind != Value::kChain || a.stage != Value::kFloatAgain || a.chain.divide || a.raw != 0 || b.kind != Value::kConst) return Value{};
    a.chain.divide = true;
    a.chain.s2 = static_cast<float>(b.constant);
    return a;
  }

  Value add(Value a, const Value& b) const {
    if (a.kind == Value::kSide && a.multiplied && !a.moved && a.zero == 0 && b.kind == Value::kConst) {
      a.moved = true;
      a.offset = b.constant;
      return a;
    }
    if (a.kind != Value::kChain) return Value{};
    QuantEpilogue& c = a.chain;
    switch (a.stage) {
      case Value::kSum:
        if (b.kind != Value::kLoad || b.type != DType::i32 || c.bias >= 0 || !only_along(operand(b.operand), axis)) return Value{};
        c.bias = b.operand;
        return a;
      case Value::kFloat:
        if (b.kind != Value::kLoad || b.type != DType::f32 || c.shift >= 0 || !only_along(operand(b.operand), axis)) return Value{};
        c.shift = b.operand;
        return a;
      case Value::kRounded:
        if (b.kind != Value::kConst || b.constant != std::rint(b.constant) || std::fabs(b.constant) > 255) return Value{};
        a.quantised_zero = b.constant;
        a.stage = Value::kShifted;
        return a;
      case Value::kFloatAgain: {
        if (c.residual >= 0 || c.clamp || c.divide) return Value{};
        const bool plain = b.kind == Value::kLoad && b.type == DType::f32;
        if (!plain && b.kind != Value::kSide) return Value{};
        if (b.moved) {
          if (a.function >= 0) return Value{};
          c.fused = true;
          c.offset = static_cast<float>(b.offset);
          c.back = static_cast<float>(a.raw);
          a.raw = 0;
        }
        if (a.raw != 0) return Value{};
        c.residual = b.operand;
        c.residual_zero = static_cast<float>(b.zero);
        c.residual_scale = static_cast<float>(b.factor);
        return a;
      }
      default: return Value{};
    }
  }

  static bool reads(const Instr& in) {
    const auto op = static_cast<Op>(in.op);
    return op == Op::load_ || op == Op::acc_ || op == Op::iota_;
  }
  bool is_fixed(const Instr& in) const {
    bool all = !reads(in);
    for (int k = 0; k < kOpArity[in.op]; k++) all &= fixed[static_cast<size_t>(in.args[k])] != 0;
    return all;
  }
  bool function_of(const Byte& byte, const Instr& in) const {
    bool any = false, all = byte.at >= 0 && !reads(in);
    for (int k = 0; k < kOpArity[in.op]; k++) {
      any |= byte.pure[static_cast<size_t>(in.args[k])] != 0;
      all &= fixed[static_cast<size_t>(in.args[k])] || byte.pure[static_cast<size_t>(in.args[k])];
    }
    return any && all;
  }

  // The values of instruction `root` for all values of `byte`.
  ByteTable tabulate(int root, int byte) const {
    const DType type = regs[static_cast<size_t>(byte)].type, out = desc.epilogue[static_cast<size_t>(root)].dtype;
    std::vector<int32_t> place(static_cast<size_t>(root) + 1, -1);
    std::vector<char> needed(static_cast<size_t>(root) + 1, 0);
    needed[static_cast<size_t>(root)] = 1;
    for (int k = root; k >= 0; k--)
      for (int j = 0; needed[static_cast<size_t>(k)] && k != byte && j < kOpArity[desc.epilogue[static_cast<size_t>(k)].op]; j++)
        needed[static_cast<size_t>(desc.epilogue[static_cast<size_t>(k)].args[j])] = 1;
    Expr program;
    for (int k = 0; k <= root; k++) {
      Instr in = desc.epilogue[static_cast<size_t>(k)];
      if (k == byte) {
        in = Instr();
        in.op = static_cast<int32_t>(Op::load_);
        in.dtype = type;
        in.args[0] = 0;
      } else if (!needed[static_cast<size_t>(k)]) {
        continue;
      } else {
        for (int j = 0; j < kOpArity[in.op]; j++) in.args[j] = place[static_cast<size_t>(in.args[j])];
      }
      place[static_cast<size_t>(k)] = static_cast<int32_t>(program.size());
      program.push_back(in);
    }
    uint8_t bytes[256];
    for (int i = 0; i < 256; i++) bytes[i] = static_cast<uint8_t>(i);
    const size_t size = itemsize(out);
    const Vm vm(program, {type}, DType::none);
    std::vector<char> table(256 * size), scratch(vm.scratch_bytes() + 64);
    const Block in{bytes, 0, 1};
    vm.run(1, 256, &in, {}, Block{table.data(), 0, 1}, scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64));
    return ByteTable(table.data(), static_cast<int>(size));
  }

  // Instruction `at`, a function of the first byte in f32, as a value that the chain goes on with.
  Value function_value(int at) const {
    Value v = regs[static_cast<size_t>(first.at)];
    v.stage = Value::kFloatAgain;
    v.function = at;
    v.quantised_zero = 0;
    return v;
  }

  // The chain's quantisations and dequantisations of a function of the first byte may all belong to that function: what follows says.
  Value evaluate_with_functions(const Instr& in) {
    Value v = evaluate(in);
    for (int k = 0; v.kind == Value::kOther && k < kOpArity[in.op]; k++) {
      const auto at = static_cast<size_t>(in.args[k]);
      if (!first.pure[at] || regs[at].kind != Value::kChain || desc.epilogue[at].dtype != DType::f32) continue;
      const Value kept = regs[at];
      regs[at] = function_value(static_cast<int>(at));
      v = evaluate(in);
      regs[at] = kept;
    }
    return v;
  }

  QuantEpilogue result() {
    for (size_t k = 0; k < desc.epilogue.size(); k++) {
      const Instr& in = desc.epilogue[k];
      fixed.push_back(is_fixed(in));
      first.pure.push_back(function_of(first, in));
      second.pure.push_back(function_of(second, in));
      Value v = evaluate_with_functions(in);
      if (v.kind == Value::kOther && first.pure.back() && in.dtype == DType::f32) v = function_value(static_cast<int>(k));
      // (A function of the first byte may round to bytes as well.)
      Byte& byte = v.second ? second : first;
      if (v.kind == Value::kChain && v.stage == Value::kByte && byte.at < 0 && !(v.second && first.pure.back())) {
        byte.at = static_cast<int>(k);
        byte.pure.back() = 1;
      }
      regs.push_back(v);
    }
    const int root = static_cast<int>(desc.epilogue.size()) - 1;
    const DType out = desc.outs[0].dtype;
    Value v = regs.back();
    QuantEpilogue e;
    if (desc.epilogue.back().dtype != out) return e;
    if (first.pure.back() && root != first.at && (v.kind != Value::kChain || v.function >= 0)) {
      v = regs[static_cast<size_t>(first.at)];
      e = v.chain;
      e.table = tabulate(root, first.at);
      e.table_zero = static_cast<int32_t>(v.quantised_zero);
      e.lookup = e.ok = true;
      e.out = out;
      return e;
    }
    if (v.kind != Value::kChain && is_byte(out) && second.pure.back()) {
      v = regs[static_cast<size_t>(second.at)];
      v.chain.last = tabulate(root, second.at);
    }
    if (v.kind != Value::kChain) return e;
    e = v.chain;
    if (v.stage == Value::kByte) {
      e.ok = v.type == out || !e.last.empty();
      if (!v.second) {  // the only quantisation is the last
        e.between = false;
        e.lo2 = e.lo1, e.hi2 = e.hi1, e.zero2 = static_cast<int32_t>(v.quantised_zero);
      }
    } else if (v.stage == Value::kFloat || v.stage == Value::kFloatAgain || v.stage == Value::kDone) {
      e.ok = out == DType::f32 && (!e.divide || e.again) && v.raw == 0;
    }
    if (e.ok && v.function >= 0) {
      e.table = tabulate(v.function, first.at);
      e.table_zero = static_cast<int32_t>(regs[static_cast<size_t>(first.at)].quantised_zero);
    }
    e.out = out;
    return e;
  }
};

}  // namespace

PTRT_COLD QuantEpilogue quant_epilogue(const LaunchDesc& desc, int axis) {
  const DType out = desc.outs[0].dtype;
  if (desc.epilogue.empty() || desc.acc_dtype != DType::i32 || (out != DType::f32 && !is_byte(out))) return QuantEpilogue{};
  return Recogniser{desc, axis, {}, {}, {}}.result();
}

PTRT_COLD std::string quant_epilogue_name(const QuantEpilogue& e) {
  const bool rounds = e.out != DType::f32 || e.again;
  return std::string(", then ") +
         (e.lookup          ? "a table"
          : e.table.empty() ? "scaled"
                            : "scaled by a table") +
         (e.residual >= 0 ? ", residual" : "") + (rounds && !e.lookup ? ", rounded" : "") + (e.last.empty() ? "" : ", then a table");
}

}  // namespace ptrt::PTRT_LEVEL
