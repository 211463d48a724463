"""Straight-line programs of elementwise instructions, and the small language in which op rules write them.

A program is a tuple of instructions `(op, args, dtype)` in SSA form: `args` are indices of earlier instructions, the last instruction is the
result. `("load", (k,), dtype)` reads operand k, `("const", (value,), dtype)` is an immediate, `("acc", (), dtype)` the result of the kernel an
epilogue belongs to, `("iota", (axis,), dtype)` the index along an output axis. Opcodes and their semantics are declared in kernels/spec.py.

Rules build programs by calling ordinary functions on `Var`s:  `t.map(lambda v: v * tanh(log1p(exp(v))), x)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union

import numpy as np

from ..dtypes import BOOL, DType
from ..kernels.spec import OPCODES
from .symbolic import is_symbolic

Instr = tuple[str, tuple[Any, ...], DType]
Program = tuple[Instr, ...]


class Builder:
    """Collects instructions, sharing equal ones."""

    __slots__ = ("code", "seen")

    def __init__(self) -> None:
        self.code: list[Instr] = []
        self.seen: dict[Any, int] = {}

    def emit(self, op: str, args: tuple[Any, ...], dtype: DType) -> int:
        if op == "const":  # repr tells -0.0 from 0.0 and keeps NaN equal to itself; a symbol is equal only to itself
            v = args[0]
            key: Any = (op, ("symbol", v._expr) if is_symbolic(v) else (repr(v), type(v)), dtype)
        else:
            key = (op, args, dtype)
        index = self.seen.get(key)
        if index is None:
            index = self.seen[key] = len(self.code)
            self.code.append((op, args, dtype))
        return index


class Var:
    """A value inside a program under construction. Python numbers combine with it in its own dtype."""

    __slots__ = ("builder", "dtype", "index")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, builder: Builder, index: int, dtype: DType) -> None:
        self.builder, self.index, self.dtype = builder, index, dtype

    def __add__(self, o: Operand) -> Var:
        return emit("add", self, o)

    def __radd__(self, o: Operand) -> Var:
        return emit("add", o, self)

    def __sub__(self, o: Operand) -> Var:
        return emit("sub", self, o)

    def __rsub__(self, o: Operand) -> Var:
        return emit("sub", o, self)

    def __mul__(self, o: Operand) -> Var:
        return emit("mul", self, o)

    def __rmul__(self, o: Operand) -> Var:
        return emit("mul", o, self)

    def __truediv__(self, o: Operand) -> Var:
        return emit("div", self, o)

    def __rtruediv__(self, o: Operand) -> Var:
        return emit("div", o, self)

    def __mod__(self, o: Operand) -> Var:
        return emit("mod", self, o)

    def __pow__(self, o: Operand) -> Var:
        return emit("pow", self, o)

    def __neg__(self) -> Var:
        return emit("neg", self)

    def __eq__(self, o: object) -> Var:  # type: ignore[override]
        return emit("eq", self, o, dtype=BOOL)  # type: ignore[arg-type]

    def __ne__(self, o: object) -> Var:  # type: ignore[override]
        return emit("ne", self, o, dtype=BOOL)  # type: ignore[arg-type]

    def __lt__(self, o: Operand) -> Var:
        return emit("lt", self, o, dtype=BOOL)

    def __le__(self, o: Operand) -> Var:
        return emit("le", self, o, dtype=BOOL)

    def __gt__(self, o: Operand) -> Var:
        return emit("gt", self, o, dtype=BOOL)

    def __ge__(self, o: Operand) -> Var:
        return emit("ge", self, o, dtype=BOOL)


Operand = Union[Var, int, float, bool, "np.generic[Any]"]


def emit(op: str, *xs: Operand, dtype: DType | None = None) -> Var:
    """Append one instruction. The result has `dtype`, by default that of the last Var among the operands."""
    like = next(x for x in reversed(xs) if isinstance(x, Var))
    b = like.builder
    args = tuple([x.index if isinstance(x, Var) else b.emit("const", (_scalar(x, like.dtype),), like.dtype) for x in xs])
    out = dtype or like.dtype
    return Var(b, b.emit(op, args, out), out)


def _scalar(x: Any, dtype: DType) -> Any:
    if isinstance(x, np.generic):
        return x.item() if dtype.kind in "biufc" else x
    return x


def program_of(fn: Callable[..., Var], dtypes: Sequence[DType], acc: DType | None = None) -> Program:
    """The program of a function on Vars, `fn([acc,] operand0, operand1, ...)`, given the operands' dtypes."""
    b = Builder()
    args = [Var(b, b.emit("acc", (), acc), acc)] if acc is not None else []
    args += [Var(b, b.emit("load", (k,), d), d) for k, d in enumerate(dtypes)]
    result = fn(*args)
    if result.index != len(b.code) - 1:
        b.code.append(("id", (result.index,), result.dtype))
    return tuple(b.code)


def cast(x: Var, dtype: DType) -> Var:
    """ONNX Cast."""
    return x if x.dtype == dtype else emit("cast", x, dtype=dtype)


def where(c: Var, a: Operand, b: Operand) -> Var:
    """`a` where `c` (bool) else `b`; at least one of a, b is a Var and gives the dtype."""
    like = a if isinstance(a, Var) else b
    assert isinstance(like, Var)
    one: Any = lambda v: (
        v if isinstance(v, Var) else Var(c.builder, c.builder.emit("const", (_scalar(v, like.dtype),), like.dtype), like.dtype)
    )
    return emit("where", c, one(a), one(b), dtype=like.dtype)


def _unary(op: str, dtype: DType | None = None) -> Any:
    def f(x: Var) -> Var:
        return emit(op, x, dtype=dtype)

    f.__name__, f.__doc__ = op, f"Opcode `{op}`."
    return f


def _binary(op: str, dtype: DType | None = None) -> Any:
    def f(a: Operand, b: Operand) -> Var:
        return emit(op, a, b, dtype=dtype)

    f.__name__, f.__doc__ = op, f"Opcode `{op}`."
    return f


neg, abs_, sign, ceil, floor, round_, trunc = map(_unary, ("neg", "abs", "sign", "ceil", "floor", "round", "trunc"))
sqrt, rsqrt, recip, exp, expm1, log, log1p = map(_unary, ("sqrt", "rsqrt", "recip", "exp", "expm1", "log", "log1p"))
sin, cos, tan, asin, acos, atan = map(_unary, ("sin", "cos", "tan", "asin", "acos", "atan"))
sinh, cosh, tanh, asinh, acosh, atanh, erf = map(_unary, ("sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf"))
relu, sigmoid, softplus, silu, gelu_erf, gelu_tanh = map(_unary, ("relu", "sigmoid", "softplus", "silu", "gelu_erf", "gelu_tanh"))
bnot = _unary("bnot")
isnan, isinf_pos, isinf_neg, lnot = (_unary(o, BOOL) for o in ("isnan", "isinf_pos", "isinf_neg", "lnot"))
add, sub, mul, div, pow_, mod, fmod, max_, min_ = map(_binary, ("add", "sub", "mul", "div", "pow", "mod", "fmod", "max", "min"))
land, lor, lxor = (_binary(o, BOOL) for o in ("land", "lor", "lxor"))
band, bor, bxor, shl, shr = map(_binary, ("band", "bor", "bxor", "shl", "shr"))


def cast_sat(x: Var, dtype: DType) -> Var:
    """Round half to even, then saturate to `dtype` (quantisation)."""
    return emit("cast_sat", x, dtype=dtype)


def substitute(
    host: Program, slots: frozenset[int] | set[int], inner: Program, inner_map: Mapping[int, int], host_map: Mapping[int, int]
) -> Program:
    """`host` with every load of an operand in `slots` replaced by `inner`.

    Operand i of `inner` becomes operand inner_map[i], the other operands i of `host` become host_map[i].
    """
    b = Builder()
    r: list[int] = []
    for op, args, dtype in inner:
        if op == "load":
            r.append(b.emit(op, (inner_map[args[0]],), dtype))
        elif op in _SOURCES:
            r.append(b.emit(op, args, dtype))
        else:
            r.append(b.emit(op, tuple([r[a] for a in args]), dtype))
    root, r = r[-1], []
    for op, args, dtype in host:
        if op == "load":
            r.append(root if args[0] in slots else b.emit(op, (host_map[args[0]],), dtype))
        elif op in _SOURCES:
            r.append(b.emit(op, args, dtype))
        else:
            r.append(b.emit(op, tuple([r[a] for a in args]), dtype))
    if r[-1] != len(b.code) - 1:
        b.code.append(("id", (r[-1],), b.code[r[-1]][2]))
    return tuple(b.code)


_SOURCES = frozenset({"const", "acc", "iota"})


def arity(op: str) -> int:
    return OPCODES[op][1]
