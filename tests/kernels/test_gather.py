"""gather against NumPy: every mode, element size, index dtype and layout."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt import _native
from pytensor_rt.lowering.expr import cast

from . import harness

DTYPES = [np.int8, np.bool_, np.float16, ml_dtypes.bfloat16, np.float32, np.int64, np.complex128]
Array = np.ndarray[Any, Any]


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    return np.asarray(rng.integers(0, 100, shape)).astype(dtype)


def gather(x: Array, idx: Array, want: Array, y: Array | None = None, **params: Any) -> None:
    """Run with one and two threads; both must be `want`."""
    for threads in (1, 2):
        out = np.zeros(want.shape, want.dtype) if y is None else y
        (r,) = harness.run("gather", [x, idx], [out], params, threads=threads)
        assert r.tobytes() == want.tobytes()
        r[...] = np.zeros((), want.dtype)


def reference_nd(x: Array, idx: Array, batch: int) -> Array:
    k = idx.shape[-1]
    outer = idx.shape[:-1]
    y = np.empty(outer + x.shape[batch + k :], x.dtype)
    for pos in itertools.product(*map(range, outer)):
        y[pos] = x[pos[:batch] + tuple(int(i) for i in idx[pos])]
    return y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_axis(dtype: Any, index: Any) -> None:
    rng = np.random.default_rng(1)
    for xs, ishape, axis in [
        ((7, 5), (4,), 0),
        ((3, 7), (2, 3), 1),
        ((2, 5, 3, 4), (6,), 1),
        ((4, 3), (), 0),
        ((9,), (2, 2), 0),
        ((2, 3, 1), (1,), 2),
    ]:
        x = values(rng, xs, dtype)
        idx = rng.integers(-xs[axis], xs[axis], ishape).astype(index)
        want = np.take(x, idx, axis)
        gather(x, idx, want, mode="axis", axis=axis)
        y = harness.strided(rng, np.zeros(want.shape, dtype))
        gather(harness.strided(rng, x), harness.strided(rng, idx), want, y, mode="axis", axis=axis)


@pytest.mark.parametrize("dtype", DTYPES)
def test_elements(dtype: Any) -> None:
    rng = np.random.default_rng(2)
    for xs, ishape, axis in [((7, 5), (4, 5), 0), ((3, 7), (2, 9), 1), ((2, 5, 3), (2, 1, 3), 1), ((9,), (4,), 0)]:
        x = values(rng, xs, dtype)
        idx = rng.integers(-xs[axis], xs[axis], ishape)
        crop = x[tuple(slice(None) if i == axis else slice(n) for i, n in enumerate(ishape))]
        want = np.take_along_axis(crop, idx, axis)
        gather(x, idx, want, mode="elements", axis=axis)
        gather(
            harness.strided(rng, x), harness.strided(rng, idx), want, harness.strided(rng, np.zeros_like(want)), mode="elements", axis=axis
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_nd(dtype: Any, index: Any) -> None:
    rng = np.random.default_rng(3)
    for xs, outer, k, batch in [
        ((4, 5), (3,), 2, 0),
        ((4, 5), (3,), 1, 0),
        ((2, 3, 4, 5), (2, 3), 2, 1),
        ((2, 3, 4), (2, 3), 1, 2),
        ((3, 4), (2, 2), 0, 0),
        ((6,), (), 1, 0),
    ]:
        x = values(rng, xs, dtype)
        sizes = xs[batch : batch + k]
        idx = np.stack([rng.integers(-n, n, outer) for n in sizes], -1).astype(index) if k else np.zeros((*outer, 0), index)
        want = reference_nd(x, idx, batch)
        gather(x, idx, want, mode="nd", batch_dims=batch)
        gather(
            harness.strided(rng, x), harness.strided(rng, idx), want, harness.strided(rng, np.zeros_like(want)), mode="nd", batch_dims=batch
        )


def test_broadcast_operands() -> None:
    x = np.broadcast_to(np.arange(5, dtype=np.float32)[:, None], (5, 4))
    idx = np.broadcast_to(np.int64(-2), (3, 4))
    gather(x, idx, np.full((3, 4), 3, np.float32), mode="elements", axis=0)
    gather(x, idx, np.full((3, 4, 4), 3, np.float32), mode="axis", axis=0)


def test_large_blocks_split_between_threads() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((5, 300, 257)).astype(np.float32)
    idx = np.array([4, 0, -1])
    gather(x, idx, np.take(x, idx, 0), mode="axis", axis=0)
    gather(x.transpose(0, 2, 1), idx, np.take(x.transpose(0, 2, 1), idx, 0), mode="axis", axis=0)
    table = rng.standard_normal((1000, 33)).astype(np.float32)
    many = rng.integers(0, 1000, (64, 100))
    gather(table, many, table[many], mode="axis", axis=0)


@pytest.mark.parametrize("dtype", [np.int8, np.float32, np.complex128])
@pytest.mark.parametrize("columns", [1, 7, 512, 513])
def test_columns_of_many_rows(columns: int, dtype: Any) -> None:
    """The same indices for every row, in tasks that begin and end within a row."""
    rng = np.random.default_rng(columns)
    idx = rng.integers(-30, 30, columns)
    for shape in ((4001, 30), (3, 1301, 30), (5, 1, 401, 30)):
        x = values(rng, shape, dtype)
        gather(x, idx, np.take(x, idx, -1), mode="axis", axis=len(shape) - 1)
        some = x[:, ::-1]
        gather(some, idx[::-2], np.take(some, idx[::-2], -1), harness.strided(rng, np.zeros_like(np.take(some, idx[::-2], -1))), mode="axis",
               axis=len(shape) - 1)  # fmt: skip
    idx[columns // 2] = 30
    with pytest.raises(_native.LaunchError, match="index 30 is out of range for axis 1 of size 30"):
        harness.run("gather", [values(rng, (900, 30), dtype), idx], [((900, columns), dtype)], {"mode": "axis", "axis": 1}, threads=2)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("bad", "shown"), [(5, "5"), (-6, "-6"), (2**62, str(2**62)), (-(2**63), str(-(2**63)))])
def test_out_of_range(bad: int, shown: str, threads: int) -> None:
    x = np.zeros((3, 5), np.float32)
    idx = np.array([0, 4, bad, 99])
    with pytest.raises(_native.LaunchError, match=rf"^index {shown} is out of range for axis 1 of size 5$"):
        harness.run("gather", [x, idx], [((3, 4), np.float32)], {"mode": "axis", "axis": 1}, threads=threads)
    nd = np.stack([np.zeros(4, np.int64), idx], -1)
    with pytest.raises(_native.LaunchError, match=rf"^index {shown} is out of range for axis 1 of size 5$"):
        harness.run("gather", [x, nd], [((4,), np.float32)], {"mode": "nd"}, threads=threads)
    with pytest.raises(_native.LaunchError, match=rf"^index {shown} is out of range for axis 0 of size 5$"):
        harness.run("gather", [x[0], idx], [((4,), np.float32)], {"mode": "elements"}, threads=threads)


def test_empty_axis_has_no_valid_index() -> None:
    with pytest.raises(_native.LaunchError, match="index 0 is out of range for axis 0 of size 0"):
        harness.run("gather", [np.zeros((0, 2), np.float32), np.zeros(1, np.int64)], [((1, 2), np.float32)], {"mode": "axis"})


def test_wrong_shapes_are_refused() -> None:
    x, idx = np.zeros((3, 5), np.float32), np.zeros(4, np.int64)
    for y in [(4, 4), (4,), (4, 5, 1)]:
        with pytest.raises(_native.LaunchError, match="gather"):
            harness.run("gather", [x, idx], [(y, np.float32)], {"mode": "axis"})


EPILOGUE_CASES = [
    ("axis", (7, 5), (4,), 0), ("axis", (3, 7), (2, 3), 1), ("axis", (2, 5, 3, 4), (6,), 1), ("axis", (9,), (), 0), ("axis", (50, 6000), (3, 2), 0),
    ("axis", (3, 2), (9000,), 1), ("elements", (7, 5), (4, 5), 0), ("elements", (6,), (9,), 0), ("nd", (4, 5), (3, 2), 0), ("nd", (4, 5, 3), (3, 1), 0),
    ("nd", (6,), (1,), 0),
]  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", EPILOGUE_CASES, ids=str)
def test_epilogue(case: tuple[str, tuple[int, ...], tuple[int, ...], int], threads: int) -> None:
    """Dequantised rows plus a bias, with a separate bias and one that is the output's own memory."""
    mode, xs, ishape, axis = case
    rng = np.random.default_rng(5)
    x = rng.integers(-100, 100, xs).astype(np.int8)
    if mode == "nd":
        idx = np.stack([rng.integers(-n, n, ishape[:-1]) for n in xs[: ishape[-1]]], -1)
        plain = reference_nd(x, idx, 0)
    else:
        idx = rng.integers(-xs[axis], xs[axis], ishape)
        plain = np.take(x, idx, axis) if mode == "axis" else np.take_along_axis(x, idx, axis)
    shape = np.shape(plain)
    bias = np.asarray(rng.standard_normal(shape)).astype(np.float32)
    column = np.broadcast_to(rng.standard_normal((*shape[:-1], 1) if shape else ()).astype(np.float32), shape)
    want = np.float32(plain) * np.float32(0.5) + bias + column
    params = {"mode": mode, "axis": axis}

    def finish(acc: Any, b: Any, c: Any) -> Any:
        return cast(acc, np.dtype(np.float32)) * 0.5 + b + c

    for xx, y in [(x, np.zeros(shape, np.float32)), (harness.strided(rng, x), harness.strided(rng, np.zeros(shape, np.float32)))]:
        harness.run("gather", [xx, idx], [y], params, epilogue=finish, epi_ins=[bias, column], acc_dtype=np.int8, threads=threads)
        np.testing.assert_allclose(y, want, rtol=1e-6, atol=1e-6)
        y[...] = bias
        harness.run("gather", [xx, idx], [y], params, epilogue=finish, epi_ins=[y, column], acc_dtype=np.int8, threads=threads)
        np.testing.assert_allclose(y, want, rtol=1e-6, atol=1e-6)
