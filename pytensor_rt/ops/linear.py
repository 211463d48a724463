"""Matrix products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..dtypes import F32, I32, is_float
from ..lowering import expr as e
from ..lowering.recorder import broadcast_shapes
from ..lowering.tensor import Tensor, size_of
from ..lowering.tracer import Tracer
from .quantize import rescale
from .registry import INTERNAL, MICROSOFT, op


def matmul_like(
    t: Tracer, a: Tensor, b: Tensor, dtype: Any = None, a_zero: Tensor | None = None, b_zero: Tensor | None = None, alpha: float = 1.0
) -> Tensor:
    """NumPy's matmul times alpha as one gemm launch; zero points are per tensor, per row of a or per column of b."""
    if a.ndim == 0 or b.ndim == 0:
        t.fail("operands must have rank >= 1")
    a2 = a.unsqueeze(0) if a.ndim == 1 else a
    b2 = b.unsqueeze(1) if b.ndim == 1 else b
    if a2.shape[-1] != b2.shape[-2]:
        t.fail(f"inner dimensions differ: {int(a2.shape[-1])} and {int(b2.shape[-2])}")
    batch = broadcast_shapes([a2.shape[:-2], b2.shape[:-2]])
    m, k, n = a2.shape[-2], a2.shape[-1], b2.shape[-1]
    ins: list[Tensor | None] = [a2.expand((*batch, m, k)), b2.expand((*batch, k, n))]
    if a_zero is not None or b_zero is not None:
        if a_zero is not None:
            if a_zero.ndim == 1 and a_zero.shape[0] != 1:
                a_zero = a_zero.unsqueeze(1)
            a_zero = (t.reshape(a_zero, ()) if a_zero.size == 1 else a_zero).expand((*batch, m, 1))
        if b_zero is not None:
            b_zero = (t.reshape(b_zero, ()) if b_zero.size == 1 else b_zero).expand((*batch, 1, n))
        ins += [a_zero, b_zero]
    y = t.record("gemm", ins, [((*batch, m, n), dtype or a.dtype)], {"alpha": float(alpha)} if alpha != 1.0 else None)[0]
    if a.ndim == 1:
        y = y.squeeze(y.ndim - 2)
    return y.squeeze(y.ndim - 1) if b.ndim == 1 else y


@op("MatMul")
def matmul(t: Tracer, a: Tensor, b: Tensor) -> Tensor:
    return matmul_like(t, a, b)


@op("MatMulInteger", since=10)
def matmul_integer(t: Tracer, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
    return matmul_like(t, a, b, I32, a_zero, b_zero)


def integer_product(
    t: Tracer, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, a_zero: Tensor | None, b_zero: Tensor | None, bias: Tensor | None
) -> Tensor:
    """(a - a_zero) @ (b - b_zero) * (a_scale * b_scale) + bias in a_scale's dtype: 8-bit a per tensor, b per tensor or column."""
    acc = matmul_like(t, a, b, I32, a_zero, b_zero)
    one: Any = lambda s: t.reshape(s, ()) if s.size == 1 else s
    scale = t.map(lambda p, q: e.cast(p, F32) * e.cast(q, F32), one(a_scale), one(b_scale))
    y = t.map(lambda v, s: e.cast(v, F32) * s, acc, scale)
    if bias is not None:
        y = t.map(lambda v, w: v + e.cast(w, F32), y, bias)
    return t.cast(y, a_scale.dtype)


@op("Gemm")
def gemm(
    t: Tracer,
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    **_: Any,
) -> Tensor:
    if a.ndim != 2 or b.ndim != 2:
        t.fail("operands must have rank 2")
    a = a.permute((1, 0)) if transA else a
    b = b.permute((1, 0)) if transB else b
    if a.shape[1] != b.shape[0]:
        t.fail(f"inner dimensions differ: {int(a.shape[1])} and {int(b.shape[0])}")
    y = t.record("gemm", [a, b], [((a.shape[0], b.shape[1]), a.dtype)], {"alpha": float(alpha)})[0]
    if c is None or beta == 0.0:
        return y
    return t.map((lambda v, w: v + w) if beta == 1.0 else lambda v, w: v + w * beta, y, c)


def dequantized_product(
    t: Tracer, a: Tensor, b: Tensor, scale: Tensor, zero: Tensor | None, k: int, *, block: int = 0, pairs: int = 0, alpha: float = 1.0,
    precision: str = "full",
) -> Tensor:  # fmt: skip
    """a [..., k] times (b - zero) * scale, b [k, n] (pairs: [ceil(k / 2), n]) constant and so are scale and zero [blocks, n]: spec.py's b_scale."""
    if a.shape[-1] != k:
        t.fail(f"inner dimensions differ: {int(a.shape[-1])} and {int(k)}")
    if not (b.known and scale.known and (zero is None or zero.known)):
        t.fail("the quantised weight and its parameters must be constants")
    a2 = a.unsqueeze(0) if a.ndim == 1 else a
    wide: Any = lambda x: None if x is None else x.expand((*a2.shape[:-2], *x.shape))
    params = {"alpha": alpha, "precision": precision, "block": block if scale.shape[0] != 1 else 0, "pairs": pairs}
    y = t.record("gemm", [a2, wide(b), None, wide(zero), wide(scale)], [((*a2.shape[:-1], b.shape[1]), a.dtype)], params)[0]
    return y.squeeze(y.ndim - 2) if a.ndim == 1 else y


@op("MatMulDequantized", domain=INTERNAL)
def matmul_dequantized(
    t: Tracer, a: Tensor, w: Tensor, scale: Tensor, zero: Tensor | None = None, c: Tensor | None = None, *,
    axis: int = 1, block: int = 0, transA: int = 0, transB: int = 0, alpha: float = 1.0, beta: float = 1.0,
) -> Tensor:  # fmt: skip
    """Gemm (or MatMul) by (w - zero) * scale, made by passes/dequantized.py: axis and block are DequantizeLinear's, in w's own axes."""

    def matrix(x: Tensor) -> Tensor:
        """[blocks, n], or 1 where it does not vary."""
        if x.size == 1:
            x = t.reshape(x, (1, 1))
        elif x.ndim == 1:
            x = x.unsqueeze(1 - axis)
        return x.permute((1, 0)) if transB else x

    a = a.permute((1, 0)) if transA else a
    w = w.permute((1, 0)) if transB else w
    k, s = w.shape[0], matrix(scale)
    along_k = axis == (1 if transB else 0)
    if block and not along_k:  # blocks of columns: a scale for every column
        t.fail("scales in blocks along the output's axis are not supported")
    y = dequantized_product(t, a, w, s, None if zero is None else matrix(zero), k, block=block or 1, alpha=alpha)
    if c is None or beta == 0.0:
        return y
    return t.map((lambda v, x: v + x) if beta == 1.0 else lambda v, x: v + x * beta, y, c)


MIDDLE = {bits: np.full((1, 1), 1 << (bits - 1), np.float32) for bits in (2, 4, 8)}  # the zero point where none is given


@op("MatMulNBits", domain=MICROSOFT)
def matmul_nbits(
    t: Tracer, a: Tensor, b: Tensor, scales: Tensor, zeros: Tensor | None = None, g_idx: Tensor | None = None, bias: Tensor | None = None, *,
    K: int, N: int, bits: int = 4, block_size: int, accuracy_level: int = 0, **_: Any,
) -> Tensor:  # fmt: skip
    """com.microsoft MatMulNBits: b [N, blocks, block_size * bits / 8] uint8, scales [N, blocks], zeros the same (or packed like b, by rows).

    accuracy_level 4 lets a be quantised to int8 in blocks: 16 bits are as fast where reading b takes the time.
    """
    if g_idx is not None and g_idx.size:
        t.fail("g_idx (an order of the rows) is not supported")
    if bits not in (4, 8):
        t.fail(f"bits must be 4 or 8, got {bits}")
    blocks, per_byte = -(-K // block_size), 8 // bits
    w = t.reshape(b, (N, blocks * block_size // per_byte)).slice(1, 0, -(-K // per_byte)).permute((1, 0))
    if zeros is None:
        zero = t.const(MIDDLE[bits])
    else:
        columns = blocks if is_float(zeros.dtype) else -(-blocks // per_byte)
        zero = t.reshape(zeros, (N, columns)).permute((1, 0))
    scale = t.reshape(scales, (N, blocks)).permute((1, 0))
    precision = "int16" if accuracy_level == 4 else "full"
    y = dequantized_product(t, a, w, scale, zero, K, block=block_size, pairs=int(bits == 4), precision=precision)
    return y if bias is None else t.map(lambda v, x: v + x, y, bias)


@op("QLinearMatMul", since=10)
def qlinear_matmul(
    t: Tracer, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor, y_scale: Tensor, y_zero: Tensor
) -> Tensor:
    acc = matmul_like(t, a, b, I32, a_zero, b_zero)
    if a_scale.ndim == 1 and a_scale.shape[0] != 1:
        a_scale = a_scale.unsqueeze(1)
    one: Any = lambda s: t.reshape(s, ()) if s.size == 1 else s
    scale = t.map(lambda p, q, r: e.cast(p, F32) * e.cast(q, F32) / e.cast(r, F32), one(a_scale), one(b_scale), one(y_scale))
    return rescale(t, acc, scale, one(y_zero), y_zero.dtype)


@op("Attention", domain=INTERNAL)
def fused_attention(
    t: Tracer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, scale: float | None = None, nan_to_zero: int = 0
) -> Tensor:
    """softmax(q k^T * scale + mask) v, recognised by passes/attention.py: q [..., S, D], k [..., T, D], v [..., T, E], leading axes broadcast.

    A row whose keys are all masked with -inf gives NaN, as the composed form does, or 0 if nan_to_zero.
    """
    lead = broadcast_shapes([q.shape[:-2], k.shape[:-2], v.shape[:-2]])
    s, d, n, width = q.shape[-2], q.shape[-1], k.shape[-2], v.shape[-1]

    def four(x: Tensor) -> Tensor:
        """[batch, heads, rows, columns]"""
        x = x.expand((*lead, *x.shape[-2:]))
        while x.ndim < 4:
            x = x.unsqueeze(0)
        return x if x.ndim == 4 else t.reshape(x, (size_of(x.shape[:-3]), *x.shape[-3:]))

    if mask is not None:
        mask = four(mask.expand((*mask.shape[:-2], s, n)) if mask.ndim >= 2 else mask.expand((s, n)))
    q4, k4, v4 = four(q), four(k), four(v)
    factor = float(scale) if scale is not None else 1.0 / math.sqrt(int(d))
    y = t.record(
        "attention", [q4, k4, v4, mask, None], [((*q4.shape[:3], width), q.dtype)], {"scale": factor, "masked_nan": int(not nan_to_zero)}
    )[0]
    return t.reshape(y, (*lead, s, width))
