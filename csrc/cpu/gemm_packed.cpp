#include "cpu/gemm_packed.h"

#include <algorithm>

#include "cpu/half.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kBlockCBytes = 384 << 10, kBlockVmBytes = 96 << 10;  // of C per task; the latter if a program follows

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

const void* at_element(const Operand& o, int64_t element) {
  return static_cast<const char*>(o.data) + element * static_cast<int64_t>(itemsize(o.dtype));
}

size_t take(size_t& total, size_t bytes) {
  const size_t offset = total;
  total += (bytes + 63) / 64 * 64;
  return offset;
}

}  // namespace

PackedGemm::PackedGemm(LaunchDesc d, const GemmShape& shape) : Kernel(std::move(d)), s_(shape) {}

void PackedGemm::setup(const Format& format, BindContext& bind) {
  f_ = format;
  const Operand &a = in(s_.ia), &b = in(s_.ib), &y = desc.outs[0];
  linear_ = linear_epilogue(desc, s_.nb + 1);
  const bool strided = s_.yn != 1 && s_.N != 1;
  if (linear_.ok && linear_.residual >= 0 && s_.N != 1 && epi(linear_.residual).strides[s_.nb + 1] != 1) linear_.ok = false;
  if (linear_.ok && strided && !desc.epilogue.empty()) linear_.ok = false;
  if (!linear_.ok && !desc.epilogue.empty()) program_.push_back(Epilogue(desc));
  if (linear_.ok) s_.alpha *= linear_.alpha;
  buffered_ = !program_.empty() || y.dtype != DType::f32 || strided;
  if (s_.batches == 0 || s_.M == 0 || s_.N == 0) return;

  panels_ = ceil_div(s_.N, kColumns);
  units_ = ceil_div(s_.K, f_.per_unit);
  const int64_t longest = f_.block_units + f_.block_units / 3;  // not worth cutting
  const int64_t blocks = f_.block_units && units_ > longest ? ceil_div(units_, f_.block_units) : 1;
  block_ = std::max<int64_t>(1, ceil_div(units_, blocks));
  grid_ = gemm_grid(s_, GridLimits{kColumns, kMaxRows[kVectors], block_ * 4, program_.empty() ? kBlockCBytes : kBlockVmBytes, 4, f_.speed,
                                   panels_ * f_.panel_bytes, bind.threads, false, !program_.empty()});
  a_batches_ = BatchPack(s_, s_.as);
  b_batches_ = BatchPack(s_, s_.bs);
  const bool thrashes = s_.am * 4 % 4096 == 0 && s_.M > 8 && s_.K >= 64 && s_.am != 0;
  pack_a_ = f_.pack_a || a.dtype != DType::f32 || (s_.ak != 1 && s_.K != 1) || thrashes;
  pitch_ = (units_ + 15) / 16 * 16;
  if (pitch_ * 4 % 4096 == 0) pitch_ += 16;

  const size_t bytes = checked_bytes(b_batches_.count, panels_, f_.panel_bytes, 1);
  packed_ =
      bind.packs.get(b, "gemm_" + f_.name + ":" + f_.key + ":" + std::to_string(kColumns) + ":" + b_layout(s_), bytes, [&](void* memory) {
        for (int64_t i = 0; i < b_batches_.count * panels_; i++) {
          const int64_t n0 = i % panels_ * kColumns;
          pack_panel(static_cast<char*>(memory) + i * f_.panel_bytes, b, b_batches_.offset(s_, i / panels_, s_.bs) + n0 * s_.bn, n0,
                     std::min<int64_t>(kColumns, s_.N - n0));
        }
      });
  if (pack_a_) a_offset_ = take(shared_bytes_, checked_bytes(a_batches_.count, s_.M, pitch_, 4));
  if (f_.row_bytes) beside_offset_ = take(shared_bytes_, checked_bytes(a_batches_.count, s_.M, f_.row_bytes, 1));
  if (gathers_bias()) bias_offset_ = take(shared_bytes_, checked_bytes(1, 1, s_.N, 4));
  if (f_.expand && !few_rows()) expand_offset_ = take(thread_bytes_, checked_bytes(1, kColumns, block_, 4));
  partial_ = buffered_ || (block_ < units_ && linear_.residual >= 0);  // a residual may be y's memory: y must not hold partial sums
  if (partial_) c_offset_ = take(thread_bytes_, checked_bytes(1, grid_.rows(s_), grid_.panels(panels_) * kColumns, 4));
  if (!program_.empty()) vm_offset_ = take(thread_bytes_, program_[0].scratch_bytes());
}

std::string PackedGemm::describe() const {
  return f_.name + (few_rows() ? ", few rows" : "") + ", panels of " + std::to_string(kColumns) + ", a " +
         (pack_a_ ? "packed" : "in place") + ", b prepacked, tasks " + std::to_string(s_.batches) + "x" + std::to_string(grid_.row_groups) +
         "x" + std::to_string(grid_.panel_groups) + (buffered_ ? ", buffered" : "");
}

void PackedGemm::pack_rows(float* out, int64_t pitch, const Operand& a, int64_t offset, int64_t rows, char*) const {
  copy_matrix(out, pitch, at_element(a, offset), a.dtype, s_.am, s_.ak, rows, s_.K);
}

void PackedGemm::run(const RunContext& ctx) {
  if (s_.batches == 0 || s_.M == 0 || s_.N == 0) return;
  if (pack_a_) {
    const RowSplit split(s_.M, std::max<int64_t>(16, (1 << 16) / std::max<int64_t>(1, s_.K)));
    ctx.parallel(a_batches_.count * split.blocks, [&](int64_t t, int) {
      const int64_t batch = t / split.blocks, c = t % split.blocks, m0 = split.start(c), row = batch * s_.M + m0;
      pack_rows(reinterpret_cast<float*>(ctx.shared_scratch + a_offset_) + row * pitch_, pitch_, in(s_.ia),
                a_batches_.offset(s_, batch, s_.as) + m0 * s_.am, split.rows(c), ctx.shared_scratch + beside_offset_ + row * f_.row_bytes);
    });
  }
  const float* bias = bias_pointer(ctx);
  const int64_t grid = grid_.row_groups * grid_.panel_groups;
  ctx.parallel(
      s_.batches * grid,
      [&](int64_t t, int worker) {
        block(ctx, t / grid, t % grid / grid_.panel_groups, t % grid_.panel_groups, bias, ctx.thread_scratch(worker));
      },
      grid_.brief);
}

const float* PackedGemm::bias_pointer(const RunContext& ctx) const {
  if (!linear_.ok || linear_.bias < 0) return nullptr;
  const Operand& o = epi(linear_.bias);
  if (!gathers_bias()) return o.as<const float>();
  auto* bias = reinterpret_cast<float*>(ctx.shared_scratch + bias_offset_);
  for (int64_t n = 0; n < s_.N; n++) bias[n] = o.as<const float>()[n * o.strides[s_.nb + 1]];
  return bias;
}

// One task: the rows of a row group times the panels of a panel group, of one batch.
void PackedGemm::block(const RunContext& ctx, int64_t batch, int64_t row_group, int64_t panel_group, const float* bias,
                       char* scratch) const {
  const Operand &a = in(s_.ia), &y = desc.outs[0];
  const RowSplit rows = grid_.row_split(s_), groups = grid_.panel_split(panels_);
  const int64_t m0 = rows.start(row_group), mc = rows.rows(row_group), p0 = groups.start(panel_group), pc = groups.rows(panel_group);
  const int64_t n0 = p0 * kColumns, nc = std::min(pc * kColumns, s_.N - n0);
  const int64_t first_panel = batch_offset(s_, batch, b_batches_.strides) * panels_ + p0;
  const char* B = static_cast<const char*>(packed_.get()) + first_panel * f_.panel_bytes;
  TileArgs<float> g;
  const int64_t a_batch = batch_offset(s_, batch, a_batches_.strides), first_row = a_batch * s_.M + m0;
  const float* A = pack_a_ ? reinterpret_cast<const float*>(ctx.shared_scratch + a_offset_) + first_row * pitch_
                           : a.as<const float>() + batch_offset(s_, batch, s_.as) + m0 * s_.am;
  g.lda = pack_a_ ? pitch_ : s_.am;
  // Results go to y, or to a buffer that is stored below. Partial sums of K blocks stay where the results go, or in the buffer.
  auto* buffer = partial_ ? reinterpret_cast<float*>(scratch + c_offset_) : nullptr;
  const int64_t buffer_ld = grid_.panels(panels_) * kColumns, y0 = batch_offset(s_, batch, s_.ys) + m0 * s_.ym + n0 * s_.yn;
  float* C = buffered_ ? buffer : y.as<float>() + y0;
  float* P = partial_ ? buffer : C;
  const int64_t ldc = buffered_ ? buffer_ld : s_.ym, ldp = partial_ ? buffer_ld : ldc;
  const float* R = nullptr;
  if (linear_.ok) {
    if (linear_.residual >= 0) {
      const Operand& r = epi(linear_.residual);
      R = r.as<const float>() + batch_offset(s_, batch, r.strides) + m0 * r.strides[s_.nb] + n0;
      g.ldr = r.strides[s_.nb];
    }
    g.lo = static_cast<float>(linear_.lo);
    g.hi = static_cast<float>(linear_.hi);
    g.flags = (linear_.clamp_before ? TileArgs<float>::kClampBefore : 0) | (linear_.clamp_after ? TileArgs<float>::kClampAfter : 0);
  }
  g.alpha = static_cast<float>(s_.alpha);
  if (g.alpha != 1) g.flags |= TileArgs<float>::kScale;
  g.ldb = kColumns;
  g.cj = W;
  g.lds = ldp;
  const RowSplit tiles(mc, few_rows() ? kFewRows : kMaxRows[kVectors]);
  for (int64_t k0 = 0; k0 < std::max<int64_t>(1, units_); k0 += block_) {
    g.K = std::min(block_, units_ - k0);
    g.last = k0 + block_ >= units_;
    g.ldc = g.last ? ldc : ldp;
    const int64_t stored = g.K * f_.panel_bytes / std::max<int64_t>(1, units_);  // bytes of this block of a panel
    for (int64_t p = 0; p < pc; p++) {
      const char* panel = B + p * f_.panel_bytes;
      g.B = units(panel, k0, g.K, reinterpret_cast<float*>(scratch + expand_offset_));
      g.n = static_cast<int>(std::min<int64_t>(kColumns, s_.N - (p0 + p) * kColumns));
      g.bias = bias ? bias + n0 + p * kColumns : nullptr;
      // Each tile prefetches 64 bytes per unit: the next panel, as far as it is not there yet.
      const char* next =
          p0 + p + 1 < panels_ && !few_rows() ? panel + f_.panel_bytes + k0 * f_.panel_bytes / std::max<int64_t>(1, units_) : nullptr;
      for (int64_t i = 0; i < tiles.blocks; i++) {
        const int64_t m = tiles.start(i);
        g.A = A + m * g.lda + k0;
        g.C = g.last ? C + m * ldc + p * kColumns : P + m * ldp + p * kColumns;
        g.S = k0 ? P + m * ldp + p * kColumns : nullptr;
        g.R = R ? R + m * g.ldr + p * kColumns : nullptr;
        g.next = next && i * g.K * 64 < stored ? next + i * g.K * 64 : nullptr;
        tile(static_cast<int>(tiles.rows(i)), g, At{a_batch, m0 + m, first_panel + p},
             f_.row_bytes ? ctx.shared_scratch + beside_offset_ + (first_row + m) * f_.row_bytes : nullptr);
      }
    }
  }
  if (buffered_) finish(batch, m0, mc, n0, nc, buffer, buffer_ld, y0, scratch);
}

void PackedGemm::finish(int64_t batch, int64_t m0, int64_t mc, int64_t n0, int64_t nc, float* buffer, int64_t ld, int64_t y0,
                        char* scratch) const {
  const Operand& y = desc.outs[0];
  if (program_.empty()) {
    store_matrix(const_cast<void*>(at_element(y, y0)), y.dtype, s_.ym, s_.yn, buffer, ld, mc, nc);
    return;
  }
  Block acc{buffer, ld, 1};
  if (desc.acc_dtype != DType::f32) {
    acc.row_stride = 2 * ld;
    for (int64_t m = 0; m < mc; m++) floats_to_halves(desc.acc_dtype, reinterpret_cast<uint16_t*>(buffer + m * ld), buffer + m * ld, nc);
  }
  int64_t index[kMaxDims] = {};
  batch_index(s_, batch, index);
  index[s_.nb] = m0;
  index[s_.nb + 1] = n0;
  program_[0].apply(desc, index, s_.nb, mc, s_.nb + 1, nc, acc, scratch + vm_offset_);
}

}  // namespace ptrt::PTRT_LEVEL
