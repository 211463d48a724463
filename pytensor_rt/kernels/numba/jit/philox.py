"""`random`: Philox4x32-10 (Salmon et al., SC'11), whose words are turned into numbers as kernels/ref/signal.py has it. A unit is STRETCH elements.

Words: 0 seed  1 stream  2 y  3 elements  4 dense  5 a  6 b  7 the value below b  8 slot scratch  9 bytes of a slot  10... walk over elements (floats.py)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float64 as D
from numba import int64 as L
from numba import types
from numba import uint32 as W
from numba import uint64 as U

from .floats import line_offset, reader, writer
from .intrinsics import at, bits_f64, exact_sum, inline

STRETCH = 1024  # as plans/signal.py has it
FRACTION_24, FRACTION_32, FRACTION_53 = 2.0**-24, 2.0**-32, 2.0**-53


@inline
def blocks(words: Any, first: Any, count: Any, stream: Any, seed: Any) -> None:
    """Words 4 * first ... of the stream, `count` blocks of four."""
    low, high = U(0xFFFFFFFF), U(32)
    out = at(words, W)
    s0, s1 = U(stream) & low, U(stream) >> high
    k0, k1 = U(seed) & low, U(seed) >> high
    for b in range(count):
        number = U(first + b)
        c0, c1, c2, c3 = number & low, number >> high, s0, s1
        for i in range(10):
            p0, p1 = U(0xD2511F53) * c0, U(0xCD9E8D57) * c2
            c0 = (p1 >> high) ^ c1 ^ ((k0 + U(i) * U(0x9E3779B9)) & low)
            c2 = (p0 >> high) ^ c3 ^ ((k1 + U(i) * U(0xBB67AE85)) & low)
            c1, c3 = p1 & low, p0 & low
        out[4 * b], out[4 * b + 1], out[4 * b + 2], out[4 * b + 3] = W(c0), W(c1), W(c2), W(c3)


def fill(dtype: str, op: str) -> Callable[..., int]:
    """Elements of a dtype, `uniform` or `normal`."""
    Y, bits = writer(dtype)
    _, value = reader(dtype)
    size = Y.bitwidth // 8
    wide, normal = dtype == "float64", op == "normal"
    per = 2 if wide else 1  # words of an element

    @inline
    def fraction(words, k):  # type: ignore[no-untyped-def]
        """53 bits of the words 2k and 2k + 1."""
        x = at(words, W)
        return D(L(((U(x[2 * k]) << U(32)) | U(x[2 * k + 1])) >> U(11))) * FRACTION_53

    @inline
    def uniform(words, n, numbers, w):  # type: ignore[no-untyped-def]
        x, y = at(words, W), at(numbers, Y)
        a, b, below = bits_f64(w[5]), bits_f64(w[6]), bits_f64(w[7])
        rising = a < b
        last = bits(below)
        for i in range(n):
            u = fraction(words, i) if wide else D(L(x[i]) >> L(8)) * FRACTION_24
            v = bits(exact_sum((b - a) * u, a))
            y[i] = last if rising & (value(v) >= b) else v

    @inline
    def gaussian(words, n, numbers, w):  # type: ignore[no-untyped-def]
        x, y = at(words, W), at(numbers, Y)
        a, b = bits_f64(w[5]), bits_f64(w[6])
        for i in range(0, n, 2):
            u1 = fraction(words, i) + FRACTION_53 if wide else D(L(x[i])) * FRACTION_32 + FRACTION_32
            u2 = fraction(words, i + 1) if wide else D(L(x[i + 1])) * FRACTION_32
            r, angle = np.sqrt(-2.0 * np.log(u1)), 6.283185307179586477 * u2
            y[i] = bits(a + b * (r * np.cos(angle)))
            y[i + 1] = bits(a + b * (r * np.sin(angle)))

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        numbers = w[8] + slot * w[9]
        words = numbers + STRETCH * size
        seed = at(w[0], types.int64)[0]
        for unit in range(begin, end):
            first = unit * STRETCH
            n = min(STRETCH, w[3] - first)
            blocks(words, first * per // 4, (n * per + 3) // 4, w[1], seed)
            even = (n + 1) // 2 * 2
            direct = (w[4] != 0) & (n == even)
            target = w[2] + first * size if direct else numbers
            if normal:
                gaussian(words, even, target, w)
            else:
                uniform(words, n, target, w)
            if not direct:
                x = at(numbers, Y)
                for i in range(n):
                    at(w[2] + line_offset(w, 10, 0, 1, first + i), Y)[0] = x[i]
        return 0

    return kernel
