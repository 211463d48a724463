"""GroupNormalization: few large sets take another way than many small ones; one session runs both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .nodes import run, session


def reference(x: Any, scale: Any, bias: Any, groups: int, epsilon: float) -> Any:
    v = x.astype(np.float64).reshape(x.shape[0], groups, -1)
    v = (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + epsilon)
    v = v.reshape(x.shape)
    c = x.shape[1]
    spread = lambda p: np.repeat(p, c // p.size).reshape(1, c, *(1,) * (x.ndim - 2))
    return v * spread(scale) + spread(bias)


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("groups", [1, 2])
def test_small_and_large_sets(groups: int, opset: int) -> None:
    rng = np.random.default_rng(0)
    n = 8 if opset == 21 else groups
    scale, bias = rng.uniform(0.5, 2, n).astype(np.float32), rng.standard_normal(n).astype(np.float32)
    shapes = [(1, 8, 5, 7), (1, 8, 64, 80), (3, 8, 70, 50), (9, 8, 64, 80), (1, 8, 64, 81), (2, 8, 3, 4), (1, 8, 33000)]
    feeds = {"x": np.zeros(shapes[0], np.float32), "scale": scale, "bias": bias}
    for rank in (3, 4):
        feeds["x"] = np.zeros((1, 8, *(2,) * (rank - 2)), np.float32)
        s = session("GroupNormalization", feeds, opset=opset, num_groups=groups, epsilon=1e-3)
        for shape in shapes:
            if len(shape) != rank:
                continue
            x = (rng.standard_normal(shape) * 3 + 5).astype(np.float32)
            (y,) = s.run(None, {"x": x, "scale": scale, "bias": bias})
            np.testing.assert_allclose(y, reference(x, scale, bias, groups, 1e-3), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_constant_scales(opset: int, dtype: Any) -> None:
    """Of one value per group, too (opset 18), after a convolution would have left channels last."""
    rng = np.random.default_rng(1)
    for groups, shape in ((32, (1, 64, 32, 32)), (4, (2, 12, 9, 5)), (1, (1, 6, 40)), (6, (3, 6, 4, 4))):
        n = shape[1] if opset == 21 else groups
        scale, bias = rng.uniform(0.5, 2, n).astype(dtype), rng.standard_normal(n).astype(dtype)
        x = (rng.standard_normal(shape) * 3 + 5).astype(dtype)
        feeds = {"x": x, "scale": scale, "bias": bias}
        (y,) = run("GroupNormalization", feeds, opset=opset, constants=("scale", "bias"), num_groups=groups, epsilon=1e-3)
        tolerance = 2e-5 if dtype == np.float32 else 4e-3
        np.testing.assert_allclose(y.astype(np.float64), reference(x, scale, bias, groups, 1e-3), rtol=tolerance, atol=tolerance)
