"""MaxRoiPool, on the host: its windows depend on the values of the regions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ExecutionError
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .registry import op


@op("MaxRoiPool")
def max_roi_pool(t: Tracer, x: Tensor, rois: Tensor, *, pooled_shape: tuple[int, ...], spatial_scale: float = 1.0) -> Tensor:
    """[R, C, h, w]: the largest value of x [N, C, H, W] in every bin of the regions [R, 5] (batch, x1, y1, x2, y2); 0 in an empty bin."""
    if x.ndim != 4 or rois.ndim != 2 or rois.shape[1] != 5 or len(pooled_shape) != 2 or min(pooled_shape) < 1:
        t.fail("expected x of rank 4, rois of shape [R, 5] and a pooled_shape of two positive sizes")

    def bins(first: float, last: float, n: int, size: int) -> list[slice]:
        start, end = round_half_up(first * spatial_scale), round_half_up(last * spatial_scale)
        each = max(end - start + 1, 1) / n
        edges = [(start + int(np.floor(k * each)), start + int(np.ceil((k + 1) * each))) for k in range(n)]
        return [slice(min(max(a, 0), size), min(max(b, 0), size)) for a, b in edges]

    def pool(v: Any, regions: Any) -> tuple[Any, ...]:
        out = np.zeros((len(regions), v.shape[1], *pooled_shape), v.dtype)
        for k, (batch, x1, y1, x2, y2) in enumerate(regions.astype(np.float64)):
            if not 0 <= batch < v.shape[0] or not np.isfinite((x1, y1, x2, y2)).all():
                raise ExecutionError(f"[MaxRoiPool]: region {k} is not finite, or in batch {batch} of {v.shape[0]}")
            columns = bins(x1, x2, pooled_shape[1], v.shape[3])
            for i, rows in enumerate(bins(y1, y2, pooled_shape[0], v.shape[2])):
                for j, cols in enumerate(columns):
                    window = v[int(batch), :, rows, cols]
                    if window.shape[1] and window.shape[2]:
                        out[k, :, i, j] = window.max((1, 2))
        return (out,)

    return t.host(pool, [x, rois], [((rois.shape[0], x.shape[1], *pooled_shape), x.dtype)])[0]


def round_half_up(v: float) -> int:
    """C's round(): halves away from zero."""
    return int(np.copysign(np.floor(abs(v) + 0.5), v))
