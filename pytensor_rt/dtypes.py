"""ONNX element types as NumPy dtypes. The codes are those of `onnx.TensorProto.DataType`.

Types that NumPy lacks (bfloat16, float8, 4- and 2-bit integers) come from ml_dtypes, a requirement of onnx, imported on first use; they are
stored one element per byte or more, never packed. Strings are NumPy object arrays of `str` and live on the host only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

DType = np.dtype[Any]

F32, F64, F16 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16)
I8, I16, I32, I64 = np.dtype(np.int8), np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.int64)
U8, U16, U32, U64 = np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.uint32), np.dtype(np.uint64)
BOOL, STRING = np.dtype(np.bool_), np.dtype(object)
C64, C128 = np.dtype(np.complex64), np.dtype(np.complex128)

_STANDARD: dict[int, DType] = {
    1: F32, 2: U8, 3: I8, 4: U16, 5: I16, 6: I32, 7: I64, 8: STRING, 9: BOOL, 10: F16, 11: F64, 12: U32, 13: U64, 14: C64, 15: C128,
}  # fmt: skip
_EXTENDED = {
    16: "bfloat16", 17: "float8_e4m3fn", 18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz", 21: "uint4", 22: "int4",
    23: "float4_e2m1fn", 24: "float8_e8m0fnu", 25: "uint2", 26: "int2",
}  # fmt: skip
_TYPE_NAMES = {
    1: "float", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool", 10: "float16", 11: "double",
    12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8e4m3fn", 18: "float8e4m3fnuz",
    19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4e2m1", 24: "float8e8m0", 25: "uint2", 26: "int2",
}  # fmt: skip
_CODES: dict[DType, int] = {d: c for c, d in _STANDARD.items()}


def from_code(code: int) -> DType:
    """The NumPy dtype of an ONNX element type. Raises KeyError for an unknown code."""
    dtype = _STANDARD.get(code)
    if dtype is None:
        import ml_dtypes

        dtype = np.dtype(getattr(ml_dtypes, _EXTENDED[code]))
        _STANDARD[code] = dtype
        _CODES[dtype] = code
    return dtype


def code_of(dtype: DType) -> int:
    """The ONNX element type of a NumPy dtype. Raises KeyError if there is none."""
    code = _CODES.get(dtype)
    if code is None:
        if dtype.kind in "US":
            return 8
        for c in _EXTENDED:
            from_code(c)
        code = _CODES[dtype]
    return code


def type_name(code: int) -> str:
    """`float`, `int64`, ...: the element type as it appears in `tensor(float)`."""
    return _TYPE_NAMES.get(code, f"unknown({code})")


def is_float(dtype: DType) -> bool:
    """Floating point of any width, including bfloat16 and the 8- and 4-bit formats."""
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def is_int(dtype: DType) -> bool:
    """Signed or unsigned integer of any width, including 4 and 2 bits; not bool."""
    return dtype.kind in "iu" or (dtype.kind == "V" and "int" in dtype.name)
