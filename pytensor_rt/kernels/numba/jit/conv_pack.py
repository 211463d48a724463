"""What convolutions prepare: filters in panels, bytes as int16, sums of filters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int32, int64, types

from .intrinsics import at, inline, invoke


def floats(X: Any) -> Callable[..., int]:
    """Filters as panels [groups][panels][taps][channels][wide] of X, zero where there are no filters; a unit is a panel.

    0 from  1 strides in bytes: of groups, 2 of filters, 3 of channels  4 taps  5 their offsets in bytes  6 channels  7 filters of a group
    8 panels of a group  9 wide  10 to  11 memory.load of the filters' dtype (gives X's registers)
    """
    size = X.bitwidth // 8

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        C, wide = w[6], w[9]
        for unit in range(begin, end):
            g = unit // w[8]
            m = (unit - g * w[8]) * wide
            n = min(wide, w[7] - m)
            for t in range(w[4]):
                source = w[0] + g * w[1] + m * w[2] + at(w[5], int64)[t]
                to = w[10] + (unit * w[4] + t) * C * wide * size
                if n == wide:
                    invoke(w[11], (to, source, w[3], w[2], C, wide, 0))
                else:
                    for c in range(C):
                        invoke(w[11], (to + c * wide * size, source + c * w[3], 0, w[2], 1, n, 0))
                        line = at(to + c * wide * size, X)
                        for j in range(n, wide):
                            line[j] = X(0)
        return 0

    return kernel


def integers(X: Any, Y: Any, lanes: int) -> Callable[..., int]:
    """Filters of X (8 bits) less their zero points as panels [groups][panels][taps][steps][wide][lanes] of Y, channel step * lanes + lane, and then
    the sum of every filter, int32 [groups][panels][wide]; a unit is a panel.

    0-10 as in `floats`  11 zero points or 0  12 bytes from one filter's zero point to the next's  13 steps  14 where the sums are, in bytes
    """

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        C, wide = w[6], w[9]
        to, sums = at(w[10], Y), at(w[10] + w[14], int32)
        for unit in range(begin, end):
            g = unit // w[8]
            m = (unit - g * w[8]) * wide
            for j in range(wide):
                total = int64(0)
                zero = int64(0)
                if w[11] != 0 and m + j < w[7]:
                    zero = int64(at(w[11] + (g * w[7] + m + j) * w[12], X)[0])
                for t in range(w[4]):
                    source = w[0] + g * w[1] + (m + j) * w[2] + at(w[5], int64)[t]
                    first = ((unit * w[4] + t) * w[13] * wide + j) * lanes
                    for c in range(w[13] * lanes):
                        value = int64(0)
                        if c < C and m + j < w[7]:
                            value = int64(at(source + c * w[3], X)[0]) - zero
                        total += value
                        to[first + c // lanes * wide * lanes + c % lanes] = Y(value)
                sums[unit * wide + j] = int32(total)
        return 0

    return kernel


def stage(X: Any, Y: Any) -> Callable[..., int]:
    """x as pixels of Y: integers less a zero point, plus a number; with zeros in channels that x has not, and padding at both ends of every row of
    pixels. A unit is a row of pixels.

    0 x  1 zero point or 0  2-4 sizes: depths, rows, columns  5-8 strides in bytes: batch, depth, row, column  9 of channels  10 channels  11 padded
    12 to  13 the number  14 values of a pixel there  15 pixels of padding in front of a row, 16 behind  17 what they hold (one pixel)
    """
    narrow, size = X.bitwidth // 8, Y.bitwidth // 8
    if isinstance(X, types.Float):
        moved = inline(lambda x, move: Y(x))
    else:
        moved = inline(lambda x, move: Y(int32(int32(x) + move)))

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        move = int32(w[13])
        if w[1] != 0:
            move = int32(move - int32(at(w[1], X)[0]))
        pixel = w[14]
        for unit in range(begin, end):
            plane = unit // w[3]
            n = plane // w[2]
            source = w[0] + n * w[5] + (plane - n * w[2]) * w[6] + (unit - plane * w[3]) * w[7]
            row = w[12] + unit * (w[4] + w[15] + w[16]) * pixel * size
            pad = at(w[17], Y)
            for i in range(w[15] + w[16]):
                to = at(row + (i if i < w[15] else i + w[4]) * pixel * size, Y)
                for c in range(w[11]):
                    to[c] = pad[c]
            row += w[15] * pixel * size
            if w[9] == narrow and w[10] == pixel and w[8] == w[9] * w[10]:
                x, to = at(source, X), at(row, Y)
                for c in range(w[4] * w[10]):
                    to[c] = moved(x[c], move)
            elif w[9] == narrow:
                for i in range(w[4]):
                    x, to = at(source + i * w[8], X), at(row + i * pixel * size, Y)
                    for c in range(w[10]):
                        to[c] = moved(x[c], move)
            else:
                for c in range(w[10]):
                    to = at(row + c * size, Y)
                    for i in range(w[4]):
                        to[i * pixel] = moved(at(source + i * w[8] + c * w[9], X)[0], move)
            for c in range(w[10], w[11]):
                to = at(row + c * size, Y)
                for i in range(w[4]):
                    to[i * pixel] = Y(0)
        return 0

    return kernel


def offsets(X: Any) -> Callable[..., int]:
    """Biases less what the zero point of x adds to the sums: to[m] = b[m] - (zero + add) * (the sum of the filters of m), in panels; a unit is a panel.

    0 to (int32)  1 b (int32) or 0  2 its stride in bytes  3 zero point or 0  4 add  5 packed filters  6 where their sums are, in bytes  7 wide
    8 panels of a group  9 filters of a group
    """

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        zero = w[4]
        if w[3] != 0:
            zero += int64(at(w[3], X)[0])
        to, sums = at(w[0], int32), at(w[5] + w[6], int32)
        for p in range(begin, end):
            g = p // w[8]
            m = (p - g * w[8]) * w[7]
            for j in range(w[7]):
                value = int64(0)
                if w[1] != 0 and m + j < w[9]:
                    value = int64(at(w[1] + (g * w[9] + m + j) * w[2], int32)[0])
                to[p * w[7] + j] = int32(value - zero * int64(sums[p * w[7] + j]))
        return 0

    return kernel


def padding(X: Any) -> Callable[..., int]:
    """Bytes of the zero point of x plus a number: 0 to  1 their number  2 zero point  3 the number to add."""

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        to = at(w[0], X)
        value = X(int32(int32(at(w[2], X)[0]) + int32(w[3])))
        for c in range(w[1]):
            to[c] = value
        return 0

    return kernel
