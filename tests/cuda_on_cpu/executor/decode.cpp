#include "decode.h"

#include <algorithm>

namespace exe {
namespace {

const Rules& rules() {
  static const Rules all = [] {
    Rules r;
    integer_rules(r), bit_rules(r), move_rules(r), real_rules(r), half_rules(r), compare_rules(r), convert_rules(r), memory_rules(r),
        atomic_rules(r), async_rules(r), control_rules(r), warp_rules(r), mma_rules(r);
    return r;
  }();
  return all;
}

int64_t align_up(int64_t n, int64_t a) { return (n + a - 1) / a * a; }

}  // namespace

void Decoder::unsupported(const std::string& why) const {
  throw Unsupported("line " + std::to_string(s_->line) + ": unsupported instruction '" + std::string(s_->text) + "' in " +
                    std::string(f_->name) + (why.empty() ? "" : ": " + why));
}

const Operand& Decoder::op(size_t k) const {
  if (k >= s_->ops.size()) unsupported("too few operands");
  return s_->ops[k];
}

bool Decoder::take(sv mod) {
  for (size_t k = 0; k < s_->mods.size(); ++k)
    if (!(taken_ >> k & 1) && s_->mods[k] == mod) return taken_ |= 1ull << k, true;
  return false;
}
sv Decoder::take_any(std::initializer_list<sv> mods) {
  for (sv m : mods)
    if (take(m)) return m;
  return {};
}
Ty Decoder::take_type() {
  for (size_t k = 0; k < s_->mods.size(); ++k) {
    if (taken_ >> k & 1) continue;
    Ty t = parse_type(s_->mods[k]);
    if (t != Ty::kNone) return taken_ |= 1ull << k, t;
  }
  return Ty::kNone;
}
sv Decoder::take_next() {
  for (size_t k = 0; k < s_->mods.size(); ++k)
    if (!(taken_ >> k & 1)) return taken_ |= 1ull << k, s_->mods[k];
  return {};
}

int32_t Decoder::alloc(int bytes) {
  const int a = std::min(std::max(bytes, 4), 64);
  program_.arena_bytes = static_cast<int32_t>(align_up(program_.arena_bytes, a));
  const int32_t at = program_.arena_bytes;
  program_.arena_bytes += bytes;
  return at;
}
int32_t Decoder::scratch(int width) { return alloc(width ? 32 * width : 4); }

int32_t Decoder::constant(uint64_t bits, int width) {
  if (width < 8 && width > 0) bits &= (1ull << (8 * width)) - 1;
  int32_t& r = const_rows_[std::to_string(bits) + "/" + std::to_string(width)];
  if (!r) {
    r = scratch(width);
    program_.consts.push_back({r, width, bits});
  }
  return r;
}

int32_t Decoder::special(const std::string& name) {
  int32_t& r = special_rows_[name];
  if (!r) {
    r = scratch(4);
    program_.specials.push_back({r, name});
  }
  return r;
}

int32_t Decoder::reg_row(int32_t reg) {
  int32_t& r = frame_->regs[reg];
  if (r < 0) r = scratch(size_of(f_->regs[reg]));
  return r;
}
Ty Decoder::reg_type(const Operand& o) const { return o.kind == Operand::kReg ? f_->regs[o.reg] : Ty::kNone; }

int32_t Decoder::src(const Operand& o, Ty t) {
  if (o.kind == Operand::kF32 && t == Ty::kF64) {
    float f;
    memcpy(&f, &o.bits, 4);
    double d = f;
    uint64_t u;
    memcpy(&u, &d, 8);
    return constant(u, 8);
  }
  if (o.kind == Operand::kF64 && size_of(t) == 4) {
    double d;
    memcpy(&d, &o.bits, 8);
    float f = static_cast<float>(d);
    uint32_t u;
    memcpy(&u, &f, 4);
    return constant(u, 4);
  }
  return src(o, size_of(t));
}

int32_t Decoder::src(const Operand& o, int width) {
  switch (o.kind) {
    case Operand::kReg:
      if (size_of(f_->regs[o.reg]) != width) unsupported("register of another size");
      if (width == 0) return src_pred(o);
      return reg_row(o.reg);
    case Operand::kInt:
    case Operand::kF32:
    case Operand::kF64: return constant(static_cast<uint64_t>(o.bits), width);
    case Operand::kVar: return constant(address_of(o.var) + o.bits, width);
    case Operand::kSpecial: {
      if (width == 4) return special(std::string(o.name));
      unsupported("special register of another size");
    }
    default: unsupported("operand");
  }
}

int32_t Decoder::dst(const Operand& o, int width) {
  if (o.kind == Operand::kSink) return scratch(width);
  if (o.kind != Operand::kReg || size_of(f_->regs[o.reg]) != width) unsupported("destination");
  return reg_row(o.reg);
}

int32_t Decoder::src_pred(const Operand& o) {
  if (o.kind == Operand::kInt) {
    int32_t& r = const_rows_[o.bits ? "true" : "false"];
    if (!r) r = scratch(0), program_.consts.push_back({r, 0, o.bits ? ~0u : 0u});
    return r;
  }
  if (o.kind != Operand::kReg || f_->regs[o.reg] != Ty::kPred) unsupported("predicate");
  if (!o.negated) return reg_row(o.reg);
  const int32_t r = scratch(0);
  emit(op_not_pred, r, reg_row(o.reg));
  return r;
}
int32_t Decoder::dst_pred(const Operand& o) {
  if (o.kind == Operand::kSink) return scratch(0);
  if (o.kind != Operand::kReg || f_->regs[o.reg] != Ty::kPred) unsupported("predicate destination");
  return reg_row(o.reg);
}
int32_t Decoder::carry() {
  if (frame_->carry < 0) frame_->carry = scratch(0);
  return frame_->carry;
}

uint64_t Decoder::alloc_local(const Var& v) {
  program_.local_bytes = static_cast<int32_t>(align_up(program_.local_bytes, v.align));
  const uint64_t at = kLocalBase + program_.local_bytes;
  program_.local_bytes += static_cast<int32_t>(v.size);
  return at;
}

// Gives a variable of this program its address.
uint64_t Decoder::place(int index) {
  const Var& v = var(index);
  if (v.space == Space::kLocal || v.space == Space::kParam) return alloc_local(v);  // .param of entries is placed by run()
  if (v.space != Space::kShared) unsupported("variable " + std::string(v.name));
  // A gap between variables catches what runs over; it is a multiple of 128 bytes, so that banks stay what they are.
  int64_t end = 0;
  for (auto& s : program_.shared) end = std::max(end, s.offset + s.size);
  if (v.external) {
    program_.shared.push_back({std::string(v.name), -1, -1});
    return 0;
  }
  int64_t packed = align_up(program_.static_shared, v.align);
  int64_t at = program_.shared.empty() ? 0 : align_up(end + 128, 128) + packed % 128;
  at = align_up(at, v.align);
  program_.static_shared = packed + v.size;
  program_.shared.push_back({std::string(v.name), at, v.size});
  return kSharedBase + at;
}

Space Decoder::space_of(int index) const {
  const Var& v = var(index);
  if (v.space == Space::kParam) {
    const bool formal = f_->entry && std::find(f_->params.begin(), f_->params.end(), index) != f_->params.end();
    return formal ? Space::kParam : Space::kLocal;
  }
  return v.space;
}

uint64_t Decoder::address_of(int index) {
  auto g = module_.addresses.find(index);
  if (g != module_.addresses.end()) return g->second;
  auto& owner = var(index).space == Space::kShared ? frames_[nullptr] : *frame_;
  auto it = owner.vars.find(index);
  if (it != owner.vars.end()) return it->second;
  if (var(index).space == Space::kShared && var(index).external) unsupported("dynamic shared memory of a function");
  const uint64_t at = place(index);
  owner.vars[index] = at;
  return at;
}

void Decoder::emit(Fn fn, int32_t d, int32_t a, int32_t b, int32_t c, int64_t imm) {
  Ins i;
  i.fn = fn, i.d = d, i.a = a, i.b = b, i.c = c, i.imm = imm;
  program_.code.push_back(i);
  Meta m;
  m.line = s_ ? s_->line : 0;
  if (s_) m.text = s_->text;
  m.block = program_.num_blocks - 1;
  program_.meta.push_back(m);
}
void Decoder::count(Cls cls, int amount) {
  program_.meta.back().cls = cls;
  program_.meta.back().amount = static_cast<uint16_t>(amount);
}
void Decoder::emit_branch(Fn fn, int32_t p, sv label) {
  emit(fn, 0, p);
  fixups_.push_back({program_.code.size() - 1, nullptr, f_, label, s_->scope});
}
void Decoder::emit_jump_table(Fn fn, int32_t index, const Stmt& targets) {
  program_.tables.emplace_back(targets.names.size() - 1);
  auto& t = program_.tables.back();
  emit(fn, 0, index, static_cast<int32_t>(t.size()), 0, reinterpret_cast<int64_t>(t.data()));
  for (size_t k = 0; k < t.size(); ++k) fixups_.push_back({0, &t[k], f_, targets.names[k + 1], targets.scope});
}
const Stmt* Decoder::targets(sv name) const {
  for (int scope = s_->scope; scope >= 0; scope = f_->scope_parents[scope])
    for (auto& s : f_->body)
      if (s.kind == Stmt::kTargets && s.names[0] == name && s.scope == scope) return &s;
  unsupported("no targets of this name");
}

void Decoder::head() {
  if (!head_due_) return;
  head_due_ = false;
  ++program_.num_blocks;
  emit(op_head, 0, 0, 0, 0, program_.num_blocks - 1);
}

void Decoder::instruction(const Stmt& s) {
  s_ = &s;
  taken_ = 0;
  head();
  const size_t first = program_.meta.size();
  Rule rule = nullptr;
  auto any = rules().any.find(s.op);
  if (any != rules().any.end()) {
    rule = any->second;
  } else {
    Ty t = Ty::kNone;
    for (size_t k = s.mods.size(); k-- > 0 && t == Ty::kNone;) t = parse_type(s.mods[k]);
    const bool half = t == Ty::kF16 || t == Ty::kF16x2 || t == Ty::kBF16 || t == Ty::kBF16x2;
    auto& table = half ? rules().half : t == Ty::kF32 || t == Ty::kF64 || t == Ty::kF32x2 ? rules().real : rules().integer;
    auto it = table.find(s.op);
    if (it != table.end()) rule = it->second;
  }
  if (!rule) unsupported();

  // What may stop or wait: a false predicate takes lanes around it.
  static const std::unordered_map<sv, int> control = {
      {"bra", 0},   {"ret", 0},   {"exit", 0}, {"call", 0},     {"bar", 0},      {"barrier", 0}, {"brx", 0},       {"shfl", 0}, {"vote", 0},
      {"match", 0}, {"redux", 0}, {"mma", 0},  {"ldmatrix", 0}, {"stmatrix", 0}, {"trap", 0},    {"movmatrix", 0}, {"elect", 0}};
  if (s.pred < 0) {
    rule(*this);
  } else if (s.op == "bra") {
    rule(*this);                     // takes care of its predicate
  } else if (control.count(s.op)) {  // around it
    emit(s.pred_negated ? op_bra : op_bra_not, 0, reg_row(s.pred));
    const size_t at = program_.code.size() - 1;
    count(kControl);
    head_due_ = true, head();
    rule(*this);
    head_due_ = true, head();
    fixups_.push_back({at, reinterpret_cast<int64_t*>(program_.code.size() - 1), nullptr, {}, 0});
  } else {
    emit(op_predicate, 0, reg_row(s.pred), s.pred_negated ? -1 : 0);
    const size_t at = program_.code.size() - 1;
    rule(*this);
    emit(op_unpredicate);
    program_.code[at].imm = static_cast<int64_t>(program_.code.size() - at);
  }
  if (first < program_.meta.size()) program_.meta[first].leading = true;
  for (size_t k = 0; k < s.mods.size(); ++k)
    if (!(taken_ >> k & 1)) unsupported("modifier ." + std::string(s.mods[k]));
}

void Decoder::call(sv name, const Operand* returns, const Operand* params) {
  auto it = module_.ast->by_name.find(name);
  if (it == module_.ast->by_name.end()) unsupported("indirect call");
  FunctionAst* callee = it->second;
  if (!callee->defined) {
    if (name == "__assertfail") return emit(op_trap, 0, 0, 0, 0, 1), count(kControl);
    if (name == "vprintf") return;  // prints nothing; its result is never used
    unsupported("external function");
  }
  callees_[f_].insert(callee);
  if (frames_.find(callee) == frames_.end()) {
    Frame& fr = frames_[callee];
    fr.regs.assign(callee->regs.size(), -1);
    for (auto* list : {&callee->params, &callee->returns})
      for (int v : *list) fr.vars[v] = alloc_local(var(v));
    pending_.push_back(callee);
  }
  Frame& fr = frames_[callee];
  auto copy = [&](const Operand& actual, int formal, bool in) {
    if (actual.kind != Operand::kVar || var(actual.var).size < var(formal).size) unsupported("argument");
    const int32_t x = static_cast<int32_t>(address_of(actual.var) - kLocalBase), y = static_cast<int32_t>(fr.vars[formal] - kLocalBase);
    emit(op_copy_param, 0, in ? x : y, in ? y : x, 0, var(formal).size);
  };
  const size_t nparams = params ? params->elems.size() : 0, nreturns = returns ? returns->elems.size() : 0;
  if (nparams != callee->params.size() || nreturns != callee->returns.size()) unsupported("number of arguments");
  for (size_t k = 0; k < nparams; ++k) copy(params->elems[k], callee->params[k], true);
  emit(op_call);
  count(kControl);
  fixups_.push_back({program_.code.size() - 1, nullptr, callee, "$start", -1});
  head_due_ = true, head();
  for (size_t k = 0; k < nreturns; ++k) copy(returns->elems[k], callee->returns[k], false);
}

void Decoder::function(FunctionAst& f) {
  f_ = &f;
  frame_ = &frames_[&f];
  auto& labels = labels_[&f];
  head_due_ = true;
  s_ = nullptr;
  head();
  labels[{"$start", -1}] = program_.code.size() - 1;
  for (auto& s : f.body) {
    if (s.kind == Stmt::kTargets) continue;
    if (s.kind == Stmt::kLabel) {
      head_due_ = program_.code.empty() || program_.code.back().fn != op_head;
      s_ = nullptr;
      head();
      if (!labels.emplace(std::make_pair(s.names[0], s.scope), program_.code.size() - 1).second)
        throw Unsupported("line " + std::to_string(s.line) + ": label " + std::string(s.names[0]) + " twice in " + std::string(f.name));
      continue;
    }
    instruction(s);
  }
  head_due_ = true;
  head();
  emit(f.entry ? op_exit : op_ret);
  program_.registers += static_cast<int32_t>(f.regs.size());
}

void Decoder::check_depth(FunctionAst& f, size_t depth) {
  if (depth >= std::extent_v<decltype(Group::stack)>) throw Unsupported(std::string(f.name) + ": recursion, or calls too deep");
  for (auto* c : callees_[&f]) check_depth(*c, depth + 1);
}

void Decoder::run(FunctionAst& entry) {
  program_.name = std::string(entry.name);
  program_.max_threads = entry.max_threads;
  std::copy(entry.required, entry.required + 3, program_.required);
  program_.arena_bytes = 64;  // row 0 is no row
  f_ = &entry;
  frames_[nullptr];
  Frame& fr = frames_[&entry];
  frame_ = &fr;
  fr.regs.assign(entry.regs.size(), -1);
  int64_t at = 0;
  for (int v : entry.params) {
    at = align_up(at, var(v).align);
    fr.vars[v] = kParamBase + at;
    at += var(v).size;
  }
  program_.param_bytes = static_cast<int32_t>(at);
  // Static shared variables are placed first, so that the address of the dynamic part is known.
  std::vector<FunctionAst*> reach = {&entry};
  std::vector<int> dynamic;
  for (size_t k = 0; k < reach.size(); ++k) {
    f_ = reach[k];
    for (auto& s : reach[k]->body) {
      s_ = &s;
      for (auto& o : s.ops) {
        auto visit = [&](const Operand& x, auto& self) -> void {
          if ((x.kind == Operand::kVar || x.kind == Operand::kAddress) && x.var >= 0 && var(x.var).space == Space::kShared) {
            if (!var(x.var).external) address_of(x.var);
            else if (std::find(dynamic.begin(), dynamic.end(), x.var) == dynamic.end()) dynamic.push_back(x.var);
          }
          for (auto& e : x.elems) self(e, self);
        };
        visit(o, visit);
        if (s.op == "call" && o.kind == Operand::kName) {
          auto it = module_.ast->by_name.find(o.name);
          if (it != module_.ast->by_name.end() && std::find(reach.begin(), reach.end(), it->second) == reach.end())
            reach.push_back(it->second);
        }
      }
    }
  }
  int64_t end = 0, align = 16;
  for (auto& s : program_.shared) end = std::max(end, s.offset + s.size);
  for (int v : dynamic) align = std::max<int64_t>(align, var(v).align);
  program_.dynamic_offset = program_.shared.empty() ? 0 : align_up(end + 128, std::max<int64_t>(align, 128));
  program_.static_shared = dynamic.empty() ? program_.static_shared : align_up(program_.static_shared, align);
  for (int v : dynamic) frames_[nullptr].vars[v] = kSharedBase + program_.dynamic_offset;
  program_.shared.push_back({dynamic.empty() ? "dynamic shared memory" : std::string(var(dynamic[0]).name), program_.dynamic_offset, -1});

  f_ = &entry;
  function(entry);
  while (!pending_.empty()) {
    FunctionAst* f = pending_.back();
    pending_.pop_back();
    function(*f);
  }
  check_depth(entry, 0);
  for (auto& x : fixups_) {
    size_t to;
    if (!x.f) {
      to = reinterpret_cast<size_t>(x.slot);
      program_.code[x.ins].imm = reinterpret_cast<int64_t>(&program_.code[to]);
      continue;
    }
    auto& labels = labels_[x.f];
    auto it = labels.find({x.label, x.scope});
    for (int scope = x.scope; it == labels.end() && scope >= 0;) scope = x.f->scope_parents[scope], it = labels.find({x.label, scope});
    if (it == labels.end()) throw Unsupported("label " + std::string(x.label) + " is not in " + std::string(x.f->name));
    to = it->second;
    (x.slot ? *x.slot : program_.code[x.ins].imm) = reinterpret_cast<int64_t>(&program_.code[to]);
  }
}

std::unique_ptr<Module> load_module(std::string text) {
  auto m = std::make_unique<Module>();
  m->ast = parse(std::move(text));
  auto& vars = m->ast->vars;
  for (auto& [name, v] : m->ast->globals) {
    if (vars[v].space == Space::kShared) continue;
    const int64_t n = std::max<int64_t>(vars[v].size, 1);
    Module::Storage s;
    s.name = std::string(name);
    s.memory.reset(new uint8_t[n + 256]());
    s.address = static_cast<uint64_t>(align_up(reinterpret_cast<int64_t>(s.memory.get()), 256));
    s.size = vars[v].size;
    s.constant = vars[v].space == Space::kConst;
    if (!vars[v].init.empty()) memcpy(reinterpret_cast<void*>(s.address), vars[v].init.data(), vars[v].init.size());
    m->addresses[v] = s.address;
    m->storage.push_back(std::move(s));
  }
  for (auto& [name, v] : m->ast->globals) {
    for (auto& r : vars[v].relocs) {
      auto it = m->ast->globals.find(r.symbol);
      if (it == m->ast->globals.end() || vars[it->second].space == Space::kShared)
        throw Unsupported("address of " + std::string(r.symbol) + " in an initialiser");
      const uint64_t value = m->addresses[it->second] + r.addend;
      memcpy(reinterpret_cast<void*>(m->addresses[v] + r.offset), &value, 8);
    }
  }
  for (auto& f : m->ast->functions) {
    if (!f->entry || !f->defined) continue;
    auto p = std::make_unique<Program>();
    Decoder(*m, *p).run(*f);
    m->by_name[p->name] = p.get();
    m->programs.push_back(std::move(p));
  }
  return m;
}

}  // namespace exe
