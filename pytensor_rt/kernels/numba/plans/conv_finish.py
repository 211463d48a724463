"""How sums of a convolution reach the output: from the register tile at once where the epilogue is additions and limits, else through a program."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import inf, prod
from typing import Any

import numpy as np

from ..build import Address, Block, Builder, Fn, Table, View, view
from . import edges, elementwise
from .conv_problem import Problem, require

NO_LIMITS = (-inf, inf, -inf, inf)
BIAS = {"conv": 2, "conv_transpose": 2, "deform_conv": 3}  # which operand is the bias


@dataclass
class Linear:
    """y = limits[2:](limits[:2](sum + biases) + residual): what the tiles do themselves."""

    biases: list[View] = field(default_factory=list)  # of output 0's shape, constant over all axes but the channels
    residual: View | None = None
    limits: list[float] = field(default_factory=lambda: list(NO_LIMITS))


def linear(p: Problem) -> Linear | None:
    """The epilogue in that form, or None. Sums that go to a target have none."""
    launch = p.launch
    y = launch.outs[0]
    assert y is not None
    if p.target is not None:
        return Linear()
    own = launch.acc_dtype if launch.epilogue and launch.acc_dtype is not None else y.dtype
    if p.sum.kind != "f" or own != p.sum or y.dtype != p.sum or (p.y_shape[1] > 1 and y.strides[1] != 1):
        return None
    found = Linear()
    values: dict[int, Any] = {}
    chain, limited = -1, False
    for i, (op, args, dtype) in enumerate(launch.epilogue):
        if op in ("acc", "load", "const"):
            values[i] = (op, args)
            if op == "acc":
                chain = i
            continue
        if dtype != p.sum or chain not in args or (len(args) == 2 and args[0] == args[1]) or len(args) > 2:
            return None
        other = values.get(args[1] if args[0] == chain else args[0]) if len(args) == 2 else None
        k = 0 if found.residual is None else 2
        if op == "relu":
            limited = _limit(found, k, 0.0, inf)
            if not limited:
                return None
        elif op in ("max", "min") and other is not None and other[0] == "const":
            bound = float(np.asarray(other[1][0], p.sum))
            limited = True
            if bound != bound or not (_limit(found, k, bound, inf) if op == "max" else _limit(found, k, -inf, bound)):
                return None
        elif op == "add" and other is not None and other[0] == "load":
            t = launch.epi_ins[other[1][0]]
            v = view(t)
            if t.dtype != p.sum:
                return None
            if all(s == 0 or n == 1 for a, (s, n) in enumerate(zip(v.strides, v.shape)) if a != 1) and not limited:
                if found.residual is not None:
                    return None
                found.biases.append(v)
            elif found.residual is None and (v.strides[1] == 1 or v.shape[1] == 1):
                found.residual = v
            else:
                return None
        else:
            return None
        chain = i
    if launch.epilogue and chain != len(launch.epilogue) - 1:
        return None
    return found


def _limit(found: Linear, k: int, low: float, high: float) -> bool:
    """Narrow a pair of limits; False where the order of its two steps would matter."""
    lo, hi = max(found.limits[k], low), min(found.limits[k + 1], high)
    found.limits[k : k + 2] = [lo, hi]
    return lo <= hi


@lru_cache(maxsize=64)
def limits_table(limits: tuple[float, ...], dtype: Any) -> Table:
    """Four limits for the tiles."""
    return Table(np.array(limits, dtype), ("conv limits", limits, str(dtype)))


@lru_cache(maxsize=64)
def zeros(nbytes: int) -> Table:
    """Zero bytes."""
    return Table(np.zeros(nbytes, np.uint8), ("conv zeros", nbytes))


def program(b: Builder, p: Problem) -> list[Any]:
    """The code that takes rows of the sums of output pixels, in the order [N, d, h, w], through the epilogue, called as box.run; and its words."""
    launch = p.launch
    y = launch.outs[0]
    assert y is not None
    require(all(op != "iota" for op, _, _ in launch.epilogue), "an epilogue with an index")
    steps, operands, dtype = edges.epilogue(launch, p.sum)
    views = [p.output(v) if v is not None else None for v in operands]
    aliased = any(b.overlaps(t, y) for t in launch.epi_ins)
    to = p.output(view(y))
    if p.y_shape[1] > 1 and to.strides[1] != 1:  # planes, if their pixels lie closer
        planes = edges.rows_of(steps, views, to, dtype, p.y_shape, (0, 1), (2, 3, 4), acc=p.sum, in_place=aliased)
        nearest = [abs(s) for s, n in zip(to.strides[2:], p.y_shape[2:]) if n > 1]
        if planes is not None and nearest and min(nearest) < abs(to.strides[1]):
            words = Block([Fn("box.run"), planes, prod(p.y_shape[2:]), p.y_shape[1]])
            return [Fn(f"conv_planes.run[{p.sum.itemsize}]"), words]
    found = edges.rows_of(steps, views, to, dtype, p.y_shape, (0, 2, 3, 4), (1,), acc=p.sum, in_place=aliased)
    assert found is not None
    return [Fn("box.run"), found]


def biases(b: Builder, p: Problem, held: Linear | None, panels: int, wide: int) -> Address:
    """The sums' first values, [groups][panels * wide] of the sums' dtype: the bias, and what the epilogue adds per channel."""
    bias = p.launch.ins[BIAS[p.launch.kernel]] if len(p.launch.ins) > BIAS[p.launch.kernel] else None
    extra = held.biases if held is not None else []
    room = panels * wide
    if bias is None and not extra:
        return zeros(p.groups * room * p.sum.itemsize)
    value = bias.value if bias is not None and not extra else None
    if value is not None:
        data = np.zeros((p.groups, room), p.sum)
        data[:, : p.filters] = value.astype(p.sum).reshape(p.groups, p.filters)
        return Table(data)
    t = b.temporary(p.sum, (p.groups, room))
    to = t.with_axes((p.groups, p.filters), (room if p.groups > 1 else 0, 1 if p.filters > 1 else 0))
    steps: list[Any] = []
    views: list[View | None] = []
    total = -1
    for v in ([view(bias)] if bias is not None else []) + extra:
        s = v.strides[0] if len(v.shape) == 1 else v.strides[1]
        views.append(v.with_axes(to.shape, (s * p.filters if p.groups > 1 else 0, s if p.filters > 1 else 0)))
        steps.append(("load", (len(views) - 1,), v.dtype))
        if v.dtype != p.sum:
            steps.append(("cast", (len(steps) - 1,), p.sum))
        if total >= 0:
            steps.append(("add", (total, len(steps) - 1), p.sum))
        total = len(steps) - 1
    elementwise.elementwise(b, steps, views, to)
    return t.address


def sink(b: Builder, p: Problem, held: Linear | None) -> tuple[list[Any], list[Any]]:
    """Words 41-52 and 54-55 of a problem (jit/conv_block.py)."""
    item = p.sum.itemsize
    y = p.launch.outs[0]
    assert y is not None
    if held is None:
        table = limits_table(NO_LIMITS, p.sum) if p.sum.kind == "f" else zeros(64)
        return [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, table], program(b, p)
    to = p.output(p.target if p.target is not None else view(y))

    def strides(v: View) -> list[int]:
        return [v.strides[k] * item for k in (0, 2, 3, 4)]

    r = p.output(held.residual) if held.residual is not None else None
    residual: list[Any] = [r.address, *strides(r)] if r is not None else [0, 0, 0, 0, 0]
    return [1, to.address, *strides(to), *residual, limits_table(tuple(held.limits), p.sum)], [0, 0]
