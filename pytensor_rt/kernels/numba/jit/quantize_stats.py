"""Kernel `quantize_stats`: the range of all of x, widened to include zero, and the scale and zero point of DynamicQuantizeLinear.

Words of `ranges`: 0 source  1 P  2 C  3 rows and 4 columns of a tile  5 slot scratch, 6 its step  7 segments  8 where the pairs (low, high) of the
segments go. Words of `finish`: 0 the pairs  1 segments  2 scale  3 zero point.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import float32 as F
from numba import int64 as L
from numba import types

from .intrinsics import at
from .lanes import fold_max, fold_min, vload_n
from .tiles import pitch, tile
from .vectors import BYTES, splat, vload, vmax, vmin


def ranges() -> Callable[..., int]:
    """A unit is a segment of x, as one set of P rows. NaN is skipped."""

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        s = at(w[0], L)
        P, C, tall, wide = w[1], w[2], w[3], w[4]
        buffer = w[5] + slot * w[6]
        across = (C + wide - 1) // wide
        steps = (P + tall - 1) // tall * across
        zero = splat(F(0))
        for unit in range(begin, end):
            low0, low1, high0, high1 = zero, zero, zero, zero
            for step in range(steps * unit // w[7], steps * (unit + 1) // w[7]):
                p = step // across
                c = (step - p * across) * wide
                p *= tall
                rows, cols = min(tall, P - p), min(wide, C - c)
                x = tile(s, 0, p, rows, c, cols, buffer, 4)
                rs = pitch(s, cols, 4)
                if rs == 4 * cols:
                    cols, rows = rows * cols, 1
                for r in range(rows):
                    q = x + r * rs
                    stop = q + 4 * cols
                    while q + 2 * BYTES <= stop:
                        a, b = vload(q, F), vload(q + BYTES, F)
                        low0, high0 = vmin(a, low0), vmax(a, high0)
                        low1, high1 = vmin(b, low1), vmax(b, high1)
                        q += 2 * BYTES
                    while q < stop:
                        a = vload_n(q, (stop - q) // 4, zero)
                        low0, high0 = vmin(a, low0), vmax(a, high0)
                        q += BYTES
            to = at(w[8] + 8 * unit, F)
            to[0] = fold_min(vmin(low0, low1))
            to[1] = fold_max(vmax(high0, high1))
        return 0

    return kernel


def finish() -> Callable[..., int]:
    """One unit."""

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        low, high = F(0), F(0)
        for k in range(w[1]):
            pair = at(w[0] + 8 * k, F)
            low, high = min(low, pair[0]), max(high, pair[1])
        scale = (high - low) / F(255)
        zero = F(0) if scale == F(0) else np.rint(-low / scale)
        at(w[2], F)[0] = scale
        at(w[3], types.uint8)[0] = types.uint8(L(min(zero, F(255)))) if zero > F(0) else types.uint8(0)
        return 0

    return kernel
