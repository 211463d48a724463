// Tiles of matrices in shared memory, and the product of two of them in registers. What attention and the input products of recurrent
// layers are made of.
//
// A tile of M rows keeps the elements of one column (one k of the product) together, rows of it permuted in groups of four so that neither
// staging along a row nor reading four rows of one column meets a bank twice. (An odd pitch instead would forbid 16-byte reads.)
//
// A thread owns COUNT of N rows as groups of up to four neighbours, the groups spread evenly: then 8 threads read 128 bytes in a row.
#pragma once
#include "types.cuh"

template <int M>
__forceinline__ int swizzled(int k, int m) {
  return k * M + (m ^ (k & 28 & (M - 4)));
}

template <int N, int COUNT>
__forceinline__ int owned(int thread, int i) {
  constexpr int G = COUNT < 4 ? COUNT : 4;
  return i / G * (N / COUNT * G) + thread * G + i % G;
}

// The rows that a thread owns, of column k.
template <int M, int COUNT, class A>
__forceinline__ void fetch(const A* tile, int k, int thread, A (&out)[COUNT]) {
  constexpr int G = COUNT < 4 ? COUNT : 4, most = 16 / static_cast<int>(sizeof(A)), W = G < most ? G : most;
#pragma unroll
  for (int i = 0; i < COUNT; i += W) {
    if constexpr (W == 1) out[i] = tile[swizzled<M>(k, owned<M, COUNT>(thread, i))];
    else {
      const Pack<A, W> p = load_pack<A, W>(tile + swizzled<M>(k, owned<M, COUNT>(thread, i)));
#pragma unroll
      for (int j = 0; j < W; j++) out[i + j] = p.at[j];
    }
  }
}

// The rows that a thread owns, of column k, into the tile.
template <int M, int COUNT, class A>
__forceinline__ void put(A* tile, int k, int thread, const A (&in)[COUNT]) {
  constexpr int G = COUNT < 4 ? COUNT : 4, most = 16 / static_cast<int>(sizeof(A)), W = G < most ? G : most;
#pragma unroll
  for (int i = 0; i < COUNT; i += W) {
    if constexpr (W == 1) tile[swizzled<M>(k, owned<M, COUNT>(thread, i))] = in[i];
    else {
      Pack<A, W> p;
#pragma unroll
      for (int j = 0; j < W; j++) p.at[j] = in[i + j];
      store_pack(tile + swizzled<M>(k, owned<M, COUNT>(thread, i)), p);
    }
  }
}

// acc += a[k + first][..] * b[k][..] over k < depth rounded up to 8. The tiles hold M and N rows, of which thread (y, x) owns TM and TN.
template <int M, int N, int TM, int TN, class A>
__forceinline__ void multiply(const A* a, int first, const A* b, int depth, int y, int x, A (&acc)[TM][TN]) {
  for (int k0 = 0; k0 < depth; k0 += 8)
#pragma unroll
    for (int k = k0; k < k0 + 8; k++) {
      A left[TM], right[TN];
      fetch<M, TM>(a, first + k, y, left);
      fetch<N, TN>(b, k, x, right);
#pragma unroll
      for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++) acc[i][j] += left[i] * right[j];
    }
}

// Stages rows of a matrix: element (row, col) lies at data[at(row) + col * step] and goes to column `col` of a tile of M rows; what is
// outside of `rows` and `cols` is 0. WIDTH: elements loaded at once, which needs step 1, cols a multiple and aligned rows. ACROSS:
// neighbouring threads take neighbouring rows, for matrices that are dense that way. `convert(value, row)` makes elements of the tile.
template <int M, int COLS, int WIDTH, bool ACROSS, class A, class T, class At, class Convert>
__forceinline__ void stage_columns(A* tile, const T* data, At at, Idx step, int rows, int cols, Convert convert) {
  static_assert(WIDTH == 1 || !ACROSS, "packs lie along rows");
#pragma unroll(M* COLS / WIDTH / THREADS <= 4 ? 4 : 2)
  for (int i = static_cast<int>(threadIdx.x) * WIDTH; i < M * COLS; i += THREADS * WIDTH) {
    const int row = ACROSS ? i % M : i / COLS, col = ACROSS ? i / M : i % COLS;
    A v[WIDTH] = {};
    if (row < rows && col < cols) {
      if constexpr (WIDTH == 1) v[0] = convert(value_of(data[at(row) + col * step]), row);
      else {
        const Pack<T, WIDTH> p = load_pack<T, WIDTH>(data + at(row) + col);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) v[j] = convert(value_of(p.at[j]), row);
      }
    }
#pragma unroll
    for (int j = 0; j < WIDTH; j++) tile[swizzled<M>(col + j, row)] = v[j];
  }
}

template <int M, int COLS, int WIDTH, bool ACROSS, class A, class T, class At>
__forceinline__ void stage_columns(A* tile, const T* data, At at, Idx step, int rows, int cols) {
  stage_columns<M, COLS, WIDTH, ACROSS>(tile, data, at, step, rows, cols, [](Value<T> v, int) { return static_cast<A>(v); });
}

// The same for a tile whose columns are the rows of the matrix: element (row, col) goes to row `col` of column `row`.
template <int M, int COLS, int WIDTH, class A, class T, class At>
__forceinline__ void stage_rows(A* tile, const T* data, At at, Idx step, int rows, int cols) {
#pragma unroll(M* COLS / WIDTH / THREADS <= 4 ? 4 : 2)
  for (int i = static_cast<int>(threadIdx.x) * WIDTH; i < M * COLS; i += THREADS * WIDTH) {
    const int row = i / M, col = i % M;
    A v[WIDTH] = {};
    if (row < rows && col < cols) {
      if constexpr (WIDTH == 1) v[0] = static_cast<A>(value_of(data[at(row) + col * step]));
      else {
        const Pack<T, WIDTH> p = load_pack<T, WIDTH>(data + at(row) + col);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) v[j] = static_cast<A>(value_of(p.at[j]));
      }
    }
    constexpr int most = 16 / static_cast<int>(sizeof(A)), W = WIDTH < most ? WIDTH : most;
    if constexpr (W == 1) tile[swizzled<M>(row, col)] = v[0];
    else {
#pragma unroll
      for (int j = 0; j < WIDTH; j += W) {
        Pack<A, W> p;
#pragma unroll
        for (int u = 0; u < W; u++) p.at[u] = v[j + u];
        store_pack(tile + swizzled<M>(row, col + j), p);
      }
    }
  }
}
