"""The cases of `nonzero`, `compress` and `unique`, on device "numba", and cases of its own paths: masks of short formats, long gaps, sorting by digits."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt import _native
from tests.kernels import harness
from tests.kernels.test_select import *  # noqa: F403
from tests.kernels.test_select import unique

SHORT = [
    ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz, ml_dtypes.int4, ml_dtypes.uint4,
    ml_dtypes.float4_e2m1fn,
]  # fmt: skip


@pytest.mark.parametrize("dtype", SHORT)
def test_nonzero_of_short_formats(dtype: Any) -> None:
    codes = 16 if np.dtype(dtype).name in ("int4", "uint4", "float4_e2m1fn") else 256
    x = np.arange(codes, dtype=np.uint8).view(dtype)
    want = np.nonzero(x.astype(np.float32))[0]
    (y,) = harness.run("nonzero", [x], [((1, want.size), np.int64)])
    np.testing.assert_array_equal(y[0], want)


def test_nonzero_has_no_meaning_where_there_is_no_zero() -> None:
    with pytest.raises(_native.LaunchError, match="no zero"):
        harness.run("nonzero", [np.ones(3, np.uint8).view(ml_dtypes.float8_e8m0fnu)], [((1, 3), np.int64)])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("density", [1e-4, 1e-3, 0.05, 0.5, 1.0])
def test_nonzero_of_all_densities(density: float, threads: int) -> None:
    rng = np.random.default_rng(1)
    for shape in [(70001,), (20000, 3), (3, 20000), (7, 1, 90, 1, 110), (40, 30, 1, 50), (513, 1), (1, 513)]:
        x = rng.random(shape) < density
        x.reshape(-1)[rng.integers(x.size)] = True
        want = np.stack(np.nonzero(x))
        for view in (x, harness.strided(rng, x), np.asfortranarray(x)):
            for y in (np.zeros_like(want), np.zeros(want.shape[::-1], np.int64).T):
                harness.run("nonzero", [view], [y], threads=threads)
                np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("dtype", [*SHORT, np.int16, np.int64, np.complex128])
def test_compress_keeps_bits(dtype: Any) -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(0, 256, (6, 50, np.dtype(dtype).itemsize * 3), dtype=np.uint8).view(dtype)
    for axis in range(-3, 3):
        condition = rng.random(x.shape[axis]) < 0.5
        condition[-1] = True
        want = np.compress(condition, x, axis)
        (y,) = harness.run("compress", [x, condition], [(want.shape, dtype)], {"axis": axis})
        assert y.tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint32, np.int64, np.uint64, np.float32, np.float64])
def test_unique_of_any_bits(dtype: Any) -> None:
    """Keys whose digits all vary, or all but some agree, on both sides of the length that is sorted by insertion."""
    rng = np.random.default_rng(3)
    item = np.dtype(dtype).itemsize
    for n in (0, 1, 47, 48, 49, 100, 3000, 70000):
        x = rng.integers(0, 256, n * item, dtype=np.uint8).view(dtype)
        if x.dtype.kind == "f":
            x[np.isnan(x)] = np.nan
        x = np.where(rng.random(n) < 0.3, x[rng.integers(0, n, n)], x) if n else x
        for a in (x, x[: n // 2 + 1] if x.dtype.kind == "f" else x & np.array(0x70, dtype)):
            _, first, inverse, counts = np.unique(a, return_index=True, return_inverse=True, return_counts=True)
            order = np.argsort(first)
            for kind, want in [(1, (first, inverse, counts)), (0, (first[order], np.argsort(order)[inverse], counts[order]))]:
                got = unique(a, kind)
                np.testing.assert_array_equal(got[0], a[want[0]])
                for g, w in zip(got[1:], want):
                    np.testing.assert_array_equal(g, w)


def test_formats_without_an_order_are_refused() -> None:
    x = np.zeros(3, ml_dtypes.float8_e4m3fn)
    with pytest.raises(_native.LaunchError, match="no order"):
        unique(x, 1)
