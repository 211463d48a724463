// What fills elements with random numbers is there at every level; what calls it is linked once, and each level's kernel hands its own
// functions over (random_fill.cpp).
#pragma once
#include <cstdint>
#include <memory>

#include "core/launch.h"

namespace ptrt {

struct RandomRange {
  double a, b;             // from, to; or mean, deviation
  double reaching, below;  // what reaches the one becomes the other
};

// The words of the blocks first, first + 1, ... of a stream, and `n` numbers of them: a multiple of 16. There is room for 16 more words.
struct RandomFill {
  void (*philox)(uint64_t seed, uint64_t stream, uint64_t first, int64_t blocks, uint32_t* words);
  void (*uniform)(const uint32_t* words, int64_t n, bool wide, const RandomRange& range, double* numbers);
};

}  // namespace ptrt
