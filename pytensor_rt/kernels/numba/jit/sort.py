"""Stable sorting and selection of (key, index) pairs, in two arrays of unsigned integers of one type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int64 as L
from numba import uint64 as U

from .intrinsics import at, inline, stack

FEW = 48  # sorted by insertion


def sorter(K: Any) -> Callable[..., Any]:
    """sort(keys, index, keys2, index2, n, nbytes): ascending and stable, by the low `nbytes` bytes of the keys. All are addresses; 1 if the result lies in
    the second pair of arrays, which have room for n too, else 0."""
    counters = 256 * K.bitwidth  # bytes: 256 of 8 bytes for every byte of a key

    @inline
    def sort(keys: Any, index: Any, keys2: Any, index2: Any, n: Any, nbytes: Any) -> Any:
        ka, ia = at(keys, K), at(index, K)
        if n <= FEW:
            for i in range(1, n):
                k, v = ka[i], ia[i]
                j = i
                while j > 0 and ka[j - 1] > k:
                    ka[j], ia[j] = ka[j - 1], ia[j - 1]
                    j -= 1
                ka[j], ia[j] = k, v
            return 0
        first = stack(counters)
        h = at(first, L)
        for i in range(256 * nbytes):
            h[i] = 0
        for i in range(n):
            k = U(ka[i])
            for d in range(nbytes):
                h[d * 256 + L((k >> U(8 * d)) & U(255))] += 1
        side = 0
        for d in range(nbytes):
            at_k = at(keys2 if side != 0 else keys, K)
            at_i = at(index2 if side != 0 else index, K)
            to_k = at(keys if side != 0 else keys2, K)
            to_i = at(index if side != 0 else index2, K)
            g = at(first + 2048 * d, L)
            shift = U(8 * d)
            if g[L((U(at_k[0]) >> shift) & U(255))] == n:
                continue
            total = L(0)
            for b in range(256):
                m = g[b]
                g[b] = total
                total += m
            for i in range(n):
                k = at_k[i]
                b = L((U(k) >> shift) & U(255))
                p = g[b]
                g[b] = p + 1
                to_k[p] = k
                to_i[p] = at_i[i]
            side = 1 - side
        return side

    return sort  # type: ignore[no-any-return]


def selector(K: Any) -> Callable[..., Any]:
    """select(keys, index, n, k, nbytes): keep the k smallest of n pairs (0 < k < n) in place, in their order, of equal keys the first; the largest key kept."""

    @inline
    def select(keys: Any, index: Any, n: Any, k: Any, nbytes: Any) -> Any:
        ka, ia = at(keys, K), at(index, K)
        h = at(stack(2048), L)
        prefix, mask, left = U(0), U(0), k
        for d in range(nbytes - 1, -1, -1):
            for b in range(256):
                h[b] = 0
            shift = U(8 * d)
            for i in range(n):
                v = U(ka[i])
                h[L((v >> shift) & U(255))] += L((v & mask) == prefix)
            b = L(0)
            while left > h[b]:
                left -= h[b]
                b += 1
            prefix |= U(b) << shift
            mask |= U(255) << shift
            if left == h[b]:
                break
        m = L(0)
        most = K(0)
        for i in range(n):
            v = ka[i]
            u = U(v) & mask
            if u > prefix:
                continue
            if u == prefix:
                if left == 0:
                    continue
                left -= 1
            ka[m], ia[m] = v, ia[i]
            m += 1
            most = v if v > most else most
        return most

    return select  # type: ignore[no-any-return]
