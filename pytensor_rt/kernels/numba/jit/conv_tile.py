"""The register tiles of convolutions: sums over taps of products of pixels, which are found by address, with packed filters.

Kinds name what one step of the sum multiplies: "f32" and "f64" numbers; "i16" two int16 of a 32-bit word with two others, summed in int32;
"u8" four uint8 of a 32-bit word with four int8, on machines with AVX512-VNNI.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .. import code
from .vectors import BYTES, _fma, _spread

I64, I32 = ir.IntType(64), ir.IntType(32)
_FEATURES = frozenset(code.cpu()[1].split(","))
_SCALAR = {"f32": ir.FloatType(), "f64": ir.DoubleType(), "i16": I32, "u8": I32}


def vector_of(kind: str) -> Any:
    """The vector register of a kind's sums."""
    scalar = _SCALAR[kind]
    return ir.VectorType(scalar, BYTES // size_of(kind))


def size_of(kind: str) -> int:
    """Bytes of a sum, and of what is read of a pixel in one step."""
    return 8 if kind == "f64" else 4


def align_of(kind: str) -> int:
    """Alignment of what is read of a pixel in one step."""
    return 1 if kind == "u8" else 2 if kind == "i16" else size_of(kind)


def load(builder: Any, address: Any, kind: Any, align: int) -> Any:
    """What lies at an address."""
    return builder.load(builder.inttoptr(address, ir.PointerType(kind)), align=align)


def plus(builder: Any, x: Any, n: int) -> Any:
    """x + n."""
    return builder.add(x, ir.Constant(I64, n)) if n else x


def lane_mask(builder: Any, n: Any, count: int) -> Any:
    """The first n of `count` lanes."""
    index = ir.Constant(ir.VectorType(I32, count), list(range(count)))
    wide = _spread(builder, builder.trunc(n, I32), count)
    return builder.icmp_signed("<", index, wide)


def masked_load(builder: Any, address: Any, kind: Any, mask: Any, align: int) -> Any:
    """A vector of which lanes outside of a mask are zero, and not read."""
    name = f"llvm.masked.load.v{kind.count}{_short(kind.element)}.p0"
    pointer = builder.inttoptr(address, ir.PointerType(kind))
    signature = ir.FunctionType(kind, [pointer.type, I32, mask.type, kind])
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    return builder.call(function, [pointer, ir.Constant(I32, align), mask, ir.Constant(kind, None)])


def masked_store(builder: Any, address: Any, value: Any, mask: Any, align: int) -> None:
    """Store the lanes of a mask."""
    kind = value.type
    name = f"llvm.masked.store.v{kind.count}{_short(kind.element)}.p0"
    pointer = builder.inttoptr(address, ir.PointerType(kind))
    signature = ir.FunctionType(ir.VoidType(), [kind, pointer.type, I32, mask.type])
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    builder.call(function, [value, pointer, ir.Constant(I32, align), mask])


def _short(element: Any) -> str:
    return {"float": "f32", "double": "f64"}.get(str(element), str(element))


def _dot16(builder: Any, a: Any, b: Any, total: Any) -> Any:
    """total + the sums of the products of the int16 pairs in the words of a and b."""
    n = total.type.count
    words = ir.VectorType(I32, n)
    if BYTES == 64 and "+avx512vnni" in _FEATURES:
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(words, [words] * 3), "llvm.x86.avx512.vpdpwssd.512")
        return builder.call(function, [total, a, b])
    name = {64: "+avx512bw", 32: "+avx2", 16: "+sse2"}[BYTES]
    if name in _FEATURES:
        halves = ir.VectorType(ir.IntType(16), 2 * n)
        symbol = {64: "llvm.x86.avx512.pmaddw.d.512", 32: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.sse2.pmadd.wd"}[BYTES]
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(words, [halves] * 2), symbol)
        return builder.add(total, builder.call(function, [builder.bitcast(a, halves), builder.bitcast(b, halves)]))
    shift = ir.Constant(words, [16] * n)
    low = builder.mul(builder.ashr(builder.shl(a, shift), shift), builder.ashr(builder.shl(b, shift), shift))
    return builder.add(total, builder.add(low, builder.mul(builder.ashr(a, shift), builder.ashr(b, shift))))


def _dot8(builder: Any, a: Any, b: Any, total: Any) -> Any:
    """total + the sums of the products of the four uint8 in the words of a with the four int8 in those of b."""
    words = ir.VectorType(I32, total.type.count)
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(words, [words] * 3), "llvm.x86.avx512.vpdpbusd.512")
    return builder.call(function, [total, a, b])


def multiply_add(builder: Any, kind: str, a: Any, b: Any, total: Any) -> Any:
    """One step of a sum."""
    return {"i16": _dot16, "u8": _dot8}.get(kind, _fma)(builder, a, b, total)


def limited(builder: Any, value: Any, low: Any, high: Any) -> Any:
    """min(high, max(low, value)); a NaN stays."""
    value = builder.select(builder.fcmp_ordered("<", value, low), low, value)
    return builder.select(builder.fcmp_ordered(">", value, high), high, value)


class Finish:
    """What happens to sums: limits, then a residual and limits again, for floats; and the store of the first `lanes` columns.

    `limits` is the address of four numbers, `residual` that of the addresses of its rows or 0, `out` that of the addresses of the output's rows; `add`
    is added to both.
    """

    def __init__(self, builder: Any, kind: str, out: Any, add: Any, lanes: Any, residual: Any, limits: Any) -> None:
        self.b, self.kind, self.out, self.add, self.lanes, self.residual = builder, kind, out, add, lanes, residual
        self.vector = vector_of(kind)
        n = self.vector.count
        self.limits = []
        if kind[0] == "f":
            scalar = self.vector.element
            self.limits = [_spread(builder, load(builder, plus(builder, limits, k * size_of(kind)), scalar, 1), n) for k in range(4)]

    def __call__(self, held: list[list[Any]]) -> None:
        """held[i][j]: where the sums of row i, vector j, lie on the stack."""
        b, n = self.b, self.vector.count
        vectors = len(held[0])
        whole = b.icmp_signed(">=", self.lanes, ir.Constant(I64, vectors * n))
        with b.if_else(whole) as (then, otherwise):
            with then:
                self._rows(held, None)
            with otherwise:
                self._rows(held, [lane_mask(b, plus(b, self.lanes, -j * n), n) for j in range(vectors)])

    def _rows(self, held: list[list[Any]], masks: Any) -> None:
        b = self.b
        if self.kind[0] == "f":
            with b.if_else(b.icmp_signed("!=", self.residual, ir.Constant(I64, 0))) as (then, otherwise):
                with then:
                    self._store(held, masks, True)
                with otherwise:
                    self._store(held, masks, False)
        else:
            self._store(held, masks, False)

    def _store(self, held: list[list[Any]], masks: Any, residual: bool) -> None:
        b, align = self.b, size_of(self.kind)
        for i, row in enumerate(held):
            to = b.add(load(b, plus(b, self.out, 8 * i), I64, 8), self.add)
            source = b.add(load(b, plus(b, self.residual, 8 * i), I64, 8), self.add) if residual else None
            for j, h in enumerate(row):
                v = b.load(h)
                if self.limits:
                    v = limited(b, v, *self.limits[:2])
                if source is not None:
                    at = plus(b, source, j * BYTES)
                    r = load(b, at, self.vector, align) if masks is None else masked_load(b, at, self.vector, masks[j], align)
                    v = limited(b, b.fadd(v, r), *self.limits[2:])
                if masks is None:
                    b.store(v, b.inttoptr(plus(b, to, j * BYTES), ir.PointerType(self.vector)), align=align)
                else:
                    masked_store(b, plus(b, to, j * BYTES), v, masks[j], align)


def _product(rows: int, vectors: int, kind: str) -> Any:
    @intrinsic
    def product(
        typingctx: Any, taps: Any, k: Any, table: Any, pitch: Any, add: Any, b: Any, b_step: Any, bias: Any, out: Any, out_add: Any,
        lanes: Any, residual: Any, limits: Any
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            taps_, k_, table_, pitch_, add_, b_, b_step_, bias_, out_, out_add_, lanes_, residual_, limits_ = [
                context.cast(builder, v, t, types.int64) for v, t in zip(args, signature.args)
            ]
            vector, size, align = vector_of(kind), size_of(kind), align_of(kind)
            with builder.goto_entry_block():
                held = [[builder.alloca(vector) for _ in range(vectors)] for _ in range(rows)]
                at_b = builder.alloca(I64)
            for j in range(vectors):
                first = load(builder, plus(builder, bias_, j * BYTES), vector, 4)
                for i in range(rows):
                    builder.store(first, held[i][j])
            builder.store(b_, at_b)
            with cgutils.for_range(builder, taps_) as tap:
                line = builder.add(table_, builder.mul(tap.index, pitch_))
                pixels = [builder.add(load(builder, plus(builder, line, 8 * i), I64, 8), add_) for i in range(rows)]
                with cgutils.for_range(builder, k_) as loop:
                    here = builder.load(at_b)
                    offset = builder.mul(loop.index, ir.Constant(I64, size))
                    bs = [load(builder, plus(builder, here, j * BYTES), vector, 4) for j in range(vectors)]
                    for i in range(rows):
                        value = _spread(builder, load(builder, builder.add(pixels[i], offset), vector.element, align), vector.count)
                        for j in range(vectors):
                            h = held[i][j]
                            builder.store(multiply_add(builder, kind, value, bs[j], builder.load(h)), h)
                    builder.store(builder.add(here, b_step_), at_b)
            Finish(builder, kind, out_, out_add_, lanes_, residual_, limits_)(held)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 13), codegen

    return product


def product(rows: int, vectors: int, kind: str) -> Callable[..., int]:
    """The sums of `rows` pixels and `vectors` vectors of filters.

    Pixel i of tap t lies at the address in the table, at table + t * pitch + 8 * i, plus `add`; k words of it are multiplied by the vectors at b, which
    goes on by b_step after every word. Sums start from the vectors at `bias`. The rest: see Finish.
    """
    tile = _product(rows, vectors, kind)

    def run(taps, k, table, pitch, add, b, b_step, bias, out, out_add, lanes, residual, limits):  # type: ignore[no-untyped-def]
        tile(taps, k, table, pitch, add, b, b_step, bias, out, out_add, lanes, residual, limits)
        return 0

    return run
