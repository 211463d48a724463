"""Kernel `reduce`: rows of a set are reduced as a whole (`rows`), or every column of a set by itself (`lanes`).

Words: 0 source  1 sink  2 O  3 P  4 C  5 results of a block  6 rows and 7 columns of a tile  8 slot scratch, 9 its step  10 segments of the reduced axes
11 where their values go  12 the result of nothing (bits)  13 number of reduced elements  14 what is done at the end (see FINISH)  15 bytes of a tile
A unit is a segment of a block of results. Slot scratch: a tile, then running values, results and shifts of a block, 8 bytes each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .intrinsics import at, bits_f64, inline
from .partials import D, L, U, is_float, join, lane_partial, row_partial, wide
from .tiles import pitch, place, put, tile
from .vm import idiv, trunc64, trunc_u, udiv

TALL = 32  # rows of a column in the elements' own precision
FINISH = ("value", "mean", "mean_u", "sqrt", "sqrt_u", "log", "log_u", "log_sum_exp")  # _u: of uint64


@inline
def _whole(x: Any) -> Any:
    """float64 to int64, saturated; NaN and -inf give the lowest."""
    return L(0x7FFFFFFFFFFFFFFF) if x >= 9223372036854775808.0 else trunc64(x)


@inline
def _whole_u(x: Any) -> Any:
    """float64 to uint64, saturated; NaN and negative numbers give 0."""
    return L(-1) if x >= 18446744073709551616.0 else (trunc_u(x) if x > 0.0 else L(0))


def _finisher(X: Any) -> Callable[..., Any]:
    """(w, running values, shifts, where, stride, n): results of type X from running values."""
    size, A, floating = X.bitwidth // 8, wide(X), is_float(X)

    def finish(w, acc, shift, out, stride, n):  # type: ignore[no-untyped-def]
        a, s, what = at(acc, A), at(shift, X), w[14]
        if floating:
            if what == 1:
                count = D(w[13])
                for i in range(n):
                    a[i] = a[i] / count
            elif what == 3:
                for i in range(n):
                    a[i] = np.sqrt(a[i])
            elif what == 5:
                for i in range(n):
                    a[i] = math.log(a[i])
            elif what == 7:
                for i in range(n):
                    a[i] = math.inf if s[i] == math.inf else math.log(a[i]) + A(s[i])
        else:
            if what == 1:
                for i in range(n):
                    a[i] = idiv(a[i], w[13])
            elif what == 2:
                for i in range(n):
                    a[i] = udiv(a[i], w[13])
            elif what == 3:
                for i in range(n):
                    a[i] = _whole(np.sqrt(D(a[i])))
            elif what == 4:
                for i in range(n):
                    a[i] = _whole_u(np.sqrt(D(U(a[i]))))
            elif what == 5:
                for i in range(n):
                    a[i] = _whole(math.log(D(a[i])))
            elif what == 6:
                for i in range(n):
                    a[i] = _whole_u(math.log(D(U(a[i]))))
        if stride == size:
            y = at(out, X)
            for i in range(n):
                y[i] = X(a[i])
        else:
            for i in range(n):
                at(out + i * stride, X)[0] = X(a[i])
        return 0

    return inline(finish)


def _initial(A: Any) -> Callable[..., Any]:
    return inline(lambda w: bits_f64(w[12])) if A is D else inline(lambda w: w[12])


def _rows_sweep(X: Any, kind: str) -> Callable[..., Any]:
    """(w, i0, i1, segment, start, tile buffer, running values, shifts): the running values of sets [i0, i1) over one segment."""
    size, A = X.bitwidth // 8, wide(X)
    partial, joined = row_partial(X, kind), join(kind)

    def sweep(w, i0, i1, segment, start, buffer, acc, shift):  # type: ignore[no-untyped-def]
        s, total, moved = at(w[0], L), at(acc, A), at(shift, X)
        P, C, tall, wide_ = w[3], w[4], w[6], w[7]
        if (P == 1) & (wide_ >= C):
            i = i0
            while i < i1:
                rows = min(tall, i1 - i)
                x = tile(s, i, 0, rows, 0, C, buffer, size)
                rs = pitch(s, C, size)
                for r in range(rows):
                    k = i - i0 + r
                    total[k] = joined(start, partial(x + r * rs, C, moved[k]))
                i += rows
            return 0
        across = (C + wide_ - 1) // wide_
        steps = (P + tall - 1) // tall * across
        first, last = steps * segment // w[10], steps * (segment + 1) // w[10]
        for i in range(i0, i1):
            value = start
            for step in range(first, last):
                p = step // across
                c = (step - p * across) * wide_
                p *= tall
                rows, cols = min(tall, P - p), min(wide_, C - c)
                x = tile(s, i, p, rows, c, cols, buffer, size)
                rs = pitch(s, cols, size)
                if rs == cols * size:
                    cols, rows = cols * rows, 1
                for r in range(rows):
                    value = joined(value, partial(x + r * rs, cols, moved[i - i0]))
            total[i - i0] = value
        return 0

    return inline(sweep)


def _lanes_sweep(X: Any, kind: str) -> Callable[..., Any]:
    """The same for the columns [c0, c1) of set o."""
    size, A = X.bitwidth // 8, wide(X)
    partial = lane_partial(X, kind)

    def sweep(w, o, c0, c1, segment, start, buffer, acc, shift):  # type: ignore[no-untyped-def]
        s, total = at(w[0], L), at(acc, A)
        P, tall, cols = w[3], w[6], c1 - c0
        for i in range(cols):
            total[i] = start
        steps = (P + tall - 1) // tall
        for step in range(steps * segment // w[10], steps * (segment + 1) // w[10]):
            p = step * tall
            rows = min(tall, P - p)
            x = tile(s, o, p, rows, c0, cols, buffer, size)
            rs = pitch(s, cols, size)
            for r in range(0, rows, TALL):
                partial(x + r * rs, rs, min(TALL, rows - r), cols, acc, shift)
        return 0

    return inline(sweep)


def _shifts(X: Any) -> Callable[..., Any]:
    """Running maxima to shifts of log_sum_exp: -inf shifts by nothing, and with inf the sum does not matter."""

    def shifts(acc, shift, n):  # type: ignore[no-untyped-def]
        a, s = at(acc, D), at(shift, X)
        for i in range(n):
            s[i] = X(0) if a[i] == -math.inf else X(a[i])
        return 0

    return inline(shifts)


def rows(X: Any, kind: str) -> Callable[..., int]:
    """Every set to one number."""
    size, twice = X.bitwidth // 8, kind == "exp"
    sweep, finish, initial = _rows_sweep(X, kind), _finisher(X), _initial(wide(X))
    highest = _rows_sweep(X, "max") if twice else sweep
    shifts = _shifts(X)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        O, per = w[2], w[5]
        buffer = w[8] + slot * w[9]
        home = buffer + w[15]
        result, shift = home + 8 * per, home + 16 * per
        for unit in range(begin, end):
            block = unit // w[10]
            segment = unit - block * w[10]
            i0 = block * per
            i1 = min(O, i0 + per)
            if twice:
                highest(w, i0, i1, segment, -math.inf, buffer, home, shift)
                shifts(home, shift, i1 - i0)
            if w[10] > 1:
                sweep(w, i0, i1, segment, initial(w), buffer, w[11] + unit * per * 8, shift)
            else:
                sweep(w, i0, i1, 0, initial(w), buffer, home, shift)
                t = at(w[1], L)
                y = place(t, i0, 0, 0, result, size)
                finish(w, home, shift, y, t[4] if t[0] != 0 else size, i1 - i0)
                put(t, i0, 0, i1 - i0, 0, 1, result, size)
        return 0

    return kernel


def lanes(X: Any, kind: str) -> Callable[..., int]:
    """Every column of every set to one number."""
    size, twice = X.bitwidth // 8, kind == "exp"
    sweep, finish, initial = _lanes_sweep(X, kind), _finisher(X), _initial(wide(X))
    highest = _lanes_sweep(X, "max") if twice else sweep
    shifts = _shifts(X)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        C, per = w[4], w[5]
        across = (C + per - 1) // per
        buffer = w[8] + slot * w[9]
        home = buffer + w[15]
        result, shift = home + 8 * per, home + 16 * per
        for unit in range(begin, end):
            block = unit // w[10]
            segment = unit - block * w[10]
            o = block // across
            c0 = (block - o * across) * per
            c1 = min(C, c0 + per)
            if twice:
                highest(w, o, c0, c1, segment, -math.inf, buffer, home, shift)
                shifts(home, shift, c1 - c0)
            if w[10] > 1:
                sweep(w, o, c0, c1, segment, initial(w), buffer, w[11] + unit * per * 8, shift)
            else:
                sweep(w, o, c0, c1, 0, initial(w), buffer, home, shift)
                t = at(w[1], L)
                finish(w, home, shift, place(t, o, 0, c0, result, size), size, c1 - c0)
                put(t, o, 0, 1, c0, c1 - c0, result, size)
        return 0

    return kernel


def combine(X: Any, kind: str, lanes: int) -> Callable[..., int]:
    """Blocks of results from the values of their segments, in order."""
    size, A = X.bitwidth // 8, wide(X)
    joined, finish = join(kind), _finisher(X)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        C, per, segments = w[4], w[5], w[10]
        across = (C + per - 1) // per if lanes else 1
        home = w[8] + slot * w[9] + w[15]
        result, shift = home + 8 * per, home + 16 * per
        t = at(w[1], L)
        for block in range(begin, end):
            o = block // across if lanes else block * per
            c0 = (block - o * across) * per if lanes else 0
            n = min(per, C - c0) if lanes else min(per, w[2] - o)
            first = w[11] + block * segments * per * 8
            a = at(first, A)
            for k in range(1, segments):
                more = at(first + k * per * 8, A)
                for i in range(n):
                    a[i] = joined(a[i], more[i])
            y = place(t, o, 0, c0, result, size)
            finish(w, first, shift, y, t[4] if (t[0] != 0) & (lanes == 0) else size, n)
            put(t, o, 0, 1 if lanes else n, c0, n if lanes else 1, result, size)
        return 0

    return kernel
