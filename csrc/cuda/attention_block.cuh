// What a block of attention_tiles and attention_mma works on, how its scores become exponents and where its results go.
#pragma once
#include "attention_rule.cuh"

// The queries of all heads that share keys are rows of one matrix; a block has BM of them, EC columns of the result and a stretch of keys.
template <int BM>
struct Rows {
  Idx q_at[BM], mask_at[BM];
  int limits[BM];  // how many keys a row sees
};
struct Place {
  Idx at[5];  // batch, group, split, columns, rows
  Idx first, head0;
  int rows, begin, end;
  int common;  // keys that all rows see
};

template <int BM>
__forceinline__ Place place_block(const Args& a, Rows<BM>& shared) {
  Place p = {};
  const int tid = static_cast<int>(threadIdx.x);
  const Divider& queries = a.queries[0];
  unravel<0, 5>(static_cast<Idx>(blockIdx.x), a.blocks, p.at);
  p.first = (a.blocks[4].n() - 1 - p.at[4]) * BM;  // the tiles that see most keys first
  p.rows = static_cast<int>(a.rows - p.first < BM ? a.rows - p.first : BM);
  p.head0 = p.at[1] * a.share;
  i64 keys = a.keys;
  if constexpr (LENGTHS) {
    const i64 n = a.lengths[p.at[0] * a.lengths_stride];
    keys = n < 0 ? 0 : n < keys ? n : keys;
  }
  if (tid < BM) {
    const Idx r = p.first + (tid < p.rows ? tid : p.rows - 1), h = queries.divide(r), s = r - h * queries.n();
    shared.q_at[tid] = p.at[0] * a.q_stride[0] + (p.head0 + h) * a.q_stride[1] + s * a.q_stride[2];
    if constexpr (MASK) shared.mask_at[tid] = p.at[0] * a.mask_stride[0] + (p.head0 + h) * a.mask_stride[1] + s * a.mask_stride[2];
    const i64 seen = s + a.visible < keys ? s + a.visible : keys;
    shared.limits[tid] = tid < p.rows && seen > 0 ? static_cast<int>(seen) : 0;
  }
  const Idx last = p.first + p.rows - 1, last_head = queries.divide(last), first_head = queries.divide(p.first);
  const Idx latest = last_head == first_head ? last - last_head * queries.n() : queries.n() - 1;
  const Idx earliest = last_head == first_head ? p.first - first_head * queries.n() : 0;
  i64 stop = latest + a.visible < keys ? latest + a.visible : keys;
  const i64 begin = static_cast<i64>(p.at[2]) * a.split_keys;
  if (SPLIT && stop > begin + a.split_keys) stop = begin + a.split_keys;
  p.begin = static_cast<int>(begin);
  p.end = static_cast<int>(stop);
  p.common = static_cast<int>(earliest + a.visible < stop ? earliest + a.visible : stop);
  __syncthreads();
  return p;
}

// What the mask has for key t of a row at mask_at.
__forceinline__ Value<M> mask_of(const Args& a, Idx mask_at, int t) { return value_of(a.mask_data[mask_at + t * a.mask_stride[3]]); }

// The masks of keys that this thread owns, where all rows of a block have the same.
template <int N, class Key>
__forceinline__ void load_masks(const Args& a, Idx mask_at, int limit, Value<M> (&masks)[N], Key key) {
  if constexpr (MASK && MASK_PER_KEY) {
#pragma unroll
    for (int j = 0; j < N; j++)
      if (key(j) < limit) masks[j] = mask_of(a, mask_at, key(j));
  }
}

// The exponent of key t for a row that sees `limit` keys.
__forceinline__ A exponent(const Args& a, A product, Value<M> mask, Idx mask_at, int t, int limit) {
  A v = product * a.rate;
  if constexpr (CAPPED) v = a.softcap * tangent(v / a.softcap);
  if (t >= limit) return -infinity(A(0));
  if constexpr (MASK) {
    if constexpr (!MASK_PER_KEY) mask = mask_of(a, mask_at, t);
    if constexpr (same<M, bool>) v = mask ? v : -infinity(A(0));
    else v += static_cast<A>(mask);
  }
  return v;
}

// Row r of the block has this maximum and sum, and these results of columns column(i), groups of GROUP neighbours, of which there are
// `columns`.
template <int GROUP, int N, class Column>
__forceinline__ void finish_row(const Args& a, const Place& p, int r, Idx e0, int columns, bool leads, A top, A sum, const A (&out)[N],
                                Column column) {
  if (r >= p.rows) return;
  using T = Select<SPLIT, A, Y>::type;
  constexpr int most = 16 / static_cast<int>(sizeof(T)), W = !PACKED ? 1 : GROUP < most ? GROUP : most;
  const Idx h = a.queries[0].divide(p.first + r);
  Idx c[4] = {p.at[0], p.head0 + h, p.first + r - h * a.queries[0].n(), 0};
  const Idx part = p.at[2] * a.all_rows + (p.at[0] * a.blocks[1].n() + p.at[1]) * a.rows + p.first + r;
  if (SPLIT && p.at[3] == 0 && leads) {
    a.tops[part] = top;
    a.sums[part] = sum;
  }
  const A factor = SPLIT ? A(1) : sum == A(0) ? static_cast<A>(a.masked) : A(1) / sum;
#pragma unroll
  for (int i = 0; i < N; i += W) {
    if (column(i) >= columns) continue;
    c[3] = e0 + column(i);
    if constexpr (!SPLIT && W == 1) store_y(a, c, static_cast<Value<Acc>>(out[i] * factor));
    else {
      Pack<T, W> pack;
#pragma unroll
      for (int j = 0; j < W; j++) {
        if constexpr (SPLIT) pack.at[j] = out[i + j];
        else pack.at[j] = stored<Y>(static_cast<Value<Y>>(out[i + j] * factor));
      }
      if constexpr (SPLIT) store_pack(a.parts + part * a.width + c[3], pack);
      else store_pack(a.y_data + at_y(a, c), pack);
    }
  }
}
