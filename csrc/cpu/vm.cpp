// Compiles elementwise programs for the register machine.
#include "cpu/vm.h"

#include <algorithm>
#include <cmath>

#include "cpu/vm_impl.h"

namespace ptrt::PTRT_LEVEL {
namespace {

Comp comp_of(DType t) {
  switch (t) {
    case DType::f32:
    case DType::f16:
    case DType::bf16:
    case DType::f8e4m3fn:
    case DType::f8e4m3fnuz:
    case DType::f8e5m2:
    case DType::f8e5m2fnuz:
    case DType::f4e2m1:
    case DType::f8e8m0: return Comp::f32;
    case DType::f64: return Comp::f64;
    case DType::i8:
    case DType::i4:
    case DType::i2: return Comp::i8;
    case DType::u8:
    case DType::u4:
    case DType::u2:
    case DType::boolean: return Comp::u8;
    case DType::i16: return Comp::i16;
    case DType::u16: return Comp::u16;
    case DType::i32: return Comp::i32;
    case DType::u32: return Comp::u32;
    case DType::i64: return Comp::i64;
    case DType::u64: return Comp::u64;
    default: return Comp::none;
  }
}

int sub_byte_bits(DType t) {
  switch (t) {
    case DType::i4:
    case DType::u4: return 4;
    case DType::i2:
    case DType::u2: return 2;
    default: return 0;
  }
}

bool native(DType t) { return comp_of(t) != Comp::none && !sub_byte_bits(t) && (comp_of(t) != Comp::f32 || t == DType::f32); }

bool is_signed_int(DType t) {
  Comp c = comp_of(t);
  return c == Comp::i8 || c == Comp::i16 || c == Comp::i32 || c == Comp::i64;
}

Op boolean_op(Op op) {  // arithmetic on booleans, as NumPy has it
  switch (op) {
    case Op::add_:
    case Op::max_:
    case Op::bor_: return Op::lor_;
    case Op::mul_:
    case Op::min_:
    case Op::band_: return Op::land_;
    case Op::bxor_: return Op::lxor_;
    case Op::bnot_: return Op::lnot_;
    default: return op;
  }
}

class Compiler {
 public:
  Compiler(Vm::Impl& out, const Expr& program, const std::vector<DType>& ins, DType acc)
      : p_(out), program_(program), ins_(ins), acc_(acc) {}

  void compile() {
    if (program_.empty()) throw KernelError("empty program");
    p_.in_size.assign(ins_.size() + 1, 0);
    uses_.assign(program_.size(), 0);
    for (const Instr& i : program_)
      for (int k = 0; k < kOpArity[i.op]; k++) uses_[static_cast<size_t>(i.args[k])]++;
    for (size_t k = 0; k < program_.size(); k++) regs_.push_back(lower(program_[k]));
    p_.result = program_.back().dtype;
    p_.root = stored(regs_.back(), program_.back().dtype);
    remove_dead();
    assign_slots();
  }

 private:
  int add_value(Value::Kind kind, Comp comp, int size, int index = 0, Imm imm = {}) {
    p_.values.push_back({kind, comp, static_cast<int8_t>(size), index, imm});
    twins_.push_back({-1, DType::none});
    return static_cast<int>(p_.values.size()) - 1;
  }

  int add_step(Pick pick, Comp comp, int size, std::initializer_list<int> args) {
    Step s{};
    s.fn = pick.fn;
    s.scalars = pick.scalars;
    for (int& x : s.splat) x = -1;
    for (int a : args) s.arg[s.n_args++] = a;
    s.dst = add_value(Value::kTemp, comp, size);
    p_.steps.push_back(s);
    return s.dst;
  }

  int operand(int k, DType t) {
    const int size = static_cast<int>(itemsize(t));
    p_.in_size[static_cast<size_t>(k)] = static_cast<int8_t>(size);
    for (size_t v = 0; v < p_.values.size(); v++)
      if (p_.values[v].kind == Value::kInput && p_.values[v].index == k) return decoded_[v];
    const int raw = add_value(Value::kInput, native(t) ? comp_of(t) : Comp::none, size, k);
    const int v = native(t) || comp_of(t) == Comp::none ? raw : decode(raw, t);
    decoded_.resize(p_.values.size(), -1);
    decoded_[static_cast<size_t>(raw)] = v;
    return v;
  }

  int decode(int raw, DType t) {
    Imm imm{};
    Fn fn = decode_fn(t, &imm);
    const int v = add_step({fn}, comp_of(t), comp_size(comp_of(t)), {raw});
    p_.steps.back().imm[0] = imm;
    twins_[static_cast<size_t>(v)] = {raw, t};
    return v;
  }

  int encode(int v, DType t, Overflow mode) {
    Imm imm{};
    Fn fn = encode_fn(t, mode, &imm);
    v = add_step({fn}, Comp::none, static_cast<int>(itemsize(t)), {v});
    p_.steps.back().imm[0] = imm;
    return v;
  }

  // The value as it lies in memory.
  int stored(int v, DType t) {
    if (native(t) || comp_of(t) == Comp::none) return v;
    const Twin twin = twins_[static_cast<size_t>(v)];
    return twin.dtype == t ? twin.raw : encode(v, t, Overflow::keep_inf);
  }

  // A register rounded (wrapped) to a storage format.
  int narrowed(int v, DType t, Overflow mode) {
    if (native(t)) return v;
    if (twins_[static_cast<size_t>(v)].dtype == t) return v;
    return decode(encode(v, t, mode), t);
  }

  int converted(int v, Comp to) {
    CastStep s[3];
    const int n = cast_steps(p_.values[static_cast<size_t>(v)].comp, to, s);
    return apply(v, s, n);
  }

  int apply(int v, const CastStep* s, int n) {
    for (int k = 0; k < n; k++) {
      v = add_step({s[k].fn}, s[k].to, comp_size(s[k].to), {v});
      p_.steps.back().imm[0] = s[k].imm[0];
      p_.steps.back().imm[1] = s[k].imm[1];
    }
    return v;
  }

  int cast(Op op, int v, DType from, DType to) {
    if (from == to) return v;
    const Comp c = comp_of(from), d = comp_of(to);
    if (c == Comp::none || d == Comp::none) throw KernelError("cast: unsupported type");
    if (to == DType::boolean) {
      CastStep s = truth_step(c);
      return apply(v, &s, 1);
    }
    if (op == Op::cast_sat_ && d != Comp::f32 && d != Comp::f64) {
      const int bits = sub_byte_bits(to) ? sub_byte_bits(to) : comp_size(d) * 8;
      const bool sign = is_signed_int(to);
      const uint64_t hi = ~uint64_t{0} >> (64 - bits + (sign ? 1 : 0));
      CastStep s[3];
      return apply(v, s, cast_sat_steps(c, d, sign ? -static_cast<int64_t>(hi) - 1 : 0, hi, s));
    }
    if (d == Comp::f32 && !native(to) && c == Comp::f64) {
      CastStep s = odd_f32_step();
      v = apply(v, &s, 1);
    } else {
      v = converted(v, d);
    }
    return narrowed(v, to, op == Op::cast_wrap_ ? Overflow::wrap : Overflow::saturate);
  }

  int constant(const Instr& i) {
    const Comp c = comp_of(i.dtype);
    Imm imm{};
    if (c == Comp::f32) {
      const float f = static_cast<float>(i.f);
      std::memcpy(&imm, &f, 4);
      if (!native(i.dtype)) {  // rounded to its type
        const int wide = add_value(Value::kConst, Comp::f64, 8, 0, [&] {
          Imm m;
          m.f = i.f;
          return m;
        }());
        CastStep s = odd_f32_step();
        return narrowed(apply(wide, &s, 1), i.dtype, Overflow::keep_inf);
      }
    } else if (c == Comp::f64) {
      imm.f = i.f;
    } else if (c == Comp::none) {
      throw KernelError("const: unsupported type");
    } else {
      imm.i = i.i;  // little endian: the low bytes are the value at any width
      if (i.dtype == DType::boolean) imm.i = i.i != 0;
    }
    const int v = add_value(Value::kConst, c, comp_size(c), 0, imm);
    return sub_byte_bits(i.dtype) ? narrowed(v, i.dtype, Overflow::wrap) : v;
  }

  int lower(const Instr& i) {
    const Op op = static_cast<Op>(i.op);
    auto reg = [&](int k) { return regs_[static_cast<size_t>(i.args[k])]; };
    auto type = [&](int k) { return program_[static_cast<size_t>(i.args[k])].dtype; };
    const Comp c = comp_of(i.dtype);
    switch (op) {
      case Op::load_:
        if (i.args[0] < 0 || static_cast<size_t>(i.args[0]) >= ins_.size()) throw KernelError("load: no such operand");
        if (ins_[static_cast<size_t>(i.args[0])] != i.dtype) throw KernelError("load: the operand has another dtype");
        return operand(i.args[0], i.dtype);
      case Op::acc_:
        if (acc_ != i.dtype) throw KernelError("acc: the kernel's result has another dtype");
        return operand(static_cast<int>(ins_.size()), i.dtype);
      case Op::const_: return constant(i);
      case Op::iota_: {
        if (i.args[0] < 0 || i.args[0] >= kMaxDims || c == Comp::none) throw KernelError("iota: bad axis or type");
        return cast(Op::cast_, add_value(Value::kIota, Comp::i64, 8, i.args[0]), DType::i64, i.dtype);
      }
      case Op::id_: return reg(0);
      case Op::cast_sat_:
        if (const int fused = quantized(i); fused >= 0) return fused;
        [[fallthrough]];
      case Op::cast_:
      case Op::cast_wrap_: return cast(op, reg(0), type(0), i.dtype);
      case Op::where_: {
        int cond = reg(0);
        if (type(0) != DType::boolean) cond = cast(Op::cast_, cond, type(0), DType::boolean);
        if (c == Comp::none) throw KernelError("where: unsupported type");
        return add_step(pick_where(comp_size(c)), c, comp_size(c), {cond, converted(reg(1), c), converted(reg(2), c)});
      }
      default: break;
    }
    const bool predicate = op == Op::isnan_ || op == Op::isinf_pos_ || op == Op::isinf_neg_ || (op >= Op::eq_ && op <= Op::ge_);
    const bool logic = op >= Op::land_ && op <= Op::lnot_;
    const DType in = logic ? DType::boolean : predicate ? type(0) : i.dtype;
    const Comp work = comp_of(in);
    if (op == Op::mul_ && i.dtype == DType::f32) {
      const int fused = dequantized(i);
      if (fused >= 0) return fused;
    }
    if (op == Op::sub_ && work == Comp::f32) {
      const int fused = difference(i);
      if (fused >= 0) return fused;
    }
    if (op == Op::add_ && (work == Comp::f32 || work == Comp::f64)) {
      const int fused = muladd(i, work);
      if (fused >= 0) return fused;
    }
    Pick pick;
    if (work == Comp::f32) pick = pick_f32(op);
    else if (work == Comp::f64) pick = pick_f64(op);
    else if (work != Comp::none) pick = pick_int(in == DType::boolean ? boolean_op(op) : op, work);
    // In their 8-bit registers these shifts would have 8 as their limit; ONNX shifts unsigned integers only.
    if ((op == Op::shl_ || op == Op::shr_) && sub_byte_bits(in) && is_signed_int(in)) pick = {};
    if (!pick.fn) throw KernelError(std::string("map: ") + kOpNames[i.op] + " has no meaning for this type");
    int args[2];
    for (int k = 0; k < kOpArity[i.op]; k++)
      args[k] = logic && type(k) != DType::boolean ? cast(Op::cast_, reg(k), type(k), DType::boolean) : converted(reg(k), work);
    const Comp out = predicate || logic ? Comp::u8 : c;
    const int v =
        kOpArity[i.op] == 1 ? add_step(pick, out, comp_size(out), {args[0]}) : add_step(pick, out, comp_size(out), {args[0], args[1]});
    return !predicate && sub_byte_bits(i.dtype) ? narrowed(v, i.dtype, Overflow::wrap) : v;
  }

  // (x - zero) of 8 bits as f32 in one step.
  int difference(const Instr& i) {
    int zero;
    if (i.dtype != DType::f32 || !zero_point(i.args[1], &zero)) return -1;
    const Instr* wide = instruction(i.args[0], Op::cast_);
    if (!wide || !is_byte(program_[static_cast<size_t>(wide->args[0])].dtype)) return -1;
    const CastStep s = dequantize_step(comp_of(program_[static_cast<size_t>(wide->args[0])].dtype), 1, zero);
    return apply(regs_[static_cast<size_t>(wide->args[0])], &s, 1);
  }

  // a * b + c in one step when the product has no other use, also of an `a` of 8 bits by a constant.
  int muladd(const Instr& i, Comp work) {
    for (int side = 0; side < 2; side++) {
      const int at = i.args[side], other = i.args[1 - side];
      const Instr& m = program_[static_cast<size_t>(at)];
      if (m.op != static_cast<int32_t>(Op::mul_) || uses_[static_cast<size_t>(at)] != 1 || comp_of(m.dtype) != work) continue;
      const Pick pick = work == Comp::f32 ? pick_muladd(work) : pick_muladd_f64();
      for (int k = 0; k < 2 && work == Comp::f32; k++) {
        const Instr* wide = instruction(m.args[k], Op::cast_);
        float factor;
        if (!wide || wide->dtype != DType::f32 || !constant_float(m.args[1 - k], &factor)) continue;
        const DType from = program_[static_cast<size_t>(wide->args[0])].dtype;
        if (!is_byte(from)) continue;
        const int v =
            add_step(byte_muladd(comp_of(from)), work, 4, {regs_[static_cast<size_t>(wide->args[0])], regs_[static_cast<size_t>(other)]});
        p_.steps.back().imm[0].f = static_cast<double>(factor);
        return v;
      }
      auto reg = [&](int k) { return converted(regs_[static_cast<size_t>(k)], work); };
      return add_step(pick, work, comp_size(work), {reg(m.args[0]), reg(m.args[1]), reg(other)});
    }
    return -1;
  }

  const Instr* instruction(int k, Op op) const {
    const Instr& i = program_[static_cast<size_t>(k)];
    return i.op == static_cast<int32_t>(op) ? &i : nullptr;
  }

  // Is register k a constant in f32, or one of 8 bits cast to it?
  bool constant_float(int k, float* value) const {
    const Instr& i = program_[static_cast<size_t>(k)];
    if (i.dtype != DType::f32) return false;
    if (const Instr* c = instruction(k, Op::const_)) {
      *value = static_cast<float>(c->f);
      return true;
    }
    const Instr* c = i.op == static_cast<int32_t>(Op::cast_) ? instruction(i.args[0], Op::const_) : nullptr;
    if (!c || !is_byte(c->dtype)) return false;
    *value = static_cast<float>(c->i);
    return true;
  }
  bool zero_point(int k, int* value) const {
    float v;
    if (!constant_float(k, &v) || !(v >= -255 && v <= 255) || v != std::rint(v)) return false;
    *value = static_cast<int>(v);
    return true;
  }

  static bool zero_fits(DType t, int zero) { return t == DType::i8 ? zero >= -128 && zero <= 127 : zero >= 0 && zero <= 255; }

  // saturated(round(x / scale) + zero), or without the zero point or the division, or saturated(x), which rounds, in one step.
  int quantized(const Instr& i) {
    if (!is_byte(i.dtype) || program_[static_cast<size_t>(i.args[0])].dtype != DType::f32) return -1;
    int at = i.args[0], zero = 0, zeros = -1;
    if (const Instr* sum = instruction(at, Op::add_))
      for (int side = 0; side < 2 && at == i.args[0]; side++) {
        const Instr* wide = instruction(sum->args[1 - side], Op::cast_);
        const bool of_type = wide && program_[static_cast<size_t>(wide->args[0])].dtype == i.dtype;
        if (zero_point(sum->args[1 - side], &zero)) at = sum->args[side];
        else if (of_type && instruction(sum->args[side], Op::round_)) at = sum->args[side], zeros = wide->args[0];
      }
    float scale = 1;
    const Instr* round = instruction(at, Op::round_);
    if (!round) {
      const CastStep s = quantize_step(comp_of(i.dtype), scale, 0);
      return apply(regs_[static_cast<size_t>(i.args[0])], &s, 1);
    }
    at = round->args[0];
    const Instr* quotient = instruction(at, Op::div_);
    if (quotient && (zeros >= 0 || !constant_float(quotient->args[1], &scale)) && (zeros >= 0 || zero_fits(i.dtype, zero))) {
      const auto reg = [&](int k) { return regs_[static_cast<size_t>(k)]; };
      Imm imm{};
      imm.i = zero;
      const int shift = zeros >= 0 ? reg(zeros) : add_value(Value::kConst, comp_of(i.dtype), 1, 0, imm);
      return add_step(quantize_by(comp_of(i.dtype)), comp_of(i.dtype), 1, {reg(quotient->args[0]), reg(quotient->args[1]), shift});
    }
    if (zeros >= 0) return -1;
    if (quotient && constant_float(quotient->args[1], &scale)) at = quotient->args[0];
    const CastStep s = quantize_step(comp_of(i.dtype), scale, zero);
    return apply(regs_[static_cast<size_t>(at)], &s, 1);
  }

  // (x - zero) * scale of 8 bits, or without the zero point, in one step.
  int dequantized(const Instr& i) {
    for (int side = 0; side < 2; side++) {
      float scale;
      int zero = 0, at = i.args[side];
      if (!constant_float(i.args[1 - side], &scale)) continue;
      if (const Instr* difference = instruction(at, Op::sub_); difference && zero_point(difference->args[1], &zero))
        at = difference->args[0];
      const Instr* wide = instruction(at, Op::cast_);
      if (!wide || wide->dtype != DType::f32) continue;
      const DType from = program_[static_cast<size_t>(wide->args[0])].dtype;
      if (!is_byte(from)) continue;
      const CastStep s = dequantize_step(comp_of(from), scale, zero);
      return apply(regs_[static_cast<size_t>(wide->args[0])], &s, 1);
    }
    return -1;
  }

  void remove_dead() {
    std::vector<char> live(p_.values.size(), 0);
    live[static_cast<size_t>(p_.root)] = 1;
    std::vector<Step> kept;
    for (size_t k = p_.steps.size(); k-- > 0;) {
      const Step& s = p_.steps[k];
      if (!live[static_cast<size_t>(s.dst)]) continue;
      for (int j = 0; j < s.n_args; j++) live[static_cast<size_t>(s.arg[j])] = 1;
      kept.push_back(s);
    }
    std::reverse(kept.begin(), kept.end());
    p_.steps = kept;
    std::vector<int> renumbered(p_.values.size(), -1);
    std::vector<Value> values;
    for (size_t v = 0; v < live.size(); v++)
      if (live[v]) {
        renumbered[v] = static_cast<int>(values.size());
        values.push_back(p_.values[v]);
      }
    p_.values = values;
    p_.root = renumbered[static_cast<size_t>(p_.root)];
    std::fill(p_.in_size.begin(), p_.in_size.end(), int8_t{0});
    for (const Value& v : p_.values)
      if (v.kind == Value::kInput) p_.in_size[static_cast<size_t>(v.index)] = v.size;
    for (Step& s : p_.steps) {
      s.dst = renumbered[static_cast<size_t>(s.dst)];
      for (int j = 0; j < s.n_args; j++) s.arg[j] = renumbered[static_cast<size_t>(s.arg[j])];
    }
  }

  void assign_slots() {
    std::vector<int> last(p_.values.size(), -1);
    for (size_t k = 0; k < p_.steps.size(); k++)
      for (int j = 0; j < p_.steps[k].n_args; j++) last[static_cast<size_t>(p_.steps[k].arg[j])] = static_cast<int>(k);
    last[static_cast<size_t>(p_.root)] = static_cast<int>(p_.steps.size());
    int item = 1;
    for (Value& v : p_.values) {
      if (v.kind == Value::kInput || v.kind == Value::kIota) v.slot = p_.slots++;
      item = std::max(item, static_cast<int>(v.size));
    }
    std::vector<int> free;
    for (size_t k = 0; k < p_.steps.size(); k++) {
      Step& s = p_.steps[k];
      auto release = [&](bool same_size) {
        for (int j = 0; j < s.n_args; j++) {
          const Value& a = p_.values[static_cast<size_t>(s.arg[j])];
          bool repeated = false;
          for (int i = 0; i < j; i++) repeated |= s.arg[i] == s.arg[j];
          if (a.kind == Value::kTemp && !repeated && last[static_cast<size_t>(s.arg[j])] == static_cast<int>(k) &&
              (a.size == p_.values[static_cast<size_t>(s.dst)].size) == same_size)
            free.push_back(a.slot);
        }
      };
      release(true);  // an output may replace an argument of its own element size
      Value& d = p_.values[static_cast<size_t>(s.dst)];
      if (free.empty()) free.push_back(p_.slots++);
      d.slot = free.back();
      free.pop_back();
      release(false);
      if (s.n_args > 1)
        for (int j = 0; j < s.n_args; j++)
          if (!(s.scalars >> j & 1)) s.splat[j] = p_.slots++;
    }
    constexpr size_t kRegisters = 24 << 10;  // of an L1 of 32 KB
    if (static_cast<size_t>(p_.slots * item) * 2 * kTile <= kRegisters) p_.tile = 2 * kTile;
    p_.slot_bytes = static_cast<size_t>(p_.tile * item);
  }

  struct Twin {
    int raw;
    DType dtype;
  };
  Vm::Impl& p_;
  const Expr& program_;
  const std::vector<DType>& ins_;
  DType acc_;
  std::vector<int> regs_, uses_, decoded_;
  std::vector<Twin> twins_;  // per value: the same value in a storage format
};

}  // namespace

Vm::Vm(const Expr& program, const std::vector<DType>& in_types, DType acc) : impl_(new Impl) {
  try {
    Compiler(*impl_, program, in_types, acc).compile();
    tabulate();
  } catch (...) {
    delete impl_;
    throw;
  }
}
void Vm::tabulate() {
  int operand = -1;
  for (const Value& v : impl_->values) {
    if (v.kind == Value::kIota || (v.kind == Value::kInput && (operand >= 0 || v.size != 1))) return;
    if (v.kind == Value::kInput) operand = v.index;
  }
  const size_t size = itemsize(impl_->result);
  const size_t few = size == 1 ? 1 : 2;  // steps that are as fast
  if (operand < 0 || impl_->steps.size() <= few || size > 8) return;
  uint8_t bytes[256];
  for (int i = 0; i < 256; i++) bytes[i] = static_cast<uint8_t>(i);
  std::vector<char> table(256 * size), scratch(scratch_bytes() + 64);
  std::vector<Block> ins(impl_->in_size.size(), Block{bytes, 0, 1});
  run(1, 256, ins.data(), Block{bytes, 0, 1}, Block{table.data(), 0, 1},
      scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64));
  impl_->table = ByteTable(table.data(), static_cast<int>(size));
}
Vm::~Vm() { delete impl_; }
Vm::Vm(Vm&& o) noexcept : impl_(o.impl_) { o.impl_ = nullptr; }
Vm& Vm::operator=(Vm&& o) noexcept {
  std::swap(impl_, o.impl_);
  return *this;
}
DType Vm::result() const { return impl_->result; }
void Vm::streams() { impl_->tile = kTile; }

}  // namespace ptrt::PTRT_LEVEL
