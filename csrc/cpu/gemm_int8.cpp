// 8-bit gemm with an exact int32 result. Both operands are packed (gemm_int8_tile.h); with S = sum of packed products,
//   sum (a - za)(b - zb) = S - za * colsum(b) - zb * (rowsum(a) - K * za)
// where shifting an operand to the signedness the instruction wants shifts its zero point too. Wraps modulo 2^32, so every step is exact.
#include <algorithm>
#include <utility>

#include "cpu/gemm.h"
#include "cpu/gemm_int8_tile.h"
#include "cpu/linear_epilogue.h"
#include "cpu/quant_epilogue.h"
#include "cpu/tile.h"
#include "cpu/vm.h"

namespace ptrt::PTRT_LEVEL {
namespace {

using TileInt = void (*)(const IntTile&);

template <int... I>
TileInt pick(int mr, std::integer_sequence<int, I...>) {
  static constexpr TileInt fns[] = {nullptr, int_tile<I + 1>...};
  return fns[mr];
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t byte_at(const Operand& o, int64_t i) { return o.dtype == DType::u8 ? o.as<const uint8_t>()[i] : o.as<const int8_t>()[i]; }

// One row of A: units of k, zero beyond K up to the pitch; returns the sum of what was stored.
template <class Source, bool UNIT_STRIDE>
int32_t pack_row(StoreA* out, const Source* src, int64_t stride, int64_t K, int64_t padded) {
  constexpr int shift = Source(-1) < Source(0) ? kShiftA : 0;
  int32_t sum = 0;
  for (int64_t k = 0; k < K; k++) {
    const int v = src[UNIT_STRIDE ? k : k * stride] + shift;
    out[k] = static_cast<StoreA>(v);
    sum += v;
  }
  for (int64_t k = K; k < padded; k++) out[k] = 0;
  return sum;
}

int32_t pack_row(StoreA* out, const Operand& a, int64_t offset, int64_t stride, int64_t K, int64_t padded) {
  if (a.dtype == DType::u8) {
    const auto* p = a.as<const uint8_t>() + offset;
    return stride == 1 ? pack_row<uint8_t, true>(out, p, 1, K, padded) : pack_row<uint8_t, false>(out, p, stride, K, padded);
  }
  const auto* p = a.as<const int8_t>() + offset;
  return stride == 1 ? pack_row<int8_t, true>(out, p, 1, K, padded) : pack_row<int8_t, false>(out, p, stride, K, padded);
}

// One unit of k of 16 columns that are contiguous.
template <class Source>
PTRT_INLINE void pack_unit(StoreB* out, const Source* src, int64_t bk) {
  typedef int8_t Bytes __attribute__((vector_size(16)));
  typedef int16_t Words __attribute__((vector_size(16)));
  using B16 = std::make_integer_sequence<int, 16>;
  using W8 = std::make_integer_sequence<int, 8>;
  constexpr bool is_signed = Source(-1) < Source(0);
  Bytes q[4];  // what the four bytes of a unit are
  PTRT_UNROLL for (int u = 0; u < kUnit; u++) {
    Bytes row;
    __builtin_memcpy(&row, src + u * bk, sizeof row);
    if constexpr (kUnit == 4) {
      q[u] = is_signed ? row : row ^ int8_t{-128};
    } else {
      q[2 * u] = row;
      q[2 * u + 1] = is_signed ? row < 0 : row - row;
    }
  }
  const auto put = [&](int i, Bytes x, Bytes y) __attribute__((always_inline)) {
    const Words lo = interleave<0>((Words)x, (Words)y, W8{}), hi = interleave<4>((Words)x, (Words)y, W8{});
    __builtin_memcpy(reinterpret_cast<char*>(out) + 16 * i, &lo, 16);
    __builtin_memcpy(reinterpret_cast<char*>(out) + 16 * i + 16, &hi, 16);
  };
  put(0, interleave<0>(q[0], q[1], B16{}), interleave<0>(q[2], q[3], B16{}));
  put(2, interleave<8>(q[0], q[1], B16{}), interleave<8>(q[2], q[3], B16{}));
}

// One panel of B, [unit][column][k in unit], and the sums of its columns.
template <class Source>
void pack_panel(StoreB* out, int32_t* sums, const Source* src, int64_t bk, int64_t bn, int64_t K, int64_t n) {
  constexpr int shift = Source(-1) < Source(0) ? 0 : kShiftB;
  for (int j = 0; j < kIntColumns; j++) sums[j] = 0;
  for (int64_t k0 = 0; k0 < K; k0 += kUnit, out += kUnit * kIntColumns) {
    const int64_t units = std::min<int64_t>(kUnit, K - k0);
    if (units < kUnit || n < kIntColumns) std::fill(out, out + kUnit * kIntColumns, StoreB{0});
    const Source* p = src + k0 * bk;
    if (kIntColumns % 16 == 0 && bn == 1 && n == kIntColumns && units == kUnit) {
      for (int j = 0; j < kIntColumns; j += 16) pack_unit(out + j * kUnit, p + j, bk);
      for (int j = 0; j < kIntColumns; j += W)
        store(sums + j,
              dot_unit(load(sums + j), splat(kUnit == 4 ? 0x01010101 : 0x00010001), load(reinterpret_cast<const unit_t*>(out) + j)));
      continue;
    }
    for (int64_t j = 0; j < n; j++)
      for (int64_t u = 0; u < units; u++) {
        const int v = p[j * bn + u * bk] + shift;
        out[j * kUnit + u] = static_cast<StoreB>(v);
        sums[j] += v;
      }
  }
}

class Int8Gemm final : public Kernel {
 public:
  Int8Gemm(LaunchDesc d, const GemmShape& shape, BindContext& bind) : Kernel(std::move(d)), s_(shape) {
    const Operand &a = in(s_.ia), &b = in(s_.ib);
    linear_ = dequantising_epilogue(desc, s_.nb + 1);
    if (linear_.residual >= 0 || (s_.yn != 1 && s_.N != 1)) linear_.ok = false;
    if (!linear_.ok) quant_ = quant_epilogue(desc, s_.nb + 1);
    if (quant_.ok && s_.N != 1 && (s_.yn != 1 || (quant_.residual >= 0 && residual().strides[s_.nb + 1] != 1))) quant_.ok = false;
    if (!desc.epilogue.empty() && !linear_.ok && !quant_.ok) program_.push_back(Epilogue(desc));
    if (s_.batches == 0 || s_.M == 0 || s_.N == 0) return;
    units_ = ceil_div(s_.K, kUnit);
    pitch_ = (units_ + 15) / 16 * 16;
    if (pitch_ % 1024 == 0) pitch_ += 16;
    panels_ = ceil_div(s_.N, kIntColumns);
    panel_bytes_ = units_ * kIntColumns * 4;
    a_batches_ = BatchPack(s_, s_.as);
    b_batches_ = BatchPack(s_, s_.bs);
    shift_za_ = a.dtype == DType::i8 ? kShiftA : 0;
    shift_zb_ = b.dtype == DType::u8 ? kShiftB : 0;
    buffered_ = !program_.empty() || quant_.ok || (s_.yn != 1 && s_.N != 1);
    grid_ = gemm_grid(s_, GridLimits{kIntColumns, kIntRows, pitch_ * 4, buffered_ ? 96 << 10 : 384 << 10, 4, kUnit, panels_ * panel_bytes_,
                                     bind.threads, false, !program_.empty()});
    const size_t b_bytes = checked_bytes(b_batches_.count, panels_, panel_bytes_ + kIntColumns * 4, 1);
    if (b.is_const()) {
      std::string layout = "gemm_int8:" + std::to_string(static_cast<int>(b.dtype)) + ":" + b_layout(s_);
      packed_ = bind.packs.get(b, layout, b_bytes, [&](void* memory) {
        for (int64_t p = 0; p < b_batches_.count * panels_; p++) pack_b(static_cast<char*>(memory), p);
      });
    }
    const auto take = [](size_t& total, size_t bytes) {
      const size_t offset = total;
      total += (bytes + 63) / 64 * 64;
      return offset;
    };
    if (!packed_) b_offset_ = take(shared_bytes_, b_bytes);
    a_offset_ = take(shared_bytes_, checked_bytes(a_batches_.count, s_.M, pitch_, 4));
    sums_offset_ = take(shared_bytes_, checked_bytes(a_batches_.count, s_.M, 4, 1));
    if (linear_.ok) scale_offset_ = take(shared_bytes_, checked_bytes(2, panels_, kIntColumns, 4));
    if (quant_.ok) scale_offset_ = take(shared_bytes_, quant_columns_bytes(s_.N));
    rows_offset_ = take(thread_bytes_, checked_bytes(2, grid_.rows(s_), 4, 1));
    columns_offset_ = take(thread_bytes_, checked_bytes(grid_.panels(panels_), kIntColumns, 4, 1));
    c_offset_ =
        take(thread_bytes_, checked_bytes(buffered_ ? grid_.rows(s_) : kIntRows, buffered_ ? grid_.panels(panels_) : 1, kIntColumns, 4));
    if (!program_.empty()) vm_offset_ = take(thread_bytes_, program_[0].scratch_bytes());
  }

  size_t shared_scratch_bytes() const override { return shared_bytes_; }
  size_t thread_scratch_bytes() const override { return thread_bytes_; }
  PTRT_COLD std::string describe() const override {
    return std::string("8-bit, units of ") + std::to_string(kUnit) + ", b " + (packed_ ? "prepacked" : "packed") + ", tasks " +
           std::to_string(s_.batches) + "x" + std::to_string(grid_.row_groups) + "x" + std::to_string(grid_.panel_groups) +
           (quant_.ok ? quant_epilogue_name(quant_) : "");
  }

  void run(const RunContext& ctx) override {
    if (s_.batches == 0 || s_.M == 0 || s_.N == 0) return;
    if (!packed_) ctx.parallel(b_batches_.count * panels_, [&](int64_t p, int) { pack_b(ctx.shared_scratch + b_offset_, p); });
    const RowSplit split(s_.M, std::max<int64_t>(16, (1 << 16) / (pitch_ * 4)));
    ctx.parallel(a_batches_.count * split.blocks, [&](int64_t t, int) {
      const int64_t batch = t / split.blocks, m0 = split.start(t % split.blocks), m1 = m0 + split.rows(t % split.blocks);
      const int64_t offset = a_batches_.offset(s_, batch, s_.as);
      auto* sums = reinterpret_cast<int32_t*>(ctx.shared_scratch + sums_offset_) + batch * s_.M;
      for (int64_t m = m0; m < m1; m++) {
        auto* out = reinterpret_cast<StoreA*>(ctx.shared_scratch + a_offset_ + (batch * s_.M + m) * pitch_ * 4);
        sums[m] = pack_row(out, in(s_.ia), offset + m * s_.am, s_.ak, s_.K, units_ * kUnit);
      }
    });
    if (linear_.ok) gather_columns(reinterpret_cast<float*>(ctx.shared_scratch + scale_offset_));
    QuantColumns columns{};
    if (quant_.ok) columns = gather_quant_columns(quant_, desc, s_.nb + 1, s_.N, ctx.shared_scratch + scale_offset_);
    const int64_t grid = grid_.row_groups * grid_.panel_groups;
    ctx.parallel(
        s_.batches * grid,
        [&](int64_t t, int worker) {
          block(ctx, t / grid, t % grid / grid_.panel_groups, t % grid_.panel_groups, columns, ctx.thread_scratch(worker));
        },
        grid_.brief);
  }

 private:
  const Operand& in(int k) const { return desc.ins[static_cast<size_t>(k)]; }
  const Operand& residual() const { return desc.epi_ins[static_cast<size_t>(quant_.residual)]; }

  // Panel p (counted over all distinct batches): its data, then at the end of memory its column sums.
  void pack_b(char* memory, int64_t p) const {
    const Operand& b = in(s_.ib);
    const int64_t n0 = p % panels_ * kIntColumns, offset = b_batches_.offset(s_, p / panels_, s_.bs) + n0 * s_.bn;
    auto* out = reinterpret_cast<StoreB*>(memory + p * panel_bytes_);
    auto* sums = reinterpret_cast<int32_t*>(memory + b_batches_.count * panels_ * panel_bytes_) + p * kIntColumns;
    const int64_t n = std::min<int64_t>(kIntColumns, s_.N - n0);
    if (b.dtype == DType::u8) pack_panel(out, sums, b.as<const uint8_t>() + offset, s_.bk, s_.bn, s_.K, n);
    else pack_panel(out, sums, b.as<const int8_t>() + offset, s_.bk, s_.bn, s_.K, n);
  }

  // The scales and then the biases of all columns (padded to whole panels).
  void gather_columns(float* out) const {
    const int64_t padded = panels_ * kIntColumns;
    const auto each = [&](int number, auto&& f) {
      if (number < 0) return;
      const Operand& o = desc.epi_ins[static_cast<size_t>(number)];
      const int64_t stride = o.shape[s_.nb + 1] == 1 ? 0 : o.strides[s_.nb + 1];
      for (int64_t n = 0; n < padded; n++) f(n, o.as<const float>()[std::min(n, s_.N - 1) * stride]);
    };
    std::fill(out, out + padded, static_cast<float>(linear_.alpha));
    std::fill(out + padded, out + 2 * padded, 0.0f);
    for (int number : linear_.scale) each(number, [&](int64_t n, float v) { out[n] *= v; });
    each(linear_.bias, [&](int64_t n, float v) { out[padded + n] = v; });
  }

  int64_t zero_point(const Operand& z, int64_t batch, int axis, int64_t i) const {
    int64_t offset = z.shape[axis] == 1 ? 0 : i * z.strides[axis];
    for (int d = s_.nb - 1; d >= 0; d--) {
      if (z.shape[d] != 1) offset += batch % s_.batch[d] * z.strides[d];
      batch /= s_.batch[d];
    }
    return byte_at(z, offset);
  }

  void block(const RunContext& ctx, int64_t batch, int64_t row_group, int64_t panel_group, const QuantColumns& columns,
             char* scratch) const {
    const RowSplit rows = grid_.row_split(s_), groups = grid_.panel_split(panels_);
    const int64_t m0 = rows.start(row_group), mc = rows.rows(row_group), p0 = groups.start(panel_group), pc = groups.rows(panel_group);
    const int64_t n0 = p0 * kIntColumns, nc = std::min(pc * kIntColumns, s_.N - n0);
    const int64_t a_batch = batch_offset(s_, batch, a_batches_.strides), b_batch = batch_offset(s_, batch, b_batches_.strides);
    const char* B = packed_ ? static_cast<const char*>(packed_.get()) : ctx.shared_scratch + b_offset_;
    const auto* column_sums =
        reinterpret_cast<const int32_t*>(B + b_batches_.count * panels_ * panel_bytes_) + (b_batch * panels_ + p0) * kIntColumns;
    B += (b_batch * panels_ + p0) * panel_bytes_;
    const auto* A = reinterpret_cast<const unit_t*>(ctx.shared_scratch + a_offset_) + (a_batch * s_.M + m0) * pitch_;
    const auto* row_sums = reinterpret_cast<const int32_t*>(ctx.shared_scratch + sums_offset_) + a_batch * s_.M + m0;

    const Operand *az = optional_input(desc, s_.ia + 2), *bz = optional_input(desc, s_.ib + 2);
    auto* p = reinterpret_cast<int32_t*>(scratch + rows_offset_);
    auto* q = p + mc;
    auto* zb = reinterpret_cast<int32_t*>(scratch + columns_offset_);
    const bool shift_rows = az || shift_za_, shift_columns = bz || shift_zb_;
    for (int64_t m = 0; m < mc; m++) {
      p[m] = static_cast<int32_t>((az ? zero_point(*az, batch, s_.nb, m0 + m) : 0) + shift_za_);
      q[m] = static_cast<int32_t>(static_cast<uint32_t>(row_sums[m]) - static_cast<uint32_t>(s_.K) * static_cast<uint32_t>(p[m]));
    }
    if (shift_columns) {
      for (int64_t n = 0; n < nc; n++) zb[n] = static_cast<int32_t>((bz ? zero_point(*bz, batch, s_.nb + 1, n0 + n) : 0) + shift_zb_);
      std::fill(zb + nc, zb + pc * kIntColumns, 0);
    }

    const Operand& y = desc.outs[0];
    const int64_t y0 = batch_offset(s_, batch, s_.ys) + m0 * s_.ym + n0 * s_.yn, ld = grid_.panels(panels_) * kIntColumns;
    auto* buffer = reinterpret_cast<int32_t*>(scratch + c_offset_);
    const RowSplit tiles(mc, kIntRows);
    const auto fns = std::make_integer_sequence<int, kIntRows>();
    const TileInt small = pick(static_cast<int>(tiles.small), fns),
                  large = tiles.extra ? pick(static_cast<int>(tiles.small) + 1, fns) : small;
    for (int64_t panel = 0; panel < pc; panel++) {
      const int64_t n = std::min<int64_t>(kIntColumns, nc - panel * kIntColumns);
      const bool direct = !buffered_ && n == kIntColumns;
      IntTile g;
      g.lda = pitch_;
      g.units = units_;
      g.B = reinterpret_cast<const unit_t*>(B + panel * panel_bytes_);
      g.cs = column_sums + panel * kIntColumns;
      g.zb = shift_columns ? zb + panel * kIntColumns : nullptr;
      const auto* scales = reinterpret_cast<const float*>(ctx.shared_scratch + scale_offset_) + n0 + panel * kIntColumns;
      g.scale = linear_.ok ? scales : nullptr;
      g.bias = scales + panels_ * kIntColumns;
      g.clamp = linear_.clamp_before || linear_.clamp_after;
      g.lo = static_cast<float>(linear_.lo);
      g.hi = static_cast<float>(linear_.hi);
      g.ldc = direct ? s_.ym : buffered_ ? ld : kIntColumns;
      for (int64_t i = 0, m = 0; i < tiles.blocks; m += tiles.rows(i), i++) {
        g.A = A + m * pitch_;
        g.p = shift_rows ? p + m : nullptr;
        g.q = q + m;
        g.next = B + (p0 + panel + 1 < panels_ && i < 2 ? panel + 1 : panel) * panel_bytes_ + std::min<int64_t>(i, 1) * units_ * 64;
        int32_t* direct_c = y.as<int32_t>() + y0 + m * s_.ym + panel * kIntColumns;
        g.C = direct ? direct_c : buffered_ ? buffer + m * ld + panel * kIntColumns : buffer;
        (i < tiles.extra ? large : small)(g);
        if (!direct && !buffered_)
          for (int64_t r = 0; r < tiles.rows(i); r++)
            std::memcpy(direct_c + r * s_.ym, buffer + r * kIntColumns, static_cast<size_t>(n) * sizeof(int32_t));
      }
    }
    if (!buffered_) return;
    if (quant_.ok) {
      const auto at = [](const Operand& o, int64_t element) { return o.as<char>() + element * static_cast<int64_t>(itemsize(o.dtype)); };
      const Operand* r = quant_.residual >= 0 ? &residual() : nullptr;
      const int64_t r_row = r ? r->strides[s_.nb] : 0;
      apply_quant(quant_, QuantColumns{columns.scale + n0, columns.shift + n0, columns.bias + n0}, buffer, false, ld, at(y, y0), s_.ym, mc,
                  nc, r ? at(*r, batch_offset(s_, batch, r->strides) + m0 * r_row + n0) : nullptr, r ? r->dtype : DType::none, r_row);
      return;
    }
    if (program_.empty()) {
      for (int64_t m = 0; m < mc; m++)
        for (int64_t n = 0; n < nc; n++) y.as<int32_t>()[y0 + m * s_.ym + n * s_.yn] = buffer[m * ld + n];
      return;
    }
    int64_t index[kMaxDims] = {};
    batch_index(s_, batch, index);
    index[s_.nb] = m0;
    index[s_.nb + 1] = n0;
    program_[0].apply(desc, index, s_.nb, mc, s_.nb + 1, nc, Block{buffer, ld, 1}, scratch + vm_offset_);
  }

  GemmShape s_;
  std::vector<Epilogue> program_;  // zero or one
  LinearEpilogue linear_;
  QuantEpilogue quant_;
  GemmGrid grid_;
  bool buffered_ = false;
  int shift_za_ = 0, shift_zb_ = 0;
  int64_t units_ = 0, pitch_ = 0, panels_ = 0, panel_bytes_ = 0;
  BatchPack a_batches_, b_batches_;
  std::shared_ptr<const void> packed_;
  size_t shared_bytes_ = 0, thread_bytes_ = 0, a_offset_ = 0, b_offset_ = 0, sums_offset_ = 0, scale_offset_ = 0, rows_offset_ = 0,
         columns_offset_ = 0, c_offset_ = 0, vm_offset_ = 0;
};

}  // namespace

std::unique_ptr<Kernel> make_gemm_int8(LaunchDesc desc, const GemmShape& s, BindContext& bind) {
  return std::make_unique<Int8Gemm>(std::move(desc), s, bind);
}

}  // namespace ptrt::PTRT_LEVEL
