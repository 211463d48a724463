"""Support vector machines against onnxruntime and plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from .nodes import node_model, run

rng = np.random.default_rng(9)
ML = "ai.onnx.ml"


def peer(op: str, x: np.ndarray, outputs: int, **attrs: Any) -> list[Any]:
    proto = node_model(op, {"x": x}, domain=ML, opset=1, outputs=outputs, **attrs)
    for o, t in zip(proto.graph.output, (7, 1) if outputs == 2 else (1,), strict=True):
        o.CopyFrom(helper.make_tensor_value_info(o.name, t, None))
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("one_class", [0, 1])
def test_regressor(kernel: str, one_class: int) -> None:
    x = rng.standard_normal((9, 4)).astype(np.float32)
    attrs = {"kernel_type": kernel, "kernel_params": [0.3, 0.5, 3.0], "n_supports": 5, "one_class": one_class, "rho": [0.2],
             "support_vectors": rng.standard_normal(20).tolist(), "coefficients": rng.standard_normal(5).tolist()}  # fmt: skip
    (got,), (want,) = run("SVMRegressor", {"x": x}, domain=ML, opset=1, **attrs), peer("SVMRegressor", x, 1, **attrs)
    np.testing.assert_allclose(got, want, 1e-4, 1e-5)


def test_linear_regressor_without_supports() -> None:
    x = rng.standard_normal((3, 4)).astype(np.float32)
    (got,) = run("SVMRegressor", {"x": x}, domain=ML, opset=1, coefficients=[1.0, 2.0, 3.0, 4.0], rho=[0.5])
    np.testing.assert_allclose(got, x @ np.array([[1], [2], [3], [4]], np.float32) + 0.5, 1e-5)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("kernel", ["LINEAR", "RBF", "POLY", "SIGMOID"])
@pytest.mark.parametrize("probabilities", [False, True])
def test_classifier(classes: int, kernel: str, probabilities: bool) -> None:
    x = rng.standard_normal((20, 3)).astype(np.float32)
    counts = list(range(2, 2 + classes))
    pairs = classes * (classes - 1) // 2
    attrs: dict[str, Any] = {
        "kernel_type": kernel, "kernel_params": [0.4, 0.1, 2.0], "vectors_per_class": counts, "rho": rng.standard_normal(pairs).tolist(),
        "support_vectors": rng.standard_normal(3 * sum(counts)).tolist(), "coefficients": rng.standard_normal((classes - 1) * sum(counts)).tolist(),
        "classlabels_ints": list(range(classes)),
    }  # fmt: skip
    if probabilities:
        attrs |= {"prob_a": (-1 - rng.random(pairs)).tolist(), "prob_b": rng.standard_normal(pairs).tolist()}
    got, want = run("SVMClassifier", {"x": x}, domain=ML, opset=1, outputs=2, **attrs), peer("SVMClassifier", x, 2, **attrs)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(got[1], want[1], 1e-3, 1e-4)
    named = run(
        "SVMClassifier",
        {"x": x},
        domain=ML,
        opset=1,
        outputs=2,
        **{k: v for k, v in attrs.items() if k != "classlabels_ints"},
        classlabels_strings=list("abcd"[:classes]),
    )
    assert named[0].tolist() == ["abcd"[i] for i in got[0]]


def test_linear_classifier() -> None:
    x, w = rng.standard_normal((6, 3)).astype(np.float32), rng.standard_normal((4, 3)).astype(np.float32)
    labels, scores = run(
        "SVMClassifier",
        {"x": x},
        domain=ML,
        opset=1,
        outputs=2,
        coefficients=w.reshape(-1).tolist(),
        rho=[0.25],
        classlabels_ints=[5, 6, 7, 8],
    )
    np.testing.assert_allclose(scores, x @ w.T + 0.25, 1e-5, 1e-6)
    assert labels.tolist() == [5 + int(i) for i in (x @ w.T).argmax(1)]
