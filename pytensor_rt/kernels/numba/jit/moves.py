"""Moves by a list of offsets: y[position] = x[position + offset], and the check that makes the list from indices.

Words of `points` and `runs`: 0 x, 1 y, 2 offsets (int64, in bytes), 3 the nest of (x, y, offsets), 4 positions, 5 positions of a unit, 6 bytes of a run,
7 whether nothing has to be done where x is y. A unit is a stretch of flat positions of the nest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int64 as L
from numba import uint64 as U

from .intrinsics import at, invoke, stack
from .nest import copy_bytes, mover, walker
from .status import fail

INDEX = 1  # of ../../messages.py
seek1, stretch1, carry1 = walker(1)
seek2, stretch2, carry2 = walker(2)
seek3, stretch3, carry3 = walker(3)


def points(E: int) -> Callable[..., int]:
    """Every position is E bytes."""
    move = mover(E)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        if w[7] != 0 and w[0] == w[1]:
            return 0
        p, s = at(w[3], L), at(stack(1024), L)
        x, y, offsets = w[0], w[1], w[2]
        a = 1 + (p[0] - 1) * 4
        sx, sy, so = p[a + 1], p[a + 2], p[a + 3]
        pos, last = begin * w[5], min(end * w[5], w[4])
        seek3(p, s, pos)
        while pos < last:
            m = stretch3(p, s, last - pos)
            px, py = x + s[0], y + s[1]
            if so == 0:
                px += at(offsets + s[2], L)[0]
                for j in range(m):
                    move(py + j * sy, px + j * sx)
            else:
                po = offsets + s[2]
                for j in range(m):
                    move(py + j * sy, px + j * sx + at(po + j * so, L)[0])
            pos += m
            if pos < last:
                carry3(p, s)
        return 0

    return kernel


def runs() -> Callable[..., int]:
    """Every position is a run of w[6] bytes."""

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        if w[7] != 0 and w[0] == w[1]:
            return 0
        p, s = at(w[3], L), at(stack(1024), L)
        x, y, offsets, nbytes = w[0], w[1], w[2], w[6]
        a = 1 + (p[0] - 1) * 4
        sx, sy, so = p[a + 1], p[a + 2], p[a + 3]
        pos, last = begin * w[5], min(end * w[5], w[4])
        seek3(p, s, pos)
        while pos < last:
            m = stretch3(p, s, last - pos)
            px, py, po = x + s[0], y + s[1], offsets + s[2]
            for j in range(m):
                copy_bytes(py + j * sy, px + j * sx + at(po + j * so, L)[0], nbytes)
            pos += m
            if pos < last:
                carry3(p, s)
        return 0

    return kernel


def tiles(E: int) -> Callable[..., int]:
    """Gathers tiles of E-byte elements into scratch and takes them through the epilogue to the output.

    Words: 0 x, 1 offsets, 2 the nest of (x, offsets) over the output's elements in row-major order, 3 the epilogue's program over rows and columns, 4 box.run,
    5 rows, 6 columns, 7 rows of a tile, 8 columns of a tile (all of them, or 7 is 1), 9 scratch, 10 bytes of a slot. A unit is a tile.
    """
    move = mover(E)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        p, s = at(w[2], L), at(stack(1024), L)
        x, offsets, C, tall, wide = w[0], w[1], w[6], w[7], w[8]
        a = 1 + (p[0] - 1) * 3
        sx, so = p[a + 1], p[a + 2]
        across = (C + wide - 1) // wide
        tile = w[9] + slot * w[10]
        for unit in range(begin, end):
            i = unit // across
            r0, c0 = i * tall, (unit - i * across) * wide
            r1, c1 = min(w[5], r0 + tall), min(C, c0 + wide)
            pos = r0 * C + c0
            last = pos + (r1 - r0) * (c1 - c0)
            to = tile
            seek2(p, s, pos)
            while pos < last:
                m = stretch2(p, s, last - pos)
                px, po = x + s[0], offsets + s[1]
                if so == 0:
                    px += at(po, L)[0]
                    if sx == E:
                        copy_bytes(to, px, m * E)
                    else:
                        for j in range(m):
                            move(to + j * E, px + j * sx)
                else:
                    for j in range(m):
                        move(to + j * E, px + j * sx + at(po + j * so, L)[0])
                to += m * E
                pos += m
                if pos < last:
                    carry2(p, s)
            invoke(w[4], (w[3], r0, r1, c0, c1, tile, (c1 - c0) * E, 0, 0))
        return 0

    return kernel


def each(E: int, I: Any) -> Callable[..., int]:
    """One E-byte element per index, checked on the way.

    Words: 0 x, 1 indices, 2 y, 3 the nest of (x, indices, y), 4 positions, 5 positions of a unit, 6 size of the axis, 7 its step in bytes, 8 `scan` (which
    reports the first index out of range), 9 its words.
    """
    move = mover(E)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        p, s = at(w[3], L), at(stack(1024), L)
        x, index, y, n, step = w[0], w[1], w[2], w[6], w[7]
        a = 1 + (p[0] - 1) * 4
        sx, si, sy = p[a + 1], p[a + 2], p[a + 3]
        pos, last = begin * w[5], min(end * w[5], w[4])
        seek3(p, s, pos)
        while pos < last:
            m = stretch3(p, s, last - pos)
            px, pi, py = x + s[0], index + s[1], y + s[2]
            for j in range(m):
                v = L(at(pi + j * si, I)[0])
                v = v + n if v < 0 else v
                if U(v) >= U(n):
                    return invoke(w[8], (w[9], 0, 1, 0))
                move(py + j * sy, px + j * sx + v * step)
            pos += m
            if pos < last:
                carry3(p, s)
        return 0

    return kernel


def scan(I: Any) -> Callable[..., int]:
    """Check index tuples in row-major order, and list their offsets.

    Words: 0 status, 1 indices, 2 the nest of the tuples, 3 tuples, 4 the list to write (int64), or 0, 5 components of a tuple, 6 the stride between them in
    bytes, then axis, size and step of every component. Of one unit.
    """
    size = I.bitwidth // 8

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        p, s = at(w[2], L), at(stack(1024), L)
        index, count, to, parts, between = w[1], w[3], w[4], w[5], w[6]
        si = p[1 + (p[0] - 1) * 2 + 1]
        n, step = w[8], w[9]
        pos = L(0)
        seek1(p, s, pos)
        while pos < count:
            m = stretch1(p, s, count - pos)
            pi = index + s[0]
            out = at(to + 8 * pos, L)
            bad = L(0)
            if parts == 1 and si == size:
                q = at(pi, I)
                if to != 0:
                    for j in range(m):
                        v = L(q[j])
                        v = v + n if v < 0 else v
                        bad |= L((v < 0) | (v >= n))
                        out[j] = v * step
                else:
                    for j in range(m):
                        v = L(q[j])
                        bad |= L((v < -n) | (v >= n))
            else:
                for j in range(m):
                    off = L(0)
                    for k in range(parts):
                        v = L(at(pi + j * si + k * between, I)[0])
                        v = v + w[8 + 3 * k] if v < 0 else v
                        bad |= L((v < 0) | (v >= w[8 + 3 * k]))
                        off += v * w[9 + 3 * k]
                    if to != 0:
                        out[j] = off
            if bad != 0:
                for j in range(m):
                    for k in range(parts):
                        v = L(at(pi + j * si + k * between, I)[0])
                        if v < -w[8 + 3 * k] or v >= w[8 + 3 * k]:
                            return fail(w[0], INDEX, w[7 + 3 * k], v, pos + j)
            pos += m
            if pos < count:
                carry1(p, s)
        return 0

    return kernel
