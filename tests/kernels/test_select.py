"""nonzero, compress and unique against NumPy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt import _native

from . import harness

Array = np.ndarray[Any, Any]
NUMERIC = [
    np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float16, ml_dtypes.bfloat16, np.float32, np.float64,
]  # fmt: skip


def sparse(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    return (rng.integers(1, 100, shape) * (rng.random(shape) < 0.4)).astype(dtype)


@pytest.mark.parametrize("dtype", [*NUMERIC, np.bool_, np.complex64, np.complex128])
def test_nonzero(dtype: Any) -> None:
    rng = np.random.default_rng(10)
    for shape in [(17,), (5, 7), (3, 1, 4, 5), (1,), (200, 301)]:
        x = sparse(rng, shape, dtype)
        if x.dtype.kind in "fcV":
            flat = x.reshape(-1)
            flat[rng.random(flat.shape) < 0.1] = np.array(-0.0).astype(dtype)
            flat[rng.random(flat.shape) < 0.1] = np.array(np.nan).astype(dtype)
        want = np.stack(np.nonzero(x.astype(np.complex128)))
        for threads in (1, 2):
            (y,) = harness.run("nonzero", [x], [(want.shape, np.int64)], threads=threads)
            np.testing.assert_array_equal(y, want)
            (y,) = harness.run("nonzero", [harness.strided(rng, x)], [harness.strided(rng, np.zeros_like(want))], threads=threads)
            np.testing.assert_array_equal(y, want)


def test_nonzero_of_an_imaginary_number() -> None:
    (y,) = harness.run("nonzero", [np.array([0, 1j, complex(-0.0, -0.0)], np.complex64)], [((1, 1), np.int64)])
    assert y.tolist() == [[1]]


@pytest.mark.parametrize("room", [1, 3])
def test_nonzero_with_the_wrong_count_raises(room: int) -> None:
    with pytest.raises(_native.LaunchError, match=f"expected {room} non-zero elements, found 2"):
        harness.run("nonzero", [np.array([1, 0, 2])], [((1, room), np.int64)])


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32, np.float64, np.complex128])
def test_compress(dtype: Any) -> None:
    rng = np.random.default_rng(11)
    for shape, axis, n in [
        ((9,), 0, 9),
        ((5, 6), 0, 4),
        ((5, 6), 1, 6),
        ((2, 30, 3, 4), 1, 25),
        ((3, 1), 1, 1),
        ((4, 900, 50), 1, 900),
        ((70000,), 0, 70000),
    ]:
        x, c = sparse(rng, shape, dtype), rng.random(n) < 0.5
        c[rng.integers(n)] = True
        want = np.compress(c, x, axis)
        for threads in (1, 2):
            (y,) = harness.run("compress", [x, c], [(want.shape, dtype)], {"axis": axis}, threads=threads)
            assert y.tobytes() == want.tobytes()
            y = harness.strided(rng, np.zeros_like(want))
            harness.run(
                "compress",
                [
                    harness.strided(rng, x),
                    harness.strided(rng, c),
                ],
                [y],
                {"axis": axis},
                threads=threads,
            )
            assert y.tobytes() == want.tobytes()


def test_compress_with_the_wrong_count_raises() -> None:
    with pytest.raises(_native.LaunchError, match="expected 1 true elements, found 2"):
        harness.run("compress", [np.arange(3), np.array([True, False, True])], [((1,), np.int64)], {"axis": 0})
    with pytest.raises(_native.LaunchError, match="longer than the axis"):
        harness.run("compress", [np.arange(3), np.ones(4, np.bool_)], [((4,), np.int64)], {"axis": 0})


def unique(x: Array, order: int, strided: np.random.Generator | None = None) -> list[Array]:
    n = x.shape[0]
    outs = [np.zeros(n, x.dtype), *(np.zeros(n, np.int64) for _ in range(3)), np.zeros(1, np.int64)]
    if strided:
        outs = [harness.strided(strided, o) for o in outs]
        x = harness.strided(strided, x)
    y, first, inverse, counts, m = harness.run("unique", [x], outs, {"sorted": order})
    k = int(m[0])
    return [y[:k], first[:k], inverse, counts[:k]]


@pytest.mark.parametrize("dtype", [*NUMERIC, np.bool_])
def test_unique(dtype: Any) -> None:
    rng = np.random.default_rng(12)
    for n in (1, 2, 50, 1000):
        x = rng.integers(0, 2 if dtype is np.bool_ else 40, n).astype(dtype)
        if x.dtype.kind == "i":
            x = -x
        if x.dtype.kind in "fV":
            x = x * np.array(-0.5).astype(dtype)
            x[rng.random(n) < 0.1] = np.array(np.nan).astype(dtype)
            x[rng.random(n) < 0.1] = np.array(0.0).astype(dtype)
        wide = x if x.dtype.kind in "iub" else x.astype(np.float64)
        _, first, inverse, counts = np.unique(wide, return_index=True, return_inverse=True, return_counts=True)
        if x.dtype.kind not in "iub":  # the first of equal values stands for all: -0 or 0
            same = (wide[:, None] == wide[first]) | (np.isnan(wide)[:, None] & np.isnan(wide[first]))
            first = same.argmax(0)
        for strided in (None, rng):
            got = unique(x, 1, strided)
            assert got[0].tobytes() == x[first].tobytes()
            for g, w in zip(got[1:], (first, inverse, counts)):
                np.testing.assert_array_equal(g, w)
            order = np.argsort(first)
            got = unique(x, 0, strided)
            assert got[0].tobytes() == x[first[order]].tobytes()
            for g, w in zip(got[1:], (first[order], np.argsort(order)[inverse], counts[order])):
                np.testing.assert_array_equal(g, w)
