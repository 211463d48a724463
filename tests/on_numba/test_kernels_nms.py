"""The cases of `nms`, on device "numba", and one of its own: many boxes, against the definition in float64."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels import harness
from tests.kernels.test_nms import *  # noqa: F403
from tests.kernels.test_nms import case, nms


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("ties", [False, True])
def test_many_boxes(ties: bool, threads: int) -> None:
    """More boxes than are sorted by insertion, more kept than one block; some scores are NaN, which is never selected."""
    rng = np.random.default_rng(1)
    boxes, scores = case(rng, 2, 3, 900, 0, ties)
    scores[rng.random(scores.shape) < 0.05] = np.nan
    got = nms(boxes, scores, 150, 0.25, 0.1, 0, threads)
    assert got.tobytes() == nms(harness.strided(rng, boxes), harness.strided(rng, scores), 150, 0.25, 0.1, 0, threads).tobytes()
    low, high = (f(boxes[..., :2], boxes[..., 2:]).astype(np.float64) for f in (np.minimum, np.maximum))
    rows: list[list[int]] = []
    for b in range(2):
        sides = np.minimum(high[b][:, None], high[b][None]) - np.maximum(low[b][:, None], low[b][None])
        inter = np.maximum(sides, 0).prod(-1)
        area = (high[b] - low[b]).prod(-1)
        iou = inter / (area[:, None] + area[None] - inter)
        for c in range(3):
            order = np.lexsort((np.arange(900), -scores[b, c]))
            kept: list[int] = []
            for i in order[scores[b, c][order] > np.float32(0.1)]:
                if len(kept) < 150 and not (iou[i, kept] > 0.25).any():
                    kept.append(int(i))
            assert len(kept) > 16
            rows += [[b, c, i] for i in kept]
    assert got.tolist() == rows
