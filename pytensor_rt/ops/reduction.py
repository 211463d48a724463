"""Reductions, arg-reductions and scans."""

from __future__ import annotations

from typing import Any

from ..dtypes import I64
from ..lowering import expr as e
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .registry import op
from .util import norm_axes, norm_axis

_KINDS = {
    "ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod", "ReduceL1": "l1", "ReduceL2": "l2",
    "ReduceLogSum": "log_sum", "ReduceLogSumExp": "log_sum_exp", "ReduceSumSquare": "sum_square",
}  # fmt: skip
_UNARY = {"l1": e.abs_, "l2": e.abs_, "log_sum": e.log, "sum_square": lambda v: v * v}  # over no axes at all


def reduce_axes(t: Tracer, x: Tensor, kind: str, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """A reduction over sorted non-negative axes."""
    if axes:
        y = t.record("reduce", [x], [(tuple(1 if i in axes else n for i, n in enumerate(x.shape)), x.dtype)], {"op": kind, "axes": axes})[0]
    else:
        y = t.map(_UNARY[kind], x) if kind in _UNARY else x
    if not keepdims:
        for a in reversed(axes):
            y = y.squeeze(a)
    return y


@op(*_KINDS)
def reduce(
    t: Tracer, x: Tensor, axes_in: Tensor | None = None, *, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    chosen = norm_axes(t, axes_in if axes_in is not None else axes, x.ndim)
    if not chosen:
        if noop_with_empty_axes:
            return t.map(_UNARY[_KINDS[t.node.op_type]], x) if _KINDS[t.node.op_type] in _UNARY else x
        chosen = tuple(range(x.ndim))
    return reduce_axes(t, x, _KINDS[t.node.op_type], chosen, bool(keepdims))


@op("ArgMax", "ArgMin")
def arg_reduce(t: Tracer, x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    a = norm_axis(t, axis, x.ndim)
    shape = (*x.shape[:a], 1, *x.shape[a + 1 :])
    params = {"op": "max" if t.node.op_type == "ArgMax" else "min", "axis": a, "select_last": select_last_index}
    y = t.record("arg_reduce", [x], [(shape, I64)], params)[0]
    return y if keepdims else y.squeeze(a)


@op("CumSum", "CumProd")
def cumulative(t: Tracer, x: Tensor, axis_in: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    params = {
        "op": "sum" if t.node.op_type == "CumSum" else "prod", "axis": norm_axis(t, int(t.item(axis_in)), x.ndim), "exclusive": exclusive,
        "reverse": reverse,
    }  # fmt: skip
    return t.record("scan", [x], [(x.shape, x.dtype)], params)[0]
