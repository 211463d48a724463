"""Shared by all reference kernels: types, widening to the type they compute in, and rounding once to the type they return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...dtypes import F16, F32, F64, I32, I64, U32, U64, DType, is_float

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]
Program = tuple[tuple[str, tuple[Any, ...], DType], ...]
Out = tuple[tuple[int, ...], DType]
Params = dict[str, Any]
STANDARD_FLOATS = (F16, F32, F64)
Kernel = Callable[[Sequence["Array | None"], Sequence["Out | None"], Params, Program], "list[Array | None]"]


def required(x: Array | None) -> Array:
    """An operand that the kernel cannot do without."""
    if x is None:
        raise ValueError("a required operand is absent")
    return x


def out_spec(outs: Sequence[Out | None], i: int = 0) -> Out:
    """Shape and dtype of an output that must be present."""
    spec = outs[i]
    if spec is None:
        raise ValueError(f"output {i} is absent")
    return spec


def optional(ins: Sequence[Array | None], i: int) -> Array | None:
    """Operand i, or None where the list is shorter."""
    return ins[i] if i < len(ins) else None


def wide(x: Array) -> Array:
    """Floats as float64, integers and booleans as int64 (uint64 stays); object and complex arrays as they are."""
    dtype = x.dtype
    kind = dtype.kind
    if kind == "f" or (kind == "V" and is_float(dtype)):
        return x.astype(F64)
    if kind in "ibV" or (kind == "u" and dtype != U64):
        return x.astype(I64)
    return x


def round_to_odd(x: Array) -> Array:
    """float64 to float32 such that a further rounding to a type of at most 22 significant bits gives the correctly rounded result."""
    y = np.asarray(x, F64).astype(F32)
    back = y.astype(F64)
    inexact = (back != x) & np.isfinite(y)
    # Truncate towards zero, then set the last bit.
    toward = np.where(inexact & (np.abs(back) > np.abs(x)), np.nextafter(y, F32.type(0)), y)
    odd = (toward.view(I32) | 1).view(F32)
    overflow = np.isinf(y) & np.isfinite(x)
    largest = np.copysign(np.finfo(F32).max, y)
    return np.where(overflow, largest, np.where(inexact, odd, y)).astype(F32)


def narrow(x: Array, dtype: DType) -> Array:
    """Round float64 (or wrap int64/uint64) once to `dtype`. float64 to an integer type truncates."""
    if x.dtype == dtype:
        return x
    if x.dtype != F64 or dtype in STANDARD_FLOATS:
        return x.astype(dtype)
    if is_float(dtype):
        return round_to_odd(x).astype(dtype)
    return float_to_int(x, dtype) if dtype.kind in "iuV" else x.astype(dtype)


def float_to_int(x: Array, dtype: DType) -> Array:
    """Truncate. Outside the range as x86 (and so NumPy there) has it, on every machine.

    To at most 16 bits by way of int32 and to uint32 by way of int64, keeping the low bits; NaN and what is outside int32 (int64) gives the lowest
    int32 (int64). To uint64, values from 2**63 on are exact and all others go by way of int64.
    """
    x = np.trunc(x)
    if dtype == U64:
        high = (x >= 2.0**63) & (x < 2.0**64)
        upper = np.where(high, x - 2.0**63, 0.0).astype(I64).view(U64) + U64.type(2**63)
        return np.where(high, upper, _truncated(x, I64).view(U64))
    return _truncated(x, I64 if dtype.itemsize == 8 or dtype == U32 else I32).astype(dtype)


def _truncated(x: Array, dtype: DType) -> Array:
    limit = 2.0 ** (8 * dtype.itemsize - 1)
    inside = (x >= -limit) & (x < limit)
    return np.where(inside, np.where(inside, x, 0.0).astype(dtype), np.iinfo(dtype).min).astype(dtype)


def int_range(dtype: DType) -> tuple[int, int]:
    """Lowest and highest value of an integer dtype, also of 4 and 2 bits."""
    if dtype.kind == "V":
        import ml_dtypes

        wide_info = ml_dtypes.iinfo(dtype)
        return int(wide_info.min), int(wide_info.max)
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def float_max(dtype: DType) -> float:
    """Largest finite value of a float dtype."""
    if dtype not in STANDARD_FLOATS:
        import ml_dtypes

        return float(ml_dtypes.finfo(dtype).max)
    return float(np.finfo(dtype).max)


def result(x: Array, out: Out) -> Array:
    """`x` as a contiguous array of the declared output, rounded once. Raises ValueError if the shape is not the declared one."""
    shape, dtype = out
    if x.dtype == np.dtype(object):
        return x.reshape(shape)
    with np.errstate(all="ignore"):
        y = narrow(x, dtype)
    if y.shape != tuple(shape):
        raise ValueError(f"the kernel computed shape {y.shape}, but {tuple(shape)} was declared")
    return np.ascontiguousarray(y).reshape(shape)
