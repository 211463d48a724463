// nms, per batch element and class ("task"): nms_tiles and sort_merge.cuh sort the boxes by falling score, lower index first, leaving out
// those at or below the threshold and NaN. nms_select, a block per task, takes THREADS candidates at a time: each is compared with all
// boxes selected before, staged through shared memory; then the first that is left is selected, and the others are compared with it, until
// none is left. nms_join writes the tasks' selections one behind the other. Rejected: a matrix of all pairs' overlaps, as bits, which takes
// memory and work quadratic in the number of boxes, where mostly few are selected.
#pragma once
#include "block.cuh"
#include "sort.cuh"
#include "status.cuh"

struct alignas(16) Box {
  f32 y0, x0, y1, x1;
};

extern "C" __global__ void __launch_bounds__(THREADS) nms_tiles(const __grid_constant__ Args a) {
  sort_tiles<u64>(
      a,
      [&](Idx task, Idx i) {
        const Idx batch = a.classes[0].divide(task);
        const f32 s =
            a.scores_data[batch * a.scores_stride[0] + (task - batch * a.classes[0].n()) * a.scores_stride[1] + i * a.scores_stride[2]];
        if (s != s || (a.has_threshold && !(s > a.score_threshold))) return no_item<u64>();
        return item_of<u64>(~float_key<u32>(bits_of(s), 0x7f800000u), static_cast<u64>(i));
      },
      [&](Idx task, Idx chunk, int rank, u64 item) { a.to[(task * a.chunks[0].n() + chunk) * a.keep + rank] = item; });
}

__forceinline__ Box box_at(const Args& a, const f32* p) {
  const f32 v0 = p[0], v1 = p[a.boxes_stride[2]], v2 = p[2 * a.boxes_stride[2]], v3 = p[3 * a.boxes_stride[2]];
  if (a.center) {
    const f32 hx = v2 / 2, hy = v3 / 2;
    return {v1 - hy, v0 - hx, v1 + hy, v0 + hx};
  }
  return {v2 < v0 ? v2 : v0, v3 < v1 ? v3 : v1, v0 < v2 ? v2 : v0, v1 < v3 ? v3 : v1};
}
__forceinline__ f32 area_of(Box b) { return __fmul_rn(b.y1 - b.y0, b.x1 - b.x0); }

// Does the candidate overlap a selected box too much? Products are not contracted into sums, so that the result is everywhere the same.
__forceinline__ bool overlaps(Box b, f32 area, Box k, f32 limit) {
  const f32 h = (k.y1 < b.y1 ? k.y1 : b.y1) - (b.y0 < k.y0 ? k.y0 : b.y0), w = (k.x1 < b.x1 ? k.x1 : b.x1) - (b.x0 < k.x0 ? k.x0 : b.x0);
  const f32 both = __fmul_rn(h > 0 ? h : 0, w > 0 ? w : 0), other = area_of(k), total = __fsub_rn(__fadd_rn(area, other), both);
  return both > 0 && area > 0 && other > 0 && total > 0 && both / total > limit;
}

extern "C" __global__ void __launch_bounds__(THREADS) nms_select(const __grid_constant__ Args a) {
  constexpr int WARPS = THREADS / 32;
  __shared__ Box boxes[THREADS];
  __shared__ u32 left[2][WARPS];
  const int thread = threadIdx.x;
  const Idx task = static_cast<Idx>(blockIdx.x);
  const f32* const all = a.boxes_data + a.classes[0].divide(task) * a.boxes_stride[0];
  const u64* const items = a.from + task * a.padded;
  Idx* const picked = a.picked + task * a.most;
  Idx selected = 0;
  bool more = true;
  for (Idx first = 0; more && first < a.padded && selected < a.most; first += THREADS) {
    const u64 item = first + thread < a.padded ? items[first + thread] : no_item<u64>();
    bool alive = is_item(item);
    more = __syncthreads_and(alive) != 0;  // the rest of the items are none
    Box own = {};
    if (alive) own = box_at(a, all + at_of(item) * a.boxes_stride[1]);
    const f32 area = area_of(own);
    for (Idx k = 0; k < selected; k += THREADS) {
      __syncthreads();
      if (k + thread < selected) boxes[thread] = box_at(a, all + picked[k + thread] * a.boxes_stride[1]);
      __syncthreads();
      const int n = selected - k < THREADS ? static_cast<int>(selected - k) : THREADS;
      for (int j = 0; j < n && alive; j++) alive = !overlaps(own, area, boxes[j], a.iou_threshold);
    }
    __syncthreads();
    boxes[thread] = own;
    for (int turn = 0; selected < a.most; turn ^= 1) {  // one barrier per turn: a word is written again two turns later
      const u32 vote = __ballot_sync(kWholeWarp, alive);
      if (lane_of_warp() == 0) left[turn][warp_of_block()] = vote;
      __syncthreads();
      int next = -1;
      for (int k = WARPS - 1; k >= 0; k--)
        if (left[turn][k] != 0) next = 32 * k + __ffs(static_cast<int>(left[turn][k])) - 1;
      if (next < 0) break;
      if (thread == next) {
        picked[selected] = at_of(item);
        alive = false;
      }
      selected++;
      if (alive) alive = !overlaps(own, area, boxes[next], a.iou_threshold);
    }
    __syncthreads();
  }
  if (thread == 0) a.counts[task] = selected;
}

extern "C" __global__ void __launch_bounds__(THREADS) nms_join(const __grid_constant__ Args a) {
  __shared__ Idx shared[THREADS / 32];
  const Idx begin = static_cast<Idx>(blockIdx.x) * a.chunk, end = begin + a.chunk < a.tasks ? begin + a.chunk : a.tasks;
  Idx sum = 0;
  for (Idx t = threadIdx.x; t < begin; t += THREADS) sum += a.counts[t];
  Idx row = block_reduce<THREADS>(sum, shared, Add{});
  for (Idx task = begin; task < end; task++) {
    const Idx count = a.counts[task], batch = a.classes[0].divide(task);
    for (Idx k = threadIdx.x; k < count && row + k < a.room; k += THREADS) {
      i64* const out = a.selected_data + (row + k) * a.selected_stride[0];
      out[0] = batch;
      out[a.selected_stride[1]] = task - batch * a.classes[0].n();
      out[2 * a.selected_stride[1]] = a.picked[task * a.most + k];
    }
    row += count;
  }
  if (end != a.tasks || threadIdx.x != 0) return;
  a.n_data[0] = row;
  if (row > a.room) fail(a.status, Failure::wrong_count, 0, row);
}
