"""Convolution of blocks of output pixels: finds the input pixels of every tap, and hands them to the register tiles (conv_tile.py, conv_depthwise.py).

Nothing is padded or unfolded where a pixel's channels lie together in memory: the tiles read pixels by address, those outside of x from a pixel of
padding. Where that does not pay (few channels, or pixels that fall on each other in the cache), a gatherer brings the window of every output pixel to
a row in the thread's scratch; see conv_gather.py and conv_deform.py.

A problem has one batch and three spatial axes, the leading ones of size 1 where there are fewer. Output pixel o of axis k reads, with tap t, pixel
o * step[k] + base[t][k] of x. Strides are in bytes.

    0 pixels  1 pixels of a block  2-4 output's spatial sizes  5-7 steps  8-10 x's spatial sizes  11 x  12 x's batch stride  13-15 x's spatial strides
    16 taps  17 their bases: three int64 each  18 a pixel of padding  19 slot scratch  20 from slot to slot  21 bytes of a tap's line in the table
    22 offset in the slot of the output's addresses, 23 of the residual's, 24 of gathered rows, 25 of sums  26 bytes of a gathered row
    27 gatherer or 0  28 its words  29 bytes of a tap in a gathered row (0: all taps are one stretch)
    30 groups  31 bytes of a group's channels in x  32 panels of a group  33 filters of a panel  34 filters of a group  35 packed filters
    36 bytes of a panel  37 biases, in panels  38 words of a tap  39 panels of a unit  40 units of a block
    41 are sums written to y at once?  42 y  43-46 y's batch and spatial strides  47 residual or 0  48-51 its strides  52 limits  53 bytes of a sum
    54 box.run  55 epilogue  56 bytes of a row of sums  57 filters of one vector (strips: input pixels of an
    output row)
    58-65 tiles of a whole block, 66-73 of the last: large ones, their rows, their code for whole panels, for one vector; small ones, the same
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int64

from .intrinsics import at, inline, invoke


@inline
def pixel_addresses(w: Any, q0: Any, q1: Any, to: Any) -> None:
    """The table of the input pixels of the output pixels [q0, q1): a line per tap."""
    OD, OH, OW = w[2], w[3], w[4]
    for t in range(w[16]):
        bases = at(w[17] + 24 * t, int64)
        bd, bh, bw = bases[0], bases[1], bases[2]
        line = at(to + t * w[21], int64)
        q = q0
        while q < q1:
            row = q // OW
            ow = q - row * OW
            plane = row // OH
            oh = row - plane * OH
            n = plane // OD
            od = plane - n * OD
            count = min(OW - ow, q1 - q)
            di, hi = od * w[5] + bd, oh * w[6] + bh
            pad = w[18]
            if di < 0 or di >= w[8] or hi < 0 or hi >= w[9]:
                for j in range(count):
                    line[q - q0 + j] = pad
            else:
                first = ow * w[7] + bw
                address = w[11] + n * w[12] + di * w[13] + hi * w[14] + first * w[15]
                step, size = w[7], w[10]
                by = step * w[15]
                for j in range(count):
                    i = first + j * step
                    inside = (i >= 0) & (i < size)
                    line[q - q0 + j] = address + j * by if inside else pad
            q += count


@inline
def output_addresses(w: Any, q0: Any, q1: Any, origin: Any, strides: Any, to: Any) -> None:
    """The addresses of the output pixels [q0, q1) of a tensor whose strides are the words from `strides` on."""
    OD, OH, OW = w[2], w[3], w[4]
    line = at(to, int64)
    q = q0
    while q < q1:
        row = q // OW
        ow = q - row * OW
        plane = row // OH
        oh = row - plane * OH
        n = plane // OD
        count = min(OW - ow, q1 - q)
        by = w[strides + 3]
        address = origin + n * w[strides] + (plane - n * OD) * w[strides + 1] + oh * w[strides + 2] + ow * by
        for j in range(count):
            line[q - q0 + j] = address + j * by
        q += count


@inline
def line_addresses(w: Any, row: Any, to: Any) -> None:
    """The table of the input pixels of an output row: a line per row of the window, of w[57] neighbours."""
    plane = row // w[3]
    oh = row - plane * w[3]
    n = plane // w[2]
    od = plane - n * w[2]
    pad = w[18]
    for t in range(w[16]):
        bases = at(w[17] + 24 * t, int64)
        di, hi, first = od * w[5] + bases[0], oh * w[6] + bases[1], bases[2]
        line = at(to + t * w[21], int64)
        inside = (di >= 0) & (di < w[8]) & (hi >= 0) & (hi < w[9])
        address = w[11] + n * w[12] + di * w[13] + hi * w[14] + first * w[15]
        by, size = w[15], w[10]
        for j in range(w[57]):
            i = first + j
            line[j] = address + j * by if inside & (i >= 0) & (i < size) else pad


@inline
def sink_addresses(w: Any, q0: Any, q1: Any, own: Any) -> None:
    """Where the sums of a block go, and what is added to them."""
    out = at(own + w[22], int64)
    if w[41] != 0:
        output_addresses(w, q0, q1, w[42], 43, own + w[22])
        if w[47] != 0:
            output_addresses(w, q0, q1, w[47], 48, own + w[23])
    else:
        by = w[56]
        for j in range(q1 - q0):
            out[j] = own + w[25] + j * by


@inline
def addresses(w: Any, q0: Any, q1: Any, own: Any) -> None:
    """All tables of a block in a thread's scratch."""
    if w[27] == 0:
        pixel_addresses(w, q0, q1, own)
    else:
        rows = own + w[24]
        invoke(w[27], (w[28], q0, q1, own, rows))
        for t in range(w[16] if w[29] != 0 else 1):
            line = at(own + t * w[21], int64)
            first = rows + t * w[29]
            by = w[26]
            for j in range(q1 - q0):
                line[j] = first + j * by
    sink_addresses(w, q0, q1, own)


def products() -> Callable[..., int]:
    """A convolution by register tiles of products."""

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        own = w[19] + slot * w[20]
        known = int64(-1)
        taps = w[16] if w[27] == 0 or w[29] != 0 else 1
        for unit in range(begin, end):
            number = unit // w[40]
            q0 = number * w[1]
            q1 = min(w[0], q0 + w[1])
            if number != known:
                addresses(w, q0, q1, own)
                known = number
            split = 58 if q1 - q0 == w[1] else 66
            p0 = (unit - number * w[40]) * w[39]
            p1 = min(p0 + w[39], w[30] * w[32])
            c0 = (p0 // w[32]) * w[34] + (p0 % w[32]) * w[33]
            c1 = c0
            for p in range(p0, p1):
                g = p // w[32]
                j = (p - g * w[32]) * w[33]
                lanes = min(w[33], w[34] - j)
                channel = g * w[34] + j
                c1 = channel + lanes
                narrow = lanes <= w[57]
                stored = lanes
                move = channel * w[53]
                if w[41] == 0:
                    move -= c0 * w[53]
                    stored = w[57] if narrow else w[33]
                residual = own + w[23] if w[47] != 0 else 0
                i = 0
                for size in range(2):
                    s = split + 4 * size
                    code = w[s + 3] if narrow else w[s + 2]
                    for _ in range(w[s]):
                        rest = residual + 8 * i if residual != 0 else 0
                        args = (taps, w[38], own + 8 * i, w[21], g * w[31], w[35] + p * w[36], w[33] * w[53], w[37] + p * w[33] * w[53])
                        invoke(code, args + (own + w[22] + 8 * i, move, stored, rest, w[52]))
                        i += w[s + 1]
            if w[41] == 0:
                invoke(w[54], (w[55], q0, q1, c0, c1, own + w[25], w[56], 0, 0))
        return 0

    return kernel


def channels() -> Callable[..., int]:
    """A depthwise convolution: the tiles take all channels of some pixels."""

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        own = w[19] + slot * w[20]
        for unit in range(begin, end):
            q0 = unit * w[1]
            q1 = min(w[0], q0 + w[1])
            addresses(w, q0, q1, own)
            split = 58 if q1 - q0 == w[1] else 66
            residual = own + w[23] if w[47] != 0 else 0
            i = 0
            for size in range(2):
                s = split + 4 * size
                for _ in range(w[s]):
                    rest = residual + 8 * i if residual != 0 else 0
                    out = own + w[22] + 8 * i
                    invoke(w[s + 2], (w[16], own + 8 * i, w[21], w[35], w[36], w[37], out, w[34], rest, w[52]))
                    i += w[s + 1]
            if w[41] == 0:
                invoke(w[54], (w[55], q0, q1, 0, w[34], own + w[25], w[56], 0, 0))
        return 0

    return kernel


def strips() -> Callable[..., int]:
    """A depthwise convolution by output rows: the tiles take all channels of neighbours in a row. A unit is w[39] output rows."""

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        own = w[19] + slot * w[20]
        OW = w[4]
        for row in range(begin * w[39], min(w[0] // OW, end * w[39])):
            line_addresses(w, row, own)
            q0 = row * OW
            sink_addresses(w, q0, q0 + OW, own)
            residual = own + w[23] if w[47] != 0 else 0
            i = 0
            for size in range(2):
                s = 58 + 4 * size
                for _ in range(w[s]):
                    rest = residual + 8 * i if residual != 0 else 0
                    out = own + w[22] + 8 * i
                    invoke(w[s + 2], (w[16], own + 8 * i * w[7], w[21], w[35], w[36], w[37], out, w[34], rest, w[52]))
                    i += w[s + 1]
            if w[41] == 0:
                invoke(w[54], (w[55], q0, q0 + OW, 0, w[34], own + w[25], w[56], 0, 0))
        return 0

    return kernel
