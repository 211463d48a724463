#include "cpu/resample_table.h"

#include <algorithm>
#include <cmath>

#include "cpu/reduce_block.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr int64_t kGrain = 16384;  // elements written per task, at least
constexpr int64_t kLine = 16384;   // elements of a line, where vectors can be cut
constexpr int64_t kHeld = 4096;    // elements that go through the epilogue together, at least where there are as many

enum class Mode { nearest, linear, cubic };
enum class NearestMode { round_prefer_floor, round_prefer_ceil, floor, ceil };

struct Options {
  Mode mode = Mode::nearest;
  Coordinates coordinates = Coordinates::half_pixel_;
  NearestMode nearest = NearestMode::round_prefer_floor;
  double cubic_a = -0.75;
  bool exclude_outside = false, antialias = false;
};

double source_position(Coordinates mode, double x, double in, double out, double scale, double start, double end) {
  const double width = scale * in;  // not rounded to `out`: so are the formulas
  switch (mode) {
    case Coordinates::align_corners_: return width == 1 ? 0 : x * (in - 1) / (width - 1);
    case Coordinates::asymmetric_: return x / scale;
    case Coordinates::tf_crop_and_resize_:
      return start * (in - 1) + (width == 1 ? (end - start) * (in - 1) / 2 : x * (end - start) * (in - 1) / (width - 1));
    case Coordinates::pytorch_half_pixel_: return width == 1 ? -0.5 : (x + 0.5) / scale - 0.5;
    case Coordinates::half_pixel_symmetric_: return in / 2 * (1 - out / width) + (x + 0.5) / scale - 0.5;
    case Coordinates::tf_half_pixel_for_nn_: return (x + 0.5) / scale;
    default: return (x + 0.5) / scale - 0.5;
  }
}

double cubic(double a, double x) {
  x = std::fabs(x);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  return 0;
}

// ONNX Resize-19 along one axis of `in` > 0 elements; the arithmetic is that of onnx.reference.
ResampleTable axis_table(const Options& o, int64_t in, int64_t out, double scale, double roi_start, double roi_end) {
  ResampleTable t;
  const double shrink = o.antialias ? std::min(scale, 1.0) : 1.0;
  const double reach = o.mode == Mode::cubic ? 2 : 1;
  int64_t first = o.mode == Mode::cubic ? -1 : 0;  // of the taps, relative to the input just below the position
  if (o.antialias && o.mode != Mode::nearest) {
    const double span = std::floor(-reach / shrink) + 1;
    if (!(span > -1e6)) throw KernelError("resample: scale too small to antialias");
    first = static_cast<int64_t>(span);
  }
  t.taps = o.mode == Mode::nearest ? 1 : 2 - 2 * first;
  int64_t entries;
  if (__builtin_mul_overflow(out, t.taps, &entries) || entries > int64_t{1} << 32) throw KernelError("resample: too many taps");
  std::vector<double> w(static_cast<size_t>(t.taps));
  for (int64_t x = 0; x < out; x++) {
    double position = source_position(o.coordinates, static_cast<double>(x), static_cast<double>(in), static_cast<double>(out), scale,
                                      roi_start, roi_end);
    if (!(std::fabs(position) < 1e15)) position = 0;
    if (o.coordinates == Coordinates::tf_crop_and_resize_ && (position < 0 || position > static_cast<double>(in - 1))) {
      t.outside.resize(static_cast<size_t>(out));
      t.outside[static_cast<size_t>(x)] = 1;
    }
    // below < position <= below + 1
    const double below = std::ceil(position) - 1, ratio = position - below;
    auto clamp = [&](double i) { return static_cast<int64_t>(std::clamp(i, 0.0, static_cast<double>(in - 1))); };
    if (o.mode == Mode::nearest) {
      bool up = true;
      if (ratio < 1) {
        if (o.nearest == NearestMode::round_prefer_floor) up = ratio > 0.5;
        else if (o.nearest == NearestMode::round_prefer_ceil) up = ratio >= 0.5;
        else up = o.nearest == NearestMode::ceil;
      }
      t.index.push_back(clamp(below + up));
      t.weight.push_back(1);
      continue;
    }
    double sum = 0;
    for (int64_t k = 0; k < t.taps; k++) {
      const double at = static_cast<double>(first + k);
      double v = o.mode == Mode::cubic ? cubic(o.cubic_a, (at - ratio) * shrink) : std::max(0.0, 1 - std::fabs(at - ratio) * shrink);
      const double i = below + at;
      if (o.exclude_outside && (i < 0 || i > static_cast<double>(in - 1))) v = 0;
      w[static_cast<size_t>(k)] = v;
      sum += v;
      t.index.push_back(clamp(i));
    }
    const bool normalise = o.antialias || o.exclude_outside;
    for (double v : w) t.weight.push_back(normalise ? v / sum : v);
  }
  t.weight32.assign(t.weight.begin(), t.weight.end());
  for (int64_t i = 0; i < out * t.taps; i += t.taps) {
    const double* v = t.weight.data() + i;
    ResampleTable::Kept kept{0, t.taps};
    while (kept.count > 1 && v[kept.first] == 0) kept.first++, kept.count--;
    while (kept.count > 1 && v[kept.first + kept.count - 1] == 0) kept.count--;
    t.kept.push_back(kept);
  }
  return t;
}

ResampleLine line_table(const ResampleTable& table, int64_t in, int64_t width, bool wide, int lanes, int most) {
  ResampleLine t;
  const int64_t outputs = static_cast<int64_t>(table.kept.size()), size = in * width;
  t.taps = table.taps;
  t.n = outputs * width;
  if (size > INT32_MAX) throw KernelError("resample: axis too long");
  int64_t range = 1;  // of the inputs of a vector
  for (int64_t first = 0; first < t.n; first += lanes)
    for (int64_t k = 0; k < t.taps; k++) {
      int64_t low = size, high = 0;
      for (int64_t i = 0; i < lanes; i++) {
        const int64_t e = std::min(first + i, t.n - 1);
        const auto tap = static_cast<size_t>(e / width * t.taps + k);
        const int64_t at = table.index[tap] * width + e % width;
        low = std::min(low, at);
        high = std::max(high, at);
        t.at.push_back(static_cast<int32_t>(at));
        if (wide) t.weight.push_back(table.weight[tap]);
        else t.weight32.push_back(table.weight32[tap]);
      }
      t.base.push_back(static_cast<int32_t>(low));
      range = std::max(range, high - low + 1);
    }
  t.window = static_cast<int>((range + lanes - 1) / lanes);
  if (t.window > most || size < t.window * lanes) t.window = 0;
  for (size_t i = 0; i < t.at.size(); i++) {
    int32_t& base = t.base[i / static_cast<size_t>(lanes)];
    base = t.window ? static_cast<int32_t>(std::min<int64_t>(base, size - t.window * lanes)) : 0;
    t.at[i] -= base;
  }
  return t;
}

// What integer results are clamped to. False: nothing.
bool limits(DType t, double& low, double& high) {
  switch (t) {
    case DType::i8: low = -128, high = 127; break;
    case DType::u8: low = 0, high = 255; break;
    case DType::i16: low = -32768, high = 32767; break;
    case DType::u16: low = 0, high = 65535; break;
    case DType::i32: low = INT32_MIN, high = INT32_MAX; break;
    case DType::u32: low = 0, high = UINT32_MAX; break;
    default: return false;
  }
  return true;
}

// Which axis lines run along, and what else follows from that.
void choose_layout(ResamplePlan& p, const LaunchDesc& desc, int vector_bytes, const int (&windows)[2]) {
  const Operand &x = desc.ins[0], &y = desc.outs[0];
  const bool wide = p.acc != DType::f32;
  auto contiguous = [](const Operand& o, int a) { return o.strides[a] == 1 || o.shape[a] <= 1; };
  auto written = [&](int a) { return desc.epilogue.empty() && y.dtype == p.acc && contiguous(y, a); };
  auto table = [&](int a) -> const ResampleTable& { return p.tables[static_cast<size_t>(a)]; };
  for (int a = 0; a < x.ndim; a++)
    if (table(a).touched) {
      p.row = p.line;
      p.line = a;
    }
  for (int a = 0; a < x.ndim; a++)
    if (!table(a).touched && x.strides[a] == 1 && x.shape[a] >= 2) p.vector = a;
  p.in = x.shape[p.line];
  p.out = y.shape[p.line];
  int lanes = vector_bytes / (wide ? 8 : 4), inner = p.line;
  if (p.vector >= 0) {
    inner = p.vector;
    p.width = std::min(x.shape[p.vector], std::max<int64_t>(256, kLine / std::max<int64_t>(1, p.in) / 64 * 64));
    p.blocks = (x.shape[p.vector] + p.width - 1) / p.width;
    p.layout = !written(p.vector) && written(p.line) ? ResamplePlan::Layout::columns
               : p.width < lanes                     ? ResamplePlan::Layout::pixels
                                                     : ResamplePlan::Layout::vectors;
  }
  p.combines = p.row >= 0;
  for (int a = 0; a < x.ndim && p.row < 0; a++)
    if (a != p.line && a != p.vector && y.shape[a] > 1) p.row = a;
  if (p.row >= 0) {
    p.rows = y.shape[p.row];
    p.row_taps = table(p.row).taps;
  }
  for (int a = 0; a < x.ndim; a++) {
    if (a == p.line || a == p.vector || a == p.row) continue;
    p.outer.push_back(a);
    if (!table(a).touched) continue;
    p.others.push_back(a);
    p.products *= table(a).taps;
  }
  if (p.layout != ResamplePlan::Layout::vectors && p.out > 0)
    p.taps = line_table(table(p.line), p.in, p.layout == ResamplePlan::Layout::pixels ? p.width : 1, wide, lanes, windows[wide]);
  for (int64_t o = 0; o < p.out; o++)
    if (table(p.line).leaves_out(o)) p.left_out.push_back(o);
  p.read = desc.prologue.empty() && x.dtype == p.acc && contiguous(x, inner) && p.acc != DType::i64;
  p.written = p.layout == ResamplePlan::Layout::columns ||
              (written(inner) && (p.layout != ResamplePlan::Layout::pixels || y.strides[p.line] == p.width));
  if (p.layout == ResamplePlan::Layout::elements) p.held = std::max<int64_t>(1, std::min(p.rows, kHeld / std::max<int64_t>(1, p.out)));
  p.grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, p.out * p.width));
}

}  // namespace

ResamplePlan resample_plan(const LaunchDesc& desc, int vector_bytes, const int (&windows)[2]) {
  ResamplePlan plan;
  Params p = desc.params();
  Options o;
  o.mode = static_cast<Mode>(p.i());
  o.coordinates = static_cast<Coordinates>(p.i());
  o.nearest = static_cast<NearestMode>(p.i());
  const auto scales = p.floats(), roi = p.floats();
  o.cubic_a = p.f();
  o.exclude_outside = p.i() != 0;
  double extrapolation = p.f();
  o.antialias = p.i() != 0;
  const Operand &x = desc.ins[0], &y = desc.outs[0];
  const auto rank = static_cast<size_t>(x.ndim);
  const bool crop = o.coordinates == Coordinates::tf_crop_and_resize_;
  if (rank == 0 || y.ndim != x.ndim || scales.size() != rank || (crop && roi.size() != 2 * rank))
    throw KernelError("resample: parameters do not match x");
  bool any = false;
  for (int a = 0; a < x.ndim; a++) {
    const auto i = static_cast<size_t>(a);
    const double start = crop ? roi[i] : 0, end = crop ? roi[rank + i] : 1;
    plan.tables.emplace_back();
    const bool last = a + 1 == x.ndim && !any;  // lines need an axis
    if (scales[i] == 1 && x.shape[a] == y.shape[a] && start == 0 && end == 1 && !last) continue;
    if (!(scales[i] > 0) || (x.shape[a] == 0 && y.shape[a] > 0)) throw KernelError("resample: bad scale");
    if (x.shape[a] > 0) plan.tables[i] = axis_table(o, x.shape[a], y.shape[a], scales[i], start, end);
    plan.tables[i].touched = any = true;
  }
  plan.nearest = o.mode == Mode::nearest;
  plan.copies = plan.nearest && desc.prologue.empty() && desc.epilogue.empty() && x.dtype == y.dtype;
  switch (x.dtype) {
    case DType::f32:
    case DType::f16:
    case DType::bf16: plan.acc = DType::f32; break;
    case DType::f64: plan.acc = DType::f64; break;
    default: plan.acc = plan.nearest ? DType::i64 : DType::f64;
  }
  if (plan.copies) {
    bool crops = false;
    for (const ResampleTable& t : plan.tables) crops = crops || !t.outside.empty();
    if (crops) convert_out(x.dtype, &extrapolation, 1, plan.empty, 1);
    return plan;
  }
  if (!plan.nearest && limits(desc.acc_dtype, plan.low, plan.high)) {
    plan.clamps = o.mode == Mode::cubic;
    extrapolation = std::clamp(extrapolation, plan.low, plan.high);
  }
  convert_out(plan.acc, &extrapolation, 1, plan.empty, 1);
  choose_layout(plan, desc, vector_bytes, windows);
  return plan;
}

}  // namespace ptrt::PTRT_LEVEL
