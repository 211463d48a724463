#include "parse.h"

#include <algorithm>

#include "lexer.h"

namespace exe {

Ty parse_type(sv s) {
  static const std::unordered_map<sv, Ty> table = {
      {"pred", Ty::kPred},   {"b8", Ty::kB8},       {"b16", Ty::kB16},       {"b32", Ty::kB32},       {"b64", Ty::kB64},
      {"b128", Ty::kB128},   {"u8", Ty::kU8},       {"u16", Ty::kU16},       {"u32", Ty::kU32},       {"u64", Ty::kU64},
      {"s8", Ty::kS8},       {"s16", Ty::kS16},     {"s32", Ty::kS32},       {"s64", Ty::kS64},       {"f16", Ty::kF16},
      {"f16x2", Ty::kF16x2}, {"bf16", Ty::kBF16},   {"bf16x2", Ty::kBF16x2}, {"tf32", Ty::kTF32},     {"f32", Ty::kF32},
      {"f64", Ty::kF64},     {"e4m3", Ty::kE4M3},   {"e5m2", Ty::kE5M2},     {"e4m3x2", Ty::kE4M3x2}, {"e5m2x2", Ty::kE5M2x2},
      {"u16x2", Ty::kU16x2}, {"s16x2", Ty::kS16x2}, {"f32x2", Ty::kF32x2}};
  auto it = table.find(s);
  return it == table.end() ? Ty::kNone : it->second;
}

namespace {

const std::unordered_map<sv, int>& specials() {
  static const std::unordered_map<sv, int> table = [] {
    std::unordered_map<sv, int> t;
    for (sv s : {"%tid.x",           "%tid.y",           "%tid.z",           "%ntid.x",         "%ntid.y",         "%ntid.z",
                 "%ctaid.x",         "%ctaid.y",         "%ctaid.z",         "%nctaid.x",       "%nctaid.y",       "%nctaid.z",
                 "%laneid",          "%warpid",          "%nwarpid",         "%smid",           "%nsmid",          "%gridid",
                 "%lanemask_eq",     "%lanemask_le",     "%lanemask_lt",     "%lanemask_ge",    "%lanemask_gt",    "%clock",
                 "%clock64",         "%clock_hi",        "%globaltimer",     "%globaltimer_lo", "%globaltimer_hi", "%dynamic_smem_size",
                 "%total_smem_size", "%cluster_ctarank", "%cluster_nctarank"})
      t.emplace(s, 0);
    return t;
  }();
  return table;
}

class Parser : Lexer {
 public:
  explicit Parser(ModuleAst& m) : Lexer(m.text), m_(m) {}

  void run() {
    for (skip(); p_ < end_; skip()) top_level();
  }

 private:
  struct Scope {
    std::unordered_map<sv, int> names;                       // single registers, and variables as ~index
    std::vector<std::pair<sv, std::pair<int, int>>> ranges;  // %r<54>: prefix → first register, how many
    int id = 0;
  };

  void top_level() {
    sv d = directive();
    if (d == "version" || d == "address_size" || d == "file" || d == "loc" || d == "alias") return to_eol();
    if (d == "target") {
      skip();
      const char* s = p_;
      to_eol();
      sv t(s, p_ - s);
      size_t at = t.find("sm_");
      m_.target = at == sv::npos ? 0 : atoi(t.data() + at + 3);
      return;
    }
    if (d == "section") {
      while (p_ < end_ && *p_ != '{') ++p_;
      while (p_ < end_ && *p_ != '}') ++p_;
      accept('}');
      return;
    }
    if (d == "pragma") {
      while (p_ < end_ && *p_ != ';') ++p_;
      return expect(';');
    }
    bool ext = false;
    while (d == "visible" || d == "extern" || d == "weak" || d == "common") ext |= d == "extern", d = directive();
    if (d == "entry" || d == "func") return function(d == "entry");
    if (d == "global" || d == "const" || d == "shared") {
      Space s = d == "global" ? Space::kGlobal : d == "const" ? Space::kConst : Space::kShared;
      do {
        int v = variable(s, ext);
        m_.globals[m_.vars[v].name] = v;
      } while (accept(','));
      return expect(';');
    }
    fail("directive");
  }

  // After the space's name: .align 4 .b8 name[16] = {...}
  int variable(Space space, bool ext) {
    Var v;
    v.space = space;
    v.external = ext;
    Ty type = Ty::kNone;
    int lanes = 1;
    for (;;) {
      skip();
      if (*p_ != '.') break;
      sv d = directive();
      if (d == "align") v.align = static_cast<int>(integer());
      else if (d == "v2") lanes = 2;
      else if (d == "v4") lanes = 4;
      else if (d == "ptr" || d == "global" || d == "shared" || d == "const" || d == "local" || d == "attribute") {
        if (d == "attribute") {
          expect('(');
          while (p_ < end_ && *p_ != ')') ++p_;
          expect(')');
        }
      } else {
        type = parse_type(d);
        if (type == Ty::kNone) fail("variable type ." + std::string(d));
      }
    }
    v.name = word();
    int64_t elem = std::max(size_of(type), 1) * lanes, n = 1;
    bool array = false;
    while (accept('[')) {
      array = true;
      skip();
      if (*p_ == ']') n = 0;
      else n *= integer();
      expect(']');
    }
    v.size = elem * n;
    // `.align` of a parameter's `.ptr` describes what it points to, not where it lies
    v.align = space == Space::kParam && !array ? static_cast<int>(elem) : std::max(v.align, static_cast<int>(elem));
    if (accept('=')) {
      if (array) {
        expect('{');
        init_list(v, size_of(type));
        if (n == 0) v.size = static_cast<int64_t>(v.init.size());
      } else {
        init_value(v, size_of(type));
      }
      v.init.resize(v.size);
    }
    m_.vars.push_back(std::move(v));
    return static_cast<int>(m_.vars.size()) - 1;
  }
  void init_list(Var& v, int elem) {
    if (accept('}')) return;
    do {
      if (accept('{')) init_list(v, elem);
      else init_value(v, elem);
    } while (accept(','));
    expect('}');
  }
  void init_value(Var& v, int elem) {
    skip();
    uint64_t bits = 0;
    if (digit(*p_) || *p_ == '-') {
      Operand o;
      number(o);
      bits = static_cast<uint64_t>(o.bits);
    } else {
      sv name = word();
      bool generic = name == "generic";
      if (generic) expect('('), name = word(), expect(')');
      Var::Reloc r{static_cast<int64_t>(v.init.size()), name, 0, generic};
      if (accept('+')) r.addend = integer();
      if (elem != 8) fail("address in an initialiser of less than 64 bits");
      v.relocs.push_back(r);
    }
    size_t at = v.init.size();
    v.init.resize(at + elem);
    memcpy(v.init.data() + at, &bits, elem);
  }

  void param_list(std::vector<int>& out) {
    expect('(');
    while (!accept(')')) {
      sv d = directive();
      if (d == "reg") fail("function parameter in a register");
      if (d != "param") fail("parameter");
      int v = variable(Space::kParam, false);
      out.push_back(v);
      scopes_.back().names[m_.vars[v].name] = ~v;
      accept(',');
    }
  }

  void function(bool entry) {
    auto f = std::make_unique<FunctionAst>();
    f->entry = entry;
    scopes_.assign(1, {});
    f_ = f.get();
    skip();
    if (*p_ == '(') param_list(f->returns);
    f->name = word();
    f->line = line_at(p_);
    skip();
    if (*p_ == '(') param_list(f->params);
    for (;;) {
      skip();
      if (*p_ != '.') break;
      sv d = directive();
      if (d == "maxntid" || d == "reqntid") {
        int n[3] = {1, 1, 1}, k = 0;
        do n[k++] = static_cast<int>(integer());
        while (k < 3 && accept(','));
        f->max_threads = n[0] * n[1] * n[2];
        if (d == "reqntid") memcpy(f->required, n, sizeof n);
      } else if (d == "minnctapersm" || d == "maxnreg" || d == "maxnctapersm") integer();
      else if (d == "pragma") {
        while (p_ < end_ && *p_ != ';') ++p_;
        expect(';');
      } else if (d != "noreturn") fail("performance directive ." + std::string(d));
    }
    if (accept('{')) {
      f->defined = true;
      body();
    } else {
      expect(';');
    }
    auto it = m_.by_name.find(f->name);
    if (it != m_.by_name.end() && !f->defined) return;  // declared again
    m_.by_name[f->name] = f.get();
    m_.functions.push_back(std::move(f));
  }

  void open_scope() {
    const int parent = f_->scope_parents.empty() ? -1 : scopes_.back().id;
    scopes_.emplace_back();
    scopes_.back().id = static_cast<int>(f_->scope_parents.size());
    f_->scope_parents.push_back(parent);
  }
  void body() {
    size_t depth = scopes_.size();
    open_scope();
    while (scopes_.size() > depth) {
      skip();
      if (p_ >= end_) fail("end of the text inside a function");
      if (*p_ == '{') ++p_, open_scope();
      else if (*p_ == '}') ++p_, scopes_.pop_back();
      else if (*p_ == ';') ++p_;
      else if (*p_ == '.') local_directive();
      else statement();
    }
  }

  void local_directive() {
    const char* at = p_;
    sv d = directive();
    if (d == "reg") return registers();
    if (d == "loc" || d == "file") return to_eol();
    if (d == "pragma") {
      while (p_ < end_ && *p_ != ';') ++p_;
      return expect(';');
    }
    if (d == "local" || d == "shared" || d == "param") {
      Space s = d == "local" ? Space::kLocal : d == "shared" ? Space::kShared : Space::kParam;
      do {
        int v = variable(s, false);
        scopes_.back().names[m_.vars[v].name] = ~v;
      } while (accept(','));
      return expect(';');
    }
    p_ = at;
    fail("directive");
  }
  void registers() {
    sv d = directive();
    Ty type = parse_type(d);
    if (type == Ty::kNone) fail("register type ." + std::string(d));
    do {
      sv name = word();
      int n = 1;
      if (accept('<')) {
        n = static_cast<int>(integer());
        expect('>');
        scopes_.back().ranges.push_back({name, {static_cast<int>(f_->regs.size()), n}});
      } else {
        scopes_.back().names[name] = static_cast<int>(f_->regs.size());
      }
      f_->regs.insert(f_->regs.end(), n, type);
    } while (accept(','));
    expect(';');
  }

  // A register (≥ 0), a variable (~index), or kUnknown.
  static constexpr int kUnknown = INT32_MIN;
  int lookup(sv name) {
    size_t n = name.size();
    while (n > 0 && digit(name[n - 1])) --n;
    for (size_t s = scopes_.size(); s-- > 0;) {
      auto& sc = scopes_[s];
      if (!sc.names.empty()) {
        auto it = sc.names.find(name);
        if (it != sc.names.end()) return it->second;
      }
      if (n < name.size() && !sc.ranges.empty()) {
        for (auto& [prefix, range] : sc.ranges) {
          if (prefix.size() < n || name.compare(0, prefix.size(), prefix) != 0) continue;
          int i = 0;
          for (char c : name.substr(prefix.size())) {
            if (!digit(c)) {
              i = -1;
              break;
            }
            i = i * 10 + (c - '0');
          }
          if (i >= 0 && i < range.second) return range.first + i;
        }
      }
    }
    auto it = m_.globals.find(name);
    return it == m_.globals.end() ? kUnknown : ~it->second;
  }

  void operand(Operand& o) {
    skip();
    char c = *p_;
    if (c == '{') {
      ++p_;
      o.kind = Operand::kVector;
      do operand(o.elems.emplace_back());
      while (accept(','));
      return expect('}');
    }
    if (c == '[') {
      ++p_;
      operand(o);
      if (o.kind != Operand::kReg && o.kind != Operand::kVar && o.kind != Operand::kInt) fail("address");
      o.kind = Operand::kAddress;
      return expect(']');
    }
    if (c == '(') {  // the lists of call
      ++p_;
      o.kind = Operand::kVector;
      if (accept(')')) return;
      do operand(o.elems.emplace_back());
      while (accept(','));
      return expect(')');
    }
    if (c == '!') ++p_, o.negated = true, skip(), c = *p_;
    if (digit(c) || c == '-') {
      const char* at = p_;
      if (c == '-' && !digit(p_[1])) p_ = at, fail("operand");
      return number(o);
    }
    sv name = word();
    if (name == "_") {
      o.kind = Operand::kSink;
    } else {
      if (*p_ == '.' && name[0] == '%') {  // %tid.x
        const char* e = p_ + 1;
        while (e < end_ && word_char(*e)) ++e;
        name = sv(name.data(), e - name.data());
        p_ = e;
      }
      int id = lookup(name);
      if (id == kUnknown) {
        o.kind = specials().count(name) ? Operand::kSpecial : name == "WARP_SZ" ? Operand::kInt : Operand::kName;
        if (name == "WARP_SZ") o.bits = 32;
        if (o.kind == Operand::kName && name[0] == '%') p_ = name.data(), fail("register");
        o.name = name;
        return;
      }
      if (id >= 0) o.kind = Operand::kReg, o.reg = id;
      else o.kind = Operand::kVar, o.var = ~id;
    }
    skip();
    if (*p_ == '|') {
      ++p_;
      Operand q;
      operand(q);
      o.reg2 = q.kind == Operand::kReg ? q.reg : -1;
    } else if (*p_ == '+' && o.kind != Operand::kSink) {
      ++p_;
      skip();
      o.bits = integer();
    } else if (*p_ == '-' && o.kind != Operand::kSink) {
      o.bits = integer();
    }
  }

  void statement() {
    const char* start = p_;
    Stmt s;
    s.scope = scopes_.back().id;
    if (*p_ == '@') {
      ++p_;
      s.pred_negated = accept('!');
      int id = lookup(word());
      if (id < 0) fail("predicate");
      s.pred = id;
      skip();
    }
    const char* w = p_;
    sv op = word();
    skip_blanks();
    if (*p_ == ':' && p_[1] != ':') {
      ++p_;
      s.kind = Stmt::kLabel;
      s.names = {op};
      skip();
      const char* at = p_;
      if (*p_ == '.' && directive() == "branchtargets") {
        s.kind = Stmt::kTargets;
        do s.names.push_back(word());
        while (accept(','));
        expect(';');
      } else {
        p_ = at;
      }
      s.line = line_at(w);
      f_->body.push_back(std::move(s));
      return;
    }
    s.op = op;
    while (p_ < end_ && *p_ == '.') {
      const char* b = ++p_;
      while (p_ < end_ && (word_char(*p_) || (*p_ == ':' && p_[1] == ':') || (*p_ == ':' && p_[-1] == ':'))) ++p_;
      s.mods.push_back(sv(b, p_ - b));
    }
    s.line = line_at(w);
    skip();
    if (*p_ != ';') {
      do operand(s.ops.emplace_back());
      while (accept(','));
    }
    expect(';');
    s.text = sv(start, p_ - start);
    f_->body.push_back(std::move(s));
  }

  ModuleAst& m_;
  FunctionAst* f_ = nullptr;
  std::vector<Scope> scopes_;
};

}  // namespace

std::unique_ptr<ModuleAst> parse(std::string text) {
  auto m = std::make_unique<ModuleAst>();
  m->text = std::move(text);
  m->text.push_back('\n');
  Parser(*m).run();
  return m;
}

}  // namespace exe
