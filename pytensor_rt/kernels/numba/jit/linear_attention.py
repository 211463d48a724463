"""Kernel `linear_attention`: a unit is a state head and a block of its columns, which lie in the slot's scratch for all steps.

Words: one for each of the operands q k v state decay beta y present, where they lie (OPERANDS on), their dtypes as indices into DTYPES, -1 if absent (CODES
on), and five strides in bytes (STRIDES on); then what SIZES names. Dtypes are looked up in each row, so that one function serves all that compute in
one type.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba import float64

from .floats import reader, writer
from .intrinsics import at, bits_f64, inline

DTYPES = ("float32", "float16", "bfloat16", "float64")
OPERANDS, CODES, STRIDES, SIZES = 0, 8, 16, 56
Q, K, V, STATE, DECAY, BETA, Y, PRESENT = range(8)
# State heads, steps, D, E, slots of present; state heads of a key head, outputs of a state head, outputs of a query head; is there a delta rule;
# scale; scratch, bytes of a slot; blocks of columns, columns of a block.
N, T, D, E, W, PER_KEY, PER_STATE, PER_QUERY, DELTA, SCALE, SCRATCH, STEP, BLOCKS, COLUMNS = range(SIZES, SIZES + 14)


@inline
def place(w: Any, operand: Any, first: Any, second: Any, third: Any) -> Any:
    """The address of an operand's element at three coordinates."""
    s = STRIDES + 5 * operand
    return w[operand] + first * w[s] + second * w[s + 1] + third * w[s + 2]


def _rows(X: Any) -> tuple[Any, Any]:
    """bring(memory, code, stride, n, row), put(row, n, memory, code, stride): a row of elements to and from dense ones of type X."""
    (A, a), (B, b), (C, c), (D, d) = (reader(name) for name in DTYPES)
    (_, pa), (_, pb), (_, pc), (_, pd) = (writer(name) for name in DTYPES)

    @inline
    def bring(memory, code, stride, n, row):  # type: ignore[no-untyped-def]
        to = at(row, X)
        if code == 0:
            for i in range(n):
                to[i] = X(a(at(memory + i * stride, A)[0]))
        elif code == 1:
            for i in range(n):
                to[i] = X(b(at(memory + i * stride, B)[0]))
        elif code == 2:
            for i in range(n):
                to[i] = X(c(at(memory + i * stride, C)[0]))
        else:
            for i in range(n):
                to[i] = X(d(at(memory + i * stride, D)[0]))

    @inline
    def put(row, n, memory, code, stride):  # type: ignore[no-untyped-def]
        x = at(row, X)
        if code == 0:
            for i in range(n):
                at(memory + i * stride, A)[0] = pa(float64(x[i]))
        elif code == 1:
            for i in range(n):
                at(memory + i * stride, B)[0] = pb(float64(x[i]))
        elif code == 2:
            for i in range(n):
                at(memory + i * stride, C)[0] = pc(float64(x[i]))
        else:
            for i in range(n):
                at(memory + i * stride, D)[0] = pd(float64(x[i]))

    return bring, put


def columns(X: Any) -> Callable[..., int]:
    """The recurrence in X, float32 or float64."""
    size = X.bitwidth // 8
    bring, put = _rows(X)

    @inline
    def keep(w, s, pitch, slot, b, n, first, count):  # type: ignore[no-untyped-def]
        """Rows of `count` columns, `pitch` bytes apart, go to a slot of present."""
        memory = place(w, PRESENT, slot, b, n) + first * w[STRIDES + 5 * PRESENT + 4]
        for d in range(w[D]):
            put(s + d * pitch, count, memory + d * w[STRIDES + 5 * PRESENT + 3], w[CODES + PRESENT], w[STRIDES + 5 * PRESENT + 4])

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        steps, depth, width = w[T], w[D], size * w[COLUMNS]
        s = w[SCRATCH] + slot * w[STEP]
        k, q = s + width * depth, s + (width + size) * depth
        g, u = s + (width + 2 * size) * depth, s + (width + 3 * size) * depth
        y, v = u + width, u + 2 * width
        kx, qx, gx, ux, yx, vx = at(k, X), at(q, X), at(g, X), at(u, X), at(y, X), at(v, X)
        for unit in range(begin, end):
            block, head = unit % w[BLOCKS], unit // w[BLOCKS]
            b, n, first = head // w[N], head % w[N], block * w[COLUMNS]
            count = min(w[COLUMNS], w[E] - first)
            for j in range(count):
                ux[j] = X(0.0)
            if w[CODES + PRESENT] >= 0:
                for empty in range(w[W] - max(steps, 1)):
                    keep(w, u, 0, empty, b, n, first, count)
            for d in range(depth):
                if w[CODES + STATE] >= 0:
                    last = w[STRIDES + 5 * STATE + 3]
                    bring(place(w, STATE, b, n, d) + first * last, w[CODES + STATE], last, count, s + d * width)
                else:
                    row = at(s + d * width, X)
                    for j in range(count):
                        row[j] = X(0.0)
            for t in range(steps):
                bring(place(w, K, b, n // w[PER_KEY], t), w[CODES + K], w[STRIDES + 5 * K + 3], depth, k)
                bring(place(w, V, b, n, t) + first * w[STRIDES + 5 * V + 3], w[CODES + V], w[STRIDES + 5 * V + 3], count, v)
                yx[0] = X(1.0)
                if w[CODES + BETA] >= 0:
                    bring(place(w, BETA, b, n, t), w[CODES + BETA], 0, 1, y)
                beta = yx[0]
                if w[CODES + DECAY] >= 0:
                    stride = w[STRIDES + 5 * DECAY + 3]
                    different = depth if stride != 0 else min(depth, 1)
                    bring(place(w, DECAY, b, n, t), w[CODES + DECAY], stride, different, g)
                    for d in range(different):
                        gx[d] = X(math.exp(float64(gx[d])))
                    for d in range(different, depth):
                        gx[d] = gx[0]
                else:
                    for d in range(depth):
                        gx[d] = X(1.0)
                for j in range(count):
                    ux[j] = X(0.0)
                for d in range(depth):  # the decay, and what the state holds under the key
                    row, factor, key = at(s + d * width, X), gx[d], kx[d]
                    for j in range(count):
                        row[j] = row[j] * factor
                        ux[j] += row[j] * key
                for j in range(count):
                    ux[j] = beta * (vx[j] - ux[j]) if w[DELTA] else beta * vx[j]
                for d in range(depth):
                    row, key = at(s + d * width, X), kx[d]
                    for j in range(count):
                        row[j] += key * ux[j]
                for m in range(n * w[PER_STATE], (n + 1) * w[PER_STATE]):
                    bring(place(w, Q, b, m // w[PER_QUERY], t), w[CODES + Q], w[STRIDES + 5 * Q + 3], depth, q)
                    for j in range(count):
                        yx[j] = X(0.0)
                    for d in range(depth):
                        row, query = at(s + d * width, X), qx[d]
                        for j in range(count):
                            yx[j] += query * row[j]
                    for j in range(count):
                        yx[j] *= X(bits_f64(w[SCALE]))
                    last = w[STRIDES + 5 * Y + 3]
                    put(y, count, place(w, Y, b, m, t) + first * last, w[CODES + Y], last)
                if w[CODES + PRESENT] >= 0 and steps - t <= w[W]:
                    keep(w, s, width, w[W] - (steps - t), b, n, first, count)
            if w[CODES + PRESENT] >= 0 and steps == 0:
                keep(w, s, width, w[W] - 1, b, n, first, count)
        return 0

    return kernel
