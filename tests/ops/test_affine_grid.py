"""AffineGrid against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from .nodes import node_model, run, session


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16], ids=str)
@pytest.mark.parametrize("constant", [False, True])
def test_agrees_with_onnxruntime(align: int, dtype: Any, constant: bool) -> None:
    rng = np.random.default_rng(1)
    for shape in [(1, 1, 5, 7), (1, 3, 2, 9), (3, 2, 16, 4), (1, 2, 4, 3, 5), (2, 1, 3, 2, 6)]:
        d = len(shape) - 2
        feeds = {"theta": rng.standard_normal((shape[0], d, d + 1)).astype(dtype), "size": np.array(shape)}
        (got,) = run("AffineGrid", feeds, constants=["size"] if constant else [], align_corners=align)
        assert got.dtype == dtype
        assert got.shape == (shape[0], *shape[2:], d)
        exact = {**feeds, "theta": feeds["theta"].astype(np.float64)}
        proto = node_model("AffineGrid", exact, align_corners=align)
        proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y0", 11, None))
        (want,) = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, exact)
        unit = float(np.finfo(dtype).eps)
        np.testing.assert_allclose(got.astype(np.float64), want, rtol=unit, atol=8 * max(unit, 1e-15) if dtype != np.float16 else 2 * unit)


@pytest.mark.parametrize("align", [0, 1])
def test_one_session_for_many_sizes(align: int) -> None:
    theta = np.array([[[2, 0, 0.5], [0, 3, 0.25]]], np.float32)
    grids = session("AffineGrid", {"theta": theta, "size": np.zeros(4, np.int64)}, align_corners=align)
    for h, w in [(2, 3), (4, 5), (6, 2), (3, 8), (2, 2), (9, 4), (1, 1), (1, 6), (0, 3), (5, 7), (8, 3)]:
        (got,) = grids.run(None, {"theta": theta, "size": np.array([1, 1, h, w])})
        assert got.shape == (1, h, w, 2)
        y, x = (np.zeros(n) if n == 1 else np.arange(1 - n, n, 2) / (n - 1 if align else n) for n in (h, w))
        want = np.stack(np.broadcast_arrays(2 * x + 0.5, 3 * y[:, None] + 0.25), -1)
        np.testing.assert_allclose(got[0], want, rtol=1e-6, atol=1e-6)
