// linear_attention: a block has a state head and 32 of its columns, one to each lane, and its warps share the rows (warp g has row g and
// every GROUPS-th after it), so every element of the state belongs to one thread for all steps. The state lies in shared memory, or in
// scratch where it does not fit. Sums over the rows are added up per warp, then across warps in a fixed order. Keys, queries and decays are
// read by all lanes at one address. Rejected: chunks of steps as matrix products, which pay off for long prompts only.
#pragma once
#include "states.cuh"

constexpr int kColumns = 32;

// The sum of x over the warps, in the thread's column: one barrier. `parts` must not be one that some thread may still be reading.
__forceinline__ A across(A (&parts)[GROUPS][kColumns], A x) {
  if constexpr (GROUPS == 1) return x;
  const int lane = threadIdx.x % kColumns, group = threadIdx.x / kColumns;
  parts[group][lane] = x;
  __syncthreads();
  A sum = parts[0][lane];
#pragma unroll
  for (int i = 1; i < GROUPS; i++) sum += parts[i][lane];
  return sum;
}

// 2 blocks: more registers than the compiler would allow itself, which then spills.
extern "C" __global__ void __launch_bounds__(THREADS, 2) linear_attention(const __grid_constant__ Args a) {
  extern __shared__ double held[];
  __shared__ A parts[2][GROUPS][kColumns];
  const int lane = threadIdx.x % kColumns, group = threadIdx.x / kColumns, depth = a.depth;
  const Idx block = static_cast<Idx>(blockIdx.x), head = block / a.tiles;
  const Idx b = head / a.heads, n = head - b * a.heads, column = (block - head * a.tiles) * kColumns + lane;
  const bool inside = column < a.width;
  A* s = (IN_SHARED ? reinterpret_cast<A*>(held) : a.work + block * depth * kColumns) + lane;
  // Idx is int or long long, and so are coordinates.
  for (int d = group; d < depth; d += GROUPS) {
    const Idx c[4] = {b, n, d, column};
    s[d * kColumns] = inside ? static_cast<A>(load_state(a, c)) : A(0);
    if (inside)
      for (Idx slot = 0; slot < a.window - (a.steps > 0 ? a.steps : 1); slot++) keep(a, {slot, b, n, d, column}, A(0));
  }
  int buffer = 0;
  for (Idx t = 0; t < a.steps; t++) {
    const Idx key[2] = {n / a.per_key, t};
    A found = 0, factor = 1;
    if constexpr (HAS_DECAY && !DECAY_ROWS) factor = depth > 0 ? exp_of(static_cast<A>(load_decay(a, {b, n, t, 0}))) : A(1);
#pragma unroll 4
    for (int d = group; d < depth; d += GROUPS) {
      if constexpr (HAS_DECAY && DECAY_ROWS) factor = exp_of(static_cast<A>(load_decay(a, {b, n, t, d})));
      A x = s[d * kColumns];
      if constexpr (HAS_DECAY) {
        x *= factor;
        s[d * kColumns] = x;
      }
      if constexpr (DELTA) found += x * static_cast<A>(load_k(a, {b, key[0], t, d}));
    }
    if constexpr (DELTA) {
      found = across(parts[buffer], found);
      buffer ^= 1;
    }
    const A value = inside ? static_cast<A>(load_v(a, {b, n, t, column})) : A(0);
    const A update = static_cast<A>(load_beta(a, {b, n, t})) * (value - found);
#pragma unroll 4
    for (int d = group; d < depth; d += GROUPS) s[d * kColumns] += static_cast<A>(load_k(a, {b, key[0], t, d})) * update;
    for (Idx m = n * a.per_state; m < (n + 1) * a.per_state; m++) {
      A sum = 0;
      const Idx from = m / a.per_query;
#pragma unroll 4
      for (int d = group; d < depth; d += GROUPS) sum += static_cast<A>(load_q(a, {b, from, t, d})) * s[d * kColumns];
      sum = across(parts[buffer], sum);
      buffer ^= 1;
      if (group == 0 && inside) a.y_data[at_y(a, {b, m, t, column})] = stored<Y>(op::cast<Y, A>(sum * static_cast<A>(a.scale)));
    }
    const Idx slot = t - (a.steps - a.window);
    if (slot >= 0 && inside)
      for (int d = group; d < depth; d += GROUPS) keep(a, {slot, b, n, d, column}, s[d * kColumns]);
  }
  if (a.steps == 0 && a.window > 0 && inside)
    for (int d = group; d < depth; d += GROUPS) keep(a, {a.window - 1, b, n, d, column}, s[d * kColumns]);
}
