"""The cases of `nms`, on the CUDA kernels, and more boxes than a tile has, of which more are selected than a block compares at once."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from pytensor_rt.kernels.cuda.plans import selection
from tests.kernels import test_nms as cases
from tests.kernels.test_nms import *  # noqa: F403


def greedy(boxes: np.ndarray, scores: np.ndarray, most: int, limit: float) -> list[list[int]]:
    """The definition, for one batch element and corners in order."""
    out = []
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for c, row in enumerate(scores):
        kept: list[int] = []
        for i in np.argsort(-row, kind="stable"):
            low, high = np.maximum(boxes[i, :2], boxes[kept, :2]), np.minimum(boxes[i, 2:], boxes[kept, 2:])
            both = np.prod(np.maximum(high - low, 0), -1, dtype=np.float32)
            if len(kept) < most and not (both / (area[i] + area[kept] - both) > np.float32(limit)).any():
                kept.append(int(i))
        out += [[0, c, i] for i in kept]
    return out


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("most", [10, 300, 5000])
def test_many_boxes(most: int, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if wide:
        monkeypatch.setattr(build, "NARROW", -1)
    rng = np.random.default_rng(70)
    corner = rng.random((3000, 2)).astype(np.float32)
    boxes = np.concatenate([corner, corner + np.float32(0.02) + rng.random((3000, 2)).astype(np.float32) / 20], -1)
    scores = rng.integers(0, 500, (2, 3000)).astype(np.float32)
    got = cases.nms(boxes[None], scores[None], most, 0.3, None, 0, threads=2)
    assert got.tolist() == greedy(boxes, scores, most, 0.3)


@pytest.mark.parametrize("chunks", [1, 2, 1024])
def test_joining(chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that write the selections of several tasks."""
    monkeypatch.setattr(selection, "CHUNKS", chunks)
    rng = np.random.default_rng(71)
    boxes, scores = cases.case(rng, 3, 5, 20, 1, True)
    got = cases.nms(boxes, scores, 4, 0.4, 0.3, 1)
    alone = [cases.nms(boxes[b : b + 1], scores[b : b + 1, c : c + 1], 4, 0.4, 0.3, 1) + [b, c, 0] for b in range(3) for c in range(5)]
    np.testing.assert_array_equal(got, np.concatenate(alone))


def test_no_boxes() -> None:
    for boxes, scores, most in [(np.zeros((2, 0, 4)), np.zeros((2, 3, 0)), 5), (np.zeros((2, 4, 4)), np.zeros((2, 3, 4)), 0)]:
        assert len(cases.nms(boxes.astype(np.float32), scores.astype(np.float32), most, 0.5, None, 0)) == 0
