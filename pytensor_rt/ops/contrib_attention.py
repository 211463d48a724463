"""Attention operators of com.microsoft, with their masks, past states and rotary embeddings. Defined by onnxruntime's docs/ContribOperators.md.

Letters in shapes: B batch, S new tokens, P past ones, T = P + S, N heads, G heads of key and value, H head size, D hidden size.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..dtypes import I32, I64
from ..lowering import expr as e
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .linear import integer_product, matmul_like
from .normalization import normalize
from .registry import MICROSOFT, op
from .util import wants

_MASKED = -10000.0  # what a masked score gets added if mask_filter_value does not say


# ----------------------------------------------------------------------------------------------------------------- building blocks
def split_heads(t: Tracer, x: Tensor, heads: int) -> Tensor:
    """[B, S, N * H] -> [B, N, S, H], a view"""
    if x.ndim != 3 or x.shape[2] % heads != 0:
        t.fail(f"expected [batch, tokens, {heads} heads * size], got {list(map(int, x.shape))}")
    return t.reshape(x, (*x.shape[:2], heads, x.shape[2] // heads)).permute((0, 2, 1, 3))


def merge_heads(t: Tracer, x: Tensor) -> Tensor:
    """[B, N, S, H] -> [B, S, N * H]"""
    b, n, s, h = x.shape
    return t.reshape(x.permute((0, 2, 1, 3)), (b, s, n * h))


def _attend(
    t: Tracer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scale: float, causal: bool, lengths: Tensor | None = None,
    softcap: float = 0.0, offset: int | None = None,
) -> Tensor:  # fmt: skip
    """q [B, N, S, H], k and v [B, G, T, H] -> [B, S, N * H]; a query sees the keys up to its own position, which is its index plus `offset`.

    mask: added to the scores, broadcasts to [B, N, S, T]; scale 0: 1 / sqrt(H); lengths int64 [B]: how many keys there are.
    """
    b, n, s, h = q.shape
    shape = (b, n, s, k.shape[2])
    params = {"scale": float(scale) or 1.0 / math.sqrt(int(h)), "softcap": float(softcap)}
    if causal:
        params |= {"causal": 1, "causal_offset": k.shape[2] - s if offset is None else offset}
    full = None if mask is None else mask.expand(shape)
    return merge_heads(t, t.record("attention", [q, k, v, full, lengths], [((b, n, s, v.shape[3]), q.dtype)], params)[0])


def _sum(t: Tracer, *masks: Tensor | None) -> Tensor | None:
    """Of those that are there, broadcast."""
    given = [m for m in masks if m is not None]
    return given[0] if len(given) == 1 else t.map(lambda a, b: a + b, *given) if given else None


def _padding_mask(t: Tracer, mask: Tensor, batch: int, total: int, filtered: float, dtype: Any) -> Tensor:
    """What to add to the scores, for int32 [B] (ends), [2 * B] (ends, then starts), [B, T] or [B, S, T] (1 where visible), as [B, 1, S or 1, T]."""
    if mask.ndim == 1 and mask.shape[0] in (batch, 2 * batch):
        key = t.iota(total, I32)
        ends = t.reshape(mask.slice(0, 0, batch), (batch, 1, 1, 1))
        if mask.shape[0] == batch:
            return t.map(lambda i, n: _filter(i < n, filtered, dtype), key, ends)
        starts = t.reshape(mask.slice(0, batch, batch), (batch, 1, 1, 1))
        return t.map(lambda i, n, m: _filter(e.land(i < n, i >= m), filtered, dtype), key, ends, starts)
    if mask.ndim not in (2, 3) or mask.shape[0] != batch or mask.shape[-1] != total:
        t.unsupported(f"a mask of shape {list(map(int, mask.shape))} for {int(batch)} sequences of {int(total)} keys")
    raw = mask.unsqueeze(1) if mask.ndim == 3 else mask.unsqueeze(1).unsqueeze(1)
    return t.map(lambda m: _filter(m > 0, filtered, dtype), raw)


def _filter(visible: e.Var, filtered: float, dtype: Any) -> e.Var:
    b = visible.builder
    value: Any = lambda x: e.Var(b, b.emit("const", (x,), dtype), dtype)
    return e.where(visible, value(0.0), value(float(filtered)))


def joined(t: Tracer, past: Tensor | None, x: Tensor) -> Tensor:
    """Past and new keys or values [B, G, ..., H]."""
    return x if past is None else t.concat([past, x], 2)


def _refuse(t: Tracer, **given: Any) -> None:
    """Raise UnsupportedError for the first of these that is set."""
    for name, value in given.items():
        if value is not None and (isinstance(value, Tensor) or value):
            t.unsupported(name)


# ------------------------------------------------------------------------------------------------------------------------- Attention
def _self_attention(
    t: Tracer, qkv: Tensor, sizes: tuple[int, ...], heads: int, mask_index: Tensor | None, past: Tensor | None, attention_bias: Tensor | None, *,
    unidirectional: int, scale: float, mask_filter_value: float,
) -> list[Any]:  # fmt: skip
    """From projected qkv [B, S, sum of sizes]: y [B, S, size of v], and present [2, B, N, T, H] if it is asked for."""
    q = split_heads(t, qkv.slice(2, 0, sizes[0]), heads)
    k = split_heads(t, qkv.slice(2, sizes[0], sizes[1]), heads)
    v = split_heads(t, qkv.slice(2, sizes[0] + sizes[1], sizes[2]), heads)
    if past is not None:
        if past.ndim != 5 or past.shape[0] != 2:
            t.fail("past must have shape [2, batch, heads, past tokens, head size]")
        k, v = joined(t, past.slice(0, 0, 1).squeeze(0), k), joined(t, past.slice(0, 1, 1).squeeze(0), v)
    padding = None
    if mask_index is not None:
        padding = _padding_mask(t, mask_index, q.shape[0], k.shape[2], mask_filter_value, q.dtype)
    y = _attend(t, q, k, v, _sum(t, padding, attention_bias), scale=scale, causal=bool(unidirectional))
    return [y, t.concat([k.unsqueeze(0), v.unsqueeze(0)], 0) if wants(t, 1) else None]


@op("Attention", domain=MICROSOFT)
def attention(
    t: Tracer, x: Tensor, weights: Tensor, bias: Tensor | None = None, mask_index: Tensor | None = None, past: Tensor | None = None,
    attention_bias: Tensor | None = None, past_length: Tensor | None = None, *, num_heads: int, qkv_hidden_sizes: Any = None, unidirectional: int = 0,
    scale: float = 0.0, mask_filter_value: float = _MASKED, do_rotary: int = 0, rotary_embedding_dim: int = 0, past_present_share_buffer: int = 0,
) -> list[Any]:  # fmt: skip
    """x [B, S, D] by weights [D, Dq + Dk + Dv] plus bias, then attention."""
    _refuse(t, do_rotary=do_rotary, past_present_share_buffer=past_present_share_buffer, past_sequence_length=past_length)
    if weights.ndim != 2:
        t.fail("weights must have rank 2")
    third = weights.shape[1] // 3
    sizes: tuple[int, ...] = tuple(qkv_hidden_sizes) if qkv_hidden_sizes else (third, third, third)
    if len(sizes) != 3 or sizes[0] != sizes[1] or sum(sizes) != weights.shape[1]:
        t.fail(f"qkv_hidden_sizes {list(sizes)} do not fit {int(weights.shape[1])} columns of weights")
    qkv = matmul_like(t, x, weights)
    if bias is not None:
        qkv = t.map(lambda a, b: a + b, qkv, bias)
    return _self_attention(
        t, qkv, sizes, num_heads, mask_index, past, attention_bias, unidirectional=unidirectional, scale=scale, mask_filter_value=mask_filter_value
    )  # fmt: skip


@op("QAttention", domain=MICROSOFT)
def qattention(
    t: Tracer, x: Tensor, weights: Tensor, bias: Tensor, x_scale: Tensor, w_scale: Tensor, mask_index: Tensor | None = None, x_zero: Tensor | None = None,
    w_zero: Tensor | None = None, past: Tensor | None = None, *, num_heads: int, unidirectional: int = 0, scale: float = 0.0,
    mask_filter_value: float = _MASKED, do_rotary: int = 0, past_present_share_buffer: int = 0,
) -> list[Any]:  # fmt: skip
    """Attention of an 8-bit x (per tensor) and weights (per tensor or column), projected in integers; the rest in the dtype of the scales."""
    _refuse(t, do_rotary=do_rotary, past_present_share_buffer=past_present_share_buffer)
    if x_scale.size != 1:
        t.unsupported("quantisation of x by rows")
    qkv = integer_product(t, x, weights, x_scale, w_scale, x_zero, w_zero, bias)
    third = weights.shape[1] // 3
    return _self_attention(
        t, qkv, (third, third, third), num_heads, mask_index, past, None, unidirectional=unidirectional, scale=scale, mask_filter_value=mask_filter_value
    )  # fmt: skip


@op("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    t: Tracer, query: Tensor, key: Tensor | None = None, value: Tensor | None = None, bias: Tensor | None = None, padding: Tensor | None = None,
    attention_bias: Tensor | None = None, past_key: Tensor | None = None, past_value: Tensor | None = None, past_length: Tensor | None = None,
    cache_indirection: Tensor | None = None, *, num_heads: int, unidirectional: int = 0, scale: float = 0.0, mask_filter_value: float = _MASKED,
) -> list[Any]:  # fmt: skip
    """query [B, S, D] or packed [B, S, N, 3, H]; key [B, L, D], packed [B, L, N, 2, H] or [B, N, L, H]; value like the latter two or [B, L, Dv]."""
    _refuse(t, past_sequence_length=past_length, cache_indirection=cache_indirection, qk=wants(t, 3))
    parts: list[Tensor] = []
    if query.ndim == 5:
        parts = [query.slice(3, i, 1).squeeze(3).permute((0, 2, 1, 3)) for i in range(3)]
    elif key is not None and key.ndim == 5:
        parts = [split_heads(t, query, num_heads), *(key.slice(3, i, 1).squeeze(3).permute((0, 2, 1, 3)) for i in range(2))]
    elif key is not None and value is not None:
        parts = [split_heads(t, query, num_heads), *(x if x.ndim == 4 else split_heads(t, x, num_heads) for x in (key, value))]
    else:
        t.fail("key and value are missing")
    q, k, v = parts
    if bias is not None:
        at = 0
        for i, x in enumerate(parts):
            if i == 0 or key is None or key.ndim != 4:  # [B, N, L, H] comes with its bias
                width = num_heads * x.shape[3]
                row = t.reshape(bias.slice(0, at, width), (num_heads, 1, x.shape[3]))
                parts[i] = t.map(lambda a, b: a + b, x, row)
                at = at + width
        q, k, v = parts
    k, v = joined(t, past_key, k), joined(t, past_value, v)
    if padding is not None:
        padding = _padding_mask(t, padding, q.shape[0], k.shape[2], mask_filter_value, q.dtype)
    y = _attend(t, q, k, v, _sum(t, padding, attention_bias), scale=scale, causal=bool(unidirectional))
    return [y, k, v]


# ----------------------------------------------------------------------------------------------------------------- rotary embeddings
def rotate(t: Tracer, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """x [B, N, S, H] with pairs of its first R values turned; cos and sin [B or 1, S, R / 2]. A pair: i and i + R / 2, or interleaved neighbours."""
    half = cos.shape[2]
    if 2 * half > x.shape[3]:
        t.fail(f"{int(half)} angles for heads of size {int(x.shape[3])}")
    first, step = (1, 2) if interleaved else (half, 1)
    a, b = x.slice(3, 0, half, step), x.slice(3, first, half, step)
    c, s = cos.unsqueeze(1), sin.unsqueeze(1)
    turned = [t.map(lambda p, q, u, w: p * u - q * w, a, b, c, s), t.map(lambda p, q, u, w: q * u + p * w, a, b, c, s)]
    if interleaved:
        pairs = t.concat([y.unsqueeze(4) for y in turned], 4)
        turned = [t.reshape(pairs, (*x.shape[:3], 2 * half))]
    return t.concat([*turned, x.slice(3, 2 * half, x.shape[3] - 2 * half)], 3)


def angles_at(t: Tracer, cache: Tensor, positions: Tensor) -> Tensor:
    """cache [max, R / 2] at positions [B, S]"""
    return t.record("gather", [cache, positions], [((*positions.shape, cache.shape[1]), cache.dtype)], {"mode": "axis", "axis": 0})[0]


def _from(t: Tracer, first: Tensor, tokens: int) -> Tensor:
    """[1, tokens]: first [1], first + 1, ..."""
    return t.map(lambda i, p: i + p, t.iota(tokens), first).unsqueeze(0)


@op("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(
    t: Tracer, x: Tensor, positions: Tensor, cos_cache: Tensor, sin_cache: Tensor, *, interleaved: int = 0, num_heads: int = 0,
    rotary_embedding_dim: int = 0, is_packed_batching: int = 0, scale: float = 1.0,
) -> Tensor:  # fmt: skip
    """x [B, S, N * H] or [B, N, S, H]; positions int64 [B, S], or [1]: that of the first token."""
    _refuse(t, is_packed_batching=is_packed_batching)
    if scale != 1.0:
        t.unsupported("scale")
    heads = num_heads
    if x.ndim == 3 and not heads:
        heads = 1 if rotary_embedding_dim else x.shape[2] // (2 * cos_cache.shape[1])
    q = split_heads(t, x, heads) if x.ndim == 3 else x
    if positions.size == 1 and positions.ndim == 1:
        positions = _from(t, positions, q.shape[2])
    y = rotate(t, q, angles_at(t, cos_cache, positions), angles_at(t, sin_cache, positions), bool(interleaved))
    return merge_heads(t, y) if x.ndim == 3 else y


# ---------------------------------------------------------------------------------------------------------------- GroupQueryAttention
def _updated(t: Tracer, past: Tensor | None, x: Tensor, before: int | Tensor, length: int) -> Tensor:
    """The cache [B, G, length, H] with x [B, G, S, H] after the first `before` tokens of each sequence of past, and zeros behind them.

    `before` is one number for all, or int32 [B] if S is 1.
    """
    zeros: Any = lambda n: t.full((*x.shape[:2], n, x.shape[3]), 0, x.dtype)
    if not isinstance(before, Tensor):
        kept = [] if past is None else [past.slice(2, 0, before)]
        return t.concat([*kept, x, zeros(length - before - x.shape[2])], 2)
    if past is None:
        t.fail("a token after others, but no past_key and past_value")
    wide = t.concat([past, zeros(length - past.shape[2])], 2) if past.shape[2] != length else past
    index, at = t.reshape(t.iota(length, I32), (length, 1)), t.reshape(before, (x.shape[0], 1, 1, 1))
    return t.map(lambda i, n, old, new: e.where(i == n, new, e.where(i < n, old, 0)), index, at, wide, x)


@op("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(
    t: Tracer, query: Tensor, key: Tensor | None, value: Tensor | None, past_key: Tensor | None, past_value: Tensor | None, lengths: Tensor,
    total_length: Tensor, cos_cache: Tensor | None = None, sin_cache: Tensor | None = None, position_ids: Tensor | None = None,
    attention_bias: Tensor | None = None, head_sink: Tensor | None = None, k_scale: Tensor | None = None, v_scale: Tensor | None = None,
    q_norm: Tensor | None = None, k_norm: Tensor | None = None, *, num_heads: int, kv_num_heads: int, scale: float = 0.0, softcap: float = 0.0,
    do_rotary: int = 0, rotary_interleaved: int = 0, local_window_size: int = -1, smooth_softmax: int = -1, causal: int = 1, qk_output: int = 0,
    qk_norm_epsilon: float = 1e-6, k_quant_type: str = "NONE", v_quant_type: str = "NONE", kv_cache_bit_width: int = 0, sliding_window_cache: int = 0,
) -> list[Any]:  # fmt: skip
    """query [B, S, N * H], key and value [B, S, G * H], or query alone packed as [B, S, (N + 2 G) * H]; past [B, G, P or a capacity, H].

    lengths int32 [B]: tokens of each sequence, these included, minus 1; total_length: the largest of them. Outputs y [B, S, N * H] and the caches
    [B, G, max(total, capacity), H]. S new tokens are all there is (a prompt, padded on the right), or S is 1, or B is 1.
    """
    _refuse(t, qk_output=qk_output, k_scale=k_scale, v_scale=v_scale, sliding_window_cache=sliding_window_cache)
    if (k_quant_type, v_quant_type) != ("NONE", "NONE"):
        t.unsupported("a quantised cache")
    if num_heads % kv_num_heads != 0:
        t.fail(f"num_heads {num_heads} is not a multiple of kv_num_heads {kv_num_heads}")
    if key is None or value is None:
        h = query.shape[2] // (num_heads + 2 * kv_num_heads)
        widths = (num_heads * h, kv_num_heads * h)
        key, value = query.slice(2, widths[0], widths[1]), query.slice(2, widths[0] + widths[1], widths[1])
        query = query.slice(2, 0, widths[0])
    q, k, v = split_heads(t, query, num_heads), split_heads(t, key, kv_num_heads), split_heads(t, value, kv_num_heads)
    batch, tokens = q.shape[0], q.shape[2]
    total = t.item(total_length)
    prompt, one = tokens == total, batch == 1
    if not (prompt or one or tokens == 1):
        t.unsupported("several tokens of several sequences after a past")
    if total < tokens:
        t.fail(f"total_sequence_length {int(total)} is less than the {int(tokens)} tokens given")
    capacity = 0 if past_key is None else past_key.shape[2]
    before: int | Tensor = 0 if prompt else total - tokens if one else t.reshape(lengths, (batch,))
    if q_norm is not None and k_norm is not None:
        q, k = (normalize(t, x, w, None, "rms", (3,), qk_norm_epsilon)[0] for x, w in ((q, q_norm), (k, k_norm)))
    if do_rotary:
        if cos_cache is None or sin_cache is None:
            t.fail("do_rotary needs cos_cache and sin_cache")
        if position_ids is not None:
            if prompt:  # its first element only, as onnxruntime has it
                position_ids = _from(t, t.reshape(position_ids, (position_ids.size,)).slice(0, 0, 1), tokens)
            angles = [angles_at(t, c, position_ids) for c in (cos_cache, sin_cache)]
        elif isinstance(before, Tensor):
            angles = [angles_at(t, c, t.cast(before, I64).unsqueeze(1)) for c in (cos_cache, sin_cache)]
        else:
            angles = [c.slice(0, before, tokens).unsqueeze(0) for c in (cos_cache, sin_cache)]
        q, k = (rotate(t, x, angles[0], angles[1], bool(rotary_interleaved)) for x in (q, k))
    longest = total if total > capacity else capacity
    present = [_updated(t, past, x, before, longest) for past, x in ((past_key, k), (past_value, v))]
    k, v = (x.slice(2, 0, total) for x in present)
    mask = attention_bias
    if local_window_size > 0:
        mask = _sum(t, mask, _window(t, before, tokens, total, local_window_size, q.dtype))
    visible = None if one else t.map(lambda n: e.cast(n, I64) + 1, t.reshape(lengths, (batch,)))
    if smooth_softmax == 1 or head_sink is not None:
        k, v, mask, visible = _with_sink(t, q, k, v, mask, visible, head_sink)
    y = _attend(
        t, q, k, v, mask, scale=scale, causal=bool(causal) and tokens != 1, lengths=visible, softcap=softcap, offset=k.shape[2] - tokens,
    )  # fmt: skip
    return [y, *present]


def _window(t: Tracer, before: int | Tensor, tokens: int, total: int, size: int, dtype: Any) -> Tensor:
    """-inf for keys more than size - 1 tokens before the query: [S, T] or [B, 1, 1, T]."""
    key, query = t.iota(total, I32), t.iota(tokens, I32).unsqueeze(1)
    if isinstance(before, Tensor):
        at = t.reshape(before, (before.shape[0], 1, 1, 1))
        return t.map(lambda k, q, p: _filter(k > p + q - size, -math.inf, dtype), key, query, at)
    return t.map(lambda k, q: _filter(k > q + (before - size), -math.inf, dtype), key, query)


def _with_sink(
    t: Tracer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, visible: Tensor | None, sink: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """One key more, before the others, that takes its share of the probabilities and gives nothing: its score is 0, or sink's [N]."""
    row = t.full((*k.shape[:2], 1, k.shape[3]), 0, k.dtype)
    if mask is not None or sink is not None:
        heads, keys = q.shape[1], k.shape[2]
        old = t.full((1, 1, 1, keys), 0, q.dtype) if mask is None else mask
        old = old.expand((1,) * (4 - old.ndim) + old.shape)
        first = t.const(np.zeros((1, 1, 1, 1), np.float32), q.dtype) if sink is None else t.reshape(sink, (1, heads, 1, 1))
        shape = (old.shape[0], heads if sink is not None else old.shape[1], old.shape[2])
        mask = t.concat([first.expand((*shape, 1)), old.expand((*shape, keys))], 3)
    if visible is not None:
        visible = t.map(lambda n: n + 1, visible)
    return t.concat([row, k], 2), t.concat([row, v], 2), mask, visible
