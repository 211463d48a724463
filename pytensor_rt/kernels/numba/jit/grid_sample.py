"""ONNX GridSample: the taps of every position are found once, then applied to all channels. A unit is a block of positions.

The words of all three (strides in elements): 0 x  1 grid [N, o..., spatial]  2 y  3, 4 scratch of the slots  5 positions  6 positions of a unit
7 channels  8, 9, 10 strides of x, the grid and y along N  11, 12 strides of x and y along the channels  13 stride of the grid along its last axis,
then for every spatial axis: size of x, of y, strides of x, of the grid, of y
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32, float64, int64, types

from .elements import element
from .intrinsics import at, inline
from .sums import combined_rows

AXES = 14  # where the words of the spatial axes start
OUTSIDE = -(1 << 62)


@inline
def _reflected(x, low, high):  # type: ignore[no-untyped-def]
    """x, mirrored at both ends of [low, high] until it is inside."""
    span = high - low
    if span <= 0.0:
        return low
    if x >= low and x <= high:
        return x
    d = low - x if x < low else x - high
    n = np.floor(d / span)
    r = d - n * span
    even = n * 0.5 == np.floor(n * 0.5)
    return low + r if (x < low) == even else high - r


@inline
def _cubic_far(s):  # type: ignore[no-untyped-def]
    """Keys' cubic with a = -0.75, at 1 <= s <= 2."""
    return ((-0.75 * s + 3.75) * s - 6.0) * s + 3.0


@inline
def _cubic_near(s):  # type: ignore[no-untyped-def]
    """The same, at 0 <= s <= 1."""
    return (1.25 * s - 2.25) * s * s + 1.0


def _axis_taps(op: str, padding: str, align: int) -> Any:
    """A function (n, size, stride, places, weights): lists the elements of one axis that coordinate n in [-1, 1] reads, as offsets (int64) and weights
    (float64) at two addresses; those outside have weight 0 and offset 0."""
    nearest, cubic = op == "nearest", op == "cubic"
    zeros, border, reflection = padding == "zeros", padding == "border", padding == "reflection"
    first, count = (-1, 4) if cubic else (0, 1) if nearest else (0, 2)

    @inline
    def taps(n, size, stride, places, weights):  # type: ignore[no-untyped-def]
        offset, weight = at(places, int64), at(weights, float64)
        length = float64(size)
        low, high = (0.0, length - 1.0) if align else (-0.5, length - 0.5)
        raw = (n + 1.0) / 2.0 * (length - 1.0) if align else ((n + 1.0) * length - 1.0) / 2.0
        x = float64(float32(raw))  # the specification's sample code keeps positions in single precision
        if not abs(x) < 1e9:  # NaN too
            x = 1e9 if x > 0.0 else -1e9
        if nearest:
            x = np.rint(x)
        if x < low or x > high:
            if border:
                x = min(max(x, 0.0), length - 1.0)
            elif reflection:
                x = float64(float32(_reflected(x, low, high)))
        below = np.trunc(x) if nearest else np.floor(x)
        r = x - below
        if nearest:
            weight[0] = 1.0
        elif cubic:
            weight[0] = _cubic_far(r + 1.0)
            weight[1] = _cubic_near(r)
            weight[2] = _cubic_near(1.0 - r)
            weight[3] = _cubic_far(2.0 - r)
        else:
            weight[0] = 1.0 - r
            weight[1] = r
        for k in range(count):
            i = below + float64(first + k)
            if i < 0.0 or i > length - 1.0:
                if zeros:
                    weight[k] = 0.0
                    i = 0.0
                elif reflection:
                    i = np.trunc(_reflected(i, low, high))
                i = min(max(i, 0.0), length - 1.0)
            offset[k] = int64(i) * stride

    return taps


def _positions(G: Any, spatial: int, op: str, padding: str, align: int) -> Any:
    """A function (w, position, base, places, weights, skip) -> (count, offset of the position in y): lists the taps of a position at two addresses, as
    offsets in x (int64) and weights (float64); those of weight 0 are left out with `skip`. base: 256 bytes of scratch."""
    taps_of = _axis_taps(op, padding, align)
    per = {"nearest": 1, "linear": 2, "cubic": 4}[op]
    bits = {"nearest": 0, "linear": 1, "cubic": 2}[op]
    total = per**spatial

    @inline
    def listed(w, position, base, places, weights, skip):  # type: ignore[no-untyped-def]
        rest, where, target = position, int64(0), int64(0)
        for a in range(spatial - 1, -1, -1):
            o = AXES + 5 * a
            q = rest // w[o + 1]
            i = rest - q * w[o + 1]
            rest = q
            where += i * w[o + 3]
            target += i * w[o + 4]
        where += rest * w[9]
        target += rest * w[10]
        grid = at(w[1], G)
        for a in range(spatial):
            o = AXES + 5 * a
            taps_of(float64(grid[where + (spatial - 1 - a) * w[13]]), w[o], w[o + 2], base + 32 * a, base + 128 + 32 * a)
        offset, weight = at(base, int64), at(base + 128, float64)
        to, factor = at(places, int64), at(weights, float64)
        count = int64(0)
        for t in range(total):
            e, f = rest * w[8], 1.0
            for a in range(spatial):
                k = 4 * a + ((t >> (bits * (spatial - 1 - a))) & (per - 1))
                e += offset[k]
                f *= weight[k]
            to[count], factor[count] = e, f
            if f != 0.0 or not skip:
                count += 1
        return count, target

    return listed


def nearest(item: int, G: Any, spatial: int, padding: str, align: int) -> Callable[..., int]:
    """Elements of `item` bytes, or zeros. A unit's scratch: 256 bytes, then offset in x or OUTSIDE, and offset in y, of every position."""
    X = {1: types.uint8, 2: types.uint16, 4: types.uint32, 8: types.uint64}[item]
    listed = _positions(G, spatial, "nearest", padding, align)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        base = w[3] + slot * w[4]
        block = w[6]
        places, targets = at(base + 512, int64), at(base + 512 + 8 * block, int64)
        one = base + 256
        x, y = at(w[0], X), at(w[2], X)
        for unit in range(begin, end):
            p0 = unit * block
            n = min(w[5] - p0, block)
            for p in range(n):
                count, target = listed(w, p0 + p, base, one, one + 128, True)
                places[p] = at(one, int64)[0] if count > 0 else OUTSIDE
                targets[p] = target
            if w[11] == 1 and w[12] == 1:
                for p in range(n):
                    from_, to = places[p], targets[p]
                    if from_ == OUTSIDE:
                        for c in range(w[7]):
                            y[to + c] = X(0)
                    else:
                        for c in range(w[7]):
                            y[to + c] = x[from_ + c]
            else:
                for c in range(w[7]):
                    for p in range(n):
                        y[targets[p] + c * w[12]] = x[places[p] + c * w[11]] if places[p] != OUTSIDE else X(0)
        return 0

    return kernel


def channels(name: str, C: Any, G: Any, spatial: int, op: str, padding: str, align: int) -> Callable[..., int]:
    """Linear and cubic samples, channels contiguous in x and in y, which is of type C. A unit's scratch: 256 bytes, then three lists of taps."""
    listed, combined = _positions(G, spatial, op, padding, align), combined_rows(name, C)
    size, xsize = C.bitwidth // 8, element(name, C)[0].bitwidth // 8
    most = 8 * {"linear": 2, "cubic": 4}[op] ** spatial

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        base = w[3] + slot * w[4]
        places, wide, factors = base + 256, base + 256 + most, base + 256 + 2 * most
        place, exact, factor = at(places, int64), at(wide, float64), at(factors, C)
        for unit in range(begin, end):
            for p in range(unit * w[6], min(w[5], (unit + 1) * w[6])):
                count, target = listed(w, p, base, places, wide, True)
                for t in range(count):
                    place[t] = w[0] + place[t] * xsize
                    factor[t] = C(exact[t])
                combined(w[2] + target * size, w[7], count, places, factors, 0)
        return 0

    return kernel


def planes(name: str, C: Any, G: Any, spatial: int, op: str, padding: str, align: int) -> Callable[..., int]:
    """Linear and cubic samples for any strides; y is of type C. A unit's scratch: 256 bytes, then offsets in y, and the taps of every position."""
    listed = _positions(G, spatial, op, padding, align)
    X, value = element(name, C)
    taps = {"linear": 2, "cubic": 4}[op] ** spatial

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        base = w[3] + slot * w[4]
        block = w[6]
        targets, places = at(base + 256, int64), base + 256 + 8 * block
        wide = places + 8 * block * taps
        factors = wide + 8 * taps
        place, exact, factor = at(places, int64), at(wide, float64), at(factors, C)
        x, y = at(w[0], X), at(w[2], C)
        for unit in range(begin, end):
            p0 = unit * block
            n = min(w[5] - p0, block)
            for p in range(n):
                _, targets[p] = listed(w, p0 + p, base, places + 8 * taps * p, wide, False)
                for t in range(taps):
                    factor[p * taps + t] = C(exact[t])
            for c in range(w[7]):
                skip, to = c * w[11], c * w[12]
                for p in range(n):
                    a = C(0)
                    for t in range(taps):
                        f = factor[p * taps + t]
                        v = f * value(x[skip + place[p * taps + t]])
                        a += v if f != C(0) else C(0)  # nothing of what is not read, not even a NaN
                    y[targets[p] + to] = a
        return 0

    return kernel
