"""Programs over object arrays of symbolic integers: Python operators only, so that what the symbols record survives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...dtypes import BOOL, I32, I64
from .common import Array, Program

_OBJECT = np.dtype(object)


def _div(a: Any, b: Any) -> Any:
    """Truncating division. A symbol (a dimension, or a product of them) is taken to be positive."""
    if type(b) is int and b == 0:
        return 0
    if type(a) is int and a < 0:
        return -_div(-a, b)
    if type(b) is int and b < 0:
        return -_div(a, -b)
    return a // b


def _abs(a: Any) -> Any:
    return -a if a < 0 else a


def _logic(f: Callable[..., bool]) -> Callable[..., bool]:
    return lambda *args: bool(f(*map(bool, args)))


_NUMERIC: dict[str, Callable[..., Any]] = {
    "id": lambda a: a, "neg": lambda a: -a, "abs": _abs, "sign": lambda a: 1 if a > 0 else -1 if a < 0 else 0, "relu": lambda a: a if a > 0 else 0,
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": _div, "mod": lambda a, b: a % b,
    "max": lambda a, b: a if a >= b else b, "min": lambda a, b: a if a <= b else b, "where": lambda c, a, b: a if c else b,
}  # fmt: skip
_BOOLEAN: dict[str, Callable[..., bool]] = {
    "eq": lambda a, b: bool(a == b), "ne": lambda a, b: bool(a != b), "lt": lambda a, b: bool(a < b), "le": lambda a, b: bool(a <= b),
    "gt": lambda a, b: bool(a > b), "ge": lambda a, b: bool(a >= b), "land": _logic(lambda a, b: a and b), "lor": _logic(lambda a, b: a or b),
    "lxor": _logic(lambda a, b: a != b), "lnot": _logic(lambda a: not a), "where": lambda c, a, b: bool(a if c else b),
    "id": lambda a: bool(a),
}  # fmt: skip


def evaluate_objects(program: Program, ins: Sequence[Array], acc: Array | None, shape: tuple[int, ...]) -> Array:
    """As `evaluate`. Raises NotImplementedError for what symbols do not support."""
    if acc is not None:
        raise NotImplementedError("an epilogue over symbolic integers")
    values: list[Array] = []
    for op, args, dtype in program:
        if op == "load":
            values.append(ins[args[0]])
        elif op == "const":
            values.append(_filled((), [args[0]], dtype.kind == "b"))
        elif op == "iota":
            n = [1] * len(shape)
            n[args[0]] = shape[args[0]]
            values.append(np.arange(shape[args[0]], dtype=I64).reshape(n))
        else:
            values.append(_apply(op, [values[a] for a in args], dtype))
    out = values[-1]
    flat = np.broadcast_to(out, shape).reshape(-1).tolist()
    return _filled(shape, flat, program[-1][2] == BOOL)


def _apply(op: str, args: list[Array], dtype: np.dtype[Any]) -> Array:
    if op == "cast":
        x = args[0]
        if dtype == BOOL:
            return _filled(x.shape, [bool(v != 0) for v in x.reshape(-1).tolist()], True)
        if dtype not in (I64, I32) or (x.dtype != _OBJECT and x.dtype.kind not in "biu"):
            raise NotImplementedError(f"a cast of symbolic integers to {dtype}")
        return _filled(x.shape, [int(v) if type(v) is bool else v for v in x.reshape(-1).tolist()], False)
    f = (_BOOLEAN if dtype == BOOL else _NUMERIC).get(op)
    if f is None or (dtype != BOOL and dtype not in (I64, I32)) or any(a.dtype.kind not in "biuO" for a in args):
        raise NotImplementedError(f"`{op}` of symbolic integers")
    shape = np.broadcast_shapes(*[a.shape for a in args])
    columns = [np.broadcast_to(a, shape).reshape(-1).tolist() for a in args]
    return _filled(shape, [f(*row) for row in zip(*columns)], dtype == BOOL)


def _filled(shape: tuple[int, ...], values: Sequence[Any], boolean: bool) -> Array:
    """An array of exactly these Python objects (NumPy would turn a 0-d result into a plain integer)."""
    out = np.empty(len(values), BOOL if boolean else _OBJECT)
    out[:] = values
    return out.reshape(shape)
