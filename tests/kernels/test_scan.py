"""The scan kernel against NumPy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from .harness import run, strided

A = np.ndarray[Any, Any]
TOLERANCE = {"float32": 1e-6, "float64": 1e-12, "float16": 1e-3, "bfloat16": 8e-3}


def reference(op: str, x: A, axis: int, exclusive: bool, reverse: bool) -> A:
    wide = x if x.dtype.kind in "iu" else x.astype(np.float64)
    wide = np.flip(wide, axis) if reverse else wide
    y = np.cumsum(wide, axis, dtype=wide.dtype) if op == "sum" else np.cumprod(wide, axis, dtype=wide.dtype)
    if exclusive:
        first = np.full_like(np.take(y, [0], axis), op == "prod")
        y = np.concatenate([first, np.take(y, range(y.shape[axis] - 1), axis)], axis)
    return np.flip(y, axis) if reverse else y


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ml_dtypes.bfloat16, "int32", "int64", "uint32", "uint64"],
                         ids=lambda d: np.dtype(d).name)  # fmt: skip
@pytest.mark.parametrize("op", ["sum", "prod"])
def test_scan(op: str, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    for shape in [(1,), (70,), (3, 129), (150, 70), (2, 5, 33)]:
        for axis in range(len(shape)):
            for exclusive in (0, 1):
                for reverse in (0, 1):
                    if np.dtype(dtype).kind in "iu":
                        info = np.iinfo(dtype)
                        x = rng.integers(info.min, info.max, shape, np.dtype(dtype), endpoint=True)
                    else:
                        x = (rng.standard_normal(shape) if op == "sum" else rng.uniform(0.9, 1.1, shape)).astype(dtype)
                    x = strided(rng, x) if rng.integers(2) else x
                    params = {"op": op, "axis": axis, "exclusive": exclusive, "reverse": reverse}
                    results = [run("scan", [x], [strided(rng, np.zeros(shape, x.dtype))], params, threads=t)[0] for t in (1, 2)]
                    assert results[0].tobytes() == results[1].tobytes()
                    want = reference(op, x, axis, bool(exclusive), bool(reverse))
                    if x.dtype.kind in "iu":
                        np.testing.assert_array_equal(results[0], want)
                    else:
                        tol = TOLERANCE[x.dtype.name]
                        np.testing.assert_allclose(results[0].astype(np.float64), want, rtol=tol, atol=tol)


def test_long_axis() -> None:
    x = np.random.default_rng(2).random((2, 50_000)).astype(np.float32)
    for reverse in (0, 1):
        for a, axis in ((x, 1), (np.ascontiguousarray(x.T), 0)):
            (y,) = run("scan", [a], [(a.shape, np.float32)], {"op": "sum", "axis": axis, "reverse": reverse})
            np.testing.assert_allclose(y, reference("sum", a, axis, False, bool(reverse)), rtol=2e-7)


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64", "uint64"])
def test_several_blocks(dtype: str) -> None:
    """Blocks of many columns; rows of several chunks; what is not finite stays where it begins."""
    rng = np.random.default_rng(3)
    for shape, axis in (((40, 299), 0), ((3, 20, 300), 1), ((67, 33), 1), ((2, 4130), 1)):
        x = rng.integers(0, 1 << 20, shape).astype(dtype)
        if dtype == "float32":
            x = (x / 1024).astype(dtype)
            x[-1, shape[1] // 2] = np.inf
        for exclusive in (0, 1):
            for reverse in (0, 1):
                params = {"op": "sum", "axis": axis, "exclusive": exclusive, "reverse": reverse}
                results = [run("scan", [x], [(shape, x.dtype)], params, threads=t)[0] for t in (1, 2)]
                assert results[0].tobytes() == results[1].tobytes()
                want = reference("sum", x, axis, bool(exclusive), bool(reverse))
                np.testing.assert_allclose(results[0], want, rtol=1e-6 if dtype == "float32" else 0)
