"""The roi_align kernel against onnx.reference."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from .harness import run, strided

A = np.ndarray[Any, Any]


def reference(x: A, rois: A, batches: A, size: tuple[int, int], op: str, ratio: int, scale: float, half: int) -> A:
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    node = helper.make_node("RoiAlign", ["x", "rois", "b"], ["y"], mode=op, output_height=size[0], output_width=size[1], sampling_ratio=ratio,
                            spatial_scale=scale, coordinate_transformation_mode="half_pixel" if half else "output_half_pixel")  # fmt: skip
    return ReferenceEvaluator(node).run(None, {"x": x, "rois": rois, "b": batches})[0]


@pytest.mark.parametrize("op", ["avg", "max"])
@pytest.mark.parametrize("half", [0, 1])
def test_against_reference(op: str, half: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 3, 9, 11)).astype(np.float32)
    rois = np.concatenate([rng.uniform(-2, 6, (5, 2)), rng.uniform(4, 14, (5, 2))], 1).astype(np.float32)
    batches = np.array([0, 1, 1, 0, 1], np.int64)
    for ratio, scale in itertools.product((0, 2), (1.0, 0.5)):
        want = reference(x, rois, batches, (3, 2), op, ratio, scale, half)
        params = {"op": op, "sampling_ratio": ratio, "spatial_scale": scale, "half_pixel": half}
        for dtype, tol in ((np.float32, 1e-4), (np.float64, 1e-4), (np.float16, 1e-2)):
            a = strided(rng, x.astype(dtype))
            out = strided(rng, np.zeros(want.shape, dtype))
            results = [run("roi_align", [a, strided(rng, rois), batches], [out], params, threads=t)[0].copy() for t in (1, 2)]
            assert results[0].tobytes() == results[1].tobytes()
            np.testing.assert_allclose(results[0].astype(np.float64), want, rtol=tol, atol=tol)


def channels_last(x: A) -> A:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("op", ["avg", "max"])
def test_layouts(op: str) -> None:
    """Planes and rows of channels; regions of many samples, of samples far apart, beyond the border, reversed."""
    rng = np.random.default_rng(2)
    rois = np.array([[0, 0, 3, 3], [1, 2, 18, 10], [-9, -9, 30, 40], [8, 4, 19.5, 11.5], [14, 9, 3, 1], [0, 0, 150, 3]], np.float32)
    batches = np.array([0, 1, 1, 0, 1, 0], np.int64)
    for channels, size, ratio in ((1, (2, 5), 0), (6, (3, 3), 3), (37, (1, 6), 0)):
        x = rng.standard_normal((2, channels, 12, 20)).astype(np.float32)
        want = reference(x, rois, batches, size, op, ratio, 1.0, 1)
        params = {"op": op, "sampling_ratio": ratio, "spatial_scale": 1.0, "half_pixel": 1}
        for a, out in ((x, want), (channels_last(x), channels_last(want)), (channels_last(x), want), (x, channels_last(want))):
            describe: list[str] = []
            results = [run("roi_align", [a, rois, batches], [np.zeros_like(out)], params, threads=t, describe=describe)[0] for t in (1, 2)]
            assert results[0].tobytes() == results[1].tobytes()
            np.testing.assert_allclose(results[0], want, rtol=1e-4, atol=1e-4)
            if describe and channels > 1:
                assert describe[0] == ("planes" if a is x else "rows")


def test_bad_data_raises() -> None:
    x = np.zeros((1, 1, 4, 4), np.float32)
    params = {"op": "avg"}
    for rois, batch in (([0, 0, 1, 1], 1), ([0, 0, 1, 1], -1), ([0, 0, 1e30, 1], 0), ([np.nan] * 4, 0), ([0, 0, np.inf, 2], 0)):
        with pytest.raises(Exception, match="roi_align"):
            run("roi_align", [x, np.array([rois], np.float32), np.array([batch], np.int64)], [((1, 1, 2, 2), np.float32)], params)
