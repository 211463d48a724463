"""What windows write back: max_unpool, and the sums of ONNX Col2Im."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int64, types

from .intrinsics import at, inline
from .status import fail

POSITION, OUTSIDE = 2, 6  # as ../../messages.py numbers them
_ELEMENT = {1: types.uint8, 2: types.uint16, 4: types.uint32, 8: types.uint64}


def scatter(item: int) -> Callable[..., int]:
    """Elements of `item` bytes of x to their places in y, in the row-major order of x; one unit.

    Words: 0 x  1 positions (int64)  2 y  3 status  4 rank  5 is y dense and of the shape the positions are counted in?  6 elements of that shape
    7 elements of x, then for every axis: size of x, strides of x and of the positions (elements), size counted in, size of y, stride of y (elements)
    """
    X = _ELEMENT[min(item, 8)]
    pair = item == 16

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        x, positions, y = at(w[0], X), at(w[1], int64), at(w[2], X)
        rank, dense, total = w[4], w[5], w[6]
        last = 8 + 6 * (rank - 1)
        n, xs, ps = int64(1), int64(0), int64(0)
        if rank > 0:
            n, xs, ps = w[last], w[last + 1], w[last + 2]
        for row in range(w[7] // n):
            rest, from_, where = row, int64(0), int64(0)
            for a in range(rank - 2, -1, -1):
                k = 8 + 6 * a
                q = rest // w[k]
                i = rest - q * w[k]
                rest = q
                from_ += i * w[k + 1]
                where += i * w[k + 2]
            for j in range(n):
                p = positions[where + j * ps]
                if p < 0:
                    p += total
                if p < 0 or p >= total:
                    return fail(w[3], POSITION, 0, p, row * n + j)
                to = p
                if dense == 0:
                    to = int64(0)
                    for a in range(rank - 1, -1, -1):
                        k = 8 + 6 * a
                        q = p // w[k + 3]
                        i = p - q * w[k + 3]
                        p = q
                        if i >= w[k + 4]:
                            return fail(w[3], OUTSIDE, 0, 0, row * n + j)
                        to += i * w[k + 5]
                if pair:
                    y[2 * to] = x[2 * (from_ + j * xs)]
                    y[2 * to + 1] = x[2 * (from_ + j * xs) + 1]
                else:
                    y[to] = x[from_ + j * xs]
        return 0

    return kernel


def columns(X: Any) -> Callable[..., int]:
    """The planes of Col2Im, each the sum of its windows in the order of the window's elements; a unit is a plane. Integers wrap.

    Words: 0 x [N, C * points, L]  1 y [N, C, dense image]  2 C  3 points of a window  4, 5, 6 strides of x  7, 8 strides of y along N, C (elements)
    9 elements of an image  10 spatial axes, then for each: kernel, stride, dilation, padding before, image, windows
    """
    row, size = _add_row(X), X.bitwidth // 8

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        n = w[10]
        last = 11 + 6 * (n - 1)
        step, across, wide = w[last + 1], w[last + 5], w[last + 4]
        rows = int64(1)
        for a in range(n - 1):
            rows *= w[11 + 6 * a + 5]
        for unit in range(begin, end):
            image = unit // w[2]
            c = unit - image * w[2]
            plane = w[1] + (image * w[7] + c * w[8]) * size
            y = at(plane, X)
            for k in range(w[9]):
                y[k] = X(0)
            for point in range(w[3]):
                from_ = image * w[4] + (c * w[3] + point) * w[5]
                inner = point // w[last]
                shift = (point - inner * w[last]) * w[last + 2] - w[last + 3]
                first = max(0, (step - 1 - shift) // step)
                stop = min(across, max(0, (wide - shift + step - 1) // step))
                if first >= stop:
                    continue
                for r in range(rows):
                    rest, tap, to, scale, inside = r, inner, int64(0), wide, True
                    for a in range(n - 2, -1, -1):
                        k = 11 + 6 * a
                        q = rest // w[k + 5]
                        t = tap // w[k]
                        at_ = (rest - q * w[k + 5]) * w[k + 1] + (tap - t * w[k]) * w[k + 2] - w[k + 3]
                        rest, tap = q, t
                        inside = inside and at_ >= 0 and at_ < w[k + 4]
                        to += at_ * scale
                        scale *= w[k + 4]
                    if inside:
                        base = w[0] + (from_ + (r * across + first) * w[6]) * size
                        row(plane + (to + shift + first * step) * size, step, base, w[6], stop - first)
        return 0

    return kernel


def _add_row(X: Any) -> Any:
    """A function: y[j * ys] += x[j * xs] for j < n; addresses, strides in elements."""

    @inline
    def row(y, ys, x, xs, n):  # type: ignore[no-untyped-def]
        to, from_ = at(y, X), at(x, X)
        if ys == 1 and xs == 1:
            for j in range(n):
                to[j] = X(to[j] + from_[j])
        else:
            for j in range(n):
                to[j * ys] = X(to[j * ys] + from_[j * xs])

    return row
