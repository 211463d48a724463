// What the kernels of `gemm` share: where a block is, and how its sums leave it. kernels/cuda/plans/gemm_call.py generates what depends on
// the launch: left(a, c, raw, row), right(raw, half, shift), shift_b(a, c, k, col) make factors of type Lane of what memory holds, and
// emit(a, c, batch, sum) writes one result: through the epilogue or, where k is cut into slices, into scratch for gemm_sum.cuh.
//
// Coordinates `c` are those of y: the batch axes, m, n. Operands take their own strides over the batch axes (0 where they are broadcast).
#pragma once

struct Place {
  Idx batch, row, col;  // the batch, and the first row and column of the block
  Idx k, k_end;         // the slice of k
};

__forceinline__ Idx over_batch(const Idx* strides, const Idx (&c)[RANK]) {
  Idx offset = 0;
#pragma unroll
  for (int i = 0; i < RANK - 2; i++) offset += c[i] * strides[i];
  return offset;
}

// Blocks walk tiles of BM x BN down columns of at most kTall tiles, so that those that run together share rows and columns in L2.
template <int BM, int BN>
__forceinline__ Place place(const Args& a, Idx (&c)[RANK]) {
  constexpr Idx kTall = 8;
  const Idx tiles_m = (a.m + BM - 1) / BM, tiles_n = (a.n + BN - 1) / BN, tiles = tiles_m * tiles_n;
  Place p;
  p.batch = static_cast<Idx>(blockIdx.x) / tiles;
  const Idx t = static_cast<Idx>(blockIdx.x) - p.batch * tiles, group = t / (kTall * tiles_n), inside = t - group * kTall * tiles_n;
  const Idx left = tiles_m - group * kTall, tall = left < kTall ? left : kTall, across = inside / tall;
  p.row = (group * kTall + inside - across * tall) * BM;
  p.col = across * BN;
  p.k = static_cast<Idx>(blockIdx.y) * a.slice;
  p.k_end = a.k - p.k < a.slice ? a.k : p.k + a.slice;
  unravel<0, RANK - 2>(p.batch, a.batch, c);
  return p;
}

// A ROWS x COLS block of sums in shared memory, written by one warp with neighbouring lanes in neighbouring columns: coalesced for y and
// for the epilogue's operands, whatever fragment held the sums. row_of(r): the row of y.
template <int ROWS, int COLS, int PITCH, class S, class Row>
__forceinline__ void emit_rows(const Args& a, Idx (&c)[RANK], const Place& p, Idx col, const S* sums, Row row_of) {
  const int lane = threadIdx.x % 32;
#pragma unroll 1  // one copy of the epilogue
  for (int e = lane; e < ROWS * COLS; e += 32) {
    const int r = e / COLS, x = e % COLS;
    c[RANK - 2] = row_of(r);
    c[RANK - 1] = col + x;
    if (c[RANK - 2] < a.m && c[RANK - 1] < a.n) emit(a, c, p.batch, sums[r * PITCH + x]);
  }
}

// Values of k from k0 to k0 + depth of ROWS rows of A into shared memory, as Lane and zeros where there are no rows or (up to `whole`)
// values. put(row, k, values): VA neighbours along k.
template <int ROWS, int VA, bool LANES_ALONG_K, class T, class Put>
__forceinline__ void bring_rows(const Args& a, const Idx (&c)[RANK], const T* from, Idx row0, Idx k0, Idx depth, Idx whole, Put put) {
  const auto bring = [&](int r, Idx k) {
    Pack<T, VA> raw{};
    const bool valid = row0 + r < a.m && k < depth;
    if (valid) raw = load_pack<T, VA>(from + r * a.a_row + (k0 + k) * a.a_k);
    Pack<Lane, VA> x{};
#pragma unroll
    for (int v = 0; v < VA; v++) x.at[v] = valid ? left(a, c, raw.at[v], row0 + r) : Lane(0);
    put(r, static_cast<int>(k), x);
  };
  if constexpr (LANES_ALONG_K) {
#pragma unroll 1
    for (int r = 0; r < ROWS; r++)
      for (Idx k = threadIdx.x * VA; k < whole; k += THREADS * VA) bring(r, k);
  } else {
    for (Idx i = threadIdx.x; i < whole * ROWS; i += THREADS) bring(static_cast<int>(i % ROWS), i / ROWS);
  }
}
