"""gemm of up to four rows with a B that lies along k: sums of products of vectors, read in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .intrinsics import at, inline, invoke
from .vectors import BYTES, _fma, lanes


def dot_tile(rows: int, columns: int, element: Any) -> Any:
    """An intrinsic (k, a, a_row, b, b_column, c, c_row): c[i, j] = sum over k of a[i, k] * b[j, k], for i < rows and j < columns, a power of 2 of at most
    lanes(element). k is a multiple of lanes(element); each lane sums its own values, then lanes are added by halves. Strides in bytes; c is dense along j.
    """
    n = lanes(element)

    @intrinsic
    def product(typingctx: Any, k: Any, a: Any, a_row: Any, b: Any, b_column: Any, c: Any, c_row: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            i64 = ir.IntType(64)
            count, a0, a_row_, b0, b_column_, c0, c_row_ = [context.cast(builder, v, t, types.int64) for v, t in zip(args, signature.args)]
            kind = ir.VectorType(context.get_value_type(element), n)
            align = element.bitwidth // 8

            def place(base: Any, step: Any, i: int) -> Any:
                return builder.add(base, builder.mul(step, ir.Constant(i64, i)))

            def load(address: Any) -> Any:
                return builder.load(builder.inttoptr(address, ir.PointerType(kind)), align=align)

            with builder.goto_entry_block():
                held = [builder.alloca(kind) for _ in range(rows * columns)]
            for h in held:
                builder.store(ir.Constant(kind, [0.0] * n), h)
            at_rows, at_columns = [place(a0, a_row_, i) for i in range(rows)], [place(b0, b_column_, j) for j in range(columns)]
            with cgutils.for_range(builder, builder.sdiv(count, ir.Constant(i64, n))) as loop:
                step = builder.mul(loop.index, ir.Constant(i64, BYTES))
                xs = [load(builder.add(r, step)) for r in at_rows]
                for j in range(columns):
                    y = load(builder.add(at_columns[j], step))
                    for i in range(rows):
                        h = held[i * columns + j]
                        builder.store(_fma(builder, xs[i], y, builder.load(h)), h)
            for i in range(rows):
                v = _added(builder, [builder.load(h) for h in held[i * columns : (i + 1) * columns]], n)
                builder.store(v, builder.inttoptr(place(c0, c_row_, i), ir.PointerType(v.type)), align=align)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), codegen

    return product


def _added(builder: Any, vs: list[Any], n: int) -> Any:
    """The sums over the lanes of each vector, as one short vector: halves are added while vectors interleave."""

    def mixed(x: Any, y: Any, index: list[int]) -> Any:
        return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), len(index)), index))

    low = [i // 2 + (n if i % 2 else 0) for i in range(n)]
    high = [n // 2 + i // 2 + (n if i % 2 else 0) for i in range(n)]
    columns = len(vs)
    while len(vs) > 1:
        half = len(vs) // 2
        vs = [builder.fadd(mixed(vs[i], vs[i + half], low), mixed(vs[i], vs[i + half], high)) for i in range(half)]
    v, left = vs[0], n
    while left > columns:
        left //= 2
        v = builder.fadd(mixed(v, v, list(range(left))), mixed(v, v, list(range(left, 2 * left))))
    return v


def products(element: Any) -> Callable[..., int]:
    """The kernel, for float32 and float64. Words: 0 M (at most 4)  1 N  2 K  3 columns of a block  4 column groups  5 a (dense along k)  6 row stride
    7 b (dense along k)  8 column stride  9 results of a block (slots)  10 step  11 row stride  12 y, or 0  13 its row stride  14 the program  15 box.run
    16 batch axes, and for each: size, steps of a, b and y. Strides in bytes. A unit is a column group of one batch."""
    size, n = element.bitwidth // 8, lanes(element)
    wide = BYTES == 64
    together = [min(n, c) for c in ((8, 8, 4, 4) if wide else (8, 4, 2, 2))]
    one1, one2, one3, one4 = [dot_tile(m, 1, element) for m in range(1, 5)]
    all1, all2, all3, all4 = [dot_tile(m, together[m - 1], element) for m in range(1, 5)]
    most1, most2, most3, most4 = together

    @inline
    def tile(m, columns, k, a, a_row, b, b_column, c, c_row):  # type: ignore[no-untyped-def]
        """m rows of one or of the most columns."""
        if m == 1:
            if columns == 1:
                one1(k, a, a_row, b, b_column, c, c_row)
            else:
                all1(k, a, a_row, b, b_column, c, c_row)
        elif m == 2:
            if columns == 1:
                one2(k, a, a_row, b, b_column, c, c_row)
            else:
                all2(k, a, a_row, b, b_column, c, c_row)
        elif m == 3:
            if columns == 1:
                one3(k, a, a_row, b, b_column, c, c_row)
            else:
                all3(k, a, a_row, b, b_column, c, c_row)
        elif columns == 1:
            one4(k, a, a_row, b, b_column, c, c_row)
        else:
            all4(k, a, a_row, b, b_column, c, c_row)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        m, k_all = w[0], w[2]
        whole = k_all // n * n
        most = most1 if m == 1 else (most2 if m == 2 else (most3 if m == 3 else most4))
        for unit in range(begin, end):
            batch = unit // w[4]
            n0 = (unit - batch * w[4]) * w[3]
            n1 = min(w[1], n0 + w[3])
            a, b, y, left = w[5], w[7], w[12], batch
            for d in range(w[16] - 1, -1, -1):
                x = 17 + 4 * d
                q = left // w[x]
                i = left - q * w[x]
                left = q
                a += i * w[x + 1]
                b += i * w[x + 2]
                if w[12] != 0:
                    y += i * w[x + 3]
            if y != 0:
                c, c_row = y + n0 * size, w[13]
            else:
                c, c_row = w[9] + slot * w[10], w[11]
            j = n0
            while j < n1:
                columns = most if j + most <= n1 else 1
                to = c + (j - n0) * size
                tile(m, columns, whole, a, w[6], b + j * w[8], w[8], to, c_row)
                for i in range(m):
                    for q in range(columns):
                        x, v = at(a + i * w[6], element), at(b + (j + q) * w[8], element)
                        total = at(to + i * c_row, element)[q]
                        for k in range(whole, k_all):
                            total += x[k] * v[k]
                        at(to + i * c_row, element)[q] = total
                j += columns
            if y == 0:
                invoke(w[15], (w[14], batch * m, batch * m + m, n0, n1, c, c_row, 0, 0))
        return 0

    return kernel
