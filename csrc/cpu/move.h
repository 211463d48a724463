// Moves of raw elements between strided operands. Compiled for the lowest level alone: vectors of 16 bytes keep up with memory.
#pragma once
#include <memory>

#include "core/launch.h"
#include "cpu/simd.h"

namespace ptrt {

// out[r][c] = in[r][c] for elements of `size` bytes (1, 2, 4, 8, 16). Strides in bytes. Not overlapping, or identical.
using Move2d = void (*)(int size, int64_t rows, int64_t cols, const char* in, int64_t in_row, int64_t in_col, char* out, int64_t out_row,
                        int64_t out_col);

namespace PTRT_PLAIN {

void move2d(int size, int64_t rows, int64_t cols, const char* in, int64_t in_row, int64_t in_col, char* out, int64_t out_row,
            int64_t out_col);
// outs[0] = ins[0]: the map whose program is one load. `spread` moves blocks whose in_col is 0 and whose out_col is the element's size.
std::unique_ptr<Kernel> make_move(LaunchDesc desc, Move2d spread);

}  // namespace PTRT_PLAIN
}  // namespace ptrt
