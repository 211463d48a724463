// All inline PTX of the project. Each function names the section of the PTX ISA that defines what it does.
#pragma once

// 9.7.9.21 cvt
__forceinline__ float ptx_f32_of_f16(unsigned short h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
}
__forceinline__ unsigned short ptx_f16_of_f32(float f) {
  unsigned short h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}
__forceinline__ unsigned short ptx_f16_of_f64(double f) {
  unsigned short h;
  asm("cvt.rn.f16.f64 %0, %1;" : "=h"(h) : "d"(f));
  return h;
}

// 9.7.3.21 ex2.approx: 2^x within 2 ulp, or 0 where that is subnormal
__forceinline__ float ptx_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 9.7.9.21 cvt.f16x2, cvt.bf16x2 (sm_80): two at once, to nearest even; `low` in the lower half
__forceinline__ unsigned ptx_f16x2_of_f32(float low, float high) {
#if __CUDA_ARCH__ >= 800
  unsigned pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return static_cast<unsigned>(ptx_f16_of_f32(low)) | static_cast<unsigned>(ptx_f16_of_f32(high)) << 16;
#endif
}
#if __CUDA_ARCH__ >= 800
__forceinline__ unsigned ptx_bf16x2_of_f32(float low, float high) {
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
#endif

// Shared memory as the instructions below address it: 9.7.9.22 cvta
__forceinline__ unsigned ptx_shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

// 9.7.9.25.3.1 cp.async: 16 bytes from global to shared memory, or 16 zeros. Before sm_80: a load and a store.
__forceinline__ void ptx_copy_async_16(unsigned to, const void* from, bool valid) {
#if __CUDA_ARCH__ >= 800
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)), "r"(bytes) : "memory");
#else
  const uint4 x = valid ? *static_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
#endif
}
// 9.7.9.25.3.2 cp.async.commit_group, 9.7.9.25.3.3 cp.async.wait_group: until at most PENDING groups are on their way
__forceinline__ void ptx_copy_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int PENDING>
__forceinline__ void ptx_copy_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// 9.7.14.5.15 ldmatrix: four 8x8 matrices of b16; lanes 8i .. 8i+7 give the addresses of the rows of matrix i. Lane l receives elements
// 2(l%4) and 2(l%4)+1 of row l/4 of each; TRANSPOSED: elements (2(l%4), l/4) and (2(l%4)+1, l/4).
template <bool TRANSPOSED>
__forceinline__ void ptx_load_matrices(unsigned (&r)[4], unsigned address) {
  if constexpr (TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// 9.7.14.5.14 mma, 9.7.14.5.8 fragments of m16n8k16 in 16 bits. With g = lane / 4, t = lane % 4, each register holding a pair:
//   A: a[0] (row g, k 2t..), a[1] (g + 8, 2t..), a[2] (g, 2t + 8..), a[3] (g + 8, 2t + 8..);  B: b[0] (k 2t.., column g), b[1] (2t + 8..,
//   g) C: c[0], c[1] (row g, columns 2t, 2t + 1), c[2], c[3] (g + 8, the same)
// sm_75 has m16n8k8 (9.7.14.5.7: A: (g, 2t..), (g + 8, 2t..); B: (2t.., g)): the two halves of k one after the other.
__forceinline__ void ptx_mma_f16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}
// The same in bf16. sm_75 has no such instruction: its lanes fetch rows of A and columns of B from each other.
__forceinline__ void ptx_mma_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  const int lane = threadIdx.x % 32, row = lane / 4 * 4, col = lane % 4 * 8;  // lanes of its row of A, and of its first column of B
#pragma unroll 1
  for (int t = 0; t < 4; t++)
#pragma unroll
    for (int half = 0; half < 2; half++) {  // k = 8 half + 2t, and the one after it
      const unsigned x0 = __shfl_sync(~0u, half ? a[2] : a[0], row + t), x1 = __shfl_sync(~0u, half ? a[3] : a[1], row + t);
      const unsigned y0 = __shfl_sync(~0u, half ? b1 : b0, col + t), y1 = __shfl_sync(~0u, half ? b1 : b0, col + 4 + t);
#pragma unroll
      for (int odd = 0; odd < 2; odd++) {
        const auto value = [odd](unsigned pair) { return __uint_as_float(odd ? pair & 0xffff0000u : pair << 16); };
        c[0] += value(x0) * value(y0);
        c[1] += value(x0) * value(y1);
        c[2] += value(x1) * value(y0);
        c[3] += value(x1) * value(y1);
      }
    }
#endif
}

// 9.7.14.5.14 mma, 9.7.14.5.10 fragments of m16n8k32 in 8 bits: as m16n8k16 in 16 bits, with four bytes of k per register: A: a[0] (row g,
// k 4t..), a[1] (g + 8, 4t..), a[2] (g, 4t + 16..), a[3] (g + 8, 4t + 16..); B: b[0] (k 4t.., column g), b[1] (4t + 16.., g); C as above.
// sm_75 has m8n8k16 (9.7.14.5.2: A: (g, 4t..); B: (4t.., g); C: (g, 2t), (g, 2t + 1)): four of them.
#define PTRT_MMA_BYTES(AT, BT)                                                \
  if constexpr (A_SIGNED == (#AT[0] == 's') && B_SIGNED == (#BT[0] == 's')) { \
    PTRT_MMA_BYTES_2(AT, BT)                                                  \
  }
#if __CUDA_ARCH__ >= 800
#define PTRT_MMA_BYTES_2(AT, BT)                                                                                                  \
  asm("mma.sync.aligned.m16n8k32.row.col.s32." #AT "." #BT ".s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                                                                            \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
#define PTRT_MMA_BYTES_1(AT, BT, C0, C1, A, B) \
  asm("mma.sync.aligned.m8n8k16.row.col.s32." #AT "." #BT ".s32 {%0, %1}, {%2}, {%3}, {%0, %1};" : "+r"(C0), "+r"(C1) : "r"(A), "r"(B));
#define PTRT_MMA_BYTES_2(AT, BT)                 \
  PTRT_MMA_BYTES_1(AT, BT, c[0], c[1], a[0], b0) \
  PTRT_MMA_BYTES_1(AT, BT, c[2], c[3], a[1], b0) \
  PTRT_MMA_BYTES_1(AT, BT, c[0], c[1], a[2], b1) \
  PTRT_MMA_BYTES_1(AT, BT, c[2], c[3], a[3], b1)
#endif
template <bool A_SIGNED, bool B_SIGNED>
__forceinline__ void ptx_mma_bytes(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  PTRT_MMA_BYTES(s8, s8)
  PTRT_MMA_BYTES(s8, u8)
  PTRT_MMA_BYTES(u8, s8)
  PTRT_MMA_BYTES(u8, u8)
}
#undef PTRT_MMA_BYTES

// 9.7.1.23 dp4a: c + the sum of the four bytes of x, signed or not
template <bool SIGNED>
__forceinline__ int ptx_add_bytes(int c, unsigned x) {
  if constexpr (SIGNED) asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(c) : "r"(x), "r"(0x01010101));
  else asm("dp4a.u32.u32 %0, %1, %2, %0;" : "+r"(c) : "r"(x), "r"(0x01010101));
  return c;
}
