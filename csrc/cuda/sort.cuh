// A merge sort of many sequences at once, for topk, unique, nms and scatter. Items are pairs of an order-preserving unsigned key and a
// position, all different, so a sort that is not stable by itself gives the stable order, and there is one possible result. Keys of up to
// 32 bits and 32-bit positions are packed into one word.
//   sort_tiles  a block sorts one tile of SORT_ITEMS items per thread in shared memory: a whole number of short sequences, or a stretch of
//   a long one merge_runs  (sort_merge.cuh) joins sorted runs of a long sequence two by two
// Rejected: radix sort, which needs fewer passes over memory, but one more launch or a chain of waiting blocks per digit and eight passes
// for 64-bit keys, and which gains nothing for the many short sequences of topk; bitonic sort, with its log^2 steps.
#pragma once
#include "view.cuh"

constexpr int SORT_ITEMS = 8, SORT_TILE = 256 * SORT_ITEMS;

struct alignas(16) Pair {
  u64 key, at;
};
__forceinline__ bool before(u64 a, u64 b) { return a < b; }
__forceinline__ bool before(Pair a, Pair b) { return a.key != b.key ? a.key < b.key : a.at < b.at; }
__forceinline__ u64 key_of(u64 a) { return a >> 32; }
__forceinline__ u64 key_of(Pair a) { return a.key; }
__forceinline__ Idx at_of(u64 a) { return static_cast<Idx>(a & 0xffffffffu); }
__forceinline__ Idx at_of(Pair a) { return static_cast<Idx>(a.at); }
template <class Item>
__forceinline__ Item item_of(u64 key, u64 at) {
  if constexpr (sizeof(Item) == 8) return key << 32 | at;
  else return {key, at};
}
// What fills up tiles: behind every item.
template <class Item>
__forceinline__ Item no_item() {
  if constexpr (sizeof(Item) == 8) return ~0ull;
  else return {~0ull, ~0ull};
}
__forceinline__ bool is_item(u64 a) { return a != ~0ull; }
__forceinline__ bool is_item(Pair a) { return a.at != ~0ull; }

// Keys of values, as numbers of their own size: -0 equals 0 and all NaNs are one, the largest.
template <class U>
__forceinline__ U unsigned_key(U u) {
  return u;
}
template <class U>
__forceinline__ U signed_key(U u) {
  return static_cast<U>(u ^ static_cast<U>(U(1) << (8 * sizeof(U) - 1)));
}
template <class U>
__forceinline__ U float_key(U u, U infinity) {
  constexpr U top = static_cast<U>(U(1) << (8 * sizeof(U) - 1));
  const U magnitude = static_cast<U>(u & static_cast<U>(~top));
  if (magnitude > infinity) return static_cast<U>(~U(0));
  return (u & top) != 0 && magnitude != 0 ? static_cast<U>(~u) : static_cast<U>(u | top);
}

// Where item p of a tile lies in shared memory: one gap per SORT_ITEMS items, so that neither walk has bank conflicts.
__forceinline__ constexpr int slot(int p) { return p + p / SORT_ITEMS; }

// How many of the first `diagonal` items of two sorted sequences joined come from the first one.
template <class I, class A, class B>
__forceinline__ I merge_split(I na, I nb, I diagonal, A a, B b) {
  I low = diagonal > nb ? diagonal - nb : 0, high = diagonal < na ? diagonal : na;
  while (low < high) {
    const I middle = (low + high) / 2;
    if (before(b(diagonal - 1 - middle), a(middle))) high = middle;
    else low = middle + 1;
  }
  return low;
}

// SORT_ITEMS items from position `diagonal` on of two sequences in shared memory joined: items [a, a_end) and [b, b_end) of the tile.
template <class Item>
__forceinline__ void merge_items(const Item* s, int a, int a_end, int b, int b_end, int diagonal, Item (&r)[SORT_ITEMS]) {
  const int split =
      merge_split<int>(a_end - a, b_end - b, diagonal, [=](int i) { return s[slot(a + i)]; }, [=](int i) { return s[slot(b + i)]; });
  a += split;
  b += diagonal - split;
  Item x = no_item<Item>(), y = x;
  if (a < a_end) x = s[slot(a)];
  if (b < b_end) y = s[slot(b)];
#pragma unroll
  for (int k = 0; k < SORT_ITEMS; k++) {
    const bool second = before(y, x);
    r[k] = second ? y : x;
    a += !second;
    b += second;
    Item next = no_item<Item>();
    if (second ? b < b_end : a < a_end) next = s[slot(second ? b : a)];
    if (second) y = next;
    else x = next;
  }
}

// Sorts each aligned stretch of `width` items (a power of two, at least SORT_ITEMS) of a tile; thread t holds items t * SORT_ITEMS and
// following.
template <class Item>
__forceinline__ void sort_registers(Item* s, Item (&r)[SORT_ITEMS], int width) {
#pragma unroll
  for (int pass = 0; pass < SORT_ITEMS; pass++)
#pragma unroll
    for (int k = pass % 2; k + 1 < SORT_ITEMS; k += 2)
      if (before(r[k + 1], r[k])) {
        const Item t = r[k];
        r[k] = r[k + 1];
        r[k + 1] = t;
      }
  const int own = threadIdx.x * SORT_ITEMS;
  for (int run = SORT_ITEMS; run < width; run *= 2) {
    __syncthreads();
#pragma unroll
    for (int k = 0; k < SORT_ITEMS; k++) s[slot(own + k)] = r[k];
    __syncthreads();
    const int first = own & ~(2 * run - 1);
    merge_items(s, first, first + run, first + run, first + 2 * run, own - first, r);
  }
}

// Sorts the block's tile. The launch's tiles are `sequences` of `length` items each, cut into `chunks` of 2^log_width items, of which the
// first `keep` stay: fields of Args, made by plans/sorting.py. `load(sequence, i)` gives an item; `store(sequence, chunk, rank, item)`
// takes those that stay, no_item among them.
template <class Item, class A, class Load, class Store>
__forceinline__ void sort_tiles(const A& a, Load load, Store store) {
  __shared__ Item s[slot(SORT_TILE)];
  const int width = 1 << a.log_width, threads = blockDim.x;
  const Divider chunks = a.chunks[0];
  const Idx first = static_cast<Idx>(blockIdx.x) * ((threads * SORT_ITEMS) >> a.log_width);
#pragma unroll
  for (int k = 0; k < SORT_ITEMS; k++) {
    const int p = k * threads + threadIdx.x;
    const Idx number = first + (p >> a.log_width), sequence = chunks.divide(number), chunk = number - sequence * chunks.n();
    const Idx i = (chunk << a.log_width) + (p & (width - 1));
    s[slot(p)] = sequence < a.sequences && i < a.length ? load(sequence, i) : no_item<Item>();
  }
  __syncthreads();
  Item r[SORT_ITEMS];
  const int own = threadIdx.x * SORT_ITEMS;
#pragma unroll
  for (int k = 0; k < SORT_ITEMS; k++) r[k] = s[slot(own + k)];
  sort_registers(s, r, width);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < SORT_ITEMS; k++) s[slot(own + k)] = r[k];
  __syncthreads();
  for (int p = threadIdx.x; p < threads * SORT_ITEMS; p += threads) {
    const Idx number = first + (p >> a.log_width), sequence = chunks.divide(number);
    const int rank = p & (width - 1);
    if (rank < a.keep && sequence < a.sequences) store(sequence, number - sequence * chunks.n(), rank, s[slot(p)]);
  }
}
