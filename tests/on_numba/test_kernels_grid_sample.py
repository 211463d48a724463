"""The cases of `grid_sample`, on device "numba", and cases of the paths that only it has."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt.kernels.ref.sampling import grid_sample as oracle
from tests.kernels.harness import run, strided
from tests.kernels.test_grid_sample import *  # noqa: F403
from tests.kernels.test_grid_sample import channels_last


def expected(x: Any, grid: Any, shape: tuple[int, ...], dtype: Any, params: dict[str, Any]) -> Any:
    return oracle([x, grid], [(shape, np.dtype(dtype))], params, ())[0]


@pytest.mark.parametrize("op", ["linear", "cubic", "nearest"])
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_layouts(op: str, spatial: int) -> None:
    """Many channels and more positions than a unit has, all pairs of layouts of x and y."""
    rng = np.random.default_rng(2)
    size, out = (5, 6, 4)[:spatial], (7, 9, 8)[:spatial]
    x = rng.standard_normal((2, 21, *size)).astype(np.float32)
    grid = rng.uniform(-1.3, 1.3, (2, *out, spatial)).astype(np.float32)
    for padding, align in itertools.product(("zeros", "border", "reflection"), (0, 1)):
        params = {"op": op, "padding": padding, "align_corners": align}
        want = expected(x, grid, (2, 21, *out), np.float64, params)
        for a, threads in itertools.product((x, channels_last(x), strided(rng, x)), (1, 2)):
            for y in (np.zeros(want.shape, np.float32), channels_last(np.zeros(want.shape, np.float32))):
                (got,) = run("grid_sample", [a, grid], [y], params, threads=threads)
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


DTYPES = ["float16", "bfloat16", "float64", "float8_e5m2", "int8", "uint8", "int32", "int64", "uint64", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["linear", "cubic", "nearest"])
def test_dtypes(op: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    kind: Any = getattr(ml_dtypes, dtype) if hasattr(ml_dtypes, dtype) else dtype
    x = rng.integers(0, 2 if dtype == "bool" else 7, (1, 6, 5, 4)).astype(kind)
    grid = rng.uniform(-1, 1, (1, 8, 9, 2))
    params = {"op": op, "padding": "border", "align_corners": 0}
    want = expected(x, grid.astype(np.float32), (1, 6, 8, 9), kind, params).astype(np.float64)
    exact = expected(x, grid.astype(np.float32), (1, 6, 8, 9), np.float64, params)
    grids: list[Any] = [grid.astype(np.float32), grid.astype(np.float32).astype(np.float64)]
    for a, g in itertools.product((x, channels_last(x)), grids):
        (y,) = run("grid_sample", [a, g], [((1, 6, 8, 9), kind)], params)
        tolerance = {"float16": 2e-2, "bfloat16": 8e-2, "float8_e5m2": 0.5, "float64": 1e-4}.get(dtype, 0.0)
        near = (np.abs(exact - np.rint(exact)) < 1e-4) & (tolerance == 0) & (op != "nearest")  # truncated to one or the other neighbour
        np.testing.assert_allclose(np.where(near, 0, y.astype(np.float64)), np.where(near, 0, want), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_short_grids(dtype: str) -> None:
    kind: Any = getattr(ml_dtypes, dtype) if hasattr(ml_dtypes, dtype) else dtype
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1, 3, 5, 4)).astype(np.float32)
    grid = rng.uniform(-1, 1, (1, 3, 2, 2)).astype(kind)
    params = {"op": "linear", "padding": "zeros", "align_corners": 1}
    (y,) = run("grid_sample", [x, grid], [((1, 3, 3, 2), np.float32)], params)
    want = expected(x, grid.astype(np.float32), (1, 3, 3, 2), np.float64, params)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("last", [False, True])
def test_what_is_not_read_does_not_count(last: bool) -> None:
    """NaNs at places of weight 0, or where positions outside are clamped to."""
    x = np.ones((1, 5, 3, 3), np.float32)
    x[:, :, 0, 0] = np.nan
    grid = np.array([[[[2.0, 2.0], [1.0, 1.0], [0.0, 0.0], [-3.0, 0.0]]]], np.float32)
    for op in ("linear", "nearest", "cubic"):
        a = channels_last(x) if last else x
        (y,) = run("grid_sample", [a, grid], [((1, 5, 1, 4), np.float32)], {"op": op, "padding": "zeros", "align_corners": 1})
        np.testing.assert_allclose(y[0, 0, 0], [0, 1, 1, 0], atol=1e-6)


def test_empty_input_is_refused() -> None:
    with pytest.raises(Exception, match="nothing to sample"):
        run(
            "grid_sample", [np.zeros((1, 1, 0, 3), np.float32), np.zeros((1, 2, 2, 2), np.float32)], [((1, 1, 2, 2), np.float32)],
            {"op": "linear", "padding": "zeros", "align_corners": 0},
        )  # fmt: skip
