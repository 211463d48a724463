"""Products of a block of rows with packed panels: the inner loops of gemm, conv, attention and recurrent.

A *panel* is NR = 2 vectors of columns of B (`panel_columns(X)`), stored [k][NR] without gaps, columns beyond N zero (jit/gemm_pack.py packs them). B that
lies along its columns can be multiplied in place: its "panels" are then NR elements apart, its rows `b_step` bytes.

Every element of C is summed in the order of k, one rounding per step (of integers: wrapping), whatever the number of rows, panels and calls (`more`): how a
problem is divided into calls does not change a bit of it.

Call the compiled product by its address, so that it is compiled once for all kernels: Fn("gemm_tile.product[float32]") among the words, and

    invoke(w[PRODUCT], (m, panels, k, a, a_row, a_step, b, b_panel, b_step, c, c_row, more))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .intrinsics import inline
from .vectors import BYTES, ROWS, _fma, _spread, lanes

VECTORS = 2  # of a panel
LINE = 64  # bytes of a cache line
AHEAD = 4096  # bytes by which few rows prefetch


def panel_columns(element: Any) -> int:
    """NR: columns of a panel of a type (float32, float64, int32, int64)."""
    return VECTORS * lanes(element)


def block_tile(rows: int, panels: int, element: Any, form: str = "") -> Any:
    """A register tile over `panels` panels: an intrinsic (k, a, a_row, a_step, b, b_panel, b_step, c, c_row, more, ahead, ahead_step) -> None.

    c[i, p * NR + j] = sum over k of a[i, k] * b[p][k, j], for i < rows, p < panels, j < NR; with `more`, added to what c holds. All arguments are 64-bit
    integers; addresses and strides in bytes. a (i, k) lies at a + i * a_row + k * a_step, panel p's row k at b + p * b_panel + k * b_step, c's row i at
    c + i * c_row. c and b need room for whole panels. Step k prefetches the cache line at ahead + k * ahead_step.

    Forms: "" b is of the type of a and c. "float16", "bfloat16": b is stored so, a and c are float32. "bf16": a and b are pairs of bfloat16 whose products
    are added up, k counts pairs. "vnni", "madd", "plain" (element: int32): k counts units of 32 bits whose products are added up, four unsigned bytes of a
    times four signed ones of b, or (the others) two times two 16-bit integers; no sum saturates.
    """
    scalar_type = types.int32 if form == "bf16" else element
    bits = element.bitwidth
    floats = isinstance(element, types.Float)
    load_bytes = BYTES // 2 if form in ("float16", "bfloat16") else BYTES

    @intrinsic
    def product(
        typingctx: Any, k: Any, a: Any, a_row: Any, a_step: Any, b: Any, b_panel: Any, b_step: Any, c: Any, c_row: Any, more: Any, ahead: Any,
        ahead_step: Any,
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            i64 = ir.IntType(64)
            count, a0, a_row_, a_step_, b0, b_panel_, b_step_, c0, c_row_, more_, ahead_, ahead_step_ = [
                context.cast(builder, v, t, types.int64) for v, t in zip(args, signature.args)
            ]
            scalar = context.get_value_type(scalar_type)
            kind = ir.VectorType(context.get_value_type(element), 8 * BYTES // bits)
            zero = ir.Constant(kind, [0.0 if floats else 0] * kind.count)
            align = bits // 8

            def times(x: Any, n: int) -> Any:
                return builder.mul(x, ir.Constant(i64, n))

            def plus(x: Any, n: int) -> Any:
                return builder.add(x, ir.Constant(i64, n)) if n else x

            def load(address: Any) -> Any:
                return builder.load(builder.inttoptr(address, ir.PointerType(kind)), align=align)

            def load_b(address: Any) -> Any:
                return _widened(builder, form, address, kind) if load_bytes < BYTES else load(address)

            def step(x: Any, y: Any, z: Any) -> Any:
                if form in ("bf16", "vnni", "madd", "plain"):
                    return _dot(builder, form, x, y, z)
                return _fma(builder, x, y, z) if floats else builder.add(builder.mul(x, y), z)

            n = panels * VECTORS
            places = [plus(builder.add(c0, times(c_row_, i)), j * BYTES) for i in range(rows) for j in range(n)]
            with builder.goto_entry_block():
                held = [builder.alloca(kind) for _ in places]
            with builder.if_else(builder.icmp_signed("!=", more_, ir.Constant(i64, 0))) as (then, otherwise):
                with then:
                    for h, p in zip(held, places):
                        builder.store(load(p), h)
                with otherwise:
                    for h in held:
                        builder.store(zero, h)
            rows_at = [builder.add(a0, times(a_row_, i)) for i in range(rows)]
            panels_at = [builder.add(b0, times(b_panel_, p)) for p in range(panels)]
            with cgutils.for_range(builder, count) as loop:
                at_b = builder.mul(loop.index, b_step_)
                at_a = builder.mul(loop.index, a_step_)
                bs = [load_b(plus(builder.add(panels_at[j // VECTORS], at_b), j % VECTORS * load_bytes)) for j in range(n)]
                _prefetch(builder, builder.add(ahead_, builder.mul(loop.index, ahead_step_)))
                for i in range(rows):
                    value = builder.load(builder.inttoptr(builder.add(rows_at[i], at_a), ir.PointerType(scalar)))
                    spread = _spread(builder, value, kind.count)
                    for j in range(n):
                        h = held[i * n + j]
                        builder.store(step(spread, bs[j], builder.load(h)), h)
            for h, p in zip(held, places):
                builder.store(builder.load(h), builder.inttoptr(p, ir.PointerType(kind)), align=align)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12), codegen

    return product


def _prefetch(builder: Any, address: Any) -> None:
    """Into the second-level cache, to be read."""
    i32, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
    builder.call(function, [builder.inttoptr(address, pointer), *[ir.Constant(i32, n) for n in (0, 2, 1)]])


def _widened(builder: Any, form: str, address: Any, kind: Any) -> Any:
    """A vector of float16 or bfloat16 as float32."""
    if form == "float16":
        narrow = ir.VectorType(ir.HalfType(), kind.count)
        return builder.fpext(builder.load(builder.inttoptr(address, ir.PointerType(narrow)), align=2), kind)
    narrow, whole = (ir.VectorType(ir.IntType(n), kind.count) for n in (16, 32))
    v = builder.zext(builder.load(builder.inttoptr(address, ir.PointerType(narrow)), align=2), whole)
    return builder.bitcast(builder.shl(v, ir.Constant(whole, [16] * kind.count)), kind)


def _dot(builder: Any, form: str, x: Any, y: Any, z: Any) -> Any:
    """z plus the sums of products of x's and y's parts."""
    kind = z.type
    integers = ir.VectorType(ir.IntType(32), kind.count)
    if form == "plain":
        sixteen = ir.Constant(integers, [16] * kind.count)
        lows = [builder.ashr(builder.shl(v, sixteen), sixteen) for v in (x, y)]
        highs = [builder.ashr(v, sixteen) for v in (x, y)]
        return builder.add(builder.add(z, builder.mul(*lows)), builder.mul(*highs))
    if form == "madd":
        name = {64: "avx512.pmaddw.d.512", 32: "avx2.pmadd.wd", 16: "sse2.pmadd.wd"}[BYTES]
        halves = ir.VectorType(ir.IntType(16), 2 * kind.count)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [halves] * 2), f"llvm.x86.{name}")
        return builder.add(z, builder.call(function, [builder.bitcast(x, halves), builder.bitcast(y, halves)]))
    name = "avx512bf16.dpbf16ps" if form == "bf16" else "avx512.vpdpbusd"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind, integers, integers]), f"llvm.x86.{name}.{8 * BYTES}"
    )
    return builder.call(function, [z, x, builder.bitcast(y, integers)])


def panel_product(element: Any, form: str = "") -> Any:
    """A jitted helper (m, panels, k, a, a_row, a_step, b, b_panel, b_step, c, c_row, more) for kernels that would rather inline the product: C [m,
    panels * NR] = A [m, k] times `panels` panels, as `block_tile` says. m rows are divided into tiles of nearly equal heights; up to four rows take several
    panels at once, so that enough sums are under way. It is a lot of code: where calls are long enough, call `product` by its address. `form`: see block_tile.
    """
    size = element.bitwidth // 8
    width = panel_columns(element) * size  # bytes of a panel's row of C
    row = width // 2 if form in ("float16", "bfloat16") else width  # and of B
    t = [None, *[block_tile(r, 1, element, form) for r in range(1, ROWS + 1)]]
    wide = [None, *[block_tile(r, n, element, form) for r, n in ((1, 4), (2, 2), (3, 2), (4, 2))]]
    while len(t) <= 12:
        t.append(t[ROWS])
    t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, t12 = t[1:]
    w1, w2, w3, w4 = wide[1:]
    most = ROWS
    fours = BYTES == 64  # registers for 4 rows of two panels

    @inline
    def several(m, p, panels, k, a, a_row, a_step, b, b_panel, b_step, c, c_row, more):  # type: ignore[no-untyped-def]
        """As many panels as go several at a time, from panel p on; the first panel left."""
        if m == 1:
            while p + 4 <= panels:
                w1(k, a, a_row, a_step, b + p * b_panel, b_panel, b_step, c + p * width, c_row, more, b + p * b_panel + AHEAD, b_step)
                p += 4
        elif m == 2:
            while p + 2 <= panels:
                w2(k, a, a_row, a_step, b + p * b_panel, b_panel, b_step, c + p * width, c_row, more, b + p * b_panel + AHEAD, b_step)
                p += 2
        elif m == 3:
            while p + 2 <= panels:
                w3(k, a, a_row, a_step, b + p * b_panel, b_panel, b_step, c + p * width, c_row, more, b + p * b_panel + AHEAD, b_step)
                p += 2
        elif fours and m == 4:
            while p + 2 <= panels:
                w4(k, a, a_row, a_step, b + p * b_panel, b_panel, b_step, c + p * width, c_row, more, b + p * b_panel + AHEAD, b_step)
                p += 2
        return p

    @inline
    def one(h, k, a, a_row, a_step, b, b_step, c, c_row, more, ahead, ahead_step):  # type: ignore[no-untyped-def]
        """One tile of h rows and one panel."""
        if most > 6 and h > 6:
            if h > 10:
                if h == 12:
                    t12(k, a, a_row, a_step, b, 0, b_step, c, c_row, more, ahead, ahead_step)
                else:
                    t11(k, a, a_row, a_step, b, 0, b_step, c, c_row, more, ahead, ahead_step)
            elif h == 10:
                t10(k, a, a_row, a_step, b, 0, b_step, c, c_row, more, ahead, ahead_step)
            elif h == 9:
                t9(k, a, a_row, a_step, b, 0, b_step, c, c_row, more, ahead, ahead_step)
            elif h == 8:
                t8(k, a, a_row, a_step, b, 0, b_step, c, c_row, more, ahead, ahead_step)
            else:
                t7(k, a, a_row, a_step, b, 0, b_step, c, c_row, more, ahead, ahead_step)
        elif most > 4 and h > 4:
            if h == 6:
                t6(k, a, a_row, a_step, b, 0, b_step, c, c_row, more, ahead, ahead_step)
            else:
                t5(k, a, a_row, a_step, b, 0, b_step, c, c_row, more, ahead, ahead_step)
        elif h == 4:
            t4(k, a, a_row, a_step, b, 0, b_step, c, c_row, more, ahead, ahead_step)
        elif h == 3:
            t3(k, a, a_row, a_step, b, 0, b_step, c, c_row, more, ahead, ahead_step)
        elif h == 2:
            t2(k, a, a_row, a_step, b, 0, b_step, c, c_row, more, ahead, ahead_step)
        else:
            t1(k, a, a_row, a_step, b, 0, b_step, c, c_row, more, ahead, ahead_step)

    @inline
    def run(m, panels, k, a, a_row, a_step, b, b_panel, b_step, c, c_row, more):  # type: ignore[no-untyped-def]
        p = several(m, 0, panels, k, a, a_row, a_step, b, b_panel, b_step, c, c_row, more) if m <= 4 else 0
        tiles = (m + most - 1) // most
        low = m // tiles if tiles > 0 else 0
        extra = m - low * tiles
        while p < panels:
            i = 0
            following = b + (p + 1) * b_panel
            for tile in range(tiles):
                h = low + 1 if tile < extra else low
                # the first tiles of a panel prefetch parts of the next one, a line per step
                if b_step == row:
                    ahead, ahead_step = following + tile * k * LINE, LINE
                else:
                    ahead, ahead_step = following + tile * LINE, b_step
                if tile * LINE >= row:
                    ahead_step = 0
                one(h, k, a + i * a_row, a_row, a_step, b + p * b_panel, b_step, c + p * width + i * c_row, c_row, more, ahead, ahead_step)
                i += h
            p += 1

    return run


def product(element: Any) -> Callable[..., int]:
    """The compiled product, to be called by its address: see `panel_product` for its arguments; it returns 0. For float32, float64, int32, int64."""
    run = panel_product(element)

    def call(m, panels, k, a, a_row, a_step, b, b_panel, b_step, c, c_row, more):  # type: ignore[no-untyped-def]
        run(m, panels, k, a, a_row, a_step, b, b_panel, b_step, c, c_row, more)
        return 0

    return call


def halves(form: str) -> Callable[..., int]:
    """The compiled product of float32 rows with panels stored in float16 or bfloat16."""
    run = panel_product(types.float32, form)

    def call(m, panels, k, a, a_row, a_step, b, b_panel, b_step, c, c_row, more):  # type: ignore[no-untyped-def]
        run(m, panels, k, a, a_row, a_step, b, b_panel, b_step, c, c_row, more)
        return 0

    return call


def dots(form: str) -> Callable[..., int]:
    """The compiled product of units of 32 bits, which k counts: "vnni", "madd" or "plain" with sums in int32, "bf16" in float32. See block_tile."""
    run = panel_product(types.float32 if form == "bf16" else types.int32, form)

    def call(m, panels, k, a, a_row, a_step, b, b_panel, b_step, c, c_row, more):  # type: ignore[no-untyped-def]
        run(m, panels, k, a, a_row, a_step, b, b_panel, b_step, c, c_row, more)
        return 0

    return call
