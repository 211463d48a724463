// scatter through sorted updates (see scatter.cuh): scatter_keys sorts tiles of (place, number) of all updates, sort_merge.cuh joins them,
// and in scatter_runs a thread per update and position within the block of a tuple applies the run of equal places that begins there. For
// scatter_keys and scatter_runs, all axes that tell updates apart come last; in scatter_runs those of a tuple's block are the free ones.
#pragma once
#include "scatter_apply.cuh"
#include "sort.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) scatter_keys(const __grid_constant__ Args a) {
  sort_tiles<Item>(
      a,
      [&](Idx, Idx i) {
        const Spot s = moved(a, {}, a.free_axes, a.axes, i);
        Idx at = s.y + a.bias;
        if (add_offset<-1>(a, a.index_data + s.index, at)) return item_of<Item>(static_cast<u64>(at), static_cast<u64>(i));
        fail_tuple(a, a.index_data + s.index, number_of(a, 0, i));
        return no_item<Item>();
      },
      [&](Idx, Idx chunk, int rank, Item item) { a.to[(chunk << a.log_width) + rank] = item; });
}

extern "C" __global__ void __launch_bounds__(THREADS) scatter_runs(const __grid_constant__ Args a) {
  const Idx i = global_thread(), first = a.free_size[0].divide(i);
  if (first >= a.updates) return;
  const Item item = a.from[first];
  if (!is_item(item)) return;
  const u64 place = key_of(item);
  if constexpr (REDUCTION == 0) {  // the last of a run wins
    if (first + 1 < a.updates && is_item(a.from[first + 1]) && key_of(a.from[first + 1]) == place) return;
  } else if (first > 0 && key_of(a.from[first - 1]) == place) return;
  const Spot block = moved(a, {}, 0, a.free_axes, i - first * a.free);
  Y* const y = a.y_data + block.y + (static_cast<Idx>(place) - a.bias);
  Value<Y> v = combined(y, value_of(a.update_data[moved(a, block, a.free_axes, a.axes, at_of(item)).update]));
  if constexpr (REDUCTION != 0)
    for (Idx k = first + 1; k < a.updates; k++) {
      const Item next = a.from[k];
      if (!is_item(next) || key_of(next) != place) break;
      v = combine(v, value_of(a.update_data[moved(a, block, a.free_axes, a.axes, at_of(next)).update]));
    }
  *y = stored<Y>(v);
}
