// From the state of a row to the outputs. Templates, because not every launch has all the fields that are named here.
#pragma once
#include "states.cuh"

template <class A>
__forceinline__ void* partial_of(const A& a) {
  return a.partial;
}

template <class A, class S, int R>
__forceinline__ void write_result(const A& a, const Idx (&c)[R], const S& state) {
  if constexpr (OP == kRange) {  // DynamicQuantizeLinear, by the formula of csrc/cpu/quantize_stats.cpp
    const f32 scale = (state.high - state.low) / 255.0f;
    const f32 zero = scale == 0 ? 0.0f : rintf(-state.low / scale);
    *a.scale = scale;
    *a.zero = static_cast<u8>(zero > 0 ? (zero < 255.0f ? zero : 255.0f) : 0.0f);
  } else store_y(a, c, state.template result<Acc>(a.finish, a.count));
}
