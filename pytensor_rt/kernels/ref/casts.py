"""The conversions of the `map` vocabulary: cast, cast_wrap and cast_sat."""

from __future__ import annotations

import numpy as np

from ...dtypes import BOOL, F32, F64, I64, DType, is_float
from .common import STANDARD_FLOATS, Array, float_max, int_range, narrow, wide


def cast(x: Array, dtype: DType, saturate: bool = True) -> Array:
    """ONNX Cast: float to int truncates and keeps the low bits, float to bool tests for non-zero, float8 saturates if asked to."""
    source = x.dtype
    if source == dtype:
        return x
    if dtype == BOOL:
        return np.asarray(wide(x) != 0) if source.kind == "V" else x.astype(BOOL)
    if not is_float(dtype):
        if is_float(source):
            return narrow(wide(x), dtype)
        if dtype.kind == "V" or source.kind == "V":
            return wide(x).astype(dtype)
        return x.astype(dtype)
    if dtype in STANDARD_FLOATS:
        return x.astype(dtype)
    return _extended_float(wide(x).astype(F64), dtype, saturate)


def _extended_float(x: Array, dtype: DType, saturate: bool) -> Array:
    """float64 to bfloat16, float8 or float4, correctly rounded once."""
    name = dtype.name
    if name == "float8_e8m0fnu":
        return _power_of_two(x, dtype, saturate)
    if saturate and name.startswith("float8"):
        top = float_max(dtype)
        x = np.where(np.isnan(x), x, np.clip(x, -top, top))
    return narrow(x, dtype)


def _power_of_two(x: Array, dtype: DType, saturate: bool) -> Array:
    """float8e8m0 with ONNX's default rounding: up, to the next power of two, ignoring the sign. NaN and infinity give NaN."""
    with np.errstate(all="ignore"):
        bits = x.astype(F32).view(np.uint32)
    exponent = ((bits >> 23) & 0xFF).astype(np.int32)
    up = ((bits & 0x7FFFFF) != 0) & (exponent < (254 if saturate else 255))
    return np.asarray((exponent + up).astype(np.uint8)).view(dtype)


def cast_sat(x: Array, dtype: DType) -> Array:
    """Round half to even, then saturate to `dtype`. NaN gives the lowest value of an integer type."""
    if is_float(dtype):
        return cast(x, dtype)
    lo, hi = int_range(dtype)
    if is_float(x.dtype):
        v = np.rint(wide(x))
        inside = (v > lo) & (v < hi)
        kept = narrow(np.where(inside, v, 0.0), dtype)
        return np.where(inside, wide(kept), np.where(v >= hi, np.array(hi, wide(kept).dtype), np.array(lo, wide(kept).dtype))).astype(dtype)
    v = wide(x)
    if v.dtype == I64:
        return np.asarray(np.clip(v, lo, min(hi, 2**63 - 1))).astype(dtype)
    return np.asarray(np.minimum(v, np.uint64(hi))).astype(dtype)
