// Linear attention: a recurrence over steps, of which every column of the state S [D, E] is one of its own. A task is a state head and two
// vectors of columns, which stay in the first-level cache for all steps. A step goes over them once: S = g S + k u, y += q S, and with the
// delta rule already r += k' S for the next step's key k', because that step needs S^T k' before it can begin. The first step reads the
// state where it lies and the last one writes `present` directly, where their rows are plain: decoding (T = 1) copies nothing.
//
// A decay that all rows share need not be carried out in every step: S is kept divided by what is due, as long as that is between 2^-24 and
// 2^24, and u is divided by it instead. That saves a quarter of the arithmetic.
//
// Sums over D are two chains (even and odd d) in every column, whatever the number of threads. Tasks of one vector for the last columns
// were rejected: a third more code, for heads of odd sizes.
#include "cpu/float_rows.h"
#include "cpu/kernels.h"
#include "cpu/lanes.h"
#include "cpu/vmath.h"
#include "cpu/vmath64.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int kVecs = 2;  // of columns in a task

void require(bool ok, const char* what) {
  if (!ok) throw KernelError(std::string("linear_attention: ") + what);
}

// Rows of a state's columns: row d begins at p + d * pitch.
template <class S>
struct Block {
  S* p;
  int64_t pitch;
};

// What a step knows of its key. `g`: what each row of S is multiplied by, or null: all by `factor`. `reads`: what S^T is multiplied by,
// before the decay, to find what S holds under the key (times `factor`).
template <class S>
struct Key {
  const S *k, *g, *reads;
  S factor;
};

template <class S>
struct Sums {
  typename Lanes<S>::V at[kVecs];
};

// The sum over d of x[d] * row d.
template <class S>
PTRT_NOINLINE Sums<S> dots(const Block<S> s, const S* x, int64_t depth) {
  constexpr int L = Lanes<S>::n;
  using V = typename Lanes<S>::V;
  V sum[2][kVecs] = {};
  const auto add = [&](int64_t d, V* to) { PTRT_UNROLL for (int v = 0; v < kVecs; v++) to[v] += x[d] * load(s.p + d * s.pitch + v * L); };
  int64_t d = 0;
  for (; d + 2 <= depth; d += 2) {
    add(d, sum[0]);
    add(d + 1, sum[1]);
  }
  if (d < depth) add(d, sum[0]);
  Sums<S> out = {};
  for (int v = 0; v < kVecs; v++) out.at[v] = sum[0][v] + sum[1][v];
  return out;
}

enum class Decay { none, all, rows };  // of a step's state: not multiplied, one factor for all rows, one for each
template <Decay kDecay>
struct Is {
  static constexpr Decay value = kDecay;
};

// One step: `to` (it may be `from`) becomes g * from + k u. Returns the sums with q in `y`, and with the next key in `r`.
template <Decay kDecay, bool kNext, class S>
PTRT_NOINLINE void advance(const Block<S> from, const Block<S> to, const Key<S>& key, S factor, const Sums<S>& update, const S* q,
                           const S* next, int64_t depth, Sums<S>& y, Sums<S>& r) {
  constexpr int L = Lanes<S>::n;
  using V = typename Lanes<S>::V;
  V ys[2][kVecs] = {}, rs[2][kVecs] = {}, u[kVecs];
  for (int v = 0; v < kVecs; v++) u[v] = update.at[v];
  const S *k = key.k, *g = key.g;
  // What is read comes first: a store might be to the memory of k or q, for all that the compiler knows.
  const auto row = [&](int64_t d, V* y_to, V* r_to) {
    V s[kVecs];
    const V kd = splat(k[d]), gd = splat(kDecay == Decay::rows ? g[d] : factor), qd = splat(q[d]), nd = splat(kNext ? next[d] : S(0));
    PTRT_UNROLL for (int v = 0; v < kVecs; v++) {
      s[v] = load(from.p + d * from.pitch + v * L);
      s[v] = (kDecay == Decay::none ? s[v] : s[v] * gd) + kd * u[v];
    }
    PTRT_UNROLL for (int v = 0; v < kVecs; v++) {
      store(to.p + d * to.pitch + v * L, s[v]);
      y_to[v] += qd * s[v];
      if (kNext) r_to[v] += nd * s[v];
    }
  };
  int64_t d = 0;
  for (; d + 2 <= depth; d += 2) {
    row(d, ys[0], rs[0]);
    row(d + 1, ys[1], rs[1]);
  }
  if (d < depth) row(d, ys[0], rs[0]);
  for (int v = 0; v < kVecs; v++) {
    y.at[v] = ys[0][v] + ys[1][v];
    r.at[v] = rs[0][v] + rs[1][v];
  }
}

template <class S>
class LinearAttention final : public Kernel {
  static constexpr int L = Lanes<S>::n;
  static constexpr int64_t kColumns = kVecs * L;
  static constexpr S kLeastDue = S(0x1p-24), kMostDue = S(0x1p24);
  static constexpr DType kType = sizeof(S) == 4 ? DType::f32 : DType::f64;
  using V = typename Lanes<S>::V;
  enum In { kQ, kK, kV, kState, kDecay, kBeta };

 public:
  explicit LinearAttention(LaunchDesc d) : Kernel(std::move(d)) {
    Params p = desc.params();
    scale_ = static_cast<S>(p.f());
    delta_ = p.i() != 0;
    check();
    blocks_ = (E_ + kColumns - 1) / kColumns;
    depth_ = round_up(D_, L);
    const auto s = static_cast<int64_t>(sizeof(S));
    scratch_ = checked_mul(checked_mul(D_, kColumns), s) + checked_mul(checked_mul(depth_, kRowCount), s) + 2 * kColumns * s;
  }
  size_t thread_scratch_bytes() const override { return static_cast<size_t>(scratch_); }

  void run(const RunContext& ctx) override {
    ctx.parallel(B_ * N_ * blocks_, [&](int64_t task, int worker) {
      const int64_t first = task % blocks_ * kColumns, n = task / blocks_ % N_, b = task / blocks_ / N_;
      const int64_t count = E_ - first < kColumns ? E_ - first : kColumns;
      S* scratch = reinterpret_cast<S*>(ctx.thread_scratch(worker));
      columns(b, n, first, count, scratch);
    });
  }

 private:
  static constexpr int64_t kRowCount = 7;  // k, g and k * g of two steps, q

  bool has(int in) const { return desc.ins.size() > static_cast<size_t>(in) && desc.ins[in].present(); }
  bool presents() const { return desc.outs.size() > 1 && desc.outs[1].present(); }

  static bool shaped(const Operand& o, std::initializer_list<int64_t> shape) {
    if (o.ndim != static_cast<int>(shape.size())) return false;
    int i = 0;
    for (const int64_t n : shape)
      if (o.shape[i++] != n) return false;
    return true;
  }

  PTRT_COLD void check() {
    require(desc.ins.size() >= 3 && desc.ins.size() <= 6 && !desc.outs.empty() && desc.outs.size() <= 2, "wrong number of operands");
    const Operand &q = desc.ins[kQ], &k = desc.ins[kK], &v = desc.ins[kV], &y = desc.outs[0];
    require(q.ndim == 4 && k.ndim == 4 && v.ndim == 4, "q, k and v must have rank 4");
    for (const auto* list : {&desc.ins, &desc.outs})
      for (const Operand& o : *list) require(!o.present() || is_float_type(o.dtype), "a float dtype is expected");
    B_ = q.shape[0], H_ = q.shape[1], T_ = q.shape[2], D_ = q.shape[3];
    G_ = k.shape[1], N_ = v.shape[1], E_ = v.shape[3];
    M_ = H_ > N_ ? H_ : N_;
    require(H_ > 0 && G_ > 0 && N_ > 0, "there must be heads");
    require(N_ % G_ == 0, "the number of state heads must be a multiple of the number of key heads");
    require(M_ % H_ == 0 && M_ % N_ == 0, "of the numbers of query and of state heads one must be a multiple of the other");
    require(shaped(k, {B_, G_, T_, D_}) && shaped(v, {B_, N_, T_, E_}), "q, k and v do not fit together");
    require(shaped(y, {B_, M_, T_, E_}), "y must be [B, M, T, E]");
    require(!has(kState) || shaped(desc.ins[kState], {B_, N_, D_, E_}), "state must be [B, N, D, E]");
    require(!has(kDecay) || shaped(desc.ins[kDecay], {B_, N_, T_, D_}), "decay must be [B, N, T, D]");
    require(!has(kBeta) || shaped(desc.ins[kBeta], {B_, N_, T_}), "beta must be [B, N, T]");
    if (presents()) {
      const Operand& p = desc.outs[1];
      W_ = p.ndim == 5 ? p.shape[0] : 0;
      require(W_ >= 1 && shaped(p, {W_, B_, N_, D_, E_}), "present must be [W, B, N, D, E]");
    }
  }

  // A row of an operand whose last axis is 3: where it lies if it is plain, or brought to `temp`.
  static const S* row(const Operand& o, int64_t b, int64_t h, int64_t t, S* temp) {
    const int64_t offset = b * o.strides[0] + h * o.strides[1] + t * o.strides[2], n = o.shape[3];
    if (o.dtype == kType && (o.strides[3] == 1 || n == 1)) return o.as<const S>() + offset;
    load_row(temp, o.dtype, o.data, offset, o.strides[3], n);
    return temp;
  }
  static S single(const Operand& o, int64_t offset) {
    if (o.dtype == kType) return o.as<const S>()[offset];
    S x;
    load_row(&x, o.dtype, o.data, offset, 1, 1);
    return x;
  }

  // `rows`: three rows of scratch.
  Key<S> key(int64_t b, int64_t n, int64_t t, S* rows) const {
    Key<S> out;
    out.k = out.reads = row(desc.ins[kK], b, n / (N_ / G_), t, rows);
    out.g = nullptr;
    out.factor = 1;
    if (!has(kDecay)) return out;
    const Operand& decay = desc.ins[kDecay];
    if (D_ <= 1 || decay.strides[3] == 0) {
      if (D_ > 0) out.factor = vexp(splat(single(decay, b * decay.strides[0] + n * decay.strides[1] + t * decay.strides[2])))[0];
      return out;
    }
    S *g = rows + depth_, *reads = rows + 2 * depth_;
    const S* logs = row(decay, b, n, t, g);
    for (int64_t d = 0; d < D_; d += L) {
      const int left = static_cast<int>(D_ - d < L ? D_ - d : L);
      const V e = vexp(load_n(logs + d, left));
      store(g + d, e);
      store(reads + d, e * load_n(out.k + d, left));
    }
    out.g = g;
    out.reads = reads;
    return out;
  }

  // Is the block's part of a row of this operand as plain as scratch is?
  static bool plain(const Operand& o, int64_t columns) { return o.dtype == kType && o.strides[o.ndim - 1] == 1 && columns == kColumns; }

  // A slot of present becomes factor * s.
  void write(const Block<S> s, S factor, int64_t slot, int64_t b, int64_t n, int64_t first, int64_t count, S* temp) const {
    const Operand& p = desc.outs[1];
    for (int64_t d = 0; d < D_; d++) {
      for (int v = 0; v < kVecs; v++) store(temp + v * L, load(s.p + d * s.pitch + v * L) * factor);
      store_row(temp, p.dtype, p.data, at(slot, b, n, first) + d * p.strides[3], p.strides[4], count);
    }
  }
  int64_t at(int64_t slot, int64_t b, int64_t n, int64_t first) const {
    const Operand& p = desc.outs[1];
    return slot * p.strides[0] + b * p.strides[1] + n * p.strides[2] + first * p.strides[4];
  }

  void columns(int64_t b, int64_t n, int64_t first, int64_t count, S* scratch) const {
    const Block<S> own = {scratch, kColumns};
    S *rows = scratch + D_ * kColumns, *temp = rows + depth_ * kRowCount, *result = temp + kColumns;
    const bool present = presents(), plain_present = present && plain(desc.outs[1], count);
    const Operand& values = desc.ins[kV];
    const bool plain_values = plain(values, count);
    Block<S> s = own;
    std::memset(temp, 0, static_cast<size_t>(kColumns) * sizeof(S));
    if (present) zero_slots(W_ - (T_ > 0 ? T_ : 1), own, b, n, first, count, result);
    begin(s, own, b, n, first, count);
    Key<S> now{}, next{};
    Sums<S> r{}, y{}, u{};
    S due = 1;  // what `s` must still be multiplied by to be the state
    if (T_ > 0) now = key(b, n, 0, rows);
    if (delta_ && T_ > 0) r = dots(s, now.reads, D_);
    for (int64_t t = 0; t < T_; t++) {
      const int64_t value = b * values.strides[0] + n * values.strides[1] + t * values.strides[2] + first * values.strides[3];
      if (!plain_values) load_row(temp, values.dtype, values.data, value, values.strides[3], count);
      const S* v = plain_values ? values.as<const S>() + value : temp;
      const bool ahead = t + 1 < T_;
      const S beta = has(kBeta) ? single(desc.ins[kBeta], b * beta_stride(0) + n * beta_stride(1) + t * beta_stride(2)) : S(1);
      const S decayed = due * now.factor;
      const bool later = ahead && !now.g && decayed > kLeastDue && decayed < kMostDue;
      const S weight = later ? beta / decayed : beta;
      for (int i = 0; i < kVecs; i++) u.at[i] = weight * (delta_ ? load(v + i * L) - decayed * r.at[i] : load(v + i * L));
      if (ahead) next = key(b, n, t + 1, rows + (t + 1) % 2 * 3 * depth_);
      const int64_t slot = present ? t - (T_ - W_) : -1;
      const bool direct = !ahead && plain_present;
      const Block<S> to = direct ? Block<S>{desc.outs[1].template as<S>() + at(slot, b, n, first), desc.outs[1].strides[3]} : own;
      due = later ? decayed : S(1);
      for (int64_t i = 0; i < M_ / N_; i++) {
        const int64_t m = n * (M_ / N_) + i;
        const S* q = row(desc.ins[kQ], b, m / (M_ / H_), t, rows + 6 * depth_);
        if (i == 0) step(s, to, now, later ? S(1) : decayed, u, q, delta_ && ahead ? next.reads : nullptr, y, r);
        else y = dots(to, q, D_);
        give(y, due * scale_, b, m, t, first, count, result);
      }
      s = to;
      if (slot >= 0 && !direct) write(s, due, slot, b, n, first, count, result);
      now = next;
    }
    if (present && T_ == 0) write(s, S(1), W_ - 1, b, n, first, count, result);
  }
  int64_t beta_stride(int axis) const { return desc.ins[kBeta].strides[axis]; }

  PTRT_INLINE void step(const Block<S> from, const Block<S> to, const Key<S>& k, S factor, const Sums<S>& u, const S* q, const S* next,
                        Sums<S>& y, Sums<S>& r) const {
    const auto with = [&](auto decay) {
      if (next) advance<decay.value, true>(from, to, k, factor, u, q, next, D_, y, r);
      else advance<decay.value, false>(from, to, k, factor, u, q, next, D_, y, r);
    };
    if (k.g) with(Is<Decay::rows>());
    else if (factor == 1) with(Is<Decay::none>());
    else with(Is<Decay::all>());
  }

  // Slots [0, slots) of present become zeros. `own` is overwritten if there are any.
  void zero_slots(int64_t slots, const Block<S> own, int64_t b, int64_t n, int64_t first, int64_t count, S* temp) const {
    if (slots <= 0) return;
    std::memset(own.p, 0, static_cast<size_t>(D_ * own.pitch) * sizeof(S));
    for (int64_t slot = 0; slot < slots; slot++) write(own, S(1), slot, b, n, first, count, temp);
  }

  // s becomes the state before the first step: in place where it is plain, else in `own`.
  void begin(Block<S>& s, const Block<S> own, int64_t b, int64_t n, int64_t first, int64_t count) const {
    if (!has(kState) || count < kColumns) std::memset(own.p, 0, static_cast<size_t>(D_ * own.pitch) * sizeof(S));
    if (!has(kState)) return;
    const Operand& o = desc.ins[kState];
    const int64_t offset = b * o.strides[0] + n * o.strides[1] + first * o.strides[3];
    if (plain(o, count)) s = {o.template as<S>() + offset, o.strides[2]};  // read only: every step writes elsewhere
    else
      for (int64_t d = 0; d < D_; d++) load_row(own.p + d * own.pitch, o.dtype, o.data, offset + d * o.strides[2], o.strides[3], count);
  }

  void give(const Sums<S>& y, S factor, int64_t b, int64_t m, int64_t t, int64_t first, int64_t count, S* temp) const {
    const Operand& o = desc.outs[0];
    const int64_t offset = b * o.strides[0] + m * o.strides[1] + t * o.strides[2] + first * o.strides[3];
    const bool direct = plain(o, count);
    S* to = direct ? o.as<S>() + offset : temp;
    for (int i = 0; i < kVecs; i++) store(to + i * L, y.at[i] * factor);
    if (!direct) store_row(temp, o.dtype, o.data, offset, o.strides[3], count);
  }

  S scale_ = 1;
  bool delta_ = false;
  int64_t B_ = 0, H_ = 0, G_ = 0, N_ = 0, M_ = 0, T_ = 0, D_ = 0, E_ = 0, W_ = 0;
  int64_t blocks_ = 0, depth_ = 0, scratch_ = 0;
};

}  // namespace

std::unique_ptr<Kernel> make_linear_attention(LaunchDesc desc, BindContext&) {
  if (!desc.ins.empty() && desc.ins[0].dtype == DType::f64) return std::make_unique<LinearAttention<double>>(std::move(desc));
  return std::make_unique<LinearAttention<float>>(std::move(desc));
}

}  // namespace ptrt::PTRT_LEVEL
