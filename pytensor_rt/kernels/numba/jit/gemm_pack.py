"""Packing B into panels (see gemm_tile.py): [k][NR] of the compute type, columns beyond N zero.

`fetch_*` are functions (w, origin, panel, k0, k, out) that write rows k0 .. k0 + k of one panel to `out`; `panels_*` are kernels that pack whole matrices with
them. `origin` is what finds a batch's matrix: bytes (strided), or rows of the program's box (program).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .gemm_tile import panel_columns
from .intrinsics import at, inline, invoke
from .vectors import BYTES, lanes, vload, vstore


def transpose(element: Any) -> Any:
    """An intrinsic (source, source_row, target, target_row) -> None: transposes a square of lanes(element) rows; addresses and strides in bytes."""
    n = lanes(element)
    bits = element.bitwidth

    @intrinsic
    def square(typingctx: Any, source: Any, source_row: Any, target: Any, target_row: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.VectorType(context.get_value_type(element), n)
            i64 = ir.IntType(64)
            x, x_row, y, y_row = args

            def place(base: Any, step: Any, i: int) -> Any:
                return builder.inttoptr(builder.add(base, builder.mul(step, ir.Constant(i64, i))), ir.PointerType(kind))

            index = ir.VectorType(ir.IntType(32), n)
            low = ir.Constant(index, [i // 2 + (n if i % 2 else 0) for i in range(n)])
            high = ir.Constant(index, [n // 2 + i // 2 + (n if i % 2 else 0) for i in range(n)])
            rows = [builder.load(place(x, x_row, i), align=bits // 8) for i in range(n)]
            left = n
            while left > 1:
                mixed = []
                for i in range(n // 2):
                    mixed += [builder.shuffle_vector(rows[i], rows[i + n // 2], mask) for mask in (low, high)]
                rows, left = mixed, left // 2
            for i, v in enumerate(rows):
                builder.store(v, place(y, y_row, i), align=bits // 8)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), codegen

    return square


def pack_panel(element: Any) -> Any:
    """A jitted helper (source, bk, bn, k, columns, out): `k` rows of `columns` <= NR columns at source + i * bk + j * bn (bytes) into a panel at `out`."""
    size, wide, n = element.bitwidth // 8, panel_columns(element), lanes(element)
    square = transpose(element)
    row = wide * size

    @inline
    def pack(source, bk, bn, k, columns, out):  # type: ignore[no-untyped-def]
        if columns < wide:
            y = at(out, element)
            for i in range(k * wide):
                y[i] = element(0)
        if bn == size and columns == wide:
            for i in range(k):
                for j in range(0, row, BYTES):
                    vstore(out + i * row + j, vload(source + i * bk + j, element))
        elif bn == size:
            for i in range(k):
                x, y = at(source + i * bk, element), at(out + i * row, element)
                for j in range(columns):
                    y[j] = x[j]
        elif bk == size:
            whole = k // n * n
            j0 = 0
            while j0 + n <= columns:
                for i in range(0, whole, n):
                    square(source + j0 * bn + i * size, bn, out + i * row + j0 * size, row)
                for j in range(j0, j0 + n):
                    x, y = at(source + j * bn, element), at(out + j * size, element)
                    for i in range(whole, k):
                        y[i * wide] = x[i]
                j0 += n
            for j in range(j0, columns):
                x, y = at(source + j * bn, element), at(out + j * size, element)
                for i in range(k):
                    y[i * wide] = x[i]
        else:
            for i in range(k):
                y = at(out + i * row, element)
                for j in range(columns):
                    y[j] = at(source + i * bk + j * bn, element)[0]

    return pack


def fetch_strided(element: Any) -> Callable[..., int]:
    """From memory of the compute type. Words: 0 address  1 bk  2 bn (bytes)  3 N."""
    pack, wide = pack_panel(element), panel_columns(element)

    def fetch(w, origin, panel, k0, k, out):  # type: ignore[no-untyped-def]
        pack(w[0] + origin + k0 * w[1] + panel * wide * w[2], w[1], w[2], k, min(wide, w[3] - panel * wide), out)
        return 0

    return fetch


def fetch_program(element: Any) -> Callable[..., int]:
    """Through a program over a box [batch..., K, N] with a result of the compute type. Words: 0 program  1 `box.run`  2 (unused)  3 N."""
    wide = panel_columns(element)
    row = wide * element.bitwidth // 8

    def fetch(w, origin, panel, k0, k, out):  # type: ignore[no-untyped-def]
        n0 = panel * wide
        n1 = min(n0 + wide, w[3])
        invoke(w[1], (w[0], origin + k0, origin + k0 + k, n0, n1, 0, 0, out, row))
        if n1 - n0 < wide:
            for i in range(k):
                y = at(out + i * row, element)
                for j in range(n1 - n0, wide):
                    y[j] = element(0)
        return 0

    return fetch


def panels(element: Any) -> Callable[..., int]:
    """Packs matrices. Words: 0 fetch  1 its words  2 out  3 panels of a matrix  4 K  5 bytes of a panel  6 batch axes, then size and origin step of each.

    A unit is a panel; those of a matrix lie one after the other, then those of the next.
    """

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        for unit in range(begin, end):
            matrix = unit // w[3]
            origin = 0
            left = matrix
            for d in range(w[6] - 1, -1, -1):
                q = left // w[7 + 2 * d]
                origin += (left - q * w[7 + 2 * d]) * w[8 + 2 * d]
                left = q
            invoke(w[0], (w[1], origin, unit - matrix * w[3], 0, w[4], w[2] + unit * w[5]))
        return 0

    return kernel
