"""Reduced precision: which products a session's `precision` applies to. Only their weights and arithmetic change, never a tensor's dtype."""

from __future__ import annotations

from ..dtypes import F32, I8
from ..lowering.tensor import CONST, Launch, Tensor
from .fuse import Stats, count

MIN_SIDE = 16  # of a weight: smaller ones are not worth a conversion of their operand
MIN_ELEMENTS = 4096
MAX_INT8_DEPTH = 1 << 16


def reduce_precision(launches: list[Launch], precision: str, stats: Stats) -> None:
    """Let every float32 gemm by a large enough constant matrix keep it, and compute, as `precision` says (spec.GEMM_PRECISIONS)."""
    for launch in launches:
        if launch.kernel != "gemm":
            continue
        a, b = launch.ins[0], launch.ins[1]
        if a is None or b is None or b.buffer.kind != CONST or a.dtype != F32:
            continue
        if (b.dtype != F32 or any(x is not None for x in launch.ins[2:])) and not (precision == "int8" and _stored_in_int8(launch, b)):
            continue
        k, n = b.shape[-2:]
        if min(k, n) >= MIN_SIDE and k * n >= MIN_ELEMENTS and not (precision == "int8" and k > MAX_INT8_DEPTH):
            launch.params = {**launch.params, "precision": precision}
            count(stats, precision)


def _stored_in_int8(launch: Launch, b: Tensor) -> bool:
    """Is b what precision int8 makes of a weight: int8 with a scale per column and no zero point?"""
    if b.dtype != I8 or len(launch.ins) < 5 or any(x is not None for x in launch.ins[2:4]):
        return False
    scale = launch.ins[4]
    return scale is not None and scale.dtype == F32 and scale.shape[-2] == 1
