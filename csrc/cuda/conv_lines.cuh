// Tiles of lines of 64 bytes of products in shared memory, as conv_mma.cuh multiplies them. Chunks of 16 bytes are permuted within lines so
// that the 8 lines of an ldmatrix, and 16-byte stores of neighbouring chunks, meet all banks (as in gemm_stage.cuh).
#pragma once
#include "types.cuh"

constexpr int LINE = 64, kChunks = LINE / 16;

// The byte of a chunk of a line.
__forceinline__ u32 line_at(int line, int chunk) { return line * LINE + (chunk ^ ((line >> 1) & 3) ^ ((line >> 3) & 3)) * 16; }

// The lanes' addresses for ldmatrix. Left: registers (lines 0.., chunk 0), (lines 8.., chunk 0), (lines 0.., chunk 1), (lines 8.., chunk
// 1).
__forceinline__ u32 left_address(u32 base, int line, int chunk) {
  const int l = threadIdx.x % 32;
  return base + line_at(line + l % 16, chunk + l / 16);
}
// Right, of two neighbouring groups of 8 columns: (columns 0.., chunk 0), (columns 0.., chunk 1), (columns 8.., chunk 0), (columns 8..,
// chunk 1).
__forceinline__ u32 right_address(u32 base, int line, int chunk) {
  const int l = threadIdx.x % 32;
  return base + line_at(line + l % 8 + l / 16 * 8, chunk + l / 8 % 2);
}

// Starts to copy the chunks [k, k + KS) of rows [row0, row0 + ROWS) of a matrix with rows `pitch` apart; rows and products beyond the ends
// are 0.
template <int ROWS, int KS, class T>
__forceinline__ void copy_lines(u32 to, const T* from, Idx pitch, Idx row0, Idx rows, Idx k, Idx end) {
  constexpr int units = ROWS * kChunks;
#pragma unroll
  for (int n = 0; n < (units + THREADS - 1) / THREADS; n++) {
    const int i = n * THREADS + threadIdx.x, line = i / kChunks, chunk = i % kChunks;
    if (units % THREADS != 0 && i >= units) break;
    const Idx row = row0 + line, at = k + chunk * (KS / kChunks);
    const bool valid = row < rows && at < end;
    ptx_copy_async_16(to + line_at(line, chunk), valid ? from + (row * pitch + at) : from, valid);
  }
}
