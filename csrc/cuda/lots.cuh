// What grid_sample and roi_align share: a thread makes LOT channels of one place, so that where to read is worked out once for all of them.
// With PACKED they are neighbours in memory (channels-last, 16 bytes at once), otherwise they are as far apart as there are threads along
// the channels, so that neighbouring threads keep neighbouring places (channels-first).
#pragma once

// The channels of this thread that exist; c then points to the first of them.
__forceinline__ int lot_size(const Args& a, Idx (&c)[RANK]) {
  if (CHANNEL < 0) return 1;
  Idx& first = c[CHANNEL < 0 ? 0 : CHANNEL];
  if (PACKED) {
    first *= LOT;
    return LOT;
  }
  const Idx left = (a.channels - first + a.apart - 1) / a.apart;
  return left < LOT ? static_cast<int>(left) : LOT;
}

template <class T>
__forceinline__ void load_lot(const Args& a, Idx at, int n, Value<T> (&v)[LOT]) {
  if constexpr (PACKED) {
    const Pack<T, LOT> p = load_pack<T, LOT>(a.x_data + at);
#pragma unroll
    for (int i = 0; i < LOT; i++) v[i] = value_of(p.at[i]);
  } else {
#pragma unroll
    for (int i = 0; i < LOT; i++) v[i] = i < n ? value_of(a.x_data[at + i * a.x_apart]) : Value<T>(0);
  }
}

template <class T>
__forceinline__ void store_lot(const Args& a, Idx at, int n, const Value<T> (&v)[LOT]) {
  if constexpr (PACKED) {
    Pack<T, LOT> p;
#pragma unroll
    for (int i = 0; i < LOT; i++) p.at[i] = stored<T>(v[i]);
    store_pack(a.y_data + at, p);
  } else {
#pragma unroll
    for (int i = 0; i < LOT; i++)
      if (i < n) a.y_data[at + i * a.y_apart] = stored<T>(v[i]);
  }
}
