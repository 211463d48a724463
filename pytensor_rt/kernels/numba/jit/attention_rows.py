"""What both attention kernels do with rows: find them, mask them, and make weights of scores.

A row is a query of one head; the heads that share keys ("a group") have their queries as rows 0 .. share * S - 1, head by head.

Words of both kernels: those named below; an operand has 5: address, bytes from one batch element, head and row to the next, and the program that brings
rows of it (jit/box.py), or 0 where rows are read in place: elements of the type computed in, next to each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba import float32, int64

from .elementary import tanh32
from .intrinsics import at, bits_f64, inline, invoke
from .vector_math import vexp2, vmax_lanes
from .vectors import fma, lanes, splat, vadd, vload, vmax, vstore, vsum

RUN, H, G, SHARE, S, T, D, E, BLOCK, PARTS, PART, PART_EXTRA = range(12)
Q, K, V, MASK, Y = 12, 17, 22, 27, 32
LENGTHS, LENGTHS_STEP, CAUSAL, OFFSET = 37, 38, 39, 40
SCALE, SOFTCAP, RATE, EMPTY = 41, 42, 43, 44  # float64
PLAIN, HIDES, ONE_MASK, KEYS_ACROSS, VALUES_IN_PLACE = 45, 46, 47, 48, 49
SLOT, STEP = 50, 51
QUERIES, SCORES, KEYS, VALUES, ROWS_AT, MASK_AT, OUT, TOP, SUM = range(52, 61)  # bytes from the start of a slot
PRODUCT = 61  # gemm_tile.product


@inline
def place(w: Any, operand: Any, b: Any, head: Any, row: Any) -> Any:
    """The address of a row of an operand read in place."""
    return w[operand] + b * w[operand + 1] + head * w[operand + 2] + row * w[operand + 3]


@inline
def bring(w: Any, operand: Any, row: Any, count: Any, c0: Any, c1: Any, to: Any, pitch: Any) -> Any:
    """Columns [c0, c1) of rows of an operand that has a program; rows are numbered over batch, heads and rows."""
    invoke(w[RUN], (w[operand + 4], row, row + count, c0, c1, 0, 0, to, pitch))


@inline
def visible_keys(w: Any, b: Any) -> Any:
    """Keys [0, n) are visible to a batch element, at most."""
    n = w[T]
    if w[LENGTHS] != 0:
        n = max(0, min(n, at(w[LENGTHS] + b * w[LENGTHS_STEP], int64)[0]))
    return n


@inline
def visible_to(w: Any, row: Any, k0: Any, count: Any) -> Any:
    """How many of the keys [k0, k0 + count) a row sees."""
    n = count
    if w[CAUSAL] != 0:
        n = max(0, min(n, row % w[S] + w[OFFSET] + 1 - k0))
    return n


@inline
def last_query(w: Any, first: Any, last: Any) -> Any:
    """A row with the largest query number among rows [first, last]."""
    return last if first // w[S] == last // w[S] else w[S] - 1


def weights_of(X: Any) -> Callable[..., Any]:
    """(w, row of products, visible, end, row of the mask or 0, top, sum, i) -> factor: products become exp(score - largest score so far).

    Elements [visible, end) become 0; `end` is a multiple of the lanes. top[i] and sum[i] are the row's largest score and the sum of its exponentials so
    far, times RATE; what was summed with earlier weights must be multiplied by `factor`.
    """
    L, size = lanes(X), X.bitwidth // 8
    none = X(-math.inf)

    @inline
    def tanh_of(x: Any) -> Any:
        return tanh32(x) if X is float32 else math.tanh(x)

    @inline
    def exponentials32(address, end, rate, shift):  # type: ignore[no-untyped-def]
        total, scale, offset = splat(X(0.0)), splat(rate), splat(-shift)
        for j in range(0, end, L):
            e = vexp2(fma(vload(address + j * size, X), scale, offset))
            vstore(address + j * size, e)
            total = vadd(total, e)
        return vsum(total)

    @inline
    def exponentials64(address, end, rate, shift):  # type: ignore[no-untyped-def]
        x, total = at(address, X), X(0.0)
        for j in range(end):
            x[j] = math.exp(x[j] * rate - shift)
            total += x[j]
        return total

    exponentials = exponentials32 if X is float32 else exponentials64

    @inline
    def power32(x):  # type: ignore[no-untyped-def]
        return vmax_lanes(vexp2(splat(x)))

    @inline
    def power64(x):  # type: ignore[no-untyped-def]
        return math.exp(x)

    power = power32 if X is float32 else power64

    @inline
    def run(w, address, visible, end, mask, top, total, i):  # type: ignore[no-untyped-def]
        x = at(address, X)
        if w[PLAIN] == 0:
            scale, cap = X(bits_f64(w[SCALE])), X(bits_f64(w[SOFTCAP]))
            if cap > X(0.0):
                for j in range(visible):
                    x[j] = tanh_of(x[j] * scale / cap) * cap
            else:
                for j in range(visible):
                    x[j] = x[j] * scale
            if mask != 0:
                m, hides = at(mask, X), w[HIDES] != 0
                for j in range(visible):
                    v = x[j] + m[j]
                    x[j] = none if (m[j] == none) & hides else v
        for j in range(visible, end):
            x[j] = none
        best = splat(none)
        for j in range(0, end, L):
            best = vmax(vload(address + j * size, X), best)
        rate = X(bits_f64(w[RATE]))
        before = top[i]
        now = vmax_lanes(best) * rate
        now = now if now > before else before
        factor = X(1.0) if before == now else power(before - now)
        s = exponentials(address, end, rate, X(0.0) if now == none else now)
        total[i] = total[i] * factor + s
        top[i] = now
        return factor

    return run
