// Coordinates and division by sizes that are known at launch. `Idx` is int or long long: as wide as the largest index of the launch needs.
#pragma once
#include "types.cuh"

// A size. 32-bit: division by multiplication (kernels/cuda/build.py: divider), for 0 <= x < 2^31.
template <class I>
struct DividerOf {
  u32 size, multiplier, shift;
  __forceinline__ I divide(I x) const { return static_cast<I>((__umulhi(static_cast<u32>(x), multiplier) + static_cast<u32>(x)) >> shift); }
  __forceinline__ I n() const { return static_cast<I>(size); }
};
template <>
struct DividerOf<i64> {
  i64 size;
  __forceinline__ i64 divide(i64 x) const { return x / size; }
  __forceinline__ i64 n() const { return size; }
};
using Divider = DividerOf<Idx>;

// The coordinates of element `i` in row-major order over the axes FIRST .. FIRST + COUNT - 1.
template <int FIRST, int COUNT, int R>
__forceinline__ void unravel(Idx i, const Divider* sizes, Idx (&c)[R]) {
#pragma unroll
  for (int k = FIRST + COUNT - 1; k > FIRST; k--) {
    const Idx q = sizes[k].divide(i);
    c[k] = i - q * sizes[k].n();
    i = q;
  }
  if (COUNT > 0) c[FIRST] = i;
}

__forceinline__ Idx global_thread() { return static_cast<Idx>(blockIdx.x) * static_cast<Idx>(blockDim.x) + static_cast<Idx>(threadIdx.x); }
