"""Convolution with 3x3 filters by Winograd's F(4, 3): tiles of 4x4 outputs from tiles of 6x6 inputs, with a quarter of the products.

y = A' [ (G w G') * (B' x B) ] A

The points of interpolation are 0, +-5/8, +-3/2 and infinity, as in csrc/cpu/winograd_transforms.h: half the rounding error of the usual +-1 and +-2.
The factors 1 / (P P Q Q), GP and GQ are applied to sums, in A, and not to filters: G is made of powers of P and Q alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import float64, int64, types
from numba.extending import intrinsic

from .conv_tile import I64, lane_mask, limited, load, masked_load, masked_store, plus, vector_of
from .intrinsics import at, inline, invoke, stack
from .vectors import BYTES, _fma, _spread

LANES = BYTES // 4
POSITIONS = 36
P, Q = 0.625, 1.5
PP, QQ = P * P, Q * Q
GP, GQ = 1 / (2 * PP * (PP - QQ)), 1 / (2 * QQ * (QQ - PP))


def _constant(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _input(b: Any, d: list[Any]) -> list[Any]:
    """B' times six vectors."""
    kind = d[0].type
    product, minus_sum, minus_pp, minus_qq, p, q = (_constant(kind, v) for v in (PP * QQ, -PP - QQ, -PP, -QQ, P, Q))
    near, far = _fma(b, minus_qq, d[2], d[4]), _fma(b, minus_pp, d[2], d[4])
    odd_near, odd_far = b.fmul(p, _fma(b, minus_qq, d[1], d[3])), b.fmul(q, _fma(b, minus_pp, d[1], d[3]))
    return [
        _fma(b, product, d[0], _fma(b, minus_sum, d[2], d[4])), b.fadd(near, odd_near), b.fsub(near, odd_near), b.fadd(far, odd_far),
        b.fsub(far, odd_far), _fma(b, product, d[1], _fma(b, minus_sum, d[3], d[5])),
    ]  # fmt: skip


def _output(b: Any, m: list[Any]) -> list[Any]:
    """A' times six vectors."""
    kind = m[0].type
    first = _constant(kind, 1 / (PP * QQ))
    p, q = ([_constant(kind, factor * point**k) for k in range(4)] for factor, point in ((GP, P), (GQ, Q)))
    s, t = b.fadd(m[1], m[2]), b.fsub(m[1], m[2])
    u, v = b.fadd(m[3], m[4]), b.fsub(m[3], m[4])
    return [
        _fma(b, first, m[0], _fma(b, p[0], s, b.fmul(q[0], u))), _fma(b, p[1], t, b.fmul(q[1], v)), _fma(b, p[2], s, b.fmul(q[2], u)),
        _fma(b, p[3], t, _fma(b, q[3], v, m[5])),
    ]  # fmt: skip


@intrinsic
def transform_input(typingctx: Any, table: Any, add: Any, lanes: Any, to: Any, apart: Any) -> Any:
    """36 vectors of channels of a tile, from the pixels whose addresses (plus `add`) are in a table, to `to` and every `apart` bytes after it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        table_, add_, lanes_, to_, apart_ = [context.cast(builder, v, t, types.int64) for v, t in zip(args, signature.args)]
        kind = vector_of("f32")

        def body(mask: Any) -> None:
            rows = []
            for i in range(6):
                line = []
                for j in range(6):
                    pixel = builder.add(load(builder, plus(builder, table_, 8 * (6 * i + j)), I64, 8), add_)
                    line.append(load(builder, pixel, kind, 4) if mask is None else masked_load(builder, pixel, kind, mask, 4))
                rows.append(_input(builder, line))
            for j in range(6):
                for i, v in enumerate(_input(builder, [rows[i][j] for i in range(6)])):
                    where = builder.add(to_, builder.mul(apart_, ir.Constant(I64, 6 * i + j)))
                    builder.store(v, builder.inttoptr(where, ir.PointerType(kind)), align=4)

        with builder.if_else(builder.icmp_signed(">=", lanes_, ir.Constant(I64, LANES))) as (then, otherwise):
            with then:
                body(None)
            with otherwise:
                body(lane_mask(builder, lanes_, LANES))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@intrinsic
def transform_output(
    typingctx: Any, source: Any, apart: Any, bias: Any, out: Any, add: Any, lanes: Any, residual: Any, limits: Any
) -> Any:  # fmt: skip
    """16 vectors of outputs from 36 at `source` and every `apart` bytes after it, plus biases; then as conv_tile.Finish, with tables of 16 addresses."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source_, apart_, bias_, out_, add_, lanes_, residual_, limits_ = [
            context.cast(builder, v, t, types.int64) for v, t in zip(args, signature.args)
        ]
        kind = vector_of("f32")
        four = [_spread(builder, load(builder, plus(builder, limits_, 4 * k), kind.element, 4), LANES) for k in range(4)]
        rows = []
        for i in range(6):
            line = [load(builder, builder.add(source_, builder.mul(apart_, ir.Constant(I64, 6 * i + j))), kind, 4) for j in range(6)]
            rows.append(_output(builder, line))
        first = load(builder, bias_, kind, 4)
        with builder.goto_entry_block():
            held = [builder.alloca(kind) for _ in range(16)]
        for j in range(4):
            for i, v in enumerate(_output(builder, [rows[i][j] for i in range(6)])):
                builder.store(limited(builder, builder.fadd(v, first), *four[:2]), held[4 * i + j])

        def body(mask: Any, more: bool) -> None:
            for k, h in enumerate(held):
                v = builder.load(h)
                if more:
                    at_ = builder.add(load(builder, plus(builder, residual_, 8 * k), I64, 8), add_)
                    r = load(builder, at_, kind, 4) if mask is None else masked_load(builder, at_, kind, mask, 4)
                    v = limited(builder, builder.fadd(v, r), *four[2:])
                to = builder.add(load(builder, plus(builder, out_, 8 * k), I64, 8), add_)
                if mask is None:
                    builder.store(v, builder.inttoptr(to, ir.PointerType(kind)), align=4)
                else:
                    masked_store(builder, to, v, mask, 4)

        whole = builder.icmp_signed(">=", lanes_, ir.Constant(I64, LANES))
        adds = builder.icmp_signed("!=", residual_, ir.Constant(I64, 0))
        with builder.if_else(whole) as (then, otherwise):
            with then, builder.if_else(adds) as (yes, no):
                with yes:
                    body(None, True)
                with no:
                    body(None, False)
            with otherwise:
                mask = lane_mask(builder, lanes_, LANES)
                with builder.if_else(adds) as (yes, no):
                    with yes:
                        body(mask, True)
                    with no:
                        body(mask, False)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), codegen


@inline
def _filter(a: Any, b: Any, c: Any, i: Any) -> Any:
    """Row i of G times three numbers."""
    if i == 0:
        return a
    if i == 1:
        return a + P * b + PP * c
    if i == 2:
        return a - P * b + PP * c
    if i == 3:
        return a + Q * b + QQ * c
    if i == 4:
        return a - Q * b + QQ * c
    return c


def filters() -> Callable[..., int]:
    """Filters as panels [panels][36][channels][wide] of float32, computed in float64; a unit is a panel.

    0 from  1 strides in bytes: of filters, 2 of channels, 3 of rows, 4 of columns  5 channels  6 filters  7 wide  8 to  9 memory.load of their dtype
    """

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        C, wide = w[5], w[7]
        loaded = stack(4608)  # 9 x 128 float32
        for p in range(begin, end):
            n = min(wide, w[6] - p * wide)
            for c in range(C):
                source = w[0] + p * wide * w[1] + c * w[2]
                for i in range(3):
                    for j in range(3):
                        invoke(w[9], (loaded + (3 * i + j) * 512, source + i * w[3] + j * w[4], 0, w[1], 1, n, 0))
                g = at(loaded, types.float32)
                for i in range(6):
                    for j in range(6):
                        to = at(w[8] + ((p * 36 + 6 * i + j) * C + c) * wide * 4, types.float32)
                        for m in range(n):
                            u = _filter(float64(g[m]), float64(g[384 + m]), float64(g[768 + m]), i)
                            v = _filter(float64(g[128 + m]), float64(g[512 + m]), float64(g[896 + m]), i)
                            x = _filter(float64(g[256 + m]), float64(g[640 + m]), float64(g[1024 + m]), i)
                            to[m] = types.float32(_filter(u, v, x, j))
                        for m in range(n, wide):
                            to[m] = types.float32(0)
        return 0

    return kernel


def blocks() -> Callable[..., int]:
    """The convolution of blocks of tiles of one image. All strides are in bytes.

    0 output rows, 1 columns  2 rows of tiles of a block, 3 columns  4 blocks of an image along rows, 5 along columns  6 x's rows, 7 columns
    8 first tap's row, 9 column  10 x  11-13 its strides: batch, row, column  14 a pixel of padding  15 slot scratch  16 from slot to slot
    17 offset in the slot of the transformed input, 18 its bytes of a position, 19 of a tile  20 offset of its addresses, 21 of the products, 22 of their
    addresses, 23 of the outputs' addresses, 24 of the residual's, 25 of sums, 26 of memory for what lies outside of the output
    27 channels  28 filters  29 wide  30 packed filters  31 bytes of a panel  32 biases  33 panels of a unit  34 units of a block
    35 are sums written to y at once?  36 y  37-39 its strides  40 residual or 0  41-43 its strides  44 limits  45 box.run  46 epilogue
    47 bytes of a row of sums  48 zeros  49 limits that are none  50 most rows of a
    product, and then the code of the product of 1, 2, ... rows
    """

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        own = w[15] + slot * w[16]
        T = w[2] * w[3]
        C, M, wide = w[27], w[28], w[29]
        # addresses that are the same for all blocks
        for k in range(POSITIONS):
            line = at(own + w[20] + k * T * 8, int64)
            for t in range(T):
                line[t] = own + w[17] + k * w[18] + t * w[19]
            line = at(own + w[22] + k * T * 8, int64)
            for t in range(T):
                line[t] = own + w[21] + (k * T + t) * (wide * 4)
        pixels = stack(288)
        known = int64(-1)
        for unit in range(begin, end):
            number = unit // w[34]
            image = number // (w[4] * w[5])
            place = number - image * w[4] * w[5]
            top = place // w[5] * w[2] * 4
            left = place % w[5] * w[3] * 4
            rows = min(w[2], (w[0] - top + 3) // 4)
            cols = min(w[3], (w[1] - left + 3) // 4)
            if number != known:
                known = number
                for t in range(rows * cols):
                    oh, ow = top + t // cols * 4, left + t % cols * 4
                    table = at(pixels, int64)
                    for i in range(6):
                        h = oh + i + w[8]
                        for j in range(6):
                            v = ow + j + w[9]
                            inside = (h >= 0) & (h < w[6]) & (v >= 0) & (v < w[7])
                            table[6 * i + j] = w[10] + image * w[11] + h * w[12] + v * w[13] if inside else w[14]
                    for c in range(0, C, LANES):
                        transform_input(pixels, 4 * c, C - c, own + w[17] + t * w[19] + 4 * c, w[18])
                    out, rest = at(own + w[23] + t * 128, int64), at(own + w[24] + t * 128, int64)
                    for i in range(4):
                        for j in range(4):
                            h, v = oh + i, ow + j
                            inside = (h < w[0]) & (v < w[1])
                            to = w[36] + image * w[37] + h * w[38] + v * w[39]
                            if w[35] == 0:
                                to = own + w[25] + ((h - top) * w[3] * 4 + v - left) * w[47]
                            out[4 * i + j] = to if inside else own + w[26]
                            rest[4 * i + j] = w[40] + image * w[41] + h * w[42] + v * w[43] if inside else own + w[26]
            n = rows * cols
            p0 = (unit - number * w[34]) * w[33]
            p1 = min(p0 + w[33], (M + wide - 1) // wide)
            c0 = p0 * wide
            c1 = min(M, p1 * wide)
            for p in range(p0, p1):
                lanes = min(wide, M - p * wide)
                for k in range(POSITIONS):
                    filters_at = w[30] + p * w[31] + k * C * wide * 4
                    i = 0
                    while i < n:
                        many = n - i
                        few = (many + w[50] - 1) // w[50]  # tiles of products that are left
                        size = (many + few - 1) // few
                        args = (1, C, own + w[20] + (k * T + i) * 8, 0, 0, filters_at, wide * 4, w[48])
                        invoke(w[50 + size], args + (own + w[22] + (k * T + i) * 8, 0, wide, 0, w[49]))
                        i += size
                move = 4 * p * wide if w[35] != 0 else 4 * (p * wide - c0)
                for t in range(n):
                    residual = own + w[24] + t * 128 if w[40] != 0 else 0
                    for c in range(0, lanes, LANES):
                        source = own + w[21] + t * (wide * 4) + 4 * c
                        to = own + w[23] + t * 128
                        transform_output(source, T * wide * 4, w[32] + 4 * (p * wide + c), to, move + 4 * c, lanes - c, residual, w[44])
            if w[35] == 0:
                count = min(cols * 4, w[1] - left)
                for i in range(min(rows * 4, w[0] - top)):
                    q0 = (image * w[0] + top + i) * w[1] + left
                    invoke(w[45], (w[46], q0, q0 + count, c0, c1, own + w[25] + i * w[3] * 4 * w[47], w[47], 0, 0))
        return 0

    return kernel
