"""What the kernels need and numba lacks: typed memory at an address, bit patterns, calls by address, stack memory.

Addresses are 64-bit integers, counted in bytes. `at(address, float32)[i]` reads or writes an element: no bounds, no wrap-around of negative indices.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

inline = njit(error_model="numpy", fastmath={"contract"})  # for the helpers of kernels
# The same, without contracting a * b + c: for sums whose rounding is the point. (Without `fastmath`, numba takes over that of the caller.)
exact = njit(error_model="numpy", fastmath=False)


@exact
def exact_sum(x: Any, y: Any) -> Any:
    """x + y of a product x that was rounded."""
    return x + y


@intrinsic
def at(typingctx: Any, address: Any, element: Any) -> Any:
    """The elements of type `element` at an address, as a pointer."""
    pointer = types.CPointer(element.instance_type)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(pointer))

    return pointer(types.int64, element), codegen


@intrinsic
def address_of(typingctx: Any, pointer: Any) -> Any:
    """The address in a pointer."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(pointer), codegen


def _bits(source: Any, target: Any) -> Any:
    @intrinsic
    def convert(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), codegen

    return convert


f32_bits, bits_f32 = _bits(types.float32, types.int32), _bits(types.int32, types.float32)  # call with exactly these types
f64_bits, bits_f64 = _bits(types.float64, types.int64), _bits(types.int64, types.float64)


@intrinsic(prefer_literal=True)
def stack(typingctx: Any, nbytes: Any) -> Any:
    """The address of `nbytes` (a constant) of the caller's stack, aligned to 64 bytes; one block per place in the text, also in a loop."""
    if not isinstance(nbytes, types.IntegerLiteral):
        return None
    size = nbytes.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        with builder.goto_entry_block():
            memory = builder.alloca(ir.ArrayType(ir.IntType(8), size))
            memory.align = 64
        return builder.ptrtoint(memory, ir.IntType(64))

    return types.int64(nbytes), codegen


@intrinsic
def invoke(typingctx: Any, function: Any, args: Any) -> Any:
    """Call the kernel at an address with a tuple of 64-bit integers; its result."""
    n = len(args)
    i64, i32 = ir.IntType(64), ir.IntType(32)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        given = [context.cast(builder, v, t, types.int64) for v, t in zip(cgutils.unpack_tuple(builder, values[1]), signature.args[1])]
        result = cgutils.alloca_once(builder, i64)
        kind = ir.FunctionType(i32, [i64.as_pointer(), i64.as_pointer(), *[i64] * n])
        target = builder.inttoptr(values[0], kind.as_pointer())
        builder.call(target, [result, ir.Constant(i64.as_pointer(), None), *given])
        return builder.load(result)

    return types.int64(types.int64, args), codegen
