"""ONNX's own Attention and RotaryEmbedding, of opset 23 and later.

Letters in shapes: B batch, S queries, P past keys, L new ones, T = P + L, N heads, G heads of key and value, H head size.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..dtypes import BOOL, I64, is_float
from ..lowering import expr as e
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .contrib_attention import angles_at, joined, merge_heads, rotate, split_heads
from .registry import op
from .util import wants

_DOUBLE = 11


@op("Attention", since=23)
def attention(
    t: Tracer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, past_k: Tensor | None = None, past_v: Tensor | None = None,
    lengths: Tensor | None = None, *, is_causal: int = 0, q_num_heads: int = 0, kv_num_heads: int = 0, qk_matmul_output_mode: int = 0,
    scale: float | None = None, softcap: float = 0.0, softmax_precision: int = 0, left_window_size: int = -1, right_window_size: int = -1,
) -> list[Any]:  # fmt: skip
    """q [B, N, S, H] or [B, S, N * H], k and v likewise with G heads; the keys that a query sees end at its own position, which is its index plus P.

    What the kernel does not have goes by the specification's function: the scores as an output, softmax in double, masks of integers.
    """
    numbers = mask is not None and mask.dtype.kind != "b" and not is_float(mask.dtype)
    if wants(t, 3) or numbers or (softmax_precision == _DOUBLE and q.dtype != np.float64):
        return t.resolve.by_definition(t, q, k, v, mask, past_k, past_v, lengths)
    flat = q.ndim == 3
    if flat:
        q, k, v = split_heads(t, q, q_num_heads), split_heads(t, k, kv_num_heads), split_heads(t, v, kv_num_heads)
    past = 0 if past_k is None else past_k.shape[2]
    k, v = joined(t, past_k, k), joined(t, past_v, v)
    batch, heads, tokens, size = q.shape
    total = k.shape[2]
    if heads % k.shape[1] != 0:
        t.fail(f"{int(heads)} heads of q are not a multiple of {int(k.shape[1])} of k")
    if mask is not None:
        mask = _whole(t, mask, total)
    if left_window_size >= 0 or right_window_size >= 0 or (is_causal and lengths is not None):
        seen = _visible(t, tokens, total, past, lengths, bool(is_causal), left_window_size, right_window_size)
        is_causal, mask = 0, seen if mask is None else _both(t, mask, seen)
    if mask is not None:
        mask = (mask if mask.dtype.kind == "b" else t.cast(mask, q.dtype)).expand((batch, heads, tokens, total))
    params = {"scale": 1.0 / math.sqrt(int(size)) if scale is None else float(scale), "softcap": float(softcap)}
    if is_causal:
        params |= {"causal": 1, "causal_offset": past}
    ends = None if lengths is None else t.cast(t.reshape(lengths, (batch,)), I64)
    y = t.record("attention", [q, k, v, mask, ends], [((batch, heads, tokens, v.shape[3]), q.dtype)], params)[0]
    return [merge_heads(t, y) if flat else y, k if wants(t, 1) else None, v if wants(t, 2) else None, None]


def _whole(t: Tracer, mask: Tensor, total: int) -> Tensor:
    """A mask that ends before the last key hides those that follow."""
    missing = total - mask.shape[-1]
    if mask.shape[-1] == 1 or missing <= 0:
        return mask
    hidden = False if mask.dtype.kind == "b" else -math.inf
    return t.concat([mask, t.full((*mask.shape[:-1], missing), hidden, mask.dtype)], mask.ndim - 1)


def _both(t: Tracer, mask: Tensor, seen: Tensor) -> Tensor:
    if mask.dtype.kind == "b":
        return t.map(lambda m, b: e.land(m, b), mask, seen)
    return t.map(lambda m, b: e.where(b, m, -math.inf), mask, seen)


def _visible(t: Tracer, tokens: int, total: int, past: int, lengths: Tensor | None, causal: bool, left: int, right: int) -> Tensor:
    """bool [S, T], or [B, 1, S, T] where sequences end at `lengths` and their last queries there, too."""
    key, query = t.iota(total), t.iota(tokens).unsqueeze(1)
    if lengths is None:
        position = t.map(lambda i: i + past, query)
    else:
        position = t.map(lambda i, n: i + (n - tokens), query, t.cast(t.reshape(lengths, (lengths.shape[0], 1, 1, 1)), I64))

    def seen(j: e.Var, p: e.Var) -> e.Var:
        ahead = 0 if causal else right
        conditions = [j <= p + ahead] if causal or right >= 0 else []
        if left >= 0:
            conditions.append(j >= p - left)
        return conditions[0] if len(conditions) == 1 else e.land(*conditions)

    return t.cast(t.map(seen, key, position), BOOL)


@op("RotaryEmbedding", since=23)
def rotary_embedding(
    t: Tracer, x: Tensor, cos_cache: Tensor, sin_cache: Tensor, positions: Tensor | None = None, *, interleaved: int = 0, num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:  # fmt: skip
    """x [B, N, S, H] or [B, S, N * H]; caches [B, S, R / 2], or [positions, R / 2] with positions int64 [B, S]."""
    q = split_heads(t, x, num_heads) if x.ndim == 3 else x
    cos, sin = (cos_cache, sin_cache) if positions is None else (angles_at(t, c, positions) for c in (cos_cache, sin_cache))
    y = rotate(t, q, cos, sin, bool(interleaved))
    return merge_heads(t, y) if x.ndim == 3 else y
