"""Kernel `scan`: running sums or products along the columns of every set (`rows`), or along its rows, for every column (`lanes`).

Words: 0 source  1 sink  2 O  3 P  4 C  5 sets or columns of a block  6 rows and 7 columns of a tile  8 slot scratch, 9 its step  10 exclusive?  11 reverse?
12 bytes of a tile of elements, 13 of results. Slot scratch: a tile of elements, one of results, the running values of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .intrinsics import at, exact
from .partials import L, wide
from .tiles import pitch, place, put, tile


def _apply(kind: str) -> Callable[..., Any]:
    return exact((lambda a, x: a * x) if kind == "prod" else (lambda a, x: a + x))


def rows(X: Any, kind: str) -> Callable[..., int]:
    """A unit is a set, which has one row. Floats run in float64 and are rounded once per element."""
    size, A = X.bitwidth // 8, wide(X)
    apply, one = _apply(kind), 1 if kind == "prod" else 0

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        s, t = at(w[0], L), at(w[1], L)
        C, wide_, exclusive, reverse = w[4], w[7], w[10] != 0, w[11] != 0
        buffer = w[8] + slot * w[9]
        chunks = (C + wide_ - 1) // wide_
        for o in range(begin, end):
            total = A(one)
            for k in range(chunks):
                c = (chunks - 1 - k if reverse else k) * wide_
                n = min(wide_, C - c)
                x = at(tile(s, o, 0, 1, c, n, buffer, size), X)
                y = at(place(t, o, 0, c, buffer + w[12], size), X)
                i = n - 1 if reverse else 0
                step = -1 if reverse else 1
                if exclusive:
                    for _ in range(n):
                        v = A(x[i])
                        y[i] = X(total)
                        total = apply(total, v)
                        i += step
                else:
                    for _ in range(n):
                        total = apply(total, A(x[i]))
                        y[i] = X(total)
                        i += step
                put(t, o, 0, 1, c, n, buffer + w[12], size)
        return 0

    return kernel


def lanes(X: Any, kind: str) -> Callable[..., int]:
    """A unit is a block of columns of a set."""
    size, A = X.bitwidth // 8, wide(X)
    apply, one = _apply(kind), 1 if kind == "prod" else 0

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        s, t = at(w[0], L), at(w[1], L)
        P, C, per, tall, exclusive, reverse = w[3], w[4], w[5], w[6], w[10] != 0, w[11] != 0
        across = (C + per - 1) // per
        buffer = w[8] + slot * w[9]
        results = buffer + w[12]
        total = at(results + w[13], A)
        steps = (P + tall - 1) // tall
        for unit in range(begin, end):
            o = unit // across
            c0 = (unit - o * across) * per
            cols = min(per, C - c0)
            for j in range(cols):
                total[j] = A(one)
            for k in range(steps):
                p = (steps - 1 - k if reverse else k) * tall
                rows = min(tall, P - p)
                block = tile(s, o, p, rows, c0, cols, buffer, size)
                rs = pitch(s, cols, size)
                to = place(t, o, p, c0, results, size)
                ys = pitch(t, cols, size)
                for m in range(rows):
                    r = rows - 1 - m if reverse else m
                    x, y = at(block + r * rs, X), at(to + r * ys, X)
                    if exclusive:
                        for j in range(cols):
                            v = A(x[j])
                            y[j] = X(total[j])
                            total[j] = apply(total[j], v)
                    else:
                        for j in range(cols):
                            total[j] = apply(total[j], A(x[j]))
                            y[j] = X(total[j])
                put(t, o, p, rows, c0, cols, results, size)
        return 0

    return kernel
