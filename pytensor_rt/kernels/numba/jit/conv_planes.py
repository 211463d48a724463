"""Sums of convolutions, pixel by pixel, to an output that lies channel by channel: transposed in the cache, then through the epilogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import int32, int64, types
from numba.extending import intrinsic

from .conv_tile import I32, I64
from .intrinsics import at, invoke, stack
from .vectors import BYTES

PIXELS = 128  # that are transposed at a time


def _transpose(size: int) -> Any:
    n = BYTES // size
    kind = ir.VectorType(ir.IntType(8 * size), n)

    @intrinsic
    def transpose(typingctx: Any, source: Any, source_row: Any, to: Any, to_row: Any) -> Any:
        """A square of n x n elements, from rows of n to rows of n."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source_, row_, to_, to_row_ = [context.cast(builder, v, t, types.int64) for v, t in zip(args, signature.args)]

            def place(base: Any, by: Any, i: int) -> Any:
                return builder.inttoptr(builder.add(base, builder.mul(by, ir.Constant(I64, i))), ir.PointerType(kind))

            rows = [builder.load(place(source_, row_, i), align=size) for i in range(n)]
            index = ir.VectorType(I32, n)
            d = 1
            while d < n:
                for i in range(n):
                    if i & d == 0:
                        a, b = rows[i], rows[i + d]
                        low = [k if k & d == 0 else n + k - d for k in range(n)]
                        high = [k + d if k & d == 0 else n + k for k in range(n)]
                        rows[i] = builder.shuffle_vector(a, b, ir.Constant(index, low))
                        rows[i + d] = builder.shuffle_vector(a, b, ir.Constant(index, high))
                d *= 2
            for i in range(n):
                builder.store(rows[i], place(to_, to_row_, i), align=size)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), codegen

    return transpose


def run(size: int) -> Callable[..., int]:
    """As box.run, for rows that are output pixels in the order [N, d, h, w] and columns that are channels, elements of `size` bytes in rows with room
    for a vector behind the last channel: hands them to a program whose rows are planes and whose columns are pixels.

    0 box.run  1 the program  2 pixels of an image  3 channels
    """
    lanes = BYTES // size
    transpose = _transpose(size)
    X = int32 if size == 4 else int64
    room = PIXELS * BYTES

    def box(w, q0, q1, c0, c1, acc, acc_rs, out, out_rs):  # type: ignore[no-untyped-def]
        home = stack(room)
        q = q0
        while q < q1:
            image = q // w[2]
            first = q - image * w[2]
            n = min(min(PIXELS, w[2] - first), q1 - q)
            source = acc + (q - q0) * acc_rs
            squares = n // lanes * lanes
            for c in range(c0, c1, lanes):
                column = source + (c - c0) * size
                for i in range(0, squares, lanes):
                    transpose(column + i * acc_rs, acc_rs, home + i * size, PIXELS * size)
                for i in range(squares, n):
                    x, y = at(column + i * acc_rs, X), at(home + i * size, X)
                    for k in range(lanes):
                        y[k * PIXELS] = x[k]
                row = image * w[3] + c
                invoke(w[0], (w[1], row, row + min(lanes, c1 - c), first, first + n, home, PIXELS * size, 0, 0))
            q += n
        return 0

    return box
