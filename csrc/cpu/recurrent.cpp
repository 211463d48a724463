// LSTM, GRU and RNN. The input products of a stretch of time steps are one matrix product (bias folded in); then, step by step, the
// recurrent product against packed weights adds them and the gates are applied by rows of vectors. Gate columns are stored as blocks of one
// vector per gate, so a block of hidden units is computed from neighbouring vectors.
//
// Few sequences of a plain cell without lengths take each step whole, product and gates by blocks of units (recurrent_step.h).
//
// Work is split by direction and by groups of batch rows, or, with more threads than those and a large recurrent matrix, step by step by
// hidden units, each thread keeping its part of the matrix in its cache; neither changes how an element is computed. Step s of a sequence
// of length n reads time s, or n-1-s in the reverse direction; times >= n only get zeros written.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/recurrent_layer.h"
#include "cpu/recurrent_step.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kStretchBytes = int64_t{1} << 20;  // of input products kept at a time per direction, so that they stay in cache
constexpr int64_t kGroupRows = 24;                   // batch rows that one task advances
constexpr int64_t kDividedBytes =
    int64_t{256} << 10;  // recurrent weights of a direction from which a step is worth handing to several threads

template <class S>
TileFn<S> pick_tile(int rows, int nv, bool small) {
  if constexpr (sizeof(S) == 4) return small ? small_tile_f32(rows, nv) : tile_f32(rows, nv);
  else return small ? small_tile_f64(rows, nv) : tile_f64(rows, nv);
}

// c[m][:] = a[m][:] * pack + bias + add[m][:] over `vecs` column vectors. `down`: panels from the last to the first; alternating the order
// from step to step keeps most of a recurrent matrix that just exceeds the L2 in it.
template <class S>
void panel_gemm(int64_t m, int64_t k, const S* a, int64_t lda, const S* pack, int64_t vecs, S* c, int64_t ldc, const S* bias, const S* add,
                int64_t ldadd, bool down) {
  constexpr int L = Lanes<S>::n;
  const bool small = m <= 4;
  TileArgs<S> g;
  g.lda = lda;
  g.K = k;
  g.ldc = ldc;
  g.ldr = ldadd;
  g.cj = L;
  const RowSplit split(m, small ? 4 : kMaxRows[2]);
  for (int64_t p = 0; p < vecs; p += 2) {
    const int64_t v = down ? (vecs - 1 - p) / 2 * 2 : p;
    const int nv = v + 1 < vecs ? 2 : 1;
    g.B = pack + v * L * k;
    g.ldb = g.n = nv * L;
    g.bias = bias ? bias + v * L : nullptr;
    for (int64_t i = 0; i < split.blocks; i++) {
      const int64_t r = split.start(i);
      g.A = a + r * lda;
      g.C = c + r * ldc + v * L;
      g.R = add ? add + r * ldadd + v * L : nullptr;
      g.next = i == 0 && !down && v + 2 < vecs ? g.B + nv * L * k : nullptr;
      pick_tile<S>(static_cast<int>(split.rows(i)), nv, small)(g);
    }
  }
}

template <class S>
class Recurrent final : public Kernel, private RecurrentLayer {
  static constexpr int L = Lanes<S>::n;

 public:
  PTRT_COLD Recurrent(LaunchDesc d, BindContext& bind) : Kernel(std::move(d)) {
    parse(desc, L);
    bool plain = true;
    for (int64_t k = 0; k < dirs; k++) {
      cfg_[k] = config<S>(desc, k);
      plain = plain && cfg_[k].plain;
    }
    whole_steps_ = sizeof(S) == 4 && plain && !quant && N >= 1 && N <= kStepRows && !in(desc, kLengths).present() &&
                   (cell == kLstm || (cell == kGru && linear_before_reset));
    plan();
    for (const int k : {kW, kR}) {
      if (!in(desc, k).is_const() || (quant && !in(desc, k == kW ? kWZero : kRZero).is_const())) continue;
      auto fill = [&](void* to) { quant ? pack(desc, k, static_cast<int32_t*>(to)) : pack(desc, k, static_cast<S*>(to)); };
      (k == kW ? pack_w_ : pack_r_) =
          bind.packs.get(in(desc, k), pack_key(desc, k), static_cast<size_t>(checked_mul(weight_elements(k), sizeof(S))), fill);
    }
  }

  size_t shared_scratch_bytes() const override { return static_cast<size_t>(shared_); }
  size_t thread_scratch_bytes() const override { return static_cast<size_t>(per_thread_); }
  PTRT_COLD std::string describe() const override {
    return std::string(quant ? "int8 " : "") +
           (cell == kLstm  ? "lstm"
            : cell == kGru ? "gru"
                           : "rnn") +
           ", " + std::to_string(stretch_) + " steps per input product, " + std::to_string(rows_.blocks) + " row groups" +
           (divided_ ? ", or by units" : "") + (whole_steps_ ? ", whole steps" : "");
  }

  void run(const RunContext& ctx) override {
    char* base = ctx.shared_scratch;
    small_ = reinterpret_cast<S*>(base + off_small_);
    w_ = weights(pack_w_, kW, base + off_w_);
    r_ = weights(pack_r_, kR, base + off_r_);
    pack_small(desc, small_);
    lengths_ = reinterpret_cast<int32_t*>(base + off_lengths_);
    read_lengths();
    h_ = reinterpret_cast<S*>(base + off_h_);
    next_ = reinterpret_cast<S*>(base + off_next_);
    c_ = reinterpret_cast<S*>(base + off_c_);
    gx_ = reinterpret_cast<S*>(base + off_gx_);
    for (int64_t row = 0; row < dirs * N; row++) {
      initial(kH0, row, h_ + row * padded);
      if (cell == kLstm) initial(kC0, row, c_ + row * padded);
    }
    if (quant) input_range(reinterpret_cast<S*>(ctx.thread_scratch(0)));
    for (int64_t s0 = 0; s0 < T; s0 += stretch_) {
      const int64_t steps = T - s0 < stretch_ ? T - s0 : stretch_;
      const RowSplit parts(steps * N, block_rows_);
      if (s0 < longest_)
        ctx.parallel(dirs * parts.blocks, [&](int64_t task, int worker) {
          const int64_t part = task % parts.blocks;
          project(task / parts.blocks, s0, parts.start(part), parts.rows(part), ctx.thread_scratch(worker));
        });
      if (divided_ && ctx.threads() > dirs * rows_.blocks) {
        for (int64_t s = s0; s < s0 + steps; s++) step_divided(ctx, s0, s, base);
        continue;
      }
      ctx.parallel(dirs * rows_.blocks, [&](int64_t task, int worker) {
        const int64_t part = task % rows_.blocks;
        if (whole_steps_) advance_whole(task, s0, steps);
        else advance(task / rows_.blocks, s0, steps, rows_.start(part), rows_.rows(part), ctx.thread_scratch(worker));
      });
      if (whole_steps_ && steps % 2) std::swap(h_, next_);
    }
    for (int64_t row = 0; row < dirs * N; row++) {
      final_state(kYh, row, h_ + row * padded);
      if (cell == kLstm) final_state(kYc, row, c_ + row * padded);
    }
  }

 private:
  PTRT_COLD void plan() {
    rows_ = RowSplit(N, quant ? (N > 0 ? N : 1) : kGroupRows);  // a quantised step needs the range of the whole batch
    block_rows_ = 4 * kMaxRows[2];
    const int64_t per_step = checked_mul(checked_mul(N, cols), sizeof(S));
    stretch_ = per_step > 0 ? kStretchBytes / per_step : T;
    stretch_ = stretch_ > T ? T : stretch_ < 1 ? 1 : stretch_;
    const Operand& x = in(desc, kX);
    for (int64_t d = 0; d < dirs; d++) {  // can rows (step, n) of x be read in place, one pitch apart?
      const bool uniform = N == 1 || T == 1 || (!reverse[d] && x.strides[0] == N * x.strides[1]);
      pitch_[d] = N == 1 ? (reverse[d] ? -x.strides[0] : x.strides[0]) : x.strides[1];
      const bool aliasing = pitch_[d] * static_cast<int64_t>(sizeof(S)) % 4096 == 0 && T * N > 4;  // such a pitch thrashes L1
      in_place_[d] = !quant && x.dtype == (sizeof(S) == 4 ? DType::f32 : DType::f64) && (x.strides[2] == 1 || I <= 1) && uniform &&
                     !in(desc, kLengths).present() && !aliasing;
    }
    gather_pitch_ = round_up(I, L) + L;
    int64_t at = 0;
    auto place = [&](int64_t count, int64_t item) {
      const int64_t offset = at;
      at += round_up(checked_mul(count, item), 64);
      return offset;
    };
    off_w_ = place(in(desc, kW).is_const() && !quant ? 0 : weight_elements(kW), sizeof(S));
    off_r_ = place(in(desc, kR).is_const() && !quant ? 0 : weight_elements(kR), sizeof(S));
    off_small_ = place(checked_mul(dirs, small_stride()), sizeof(S));
    off_lengths_ = place(N, 4);
    off_h_ = place(checked_mul(dirs * N, padded), sizeof(S));
    off_c_ = place(cell == kLstm ? dirs * N * padded : 0, sizeof(S));
    off_gx_ = place(checked_mul(checked_mul(dirs * stretch_, N), cols), sizeof(S));
    divided_ = !quant && !in(desc, kP).present() && checked_mul(checked_mul(H, cols), sizeof(S)) >= kDividedBytes;
    off_next_ = place(divided_ || whole_steps_ ? dirs * N * padded : 0, sizeof(S));
    off_reset_ = place(divided_ && cell == kGru ? dirs * N * padded : 0, sizeof(S));
    off_sums_ = place(divided_ ? checked_mul(dirs * N, cols) : 0, sizeof(S));
    shared_ = at;
    at = 0;
    place(checked_mul(block_rows_, gather_pitch_), sizeof(S));
    off_words_ = place(quant ? checked_mul(block_rows_, w_depth + 1) : 0, 4);
    per_thread_ = at;
    at = 0;
    const int64_t most = rows_.small + (rows_.extra > 0);
    place(checked_mul(most, cols), sizeof(S));
    off_state_ = place(quant ? checked_mul(most, r_depth + 1) : cell == kGru ? most * padded : 0, sizeof(S));
    per_thread_ = per_thread_ < at ? at : per_thread_;
  }

  const void* weights(const std::shared_ptr<const void>& packed, int which, char* scratch) const {
    if (packed) return packed.get();
    if (quant) pack(desc, which, reinterpret_cast<int32_t*>(scratch));
    else pack(desc, which, reinterpret_cast<S*>(scratch));
    return scratch;
  }
  const S* bias(int64_t d) const { return small_ + d * small_stride(); }
  const S* late_bias(int64_t d) const { return bias(d) + cols; }
  const S* peepholes(int64_t d) const { return in(desc, kP).present() ? late_bias(d) + padded : nullptr; }
  const S* w_scales(int64_t d) const { return late_bias(d) + 4 * padded; }
  const S* r_scales(int64_t d) const { return w_scales(d) + cols; }
  template <class P>
  const P* panel(const void* base, int64_t d, int group, int64_t depth) const {
    return static_cast<const P*>(base) + (d * cols + groups[group].col) * depth;
  }
  QuantWeights quant_weights(const void* base, int64_t d, int64_t depth, const float* scales) const {
    const int32_t* sums = static_cast<const int32_t*>(base) + dirs * cols * depth + d * cols;
    return {panel<int32_t>(base, d, 0, depth), sums, sums + dirs * cols, scales, depth, groups[0].vecs};
  }

  void read_lengths() {
    const Operand& o = in(desc, kLengths);
    longest_ = o.present() ? 0 : T;
    for (int64_t n = 0; n < N; n++) {
      lengths_[n] = o.present() ? o.as<int32_t>()[n * o.strides[0]] : static_cast<int32_t>(T);
      if (lengths_[n] < 0 || lengths_[n] > T) throw KernelError("recurrent: a sequence length is negative or more than the time steps");
      longest_ = longest_ < lengths_[n] ? lengths_[n] : longest_;
    }
  }
  int64_t time(int64_t dir, int64_t step, int64_t n) const { return reverse[dir] && step < lengths_[n] ? lengths_[n] - 1 - step : step; }

  void initial(int which, int64_t row, S* to) const {
    std::memset(to, 0, static_cast<size_t>(padded) * sizeof(S));
    const Operand& o = in(desc, which);
    if (o.present()) load_row(to, o.dtype, o.data, row / N * o.strides[0] + row % N * o.strides[1], o.strides[2], H);
  }
  void final_state(int which, int64_t row, S* from) const {
    const Operand& o = out(desc, which);
    if (!o.present()) return;
    if (lengths_[row % N] == 0) std::memset(from, 0, static_cast<size_t>(padded) * sizeof(S));  // as onnxruntime has it
    store_row(from, o.dtype, o.data, row / N * o.strides[0] + row % N * o.strides[1], o.strides[2], H);
  }

  void input_range(S* row) {
    range_ = {};
    const Operand& x = in(desc, kX);
    if constexpr (sizeof(S) == 4)
      for (int64_t t = 0; t < longest_; t++)
        for (int64_t n = 0; n < N; n++) {
          load_row(row, x.dtype, x.data, t * x.strides[0] + n * x.strides[1], x.strides[2], I);
          range_.widen(row, I);
        }
    range_.finish();
  }

  // Input products of rows [row0, row0 + count) of a stretch; a row is a (step, n).
  void project(int64_t dir, int64_t s0, int64_t row0, int64_t count, char* scratch) const {
    const Operand& x = in(desc, kX);
    S* gx = gx_ + (dir * stretch_ * N + row0) * cols;
    S* rows = reinterpret_cast<S*>(scratch);
    int32_t* words = reinterpret_cast<int32_t*>(scratch + off_words_);
    const S* a = rows;
    int64_t lda = gather_pitch_;
    if (in_place_[dir]) {
      a = x.as<const S>() + time(dir, s0 + row0 / N, 0) * x.strides[0] + row0 % N * x.strides[1];
      lda = pitch_[dir];
    } else {
      for (int64_t i = 0; i < count; i++) {
        const int64_t n = (row0 + i) % N, t = time(dir, s0 + (row0 + i) / N, n);
        load_row(rows + i * lda, x.dtype, x.data, t * x.strides[0] + n * x.strides[1], x.strides[2], I);
        if constexpr (sizeof(S) == 4)
          if (quant) quantize_row(range_, rows + i * lda, I, words + i * (w_depth + 1));
      }
    }
    if constexpr (sizeof(S) == 4)
      if (quant) {
        quant_gemm(count, words, w_depth + 1, range_, quant_weights(w_, dir, w_depth, w_scales(dir)), bias(dir), 0, gx, cols);
        return;
      }
    for (int g = 0; g < n_groups; g++)
      panel_gemm(count, I, a, lda, panel<S>(w_, dir, g, I), groups[g].vecs, gx + groups[g].col, cols, bias(dir) + groups[g].col,
                 static_cast<const S*>(nullptr), 0, false);
  }

  // Steps [s0, s0 + steps) of batch rows [n0, n0 + count) of one direction.
  void advance(int64_t dir, int64_t s0, int64_t steps, int64_t n0, int64_t count, char* scratch) const {
    S* sums = reinterpret_cast<S*>(scratch);
    S* state = reinterpret_cast<S*>(scratch + off_state_);
    S *h = h_ + (dir * N + n0) * padded, *c = c_ + (dir * N + n0) * padded;
    const CellConfig<S>& cfg = cfg_[dir];
    const Operand& y = out(desc, kY);
    for (int64_t s = s0; s < s0 + steps; s++) {
      const S* gx = gx_ + ((dir * stretch_ + s - s0) * N + n0) * cols;
      if (s < longest_) {
        if constexpr (sizeof(S) == 4)
          if (quant) quant_step(dir, s, gx, h, sums, reinterpret_cast<int32_t*>(state));
        if (!quant)
          panel_gemm(count, H, h, padded, panel<S>(r_, dir, 0, H), groups[0].vecs, sums, cols, static_cast<const S*>(nullptr), gx, cols,
                     s & 1);
        if (cell == kGru) gru_step(dir, s, n0, count, gx, h, sums, state);
      }
      for (int64_t i = 0; i < count; i++) {
        S *hi = h + i * padded, *ci = c + i * padded;
        const bool active = s < lengths_[n0 + i];
        if (active && cell == kLstm) {
          if (cfg.plain) lstm_row<true>(cfg, blocks, sums + i * cols, static_cast<const S*>(nullptr), hi, ci);
          else lstm_row<false>(cfg, blocks, sums + i * cols, peepholes(dir), hi, ci);
        } else if (active && cell == kRnn) {
          rnn_row(cfg, blocks, sums + i * cols, hi);
        }
        if (!y.present()) continue;
        const int64_t at = time(dir, s, n0 + i) * y.strides[0] + dir * y.strides[1] + (n0 + i) * y.strides[2];
        if (active) store_row(hi, y.dtype, y.data, at, y.strides[3], H);
        else zero_row(y, at, H);
      }
    }
  }

  // Hidden units of one direction, in blocks of a vector: an even start keeps panels whole.
  struct Units {
    int64_t first, count;
  };

  // The same in whole steps, each from h_ to next_ or back.
  void advance_whole(int64_t dir, int64_t s0, int64_t steps) const {
    S *h = h_, *next = next_;
    for (int64_t s = s0; s < s0 + steps; s++) {
      whole_step(dir, s0, s, {0, blocks}, h, next);
      std::swap(h, next);
    }
  }

  void whole_step(int64_t dir, int64_t s0, int64_t s, Units u, const S* h, S* next) const {
    if constexpr (sizeof(S) == 4) {
      const int64_t row = dir * N;
      RecurrentStep a;
      a.h = h + row * padded;
      a.next = next + row * padded;
      a.c = c_ + row * padded;
      a.gx = gx_row(dir, s0, s);
      for (int g = 0; g < n_groups; g++) a.weights[g] = panel<S>(r_, dir, g, H);
      a.late = late_bias(dir);
      a.xh = a.gx + groups[1].col;
      a.rows = N;
      a.K = H;
      a.pitch = padded;
      a.cols = cols;
      a.first = u.first;
      a.count = u.count;
      a.blocks = blocks;
      a.down = s & 1;
      constexpr std::make_integer_sequence<int, kStepRows> counts;
      if (cell == kLstm) take_step<true>(a, counts);
      else take_step<false>(a, counts);
      const Operand& y = out(desc, kY);
      const int64_t first = u.first * L, units = std::min(u.count * L, H - first);
      for (int64_t i = 0; y.present() && i < N; i++)
        store_row(a.next + i * padded + first, y.dtype, y.data,
                  time(dir, s, i) * y.strides[0] + dir * y.strides[1] + i * y.strides[2] + first * y.strides[3], y.strides[3], units);
    }
  }

  // Step s of all rows. Every unit needs all of h of the step before, so the new one is made next to it and then takes its place.
  void step_divided(const RunContext& ctx, int64_t s0, int64_t s, char* base) {
    S *reset = reinterpret_cast<S*>(base + off_reset_), *sums = reinterpret_cast<S*>(base + off_sums_);
    const int64_t pairs = (blocks + 1) / 2, parts = std::min(pairs, (ctx.threads() + dirs - 1) / dirs);
    auto each = [&](auto f) {
      ctx.parallel(dirs * parts, [&](int64_t task, int) {
        const int64_t dir = task / parts, part = task % parts, first = pairs * part / parts * 2;
        f(dir, Units{first, std::min(blocks, pairs * (part + 1) / parts * 2) - first}, sums + dir * N * cols);
      });
    };
    if (whole_steps_) {
      each([&](int64_t dir, Units u, S*) { whole_step(dir, s0, s, u, h_, next_); });
    } else if (s < longest_ && cell == kGru && !linear_before_reset) {
      each([&](int64_t dir, Units u, S* z) {
        const S* h = h_ + dir * N * padded;
        product(dir, 0, u, s, h, gx_row(dir, s0, s), cols, nullptr, z);
        gru_gates(dir, u, z, h, reset + dir * N * padded);
      });
      each([&](int64_t dir, Units u, S* z) {
        product(dir, 1, u, s, reset + dir * N * padded, gx_row(dir, s0, s), cols, nullptr, z);
        finish_step(dir, s0, s, u, z, next_ + dir * N * padded);
      });
    } else {
      each([&](int64_t dir, Units u, S* z) {
        const S* h = h_ + dir * N * padded;
        if (s < longest_) {
          product(dir, 0, u, s, h, gx_row(dir, s0, s), cols, nullptr, z);
          if (cell == kGru) {
            product(dir, 1, u, s, h, nullptr, 0, late_bias(dir), z);
            gru_gates(dir, u, z, h, nullptr);
          }
        }
        finish_step(dir, s0, s, u, z, next_ + dir * N * padded);
      });
    }
    std::swap(h_, next_);
  }

  const S* gx_row(int64_t dir, int64_t s0, int64_t s) const { return gx_ + (dir * stretch_ + s - s0) * N * cols; }

  // The recurrent product of a group of gates for some units, with `add` (a row of gate columns per sequence) or `bias` (by unit).
  void product(int64_t dir, int group, Units u, int64_t s, const S* h, const S* add, int64_t ldadd, const S* bias, S* sums) const {
    const GateGroup& g = groups[group];
    const int64_t v = u.first * g.gates, col = g.col + v * L;
    panel_gemm(N, H, h, padded, panel<S>(r_, dir, group, H) + v * L * H, u.count * g.gates, sums + col, cols, bias ? bias + v * L : nullptr,
               add ? add + col : nullptr, ldadd, s & 1);
  }

  void gru_gates(int64_t dir, Units u, S* sums, const S* h, S* reset) const {
    const CellConfig<S>& cfg = cfg_[dir];
    for (int64_t i = 0, at = u.first * L; i < N; i++, at += padded, sums += cols) {
      S *zr = sums + u.first * 2 * L, *rh = reset ? reset + at : nullptr;
      if (cfg.plain) gru_gates_row<true>(cfg, u.count, zr, h + at, rh);
      else gru_gates_row<false>(cfg, u.count, zr, h + at, rh);
    }
  }

  // From a step's sums to the new states of some units, and their part of y.
  void finish_step(int64_t dir, int64_t s0, int64_t s, Units u, S* sums, S* next) const {
    const CellConfig<S>& cfg = cfg_[dir];
    const Operand& y = out(desc, kY);
    const int64_t first = u.first * L, count = std::min(u.count * L, H - first), col = groups[1].col + first;
    const S* gx = gx_row(dir, s0, s);
    for (int64_t i = 0; i < N; i++, sums += cols, gx += cols) {
      const int64_t at = (dir * N + i) * padded + first;
      S *h = next + i * padded + first, *c = c_ + at;
      const bool active = s < lengths_[i];
      if (!active || cell == kGru) std::memcpy(h, h_ + at, static_cast<size_t>(u.count * L) * sizeof(S));
      if (active && cell == kLstm) {
        if (cfg.plain) lstm_row<true>(cfg, u.count, sums + u.first * 4 * L, static_cast<const S*>(nullptr), h, c);
        else lstm_row<false>(cfg, u.count, sums + u.first * 4 * L, static_cast<const S*>(nullptr), h, c);
      } else if (active && cell == kGru) {
        const S* xh = linear_before_reset ? gx + col : nullptr;
        if (cfg.plain) gru_update_row<true>(cfg, u.count, sums + u.first * 2 * L, sums + col, xh, h);
        else gru_update_row<false>(cfg, u.count, sums + u.first * 2 * L, sums + col, xh, h);
      } else if (active) {
        rnn_row(cfg, u.count, sums + first, h);
      }
      if (!y.present()) continue;
      const int64_t to = time(dir, s, i) * y.strides[0] + dir * y.strides[1] + i * y.strides[2] + first * y.strides[3];
      if (active) store_row(h, y.dtype, y.data, to, y.strides[3], count);
      else zero_row(y, to, count);
    }
  }

  void zero_row(const Operand& y, int64_t at, int64_t count) const {
    const S zero = 0;
    for (int64_t j = 0; j < count; j++) store_row(&zero, y.dtype, y.data, at + j * y.strides[3], 1, 1);
  }

  void gru_step(int64_t dir, int64_t s, int64_t n0, int64_t count, const S* gx, S* h, S* sums, S* reset) const {
    const CellConfig<S>& cfg = cfg_[dir];
    const int64_t col = groups[1].col;
    for (int64_t i = 0; i < count; i++) {
      S* rh = linear_before_reset ? nullptr : reset + i * padded;
      if (cfg.plain) gru_gates_row<true>(cfg, blocks, sums + i * cols, h + i * padded, rh);
      else gru_gates_row<false>(cfg, blocks, sums + i * cols, h + i * padded, rh);
    }
    const S* none = nullptr;
    panel_gemm(count, H, linear_before_reset ? h : reset, padded, panel<S>(r_, dir, 1, H), groups[1].vecs, sums + col, cols,
               linear_before_reset ? late_bias(dir) : none, linear_before_reset ? none : gx + col, cols, s & 1);
    for (int64_t i = 0; i < count; i++) {
      if (s >= lengths_[n0 + i]) continue;
      const S* xh = linear_before_reset ? gx + i * cols + col : none;
      if (cfg.plain) gru_update_row<true>(cfg, blocks, sums + i * cols, sums + i * cols + col, xh, h + i * padded);
      else gru_update_row<false>(cfg, blocks, sums + i * cols, sums + i * cols + col, xh, h + i * padded);
    }
  }

  // A sequence that ended before the previous step no longer counts for the range (onnxruntime has zeros there).
  void quant_step(int64_t dir, int64_t s, const S* gx, const S* h, S* sums, int32_t* words) const {
    if constexpr (sizeof(S) == 4) {
      QuantRange q;
      for (int64_t n = 0; n < N; n++)
        if (s <= lengths_[n]) q.widen(h + n * padded, H);
      q.finish();
      for (int64_t n = 0; n < N; n++) quantize_row(q, h + n * padded, H, words + n * (r_depth + 1));
      quant_gemm(N, words, r_depth + 1, q, quant_weights(r_, dir, r_depth, r_scales(dir)), gx, cols, sums, cols);
    }
  }

  CellConfig<S> cfg_[2];
  RowSplit rows_{1, 1};
  int64_t block_rows_ = 0, stretch_ = 0, gather_pitch_ = 0, pitch_[2] = {};
  bool in_place_[2] = {}, divided_ = false, whole_steps_ = false;
  int64_t off_w_ = 0, off_r_ = 0, off_small_ = 0, off_lengths_ = 0, off_h_ = 0, off_c_ = 0, off_gx_ = 0, off_words_ = 0, off_state_ = 0;
  int64_t off_next_ = 0, off_reset_ = 0, off_sums_ = 0;
  int64_t shared_ = 0, per_thread_ = 0;
  std::shared_ptr<const void> pack_w_, pack_r_;
  // Valid during a run.
  const void *w_ = nullptr, *r_ = nullptr;
  S *small_ = nullptr, *h_ = nullptr, *next_ = nullptr, *c_ = nullptr, *gx_ = nullptr;
  int32_t* lengths_ = nullptr;
  int64_t longest_ = 0;
  QuantRange range_;
};

}  // namespace

std::unique_ptr<Kernel> make_recurrent(LaunchDesc desc, BindContext& bind) {
  if (desc.ins.empty()) throw KernelError("recurrent: x is missing");
  if (desc.ins[0].dtype == DType::f64) return std::make_unique<Recurrent<double>>(std::move(desc), bind);
  return std::make_unique<Recurrent<float>>(std::move(desc), bind);
}

}  // namespace ptrt::PTRT_LEVEL
