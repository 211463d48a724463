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
PRECISIONS = ["bf16", "fp16", "int8"]
HALVES = ["bf16", "fp16"]


def rounded(a: Array, b: Array, precision: str) -> tuple[Array, Array]:
    """The operands as `precision` rounds them, not for int8."""
    if precision == "bf16":
        return a.astype(BF16).astype(np.float32), b.astype(BF16).astype(np.float32)
    return a, b.astype(np.float16).astype(np.float32)


def gemm(a: Array, b: Array, y: Any, precision: str, **options: Any) -> Array:
    (out,) = run("gemm", [a, b], [y], {"alpha": options.pop("alpha", 1.0), "precision": precision}, consts=[1], **options)
    return out


@pytest.mark.parametrize("precision", HALVES)
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


@pytest.mark.parametrize("precision", HALVES)
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


@pytest.mark.parametrize("precision", HALVES)
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
        assert np.isnan(y[0]).all() and (np.isnan(y[1]) if precision == "int8" else np.isposinf(y[1])).all()
        np.testing.assert_allclose(y[2:], 40, rtol=1e-6)
        a[:2] = 1
        b[5, 0], b[5, 1] = np.nan, -np.inf
        y = gemm(a, b, ((m, 50), np.float32), precision)
        assert np.isnan(y[:, 0]).all() and (np.isnan(y[:, 1]) if precision == "int8" else np.isneginf(y[:, 1])).all()
        np.testing.assert_allclose(y[:, 2:], 40, rtol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_empty_sum_and_refusals(precision: str) -> None:
    assert not gemm(np.zeros((3, 0), np.float32), np.zeros((0, 5), np.float32), np.full((3, 5), 7, np.float32), precision).any()
    a, b = np.zeros((3, 4), np.float32), np.zeros((4, 5), np.float32)
    with pytest.raises(Exception, match="gemm: a reduced precision"):
        run("gemm", [a, b], [((3, 5), np.float32)], {"precision": precision})
    with pytest.raises(Exception, match="gemm: a reduced precision"):
        run("gemm", [a.astype(np.float64), b.astype(np.float64)], [((3, 5), np.float64)], {"precision": precision}, consts=[1])


def int8_oracle(a: Array, b: Array, alpha: float = 1.0) -> Array:
    (y,) = ref.execute("gemm", [a, b], [((*a.shape[:-1], b.shape[-1]), np.dtype(np.float32))], {"precision": "int8", "alpha": alpha})
    assert y is not None
    return y


def test_int8_equals_the_reference() -> None:
    """Quantised values and sums are the same integers; what follows are at most four roundings of the result (sum, scales, product, alpha)."""
    rng = np.random.default_rng(3)
    for m, n, k in [*SHAPES, (5, 40, 255), (14, 33, 256), (3, 64, 257)]:
        a, b = normal(rng, (m, k), np.float32), normal(rng, (k, n), np.float32)
        a[0] = np.abs(a[0])  # a zero point at the end of the range
        y = gemm(a, b, ((m, n), np.float32), "int8", threads=2)
        np.testing.assert_allclose(y, int8_oracle(a, b), rtol=4 * 2.0**-24, atol=0)
    for _ in range(40):
        batch = tuple(int(x) for x in rng.integers(1, 4, int(rng.integers(0, 3))))
        m, n, k = (int(x) for x in rng.integers(1, 90, 3))
        a = strided(rng, normal(rng, (*batch, m, k), np.float32))
        b = np.broadcast_to(strided(rng, normal(rng, (k, n), np.float32)), (*batch, k, n))
        alpha = float(rng.choice([1.0, -1.5]))
        y = gemm(a, b, strided(rng, np.zeros((*batch, m, n), np.float32)), "int8", alpha=alpha)
        np.testing.assert_allclose(y, int8_oracle(a, b, alpha), rtol=4 * 2.0**-24, atol=0)


def test_int8_error() -> None:
    """Each operand is off by at most half a step of its row or column: |y - ab| <= sum |a| sb/2 + |b| sa/2 + sa sb/4 (and float32's rounding).

    A quantised row may be clamped by one more half step where zero point and value both round away, so a whole step of the row is allowed.
    """
    rng = np.random.default_rng(4)
    for m, n, k in [(1, 300, 129), (29, 80, 333), (100, 64, 2000)]:
        a, b = normal(rng, (m, k), np.float32), normal(rng, (k, n), np.float32)
        y = gemm(a, b, ((m, n), np.float32), "int8")
        sa = (np.maximum(a.max(1), 0) - np.minimum(a.min(1), 0))[:, None] / 255.0
        sb = np.abs(b).max(0)[None] / 127.0
        bound = np.abs(a).sum(1)[:, None] * sb / 2 + np.abs(b).sum(0)[None] * sa + k * sa * sb / 2
        error = np.abs(y - exact(a, b))
        assert (error <= bound * (1 + 1e-5)).all()
        assert (
            np.sqrt((error**2).mean() / (exact(a, b) ** 2).mean()) < 0.02
        )  # steps of 1/40 and 1/30 deviation: 0.0075 and 0.0095, uncorrelated


@pytest.mark.parametrize("name", [*LINEAR, *OTHER])
def test_int8_epilogues(name: str) -> None:
    fn = LINEAR.get(name) or OTHER[name]
    rng = np.random.default_rng(7)
    for m, n, k in [(1, 40, 9), (3, 33, 20), (20, 70, 30), (30, 50, 2600), (9, 1, 12)]:
        a, b = normal(rng, (2, m, k), np.float32), normal(rng, (2, k, n), np.float32)
        c, r = np.broadcast_to(normal(rng, (n,), np.float32), (2, m, n)), normal(rng, (2, m, n), np.float32)
        (y,) = run("gemm", [a, b], [r.copy()], {"precision": "int8"}, consts=[1], epilogue=fn, epi_ins=[c, r])
        (same,) = run("gemm", [a, b], [y.copy()], {"precision": "int8"}, consts=[1], epilogue=fn, epi_ins=[c, r], threads=2)
        assert same_bits(y, same)
        acc = int8_oracle(a, b).astype(np.float64)
        check(
            y, reference_program(name, acc, c.astype(np.float64), r.astype(np.float64)), (np.abs(acc) + np.abs(c) + 8) * (2 + np.abs(r)), 4
        )


def test_int8_ranges_at_the_ends() -> None:
    a = np.zeros((6, 8), np.float32)
    a[1], a[2], a[3, 0], a[4], a[5] = 1e-38, 3e38, -2.5, np.float32(2.0**-101), 1
    a[2, 0] = -3e38  # the width overflows
    b = np.eye(8, dtype=np.float32)
    for rows in (a, a[:3]):
        y = gemm(rows, b, ((len(rows), 8), np.float32), "int8")
        np.testing.assert_allclose(y, int8_oracle(rows, b), rtol=1e-6)
        assert not y[0].any() and not y[1].any() and np.isnan(y[2]).all()
    assert y.shape == (3, 8)
    with pytest.raises(Exception, match="65536"):
        gemm(np.zeros((1, 65537), np.float32), np.zeros((65537, 1), np.float32), ((1, 1), np.float32), "int8")


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BF16], ids=str)
def test_16_bit_models_keep_constant_matrices_in_16_bits(dtype: Any) -> None:
    rng = np.random.default_rng(8)
    for m, n, k in [(1, 70, 65), (4, 33, 64), (30, 96, 1700), (250, 600, 40)]:
        a, b = normal(rng, (2, m, k), dtype), normal(rng, (k, n), dtype)
        c, r = np.broadcast_to(normal(rng, (n,), dtype), (2, m, n)), normal(rng, (2, m, n), dtype)
        wide = np.broadcast_to(b, (2, k, n))
        said: list[str] = []
        options: dict[str, Any] = {"consts": [1], "epilogue": lambda acc, x, y: E.relu(acc + x) + y, "epi_ins": [c, r]}
        ys = [run("gemm", [a, wide], [((2, m, n), dtype)], threads=t, describe=said, **options)[0] for t in (1, 2)]
        assert same_bits(*ys) and all("f16 " in s for s in said)
        want = np.maximum(exact(a, b) + c.astype(np.float64), 0) + r.astype(np.float64)
        mag = magnitude(a, b) + np.abs(c.astype(np.float64)) + np.abs(r.astype(np.float64))
        steps = 3 * 2.0 ** (-11 if dtype == np.float16 else -8)  # the product, the sum and the result are rounded to 16 bits each
        assert (np.abs(ys[0].astype(np.float64) - want) <= mag * ((2 * k + 4) * 2.0**-24 + steps)).all()
