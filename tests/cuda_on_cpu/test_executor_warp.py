"""The executor's warps and blocks: divergence, calls, shuffles, votes, atomics, matrix instructions, asynchronous copies, counters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("cupy")

from . import executor
from .executor import KernelFault, Module, UnsupportedPtx, launch
from .executor.testing import Out, compile_ptx, module, pack, run
from .test_executor_faults import ORDERS

Array = np.ndarray[Any, Any]

CONTROL = r"""
struct P { const int* x; int* y; int n; };
#define K(name) extern "C" __global__ void name(const __grid_constant__ P p)
#define I (blockIdx.x * blockDim.x + threadIdx.x)
K(nested) { int i = I, v = p.x[i], r = 0; if (v & 1) { r += 1; if (v & 2) { r += 10; if (v & 4) return; r += 100; } else r += 1000; } else if (v & 8) r = 7; else { for (int k = 0; k < v; ++k) r += k; } p.y[i] = r; }
K(trips) { int i = I, v = p.x[i], r = 0; while (v != 1) { v = v & 1 ? 3 * v + 1 : v / 2; ++r; if (r > 500) break; } p.y[i] = r; }
K(table) { int i = I, r; switch (p.x[i]) { case 0: r = i; break; case 1: r = i * i; break; case 2: r = p.x[i ^ 1]; break; case 3: r = ~i; break; case 4: r = 5; break; case 5: r = i << 3; break;
  case 6: r = 1 - i; break; case 7: r = i % 7; break; case 8: r = p.n; break; default: r = -1; } p.y[i] = r; }
K(jump) { int i = I, r = 0; unsigned k = p.x[i];
  asm volatile("{ .reg .pred q; setp.gt.u32 q, %1, 3; @q bra DONE; \nTS: .branchtargets A, B, C, D;\n brx.idx %1, TS;\n A: add.s32 %0, %2, 1; bra DONE;\n B: add.s32 %0, %2, 2; bra DONE;\n C: mul.lo.s32 %0, %2, 3;\n D: add.s32 %0, %0, 4;\n DONE: }" : "+r"(r) : "r"(k), "r"(i)); p.y[i] = r; }
__device__ __noinline__ int twice(int v) { return v < 0 ? -v : 2 * v; }
struct Big { int a[6]; double d; };
__device__ __noinline__ Big change(Big b, int k) { b.a[k] += 100; b.d *= 2; return b; }
__device__ __noinline__ int deep(int v, int* out) { *out = twice(v) + 1; if (v & 1) return twice(*out); Big b = {{v, 1, 2, 3, 4, 5}, 1.5}; b = change(b, v % 6); return b.a[v % 6] + b.a[0] + (int)b.d; }
K(calls) { int i = I, o = 0, v = p.x[i]; int r = v % 3 == 0 ? deep(v, &o) : v % 3 == 1 ? twice(v) : 0; p.y[i] = r * 1000 + o; }
K(locals) { int i = I; int a[16]; for (int k = 0; k < 16; ++k) a[k] = p.x[(i + k) % p.n]; for (int k = 0; k < 15; ++k) for (int j = 0; j < 15 - k; ++j) if (a[j] > a[j + 1]) { int t = a[j]; a[j] = a[j + 1]; a[j + 1] = t; } p.y[i] = a[i & 15] * 3 + a[7]; }
__device__ int counter = 5; __constant__ int scale[4] = {1, 10, 100, 1000}; __device__ const char* const names[3] = {"alpha", "beta", "gamma"};
K(variables) { int i = I; p.y[i] = counter * scale[i & 3] + names[i % 3][i % 4]; }
struct Q { int n; char c; short h; double d; int v[3][2]; const int* x; int* y; };
extern "C" __global__ void parameters(const __grid_constant__ Q q) { int i = I; const int* s = &q.v[0][0]; int r = q.n + q.c + q.h + (int)q.d; for (int k = 0; k < q.x[0]; ++k) r += s[(k + i) % 6] * (k + 1); q.y[i] = r; }
K(generic) { __shared__ int s[32]; int l[4] = {1, 2, 3, 4}; int i = threadIdx.x; s[i] = p.x[i]; __syncthreads(); const int* q = i % 3 == 0 ? p.x + i : i % 3 == 1 ? s + i : l + (i & 3); int* w = p.n ? l : s;
  atomicAdd(w + (p.n ? i & 3 : i), 1); p.y[i] = *q + w[i & 3] * 0 + __isShared(s) + 2 * __isGlobal(p.x) + 4 * __isLocal(l); }
K(grid) { p.y[(blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x * 24 + blockIdx.x * 24 + (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x] = blockDim.x * 100 + blockDim.y * 10 + blockDim.z + p.n * (threadIdx.z + 2 * threadIdx.y); }
"""


def control(name: str, x: Array, n: int = 64, **options: Any) -> Array:
    y = np.full(n, -12345, np.int32)
    run(CONTROL, name, -(-n // 96), min(n, 96), np.asarray(x, np.int32), y, np.int32(len(x)), **options)
    return y


def collatz(v: int) -> int:
    r = 0
    while v != 1 and r <= 500:
        v, r = 3 * v + 1 if v & 1 else v // 2, r + 1
    return r


@pytest.mark.parametrize("options", ORDERS[:4], ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("checks", [True, False])
def test_control_flow(options: dict[str, Any], checks: bool) -> None:
    options = {**options, "checks": checks}
    x = np.arange(96 * 2) % 37
    i = np.arange(192)

    def nested(v: int) -> int:
        if v & 1:
            return (-12345 if v & 4 else 111) if v & 2 else 1001
        return 7 if v & 8 else v * (v - 1) // 2

    assert control("nested", x, 192, **options).tolist() == [nested(v) for v in x.tolist()]
    assert control("trips", x + 1, 192, **options).tolist() == [collatz(v + 1) for v in x.tolist()]
    k = i % 10
    table = [i, i * i, k[i ^ 1], ~i, 5 + 0 * i, i << 3, 1 - i, i % 7, 192 + 0 * i, -1 + 0 * i]
    assert np.array_equal(control("table", k, 192, **options), np.choose(k, table))
    assert np.array_equal(control("jump", i % 5, 192, **options), np.choose(i % 5, [i + 1, i + 2, i * 3 + 4, 4 + 0 * i, 0 * i]))

    def twice(v: int) -> int:
        return -v if v < 0 else 2 * v

    def calls(v: int) -> int:
        if v % 3 == 1:
            return twice(v) * 1000
        if v % 3 == 2:
            return 0
        o = twice(v) + 1
        if v & 1:
            return twice(o) * 1000 + o
        a = [v, 1, 2, 3, 4, 5]
        a[v % 6] += 100
        return (a[v % 6] + a[0] + 3) * 1000 + o

    assert control("calls", x, 192, **options).tolist() == [calls(v) for v in x.tolist()]
    s = np.sort(np.stack([x[(i + k) % 192] for k in range(16)]), axis=0)
    assert np.array_equal(control("locals", x, 192, **options), s[i & 15, i] * 3 + s[7])
    letters = np.array([ord(["alpha", "beta", "gamma"][j % 3][j % 4]) for j in i])
    assert np.array_equal(control("variables", x, 192, **options), 5 * 10 ** (i & 3) + letters)
    v = np.arange(6, dtype=np.int32) * 7
    trips, y = np.array([9], np.int32), np.zeros(64, np.int32)
    memory = executor.Memory()
    memory.add(trips.ctypes.data, 4, "x", True), memory.add(y.ctypes.data, y.nbytes, "y")
    image = np.array(
        [(11, -3, 300, 2.9, v, trips.ctypes.data, y.ctypes.data)],
        np.dtype([("n", "i4"), ("c", "i1"), ("h", "i2"), ("d", "f8"), ("v", "i4", 6), ("x", "u8"), ("y", "u8")], align=True),
    )
    launch(module(CONTROL), "parameters", (2, 1, 1), (32, 1, 1), image.tobytes(), memory, 0, executor.Options(**options))
    assert y.tolist() == [11 - 3 + 300 + 2 + sum(int(v[(k + j) % 6]) * (k + 1) for k in range(9)) for j in range(64)]
    got = control("generic", np.arange(32) * 10, 32, **options)
    j = np.arange(32)
    assert np.array_equal(got, np.choose(j % 3, [j * 10, j * 10, (j & 3) + 2]) + 7)
    y = np.zeros(2 * 3 * 2 * 24, np.int32)
    run(CONTROL, "grid", (2, 3, 2), (4, 3, 2), y, y, np.int32(1000), **options)
    tz, ty, _ = np.indices((2, 3, 4))
    assert np.array_equal(y.reshape(12, 24), np.broadcast_to((432 + 1000 * (tz + 2 * ty)).reshape(24), (12, 24)))


WARP = r"""
struct P { const unsigned* x; unsigned* y; int n; };
#define K(name) extern "C" __global__ void name(const __grid_constant__ P p)
#define T threadIdx.x
K(shuffles) { unsigned v = p.x[T], *y = p.y + T;
  y[0] = __shfl_sync(~0u, v, p.n); y[64] = __shfl_up_sync(~0u, v, p.n); y[128] = __shfl_down_sync(~0u, v, p.n); y[192] = __shfl_xor_sync(~0u, v, p.n);
  y[256] = __shfl_sync(~0u, v, p.n, 8); y[320] = __shfl_up_sync(~0u, v, p.n & 7, 8); y[384] = __shfl_down_sync(~0u, v, p.n & 7, 8); y[448] = __shfl_xor_sync(~0u, v, p.n & 7, 8);
  y[512] = __shfl_sync(~0u, v, T * 5 + p.n); y[576] = __shfl_sync(~0u, v, T + p.n, 4); }
K(shuffle_predicate) { unsigned r, q; asm volatile("{ .reg .pred q; shfl.sync.down.b32 %0|q, %2, %3, 0x101f, -1; selp.u32 %1, 1, 0, q; }" : "=r"(r), "=r"(q) : "r"(p.x[T]), "r"(p.n)); p.y[T] = r; p.y[64 + T] = q; }
K(votes) { unsigned v = p.x[T], *y = p.y + T; bool b = v % 3 == 0; y[0] = __ballot_sync(~0u, b); y[64] = __any_sync(~0u, v > 60); y[128] = __all_sync(~0u, v < 40); int u = __uni_sync(~0u, T < 32); y[192] = u;
  y[256] = __match_any_sync(~0u, v % 5); int all; y[320] = __match_all_sync(~0u, v / 32, &all); y[384] = all; y[448] = __match_all_sync(~0u, v / 40, &all); y[512] = all;
  y[576] = __match_any_sync(~0u, (unsigned long long)(v % 4) << 33); if (b) { y[640] = __activemask(); y[704] = __ballot_sync(__activemask(), v & 1); } }
K(redux) { int v = (int)p.x[T] - 20; unsigned *y = p.y + T; y[0] = __reduce_add_sync(~0u, v); y[64] = __reduce_min_sync(~0u, v); y[128] = __reduce_max_sync(~0u, v); y[192] = __reduce_min_sync(~0u, (unsigned)v);
  y[256] = __reduce_max_sync(~0u, (unsigned)v); y[320] = __reduce_and_sync(~0u, (unsigned)v | 3); y[384] = __reduce_or_sync(~0u, p.x[T] << 1); y[448] = __reduce_xor_sync(~0u, p.x[T] * 77);
  if (T % 32 < 12) y[512] = __reduce_add_sync(0xfff, v); }
K(block_votes) { unsigned v = p.x[T], *y = p.y + T; y[0] = __syncthreads_count(v % 7 == 0); y[64] = __syncthreads_and(v < 64); y[128] = __syncthreads_or(v == 63); y[192] = __syncthreads_and(v < 63); y[256] = __syncthreads_or(v == 64); }
K(atomics) { unsigned v = p.x[T] % 16, *y = p.y; atomicAdd(y, v); atomicMin(y + 1, v + 3); atomicMax(y + 2, v); atomicAnd(y + 3, ~(1u << v)); atomicOr(y + 4, 1u << v); atomicXor(y + 5, 1u << (v & 7)); atomicSub(y + 6, v);
  atomicInc(y + 7, 10); atomicDec(y + 8, 10); atomicMin((int*)y + 9, -(int)v); atomicMax((int*)y + 10, -(int)v - 5); atomicAdd((unsigned long long*)(y + 12), 0x100000001ull * v); atomicAdd((float*)y + 14, 0.5f * v);
  atomicAdd((double*)(y + 16), 0.25 * v); unsigned o = atomicAdd(y + 18, 1); y[64 + o] = T; unsigned e = y[19]; do { o = e; e = atomicCAS(y + 19, o, o + v); } while (o != e); atomicMax((unsigned long long*)(y + 20), (unsigned long long)v << 40);
  __shared__ unsigned s[4]; if (T < 4) s[T] = 0; __syncthreads(); atomicAdd(s + (v & 3), 1); __syncthreads(); if (T < 4) y[24 + T] = s[T]; atomicCAS((unsigned long long*)(y + 28), 7ull, 9ull);
  asm volatile("red.global.add.noftz.f16x2 [%0], %1;" :: "l"(y + 30), "r"(0x3c003800)); asm volatile("{ .reg .b16 t; mov.b16 t, 0x3400; red.global.add.noftz.f16 [%0], t; }" :: "l"(y + 31)); }
"""


@pytest.mark.parametrize("n", [0, 1, 3, 7, 16, 31])
def test_shuffles(n: int) -> None:
    x = np.random.default_rng(n).permutation(64).astype(np.uint32)
    y = np.zeros(640, np.uint32)
    run(WARP, "shuffles", 1, 64, x, Out(y), np.int32(n))
    lane = np.arange(64) % 32
    base = np.arange(64) - lane

    def expect(kind: str, delta: Any, width: int) -> Array:
        start = lane // width * width
        to = {"idx": start + delta % width, "up": lane - delta, "down": lane + delta, "xor": lane ^ delta}[kind]
        ok = {"idx": to >= 0, "up": to >= start, "down": to < start + width, "xor": to < start + width}[kind]
        return np.asarray(x[base + np.where(ok, to, lane)])

    cases = [
        ("idx", n, 32),
        ("up", n, 32),
        ("down", n, 32),
        ("xor", n, 32),
        ("idx", n, 8),
        ("up", n & 7, 8),
        ("down", n & 7, 8),
        ("xor", n & 7, 8),
    ]
    for k, c in enumerate(cases):
        assert np.array_equal(y[64 * k : 64 * k + 64], expect(*c)), c
    assert np.array_equal(y[512:576], expect("idx", np.arange(64) * 5 + n, 32)) and np.array_equal(
        y[576:], expect("idx", np.arange(64) + n, 4)
    )
    y = np.zeros(128, np.uint32)
    run(WARP, "shuffle_predicate", 1, 64, x, Out(y), np.int32(n))  # segments of 16 lanes
    ok = lane + n <= (lane & 16 | 15)
    assert np.array_equal(y[64:], ok) and np.array_equal(y[:64], x[base + np.where(ok, lane + n, lane)])


def test_votes() -> None:
    x = np.random.default_rng(1).permutation(64).astype(np.uint32)
    y = np.zeros(768, np.uint32)
    run(WARP, "votes", 1, 64, x, y, np.int32(0))
    y = y.reshape(12, 2, 32)
    v = x.reshape(2, 32).astype(int)
    mask = lambda b: sum(int(f) << k for k, f in enumerate(b))
    for w in range(2):
        third = v[w] % 3 == 0
        assert (
            (y[0, w] == mask(third)).all()
            and (y[1, w] == (v[w] > 60).any()).all()
            and (y[2, w] == (v[w] < 40).all()).all()
            and (y[3, w] == 1).all()
        )
        for lane in range(32):
            assert y[4, w, lane] == mask(v[w] % 5 == v[w, lane] % 5) and y[9, w, lane] == mask(v[w] % 4 == v[w, lane] % 4)
            assert y[10, w, lane] == (mask(third) if third[lane] else 0) and y[11, w, lane] == (
                mask(third & (v[w] & 1 == 1)) if third[lane] else 0
            )
        for k, d in ((5, 32), (7, 40)):
            same = len(set(v[w] // d)) == 1
            assert (y[k, w] == (0xFFFFFFFF if same else 0)).all() and (y[k + 1, w] == same).all()
    y = np.zeros(320, np.uint32)
    for options in ORDERS:
        run(WARP, "block_votes", 1, 64, x, y, np.int32(0), **options)
        assert y.reshape(5, 64).tolist() == [[10] * 64, [1] * 64, [1] * 64, [0] * 64, [0] * 64]


def test_reductions() -> None:
    x = np.random.default_rng(2).integers(0, 1000, 64).astype(np.uint32)
    y = np.zeros(576, np.uint32)
    run(WARP, "redux", 1, 64, x, y, np.int32(0))
    y = y.reshape(9, 2, 32)
    for w in range(2):
        u = x[32 * w : 32 * w + 32]
        s = u.astype(np.int32) - 20
        expected = [
            s.sum(),
            s.min(),
            s.max(),
            s.view("u4").min(),
            s.view("u4").max(),
            np.bitwise_and.reduce(s | 3),
            np.bitwise_or.reduce(u << 1),
            np.bitwise_xor.reduce(u * np.uint32(77)),
        ]
        assert [int(v) & 0xFFFFFFFF for v in expected] == y[:8, w, 0].tolist() == y[:8, w, 31].tolist()
        assert (y[8, w, :12].view("i4") == s[:12].sum()).all() and not y[8, w, 12:].any()


@pytest.mark.parametrize(
    "options", [*ORDERS[:4], {"checks": False}, {"checks": False, "threads": 2}], ids=lambda o: "-".join(map(str, o.values()))
)
def test_atomics(options: dict[str, Any]) -> None:
    x = np.random.default_rng(3).integers(0, 1000, 96).astype(np.uint32)
    y = np.zeros(192, np.uint32)
    y[1], y[3], y[28:30] = 1000, 0xFFFFFFFF, (7, 0)
    run(WARP, "atomics", 1, 96, x, y, np.int32(0), **options)
    v = (x % 16).astype(int)
    inc, dec = 96 % 11, (-96) % 11
    assert y[:11].view("i4").tolist() == [
        v.sum(),
        v.min() + 3,
        v.max(),
        np.bitwise_and.reduce(~(1 << v)),
        np.bitwise_or.reduce(1 << v),
        np.bitwise_xor.reduce(1 << (v & 7)),
        -v.sum(),
        inc,
        dec,
        -v.max(),
        0,
    ]
    assert (
        y[12:14].view("u8")[0] == 0x100000001 * v.sum() and y[14:15].view("f4")[0] == v.sum() / 2 and y[16:18].view("f8")[0] == v.sum() / 4
    )
    assert y[18] == 96 and sorted(y[64:160]) == list(range(96)) and y[19] == v.sum() and y[20:22].view("u8")[0] == int(v.max()) << 40
    assert y[24:28].tolist() == np.bincount(v & 3, minlength=4).tolist() and y[28] == 9
    assert y[30:32].view("f2").tolist() == [48, 96, 24, 0]


ASYNC = r"""
struct P { const float* x; float* y; int n; };
#define T threadIdx.x
__device__ __forceinline__ void copy16(void* s, const void* g) { asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"((unsigned)__cvta_generic_to_shared(s)), "l"(g) : "memory"); }
__device__ __forceinline__ void copy4(void* s, const void* g, int n) { asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" :: "r"((unsigned)__cvta_generic_to_shared(s)), "l"(g), "r"(n) : "memory"); }
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wait() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }
__device__ __forceinline__ void wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }
template <int AHEAD, bool BARRIER, bool LAST> __device__ void pipeline(const P& p) {  // three buffers of 64 float4, a sum over all tiles
  __shared__ float4 s[3][64]; float r = 0; const float4* g = reinterpret_cast<const float4*>(p.x);
  for (int k = 0; k < 2; ++k) { copy16(&s[k][T], g + 64 * k + T); commit(); }
  for (int k = 0; k < p.n; ++k) { wait<AHEAD>(); __syncthreads(); if (k + 2 < p.n) copy16(&s[(k + 2) % 3][T], g + 64 * (k + 2) + T); commit(); float4 v = s[k % 3][63 - T]; r += v.x + 2 * v.y + 3 * v.z + 4 * v.w; if (BARRIER) __syncthreads(); }
  p.y[T] = r; }
extern "C" __global__ void right(const __grid_constant__ P p) { pipeline<1, false, true>(p); }
extern "C" __global__ void barriers(const __grid_constant__ P p) { pipeline<1, true, true>(p); }
extern "C" __global__ void early(const __grid_constant__ P p) { pipeline<2, true, true>(p); }
extern "C" __global__ void unordered(const __grid_constant__ P p) { __shared__ float s[64]; copy4(s + T, p.x + T, 4); wait_all(); p.y[T] = s[p.n ? 63 - T : T]; }
extern "C" __global__ void no_wait(const __grid_constant__ P p) { __shared__ float s[64]; copy4(s + T, p.x + T, 4); if (p.n) wait_all(); p.y[T] = s[T]; }
extern "C" __global__ void partial(const __grid_constant__ P p) { __shared__ float s[64]; copy4(s + T, p.x + (T < p.n ? T : 1 << 20), T < p.n ? 4 : 0); commit(); wait<0>(); __syncthreads(); p.y[T] = s[63 - T]; }
extern "C" __global__ void bytes(const __grid_constant__ P p) { __shared__ float s[64]; copy4(s + T, p.x + T, p.n); wait_all(); p.y[T] = s[T]; }
extern "C" __global__ void overwritten(const __grid_constant__ P p) { __shared__ float s[64]; s[T] = p.x[T]; __syncthreads(); float v = s[63 - T]; if (p.n) __syncthreads(); copy4(s + T, p.x + T, 4); wait_all(); p.y[T] = v + s[T]; }
"""


@pytest.mark.parametrize("copies", ["lazy", "eager"])
def test_asynchronous_copies(copies: str) -> None:
    x = np.random.default_rng(6).normal(size=256 * 9).astype(np.float32)
    tiles = x.reshape(9, 64, 4)[:, ::-1].astype(float)
    for options in ORDERS:
        options = {**options, "async_copies": copies}

        def go(name: str, n: int, options: dict[str, Any] = options) -> Array:
            y = np.zeros(64, np.float32)
            run(ASYNC, name, 1, 64, x, Out(y), np.int32(n), **options)
            return y

        for n in (2, 3, 9):
            expected = (tiles[:n] @ [1, 2, 3, 4]).sum(0)
            assert np.allclose(go("right", n), expected, atol=1e-4) and np.allclose(go("barriers", n), expected, atol=1e-4)
            if n > 2:
                with pytest.raises(KernelFault, match=r"cp\.async that was not waited for"):
                    go("early", n)
        assert np.array_equal(go("unordered", 0), x[:64]) and np.array_equal(go("no_wait", 1), x[:64])
        for name, n in (("unordered", 1), ("no_wait", 0)):
            with pytest.raises(KernelFault) as e:
                go(name, n)
            assert e.value.kind in (executor.RACE, executor.UNINITIALISED_READ)
        assert np.array_equal(go("partial", 40), np.where(np.arange(64) < 40, x[:64], 0)[::-1])
        for n in range(5):
            assert np.array_equal(go("bytes", n), (x[:64].view(np.uint32) & np.uint32((1 << 8 * n) - 1)).view(np.float32))
        assert np.allclose(go("overwritten", 1), x[:64] + x[:64][::-1])
        with pytest.raises(KernelFault, match="race"):
            go("overwritten", 0)


def test_counters() -> None:
    source = r"""
struct P { const float* x; float* y; int n; };
extern "C" __global__ void k(const __grid_constant__ P p) { __shared__ float s[32 * 32]; int t = threadIdx.x; float v = p.x[t] + p.x[t * 8]; s[t] = v; __syncthreads(); v = s[t ^ 1]; __syncthreads(); s[t * 32 % 1024] = v; __syncthreads();
  v += s[t * 2 % 64 * 16] * 0 + p.x[3]; v = v * 2.0f + 1.0f; v = __shfl_xor_sync(~0u, v, 1); if (t & 1) atomicAdd(p.y + 40, 1.0f); p.y[t] = v; reinterpret_cast<float4*>(p.y)[16 + t] = make_float4(v, v, v, v); }"""
    source = source.replace("s[t * 2 % 64 * 16]", "s[t * 32]")
    raw = np.zeros(600, np.float32)
    first = -raw.ctypes.data % 128 // 4
    x, y = raw[first : first + 256], raw[first + 256 : first + 512]  # on sectors' boundaries
    c = run(source, "k", 1, 32, x, y, np.int32(0))
    assert (c.global_load_requests, c.global_load_sectors, c.global_load_bytes) == (3, 4 + 32 + 1, 3 * 128)
    assert (c.global_store_requests, c.global_store_sectors, c.global_atomics) == (3, 4 + 16 + 1, 16)
    assert (c.shared_store_requests, c.shared_store_wavefronts, c.shared_store_ideal) == (2, 33, 2)
    assert (c.shared_load_requests, c.shared_load_wavefronts, c.shared_load_ideal) == (2, 33, 2)
    assert (c.barriers, c.shuffles) == (3, 1)
    assert c.fp32_flops >= 32 * 3 and c.atomics == 1 and c.instructions > 30
    for options in ({"checks": False}, {"order": "random"}, {"order": "reverse"}):
        other = run(source, "k", 1, 32, x, y, np.int32(0), **options)
        assert (other.lane_instructions, other.fp32_flops, other.global_load_sectors) == (
            c.lane_instructions,
            c.fp32_flops,
            c.global_load_sectors,
        )


def test_functions_of_a_module() -> None:
    source = r"""struct A { double d; char c; int n[5]; }; extern "C" __global__ void __launch_bounds__(96) one(const __grid_constant__ A a) { __shared__ int s[100]; s[threadIdx.x] = a.n[threadIdx.x % 5]; __syncthreads(); *(int*)(size_t)a.d = s[99 - threadIdx.x]; }
extern "C" __global__ void two(char c, short h, int i, long long l, const float* p) {}"""
    f = module(source).functions
    assert (f["one"].param_bytes, f["one"].static_shared, f["one"].max_threads) == (32, 400, 96)
    assert (f["two"].param_bytes, f["two"].static_shared, f["two"].max_threads, f["two"].registers) == (24, 0, None, 0)
    address, size = module(CONTROL).variable("scale")
    assert size == 16 and address


@pytest.mark.parametrize("arch", ["compute_75", "compute_80", "compute_86", "compute_89", "compute_90", "compute_100", "compute_120"])
def test_architectures(arch: str) -> None:
    x = (np.arange(96) % 37).astype(np.int32)
    y = np.zeros(96, np.int32)
    run(CONTROL, "calls", 1, 96, x, Out(y), np.int32(96), arch=arch)
    z = np.zeros(96, np.int32)
    run(CONTROL, "calls", 1, 96, x, Out(z), np.int32(96))
    assert np.array_equal(y, z)
    Module(compile_ptx(WARP.split("K(redux)")[0] if arch == "compute_75" else WARP, arch))


def test_unsupported() -> None:
    ptx = compile_ptx('extern "C" __global__ void k(int* p) { *p = 3; }')
    with pytest.raises(UnsupportedPtx, match=r"line \d+: .*'frobnicate\.u32 %r1, %r1;' in k"):
        Module(ptx.replace("ret;", "frobnicate.u32 %r1, %r1;\n ret;"))
    with pytest.raises(UnsupportedPtx, match=r"modifier \.sideways"):
        Module(ptx.replace("st.global.u32", "st.sideways.global.u32"))
    with pytest.raises(UnsupportedPtx, match="register"):
        Module(ptx.replace("ret;", "add.u32 %r999, %r1, %r1;\n ret;"))
    with pytest.raises(UnsupportedPtx, match="label"):
        Module(ptx.replace("ret;", "bra NOWHERE;\n ret;"))


def test_labels_have_scopes() -> None:
    loop = "{ .reg .pred p; .reg .u32 k; mov.u32 k, 0; AGAIN: add.u32 %0, %0, %1; add.u32 k, k, 1; setp.lt.u32 p, k, %1; @p bra AGAIN; }"
    source = f'struct P {{ const unsigned* x; unsigned* y; }}; extern "C" __global__ void k(const __grid_constant__ P p) {{ unsigned v = p.x[threadIdx.x], r = 0; asm volatile("{loop}" : "+r"(r) : "r"(v)); asm volatile("{loop}" : "+r"(r) : "r"(v + 1)); p.y[threadIdx.x] = r; }}'
    x, y = np.arange(1, 33, dtype=np.uint32), np.zeros(32, np.uint32)
    run(source, "k", 1, 32, x, Out(y))
    assert np.array_equal(y, x * x + (x + 1) * (x + 1))


ACCESS = [(t, n) for t in ("u8", "s8", "u16", "s16", "b32", "b64") for n in (1, 2, 4) if n * int(t[1:]) <= 128] + [("b32", 8), ("b64", 4)]


@pytest.mark.parametrize("t, n", ACCESS, ids=lambda v: str(v))
def test_loads_and_stores(t: str, n: int) -> None:
    """Vectors of every type through shared, local and global memory, by address and by lane scattered, in order and all the same."""
    size = int(t[1:]) // 8
    reg, letter = ("unsigned long long", "l") if size == 8 else ("unsigned", "r")
    vec = f".v{n}" if n > 1 else ""

    def access(op: str, space: str, at: str) -> str:
        regs = ", ".join(f"%{k}" for k in range(n))
        outputs = ", ".join(f'"{"=" if op == "ld" else ""}{letter}"(r[{k}])' for k in range(n))
        group = "{" + regs + "}" if n > 1 else regs
        kind = t if op == "ld" else t.replace("s", "u")
        text = f"ld{space}{vec}.{kind} {group}, [%{n}];" if op == "ld" else f"st{space}{vec}.{kind} [%{n}], {group};"
        if op == "ld":
            return f'asm volatile("{text}" : {outputs} : "l"({at}) : "memory");'
        return f'asm volatile("{text}" :: {outputs}, "l"({at}) : "memory");'

    inside = [
        access("st", ".shared", f"__cvta_generic_to_shared(s + p.to[t] * {size * n})"),
        access("ld", "", f"s + p.to[t] * {size * n}"),
        access("st", "", f"l + (t & 1) * {size * n}"),
        access("ld", "", f"l + (t & 1) * {size * n}"),
    ]
    source = f"""
struct P {{ const int *from, *to; const char* x; char* y; {reg}* wide; int n; }};
extern "C" __global__ void k(const __grid_constant__ P p) {{
  __shared__ __align__(32) char s[64 * {size * n}]; __align__(32) char l[{2 * size * n}]; int t = threadIdx.x; if (t >= p.n) return; {reg} r[{n}];
  {access("ld", ".global", f"__cvta_generic_to_global(p.x + p.from[t] * {size * n})")}
  for (int k = 0; k < {n}; ++k) p.wide[t * {n} + k] = r[k];
  {"".join(inside) if size * n <= 16 else "l[0] = s[0] = 0;"}
  {access("st", ".global", f"__cvta_generic_to_global(p.y + p.to[t] * {size * n})")} }}"""
    rng = np.random.default_rng(9)
    dtype = np.dtype(f"{'i' if t[0] == 's' else 'u'}{size}")
    raw = np.zeros(64 * 64 + 64, np.uint8)
    first = -raw.ctypes.data % 64
    arch = "compute_100" if n * size > 16 else "compute_80"
    for start in (rng.permutation(64), np.arange(64), np.full(64, 7), np.arange(64)[::-1].copy()):
        for to in (rng.permutation(64), np.arange(64)):
            for active in (64, 45):
                x = raw[first : first + 64 * n * size]
                x[:] = rng.integers(0, 256, len(x))
                out = np.zeros(64 * n * size + 64, np.uint8)
                y = out[-out.ctypes.data % 64 :][: 64 * n * size]
                values = np.zeros((64, n), np.uint32 if size < 8 else np.uint64)
                run(source, "k", 1, 64, start.astype(np.int32), to.astype(np.int32), x, y, values, np.int32(active), arch=arch)
                rows = x.view(dtype).reshape(64, n)[start]
                expected = np.zeros((64, n), dtype)
                expected[to[:active]] = rows[:active]
                assert np.array_equal(y.view(dtype).reshape(64, n), expected)
                assert np.array_equal(values[:active], rows[:active].astype(values.dtype))


def test_recursion_is_unsupported() -> None:
    source = "__device__ __noinline__ int f(int n, int* p) { return n < 2 ? *p : f(n - 1, p) * n; }"
    with pytest.raises(UnsupportedPtx, match="recursion"):
        module(source + 'extern "C" __global__ void k(int* p) { *p = f(*p, p); }')


def test_cache_hints_and_packing() -> None:
    source = r"""
struct P { const float4* x; float4* y; int n; };
extern "C" __global__ void k(const __grid_constant__ P p) { int i = threadIdx.x; float4 a = __ldg(p.x + i), b = __ldcs(p.x + i), c = __ldcg(p.x + i), d = __ldlu(p.x + i), e = __ldcv(p.x + i), f, g;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(f.x), "=f"(f.y), "=f"(f.z), "=f"(f.w) : "l"(p.x + i));
  asm volatile("{ .reg .b64 q; createpolicy.fractional.L2::evict_last.b64 q, 1.0; ld.global.L1::evict_last.L2::cache_hint.v4.f32 {%0, %1, %2, _}, [%4], q; prefetch.global.L2 [%4]; mov.f32 %3, 0f40000000; }" : "=f"(g.x), "=f"(g.y), "=f"(g.z), "=f"(g.w) : "l"(p.x + i));
  unsigned q; asm volatile("cvt.pack.sat.u8.s32.b32 %0, %1, %2, %3;" : "=r"(q) : "r"(300), "r"(-5), "r"(0x1234));
  __stcs(p.y + i, make_float4(a.x + b.y, c.z + d.w, e.x * f.y, g.x * g.y + g.z + g.w)); __stcg(p.y + i + 32, a); __stwt(p.y + i + 64, b); __stwb(p.y + i + 96, make_float4(q, 0, 0, 0)); }"""
    x, y = np.arange(128, dtype=np.float32).reshape(32, 4), np.zeros((4, 32, 4), np.float32)
    run(source, "k", 1, 32, x, Out(y), np.int32(0))
    assert np.array_equal(y[0], np.stack([x[:, 0] + x[:, 1], x[:, 2] + x[:, 3], x[:, 0] * x[:, 1], x[:, 0] * x[:, 1] + x[:, 2] + 2], 1))
    assert np.array_equal(y[1], x) and np.array_equal(y[2], x) and (y[3, :, 0] == 0x1234FF00).all()


def test_assert_is_a_trap() -> None:
    with pytest.raises(KernelFault, match=r"(?s)trap.*thread \(5,0,0\).*assertion"):
        run(
            '#include <assert.h>\nextern "C" __global__ void k(const int* p) { assert(p[threadIdx.x] != 5); }'.replace(
                "#include <assert.h>\n", ""
            ),
            "k",
            1,
            32,
            np.arange(32, dtype=np.int32),
        )
    assert pack(np.int32(1), np.float64(2)) == b"\1\0\0\0\0\0\0\0" + np.float64(2).tobytes()
