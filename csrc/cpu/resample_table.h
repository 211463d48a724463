// What a resample launch is decided to do: the taps of every axis, and the layout of lines. All levels share these types, and the code that
// fills them in (resample_table.cpp) is linked once.
#pragma once
#include <vector>

#include "core/launch.h"
#include "core/vocabulary.h"
#include "cpu/simd.h"

namespace ptrt {

// One axis: which inputs every output reads, and with which weights.
struct ResampleTable {
  struct Kept {
    int64_t first, count;
  };
  bool touched = false;          // false: nothing of the rest is filled in
  int64_t taps = 1;              // per output
  std::vector<int64_t> index;    // [out * taps], in range
  std::vector<double> weight;    // [out * taps]
  std::vector<float> weight32;   // the same
  std::vector<Kept> kept;        // [out]: taps between those of weight 0 at both ends
  std::vector<uint8_t> outside;  // [out]: the output is the extrapolation value; empty if none is

  bool leaves_out(int64_t output) const { return !outside.empty() && outside[static_cast<size_t>(output)]; }
};

// A resampled line of pixels of a few contiguous elements, a vector of outputs at a time. Where a line is enlarged, or not halved, the
// inputs of a vector lie within one or two vectors, which are loaded as a whole and permuted.
struct ResampleLine {
  int64_t n = 0, taps = 1;        // n: elements of the resampled line
  int window = 0;                 // vectors that are loaded; 0: elements are gathered
  std::vector<int32_t> at, base;  // [vector of outputs][tap][lane], relative to base; [vector of outputs][tap]
  std::vector<double> weight;     // as `at`; one of them
  std::vector<float> weight32;
};

struct ResamplePlan {
  // elements: the line axis is the contiguous one. pixels: a few contiguous values each. vectors: many. columns: vectors in x, elements in
  // y.
  enum class Layout { elements, pixels, vectors, columns };

  bool nearest = false, copies = false;  // copies: nearest without programs
  DType acc = DType::none;               // f32, f64, or i64: integers, which nearest moves as if they were doubles
  std::vector<ResampleTable> tables;     // one per axis
  char empty[16] = {};                   // the extrapolation value as `acc`, or as x's dtype if `copies`
  // The rest is not filled in if `copies`.
  bool clamps = false;  // integer results of cubic interpolation may overshoot their type
  double low = 0, high = 0;
  Layout layout = Layout::elements;
  int line = -1, vector = -1;      // axes of x
  int row = -1;                    // the combined axis that is next to the line, or any axis if none is
  bool combines = false;           // row is resampled
  bool read = false;               // straight from x
  bool written = false;            // straight to y
  std::vector<int> outer, others;  // all axes but these; the resampled ones among them
  int64_t in = 0, out = 0, rows = 1, row_taps = 1, products = 1, width = 1, blocks = 1, held = 1, grain = 1;
  std::vector<int64_t> left_out;  // positions of a line that are extrapolated
  ResampleLine taps;              // not for vectors
};

namespace PTRT_PLAIN {

// windows: the most vectors that a ResampleLine of 4 and of 8 byte elements may load.
ResamplePlan resample_plan(const LaunchDesc& desc, int vector_bytes, const int (&windows)[2]);
// resample_copy.cpp: elements of any dtype as they are.
std::unique_ptr<Kernel> make_resample_copy(LaunchDesc desc, ResamplePlan plan);

}  // namespace PTRT_PLAIN
}  // namespace ptrt
