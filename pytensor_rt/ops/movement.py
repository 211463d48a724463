"""Gather and scatter, selection and ordering."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ..dtypes import BOOL, I64, STRING
from ..lowering import expr as e
from ..lowering.expr import Var
from ..lowering.recorder import FOLD_FREE
from ..lowering.tensor import Tensor, row_major
from ..lowering.tracer import Tracer
from .reduction import reduce_axes
from .registry import MICROSOFT, op
from .util import norm_axis


@op("Gather")
def gather(t: Tracer, x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    return take(t, x, index, norm_axis(t, axis, x.ndim))


def take(t: Tracer, x: Tensor, index: Tensor, a: int) -> Tensor:
    """x[..., index, ...] along axis a: a view where the indices are constant and in arithmetic progression."""
    shape = (*x.shape[:a], *index.shape, *x.shape[a + 1 :])
    if index.known and index.size != 0 and (index.size == 1 or not (x.known and x.size <= FOLD_FREE)):
        first, step = _progression(t, t.ints(index), x.shape[a], a)
        if step is not None:
            y = x.slice(a, first, index.size, step)
            if index.ndim == 1:
                return y
            step = y.strides[a]
            inner = tuple([step * k for k in row_major(index.shape)])
            return y.view(shape, (*y.strides[:a], *inner, *y.strides[a + 1 :]))
    if x.dtype == STRING:
        return t.host(lambda v, i: (np.take(v, i, a),), [x, index], [(shape, STRING)])[0]
    return t.record("gather", [x, index], [(shape, x.dtype)], {"mode": "axis", "axis": a})[0]


def _progression(t: Tracer, index: tuple[int, ...], n: int, a: int) -> tuple[int, int | None]:
    """The first of these positions along axis a of size n, and the step between neighbours; None if they have no common one."""
    for k in {min(index), max(index)}:
        if not -n <= k < n:
            t.fail(f"index {int(k)} is out of range for axis {a} of size {int(n)}")
    if min(index) < 0 <= max(index):
        index = tuple([k + n if k < 0 else k for k in index])
    step = index[1] - index[0] if len(index) > 1 else 0
    first = index[0] + n if index[0] < 0 else index[0]
    return first, step if all(q - p == step for p, q in pairwise(index)) else None


@op("GatherElements", since=11)
def gather_elements(t: Tracer, x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    return t.record("gather", [x, index], [(index.shape, x.dtype)], {"mode": "elements", "axis": norm_axis(t, axis, x.ndim)})[0]


@op("GatherND", domain=MICROSOFT)
@op("GatherND", since=11)
def gather_nd(t: Tracer, x: Tensor, index: Tensor, *, batch_dims: int = 0) -> Tensor:
    depth = int(index.shape[-1])
    if depth + batch_dims > x.ndim:
        t.fail(f"index tuples of length {depth} after {batch_dims} batch axes exceed rank {x.ndim}")
    shape = (*index.shape[:-1], *x.shape[batch_dims + depth :])
    return t.record("gather", [x, index], [(shape, x.dtype)], {"mode": "nd", "batch_dims": batch_dims})[0]


@op("ScatterElements", "Scatter")
def scatter_elements(t: Tracer, x: Tensor, index: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    if index.size == 0:
        return x
    params = {"mode": "elements", "axis": norm_axis(t, axis, x.ndim), "reduction": reduction}
    return t.record("scatter", [x, index, updates], [(x.shape, x.dtype)], params)[0]


@op("ScatterND", since=11)
def scatter_nd(t: Tracer, x: Tensor, index: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    if index.size == 0 or updates.size == 0:
        return x
    return t.record("scatter", [x, index, updates], [(x.shape, x.dtype)], {"mode": "nd", "reduction": reduction})[0]


@op("TensorScatter", since=24)
def tensor_scatter(t: Tracer, past: Tensor, update: Tensor, write: Tensor | None = None, *, axis: int = -2, mode: str = "linear") -> Tensor:
    a = norm_axis(t, axis, past.ndim)
    n, m = past.shape[a], update.shape[a]
    steps = t.iota(m)
    start = t.reshape(write, (write.shape[0], 1)) if write is not None else t.const(np.zeros((1, 1), np.int64))
    where = t.map(lambda s, k: e.mod(s + k, n) if mode == "circular" else s + k, start, steps)  # [B or 1, m]
    trailing = (1,) * (past.ndim - a - 1)
    index = t.reshape(where, (where.shape[0], *(1,) * (a - 1), m, *trailing)).expand(update.shape)
    return t.record("scatter", [past, index, update], [(past.shape, past.dtype)], {"mode": "elements", "axis": a, "reduction": "none"})[0]


@op("OneHot", since=9)
def one_hot(t: Tracer, index: Tensor, depth_in: Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    depth = int(t.item(depth_in))
    a = norm_axis(t, axis, index.ndim + 1)
    i = t.cast(index, I64) if index.dtype != I64 else index
    i = i.unsqueeze(a)
    classes = t.reshape(t.iota(depth), (depth, *(1,) * (index.ndim - a)))
    off, on = values.slice(0, 0, 1).squeeze(0), values.slice(0, 1, 1).squeeze(0)
    return t.map(lambda k, c, no, yes: e.where(e.where(k < 0, k + depth, k) == c, yes, no), i, classes, off, on)


@op("NonZero", since=9)
def nonzero(t: Tracer, x: Tensor) -> Tensor:
    if x.ndim == 0:
        x = x.unsqueeze(0)
    rank = x.ndim
    if x.size == 0:
        return t.const(np.empty((rank, 0), np.int64))
    flags = x if x.dtype == BOOL else t.map(lambda v: v != 0, x)
    count = reduce_axes(t, t.cast(flags, I64), "sum", tuple(range(rank)), False)
    t.kept.append(flags)
    n = t.item(count)
    t.kept.pop()
    return t.record("nonzero", [flags], [((rank, n), I64)])[0]


@op("Compress", since=9)
def compress(t: Tracer, x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    if axis is None:
        x, axis = t.reshape(x, (x.size,)), 0
    a = norm_axis(t, axis, x.ndim)
    if condition.shape[0] > x.shape[a]:
        condition = condition.slice(0, 0, x.shape[a])
    count = reduce_axes(t, t.cast(condition, I64), "sum", (0,), False)
    t.kept += [x, condition]
    n = t.item(count)
    del t.kept[-2:]
    return t.record("compress", [x, condition], [((*x.shape[:a], n, *x.shape[a + 1 :]), x.dtype)], {"axis": a})[0]


@op("TopK", since=10)
def topk(t: Tracer, x: Tensor, k_in: Tensor, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> list[Tensor]:
    return _topk(t, x, t.item(k_in), axis, largest, sorted)


@op("TopK")
def topk_1(t: Tracer, x: Tensor, *, k: int, axis: int = -1) -> list[Tensor]:
    return _topk(t, x, k, axis, 1, 1)


def _topk(t: Tracer, x: Tensor, k: int, axis: int, largest: int, ordered: int) -> list[Tensor]:
    a = norm_axis(t, axis, x.ndim)
    if k > x.shape[a] or k < 0:
        t.fail(f"k = {int(k)} but axis {a} has size {int(x.shape[a])}")
    shape = (*x.shape[:a], k, *x.shape[a + 1 :])
    return t.record("topk", [x], [(shape, x.dtype), (shape, I64)], {"axis": a, "k": k, "largest": largest, "sorted": ordered})


@op("Unique", since=11)
def unique(t: Tracer, x: Tensor, *, axis: int | None = None, sorted: int = 1) -> Any:
    if axis is not None and x.ndim > 1:  # slices as opaque rows: a data-dependent shape decided on the host
        value = t.need(x)
        return [t.const(v) for v in _unique_slices(value, axis, bool(sorted))]
    flat = t.reshape(x, (x.size,))
    n = flat.shape[0]
    if n == 0:
        empty = t.const(np.empty(0, np.int64))
        return [flat, empty, empty, empty]
    y, first, inverse, counts, total = t.record(
        "unique", [flat], [((n,), x.dtype), ((n,), I64), ((n,), I64), ((n,), I64), ((1,), I64)], {"sorted": sorted}
    )
    t.kept += [y, first, inverse, counts]
    m = t.item(total)
    del t.kept[-4:]
    return [y.slice(0, 0, m), first.slice(0, 0, m), inverse, counts.slice(0, 0, m)]


def _unique_slices(x: Any, axis: int, ordered: bool) -> list[Any]:
    y, first, inverse, counts = np.unique(x, True, True, True, axis=axis)
    inverse = inverse.reshape(-1)
    if not ordered:
        order = np.argsort(first, kind="stable")
        rank = np.argsort(order, kind="stable")
        y, first, counts, inverse = np.take(y, order, axis), first[order], counts[order], rank[inverse]
    return [y, first.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64)]


@op("NonMaxSuppression", since=10)
def non_max_suppression(
    t: Tracer, boxes: Tensor, scores: Tensor, per_class: Tensor | None = None, iou: Tensor | None = None, threshold: Tensor | None = None,
    *, center_point_box: int = 0,
) -> Tensor:  # fmt: skip
    limit = int(t.item(per_class)) if per_class is not None else 0
    each = min(limit, int(boxes.shape[1]))
    capacity = int(scores.shape[0]) * int(scores.shape[1]) * each
    if capacity <= 0:
        return t.const(np.empty((0, 3), np.int64))
    params = {
        "center_point_box": center_point_box, "max_per_class": each, "iou_threshold": float(t.item(iou)) if iou is not None else 0.0,
        "score_threshold": float(t.item(threshold)) if threshold is not None else 0.0, "has_score_threshold": int(threshold is not None),
    }  # fmt: skip
    selected, count = t.record("nms", [boxes, scores], [((capacity, 3), I64), ((1,), I64)], params)
    t.kept.append(selected)
    n = t.item(count)
    t.kept.pop()
    return selected.slice(0, 0, n) if n != 0 else t.const(np.empty((0, 3), np.int64))


@op("ReverseSequence", since=10)
def reverse_sequence(t: Tracer, x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    b, s = norm_axis(t, batch_axis, x.ndim), norm_axis(t, time_axis, x.ndim)
    if x.ndim < 2 or {b, s} != {0, 1}:
        t.fail(f"time_axis {s} and batch_axis {b} are not the first two axes")
    n, m = x.shape[0], x.shape[1]
    steps, ends, rows = t.iota(x.shape[s]).unsqueeze(b), t.cast(lengths, I64).unsqueeze(s), t.iota(x.shape[b]).unsqueeze(s)
    time, across, along = (n, m, 1) if s == 0 else (m, 1, m)

    def source(k: Var, end: Var, row: Var) -> Var:  # of slices [time or batch, batch or time]; lengths beyond the axis are no slices
        at = e.where(k < end, end - 1 - k, k) * across + row * along
        return e.where(end > time, n * m, at)

    return take(t, t.reshape(x, (n * m, *x.shape[2:])), t.map(source, steps, ends, rows), 0)


@op("Det", since=11)
def det(t: Tracer, x: Tensor) -> Tensor:
    return t.record("linear_algebra", [x], [(x.shape[:-2], x.dtype)], {"op": "det"})[0]


@op("Inverse", domain=MICROSOFT)
def inverse(t: Tracer, x: Tensor) -> Tensor:
    """com.microsoft Inverse: of the matrices of x [..., n, n], in float64 and cast to x's dtype (float16, float32, float64); NaN where one is singular."""
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        t.fail(f"expected square matrices [..., n, n], got {list(map(int, x.shape))}")
    return t.host(lambda v: (_inverse(v.astype(np.float64)).astype(v.dtype),), [x], [(x.shape, x.dtype)])[0]


def _inverse(x: Any) -> Any:
    try:
        return np.linalg.inv(x)
    except np.linalg.LinAlgError:
        if x.ndim == 2:
            return np.full_like(x, np.nan)
        return np.stack([_inverse(m) for m in x])
