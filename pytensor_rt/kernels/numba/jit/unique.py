"""Kernel `unique`: positions sorted by key form one run per distinct value, whose head is its first occurrence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int64 as L

from .intrinsics import at, invoke
from .nest import move_item
from .sort import sorter


def run(K: Any) -> Callable[..., int]:
    """All of it; keys and positions are of type K (uint32 or uint64). Of one unit.

    Words: 0 x, 1 y, 2 first, 3 inverse, 4 counts, 5 n, 6 to 10 the steps in bytes of the first five, 11 elements, 12 bytes of an element, 13 keys.load, 14 bytes
    of a key, 15 scratch for four arrays of K, 16 whether to sort.
    """
    size = K.bitwidth // 8
    sort = sorter(K)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        x, y, first, inverse, counts = w[0], w[1], w[2], w[3], w[4]
        sx, sy, sf, si, sc = w[6], w[7], w[8], w[9], w[10]
        n, item = w[11], w[12]
        keys, index = w[15], w[15] + n * size
        keys2, index2 = w[15] + 2 * n * size, w[15] + 3 * n * size
        invoke(w[13], (x, sx, n, keys, 0))
        position = at(index, K)
        for i in range(n):
            position[i] = K(i)
        if sort(keys, index, keys2, index2, n, w[14]) != 0:
            keys, index, keys2, index2 = keys2, index2, keys, index
        ka, ia, head, length = at(keys, K), at(index, K), at(keys2, K), at(index2, K)
        m = L(0)
        i = L(0)
        if w[16] != 0:
            while i < n:
                k, start, f = ka[i], i, L(ia[i])
                while i < n and ka[i] == k:
                    at(inverse + L(ia[i]) * si, L)[0] = m
                    i += 1
                at(first + m * sf, L)[0] = f
                at(counts + m * sc, L)[0] = i - start
                move_item(y + m * sy, x + f * sx, item)
                m += 1
        else:
            while i < n:
                k, start, f = ka[i], i, ia[i]
                while i < n and ka[i] == k:
                    head[L(ia[i])] = f
                    i += 1
                length[L(f)] = K(i - start)
            number = ia  # of the run whose head is at a position
            for i in range(n):
                f = L(head[i])
                if f == i:
                    number[i] = K(m)
                    at(first + m * sf, L)[0] = i
                    at(counts + m * sc, L)[0] = L(length[i])
                    move_item(y + m * sy, x + i * sx, item)
                    m += 1
                at(inverse + i * si, L)[0] = L(number[f])
        at(w[5], L)[0] = m
        return 0

    return kernel
