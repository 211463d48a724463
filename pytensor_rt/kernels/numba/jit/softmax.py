"""Kernel `softmax`: softmax, log_softmax and hardmax along the columns of every set (`rows`) or along its rows, for every column (`lanes`).

Words: 0 source  1 sink  2 O  3 P  4 C  5 sets or columns of a unit  6 rows of a tile  7 slot scratch, 8 its step  9 bytes of a tile
Slot scratch: a tile, which is also where results wait for the sink; then, for `rows`, the maxima of its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .intrinsics import at, inline
from .lanes import fold_max, vdiv, vexp0, vload_n, vstore_n
from .partials import D, L, is_float
from .tiles import pitch, place, put, tile
from .vectors import BYTES, splat, vadd, vload, vmax, vmul, vstore, vsub, vsum

CHUNK = 4096  # elements whose exponentials are summed in the elements' own precision


def _row_max(X: Any) -> Callable[..., Any]:
    """The largest of n elements, but for NaN."""
    size = X.bitwidth // 8

    def row_max(p, n):  # type: ignore[no-untyped-def]
        lowest = splat(X(-math.inf))
        m0, m1, m2, m3 = lowest, lowest, lowest, lowest
        end = p + n * size
        q = p
        while q + 4 * BYTES <= end:
            m0, m1 = vmax(vload(q, X), m0), vmax(vload(q + BYTES, X), m1)
            m2, m3 = vmax(vload(q + 2 * BYTES, X), m2), vmax(vload(q + 3 * BYTES, X), m3)
            q += 4 * BYTES
        while q + BYTES <= end:
            m0 = vmax(vload(q, X), m0)
            q += BYTES
        if q < end:
            m1 = vmax(vload_n(q, (end - q) // size, lowest), m1)
        return fold_max(vmax(vmax(m0, m1), vmax(m2, m3)))

    return inline(row_max)


def _row_exp(X: Any, keep: bool) -> Callable[..., Any]:
    """y = e^(x - m), if kept; the sum, in float64."""
    size = X.bitwidth // 8

    def row_exp(p, n, m, y):  # type: ignore[no-untyped-def]
        vm, lowest = splat(m), splat(X(-math.inf))
        total = 0.0
        begin = 0
        while begin < n:
            stop = min(n, begin + CHUNK)
            s0 = splat(X(0))
            s1, s2, s3 = s0, s0, s0
            q, r, end = p + begin * size, y + begin * size, p + stop * size
            while q + 4 * BYTES <= end:
                e0, e1 = vexp0(vsub(vload(q, X), vm)), vexp0(vsub(vload(q + BYTES, X), vm))
                e2, e3 = vexp0(vsub(vload(q + 2 * BYTES, X), vm)), vexp0(vsub(vload(q + 3 * BYTES, X), vm))
                if keep:
                    vstore(r, e0)
                    vstore(r + BYTES, e1)
                    vstore(r + 2 * BYTES, e2)
                    vstore(r + 3 * BYTES, e3)
                s0, s1, s2, s3 = vadd(s0, e0), vadd(s1, e1), vadd(s2, e2), vadd(s3, e3)
                q += 4 * BYTES
                r += 4 * BYTES
            while q + BYTES <= end:
                e0 = vexp0(vsub(vload(q, X), vm))
                if keep:
                    vstore(r, e0)
                s0 = vadd(s0, e0)
                q += BYTES
                r += BYTES
            if q < end:
                k = (end - q) // size
                e0 = vexp0(vsub(vload_n(q, k, lowest), vm))
                if keep:
                    vstore_n(r, e0, k)
                s1 = vadd(s1, e0)
            total += D(vsum(vadd(vadd(s0, s1), vadd(s2, s3))))
            begin += CHUNK
        return total

    return inline(row_exp)


def _hardmax(X: Any) -> Callable[..., Any]:
    """1 at the first largest element (the first NaN, if there is one), 0 elsewhere; strides in bytes. y may be x."""

    def hardmax(x, xs, n, y, ys):  # type: ignore[no-untyped-def]
        best = at(x, X)[0]
        where = 0
        for i in range(1, n):
            v = at(x + i * xs, X)[0]
            if (best == best) & ((v > best) | (v != v)):
                best = v
                where = i
        for i in range(n):
            at(y + i * ys, X)[0] = X(1) if i == where else X(0)
        return 0

    return inline(hardmax)


def rows(X: Any, op: str) -> Callable[..., int]:
    """A unit is some sets, each of which has one row. Rows of a tile go through each pass together: the end of one overlaps with the next."""
    assert is_float(X)
    size = X.bitwidth // 8
    row_max, row_exp, hardmax = _row_max(X), _row_exp(X, op == "softmax"), _hardmax(X)
    hard, soft = op == "hardmax", op == "softmax"

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        s, t = at(w[0], L), at(w[1], L)
        O, n, per, tall = w[2], w[4], w[5], w[6]
        buffer = w[7] + slot * w[8]
        tops, sums = at(buffer + w[9], X), at(buffer + w[9] + tall * 8, X)
        i, last = begin * per, min(O, end * per)
        while i < last:
            rows = min(tall, last - i)
            x = tile(s, i, 0, rows, 0, n, buffer, size)
            xs = pitch(s, n, size)
            y = place(t, i, 0, 0, buffer, size)
            ys = pitch(t, n, size)
            if hard:
                for r in range(rows):
                    hardmax(x + r * xs, size, n, y + r * ys, size)
            else:
                for r in range(rows):
                    tops[r] = row_max(x + r * xs, n)
                for r in range(rows):
                    sums[r] = X(row_exp(x + r * xs, n, tops[r], y + r * ys))
                if soft:
                    for r in range(rows):
                        f = splat(X(1) / sums[r])
                        q = y + r * ys
                        stop = q + n * size
                        while q + BYTES <= stop:
                            vstore(q, vmul(vload(q, X), f))
                            q += BYTES
                        if q < stop:
                            k = (stop - q) // size
                            vstore_n(q, vmul(vload_n(q, k, f), f), k)
                else:
                    for r in range(rows):
                        a, b = splat(tops[r]), splat(X(math.log(D(sums[r]))))
                        p, q = x + r * xs, y + r * ys
                        stop = q + n * size
                        while q + BYTES <= stop:
                            vstore(q, vsub(vsub(vload(p, X), a), b))
                            q += BYTES
                            p += BYTES
                        if q < stop:
                            k = (stop - q) // size
                            vstore_n(q, vsub(vsub(vload_n(p, k, a), a), b), k)
            put(t, i, 0, rows, 0, n, buffer, size)
            i += rows
        return 0

    return kernel


def lanes(X: Any, op: str) -> Callable[..., int]:
    """A unit is a block of columns of a set."""
    assert is_float(X)
    size = X.bitwidth // 8
    width = BYTES // size
    hardmax = _hardmax(X)
    hard, soft = op == "hardmax", op == "softmax"

    def logarithms(v, held):  # type: ignore[no-untyped-def]
        vstore(held, v)
        t = at(held, X)
        for k in range(width):
            t[k] = X(math.log(D(t[k])))
        return vload(held, X)

    logs = inline(logarithms)

    def columns(x, xs, n, y, ys, held):  # type: ignore[no-untyped-def]
        """One vector of columns."""
        m = splat(X(-math.inf))
        for i in range(n):
            m = vmax(vload(x + i * xs, X), m)
        total = splat(X(0))
        part = total
        for i in range(n):
            e = vexp0(vsub(vload(x + i * xs, X), m))
            if soft:
                vstore(y + i * ys, e)
            part = vadd(part, e)
            if i & 63 == 63:
                total = vadd(total, part)
                part = splat(X(0))
        total = vadd(total, part)
        if soft:
            f = vdiv(splat(X(1)), total)
            for i in range(n):
                vstore(y + i * ys, vmul(vload(y + i * ys, X), f))
        else:
            f = logs(total, held)
            for i in range(n):
                vstore(y + i * ys, vsub(vsub(vload(x + i * xs, X), m), f))
        return 0

    def some(x, xs, n, y, ys, k, held):  # type: ignore[no-untyped-def]
        """The first k lanes only, by the same operations."""
        zero = splat(X(0))
        m = splat(X(-math.inf))
        for i in range(n):
            m = vmax(vload_n(x + i * xs, k, zero), m)
        total = splat(X(0))
        part = total
        for i in range(n):
            e = vexp0(vsub(vload_n(x + i * xs, k, zero), m))
            if soft:
                vstore_n(y + i * ys, e, k)
            part = vadd(part, e)
            if i & 63 == 63:
                total = vadd(total, part)
                part = splat(X(0))
        total = vadd(total, part)
        if soft:
            f = vdiv(splat(X(1)), total)
            for i in range(n):
                vstore_n(y + i * ys, vmul(vload_n(y + i * ys, k, zero), f), k)
        else:
            f = logs(total, held)
            for i in range(n):
                vstore_n(y + i * ys, vsub(vsub(vload_n(x + i * xs, k, zero), m), f), k)
        return 0

    columns_, some_ = inline(columns), inline(some)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        s, t = at(w[0], L), at(w[1], L)
        n, C, per = w[3], w[4], w[5]
        across = (C + per - 1) // per
        buffer = w[7] + slot * w[8]
        held = buffer + w[9]
        for unit in range(begin, end):
            o = unit // across
            c0 = (unit - o * across) * per
            cols = min(per, C - c0)
            x = tile(s, o, 0, n, c0, cols, buffer, size)
            xs = pitch(s, cols, size)
            y = place(t, o, 0, c0, buffer, size)
            ys = pitch(t, cols, size)
            if hard:
                for c in range(cols):
                    hardmax(x + c * size, xs, n, y + c * size, ys)
            else:
                c = 0
                while c + width <= cols:
                    columns_(x + c * size, xs, n, y + c * size, ys, held)
                    c += width
                if c < cols:
                    some_(x + c * size, xs, n, y + c * size, ys, cols - c, held)
            put(t, o, 0, n, c0, cols, buffer, size)
        return 0

    return kernel
