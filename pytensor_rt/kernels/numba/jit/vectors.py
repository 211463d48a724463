"""SIMD vectors as values of jitted code, and the register tile of matrix products.

`WIDTH` is the number of float32 lanes of a vector register of the machine the code is compiled for; `lanes(X)` that of another type. Vectors are loaded
from and stored to addresses; nothing has to be aligned.

    acc = splat(F(0))                                  # a float32 vector
    acc = fma(splat(a), vload(address, F), acc)        # one rounding
    vstore(address, acc)
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from .. import code

BYTES = code.vector_bytes()
WIDTH = BYTES // 4


class Vector(types.Type):
    """A vector register of `element`s (a type of numba)."""

    def __init__(self, element: Any) -> None:
        self.element = element
        self.lanes = 8 * BYTES // element.bitwidth
        super().__init__(name=f"Vector({element}, {self.lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, type: Any) -> None:
        element = manager.lookup(type.element).get_value_type()
        super().__init__(manager, type, ir.VectorType(element, type.lanes))


def lanes(element: Any) -> int:
    """Lanes of a vector of a type."""
    return int(8 * BYTES // element.bitwidth)


def _pointer(context: Any, builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, ir.PointerType(kind))


def _spread(builder: Any, value: Any, n: int) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, n), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), n), [0] * n))


@intrinsic
def splat(typingctx: Any, value: Any) -> Any:
    """The same number in all lanes."""
    if not isinstance(value, (types.Float, types.Integer)):
        return None
    vector = Vector(value)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _spread(builder, args[0], vector.lanes)

    return vector(value), codegen


@intrinsic
def vload(typingctx: Any, address: Any, element: Any) -> Any:
    """The vector at an address."""
    vector = Vector(element.instance_type)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(vector)
        return builder.load(_pointer(context, builder, args[0], kind), align=vector.element.bitwidth // 8)

    return vector(types.int64, element), codegen


@intrinsic
def vstore(typingctx: Any, address: Any, value: Any) -> Any:
    """Store a vector at an address."""
    if not isinstance(value, Vector):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(value)
        builder.store(args[1], _pointer(context, builder, args[0], kind), align=value.element.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(types.int64, value), codegen


def _binary(name: str, on_floats: str, on_integers: str) -> Any:
    @intrinsic
    def operation(typingctx: Any, a: Any, b: Any) -> Any:
        if not isinstance(a, Vector) or a != b:
            return None
        method = on_floats if isinstance(a.element, types.Float) else on_integers

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, method)(*args)

        return a(a, b), codegen

    operation.__name__ = name
    return operation


vadd, vsub, vmul = _binary("vadd", "fadd", "add"), _binary("vsub", "fsub", "sub"), _binary("vmul", "fmul", "mul")


def _extreme(name: str, comparison: str) -> Any:
    @intrinsic
    def operation(typingctx: Any, a: Any, b: Any) -> Any:
        if not isinstance(a, Vector) or a != b:
            return None

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            if isinstance(a.element, types.Float):
                first = builder.fcmp_ordered(comparison, *args)
            else:
                first = builder.icmp_signed(comparison, *args)
            return builder.select(first, *args)

        return a(a, b), codegen

    operation.__name__ = name
    return operation


vmax, vmin = _extreme("vmax", ">"), _extreme("vmin", "<")  # a > b ? a : b, so of a NaN: b


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c with one rounding."""
    if not isinstance(a, Vector) or a != b or a != c:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _fma(builder, *args)

    return a(a, b, c), codegen


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = a.type
    suffix = {"float": "f32", "double": "f64"}[str(kind.element)]
    name = f"llvm.fma.v{kind.count}{suffix}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(function, [a, b, c])


@intrinsic
def vsum(typingctx: Any, a: Any) -> Any:
    """The sum over lanes, by halves."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (v,) = args
        n = a.lanes
        while n > 1:
            n //= 2
            undefined = ir.Constant(v.type, ir.Undefined)
            index = ir.VectorType(ir.IntType(32), n)
            low = builder.shuffle_vector(v, undefined, ir.Constant(index, list(range(n))))
            high = builder.shuffle_vector(v, undefined, ir.Constant(index, list(range(n, 2 * n))))
            v = builder.fadd(low, high) if isinstance(a.element, types.Float) else builder.add(low, high)
        return builder.extract_element(v, ir.Constant(ir.IntType(32), 0))

    return a.element(a), codegen


def tile(rows: int, vectors: int, element: Any) -> Any:
    """The register tile of a matrix product: an intrinsic (k, a, a_row, a_step, b, b_step, c, c_row, more) -> None, for `rows` x `vectors` registers.

    c[i, j] = sum over k of a[i, k] * b[k, j], for i < rows and j < vectors * lanes(element), summed in the order of k with one rounding each; with
    `more`, the sum goes on from what c holds. All arguments are 64-bit integers, addresses and strides in bytes: element (i, k) of a lies at
    a + i * a_row + k * a_step, b is read as vectors at b + k * b_step, c as vectors at c + i * c_row. No column is left out: c and b need room for
    whole vectors.
    """

    @intrinsic
    def product(typingctx: Any, k: Any, a: Any, a_row: Any, a_step: Any, b: Any, b_step: Any, c: Any, c_row: Any, more: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            i64 = ir.IntType(64)
            count, a0, a_row_, a_step_, b0, b_step_, c0, c_row_, more_ = [
                context.cast(builder, v, t, types.int64) for v, t in zip(args, signature.args)
            ]
            scalar = context.get_value_type(element)
            kind = ir.VectorType(scalar, 8 * BYTES // element.bitwidth)
            zero = ir.Constant(kind, [0.0] * kind.count)
            align = element.bitwidth // 8

            def times(x: Any, n: int) -> Any:
                return builder.mul(x, ir.Constant(i64, n))

            def plus(x: Any, n: int) -> Any:
                return builder.add(x, ir.Constant(i64, n)) if n else x

            places = [plus(builder.add(c0, times(c_row_, i)), j * BYTES) for i in range(rows) for j in range(vectors)]
            with builder.goto_entry_block():
                held = [builder.alloca(kind) for _ in places]
            with builder.if_else(builder.icmp_signed("!=", more_, ir.Constant(i64, 0))) as (then, otherwise):
                with then:
                    for h, p in zip(held, places):
                        builder.store(builder.load(builder.inttoptr(p, ir.PointerType(kind)), align=align), h)
                with otherwise:
                    for h in held:
                        builder.store(zero, h)
            rows_at = [builder.add(a0, times(a_row_, i)) for i in range(rows)]
            with cgutils.for_range(builder, count) as loop:
                at_b = builder.add(b0, builder.mul(loop.index, b_step_))
                at_a = builder.mul(loop.index, a_step_)
                bs = [builder.load(builder.inttoptr(plus(at_b, j * BYTES), ir.PointerType(kind)), align=align) for j in range(vectors)]
                for i in range(rows):
                    value = builder.load(builder.inttoptr(builder.add(rows_at[i], at_a), ir.PointerType(scalar)))
                    spread = _spread(builder, value, kind.count)
                    for j in range(vectors):
                        h = held[i * vectors + j]
                        builder.store(_fma(builder, spread, bs[j], builder.load(h)), h)
            for h, p in zip(held, places):
                builder.store(builder.load(h), builder.inttoptr(p, ir.PointerType(kind)), align=align)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), codegen

    return product


ROWS = 12 if BYTES == 64 else 6 if BYTES == 32 else 4  # of the largest tile, two vectors wide
COLUMNS = 2  # vectors
