"""`fft`: groups of lines are gathered as float64, transformed side by side (fft_stages.py) and written. A unit is a group of lines.

Words:
    0 x  1 y  2 step of x along a line  3 from its real to its imaginary part (0: real)  4 step of y  5 from real to imaginary (0: real only)  (bytes)
    6 lines  7 lines of a group  8 elements read of a line  9 elements written  10 length n of the transform  11 length of the arrays worked on
    12 inverse  13 half a spectrum is given  14 scale (f64)  15 plan of the transform  16 chirp, or 0  17 the chirp's spectrum
    18 slot scratch  19 bytes of a slot  20 are x's lines nearer to each other than its elements?  21 the same of y  22... walk over lines (floats.py)

Lengths with a large prime factor: Bluestein's convolution with a chirp, by transforms of a power of two. An inverse transform is a forward one with real and
imaginary parts exchanged on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import float64 as D
from numba import int64

from .fft_stages import transform
from .floats import line_offset, reader, writer
from .intrinsics import at, bits_f64, inline, stack

MOST = 64  # lines of a group, as plans/signal.py has it
RUN = 64  # elements of a line at a time, so that what is touched stays in the first-level cache


@inline
def rotate(re: Any, im: Any, row: Any, lines: Any, c: Any, s: Any) -> None:
    """Multiply a row of elements by c + i s."""
    x, y = at(re + 8 * row * lines, D), at(im + 8 * row * lines, D)
    for j in range(lines):
        t = x[j] * c - y[j] * s
        y[j] = x[j] * s + y[j] * c
        x[j] = t


@inline
def bluestein(w: Any, lines: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Transform the first w[10] rows of (a, b), of w[11] that are worked on; where the result is."""
    n, work = w[10], w[11]
    chirp, spectrum = at(w[16], D), at(w[17], D)
    for k in range(n):
        rotate(a, b, k, lines, chirp[2 * k], chirp[2 * k + 1])
    if transform(w[15], lines, a, b, c, d) != 0:
        a, b, c, d = c, d, a, b
    for k in range(work):
        rotate(a, b, k, lines, spectrum[2 * k], spectrum[2 * k + 1])
    if transform(w[15], lines, b, a, d, c) != 0:  # inverse: exchanged
        a, b, c, d = c, d, a, b
    for k in range(n):
        rotate(a, b, k, lines, chirp[2 * k], chirp[2 * k + 1])
    return a, b


def lines(x_dtype: str, y_dtype: str) -> Callable[..., int]:
    """Lines of one dtype to spectra of another."""
    X, value = reader(x_dtype)
    Y, bits = writer(y_dtype)

    @inline
    def gather(w, addresses, count, L, part, target):  # type: ignore[no-untyped-def]
        """One part of the lines at these addresses, side by side."""
        step, given = w[2], w[8]
        x, y = at(addresses, int64), at(target, D)
        if w[20] != 0:
            for i in range(given):
                for j in range(L):
                    y[i * L + j] = value(at(x[j] + part + i * step, X)[0])
        else:
            for first in range(0, given, RUN):
                last = min(given, first + RUN)
                for j in range(L):
                    source = x[j] + part
                    for i in range(first, last):
                        y[i * L + j] = value(at(source + i * step, X)[0])
        for i in range(given * L, w[11] * L):
            y[i] = 0.0

    @inline
    def write(w, addresses, count, L, part, source):  # type: ignore[no-untyped-def]
        step, wanted, scale = w[4], w[9], bits_f64(w[14])
        y, x = at(addresses, int64), at(source, D)
        if w[21] != 0:
            for i in range(wanted):
                for j in range(count):
                    at(y[j] + part + i * step, Y)[0] = bits(x[i * L + j] * scale)
        else:
            for first in range(0, wanted, RUN):
                last = min(wanted, first + RUN)
                for j in range(count):
                    target = y[j] + part
                    for i in range(first, last):
                        at(target + i * step, Y)[0] = bits(x[i * L + j] * scale)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        sources, targets = stack(512), stack(512)
        xs, ys = at(sources, int64), at(targets, int64)
        n, L = w[10], w[7]
        room = 8 * w[11] * L
        for unit in range(begin, end):
            count = min(L, w[6] - unit * L)
            for j in range(L):
                line = unit * L + min(j, count - 1)
                xs[j], ys[j] = w[0] + line_offset(w, 22, 0, 2, line), w[1] + line_offset(w, 22, 1, 2, line)
            a = w[18] + slot * w[19]
            b, c, d = a + room, a + 2 * room, a + 3 * room
            re, im = (b, a) if w[12] != 0 else (a, b)
            gather(w, sources, count, L, 0, re)
            if w[3] != 0:
                gather(w, sources, count, L, w[3], im)
            else:
                zero = at(im, D)
                for i in range(w[11] * L):
                    zero[i] = 0.0
            if w[13] != 0:
                x, y = at(re, D), at(im, D)
                for j in range(L):
                    y[j] = 0.0
                    if n % 2 == 0:
                        y[n // 2 * L + j] = 0.0
                for k in range(1, (n + 1) // 2):
                    for j in range(L):
                        x[(n - k) * L + j] = x[k * L + j]
                        y[(n - k) * L + j] = -y[k * L + j]
            if w[16] != 0:
                a, b = bluestein(w, L, a, b, c, d)
            elif transform(w[15], L, a, b, c, d) != 0:
                a, b = c, d
            re, im = (b, a) if w[12] != 0 else (a, b)
            write(w, targets, count, L, 0, re)
            if w[5] != 0:
                write(w, targets, count, L, w[5], im)
        return 0

    return kernel
