"""Mutations of the kernels in csrc/cuda, each of which the verification must catch, and the launches that catch them.

A mutation replaces the `nth` occurrence of a piece of a source file. What must catch it: a KernelFault's kind, "wrong result" (against NumPy, in some
thread order), or "bank conflicts" (from the executor's counters).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytensor_rt.lowering.expr import cast
from tests.kernels import harness

Case = Callable[[int], None]  # runs a launch in thread order 1, 2 or 3 and compares its result with NumPy
F32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Mutation:
    """One change to one file. `caught_by`: any of these."""

    file: str
    old: str
    new: str
    case: Case
    caught_by: tuple[str, ...]
    nth: int = 0

    @property
    def name(self) -> str:
        return f"{self.file}: {' '.join(self.old.split())[:60]} -> {' '.join(self.new.split())[:40] or 'nothing'}"


def _rng() -> np.random.Generator:
    return np.random.default_rng(7)


def transposed(threads: int) -> None:
    x = _rng().standard_normal((70, 90)).astype(np.float32)
    (y,) = harness.run("map", [x.T], [((90, 70), np.float32)], body=lambda v: v * 2.0, threads=threads)
    np.testing.assert_array_equal(y, x.T * 2)


def elements(threads: int) -> None:
    x = _rng().standard_normal((7, 101)).astype(np.float32)
    (y,) = harness.run("map", [x], [((7, 101), np.float32)], body=lambda v: v + 1.0, threads=threads)
    np.testing.assert_array_equal(y, x + np.float32(1))


def vectors(threads: int) -> None:
    x = _rng().standard_normal((30, 64)).astype(np.float32)
    b = np.broadcast_to(x[:, :1], x.shape)
    (y,) = harness.run("map", [x, b], [(x.shape, np.float32)], body=lambda v, w: v + w, threads=threads)
    np.testing.assert_array_equal(y, x + b)


def int_of_float(threads: int) -> None:
    x = np.array([0.5, -1.5, 2.5, 3.5, 300.0, -7.0, np.nan, 1e9], np.float32)
    (y,) = harness.run("map", [x], [(x.shape, np.int8)], body=lambda v: cast(v, np.dtype(np.int8)), threads=threads)
    assert y.tolist()[:4] == [0, -1, 2, 3] and y[4] == 44 and y[5] == -7


def half(threads: int) -> None:
    x = _rng().standard_normal(300).astype(np.float16)
    (y,) = harness.run("map", [x], [(x.shape, np.float16)], body=lambda v: v * 3.0, threads=threads)
    np.testing.assert_array_equal(y, x * np.float16(3))


def summed(threads: int) -> None:
    x = _rng().standard_normal((3, 5000)).astype(np.float32)
    (y,) = harness.run("reduce", [x], [((3, 1), np.float32)], {"op": "sum", "axes": (1,)}, threads=threads)
    np.testing.assert_allclose(y, x.astype(np.float64).sum(1, keepdims=True), rtol=1e-5, atol=1e-4)


def softmax(threads: int) -> None:
    x = (_rng().standard_normal((9, 1000)) * 50).astype(np.float32)
    (y,) = harness.run("softmax", [x], [(x.shape, np.float32)], {"op": "softmax", "axis": 1}, threads=threads)
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(y, e / e.sum(1, keepdims=True), rtol=1e-5, atol=1e-7)


def scanned(threads: int) -> None:
    x = _rng().integers(-9, 9, (2, 3000)).astype(np.int32)
    (y,) = harness.run("scan", [x], [(x.shape, np.int32)], {"op": "sum", "axis": 1}, threads=threads)
    np.testing.assert_array_equal(y, np.cumsum(x, 1, dtype=np.int32))


def normalized(threads: int) -> None:
    x = (_rng().standard_normal((5, 700)) + 100).astype(np.float32)
    (y, _, _) = harness.run(
        "normalize", [x, None, None], [(x.shape, np.float32), None, None], {"op": "layer", "axes": (1,), "epsilon": 1e-5}, threads=threads
    )
    z = x.astype(np.float64)
    np.testing.assert_allclose(y, (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5), rtol=1e-4, atol=1e-4)


def _product(dtype: Any, out: Any, m: int, k: int, n: int, threads: int, tolerance: float) -> None:
    rng = _rng()
    whole = np.dtype(dtype).kind in "iu"
    a, b = [(rng.integers(-9, 9, s) if whole else rng.standard_normal(s)).astype(dtype) for s in ((m, k), (k, n))]
    (y,) = harness.run("gemm", [a, b], [((m, n), out)], threads=threads)
    want = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(y.astype(np.float64), want, rtol=tolerance, atol=tolerance * np.sqrt(k))


def product(threads: int) -> None:
    _product(np.float32, np.float32, 90, 200, 150, threads, 1e-5)


def half_product(threads: int) -> None:
    _product(np.float16, np.float16, 130, 256, 136, threads, 2e-3)


def byte_product(threads: int) -> None:
    _product(np.int8, np.int32, 70, 192, 80, threads, 0)


def sliced_product(threads: int) -> None:
    _product(np.float32, np.float32, 33, 8000, 40, threads, 2e-5)


def convolution(threads: int) -> None:
    from tests.kernels.conv_reference import conv

    rng = _rng()
    x = np.ascontiguousarray(rng.standard_normal((1, 9, 9, 40)).astype(np.float32)).transpose(0, 3, 1, 2)
    w = rng.standard_normal((24, 40, 3, 3)).astype(np.float32)
    params = {"strides": (2, 2), "dilations": (1, 1), "pads": (1, 1, 1, 1), "group": 1}
    (y,) = harness.run("conv", [x, w, None, None, None], [((1, 24, 5, 5), np.float32)], params, threads=threads, consts=(1,))
    np.testing.assert_allclose(y, conv(x, w, None, [2, 2], [1, 1], [1, 1, 1, 1]), rtol=1e-4, atol=1e-4)


def gathered(threads: int) -> None:
    x = _rng().standard_normal((7, 12)).astype(np.float32)
    i = np.array([0, -1, 6, -7, 3])
    (y,) = harness.run("gather", [x, i], [((5, 12), np.float32)], {"mode": "axis", "axis": 0}, threads=threads)
    np.testing.assert_array_equal(y, x[i])
    from pytensor_rt import _native

    try:
        harness.run("gather", [x, np.array([7])], [((1, 12), np.float32)], {"mode": "axis", "axis": 0}, threads=threads)
    except _native.LaunchError:
        return
    raise AssertionError("an index out of range was not reported")


def scattered(threads: int) -> None:
    x, i = np.zeros(50, np.float32), np.array([3] * 20 + [4] + [3] * 20)
    u = (_rng().standard_normal(41) * 1e3).astype(np.float32)
    (y,) = harness.run("scatter", [x, i, u], [((50,), np.float32)], {"mode": "elements", "axis": 0, "reduction": "none"}, threads=threads)
    assert y[3] == u[-1] and y[4] == u[20]


def topped(threads: int) -> None:
    x = _rng().integers(0, 5, (2, 700)).astype(np.float32)
    values, indices = harness.run(
        "topk", [x], [((2, 50), np.float32), ((2, 50), np.int64)], {"axis": 1, "k": 50, "largest": 1, "sorted": 1}, threads=threads
    )
    order = np.argsort(-x, axis=1, kind="stable")[:, :50]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(values, np.take_along_axis(x, order, 1))


def attended(threads: int) -> None:
    rng = _rng()
    q, k, v = [rng.standard_normal((1, 2, n, 40)).astype(np.float32) for n in (70, 150, 150)]
    (y,) = harness.run("attention", [q, k, v, None, None], [((1, 2, 70, 40), np.float32)], {"scale": 0.3}, threads=threads)
    s = 0.3 * np.einsum("bhsd,bhtd->bhst", q.astype(np.float64), k)
    e = np.exp(s - s.max(-1, keepdims=True))
    np.testing.assert_allclose(y, np.einsum("bhst,bhtd->bhsd", e / e.sum(-1, keepdims=True), v), rtol=1e-4, atol=1e-5)


def transformed(threads: int) -> None:
    x = _rng().standard_normal((2, 60, 2)).astype(np.float32)
    (y,) = harness.run("fft", [x], [((2, 60, 2), np.float32)], {"axis": 1}, threads=threads)
    want = np.fft.fft(x[..., 0] + 1j * x[..., 1].astype(np.float64), axis=1)
    np.testing.assert_allclose(y[..., 0] + 1j * y[..., 1], want, atol=1e-4)


def pooled(threads: int) -> None:
    x = _rng().standard_normal((1, 3, 8, 8)).astype(np.float32)
    params = {"op": "average", "kernel": (3, 3), "strides": (2, 2), "dilations": (1, 1), "pads": (1, 1, 2, 2)}
    (y, _) = harness.run("pool", [x], [((1, 3, 5, 5), np.float32), None], params, threads=threads)
    padded, ones = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 2), (1, 2))), np.pad(np.ones((8, 8)), (1, 2))
    for i in range(5):
        for j in range(5):
            s = np.s_[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            np.testing.assert_allclose(y[..., i, j], padded[..., s[0], s[1]].sum((2, 3)) / ones[s].sum(), rtol=1e-5, atol=1e-6)


def random_numbers(threads: int) -> None:
    from pytensor_rt.kernels import ref

    seed, params = np.array([5], np.uint64), {"op": "uniform", "a": 0.0, "b": 1.0, "stream": 3}
    (y,) = harness.run("random", [seed], [((1000,), np.float32)], params, threads=threads)
    (want,) = ref.execute("random", [seed], [((1000,), F32)], params)
    np.testing.assert_array_equal(y, want)


def recurrent(threads: int) -> None:
    from pytensor_rt.kernels import ref

    rng = _rng()
    x, w, r = [rng.standard_normal(s).astype(np.float32) * 0.3 for s in ((6, 3, 20), (1, 160, 20), (1, 160, 40))]
    params = {"cell": "lstm", "direction": "forward", "activations": (0, 1, 1), "alphas": (0.0,) * 3, "betas": (0.0,) * 3}
    ins = [x, w, r, *[None] * 9]
    shapes = [((6, 1, 3, 40), F32), ((1, 3, 40), F32), ((1, 3, 40), F32)]
    got = harness.run("recurrent", ins, shapes, params, threads=threads, consts=(1, 2))
    for a, b in zip(got, ref.execute("recurrent", ins, shapes, params)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def determinant(threads: int) -> None:
    x = _rng().standard_normal((3, 9, 9)).astype(np.float32)
    (y,) = harness.run("linear_algebra", [x], [((3,), np.float32)], {"op": "det"}, threads=threads)
    np.testing.assert_allclose(y, np.linalg.det(x.astype(np.float64)), rtol=1e-5)


def linear_attention(threads: int) -> None:
    from pytensor_rt.kernels import ref

    rng = _rng()
    ins = [rng.standard_normal(s).astype(np.float32) * 0.3 for s in ((1, 2, 3, 40), (1, 1, 3, 40), (1, 1, 3, 33), (1, 1, 40, 33))]
    shapes = [((1, 2, 3, 33), F32), ((2, 1, 1, 40, 33), F32)]
    params = {"scale": 0.5, "delta": 1}
    got = harness.run("linear_attention", [*ins, None, None], shapes, params, threads=threads)
    for a, b in zip(got, ref.execute("linear_attention", [*ins, None, None], shapes, params)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


WRONG = "wrong result"
SYNC = "__syncthreads();"
MUTATIONS = (
    Mutation("map_transpose.cuh", SYNC, "", transposed, ("race", "uninitialised_read")),
    Mutation("map_transpose.cuh", "[TILE + 1]", "[TILE]", transposed, ("bank conflicts",)),
    Mutation("map_transpose.cuh", "if (c[ACROSS] < a.extent[ACROSS] && c[RANK - 1] < a.extent[RANK - 1])", "if (c[ACROSS] < a.extent[ACROSS])", transposed, ("out_of_bounds", "global_race", "uninitialised_read"), nth=1),
    Mutation("map_transpose.cuh", "tile[lane][k]", "tile[k][lane]", transposed, (WRONG, "uninitialised_read")),
    Mutation("map.cuh", "if (i >= a.total) return;", "", elements, ("out_of_bounds",)),
    Mutation("map.cuh", "if (i >= a.total) return;", "if (i > a.total) return;", elements, ("out_of_bounds",)),
    Mutation("map_vectors.cuh", "c[RANK - 1] *= WIDTH;", "", vectors, ("misaligned", "global_race", WRONG)),
    Mutation("view.cuh", "c[k] = i - q * sizes[k].n();", "c[k] = i - q;", vectors, ("out_of_bounds", "misaligned", "global_race", WRONG)),
    Mutation("ops.cuh", "return ok ? static_cast<i32>(x)", "return ok ? __float2int_rn(static_cast<f32>(x))", int_of_float, (WRONG,)),
    Mutation("ptx.cuh", "cvt.rn.f16.f32", "cvt.rz.f16.f32", half, (WRONG,)),
    Mutation("block.cuh", SYNC, "", summed, ("race", "uninitialised_read"), nth=1),
    Mutation("block.cuh", "log2 : 5) >> 1; k > 0", "log2 : 5) >> 2; k > 0", summed, (WRONG,)),
    Mutation("softmax_rows.cuh", "exp_of(v[j][k] - most)", "exp_of(v[j][k])", softmax, (WRONG,)),
    Mutation("scan_rows.cuh", "carry = join(carry, total);", "", scanned, (WRONG,)),
    Mutation("block.cuh", "if (lane >= k) v = join(earlier, v);", "v = join(earlier, v);", scanned, (WRONG,)),
    Mutation("gemm_tiles.cuh", SYNC, "", product, ("race",), nth=1),
    Mutation("gemm_tiles.cuh", "buffer ^= 1;", "", product, ("race", WRONG)),
    Mutation("gemm_tiles.cuh", "row0 + r < rows &&", "row0 + r <= rows &&", product, ("out_of_bounds",)),
    Mutation("gemm_tiles.cuh", "__syncwarp();", "", product, ("race",)),
    Mutation("gemm_sum.cuh", "s < a.slices", "s < a.slices - 1", sliced_product, (WRONG,)),
    Mutation("gemm_mma.cuh", "ptx_copy_async_wait<STAGES - 2>();", "ptx_copy_async_wait<STAGES - 1>();", half_product, ("uninitialised_read", "race", WRONG)),
    Mutation("gemm_mma.cuh", SYNC, "", half_product, ("race", "uninitialised_read")),
    Mutation("ptx.cuh", '"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)', '"r"(a[0]), "r"(a[2]), "r"(a[1]), "r"(a[3]), "r"(b0), "r"(b1)', half_product, (WRONG,)),
    Mutation("ptx.cuh", '"r"(b0), "r"(b1)', '"r"(b1), "r"(b0)', half_product, (WRONG,)),
    Mutation("gemm_mma.cuh", "const int g = lane / 4, t = lane % 4;", "const int g = lane % 8, t = lane / 8;", byte_product, (WRONG,)),
    Mutation("conv_tile_core.cuh", SYNC, "", convolution, ("race",), nth=1),
    Mutation("conv_tile_core.cuh", "if (p >= a.pixels || m >= a.filters) continue;", "", convolution, ("out_of_bounds", "global_race", WRONG)),
    Mutation("index.cuh", "return v >= 0 && v < static_cast<W>(n)", "return v >= 0 && v <= static_cast<W>(n)", gathered, ("out_of_bounds",)),
    Mutation("index.cuh", "raw < 0 ? static_cast<W>(raw) + static_cast<W>(n) :", "", gathered, ("out_of_bounds", WRONG)),
    Mutation("sort.cuh", "const int first = own & ~(2 * run - 1);", "const int first = own & ~(run - 1);", topped, (WRONG, "out_of_bounds", "uninitialised_read")),
    Mutation("sort.cuh", SYNC, "", topped, ("race",), nth=1),
    Mutation("sort.cuh", "const bool second = before(y, x);", "const bool second = before(x, y);", topped, (WRONG, "out_of_bounds")),
    Mutation("linear_attention.cuh", SYNC, "", linear_attention, ("race", "uninitialised_read")),
    Mutation("linear_attention.cuh", "buffer ^= 1;", "", linear_attention, ("race",), nth=1),
    Mutation("attention.cuh", SYNC, "", attended, ("race",), nth=1),
    Mutation("attention.cuh", "sum[i] = sum[i] * factor + add;", "sum[i] = sum[i] + add;", attended, (WRONG,)),
    Mutation("fft.cuh", SYNC, "", transformed, ("race",)),
    Mutation("fft.cuh", "n = {x1.im - x3.im, x3.re - x1.re}", "n = {x3.im - x1.im, x1.re - x3.re}", transformed, (WRONG,)),
    Mutation("pool.cuh", "inside && i >= 0 && i < a.extent[S]", "inside && i >= 0 && i <= a.extent[S]", pooled, ("out_of_bounds", WRONG)),
    Mutation("random.cuh", "round < 10", "round < 9", random_numbers, (WRONG,)),
    Mutation("recurrent_steps.cuh", "sums[g] += shared.parts", "sums[g] = shared.parts", recurrent, (WRONG,)),
    Mutation("determinant.cuh", SYNC, "", determinant, ("race",)),
)  # fmt: skip
