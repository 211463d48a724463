"""Kernel `normalize`: (x - mean) * inverse deviation * scale + bias over sets of elements: `rows`: sets of one row; `pieces`: sets of several; `lanes`:
the columns of a set are sets of their own.

Words: 0 source  1 scale  2 bias  3 sink  4 sink of the means, or 0  5 of the inverse deviations, or 0  6 O  7 P  8 C  9 sets or columns of a unit
10 rows and 11 columns of a tile  12 slot scratch, 13 its step  14 epsilon (bits)  15 rms?  16 bytes of a tile  17 is a set that has to be computed kept?
Scale and bias are blocks of words: 0 address (0: none)  1 bytes from set to set  2 from row to row  3 from column to column: an element, or 0.
Slot scratch: a tile (of results; of elements, where no set is kept), then 16 bytes for every set of a tile or column of a unit: statistics; then, for
lanes, 8 more: sums; then 8 more for a scale, and 8 for a bias, spread over columns; for pieces, the set that is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .intrinsics import at, bits_f64, inline
from .lanes import vload_n, vstore_n
from .partials import D, L, lane_partial, row_partial
from .tiles import pitch, place, put, tile
from .vectors import BYTES, fma, splat, vload, vmul, vstore, vsub

CHUNK = 4096  # elements summed in their own precision
TALL = 64  # rows, the same


def _long_sum(X: Any, kind: str) -> Callable[..., Any]:
    """(address, n, shift): over any number of elements, in float64."""
    size, partial = X.bitwidth // 8, row_partial(X, kind)

    def total(p, n, shift):  # type: ignore[no-untyped-def]
        value = 0.0
        i = 0
        while i < n:
            value += partial(p + i * size, min(CHUNK, n - i), shift)
            i += CHUNK
        return value

    return inline(total)


def _apply(X: Any) -> Callable[..., Any]:
    """y = (x - mean) * inv * scale + bias for one row; scale and bias: an address, and whether it is a vector's (else a number's)."""
    size = X.bitwidth // 8

    def apply(x, n, mean, inv, scale, scales, bias, biases, y):  # type: ignore[no-untyped-def]
        m, f = splat(mean), splat(inv)
        one = splat(X(1) if (scale == 0) | scales else at(scale, X)[0])
        zero = splat(X(0) if (bias == 0) | biases else at(bias, X)[0])
        whole = n // (BYTES // size) * BYTES
        rest = n - whole // size
        if scales & biases:
            for q in range(0, whole, BYTES):
                vstore(y + q, fma(vmul(vsub(vload(x + q, X), m), f), vload(scale + q, X), vload(bias + q, X)))
            if rest:
                v = vmul(vsub(vload_n(x + whole, rest, m), m), f)
                vstore_n(y + whole, fma(v, vload_n(scale + whole, rest, m), vload_n(bias + whole, rest, m)), rest)
        elif scales:
            for q in range(0, whole, BYTES):
                vstore(y + q, fma(vmul(vsub(vload(x + q, X), m), f), vload(scale + q, X), zero))
            if rest:
                v = vmul(vsub(vload_n(x + whole, rest, m), m), f)
                vstore_n(y + whole, fma(v, vload_n(scale + whole, rest, m), zero), rest)
        elif biases:
            for q in range(0, whole, BYTES):
                vstore(y + q, fma(vmul(vsub(vload(x + q, X), m), f), one, vload(bias + q, X)))
            if rest:
                v = vmul(vsub(vload_n(x + whole, rest, m), m), f)
                vstore_n(y + whole, fma(v, one, vload_n(bias + whole, rest, m)), rest)
        else:
            for q in range(0, whole, BYTES):
                vstore(y + q, fma(vmul(vsub(vload(x + q, X), m), f), one, zero))
            if rest:
                v = vmul(vsub(vload_n(x + whole, rest, m), m), f)
                vstore_n(y + whole, fma(v, one, zero), rest)
        return 0

    return inline(apply)


@inline
def _factor(f: Any, o: Any, p: Any, c: Any) -> Any:
    """The address of a scale's or bias's element, or 0."""
    return f[0] + o * f[1] + p * f[2] + c * f[3] if f[0] != 0 else 0


def rows(X: Any) -> Callable[..., int]:
    """A unit is some sets."""
    size = X.bitwidth // 8
    total, squares, spread, apply = _long_sum(X, "sum"), _long_sum(X, "square"), _long_sum(X, "spread"), _apply(X)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        s, scale, bias, t = at(w[0], L), at(w[1], L), at(w[2], L), at(w[3], L)
        O, n, per, tall, rms = w[6], w[8], w[9], w[10], w[15] != 0
        epsilon, count = bits_f64(w[14]), D(n)
        scales, biases = (scale[0] != 0) & (scale[3] != 0), (bias[0] != 0) & (bias[3] != 0)
        buffer = w[12] + slot * w[13]
        means, invs = buffer + w[16], buffer + w[16] + 8 * tall
        mean, inv = at(means, X), at(invs, X)
        i, last = begin * per, min(O, end * per)
        while i < last:
            rows = min(tall, last - i)
            x = tile(s, i, 0, rows, 0, n, buffer, size)
            xs = pitch(s, n, size)
            y = place(t, i, 0, 0, buffer, size)
            ys = pitch(t, n, size)
            for r in range(rows):
                q = x + r * xs
                if rms:
                    mean[r] = X(0)
                    v = squares(q, n, X(0))
                else:
                    mean[r] = X(total(q, n, X(0)) / count)
                    v = spread(q, n, mean[r])
                inv[r] = X(1.0 / np.sqrt(v / count + epsilon))
                apply(q, n, mean[r], inv[r], _factor(scale, i + r, 0, 0), scales, _factor(bias, i + r, 0, 0), biases, y + r * ys)
            put(t, i, 0, rows, 0, n, buffer, size)
            if w[4] != 0:
                put(at(w[4], L), i, 0, rows, 0, 1, means, size)
            if w[5] != 0:
                put(at(w[5], L), i, 0, rows, 0, 1, invs, size)
            i += rows
        return 0

    return kernel


def pieces(X: Any) -> Callable[..., int]:
    """A unit is some sets, of any number of rows of any length."""
    size = X.bitwidth // 8
    apply = _apply(X)

    def summed(kind):  # type: ignore[no-untyped-def]
        long, short = _long_sum(X, kind), row_partial(X, kind)

        def over(w, s, o, shift, held, rs, buffer):  # type: ignore[no-untyped-def]
            P, C, tall, wide = w[7], w[8], w[10], w[11]
            if held != 0:
                if rs == C * size:
                    return long(held, P * C, shift)
                value = 0.0
                for p in range(P):
                    value += long(held + p * rs, C, shift)
                return value
            value = 0.0
            p = 0
            while p < P:
                rows = min(tall, P - p)
                c = 0
                while c < C:
                    cols = min(wide, C - c)
                    value += short(tile(s, o, p, rows, c, cols, buffer, size), rows * cols, shift)
                    c += cols
                p += rows
            return value

        return inline(over)

    total, squares, spread = summed("sum"), summed("square"), summed("spread")

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        s, scale, bias, t = at(w[0], L), at(w[1], L), at(w[2], L), at(w[3], L)
        O, P, C, per, tall, wide, rms = w[6], w[7], w[8], w[9], w[10], w[11], w[15] != 0
        epsilon, count = bits_f64(w[14]), D(P * C)
        scales, biases = (scale[0] != 0) & (scale[3] != 0), (bias[0] != 0) & (bias[3] != 0)
        buffer = w[12] + slot * w[13]
        mean, inv = at(buffer + w[16], X), at(buffer + w[16] + 8, X)
        for o in range(begin * per, min(O, end * per)):
            held = 0
            rs = s[5]
            if s[0] != 0:
                held = s[3] + o * s[4]
            elif w[17] != 0:
                held = buffer + w[16] + 16
                rs = C * size
                if (P > 0) & (C > 0):
                    tile(s, o, 0, P, 0, C, held, size)
            if rms:
                mean[0] = X(0)
                v = squares(w, s, o, X(0), held, rs, buffer)
            else:
                mean[0] = X(total(w, s, o, X(0), held, rs, buffer) / count)
                v = spread(w, s, o, mean[0], held, rs, buffer)
            inv[0] = X(1.0 / np.sqrt(v / count + epsilon))
            p = 0
            while p < P:
                rows = min(tall, P - p)
                c = 0
                while c < C:
                    cols = min(wide, C - c)
                    if held != 0:
                        x, xs = held + p * rs + c * size, rs
                    else:
                        x, xs = tile(s, o, p, rows, c, cols, buffer, size), cols * size
                    y = place(t, o, p, c, buffer, size)
                    ys = t[5] if t[0] != 0 else cols * size
                    for r in range(rows):
                        at_scale, at_bias = _factor(scale, o, p + r, c), _factor(bias, o, p + r, c)
                        apply(x + r * xs, cols, mean[0], inv[0], at_scale, scales, at_bias, biases, y + r * ys)
                    put(t, o, p, rows, c, cols, buffer, size)
                    c += cols
                p += rows
            if w[4] != 0:
                put(at(w[4], L), o, 0, 1, 0, 1, buffer + w[16], size)
            if w[5] != 0:
                put(at(w[5], L), o, 0, 1, 0, 1, buffer + w[16] + 8, size)
        return 0

    return kernel


def lanes(X: Any) -> Callable[..., int]:
    """A unit is a block of columns of a set."""
    size = X.bitwidth // 8
    total, squares, spread = lane_partial(X, "sum"), lane_partial(X, "square"), lane_partial(X, "spread")
    width = BYTES // size

    def spread_out(f, o, p, c, n, to, value):  # type: ignore[no-untyped-def]
        """The address of n columns of a scale or bias, or of as many copies of its one value (without it, of `value`)."""
        if (f[0] != 0) & (f[3] != 0):
            return _factor(f, o, p, c)
        v = at(_factor(f, o, p, c), X)[0] if f[0] != 0 else X(value)
        y = at(to, X)
        for i in range(n):
            y[i] = v
        return to

    factors = inline(spread_out)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        s, scale, bias, t = at(w[0], L), at(w[1], L), at(w[2], L), at(w[3], L)
        P, C, per, tall, rms = w[7], w[8], w[9], w[10], w[15] != 0
        across = (C + per - 1) // per
        epsilon, count = bits_f64(w[14]), D(P)
        buffer = w[12] + slot * w[13]
        means = buffer + w[16]
        invs, sums = means + 8 * per, means + 16 * per
        own_scale, own_bias = sums + 8 * per, sums + 16 * per
        mean, inv, summed = at(means, X), at(invs, X), at(sums, D)
        moving = ((scale[0] != 0) & (scale[2] != 0)) | ((bias[0] != 0) & (bias[2] != 0))
        for unit in range(begin, end):
            o = unit // across
            c0 = (unit - o * across) * per
            cols = min(per, C - c0)
            for j in range(cols):
                mean[j] = X(0)
                summed[j] = 0.0
            if not rms:
                p = 0
                while p < P:
                    rows = min(tall, P - p)
                    x = tile(s, o, p, rows, c0, cols, buffer, size)
                    total(x, pitch(s, cols, size), rows, cols, sums, means)
                    p += rows
                for j in range(cols):
                    mean[j] = X(summed[j] / count)
                    summed[j] = 0.0
            p = 0
            while p < P:
                rows = min(tall, P - p)
                x = tile(s, o, p, rows, c0, cols, buffer, size)
                if rms:
                    squares(x, pitch(s, cols, size), rows, cols, sums, means)
                else:
                    spread(x, pitch(s, cols, size), rows, cols, sums, means)
                p += rows
            for j in range(cols):
                inv[j] = X(1.0 / np.sqrt(summed[j] / count + epsilon))
            f, b = own_scale, own_bias
            if not moving:
                f, b = factors(scale, o, 0, c0, cols, own_scale, 1), factors(bias, o, 0, c0, cols, own_bias, 0)
            p = 0
            while p < P:
                rows = min(tall, P - p)
                x = tile(s, o, p, rows, c0, cols, buffer, size)
                xs = pitch(s, cols, size)
                y = place(t, o, p, c0, buffer, size)
                ys = pitch(t, cols, size)
                for r in range(rows):
                    if moving:
                        f, b = factors(scale, o, p + r, c0, cols, own_scale, 1), factors(bias, o, p + r, c0, cols, own_bias, 0)
                    k = 0
                    while k + width <= cols:
                        q = k * size
                        v = vmul(vsub(vload(x + q, X), vload(means + q, X)), vload(invs + q, X))
                        vstore(y + q, fma(v, vload(f + q, X), vload(b + q, X)))
                        k += width
                    if k < cols:
                        q, n = k * size, cols - k
                        zero = splat(X(0))
                        v = vmul(vsub(vload_n(x + q, n, zero), vload_n(means + q, n, zero)), vload_n(invs + q, n, zero))
                        vstore_n(y + q, fma(v, vload_n(f + q, n, zero), vload_n(b + q, n, zero)), n)
                    x += xs
                    y += ys
                put(t, o, p, rows, c0, cols, buffer, size)
                p += rows
            if w[4] != 0:
                put(at(w[4], L), o, 0, 1, c0, cols, means, size)
            if w[5] != 0:
                put(at(w[5], L), o, 0, 1, c0, cols, invs, size)
        return 0

    return kernel
