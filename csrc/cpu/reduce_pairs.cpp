// Lanes run along the kept axis that `b` has and `a` lacks: a tile of rows of a times vectors of columns of b accumulates in registers what
// a program would write to memory and a reduction read back, and adds nothing up across lanes. Columns of b are packed like a product's,
// once for many rows of a.
//
// Bits: an element is the sum of stretches of k in order, which are added up in double; tiles and tasks change nothing.
#include "cpu/reduce_pairs.h"

#include <algorithm>

#include "cpu/reduce_vec.h"
#include "cpu/turn_rows.h"
#include "cpu/vm_ops.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kStretch = 64;     // of k in working precision
constexpr int64_t kLongest = 2048;   // k
constexpr int64_t kBlockRows = 512;  // of a per packed block of b
constexpr int64_t kSinkRows = 32;    // of results at a time
constexpr int64_t kMaxCols = 128;
constexpr int64_t kGrain = 1 << 17;  // terms per task, at least

enum class Term { product, square, abs, weighted, divided };  // of a - b; the last two: its square times or over a weight

template <class C>
struct PairArgs {
  const C *a, *w, *b;  // b: packed, k by k
  C* out;
  int64_t lda, ldw, ldb, ldo;  // from row to row
  int64_t ak, wk, K;           // from k to k
};

template <Term T, class V>
PTRT_INLINE void add_term(V& acc, V a, V b, V w) {
  if constexpr (T == Term::product) {
    acc += a * b;
  } else {
    const V d = a - b;
    if constexpr (T == Term::square) acc += d * d;
    if constexpr (T == Term::abs) acc += d < V{} ? -d : d;
    if constexpr (T == Term::weighted) acc += d * d * w;
    if constexpr (T == Term::divided) acc += d * d / w;
  }
}

template <class C, Term T, int MR, int NV>
PTRT_NOINLINE void pair_tile(const PairArgs<C>& g) {
  constexpr int L = kLanes<C>, LD = kLanes<double>;
  using V = Vec<C>;
  constexpr bool weighs = T == Term::weighted || T == Term::divided;
  double total[MR][NV * L];
  const C *a = g.a, *b = g.b, *w = g.w;
  const int64_t lda = g.lda, ldw = g.ldw, ak = g.ak, wk = g.wk, ldb = g.ldb;
  for (int64_t k0 = 0;; k0 += kStretch) {
    V acc[MR][NV];
    PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = V{};
    const int64_t run = std::min(kStretch, g.K - k0);
    for (int64_t k = 0; k < run; k++, a += ak, w += wk, b += ldb) {
      V bv[NV];
      PTRT_UNROLL for (int j = 0; j < NV; j++) {
        bv[j] = vload(b + j * L);
        PTRT_KEEP(bv[j]);
      }
      PTRT_UNROLL for (int i = 0; i < MR; i++) {
        const V av = vsplat(a[i * lda]), wv = weighs ? vsplat(w[i * ldw]) : V{};
        PTRT_UNROLL for (int j = 0; j < NV; j++) add_term<T>(acc[i][j], av, bv[j], wv);
      }
    }
    if (g.K <= kStretch) {
      PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) vstore(g.out + i * g.ldo + j * L, acc[i][j]);
      return;
    }
    PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) {
      C part[L];
      vstore(part, acc[i][j]);
      for (int l = 0; l < L; l += LD) {
        double* t = total[i] + j * L + l;
        const Vec<double> x = widened<double>(part + l);
        vstore<double>(t, k0 ? vload(t) + x : x);
      }
    }
    if (k0 + kStretch >= g.K) break;
  }
  for (int i = 0; i < MR; i++)
    for (int l = 0; l < NV * L; l += LD) narrowed<C, double>(g.out + i * g.ldo + l, vload(total[i] + l));
}

template <class C>
using PairTile = void (*)(const PairArgs<C>&);
constexpr int kRows = 4, kWide = kVecBytes == 64 ? 4 : 2;  // of the largest tile

template <class C>
constexpr int kVectors = sizeof(C) == 4 ? kWide : 1;  // (of doubles one, to keep the code small)

template <class C, Term T>
PairTile<C> pick(bool rows, bool wide) {
  if constexpr (kVectors<C> == 1) return rows ? pair_tile<C, T, kRows, 1> : pair_tile<C, T, 1, 1>;
  else if (rows) return wide ? pair_tile<C, T, kRows, kWide> : pair_tile<C, T, kRows, 1>;
  else return wide ? pair_tile<C, T, 1, kWide> : pair_tile<C, T, 1, 1>;
}
template <class C>
PairTile<C> pick(Term t, bool rows, bool wide) {
  switch (t) {
    case Term::product: return pick<C, Term::product>(rows, wide);
    case Term::square: return pick<C, Term::square>(rows, wide);
    case Term::abs: return pick<C, Term::abs>(rows, wide);
    case Term::weighted: return pick<C, Term::weighted>(rows, wide);
    default: return pick<C, Term::divided>(rows, wide);
  }
}

struct PairForm {
  Term term = Term::product;
  int a = -1, b = -1, w = -1;        // operands of the prologue
  int rows = -1, cols = -1, k = -1;  // axes: of a alone, of b alone, reduced
};

// Is the prologue one of the terms, under a sum?
bool read_term(const LaunchDesc& d, ReduceOp op, PairForm* f) {
  const Expr& e = d.prologue;
  if (e.empty()) return false;
  const auto is = [&](int k, Op o) { return e[static_cast<size_t>(k)].op == static_cast<int32_t>(o); };
  const auto arg = [&](int k, int j) { return e[static_cast<size_t>(k)].args[j]; };
  for (const Instr& i : e)
    if (i.dtype != d.ins[0].dtype) return false;
  const bool squares = op == ReduceOp::sum_square_ || op == ReduceOp::l2_;
  if (!squares && op != ReduceOp::sum_ && op != ReduceOp::mean_ && op != ReduceOp::l1_) return false;
  int at = static_cast<int>(e.size()) - 1;
  const auto squared = [&](int k) { return is(k, Op::mul_) && arg(k, 0) == arg(k, 1) && is(arg(k, 0), Op::sub_); };
  const auto operands = [&](int k) {
    if (!is(arg(k, 0), Op::load_) || !is(arg(k, 1), Op::load_)) return false;
    f->a = arg(arg(k, 0), 0), f->b = arg(arg(k, 1), 0);
    return f->a != f->b;
  };
  if (squares || op == ReduceOp::l1_) {
    f->term = squares ? Term::square : Term::abs;
    return is(at, Op::sub_) && operands(at);
  }
  if (is(at, Op::abs_) && is(arg(at, 0), Op::sub_)) {
    f->term = Term::abs;
    return operands(arg(at, 0));
  }
  if (squared(at)) {
    f->term = Term::square;
    return operands(arg(at, 0));
  }
  for (int side = 0; side < 2; side++) {
    const int square = arg(at, side), weight = arg(at, 1 - side);
    if (!is(at, Op::mul_) && !(is(at, Op::div_) && side == 0)) continue;
    if (!squared(square) || !is(weight, Op::load_)) continue;
    f->term = is(at, Op::mul_) ? Term::weighted : Term::divided;
    f->w = arg(weight, 0);
    return operands(arg(square, 0));
  }
  f->term = Term::product;
  return is(at, Op::mul_) && operands(at);
}

// The axes along which each of a and b is all that varies: the columns are those that fill vectors best, then those that lie together.
bool choose_axes(const LaunchDesc& d, const std::vector<int>& labels, int lanes, PairForm* f) {
  const Operand &x = d.ins[0], *a = &d.pro_ins[static_cast<size_t>(f->a)], *b = &d.pro_ins[static_cast<size_t>(f->b)];
  const Operand* w = f->w < 0 ? nullptr : &d.pro_ins[static_cast<size_t>(f->w)];
  int best_a = -1, best_b = -1;  // the longest axis of each alone
  for (int i = 0; i < x.ndim; i++) {
    if (labels[static_cast<size_t>(i)]) {
      if (f->k >= 0) return false;
      f->k = i;
      continue;
    }
    if ((a->strides[i] == 0) == (b->strides[i] == 0) || x.shape[i] == 1) continue;
    int& best = a->strides[i] == 0 ? best_b : best_a;
    if (best < 0 || x.shape[i] > x.shape[best]) best = i;
  }
  if (best_a < 0 || best_b < 0 || f->k < 0 || x.shape[f->k] > kLongest || x.shape[f->k] < 1) return false;
  if (x.shape[f->k] > 1 && (a->strides[f->k] == 0 || b->strides[f->k] == 0)) return false;
  const auto fill = [&](int axis) {
    if (w && w->strides[axis] != 0) return 0.0;
    const int64_t n = x.shape[axis];
    return static_cast<double>(n) / static_cast<double>((n + lanes - 1) / lanes * lanes) + (d.outs[0].strides[axis] == 1 ? 0.25 : 0);
  };
  if (fill(best_a) > fill(best_b)) {
    std::swap(f->a, f->b);
    std::swap(best_a, best_b);
  }
  f->rows = best_a, f->cols = best_b;
  return x.shape[f->cols] >= lanes / 2 && x.shape[f->rows] >= kRows && fill(f->cols) > 0.5;
}

template <class C>
class ReducePairs final : public Kernel {
  static constexpr int L = kLanes<C>;

 public:
  ReducePairs(LaunchDesc d, ReduceOp op, const PairForm& form) : Kernel(std::move(d)), op_(op), f_(form), sink_(desc) {
    const Operand& x = desc.ins[0];
    for (int i = 0; i < x.ndim; i++)
      if (i != f_.rows && i != f_.cols && i != f_.k) outer_.add(i, x.shape[i]);
    rows_ = x.shape[f_.rows], cols_ = x.shape[f_.cols], K_ = x.shape[f_.k];
    const int64_t most = std::clamp<int64_t>(16384 / K_, kWide * L, kMaxCols) / (kWide * L) * (kWide * L);
    col_blocks_ = (cols_ + most - 1) / most;
    block_ = std::min(most, (cols_ + L - 1) / L * L);
    row_blocks_ = (rows_ + kBlockRows - 1) / kBlockRows;
    for (int rows = 0; rows < 2; rows++)
      for (int wide = 0; wide < 2; wide++) tiles_[rows][wide] = pick<C>(f_.term, rows, wide);
    grain_ = std::max<int64_t>(1, kGrain / (std::min(rows_, kBlockRows) * block_ * K_));
  }

  size_t thread_scratch_bytes() const override {
    return align64(static_cast<size_t>(K_ * block_) * sizeof(C)) + align64(static_cast<size_t>(kSinkRows * block_) * sizeof(C)) +
           sink_.scratch_bytes(kSinkRows * block_);
  }
  std::string describe() const override { return "pairs"; }

  void run(const RunContext& ctx) override {
    const int64_t units = outer_.total * row_blocks_ * col_blocks_;
    ctx.parallel((units + grain_ - 1) / grain_, [&](int64_t task, int worker) {
      for (int64_t u = task * grain_; u < std::min(units, (task + 1) * grain_); u++) block(u, ctx.thread_scratch(worker));
    });
  }

 private:
  const Operand& operand(int k) const { return desc.pro_ins[static_cast<size_t>(k)]; }

  void block(int64_t unit, char* scratch) const {
    int64_t index[kMaxDims] = {};
    const int64_t c0 = unit % col_blocks_ * block_, r0 = unit / col_blocks_ % row_blocks_ * kBlockRows;
    outer_.seek(index, unit / col_blocks_ / row_blocks_);
    index[f_.cols] = c0;
    C* packed = reinterpret_cast<C*>(scratch);
    scratch += align64(static_cast<size_t>(K_ * block_) * sizeof(C));
    C* results = reinterpret_cast<C*>(scratch);
    scratch += align64(static_cast<size_t>(kSinkRows * block_) * sizeof(C));
    const int64_t cols = std::min(block_, cols_ - c0), rows = std::min(kBlockRows, rows_ - r0);
    const Operand &a = operand(f_.a), &b = operand(f_.b);
    pack(reinterpret_cast<const C*>(element(b, index)), b.strides[f_.cols], b.strides[f_.k], cols, packed);
    PairArgs<C> g{};
    g.lda = a.strides[f_.rows], g.ak = a.strides[f_.k];
    g.ldb = g.ldo = block_;
    g.K = K_;
    if (f_.w >= 0) g.ldw = operand(f_.w).strides[f_.rows], g.wk = operand(f_.w).strides[f_.k];
    for (int64_t r = r0; r < r0 + rows; r += kSinkRows) {
      const int64_t n = std::min(kSinkRows, r0 + rows - r);
      for (int64_t i = 0; i < n;) {
        const bool many = n - i >= kRows;
        index[f_.rows] = r + i;
        g.a = reinterpret_cast<const C*>(element(a, index));
        g.w = f_.w < 0 ? nullptr : reinterpret_cast<const C*>(element(operand(f_.w), index));
        for (int64_t c = 0; c < cols;) {
          const bool wide = cols - c > (kVectors<C> - 1) * L;
          g.b = packed + c;
          g.out = results + i * block_ + c;
          tiles_[many][wide](g);
          c += wide ? kVectors<C> * L : L;
        }
        i += many ? kRows : 1;
      }
      finish(results, n * block_);
      index[f_.rows] = r;
      sink_.store(desc, index, f_.rows, n, f_.cols, cols, results, block_, scratch);
    }
  }

  // out[k][c] for the columns of a block, and zeros up to its pitch.
  void pack(const C* b, int64_t stride, int64_t ks, int64_t cols, C* out) const {
    if (ks == 1) rows_to_lanes(b, stride, cols, K_, out, block_);
    else copy2d(sizeof(C), K_, cols, b, ks, stride, out, block_, 1);
    if (cols < block_)
      for (int64_t k = 0; k < K_; k++) std::fill(out + k * block_ + cols, out + (k + 1) * block_, C{0});
  }

  void finish(C* x, int64_t n) const {
    if (op_ == ReduceOp::mean_) {
      const C share = static_cast<C>(1 / static_cast<double>(K_));
      for (int64_t i = 0; i < n; i += L) vstore<C>(x + i, vload(x + i) * share);
    } else if (op_ == ReduceOp::l2_) {
      for (int64_t i = 0; i < n; i++) x[i] = std::sqrt(x[i]);
    }
  }

  ReduceOp op_;
  PairForm f_;
  PairTile<C> tiles_[2][2];
  Sink<C> sink_;
  Walk outer_;
  int64_t rows_ = 0, cols_ = 0, K_ = 0, block_ = 0, col_blocks_ = 1, row_blocks_ = 1, grain_ = 1;
};

}  // namespace

template <class C>
std::unique_ptr<Kernel> make_reduce_pairs(LaunchDesc& desc, ReduceOp op, const std::vector<int>& labels) {
  PairForm f;
  if (desc.ins[0].dtype != dtype_of<C>() || !read_term(desc, op, &f) || !choose_axes(desc, labels, kLanes<C>, &f)) return nullptr;
  return std::make_unique<ReducePairs<C>>(std::move(desc), op, f);
}
template std::unique_ptr<Kernel> make_reduce_pairs<float>(LaunchDesc&, ReduceOp, const std::vector<int>&);
template std::unique_ptr<Kernel> make_reduce_pairs<double>(LaunchDesc&, ReduceOp, const std::vector<int>&);

}  // namespace ptrt::PTRT_LEVEL
