"""The cases of `grid_sample`, on the CUDA kernels."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.dtypes import F32
from pytensor_rt.kernels.cuda import build
from pytensor_rt.kernels.ref.sampling import grid_sample as oracle
from tests.kernels.harness import run
from tests.kernels.test_grid_sample import *  # noqa: F403
from tests.kernels.test_grid_sample import channels_last, reference


@pytest.mark.parametrize("op", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("channels", [1, 3, 8, 21])
def test_lots_of_channels(op: str, channels: int) -> None:
    """One channel, fewer than a thread makes, vectors of them, and more with a rest; several blocks."""
    rng = np.random.default_rng(channels)
    x = rng.standard_normal((2, channels, 6, 5)).astype(np.float32)
    grid = rng.uniform(-1.3, 1.3, (2, 9, 17, 2)).astype(np.float32)
    want = reference(x, grid, op, "zeros", 0)
    for a in (x, channels_last(x)):
        for out in (np.zeros(want.shape, np.float32), channels_last(np.zeros(want.shape, np.float32))):
            (y,) = run("grid_sample", [a, grid], [out], {"op": op, "padding": "zeros", "align_corners": 0}, threads=2)
            np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_three_cubic_axes(padding: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, 2, 5, 6, 7)).astype(np.float32)
    grid = rng.uniform(-1.2, 1.2, (1, 3, 4, 5, 3)).astype(np.float32)
    params = {"op": "cubic", "padding": padding, "align_corners": 1}
    (y,) = run("grid_sample", [x, grid], [((1, 2, 3, 4, 5), np.float32)], params)
    np.testing.assert_allclose(y, oracle([x, grid], [(y.shape, F32)], params, ())[0], rtol=2e-5, atol=2e-5)


def test_integers_are_interpolated_and_truncated() -> None:
    x = np.array([[[[0, 10], [20, 31]]]], np.uint8)
    grid = np.zeros((1, 1, 1, 2), np.float32)
    (y,) = run("grid_sample", [x, grid], [((1, 1, 1, 1), np.uint8)], {"op": "linear", "padding": "zeros", "align_corners": 1})
    assert y[0, 0, 0, 0] == 15


def test_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NARROW", -1)
    test_lots_of_channels("linear", 8)
    test_lots_of_channels("nearest", 3)
