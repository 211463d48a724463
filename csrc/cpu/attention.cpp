// Fused attention. The queries of one group of heads (all heads that share keys) are rows; a task takes a chunk of them, packs a block of
// keys and values that stays in L2, and for a tile of rows at a time makes scores, their exponentials and the weighted values. With more
// than one block the softmax is online, so the score matrix never exists. Few queries (decoding) read keys and values in place instead.
//
// Measured: packing K^T and V costs 10 % of 12 heads x 128 x 64; reading V in place at a pitch of 3072 bytes costs more (L1 set conflicts).
#include "cpu/attention_rows.h"
#include "cpu/kernels.h"
#include "cpu/vm.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kBlockElements = 64 * 1024;  // of packed keys and values: half of a small L2
constexpr int64_t kStreamRows = 4, kStreamKeys = 256;

template <class S>
TileFn<S> pick_tile(int rows, int nv) {
  if constexpr (sizeof(S) == 4) return tile_f32(rows, nv);
  else return tile_f64(rows, nv);
}

void require(bool ok, const char* what) {
  if (!ok) throw KernelError(std::string("attention: ") + what);
}

template <class S>
class Attention final : public Kernel {
  static constexpr int L = Lanes<S>::n;
  static constexpr int kTile = kMaxRows[2];
  enum In { kQ, kK, kV, kMask, kLengths };

 public:
  explicit Attention(LaunchDesc d) : Kernel(std::move(d)), epilogue_(desc) {
    Params p = desc.params();
    const double scale = p.f();
    causal_ = p.i() != 0;
    causal_offset_ = p.i();
    rule_ = ScoreRule<S>(scale, p.f(), mask_present());
    check();
    mask_direct_ = mask_present() && desc.ins[kMask].dtype == (sizeof(S) == 4 ? DType::f32 : DType::f64) && desc.ins[kMask].strides[3] == 1;
    masked_ = p.i() != 0 && T_ > 0 ? static_cast<S>(__builtin_nan("")) : S(0);
    group_ = H_ / G_;
    chunks_ = RowSplit(group_ * Sq_, B_ * G_ >= 8 ? 512 : 128);
    most_ = chunks_.small + (chunks_.extra > 0);
    wide_ = round_up(E_, L);
    const Rows k = rows(kK, 0, 0), v = rows(kV, 0, 0);
    stream_ = group_ * Sq_ <= kStreamRows && (k.template plain<S>() || k.halves()) && (v.template plain<S>() || v.halves());
    const Rows q = rows(kQ, 0, 0);
    queries_in_place_ = q.template plain<S>() && q.row * static_cast<int64_t>(sizeof(S)) % 4096 != 0;  // such a pitch thrashes L1
    values_in_place_ = v.template plain<S>() && E_ % L == 0 && (v.row == E_ || v.row == -E_);  // wider pitches share too few sets of L1
    const int64_t budget = kBlockElements / (D_ + E_ > 0 ? D_ + E_ : 1), least = 2 * L;
    const int64_t limit = stream_ ? kStreamKeys : budget < least ? least : budget > 1024 ? 1024 : budget;
    const int64_t blocks = (T_ + limit - 1) / limit;
    block_keys_ = blocks > 0 ? round_up((T_ + blocks - 1) / blocks, 2 * L) : 2 * L;
    place_scratch();
  }

  size_t thread_scratch_bytes() const override { return static_cast<size_t>(scratch_); }
  PTRT_COLD std::string describe() const override {
    return stream_ ? "streaming" : "tiles of " + std::to_string(kTile) + " queries, blocks of " + std::to_string(block_keys_) + " keys";
  }

  void run(const RunContext& ctx) override {
    ctx.parallel(B_ * G_ * chunks_.blocks, [&](int64_t task, int worker) {
      const int64_t chunk = task % chunks_.blocks, g = task / chunks_.blocks % G_, b = task / chunks_.blocks / G_;
      Work w(*this, ctx.thread_scratch(worker));
      w.b = b;
      w.g = g;
      w.first = chunks_.start(chunk);
      w.count = chunks_.rows(chunk);
      attend(w);
    });
  }

 private:
  struct Place {
    int64_t head, query;
  };
  struct Work {  // one task: its place in the problem and its scratch
    int64_t b = 0, g = 0, first = 0, count = 0, keys = 0;
    bool single = false;  // one block holds all visible keys: tiles are finished at once, in the same rows of `out`
    S *q, *scores, *kt, *vp, *temp, *mask, *out, *top, *sum;
    char *result, *vm;
    Place* place;
    int64_t mask_at = -1, mask_block = -1;
    bool mask_filled = false;
    Work(const Attention& a, char* s)
        : q(a.at(s, 0)),
          scores(a.at(s, 1)),
          kt(a.at(s, 2)),
          vp(a.at(s, 3)),
          temp(a.at(s, 4)),
          mask(a.at(s, 5)),
          out(a.at(s, 6)),
          top(a.at(s, 7)),
          sum(a.at(s, 8)),
          result(s + a.off_[9]),
          vm(s + a.off_[10]),
          place(reinterpret_cast<Place*>(s + a.off_[11])) {}
  };
  S* at(char* s, int k) const { return reinterpret_cast<S*>(s + off_[k]); }

  void check() {
    require(desc.ins.size() >= 3 && desc.ins.size() <= 5 && desc.outs.size() == 1, "wrong number of operands");
    const Operand &q = desc.ins[kQ], &k = desc.ins[kK], &v = desc.ins[kV], &y = desc.outs[0];
    require(q.ndim == 4 && k.ndim == 4 && v.ndim == 4 && y.ndim == 4, "q, k, v and y must have rank 4");
    require(is_float_type(q.dtype) && k.dtype == q.dtype && v.dtype == q.dtype, "q, k and v must have one floating dtype");
    acc_ = desc.epilogue.empty() ? y.dtype : desc.acc_dtype;
    require(is_float_type(acc_), "the result must be floating point");
    B_ = q.shape[0], H_ = q.shape[1], Sq_ = q.shape[2], D_ = q.shape[3];
    G_ = k.shape[1], T_ = k.shape[2], E_ = v.shape[3];
    require(G_ > 0 ? H_ % G_ == 0 : H_ == 0, "the number of query heads must be a multiple of the number of key heads");
    if (G_ == 0) G_ = 1;
    require(k.shape[0] == B_ && v.shape[0] == B_ && v.shape[1] == k.shape[1] && k.shape[3] == D_ && v.shape[2] == T_,
            "q, k and v do not fit together");
    require(y.shape[0] == B_ && y.shape[1] == H_ && y.shape[2] == Sq_ && y.shape[3] == E_, "y must be [B, H, S, E]");
    if (mask_present()) {
      const Operand& m = desc.ins[kMask];
      require(m.ndim == 4 && m.shape[0] == B_ && m.shape[1] == H_ && m.shape[2] == Sq_ && m.shape[3] == T_, "mask must be [B, H, S, T]");
      require(m.dtype == DType::boolean || is_float_type(m.dtype), "mask must be bool or floating point");
    }
    if (lengths_present()) {
      const Operand& n = desc.ins[kLengths];
      require(n.ndim == 1 && n.shape[0] == B_ && n.dtype == DType::i64, "k_lengths must be int64 [B]");
    }
  }
  bool mask_present() const { return desc.ins.size() > kMask && desc.ins[kMask].present(); }
  bool lengths_present() const { return desc.ins.size() > kLengths && desc.ins[kLengths].present(); }

  void place_scratch() {
    int64_t at = 0, k = 0;
    auto place = [&](int64_t count, int64_t item) {
      off_[k++] = at;
      at += round_up(checked_mul(count, item), 64);
    };
    const auto s = static_cast<int64_t>(sizeof(S));
    const int64_t deep = round_up(D_, L);
    const int64_t rows = stream_ ? kStreamRows : kTile;
    place(checked_mul(rows, deep + L), s);                                        // q
    place(checked_mul(rows, block_keys_ + L), s);                                 // scores
    place(stream_ ? 0 : checked_mul(block_keys_, D_), s);                         // kt
    place(stream_ || values_in_place_ ? 0 : checked_mul(block_keys_, wide_), s);  // vp
    place((deep > wide_ ? deep : wide_) * L, s);                                  // temp
    place(mask_present() ? block_keys_ : 0, s);                                   // mask
    place(checked_mul(most_, wide_), s);                                          // out
    place(most_, s);                                                              // top
    place(most_, s);                                                              // sum
    place(epilogue_.empty() ? 0 : checked_mul(kTile, E_), 8);                     // result
    place(static_cast<int64_t>(epilogue_.scratch_bytes()), 1);                    // vm
    place(most_, static_cast<int64_t>(sizeof(Place)));                            // place
    scratch_ = at;
  }

  Rows rows(int which, int64_t b, int64_t h) const {
    const Operand& o = desc.ins[which];
    return {o.data, o.dtype, b * o.strides[0] + h * o.strides[1], o.strides[2], o.shape[3] == 1 ? 1 : o.strides[3]};
  }
  static int64_t head(const Work& w, int64_t row) { return w.place[row].head; }
  static int64_t query(const Work& w, int64_t row) { return w.place[row].query; }
  int64_t limit(const Work& w, int64_t row) const {  // keys [0, limit) are visible
    if (!causal_) return w.keys;
    const int64_t n = query(w, row) + causal_offset_ + 1;
    return n < 0 ? 0 : n < w.keys ? n : w.keys;
  }

  void load_query(const Work& w, int64_t row, S* to) const {
    const Operand& q = desc.ins[kQ];
    const Rows r = rows(kQ, w.b, head(w, row));
    const int64_t at = query(w, row) * r.row;
    load_row(to, q.dtype, q.data, r.offset + at, r.col, D_);
  }

  void softmax(Work& w, int64_t first, int64_t m, int64_t k0, int64_t count, int64_t end, S* factor) const {
    const int64_t pitch = block_keys_ + L;
    auto visible = [&](int64_t i) {
      const int64_t n = limit(w, first + i) - k0;
      return n < 0 ? 0 : n < count ? n : count;
    };
    for (int64_t i = 0; i < m; i += L) {
      const int n = static_cast<int>(m - i < L ? m - i : L);
      S *x = w.scores + i * pitch, *top = w.top + first + i, *sum = w.sum + first + i;
      auto seen = [&](int64_t r) { return visible(i + r); };
      const ScoreRule<S> rule = rule_;
      if (rule.plain) {
        softmax_rows<true>(x, pitch, n, seen, end, rule, [](int64_t) { return static_cast<const S*>(nullptr); }, top, sum, factor + i);
      } else if (mask_direct_ && head(w, first + i) == head(w, first + i + n - 1)) {
        const S* base = desc.ins[kMask].template as<const S>() + mask_at(w, first + i, k0);
        const int64_t step = desc.ins[kMask].strides[2];
        softmax_rows<false>(x, pitch, n, seen, end, rule, [&](int64_t r) { return base + r * step; }, top, sum, factor + i);
      } else {
        auto mask = [&](int64_t r) { return seen(r) > 0 ? mask_row(w, first + i + r, k0, count) : nullptr; };
        softmax_rows<false>(x, pitch, n, seen, end, rule, mask, top, sum, factor + i);
      }
    }
  }

  int64_t mask_at(const Work& w, int64_t row, int64_t k0) const {
    const Operand& m = desc.ins[kMask];
    return w.b * m.strides[0] + head(w, row) * m.strides[1] + query(w, row) * m.strides[2] + k0 * m.strides[3];
  }

  const S* mask_row(Work& w, int64_t row, int64_t k0, int64_t count) const {
    if (!mask_present()) return nullptr;
    const Operand& m = desc.ins[kMask];
    const int64_t at = mask_at(w, row, k0);
    if (mask_direct_) return m.as<const S>() + at;
    if (w.mask_filled && w.mask_at == at && w.mask_block == k0) return w.mask;
    w.mask_filled = true;
    w.mask_at = at;
    w.mask_block = k0;
    if (m.dtype == DType::boolean) {
      const uint8_t* p = m.as<const uint8_t>() + at;
      for (int64_t t = 0; t < count; t++) w.mask[t] = p[t * m.strides[3]] ? S(0) : -static_cast<S>(__builtin_inf());
    } else {
      load_row(w.mask, m.dtype, m.data, at, m.strides[3], count);
    }
    return w.mask;
  }

  void attend(Work& w) const {
    w.keys = T_;
    if (lengths_present()) {
      const Operand& lengths = desc.ins[kLengths];
      const int64_t n = lengths.as<int64_t>()[w.b * lengths.strides[0]];
      w.keys = n < 0 ? 0 : n < T_ ? n : T_;
    }
    int64_t most = 0, h = w.g * group_ + w.first / Sq_, s = w.first % Sq_;
    for (int64_t i = 0; i < w.count; i++) {
      w.place[i] = {h, s};
      if (++s == Sq_) {
        s = 0;
        h++;
      }
      w.top[i] = -static_cast<S>(__builtin_inf());
      w.sum[i] = 0;
      const int64_t n = limit(w, i);
      most = n > most ? n : most;
    }
    w.single = !stream_ && most > 0 && most <= block_keys_;
    if ((causal_ && !w.single) || stream_ || most == 0) std::memset(w.out, 0, static_cast<size_t>(w.count * wide_) * sizeof(S));
    for (int64_t k0 = 0; k0 < most; k0 += block_keys_) {
      const int64_t n = most - k0 < block_keys_ ? most - k0 : block_keys_;
      if (stream_) stream_block(w, k0, n);
      else tile_block(w, k0, n);
    }
    if (!w.single) finish(w, 0, w.count, w.out);
  }

  // fn(rows, pitch, first, count) for keys or values [k0, k0 + count): all of them in place, or a vector's worth at a time from `temp`.
  template <class Fn>
  static void each_rows(const Rows& r, int64_t k0, int64_t count, int64_t width, S* temp, Fn fn) {
    if (const S* direct = r.direct<S>()) return fn(direct + k0 * r.row, r.row, int64_t{0}, count);
    const int64_t pitch = round_up(width, L);
    for (int64_t t = 0; t < count; t += L) {
      const int64_t n = count - t < L ? count - t : L;
      for (int64_t i = 0; i < n; i++) load_row(temp + i * pitch, r.type, r.data, r.offset + (k0 + t + i) * r.row, r.col, width);
      fn(static_cast<const S*>(temp), pitch, t, n);
    }
  }

  void stream_block(Work& w, int64_t k0, int64_t count) const {
    const int64_t pitch = block_keys_ + L, q_pitch = round_up(D_, L) + L, end = round_up(count, L);
    S factor[kStreamRows];
    for (int64_t i = 0; i < w.count; i++) load_query(w, i, w.q + i * q_pitch);
    each_rows(rows(kK, w.b, w.g), k0, count, D_, w.temp, [&](const S* k, int64_t row, int64_t t, int64_t n) {
      for (int64_t i = 0; i < w.count; i++) stream_scores(w.q + i * q_pitch, k, row, n, D_, w.scores + i * pitch + t);
    });
    softmax(w, 0, w.count, k0, count, end, factor);
    each_rows(rows(kV, w.b, w.g), k0, count, E_, w.temp, [&](const S* v, int64_t row, int64_t t, int64_t n) {
      for (int64_t i = 0; i < w.count; i++) {
        const int64_t seen = limit(w, i) - k0 - t;
        if (seen > 0) stream_values(w.scores + i * pitch + t, v, row, seen < n ? seen : n, E_, t ? S(1) : factor[i], w.out + i * wide_);
      }
    });
  }

  void tile_block(Work& w, int64_t k0, int64_t count) const {
    const Rows k = rows(kK, w.b, w.g), v = rows(kV, w.b, w.g);
    pack_keys(k, k0, count, D_, w.kt, w.temp);
    const bool ahead = w.single && w.g + 1 < G_ && w.first + w.count == group_ * Sq_;  // the next task's operands, while this one computes
    const Rows next[3] = {rows(kK, w.b, w.g + ahead), rows(kV, w.b, w.g + ahead), rows(kQ, w.b, (w.g + ahead) * group_)};
    if (!values_in_place_) pack_values(v, k0, count, E_, w.vp, w.temp);
    const int64_t q_pitch = round_up(D_, L) + L, s_pitch = block_keys_ + L, key_vecs = (count + L - 1) / L, out_vecs = wide_ / L;
    const RowSplit tiles(w.count, kTile);
    for (int64_t tile = 0; tile < tiles.blocks; tile++) {
      const int64_t r0 = tiles.start(tile), m = tiles.rows(tile);
      if (ahead) {
        prefetch_rows<S>(next[0], tile * count / tiles.blocks, (tile + 1) * count / tiles.blocks, D_);
        prefetch_rows<S>(next[1], tile * count / tiles.blocks, (tile + 1) * count / tiles.blocks, E_);
        if (group_ == 1) prefetch_rows<S>(next[2], r0, r0 + m, D_);
      }
      int64_t seen = 0;
      for (int64_t i = 0; i < m; i++) {
        const int64_t n = limit(w, r0 + i) - k0;
        seen = n > seen ? n : seen;
      }
      seen = seen < count ? seen : count;
      S* out = w.single ? w.out : w.out + r0 * wide_;
      if (seen == 0) {
        if (w.single) {
          std::memset(out, 0, static_cast<size_t>(m * wide_) * sizeof(S));
          finish(w, r0, m, out);
        }
        continue;
      }
      TileArgs<S> g;
      g.cj = L;
      if (queries_in_place_ && head(w, r0) == head(w, r0 + m - 1)) {
        const Rows q = rows(kQ, w.b, head(w, r0));
        g.A = q.direct<S>() + query(w, r0) * q.row;
        g.lda = q.row;
      } else {
        for (int64_t i = 0; i < m; i++) load_query(w, r0 + i, w.q + i * q_pitch);
        g.A = w.q;
        g.lda = q_pitch;
      }
      g.K = D_;
      g.ldc = s_pitch;
      for (int64_t p = 0; p * L < seen; p += 2) {
        const int nv = p + 1 < key_vecs ? 2 : 1;
        g.B = w.kt + p * L * D_;
        g.C = w.scores + p * L;
        g.ldb = g.n = nv * L;
        pick_tile<S>(static_cast<int>(m), nv)(g);
      }
      const int64_t end = round_up(seen, L);
      S factor[kTile];
      softmax(w, r0, m, k0, count, end, factor);
      if (k0 > 0)
        for (int64_t i = 0; i < m; i++) {
          S* o = out + i * wide_;
          if (factor[i] != 1)
            for (int64_t j = 0; j < wide_; j += L) store(o + j, load(o + j) * factor[i]);
        }
      g.A = w.scores;
      g.lda = s_pitch;
      g.K = seen;
      g.ldc = g.lds = wide_;
      for (int64_t p = 0; p < out_vecs; p += 2) {
        const int nv = p + 1 < out_vecs ? 2 : 1;
        g.B = values_in_place_ ? v.direct<S>() + k0 * v.row + p * L : w.vp + p * L * count;
        g.ldb = values_in_place_ ? v.row : nv * L;
        g.C = out + p * L;
        g.S = k0 > 0 ? g.C : nullptr;
        g.n = nv * L;
        pick_tile<S>(static_cast<int>(m), nv)(g);
      }
      if (w.single) finish(w, r0, m, out);
    }
  }

  // Rows [first, first + count), their sums of weighted values in `out`.
  void finish(Work& w, int64_t first, int64_t count, S* out) const {
    const Operand& y = desc.outs[0];
    const bool in_place = epilogue_.empty() && y.dtype == (sizeof(S) == 4 ? DType::f32 : DType::f64) && y.strides[3] == 1 && E_ % L == 0;
    for (int64_t i = 0; i < count; i++) {
      S* o = out + i * wide_;
      const int64_t row = first + i, at = w.b * y.strides[0] + head(w, row) * y.strides[1] + query(w, row) * y.strides[2];
      S* to = in_place ? y.template as<S>() + at : o;
      const S inverse = w.sum[row] == 0 ? masked_ : S(1) / w.sum[row];
      for (int64_t j = 0; j < wide_; j += L) store(to + j, load(o + j) * inverse);
      if (epilogue_.empty() && !in_place) store_row(o, y.dtype, y.data, at, y.strides[3], E_);
    }
    if (epilogue_.empty()) return;
    for (int64_t i = 0; i < count;) {  // boxes of at most kTile queries of one head
      int64_t n = Sq_ - query(w, first + i);
      n = n < count - i ? n : count - i;
      n = n < kTile ? n : kTile;
      for (int64_t r = 0; r < n; r++) store_row(out + (i + r) * wide_, acc_, w.result, r * E_, 1, E_);
      const int64_t index[4] = {w.b, head(w, first + i), query(w, first + i), 0};
      epilogue_.apply(desc, index, 2, n, 3, E_, Block{w.result, E_, 1}, w.vm);
      i += n;
    }
  }

  Epilogue epilogue_;
  ScoreRule<S> rule_;
  S masked_ = 0;  // times zero: the result of a row without visible keys
  bool causal_ = false, stream_ = false, queries_in_place_ = false, mask_direct_ = false, values_in_place_ = false;
  DType acc_ = DType::none;
  int64_t causal_offset_ = 0;
  int64_t B_ = 0, H_ = 0, Sq_ = 0, D_ = 0, G_ = 0, T_ = 0, E_ = 0;
  int64_t group_ = 1, most_ = 0, wide_ = 0, block_keys_ = 0, scratch_ = 0;
  int64_t off_[12] = {};
  RowSplit chunks_{1, 1};
};

}  // namespace

std::unique_ptr<Kernel> make_attention(LaunchDesc desc, BindContext&) {
  if (desc.ins.empty()) throw KernelError("attention: q is missing");
  if (desc.ins[0].dtype == DType::f64) return std::make_unique<Attention<double>>(std::move(desc));
  return std::make_unique<Attention<float>>(std::move(desc));
}

}  // namespace ptrt::PTRT_LEVEL
