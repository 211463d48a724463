"""Small models for the tests of the public API."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

import pytensor_rt
from tests.models_text import model

DIGITS = str(Path(pytensor_rt.__file__).parent / "demo" / "digits.onnx")


def affine() -> onnx.ModelProto:
    """y = x * scale + shift, s = sum of y: dynamic first dimension, a scalar input, two outputs."""
    return model(
        "g (float[n, 3] x, float scale, float[3] shift) => (float[n, 3] y, float s) { p = Mul(x, scale) y = Add(p, shift) s = ReduceSum<keepdims = 0>(y) }"
    )


def lookup() -> onnx.ModelProto:
    """rows of a table by index: bad indices are found while running."""
    return model("g (float[10, 4] table, int64[n] ids) => (float[n, 4] y) { r = Gather(table, ids) y = Neg(r) }")


def reshaped() -> onnx.ModelProto:
    """The plan depends on the value of the input `shape`."""
    return model("g (float[n, m] x, int64[2] shape) => (float[a, b] y) { r = Reshape(x, shape) y = Exp(r) }")


def nonzero() -> onnx.ModelProto:
    """The plan depends on computed values: more than one segment."""
    return model("g (float[n] x) => (float[m] y) { r = Relu(x) i = NonZero(r) j = Squeeze(i) p = Gather(x, j) y = Neg(p) }")


def feeds(n: int = 2) -> dict[str, np.ndarray]:
    """Inputs of affine()."""
    x = np.arange(3 * n, dtype=np.float32).reshape(n, 3)
    return {"x": x, "scale": np.array(2, np.float32), "shift": np.array([1, 0, -1], np.float32)}
