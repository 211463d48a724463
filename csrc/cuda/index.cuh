// Indices that come from data. The planner (plans/indexing.py) names an axis of the operand per component of an index tuple, with the
// fields part_size[], part_step[] (the operand's stride along the axis) and part_axis[]; neighbours of a tuple are part_stride apart. PARTS
// is how many components there are, or -1 where a.parts says so at launch.
#pragma once
#include "status.cuh"
#include "view.cuh"

// Where coordinates lead over axes with these strides.
template <int R>
__forceinline__ Idx offset_of(const Idx (&c)[R], const Idx (&strides)[R]) {
  Idx at = 0;
#pragma unroll
  for (int k = 0; k < R; k++) at += c[k] * strides[k];
  return at;
}

// The position that a raw index names on an axis of n elements, negative ones counting from the end; -1 if there is none.
template <class I>
__forceinline__ Idx position_of(I raw, Idx n) {
  using W = typename Select<(sizeof(I) > sizeof(Idx)), I, Idx>::type;
  const W v = raw < 0 ? static_cast<W>(raw) + static_cast<W>(n) : static_cast<W>(raw);
  return v >= 0 && v < static_cast<W>(n) ? static_cast<Idx>(v) : Idx(-1);
}

// Adds to `at` what a tuple of indices adds to an offset in the operand. False if one of them is out of range.
template <int PARTS, class A, class I>
__forceinline__ bool add_offset(const A& a, const I* tuple, Idx& at) {
  const int parts = PARTS >= 0 ? PARTS : a.parts;
  bool ok = true;
#pragma unroll(PARTS > 0 ? PARTS : 1)
  for (int k = 0; k < parts; k++) {
    const Idx v = position_of(tuple[k * a.part_stride], a.part_size[k]);
    ok = ok && v >= 0;
    at += v * a.part_step[k];
  }
  return ok;
}

// Reports the first component out of range of the tuple with this number in the row-major order of the indices.
template <class A, class I>
__forceinline__ void fail_tuple(const A& a, const I* tuple, i64 number) {
#pragma unroll 1
  for (int k = 0; k < a.parts; k++) {
    const I raw = tuple[k * a.part_stride];
    if (position_of(raw, a.part_size[k]) < 0) return fail_index(a.status, a.part_axis[k], raw, number * a.parts + k);
  }
}
