// Resize: every result is the weighted sum of the elements that the tables of its coordinates name. The planner makes one table of
// positions and weights per resampled axis, as csrc/cpu/resample_table.cpp does, tap-major, so that neighbouring threads read neighbouring
// entries. One thread per result, or per 16 bytes of neighbours along an axis that is not resampled (channels-last); threads follow the
// memory of y. Up to FEW taps of an axis are loaded into registers first and their loops unrolled. Many taps (small scales with antialias)
// go axis by axis instead, through f32 or f64 scratch, one launch each: the cost is then the sum, not the product, of the taps. Rejected
// for few taps: a launch per axis, which writes and reads the intermediate result, where the elements one result shares with the next are
// in the first-level cache.
#pragma once

constexpr int FEW = 4, AXES = RESAMPLED > 0 ? RESAMPLED : 1;

__forceinline__ Idx table_entry(const Args& a, const Idx (&c)[RANK], int s, Idx tap) {
  return tap * a.length[s] + (SLOT[s] < 0 ? Idx(0) : c[SLOT[s] < 0 ? 0 : SLOT[s]]);
}

// T: what the sum is kept in.
template <class T>
struct Sampler {
  Idx at[AXES][FEW];
  T weight[AXES][FEW], sum[WIDTH];

  __forceinline__ void prepare(const Args& a, const Idx (&c)[RANK]) {
#pragma unroll
    for (int i = 0; i < WIDTH; i++) sum[i] = T(0);
#pragma unroll
    for (int s = 0; s < RESAMPLED; s++)
#pragma unroll
      for (int k = 0; k < TAPS[s]; k++) {
        const Idx entry = table_entry(a, c, s, k);
        at[s][k] = table_position(a, s, entry) * a.step[s];
        weight[s][k] = table_weight(a, s, entry);
      }
  }
  template <int S>
  __forceinline__ void visit(const Args& a, const Idx (&c)[RANK], Idx from, T w) {
    if constexpr (S == RESAMPLED) {
      if constexpr (WIDTH == 1) sum[0] += w * static_cast<T>(value_of(a.x_data[from]));
      else {
        const Pack<X, WIDTH> p = load_pack<X, WIDTH>(a.x_data + from);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) sum[i] += w * static_cast<T>(value_of(p.at[i]));
      }
    } else if constexpr (TAPS[S] > 0) {
#pragma unroll
      for (int k = 0; k < TAPS[S]; k++) visit<S + 1>(a, c, from + at[S][k], S == 0 ? weight[S][k] : w * weight[S][k]);
    } else {
      const Idx n = a.taps[S];
      for (Idx k = 0; k < n; k++) {
        const Idx entry = table_entry(a, c, S, k);
        const T v = table_weight(a, S, entry);
        visit<S + 1>(a, c, from + table_position(a, S, entry) * a.step[S], S == 0 ? v : w * v);
      }
    }
  }
};

// The sum as a value of the kernel's result type: integers saturate and truncate.
template <class A, class T>
__forceinline__ Value<A> finished(T x) {
  if constexpr (is_int<A> && Traits<A>::bits <= 32) {
    const T low = static_cast<T>(lowest<A>()), high = static_cast<T>(highest<A>());
    x = x < low ? low : x > high ? high : x;
  }
  return op::cast<A, T>(x);
}

template <class S, class T>
__forceinline__ void gather(const Args& a, const Idx (&c)[RANK], Value<Acc> (&v)[WIDTH]) {
  if constexpr (NEAREST) {
    Idx from = at_x(a, c);
#pragma unroll
    for (int s = 0; s < RESAMPLED; s++) from += table_position(a, s, table_entry(a, c, s, 0)) * a.step[s];
    if constexpr (WIDTH == 1) v[0] = op::cast<Acc, S>(value_of(a.x_data[from]));
    else {
      const Pack<S, WIDTH> p = load_pack<S, WIDTH>(a.x_data + from);
#pragma unroll
      for (int i = 0; i < WIDTH; i++) v[i] = op::cast<Acc, S>(value_of(p.at[i]));
    }
  } else {
    Sampler<T> sampler;
    sampler.prepare(a, c);
    sampler.template visit<0>(a, c, at_x(a, c), T(1));
#pragma unroll
    for (int i = 0; i < WIDTH; i++) v[i] = finished<Acc>(sampler.sum[i]);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(const __grid_constant__ Args a) {
  const Idx id = global_thread();
  if (id >= a.total) return;
  Idx c[RANK] = {};
  unravel<0, RANK>(id, a.size, c);
  c[RANK - 1] *= WIDTH;
  Value<Acc> v[WIDTH];
  if (!extrapolated(a, c, v)) gather<X, Sum>(a, c, v);
  store_lot(a, c, v);
}
