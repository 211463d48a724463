"""Kernel `recurrent`: the input products of a stretch of time steps, and the steps themselves. Weights are packed by recurrent_pack.py.

Words of both kernels: the address of the layer's words (named below), first step, steps, and the number of parts of the rows, their size, and how many
are one larger. Step s of a sequence of length n reads time s, or n - 1 - s backwards. A row of sums holds the gates, `PADDED` elements each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32, int16, int32, int64, uint8

from .gemm_tile import panel_columns
from .intrinsics import at, bits_f64, inline, invoke
from .recurrent_gates import (
    activate,
    clipping,
    gru_gates,
    gru_gates_plain,
    gru_update,
    gru_update_plain,
    lstm,
    lstm_plain,
    rnn_plain,
)  # fmt: skip

RUN, T, N, I, H, PADDED, COLUMNS, SPLIT, STRETCH, BACKWARD = range(10)  # SPLIT: columns of the first product, of all but a GRU's candidate
X_AT, X_TIME, X_ROW, X_PROGRAM = range(
    10, 14
)  # x: address, bytes from one time step and one sequence to the next, or else the program of its rows
Y_AT, Y_TIME, Y_DIR, Y_ROW, Y_PROGRAM, HAS_Y = range(14, 20)  # with a program, Y_DIR is the number of directions
W, R, PRODUCT = range(20, 23)  # packed weights; gemm_tile.product or, of quantised layers, gemm_tile.dots
W_SCALE, W_ZERO, R_SCALE, R_ZERO, RANGE = range(23, 28)  # quantised layers: [dirs, columns] of float32, int32; the input's range
BIAS, LATE_BIAS, PEEPHOLES = 28, 29, 30  # [dirs, columns], [dirs, padded], [dirs, 3, padded]
LENGTHS, STATE, CELL_STATE, SUMS = 31, 32, 33, 34  # int64 [N + 1], [dirs, N, padded] twice, [dirs, stretch, N, columns]
LATE, COUPLED, PLAIN, CLIP, FUNCTIONS, PER_DIRECTION = range(35, 41)  # LATE: a GRU's linear_before_reset
SLOT, STEP, INPUT_AT, SUMS_AT, RESET_AT, ZERO_AT, QUANT_AT, TILE_AT, DIRECTIONS = range(41, 50)
GROUP = 4  # panels of one call
COLUMNS_INT32 = panel_columns(int32)
PER_UNIT = {"vnni": 4, "madd": 2, "plain": 1, "no": 1}  # 8-bit integers in a unit of 32 bits
STORED = {"vnni": uint8, "madd": int16}


@inline
def time_of(layer: Any, backward: Any, step: Any, n: Any) -> Any:
    length = at(layer[LENGTHS], int64)[n]
    return length - 1 - step if backward & (step < length) else step


@inline
def quantization(low: Any, high: Any) -> Any:
    """DynamicQuantizeLinear's scale, and its zero point as a float32."""
    scale = float32(1.0) if low == high else (high - low) / float32(255.0)
    z = np.rint(float32(0.0) - low / scale)
    z = z if z > float32(0.0) else float32(0.0)
    return scale, z if z < float32(255.0) else float32(255.0)


def quantised_rows(kind: str) -> Callable[..., Any]:
    """(m, source, pitch, target, pitch, n, scale, zero): rows of float32 as units of gemm_tile.dots, and behind each what a column's zero is multiplied by:
    the int32 sum of values less their zero point. The unit's unused end is 0."""
    stored, per = STORED.get(kind, int32), PER_UNIT[kind]

    @inline
    def run(m, source, source_pitch, target, pitch, n, scale, zero):  # type: ignore[no-untyped-def]
        units = (n + per - 1) // per
        low, high, z = -zero, float32(255.0) - zero, int32(zero)
        for i in range(m):
            x, y, total = at(source + i * source_pitch, float32), at(target + i * pitch, stored), int32(0)
            for j in range(n):
                v = x[j] / scale
                v = v if v > low else low
                q = int32(np.rint(v if v < high else high))
                total = int32(total + q)
                y[j] = stored(int32(q + z))
            for j in range(n, units * per):
                y[j] = stored(0)
            at(target + i * pitch + 4 * units, int32)[0] = total

    return run  # type: ignore[no-any-return]


def product(X: Any) -> Callable[..., Any]:
    """(call, depth, a, pitch of a, panels, columns, c, pitch of c, m, down): c += a * panels, for m rows.

    down: panels from the last to the first; alternating from step to step keeps most of a matrix that just exceeds a cache in it.
    """
    size, NR = X.bitwidth // 8, panel_columns(X)

    @inline
    def run(call, depth, a, a_pitch, pack, columns, c, c_pitch, m, down):  # type: ignore[no-untyped-def]
        panels, panel = columns // NR, depth * NR * size
        groups = (panels + GROUP - 1) // GROUP
        for g in range(groups):
            p = (groups - 1 - g if down != 0 else g) * GROUP
            n = min(GROUP, panels - p)
            invoke(call, (m, n, depth, a, a_pitch, size, pack + p * panel, panel, NR * size, c + p * NR * size, c_pitch, 1))

    return run  # type: ignore[no-any-return]


@inline
def exact_product(
    call: Any, units: Any, zero: Any, a: Any, a_pitch: Any, pack: Any, sums: Any, columns: Any, c: Any, c_pitch: Any, m: Any,
    scale: Any, scales: Any, zeros: Any, temp: Any,
) -> Any:  # fmt: skip
    """c += (exact sums of (a - zero) * (b - zeros[column])) * (scale * scales[column]); rows of a as quantised_rows makes them.

    sums: of columns, as stored. temp: m rows of GROUP panels of int32.
    """
    panels, panel, pitch, z = columns // COLUMNS_INT32, units * COLUMNS_INT32 * 4, GROUP * COLUMNS_INT32 * 4, int32(zero)
    for p in range(0, panels, GROUP):
        n, first = min(GROUP, panels - p), p * COLUMNS_INT32
        invoke(call, (m, n, units, a, a_pitch, 4, pack + p * panel, panel, COLUMNS_INT32 * 4, temp, pitch, 0))
        total, factor, left = at(sums + 4 * first, int32), at(scales + 4 * first, float32), at(zeros + 4 * first, int32)
        for i in range(m):
            rest = at(a + i * a_pitch + 4 * units, int32)[0]
            x, y = at(temp + i * pitch, int32), at(c + i * c_pitch + 4 * first, float32)
            for j in range(n * COLUMNS_INT32):
                exact = int32(x[j] - int32(int32(z * total[j]) + int32(left[j] * rest)))
                y[j] = float32(exact) * (scale * factor[j]) + y[j]


def project(X: Any, quant: str) -> Callable[..., int]:
    """sums = x * w + bias for the steps of a stretch: a unit is a part of the rows (step, sequence) of a direction. quant: a key of
    PER_UNIT."""
    size, per = X.bitwidth // 8, PER_UNIT[quant]
    multiply, quantise = product(X), quantised_rows(quant)
    exact = quant != "no"

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        v = at(w[0], int64)
        s0, parts, part, part_extra = w[1], w[3], w[4], w[5]
        if s0 >= at(v[LENGTHS], int64)[v[N]]:
            return 0
        home = v[SLOT] + slot * v[STEP]
        rows, pitch, columns = home + v[INPUT_AT], v[I] * size, v[COLUMNS]
        if exact:
            span = at(v[RANGE], float32)
            scale, zero = quantization(span[0], span[1])
        for unit in range(begin, end):
            d = unit // parts
            p = unit % parts
            first = p * part + min(p, part_extra)
            count = part + (1 if p < part_extra else 0)
            backward = (d == 1) | (v[BACKWARD] != 0)
            sums = v[SUMS] + (d * v[STRETCH] * v[N] + first) * columns * size
            bias = at(v[BIAS] + d * columns * size, X)
            for i in range(count):
                n = (first + i) % v[N]
                t = time_of(v, backward, s0 + (first + i) // v[N], n)
                y = at(rows + i * pitch, X)
                if v[X_PROGRAM] != 0:
                    r = t * v[N] + n
                    invoke(v[RUN], (v[X_PROGRAM], r, r + 1, 0, v[I], 0, 0, rows + i * pitch, 0))
                else:
                    x = at(v[X_AT] + t * v[X_TIME] + n * v[X_ROW], X)
                    for j in range(v[I]):
                        y[j] = x[j]
                y = at(sums + i * columns * size, X)
                for j in range(columns):
                    y[j] = bias[j]
            if exact:
                a, units = home + v[QUANT_AT], (v[I] + per - 1) // per
                quantise(count, rows, pitch, a, 4 * units + 4, v[I], scale, zero)
                exact_product(
                    v[PRODUCT], units, zero, a, 4 * units + 4, v[W] + 4 * d * columns * units, v[W] + 4 * columns * (v[DIRECTIONS] * units + d),
                    columns, sums, columns * 4, count, scale, v[W_SCALE] + 4 * d * columns, v[W_ZERO] + 4 * d * columns, home + v[TILE_AT],
                )  # fmt: skip
            else:
                pack = v[W] + d * columns * v[I] * size
                multiply(v[PRODUCT], v[I], rows, pitch, pack, columns, sums, columns * size, count, 0)
        return 0

    return kernel


def advance(X: Any, cell: str, quant: str) -> Callable[..., int]:
    """The steps of a stretch: a unit is a part of the sequences of a direction. The last stretch makes the states of empty sequences 0."""
    size, per, exact = X.bitwidth // 8, PER_UNIT[quant], quant != "no"
    short, is_lstm, is_gru = X is float32, cell == "lstm", cell == "gru"
    multiply, quantise, clip = product(X), quantised_rows(quant), clipping(X)
    lstm_step, gru_first, gru_second = lstm(X), gru_gates(X), gru_update(X)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        v = at(w[0], int64)
        s0, steps, parts, part, part_extra = w[1], w[2], w[3], w[4], w[5]
        home = v[SLOT] + slot * v[STEP]
        lengths = at(v[LENGTHS], int64)
        hidden, padded, columns, split = v[H], v[PADDED], v[COLUMNS], v[SPLIT]
        pitch, state_pitch = columns * size, padded * size
        sums, resets, zeros = home + v[SUMS_AT], home + v[RESET_AT], home + v[ZERO_AT]
        plain, limit = v[PLAIN] != 0, X(bits_f64(v[CLIP]))
        z = at(zeros, X)
        for j in range(hidden):
            z[j] = X(0.0)
        for unit in range(begin, end):
            d = unit // parts
            p = unit % parts
            n0 = p * part + min(p, part_extra)
            m = part + (1 if p < part_extra else 0)
            backward = (d == 1) | (v[BACKWARD] != 0)
            h, c = v[STATE] + (d * v[N] + n0) * state_pitch, v[CELL_STATE] + (d * v[N] + n0) * state_pitch
            functions = at(v[FUNCTIONS] + d * v[PER_DIRECTION], int64)
            r_pack = v[R] + d * columns * hidden * size
            for s in range(s0, s0 + steps):
                inputs = v[SUMS] + ((d * v[STRETCH] + s - s0) * v[N] + n0) * pitch
                if s < lengths[v[N]]:
                    for i in range(m):
                        x, y = at(inputs + i * pitch, X), at(sums + i * pitch, X)
                        for j in range(columns):
                            y[j] = x[j]
                    if exact:
                        low, high = float32(0.0), float32(0.0)
                        for i in range(m):  # of those whose sequence has not ended before the previous step
                            if s <= lengths[n0 + i]:
                                x = at(h + i * state_pitch, X)
                                for j in range(hidden):
                                    low = x[j] if x[j] < low else low
                                    high = x[j] if x[j] > high else high
                        scale, zero = quantization(low, high)
                        a, units = home + v[QUANT_AT], (hidden + per - 1) // per
                        quantise(m, h, state_pitch, a, 4 * units + 4, hidden, scale, zero)
                        exact_product(
                            v[PRODUCT], units, zero, a, 4 * units + 4, v[R] + 4 * d * columns * units,
                            v[R] + 4 * columns * (v[DIRECTIONS] * units + d), columns, sums, pitch, m, scale, v[R_SCALE] + 4 * d * columns,
                            v[R_ZERO] + 4 * d * columns, home + v[TILE_AT],
                        )  # fmt: skip
                    else:
                        multiply(v[PRODUCT], hidden, h, state_pitch, r_pack, split, sums, pitch, m, s & 1)
                    if is_gru:
                        source = h
                        for i in range(m):
                            reset = int64(0)
                            if v[LATE] == 0:
                                source, reset = resets, resets + i * state_pitch
                            if short and plain:
                                gru_gates_plain(sums + i * pitch, h + i * state_pitch, reset, padded)
                            else:
                                gru_first(functions, limit, sums + i * pitch, h + i * state_pitch, reset, hidden, padded)
                            if v[LATE] != 0:
                                x, y = at(v[LATE_BIAS] + d * state_pitch, X), at(sums + i * pitch + split * size, X)
                                for j in range(padded):
                                    y[j] = x[j]
                        pack = r_pack + split * hidden * size
                        multiply(v[PRODUCT], hidden, source, state_pitch, pack, padded, sums + split * size, pitch, m, s & 1)
                for i in range(m):
                    active = s < lengths[n0 + i]
                    hi, ci, row = h + i * state_pitch, c + i * state_pitch, sums + i * pitch
                    if active:
                        if is_lstm:
                            if short and plain:
                                lstm_plain(row, hi, ci, padded)
                            else:
                                peepholes = v[PEEPHOLES] + (3 * d * state_pitch if v[PEEPHOLES] != 0 else 0)
                                lstm_step(functions, limit, v[COUPLED], row, peepholes, hi, ci, hidden, padded)
                        elif is_gru:
                            late = inputs + i * pitch + split * size if v[LATE] != 0 else int64(0)
                            if short and plain:
                                gru_update_plain(row, late, hi, padded)
                            else:
                                gru_second(functions, limit, row, late, hi, hidden, padded)
                        elif short and plain:
                            rnn_plain(row, hi, padded)
                        else:
                            clip(row, hidden, limit)
                            activate(functions, 0, hi, row, hidden)
                    if v[HAS_Y] != 0:
                        t = time_of(v, backward, s, n0 + i)
                        source = hi if active else zeros
                        if v[Y_PROGRAM] != 0:
                            r = (t * v[Y_DIR] + d) * v[N] + n0 + i
                            invoke(v[RUN], (v[Y_PROGRAM], r, r + 1, 0, hidden, source, 0, 0, 0))
                        else:
                            x, y = at(source, X), at(v[Y_AT] + t * v[Y_TIME] + d * v[Y_DIR] + (n0 + i) * v[Y_ROW], X)
                            for j in range(hidden):
                                y[j] = x[j]
            if s0 + steps == v[T]:
                for i in range(m):
                    if lengths[n0 + i] == 0:
                        x, y = at(h + i * state_pitch, X), at(c + i * state_pitch, X)
                        for j in range(hidden):
                            x[j] = X(0.0)
                            if is_lstm:
                                y[j] = X(0.0)
        return 0

    return kernel
