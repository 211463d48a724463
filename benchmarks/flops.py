"""Floating-point operations of a plan, counted from the operand shapes of its matrix kernels (a multiply and an add are two)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod
from typing import Any

_SHAPE = re.compile(r"\[(.*)\]")


def _shape(operand: str) -> tuple[int, ...]:
    found = _SHAPE.search(operand)
    return tuple(int(n) for n in found[1].split(",")) if found and found[1] else ()


def launch_flops(kernel: str, operands: Iterable[str]) -> int:
    """Operations of one launch; 0 for kernels that are not made of multiply-adds. Operands are in the order of spec.py: inputs, then outputs."""
    shapes = [_shape(o) for o in operands]
    if kernel == "gemm":
        return 2 * prod(shapes[-1]) * (shapes[0][-1] if shapes[0] else 1)
    if kernel in ("conv", "deform_conv"):
        return 2 * prod(shapes[-1]) * prod(shapes[1][1:])
    if kernel == "conv_transpose":
        return 2 * prod(shapes[0]) * prod(shapes[1][1:])
    if kernel == "attention":
        (b, h, s, d), (_, _, t, _), v = shapes[0], shapes[1], shapes[2]
        return 2 * b * h * s * t * (d + v[-1])
    if kernel == "recurrent":
        steps, batch, _ = shapes[0]
        return 2 * steps * batch * (prod(shapes[1]) + prod(shapes[2]))
    return 0


def plan_flops(report: Any) -> int:
    """Operations of all launches of a pytensor_rt.PlanReport."""
    return sum(launch_flops(x.kernel, x.operands) for x in report.launches)
