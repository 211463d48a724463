// Interprets compiled programs, one tile after the other.
#include <algorithm>

#include "cpu/vm_impl.h"

namespace ptrt::PTRT_LEVEL {
namespace {

struct View {  // an operand as this run sees it
  const char* data;
  int64_t row, col;  // strides in bytes
  enum Mode : int32_t { kScalar, kRowScalar, kDirect, kPinned, kGather } mode;
};

void count_up(int64_t first, int64_t step, int64_t n, char* out) {
  vl v, more = vl{} + step * WD;
  for (int64_t i = 0; i < WD; i++) v[i] = first + i * step;
  int64_t i = 0;
  for (; i + WD <= n; i += WD, v += more) std::memcpy(out + i * 8, &v, sizeof v);
  std::memcpy(out + i * 8, &v, static_cast<size_t>(n - i) * 8);
}

struct Live {  // a value in this run
  const char* p;
  bool scalar;
  char one[16];  // the value itself, if it is scalar
};

// The state of one run. Blocks are turned so that columns are the faster axis of the output, merged into one row where every operand
// permits, and cut into tiles of tile_rows x tile_cols elements: pieces of one row, several whole rows, or squares if an operand is
// transposed.
class Run {
 public:
  Run(const Vm::Impl& p, int64_t rows, int64_t cols, const Block* ins, const Block& acc, const Block& out, char* scratch, const Iota* iota)
      : p_(p), rows_(rows), cols_(cols), out_(static_cast<char*>(out.data)), out_size_(p.values[static_cast<size_t>(p.root)].size) {
    live_ = reinterpret_cast<Live*>(scratch);
    views_ = reinterpret_cast<View*>(live_ + p.values.size());
    iotas_ = reinterpret_cast<Iota*>(views_ + p.in_size.size());
    slots_ = scratch + header_bytes(p);
    out_row_ = out.row_stride * out_size_, out_col_ = out.col_stride * out_size_;
    for (size_t k = 0; k < p.in_size.size(); k++) {
      if (!p.in_size[k]) continue;
      const Block& b = k + 1 == p.in_size.size() ? acc : ins[k];
      views_[k] = {static_cast<const char*>(b.data), b.row_stride * p.in_size[k], b.col_stride * p.in_size[k], View::kGather};
    }
    for (size_t v = 0; v < p.values.size(); v++)
      if (p.values[v].kind == Value::kIota) iotas_[v] = iota[p.values[v].index];
    const bool turn = rows_ > 1 && (cols_ == 1 || std::abs(out_row_) < std::abs(out_col_) || (cols_ < 16 && rows_ >= 64 && by_rows()));
    if (turn) swap_axes();
    merge_rows();
  }

  static size_t header_bytes(const Vm::Impl& p) {
    return (p.values.size() * (sizeof(Live) + sizeof(Iota)) + p.in_size.size() * sizeof(View) + 63) & ~size_t{63};
  }

  void go() {
    if (p_.steps.empty() && value(p_.root).kind == Value::kInput) return copy();
    if (!p_.table.empty()) return look_up();
    choose_tiles();
    for (int64_t r = 0; r < rows_; r += tile_rows_) {
      const int64_t nr = std::min(tile_rows_, rows_ - r);
      if (r == 0 || row_scalars_) start_row(r);
      if (live_[p_.root].scalar) {
        if (nr == 1 && out_col_ == out_size_) fill_n(out_size_, cols_, live_[p_.root].p, out_ + r * out_row_);
        else copy2d(out_size_, nr, cols_, live_[p_.root].p, 0, 0, out_ + r * out_row_, out_row_ / out_size_, out_col_ / out_size_);
        continue;
      }
      for (int64_t c = 0; c < cols_; c += tile_cols_) tile(r, nr, c, std::min(tile_cols_, cols_ - c));
    }
  }

 private:
  const Value& value(int v) const { return p_.values[static_cast<size_t>(v)]; }
  char* slot(int k) const { return slots_ + static_cast<size_t>(k) * p_.slot_bytes; }
  template <class F>
  void each_view(F f) {
    for (size_t k = 0; k < p_.in_size.size(); k++)
      if (p_.in_size[k]) f(views_[k], static_cast<int64_t>(p_.in_size[k]));
  }
  template <class F>
  void each_iota(F f) {
    for (size_t v = 0; v < p_.values.size(); v++)
      if (p_.values[v].kind == Value::kIota) f(iotas_[v]);
  }

  // Is every operand contiguous along rows, and none along columns?
  bool by_rows() {
    bool all = !p_.steps.empty();
    each_view([&](View& v, int64_t size) { all &= (v.row == size && std::abs(v.col) > size) || (v.row == 0 && v.col == 0); });
    each_iota([&](Iota&) { all = false; });
    return all;
  }

  void look_up() {
    each_view([&](View& v, int64_t) {
      const int64_t row = out_row_ / out_size_;
      if (v.col == 1 && out_col_ == out_size_) return p_.table.look_up(rows_, cols_, v.data, v.row, out_, row);
      if (out_size_ == 1 && out_col_ == 1) {  // transposed
        copy2d(1, rows_, cols_, v.data, v.row, v.col, out_, row, 1);
        return p_.table.look_up(rows_, cols_, out_, row, out_, row);
      }
      for (int64_t r = 0; r < rows_; r++)  // a column of one-element rows each
        p_.table.look_up(cols_, 1, v.data + r * v.row, v.col, out_ + r * out_row_, out_col_ / out_size_);
    });
  }

  void swap_axes() {
    std::swap(rows_, cols_);
    std::swap(out_row_, out_col_);
    each_view([](View& v, int64_t) { std::swap(v.row, v.col); });
    each_iota([](Iota& i) { std::swap(i.row_step, i.col_step); });
  }

  void merge_rows() {
    if (rows_ == 1) return;
    bool ok = out_row_ == out_col_ * cols_;
    each_view([&](View& v, int64_t) { ok &= v.row == v.col * cols_; });
    each_iota([&](Iota& i) { ok &= i.row_step == i.col_step * cols_; });
    if (ok) cols_ *= rows_, rows_ = 1;
  }

  void copy() {
    const int64_t s = out_size_;
    const View& v = views_[value(p_.root).index];
    if (rows_ == 1 && v.col == s && out_col_ == s) {
      if (out_ != v.data) std::memcpy(out_, v.data, static_cast<size_t>(cols_ * s));
      return;
    }
    copy2d(out_size_, rows_, cols_, v.data, v.row / s, v.col / s, out_, out_row_ / s, out_col_ / s);
  }

  void choose_tiles() {
    bool transposed = false, gathers = out_col_ != out_size_;
    each_view([&](View& v, int64_t size) {
      transposed |= rows_ > 1 && cols_ > 1 && v.row != 0 && std::abs(v.row) < std::abs(v.col);
      gathers |= v.col != size && v.col != 0;
    });
    each_iota([&](Iota&) { gathers = true; });
    if (transposed) {
      tile_cols_ = std::min<int64_t>(cols_, p_.tile / 16), tile_rows_ = std::min(rows_, p_.tile / tile_cols_);
    } else if (cols_ >= 128 || rows_ == 1) {
      tile_rows_ = 1;
      tile_cols_ = gathers || !one_pass() ? std::min(cols_, p_.tile) : cols_;
    } else {
      tile_cols_ = cols_;
      tile_rows_ = std::min(rows_, p_.tile / cols_);
    }
    const bool computed = !p_.steps.empty() || value(p_.root).kind == Value::kIota;
    out_direct_ = computed && out_col_ == out_size_ && (tile_rows_ == 1 || (tile_cols_ == cols_ && out_row_ == cols_ * out_size_));
    each_view([&](View& v, int64_t size) {
      const bool whole = tile_cols_ == cols_;
      if ((v.col == 0 || cols_ == 1) && (v.row == 0 || rows_ == 1)) {
        v.mode = View::kScalar;
      } else if (v.col == 0 && tile_rows_ == 1) {
        v.mode = View::kRowScalar;
        row_scalars_ = true;
      } else if (v.col == size && (tile_rows_ == 1 || (whole && v.row == cols_ * size))) {
        v.mode = View::kDirect;
      } else if (whole && v.row == 0 && tile_rows_ > 1) {
        v.mode = View::kPinned;
      } else {
        v.mode = View::kGather;
      }
    });
    for (size_t k = 0; k < p_.values.size(); k++) {
      const Value& v = p_.values[k];
      if (v.kind == Value::kInput && views_[v.index].mode == View::kPinned) {
        gather(views_[v.index], v, 0, tile_rows_, 0, cols_);
        live_[k].p = slot(v.slot);
      }
    }
  }

  // Is there one step alone whose arguments vary along a row, and does it take those that do not as they are?
  bool one_pass() {
    for (size_t k = 0; k < p_.values.size(); k++) {
      const Value& v = p_.values[k];
      live_[k].scalar = v.kind == Value::kConst || (v.kind == Value::kInput && (views_[v.index].col == 0 || cols_ == 1));
    }
    int passes = 0;
    for (const Step& s : p_.steps) {
      bool all = true, splat = false;
      for (int j = 0; j < s.n_args; j++) {
        all &= live_[s.arg[j]].scalar;
        splat |= live_[s.arg[j]].scalar && s.splat[j] >= 0;
      }
      live_[s.dst].scalar = all;
      if (!all && splat) return false;
      passes += !all;
    }
    return passes == 1;
  }

  void gather(const View& v, const Value& x, int64_t r, int64_t nr, int64_t c, int64_t nc) {
    copy2d(x.size, nr, nc, v.data + r * v.row + c * v.col, v.row / x.size, v.col / x.size, slot(x.slot), nc, 1);
  }

  // Finds the values that are the same for all elements of a row of tiles, and computes them once.
  void start_row(int64_t r) {
    for (size_t k = 0; k < p_.values.size(); k++) {
      const Value& v = p_.values[k];
      Live& l = live_[k];
      l.scalar = false;
      if (v.kind == Value::kConst) {
        l.p = reinterpret_cast<const char*>(&v.imm);
        l.scalar = true;
      } else if (v.kind == Value::kInput) {
        const View& in = views_[v.index];
        l.scalar = in.mode <= View::kRowScalar;
        if (l.scalar) l.p = in.data + r * in.row;
      } else if (v.kind == Value::kIota) {
        const Iota& i = iotas_[k];
        l.scalar = (i.col_step == 0 || cols_ == 1) && (i.row_step == 0 || rows_ == 1 || tile_rows_ == 1);
        if (!l.scalar) continue;
        row_scalars_ |= i.row_step != 0;
        const int64_t x = i.base + r * i.row_step;
        std::memcpy(l.one, &x, 8);
        l.p = l.one;
      }
    }
    for (const Step& s : p_.steps) {
      bool all = true;
      for (int j = 0; j < s.n_args; j++) all &= live_[s.arg[j]].scalar;
      Live& d = live_[s.dst];
      if (all) {
        d.scalar = true;
        d.p = d.one;
        Args a{d.one, {}, 1, (1u << s.n_args) - 1, {s.imm[0], s.imm[1]}};
        for (int j = 0; j < s.n_args; j++) a.a[j] = live_[s.arg[j]].p;
        s.fn(a);
        continue;
      }
      d.p = slot(value(s.dst).slot);
      for (int j = 0; j < s.n_args; j++)
        if (s.splat[j] >= 0 && live_[s.arg[j]].scalar)
          fill_n(value(s.arg[j]).size, std::min(tile_rows_ * tile_cols_, p_.tile), live_[s.arg[j]].p, slot(s.splat[j]));
    }
  }

  void tile(int64_t r, int64_t nr, int64_t c, int64_t nc) {
    char* const to = out_ + r * out_row_ + c * out_col_;
    for (size_t k = 0; k < p_.values.size(); k++) {
      const Value& v = p_.values[k];
      if (v.kind == Value::kInput) {
        const View& in = views_[v.index];
        if (in.mode == View::kDirect) {
          live_[k].p = in.data + r * in.row + c * in.col;
        } else if (in.mode == View::kGather) {
          gather(in, v, r, nr, c, nc);
          live_[k].p = slot(v.slot);
        }
      } else if (v.kind == Value::kIota && !live_[k].scalar) {
        const Iota& i = iotas_[k];
        live_[k].p = slot(v.slot);
        const bool direct = out_direct_ && p_.steps.empty();
        if (!direct && i.row_step == 0 && r > 0 && tile_rows_ == 1 && tile_cols_ == cols_) continue;  // as in the row before
        char* o = direct ? to : slot(v.slot);
        for (int64_t y = 0; y < nr; y++, o += nc * 8) count_up(i.base + (r + y) * i.row_step + c * i.col_step, i.col_step, nc, o);
      }
    }
    for (const Step& s : p_.steps) {
      const Live& d = live_[s.dst];
      if (d.scalar) continue;
      Args a{const_cast<char*>(d.p), {}, nr * nc, 0, {s.imm[0], s.imm[1]}};
      if (out_direct_ && s.dst == p_.root) a.o = to;
      for (int j = 0; j < s.n_args; j++) {
        const Live& x = live_[s.arg[j]];
        const bool splat = x.scalar && s.splat[j] >= 0;
        a.a[j] = splat ? slot(s.splat[j]) : x.p;
        if (x.scalar && !splat) a.scalar |= 1u << j;
      }
      s.fn(a);
    }
    if (!out_direct_) copy2d(out_size_, nr, nc, live_[p_.root].p, nc, 1, to, out_row_ / out_size_, out_col_ / out_size_);
  }

  const Vm::Impl& p_;
  int64_t rows_, cols_;
  char* out_;
  int out_size_;
  int64_t out_row_, out_col_;
  int64_t tile_rows_ = 1, tile_cols_ = 1;
  bool out_direct_ = false, row_scalars_ = false;
  Live* live_;
  View* views_;
  Iota* iotas_;
  char* slots_;
};

}  // namespace

size_t Vm::scratch_bytes() const { return Run::header_bytes(*impl_) + static_cast<size_t>(impl_->slots) * impl_->slot_bytes; }

void Vm::run(int64_t rows, int64_t cols, const Block* ins, Block acc, Block out, char* scratch, const Iota* iota) const {
  if (rows <= 0 || cols <= 0) return;
  Run(*impl_, rows, cols, ins, acc, out, scratch, iota).go();
}

}  // namespace ptrt::PTRT_LEVEL
