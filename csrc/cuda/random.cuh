// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11). Which words an element takes, and how, is written down once for all
// backends in kernels/ref/signal.py. A thread makes the elements of one block of four words: 4, or 2 of f64. No products are fused with
// sums: the bits of uniform numbers are part of the contract.
#pragma once

constexpr int PER = same<Y, f64> ? 2 : 4;

struct Words {
  u32 w[4];
};

__forceinline__ Words philox(u64 number, u64 stream, u64 seed) {
  u32 c0 = static_cast<u32>(number), c1 = static_cast<u32>(number >> 32), c2 = static_cast<u32>(stream),
      c3 = static_cast<u32>(stream >> 32);
  u32 k0 = static_cast<u32>(seed), k1 = static_cast<u32>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const u64 p0 = static_cast<u64>(0xD2511F53u) * c0, p1 = static_cast<u64>(0xCD9E8D57u) * c2;
    c0 = static_cast<u32>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<u32>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<u32>(p1);
    c3 = static_cast<u32>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

__forceinline__ f64 fraction(u32 high, u32 low) { return static_cast<f64>(((static_cast<u64>(high) << 32) | low) >> 11) * 0x1p-53; }

__forceinline__ void box_muller(const Args& a, f64 u1, f64 u2, f64& even, f64& odd) {
  f64 sine, cosine;
  ::sincospi(2 * u2, &sine, &cosine);
  const f64 r = ::sqrt(-2 * ::log(u1));
  even = __dadd_rn(a.a, __dmul_rn(a.b, r * cosine));
  odd = __dadd_rn(a.a, __dmul_rn(a.b, r * sine));
}

extern "C" __global__ void __launch_bounds__(THREADS) random_numbers(const __grid_constant__ Args a) {
  const Idx block = global_thread(), first = block * PER;
  if (first >= a.total) return;
  const Words p = philox(static_cast<u64>(block), a.stream, *a.seed);
  f64 v[PER];
  if (NORMAL) {
    if constexpr (PER == 2) box_muller(a, fraction(p.w[0], p.w[1]) + 0x1p-53, fraction(p.w[2], p.w[3]), v[0], v[1]);
    else {
#pragma unroll
      for (int i = 0; i < PER; i += 2)
        box_muller(a, static_cast<f64>(p.w[i]) * 0x1p-32 + 0x1p-32, static_cast<f64>(p.w[i + 1]) * 0x1p-32, v[i], v[i + 1]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < PER; i++) {
      const f64 u = PER == 2 ? fraction(p.w[2 * i % 4], p.w[(2 * i + 1) % 4]) : static_cast<f64>(p.w[i] >> 8) * 0x1p-24;
      v[i] = __dadd_rn(a.a, __dmul_rn(a.width, u));
      if (a.a < a.b && static_cast<f64>(op::cast<Y, f64>(v[i])) >= a.b) v[i] = a.below;
    }
  }
  if (DENSE && first + PER <= a.total) {
    Pack<Y, PER> out;
#pragma unroll
    for (int i = 0; i < PER; i++) out.at[i] = stored<Y>(op::cast<Y, f64>(v[i]));
    store_pack(a.y_data + first, out);
    return;
  }
#pragma unroll
  for (int i = 0; i < PER; i++) {
    if (first + i >= a.total) break;
    Idx c[RANK] = {};
    unravel<0, RANK>(first + i, a.size, c);
    a.y_data[at_y(a, c)] = stored<Y>(op::cast<Y, f64>(v[i]));
  }
}
