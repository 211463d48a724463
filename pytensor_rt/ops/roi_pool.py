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
        start, end = (round_half_up(float(np.float32(v) * np.float32(spatial_scale))) for v in (first, last))
        each = np.float32(max(end - start + 1, 1)) / np.float32(n)  # onnxruntime's edges, and Caffe's, are float32 products
        edges = [(start + int(np.floor(np.float32(k) * each)), start + int(np.ceil(np.float32(k + 1) * each))) for k in range(n)]
        return [slice(min(max(a, 0), size), min(max(b, 0), size)) for a, b in edges]

    def pool(v: Any, regions: Any) -> tuple[Any, ...]:
        """Across the columns of each bin and then down its rows, channels last: long vectors, and an element is met about once."""
        height, width = pooled_shape
        images = np.ascontiguousarray(v.transpose(0, 2, 3, 1))
        out = np.zeros((len(regions), height, width, v.shape[1]), v.dtype)
        across = np.empty((v.shape[2], width, v.shape[1]), v.dtype)
        for k, (batch, x1, y1, x2, y2) in enumerate(regions.astype(np.float64)):
            if not 0 <= batch < v.shape[0] or not np.isfinite((x1, y1, x2, y2)).all():
                raise ExecutionError(f"[MaxRoiPool]: region {k} is not finite, or in batch {batch} of {v.shape[0]}")
            rows = [(i, r) for i, r in enumerate(bins(y1, y2, height, v.shape[2])) if r.start < r.stop]
            columns = [(j, c) for j, c in enumerate(bins(x1, x2, width, v.shape[3])) if c.start < c.stop]
            if not rows or not columns:
                continue
            top, bottom = rows[0][1].start, rows[-1][1].stop
            for j, c in columns:
                images[int(batch), top:bottom, c].max(1, out=across[top:bottom, j])
            filled = slice(columns[0][0], columns[-1][0] + 1)
            for i, r in rows:
                across[r, filled].max(0, out=out[k, i, filled])
        return (np.ascontiguousarray(out.transpose(0, 3, 1, 2)),)

    return t.host(pool, [x, rois], [((rois.shape[0], x.shape[1], *pooled_shape), x.dtype)])[0]


def round_half_up(v: float) -> int:
    """C's round(): halves away from zero."""
    return int(np.copysign(np.floor(abs(v) + 0.5), v))
