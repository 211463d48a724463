"""gemm of up to four rows with a constant B of 8- or 4-bit integers: weights are widened and scaled in registers, on the way to the product.

Weights and sums are those of gemm_narrow.fetch_scaled and gemm_tile.product, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import float32 as F
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .gemm_narrow import integers
from .gemm_tile import VECTORS, panel_columns
from .intrinsics import at, inline, invoke
from .vectors import BYTES, _fma, _spread

NR = panel_columns(types.float32)
ROW = 4 * NR


def scaled_tile(rows: int, panels: int, form: str, zeros: bool) -> Any:
    """An intrinsic (k, a, a_row, b, b_panel, c, c_row, more, scale, scale_panel, zero, zero_panel): `rows` x `panels` sums over k values of one block.

    As gemm_tile.block_tile, of float32 a (dense along k) and stored integers b. With 4 bits, k starts even; an odd k leaves out the last high half.
    """
    narrow = form.endswith("int4")
    n = panels * VECTORS

    @intrinsic
    def product(
        typingctx: Any, k: Any, a: Any, a_row: Any, b: Any, b_panel: Any, c: Any, c_row: Any, more: Any, scale: Any, scale_panel: Any, zero: Any,
        zero_panel: Any,
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            i64 = ir.IntType(64)
            count, a0, a_row_, b0, b_panel_, c0, c_row_, more_, scale0, scale_panel_, zero0, zero_panel_ = [
                context.cast(builder, v, t, types.int64) for v, t in zip(args, signature.args)
            ]
            scalar = ir.FloatType()
            kind = ir.VectorType(scalar, BYTES // 4)

            def plus(x: Any, m: int) -> Any:
                return builder.add(x, ir.Constant(i64, m)) if m else x

            def place(base: Any, step: Any, p: int, more_bytes: int) -> Any:
                return plus(builder.add(base, builder.mul(step, ir.Constant(i64, p))), more_bytes)

            def load(address: Any) -> Any:
                return builder.load(builder.inttoptr(address, ir.PointerType(kind)), align=4)

            scales = [load(place(scale0, scale_panel_, j // VECTORS, j % VECTORS * BYTES)) for j in range(n)]
            shifts = [load(place(zero0, zero_panel_, j // VECTORS, j % VECTORS * BYTES)) for j in range(n)] if zeros else []
            places = [place(c0, c_row_, i, j * BYTES) for i in range(rows) for j in range(n)]
            with builder.goto_entry_block():
                held = [builder.alloca(kind) for _ in places]
            with builder.if_else(builder.icmp_signed("!=", more_, ir.Constant(i64, 0))) as (then, otherwise):
                with then:
                    for h, p in zip(held, places):
                        builder.store(load(p), h)
                with otherwise:
                    for h in held:
                        builder.store(ir.Constant(kind, [0.0] * kind.count), h)
            at_panels = [builder.add(b0, builder.mul(b_panel_, ir.Constant(i64, p))) for p in range(panels)]

            def step(row: Any, at_a: Any, high: bool) -> None:
                ws = []
                for j in range(n):
                    w = integers(builder, form, high, plus(builder.add(at_panels[j // VECTORS], row), j % VECTORS * (BYTES // 4)), kind)
                    w = builder.fsub(w, shifts[j]) if zeros else w
                    ws.append(builder.fmul(w, scales[j]))
                for i in range(rows):
                    address = builder.add(at_a, builder.mul(a_row_, ir.Constant(i64, i)))
                    spread = _spread(builder, builder.load(builder.inttoptr(address, ir.PointerType(scalar))), kind.count)
                    for j in range(n):
                        h = held[i * n + j]
                        builder.store(_fma(builder, spread, ws[j], builder.load(h)), h)

            steps = builder.ashr(count, ir.Constant(i64, 1)) if narrow else count
            with cgutils.for_range(builder, steps) as loop:
                row = builder.mul(loop.index, ir.Constant(i64, NR))
                at_a = builder.add(a0, builder.mul(loop.index, ir.Constant(i64, 8 if narrow else 4)))
                step(row, at_a, False)
                if narrow:
                    step(row, plus(at_a, 4), True)
            if narrow:
                with builder.if_then(builder.trunc(count, ir.IntType(1))):
                    row = builder.mul(steps, ir.Constant(i64, NR))
                    step(row, builder.add(a0, builder.mul(steps, ir.Constant(i64, 8))), False)
            for h, p in zip(held, places):
                builder.store(builder.load(h), builder.inttoptr(p, ir.PointerType(kind)), align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12), codegen

    return product


def scaled(form: str, zeros: int) -> Callable[..., int]:
    """The kernel. Words: 0 M (at most 4)  1 N  2 K  3 panels of a block  4 panel groups  5 panels  6 a (dense along k)  7 row stride
    8 to 14 those of gemm_narrow.fetch_scaled (14: even, or at least K, for 4 bits)  15 results of a block (slots)  16 step  17 row stride
    18 y, or 0  19 its row stride  20 the program  21 box.run  22 batch axes, and for each: size, steps of a and y.

    Strides in bytes. A unit is a panel group of one batch."""
    wide = BYTES == 64  # registers for several panels
    together = [4 if wide else 2, 2 if wide else 1, 2 if wide else 1, 2 if wide else 1]
    single = [scaled_tile(m, 1, form, bool(zeros)) for m in range(1, 5)]
    several = [scaled_tile(m, together[m - 1], form, bool(zeros)) for m in range(1, 5)]
    one1, one2, one3, one4 = single
    all1, all2, all3, all4 = several
    most1, most2, most3, most4 = together
    half = 2 if form.endswith("int4") else 1

    @inline
    def tile(m, n, k, a, a_row, b, b_panel, c, c_row, more, scale, scale_panel, zero, zero_panel):  # type: ignore[no-untyped-def]
        """m rows of n panels, one block of k."""
        if m == 1:
            if n == 1:
                one1(k, a, a_row, b, b_panel, c, c_row, more, scale, scale_panel, zero, zero_panel)
            else:
                all1(k, a, a_row, b, b_panel, c, c_row, more, scale, scale_panel, zero, zero_panel)
        elif m == 2:
            if n == 1:
                one2(k, a, a_row, b, b_panel, c, c_row, more, scale, scale_panel, zero, zero_panel)
            else:
                all2(k, a, a_row, b, b_panel, c, c_row, more, scale, scale_panel, zero, zero_panel)
        elif m == 3:
            if n == 1:
                one3(k, a, a_row, b, b_panel, c, c_row, more, scale, scale_panel, zero, zero_panel)
            else:
                all3(k, a, a_row, b, b_panel, c, c_row, more, scale, scale_panel, zero, zero_panel)
        elif n == 1:
            one4(k, a, a_row, b, b_panel, c, c_row, more, scale, scale_panel, zero, zero_panel)
        else:
            all4(k, a, a_row, b, b_panel, c, c_row, more, scale, scale_panel, zero, zero_panel)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        m, k_all, block = w[0], w[2], w[14]
        most = most1 if m == 1 else (most2 if m == 2 else (most3 if m == 3 else most4))
        held, pitch = w[15] + slot * w[16], w[17]
        for unit in range(begin, end):
            batch = unit // w[4]
            p0 = (unit - batch * w[4]) * w[3]
            p1 = min(w[5], p0 + w[3])
            a, y, left = w[6], w[18], batch
            for d in range(w[22] - 1, -1, -1):
                x = 23 + 3 * d
                q = left // w[x]
                a += (left - q * w[x]) * w[x + 1]
                if w[18] != 0:
                    y += (left - q * w[x]) * w[x + 2]
                left = q
            p = p0
            while p < p1:
                n = most if p + most <= p1 else 1
                k0, number = 0, 0
                c = held + (p - p0) * ROW
                while True:
                    k = min(block, k_all - k0)
                    scale, zero = w[10] + p * w[11] + number * ROW, w[12] + p * w[13] + number * ROW
                    tile(m, n, k, a + 4 * k0, w[7], w[8] + p * w[9] + k0 // half * NR, w[9], c, pitch, k0, scale, w[11], zero, w[13])
                    k0 += block
                    number += 1
                    if k0 >= k_all:
                        break
                p += n
            n1 = min(w[1], p1 * NR)
            if y != 0:
                for i in range(m):
                    to, v = at(y + i * w[19] + p0 * ROW, F), at(held + i * pitch, F)
                    for j in range(n1 - p0 * NR):
                        to[j] = v[j]
            else:
                invoke(w[21], (w[20], batch * m, batch * m + m, p0 * NR, n1, held, pitch, 0, 0))
        return 0

    return kernel
