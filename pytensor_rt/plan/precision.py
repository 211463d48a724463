"""Reduced precision: which products a session's `precision` applies to. Only their weights and arithmetic change, never a tensor's dtype."""

from __future__ import annotations

from ..dtypes import F32
from ..lowering.tensor import CONST, Launch
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
        if (
            a is None
            or b is None
            or b.buffer.kind != CONST
            or a.dtype != F32
            or b.dtype != F32
            or any(x is not None for x in launch.ins[2:])
        ):
            continue
        k, n = b.shape[-2:]
        if min(k, n) >= MIN_SIDE and k * n >= MIN_ELEMENTS and not (precision == "int8" and k > MAX_INT8_DEPTH):
            launch.params = {**launch.params, "precision": precision}
            count(stats, precision)
