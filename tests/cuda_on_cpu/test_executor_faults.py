"""What the executor must find in wrong kernels, and must not find in right ones that look alike. Every case runs in every order."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("cupy")

from . import executor
from .executor import KernelFault, Memory, launch
from .executor.testing import Out, module, run

SOURCE = r"""
struct A { const float* x; float* y; int n; };
#define KERNEL(name) extern "C" __global__ void name(const __grid_constant__ A a)
#define T threadIdx.x
#define I (blockIdx.x * blockDim.x + threadIdx.x)
__device__ __forceinline__ void sync_warp(unsigned mask) { asm volatile("bar.warp.sync %0;" :: "r"(mask) : "memory"); }

// bounds
KERNEL(oob_read) { if (I <= a.n) a.y[I] = a.x[I]; }
KERNEL(oob_read_ok) { if (I < a.n) a.y[I] = a.x[I]; }
KERNEL(oob_before) { a.y[I] = a.x[(int)I - 1]; }
KERNEL(oob_vector) { if (4 * I < a.n) reinterpret_cast<float4*>(a.y)[I] = reinterpret_cast<const float4*>(a.x)[I]; }
KERNEL(oob_static) { __shared__ float s[64]; s[T + a.n] = a.x[T]; __syncthreads(); a.y[T] = s[T]; }
KERNEL(oob_neighbour) { __shared__ float s[64]; __shared__ float t[64]; s[T] = 1; t[T] = 2; __syncthreads(); a.y[T] = s[T + a.n] + t[T]; }
KERNEL(oob_dynamic) { extern __shared__ float d[]; d[T + a.n] = a.x[T]; __syncthreads(); a.y[T] = d[T + a.n]; }
KERNEL(oob_null) { const float* p = a.n ? (const float*)(size_t)(a.n * 64) : a.x; a.y[I] = *p; }
KERNEL(oob_local) { float v[8]; for (int k = 0; k < 8; ++k) v[k] = a.x[k]; a.y[T] = v[(T & 7) + a.n]; }
KERNEL(write_param) { const_cast<A&>(a).n = 3; a.y[I] = a.n; }
__constant__ float table[4] = {1, 2, 3, 4};
KERNEL(oob_constant) { a.y[I] = table[(I & 3) + a.n]; }

// alignment
KERNEL(misaligned) { if (T == 0) a.y[0] = *reinterpret_cast<const double*>(a.x + a.n); }
KERNEL(misaligned_vector) { if (T == 0) { float4 v = *reinterpret_cast<const float4*>(a.x + a.n); a.y[0] = v.x + v.y + v.z + v.w; } }
KERNEL(misaligned_shared) { __shared__ __align__(16) float s[64]; s[T] = 1; __syncthreads(); if (T == 0) { float2 v = *reinterpret_cast<const float2*>(s + a.n); a.y[0] = v.x + v.y; } }

// initialisation
KERNEL(uninit_global) { a.y[I] += 1; }
KERNEL(uninit_shared) { __shared__ float s[64]; if (T < 64 - a.n) s[T] = 1; __syncthreads(); a.y[T] = s[T]; }
KERNEL(uninit_previous_block) { __shared__ float s[64]; if (blockIdx.x != a.n) s[T] = 1; __syncthreads(); a.y[I] = s[T]; }
KERNEL(uninit_atomic) { __shared__ int c; if (a.n == 0 && T == 0) c = 0; __syncthreads(); atomicAdd(&c, 1); __syncthreads(); a.y[T] = c; }

// shared memory
KERNEL(race_read) { __shared__ float s[64]; s[T] = a.x[T]; if (a.n) __syncthreads(); a.y[T] = s[63 - T]; }
KERNEL(race_loop) { __shared__ float s[64]; float v = 0;
  for (int k = 0; k < 3; ++k) { s[T] = a.x[T] + k; __syncthreads(); v += s[(T + 33) & 63]; if (a.n) __syncthreads(); } a.y[T] = v; }
KERNEL(double_buffer) { __shared__ float s[2][64]; float v = 0; s[0][T] = a.x[T]; __syncthreads();
  for (int k = 0; k < 5; ++k) { v += s[k & 1][63 - T]; if (k < 4) s[(k + 1) & 1][T] = a.x[T] * k; __syncthreads(); } a.y[T] = v; }
KERNEL(race_write) { __shared__ float s; if (T < 2 - a.n) s = T; __syncthreads(); a.y[T] = s; }
KERNEL(race_same_value) { __shared__ float s; s = a.n + 1; __syncthreads(); a.y[T] = s; }
KERNEL(race_warp) { __shared__ float s[64]; s[T] = a.x[T]; if (a.n) sync_warp(~0u); a.y[T] = s[T ^ 1]; }
KERNEL(race_lockstep_shuffle) { __shared__ float s[64]; s[T] = a.x[T]; float v = __shfl_xor_sync(~0u, s[T], 1); if (a.n) __syncwarp(); a.y[T] = v + s[T ^ 1]; }
KERNEL(race_half_warp) { __shared__ float s[64]; s[T] = a.x[T]; sync_warp(T & 16 ? 0xffff0000u : 0xffffu); a.y[T] = s[a.n ? T ^ 15 : T ^ 16]; }
KERNEL(race_rewrite) { __shared__ float s[64]; s[T] = a.x[T]; __syncwarp(); float v = s[T ^ 1]; if (a.n) __syncwarp(); s[T] = v; __syncwarp(); a.y[T] = s[T ^ 1]; }
KERNEL(warp_sum) { __shared__ float s[2]; float v = a.x[T]; for (int k = 16; k; k >>= 1) v += __shfl_down_sync(~0u, v, k);
  if ((T & 31) == 0) s[T / 32] = v; __syncthreads(); if (T == 0) a.y[0] = s[0] + s[1]; }
KERNEL(shared_atomics) { __shared__ int c; if (T == 0) c = 0; if (a.n) __syncthreads(); atomicAdd(&c, 1); __syncthreads(); if (T == 0) a.y[0] = c; }
KERNEL(race_atomic_read) { __shared__ int c; if (T == 0) c = 0; __syncthreads(); int v = atomicAdd(&c, 1); if (a.n) __syncthreads(); if (T == 5) a.y[0] = *(volatile int*)&c + v; }
KERNEL(race_bytes) { __shared__ char s[64]; s[T] = T; if (a.n) __syncthreads(); a.y[T] = s[(T + 1) & 63]; }
KERNEL(byte_neighbours) { __shared__ char s[64]; s[T] = T; s[T] = s[T] + 1; __syncthreads(); a.y[T] = reinterpret_cast<int*>(s)[T / 4]; }
KERNEL(tree) { __shared__ float s[64]; s[T] = a.x[T]; __syncthreads();
  for (int k = 32; k; k >>= 1) { if (T < k) s[T] += s[T + k]; if (a.n) __syncthreads(); } if (T == 0) a.y[0] = s[0]; }
KERNEL(named_barriers) { __shared__ float s[64]; __shared__ float t[64];  // warp 0 produces, warp 1 consumes, and the other way round
  if (T < 32) { s[T] = a.x[T]; if (a.n) asm volatile("barrier.sync 1, 64;" ::: "memory"); asm volatile("barrier.sync 2, 64;" ::: "memory"); a.y[T] = t[T]; }
  else { if (a.n) asm volatile("barrier.sync 1, 64;" ::: "memory"); t[T - 32] = s[63 - T]; asm volatile("barrier.sync 2, 64;" ::: "memory"); } }
KERNEL(arrive) { __shared__ float s[32];
  if (T < 32) { s[T] = a.x[T]; asm volatile("barrier.arrive 1, 64;" ::: "memory"); if (!a.n) s[T] = 0; }
  else { asm volatile("barrier.sync 1, 64;" ::: "memory"); a.y[T - 32] = s[63 - T]; } }

// global memory
KERNEL(global_write) { a.y[a.n ? I : T] = I; }
KERNEL(global_read) { a.y[I] = 1; if (blockIdx.x == 1) { float v = a.y[a.n ? I : 0]; a.y[I] = v; } }
KERNEL(global_within) { a.y[I] = 1; if (a.n) __syncthreads(); float v = a.y[I ^ 63]; if (a.n) __syncthreads(); a.y[I] = v; }
KERNEL(global_atomics) { atomicAdd(a.y, 1.0f); if (!a.n && I == 100) a.y[0] = 3; }
KERNEL(global_flag) { if (a.n) atomicExch(a.y + 100, a.x[0]); else a.y[100] = 1; }
KERNEL(last_block) { __shared__ bool last; a.y[I] = I; if (a.n) __threadfence(); __syncthreads(); if (T == 0) last = atomicAdd((int*)a.y + 100, 1) == gridDim.x - 1;
  __syncthreads(); if (last) { if (a.n) __threadfence(); float v = a.y[T] + a.y[T + 32]; a.y[T + 64] = v; if (T == 0) ((int*)a.y)[100] = 0; } }
KERNEL(acquire_release) { int* flag = (int*)a.y + 100; int seen = 0;
  if (T == 0) { a.y[blockIdx.x] = 1; if (a.n) asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(seen) : "l"(flag) : "memory"); else seen = atomicAdd(flag, 1); if (seen == 1) a.y[5] = a.y[0] + a.y[1]; } }

// barriers
KERNEL(divergent_warp) { if (a.n || T < 40) { asm volatile("bar.sync 0;" ::: "memory"); } a.y[T] = T; if (!a.n) { if (T >= 40) __syncthreads(); } }
KERNEL(divergent_exit) { if (T >= 32 + a.n) return; __syncthreads(); a.y[T] = T; }
KERNEL(divergent_lane_exit) { if (T == 7 && !a.n) return; __syncthreads(); a.y[T] = T; }
KERNEL(divergent_place) { if (T < 32 * (1 + a.n)) { __syncthreads(); a.y[T] = 1; } else { a.y[T] = 3; __syncthreads(); } }

// ends
KERNEL(hang) { volatile int* p = (volatile int*)a.y; if (!a.n) while (*p == 0) {} a.y[I + 1] = 2; }
KERNEL(spin_lanes) { __shared__ int lock; if (T == 0) lock = 0; __syncthreads();  // every lane takes the lock in turn
  bool done = false; while (!done) { if (atomicCAS(&lock, 0, 1) == 0) { atomicAdd(a.y, 1.0f); atomicExch(&lock, 0); done = true; } } }
KERNEL(spin_lanes_plain) { __shared__ int lock; if (T == 0) lock = 0; __syncthreads(); while (atomicCAS(&lock, 0, 1)) {} atomicAdd(a.y, 1.0f); atomicExch(&lock, 0); }
KERNEL(spin_warps) { __shared__ int flag; if (T == 0) flag = 0; __syncthreads();  // one warp waits for the other
  if (T < 32) { while (atomicAdd(&flag, 0) == 0) {} a.y[T] = 1; } else if (T == 32) atomicExch(&flag, 1); }
KERNEL(trap) { if (I == 70 && !a.n) asm volatile("trap;"); a.y[I] = 1; }

// lanes
KERNEL(shuffle_inactive) { float v = a.x[T]; if (a.n || T & 1) v += __shfl_xor_sync(~0u, v, 1); a.y[T] = v; }
KERNEL(shuffle_exited) { if (T >= 32 - 4 * (1 - a.n)) return; a.y[T] = __shfl_xor_sync(~0u, a.x[T], 4); }
KERNEL(shuffle_subset) { float v = a.x[T]; unsigned m = __ballot_sync(~0u, T & 1); if (T & 1) v += __shfl_xor_sync(m, v, a.n ? 2 : 1); a.y[T] = v; }
KERNEL(not_in_mask) { a.y[T] = __shfl_xor_sync(a.n ? ~0u : 0xffffu, a.x[T], 1); }
KERNEL(shuffle_twice) { float v = a.x[T]; if (T & 1) v += __shfl_xor_sync(0xaaaaaaaau, v, 2); else v -= __shfl_xor_sync(0x55555555u, v, 2); a.y[T] = v; }
"""

ORDERS = [{"order": "forward"}, {"order": "reverse"}, *({"order": "random", "seed": k} for k in range(4))]
B, K = executor.OUT_OF_BOUNDS, executor.DIVERGENT_BARRIER
M, U, R, G, L = executor.MISALIGNED, executor.UNINITIALISED_READ, executor.RACE, executor.GLOBAL_RACE, executor.INACTIVE_LANE

# kernel, blocks, threads, n that is right (None: none is), n that is wrong (None: none is), kind, dynamic shared memory
CASES = [
    ("oob_read", 3, 64, 127, 128, B, 0),
    ("oob_read_ok", 3, 64, 128, None, "", 0),
    ("oob_before", 1, 64, None, 0, B, 0),
    ("oob_vector", 1, 64, 128, 129, B, 0),
    ("oob_static", 1, 64, 0, 1, B, 0),
    ("oob_neighbour", 1, 64, 0, 1, B, 0),
    ("oob_dynamic", 1, 64, 0, 1, B, 256),
    ("oob_null", 1, 64, 0, 1, B, 0),
    ("oob_local", 1, 64, 0, 1, B, 0),
    ("oob_constant", 1, 64, 0, 1, B, 0),
    ("misaligned", 1, 64, 2, 1, M, 0),
    ("misaligned_vector", 1, 64, 4, 2, M, 0),
    ("misaligned_shared", 1, 64, 2, 1, M, 0),
    ("uninit_global", 1, 64, None, 0, U, 0),
    ("uninit_shared", 1, 64, 0, 1, U, 0),
    ("uninit_previous_block", 2, 64, 2, 1, U, 0),
    ("uninit_atomic", 1, 64, 0, 1, U, 0),
    ("race_read", 1, 64, 1, 0, R, 0),
    ("race_loop", 1, 64, 1, 0, R, 0),
    ("double_buffer", 1, 64, 0, None, "", 0),
    ("race_write", 1, 64, 1, 0, R, 0),
    ("race_same_value", 1, 64, None, 0, R, 0),
    ("race_warp", 1, 64, 1, 0, R, 0),
    ("race_lockstep_shuffle", 1, 64, 1, 0, R, 0),
    ("race_half_warp", 1, 64, 1, 0, R, 0),
    ("race_rewrite", 1, 64, 1, 0, R, 0),
    ("warp_sum", 1, 64, 0, None, "", 0),
    ("shared_atomics", 1, 64, 1, 0, R, 0),
    ("race_atomic_read", 1, 64, 1, 0, R, 0),
    ("race_bytes", 1, 64, 1, 0, R, 0),
    ("byte_neighbours", 1, 64, 1, None, "", 0),
    ("tree", 1, 64, 1, 0, R, 0),
    ("named_barriers", 1, 64, 1, 0, R, 0),
    ("arrive", 1, 64, 1, 0, R, 0),
    ("global_write", 2, 64, 1, 0, G, 0),
    ("global_read", 2, 64, 1, 0, G, 0),
    ("global_within", 2, 64, 1, 0, G, 0),
    ("global_atomics", 2, 64, 1, 0, G, 0),
    ("global_flag", 2, 1, 1, 0, G, 0),
    ("last_block", 2, 32, 1, 0, G, 0),
    ("acquire_release", 2, 32, 1, 0, G, 0),
    ("divergent_warp", 1, 64, 1, 0, K, 0),
    ("divergent_exit", 1, 64, 32, 0, K, 0),
    ("divergent_lane_exit", 1, 64, 1, 0, K, 0),
    ("divergent_place", 1, 64, 1, 0, K, 0),
    ("spin_lanes", 1, 64, 0, None, "", 0),
    ("spin_lanes_plain", 1, 64, 0, None, "", 0),
    ("spin_warps", 1, 64, 0, None, "", 0),
    ("trap", 2, 64, 1, 0, executor.TRAP, 0),
    ("shuffle_inactive", 1, 64, 1, 0, L, 0),
    ("shuffle_exited", 1, 32, 1, 0, L, 0),
    ("shuffle_subset", 1, 64, 1, 0, L, 0),
    ("not_in_mask", 1, 64, 1, 0, L, 0),
    ("shuffle_twice", 1, 64, 1, None, "", 0),
]
EARLY = {"race_read", "named_barriers", "shared_atomics"}  # in some orders, what is read was not written yet
NEEDS_ZEROS = {"last_block", "acquire_release", "global_atomics", "global_read", "global_within", "spin_lanes", "spin_lanes_plain"}


@pytest.mark.parametrize("name, blocks, threads, right, wrong, kind, shared", CASES, ids=[c[0] for c in CASES])
def test_faults(name: str, blocks: int, threads: int, right: int | None, wrong: int | None, kind: str, shared: int) -> None:
    for options in ORDERS:
        x, y = np.arange(128, dtype=np.float32), np.zeros(128, np.float32)
        out = y if name in NEEDS_ZEROS else Out(y)
        if right is not None:
            run(SOURCE, name, blocks, threads, x, out, np.int32(right), shared=shared, **options)
        if wrong is not None:
            y[:] = 0
            out = y if name in NEEDS_ZEROS else Out(y)
            with pytest.raises(KernelFault) as e:
                run(SOURCE, name, blocks, threads, x, out, np.int32(wrong), shared=shared, **options)
            assert e.value.kind == kind or (name in EARLY and e.value.kind == U), (options, e.value)
            assert name in e.value.message and "PTX line" in e.value.message and "block (" in e.value.message


def test_deadlock() -> None:
    y = np.zeros(128, np.int32)
    for options in ORDERS:
        with pytest.raises(KernelFault, match=r"(?s)deadlock.*step limit"):
            run(SOURCE, "hang", 1, 64, y, y, np.int32(0), step_limit=3000, **options)


def test_messages() -> None:
    x = np.zeros(128, np.float32)
    with pytest.raises(KernelFault) as e:
        run(SOURCE, "oob_read", 2, 64, x, Out(np.zeros(200, np.float32)), np.int32(128))
        run(SOURCE, "oob_read", 3, 64, x, Out(np.zeros(200, np.float32)), np.int32(128))
    assert re.search(
        r"oob_read, PTX line \d+: ld\.global\.f32.*\nblock \(2,0,0\), thread \(0,0,0\): read of 4 bytes at arg0\+0x200 of 512 bytes",
        str(e.value),
        re.S,
    )
    with pytest.raises(KernelFault, match=r"write of 4 bytes at shared s?\S*\+0x100 of 256 bytes"):
        run(SOURCE, "oob_static", 1, 64, x, Out(x.copy()), np.int32(1))


def test_invalid_launches() -> None:
    x = np.zeros(8, np.float32)
    memory = Memory()
    m = module(SOURCE)
    for grid, block, shared, args in [((1, 1, 1), (1025, 1, 1), 0, 24), ((1, 1, 1), (1, 1, 65), 0, 24), ((1, 65536, 1), (1, 1, 1), 0, 24), ((0, 1, 1), (1, 1, 1), 0, 24),
                                      ((1, 1, 1), (1, 1, 1), 228 << 10, 24), ((1, 1, 1), (1, 1, 1), 0, 20)]:  # fmt: skip
        with pytest.raises(KernelFault) as e:
            launch(m, "trap", grid, block, bytes(args), memory, shared)
        assert e.value.kind == executor.INVALID_LAUNCH
    source = 'extern "C" __global__ void __launch_bounds__(64) k(const float* x) {}'
    with pytest.raises(KernelFault, match="at most 64"):
        run(source, "k", 1, 65, x)
