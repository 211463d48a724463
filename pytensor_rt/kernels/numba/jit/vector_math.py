"""Arithmetic on whole vectors (see vectors.py) that loops over scalars are not vectorised into reliably: exponentials, transposition, dot products."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import float32 as F
from numba import int32 as I
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .intrinsics import inline
from .vectors import BYTES, Vector, _binary, _fma, _pointer, fma, splat, vadd, vmax, vmin, vmul, vsub

vdiv, vshl = _binary("vdiv", "fdiv", "sdiv"), _binary("vshl", "shl", "shl")


def _cast(source: Any, target: Any) -> Any:
    a, b = Vector(source), Vector(target)

    @intrinsic
    def convert(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(b))

        return b(a), codegen

    return convert


vbits = _cast(types.float32, types.int32)  # the bits of a float32 vector
vfloat = _cast(types.int32, types.float32)  # and back


@intrinsic
def vmax_lanes(typingctx: Any, a: Any) -> Any:
    """The largest lane (a lane that is NaN may count as nothing)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (v,) = args
        n = a.lanes
        while n > 1:
            n //= 2
            undefined = ir.Constant(v.type, ir.Undefined)
            index = ir.VectorType(ir.IntType(32), n)
            low = builder.shuffle_vector(v, undefined, ir.Constant(index, list(range(n))))
            high = builder.shuffle_vector(v, undefined, ir.Constant(index, list(range(n, 2 * n))))
            v = builder.select(builder.fcmp_ordered(">", low, high), low, high)
        return builder.extract_element(v, ir.Constant(ir.IntType(32), 0))

    return a.element(a), codegen


@inline
def vexp2(x: Any) -> Any:
    """2^x of float32 lanes for x < 127.5, within 2 ulp; below 2^-126.5: 0."""
    y = vmax(splat(F(-127.0)), x)
    z = vadd(y, splat(F(12582912.0)))
    r = vsub(y, vsub(z, splat(F(12582912.0))))
    p = fma(r, splat(F(1.326472689e-03)), splat(F(9.671512910e-03)))
    p = fma(r, p, splat(F(5.550733747e-02)))
    p = fma(r, p, splat(F(2.402224208e-01)))
    p = fma(r, p, splat(F(6.931469776e-01)))
    p = fma(r, p, splat(F(1.0)))
    exponent = vshl(vsub(vbits(z), splat(I(0x4B400000 - 127))), splat(I(23)))
    return vmul(p, vfloat(exponent))


@inline
def odds(x: Any) -> Any:
    """e with sigmoid(x) = 1 / (1 + e) and 1 - sigmoid(x) = e / (1 + e), both precise; e is in [2^-40, 2^40] (NaN: NaN)."""
    y = vmul(x, splat(F(-1.44269504088896341)))
    return vexp2(vmin(splat(F(40.0)), vmax(splat(F(-40.0)), y)))


@inline
def tanh_parts(x: Any) -> Any:
    """(p, q) with tanh(x) = p / q within 6 ulp; q is in [1, 420]. The coefficients are those of csrc/cpu/recurrent_gates.h."""
    y = vmin(splat(F(9.0)), vmax(splat(F(-9.0)), x))
    s = vmul(y, y)
    p = fma(s, splat(F(1.335509226e-08)), splat(F(2.060944488e-05)))
    p = fma(s, p, splat(F(3.495612292e-03)))
    p = fma(s, p, splat(F(1.338104674e-01)))
    p = fma(s, p, splat(F(9.999999797e-01)))
    q = fma(s, splat(F(7.776750137e-07)), splat(F(3.285672844e-04)))
    q = fma(s, q, splat(F(2.587707639e-02)))
    q = fma(s, q, splat(F(4.671436240e-01)))
    q = fma(s, q, splat(F(1.0)))
    return vmul(p, y), q


def _shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


@intrinsic
def transpose(typingctx: Any, source: Any, source_pitch: Any, target: Any, target_pitch: Any, element: Any) -> Any:
    """target[j, i] = source[i, j] for i, j < lanes(element): addresses, and bytes from one row to the next."""
    vector = Vector(element.instance_type)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind, n, align = context.get_value_type(vector), vector.lanes, vector.element.bitwidth // 8

        def place(base: Any, pitch: Any, i: int) -> Any:
            return _pointer(context, builder, builder.add(base, builder.mul(pitch, ir.Constant(pitch.type, i))), kind)

        rows = [builder.load(place(args[0], args[1], i), align=align) for i in range(n)]
        step = 1
        while step < n:
            for i in range(n):
                if not i & step:
                    a, b = rows[i], rows[i + step]
                    rows[i] = _shuffle(builder, a, b, [n + j - step if j & step else j for j in range(n)])
                    rows[i + step] = _shuffle(builder, a, b, [n + j if j & step else j + step for j in range(n)])
            step *= 2
        for i, row in enumerate(rows):
            builder.store(row, place(args[2], args[3], i), align=align)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64, element), codegen


def dots(vectors: int, element: Any) -> Any:
    """An intrinsic (x, rows, pitch, count, target) -> None: target[i] = the product of vector x and row i, for lanes(element) rows.

    Rows are `vectors` registers long, or `count` if `vectors` is 0; all arguments but `count` are addresses and strides in bytes.
    """

    @intrinsic
    def products(typingctx: Any, x: Any, rows: Any, pitch: Any, count: Any, target: Any) -> Any:
        vector = Vector(element)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x_, rows_, pitch_, count_, target_ = [context.cast(builder, v, t, types.int64) for v, t in zip(args, signature.args)]
            kind, n, align = context.get_value_type(vector), vector.lanes, element.bitwidth // 8
            i64 = ir.IntType(64)

            def at(base: Any, offset: Any) -> Any:
                return builder.load(_pointer(context, builder, builder.add(base, offset), kind), align=align)

            starts = [builder.add(rows_, builder.mul(pitch_, ir.Constant(i64, i))) for i in range(n)]
            if vectors:
                held = [at(x_, ir.Constant(i64, d * BYTES)) for d in range(vectors)]
                sums = []
                for start in starts:
                    s = builder.fmul(held[0], at(start, ir.Constant(i64, 0)))
                    for d in range(1, vectors):
                        s = _fma(builder, held[d], at(start, ir.Constant(i64, d * BYTES)), s)
                    sums.append(s)
            else:
                with builder.goto_entry_block():
                    places = [builder.alloca(kind) for _ in range(n)]
                for p in places:
                    builder.store(ir.Constant(kind, [0.0] * n), p)
                with cgutils.for_range(builder, count_) as loop:
                    offset = builder.mul(loop.index, ir.Constant(i64, BYTES))
                    v = at(x_, offset)
                    for start, p in zip(starts, places):
                        builder.store(_fma(builder, v, at(start, offset), builder.load(p)), p)
                sums = [builder.load(p) for p in places]
            step = 1
            while len(sums) > 1:
                low = [n + j - step if j & step else j for j in range(n)]
                high = [n + j if j & step else j + step for j in range(n)]
                pairs = zip(sums[::2], sums[1::2])
                sums = [builder.fadd(_shuffle(builder, a, b, low), _shuffle(builder, a, b, high)) for a, b in pairs]
                step *= 2
            builder.store(sums[0], _pointer(context, builder, target_, kind), align=align)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), codegen

    return products
