"""Resize of one line of y at a time (ONNX Resize): linear and cubic interpolation in `lines`, nearest elements in `nearest`.

An output line runs along one resampled axis; its elements are single values or, where an axis that is not resampled is the contiguous one, rows of
`width` values. Its outer position is a row: rows are numbered over the outer axes. Strides and offsets in the words are in elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int64, types

from .elements import element
from .intrinsics import at, bits_f64, inline, invoke
from .masked import vload_part, vstore_part
from .sums import combined_rows, weighted_rows
from .vectors import lanes, vload, vstore

OUTER = 28  # where the words of outer axes start


def lines(name: str, C: Any, vectors: int) -> Callable[..., int]:
    """Linear and cubic interpolation in C (float32 or float64) of elements of dtype `name`; `vectors`: lines of rows, not of single elements.

    The lines of x that a line of y needs are combined first, with the weights of the outer axes; the result is then interpolated along itself.
    Words: 0 x  1 y, or 0: results go to scratch and through a program  2 the program  3 box.run  4, 5 scratch of the slots  6 rows  7 rows of a unit
    8 outer axes  9, 10 elements of a line of x and y  11, 12 strides of x and y along it  13 width  14 width of a unit  15 taps along the line
    16, 17 their places (int64) and weights (C), [out, taps], without `vectors` [taps, out]  18, 19 a list of the positions in a line that are
    extrapolated, and its length  20 extrapolation value (a float)  21 are results clamped?  22, 23 to what (floats)  24 room for taps of a row
    25, 26 bytes of a slot before the combined line, before the results  27 0, then for every outer axis: size, stride of x (0 if resampled), stride
    of y, taps (0 if not resampled), offsets of taps and their weights (float64) [size, taps], 0 or a table (uint8) of the extrapolated positions
    """
    X, _ = element(name, C)
    same, size, xsize = X == C, C.bitwidth // 8, X.bitwidth // 8
    combined, weighted = combined_rows(name, C), weighted_rows(C)

    @inline
    def taps_of(w, r, held, c0):  # type: ignore[no-untyped-def]
        """Lists the lines of x that row r needs; (how many, the row's offset in y, is it extrapolated?)."""
        addresses, weights = at(held, int64), at(held + 8 * w[24], C)
        wide = at(held + 16 * w[24], types.float64)
        addresses[0], wide[0] = 0, 1.0
        count, target, outside = int64(1), int64(0), False
        rest, base = r, w[0] + c0 * xsize
        for a in range(w[8] - 1, -1, -1):
            o = OUTER + 7 * a
            q = rest // w[o]
            i = rest - q * w[o]
            rest = q
            target += i * w[o + 2]
            taps = w[o + 3]
            if w[o + 6] != 0:
                outside = outside or at(w[o + 6], types.uint8)[i] != 0
            if taps == 0:
                base += i * w[o + 1] * xsize
                continue
            offsets, factors = at(w[o + 4], int64), at(w[o + 5], types.float64)
            for k in range(count - 1, -1, -1):
                before, f = addresses[k], wide[k]
                for t in range(taps):
                    addresses[k * taps + t] = before + offsets[i * taps + t] * xsize
                    wide[k * taps + t] = f * factors[i * taps + t]
            count *= taps
        kept = int64(0)
        for k in range(count):
            if wide[k] != 0.0 or count == 1:
                addresses[kept], weights[kept] = base + addresses[k], C(wide[k])
                kept += 1
        return kept, target, outside

    @inline
    def along(to, ys, n, x, xs, w):  # type: ignore[no-untyped-def]
        """The line `to` from the line x; n: values of a row."""
        taps, out = w[15], w[10]
        if vectors:
            for o in range(out):
                weighted(to + o * ys * size, n, x, xs, taps, w[16] + 8 * o * taps, w[17] + size * o * taps)
            return
        y, from_, index, weight = at(to, C), at(x, C), at(w[16], int64), at(w[17], C)
        if taps == 2:
            for o in range(out):
                y[o] = weight[o] * from_[index[o]] + weight[out + o] * from_[index[out + o]]
        elif taps == 4:
            for o in range(out):
                a = weight[o] * from_[index[o]] + weight[out + o] * from_[index[out + o]]
                b = weight[2 * out + o] * from_[index[2 * out + o]] + weight[3 * out + o] * from_[index[3 * out + o]]
                y[o] = a + b
        else:
            for o in range(out):
                a = C(0)
                for t in range(taps):
                    a += weight[t * out + o] * from_[index[t * out + o]]
                y[o] = a

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        blocks = (w[13] + w[14] - 1) // w[14]
        held = w[4] + slot * w[5]
        line, results = held + w[25], held + w[26]
        out = w[10]
        empty = C(bits_f64(w[20]))
        for unit in range(begin, end):
            group = unit // blocks
            c0 = (unit - group * blocks) * w[14]
            n = min(w[13] - c0, w[14])
            r0 = group * w[7]
            r1 = min(w[6], r0 + w[7])
            for r in range(r0, r1):
                count, target, outside = taps_of(w, r, held, c0)
                to = results + (r - r0) * out * n * size
                ys = n
                if w[1] != 0:
                    to = w[1] + (target + c0) * size
                    ys = w[12]
                if outside:
                    for o in range(out):
                        y = at(to + o * ys * size, C)
                        for k in range(n):
                            y[k] = empty
                else:
                    addresses, factors = at(held, int64), at(held + 8 * w[24], C)
                    if same and count == 1 and factors[0] == C(1):
                        along(to, ys, n, addresses[0], w[11], w)
                    else:
                        if vectors and w[11] != n:
                            for i in range(w[9]):
                                combined(line + i * n * size, n, count, held, held + 8 * w[24], i * w[11])
                        else:
                            combined(line, w[9] * n, count, held, held + 8 * w[24], 0)
                        along(to, ys, n, line, n, w)
                    places = at(w[18], int64)
                    for k in range(w[19]):
                        y = at(to + places[k] * ys * size, C)
                        for j in range(n):
                            y[j] = empty
                if w[21] != 0:
                    low, high = C(bits_f64(w[22])), C(bits_f64(w[23]))
                    for o in range(out):
                        y = at(to + o * ys * size, C)
                        for k in range(n):
                            y[k] = min(max(y[k], low), high)
            if w[1] == 0:
                if vectors:
                    invoke(w[3], (w[2], r0 * out, r1 * out, c0, c0 + n, results, n * size, 0, 0))
                else:
                    invoke(w[3], (w[2], r0, r1, 0, out, results, out * size, 0, 0))
        return 0

    return kernel


def nearest(item: int) -> Callable[..., int]:
    """Nearest elements of `item` bytes.

    Words: 0 x  1 y, or 0: results go to scratch and through a program  2 the program  3 box.run  4, 5 scratch of the slots  6 rows  7 rows of a unit
    8 outer axes  9 elements of a line of y  10 stride of y along it  11 width  12, 13 strides of x and y along that  14 offsets in x along a line
    15, 16 a list of the positions in a line that are extrapolated, and its length  17 bits of the extrapolation value, then for every outer axis: size,
    stride of x (0 if resampled), stride of y, 0 or the offsets in x, 0 or a table (uint8) of the extrapolated positions
    """
    X = {1: types.uint8, 2: types.uint16, 4: types.uint32, 8: types.uint64}[item]
    L = lanes(X)

    @inline
    def copied(to, from_, n):  # type: ignore[no-untyped-def]
        k = 0
        while k + L <= n:
            vstore(to + k * item, vload(from_ + k * item, X))
            k += L
        if k < n:
            vstore_part(to + k * item, vload_part(from_ + k * item, X, n - k), n - k)

    @inline
    def filled(to, n, step, value):  # type: ignore[no-untyped-def]
        y = at(to, X)
        for k in range(n):
            y[k * step] = value

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        held = w[4] + slot * w[5]
        out, n, xc = w[9], w[11], w[12]
        offsets, empty, places = at(w[14], int64), X(w[17]), at(w[15], int64)
        direct = w[1] != 0
        ys, yc = (w[10], w[13]) if direct else (n, int64(1))
        whole = yc == 1 and (ys == n or out == 1)  # a line of y is contiguous
        for unit in range(begin, end):
            r0 = unit * w[7]
            r1 = min(w[6], r0 + w[7])
            before, source = int64(0), int64(0)  # where the line before went, what it was read from
            for r in range(r0, r1):
                rest, from_, target, outside = r, w[0], int64(0), False
                for a in range(w[8] - 1, -1, -1):
                    o = 18 + 5 * a
                    q = rest // w[o]
                    i = rest - q * w[o]
                    rest = q
                    target += i * w[o + 2]
                    if w[o + 3] != 0:
                        from_ += at(w[o + 3], int64)[i] * item
                    else:
                        from_ += i * w[o + 1] * item
                    if w[o + 4] != 0:
                        outside = outside or at(w[o + 4], types.uint8)[i] != 0
                to = held + (r - r0) * out * n * item
                if direct:
                    to = w[1] + target * item
                if outside:
                    for o in range(out):
                        filled(to + o * ys * item, n, yc, empty)
                    continue
                if whole and from_ == source:
                    copied(to, before, out * n)
                    continue
                if n == 1:
                    y, x = at(to, X), at(from_, X)
                    if ys == 1:
                        for o in range(out):
                            y[o] = x[offsets[o]]
                    else:
                        for o in range(out):
                            y[o * ys] = x[offsets[o]]
                elif xc == 1 and yc == 1:
                    for o in range(out):
                        copied(to + o * ys * item, from_ + offsets[o] * item, n)
                else:
                    for o in range(out):
                        y, x = at(to + o * ys * item, X), at(from_ + offsets[o] * item, X)
                        for k in range(n):
                            y[k * yc] = x[k * xc]
                for k in range(w[16]):
                    filled(to + places[k] * ys * item, n, yc, empty)
                before, source = to, from_
            if not direct:
                if n == 1:
                    invoke(w[3], (w[2], r0, r1, 0, out, held, out * item, 0, 0))
                else:
                    invoke(w[3], (w[2], r0 * out, r1 * out, 0, n, held, n * item, 0, 0))
        return 0

    return kernel
