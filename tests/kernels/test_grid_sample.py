"""The grid_sample kernel against onnx.reference."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from .harness import run, strided

A = np.ndarray[Any, Any]


def reference(x: A, grid: A, op: str, padding: str, align: int) -> A:
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode=op, padding_mode=padding, align_corners=align)
    return ReferenceEvaluator(node).run(None, {"x": x, "grid": grid})[0]


def channels_last(x: A) -> A:
    axes = (0, *range(2, x.ndim), 1)
    return np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes))


@pytest.mark.parametrize("op", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_against_reference(op: str, padding: str, align: int) -> None:
    rng = np.random.default_rng(1)
    for shape, out in (((2, 2, 5, 4), (3, 6)), ((1, 2, 3, 4, 3), (2, 3, 2)), ((1, 3, 6), (7,))):
        if op == "cubic" and len(shape) == 5:
            continue  # the reference takes minutes
        x = rng.standard_normal(shape)
        grid = rng.uniform(-1.6, 1.6, (shape[0], *out, len(shape) - 2)).astype(np.float32)
        want = reference(x, grid, op, padding, align)
        for dtype, tol in ((np.float64, 1e-5), (np.float32, 2e-5), (np.float16, 2e-2)):
            a = x.astype(dtype)
            for source, target in ((a, a), (strided(rng, a), strided(rng, np.zeros(want.shape, dtype))), (channels_last(a), None)):
                result = target if target is not None and target is not a else channels_last(np.zeros(want.shape, dtype))
                params = {"op": op, "padding": padding, "align_corners": align}
                results = [run("grid_sample", [source, strided(rng, grid)], [result], params, threads=t)[0].copy() for t in (1, 2)]
                assert results[0].tobytes() == results[1].tobytes()
                np.testing.assert_allclose(results[0].astype(np.float64), want, rtol=tol, atol=tol)


def test_nearest_of_integers_and_wild_coordinates() -> None:
    x = np.arange(2 * 3 * 4, dtype=np.int64).reshape(1, 2, 3, 4) + 2**60
    grid = np.array([[[-1, -1], [1, 1], [0.99, -0.99]]], np.float32)[None]
    (y,) = run("grid_sample", [x, grid[0][None]], [((1, 2, 1, 3), np.int64)], {"op": "nearest", "padding": "border", "align_corners": 1})
    np.testing.assert_array_equal(y[0, :, 0], np.stack([x[0, :, 0, 0], x[0, :, 2, 3], x[0, :, 0, 3]], 1))
    wild = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 1e9], np.float32)
    points = np.array(list(itertools.product(wild, wild)), np.float32)[None, None]
    for op, padding in itertools.product(("linear", "nearest", "cubic"), ("zeros", "border", "reflection")):
        f = np.ones((1, 1, 3, 4), np.float32)
        (y,) = run("grid_sample", [f, points], [((1, 1, 1, 36), np.float32)], {"op": op, "padding": padding, "align_corners": 0})
        np.testing.assert_allclose(y, 0 if padding == "zeros" else 1, rtol=1e-5)
