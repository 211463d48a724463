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


@pytest.mark.parametrize("op", ["linear", "nearest", "cubic"])
def test_ways(op: str) -> None:
    """More positions than a block, planes whose windows touch every border, rows of channels; lines of y of any length."""
    rng = np.random.default_rng(2)
    for padding, align in (("zeros", 0), ("reflection", 1), ("border", 0)):
        for channels, size, out in ((3, (9, 6), (7, 23)), (9, (4, 5), (3, 50)), (1, (3, 2), (2, 3))):
            x = rng.standard_normal((2, channels, *size)).astype(np.float32)
            grid = rng.uniform(-1.3, 1.3, (2, *out, 2)).astype(np.float32)
            grid[0, 0, :3] = [[-1, -1], [1, 1], [0, 0]]
            want = reference(x, grid, op, padding, align)
            for a, like in ((x, want), (channels_last(x), channels_last(want)), (x, channels_last(want)), (channels_last(x), want)):
                describe: list[str] = []
                (y,) = run(
                    "grid_sample",
                    [a, grid],
                    [np.zeros_like(like)],
                    {"op": op, "padding": padding, "align_corners": align},
                    describe=describe,
                )
                np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)
                if describe and channels == 3:
                    assert describe == ["copies" if op == "nearest" else "planes" if a is x else "rows"]


def test_what_is_not_read_does_not_matter() -> None:
    x = np.ones((1, 1, 6, 6), np.float32)
    x[:, :, :, 0] = np.nan
    grid = np.array([[[2 / 6, 0], [1, 1], [1.5, 0], [-5 / 6, 0], [0.4, 0.3]]], np.float32)[None]
    for op in ("linear", "nearest"):
        for a in (x, channels_last(np.repeat(x, 5, 1))):
            (y,) = run("grid_sample", [a, grid[0][None]], [((1, a.shape[1], 1, 5), np.float32)],
                       {"op": op, "padding": "zeros", "align_corners": 0})  # fmt: skip
            assert np.isnan(y[..., 3]).all() and np.isfinite(y[..., [0, 1, 2, 4]]).all()
