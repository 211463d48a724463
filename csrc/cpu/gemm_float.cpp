// Floating-point gemm on register tiles: B in panels (packed at bind when it is constant, otherwise at run time), A read where it lies
// unless its layout hurts, K blocks, and the epilogue applied in registers (linear_epilogue.h) or to blocks that are still in cache (vm.h).
//
// Bits: an element is the sum of chains of multiply-adds over k in order; where one ends (K blocks, chain_length) depends on the shape
// alone, never on the tile or the split into tasks. That is why the task grid may follow the number of threads.
#include <algorithm>
#include <type_traits>

#include "cpu/gemm.h"
#include "cpu/gemm_rows.h"
#include "cpu/half.h"
#include "cpu/linear_epilogue.h"
#include "cpu/tile.h"
#include "cpu/vm.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kBlockK = 768, kWholeK = 1024;  // K is cut into even blocks of at most kBlockK if it is longer than kWholeK
constexpr int64_t kBlockCBytes = 384 << 10;       // of C per task
constexpr int64_t kThinBytes = 16 << 10;          // of B: less than this stays in L1, and C is written row by row;
constexpr int64_t kThinPasses = 192 << 10;        // less than this stays in L2, where C is written row by row
constexpr int64_t kStreamedBytes = 3 << 19;       // a B of more than this is not in L2 when few rows meet it
constexpr int64_t kLongBytes = 2 << 20;           // if A and C have more than this: passes of panels would find neither in L2
constexpr int64_t kBlockAxpyBytes = 16 << 10;     // of C per task where C is read and written as B streams past
constexpr int64_t kStretchBytes = 4 << 20;        // of B's source at a time while it is packed
constexpr int64_t kBlockVmBytes = 96 << 10;       // of C per task if a program follows

enum class Form {
  kTiles,
  kFewTiles,  // few rows, B packed
  kAxpy,      // few rows, B read in place along n
  kDot,       // few rows, B read in place along k: slower than packed B at any length, so only where B changes
};
// kConst: once, at bind or at the second run. kShared: before the tasks start. kLocal: in thread scratch, by the one task that needs it (B:
// panel by panel, just before its use).
enum class Pack { kNone, kConst, kShared, kLocal };

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
size_t align64(size_t n) { return (n + 63) / 64 * 64; }

template <class T>
class FloatGemm final : public Kernel {
  static constexpr int L = Lanes<T>::n;

 public:
  PTRT_COLD FloatGemm(LaunchDesc d, const GemmShape& shape, BindContext& bind) : Kernel(std::move(d)), s_(shape) {
    const Operand &a = in(s_.ia), &b = in(s_.ib), &y = desc.outs[0];
    choose_epilogue(y);
    if (s_.batches == 0 || s_.M == 0 || s_.N == 0) return;
    choose_form(a, b);
    const bool few_rows = form_ != Form::kTiles;
    nv_ = few_rows ? (s_.N <= L ? 1 : 2) : std::min(panel_vectors(s_.N, L), std::is_same_v<T, float> ? 3 : 2);
    nr_ = nv_ * L;
    panels_ = ceil_div(s_.N, nr_);
    const int64_t kblocks = s_.K > kWholeK && !few_rows ? ceil_div(s_.K, kBlockK) : 1;
    kc_ = std::max<int64_t>(1, ceil_div(s_.K, kblocks));
    const auto size = static_cast<int64_t>(sizeof(T));
    const int64_t b_bytes = s_.K * panels_ * nr_ * size;
    thin_ = !few_rows && (b_bytes <= kThinBytes || (b_bytes <= kThinPasses && s_.M * (s_.K + s_.N) * size > kLongBytes));
    grid_ = gemm_grid(s_, GridLimits{nr_, kMaxRows[nv_], kc_ * size,
                                     form_ == Form::kAxpy ? kBlockAxpyBytes
                                     : program_.empty()   ? kBlockCBytes
                                                          : kBlockVmBytes,
                                     size, 1, b_bytes, bind.threads, thin_, !program_.empty() && !in_place()});
    choose_packing(a, b, bind);
    layout_scratch();
  }

  size_t shared_scratch_bytes() const override { return shared_bytes_; }
  size_t thread_scratch_bytes() const override { return thread_bytes_; }
  PTRT_COLD std::string describe() const override {
    const auto where = [](Pack p) { return p == Pack::kNone ? "in place" : p == Pack::kConst ? "prepacked" : "packed"; };
    static const char* const forms[] = {"tiles, ", "few rows, ", "few rows along n, ", "few rows along k, "};
    return forms[static_cast<int>(form_)] + std::string("panels of ") + std::to_string(nr_) + ", a " + where(pack_a_) + ", b " +
           where(pack_b_) + ", tasks " + std::to_string(s_.batches) + "x" + std::to_string(grid_.row_groups) + "x" +
           std::to_string(grid_.panel_groups) + (buffered_ ? ", buffered" : "") + activation_name(linear_);
  }

  void run(const RunContext& ctx) override {
    if (s_.batches == 0 || s_.M == 0 || s_.N == 0) return;
    const Operand &a = in(s_.ia), &b = in(s_.ib);
    const T* packed = nullptr;
    if (pack_b_ == Pack::kConst) packed = static_cast<const T*>(packed_->use(b, ctx.threads(), [this](void* to) { pack_b(to); }));
    else if (pack_b_ == Pack::kShared) packed = reinterpret_cast<const T*>(ctx.shared_scratch + b_offset_);
    if (pack_b_ == Pack::kShared && s_.K > 0) {
      T* out = reinterpret_cast<T*>(ctx.shared_scratch + b_offset_);
      const int64_t chunks = std::min(panels_, ceil_div(panels_ * nr_ * s_.K, 1 << 16));
      const RowSplit split(panels_, ceil_div(panels_, chunks));
      ctx.parallel(b_batches_.count * split.blocks, [&](int64_t t, int) {
        const int64_t batch = t / split.blocks, c = t % split.blocks, p0 = split.start(c);
        pack_panels(out + batch * panels_ * s_.K * nr_, at(b, b_batches_.offset(s_, batch, s_.bs)), b.dtype, s_.bk, s_.bn, s_.K, s_.N, nr_,
                    {p0, p0 + split.rows(c), 0, s_.K});
      });
    }
    if (pack_a_ == Pack::kShared && s_.K > 0) {
      T* out = reinterpret_cast<T*>(ctx.shared_scratch + a_offset_);
      const RowSplit split(s_.M, std::max<int64_t>(64, (1 << 16) / std::max<int64_t>(1, s_.K)));
      ctx.parallel(a_batches_.count * split.blocks, [&](int64_t t, int) {
        const int64_t batch = t / split.blocks, c = t % split.blocks, m0 = split.start(c);
        copy_matrix(out + (batch * s_.M + m0) * pitch_, pitch_, at(a, a_batches_.offset(s_, batch, s_.as) + m0 * s_.am), a.dtype, s_.am,
                    s_.ak, split.rows(c), s_.K);
      });
    }
    const T* bias = bias_pointer(ctx);
    const int64_t grid = grid_.row_groups * grid_.panel_groups;
    ctx.parallel(
        s_.batches * grid,
        [&](int64_t t, int worker) {
          block(ctx, t / grid, t % grid / grid_.panel_groups, t % grid_.panel_groups, packed, bias, ctx.thread_scratch(worker));
        },
        grid_.brief);
    if (pack_b_ == Pack::kConst && !packed) give_back(b);
  }

 private:
  const Operand& in(int k) const { return desc.ins[static_cast<size_t>(k)]; }
  const Operand& epi(int k) const { return desc.epi_ins[static_cast<size_t>(k)]; }
  static const void* at(const Operand& o, int64_t element) {
    return static_cast<const char*>(o.data) + element * static_cast<int64_t>(itemsize(o.dtype));
  }

  PTRT_COLD void choose_epilogue(const Operand& y) {
    linear_ = linear_epilogue(desc, s_.nb + 1, s_.yn == 1 || s_.N == 1);
    if (linear_.ok && linear_.residual >= 0 && s_.N != 1 && epi(linear_.residual).strides[s_.nb + 1] != 1) linear_.ok = false;
    if (linear_.ok && y.shape[s_.nb + 1] != 1 && s_.yn != 1 && !desc.epilogue.empty()) linear_.ok = false;
    if (!linear_.ok && !desc.epilogue.empty()) program_.push_back(Epilogue(desc));
    if (linear_.ok) s_.alpha *= linear_.alpha;
    buffered_ = !program_.empty() || y.dtype != dtype_of() || (s_.yn != 1 && s_.N != 1);
  }
  static constexpr DType dtype_of() { return std::is_same_v<T, float> ? DType::f32 : DType::f64; }

  PTRT_COLD void choose_form(const Operand& a, const Operand& b) {
    if (s_.M > kFewRows) return;
    form_ = Form::kFewTiles;
    if (b.is_const() || a.dtype != dtype_of()) return;
    if (s_.bk == 1 && s_.K >= L) form_ = Form::kDot;
    else if (s_.bn == 1) form_ = Form::kAxpy;
  }
  bool in_place() const { return form_ == Form::kAxpy || form_ == Form::kDot; }

  PTRT_COLD void choose_packing(const Operand& a, const Operand& b, BindContext& bind) {
    const bool whole = grid_.row_groups == 1 && grid_.panel_groups == 1;  // a task is a whole batch
    a_batches_ = BatchPack(s_, s_.as);
    b_batches_ = BatchPack(s_, s_.bs);
    const auto local = [&](const BatchPack& p) { return whole && s_.batches > 1 && p.count == s_.batches ? Pack::kLocal : Pack::kShared; };
    if (in_place()) {
      pack_b_ = Pack::kNone;
    } else if (b.is_const()) {
      pack_b_ = Pack::kConst;
      const std::string layout = "gemm_b:" + std::to_string(sizeof(T)) + ":" + std::to_string(static_cast<int>(b.dtype)) + ":" +
                                 std::to_string(nr_) + ":" + b_layout(s_);
      packed_ =
          bind.packs.lazily(b, layout, checked_bytes(b_batches_.count, panels_ * nr_, s_.K, sizeof(T)), [this](void* to) { pack_b(to); });
    } else {
      pack_b_ = grid_.row_groups == 1 && !thin_ && b_batches_.count == s_.batches ? Pack::kLocal : Pack::kShared;
    }
    const bool thrashes = s_.am * static_cast<int64_t>(sizeof(T)) % 4096 == 0 && s_.M > 8 && s_.K >= 64 && s_.am != 0;
    if (a.dtype != dtype_of() || (s_.ak != 1 && s_.K != 1) || thrashes) pack_a_ = local(a_batches_);
    pitch_ = (s_.K + 15) / 16 * 16;
    if (pitch_ * static_cast<int64_t>(sizeof(T)) % 4096 == 0) pitch_ += 16;
  }

  // Packs B, a stretch of its memory at a time, so that the file's pages can go while the packed ones come.
  void pack_b(void* memory) const {
    const Operand& b = in(s_.ib);
    const bool by_columns = s_.bk == 1;
    const int64_t length = by_columns ? panels_ : s_.K,
                  step_bytes = (by_columns ? s_.bn * nr_ : s_.bk) * static_cast<int64_t>(itemsize(b.dtype));
    const int64_t step = std::max<int64_t>(1, kStretchBytes / std::max<int64_t>(1, step_bytes));
    for (int64_t i = 0; i < b_batches_.count; i++) {
      const int64_t from = b_batches_.offset(s_, i, s_.bs);
      T* out = static_cast<T*>(memory) + i * panels_ * s_.K * nr_;
      for (int64_t at_step = 0; at_step < length; at_step += step) {
        const int64_t end = std::min(length, at_step + step);
        const PanelRange range = by_columns ? PanelRange{at_step, end, 0, s_.K} : PanelRange{0, panels_, at_step, end};
        pack_panels(out, at(b, from), b.dtype, s_.bk, s_.bn, s_.K, s_.N, nr_, range);
        if (by_columns) give_back_columns(from, at_step * nr_, end * nr_);
        else if (s_.bn == 1 && s_.bk >= s_.N) give_back(b, from + at_step * s_.bk, from + (end - 1) * s_.bk + s_.N);
      }
    }
  }

  // Of B that lies along k, once nobody reads the columns any more.
  void give_back_columns(int64_t from, int64_t n0, int64_t n1) const {
    if (s_.bk == 1 && s_.bn >= s_.K) give_back(in(s_.ib), from + n0 * s_.bn, from + (std::min(n1, s_.N) - 1) * s_.bn + s_.K);
  }

  PTRT_COLD void layout_scratch() {
    const auto take = [](size_t& total, size_t bytes) {
      const size_t offset = total;
      total += align64(bytes);
      return offset;
    };
    const int64_t rows = grid_.rows(s_), columns = grid_.panels(panels_) * nr_;
    if (pack_b_ == Pack::kShared) b_offset_ = take(shared_bytes_, checked_bytes(b_batches_.count, panels_ * nr_, s_.K, sizeof(T)));
    if (pack_b_ == Pack::kLocal || (pack_b_ == Pack::kConst && !packed_->packed()))
      b_offset_ = take(thread_bytes_, checked_bytes(1, nr_, kc_, sizeof(T)));
    if (pack_a_ == Pack::kShared) a_offset_ = take(shared_bytes_, checked_bytes(a_batches_.count, s_.M, pitch_, sizeof(T)));
    if (pack_a_ == Pack::kLocal) a_offset_ = take(thread_bytes_, checked_bytes(1, s_.M, pitch_, sizeof(T)));
    if (gathers_bias()) bias_offset_ = take(shared_bytes_, checked_bytes(1, 1, s_.N, sizeof(T)));
    partial_ =
        buffered_ || in_place() || (kc_ < s_.K && linear_.residual >= 0);  // a residual may be y's memory: y must not hold partial sums
    if (partial_) c_offset_ = take(thread_bytes_, checked_bytes(1, rows, columns, sizeof(T)));
    if (!program_.empty()) vm_offset_ = take(thread_bytes_, program_[0].scratch_bytes());
  }

  bool gathers_bias() const { return linear_.ok && linear_.bias >= 0 && s_.N != 1 && epi(linear_.bias).strides[s_.nb + 1] != 1; }

  const T* bias_pointer(const RunContext& ctx) const {
    if (!linear_.ok || linear_.bias < 0) return nullptr;
    const Operand& o = epi(linear_.bias);
    if (!gathers_bias()) return o.as<T>();
    T* bias = reinterpret_cast<T*>(ctx.shared_scratch + bias_offset_);
    for (int64_t n = 0; n < s_.N; n++) bias[n] = o.as<T>()[n * o.strides[s_.nb + 1]];
    return bias;
  }

  // One task: the rows of a row group times the panels of a panel group, of one batch.
  void block(const RunContext& ctx, int64_t batch, int64_t row_group, int64_t panel_group, const T* packed, const T* bias,
             char* scratch) const {
    const Operand &a = in(s_.ia), &b = in(s_.ib), &y = desc.outs[0];
    const RowSplit rows = grid_.row_split(s_), groups = grid_.panel_split(panels_);
    const int64_t m0 = rows.start(row_group), mc = rows.rows(row_group), p0 = groups.start(panel_group), pc = groups.rows(panel_group);
    const int64_t n0 = p0 * nr_, nc = std::min(pc * nr_, s_.N - n0);

    const char* source =
        static_cast<const char*>(at(b, batch_offset(s_, batch, s_.bs) + n0 * s_.bn));  // unpacked B, from the first column on
    const T* B = packed ? packed + batch_offset(s_, batch, b_batches_.strides) * panels_ * s_.K * nr_ : nullptr;
    T* panel = packed || in_place() ? nullptr : reinterpret_cast<T*>(scratch + b_offset_);
    TileArgs<T> g;
    if (pack_a_ == Pack::kNone) {
      g.A = a.as<T>() + batch_offset(s_, batch, s_.as) + m0 * s_.am;
      g.lda = s_.am;
      g.ks = s_.ak;
    } else {
      T* packed = reinterpret_cast<T*>((pack_a_ == Pack::kLocal ? scratch : ctx.shared_scratch) + a_offset_);
      if (pack_a_ == Pack::kLocal) copy_matrix(packed, pitch_, at(a, batch_offset(s_, batch, s_.as)), a.dtype, s_.am, s_.ak, s_.M, s_.K);
      else packed += batch_offset(s_, batch, a_batches_.strides) * s_.M * pitch_;
      g.A = packed + m0 * pitch_;
      g.lda = pitch_;
    }
    // Results go to y, or to a buffer that is stored below. Partial sums of K blocks stay where the results go, or in the buffer.
    T* buffer = partial_ ? reinterpret_cast<T*>(scratch + c_offset_) : nullptr;
    const int64_t buffer_ld = grid_.panels(panels_) * nr_, y0 = batch_offset(s_, batch, s_.ys) + m0 * s_.ym + n0 * s_.yn;
    Target t;
    t.C = buffered_ ? buffer : y.as<T>() + y0;
    t.ldc = buffered_ ? buffer_ld : s_.ym;
    t.P = partial_ ? buffer : t.C;
    t.ldp = partial_ ? buffer_ld : t.ldc;
    if (linear_.ok) {
      g.bias = bias ? bias + n0 : nullptr;
      if (linear_.residual >= 0) {
        const Operand& r = epi(linear_.residual);
        g.R = r.as<T>() + batch_offset(s_, batch, r.strides) + m0 * r.strides[s_.nb] + n0;
        g.ldr = r.strides[s_.nb];
      }
      g.lo = static_cast<T>(linear_.lo);
      g.hi = static_cast<T>(linear_.hi);
      if (!activates())
        g.flags = (linear_.clamp_before ? TileArgs<T>::kClampBefore : 0) | (linear_.clamp_after ? TileArgs<T>::kClampAfter : 0);
    }
    g.alpha = static_cast<T>(s_.alpha);
    if (g.alpha != 1) g.flags |= TileArgs<T>::kScale;
    g.ldb = nr_;
    g.cj = L;
    if (in_place()) {
      const int mr = static_cast<int>(mc);
      if (form_ == Form::kAxpy) axpy_rows(mr, nc, s_.K, g.A, g.lda, g.ks, reinterpret_cast<const T*>(source), s_.bk, buffer, buffer_ld);
      else dot_rows(mr, nc, s_.K, g.A, g.lda, reinterpret_cast<const T*>(source), s_.bn, buffer, buffer_ld);
      if (!buffered_ || g.flags) multiply_nothing(g, t, p0, pc, mr);
    } else {
      multiply(g, t, B, source, panel, p0, pc, mc);
    }
    if (pack_b_ == Pack::kConst && !packed && grid_.row_groups == 1 && s_.batches == 1) give_back_columns(0, n0, n0 + nc);
    if (buffered_) finish(batch, m0, mc, n0, nc, buffer, buffer_ld, y0, scratch);
  }

  struct Target {
    T *C, *P;
    int64_t ldc, ldp;
  };

  // B: all packed panels, or null: then each is packed into `panel` from `source`, while the tiles before it prefetch what it will read.
  void multiply(TileArgs<T> g, const Target& t, const T* B, const char* source, T* panel, int64_t p0, int64_t pc, int64_t mc) const {
    constexpr auto size = static_cast<int64_t>(sizeof(T));
    const RowSplit tiles(mc, kMaxRows[nv_]);
    const int64_t chunk = thin_ && B ? 1 : tiles.blocks;  // tiles that go through all panels together: all, or one where B stays in L1
    const T *A = g.A, *R = g.R, *bias = g.bias;
    g.next_step = prefetch_step(nr_ * size, tiles.blocks);
    // Where A is read once, in memory's order and from beyond L2, each tile prefetches the next one's rows.
    const bool whole_a = panels_ == 1 && B && g.ks == 1 && g.lda == s_.K && kc_ >= s_.K && s_.M * s_.K * size > kLongBytes;
    if (whole_a) g.next_step = 64;
    for (int64_t k0 = 0; k0 < std::max<int64_t>(1, s_.K); k0 += kc_) {
      g.K = std::min(kc_, s_.K - k0);
      g.last = k0 + kc_ >= s_.K;
      for (int64_t i0 = 0, p = 0; i0 < tiles.blocks; p + 1 < pc ? p++ : (p = 0, i0 += chunk)) {
        const DType b_type = in(s_.ib).dtype;
        const int64_t b_item = static_cast<int64_t>(itemsize(b_type));
        const char* next = nullptr;
        if (B) {
          g.B = B + (p0 + p) * s_.K * nr_ + k0 * nr_;
          if (p0 + p + 1 < panels_ && !thin_) next = reinterpret_cast<const char*>(g.B + s_.K * nr_);
        } else {
          const int64_t columns = s_.N - p0 * nr_ - p * nr_;
          pack_panels(panel, source + (k0 * s_.bk + p * nr_ * s_.bn) * b_item, b_type, s_.bk, s_.bn, g.K, std::min<int64_t>(nr_, columns),
                      nr_, {0, 1, 0, g.K});
          g.B = panel;
        }
        g.n = static_cast<int>(std::min<int64_t>(nr_, s_.N - (p0 + p) * nr_));
        g.bias = bias ? bias + p * nr_ : nullptr;
        const int nv = static_cast<int>(ceil_div(g.n, L));
        TileFn<T> large = nullptr, small = nullptr;
        if (form_ == Form::kFewTiles) {
          large = small = small_tile(static_cast<int>(tiles.small), nv);
        } else {
          const bool half = g.n - (nv - 1) * L <= L / 2;
          small = tile(static_cast<int>(tiles.small), nv, half);
          large = tiles.extra ? tile(static_cast<int>(tiles.small) + 1, nv, half) : small;
        }
        for (int64_t i = i0; i < std::min(tiles.blocks, i0 + chunk); i++) {
          const int64_t m = tiles.start(i);
          g.A = A + m * g.lda + k0 * g.ks;
          g.C = g.last ? t.C + m * t.ldc + p * nr_ : t.P + m * t.ldp + p * nr_;
          g.ldc = g.last ? t.ldc : t.ldp;
          g.S = k0 ? t.P + m * t.ldp + p * nr_ : nullptr;
          g.lds = t.ldp;
          g.R = R ? R + m * g.ldr + p * nr_ : nullptr;
          g.next = next && i * g.next_step < nr_ * size ? next + i * g.K * g.next_step : nullptr;
          if (whole_a && i + 1 < tiles.blocks) g.next = A + tiles.start(i + 1) * g.lda;
          if (form_ == Form::kFewTiles) g.next = s_.K * s_.N * size > kStreamedBytes ? g.B : nullptr;
          if (!B && p + 1 < pc) prefetch_source(source + (k0 * s_.bk + (p + 1) * nr_ * s_.bn) * b_item, b_item, g.K, i, tiles.blocks);
          run_tile(i < tiles.extra ? large : small, g, static_cast<int>(tiles.rows(i)));
        }
      }
    }
  }

  bool activates() const { return std::is_same_v<T, float> && linear_.activation != Activation::none; }

  // With an activation, by way of a block in L1.
  void run_tile(TileFn<T> tile, TileArgs<T>& g, int rows) const {
    if constexpr (std::is_same_v<T, float>) {
      if (g.last && activates()) {
        alignas(64) float block[kMaxRows[1] * 4 * L];
        TileArgs<T> to_block = g;
        to_block.C = block;
        to_block.ldc = nr_;
        to_block.R = nullptr;
        for (int i = 0; i < rows; i++)
          for (int j = 0; j < g.n; j += L) __builtin_prefetch(g.C + i * g.ldc + j, 1, 3);
        tile(to_block);
        apply_activation(linear_, block, nr_, g.C, g.ldc, rows, g.n, g.R, g.ldr);
        return;
      }
    }
    tile(g);
  }

  // Part i of n of the lines of one panel's source, if it has a unit stride.
  void prefetch_source(const char* p, int64_t item, int64_t K, int64_t i, int64_t n) const {
    const int64_t outer = s_.bk == 1 ? nr_ : K, bytes = (s_.bk == 1 ? K : nr_) * item, stride = (s_.bk == 1 ? s_.bn : s_.bk) * item;
    if (s_.bk != 1 && s_.bn != 1) return;
    for (int64_t j = outer * i / n; j < outer * (i + 1) / n; j++)
      for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(p + j * stride + line, 0, 2);
  }

  // Applies the in-register epilogue to sums that are complete.
  void multiply_nothing(TileArgs<T> g, const Target& t, int64_t p0, int64_t pc, int mr) const {
    const T *R = g.R, *bias = g.bias;
    g.ldc = t.ldc;
    g.lds = t.ldp;
    g.B = t.P;  // not read: there is no k
    for (int64_t p = 0; p < pc; p++) {
      g.n = static_cast<int>(std::min<int64_t>(nr_, s_.N - (p0 + p) * nr_));
      g.C = t.C + p * nr_;
      g.S = t.P + p * nr_;
      g.R = R ? R + p * nr_ : nullptr;
      g.bias = bias ? bias + p * nr_ : nullptr;
      run_tile(tile(mr, static_cast<int>(ceil_div(g.n, L))), g, mr);
    }
  }

  void finish(int64_t batch, int64_t m0, int64_t mc, int64_t n0, int64_t nc, T* buffer, int64_t ld, int64_t y0, char* scratch) const {
    const Operand& y = desc.outs[0];
    if (program_.empty()) {
      store_matrix(const_cast<void*>(at(y, y0)), y.dtype, s_.ym, s_.yn, buffer, ld, mc, nc);
      return;
    }
    Block acc{buffer, ld, 1};
    if constexpr (std::is_same_v<T, float>) {
      if (desc.acc_dtype != DType::f32) {
        acc.row_stride = 2 * ld;
        for (int64_t m = 0; m < mc; m++)
          floats_to_halves(desc.acc_dtype, reinterpret_cast<uint16_t*>(buffer + m * ld), buffer + m * ld, nc);
      }
    }
    int64_t index[kMaxDims] = {};
    batch_index(s_, batch, index);
    index[s_.nb] = m0;
    index[s_.nb + 1] = n0;
    program_[0].apply(desc, index, s_.nb, mc, s_.nb + 1, nc, acc, scratch + vm_offset_);
  }

  static TileFn<T> tile(int mr, int nv, bool half = false) {
    if constexpr (std::is_same_v<T, float>) return tile_f32(mr, nv, half);
    else return tile_f64(mr, nv);
  }
  static TileFn<T> small_tile(int mr, int nv) {
    if constexpr (std::is_same_v<T, float>) return small_tile_f32(mr, nv);
    else return small_tile_f64(mr, nv);
  }

  GemmShape s_;
  LinearEpilogue linear_;
  std::vector<Epilogue> program_;  // zero or one
  Form form_ = Form::kTiles;
  bool buffered_ = false, partial_ = false, thin_ = false;
  int nv_ = 0, nr_ = 0;
  int64_t panels_ = 0, kc_ = 0, pitch_ = 0;
  GemmGrid grid_;
  Pack pack_a_ = Pack::kNone, pack_b_ = Pack::kNone;
  BatchPack a_batches_, b_batches_;
  std::shared_ptr<LazyPack> packed_;
  size_t shared_bytes_ = 0, thread_bytes_ = 0, a_offset_ = 0, b_offset_ = 0, c_offset_ = 0, bias_offset_ = 0, vm_offset_ = 0;
};

}  // namespace

std::unique_ptr<Kernel> make_gemm_float(LaunchDesc desc, const GemmShape& s, BindContext& bind) {
  if (desc.ins[0].dtype == DType::f64) return std::make_unique<FloatGemm<double>>(std::move(desc), s, bind);
  return std::make_unique<FloatGemm<float>>(std::move(desc), s, bind);
}

}  // namespace ptrt::PTRT_LEVEL
