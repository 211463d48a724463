// PTX text → statements. Registers and variables are resolved here (scopes end here); what an opcode means is the decoder's business.
#pragma once
#include <memory>
#include <unordered_map>
#include <vector>

#include "types.h"

namespace exe {

struct Var {
  sv name;
  Space space;
  int align = 1;
  int64_t size = 0;
  bool external = false;  // .extern .shared: the dynamic part
  std::vector<uint8_t> init;
  struct Reloc {
    int64_t offset;
    sv symbol;
    int64_t addend;
    bool generic;
  };
  std::vector<Reloc> relocs;
};

struct Operand {
  enum Kind : uint8_t { kReg, kSpecial, kInt, kF32, kF64, kVar, kAddress, kVector, kName, kSink } kind = kSink;
  bool negated = false;        // !%p
  int32_t reg = -1;            // kReg; the base register of kAddress (-1: none)
  int32_t reg2 = -1;           // the second destination of %r|%p
  int32_t var = -1;            // kVar; the base variable of kAddress
  int64_t bits = 0;            // the constant; the offset of kVar and kAddress
  sv name;                     // kSpecial, kName (labels, functions)
  std::vector<Operand> elems;  // kVector
};

struct Stmt {
  enum Kind : uint8_t { kInstruction, kLabel, kTargets } kind = kInstruction;
  bool pred_negated = false;
  int32_t pred = -1;
  int line = 0;
  int scope = 0;  // of the labels it sees: those of this block and of the ones around it
  sv text;        // the whole instruction, as written
  sv op;          // "add", of add.rn.f32
  std::vector<sv> mods;
  std::vector<Operand> ops;
  std::vector<sv> names;  // kLabel: its name; kTargets: its name, then the labels
};

struct FunctionAst {
  sv name;
  bool entry = false, defined = false;
  int line = 0;
  std::vector<int> params, returns;  // variables
  std::vector<Ty> regs;
  std::vector<Stmt> body;
  std::vector<int> scope_parents;  // of each block; -1: the function
  int max_threads = 0;             // .maxntid
  int required[3] = {0, 0, 0};     // .reqntid
};

struct ModuleAst {
  std::string text;
  std::vector<Var> vars;
  std::unordered_map<sv, int> globals;  // module-scope variables
  std::vector<std::unique_ptr<FunctionAst>> functions;
  std::unordered_map<sv, FunctionAst*> by_name;
  int target = 0;  // 80 of sm_80
};

// Throws Unsupported.
std::unique_ptr<ModuleAst> parse(std::string text);

}  // namespace exe
