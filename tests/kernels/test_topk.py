"""topk against a stable NumPy sort: every dtype, ties, NaN, layouts, and lanes long enough for the filter."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt import _native

from . import harness

Array = np.ndarray[Any, Any]
INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def rank(x: Array) -> Array:
    """Dense ranks of the values of a lane; NaN is the largest."""
    wide = x if x.dtype.kind in "iu" else x.astype(np.float64) + 0.0
    return np.unique(wide, return_inverse=True)[1].reshape(x.shape)


def reference(x: Array, axis: int, k: int, largest: int) -> Array:
    r = rank(x).astype(np.int64)
    return np.argsort(-r if largest else r, axis=axis, kind="stable").take(np.arange(k), axis)


def check(x: Array, axis: int, k: int, largest: int, outs: tuple[Array, Array] | None = None) -> None:
    want = reference(x, axis, k, largest)
    shape = want.shape
    for threads in (1, 2):
        v, i = outs or (np.zeros(shape, x.dtype), np.zeros(shape, np.int64))
        v[...], i[...] = np.zeros((), x.dtype), -1
        harness.run("topk", [x], [v, i], {"axis": axis, "k": k, "largest": largest}, threads=threads)
        np.testing.assert_array_equal(i, want)
        assert v.tobytes() == np.take_along_axis(x, want, axis).tobytes()


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    d = np.dtype(dtype)
    if d.kind in "iu":
        info = np.iinfo(d)
        x = rng.integers(info.min, info.max, shape, dtype=d, endpoint=True)
        return np.where(rng.random(shape) < 0.3, rng.choice(np.array([info.min, info.max, 0], d), shape), x)
    x = rng.standard_normal(shape)
    special = rng.choice([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0], shape)
    return np.where(rng.random(shape) < 0.3, special, x).astype(d)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS])
def test_all_dtypes(dtype: Any, largest: int) -> None:
    rng = np.random.default_rng(8)
    for shape, axis, k in [((9,), 0, 9), ((3, 40), 1, 5), ((40, 3), 0, 1), ((2, 300, 3), 1, 7), ((2, 3, 1), 2, 1), ((4, 700), 1, 300)]:
        x = values(rng, shape, dtype)
        check(x, axis, k, largest)
        out = (*shape[:axis], k, *shape[axis + 1 :])
        check(
            harness.strided(rng, x),
            axis,
            k,
            largest,
            (harness.strided(rng, np.zeros(out, dtype)), harness.strided(rng, np.zeros(out, np.int64))),
        )


def test_bool() -> None:
    v, i = harness.run("topk", [np.array([False, True, False, True])], [((3,), np.bool_), ((3,), np.int64)], {"axis": 0, "k": 3})
    assert v.tolist() == [True, True, False] and i.tolist() == [1, 3, 0]


@pytest.mark.parametrize("k", [1, 10, 1000, 4999, 5000])
@pytest.mark.parametrize("order", ["random", "ascending", "descending", "equal", "few"])
def test_long_lanes(order: str, k: int) -> None:
    rng = np.random.default_rng(9)
    x = rng.standard_normal(5000).astype(np.float32)
    if order in ("ascending", "descending"):
        x = np.sort(x)[:: 1 if order == "ascending" else -1]
    elif order == "equal":
        x = np.full(5000, 2.5, np.float32)
    elif order == "few":
        x = rng.integers(0, 4, 5000).astype(np.float32)
    for largest in (0, 1):
        check(x, 0, k, largest)
        check(x.astype(np.float64), 0, k, largest)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint16])
def test_values_of_all_magnitudes(dtype: Any) -> None:
    """Where nearly all values are close to each other, and a few are far away; one lane, neighbouring lanes, NaN among the best."""
    rng = np.random.default_rng(15)
    x = np.ldexp(rng.random((3000, 3)), rng.integers(-60, 60, (3000, 3)))
    if np.dtype(dtype).kind == "f":
        x *= rng.choice([-1, 1], x.shape)
        x[rng.random(x.shape) < 0.01] = np.nan
    x = x.astype(np.float32).astype(dtype) if np.dtype(dtype).kind == "f" else (x % (60000 if dtype == np.uint16 else 2**62)).astype(dtype)
    for k in (3, 20, 300):
        for largest in (0, 1):
            check(x, 0, k, largest)
            check(np.ascontiguousarray(x[:, 0]), 0, k, largest)


def test_broadcast_lane() -> None:
    check(np.broadcast_to(np.float32(1), (3, 100)), 1, 10, 1)


def test_nothing_selected() -> None:
    v, i = harness.run("topk", [np.ones((2, 3), np.float32)], [((2, 0), np.float32), ((2, 0), np.int64)], {"axis": 1, "k": 0})
    assert v.shape == i.shape == (2, 0)


@pytest.mark.parametrize("k", [4, -1])
def test_bad_k_is_refused(k: int) -> None:
    with pytest.raises(_native.LaunchError, match="k does not fit"):
        harness.run("topk", [np.ones(3, np.float32)], [((4,), np.float32), ((4,), np.int64)], {"axis": 0, "k": k})
