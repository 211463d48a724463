"""Kernel `gemm`: blocks of C in the compute type, and the epilogue on each.

Words of `blocks[X]`:
    0 M  1 N  2 K  3 rows of a block  4 row groups  5 panels of a block  6 panel groups  7 panels  8 values of k at a time  9 panels fetched at a time
    10 a  11 row stride  12 k stride  13 gemm_tile.product
    14 panels that are multiplied where they are  15 their address  16 from panel to panel  17 from k to k
    18 function that fetches the other panels (gemm_pack.py)  19 its words  20 where to (slots)  21 step
    22 results of a block (slots)  23 step  24 row stride
    25 y, or 0 if a program takes the results there  26 its row stride  27 the program  28 box.run
    29 batch axes, and for each: size, steps of a, of b, of the fetching function's origin, of y
Strides in bytes. A unit is a block: unit = (batch * row groups + row group) * panel groups + panel group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .gemm_tile import panel_columns
from .intrinsics import at, inline, invoke


def blocks(element: Any) -> Callable[..., int]:
    """C = A B in compute type X."""
    size = element.bitwidth // 8
    wide = panel_columns(element)
    width = wide * size

    @inline
    def block(w, batch, m0, m1, p0, p1, a, b, origin, y, slot):  # type: ignore[no-untyped-def]
        n_all, k_all, depth, pitch = w[1], w[2], w[8], w[24]
        m = m1 - m0
        held = w[22] + slot * w[23]
        whole = n_all // wide if y != 0 else p1  # panels from here on are not written to y as they are
        direct = min(max(whole, p0), p1)
        k0 = 0
        while True:
            k = min(depth, k_all - k0)
            p = p0
            while p < p1:
                inside = y != 0 and p < direct
                end = direct if inside else p1
                if p < w[14]:
                    end = min(end, w[14])
                    source, panel, step = w[15] + b + p * w[16] + k0 * w[17], w[16], w[17]
                else:
                    end = min(end, p + w[9])
                    source, panel, step = w[20] + slot * w[21], k * width, width
                    for q in range(p, end):
                        invoke(w[18], (w[19], origin, q, k0, k, source + (q - p) * panel))
                if inside:
                    c, c_row = y + m0 * w[26] + p * width, w[26]
                else:
                    c, c_row = held + (p - p0) * width, pitch
                invoke(w[13], (m, end - p, k, a + m0 * w[11] + k0 * w[12], w[11], w[12], source, panel, step, c, c_row, k0))
                p = end
            k0 += depth
            if k0 >= k_all:
                break
        if y != 0:
            if direct < p1:
                n0 = direct * wide
                for i in range(m):
                    to, x = at(y + (m0 + i) * w[26] + n0 * size, element), at(held + i * pitch + (direct - p0) * width, element)
                    for j in range(n_all - n0):
                        to[j] = x[j]
        else:
            r = batch * w[0]
            invoke(w[28], (w[27], r + m0, r + m1, p0 * wide, min(n_all, p1 * wide), held, pitch, 0, 0))

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        for unit in range(begin, end):
            rest = unit // w[6]
            group = unit - rest * w[6]
            batch = rest // w[4]
            rows = rest - batch * w[4]
            a, b, origin, y = w[10], 0, 0, w[25]
            left = batch
            for d in range(w[29] - 1, -1, -1):
                x = 30 + 5 * d
                q = left // w[x]
                i = left - q * w[x]
                left = q
                a += i * w[x + 1]
                b += i * w[x + 2]
                origin += i * w[x + 3]
                if w[25] != 0:
                    y += i * w[x + 4]
            m0, p0 = rows * w[3], group * w[5]
            block(w, batch, m0, min(w[0], m0 + w[3]), p0, min(w[7], p0 + w[5]), a, b, origin, y, slot)
        return 0

    return kernel
