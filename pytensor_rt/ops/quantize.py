"""Linear quantisation as expressions and launches, shared by the op rules: an integer q stands for (q - zero) * scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..dtypes import F32, DType
from ..lowering import expr as e
from ..lowering.expr import Var
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer


class Params(NamedTuple):
    """Quantisation of a whole tensor: scale and zero are float32 of rank 0, dtype is the integers'."""

    scale: Tensor
    zero: Tensor
    dtype: DType


def params(t: Tracer, scale: Tensor, zero: Tensor | None, dtype: DType) -> Params:
    """From a node's inputs. Fails unless they have one element each; an absent zero point is 0."""
    if scale.size != 1 or (zero is not None and zero.size != 1):
        t.fail("scale and zero point must have one element (quantisation per tensor)")
    shift = t.const(np.zeros((), np.float32)) if zero is None else t.cast(t.reshape(zero, ()), F32)
    return Params(t.cast(t.reshape(scale, ()), F32), shift, dtype)


def shift_saturate(q: Var, zero: Var, dtype: DType) -> Var:
    """saturate(round(q) + zero), with the addition done in float so that it cannot wrap."""
    return e.cast_sat(e.round_(q) + e.cast(zero, q.dtype), dtype)


def dequantize(t: Tracer, x: Tensor, p: Params) -> Tensor:
    """(x - zero) * scale in float32; 8 and 16 bits are exact in it."""
    return t.map(lambda v, s, z: (e.cast(v, F32) - z) * s, x, p.scale, p.zero)


def quantize(t: Tracer, x: Tensor, p: Params) -> Tensor:
    """saturate(round(x / scale) + zero)"""
    return t.map(lambda v, s, z: shift_saturate(v / s, z, p.dtype), x, p.scale, p.zero)


def rescale(t: Tracer, x: Tensor, scale: Tensor, zero: Tensor, dtype: DType) -> Tensor:
    """saturate(round(x * scale) + zero): what an integer product or sum is requantised with. scale and zero broadcast to x."""
    return t.map(lambda v, s, z: shift_saturate(e.cast(v, F32) * s, z, dtype), x, scale, zero)


def requantize(t: Tracer, x: Tensor, p: Params, q: Params, fn: Callable[[Var], Var] = lambda v: v) -> Tensor:
    """fn of the real numbers behind x, quantised anew."""
    return t.map(lambda v, s, z, r, o: shift_saturate(fn((e.cast(v, F32) - z) * s) / r, o, q.dtype), x, p.scale, p.zero, q.scale, q.zero)


def same(p: Params, q: Params) -> bool:
    """Are both known to be equal?"""
    pairs = ((p.scale.value, q.scale.value), (p.zero.value, q.zero.value))
    return p.dtype == q.dtype and all(a is not None and b is not None and float(a) == float(b) for a, b in pairs)


def unpacked(t: Tracer, x: Tensor, bits: int) -> Tensor:
    """The integers of `bits` bits in bytes x [..., n], the low ones first: uint8 [..., n * 8 / bits]."""
    shifts = t.const(np.arange(0, 8, bits, dtype=np.uint8))
    parts = t.map(lambda v, s: e.band(e.shr(v, s), (1 << bits) - 1), x.unsqueeze(x.ndim), shifts)
    return t.reshape(parts, (*x.shape[:-1], x.shape[-1] * shifts.shape[0]))
