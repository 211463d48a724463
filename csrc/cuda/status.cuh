// How a kernel reports bad data: each launch that may fail has five words of its own, all bits set, of which the smallest value over all
// threads is kept, so that the report is the same on every run. Word 0: code (8 bits) | axis (8 bits) | value + 2^47 (48 bits). Of indices
// out of range the first one is reported, whose value may need all bits: word 0 is code | position (48 bits) | axis (8 bits), and words 1
// to 4 are position (48 bits) | 16 bits of the value, so that all five come from one thread. kernels/cuda/errors.py makes a message of
// them.
#pragma once
#include "types.cuh"

enum class Failure : u32 {
  index_out_of_range = 1,
  position_out_of_range = 2,
  bad_batch_index = 3,
  region_too_large = 4,
  wrong_count = 5,
  outside_output = 6,
  bad_sequence_length = 7
};

__forceinline__ void fail(u64* status, Failure code, int axis, i64 value) {
  constexpr i64 bound = 1ll << 47;
  const i64 v = value < -bound ? -bound : value > bound - 1 ? bound - 1 : value;
  atomicMin(status, (static_cast<u64>(code) << 56) | (static_cast<u64>(axis & 255) << 48) | static_cast<u64>(v + bound));
}

// The index at `position`, in the row-major order of the indices, is `value`, which axis `axis` of the first operand does not have.
__forceinline__ void fail_index(u64* status, int axis, i64 value, i64 position) {
  const u64 at = static_cast<u64>(position) & ((1ull << 48) - 1);
  atomicMin(status, (static_cast<u64>(Failure::index_out_of_range) << 56) | (at << 8) | static_cast<u64>(axis & 255));
#pragma unroll
  for (int k = 0; k < 4; k++) atomicMin(status + 1 + k, (at << 16) | (static_cast<u64>(value) >> (16 * k) & 0xffff));
}
