// RoiAlign: a thread makes one bin of LOT channels (lots.cuh): the bilinear taps of its samples are found once for all of them. Where a
// sample lies is computed in f64, because which element it falls on, and how many samples a bin has, changes at integers; weights and sums
// are in the type of the data (f32 for the narrow ones).
#pragma once
#include "lots.cuh"
#include "status.cuh"

constexpr f64 MAX_SAMPLES = 1 << 20;  // per bin and axis: more can only come from nonsense

struct Span {
  f64 start, step;  // of the first sample, and between samples
  int samples;      // negative: too many
};

__forceinline__ Span span_of(const Args& a, f64 from, f64 to, f64 bins, f64 bin) {
  const f64 offset = HALF ? 0.5 : 0.0, start = from * a.scale - offset;
  f64 length = to * a.scale - offset - start;
  if (!HALF && !(length > 1.0)) length = length == length ? 1.0 : length;
  const f64 size = length / bins, samples = a.ratio > 0 ? static_cast<f64>(a.ratio) : ::ceil(size);
  if (!(samples <= MAX_SAMPLES)) return {0, 0, -1};
  const int n = samples > 0 ? static_cast<int>(samples) : 0;
  const f64 step = size / samples;
  return {start + bin * size + 0.5 * step, step, n};
}

template <class T>
struct Neighbours {
  Idx at[2];
  T weight[2];
  bool inside;
  __forceinline__ Neighbours(const Span& s, int k, Idx size, Idx stride) {
    f64 p = s.start + k * s.step;
    inside = p >= -1.0 && p <= static_cast<f64>(size);
    p = inside && p > 0 ? p : 0;
    Idx low = static_cast<Idx>(p), high = low + 1;
    T part = static_cast<T>(p - static_cast<f64>(low));
    if (low >= size - 1) {
      low = high = size - 1;
      part = 0;
    }
    at[0] = low * stride;
    at[1] = high * stride;
    weight[0] = T(1) - part;
    weight[1] = part;
  }
};

extern "C" __global__ void __launch_bounds__(THREADS) roi_align(const __grid_constant__ Args a) {
  const Idx id = global_thread();
  if (id >= a.total) return;
  Idx c[RANK] = {};
  unravel<0, RANK>(id, a.size, c);
  const i64 batch = load_batches(a, c);
  if (batch < 0 || batch >= a.batches) return fail(a.status, Failure::bad_batch_index, 0, batch);
  const Idx roi = at_rois(a, c);
  f64 box[4];
#pragma unroll
  for (int k = 0; k < 4; k++) box[k] = static_cast<f64>(value_of(a.rois_data[roi + k * a.rois_step]));
  const Span rows = span_of(a, box[1], box[3], a.bins[0], ROW < 0 ? 0 : c[ROW < 0 ? 0 : ROW]);
  const Span columns = span_of(a, box[0], box[2], a.bins[1], COLUMN < 0 ? 0 : c[COLUMN < 0 ? 0 : COLUMN]);
  if (rows.samples < 0 || columns.samples < 0) return fail(a.status, Failure::region_too_large, 0, 0);
  const int n = lot_size(a, c);
  const Idx base = at_x(a, c) + static_cast<Idx>(batch) * a.batch_step;
  Sum sum[LOT];
#pragma unroll
  for (int i = 0; i < LOT; i++) sum[i] = 0;
  bool first = true;
  for (int k = 0; k < rows.samples; k++) {
    const Neighbours<Sum> y(rows, k, a.extent[0], a.step[0]);
    for (int j = 0; j < columns.samples; j++) {
      const Neighbours<Sum> x(columns, j, a.extent[1], a.step[1]);
      if (y.inside && x.inside) {
#pragma unroll
        for (int t = 0; t < 4; t++) {
          Value<X> v[LOT];
          load_lot<X>(a, base + y.at[t / 2] + x.at[t % 2], n, v);
          const Sum w = y.weight[t / 2] * x.weight[t % 2];
#pragma unroll
          for (int i = 0; i < LOT; i++) {
            const Sum term = w * v[i];
            if (!MAX) sum[i] += term;
            else if ((first && t == 0) || term > sum[i] || term != term) sum[i] = term;
          }
        }
      } else if (MAX) {
#pragma unroll
        for (int i = 0; i < LOT; i++)
          if (first || sum[i] < 0) sum[i] = 0;
      }
      first = false;
    }
  }
  const i64 count = static_cast<i64>(rows.samples) * columns.samples;
  Value<X> v[LOT];
#pragma unroll
  for (int i = 0; i < LOT; i++) v[i] = MAX || count == 0 ? sum[i] : sum[i] / static_cast<Sum>(count);
  store_lot<X>(a, at_y(a, c), n, v);
}
