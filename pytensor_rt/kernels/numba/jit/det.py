"""`linear_algebra`: determinants by elimination with partial pivoting, in float64. A unit is a matrix.

Words: 0 x  1 y  2 n  3 row stride of x  4 its column stride (bytes)  5 slot scratch  6 bytes of a slot  7... walk over the matrices in x and y (floats.py)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import float64 as D

from .floats import line_offset, reader, writer
from .intrinsics import at, inline


@inline
def determinant(matrix: Any, n: Any) -> Any:
    """Of a dense n x n matrix, which is overwritten."""
    det = D(1.0)
    for k in range(n):
        a = at(matrix, D)
        pivot, largest = k, abs(a[k * n + k])
        for i in range(k + 1, n):
            v = abs(a[i * n + k])
            if v > largest:
                pivot, largest = i, v
        top, other = at(matrix + 8 * k * n, D), at(matrix + 8 * pivot * n, D)
        if other[k] == 0.0:
            return D(0.0)
        if pivot != k:
            det = -det
            for j in range(k, n):
                t = top[j]
                top[j] = other[j]
                other[j] = t
        det *= top[k]
        for i in range(k + 1, n):
            row = at(matrix + 8 * i * n, D)
            f = row[k] / top[k]
            for j in range(k + 1, n):
                row[j] -= f * top[j]
    return det


def det(x_dtype: str, y_dtype: str) -> Callable[..., int]:
    """Determinants of matrices of one dtype, in another."""
    X, value = reader(x_dtype)
    Y, bits = writer(y_dtype)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        n, matrix = w[2], w[5] + slot * w[6]
        a = at(matrix, D)
        for unit in range(begin, end):
            source = w[0] + line_offset(w, 7, 0, 2, unit)
            for i in range(n):
                for j in range(n):
                    a[i * n + j] = value(at(source + i * w[3] + j * w[4], X)[0])
            at(w[1] + line_offset(w, 7, 1, 2, unit), Y)[0] = bits(determinant(matrix, n))
        return 0

    return kernel
