"""topk, unique and nms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...dtypes import I64
from .common import Array, Out, Params, Program, out_spec, required, wide


def topk(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x, axis, k = required(ins[0]), params["axis"], params["k"]
    key = wide(x)
    if params.get("largest", 1):  # descending and stable: reverse, sort ascending, reverse
        order = key.shape[axis] - 1 - np.flip(np.argsort(np.flip(key, axis), axis=axis, kind="stable"), axis)
    else:
        order = np.argsort(key, axis=axis, kind="stable")  # NaNs last: they are the largest
    order = np.take(order, np.arange(k), axis)
    return [np.ascontiguousarray(np.take_along_axis(x, order, axis)), np.ascontiguousarray(order).astype(I64)]


def unique(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x = required(ins[0])
    _, first, inverse, counts = np.unique(wide(x), return_index=True, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    if not params.get("sorted", 1):
        order = np.argsort(first, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(order.size)
        first, counts, inverse = first[order], counts[order], rank[inverse]
    padded = [_padded(v, outs[i]) for i, v in enumerate((x[first], first.astype(I64), inverse.astype(I64), counts.astype(I64)))]
    return [*padded, np.array([first.size], I64)]


def _padded(v: Array, out: Out | None) -> Array | None:
    """`v` at the start of an output of fixed capacity, zeros behind it."""
    if out is None:
        return None
    y = np.zeros(out[0], out[1])
    y[: v.shape[0]] = v
    return y


def nms(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    boxes, scores = wide(required(ins[0])), wide(required(ins[1]))
    limit, threshold = params["max_per_class"], params["iou_threshold"]
    if params.get("center_point_box", 0):
        half = boxes[..., 2:] / 2
        low, high = boxes[..., :2] - half, boxes[..., :2] + half
    else:
        low, high = np.minimum(boxes[..., :2], boxes[..., 2:]), np.maximum(boxes[..., :2], boxes[..., 2:])
    rows: list[tuple[int, int, int]] = []
    for b, c in np.ndindex(scores.shape[0], scores.shape[1]):
        order = np.argsort(-scores[b, c], kind="stable").tolist()
        if params.get("has_score_threshold", 0):
            order = [i for i in order if scores[b, c, i] > params["score_threshold"]]
        kept: list[int] = []
        for i in order:
            if len(kept) >= limit:
                break
            if not any(_iou(low[b], high[b], i, j) > threshold for j in kept):
                kept.append(i)
        rows += [(b, c, i) for i in kept]
    shape, _ = out_spec(outs)
    if len(rows) > shape[0]:
        raise ValueError(f"nms: {len(rows)} boxes are selected, there is room for {shape[0]}")
    return [_padded(np.array(rows, I64).reshape(-1, 3), outs[0]), np.array([len(rows)], I64)]


def _iou(low: Array, high: Array, i: int, j: int) -> float:
    """Intersection over union of boxes i and j, 0 where one of them is empty."""
    sides = np.minimum(high[i], high[j]) - np.maximum(low[i], low[j])
    areas = [float((high[k, 0] - low[k, 0]) * (high[k, 1] - low[k, 1])) for k in (i, j)]
    if (sides <= 0).any() or min(areas) <= 0:
        return -np.inf
    inter = float(sides[0] * sides[1])
    union = areas[0] + areas[1] - inter
    return inter / union if union > 0 else -np.inf
