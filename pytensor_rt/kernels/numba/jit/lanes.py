"""More operations on vector registers (vectors.py): parts of a vector, exponentials, extremes that know NaN, reductions over the lanes."""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import Vector

_I32 = ir.IntType(32)


def _splat(kind: Any, value: Any) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _first(builder: Any, n: Any, count: int) -> Any:
    """The mask of the lanes below n."""
    wide = ir.VectorType(n.type, count)
    one = builder.insert_element(ir.Constant(wide, ir.Undefined), n, ir.Constant(_I32, 0))
    spread = builder.shuffle_vector(one, ir.Constant(wide, ir.Undefined), ir.Constant(ir.VectorType(_I32, count), [0] * count))
    return builder.icmp_signed("<", ir.Constant(wide, list(range(count))), spread)


def _suffix(kind: Any) -> str:
    return f"v{kind.count}" + {"float": "f32", "double": "f64"}.get(str(kind.element), str(kind.element))


def _call(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [a.type for a in args]), name)
    return builder.call(function, args)


@intrinsic
def vload_n(typingctx: Any, address: Any, n: Any, rest: Any) -> Any:
    """The first n elements at an address; the lanes of `rest` where there are more. Nothing beyond is read."""
    if not isinstance(rest, Vector):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(rest)
        pointer = builder.inttoptr(args[0], ir.PointerType(kind))
        align = ir.Constant(_I32, rest.element.bitwidth // 8)
        mask = _first(builder, args[1], kind.count)
        return _call(builder, f"llvm.masked.load.{_suffix(kind)}.p0", kind, [pointer, align, mask, args[2]])

    return rest(types.int64, types.int64, rest), codegen


@intrinsic
def vstore_n(typingctx: Any, address: Any, value: Any, n: Any) -> Any:
    """Store the first n lanes."""
    if not isinstance(value, Vector):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(value)
        pointer = builder.inttoptr(args[0], ir.PointerType(kind))
        align = ir.Constant(_I32, value.element.bitwidth // 8)
        mask = _first(builder, args[2], kind.count)
        _call(builder, f"llvm.masked.store.{_suffix(kind)}.p0", ir.VoidType(), [args[1], pointer, align, mask])
        return context.get_dummy_value()

    return types.void(types.int64, value, types.int64), codegen


@intrinsic
def vabs(typingctx: Any, x: Any) -> Any:
    """Magnitudes (the lowest integer's is itself)."""
    floating = isinstance(x.element, types.Float)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        if floating:
            return _call(builder, f"llvm.fabs.{_suffix(kind)}", kind, [args[0]])
        zero = _splat(kind, 0)
        return builder.select(builder.icmp_signed("<", args[0], zero), builder.sub(zero, args[0]), args[0])

    return x(x), codegen


@intrinsic
def vdiv(typingctx: Any, a: Any, b: Any) -> Any:
    """Quotients of floats."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fdiv(*args)

    return a(a, b), codegen


@intrinsic
def vnan(typingctx: Any, bad: Any, x: Any, y: Any) -> Any:
    """`bad`, with NaN in the lanes where x or y is NaN. Of integers, `bad`."""
    floating = isinstance(x.element, types.Float)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not floating:
            return args[0]
        return builder.select(builder.fcmp_unordered("uno", args[1], args[2]), _splat(args[0].type, math.nan), args[0])

    return bad(bad, x, y), codegen


def _unsigned(name: str, comparison: str) -> Any:
    @intrinsic
    def operation(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.select(builder.icmp_unsigned(comparison, *args), *args)

        return a(a, b), codegen

    operation.__name__ = name
    return operation


vmax_u, vmin_u = _unsigned("vmax_u", ">"), _unsigned("vmin_u", "<")


def _fold(name: str, step: Any) -> Any:
    @intrinsic
    def operation(typingctx: Any, a: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            (v,) = args
            n = a.lanes
            while n > 1:
                n //= 2
                undefined = ir.Constant(v.type, ir.Undefined)
                index = ir.VectorType(_I32, n)
                low = builder.shuffle_vector(v, undefined, ir.Constant(index, list(range(n))))
                high = builder.shuffle_vector(v, undefined, ir.Constant(index, list(range(n, 2 * n))))
                v = step(builder, isinstance(a.element, types.Float), low, high)
            return builder.extract_element(v, ir.Constant(_I32, 0))

        return a.element(a), codegen

    operation.__name__ = name
    return operation


def _picked(comparison: str, signed: bool = True) -> Any:
    def step(builder: Any, floating: bool, a: Any, b: Any) -> Any:
        compare = builder.fcmp_ordered if floating else builder.icmp_signed if signed else builder.icmp_unsigned
        return builder.select(compare(comparison, a, b), a, b)

    return step


# over all lanes, by halves
fold_max, fold_min = _fold("fold_max", _picked(">")), _fold("fold_min", _picked("<"))
fold_max_u, fold_min_u = _fold("fold_max_u", _picked(">", False)), _fold("fold_min_u", _picked("<", False))
fold_product = _fold("fold_product", lambda builder, floating, a, b: builder.fmul(a, b) if floating else builder.mul(a, b))

_LOWEST = -104.5
_LOG2_E = 1.44269504088896341
_MAGIC = 12582912.0  # 1.5 * 2^23: adding it rounds to an integer, which the low bits then hold
_LN2 = 0.693147180559945
_POLYNOMIAL = (8.289454505e-03, 4.190256074e-02, 1.666767597e-01, 4.999911487e-01, 9.999997020e-01, 1.0)


@intrinsic
def vexp0(typingctx: Any, x: Any) -> Any:
    """e^x of x <= 0: 3 units in the last place where the result is normal; -inf gives 0, NaN stays NaN. float64: the C library's."""
    wide = x.element.bitwidth == 64

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (v,) = args
        kind = v.type
        if wide:
            return _call(builder, f"llvm.exp.{_suffix(kind)}", kind, [v])
        whole = ir.VectorType(_I32, kind.count)

        def c(value: float) -> Any:
            return _splat(kind, value)

        def fma(a: Any, b: Any, d: Any) -> Any:
            return _call(builder, f"llvm.fma.{_suffix(kind)}", kind, [a, b, d])

        v = builder.select(builder.fcmp_ordered(">", c(_LOWEST), v), c(_LOWEST), v)
        z = fma(v, c(_LOG2_E), c(_MAGIC))
        r = fma(builder.fsub(z, c(_MAGIC)), c(-_LN2), v)
        p = c(_POLYNOMIAL[0])
        for k in _POLYNOMIAL[1:]:
            p = fma(p, r, c(k))
        # the power of two, times 2^25 to be a normal number
        bits = builder.add(builder.shl(builder.bitcast(z, whole), _splat(whole, 23)), _splat(whole, (127 + 25) << 23))
        return builder.fmul(builder.fmul(p, builder.bitcast(bits, kind)), c(2.0**-25))

    return x(x), codegen
