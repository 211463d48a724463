"""Gather and ArrayFeatureExtractor by constant indices: a view where the indices are in arithmetic progression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pytensor_rt as rt

from ..models_text import agree, model
from .nodes import normal, run, session, text

X = normal(4, 7, 5)
VIEWS: list[Any] = [
    [2, 3, 4], [0, 2, 4], [4, 2, 0], [3, 1], [1, 3], [2, 2, 2], [-1, -2, -3], [-1, 1], [-5, -3, -1], [0, -1], [0, 1, 2, 3, 4], [[0, 1], [2, 3]],
    [[4, 3], [2, 1]], [[1], [3]], [[[2]]], 3,
]  # fmt: skip


def kernels(op: str, feeds: dict[str, Any], **kwargs: Any) -> dict[str, int]:
    s = session(op, feeds, constants=["i"], **kwargs)
    return s.plan_report(x=feeds["x"]).kernels


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("index", VIEWS, ids=str)
def test_progressions_are_views(index: Any, axis: int) -> None:
    feeds = {"x": X, "i": np.array(index, np.int64)}
    (got,) = run("Gather", feeds, constants=["i"], axis=axis)
    np.testing.assert_array_equal(got, X.take(index, axis))
    assert "gather" not in kernels("Gather", feeds, axis=axis)


@pytest.mark.parametrize("index", [[0, 1, 3], [0, 0, 1], [1, -1, 2], [[0, 1], [3, 4]], np.empty((0, 2))], ids=str)
def test_others_are_gathered(index: Any) -> None:
    feeds = {"x": X, "i": np.array(index, np.int64)}
    (got,) = run("Gather", feeds, constants=["i"], axis=2)
    np.testing.assert_array_equal(got, X.take(feeds["i"], 2))
    assert kernels("Gather", feeds, axis=2).get("gather", 0) == (feeds["i"].size > 0)


@pytest.mark.parametrize("index", [[1, 3], [5, 3, 1], [2, 2], [4]])
def test_features(index: list[int]) -> None:
    kwargs: dict[str, Any] = {"domain": "ai.onnx.ml", "opset": 1}
    feeds = {"x": normal(3, 6), "i": np.array([index], np.int64)}
    (got,) = run("ArrayFeatureExtractor", feeds, constants=["i"], **kwargs)
    np.testing.assert_array_equal(got, feeds["x"][:, index])
    assert "gather" not in kernels("ArrayFeatureExtractor", feeds, **kwargs)
    letters = {**feeds, "x": text(*"abcdef")}
    (got,) = run("ArrayFeatureExtractor", letters, constants=["i"], **kwargs)
    assert got.tolist() == [["abcdef"[k] for k in index]]
    assert "host" not in kernels("ArrayFeatureExtractor", letters, **kwargs)


@pytest.mark.parametrize("index", [[0, 5], [-6, 0], [4, 5], [5, 5], [9]])
def test_bounds(index: list[int]) -> None:
    feeds = {"x": X, "i": np.array(index, np.int64)}
    with pytest.raises(rt.PlanError, match="out of range for axis 2 of size 5"):
        run("Gather", feeds, constants=["i"], axis=2)


def test_views_of_a_varying_axis() -> None:
    """Two rows from the end and two from the beginning of an axis whose size changes; and one index of each, which no step of a template fits."""
    body = """g (float[N,3] a) => (float[M,3] y, float[K,3] z, float[L,3] w) <int64[2] first = {1,0}, int64[2] last = {-2,-1}, int64[2] ends = {-1,0}>
      { p = Gather(a, first) q = Gather(a, last) r = Gather(a, ends) y = Exp(p) z = Exp(q) w = Exp(r) }"""
    s = agree(model(body), [{"a": normal(n, 3)} for n in (2, 3, 5, 9, 4, 7)])
    with pytest.raises(rt.PlanError, match="out of range"):
        s.run(None, {"a": normal(1, 3)})
