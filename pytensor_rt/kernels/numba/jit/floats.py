"""Elements of float32, float64, float16 and bfloat16, read as float64 and written from it with one rounding, and where the lines of a tensor lie.

A line is what a kernel handles on its own: a signal, a matrix. Words of a walk over lines: the number of axes, then of each axis, slowest first, its
size and its strides in the tensors walked (bytes).
"""

from __future__ import annotations

from typing import Any

from numba import float32 as F
from numba import float64 as D
from numba import types

from .intrinsics import inline
from .memory import bf16_bits, bf16_value, f16_bits, f16_value
from .vm import odd, to_bf16, to_f16

ELEMENTS = {"float32": types.float32, "float64": types.float64, "float16": types.uint16, "bfloat16": types.uint16}


def reader(dtype: str) -> tuple[Any, Any]:
    """The type of a dtype's elements in memory, and the function that takes one to float64."""
    if dtype == "float16":
        value = inline(lambda x: D(f16_value(x)))
    elif dtype == "bfloat16":
        value = inline(lambda x: D(bf16_value(x)))
    else:
        value = inline(lambda x: D(x))
    return ELEMENTS[dtype], value


def writer(dtype: str) -> tuple[Any, Any]:
    """The type of a dtype's elements in memory, and the function that takes a float64 there."""
    if dtype == "float16":
        bits = inline(lambda x: types.uint16(f16_bits(to_f16(odd(x)))))
    elif dtype == "bfloat16":
        bits = inline(lambda x: types.uint16(bf16_bits(to_bf16(odd(x)))))
    else:
        X = F if dtype == "float32" else D
        bits = inline(lambda x: X(x))
    return ELEMENTS[dtype], bits


@inline
def line_offset(w: Any, first: Any, tensor: Any, tensors: Any, line: Any) -> Any:
    """The byte offset in tensor number `tensor` (of so many) at which a line begins; the walk's words start at w[first]."""
    offset = types.int64(0)
    step = 1 + tensors
    for k in range(w[first] - 1, -1, -1):
        here = first + 1 + k * step
        n = w[here]
        q = line // n
        offset += (line - q * n) * w[here + 1 + tensor]
        line = q
    return offset
