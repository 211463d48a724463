"""Kernels `nonzero` and `compress`: elements are counted, then their positions listed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int64 as L
from numba import types
from numba import uint64 as U

from .intrinsics import at, inline, stack
from .nest import walker
from .status import fail

COUNT = 5  # of ../../messages.py
TILE = 512
seek1, stretch1, carry1 = walker(1)


def _tester(E: int) -> tuple[Any, Callable[..., Any]]:
    """(type, test(address, mask) -> 0 or 1) of elements of E bytes: is any bit under the mask set?"""
    if E == 16:
        return types.uint64, inline(lambda p, mask: L(((at(p, types.uint64)[0] | at(p, types.uint64)[1]) & mask) != U(0)))
    T = {1: types.uint8, 2: types.uint16, 4: types.uint32, 8: types.uint64}[E]
    return T, inline(lambda p, mask: L(T(at(p, T)[0] & mask) != T(0)))


def count(E: int) -> Callable[..., int]:
    """Count the elements that are not zero, chunk by chunk.

    Words: 0 x, 1 its nest, 2 elements, 3 elements of a chunk, 4 mask, 5 counts (int64 per chunk). A unit is a chunk.
    """
    T, test = _tester(E)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        p, s, counts, mask = at(w[1], L), at(stack(1024), L), at(w[5], L), T(w[4])
        sx = p[1 + (p[0] - 1) * 2 + 1]
        for unit in range(begin, end):
            pos, last = unit * w[3], min((unit + 1) * w[3], w[2])
            n = L(0)
            seek1(p, s, pos)
            while pos < last:
                m = stretch1(p, s, last - pos)
                x = w[0] + s[0]
                if sx == E:
                    for j in range(m):
                        n += test(x + j * E, mask)
                else:
                    for j in range(m):
                        n += test(x + j * sx, mask)
                pos += m
                if pos < last:
                    carry1(p, s)
            counts[unit] = n
        return 0

    return kernel


def starts() -> Callable[..., int]:
    """Turn counts into where every chunk's elements go, one more than there are chunks. Words: 0 status, 1 counts, 2 chunks, 3 elements there must be."""

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        counts = at(w[1], L)
        total = L(0)
        for i in range(w[2]):
            n = counts[i]
            counts[i] = total
            total += n
        counts[w[2]] = total
        if total != w[3]:
            return fail(w[0], COUNT, 0, total, 0)
        return 0

    return kernel


def write(E: int) -> Callable[..., int]:
    """Write the coordinates of the elements that are not zero.

    Words: 0 x, 1 its nest, 2 elements, 3 elements of a chunk, 4 mask, 5 starts, 6 y, 7 and 8 its steps in bytes, 9 rank, then x's shape. A unit is a chunk.
    """
    T, test = _tester(E)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        p, s, starts, mask = at(w[1], L), at(stack(1024), L), at(w[5], L), T(w[4])
        found, c = at(stack(4096), L), at(stack(1024), L)
        sx = p[1 + (p[0] - 1) * 2 + 1]
        across, along, rank = w[7], w[8], w[9]
        inner = w[9 + rank]
        for unit in range(begin, end):
            if starts[unit + 1] == starts[unit]:
                continue
            pos, last = unit * w[3], min((unit + 1) * w[3], w[2])
            y = w[6] + starts[unit] * along
            row = -inner - 1  # where the row of x that c is in begins; none yet
            seek1(p, s, pos)
            while pos < last:
                m = stretch1(p, s, last - pos)
                first = L(0)
                while first < m:
                    k = min(L(TILE), m - first)
                    x, here = w[0] + s[0] + first * sx, pos + first
                    n = L(0)
                    for j in range(k):
                        found[n] = here + j
                        n += test(x + j * sx, mask)
                    first += k
                    if rank == 1:
                        for j in range(n):
                            at(y + j * along, L)[0] = found[j]
                        y += n * along
                        continue
                    j = L(0)
                    while j < n:  # row by row
                        flat = found[j]
                        if flat - row >= inner:
                            if flat - row < 2 * inner and row >= 0:
                                row += inner
                                a = rank - 2
                                c[a] += 1
                                while a > 0 and c[a] == w[10 + a]:
                                    c[a] = 0
                                    a -= 1
                                    c[a] += 1
                            else:
                                rest = flat // inner
                                row = rest * inner
                                for a in range(rank - 2, -1, -1):
                                    q = rest // w[10 + a]
                                    c[a] = rest - q * w[10 + a]
                                    rest = q
                        same = L(0)
                        y_last = y + (rank - 1) * across
                        while j < n and found[j] - row < inner:
                            at(y_last + same * along, L)[0] = found[j] - row
                            same += 1
                            j += 1
                        for a in range(rank - 1):
                            y_a, v = y + a * across, c[a]
                            for i in range(same):
                                at(y_a + i * along, L)[0] = v
                        y += same * along
                pos += m
                if pos < last:
                    carry1(p, s)
        return 0

    return kernel


def selected() -> Callable[..., int]:
    """List the positions where a condition is true, times a step.

    Words: 0 status, 1 condition, 2 its stride in bytes, 3 its length, 4 the list (int64, one more than it needs), 5 step, 6 how many there must be. One unit.
    """

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        step, room, stride, to = w[5], w[6], w[2], at(w[4], L)
        n = L(0)
        for i in range(w[3]):
            to[min(n, room)] = i * step
            n += L(at(w[1] + i * stride, types.uint8)[0] != 0)
        if n != room:
            return fail(w[0], COUNT, 0, n, 0)
        return 0

    return kernel
