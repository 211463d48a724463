"""Short stretches of a reduction, by vectors: of a row, or of every column of a few rows.

A kind is what happens to an element x, given a shift s: sum x, abs |x|, square x * x, spread (x - s)^2, exp e^(x - s), prod, max, min, and max_u, min_u of
uint64. Sums and products of float32 run in float32 here and go on in float64 (`wide`); integers are int64 and wrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba import float32 as F
from numba import float64 as D
from numba import int64 as L
from numba import types

from .intrinsics import at, inline, stack
from .lanes import fold_max, fold_max_u, fold_min, fold_min_u, fold_product, vabs, vexp0, vload_n, vmax_u, vmin_u, vnan
from .vectors import BYTES, fma, splat, vadd, vload, vmax, vmin, vmul, vstore, vsub, vsum

U = types.uint64
_LOWEST, _HIGHEST = -(1 << 63), (1 << 63) - 1


def is_float(X: Any) -> bool:
    return isinstance(X, types.Float)


def wide(X: Any) -> Any:
    """The type a reduction of X goes on in."""
    return D if is_float(X) else L


def neutral(X: Any, kind: str) -> Any:
    """What changes nothing, as a Python number."""
    if kind in ("max", "min"):
        if is_float(X):
            return -math.inf if kind == "max" else math.inf
        return _LOWEST if kind == "max" else _HIGHEST
    return {"prod": 1, "min_u": -1}.get(kind, 0)


def stepper(X: Any, kind: str) -> Callable[..., Any]:
    """(running vector, elements, shifts) -> running vector."""
    squares = (lambda a, x, s: fma(x, x, a)) if is_float(X) else (lambda a, x, s: vadd(a, vmul(x, x)))
    return inline({
        "sum": lambda a, x, s: vadd(a, x), "abs": lambda a, x, s: vadd(a, vabs(x)), "square": squares, "prod": lambda a, x, s: vmul(a, x),
        "spread": lambda a, x, s: fma(vsub(x, s), vsub(x, s), a), "exp": lambda a, x, s: vadd(a, vexp0(vsub(x, s))),
        "max": lambda a, x, s: vmax(x, a), "min": lambda a, x, s: vmin(x, a), "max_u": lambda a, x, s: vmax_u(x, a),
        "min_u": lambda a, x, s: vmin_u(x, a),
    }[kind])  # fmt: skip


def joiner(kind: str) -> Callable[..., Any]:
    """Two running vectors into one."""
    joins = {
        "prod": lambda a, b: vmul(a, b), "max": lambda a, b: vmax(a, b), "min": lambda a, b: vmin(a, b),
        "max_u": lambda a, b: vmax_u(a, b), "min_u": lambda a, b: vmin_u(a, b),
    }  # fmt: skip
    return inline(joins.get(kind, lambda a, b: vadd(a, b)))


def folder(kind: str) -> Callable[..., Any]:
    """A running vector into a number."""
    folds = {
        "prod": lambda a: fold_product(a), "max": lambda a: fold_max(a), "min": lambda a: fold_min(a), "max_u": lambda a: fold_max_u(a),
        "min_u": lambda a: fold_min_u(a),
    }  # fmt: skip
    return inline(folds.get(kind, lambda a: vsum(a)))


def join(kind: str) -> Callable[..., Any]:
    """Two running values of the wide type into one; a NaN stays."""
    joins = {
        "prod": lambda a, b: a * b,
        "max": lambda a, b: a if (a != a) | ((b == b) & (a > b)) else b,
        "min": lambda a, b: a if (a != a) | ((b == b) & (a < b)) else b,
        "max_u": lambda a, b: a if U(a) > U(b) else b,
        "min_u": lambda a, b: a if U(a) < U(b) else b,
    }
    return inline(joins.get(kind, lambda a, b: a + b))


def row_partial(X: Any, kind: str) -> Callable[..., Any]:
    """(address, n, shift) -> the value of n dense elements, of the wide type. Callers keep n to a few thousand."""
    size = X.bitwidth // 8
    A, step, both, fold = wide(X), stepper(X, kind), joiner(kind), folder(kind)
    nothing = neutral(X, kind)
    rest = -math.inf if kind == "exp" else nothing
    nans = is_float(X) and kind in ("max", "min")
    shifted = kind == "spread"

    def partial(p, n, shift):  # type: ignore[no-untyped-def]
        s = splat(X(shift))
        a0 = splat(X(nothing))
        a1, a2, a3 = a0, a0, a0
        bad = splat(X(0))
        end = p + n * size
        q = p
        while q + 4 * BYTES <= end:
            x0, x1, x2, x3 = vload(q, X), vload(q + BYTES, X), vload(q + 2 * BYTES, X), vload(q + 3 * BYTES, X)
            a0 = step(a0, x0, s)
            a1 = step(a1, x1, s)
            a2 = step(a2, x2, s)
            a3 = step(a3, x3, s)
            if nans:
                bad = vnan(vnan(bad, x0, x1), x2, x3)
            q += 4 * BYTES
        while q + BYTES <= end:
            x0 = vload(q, X)
            a0 = step(a0, x0, s)
            if nans:
                bad = vnan(bad, x0, x0)
            q += BYTES
        if q < end:
            x0 = vload_n(q, (end - q) // size, s if shifted else splat(X(rest)))
            a1 = step(a1, x0, s)
            if nans:
                bad = vnan(bad, x0, x0)
        value = A(fold(both(both(a0, a1), both(a2, a3))))
        if nans:
            flag = A(vsum(bad))
            return value if flag == flag else flag
        return value

    return inline(partial)


def lane_partial(X: Any, kind: str) -> Callable[..., Any]:
    """(address, row stride, rows, cols, acc, shift): joins the value of each column to acc[column], of the wide type; shift: the columns' own."""
    size = X.bitwidth // 8
    A, step, joined = wide(X), stepper(X, kind), join(kind)
    nothing, lanes = neutral(X, kind), BYTES // size
    rest = -math.inf if kind == "exp" else nothing
    nans = is_float(X) and kind in ("max", "min")
    shifted = kind in ("exp", "spread")

    def partial(p, stride, rows, cols, acc, shift):  # type: ignore[no-untyped-def]
        held = stack(256)
        t, total = at(held, X), at(acc, A)
        c = 0
        zero = splat(X(0))
        while c + 4 * lanes <= cols:
            s0, s1, s2, s3 = zero, zero, zero, zero
            if shifted:
                s = shift + c * size
                s0, s1, s2, s3 = vload(s, X), vload(s + BYTES, X), vload(s + 2 * BYTES, X), vload(s + 3 * BYTES, X)
            a0 = splat(X(nothing))
            a1, a2, a3 = a0, a0, a0
            b0, b1, b2, b3 = zero, zero, zero, zero
            q = p + c * size
            for _ in range(rows):
                x0, x1, x2, x3 = vload(q, X), vload(q + BYTES, X), vload(q + 2 * BYTES, X), vload(q + 3 * BYTES, X)
                a0 = step(a0, x0, s0)
                a1 = step(a1, x1, s1)
                a2 = step(a2, x2, s2)
                a3 = step(a3, x3, s3)
                if nans:
                    b0, b1, b2, b3 = vnan(b0, x0, x0), vnan(b1, x1, x1), vnan(b2, x2, x2), vnan(b3, x3, x3)
                q += stride
            if nans:
                a0, a1, a2, a3 = vadd(a0, b0), vadd(a1, b1), vadd(a2, b2), vadd(a3, b3)
            vstore(held, a0)
            vstore(held + BYTES, a1)
            vstore(held + 2 * BYTES, a2)
            vstore(held + 3 * BYTES, a3)
            for i in range(4 * lanes):
                total[c + i] = joined(total[c + i], A(t[i]))
            c += 4 * lanes
        while c < cols:
            n = min(lanes, cols - c)
            s0 = vload_n(shift + c * size, n, zero) if shifted else zero
            a0, b0 = splat(X(nothing)), zero
            q = p + c * size
            other = splat(X(rest))
            for _ in range(rows):
                x0 = vload_n(q, n, other)
                a0 = step(a0, x0, s0)
                if nans:
                    b0 = vnan(b0, x0, x0)
                q += stride
            if nans:
                a0 = vadd(a0, b0)
            vstore(held, a0)
            for i in range(n):
                total[c + i] = joined(total[c + i], A(t[i]))
            c += lanes
        return 0

    return inline(partial)


__all__ = ["D", "F", "L", "U", "is_float", "join", "lane_partial", "neutral", "row_partial", "wide"]
