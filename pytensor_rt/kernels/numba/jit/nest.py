"""Loop nests over several operands at once, and moves of raw bytes: what the kernels that move data by index share.

A nest of K operands is words [axes, (size, K strides in bytes) per axis], slowest axis first, at least one axis (see ../plans/moves.py). A walk over the flat
positions [begin, end) keeps its state in memory of the kernel's own, 1024 bytes: K offsets in bytes, then a counter per axis.

    seek(p, s, begin)
    pos = begin
    while pos < end:
        m = stretch(p, s, end - pos)        # positions along the last axis, from the offsets s[0], ..., s[K - 1]
        ...
        pos += m
        if pos < end:
            carry(p, s)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import int64 as L
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .intrinsics import at, inline

RAW = {1: types.uint8, 2: types.uint16, 4: types.uint32, 8: types.int64}


def walker(K: int) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """(seek, stretch, carry) for nests of K operands. All take the nest's words and the state as pointers to int64."""

    @inline
    def seek(p: Any, s: Any, flat: Any) -> None:
        for k in range(K):
            s[k] = 0
        rest = flat
        for i in range(p[0] - 1, -1, -1):
            a = 1 + i * (K + 1)
            n = p[a]
            q = rest // n
            c = rest - q * n
            s[K + i] = c
            for k in range(K):
                s[k] += c * p[a + 1 + k]
            rest = q

    @inline
    def stretch(p: Any, s: Any, most: Any) -> Any:
        last = p[0] - 1
        return min(p[1 + last * (K + 1)] - s[K + last], most)

    @inline
    def carry(p: Any, s: Any) -> None:
        i = p[0] - 1
        a = 1 + i * (K + 1)
        for k in range(K):
            s[k] -= s[K + i] * p[a + 1 + k]
        s[K + i] = 0
        i -= 1
        while i >= 0:
            a = 1 + i * (K + 1)
            for k in range(K):
                s[k] += p[a + 1 + k]
            s[K + i] += 1
            if s[K + i] < p[a]:
                break
            for k in range(K):
                s[k] -= p[a] * p[a + 1 + k]
            s[K + i] = 0
            i -= 1

    return seek, stretch, carry


@intrinsic
def copy_bytes(typingctx: Any, to: Any, source: Any, n: Any) -> Any:
    """memcpy of n bytes between addresses."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.IntType(8).as_pointer()
        cgutils.raw_memcpy(builder, builder.inttoptr(args[0], kind), builder.inttoptr(args[1], kind), args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


def mover(E: int) -> Callable[..., Any]:
    """move(to, source): E bytes from address to address; E is 1, 2, 4, 8 or 16."""
    if E == 16:

        @inline
        def move_pair(to: Any, source: Any) -> None:
            x, y = at(source, L), at(to, L)
            a, b = x[0], x[1]
            y[0] = a
            y[1] = b

        return move_pair  # type: ignore[no-any-return]
    U = RAW[E]

    @inline
    def move(to: Any, source: Any) -> None:
        at(to, U)[0] = at(source, U)[0]

    return move  # type: ignore[no-any-return]


_move1, _move2, _move4, _move8, _move16 = (mover(e) for e in (1, 2, 4, 8, 16))


@inline
def move_item(to: Any, source: Any, item: Any) -> None:
    """One element of `item` bytes."""
    if item == 4:
        _move4(to, source)
    elif item == 8:
        _move8(to, source)
    elif item == 2:
        _move2(to, source)
    elif item == 1:
        _move1(to, source)
    else:
        _move16(to, source)
