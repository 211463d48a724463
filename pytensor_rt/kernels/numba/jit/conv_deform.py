"""Windows of deformable convolutions as rows: every tap samples x at an offset of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import int64

from .intrinsics import at


def samples(F: Any) -> Callable[..., int]:
    """Rows of the output pixels [q0, q1): all taps' channels, interpolated linearly between the pixels around; outside of x, zeros. F: float type of all.

    0-2 output's spatial sizes  3 bytes of a row  4 x  5-8 strides in bytes: batch, spatial  9-11 sizes  12-14 steps  15 taps  16 their bases
    17 offset groups  18 channels of one  19 spatial axes (the last ones)  20 offsets  21-25 strides in bytes: batch, channel, spatial
    26 mask or 0  27-31 its strides
    """
    size = F.bitwidth // 8

    def run(w, q0, q1, own, rows):  # type: ignore[no-untyped-def]
        taps, parts, count, axes = w[15], w[17], w[18], w[19]
        corners = 1 << axes
        for q in range(q0, q1):
            line = q // w[2]
            ow = q - line * w[2]
            plane = line // w[1]
            oh = line - plane * w[1]
            n = plane // w[0]
            od = plane - n * w[0]
            for t in range(taps):
                bases = at(w[16] + 24 * t, int64)
                for part in range(parts):
                    channel = part * taps + t
                    offset = w[20] + n * w[21] + channel * axes * w[22] + od * w[23] + oh * w[24] + ow * w[25]
                    scale = F(1)
                    if w[26] != 0:
                        scale = at(w[26] + n * w[27] + channel * w[28] + od * w[29] + oh * w[30] + ow * w[31], F)[0]
                    x = w[4] + n * w[5] + part * count * size
                    to = at(rows + (q - q0) * w[3] + (t * parts + part) * count * size, F)
                    for c in range(count):
                        to[c] = F(0)
                    for corner in range(corners):
                        weight = scale
                        address = x
                        for i in range(axes):
                            axis = 3 - axes + i
                            o = ow if axis == 2 else (oh if axis == 1 else od)
                            where = F(o * w[12 + axis] + bases[axis]) + at(offset + i * w[22], F)[0]
                            length = w[9 + axis]
                            if not ((where > F(-1)) & (where < F(length))):
                                where = F(-2)
                            low = np.floor(where)
                            high = (corner >> (axes - 1 - i)) & 1
                            place = int64(low) + high
                            if place < 0 or place >= length:
                                weight = F(0)
                            else:
                                weight *= where - low if high == 1 else F(1) - (where - low)
                                address += place * w[6 + axis]
                        if weight != F(0):
                            source = at(address, F)
                            for c in range(count):
                                to[c] += weight * source[c]
        return 0

    return run
