"""Where a resampled output lies on its input axis, and the cubic kernel (ONNX Resize-19)."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def positions(mode: str, x: Array, n: float, n_out: float, scale: float, start: float, end: float) -> Array:
    """Where outputs lie in the input. The resized length of the formulas is not rounded to n_out."""
    width = scale * n
    if mode == "align_corners":
        return np.zeros_like(x) if width == 1 else x * (n - 1) / (width - 1)
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_crop_and_resize":
        within = np.full_like(x, (end - start) * (n - 1) / 2) if width == 1 else x * (end - start) * (n - 1) / (width - 1)
        return np.asarray(start * (n - 1) + within)
    if mode == "tf_half_pixel_for_nn":
        return (x + 0.5) / scale
    at = (x + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return np.full_like(x, -0.5) if width == 1 else at
    if mode == "half_pixel_symmetric":  # summed in this order: nearest elements hang on the last bit
        return np.asarray(n / 2 * (1 - n_out / width) + (x + 0.5) / scale - 0.5)
    return at


def cubic(a: float, x: Array) -> Array:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
