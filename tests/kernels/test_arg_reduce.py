"""The arg_reduce kernel against NumPy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from .harness import run, strided

A = np.ndarray[Any, Any]
DTYPES = ["float32", "float64", "float16", ml_dtypes.bfloat16, "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def reference(op: str, x: A, axis: int, last: bool) -> A:
    x = x.astype(np.float64) if x.dtype.kind not in "iu" else x
    pick = np.argmax if op == "max" else np.argmin
    found = x.shape[axis] - 1 - pick(np.flip(x, axis), axis) if last else pick(x, axis)
    return np.expand_dims(found, axis)


def check(op: str, x: A, axis: int, last: bool = False, out: Any = None) -> None:
    shape = tuple(1 if a == axis else n for a, n in enumerate(x.shape))
    params = {"op": op, "axis": axis, "select_last": int(last)}
    results = [run("arg_reduce", [x], [out if out is not None else (shape, np.int64)], params, threads=t)[0].copy() for t in (1, 2)]
    assert results[0].tobytes() == results[1].tobytes()
    np.testing.assert_array_equal(results[0], reference(op, x, axis, last), err_msg=f"{op} {x.dtype} {x.shape} {axis} {last}")


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_values(dtype: Any) -> None:
    rng = np.random.default_rng(1)
    for shape in [(1,), (70,), (3, 129), (129, 3), (2, 40, 35), (5, 1, 33)]:
        for axis in range(len(shape)):
            for op in ("max", "min"):
                for last in (False, True):
                    x = rng.integers(0, 12, shape).astype(dtype)  # few values: many ties
                    check(op, x, axis, last)
                    small = tuple(1 if a == axis else n for a, n in enumerate(shape))
                    check(op, strided(rng, x), axis, last, strided(rng, np.zeros(small, np.int64)))


def test_nan_is_extreme() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((50, 50)).astype(np.float32)
    x[3, 40] = x[3, 44] = x[7, 2] = x[8, 49] = np.nan
    x[9] = -np.inf
    x[10] = np.inf
    x[11] = np.nan
    for axis in (0, 1):
        for op in ("max", "min"):
            for last in (False, True):
                check(op, x, axis, last)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint64"])
def test_several_blocks_of_columns_and_groups_of_places(dtype: str) -> None:
    rng = np.random.default_rng(5)
    for shape, axis in (((70, 299), 0), ((3, 20, 300), 1), ((40, 77), 1), ((5, 4099), 1)):
        x = rng.integers(0, 200, shape).astype(dtype)
        if dtype.startswith("float"):
            x.flat[rng.integers(0, x.size, 20)] = np.nan
        for op in ("max", "min"):
            for last in (False, True):
                check(op, x, axis, last)


def test_long_axes_and_wide_integers() -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(0, 1000, (2, 20_000)).astype(np.float32)
    for last in (False, True):
        check("max", x, 1, last)
        check("min", np.ascontiguousarray(x.T), 0, last)
    big = np.array([[2**63 + 5, 2**64 - 1, 7]], np.uint64)
    check("max", big, 1)
    check("min", big, 1)
    check("max", np.array([2**53, 2**53 + 1], np.int64), 0)


def test_program() -> None:
    rng = np.random.default_rng(4)
    a, b = (strided(rng, rng.standard_normal((6, 37, 40)).astype(np.float32)) for _ in range(2))
    for axis in range(3):
        shape = tuple(1 if k == axis else n for k, n in enumerate(a.shape))
        (y,) = run("arg_reduce", [np.empty(a.shape, np.float32)], [(shape, np.int64)], {"op": "max", "axis": axis},
                   prologue=lambda x, y: x * y, pro_ins=[a, b])  # fmt: skip
        np.testing.assert_array_equal(y, reference("max", a * b, axis, False))


def test_empty_axis_raises() -> None:
    with pytest.raises(Exception, match="arg_reduce"):
        run("arg_reduce", [np.zeros((2, 0), np.float32)], [((2, 1), np.int64)], {"op": "max", "axis": 1})


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int32", "uint64"])
def test_short_rows(dtype: str) -> None:
    """Rows around a vector's length, whose number is a multiple of nothing, in any layout."""
    rng = np.random.default_rng(6)
    for n in (1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 24, 25):
        for rows in (2, 8, 37, 300):
            x = rng.integers(0, 5, (rows, n)).astype(dtype)
            if dtype.startswith("float"):
                x.flat[rng.integers(0, x.size, 3)] = np.nan
            for op in ("max", "min"):
                for last in (False, True):
                    check(op, x, 1, last)
                    check(op, strided(rng, x), 1, last, strided(rng, np.zeros((rows, 1), np.int64)))
                    check(op, x[::-1], 1, last)
