"""Helpers shared by op rules: axes, shapes, dtype checks."""

from __future__ import annotations

from typing import Any

from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer


def norm_axis(t: Tracer, axis: int, rank: int) -> int:
    """A non-negative axis; fails on one that is out of range."""
    if not -rank <= axis < rank:
        t.fail(f"axis {axis} is out of range for rank {rank}")
    return axis + rank if axis < 0 else axis


def norm_axes(t: Tracer, axes: Any, rank: int) -> tuple[int, ...] | None:
    """Sorted non-negative axes from an attribute or an input tensor; None if absent. Fails on duplicates."""
    if axes is None:
        return None
    values = t.ints(axes) if isinstance(axes, Tensor) else tuple(axes)
    out = tuple(sorted(norm_axis(t, int(a), rank) for a in values))
    if len(set(out)) != len(out):
        t.fail(f"duplicate axes {list(values)}")
    return out


def outputs_used(t: Tracer) -> list[bool]:
    """Which outputs of the current node have a name."""
    return [bool(o) for o in t.node.outputs]


def wants(t: Tracer, k: int) -> bool:
    """Is output k of the current node asked for?"""
    return k < len(t.node.outputs) and bool(t.node.outputs[k])


def to_channels_first(x: Tensor) -> Tensor:
    """[N, d..., C] seen as [N, C, d...]."""
    return x.permute((0, x.ndim - 1, *range(1, x.ndim - 1)))


def to_channels_last(x: Tensor) -> Tensor:
    """[N, C, d...] seen as [N, d..., C]."""
    return x.permute((0, *range(2, x.ndim), 1))


def expect_shape(t: Tracer, what: str, x: Tensor | None, shape: tuple[int, ...]) -> None:
    """Fails unless x, if it is there, has this shape."""
    if x is not None and x.shape != shape:
        t.fail(f"expected {what} of shape {list(map(int, shape))}, got {list(map(int, x.shape))}")
