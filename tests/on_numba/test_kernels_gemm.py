"""The cases of float and integer `gemm` on device "numba", and what only these kernels have: tiles of every height, operands read in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt.kernels.numba.plans import gemm_narrow, linear
from pytensor_rt.lowering import expr as E
from tests.kernels.harness import run, strided
from tests.kernels.test_gemm import *  # noqa: F403
from tests.kernels.test_gemm import BF16, check, exact, magnitude, normal, same_bits

NOT_REPLAYED = {
    "test_rows_of_several_batches_fold_when_b_is_shared": "asks the C++ kernel for its tasks; test_batches_fold is the same here",
    "test_long_products_whose_b_stays_in_cache": "asks the C++ kernel for its tasks",
}

Array = np.ndarray[Any, Any]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of the launches of a test, in order."""
    seen: list[Any] = []
    plan = linear.gemm

    def watched(b: Any) -> None:
        plan(b)
        seen.extend(b.calls)

    monkeypatch.setattr(linear, "gemm", watched)
    return seen


def layouts(a: Array) -> list[Array]:
    """The matrix dense along its last axis, along the one before, with a step along both, and backwards."""
    gaps = np.zeros((*a.shape[:-2], 2 * a.shape[-2], 3 * a.shape[-1]), a.dtype)[..., ::2, ::3]
    gaps[...] = a
    return [a, a.swapaxes(-1, -2).copy().swapaxes(-1, -2), gaps, a[..., ::-1].copy()[..., ::-1]]


def test_batches_fold(planned: list[Any]) -> None:
    rng = np.random.default_rng(3)
    a, b = normal(rng, (4, 5, 20, 30), np.float32), normal(rng, (30, 40), np.float32)
    (y,) = run("gemm", [a, np.broadcast_to(b, (4, 5, 30, 40))], [((4, 5, 20, 40), np.float32)], consts=[1])
    check(y, exact(a, b), magnitude(a, b), 30)
    assert len(planned) == 1 and planned[0].units == 3  # 400 rows by at most 192


@pytest.mark.parametrize("const", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64], ids=str)
def test_every_height_of_a_tile(dtype: Any, const: bool) -> None:
    rng = np.random.default_rng(1)
    for m in range(1, 27):
        n, k = int(rng.integers(1, 150)), int(rng.integers(1, 60))
        if dtype in (np.float32, np.float64):
            a, b = normal(rng, (m, k), dtype), normal(rng, (k, n), dtype)
        else:
            a, b = (rng.integers(-(2**30), 2**30, s).astype(dtype) for s in ((m, k), (k, n)))
        (y,) = run("gemm", [a, b], [((m, n), dtype)], consts=[1] if const else [])
        if dtype in (np.float32, np.float64):
            check(y, exact(a, b), magnitude(a, b), k)
        else:
            np.testing.assert_array_equal(y, a @ b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, BF16], ids=str)
def test_layouts_give_the_same_sums(dtype: Any) -> None:
    rng = np.random.default_rng(2)
    for m, n, k in [(37, 70, 900), (2, 70, 900), (5, 33, 20)]:
        a, b = normal(rng, (m, k), dtype), normal(rng, (k, n), dtype)
        for x in layouts(a):
            for w in layouts(b):
                for consts in ([], [1]):
                    (y,) = run("gemm", [x, w], [((m, n), dtype)], consts=consts, threads=2)
                    check(y, exact(a, b), magnitude(a, b), k)


def test_sums_do_not_depend_on_how_the_problem_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    a, b = normal(rng, (50, 1000), np.float32), normal(rng, (1000, 200), np.float32)
    (want,) = run("gemm", [a, b], [((50, 200), np.float32)], consts=[1])
    monkeypatch.setattr(linear, "ROWS", 12)
    monkeypatch.setattr(linear, "DEPTH", 48)
    monkeypatch.setattr(linear, "BLOCK_BYTES", 4096)
    for consts in ([], [1]):
        (y,) = run("gemm", [a, b], [((50, 200), np.float32)], consts=consts, threads=3)
        assert same_bits(y, want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=str)
def test_few_rows_or_columns_are_dot_products(dtype: Any, planned: list[Any]) -> None:
    rng = np.random.default_rng(4)
    for few in (1, 2, 3, 4):
        for n, k in [(70, 40), (5, 16), (301, 67), (1030, 129)]:
            a, b = normal(rng, (3, few, k), dtype), normal(rng, (3, n, k), dtype)
            r = normal(rng, (3, few, n), dtype)
            y = r.copy()
            run("gemm", [a, b.swapaxes(1, 2)], [y], {"alpha": 0.5}, epilogue=lambda acc, x: acc + x, epi_ins=[y], threads=2)
            check(y, 0.5 * exact(a, b.swapaxes(1, 2)) + r, magnitude(a, b.swapaxes(1, 2)) + np.abs(r), k)
            out = strided(rng, np.zeros((3, n, few), dtype))
            run("gemm", [b, a.swapaxes(1, 2)], [out])
            check(out, exact(b, a.swapaxes(1, 2)), magnitude(b, a.swapaxes(1, 2)), k)
    assert all("gemm_dot" in c.fn for c in planned if "gemm" in c.fn)


def test_epilogues_that_count_along_axes() -> None:
    def index(acc: E.Var, axis: int) -> E.Var:
        return E.cast(E.Var(acc.builder, acc.builder.emit("iota", (axis,), np.dtype(np.int64)), np.dtype(np.int64)), np.dtype(np.float32))

    rng = np.random.default_rng(5)
    for m, n in ((3, 40), (40, 3), (30, 50)):
        a, b = normal(rng, (2, m, 20), np.float32), normal(rng, (2, 20, n), np.float32)
        y = np.zeros((2, n, m), np.float32).swapaxes(1, 2)
        run("gemm", [a, b], [y], epilogue=lambda acc: acc + index(acc, 0) * 100.0 + index(acc, 1) * 10.0 + index(acc, 2))
        added = np.arange(2)[:, None, None] * 100 + np.arange(m)[:, None] * 10 + np.arange(n)
        check(y, exact(a, b) + added, magnitude(a, b) + added, 20)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint32, np.int64, np.float16], ids=str)
def test_zero_points_of_any_type(dtype: Any) -> None:
    rng = np.random.default_rng(6)
    for m, n, k in [(1, 40, 9), (20, 33, 70)]:
        a, b = rng.integers(0, 9, (2, m, k)).astype(dtype), rng.integers(0, 9, (2, k, n)).astype(dtype)
        za, zb = rng.integers(0, 9, (2, m, 1)).astype(dtype), rng.integers(0, 9, (1, 1, n)).astype(dtype)
        zeros = [np.broadcast_to(za, (2, m, 1)), np.broadcast_to(zb, (2, 1, n))]
        (y,) = run("gemm", [a, b, *zeros], [((2, m, n), dtype)], consts=[1])
        wide = [x.astype(np.int64) for x in (a, za, b, zb)]
        want = (wide[0] - wide[1]) @ (wide[2] - wide[3])
        np.testing.assert_array_equal(y, want.astype(dtype))  # sums of at most 70 * 64: float16 rounds as astype does


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BF16], ids=str)
def test_16_bit_constants_without_instructions_for_them(dtype: Any, monkeypatch: pytest.MonkeyPatch, planned: list[Any]) -> None:
    monkeypatch.setattr(gemm_narrow, "widens_float16", lambda: False)
    monkeypatch.setattr(linear, "multiplies_pairs", lambda: False)
    rng = np.random.default_rng(7)
    for m, n, k in [(1, 70, 65), (3, 200, 64), (4, 33, 64), (30, 96, 1700)]:
        a, b = normal(rng, (m, k), dtype), normal(rng, (k, n), dtype)
        (y,) = run("gemm", [a, b], [((m, n), dtype)], consts=[1], threads=2)
        check(y, exact(a, b), magnitude(a, b), k)
    assert not any("dots" in str(w) for c in planned for w in c.words)


def test_special_values_of_16_bit_constants() -> None:
    for dtype in (np.dtype(np.float16), BF16):
        b = np.full((2, 40), 1, dtype)
        b[0, :6] = [np.nan, np.inf, -np.inf, 0, -0.0, np.finfo(np.float16).smallest_subnormal if dtype == np.float16 else 1e-30]
        a = np.array([[1, 0]], dtype)
        (y,) = run("gemm", [a, b], [((1, 40), dtype)], consts=[1])
        np.testing.assert_array_equal(y[0].astype(np.float32), b[0].astype(np.float32))
