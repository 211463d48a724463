// Class probabilities from pairwise ones, as libsvm has them. For host calls (csrc/bindings/host.cpp).
#pragma once
#include <cstdint>

namespace ptrt {

// out [rows, classes] from scores [rows, classes * (classes - 1) / 2], one for each pair of classes i < j in order: the pairwise
// probability of i is 1 / (1 + exp(score * a + b)), kept 1e-7 off 0 and 1. Throws std::bad_alloc.
void couple(const float* scores, const double* a, const double* b, int64_t rows, int64_t classes, float* out);

}  // namespace ptrt
