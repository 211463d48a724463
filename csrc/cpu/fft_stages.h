// The loops of transforms of lines that lie side by side: element i of line l is at i * lines + l. Real and imaginary parts are kept apart,
// so every butterfly is the same arithmetic on whole vectors. What calls them is linked once, they are there at every level: each level's
// kernel hands its own loops over (fft_stages.cpp).
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "core/launch.h"

namespace ptrt {

constexpr int64_t kLargestFftRadix = 31;

struct FftStage {
  int64_t radix, rest;           // the sub-length before the stage is radix * rest
  std::vector<double> twiddles;  // of each k < rest, for r = 1 .. radix - 1: cos and sin of -2 pi k r / (radix * rest)
  std::vector<double> roots;     // cos and sin of -2 pi k / radix
};

struct FftLoops {
  int64_t lines;  // in groups of so many, whole vectors are worked on
  // Transforms what is in (a, b), with (c, d) as the other memory. Is the result in (c, d)?
  bool (*transform)(const std::vector<FftStage>& stages, int64_t lines, double* a, double* b, double* c, double* d);
  // Multiplies rows by complex numbers.
  void (*rotate)(double* re, double* im, int64_t rows, int64_t lines, const double* by);
  // Rows k and h - k, 0 < k <= h / 2, of the transform Z of the even elements + i the odd ones of n = 2h real numbers become those of their
  // spectrum X, or the other way round. `turns`: cos and sin of -2 pi k / n.
  void (*unpack)(double* re, double* im, int64_t h, int64_t lines, const double* turns);
  void (*pack)(double* re, double* im, int64_t h, int64_t lines, const double* turns);
};

}  // namespace ptrt
