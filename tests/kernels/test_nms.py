"""nms against onnxruntime, onnx.reference and the properties that define it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt import _native

from . import harness

Array = np.ndarray[Any, Any]


def model(most: int, iou: float, threshold: float | None, center: int) -> Any:
    from onnx import TensorProto, checker, helper

    consts = [helper.make_tensor("most", TensorProto.INT64, [1], [most]), helper.make_tensor("iou", TensorProto.FLOAT, [1], [iou])]
    names = ["boxes", "scores", "most", "iou"]
    if threshold is not None:
        consts.append(helper.make_tensor("threshold", TensorProto.FLOAT, [1], [threshold]))
        names.append("threshold")
    node = helper.make_node("NonMaxSuppression", names, ["y"], center_point_box=center)
    ins = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * 3) for n in ("boxes", "scores")]
    graph = helper.make_graph([node], "g", ins, [helper.make_tensor_value_info("y", TensorProto.INT64, [None, 3])], consts)
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    checker.check_model(m)
    return m


def nms(boxes: Array, scores: Array, most: int, iou: float, threshold: float | None, center: int, threads: int = 1) -> Array:
    b, c, s = scores.shape
    outs = [np.full((max(1, b * c * min(s, max(most, 0))), 3), -1, np.int64), np.zeros(1, np.int64)]
    params = {
        "center_point_box": center, "max_per_class": most, "iou_threshold": iou, "score_threshold": threshold or 0.0,
        "has_score_threshold": int(threshold is not None),
    }  # fmt: skip
    selected, n = harness.run("nms", [boxes, scores], outs, params, threads=threads)
    assert (selected[int(n[0]) :] == -1).all()
    return selected[: int(n[0])]


def case(rng: np.random.Generator, b: int, c: int, s: int, center: int, ties: bool) -> tuple[Array, Array]:
    if center:
        boxes = np.concatenate([rng.random((b, s, 2)), rng.random((b, s, 2)) * 0.4], -1)
    else:  # any pair of diagonal corners, in any order
        boxes = rng.random((b, s, 2))[:, :, [0, 1, 0, 1]] + (rng.random((b, s, 4)) - 0.5) * 0.5
    scores = rng.integers(0, 8, (b, c, s)) / 8 if ties else rng.random((b, c, s))
    return boxes.astype(np.float32), scores.astype(np.float32)


@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize("ties", [False, True])
def test_against_onnxruntime(center: int, ties: bool) -> None:
    ort = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(13)
    for b, c, s, most, iou, threshold in [
        (1, 1, 1, 1, 0.5, None), (1, 1, 60, 100, 0.3, 0.2), (2, 3, 80, 5, 0.5, 0.4), (2, 2, 300, 300, 0.1, None), (1, 4, 50, 7, 0.0, 0.9),
        (1, 1, 40, 40, 1.0, None), (3, 1, 20, 0, 0.5, None),
    ]:  # fmt: skip
        boxes, scores = case(rng, b, c, s, center, ties)
        session = ort.InferenceSession(model(most, iou, threshold, center).SerializeToString(), providers=["CPUExecutionProvider"])
        (want,) = session.run(None, {"boxes": boxes, "scores": scores})
        for threads in (1, 2):
            np.testing.assert_array_equal(nms(boxes, scores, most, iou, threshold, center, threads), want)
            np.testing.assert_array_equal(
                nms(harness.strided(rng, boxes), harness.strided(rng, scores), most, iou, threshold, center, threads), want
            )


def test_against_the_reference_evaluator() -> None:
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(14)
    for center in (0, 1):
        boxes, scores = case(rng, 2, 2, 30, center, False)
        (want,) = ReferenceEvaluator(model(10, 0.4, 0.3, center)).run(None, {"boxes": boxes, "scores": scores})
        np.testing.assert_array_equal(nms(boxes, scores, 10, 0.4, 0.3, center), want)


def greedy(boxes: Array, scores: Array, most: int, iou: float, threshold: float | None) -> list[int]:
    """What the operator selects of one batch and class, from corners in any order."""
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    areas = np.prod(high - low, -1)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if len(kept) == most or not (threshold is None or scores[i] > threshold) or np.isnan(scores[i]):
            continue
        sides = np.maximum(np.minimum(high[i], high[kept]) - np.maximum(low[i], low[kept]), np.float32(0))
        both = np.prod(sides, -1)
        with np.errstate(all="ignore"):
            over = both / (areas[i] + areas[kept] - both) > np.float32(iou)
        if not (over & (both > 0) & (areas[i] > 0) & (areas[kept] > 0)).any():
            kept.append(int(i))
    return kept


@pytest.mark.parametrize("iou", [0.0, 0.5])
@pytest.mark.parametrize("ties", [False, True])
def test_many_candidates_for_few_places(ties: bool, iou: float) -> None:
    """Candidates are sorted group by group; of boxes in clusters, most are suppressed, so that several groups are needed."""
    rng = np.random.default_rng(16)
    boxes, scores = case(rng, 1, 1, 3000, 0, ties)
    boxes[0, :2800] = boxes[0, 2990 + np.arange(2800) % 3] + rng.random((2800, 4)).astype(np.float32) * 1e-3
    scores[0, 0, 2800:] *= np.float32(0.01)
    scores[0, 0, ::7] = np.nan
    for threshold in (None, 0.005, -1.0, np.nan):
        want = [] if threshold is not None and np.isnan(threshold) else greedy(boxes[0], scores[0, 0], 12, iou, threshold)
        assert nms(boxes, scores, 12, iou, threshold, 0)[:, 2].tolist() == want


def test_equal_boxes_and_boxes_without_area() -> None:
    same = np.tile(np.array([0, 0, 1, 1], np.float32), (1, 40, 1))
    scores = np.arange(40, dtype=np.float32).reshape(1, 1, 40)
    assert nms(same, scores, 40, 0.5, None, 0).tolist() == [[0, 0, 39]]
    empty = np.zeros((1, 20, 4), np.float32)
    assert len(nms(empty, scores[:, :, :20], 20, 0.0, None, 0)) == 20


def test_too_small_an_output_raises() -> None:
    boxes, scores = np.zeros((1, 5, 4), np.float32), np.ones((1, 1, 5), np.float32)
    params = {"max_per_class": 5, "iou_threshold": 0.5, "score_threshold": 0.0}
    with pytest.raises(_native.LaunchError, match="room"):
        harness.run("nms", [boxes, scores], [((4, 3), np.int64), ((1,), np.int64)], params)
