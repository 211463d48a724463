"""Further operations on the vectors of vectors.py: the first lanes alone, every second element, quotients, the greater of two with NaNs."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import Vector


def _first(builder: Any, n: Any, count: int) -> Any:
    """The mask of the first n lanes. n: a 64-bit integer, at most `count`."""
    i8 = ir.IntType(8)
    kind = ir.VectorType(i8, count)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), builder.trunc(n, i8), ir.Constant(ir.IntType(32), 0))
    limit = builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count))
    return builder.icmp_signed("<", ir.Constant(kind, list(range(count))), limit)


def _suffix(kind: Any) -> str:
    names = {"float": "f32", "double": "f64"}
    element = str(kind.element)
    return f"v{kind.count}{names.get(element, element)}"


@intrinsic
def vload_part(typingctx: Any, address: Any, element: Any, n: Any) -> Any:
    """The first n <= lanes elements at an address, zeros in the other lanes; no other memory is touched."""
    vector = Vector(element.instance_type)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(vector)
        pointer = builder.inttoptr(args[0], kind.as_pointer())
        i32 = ir.IntType(32)
        mask = _first(builder, args[2], kind.count)
        name = f"llvm.masked.load.{_suffix(kind)}.p0"
        shape = ir.FunctionType(kind, [pointer.type, i32, mask.type, kind])
        function = cgutils.get_or_insert_function(builder.module, shape, name)
        align = ir.Constant(i32, vector.element.bitwidth // 8)
        return builder.call(function, [pointer, align, mask, ir.Constant(kind, None)])

    return vector(types.int64, element, types.int64), codegen


@intrinsic
def vstore_part(typingctx: Any, address: Any, value: Any, n: Any) -> Any:
    """Store the first n <= lanes lanes of a vector at an address."""
    if not isinstance(value, Vector):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(value)
        pointer = builder.inttoptr(args[0], kind.as_pointer())
        i32 = ir.IntType(32)
        mask = _first(builder, args[2], kind.count)
        name = f"llvm.masked.store.{_suffix(kind)}.p0"
        shape = ir.FunctionType(ir.VoidType(), [kind, pointer.type, i32, mask.type])
        function = cgutils.get_or_insert_function(builder.module, shape, name)
        builder.call(function, [args[1], pointer, ir.Constant(i32, value.element.bitwidth // 8), mask])
        return context.get_dummy_value()

    return types.void(types.int64, value, types.int64), codegen


@intrinsic
def vload_even(typingctx: Any, address: Any, element: Any) -> Any:
    """Elements 0, 2, 4, ... at an address; memory of two vectors is read."""
    vector = Vector(element.instance_type)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(vector)
        align = vector.element.bitwidth // 8
        step = ir.Constant(ir.IntType(64), kind.count * align)
        halves = [builder.load(builder.inttoptr(a, kind.as_pointer()), align=align) for a in (args[0], builder.add(args[0], step))]
        index = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), list(range(0, 2 * kind.count, 2)))
        return builder.shuffle_vector(*halves, index)

    return vector(types.int64, element), codegen


@intrinsic
def vdiv(typingctx: Any, a: Any, b: Any) -> Any:
    """a / b of floats."""
    if not isinstance(a, Vector) or a != b or not isinstance(a.element, types.Float):
        return None
    return a(a, b), lambda context, builder, signature, args: builder.fdiv(*args)


@intrinsic
def vgreater(typingctx: Any, a: Any, b: Any) -> Any:
    """The greater of two; NaN if either is one."""
    if not isinstance(a, Vector) or a != b:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, y = args
        if isinstance(a.element, types.Float):
            most = builder.select(builder.fcmp_ordered(">", x, y), x, y)  # y where one is a NaN
            return builder.select(builder.fcmp_unordered("uno", x, x), x, most)
        compare = builder.icmp_signed if a.element.signed else builder.icmp_unsigned
        return builder.select(compare(">", x, y), x, y)

    return a(a, b), codegen
