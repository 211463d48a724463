// The taps of one resampled axis: which inputs every output reads, and with which weights.
#pragma once
#include <vector>

#include "core/launch.h"
#include "core/vocabulary.h"
#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {

enum class ResampleMode { nearest, linear, cubic };
enum class NearestMode { round_prefer_floor, round_prefer_ceil, floor, ceil };

struct ResampleOptions {
  ResampleMode mode = ResampleMode::nearest;
  Coordinates coordinates = Coordinates::half_pixel_;
  NearestMode nearest = NearestMode::round_prefer_floor;
  double cubic_a = -0.75;
  bool exclude_outside = false, antialias = false;
};

struct ResampleTable {
  int64_t taps = 1;              // per output
  std::vector<int64_t> index;    // [out * taps], in range
  std::vector<double> weight;    // [out * taps]
  std::vector<uint8_t> outside;  // [out]: the output is the extrapolation value; empty if none is
};

// ONNX Resize-19 along one axis of `in` > 0 elements; the arithmetic is that of onnx.reference.
ResampleTable resample_table(const ResampleOptions& options, int64_t in, int64_t out, double scale, double roi_start, double roi_end);

}  // namespace ptrt::PTRT_LEVEL
