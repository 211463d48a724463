"""The register machine: runs an elementwise program over a part of a box, tile by tile.

A box is [outer..., R, C]; its rows are numbered over all but the last axis. `run` does the columns c0..c1 of rows r0..r1. The kernels of other families
call it for what they have just computed, or are about to read: the accumulator `acc` and the result `out`, where given (not 0), are then memory of the
caller's own, whose first element belongs to (r0, c0), dense in columns and with the given row strides in bytes.

The words of a program, written by ../programs.py:
    0 number of instructions  1 outer axes  2 R  3 C  4 most elements of a tile  5 bytes of a register  6 where the operands start
    7 where the instructions start  8 where the instructions of constants start  9 their number  10 the register of the result, or -1 if it must
    not be the output's own memory  11... sizes of the outer axes
operands (first the output): address, bytes per element, column stride, row stride, outer strides (all in bytes)
instructions, 8 words: kind, function, register of the result, three arguments (registers, or the operand or axis), immediate, for kind 3 a table
"""

from __future__ import annotations

from collections.abc import Callable

from numba import int64

from .intrinsics import at, inline, invoke, stack

REGISTERS = 65536  # bytes
MOST = 256  # registers


@inline
def _locate(p, operand, outer, row, c0, n_outer):
    """The address of an operand's element at (outer index, row, column)."""
    o = p[6] + operand * (4 + n_outer)
    address = p[o] + row * p[o + 3] + c0 * p[o + 2]
    left = outer
    for k in range(n_outer - 1, -1, -1):
        n = p[11 + k]
        q = left // n
        address += (left - q * n) * p[o + 4 + k]
        left = q
    return address


def run() -> Callable[..., int]:
    def box(w, r0, r1, c0, c1, acc, acc_rs, out, out_rs):
        home, addresses = stack(65536), stack(2048)
        at_register = at(addresses, int64)
        n_outer, R, T, size = w[1], w[2], w[4], w[5]
        for k in range(w[9]):
            i = w[8] + 8 * k
            invoke(w[i + 1], (home + w[i + 2] * size, 0, 0, 0, w[i + 6], T))
            at_register[w[i + 2]] = home + w[i + 2] * size
        wide = min(c1 - c0, T)
        if wide <= 0:
            return 0
        tall = T // wide
        r = r0
        while r < r1:
            outer = r // R
            row = r - outer * R
            rows = min(min(tall, R - row), r1 - r)
            c = c0
            while c < c1:
                cols = min(wide, c1 - c)
                n = rows * cols
                for k in range(w[0]):
                    i = w[7] + 8 * k
                    kind, d = w[i], w[i + 2]
                    if kind == 0:
                        to = home + d * size
                        if d == w[10]:  # straight to the output, where it is dense
                            if out != 0:
                                element = w[w[6] + 1]
                                if rows == 1 or out_rs == cols * element:
                                    to = out + (r - r0) * out_rs + (c - c0) * element
                            elif w[w[6] + 2] == w[w[6] + 1] and (rows == 1 or w[w[6] + 3] == cols * w[w[6] + 1]):
                                to = _locate(w, 0, outer, row, c, n_outer)
                        at_register[d] = to
                        invoke(w[i + 1], (to, at_register[w[i + 3]], at_register[w[i + 4]], at_register[w[i + 5]], w[i + 6], n))
                    elif kind == 1:  # load an operand; kind 5: one whose memory can be a register
                        o = w[6] + w[i + 3] * (4 + n_outer)
                        source = _locate(w, w[i + 3], outer, row, c, n_outer)
                        at_register[d] = home + d * size
                        invoke(w[i + 1], (home + d * size, source, w[o + 3], w[o + 2], rows, cols, w[i + 6]))
                    elif kind == 5:
                        o = w[6] + w[i + 3] * (4 + n_outer)
                        source = _locate(w, w[i + 3], outer, row, c, n_outer)
                        if w[o + 2] == w[o + 1] and (rows == 1 or w[o + 3] == cols * w[o + 1]):
                            at_register[d] = source
                        else:
                            at_register[d] = home + d * size
                            invoke(w[i + 1], (home + d * size, source, w[o + 3], w[o + 2], rows, cols, w[i + 6]))
                    elif kind == 2:  # store
                        if out != 0:
                            to = out + (r - r0) * out_rs + (c - c0) * w[w[6] + 1]
                            if at_register[d] != to:
                                invoke(w[i + 1], (at_register[d], to, out_rs, w[w[6] + 1], rows, cols, w[i + 6]))
                        else:
                            to = _locate(w, 0, outer, row, c, n_outer)
                            if at_register[d] != to:
                                invoke(w[i + 1], (at_register[d], to, w[w[6] + 3], w[w[6] + 2], rows, cols, w[i + 6]))
                    elif kind == 3:  # load the accumulator; imm: bytes of an element, then its table of values
                        source = acc + (r - r0) * acc_rs + (c - c0) * w[i + 6]
                        if w[i + 3] == 1 and (rows == 1 or acc_rs == cols * w[i + 6]):
                            at_register[d] = source
                        else:
                            at_register[d] = home + d * size
                            invoke(w[i + 1], (home + d * size, source, acc_rs, w[i + 6], rows, cols, w[i + 7]))
                    else:  # an index along an axis: an operand whose strides are its coefficients
                        o = w[6] + w[i + 3] * (4 + n_outer)
                        first = _locate(w, w[i + 3], outer, row, c, n_outer)
                        y = at(home + d * size, int64)
                        at_register[d] = home + d * size
                        for m in range(rows):
                            for j in range(cols):
                                y[m * cols + j] = first + m * w[o + 3] + j * w[o + 2]
                c += cols
            r += rows
        return 0

    return box


def whole() -> Callable[..., int]:
    """The kernel `map`: words are the program's address, that of `run`, the units' rows and columns; a unit is a part of the box."""

    def kernel(w, begin, end, slot):
        program = at(w[0], int64)
        rows = program[2]
        for k in range(program[1]):
            rows *= program[11 + k]
        cols = program[3]
        tall, wide = w[2], w[3]
        across = (cols + wide - 1) // wide
        for unit in range(begin, end):
            i = unit // across
            j = unit - i * across
            invoke(w[1], (w[0], i * tall, min(rows, (i + 1) * tall), j * wide, min(cols, (j + 1) * wide), 0, 0, 0, 0))
        return 0

    return kernel
