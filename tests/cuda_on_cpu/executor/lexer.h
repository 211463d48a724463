// The words, numbers and signs of PTX text.
#pragma once
#include <cstdlib>
#include <cstring>

#include "parse.h"

namespace exe {

inline bool word_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '$' || c == '%';
}
inline bool digit(char c) { return c >= '0' && c <= '9'; }

class Lexer {
 protected:
  explicit Lexer(const std::string& text) : text_(text), p_(text.data()), end_(p_ + text.size()) {}

  [[noreturn]] void fail(const std::string& what) {
    const char* e = p_;
    while (e < end_ && *e != '\n' && e - p_ < 80) ++e;
    throw Unsupported("line " + std::to_string(line_at(p_)) + ": " + what + " near '" + std::string(p_, e) + "'");
  }
  int line_at(const char* p) {  // lines are asked for in rising order, mostly
    if (p < line_pos_ || !line_pos_) line_pos_ = text_.data(), line_ = 1;
    while (line_pos_ < p) {
      const char* n = static_cast<const char*>(memchr(line_pos_, '\n', p - line_pos_));
      if (!n) break;
      line_pos_ = n + 1, ++line_;
    }
    return line_;
  }
  void skip() {
    for (;;) {
      while (p_ < end_ && (*p_ == ' ' || *p_ == '\t' || *p_ == '\n' || *p_ == '\r')) ++p_;
      if (p_ + 1 < end_ && p_[0] == '/' && p_[1] == '/') to_eol();
      else if (p_ + 1 < end_ && p_[0] == '/' && p_[1] == '*') {
        p_ += 2;
        while (p_ + 1 < end_ && !(p_[0] == '*' && p_[1] == '/')) ++p_;
        p_ += 2;
      } else return;
    }
  }
  void to_eol() {
    while (p_ < end_ && *p_ != '\n') ++p_;
  }
  bool accept(char c) {
    skip();
    if (p_ < end_ && *p_ == c) return ++p_, true;
    return false;
  }
  void expect(char c) {
    if (!accept(c)) fail(std::string("expected '") + c + "'");
  }
  sv word() {
    skip();
    const char* s = p_;
    while (p_ < end_ && word_char(*p_)) ++p_;
    if (s == p_) fail("expected a name");
    return sv(s, p_ - s);
  }
  sv directive() {  // the word after '.'
    skip();
    if (p_ >= end_ || *p_ != '.') return {};
    const char* save = p_++;
    const char* s = p_;
    while (p_ < end_ && word_char(*p_)) ++p_;
    if (s == p_) return p_ = save, sv();
    return sv(s, p_ - s);
  }
  int64_t integer() {
    Operand o;
    skip();
    number(o);
    if (o.kind != Operand::kInt) fail("expected an integer");
    return o.bits;
  }

  void number(Operand& o) {
    bool neg = false;
    const char* start = p_;
    if (*p_ == '-') neg = true, ++p_;
    if (p_[0] == '0' && (p_[1] == 'f' || p_[1] == 'F' || p_[1] == 'd' || p_[1] == 'D') && p_ + 9 < end_) {
      bool f = (p_[1] | 32) == 'f';
      char buf[17] = {};
      memcpy(buf, p_ + 2, f ? 8 : 16);
      o.kind = f ? Operand::kF32 : Operand::kF64;
      o.bits = static_cast<int64_t>(strtoull(buf, nullptr, 16));
      if (neg) o.bits ^= f ? 0x80000000ll : INT64_MIN;
      p_ += f ? 10 : 18;
      return;
    }
    char* e = nullptr;
    uint64_t v;
    if (p_[0] == '0' && (p_[1] | 32) == 'b') v = strtoull(p_ + 2, &e, 2);
    else v = strtoull(p_, &e, 0);
    if (e < end_ && (*e == '.' || ((*e | 32) == 'e' && !(p_[0] == '0' && (p_[1] | 32) == 'x')))) {
      double d = strtod(start, &e);
      memcpy(&o.bits, &d, 8);
      o.kind = Operand::kF64;
      p_ = e;
      return;
    }
    if (e == p_) fail("expected a number");
    p_ = e;
    if (p_ < end_ && *p_ == 'U') ++p_;
    o.kind = Operand::kInt;
    o.bits = static_cast<int64_t>(neg ? 0 - v : v);
  }

  void skip_blanks() {
    while (p_ < end_ && (*p_ == ' ' || *p_ == '\t')) ++p_;
  }

  const std::string& text_;
  const char *p_, *end_;

 private:
  const char* line_pos_ = nullptr;
  int line_ = 1;
};

}  // namespace exe
