// y = body(x) where x is dense along axis ACROSS and y along the last: tiles of 32 x 32 are read along the one and written along the other.
// The odd pitch of the tile keeps both walks free of bank conflicts.
#pragma once

constexpr int TILE = 32, TILE_ROWS = 8;

extern "C" __global__ void __launch_bounds__(THREADS) map_transpose(const __grid_constant__ Args a) {
  __shared__ X tile[TILE][TILE + 1];
  const int lane = threadIdx.x % TILE, row = threadIdx.x / TILE;
  Idx c[RANK] = {};
  unravel<0, RANK>(static_cast<Idx>(blockIdx.x), a.size, c);
  const Idx across = c[ACROSS] * TILE, along = c[RANK - 1] * TILE;
  c[ACROSS] = across + lane;
#pragma unroll
  for (int k = row; k < TILE; k += TILE_ROWS) {
    c[RANK - 1] = along + k;
    if (c[ACROSS] < a.extent[ACROSS] && c[RANK - 1] < a.extent[RANK - 1]) tile[k][lane] = a.x0_data[at_x0(a, c)];
  }
  __syncthreads();
  c[RANK - 1] = along + lane;
#pragma unroll
  for (int k = row; k < TILE; k += TILE_ROWS) {
    c[ACROSS] = across + k;
    if (c[ACROSS] < a.extent[ACROSS] && c[RANK - 1] < a.extent[RANK - 1])
      a.y_data[at_y(a, c)] = stored<Y>(body(a, c, value_of(tile[lane][k])));
  }
}
