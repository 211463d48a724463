"""The cases of `roi_align`, on device "numba", and cases of the paths that only it has."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt.kernels.ref.sampling import roi_align as oracle
from tests.kernels.harness import run
from tests.kernels.test_roi_align import *  # noqa: F403


def channels_last(x: Any) -> Any:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("op", ["avg", "max"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "float8_e4m3fn"])
def test_layouts(op: str, dtype: str) -> None:
    kind: Any = getattr(ml_dtypes, dtype) if hasattr(ml_dtypes, dtype) else dtype
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 37, 9, 11)).astype(kind)
    rois = np.concatenate([rng.uniform(-2, 6, (6, 2)), rng.uniform(4, 14, (6, 2))], 1).astype(np.float32)
    batches = np.array([0, 1, 1, 0, 1, 0], np.int64)
    tolerance = {"float32": 1e-4, "float64": 1e-9, "float16": 1e-2, "bfloat16": 3e-2, "float8_e4m3fn": 0.13}[dtype]
    for ratio, half in ((0, 1), (0, 0), (3, 1)):
        params = {"op": op, "sampling_ratio": ratio, "spatial_scale": 0.9, "half_pixel": half}
        want: Any = oracle([x, rois, batches], [((6, 37, 3, 2), np.dtype(np.float64))], params, ())[0]
        for a in (x, channels_last(x)):
            for y in (np.zeros(want.shape, kind), channels_last(np.zeros(want.shape, kind))):
                for threads in (1, 2):
                    (got,) = run("roi_align", [a, rois, batches], [y], params, threads=threads)
                    np.testing.assert_allclose(got.astype(np.float64), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("op", ["avg", "max"])
def test_more_samples_than_a_list_holds(op: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 5, 40, 50)).astype(np.float32)
    rois = np.array([[0, 0, 50, 40], [-30, -20, 60, 45]], np.float32)
    params = {"op": op, "sampling_ratio": 0, "spatial_scale": 1.0, "half_pixel": 1}
    want: Any = oracle([x, rois, np.zeros(2, np.int64)], [((2, 5, 1, 2), np.dtype(np.float64))], params, ())[0]
    for a in (x, channels_last(x)):
        (got,) = run("roi_align", [a, rois, np.zeros(2, np.int64)], [((2, 5, 1, 2), np.float32)], params)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_regions_outside_and_empty() -> None:
    x = -np.ones((1, 4, 5, 5), np.float32)
    rois = np.array([[90, 90, 99, 99], [3, 3, 3, 3], [-4, -4, 2, 2]], np.float32)
    for op in ("avg", "max"):
        params = {"op": op, "sampling_ratio": 0, "spatial_scale": 1.0, "half_pixel": 1}
        want: Any = oracle([x, rois, np.zeros(3, np.int64)], [((3, 4, 2, 2), np.dtype(np.float64))], params, ())[0]
        for a in (x, channels_last(x)):
            (got,) = run("roi_align", [a, rois, np.zeros(3, np.int64)], [((3, 4, 2, 2), np.float32)], params)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
