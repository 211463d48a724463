"""The softmax kernel against NumPy in float64."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from .harness import run, strided

A = np.ndarray[Any, Any]
TOLERANCE = {"float32": 1e-5, "float64": 1e-13, "float16": 2e-3, "bfloat16": 1.6e-2}
DTYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


def reference(op: str, x: A, axis: int) -> A:
    x = x.astype(np.float64)
    if op == "hardmax":
        best = np.expand_dims(np.argmax(x, axis), axis)
        out = np.zeros(x.shape)
        np.put_along_axis(out, best, 1.0, axis)
        return out
    with np.errstate(invalid="ignore", divide="ignore"):
        shifted = x - x.max(axis, keepdims=True)
        e = np.exp(shifted)
        total = e.sum(axis, keepdims=True)
        return e / total if op == "softmax" else shifted - np.log(total)


def check(op: str, x: A, axis: int, out: Any = None, **kwargs: Any) -> A:
    results = [
        run("softmax", [x], [out if out is not None else (x.shape, x.dtype)], {"op": op, "axis": axis}, threads=t, **kwargs)[0].copy()
        for t in (1, 2)
    ]
    assert results[0].tobytes() == results[1].tobytes()
    tol = TOLERANCE[x.dtype.name]
    np.testing.assert_allclose(results[0].astype(np.float64), reference(op, x, axis), rtol=tol, atol=tol)
    return results[0]


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "hardmax"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shapes_and_strides(op: str, dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(1)
    shapes = [(3, 5), (1, 1), (7, 1), (1, 9), (2, 3, 40), (4, 129, 17), (2, 3, 4, 33), (3, 1000), (), (70, 70)]
    for shape in shapes:
        for axis in range(len(shape)):
            x = (rng.standard_normal(shape) * 4).astype(dtype)
            check(op, x, axis)
            s = strided(rng, x)
            out = strided(rng, np.zeros(shape, dtype))
            check(op, s, axis, out)


def test_empty_and_broadcast() -> None:
    rng = np.random.default_rng(2)
    x = np.broadcast_to(rng.standard_normal((5, 1, 40)).astype(np.float32), (5, 6, 40))
    for axis in range(3):
        check("softmax", x, axis)


@pytest.mark.parametrize("axis", [0, 1])
def test_non_finite(axis: int) -> None:
    x = np.random.default_rng(3).standard_normal((40, 40)).astype(np.float32)
    x[3, 7] = np.nan
    x[5, 2] = np.inf
    x[8, 9] = -np.inf
    x[11, :] = -np.inf
    x[12, :] = 3e38
    x[13, :5] = -3e38
    check("softmax", x, axis)
    check("log_softmax", np.maximum(x, -1e30), axis)


def test_long_rows_stay_accurate() -> None:
    x = np.random.default_rng(4).standard_normal((2, 100_000)).astype(np.float32)
    got = check("softmax", x, 1)
    np.testing.assert_allclose(got.astype(np.float64), reference("softmax", x, 1), rtol=2e-6)
    check("softmax", np.ascontiguousarray(x.T).T, 1)


def test_programs() -> None:
    from pytensor_rt.lowering.expr import cast

    rng = np.random.default_rng(5)
    for axis in (0, 1, 2):
        a = strided(rng, rng.standard_normal((6, 37, 40)).astype(np.float32))
        mask = np.broadcast_to(rng.standard_normal((6, 1, 40)).astype(np.float32), a.shape)
        scale = strided(rng, rng.standard_normal(a.shape).astype(np.float32))
        want = reference("softmax", a * 0.125 + mask, axis) * scale
        for dtype, tol in ((np.float32, 1e-5), (np.float16, 2e-3)):
            results = [
                run(
                    "softmax", [np.empty(a.shape, np.float32)], [(a.shape, dtype)], {"op": "softmax", "axis": axis},
                    prologue=lambda x, m: x * 0.125 + m, pro_ins=[a, mask], acc_dtype=np.float32,
                    epilogue=lambda acc, s, d=dtype: cast(acc * s, np.dtype(d)), epi_ins=[scale], threads=t,
                )[0]
                for t in (1, 2)
            ]  # fmt: skip
            assert results[0].tobytes() == results[1].tobytes()
            np.testing.assert_allclose(results[0].astype(np.float64), want, rtol=tol, atol=tol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", ["softmax", "log_softmax", "hardmax"])
def test_short_rows(op: str, dtype: Any) -> None:
    """Any length around a vector's, any number of rows, dense or apart: nothing is written between them, and a row's bits do not depend on its place."""
    rng = np.random.default_rng(6)
    for n in (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 23, 31, 33, 40, 41, 64, 65):
        for rows in (2, 9, 16, 40, 131, 300):
            x = (rng.standard_normal((rows, n)) * 5).astype(dtype)
            x = np.round(x) if op == "hardmax" else x  # ties
            x[-1] = x[0]
            dense = check(op, x, 1)
            assert dense[0].tobytes() == dense[-1].tobytes()
            for gap in (1, 20):
                memory, wide = np.full((rows, n + gap), 7, dtype), np.full((rows, n + gap), 1e9, dtype)
                wide[:, :n] = x
                check(op, wide[:, :n], 1, memory[:, :n])
                assert (memory[:, n:] == 7).all()
            check(op, x[::-1], 1, np.zeros((rows, n), dtype)[::-1])


def test_short_rows_that_are_not_finite() -> None:
    x = np.random.default_rng(7).standard_normal((50, 6)).astype(np.float32)
    x[3, 5], x[17, 0], x[20], x[31, :3], x[33] = np.nan, np.inf, -np.inf, -np.inf, 3e38
    check("softmax", x, 1)
    check("log_softmax", np.maximum(x, -1e30), 1)
    assert np.flatnonzero(np.isnan(check("softmax", x, 1)).any(1)).tolist() == [3, 17, 20]
    for n in (6, 16, 70, 133):
        x = np.random.default_rng(8).integers(0, 4, (50, n)).astype(np.float32)
        x[3, 5], x[4, 0], x[4, 4], x[17, 0], x[20], x[31, :3], x[33, n - 1] = np.nan, np.nan, np.nan, np.inf, -np.inf, -np.inf, 3e38
        for dtype in (np.float32, np.float64):
            check("hardmax", x.astype(dtype), 1)
            check("hardmax", np.ascontiguousarray(x.T).astype(dtype), 0)
