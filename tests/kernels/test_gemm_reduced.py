"""`gemm` in reduced precision: against NumPy in float64 on operands that were rounded as the specification says.

Bound: that of test_gemm.py, with the rounded operands (whose products float32 holds exactly, or rounds once in the multiply-add).
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt.kernels import ref
from pytensor_rt.lowering import expr as E

from .harness import run, strided
from .test_gemm import LINEAR, OTHER, SHAPES, check, exact, magnitude, normal, reference_program, same_bits

BF16 = np.dtype(ml_dtypes.bfloat16)
Array = np.ndarray[Any, Any]
PRECISIONS = ["bf16", "fp16"]


def rounded(a: Array, b: Array, precision: str) -> tuple[Array, Array]:
    if precision == "bf16":
        return a.astype(BF16).astype(np.float32), b.astype(BF16).astype(np.float32)
    return a, b.astype(np.float16).astype(np.float32)


def gemm(a: Array, b: Array, y: Any, precision: str, **options: Any) -> Array:
    (out,) = run("gemm", [a, b], [y], {"alpha": options.pop("alpha", 1.0), "precision": precision}, consts=[1], **options)
    return out


@pytest.mark.parametrize("precision", PRECISIONS)
def test_shapes(precision: str) -> None:
    rng = np.random.default_rng(1)
    for m, n, k in SHAPES:
        a, b = normal(rng, (m, k), np.float32), normal(rng, (k, n), np.float32)
        y = gemm(a, b, ((m, n), np.float32), precision)
        p, q = rounded(a, b, precision)
        check(y, exact(p, q), magnitude(p, q), k)
        (oracle,) = ref.execute("gemm", [a, b], [((m, n), np.dtype(np.float32))], {"precision": precision})
        assert oracle is not None
        check(oracle, exact(p, q), magnitude(p, q), k)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_any_strides_and_batches(precision: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        nb = int(rng.integers(0, 3))
        batch = tuple(int(x) for x in rng.integers(1, 4, nb))
        m, n, k = (int(x) for x in rng.integers(1, 80, 3))
        keep_a, keep_b = rng.random(nb) < 0.6, rng.random(nb) < 0.6
        a = strided(rng, normal(rng, (*np.where(keep_a, batch, 1), m, k), np.float32))
        b = strided(rng, normal(rng, (*np.where(keep_b, batch, 1), k, n), np.float32))
        a, b = np.broadcast_to(a, (*batch, m, k)), np.broadcast_to(b, (*batch, k, n))
        y = strided(rng, np.zeros((*batch, m, n), np.float32))
        alpha = float(rng.choice([1.0, 0.125, -1.5]))
        gemm(a, b, y, precision, alpha=alpha, threads=int(rng.integers(1, 3)))
        p, q = rounded(a, b, precision)
        check(y, alpha * exact(p, q), abs(alpha) * magnitude(p, q), k)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", [*LINEAR, *OTHER])
def test_epilogues(name: str, in_place: bool, precision: str) -> None:
    fn = LINEAR.get(name) or OTHER[name]
    rng = np.random.default_rng(7)
    for m, n, k in [(1, 40, 9), (3, 33, 20), (20, 70, 30), (30, 50, 2600), (9, 1, 12)]:
        a, b = normal(rng, (2, m, k), np.float32), normal(rng, (2, k, n), np.float32)
        c = np.broadcast_to(normal(rng, (n,), np.float32), (2, m, n))
        residual = normal(rng, (2, m, n), np.float32)
        r = residual.copy()
        y = gemm(a, b, r if in_place else np.zeros_like(r), precision, epilogue=fn, epi_ins=[c, r])
        p, q = rounded(a, b, precision)
        c64, r64 = c.astype(np.float64), residual.astype(np.float64)
        mag = magnitude(p, q) + np.abs(c64) + np.abs(r64)
        if name in OTHER:
            mag = mag * (1.2 + np.abs(r64)) + 8 * np.abs(r64) + 8  # as in test_gemm.epilogue_case
        check(y, reference_program(name, exact(p, q), c64, r64), mag, k)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("m,n,k", [(1, 700, 300), (3, 500, 200), (7, 900, 1100), (200, 96, 3000), (50, 300, 65), (300, 1, 200)])
def test_same_bits_for_any_thread_count(m: int, n: int, k: int, precision: str) -> None:
    rng = np.random.default_rng(6)
    a, b, r = normal(rng, (2, m, k), np.float32), normal(rng, (2, k, n), np.float32), normal(rng, (2, m, n), np.float32)
    ys = [
        gemm(a, b, ((2, m, n), np.float32), precision, threads=t, epilogue=lambda acc, x: E.relu(acc + x), epi_ins=[r]) for t in (1, 2, 5)
    ]
    assert same_bits(ys[0], ys[1]) and same_bits(ys[0], ys[2])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_values_that_are_not_finite(precision: str) -> None:
    for m in (2, 9):
        a, b = np.ones((m, 40), np.float32), np.ones((40, 50), np.float32)
        a[0, 3], a[1, 4] = np.nan, np.inf
        y = gemm(a, b, ((m, 50), np.float32), precision)
        assert np.isnan(y[0]).all() and np.isposinf(y[1]).all() and (y[2:] == 40).all()
        a[:2] = 1
        b[5, 0], b[5, 1] = np.nan, -np.inf
        y = gemm(a, b, ((m, 50), np.float32), precision)
        assert np.isnan(y[:, 0]).all() and np.isneginf(y[:, 1]).all() and (y[:, 2:] == 40).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_empty_sum_and_refusals(precision: str) -> None:
    assert not gemm(np.zeros((3, 0), np.float32), np.zeros((0, 5), np.float32), np.full((3, 5), 7, np.float32), precision).any()
    a, b = np.zeros((3, 4), np.float32), np.zeros((4, 5), np.float32)
    with pytest.raises(Exception, match="gemm: a reduced precision"):
        run("gemm", [a, b], [((3, 5), np.float32)], {"precision": precision})
    with pytest.raises(Exception, match="gemm: a reduced precision"):
        run("gemm", [a.astype(np.float64), b.astype(np.float64)], [((3, 5), np.float64)], {"precision": precision}, consts=[1])
