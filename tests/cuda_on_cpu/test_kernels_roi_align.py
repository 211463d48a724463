"""The cases of `roi_align`, on the CUDA kernels."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from tests.kernels.harness import run
from tests.kernels.test_roi_align import *  # noqa: F403
from tests.kernels.test_roi_align import reference


@pytest.mark.parametrize("op", ["avg", "max"])
@pytest.mark.parametrize("channels", [1, 8, 21])
def test_lots_of_channels(op: str, channels: int) -> None:
    rng = np.random.default_rng(channels)
    x = rng.standard_normal((2, channels, 7, 8)).astype(np.float32)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    rois = np.concatenate([rng.uniform(-2, 4, (6, 2)), rng.uniform(3, 9, (6, 2))], 1).astype(np.float32)
    batches = np.array([0, 1, 1, 0, 1, 0], np.int64)
    want = reference(x, rois, batches, (3, 5), op, 2, 1.0, 1)
    for a in (x, last):
        out = np.zeros((6, 3, 5, channels), np.float32).transpose(0, 3, 1, 2) if a is last else np.zeros(want.shape, np.float32)
        (y,) = run("roi_align", [a, rois, batches], [out], {"op": op, "sampling_ratio": 2}, threads=2)
        np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)


def test_an_empty_region_gives_zeros() -> None:
    x = np.ones((1, 2, 4, 4), np.float32)
    rois = np.array([[3, 3, 1, 1]], np.float32)
    (y,) = run("roi_align", [x, rois, np.zeros(1, np.int64)], [((1, 2, 2, 2), np.float32)], {"op": "avg"})
    np.testing.assert_array_equal(y, 0)


def test_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NARROW", -1)
    test_lots_of_channels("avg", 8)
