#include "cpu/gemm.h"

#include <algorithm>
#include <string>

#include "core/vocabulary.h"
#include "cpu/gemm_packed.h"
#include "cpu/gemm_rows.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {
namespace {

bool is_float(DType t) { return t == DType::f32 || t == DType::f64 || t == DType::f16 || t == DType::bf16; }

void check(bool ok, const char* what) {
  if (!ok) throw KernelError(std::string("gemm: ") + what);
}

// f32 or 16-bit a, and a constant integer b with a scale.
void validate_dequantising(const LaunchDesc& d, bool pairs) {
  const Operand &a = d.ins[0], &b = d.ins[1], &y = d.outs[0], &scale = d.ins[4];
  const int r = y.ndim;
  check(r >= 2 && a.ndim == r && b.ndim == r, "a, b and y must have the same rank >= 2");
  check(a.dtype == DType::f32 || a.dtype == DType::f16 || a.dtype == DType::bf16, "b_scale needs an f32, f16 or bf16 a");
  check((d.epilogue.empty() ? y.dtype : d.acc_dtype) == a.dtype, "the result has a's dtype");
  check(pairs ? b.dtype == DType::u8 : is_byte(b.dtype) || b.dtype == DType::i4 || b.dtype == DType::u4,
        "b_scale needs an integer b of 8 or 4 bits");
  check(b.is_const() && !optional_input(d, 2), "b_scale needs a constant b and no a_zero");
  for (int i = 0; i < r - 2; i++)
    check((a.shape[i] == y.shape[i] || a.shape[i] == 1) && (b.shape[i] == 1 || b.strides[i] == 0), "batch axes do not match");
  const int64_t K = a.shape[r - 1];
  check(a.shape[r - 2] == y.shape[r - 2] && b.shape[r - 1] == y.shape[r - 1] && b.shape[r - 2] == (pairs ? K / 2 + K % 2 : K),
        "shapes do not match");
  const auto is_parameter = [](DType t) { return t == DType::f32 || t == DType::f16 || t == DType::bf16; };
  check(is_parameter(scale.dtype), "b_scale must be f32, f16 or bf16");
  const int64_t blocks = scale.present() && scale.ndim == r ? scale.shape[r - 2] : 0;
  for (int k = 3; k < 5; k++)
    if (const Operand* o = optional_input(d, k)) {
      check((is_parameter(o->dtype) || o->dtype == b.dtype) && o->is_const() && o->ndim == r,
            "b_scale and b_zero must be constants of b's rank");
      for (int i = 0; i < r - 2; i++) check(o->shape[i] == 1 || o->strides[i] == 0, "b_scale and b_zero must not vary along batches");
      const int64_t rows = pairs && o->dtype == b.dtype ? blocks / 2 + blocks % 2 : blocks;
      check((o->shape[r - 2] == rows || (o->shape[r - 2] == 1 && o->dtype != b.dtype) || rows == 1) &&
                (o->shape[r - 1] == y.shape[r - 1] || o->shape[r - 1] == 1),
            "b_scale or b_zero does not broadcast");
    }
  for (const Operand& e : d.epi_ins) check(e.ndim == r, "epilogue operands must have y's rank");
}

void validate(const LaunchDesc& d) {
  check(d.ins.size() >= 2 && d.ins.size() <= 5 && d.outs.size() == 1 && d.outs[0].present(),
        "expected operands a, b, a_zero?, b_zero? and y");
  const Operand &a = d.ins[0], &b = d.ins[1], &y = d.outs[0];
  const int r = y.ndim;
  check(r >= 2 && a.ndim == r && b.ndim == r, "a, b and y must have the same rank >= 2");
  for (int i = 0; i < r - 2; i++)
    check((a.shape[i] == y.shape[i] || a.shape[i] == 1) && (b.shape[i] == y.shape[i] || b.shape[i] == 1), "batch axes do not match");
  check(a.shape[r - 2] == y.shape[r - 2] && b.shape[r - 1] == y.shape[r - 1] && a.shape[r - 1] == b.shape[r - 2], "shapes do not match");
  for (int k = 2; k < 4; k++)
    if (const Operand* zero = optional_input(d, k)) {
      const Operand &z = *zero, &of = d.ins[static_cast<size_t>(k - 2)];
      check(z.dtype == of.dtype && z.ndim == r, "a zero point must have its operand's dtype and rank");
      for (int i = 0; i < r; i++) check(z.shape[i] == of.shape[i] || z.shape[i] == 1, "a zero point's shape does not broadcast");
      check(z.shape[k == 2 ? r - 1 : r - 2] == 1 || z.strides[k == 2 ? r - 1 : r - 2] == 0, "a zero point must not vary along k");
    }
  for (const Operand& e : d.epi_ins) check(e.ndim == r, "epilogue operands must have y's rank");
  const DType acc = d.epilogue.empty() ? y.dtype : d.acc_dtype;
  if (is_byte(a.dtype)) check(is_byte(b.dtype) && acc == DType::i32, "8-bit operands give int32");
  else check(a.dtype == b.dtype && acc == a.dtype, "a, b and the result must have one dtype");
}

// Everything that is indexed by y's axes, with the axis m or n of each operand that has one.
struct Axes {
  std::vector<Operand*> all;
  explicit Axes(LaunchDesc& d) : all{&d.ins[0], &d.ins[1], &d.outs[0]} {
    for (size_t k = 2; k < d.ins.size(); k++)
      if (d.ins[k].present()) all.push_back(&d.ins[k]);
    for (Operand& e : d.epi_ins) all.push_back(&e);
  }
  void drop(int axis) {
    for (Operand* o : all) {
      for (int i = axis; i + 1 < o->ndim; i++) o->shape[i] = o->shape[i + 1], o->strides[i] = o->strides[i + 1];
      o->ndim--;
    }
  }
};

// Folds batch axis d into m where B does not depend on it and every other operand steps through (d, m) evenly.
bool fold_into_rows(LaunchDesc& d, int ib, int axis) {
  Axes axes(d);
  const int m = d.outs[0].ndim - 2;
  const int64_t M = d.outs[0].shape[m], n = d.outs[0].shape[axis];
  const Operand* b_side[2] = {optional_input(d, ib), optional_input(d, ib + 2)};
  for (const Operand* o : b_side)
    if (o && o->strides[axis] != 0) return false;
  for (const Operand* o : axes.all)
    if (o != b_side[0] && o != b_side[1] && M != 1 && o->strides[axis] != M * o->strides[m]) return false;
  for (Operand* o : axes.all) {
    if (o == b_side[0] || o == b_side[1]) continue;
    if (M == 1) o->strides[m] = o->strides[axis];
    o->shape[m] = M * n;
  }
  axes.drop(axis);
  return true;
}

}  // namespace

size_t checked_bytes(int64_t a, int64_t b, int64_t c, int64_t item) {
  int64_t r;
  if (__builtin_mul_overflow(a, b, &r) || __builtin_mul_overflow(r, c, &r) || __builtin_mul_overflow(r, item, &r) || r > INT64_MAX / 2)
    throw KernelError("gemm: too large");
  return static_cast<size_t>(r);
}

GemmGrid gemm_grid(const GemmShape& s, const GridLimits& limits) {
  constexpr int64_t kBlockABytes = 640 << 10, kTaskMacs = 1 << 19, kTaskBytes = 384 << 10, kBriefTasks = 4, kProgramColumns = 256;
  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  GemmGrid g;
  const int64_t panels = ceil_div(s.N, limits.panel);
  const int64_t most_rows = ceil_div(s.M, limits.rows);
  g.row_groups = std::min(std::max<int64_t>(1, ceil_div(s.M * limits.row_bytes, kBlockABytes)), most_rows);
  if (limits.program) {
    const int64_t wide = std::min(panels, ceil_div(kProgramColumns, limits.panel)) * limits.panel,
                  fit = limits.c_bytes / (limits.c_item * wide);
    g.row_groups = std::min(std::max(g.row_groups, ceil_div(s.M, std::max<int64_t>(1, fit / limits.rows) * limits.rows)), most_rows);
  }
  if (limits.by_rows) g.row_groups = std::min(std::max(g.row_groups, ceil_div(s.M * s.N * limits.c_item, limits.c_bytes)), most_rows);
  else g.panel_groups = ceil_div(panels, std::max<int64_t>(1, limits.c_bytes / (limits.c_item * g.rows(s) * limits.panel)));
  if (limits.threads > 1) {
    const double macs = static_cast<double>(s.batches) * static_cast<double>(s.M) * static_cast<double>(s.N) * static_cast<double>(s.K);
    const double bytes = static_cast<double>(s.batches) * static_cast<double>(limits.b_bytes);
    const double tasks =
        std::min(std::max(macs / static_cast<double>(kTaskMacs * limits.speed), bytes / static_cast<double>(kTaskBytes)), 1e6);
    g.brief = tasks <= kBriefTasks;
    const int64_t wanted = std::min<int64_t>(limits.threads * 4, static_cast<int64_t>(tasks));
    while (s.batches * g.row_groups * g.panel_groups < wanted) {
      if (panels >= 2 * g.panel_groups && !limits.by_rows) g.panel_groups *= 2;
      else if (s.M >= 4 * limits.rows * g.row_groups) g.row_groups *= 2;
      else break;
    }
  }
  g.panel_groups = g.panel_split(panels).blocks;
  g.row_groups = g.row_split(s).blocks;
  return g;
}

std::string b_layout(const GemmShape& s) {
  std::string layout = std::to_string(s.K) + "x" + std::to_string(s.N) + ":" + std::to_string(s.bk) + ":" + std::to_string(s.bn);
  for (int d = 0; d < s.nb; d++) layout += ":" + std::to_string(s.bs[d] ? s.batch[d] : 1) + "/" + std::to_string(s.bs[d]);
  return layout;
}

namespace {

void swap_roles(LaunchDesc& d, GemmShape& s) {
  const int r = d.outs[0].ndim;
  for (Operand* o : Axes(d).all) {
    std::swap(o->shape[r - 1], o->shape[r - 2]);
    std::swap(o->strides[r - 1], o->strides[r - 2]);
  }
  std::swap(s.ia, s.ib);
}

void read_strides(const LaunchDesc& d, GemmShape& s) {
  const Operand &a = d.ins[static_cast<size_t>(s.ia)], &b = d.ins[static_cast<size_t>(s.ib)], &y = d.outs[0];
  s.nb = y.ndim - 2;
  s.batches = 1;
  for (int i = 0; i < s.nb; i++) {
    s.batch[i] = y.shape[i];
    s.batches *= y.shape[i];
    s.as[i] = a.shape[i] == 1 ? 0 : a.strides[i];
    s.bs[i] = b.shape[i] == 1 ? 0 : b.strides[i];
    s.ys[i] = y.strides[i];
  }
  const int m = s.nb, n = s.nb + 1;
  s.M = y.shape[m];
  s.N = y.shape[n];
  s.K = a.shape[n];
  s.am = a.strides[m];
  s.ak = a.strides[n];
  s.bk = b.strides[m];
  s.bn = b.strides[n];
  s.ym = y.strides[m];
  s.yn = y.strides[n];
}

}  // namespace

GemmShape canonical_gemm(LaunchDesc& d, Roles roles) {
  GemmShape s;
  s.alpha = d.params().f();
  Operand& y = d.outs[0];
  // Programs that count along an axis pin the axes: their launches keep m, n and the batch as they are.
  const bool pinned =
      std::any_of(d.epilogue.begin(), d.epilogue.end(), [](const Instr& i) { return i.op == static_cast<int32_t>(Op::iota_); });
  const int r = y.ndim;
  const bool may_swap = !pinned && roles != Roles::kKept;
  if (may_swap && y.shape[r - 1] != 1 && y.strides[r - 1] != 1 && (y.strides[r - 2] == 1 || y.shape[r - 2] == 1)) swap_roles(d, s);
  for (int axis = r - 3; axis >= 0 && !pinned; axis--) {
    if (y.shape[axis] == 1) Axes(d).drop(axis);
    else fold_into_rows(d, s.ib, axis);
  }
  read_strides(d, s);
  // Rows of A that are short are better met by tiles a vector wide: turned or summed across, each costs more than its products.
  if (may_swap && roles == Roles::kNarrow && s.N <= kFewRows && s.M > kFewRows && (s.am == 1 || (s.ak == 1 && s.K > 12 * s.N))) {
    swap_roles(d, s);
    read_strides(d, s);
  }
  return s;
}

std::unique_ptr<Kernel> make_gemm(LaunchDesc desc, BindContext& bind) {
  Params params = desc.params();
  params.f();
  const auto precision = static_cast<GemmPrecision>(params.i());
  const int64_t block = params.i(), pairs = params.i();
  if (optional_input(desc, 4)) {
    check(desc.outs.size() == 1 && desc.outs[0].present() && desc.ins.size() == 5, "expected operands a, b, b_zero?, b_scale and y");
    validate_dequantising(desc, pairs != 0);
    const Operand zero = desc.ins[3], scale = desc.ins[4];
    desc.ins[3] = desc.ins[4] = Operand{};  // they have no axis m or k to be reshaped
    const GemmShape s = canonical_gemm(desc, Roles::kKept);
    desc.ins[3] = zero;
    desc.ins[4] = scale;
    return make_gemm_dequant(std::move(desc), s, block, pairs != 0, precision, bind);
  }
  validate(desc);
  const DType t = desc.ins[0].dtype;
  const bool zeros = optional_input(desc, 2) || optional_input(desc, 3);
  const bool fast = (t == DType::f32 || t == DType::f64) && !zeros;
  if (precision != GemmPrecision::full_) {
    check(t == DType::f32 && !zeros && desc.ins[1].is_const(),
          "a reduced precision needs f32 operands without zero points and a constant b");
    const GemmShape s = canonical_gemm(desc, Roles::kKept);
    if (precision == GemmPrecision::bf16_) return make_gemm_bf16(std::move(desc), s, bind);
    if (precision == GemmPrecision::int8_) return make_gemm_quant(std::move(desc), s, bind);
    return make_gemm_halves(std::move(desc), s, DType::f16, false, bind);
  }
  const Operand& y = desc.outs[0];
  if ((t == DType::f16 || t == DType::bf16) && !zeros && desc.ins[1].is_const() &&
      (y.strides[y.ndim - 1] == 1 || y.shape[y.ndim - 1] == 1)) {
    const GemmShape s = canonical_gemm(desc, Roles::kKept);  // B stays in 16 bits
    if (t == DType::bf16) return make_gemm_bf16(std::move(desc), s, bind);
    return make_gemm_halves(std::move(desc), s, t, false, bind);
  }
  GemmShape s = canonical_gemm(desc, fast ? Roles::kNarrow : Roles::kByOutput);
  if (is_byte(t)) return make_gemm_int8(std::move(desc), s, bind);
  if (is_float(t) && !zeros) return make_gemm_float(std::move(desc), s, bind);
  if (!zeros && (t == DType::i32 || t == DType::u32 || t == DType::i64 || t == DType::u64)) return make_gemm_int(std::move(desc), s);
  return make_gemm_plain(std::move(desc), s, bind);
}

}  // namespace ptrt::PTRT_LEVEL
