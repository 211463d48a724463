"""Kernel `scatter`: places of updates are found in order and handed on, a batch at a time, to the functions of scatter_ops.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int64 as L
from numba import uint64 as U

from .intrinsics import at, inline, invoke, stack
from .nest import walker

seek1, stretch1, carry1 = walker(1)
seek2, stretch2, carry2 = walker(2)
seek3, stretch3, carry3 = walker(3)


def elements(I: Any) -> Callable[..., int]:
    """Updates along one axis, lane by lane.

    Words: 0 y, 1 indices, 2 updates, 3 the nest of the lanes over (y, indices, updates), 4 lanes, 5 lanes of a unit, 6 updates of a lane, 7 and 8 the steps
    of indices and updates along a lane, 9 size of y's axis, 10 its step, 11 scatter_ops.points, 12 moves.scan (which reports the first index out of range),
    13 its words, 14 whether lanes are the inner loop. All steps in bytes.
    """
    size = I.bitwidth // 8

    @inline
    def batches(w: Any, targets: Any, count: Any, pi: Any, di: Any, ty: Any, dy: Any, pu: Any, du: Any) -> Any:
        """Updates to places ty + j * dy + index * step, in order; 1 if an index is out of range."""
        n, step, to = w[9], w[10], at(targets, L)
        j = L(0)
        while j < count:
            m = min(L(256), count - j)
            bad = L(0)
            if di == size:
                q = at(pi + j * size, I)
                for k in range(m):
                    v = L(q[k])
                    v = v + n if v < 0 else v
                    bad |= L(U(v) >= U(n))
                    to[k] = ty + (j + k) * dy + v * step
            else:
                for k in range(m):
                    v = L(at(pi + (j + k) * di, I)[0])
                    v = v + n if v < 0 else v
                    bad |= L(U(v) >= U(n))
                    to[k] = ty + (j + k) * dy + v * step
            if bad != 0:
                return 1
            invoke(w[11], (w[0], targets, pu + j * du, du, m))
            j += m
        return 0

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        p, s, targets = at(w[3], L), at(stack(1024), L), stack(2048)
        a = 1 + (p[0] - 1) * 4
        sy, si, su = p[a + 1], p[a + 2], p[a + 3]
        along, di, du = w[6], w[7], w[8]
        pos, last = begin * w[5], min(end * w[5], w[4])
        seek3(p, s, pos)
        while pos < last:
            m = stretch3(p, s, last - pos)
            ty, pi, pu = s[0], w[1] + s[1], w[2] + s[2]
            inner = w[14] != 0
            for k in range(along if inner else m):
                if inner:
                    bad = batches(w, targets, m, pi + k * di, si, ty, sy, pu + k * du, su)
                else:
                    bad = batches(w, targets, along, pi + k * si, di, ty + k * sy, L(0), pu + k * su, du)
                if bad != 0:
                    return invoke(w[12], (w[13], 0, 1, 0))
            pos += m
            if pos < last:
                carry3(p, s)
        return 0

    return kernel


def places() -> Callable[..., int]:
    """One element per update, at listed places.

    Words: 0 y, 1 updates, 2 the list (int64, in bytes), 3 the nest of the updates, 4 updates, 5 scatter_ops.points. Of one unit.
    """

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        p, s = at(w[3], L), at(stack(1024), L)
        su = p[1 + (p[0] - 1) * 2 + 1]
        pos, last = L(0), w[4]
        seek1(p, s, pos)
        while pos < last:
            m = stretch1(p, s, last - pos)
            invoke(w[5], (w[0], w[2] + 8 * pos, w[1] + s[0], su, m))
            pos += m
            if pos < last:
                carry1(p, s)
        return 0

    return kernel


def blocks() -> Callable[..., int]:
    """A block per update, at listed places. A unit is a stretch of the block's elements, in all updates.

    Words: 0 y, 1 updates, 2 the list (int64, in bytes), 3 the nest of the updates, 4 updates, 5 the nest of a block over (y, updates), 6 its elements,
    7 elements of a unit, 8 scatter_ops.run.
    """

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        p, s, q, t = at(w[3], L), at(stack(1024), L), at(w[5], L), at(stack(1024), L)
        offsets = at(w[2], L)
        su = p[1 + (p[0] - 1) * 2 + 1]
        a = 1 + (q[0] - 1) * 3
        by, bu = q[a + 1], q[a + 2]
        one = q[0] == 1
        b0, b1 = begin * w[7], min(end * w[7], w[6])
        pos, last = L(0), w[4]
        seek1(p, s, pos)
        while pos < last:
            m = stretch1(p, s, last - pos)
            for j in range(m):
                y, u = w[0] + offsets[pos + j], w[1] + s[0] + j * su
                if one:
                    invoke(w[8], (y + b0 * by, by, u + b0 * bu, bu, b1 - b0))
                else:
                    at_block = b0
                    seek2(q, t, at_block)
                    while at_block < b1:
                        n = stretch2(q, t, b1 - at_block)
                        invoke(w[8], (y + t[0], by, u + t[1], bu, n))
                        at_block += n
                        if at_block < b1:
                            carry2(q, t)
            pos += m
            if pos < last:
                carry1(p, s)
        return 0

    return kernel
