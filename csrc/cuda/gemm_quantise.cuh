// Rows of f32 as uint8 for gemm with precision int8 (spec.py): width = max(row, 0) - min(row, 0), q = clamp(round(x * (255 / width)) +
// zero, 0, 255). One block per row, in two passes (the second one finds the row in L2); 4 values per thread and step. Rows are padded with
// 0 to `pitch` bytes, so that gemm_mma.cuh can copy them 16 bytes at a time.
#pragma once

extern "C" __global__ void __launch_bounds__(THREADS) gemm_quantise(const __grid_constant__ Args a) {
  constexpr int WARPS = THREADS / 32;
  __shared__ f32 lows[WARPS], highs[WARPS];
  __shared__ u32 most[WARPS];
  const Idx line = static_cast<Idx>(blockIdx.x);
  Idx c[RANK] = {};
  unravel<0, RANK - 1>(line, a.size, c);
  Idx offset = 0;
#pragma unroll
  for (int i = 0; i < RANK - 1; i++) offset += c[i] * a.a_stride[i];
  const f32* const from = a.a_data + offset;
  const auto load = [&](Idx k) {
    Pack<f32, 4> x{};
    if constexpr (VA == 4) {
      if (k < a.k) x = load_pack<f32, 4>(from + k);
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (k + i < a.k) x.at[i] = from[(k + i) * a.a_k];
    }
    return x;
  };

  f32 low = 0, high = 0;
  u32 bits = 0;  // of the largest magnitude
  for (Idx k = threadIdx.x * 4; k < a.k; k += THREADS * 4) {
    const Pack<f32, 4> x = load(k);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      low = fminf(low, x.at[i]);
      high = fmaxf(high, x.at[i]);
      const u32 magnitude = bits_of(x.at[i]) & 0x7fffffffu;
      bits = magnitude > bits ? magnitude : bits;
    }
  }
#pragma unroll
  for (int k = 16; k > 0; k /= 2) {
    low = fminf(low, __shfl_xor_sync(0xffffffffu, low, k));
    high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, k));
    const u32 other = __shfl_xor_sync(0xffffffffu, bits, k);
    bits = other > bits ? other : bits;
  }
  if (threadIdx.x % 32 == 0) lows[threadIdx.x / 32] = low, highs[threadIdx.x / 32] = high, most[threadIdx.x / 32] = bits;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < WARPS; w++) {
    low = fminf(low, lows[w]);
    high = fmaxf(high, highs[w]);
    bits = most[w] > bits ? most[w] : bits;
  }
  const f32 width = high - low;
  const bool finite = bits < 0x7f800000u && width < inf32();
  const f32 inverse = finite && width >= 7.888609052210118e-31f ? 255.0f / width : 0.0f;  // 2^-100
  const f32 zero = inverse > 0 ? rintf(-low * inverse) : 0.0f;
  if (threadIdx.x == 0) {
    a.scales[line] = finite ? inverse > 0 ? width / 255.0f : 0.0f : nan32();
    a.zeros[line] = static_cast<u8>(zero);
  }
  u32* const to = reinterpret_cast<u32*>(a.q_data + static_cast<i64>(line) * a.pitch);
  for (Idx k = threadIdx.x * 4; k < a.pitch; k += THREADS * 4) {
    const Pack<f32, 4> x = load(k);
    u32 word = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const f32 q = inverse > 0 ? fminf(fmaxf(rintf(x.at[i] * inverse) + zero, 0.0f), 255.0f) : 0.0f;
      if (k + i < a.k) word |= static_cast<u32>(q) << (8 * i);
    }
    to[k / 4] = word;
  }
}
