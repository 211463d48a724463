"""The register tiles of depthwise convolutions: vectors of channels of several pixels, which are found by address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .conv_tile import I64, Finish, lane_mask, load, masked_load, plus, size_of, vector_of
from .vectors import BYTES, _fma

_SUM = {"f32": "f32", "f64": "f64", "uint8": "i16", "int8": "i16"}  # of elements: the kind of the sum (an int32 for bytes)


class _Sums:
    """Vectors of channels from c on of several pixels: their registers, and what is read for them."""

    def __init__(self, context: Any, builder: Any, element: str, rows: int, vectors: int) -> None:
        self.b, self.element, self.kind = builder, element, _SUM[element]
        self.vector, self.size = vector_of(self.kind), size_of(self.kind)
        self.bytes = self.kind == "i16"
        self.item = 1 if self.bytes else self.size
        self.n = self.vector.count
        self.stored = ir.VectorType(ir.IntType(8), self.n) if self.bytes else self.vector
        self.vectors = vectors
        with builder.goto_entry_block():
            self.held = [[builder.alloca(self.vector) for _ in range(vectors)] for _ in range(rows)]

    def begin(self, bias: Any) -> None:
        """Start from the biases at an address."""
        for j in range(self.vectors):
            first = load(self.b, plus(self.b, bias, j * BYTES), self.vector, 4)
            for row in self.held:
                self.b.store(first, row[j])

    def pixel(self, address: Any, masks: Any) -> list[Any]:
        """The channels at an address."""
        xs = []
        for j in range(self.vectors):
            where = plus(self.b, address, j * self.n * self.item)
            x = (
                load(self.b, where, self.stored, self.item)
                if masks is None
                else masked_load(self.b, where, self.stored, masks[j], self.item)
            )
            if self.bytes:
                x = self.b.zext(x, self.vector) if self.element == "uint8" else self.b.sext(x, self.vector)
            xs.append(x)
        return xs

    def filters(self, address: Any) -> list[Any]:
        """One tap's filters."""
        return [load(self.b, plus(self.b, address, j * BYTES), self.vector, 4) for j in range(self.vectors)]

    def add(self, i: int, xs: list[Any], bs: list[Any]) -> None:
        """Add products to pixel i's sums."""
        for x, f, h in zip(xs, bs, self.held[i]):
            total = self.b.load(h)
            self.b.store(self.b.add(total, self.b.mul(x, f)) if self.bytes else _fma(self.b, x, f, total), h)

    def masked(self, lanes: Any, body: Callable[[Any], None]) -> None:
        """Code for whole vectors, and for the first `lanes` channels only."""
        b = self.b
        whole = b.icmp_signed(">=", lanes, ir.Constant(I64, self.vectors * self.n))
        with b.if_else(whole) as (then, otherwise):
            with then:
                body(None)
            with otherwise:
                body([lane_mask(b, plus(b, lanes, -j * self.n), self.n) for j in range(self.vectors)])


def _tile(rows: int, vectors: int, element: str) -> Any:
    @intrinsic
    def tile(
        typingctx: Any,
        taps: Any,
        table: Any,
        pitch: Any,
        b: Any,
        b_tap: Any,
        bias: Any,
        out: Any,
        c: Any,
        lanes: Any,
        residual: Any,
        limits: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            taps_, table_, pitch_, b_, b_tap_, bias_, out_, c_, lanes_, residual_, limits_ = [
                context.cast(builder, v, t, types.int64) for v, t in zip(args, signature.args)
            ]
            s = _Sums(context, builder, element, rows, vectors)
            x_add, y_add = builder.mul(c_, ir.Constant(I64, s.item)), builder.mul(c_, ir.Constant(I64, s.size))
            s.begin(builder.add(bias_, y_add))

            def sums(masks: Any) -> None:
                with cgutils.for_range(builder, taps_) as tap:
                    line = builder.add(table_, builder.mul(tap.index, pitch_))
                    bs = s.filters(builder.add(builder.add(b_, y_add), builder.mul(tap.index, b_tap_)))
                    for i in range(rows):
                        s.add(i, s.pixel(builder.add(load(builder, plus(builder, line, 8 * i), I64, 8), x_add), masks), bs)

            s.masked(lanes_, sums)
            Finish(builder, s.kind, out_, y_add, lanes_, residual_, limits_)(s.held)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), codegen

    return tile


def _strip(rows: int, vectors: int, element: str, kernel: int, step: int, dilation: int) -> Any:
    @intrinsic
    def tile(
        typingctx: Any,
        taps: Any,
        table: Any,
        pitch: Any,
        b: Any,
        b_tap: Any,
        bias: Any,
        out: Any,
        c: Any,
        lanes: Any,
        residual: Any,
        limits: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            lines_, table_, pitch_, b_, b_tap_, bias_, out_, c_, lanes_, residual_, limits_ = [
                context.cast(builder, v, t, types.int64) for v, t in zip(args, signature.args)
            ]
            s = _Sums(context, builder, element, rows, vectors)
            x_add, y_add = builder.mul(c_, ir.Constant(I64, s.item)), builder.mul(c_, ir.Constant(I64, s.size))
            s.begin(builder.add(bias_, y_add))

            def sums(masks: Any) -> None:
                with cgutils.for_range(builder, lines_) as loop:
                    line = builder.add(table_, builder.mul(loop.index, pitch_))
                    first = builder.add(builder.add(b_, y_add), builder.mul(loop.index, builder.mul(b_tap_, ir.Constant(I64, kernel))))
                    bs = [s.filters(builder.add(first, builder.mul(b_tap_, ir.Constant(I64, k)))) for k in range(kernel)]
                    for j in range((rows - 1) * step + (kernel - 1) * dilation + 1):
                        users = [(i, k) for i in range(rows) for k in range(kernel) if i * step + k * dilation == j]
                        if users:
                            xs = s.pixel(builder.add(load(builder, plus(builder, line, 8 * j), I64, 8), x_add), masks)
                            for i, k in users:
                                s.add(i, xs, bs[k])

            s.masked(lanes_, sums)
            Finish(builder, s.kind, out_, y_add, lanes_, residual_, limits_)(s.held)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), codegen

    return tile


def channels(rows: int, vectors: int, element: str) -> Callable[..., int]:
    """All `count` channels of `rows` output pixels.

    Pixel i of tap t lies at the address in the table, at table + t * pitch + 8 * i; its filters at b + t * b_tap, one of the sum's type per channel,
    with room for whole vectors, as in `bias`, from which sums start. Elements: f32, f64, uint8, int8 (summed in int32). The rest: see conv_tile.Finish.
    """
    tile = _tile(rows, vectors, element)
    step = vectors * vector_of(_SUM[element]).count

    def run(taps, table, pitch, b, b_tap, bias, out, count, residual, limits):  # type: ignore[no-untyped-def]
        for c in range(0, count, step):
            tile(taps, table, pitch, b, b_tap, bias, out, c, count - c, residual, limits)
        return 0

    return run


def strip(rows: int, vectors: int, element: str, kernel: int, step: int, dilation: int) -> Callable[..., int]:
    """The same for neighbours in an output row: every input pixel is read once for all taps of a row of the window.

    `taps` are rows of the window, of `kernel` taps `dilation` apart; the table has the addresses of neighbouring input pixels from the first one's first
    tap on, a line per row of the window; output pixels are `step` apart in it.
    """
    tile = _strip(rows, vectors, element, kernel, step, dilation)
    by = vectors * vector_of(_SUM[element]).count

    def run(taps, table, pitch, b, b_tap, bias, out, count, residual, limits):  # type: ignore[no-untyped-def]
        for c in range(0, count, by):
            tile(taps, table, pitch, b, b_tap, bias, out, c, count - c, residual, limits)
        return 0

    return run
