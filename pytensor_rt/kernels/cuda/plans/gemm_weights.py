"""Constant B in the format of a reduced precision, made once for an array of weights and shared by all plans that use it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np

from ....dtypes import F32, from_code
from ....lowering.tensor import Tensor
from ..build import Table

Array = np.ndarray[Any, Any]
_made: dict[tuple[Any, ...], tuple[Table, ...]] = {}
_serial = count()
PAD = 16  # bytes (or elements) to which lines are padded


def _once(t: Tensor, what: str, make: Callable[[], tuple[Array, ...]]) -> tuple[Table, ...]:
    """The tables that `make` computes of the tensor's value, kept as long as its data."""
    data = t.buffer.data
    key = (what, id(data), int(t.offset), tuple(t.shape), tuple(t.strides))
    found = _made.get(key)
    if found is None:
        found = tuple([Table(x, ("gemm weights", next(_serial))) for x in make()])
        _made[key] = found
        weakref.finalize(data, _made.pop, key, None)
    return found


def _distinct(t: Tensor) -> Array:
    """The value, with one index along batch axes that are broadcast."""
    value = t.value
    assert value is not None
    return value[tuple(slice(0, 1) if s == 0 else slice(None) for s in t.strides[:-2])]


def halves(t: Tensor, code: int) -> tuple[Table, tuple[int, ...]]:
    """B rounded to f16 (10) or bf16 (16), dense along n, and its shape, whose lines are padded for 16-byte loads."""
    b = _distinct(t)
    shape = (*b.shape[:-1], -(-b.shape[-1] // PAD) * PAD)

    def make() -> tuple[Array]:
        out = np.zeros(shape, from_code(code))
        with np.errstate(over="ignore"):
            out[..., : b.shape[-1]] = b.astype(out.dtype)
        return (out.view(np.uint16),)

    return _once(t, f"halves{code}", make)[0], shape


def quantised(t: Tensor) -> tuple[Table, Table, tuple[int, ...]]:
    """B as spec.py says of precision int8: int8 [..., n, k padded], its columns' scales [..., n], and the shape of the former."""
    b = _distinct(t)
    shape = (*b.shape[:-2], b.shape[-1], -(-max(1, b.shape[-2]) // PAD) * PAD)

    def make() -> tuple[Array, Array]:
        one, least = F32.type, F32.type(2.0**-100)
        with np.errstate(all="ignore"):
            most = np.max(np.abs(b), axis=-2, initial=one(0))
            used = np.isfinite(most) & (most >= least)
            inverse = np.where(used, one(127) / np.where(used, most, one(1)), one(0)).astype(F32)
            scale = np.where(np.isfinite(most), np.where(used, most / one(127), one(0)), one(np.nan)).astype(F32)
            q = np.where(inverse[..., None, :] > 0, np.rint(b * inverse[..., None, :]), one(0)).astype(np.int8)
        out = np.zeros(shape, np.int8)
        out[..., : b.shape[-2]] = np.swapaxes(q, -1, -2)
        return out, np.ascontiguousarray(scale)

    values, scales = _once(t, "int8", make)
    return values, scales, shape
