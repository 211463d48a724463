"""`evaluate`: elementwise programs (see lowering/expr.py) over NumPy arrays, one array operation per instruction.

Every instruction rounds once to its own dtype. Integers, booleans and the four basic operations of float32 run in their own type, everything
else in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...dtypes import F32, F64, I64, DType, is_float
from .casts import cast, cast_sat
from .common import Array, Out, Params, Program, narrow, out_spec, wide
from .symbols import evaluate_objects

_OBJECT = np.dtype(object)
_PLAIN = (int, bool)


def evaluate(program: Program, ins: Sequence[Array], acc: Array | None, shape: tuple[int, ...], dtype: DType) -> Array:
    """Run `program` on operands that broadcast to `shape`. Returns a new contiguous array of that shape.

    `dtype` is that of the last instruction. With symbolic integers among the operands (object arrays) or constants, integer results are
    object arrays.
    """
    for a in ins:
        if a.dtype is _OBJECT:
            return evaluate_objects(program, ins, acc, shape)
    for op, args, _ in program:
        if op == "const" and isinstance(args[0], int) and type(args[0]) not in _PLAIN:
            return evaluate_objects(program, ins, acc, shape)
    values: list[Any] = []
    with np.errstate(all="ignore"):
        for op, args, d in program:
            if op == "load":
                values.append(ins[args[0]])
            elif op == "const":
                values.append(constant(args[0], d))
            elif op == "acc":
                if acc is None:
                    raise ValueError("`acc` outside of an epilogue")
                values.append(acc)
            elif op == "iota":
                axis = args[0]
                n = [1] * len(shape)
                n[axis] = shape[axis]
                values.append(np.arange(shape[axis], dtype=I64).astype(d).reshape(n))
            else:
                values.append(_apply(op, [values[a] for a in args], d))
    out = values[-1]
    if not isinstance(out, np.ndarray) or out.shape != shape:
        out = np.array(np.broadcast_to(out, shape), order="C")
    elif out is acc or any(out is a for a in ins) or not out.flags.c_contiguous:
        out = np.array(out, order="C")
    if out.dtype != dtype:
        raise ValueError(f"the program gives {out.dtype}, but {dtype} was declared")
    return np.asarray(out)


def constant(value: Any, dtype: DType) -> Array:
    """An immediate. Integers out of range keep their low bits."""
    if dtype is I64 and type(value) is int and -(2**63) <= value < 2**63:
        return np.array(value, I64)
    if isinstance(value, int) and not isinstance(value, bool) and dtype.kind in "iuV" and not is_float(dtype):
        return np.array((value + 2**63) % 2**64 - 2**63, I64).astype(dtype)
    if is_float(dtype):
        return narrow(np.asarray(value, F64), dtype)
    return np.asarray(value).astype(dtype)


def _apply(op: str, args: list[Array], dtype: DType) -> Array:
    if op == "id":
        return args[0]
    if op == "cast":
        return cast(np.asarray(args[0]), dtype)
    if op == "cast_wrap":
        return cast(np.asarray(args[0]), dtype, saturate=False)
    if op == "cast_sat":
        return cast_sat(np.asarray(args[0]), dtype)
    if op == "where":
        return np.where(args[0], args[1], args[2])
    if op in _ANY:
        return np.asarray(_ANY[op](*args))
    if op in _PREDICATES:
        return np.asarray(_PREDICATES[op](*[wide(a) if a.dtype.kind == "V" else a for a in map(np.asarray, args)]))
    if dtype.kind in "fV" and is_float(dtype):
        if op in _EXACT and dtype in (F32, F64):
            return np.asarray(_EXACT[op](*args))
        return narrow(np.asarray(_FLOAT[op](*[np.asarray(a).astype(F64) for a in args])), dtype)
    if dtype.kind == "c":
        return np.asarray(_COMPLEX[op](*args)).astype(dtype)
    if dtype.kind == "V":  # 4- and 2-bit integers: compute wide, keep the low bits
        return np.asarray(_INT[op](*[np.asarray(a).astype(I64) for a in args])).astype(dtype)
    y = np.asarray(_INT[op](*args))
    return y if y.dtype == dtype else y.astype(dtype)


# Integers ---------------------------------------------------------------------------------------------------------------------------------


def _int_div(a: Array, b: Array) -> Array:
    """Truncating; x / 0 is 0 and lowest / -1 is lowest."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind == "u" or a.dtype.kind == "b":
        return np.floor_divide(a, b)
    q = np.floor_divide(a, b)
    r = np.subtract(a, np.multiply(q, b))
    q = np.where((r != 0) & ((a < 0) != (b < 0)), np.add(q, np.ones((), a.dtype)), q)
    q = np.where(b == -1, np.negative(a), q)
    return np.where(b == 0, np.zeros((), a.dtype), q)


def _int_mod(a: Array, b: Array) -> Array:
    return np.asarray(np.where(np.equal(b, 0), np.zeros((), np.asarray(a).dtype), np.mod(a, b)))


def _int_fmod(a: Array, b: Array) -> Array:
    return np.asarray(np.where(np.equal(b, 0), np.zeros((), np.asarray(a).dtype), np.fmod(a, b)))


def _int_pow(a: Array, b: Array) -> Array:
    """By squaring, with wrap. A negative exponent gives 1/x**|b| truncated: 1 or -1 for those bases, else 0."""
    a, b = np.broadcast_arrays(np.asarray(a), np.asarray(b))
    one = np.ones((), a.dtype)
    out, base, left = np.full(a.shape, one), a, np.where(b > 0, b, 0)
    while np.any(left > 0):
        out = np.where((left & 1) != 0, np.multiply(out, base), out)
        base = np.multiply(base, base)
        left = left >> 1
    if a.dtype.kind == "u":
        return np.asarray(out)
    unit = np.where(a == 1, one, np.where(a == -1, np.where((b & 1) != 0, -one, one), np.zeros((), a.dtype)))
    return np.where(b < 0, unit, out)


def _shift(f: Callable[..., Any]) -> Callable[[Array, Array], Array]:
    def shift(a: Array, b: Array) -> Array:
        a = np.asarray(a)
        width = 8 * a.dtype.itemsize
        inside = (np.greater_equal(b, 0)) & (np.less(b, width))
        return np.asarray(np.where(inside, f(a, np.where(inside, b, np.zeros((), a.dtype))), np.zeros((), a.dtype)))

    return shift


def _via_float(f: Callable[..., Any]) -> Callable[..., Array]:
    """A transcendental function of integers: in float64, truncated."""

    def g(*args: Array) -> Array:
        dtype = np.asarray(args[0]).dtype
        return narrow(np.asarray(f(*[np.asarray(a).astype(F64) for a in args])), dtype)

    return g


# Floats, in float64 ------------------------------------------------------------------------------------------------------------------------


def _each(f: Callable[[float], float]) -> Callable[[Array], Array]:
    def g(x: Array) -> Array:
        return np.fromiter(map(f, x.reshape(-1).tolist()), F64, x.size).reshape(x.shape)

    return g


erf = _each(math.erf)
_erfc = _each(math.erfc)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow and without losing small results."""
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, e) / (1.0 + e))


def softplus(x: Array) -> Array:
    """log(1 + exp(x)) without overflow."""
    return np.asarray(np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))))


def _gelu_erf(x: Array) -> Array:
    return _gated(x, 0.5 * _erfc(-x * math.sqrt(0.5)))


def _gelu_tanh(x: Array) -> Array:
    return _gated(x, sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def _gated(x: Array, gate: Array) -> Array:
    """x * gate with its limit, -0, at -inf."""
    return np.asarray(np.where(np.isneginf(x), -0.0, x * gate))


_FLOAT: dict[str, Callable[..., Any]] = {
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "ceil": np.ceil, "floor": np.floor, "round": np.rint, "trunc": np.trunc,
    "sqrt": np.sqrt, "rsqrt": lambda x: 1.0 / np.sqrt(x), "recip": lambda x: 1.0 / x,
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power, "mod": np.mod, "fmod": np.fmod,
    "max": np.maximum, "min": np.minimum,
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "erf": erf,
    "relu": lambda x: np.maximum(x, 0.0), "sigmoid": sigmoid, "softplus": softplus, "silu": lambda x: x * sigmoid(x),
    "gelu_erf": _gelu_erf, "gelu_tanh": _gelu_tanh,
}  # fmt: skip
# Correctly rounded by NumPy in float32 itself, so no detour through float64 is needed.
_EXACT = {k: _FLOAT[k] for k in ("neg", "abs", "sign", "ceil", "floor", "round", "trunc", "sqrt", "add", "sub", "mul", "div", "max", "min")}
_COMPLEX = {k: _FLOAT[k] for k in ("neg", "abs", "sqrt", "recip", "add", "sub", "mul", "div", "exp", "log", "sin", "cos", "tanh", "pow")}

_INT: dict[str, Callable[..., Any]] = {
    **{k: _via_float(f) for k, f in _FLOAT.items()},
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum,
    "min": np.minimum, "div": _int_div, "mod": _int_mod, "fmod": _int_fmod, "pow": _int_pow, "relu": lambda x: np.maximum(x, np.zeros_like(x)),
    "ceil": np.positive, "floor": np.positive, "round": np.positive, "trunc": np.positive,
    "recip": lambda x: _int_div(np.ones_like(x), x),
    "band": np.bitwise_and, "bor": np.bitwise_or, "bxor": np.bitwise_xor, "bnot": np.invert,
    "shl": _shift(np.left_shift), "shr": _shift(np.right_shift),
}  # fmt: skip
_PREDICATES: dict[str, Callable[..., Any]] = {
    "isnan": np.isnan, "isinf_pos": np.isposinf, "isinf_neg": np.isneginf,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip
_ANY: dict[str, Callable[..., Any]] = {"land": np.logical_and, "lor": np.logical_or, "lxor": np.logical_xor, "lnot": np.logical_not}


def map_kernel(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    """Kernel `map`."""
    shape, dtype = out_spec(outs)
    return [evaluate(body, [x for x in ins if x is not None], None, tuple(shape), dtype)]
