"""Weighted sums of rows of contiguous elements: what reading between the elements comes down to."""

from __future__ import annotations

from typing import Any

from numba import int64

from .elements import element
from .intrinsics import at, inline
from .masked import vload_part, vstore_part
from .vectors import fma, lanes, splat, vload, vstore


def weighted_rows(C: Any) -> Any:
    """A function: out[k] = sum over t < taps of weight[t] * (x + index[t] * stride)[k], for k < n. Addresses; stride in elements."""
    size, L = C.bitwidth // 8, lanes(C)

    @inline
    def weighted(out, n, x, stride, taps, index, weight):  # type: ignore[no-untyped-def]
        places, weights = at(index, int64), at(weight, C)
        k = 0
        while k + 4 * L <= n:
            a0, a1, a2, a3 = splat(C(0)), splat(C(0)), splat(C(0)), splat(C(0))
            for t in range(taps):
                from_ = x + (places[t] * stride + k) * size
                f = splat(weights[t])
                a0 = fma(f, vload(from_, C), a0)
                a1 = fma(f, vload(from_ + L * size, C), a1)
                a2 = fma(f, vload(from_ + 2 * L * size, C), a2)
                a3 = fma(f, vload(from_ + 3 * L * size, C), a3)
            to = out + k * size
            vstore(to, a0)
            vstore(to + L * size, a1)
            vstore(to + 2 * L * size, a2)
            vstore(to + 3 * L * size, a3)
            k += 4 * L
        while k + L <= n:
            a0 = splat(C(0))
            for t in range(taps):
                a0 = fma(splat(weights[t]), vload(x + (places[t] * stride + k) * size, C), a0)
            vstore(out + k * size, a0)
            k += L
        if k < n:
            a0 = splat(C(0))
            for t in range(taps):
                a0 = fma(splat(weights[t]), vload_part(x + (places[t] * stride + k) * size, C, n - k), a0)
            vstore_part(out + k * size, a0, n - k)

    return weighted


def combined_rows(name: str, C: Any) -> Any:
    """A function: out[k] = sum over t < taps of weight[t] * (elements at address[t] + skip)[k], for k < n, with `skip` in elements."""
    X, value = element(name, C)
    size, L, same = X.bitwidth // 8, lanes(C), X == C

    @inline
    def of_vectors(out, n, taps, addresses, weights, skip):  # type: ignore[no-untyped-def]
        rows, factors = at(addresses, int64), at(weights, C)
        k = 0
        while k + 4 * L <= n:
            a0, a1, a2, a3 = splat(C(0)), splat(C(0)), splat(C(0)), splat(C(0))
            for t in range(taps):
                from_ = rows[t] + (skip + k) * size
                f = splat(factors[t])
                a0 = fma(f, vload(from_, C), a0)
                a1 = fma(f, vload(from_ + L * size, C), a1)
                a2 = fma(f, vload(from_ + 2 * L * size, C), a2)
                a3 = fma(f, vload(from_ + 3 * L * size, C), a3)
            to = out + k * size
            vstore(to, a0)
            vstore(to + L * size, a1)
            vstore(to + 2 * L * size, a2)
            vstore(to + 3 * L * size, a3)
            k += 4 * L
        while k < n:
            left = min(n - k, L)
            a0 = splat(C(0))
            for t in range(taps):
                a0 = fma(splat(factors[t]), vload_part(rows[t] + (skip + k) * size, C, left), a0)
            vstore_part(out + k * size, a0, left)
            k += L

    @inline
    def of_elements(out, n, taps, addresses, weights, skip):  # type: ignore[no-untyped-def]
        rows, factors, y = at(addresses, int64), at(weights, C), at(out, C)
        if taps == 0:
            for k in range(n):
                y[k] = C(0)
        for t in range(taps):
            from_, f = at(rows[t] + skip * size, X), factors[t]
            if t == 0:
                for k in range(n):
                    y[k] = f * value(from_[k])
            else:
                for k in range(n):
                    y[k] += f * value(from_[k])

    return of_vectors if same else of_elements
