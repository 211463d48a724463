"""The register tile of convolutions with few filters: vectors along the channels of a pixel, summed over lanes at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .conv_tile import I32, I64, lane_mask, limited, load, masked_load, plus, size_of, vector_of
from .vectors import BYTES, _fma


def _lane_sum(builder: Any, v: Any) -> Any:
    """The sum over lanes, by halves."""
    n = v.type.count
    while n > 1:
        n //= 2
        undefined = ir.Constant(v.type, ir.Undefined)
        index = ir.VectorType(I32, n)
        halves = [builder.shuffle_vector(v, undefined, ir.Constant(index, list(range(k, k + n)))) for k in (0, n)]
        v = builder.fadd(*halves)
    return builder.extract_element(v, ir.Constant(I32, 0))


def _product(rows: int, filters: int, kind: str) -> Any:
    vector, size = vector_of(kind), size_of(kind)
    n = vector.count

    @intrinsic
    def product(
        typingctx: Any,
        taps: Any,
        k: Any,
        table: Any,
        pitch: Any,
        add: Any,
        b: Any,
        bias: Any,
        out: Any,
        out_add: Any,
        residual: Any,
        limits: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            taps_, k_, table_, pitch_, add_, b_, bias_, out_, out_add_, residual_, limits_ = [
                context.cast(builder, v, t, types.int64) for v, t in zip(args, signature.args)
            ]
            with builder.goto_entry_block():
                held = [[builder.alloca(vector) for _ in range(filters)] for _ in range(rows)]
            for h in (h for line in held for h in line):
                builder.store(ir.Constant(vector, None), h)
            whole = builder.sdiv(k_, ir.Constant(I64, n))
            left = builder.sub(k_, builder.mul(whole, ir.Constant(I64, n)))
            tail = builder.icmp_signed(">", left, ir.Constant(I64, 0))
            vectors = builder.add(whole, builder.zext(tail, I64))
            of_filter = builder.mul(vectors, ir.Constant(I64, BYTES))
            of_tap = builder.mul(of_filter, ir.Constant(I64, filters))

            def step(pixels: list[Any], filters_at: Any, offset: Any, mask: Any) -> None:
                bs = [load(builder, builder.add(filters_at, builder.add(offset, builder.mul(of_filter, ir.Constant(I64, m)))), vector, size)
                      for m in range(filters)]  # fmt: skip
                for i, pixel in enumerate(pixels):
                    where = builder.add(pixel, offset)
                    x = load(builder, where, vector, size) if mask is None else masked_load(builder, where, vector, mask, size)
                    for f, h in zip(bs, held[i]):
                        builder.store(_fma(builder, x, f, builder.load(h)), h)

            mask = lane_mask(builder, left, n)
            with cgutils.for_range(builder, taps_) as tap:
                line = builder.add(table_, builder.mul(tap.index, pitch_))
                pixels = [builder.add(load(builder, plus(builder, line, 8 * i), I64, 8), add_) for i in range(rows)]
                filters_at = builder.add(b_, builder.mul(tap.index, of_tap))
                with cgutils.for_range(builder, whole) as loop:
                    step(pixels, filters_at, builder.mul(loop.index, ir.Constant(I64, BYTES)), None)
                with builder.if_then(tail):
                    step(pixels, filters_at, builder.mul(whole, ir.Constant(I64, BYTES)), mask)
            four = [load(builder, plus(builder, limits_, j * size), vector.element, size) for j in range(4)]
            adds = builder.icmp_signed("!=", residual_, ir.Constant(I64, 0))
            for i in range(rows):
                to = builder.add(load(builder, plus(builder, out_, 8 * i), I64, 8), out_add_)
                for m in range(filters):
                    v = builder.fadd(
                        _lane_sum(builder, builder.load(held[i][m])), load(builder, plus(builder, bias_, m * size), vector.element, size)
                    )
                    v = limited(builder, v, *four[:2])
                    place = builder.inttoptr(plus(builder, to, m * size), ir.PointerType(vector.element))
                    with builder.if_else(adds) as (then, otherwise):
                        with then:
                            source = builder.add(load(builder, plus(builder, residual_, 8 * i), I64, 8), out_add_)
                            r = load(builder, plus(builder, source, m * size), vector.element, size)
                            builder.store(limited(builder, builder.fadd(v, r), *four[2:]), place, align=size)
                        with otherwise:
                            builder.store(v, place, align=size)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), codegen

    return product


def product(rows: int, filters: int, kind: str) -> Callable[..., int]:
    """The sums of `rows` pixels and all `filters`, which lie at b as [taps][filters][k], k rounded up to whole vectors; arguments as those of
    conv_tile.product."""
    tile = _product(rows, filters, kind)

    def run(taps, k, table, pitch, add, b, b_step, bias, out, out_add, lanes, residual, limits):  # type: ignore[no-untyped-def]
        tile(taps, k, table, pitch, add, b, bias, out, out_add, residual, limits)
        return 0

    return run
