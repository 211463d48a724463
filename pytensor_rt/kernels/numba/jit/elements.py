"""Elements of any dtype that a kernel reads itself, as values of the type it computes in."""

from __future__ import annotations

from typing import Any

from numba import types

from .intrinsics import inline
from .memory import bf16_value, f16_value

_NAMED = {"float16": types.uint16, "bfloat16": types.uint16, "bool": types.uint8}


def element(name: str, C: Any) -> tuple[Any, Any]:
    """Numba's type of a dtype's memory, and a function from one of its elements to a `C`.

    name: float64, float32, float16, bfloat16, bool, or an integer dtype of 8 to 64 bits.
    """
    X = _NAMED.get(name) or getattr(types, name)
    if name == "float16":
        return X, inline(lambda v: C(f16_value(v)))
    if name == "bfloat16":
        return X, inline(lambda v: C(bf16_value(v)))
    return X, inline(lambda v: C(v))
