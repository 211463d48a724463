"""The cases of `scatter`, on device "numba", and cases of its own paths: raw elements of all formats, batches of updates, blocks of many axes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt import _native
from tests.kernels import harness
from tests.kernels.test_scatter import *  # noqa: F403
from tests.kernels.test_scatter import reference

SHORT = [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float4_e2m1fn]


@pytest.mark.parametrize("dtype", SHORT)
def test_short_formats_are_set_but_not_reduced(dtype: Any) -> None:
    rng = np.random.default_rng(1)
    x, u = rng.integers(0, 256, 300).astype(np.uint8), rng.integers(0, 256, 500).astype(np.uint8)
    index = rng.integers(-300, 300, 500)
    want = reference(x, index, u, "elements", 0, "none")
    (y,) = harness.run("scatter", [x.view(dtype), index, u.view(dtype)], [((300,), dtype)], {"mode": "elements"})
    np.testing.assert_array_equal(y.view(np.uint8), want)
    with pytest.raises(_native.LaunchError, match="not defined for this dtype"):
        harness.run("scatter", [x.view(dtype), index, u.view(dtype)], [((300,), dtype)], {"mode": "elements", "reduction": "add"})


@pytest.mark.parametrize("reduction", ["none", "add"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_more_updates_than_a_batch_holds(axis: int, reduction: str) -> None:
    rng = np.random.default_rng(2)
    shape, updates = [6, 5, 4], [6, 5, 4]
    updates[axis] = 700
    x, u = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(updates).astype(np.float32)
    index = rng.integers(-shape[axis], shape[axis], updates)
    want = reference(x, index, u, "elements", axis, reduction)
    params = {"mode": "elements", "axis": axis, "reduction": reduction}
    for a, i, b in [(x, index, u), [harness.strided(rng, v) for v in (x, index, u)]]:
        for threads in (1, 3):
            (y,) = harness.run("scatter", [a, i, b], [(tuple(shape), np.float32)], params, threads=threads)
            assert y.tobytes() == want.tobytes()


@pytest.mark.parametrize("reduction", ["none", "mul"])
def test_blocks_of_many_axes(reduction: str) -> None:
    """Units begin anywhere in a block whose axes do not merge."""
    rng = np.random.default_rng(3)
    x = rng.integers(-100, 100, (3, 40, 30, 20)).astype(np.int32)
    u = rng.integers(-3, 3, (5, 40, 30, 20)).astype(np.int32)
    index = rng.integers(-3, 3, (5, 1))
    want = reference(x, index, u, "nd", 0, reduction)
    for threads in (1, 3):
        y = harness.strided(rng, np.zeros_like(x))
        harness.run(
            "scatter",
            [harness.strided(rng, x), index, harness.strided(rng, u)],
            [y],
            {"mode": "nd", "reduction": reduction},
            threads=threads,
        )
        assert y.tobytes() == want.tobytes()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_bad_index_in_row_major_order_is_reported(threads: int) -> None:
    x, index = np.zeros((4, 600), np.float32), np.zeros((4, 600), np.int64)
    index[1, 500], index[3, 0] = 7, 9
    for source in (index, np.asfortranarray(index)):
        with pytest.raises(_native.LaunchError, match=r"^index 7 is out of range for axis 0 of size 4$"):
            harness.run("scatter", [x, source, x], [(x.shape, np.float32)], {"mode": "elements", "axis": 0}, threads=threads)
    with pytest.raises(_native.LaunchError, match=r"^index -5 is out of range for axis 0 of size 4$"):
        harness.run("scatter", [x, np.array([[1], [-5], [9]]), x[:3]], [(x.shape, np.float32)], {"mode": "nd"}, threads=threads)
