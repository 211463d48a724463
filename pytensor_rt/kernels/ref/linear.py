"""gemm, linear_algebra, attention and linear_attention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...dtypes import F16, F32, F64, from_code, is_float
from .common import Array, Out, Params, Program, optional, out_spec, required, result, wide


def gemm(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    a, b = required(ins[0]), required(ins[1])
    scale = optional(ins, 4)
    if scale is not None and params.get("precision") == "int8":
        return [result(quantised_matmul(a, b, scale) * params.get("alpha", 1.0), out_spec(outs))]
    if scale is not None:
        w = dequantised(b, optional(ins, 3), scale, a.shape[-1], params)
        with np.errstate(all="ignore"):
            return [result(np.matmul(wide(a), wide(w)) * params.get("alpha", 1.0), out_spec(outs))]
    precision = params.get("precision", "full")
    if precision != "full":
        return [result(reduced_matmul(a, b, precision) * params.get("alpha", 1.0), out_spec(outs))]
    if is_float(a.dtype):
        with np.errstate(all="ignore"):
            return [result(np.matmul(wide(a), wide(b)) * params.get("alpha", 1.0), out_spec(outs))]
    small = a.dtype.itemsize == 1 and b.dtype.itemsize == 1
    a, b = shifted(a, optional(ins, 2)), shifted(b, optional(ins, 3))
    y = exact_matmul(a, b) if small else np.matmul(a, b)
    alpha = params.get("alpha", 1.0)
    return [result(y if alpha == 1.0 else y * int(alpha), out_spec(outs))]


def dequantised(b: Array, zero: Array | None, scale: Array, k: int, params: Params) -> Array:
    """(b - zero) * scale in float32, with k rows: spec.py's b_scale."""
    if params.get("pairs", 0):
        zero = zero if zero is None or is_float(zero.dtype) else _halves(zero)
        b = _halves(b)[..., :k, :]
    rows = np.arange(k) // (params.get("block", 0) or max(1, k))

    def each(x: Array) -> Array:
        return (x if x.shape[-2] == 1 else x[..., rows, :]).astype(F32)

    return np.asarray((b.astype(F32) - (F32.type(0) if zero is None else each(zero))) * each(scale))


def _halves(x: Array) -> Array:
    """The 4-bit values of bytes, low halves first, along the second last axis."""
    return np.stack([x & 15, x >> 4], axis=-2).reshape(*x.shape[:-2], 2 * x.shape[-2], x.shape[-1])


def reduced_matmul(a: Array, b: Array, precision: str) -> Array:
    """a @ b with operands rounded as spec.py says of `precision`, summed exactly."""
    if precision == "bf16":
        bf16 = from_code(16)
        a, b = a.astype(bf16), b.astype(bf16)
    elif precision == "int8":
        return quantised_matmul(a, b)
    else:
        b = b.astype(F16)
    with np.errstate(all="ignore"):
        return np.asarray(np.matmul(wide(a), wide(b)))


def quantised_matmul(a: Array, b: Array, b_scale: Array | None = None) -> Array:
    """int8's arithmetic of spec.py: the same roundings in float32, an exact sum. With b_scale, b is int8 already."""
    one, least = F32.type, F32.type(2.0**-100)

    def scaled(width: Array, steps: int) -> tuple[Array, Array]:
        """(steps / width or 0, the scale)."""
        used = np.isfinite(width) & (width >= least)
        inverse = np.where(used, one(steps) / np.where(used, width, one(1)), one(0))
        return inverse, np.where(np.isfinite(width), np.where(used, width / one(steps), one(0)), one(np.nan))

    with np.errstate(all="ignore"):
        low, high = (f(a, axis=-1, keepdims=True, initial=one(0)) for f in (np.min, np.max))
        bad = ~np.isfinite(a).all(axis=-1, keepdims=True)
        inverse, a_scale = scaled(np.where(bad, one(np.nan), high - low), 255)
        zero = np.where(bad, one(0), np.rint(-low * inverse))
        qa = np.where(inverse > 0, np.clip(np.rint(a * inverse) + zero, 0, 255), zero) - zero
        qb = b
        if b_scale is None:
            inverse, b_scale = scaled(np.max(np.abs(b), axis=-2, keepdims=True, initial=one(0)), 127)
            qb = np.where(inverse > 0, np.rint(b * inverse), one(0))
        sums = np.matmul(qa.astype(F64), qb.astype(F64)).astype(F32)
        return np.asarray(sums * (a_scale * b_scale)).astype(F64)


def shifted(x: Array, zero: Array | None) -> Array:
    """`x - zero` in int64 (or uint64)."""
    return wide(x) if zero is None else np.subtract(wide(x), wide(zero))


def exact_matmul(a: Array, b: Array) -> Array:
    """Integer product of operands below 2**9 in magnitude: exact in float64 (for fewer than 2**35 terms), where matmul is fast."""
    return np.asarray(np.matmul(a.astype(F64), b.astype(F64))).astype(np.int64)


def linear_algebra(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    return [result(np.asarray(np.linalg.det(wide(required(ins[0])).astype(F64))), out_spec(outs))]


def attention(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    q, k, v = (wide(required(x)) for x in ins[:3])
    mask, lengths = optional(ins, 3), optional(ins, 4)
    n_heads, s, t = q.shape[1], q.shape[2], k.shape[2]
    groups = k.shape[1]
    k, v = (np.repeat(x, n_heads // groups, axis=1) for x in (k, v))
    with np.errstate(all="ignore"):
        scores = np.matmul(q, k.swapaxes(2, 3)) * params["scale"]
        softcap = params.get("softcap", 0.0)
        if softcap > 0:
            scores = softcap * np.tanh(scores / softcap)
        visible = np.ones(scores.shape, np.bool_)
        if mask is not None and mask.dtype.kind == "b":
            visible &= mask
        elif mask is not None:
            scores = scores + wide(mask)
        if params.get("causal", 0):
            visible &= np.arange(t) <= np.arange(s)[:, None] + params.get("causal_offset", 0)
        if lengths is not None:
            visible &= np.arange(t) < lengths.reshape(-1, 1, 1, 1)
        scores = np.where(visible, scores, -np.inf)
        top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
        weights = np.exp(scores - np.where(np.isneginf(top), 0.0, top))
        total = weights.sum(axis=-1, keepdims=True)
        weights = weights / np.where(total == 0, np.nan if params.get("masked_nan", 0) else 1.0, total)
        # An invisible key has weight 0, and must not contribute even where its value is not finite.
        y = np.matmul(weights, np.where(np.isfinite(v), v, 0.0))
        if not np.isfinite(v).all():
            y = y + _not_finite(weights, v)
    return [result(y, out_spec(outs))]


def _not_finite(weights: Array, v: Array) -> Array:
    """What the infinities and NaNs of `v` add to the result of the keys that see them."""
    odd = np.where(np.isfinite(v), 0.0, v)[:, :, None]
    w = weights[..., None]
    return np.asarray(np.where((w == 0) | (odd == 0), 0.0, w * odd).sum(axis=3))


def linear_attention(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    q, k, v = (wide(required(x)) for x in ins[:3])
    state, decay, beta = (None if x is None else wide(x) for x in (optional(ins, i) for i in (3, 4, 5)))
    batch, states, steps, depth = v.shape[0], v.shape[1], v.shape[2], k.shape[3]
    heads = max(q.shape[1], states)
    q, k = np.repeat(q, heads // q.shape[1], axis=1), np.repeat(k, states // k.shape[1], axis=1)
    s = np.zeros((batch, states, depth, v.shape[3])) if state is None else state
    y = np.zeros((batch, heads, steps, v.shape[3]))
    slots = outs[1][0][0] if len(outs) > 1 and outs[1] is not None else 0
    present = np.zeros((slots, *s.shape))
    with np.errstate(all="ignore"):
        for t in range(steps):
            if decay is not None:
                s = s * np.exp(decay[:, :, t])[..., None]
            update = v[:, :, t]
            if params.get("delta", 0):
                update = update - np.einsum("bnde,bnd->bne", s, k[:, :, t])
            if beta is not None:
                update = update * beta[:, :, t, None]
            s = s + k[:, :, t, :, None] * update[:, :, None, :]
            y[:, :, t] = params["scale"] * np.einsum("bmde,bmd->bme", np.repeat(s, heads // states, axis=1), q[:, :, t])
            if steps - t <= slots:
                present[slots - (steps - t)] = s
    if slots and not steps:
        present[-1] = s
    return [result(y, out_spec(outs)), *([result(present, out_spec(outs, 1))] if slots else [None] * (len(outs) - 1))]
