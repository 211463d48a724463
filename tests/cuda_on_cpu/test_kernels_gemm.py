"""The cases of `gemm` on floats and wide integers, on the CUDA kernels, and what only these have: tiles of each size, slices of k."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from pytensor_rt.kernels.cuda.plans import gemm_paths, linear
from pytensor_rt.lowering import expr as E
from tests.kernels.harness import run, strided
from tests.kernels.test_gemm import *  # noqa: F403
from tests.kernels.test_gemm import BF16, check, exact, magnitude, normal

NOT_REPLAYED = {
    "test_rows_of_several_batches_fold_when_b_is_shared": "asks the C++ kernel for its tasks; test_batches_fold is the same here",
    "test_long_products_whose_b_stays_in_cache": "asks the C++ kernel for its tasks",
    "test_columns_that_fill_half_a_vector": "440 products around the width of the C++ tile: 10 s on the executor",
    "test_one_panel_of_long_columns": "what the C++ tile prefetches",
}

HALVES = [np.dtype(np.float16), BF16]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of the launches of a test, in order."""
    seen: list[Any] = []
    plan = linear.gemm

    def watched(launch: Any) -> Any:
        calls = plan(launch)
        seen.extend(calls)
        return calls

    monkeypatch.setattr(linear, "gemm", watched)
    return seen


def layouts(a: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """The matrix dense along its last axis, along the one before, with a step along both (wide loads are impossible)."""
    gaps = np.zeros((*a.shape[:-2], 2 * a.shape[-2], 3 * a.shape[-1]), a.dtype)[..., ::2, ::3]
    gaps[...] = a
    return [a, a.swapaxes(-1, -2).copy().swapaxes(-1, -2), gaps]


def names(calls: list[Any]) -> set[str]:
    return {c.entry.name for c in calls}


def test_batches_fold(planned: list[Any]) -> None:
    rng = np.random.default_rng(3)
    a, b = normal(rng, (4, 5, 20, 30), np.float32), normal(rng, (30, 40), np.float32)
    (y,) = run("gemm", [a, np.broadcast_to(b, (4, 5, 30, 40))], [((4, 5, 20, 40), np.float32)], consts=[1])
    check(y, exact(a, b), magnitude(a, b), 30)
    assert "RANK = 2" in planned[0].source


@pytest.mark.parametrize("k", [40, 1040])
@pytest.mark.parametrize("dtype", [np.float32, np.int32], ids=str)
def test_large_tiles(dtype: Any, k: int, planned: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm_paths, "ENOUGH", 1)
    rng = np.random.default_rng(1)
    m, n = (72, 136) if k < 100 else (40, 72)
    a, b = (normal(rng, s, np.float32) * (1 if dtype == np.float32 else 1e8) for s in ((m, k), (k, n)))
    a, b = a.astype(dtype), b.astype(dtype)
    for x in layouts(a):
        for w in layouts(b) if k < 100 else [b]:
            (y,) = run("gemm", [x, w], [((m, n), dtype)], threads=3)
            if dtype == np.float32:
                check(y, exact(a, b), magnitude(a, b), k)
            else:
                np.testing.assert_array_equal(y, np.matmul(a, b))
    assert names(planned) == {"gemm_tiles"} and all("TM = 8" in c.source for c in planned)
    assert all((f"LONG = {str(k > 512 and dtype == np.float32).lower()}") in c.source for c in planned)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("size", ["large", "medium", "thin"])
def test_tensor_core_tiles(dtype: Any, size: str, planned: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm_paths, "ENOUGH", 1 if size == "large" else 100)
    rng = np.random.default_rng(2)
    m, n, k = {"large": (136, 144, 104), "medium": (72, 80, 40), "thin": (16, 136, 72)}[size]
    a, b, r = (normal(rng, s, dtype) for s in ((m, k), (k, n), (m, n)))
    for x in layouts(a)[: 2 if size == "large" else 3]:
        for w in layouts(b)[: 2 if size == "large" else 3]:
            (y,) = run("gemm", [x, w], [((m, n), dtype)], threads=2)
            check(y, exact(a, b), magnitude(a, b), k)
    (y,) = run(
        "gemm", [a, b], [((m, n), np.float32)], epilogue=lambda acc, c: E.cast(acc, np.dtype(np.float32)), epi_ins=[r], acc_dtype=dtype
    )
    (half,) = run("gemm", [a, b], [((m, n), dtype)])
    np.testing.assert_array_equal(y, half.astype(np.float32))
    assert names(planned) == {"gemm_mma"} and f"FM = {dict(large=4, medium=2, thin=1)[size]};" in planned[0].source


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, *HALVES], ids=str)
def test_slices_of_k(dtype: Any, planned: list[Any]) -> None:
    rng = np.random.default_rng(4)
    floats = np.dtype(dtype).kind != "i"
    for m, n, k in [(1, 40, 2100), (20, 24, 1700), (3, 9, 4100)]:
        a, b, r = (normal(rng, s, np.float32) * (1 if floats else 1e9) for s in ((2, m, k), (2, k, n), (2, m, n)))
        a, b, r = a.astype(dtype), b.astype(dtype), r.astype(dtype)
        for w in layouts(b)[:2]:
            (y,) = run("gemm", [a, w], [((2, m, n), dtype)], {"alpha": 2.0}, epilogue=lambda acc, x: acc + x, epi_ins=[r], threads=3)
            if floats:
                want = 2 * exact(a, b) + r.astype(np.float64)
                mag = 2 * magnitude(a, b) + np.abs(r.astype(np.float64))
                check(y, want, mag + (np.abs(want) * 2.0**-8 * 2**24 / (2 * k) if np.dtype(dtype).itemsize == 2 else 0), k)
            else:
                np.testing.assert_array_equal(y, 2 * np.matmul(a, b) + r)
    assert "gemm_sum" in names(planned) and sum(c.grid[1] > 1 for c in planned) >= 4


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=str)
def test_64_bit_indices(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NARROW", -1)
    rng = np.random.default_rng(5)
    for m, n, k in [(1, 33, 40), (40, 24, 600), (20, 16, 32)]:
        a, b = normal(rng, (3, 2, m, k), dtype), normal(rng, (2, k, n), dtype)
        for w in layouts(b):
            (y,) = run("gemm", [a, np.broadcast_to(w, (3, 2, k, n))], [((3, 2, m, n), dtype)])
            check(y, exact(a, b), magnitude(a, b), k)


def test_programs_that_count_along_axes() -> None:
    rng = np.random.default_rng(6)
    for m, n in ((3, 40), (24, 20), (40, 2)):
        a, b = normal(rng, (2, 3, m, 8), np.float32), normal(rng, (8, n), np.float32)
        y = np.zeros((2, 3, n, m), np.float32).swapaxes(2, 3)

        def fn(acc: E.Var) -> E.Var:
            index = [E.Var(acc.builder, acc.builder.emit("iota", (k,), np.dtype(np.float32)), np.dtype(np.float32)) for k in range(4)]
            return acc * 0.0 + index[0] * 1000000.0 + index[1] * 100000.0 + index[2] * 100.0 + index[3]

        run("gemm", [a, np.broadcast_to(b, (2, 3, 8, n))], [y], epilogue=fn)
        i = np.indices(y.shape)
        np.testing.assert_array_equal(y, i[0] * 1e6 + i[1] * 1e5 + i[2] * 100 + i[3])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32, np.uint16, np.int64], ids=str)
def test_zero_points_of_every_type(dtype: Any) -> None:
    rng = np.random.default_rng(7)
    for m, n, k in [(2, 20, 9), (20, 24, 33), (5, 3, 17)]:
        values = [rng.integers(-8, 8, s).astype(dtype) for s in ((2, m, k), (k, n), (2, m, 1), (1, n))]
        a, b, az, bz = values
        ins = [a, np.broadcast_to(b, (2, k, n)), az, np.broadcast_to(strided(rng, bz), (2, 1, n))]
        (y,) = run("gemm", ins, [((2, m, n), dtype)])
        if np.dtype(dtype).kind == "f":
            np.testing.assert_array_equal(y, np.matmul(a.astype(np.float64) - az, b.astype(np.float64) - bz).astype(dtype))
        else:
            with np.errstate(over="ignore"):
                np.testing.assert_array_equal(y, np.matmul(a - az, b - bz))


def test_many_blocks_and_batches() -> None:
    rng = np.random.default_rng(8)
    a, b = normal(rng, (70, 3, 18, 5), np.float32), normal(rng, (70, 1, 5, 18), np.float32)
    (y,) = run("gemm", [a, np.broadcast_to(b, (70, 3, 5, 18))], [((70, 3, 18, 18), np.float32)], threads=2)
    check(y, exact(a, b), magnitude(a, b), 5)
    a, b = normal(rng, (300, 20), np.float32), normal(rng, (20, 200), np.float32)
    (y,) = run("gemm", [a, b], [((300, 200), np.float32)], threads=2)
    check(y, exact(a, b), magnitude(a, b), 20)


def test_long_chains_stay_accurate() -> None:
    """Equal terms make every rounding of a chain go the same way: the error of one long chain would be far beyond this bound."""
    k = 4096
    value = np.float32(0.1)
    for m, n in ((1, 8), (24, 32)):
        a, b = np.full((m, k), value), np.ones((k, n), np.float32)
        for w in layouts(b)[:2]:
            (y,) = run("gemm", [a, w], [((m, n), np.float32)])
            want = float(value) * k
            assert np.abs(y - want).max() <= 64 * 2.0**-24 * want
