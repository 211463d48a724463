"""Sliding windows (ONNX MaxPool, AveragePool, LpPool): the results of whole rows of windows, before the epilogue.

x is [N, C, d, h, w] and y [N, C, od, oh, ow]; absent axes have size 1. A window's valid taps are a box of its taps: the tables of the axes hold, for
every result along them, (offset of the first valid tap in elements, number of valid taps, number of elements an average counts). All strides and
offsets in the words are in elements. The words of `channels` and `rows`:

    0 x  1 y, or 0: results go to scratch and through a program  2 the program  3 box.run  4, 5 scratch of the slots  6, 7, 8 tables of d, h, w
    9, 10, 11 steps of taps along d, h, w  12, 13 strides of x along N, C  14...18 strides of y along N, C, d, h, w  19, 20, 21 od, oh, ow
    22 C  23 rows  24 rows of a unit
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import int64, types

from .intrinsics import at, bits_f64, inline, invoke
from .masked import vdiv, vgreater, vload_even, vload_part, vstore_part
from .vectors import lanes, splat, vadd, vload, vmax, vmul, vstore, vsub


def _neutral(X: Any, op: str) -> Any:
    """What does not change a result: the lowest value of a maximum, else 0."""
    if op != "max":
        return 0
    return -np.inf if isinstance(X, types.Float) else X.minval


def _combine(X: Any, op: str) -> tuple[Any, Any]:
    """Functions (so far, element) -> combined, of vectors and of single elements. op: max, sum, l1 (of magnitudes), l2 (of squares), lp."""
    zero = X(0)
    if op == "max":
        if isinstance(X, types.Float):
            return inline(lambda a, v: vgreater(a, v)), inline(lambda a, v, p: a if a > v or a != a else v)
        return inline(lambda a, v: vgreater(a, v)), inline(lambda a, v, p: a if a > v else v)
    if op == "sum":
        return inline(lambda a, v: vadd(a, v)), inline(lambda a, v, p: a + v)
    if op == "l1":
        return inline(lambda a, v: vadd(a, vmax(v, vsub(splat(zero), v)))), inline(lambda a, v, p: a + abs(v))
    if op == "l2":
        return inline(lambda a, v: vadd(a, vmul(v, v))), inline(lambda a, v, p: a + v * v)
    return inline(lambda a, v: vadd(a, v)), inline(lambda a, v, p: a + np.power(abs(v), X(p)))


def _reduce(X: Any, op: str) -> Any:
    """A function: out[k] = the combination over taps (i, j, t) of x[i * di + j * dj + t * dt + k], for k < n. Addresses, strides in elements."""
    vector, single = _combine(X, op)
    low, size, L = X(_neutral(X, op)), X.bitwidth // 8, lanes(X)

    @inline
    def reduce(out, n, x, ni, di, nj, dj, nt, dt, p):  # type: ignore[no-untyped-def]
        k = 0
        if op != "lp":
            while k + 4 * L <= n:
                a0, a1, a2, a3 = splat(low), splat(low), splat(low), splat(low)
                for i in range(ni):
                    for j in range(nj):
                        from_ = x + (i * di + j * dj + k) * size
                        for t in range(nt):
                            v = from_ + t * dt * size
                            a0 = vector(a0, vload(v, X))
                            a1 = vector(a1, vload(v + L * size, X))
                            a2 = vector(a2, vload(v + 2 * L * size, X))
                            a3 = vector(a3, vload(v + 3 * L * size, X))
                to = out + k * size
                vstore(to, a0)
                vstore(to + L * size, a1)
                vstore(to + 2 * L * size, a2)
                vstore(to + 3 * L * size, a3)
                k += 4 * L
            while k + L <= n:
                a0 = splat(low)
                for i in range(ni):
                    for j in range(nj):
                        from_ = x + (i * di + j * dj + k) * size
                        for t in range(nt):
                            a0 = vector(a0, vload(from_ + t * dt * size, X))
                vstore(out + k * size, a0)
                k += L
            if k < n:
                a0 = splat(low)
                for i in range(ni):
                    for j in range(nj):
                        from_ = x + (i * di + j * dj + k) * size
                        for t in range(nt):
                            a0 = vector(a0, vload_part(from_ + t * dt * size, X, n - k))
                vstore_part(out + k * size, a0, n - k)
        else:
            y = at(out, X)
            while k < n:
                a = low
                for i in range(ni):
                    for j in range(nj):
                        from_ = at(x, X)
                        for t in range(nt):
                            a = single(a, from_[i * di + j * dj + t * dt + k], p)
                y[k] = a
                k += 1

    return reduce


def _root(X: Any, op: str) -> Any:
    """A function (out, n, p): the roots of sums of powers, in place."""

    @inline
    def root(out, n, p):  # type: ignore[no-untyped-def]
        y = at(out, X)
        if op == "l2":
            for k in range(n):
                y[k] = np.sqrt(y[k])
        elif op == "lp":
            for k in range(n):
                y[k] = np.power(y[k], X(1.0 / p))

    return root


def _divide(X: Any) -> Any:
    """A function (out, n, count): out[k] /= count."""
    size, L = X.bitwidth // 8, lanes(X)

    @inline
    def divide(out, n, count):  # type: ignore[no-untyped-def]
        by = splat(X(count))
        k = 0
        while k + L <= n:
            vstore(out + k * size, vdiv(vload(out + k * size, X), by))
            k += L
        if k < n:
            vstore_part(out + k * size, vdiv(vload_part(out + k * size, X, n - k), by), n - k)

    return divide


def channels(X: Any, op: str) -> Callable[..., int]:
    """Channels are contiguous in x, and in y where that is written: lanes are channels, windows are read where they lie.

    Rows are [N, od, oh]; a unit is a block of channels of some rows. Further words: 25 channels of a block  26 p (a float)
    """
    reduce, root, divide = _reduce(X, "sum" if op == "average" else op), _root(X, op), _divide(X) if op == "average" else None
    size = X.bitwidth // 8

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        ds, hs, ws = at(w[6], int64), at(w[7], int64), at(w[8], int64)
        D, H, W, C = w[19], w[20], w[21], w[22]
        blocks = (C + w[25] - 1) // w[25]
        p = bits_f64(w[26])
        for unit in range(begin, end):
            group = unit // blocks
            c0 = (unit - group * blocks) * w[25]
            n = min(C - c0, w[25])
            r0 = group * w[24]
            r1 = min(w[23], r0 + w[24])
            held = w[4] + slot * w[5]
            for r in range(r0, r1):
                rest = r // H
                oh = r - rest * H
                image = rest // D
                od = rest - image * D
                if w[1] != 0:
                    to = w[1] + (image * w[14] + c0 * w[15] + od * w[16] + oh * w[17]) * size
                    step = w[18] * size
                else:
                    to = held + (r - r0) * W * n * size
                    step = n * size
                x = w[0] + (image * w[12] + c0 * w[13] + ds[3 * od] + hs[3 * oh]) * size
                ni, nj = ds[3 * od + 1], hs[3 * oh + 1]
                for o in range(W):
                    reduce(to, n, x + ws[3 * o] * size, ni, w[9], nj, w[10], ws[3 * o + 1], w[11], p)
                    if op == "average":
                        divide(to, n, ds[3 * od + 2] * hs[3 * oh + 2] * ws[3 * o + 2])
                    else:
                        root(to, n, p)
                    to += step
            if w[1] == 0:
                invoke(w[3], (w[2], r0 * W, r1 * W, c0, c0 + n, held, n * size, 0, 0))
        return 0

    return kernel


def _along(X: Any, op: str, stride: int) -> Any:
    """A function: out[o] = the combination over t < taps of x[o * stride + t * dilation], for o < n. x has 2 vectors of room behind its end."""
    vector, single = _combine(X, "max" if op == "max" else "sum")
    low, size, L = X(_neutral(X, op)), X.bitwidth // 8, lanes(X)

    @inline
    def along(out, n, x, taps, dilation, any_stride):  # type: ignore[no-untyped-def]
        if stride <= 2:
            o = 0
            while o < n:
                from_ = x + o * stride * size
                if stride == 1:
                    a = vload(from_, X)
                    for t in range(1, taps):
                        a = vector(a, vload(from_ + t * dilation * size, X))
                else:
                    a = vload_even(from_, X)
                    for t in range(1, taps):
                        a = vector(a, vload_even(from_ + t * dilation * size, X))
                if o + L <= n:
                    vstore(out + o * size, a)
                else:
                    vstore_part(out + o * size, a, n - o)
                o += L
        else:
            y, row = at(out, X), at(x, X)
            for o in range(n):
                b = low
                for t in range(taps):
                    b = single(b, row[o * any_stride + t * dilation], 0.0)
                y[o] = b

    return along


def rows(X: Any, op: str, stride: int) -> Callable[..., int]:
    """w is contiguous in x, and in y where that is written: the rows of x under a row of windows become one, which is then combined along itself.

    Rows are [N, C, od, oh]; a unit is some of them. stride: that of windows along w, or 3 for any from there on. Further words: 25 p (a float)
    26 elements of w in x  27 padding before w  28 elements of a padded row  29 bytes of a slot before the results  30 taps along w
    31 their dilation, in elements  32 the stride of windows along w  33 a table of the elements an average counts along w, of type X
    """
    reduce, root, along = _reduce(X, "sum" if op == "average" else op), _root(X, op), _along(X, op, stride)
    size, low, L = X.bitwidth // 8, X(_neutral(X, op)), lanes(X)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        ds, hs = at(w[6], int64), at(w[7], int64)
        D, H, W, C = w[19], w[20], w[21], w[22]
        p = bits_f64(w[25])
        padded = w[4] + slot * w[5]
        line = padded + w[27] * size
        held = padded + w[29]
        around = at(padded, X)
        for unit in range(begin, end):
            for k in range(w[27]):
                around[k] = low
            for k in range(w[27] + w[26], w[28]):
                around[k] = low
            r0 = unit * w[24]
            r1 = min(w[23], r0 + w[24])
            for r in range(r0, r1):
                rest = r // H
                oh = r - rest * H
                plane = rest // D
                od = rest - plane * D
                image = plane // C
                c = plane - image * C
                if w[1] != 0:
                    to = w[1] + (image * w[14] + c * w[15] + od * w[16] + oh * w[17]) * size
                else:
                    to = held + (r - r0) * W * size
                x = w[0] + (image * w[12] + c * w[13] + ds[3 * od] + hs[3 * oh]) * size
                reduce(line, w[26], x, ds[3 * od + 1], w[9], hs[3 * oh + 1], w[10], 1, 0, p)
                along(to, W, padded, w[30], w[31], w[32])
                if op == "average":
                    by = splat(X(ds[3 * od + 2] * hs[3 * oh + 2]))
                    k = 0
                    while k + L <= W:
                        q = vmul(by, vload(w[33] + k * size, X))
                        vstore(to + k * size, vdiv(vload(to + k * size, X), q))
                        k += L
                    if k < W:
                        q = vmul(by, vload_part(w[33] + k * size, X, W - k))
                        vstore_part(to + k * size, vdiv(vload_part(to + k * size, X, W - k), q), W - k)
                else:
                    root(to, W, p)
            if w[1] == 0:
                invoke(w[3], (w[2], r0, r1, 0, W, held, W * size, 0, 0))
        return 0

    return kernel


def places(X: Any) -> Callable[..., int]:
    """Maxima and their flat positions, element by element, for any strides. Of equal values the first counts; a NaN is the largest.

    Rows are [N, C, od, oh]; a unit is some of them. The tables of the axes have, instead of the elements an average counts, the coordinate of the first
    valid tap. Further words: 25...29 strides of the positions along N, C, d, h, w  30 their address  31, 32, 33 what one step of a tap along d, h, w adds
    to a position  34, 35, 36 what one step along d, h, w adds  37 elements of a plane of x  38 stride of results along w
    """
    size, low = X.bitwidth // 8, X(_neutral(X, "max"))
    greater = inline(lambda v, a: v > a or (v != v and a == a)) if isinstance(X, types.Float) else inline(lambda v, a: v > a)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        ds, hs, ws = at(w[6], int64), at(w[7], int64), at(w[8], int64)
        D, H, W, C = w[19], w[20], w[21], w[22]
        x, where = at(w[0], X), at(w[30], int64)
        held = w[4] + slot * w[5]
        for unit in range(begin, end):
            r0 = unit * w[24]
            r1 = min(w[23], r0 + w[24])
            for r in range(r0, r1):
                rest = r // H
                oh = r - rest * H
                plane = rest // D
                od = rest - plane * D
                image = plane // C
                c = plane - image * C
                to = held + (r - r0) * W * size
                if w[1] != 0:
                    to = w[1] + (image * w[14] + c * w[15] + od * w[16] + oh * w[17]) * size
                y = at(to, X)
                position = image * w[25] + c * w[26] + od * w[27] + oh * w[28]
                corner = image * w[12] + c * w[13] + ds[3 * od] + hs[3 * oh]
                flat = ds[3 * od + 2] * w[34] + hs[3 * oh + 2] * w[35]
                ni, nj = ds[3 * od + 1], hs[3 * oh + 1]
                for o in range(W):
                    best, found = low, int64(-1)
                    for i in range(ni):
                        for j in range(nj):
                            e = corner + ws[3 * o] + i * w[9] + j * w[10]
                            f = flat + ws[3 * o + 2] * w[36] + i * w[31] + j * w[32]
                            for t in range(ws[3 * o + 1]):
                                v = x[e + t * w[11]]
                                if found < 0 or greater(v, best):
                                    best, found = v, f + t * w[33]
                    y[o * w[38]] = best
                    where[position + o * w[29]] = plane * w[37] + max(found, 0)
            if w[1] == 0:
                invoke(w[3], (w[2], r0, r1, 0, W, held, W * size, 0, 0))
        return 0

    return kernel
