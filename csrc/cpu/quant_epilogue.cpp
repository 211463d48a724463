#include "cpu/quant_epilogue.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "core/vocabulary.h"
#include "cpu/bytes.h"
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

enum class Side { none, f32, u8, i8 };  // the residual

// What models mostly have, without a test per step: only the last rounding to bytes; or the pair in the middle, a residual and a division.
// With a table there are two passes: up to the byte that is looked up, and from its floats (in place of sums) on.
enum class Form { any, last, residual, to_byte, from_float };

template <Side R, bool BYTES, Form F>
PTRT_NOINLINE void rows_of(const QuantEpilogue& e, const QuantColumns& c, const int32_t* from, bool floats, int64_t from_row, void* to,
                           int64_t to_row, int64_t rows, int64_t n, const void* residual, int64_t residual_row) {
  const vf lo1 = splat(e.lo1), hi1 = splat(e.hi1), s1 = splat(e.s1), lo = splat(e.lo), hi = splat(e.hi), s2 = splat(e.s2),
           lo2 = splat(e.lo2), hi2 = splat(e.hi2), s3 = splat(e.s3), rz = splat(e.residual_zero), rs = splat(e.residual_scale);
  const vf back = splat(e.back), offset = splat(e.offset);
  const vi zero = splat(e.zero2), first_zero = splat(e.table_zero);
  constexpr bool kAny = F == Form::any || F == Form::from_float, kWhole = F == Form::residual;
  const bool between = kWhole || (F == Form::any && e.between), divide = kWhole || (kAny && e.divide),
             shift = (F == Form::any || F == Form::to_byte) && e.shift >= 0, clamp = F != Form::last && e.clamp, again = kAny && e.again,
             fused = F == Form::any && e.fused;
  // One vector of columns after the other: what varies by column stays in registers.
  const auto columns = [&](int64_t j, auto whole) __attribute__((always_inline)) {
    constexpr bool kVector = decltype(whole)::value;
    const int count = kVector ? W : static_cast<int>(n - j);
    const vi bias = load(c.bias + j);
    const vf bias_f = to_float(bias), scale = load(c.scale + j), shift_by = load(c.shift + j);
    const int32_t* sums = from + j;
    int64_t at = j, out = j;
    for (int64_t i = 0; i < rows; i++, sums += from_row, at += residual_row, out += to_row) {
      const vi sum = load(sums);
      vf v = (vf)sum;
      vi middle = {};
      if constexpr (F != Form::from_float) {
        v = (floats ? v + bias_f : to_float(sum + bias)) * scale;
        PTRT_KEEP(v);  // products are rounded, as the operators of the model do
        if (shift) v += shift_by;
        if (F == Form::to_byte || between) middle = rounded(bounded(v, lo1, hi1));
        if constexpr (F == Form::to_byte) {
          store_bytes(static_cast<uint8_t*>(to) + out, middle + first_zero, count);
          continue;
        }
        if (between) {
          v = to_float(middle) * s1;
          PTRT_KEEP(v);
        }
      }
      if constexpr (R == Side::f32) {
        v += load_n(static_cast<const float*>(residual) + at, count);
      } else if constexpr (R != Side::none) {
        typedef std::conditional_t<R == Side::u8, uint8_t, int8_t> B;
        const vf bytes = load_bytes(static_cast<const B*>(residual) + at, count);
        if (fused) {
          v = (to_float(middle) + back) * s1 + (bytes * rs + offset);
        } else {
          vf r = (bytes - rz) * rs;
          PTRT_KEEP(r);
          v += r;
        }
      }
      if (clamp) v = vmin(hi, vmax(lo, v));
      if (divide) v /= s2;
      if constexpr (BYTES) {
        store_bytes(static_cast<uint8_t*>(to) + out, rounded(bounded(v, lo2, hi2)) + zero, count);
      } else {
        if (again) v = to_float(rounded(bounded(v, lo2, hi2))) * s3;
        store_n(static_cast<float*>(to) + out, v, count);
      }
    }
  };
  int64_t j = 0;
  for (; j + W <= n; j += W) columns(j, std::true_type());
  if (j < n) columns(j, std::false_type());
}

int64_t padded(int64_t columns) { return (columns + W - 1) / W * W + W; }

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

size_t quant_columns_bytes(int64_t columns) { return (static_cast<size_t>(padded(columns)) * 12 + 63) / 64 * 64; }

QuantColumns gather_quant_columns(const QuantEpilogue& e, const LaunchDesc& desc, int axis, int64_t columns, void* memory) {
  const int64_t all = padded(columns);
  auto* scale = static_cast<float*>(memory);
  float* shift = scale + all;
  auto* bias = reinterpret_cast<int32_t*>(shift + all);
  std::fill(scale, scale + all, static_cast<float>(e.alpha));
  std::fill(shift, shift + all, 0.0f);
  std::fill(bias, bias + all, 0);
  const auto stride = [&](int k) {
    const Operand& o = desc.epi_ins[static_cast<size_t>(k)];
    return o.shape[axis] == 1 ? 0 : o.strides[axis];
  };
  // to[i] = f(to[i], the value of channel i of operand k)
  const auto combine = [&](auto* to, int k, auto&& f) {
    typedef std::remove_reference_t<decltype(*to)> T;
    const T* from = desc.epi_ins[static_cast<size_t>(k)].as<const T>();
    int64_t i = 0;
    if (stride(k) == 1)
      for (; i + W <= columns; i += W) store(to + i, f(load(to + i), load(from + i)));
    for (; i < columns; i++) to[i] = f(to[i], from[i * stride(k)]);
  };
  const auto second = [](auto, auto value) { return value; };
  for (int k : e.scales)
    if (k >= 0) combine(scale, k, [](auto a, auto b) { return a * b; });
  if (e.shift >= 0) combine(shift, e.shift, second);
  if (e.bias >= 0) combine(bias, e.bias, second);
  return {scale, shift, bias};
}

PTRT_COLD bool quant_takes_floats(const QuantEpilogue& e, const LaunchDesc& desc) {
  if (e.bias < 0) return true;
  const Operand& b = desc.epi_ins[static_cast<size_t>(e.bias)];
  if (!b.is_const()) return false;
  for (int axis = 0; axis < b.ndim; axis++)
    if (b.strides[axis] != 0)
      for (int64_t i = 0; i < b.shape[axis]; i++)
        if (std::abs(static_cast<double>(b.as<const int32_t>()[i * b.strides[axis]])) > 1 << 24) return false;
  return b.size() == 0 || std::abs(static_cast<double>(*b.as<const int32_t>())) <= 1 << 24;
}

void apply_quant(const QuantEpilogue& e, const QuantColumns& c, const void* from, bool floats, int64_t from_row, void* to, int64_t to_row,
                 int64_t rows, int64_t n, const void* residual, DType residual_type, int64_t residual_row) {
  typedef void (*Fn)(const QuantEpilogue&, const QuantColumns&, const int32_t*, bool, int64_t, void*, int64_t, int64_t, int64_t,
                     const void*, int64_t);
#define PTRT_SIDES(bytes, form)                                                                                                       \
  {                                                                                                                                   \
    rows_of<Side::none, bytes, form>, rows_of<Side::f32, bytes, form>, rows_of<Side::u8, bytes, form>, rows_of<Side::i8, bytes, form> \
  }
  static constexpr Fn fns[3][4] = {PTRT_SIDES(false, Form::any), PTRT_SIDES(true, Form::any), PTRT_SIDES(true, Form::residual)};
  static constexpr Fn from_floats[2][4] = {PTRT_SIDES(false, Form::from_float), PTRT_SIDES(true, Form::from_float)};
#undef PTRT_SIDES
  const int side = !residual ? 0 : residual_type == DType::f32 ? 1 : residual_type == DType::u8 ? 2 : 3;
  const bool bytes = e.out != DType::f32;
  const auto* sums = static_cast<const int32_t*>(from);
  constexpr Fn to_bytes = rows_of<Side::none, true, Form::to_byte>;
  if (e.lookup && bytes) {
    to_bytes(e, c, sums, floats, from_row, to, to_row, rows, n, nullptr, 0);
    e.table.look_up(rows, n, to, to_row, to, to_row);
    return;
  }
  if (!e.table.empty()) {  // by way of floats in L1
    constexpr int64_t kRows = 16, kColumns = 64;
    alignas(64) uint8_t index[kRows * kColumns];
    alignas(64) float values[kRows * kColumns];
    const int64_t item = bytes ? 1 : 4, residual_item = side == 1 ? 4 : 1;
    for (int64_t j = 0; j < n; j += kColumns)
      for (int64_t i = 0; i < rows; i += kRows) {
        const int64_t some = std::min(kRows, rows - i), columns = std::min(kColumns, n - j);
        char* out = static_cast<char*>(to) + (i * to_row + j) * item;
        const QuantColumns here{c.scale + j, c.shift + j, c.bias + j};
        to_bytes(e, here, sums + i * from_row + j, floats, from_row, index, kColumns, some, columns, nullptr, 0);
        if (e.lookup) {
          e.table.look_up(some, columns, index, kColumns, out, to_row);
          continue;
        }
        e.table.look_up(some, columns, index, kColumns, values, kColumns);
        const char* side_values = residual ? static_cast<const char*>(residual) + (i * residual_row + j) * residual_item : nullptr;
        from_floats[bytes][side](e, here, reinterpret_cast<const int32_t*>(values), false, kColumns, out, to_row, some, columns,
                                 side_values, residual_row);
      }
  } else {
    const bool whole = bytes && e.between && e.divide && e.shift < 0 && !e.fused;
    const bool last = bytes && side == 0 && !e.between && !e.divide && !e.clamp && e.shift < 0;
    const Fn fn = last ? rows_of<Side::none, true, Form::last> : fns[bytes + whole][side];
    fn(e, c, sums, floats, from_row, to, to_row, rows, n, residual, residual_row);
  }
  if (!e.last.empty()) e.last.look_up(rows, n, to, to_row, to, to_row);
}

}  // namespace ptrt::PTRT_LEVEL
