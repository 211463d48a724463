"""Element types and programs as CUDA C++ text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isinf, isnan
from typing import Any

from ...dtypes import BOOL, DType, code_of, is_float
from ...errors import UnsupportedError

# ONNX element type -> storage type in csrc/cuda/types.cuh
_TYPES = {
    1: "f32", 2: "u8", 3: "i8", 4: "u16", 5: "i16", 6: "i32", 7: "i64", 9: "bool", 10: "f16", 11: "f64", 12: "u32", 13: "u64", 14: "c64",
    15: "c128", 16: "bf16", 17: "f8e4m3fn", 18: "f8e4m3fnuz", 19: "f8e5m2", 20: "f8e5m2fnuz", 21: "u4", 22: "i4", 23: "f4e2m1fn",
    24: "f8e8m0fnu", 25: "u2", 26: "i2",
}  # fmt: skip

# opcodes whose instruction names the dtype of its operand too
_OF_OPERAND = frozenset(
    {"cast", "cast_wrap", "cast_sat", "isnan", "isinf_pos", "isinf_neg", "eq", "ne", "lt", "le", "gt", "ge", "land", "lor", "lxor", "lnot"}
)
_MOVES = frozenset({"load", "id", "where", "acc"})


def type_of(dtype: DType) -> str:
    """The storage type of a dtype. Raises UnsupportedError for strings."""
    try:
        return _TYPES[code_of(dtype)]
    except KeyError:
        raise UnsupportedError(f"dtype {dtype} has no representation on a CUDA device") from None


def register_type(dtype: DType) -> str:
    """What a register holds of a dtype: Value<T> of types.cuh."""
    return f"Value<{type_of(dtype)}>"


def scalar_format(dtype: DType) -> tuple[str, str]:
    """(C++ type, struct format) in which a constant of this dtype travels."""
    name = type_of(dtype)
    if is_float(dtype):
        return ("f64", "d") if name == "f64" else ("f32", "f")
    formats = {"i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I", "i64": "q", "u64": "Q", "bool": "?"}
    if name in formats:
        return name, formats[name]
    if name in ("i4", "i2", "u4", "u2"):
        return ("i8", "b") if name[0] == "i" else ("u8", "B")
    raise UnsupportedError(f"constants of {dtype} are not supported on a CUDA device")


def scalar_value(value: Any, dtype: DType) -> Any:
    """A constant as Python's struct packs it: wrapped to the width of an integer, rounded to a narrow float."""
    if dtype == BOOL:
        return bool(value)
    if is_float(dtype):
        v = float(value)
        if isnan(v) or isinf(v):
            return v
        import numpy as np

        with np.errstate(over="ignore"):
            return float(np.asarray(v, np.float64).astype(dtype))
    bits = {"4": 4, "2": 2}.get(type_of(dtype)[1:], 8 * dtype.itemsize)
    v = int(value) & ((1 << bits) - 1)
    return v - (1 << bits) if type_of(dtype)[0] == "i" and v >> (bits - 1) else v


def body(
    program: Sequence[tuple[str, tuple[Any, ...], DType]],
    load: Callable[[int, DType], str],
    iota: Callable[[int], str],
    constant: Callable[[Any, DType], str],
    acc: str = "acc",
) -> list[str]:
    """The statements of a straight-line program; the result is in the register of the last instruction, `rN`.

    `load`, `iota` and `constant` give the expressions of an operand's element, a coordinate and an immediate.
    """
    out = []
    dtypes = [d for _, _, d in program]
    for i, (op, args, dtype) in enumerate(program):
        name = type_of(dtype)
        if name in ("c64", "c128") and op not in _MOVES:
            raise UnsupportedError(f"arithmetic on {dtype} (opcode {op!r}) is not supported on a CUDA device")
        if op == "load":
            text = load(args[0], dtype)
        elif op == "const":
            text = constant(args[0], dtype)
        elif op == "acc":
            text = acc
        elif op == "iota":
            text = f"op::cast<{name}, i64>({iota(args[0])})"
        else:
            types = f"{name}, {type_of(dtypes[args[0]])}" if op in _OF_OPERAND else name
            text = f"op::{op}<{types}>({', '.join(f'r{a}' for a in args)})"
        out.append(f"const {register_type(dtype)} r{i} = {text};")
    return out
