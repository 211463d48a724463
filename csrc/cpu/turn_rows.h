// Rows too short for vectors of their own, turned so that each is a lane, and back.
#pragma once
#include <cstdint>

#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {

// out[i * pitch + r] = rows[r * stride + i] for i < n, r < count, and zeros for r up to the next whole vector (pitch: at least that).
// Elements of 4 or 8 bytes, of any type. The memory between two rows is read (stride > n), what lies beyond the last one is not.
template <class C>
void rows_to_lanes(const C* rows, int64_t stride, int64_t count, int64_t n, C* out, int64_t pitch);
// rows[r * stride + i] = in[i * pitch + r]; lanes up to the next whole vector are read. Nothing else is written.
template <class C>
void lanes_to_rows(const C* in, int64_t pitch, int64_t count, int64_t n, C* rows, int64_t stride);

}  // namespace ptrt::PTRT_LEVEL
