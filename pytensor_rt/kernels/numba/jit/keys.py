"""Total orders for topk, unique and nms: every value maps to an unsigned key, ascending; -0 equals 0 and all NaNs are one, the largest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types

from .intrinsics import at, inline

_INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF0000000000000}
_RAW = {8: types.uint8, 16: types.uint16, 32: types.uint32, 64: types.uint64}


def _bits(dtype: str) -> int:
    return 8 if dtype == "bool" else int("".join(c for c in dtype if c.isdigit()))


def key_of(dtype: str, K: Any) -> Callable[..., Any]:
    """The key of an element's bits (an unsigned integer), as a K (uint32 or uint64)."""
    bits = _bits(dtype)
    ones, top = K((1 << bits) - 1), K(1 << (bits - 1))
    low = K((1 << (bits - 1)) - 1)
    if "float" in dtype:
        infinity = K(_INFINITY[dtype])

        def key(bits_: Any) -> Any:
            u = K(bits_)
            magnitude = K(u & low)
            k = K(u ^ ones) if (K(u & top) != K(0)) & (magnitude != K(0)) else K(u | top)
            return ones if magnitude > infinity else k

        return inline(key)  # type: ignore[no-any-return]
    if dtype.startswith("int"):
        return inline(lambda u: K(K(u) ^ top))  # type: ignore[no-any-return]
    return inline(lambda u: K(u))  # type: ignore[no-any-return]


def load(dtype: str, K: Any) -> Callable[..., int]:
    """keys[i] = key of x[i], from x with a step in bytes to dense keys of type K; `flip`: in descending order instead."""
    T, key = _RAW[_bits(dtype)], key_of(dtype, K)
    ones, size = K((1 << _bits(dtype)) - 1), _bits(dtype) // 8

    def run(x, sx, n, keys, flip):  # type: ignore[no-untyped-def]
        to = at(keys, K)
        turn = ones if flip != 0 else K(0)
        if sx == size:
            source = at(x, T)
            for i in range(n):
                to[i] = K(key(source[i]) ^ turn)
        else:
            for i in range(n):
                to[i] = K(key(at(x + i * sx, T)[0]) ^ turn)
        return 0

    return run
