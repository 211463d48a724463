#include "cpu/resample_table.h"

#include <algorithm>
#include <cmath>

namespace ptrt::PTRT_LEVEL {

namespace {

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

}  // namespace

ResampleTable resample_table(const ResampleOptions& o, int64_t in, int64_t out, double scale, double roi_start, double roi_end) {
  ResampleTable t;
  const double shrink = o.antialias ? std::min(scale, 1.0) : 1.0;
  const double reach = o.mode == ResampleMode::cubic ? 2 : 1;
  int64_t first = o.mode == ResampleMode::cubic ? -1 : 0;  // of the taps, relative to the input just below the position
  if (o.antialias && o.mode != ResampleMode::nearest) {
    const double span = std::floor(-reach / shrink) + 1;
    if (!(span > -1e6)) throw KernelError("resample: scale too small to antialias");
    first = static_cast<int64_t>(span);
  }
  t.taps = o.mode == ResampleMode::nearest ? 1 : 2 - 2 * first;
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
    if (o.mode == ResampleMode::nearest) {
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
      double v =
          o.mode == ResampleMode::cubic ? cubic(o.cubic_a, (at - ratio) * shrink) : std::max(0.0, 1 - std::fabs(at - ratio) * shrink);
      const double i = below + at;
      if (o.exclude_outside && (i < 0 || i > static_cast<double>(in - 1))) v = 0;
      w[static_cast<size_t>(k)] = v;
      sum += v;
      t.index.push_back(clamp(i));
    }
    const bool normalise = o.antialias || o.exclude_outside;
    for (double v : w) t.weight.push_back(normalise ? v / sum : v);
  }
  return t;
}

}  // namespace ptrt::PTRT_LEVEL
