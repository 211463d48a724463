// Statements → instructions. Each family of opcodes registers rules next to its handlers.
#pragma once
#include <map>
#include <set>
#include <unordered_map>

#include "counters.h"
#include "state.h"

namespace exe {

class Decoder;
using Rule = void (*)(Decoder&);
// Rules by opcode; `add` and its like are looked up by the class of their type.
struct Rules {
  std::unordered_map<sv, Rule> any, integer, real, half;
};
void integer_rules(Rules& r);
void bit_rules(Rules& r);
void move_rules(Rules& r);
void real_rules(Rules& r);
void half_rules(Rules& r);
void compare_rules(Rules& r);
void convert_rules(Rules& r);
void memory_rules(Rules& r);
void atomic_rules(Rules& r);
void async_rules(Rules& r);
void control_rules(Rules& r);
void warp_rules(Rules& r);
void mma_rules(Rules& r);

class Decoder {
 public:
  Decoder(Module& module, Program& program) : module_(module), program_(program) {}
  void run(FunctionAst& entry);

  // The statement at hand.
  const Stmt& stmt() const { return *s_; }
  const Operand& op(size_t k) const;
  size_t num_ops() const { return s_->ops.size(); }
  bool take(sv mod);                            // whether the modifier is there; an instruction with modifiers nobody took is unsupported
  sv take_any(std::initializer_list<sv> mods);  // the one of these that is there, or ""
  Ty take_type();                               // the next modifier that is a type; kNone if there is none left
  sv take_next();                               // the next modifier of any kind that was not taken, or ""
  [[noreturn]] void unsupported(const std::string& why = "") const;

  // Rows of operands. Constants, special registers and addresses of variables get rows of their own.
  int32_t src(size_t k, int width) { return src(op(k), width); }
  int32_t src(const Operand& o, int width);
  int32_t src(size_t k, Ty t) { return src(op(k), t); }
  int32_t src(const Operand& o, Ty t);
  int32_t dst(size_t k, int width) { return dst(op(k), width); }
  int32_t dst(const Operand& o, int width);
  int32_t src_pred(const Operand& o);  // a predicate; !p and constants are put into one
  int32_t dst_pred(const Operand& o);
  int32_t reg_row(int32_t reg);
  Ty reg_type(const Operand& o) const;  // kNone: not a register
  int32_t constant(uint64_t bits, int width);
  int32_t special(const std::string& name);
  int32_t scratch(int width);    // a fresh row; width 0: a predicate
  uint64_t address_of(int var);  // state-space address of a variable
  Space space_of(int var) const;
  const Var& var(int v) const { return module_.ast->vars[v]; }
  int32_t carry();  // the predicate that holds the carry flag

  void emit(Fn fn, int32_t d = 0, int32_t a = 0, int32_t b = 0, int32_t c = 0, int64_t imm = 0);
  void count(Cls cls, int amount = 0);           // classifies the instruction emitted last
  void emit_branch(Fn fn, int32_t p, sv label);  // imm becomes the label's instruction
  void emit_jump_table(Fn fn, int32_t index, const Stmt& targets);
  void end_block() { head_due_ = true; }
  void call(sv name, const Operand* returns, const Operand* params);
  const Stmt* targets(sv name) const;
  Program& program() { return program_; }
  Module& module() { return module_; }
  FunctionAst& function() { return *f_; }
  int target() const { return module_.ast->target; }
  MemOp* mem_op() {
    program_.mem.emplace_back();
    program_.mem.back().site = program_.num_sites++;
    return &program_.mem.back();
  }
  bool in_entry() const { return f_->entry; }

 private:
  struct Frame {  // one function of the program
    std::vector<int32_t> regs;
    std::unordered_map<int, uint64_t> vars;
    size_t start = 0;
    int32_t carry = -1;
  };
  struct Fixup {
    size_t ins;
    int64_t* slot;  // nullptr: the instruction's imm
    FunctionAst* f;
    sv label;
    int scope;
  };
  void function(FunctionAst& f);
  void instruction(const Stmt& s);
  void head();
  int32_t alloc(int bytes);
  uint64_t alloc_local(const Var& v);
  uint64_t place(int var);
  void check_depth(FunctionAst& f, size_t depth);

  Module& module_;
  Program& program_;
  FunctionAst* f_ = nullptr;
  Frame* frame_ = nullptr;
  const Stmt* s_ = nullptr;
  uint64_t taken_ = 0;
  bool head_due_ = true;
  std::unordered_map<FunctionAst*, Frame> frames_;
  std::vector<FunctionAst*> pending_;
  std::unordered_map<FunctionAst*, std::set<FunctionAst*>> callees_;
  std::unordered_map<std::string, int32_t> const_rows_, special_rows_;
  std::unordered_map<const FunctionAst*, std::map<std::pair<sv, int>, size_t>> labels_;  // by name and scope
  std::vector<Fixup> fixups_;
};

void decode_warp_barrier(Decoder& d);  // bar.warp.sync

// Parses and decodes a module; throws Unsupported.
std::unique_ptr<Module> load_module(std::string text);

// Pseudo-instructions.
const Ins* op_head(Warp& w, const Ins* i);
const Ins* op_bra(Warp& w, const Ins* i);
const Ins* op_bra_not(Warp& w, const Ins* i);
const Ins* op_bra_always(Warp& w, const Ins* i);
const Ins* op_predicate(Warp& w, const Ins* i);
const Ins* op_unpredicate(Warp& w, const Ins* i);
const Ins* op_exit(Warp& w, const Ins* i);
const Ins* op_ret(Warp& w, const Ins* i);
const Ins* op_call(Warp& w, const Ins* i);
const Ins* op_trap(Warp& w, const Ins* i);
const Ins* op_copy_param(Warp& w, const Ins* i);
const Ins* op_not_pred(Warp& w, const Ins* i);

}  // namespace exe
