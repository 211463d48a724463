"""Kernel `topk`: keys below the worst one kept so far (keys ascend from the best) go to a sorted list, or to a buffer that is cut back when full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int64 as L

from .intrinsics import at, inline, invoke, stack
from .nest import move_item, walker
from .sort import selector, sorter

BLOCK, PART = 512, 64
SHORT = 16  # most of the k that are kept sorted
seek3, stretch3, carry3 = walker(3)


def lanes(K: Any) -> Callable[..., int]:
    """The k best of every lane; keys are of type K (uint32 or uint64), and so are positions.

    Words: 0 x, 1 values, 2 indices, 3 the nest of the lanes over them, 4 lanes, 5 lanes of a unit, 6 n, 7 k, 8, 9 and 10 the steps along a lane, 11 bytes of an
    element, 12 keys.load, 13 whether the largest are wanted, 14 bytes of a key, 15 scratch, 16 bytes of a slot, 17 room: elements of the buffer.
    """
    size = K.bitwidth // 8
    sort, select = sorter(K), selector(K)

    @inline
    def any_below(keys: Any, n: Any, bar: Any) -> Any:
        x = at(keys, K)
        found = K(0)
        for i in range(n):
            found |= K(x[i] < bar)
        return found != K(0)

    @inline
    def few(w: Any, x: Any, keys: Any, index: Any, buffer: Any) -> None:
        """For a small k: insertion into a sorted list."""
        n, k, sx = w[6], w[7], w[8]
        best, position, block = at(keys, K), at(index, K), at(buffer, K)
        have, j = L(0), L(0)
        while j < n:
            m = min(L(BLOCK), n - j)
            invoke(w[12], (x + j * sx, sx, m, buffer, w[13]))
            first = L(0)
            while first < m:
                part = min(L(PART), m - first)
                if have == k and not any_below(buffer + first * size, part, best[k - 1]):
                    first += part
                    continue
                for i in range(first, first + part):
                    v = block[i]
                    if have == k:
                        if v >= best[k - 1]:
                            continue
                        r = k - 1
                    else:
                        r = have
                        have += 1
                    while r > 0 and best[r - 1] > v:
                        best[r], position[r] = best[r - 1], position[r - 1]
                        r -= 1
                    best[r], position[r] = v, K(j + i)
                first += part
            j += m

    @inline
    def many(w: Any, x: Any, keys: Any, index: Any, buffer: Any, room: Any) -> Any:
        """For any k; where the sorted pairs are."""
        n, k, sx, nbytes = w[6], w[7], w[8], w[14]
        best, position, block = at(keys, K), at(index, K), at(buffer, K)
        invoke(w[12], (x, sx, room, keys, w[13]))
        for i in range(room):
            position[i] = K(i)
        have, j, bar = room, room, K(0)
        if j < n:
            bar = select(keys, index, have, k, nbytes)
            have = k
        while j < n:
            m = min(L(BLOCK), n - j)
            invoke(w[12], (x + j * sx, sx, m, buffer, w[13]))
            first = L(0)
            while first < m:
                part = min(L(PART), m - first)
                if any_below(buffer + first * size, part, bar):
                    if have + part > room:
                        bar = select(keys, index, have, k, nbytes)
                        have = k
                    for i in range(first, first + part):
                        best[have], position[have] = block[i], K(j + i)
                        have += L(block[i] < bar)
                first += part
            j += m
        if have > k:
            select(keys, index, have, k, nbytes)
        return sort(keys, index, keys + room * size, index + room * size, k, nbytes)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        p, s, buffer = at(w[3], L), at(stack(1024), L), stack(4096)
        a = 1 + (p[0] - 1) * 4
        dx, dv, di = p[a + 1], p[a + 2], p[a + 3]
        k, sx, sv, si, item, room = w[7], w[8], w[9], w[10], w[11], w[17]
        keys = w[15] + slot * w[16]
        index = keys + 2 * room * size
        pos, last = begin * w[5], min(end * w[5], w[4])
        seek3(p, s, pos)
        while pos < last:
            m = stretch3(p, s, last - pos)
            for j in range(m):
                x, v, o = w[0] + s[0] + j * dx, w[1] + s[1] + j * dv, w[2] + s[2] + j * di
                here = index
                if k <= SHORT:
                    few(w, x, keys, index, buffer)
                elif many(w, x, keys, index, buffer, room) != 0:
                    here = index + room * size
                position = at(here, K)
                for r in range(k):
                    i = L(position[r])
                    move_item(v + r * sv, x + i * sx, item)
                    at(o + r * si, L)[0] = i
            pos += m
            if pos < last:
                carry3(p, s)
        return 0

    return kernel
