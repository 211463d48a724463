"""MaxRoiPool against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

import pytensor_rt as rt

from .nodes import node_model, run


@pytest.mark.parametrize("pooled", [(1, 1), (2, 3), (7, 7)])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0625])
def test_agrees_with_onnxruntime(pooled: tuple[int, int], scale: float) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 3, 12, 10)).astype(np.float32)
    corner, size = rng.uniform(0, 8 / scale, (6, 2)), rng.uniform(0, 6 / scale, (6, 2))
    rois = np.concatenate([rng.integers(0, 2, (6, 1)), corner, corner + size], 1).astype(np.float32)
    proto = node_model("MaxRoiPool", {"x": x, "rois": rois}, opset=16, pooled_shape=list(pooled), spatial_scale=scale)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y0", 1, None))
    (want,) = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x, "rois": rois})
    (got,) = run("MaxRoiPool", {"x": x, "rois": rois}, opset=16, pooled_shape=list(pooled), spatial_scale=scale)
    np.testing.assert_array_equal(got, want)


def test_edges_of_bins_are_those_of_onnxruntime() -> None:
    """Every size of region: a seventh of 22 times seven is more than 22 in float32. Bins beyond the image, too."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 2, 50, 50)).astype(np.float32)
    rois = np.array([[0, s, 49 - s, s + n, 49 - s + n // 2] for n in range(60) for s in (0, 3, 30)], np.float32)
    proto = node_model("MaxRoiPool", {"x": x, "rois": rois}, opset=16, pooled_shape=[7, 3])
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y0", 1, None))
    (want,) = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x, "rois": rois})
    (got,) = run("MaxRoiPool", {"x": x, "rois": rois}, opset=16, pooled_shape=[7, 3])
    np.testing.assert_array_equal(got, want)


def test_a_region_of_no_batch_is_an_error() -> None:
    feeds = {"x": np.zeros((1, 1, 4, 4), np.float32), "rois": np.array([[1, 0, 0, 2, 2]], np.float32)}
    with pytest.raises(rt.ExecutionError, match="region 0"):
        run("MaxRoiPool", feeds, opset=16, pooled_shape=[1, 1])
