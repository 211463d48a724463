"""What a recurrent layer needs before its steps: weights in panels of columns, sequence lengths, the range of a quantised layer's input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import float32, int8, int16, int32, int64

from .gemm_tile import panel_columns
from .intrinsics import at, invoke
from .status import fail

SEQUENCE_LENGTH = 7  # of kernels/messages.py


def panels(X: Any) -> Callable[..., int]:
    """Weights [dirs, gates * H, depth] as panels of gemm_tile.py; a unit is a column, of which a direction has gates * padded.

    Words: box.run, the program of the weights' rows, H, padded, depth, columns, target, and memory for a row: address, bytes per slot, offset.
    """
    size, NR = X.bitwidth // 8, panel_columns(X)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        H, padded, depth, columns = w[2], w[3], w[4], w[5]
        temp = w[7] + slot * w[8] + w[9]
        row = at(temp, X)
        for unit in range(begin, end):
            column = unit % columns
            d = unit // columns
            y = at(w[6] + ((d * columns + column // NR * NR) * depth + column % NR) * size, X)
            gate, hidden = column // padded, column % padded
            if hidden < H:
                r = (d * (columns // padded) + gate) * H + hidden
                invoke(w[0], (w[1], r, r + 1, 0, depth, 0, 0, temp, 0))
                for k in range(depth):
                    y[k * NR] = row[k]
            else:
                for k in range(depth):
                    y[k * NR] = X(0.0)
        return 0

    return kernel


def panels_int8(kind: str) -> Callable[..., int]:
    """8-bit weights as panels of units (see gemm_int8.py), whose program gives int32; behind them the sums of all columns, int32. Words as of
    `panels`, then the number of columns of all directions."""
    stored, per = {"vnni": (int8, 4), "madd": (int16, 2), "plain": (int32, 1)}[kind]
    NR = panel_columns(int32)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        H, padded, depth, columns = w[2], w[3], w[4], w[5]
        units = (depth + per - 1) // per
        temp = w[7] + slot * w[8] + w[9]
        row = at(temp, int32)
        for unit in range(begin, end):
            column = unit % columns
            d = unit // columns
            y = at(w[6] + ((d * columns + column // NR * NR) * units + column % NR) * 4, stored)
            gate, hidden = column // padded, column % padded
            if hidden < H:
                r = (d * (columns // padded) + gate) * H + hidden
                invoke(w[0], (w[1], r, r + 1, 0, depth, 0, 0, temp, 0))
            total = int32(0)
            for k in range(units * per):
                v = row[k] if (k < depth) & (hidden < H) else int32(0)
                y[k // per * NR * per + k % per] = stored(v)
                total = int32(total + v)
            at(w[6] + (w[10] * units + unit) * 4, int32)[0] = total
        return 0

    return kernel


def lengths(given: int) -> Callable[..., int]:
    """Words: int64 target [N + 1], N, T; if given: address and stride in bytes of int32 lengths, status. The last element is the longest."""
    if not given:

        def same(w, begin, end, slot):  # type: ignore[no-untyped-def]
            y = at(w[0], int64)
            for n in range(w[1] + 1):
                y[n] = w[2]
            return 0

        return same

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        y, longest = at(w[0], int64), int64(0)
        for n in range(w[1]):
            length = int64(at(w[3] + n * w[4], int32)[0])
            if length < 0 or length > w[2]:
                return fail(w[5], SEQUENCE_LENGTH, 0, length, n)
            y[n] = length
            longest = max(longest, length)
        y[w[1]] = longest
        return 0

    return kernel


def input_range() -> Callable[..., int]:
    """float32 [2]: least and largest element of x [T, N, I] up to the longest sequence, 0 included.

    Words: box.run, the program of x's rows, lengths [N + 1], N, I, target, memory for a row.
    """

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        x = at(w[6], float32)
        low, high = float32(0.0), float32(0.0)
        rows = at(w[2], int64)[w[3]] * w[3]
        for r in range(rows):
            invoke(w[0], (w[1], r, r + 1, 0, w[4], 0, 0, w[6], 0))
            for j in range(w[4]):
                low = x[j] if x[j] < low else low
                high = x[j] if x[j] > high else high
        y = at(w[5], float32)
        y[0], y[1] = low, high
        return 0

    return kernel
