"""scatter against a plain loop in the row-major order of indices: every mode, dtype, reduction and layout, with many duplicates."""

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
ALL = [*INTEGERS, *FLOATS, np.bool_, np.complex64, np.complex128]
OPS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    d = np.dtype(dtype)
    if d == np.bool_:
        return rng.integers(0, 2, shape).astype(d)
    if d.kind in "iu":
        info = np.iinfo(d)
        return rng.integers(info.min, info.max, shape, dtype=d, endpoint=True)
    return np.asarray(rng.standard_normal(shape)).astype(d)


def combine(reduction: str, a: Any, b: Any) -> Any:
    with np.errstate(all="ignore"):
        return b if reduction == "none" else OPS[reduction](a, b)


def reference(x: Array, idx: Array, u: Array, mode: str, axis: int, reduction: str) -> Array:
    y = x.copy()
    if mode == "elements":
        for pos in np.ndindex(*idx.shape):
            at = list(pos)
            at[axis] = int(idx[pos])
            y[tuple(at)] = combine(reduction, y[tuple(at)], u[pos])
    else:
        for pos in np.ndindex(*idx.shape[:-1]):
            where = tuple(int(i) for i in idx[pos])
            y[where] = combine(reduction, y[where], u[pos])
    return y


def check(x: Array, idx: Array, u: Array, want: Array, y: Array | None = None, **params: Any) -> None:
    """Separate and in-place output, one and two threads: the same bits everywhere."""
    for threads in (1, 2):
        out = np.zeros(x.shape, x.dtype) if y is None else y
        (r,) = harness.run("scatter", [x, idx, u], [out], params, threads=threads)
        assert r.tobytes() == want.tobytes()
        inplace = np.array(x)
        (r,) = harness.run("scatter", [inplace, idx, u], [inplace], params, threads=threads)
        assert r.tobytes() == want.tobytes()


CASES = [((7, 5), (4, 5), 0), ((3, 7), (2, 19), 1), ((2, 5, 3), (2, 9, 3), 1), ((9,), (30,), 0)]
ND_CASES = [((4, 5), (11,), 2), ((4, 5), (9,), 1), ((2, 3, 4), (2, 5), 2), ((6,), (), 1), ((3, 4), (2,), 0)]


def nd_indices(rng: np.random.Generator, xs: tuple[int, ...], outer: tuple[int, ...], k: int) -> Array:
    return np.stack([rng.integers(-n, n, outer) for n in xs[:k]], -1) if k else np.zeros((*outer, 0), np.int64)


@pytest.mark.parametrize("reduction", ["none", *OPS])
@pytest.mark.parametrize("dtype", ALL)
def test_all_dtypes_and_reductions(dtype: Any, reduction: str) -> None:
    rng = np.random.default_rng(5)
    if np.dtype(dtype).kind == "c" and reduction in ("max", "min"):
        with pytest.raises(_native.LaunchError, match="not defined for this dtype"):
            harness.run(
                "scatter",
                [np.zeros(3, dtype), np.zeros(1, np.int64), np.zeros(1, dtype)],
                [((3,), dtype)],
                {"mode": "elements", "reduction": reduction},
            )
        return
    for xs, ishape, axis in CASES:
        x, u, idx = values(rng, xs, dtype), values(rng, ishape, dtype), rng.integers(-xs[axis], xs[axis], ishape)
        want = reference(x, idx, u, "elements", axis, reduction)
        params = {"mode": "elements", "axis": axis, "reduction": reduction}
        if np.dtype(dtype).kind == "c" and reduction == "mul":  # may be contracted to FMA
            (r,) = harness.run("scatter", [x, idx, u], [(xs, dtype)], params)
            np.testing.assert_allclose(r, want, rtol=1e-4, atol=1e-6)
            continue
        check(x, idx.astype(np.int32), u, want, **params)
        check(*(harness.strided(rng, a) for a in (x, idx, u)), want, harness.strided(rng, np.zeros_like(x)), **params)
    for xs, outer, k in ND_CASES:
        idx = nd_indices(rng, xs, outer, k)
        x, u = values(rng, xs, dtype), values(rng, outer + xs[k:], dtype)
        if np.dtype(dtype).kind == "c" and reduction == "mul":
            continue
        want = reference(x, idx, u, "nd", 0, reduction)
        params = {"mode": "nd", "reduction": reduction}
        check(x, idx.astype(np.int32), u, want, **params)
        check(*(harness.strided(rng, a) for a in (x, idx, u)), want, harness.strided(rng, np.zeros_like(x)), **params)


@pytest.mark.parametrize("reduction", ["max", "min"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_stays(dtype: Any, reduction: str) -> None:
    x = np.array([np.nan, 1, 2, 3]).astype(dtype)
    u = np.array([5, np.nan, -7, np.inf, -np.inf]).astype(dtype)
    (y,) = harness.run("scatter", [x, np.array([0, 1, 1, 2, 2]), u], [((4,), dtype)], {"mode": "elements", "reduction": reduction})
    extreme = np.inf if reduction == "max" else -np.inf
    np.testing.assert_array_equal(y.astype(np.float64), [np.nan, np.nan, extreme, 3])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_rounding(dtype: Any) -> None:
    """Sums over all magnitudes, subnormal and overflowing results included, round as NumPy does (to nearest even)."""
    bits = np.arange(0, 65536, 7, dtype=np.uint16)
    x = bits.view(dtype)
    u = np.random.default_rng(0).permutation(bits).view(dtype)
    with np.errstate(all="ignore"):
        want = (x.astype(np.float32) + u.astype(np.float32)).astype(dtype)
    (y,) = harness.run("scatter", [x, np.arange(x.size), u], [(x.shape, dtype)], {"mode": "elements", "reduction": "add"})
    nan = np.isnan(want.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(y.astype(np.float32)), nan)
    np.testing.assert_array_equal(y.view(np.uint16)[~nan], want.view(np.uint16)[~nan])


@pytest.mark.parametrize("axis", [0, 1])
def test_duplicates_are_bit_identical_for_any_thread_count(axis: int) -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((300, 400)).astype(np.float32)
    idx, u = rng.integers(0, 5, x.shape), rng.standard_normal(x.shape).astype(np.float32)
    params = {"mode": "elements", "axis": axis, "reduction": "add"}
    results = [harness.run("scatter", [x, idx, u], [(x.shape, np.float32)], params, threads=t)[0].tobytes() for t in (1, 2, 3, 4)]
    want = x.copy()
    for a in range(x.shape[axis]):  # in index order along the axis
        lane = np.arange(x.shape[1 - axis])
        at = (idx[a, :], lane) if axis == 0 else (lane, idx[:, a])
        want[at] += u[a, :] if axis == 0 else u[:, a]
    assert set(results) == {want.tobytes()}


def test_large_blocks_split_between_threads() -> None:
    rng = np.random.default_rng(7)
    x, u = rng.standard_normal((4, 300, 257)).astype(np.float32), rng.standard_normal((6, 300, 257)).astype(np.float32)
    idx = np.array([[3], [0], [3], [-1], [1], [1]])
    for reduction in ("none", "add"):
        want = reference(x, idx, u, "nd", 0, reduction)
        check(x, idx, u, want, mode="nd", reduction=reduction)
        check(
            x.transpose(0, 2, 1), idx, u.transpose(0, 2, 1), np.ascontiguousarray(want.transpose(0, 2, 1)), mode="nd", reduction=reduction
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int16])
def test_narrow_blocks_split_between_threads(dtype: Any) -> None:
    rng = np.random.default_rng(8)
    x, u, idx = values(rng, (50, 60), dtype), values(rng, (1200, 60), dtype), rng.integers(-50, 50, (1200, 1))
    for reduction in ("none", "add", "max"):
        check(x, idx, u, reference(x, idx, u, "nd", 0, reduction), mode="nd", reduction=reduction)


def test_empty_indices_copy_x() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    check(x, np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32), x, mode="elements", axis=0)
    check(x, np.zeros((0, 1), np.int64), np.zeros((0, 3), np.float32), x, mode="nd")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bad", [5, -6, 2**62, -(2**63)])
def test_out_of_range(bad: int, threads: int) -> None:
    x, idx = np.zeros((3, 5), np.float32), np.array([[0, 4, bad, 99]])
    with pytest.raises(_native.LaunchError, match=rf"^index {bad} is out of range for axis 1 of size 5$"):
        harness.run(
            "scatter", [x, idx, np.zeros((1, 4), np.float32)], [(x.shape, np.float32)], {"mode": "elements", "axis": 1}, threads=threads
        )
    with pytest.raises(_native.LaunchError, match=rf"^index {bad} is out of range for axis 0 of size 3$"):
        harness.run(
            "scatter", [x, np.array([[bad]]), np.zeros((1, 5), np.float32)], [(x.shape, np.float32)], {"mode": "nd"}, threads=threads
        )


def test_wrong_shapes_are_refused() -> None:
    x = np.zeros((3, 5), np.float32)
    for idx, u, mode in [((2, 5), (2, 4), "elements"), ((2, 6), (2, 6), "elements"), ((2, 1), (2, 4), "nd"), ((2, 3), (2,), "nd")]:
        with pytest.raises(_native.LaunchError, match="scatter"):
            harness.run("scatter", [x, np.zeros(idx, np.int64), np.zeros(u, np.float32)], [(x.shape, np.float32)], {"mode": mode})
