// tree_ensemble: a block has `rows` rows and a group of targets (at most one pair of them per thread) and takes PAIRS / rows trees at a
// time: first all threads walk rows through trees, WALKS at once each so that their loads overlap, and leave the leaves in shared memory;
// then each thread adds up what its row and target get from them, in f64 and in the order of the trees, whatever the numbers of rows and
// blocks. plans/trees.py chooses few rows per block where there are few, so that one row has its trees walked in parallel. Nodes: if every
// test is `x <= threshold` after the planner's rewriting (FAST), 16 bytes, of which a leaf's never is true and leads to itself; otherwise
// 32 bytes with a mode. Leaf entries are sorted by target within a leaf (SINGLE: one entry per leaf and one target, so its weight is kept
// instead of the leaf's number).
// Rejected: a thread per row that walks all trees, which leaves most of the device idle for a few thousand rows; partial sums per part of
// the forest, because sums would depend on how it is cut.
#pragma once
#include "view.cuh"

constexpr int PAIRS = 1024, WALKS = PAIRS / THREADS;

template <class C>
struct alignas(16) FastNode {
  C threshold;
  i32 feature;  // with missing values: feature << 1 | (NaN goes to the true child)
  i32 left;     // the true child; the false one follows it
};
struct alignas(16) AnyNode {
  f64 threshold;
  i32 feature, flags;       // mode | missing_true << 3
  i32 yes, no, begin, end;  // begin .. end: the members of its set
};
enum Outcome { kLess = 1, kEqual = 2, kMore = 4, kNan = 8, kNanThreshold = 16, kLeaf = 32, kMember = 64 };
using Node = typename Select<FAST, FastNode<Compare>, AnyNode>::type;

// Where a row goes from node number `at`; to itself if it is a leaf.
__forceinline__ i32 child(const Args& a, const FastNode<Compare> node, i32, const X* row) {
  const X v = row[static_cast<Idx>(MISSING ? node.feature >> 1 : node.feature) * a.x_stride[1]];
  const bool yes = static_cast<Compare>(v) <= node.threshold || (MISSING && v != v && (node.feature & 1) != 0);
  return node.left + (yes ? 0 : 1);
}
__forceinline__ i32 child(const Args& a, const AnyNode node, i32 at, const X* row) {
  if (node.flags & kLeaf) return at;
  const Compare v = static_cast<Compare>(row[static_cast<Idx>(node.feature) * a.x_stride[1]]), t = static_cast<Compare>(node.threshold);
  bool yes;
  if (node.flags & kMember) {
    yes = v != v && (node.flags & kNan) != 0;
    for (i32 k = node.begin; k < node.end && !yes; k++) yes = v == a.members[k];
  } else yes = (node.flags & (v < t ? kLess : v == t ? kEqual : v > t ? kMore : v != v ? kNan : kNanThreshold)) != 0;
  return yes ? node.yes : node.no;
}

struct Total {
  f64 sum;
  bool have;  // any weight
  __forceinline__ void add(f64 w) {
    if constexpr (AGGREGATE == 2) sum = have && sum <= w ? sum : w;
    else if constexpr (AGGREGATE == 3) sum = have && sum >= w ? sum : w;
    else sum += w;
    have = true;
  }
};

// What a leaf gives to a target: its weight itself, or all entries of leaf number `leaf` for the target.
__forceinline__ void arrive(const Args&, f64 weight, Idx, Total& total) { total.add(weight); }
__forceinline__ void arrive(const Args& a, i32 leaf, Idx target, Total& total) {
  i32 k = a.ranges[2 * leaf];
  const i32 end = a.ranges[2 * leaf + 1];
  for (i32 high = end; k < high;) {  // the first entry for the target
    const i32 middle = (k + high) / 2;
    if (a.entry_targets[middle] < target) k = middle + 1;
    else high = middle;
  }
  for (; k < end && a.entry_targets[k] == target; k++) total.add(a.weights[k]);
}

// Four blocks per multiprocessor are enough; compilers left to choose save registers for more, by spilling.
extern "C" __global__ void __launch_bounds__(THREADS, 4) trees_walk(const __grid_constant__ Args a) {
  using Left = typename Select<SINGLE, f64, i32>::type;
  __shared__ Left left[PAIRS];  // [tree][row]: the leaf, or its weight
  const int rows = 1 << a.log_rows, trees_at_once = PAIRS >> a.log_rows, thread = threadIdx.x;
  const Idx part = a.groups[0].divide(static_cast<Idx>(blockIdx.x)), group = static_cast<Idx>(blockIdx.x) - part * a.groups[0].n();
  const Idx first_row = part << a.log_rows;
  const Idx row = first_row + (thread & (rows - 1)), target = group * (THREADS >> a.log_rows) + (thread >> a.log_rows);
  const Node* const nodes = reinterpret_cast<const Node*>(a.nodes);
  const bool owns = row < a.n && target < a.targets;
  Total total = {0.0, false};
  for (int first = 0; first < a.trees; first += trees_at_once) {
    i32 at[WALKS];
    const X* x[WALKS];
#pragma unroll
    for (int k = 0; k < WALKS; k++) {  // beyond the last row or tree, it is walked again
      const int p = k * THREADS + thread, tree = first + (p >> a.log_rows);
      const Idx r = first_row + (p & (rows - 1));
      at[k] = a.roots[tree < a.trees ? tree : a.trees - 1];
      x[k] = a.x_data + (r < a.n ? r : a.n - 1) * a.x_stride[0];
    }
    for (bool walking = true; walking;) {
      walking = false;
#pragma unroll
      for (int k = 0; k < WALKS; k++) {
        const i32 next = child(a, nodes[at[k]], at[k], x[k]);
        walking = walking || next != at[k];
        at[k] = next;
      }
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < WALKS; k++) {
      if constexpr (SINGLE) left[k * THREADS + thread] = a.weights[at[k]];
      else left[k * THREADS + thread] = at[k];
    }
    __syncthreads();
    const int count = !owns ? 0 : a.trees - first < trees_at_once ? a.trees - first : trees_at_once;
    for (int t = 0; t < count; t++) arrive(a, left[(t << a.log_rows) + (thread & (rows - 1))], target, total);
  }
  if (owns) a.y_data[row * a.y_stride[0] + target * a.y_stride[1]] = static_cast<Y>(AGGREGATE == 1 ? total.sum / a.divisor : total.sum);
}
