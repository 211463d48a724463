"""Kernel `arg_reduce`: where the extreme value of a row, or of a column of every set, lies. A NaN is extreme.

Words: 0 source  1 sink  2 O  3 P  4 C  5 results of a block  6 rows and 7 columns of a tile  8 slot scratch, 9 its step  10 select the last?
11 bytes of a tile. Slot scratch: a tile, then the best values and their places of a block, 8 bytes each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types

from .intrinsics import at, inline
from .partials import L, U, is_float, row_partial
from .tiles import pitch, place, put, tile


def _beats(X: Any, kind: str, last: bool) -> Callable[..., Any]:
    """Does x take the place of `best`, which comes before it?"""
    if is_float(X):
        if kind == "max":
            ordered = (lambda x, b: x >= b) if last else (lambda x, b: x > b)
        else:
            ordered = (lambda x, b: x <= b) if last else (lambda x, b: x < b)
        f = inline(ordered)
        if last:
            return inline(lambda x, b: (x != x) | ((b == b) & f(x, b)))
        return inline(lambda x, b: ((x != x) & (b == b)) | f(x, b))
    if kind == "max":
        return inline((lambda x, b: x >= b) if last else (lambda x, b: x > b))
    if kind == "min":
        return inline((lambda x, b: x <= b) if last else (lambda x, b: x < b))
    if kind == "max_u":
        return inline((lambda x, b: U(x) >= U(b)) if last else (lambda x, b: U(x) > U(b)))
    return inline((lambda x, b: U(x) <= U(b)) if last else (lambda x, b: U(x) < U(b)))


def rows(X: Any, kind: str) -> Callable[..., int]:
    """Along the columns of every set, which has one row: first the value, by vectors, then where it is."""
    size = X.bitwidth // 8
    extreme = row_partial(X, kind)
    first, latest = _beats(X, kind, False), _beats(X, kind, True)

    def find(x, n, v, last):  # type: ignore[no-untyped-def]
        p = at(x, X)
        i = n - 1 if last else 0
        step = -1 if last else 1
        if v != v:
            while p[i] == p[i]:
                i += step
        else:
            while p[i] != v:
                i += step
        return i

    find_ = inline(find)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        s, t = at(w[0], L), at(w[1], L)
        O, C, per, tall, wide, last = w[2], w[4], w[5], w[6], w[7], w[10] != 0
        buffer = w[8] + slot * w[9]
        home = buffer + w[11]
        best, where = at(home, X), at(home + 8 * per, L)
        for unit in range(begin, end):
            i0 = unit * per
            i1 = min(O, i0 + per)
            i = i0
            while i < i1:
                rows = min(tall, i1 - i)
                c = 0
                while c < C:
                    cols = min(wide, C - c)
                    x = tile(s, i, 0, rows, c, cols, buffer, size)
                    rs = pitch(s, cols, size)
                    for r in range(rows):
                        k = i - i0 + r
                        v = X(extreme(x + r * rs, cols, X(0)))
                        if c == 0 or (latest(v, best[k]) if last else first(v, best[k])):
                            best[k] = v
                            where[k] = c + find_(x + r * rs, cols, v, last)
                    c += cols
                i += rows
            y = place(t, i0, 0, 0, home + 8 * per, 8)
            if t[0] != 0:
                for k in range(i1 - i0):
                    at(y + k * t[4], L)[0] = where[k]
            put(t, i0, 0, i1 - i0, 0, 1, home + 8 * per, 8)
        return 0

    return kernel


def lanes(X: Any, kind: str) -> Callable[..., int]:
    """Along the rows of every set, for every column."""
    size = X.bitwidth // 8
    I = types.int32 if size == 4 else L  # as wide as X, so that a vector of places goes with one of values
    first, latest = _beats(X, kind, False), _beats(X, kind, True)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        s, t = at(w[0], L), at(w[1], L)
        P, C, per, tall, last = w[3], w[4], w[5], w[6], w[10] != 0
        across = (C + per - 1) // per
        buffer = w[8] + slot * w[9]
        home = buffer + w[11]
        best, where = at(home, X), at(home + 8 * per, I)
        for unit in range(begin, end):
            o = unit // across
            c0 = (unit - o * across) * per
            cols = min(per, C - c0)
            p = 0
            while p < P:
                rows = min(tall, P - p)
                block = tile(s, o, p, rows, c0, cols, buffer, size)
                rs = pitch(s, cols, size)
                for r in range(rows):
                    x = at(block + r * rs, X)
                    k = I(p + r)
                    if k == 0:
                        for j in range(cols):
                            best[j] = x[j]
                            where[j] = I(0)
                    elif last:
                        for j in range(cols):
                            better = latest(x[j], best[j])
                            best[j] = x[j] if better else best[j]
                            where[j] = k if better else where[j]
                    else:
                        for j in range(cols):
                            better = first(x[j], best[j])
                            best[j] = x[j] if better else best[j]
                            where[j] = k if better else where[j]
                p += rows
            y = at(place(t, o, 0, c0, home + 16 * per, 8), L)
            for j in range(cols):
                y[j] = L(where[j])
            put(t, o, 0, 1, c0, cols, home + 16 * per, 8)
        return 0

    return kernel
