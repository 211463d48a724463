"""The executor's matrix instructions, with fragments laid out by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cupy")

from .executor import KernelFault
from .executor.testing import Out, run

Array = np.ndarray[Any, Any]

# Where the values of a lane lie: strides of lane % 4 and lane / 4, then extents and strides of its values, as offsets into A (row + M · column), B
# (column + 8 · row) and C. From CUTLASS 3.x, include/cute/atom/mma_traits_sm{80,89,90}.hpp, which was written independently of our executor.
Layout = tuple[tuple[int, int], list[tuple[int, int]]]
C16: Layout = ((32, 1), [(2, 16), (2, 8)])
C8: Layout = ((16, 1), [(2, 8)])
LAYOUTS: dict[tuple[str, int], tuple[Layout, Layout, Layout]] = {  # (shape, values per register)
    ("m16n8k8", 2): (((32, 1), [(2, 16), (2, 8)]), ((16, 1), [(2, 8)]), C16),
    ("m16n8k16", 2): (((32, 1), [(2, 16), (2, 8), (2, 128)]), ((16, 1), [(2, 8), (2, 64)]), C16),
    ("m16n8k4", 1): (((16, 1), [(2, 8)]), ((8, 1), []), C16),
    ("m16n8k8", 1): (((16, 1), [(2, 8), (2, 64)]), ((8, 1), [(2, 32)]), C16),
    ("m16n8k16", 1): (((16, 1), [(2, 8), (4, 64)]), ((8, 1), [(4, 32)]), C16),
    ("m8n8k4", 1): (((8, 1), []), ((8, 1), []), C8),
    ("m8n8k16", 4): (((32, 1), [(4, 8)]), ((32, 1), [(4, 8)]), C8),
    ("m16n8k16", 4): (((64, 1), [(4, 16), (2, 8)]), ((32, 1), [(4, 8)]), C16),
    ("m16n8k32", 4): (((64, 1), [(4, 16), (2, 8), (2, 256)]), ((32, 1), [(4, 8), (2, 128)]), C16),
}


def positions(layout: Layout) -> Array:
    """Offsets [lane, value]."""
    (t, g), values = layout
    lane = np.arange(32)
    out = (lane % 4 * t + lane // 4 * g)[:, None]
    for extent, stride in reversed(values):
        out = (out[:, :, None] + np.arange(extent) * stride).reshape(32, -1)
    return out


def fragment(matrix: Array, layout: Layout, transposed: bool = False) -> Array:
    """The registers of all lanes, [register, lane], of a matrix that is stored column by column (transposed: row by row)."""
    flat = matrix.reshape(-1) if transposed else matrix.T.reshape(-1)
    values = np.ascontiguousarray(flat[positions(layout)])  # [lane, value]
    width = 8 if matrix.dtype.itemsize == 8 else 4
    return np.ascontiguousarray(values.view(f"u{width}").T)


def mma_source(shape: str, d: str, a: str, b: str, c: str, extra: str = "") -> tuple[str, tuple[int, int, int, int]]:
    m, k = (int(v) for v in (shape[1 : shape.index("n")], shape[shape.index("k") + 1 :]))
    size = {"f16": 2, "bf16": 2, "tf32": 4, "f64": 8, "s8": 1, "u8": 1, "e4m3": 1, "e5m2": 1}[a]
    na, nb = m * k * size // 32 // (8 if size == 8 else 4), 8 * k * size // 32 // (8 if size == 8 else 4)
    nc, nd = (m * 8 // 32 // (2 if t == "f16" else 1) for t in (c, d))
    word, letter, acc = ("unsigned long long", "l", "d") if size == 8 else ("unsigned", "r", "r")
    if size == 8:  # operands are .f64 registers
        word, letter = "double", "d"
    count = itertools.count()
    group = lambda n: "{" + ", ".join(f"%{next(count)}" for _ in range(n)) + "}"
    regs = ", ".join(group(n) for n in (nd, na, nb, nc))
    ins = ", ".join(f'"{letter}"(p.{x}[{j} * 32 + threadIdx.x])' for x, n in (("a", na), ("b", nb), ("c", nc)) for j in range(n))
    kind = "f" if d == "f32" else acc
    typ = "float" if d == "f32" else word
    outs = ", ".join(f'"={kind}"(d[{j}])' for j in range(nd))
    ins = ins.replace('"r"(p.c', '"f"(((const float*)p.c)').replace("[", "[") if c == "f32" else ins
    code = (
        f"struct P {{ const {word}* a; const {word}* b; const {word}* c; {typ}* d; }};\n"
        f'extern "C" __global__ void mma(const __grid_constant__ P p) {{ {typ} d[{nd}]; '
        f'asm volatile("mma.sync.aligned.{shape}.row.col{extra}.{d}.{a}.{b}.{c} {regs};" : {outs} : {ins}); for (int k = 0; k < {nd}; ++k) p.d[k * 32 + threadIdx.x] = d[k]; }}'
    )
    return code, (na, nb, nc, nd)


MMA = [
    *((s, d, "f16", "f16", d) for s in ("m16n8k8", "m16n8k16") for d in ("f16", "f32")),
    *((s, "f32", "bf16", "bf16", "f32") for s in ("m16n8k8", "m16n8k16")),
    *((s, "f32", "tf32", "tf32", "f32") for s in ("m16n8k4", "m16n8k8")),
    *((s, "f64", "f64", "f64", "f64") for s in ("m8n8k4", "m16n8k4", "m16n8k8", "m16n8k16")),
    *((s, "s32", a, b, "s32") for s in ("m8n8k16", "m16n8k16", "m16n8k32") for a in ("s8", "u8") for b in ("s8", "u8")),
    *(("m16n8k32", "f32", a, b, "f32") for a in ("e4m3", "e5m2") for b in ("e4m3", "e5m2")),
]


def random_matrix(shape: tuple[int, int], t: str, rng: np.random.Generator) -> tuple[Array, Array]:
    """As it lies in registers, and its values."""
    if t in ("s8", "u8"):
        v = rng.integers(-128 if t == "s8" else 0, 128 if t == "s8" else 256, shape).astype(np.int8 if t == "s8" else np.uint8)
        return v, v.astype(np.int64)
    if t in ("e4m3", "e5m2"):
        codes = rng.integers(0, 256, shape).astype(np.uint8)
        codes &= 0xBF if t == "e5m2" else 0xF7  # finite, and not too large
        e, m = (codes >> 3 & 15, codes & 7) if t == "e4m3" else (codes >> 2 & 31, codes & 3)
        bits, bias = (3, 7) if t == "e4m3" else (2, 15)
        v = np.where(e == 0, m * 2.0 ** (1 - bias - bits), (1 + m / 2.0**bits) * 2.0 ** (e.astype(float) - bias))
        return codes, np.where(codes & 128, -v, v)
    v = rng.normal(size=shape)
    if t == "f16":
        h = v.astype(np.float16)
        return h, h.astype(np.float64)
    if t == "bf16":
        u = (v.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return u, (u.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if t == "tf32":
        f = v.astype(np.float32)  # with low bits that must not matter
        return f, (f.view(np.uint32) & 0xFFFFE000).view(np.float32).astype(np.float64)
    return v, v


@pytest.mark.parametrize("shape, d, a, b, c", MMA, ids="-".join)
def test_mma(shape: str, d: str, a: str, b: str, c: str) -> None:
    rng = np.random.default_rng(4)
    m, k = int(shape[1 : shape.index("n")]), int(shape[shape.index("k") + 1 :])
    code, (_, _, _, nd) = mma_source(shape, d, a, b, c)
    ra, va = random_matrix((m, k), a, rng)
    rb, vb = random_matrix((k, 8), b, rng)
    dtype = {"f16": np.float16, "f32": np.float32, "f64": np.float64, "s32": np.int32}[d]
    vc = (rng.integers(-(2**31), 2**31, (m, 8)) if d == "s32" else rng.normal(size=(m, 8))).astype(dtype)
    la, lb, lc = LAYOUTS[shape, 1 if ra.itemsize >= 4 else 4 // ra.itemsize]
    out = np.zeros((nd, 32), np.uint64 if d == "f64" else np.uint32)
    arch = "compute_90" if (d == "f64" and m == 16) else "compute_89" if a[0] == "e" else "compute_80"
    counters = run(code, "mma", 1, 32, fragment(ra, la), fragment(rb, lb, True), fragment(vc, lc), Out(out), arch=arch)
    got = np.zeros(m * 8, dtype)
    got[positions(lc)] = np.ascontiguousarray(out.T).view(dtype)
    got = got.reshape(8, m).T
    if d == "s32":
        expected = (va @ vb + vc).astype(np.int64).astype(np.uint64).astype(np.uint32).view(np.int32)
        assert np.array_equal(got, expected)
    else:
        expected = va @ vb + vc.astype(np.float64)
        tolerance = {"f16": 2e-3, "f32": 2e-6, "f64": 1e-14}[d] * (1 + np.abs(va) @ np.abs(vb))
        assert (np.abs(got - expected) <= tolerance).all()
    assert sum(counters.mma_flops.values()) == 2 * m * 8 * k and sum(counters.mma_instructions.values()) == 1


def test_mma_saturates() -> None:
    code, _ = mma_source("m16n8k32", "s32", "s8", "s8", "s32", ".satfinite")
    la, lb, lc = LAYOUTS["m16n8k32", 4]
    a, b = np.full((16, 32), 127, np.int8), np.full((32, 8), 127, np.int8)
    b[:, ::2] = -128
    c = np.where(np.arange(8) % 2 == 0, -(2**31) + 5, 2**31 - 5) * np.ones((16, 1))
    out = np.zeros((4, 32), np.uint32)
    run(code, "mma", 1, 32, fragment(a, la), fragment(b, lb, True), fragment(c.astype(np.int32), lc), Out(out))
    assert set(out.view(np.int32).ravel()) == {-(2**31), 2**31 - 1}


def test_mma_needs_the_whole_warp() -> None:
    code, _ = mma_source("m16n8k8", "f32", "f16", "f16", "f32")
    code = code.replace("{ float d[4];", "{ float d[4] = {}; if (threadIdx.x > 3)")
    a = np.zeros(512, np.uint32)
    with pytest.raises(KernelFault, match="inactive_lane"):
        run(code, "mma", 1, 32, a, a, a, Out(np.zeros(512, np.float32)))
    with pytest.raises(KernelFault, match="inactive_lane"):
        run(mma_source("m16n8k8", "f32", "f16", "f16", "f32")[0], "mma", 1, 31, a, a, a, Out(np.zeros(512, np.float32)))


@pytest.mark.parametrize("trans", ["", ".trans"])
@pytest.mark.parametrize("num", [1, 2, 4])
def test_matrix_loads_and_stores(num: int, trans: str) -> None:
    outs = ", ".join(f'"=r"(r[{j}])' for j in range(num))
    ins = ", ".join(f'"r"(r[{j}])' for j in range(num))
    regs = "{" + ", ".join(f"%{j}" for j in range(num)) + "}"
    stores = "{" + ", ".join(f"%{j + 1}" for j in range(num)) + "}"
    source = f"""
struct P {{ const uint4* x; unsigned* y; uint4* z; }};
extern "C" __global__ void k(const __grid_constant__ P p) {{ __shared__ uint4 s[64]; __shared__ uint4 t[32]; int l = threadIdx.x; s[l] = p.x[l]; s[l + 32] = p.x[l + 32]; __syncthreads();
  unsigned r[4] = {{}}; unsigned at = (unsigned)__cvta_generic_to_shared(s + (l * 7 + 3) % 64), to = (unsigned)__cvta_generic_to_shared(t + l);
  asm volatile("ldmatrix.sync.aligned.m8n8.x{num}{trans}.shared.b16 {regs}, [%{num}];" : {outs} : "r"(at));
  for (int k = 0; k < {num}; ++k) p.y[k * 32 + l] = r[k];
  asm volatile("stmatrix.sync.aligned.m8n8.x{num}{trans}.shared.b16 [%0], {stores};" :: "r"(to), {ins}); __syncthreads(); if (l < 8 * {num}) p.z[l] = t[l]; }}"""
    x = np.random.default_rng(5).permutation(512).astype(np.uint16)
    y, z = np.zeros((num, 32), np.uint32), np.zeros((8 * num, 8), np.uint16)
    run(source, "k", 1, 32, x, Out(y), Out(z), arch="compute_90")
    rows = x.reshape(64, 8)[(np.arange(8 * num) * 7 + 3) % 64]
    assert np.array_equal(z, rows)
    for j in range(num):
        m = rows[8 * j : 8 * j + 8].T if trans else rows[8 * j : 8 * j + 8]
        assert np.array_equal(y[j].view(np.uint16).reshape(8, 8), m)  # lane l: row l / 4, columns 2 (l % 4) and the next


def test_transposed_registers() -> None:
    source = 'struct P { const unsigned* x; unsigned* y; }; extern "C" __global__ void k(const __grid_constant__ P p) { asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(p.y[threadIdx.x]) : "r"(p.x[threadIdx.x])); }'
    x, y = np.arange(64, dtype=np.uint16).reshape(8, 8), np.zeros((8, 8), np.uint16)
    run(source, "k", 1, 32, x.view(np.uint32), Out(y))
    assert np.array_equal(y, x.T)
