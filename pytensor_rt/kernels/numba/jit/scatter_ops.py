"""What `scatter` does with an update: set, or reduce with what is there. Every reduction is rounded to its dtype at once; integers wrap.

Functions of places take (y, places, u, u's step, n): places are int64 offsets from y in bytes. Functions of runs take (y, y's step, u, u's step, n). Steps are
in bytes, updates are applied in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import float32 as F
from numba import int64 as L
from numba import types

from .intrinsics import at, inline
from .memory import bf16_bits, bf16_value, f16_bits, f16_value
from .nest import copy_bytes, mover
from .vm import to_bf16, to_f16

_NUMBERS = ("add", "mul", "max", "min")


def _function(dtype: str, op: str) -> tuple[Any, Callable[..., Any]]:
    """(type in memory, function of two such values)."""
    if dtype == "bool":
        of = inline(lambda a, b: a | b) if op in ("add", "max") else inline(lambda a, b: a & b)
        return types.uint8, of
    number = inline({
        "add": lambda a, b: a + b, "mul": lambda a, b: a * b, "max": lambda a, b: a if (a > b) | (a != a) else b,
        "min": lambda a, b: a if (a < b) | (a != a) else b,
    }[op])  # fmt: skip
    if dtype == "float16":
        return types.uint16, inline(lambda a, b: types.uint16(f16_bits(to_f16(F(number(f16_value(a), f16_value(b)))))))
    if dtype == "bfloat16":
        return types.uint16, inline(lambda a, b: types.uint16(bf16_bits(to_bf16(F(number(bf16_value(a), bf16_value(b)))))))
    T = getattr(types, dtype)
    return T, inline(lambda a, b: T(number(a, b)))


def points(dtype: str, op: str) -> Callable[..., int]:
    """y[place] = op(y[place], u)."""
    T, of = _function(dtype, op)

    def run(y, places, u, su, n):  # type: ignore[no-untyped-def]
        to = at(places, L)
        for j in range(n):
            target = at(y + to[j], T)
            target[0] = of(target[0], at(u + j * su, T)[0])
        return 0

    return run


def run(dtype: str, op: str) -> Callable[..., int]:
    """y = op(y, u)."""
    T, of = _function(dtype, op)
    size = T.bitwidth // 8

    def run(y, sy, u, su, n):  # type: ignore[no-untyped-def]
        if sy == size and su == size:
            a, b = at(y, T), at(u, T)
            for j in range(n):
                a[j] = of(a[j], b[j])
        else:
            for j in range(n):
                target = at(y + j * sy, T)
                target[0] = of(target[0], at(u + j * su, T)[0])
        return 0

    return run


def set_points(E: int) -> Callable[..., int]:
    """y[place] = u, elements of E bytes."""
    move = mover(E)

    def run(y, places, u, su, n):  # type: ignore[no-untyped-def]
        to = at(places, L)
        for j in range(n):
            move(y + to[j], u + j * su)
        return 0

    return run


def set_run(E: int) -> Callable[..., int]:
    """y = u, elements of E bytes."""
    move = mover(E)

    def run(y, sy, u, su, n):  # type: ignore[no-untyped-def]
        if sy == E and su == E:
            copy_bytes(y, u, n * E)
        else:
            for j in range(n):
                move(y + j * sy, u + j * su)
        return 0

    return run
