"""Linear attention and the causal convolution that goes before it: ONNX's own, of opset 27, and com.microsoft's, as onnxruntime defines them.

Letters in shapes: B batch, T tokens, H query heads, G key heads, N heads of values and of the state, D size of a key, E of a value, W slots of a
window of states, C channels, L positions, P positions of a convolution's history.
"""

from __future__ import annotations

import math
from typing import Any

from ..dtypes import F32, DType
from ..lowering import expr as e
from ..lowering.tensor import Tensor, size_of
from ..lowering.tracer import Tracer
from .contrib_attention import merge_heads, split_heads
from .convolution import record_conv
from .reduction import reduce_axes
from .registry import MICROSOFT, op
from .util import expect_shape, wants

_RULES = {
    "linear": (False, False),
    "gated": (True, False),
    "delta": (False, True),
    "gated_delta": (True, True),
}  # has a decay; the delta rule
_NORM_EPSILON = 1e-12  # onnxruntime's, under the root


def _update_rule(
    t: Tracer, name: str, decay: Tensor | None, beta: Tensor | None, strict: bool
) -> tuple[Tensor | None, Tensor | None, bool]:
    """The decay and the beta of the update rule `name`, and whether it is a delta rule. strict: inputs that it has no use for are refused."""
    if name not in _RULES:
        t.fail(f"expected update_rule to be one of {', '.join(_RULES)}, got {name!r}")
    gated, delta = _RULES[name]
    for what, x, used in (("decay", decay, gated), ("beta", beta, delta)):
        if used and x is None:
            t.fail(f"update_rule {name!r} needs the input {what}")
        if strict and not used and x is not None:
            t.fail(f"update_rule {name!r} has no input {what}")
    return decay if gated else None, beta if delta else None, delta


def _attend(
    t: Tracer, q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, decay: Tensor | None, beta: Tensor | None, *, scale: float, delta: bool,
    held: DType, window: int = 1, dtype: DType | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """q [B, H, T, D], k [B, G, T, D], v [B, N, T, E], state [B, N, D, E], decay [B, N, T, D], beta [B, N, T] -> y [B, max(H, N), T, E] of `dtype`,
    v's if None, and present [W, B, N, D, E] of dtype `held`, if the node has an output 1. scale 0: 1 / sqrt(D)."""
    b, h, tokens, d = q.shape
    n, size = v.shape[1], v.shape[3]
    heads = h if h > n else n
    if heads % h != 0 or heads % n != 0 or n % k.shape[1] != 0:
        t.fail(f"{int(h)} query, {int(k.shape[1])} key and {int(n)} value heads do not divide one another")
    if not scale:
        if d == 0:
            t.fail("heads of size 0")
        scale = 1.0 / math.sqrt(int(d))
    present = ((window, b, n, d, size), held) if wants(t, 1) else None
    y, states = t.record(
        "linear_attention", [q, k, v, state, decay, beta], [((b, heads, tokens, size), dtype or v.dtype), present],
        {"scale": float(scale), "delta": int(delta)},
    )  # fmt: skip
    return y, states if present is not None else None


def _packed(
    t: Tracer, query: Tensor, key: Tensor, value: Tensor, past: Tensor | None, decay: Tensor | None, beta: Tensor | None, *, q_heads: int,
    kv_heads: int, key_heads: int, scale: float, delta: bool, window: int,
) -> list[Any]:  # fmt: skip
    """LinearAttention: heads packed into the last axis. window 0: one state without the axis W."""
    q, k, v = split_heads(t, query, q_heads), split_heads(t, key, key_heads), split_heads(t, value, kv_heads)
    b, _, tokens, d = q.shape
    size = v.shape[3]
    expect_shape(t, "key", key, (b, tokens, key_heads * d))
    expect_shape(t, "value", value, (b, tokens, kv_heads * size))
    slots: tuple[int, ...] = (window,) if window else ()
    expect_shape(t, "past_state", past, (*slots, b, kv_heads, d, size))
    held = query.dtype if past is None else past.dtype
    state = past if past is None or not window else past.slice(0, window - 1, 1).squeeze(0)
    if decay is not None:
        if decay.ndim != 3 or decay.shape[:2] != (b, tokens) or decay.shape[2] not in (kv_heads, kv_heads * d):
            t.fail(
                f"expected decay of shape [{int(b)}, {int(tokens)}, {kv_heads} or {int(kv_heads * d)}], got {list(map(int, decay.shape))}"
            )
        decay = split_heads(t, decay, kv_heads).expand((b, kv_heads, tokens, d))
    if beta is not None:
        if beta.ndim != 3 or beta.shape[:2] != (b, tokens) or beta.shape[2] not in (1, kv_heads):
            t.fail(f"expected beta of shape [{int(b)}, {int(tokens)}, {kv_heads} or 1], got {list(map(int, beta.shape))}")
        beta = beta.permute((0, 2, 1)).expand((b, kv_heads, tokens))
    y, present = _attend(t, q, k, v, state, decay, beta, scale=scale, delta=delta, held=held, window=window or 1, dtype=query.dtype)
    if present is not None and not window:
        present = present.squeeze(0)
    return [merge_heads(t, y), present]


def _positive(t: Tracer, **heads: int) -> None:
    for name, n in heads.items():
        if n <= 0:
            t.fail(f"expected {name} to be positive, got {n}")


@op("LinearAttention", since=27)
def linear_attention(
    t: Tracer, query: Tensor, key: Tensor, value: Tensor, past_state: Tensor | None = None, decay: Tensor | None = None, beta: Tensor | None = None,
    *, q_num_heads: int, kv_num_heads: int, scale: float = 0.0, update_rule: str = "gated_delta", chunk_size: int = 64,
) -> list[Any]:  # fmt: skip
    """query [B, T, H * D], key [B, T, N * D], value [B, T, N * E], past [B, N, D, E], decay [B, T, N] or [B, T, N * D], beta [B, T, N] or [B, T, 1] ->
    [B, T, H * E] and the state after the last token. H is a multiple of N. (ONNX LinearAttention-27.)"""
    _positive(t, q_num_heads=q_num_heads, kv_num_heads=kv_num_heads)
    if q_num_heads % kv_num_heads != 0:
        t.fail(f"q_num_heads {q_num_heads} is not a multiple of kv_num_heads {kv_num_heads}")
    decay, beta, delta = _update_rule(t, update_rule, decay, beta, strict=True)
    return _packed(
        t, query, key, value, past_state, decay, beta, q_heads=q_num_heads, kv_heads=kv_num_heads, key_heads=kv_num_heads, scale=scale, delta=delta,
        window=0,
    )  # fmt: skip


@op("LinearAttention", domain=MICROSOFT)
def contrib_linear_attention(
    t: Tracer, query: Tensor, key: Tensor, value: Tensor, past_state: Tensor | None = None, decay: Tensor | None = None, beta: Tensor | None = None,
    *, q_num_heads: int, kv_num_heads: int, scale: float = 0.0, update_rule: str = "gated_delta", chunk_size: int = 64, state_window: int = 0,
) -> list[Any]:  # fmt: skip
    """As ONNX's, and: either of H and N may be a multiple of the other; keys may have fewer heads than values, as the width of `key` says; with
    state_window W, the states are [W, B, N, D, E], of which the last one of past is read."""
    _positive(t, q_num_heads=q_num_heads, kv_num_heads=kv_num_heads)
    _check_window(t, state_window)
    decay, beta, delta = _update_rule(t, update_rule, decay, beta, strict=False)
    if query.ndim != 3 or key.ndim != 3:
        t.fail(f"expected query and key of rank 3, got {query.ndim} and {key.ndim}")
    d = query.shape[2] // q_num_heads
    if d == 0 or key.shape[2] % d != 0:
        t.fail(f"a key of width {int(key.shape[2])} is not made of heads of size {int(d)}")
    return _packed(
        t, query, key, value, past_state, decay, beta, q_heads=q_num_heads, kv_heads=kv_num_heads, key_heads=int(key.shape[2] // d), scale=scale,
        delta=delta, window=state_window,
    )  # fmt: skip


def _check_window(t: Tracer, window: int) -> None:
    if not 0 <= window <= 8:
        t.fail(f"expected state_window from 0 to 8, got {window}")


# ------------------------------------------------------------------------------------------------------------------ GatedDeltaNet
@op("GatedDeltaNet", domain=MICROSOFT)
def gated_delta_net(
    t: Tracer, query: Tensor, key: Tensor | None = None, value: Tensor | None = None, cu_seqlens: Tensor | None = None, decay: Tensor | None = None,
    beta: Tensor | None = None, initial_state: Tensor | None = None, a_log: Tensor | None = None, dt_bias: Tensor | None = None,
    capture_count: Tensor | None = None, state_update_active: Tensor | None = None, *, scale: float = 0.0, update_rule: str = "gated_delta",
    gate_activation: str = "none", beta_activation: str = "none", gate_lower_bound: float = -5.0, qk_l2_norm: int = 0, chunk_size: int = 64,
    state_update_capacity: int = 0,
) -> list[Any]:  # fmt: skip
    """query and key [B * T, H, D], value [B * T, N, E], decay [B * T, N] or [B * T, N, D], beta [B * T, N], initial state float32 [B, N, E, D] -> y
    [B * T, N, E] and the final state. The first axis may be two, [B, T]; query alone may be all three, packed along its last axis.

    Gates, activated ones always, and normalised keys and queries are float32 between here and the kernel.
    """
    if cu_seqlens is not None:
        t.unsupported("cu_seqlens")
    if state_update_capacity or wants(t, 2):
        t.unsupported("state_update")
    if capture_count is not None:
        t.fail("capture_count without a state_update_capacity")
    decay, beta, delta = _update_rule(t, update_rule, decay, beta, strict=True)
    lead = query.shape[: query.ndim - (1 if key is None else 2)]
    q, k, v = _unpacked(t, query, key, value, initial_state, lead)
    if len(lead) == 2:
        b, tokens = lead
    elif initial_state is None:
        t.fail("query without a batch axis needs initial_state")
    else:
        b = initial_state.shape[0]
        if b == 0 or lead[0] % b != 0:
            t.fail(f"{int(lead[0])} tokens are not {int(b)} sequences of one length")
        tokens = lead[0] // b
    heads, d = q.shape[-2:]
    n, size = v.shape[-2:]
    expect_shape(t, "key", k, (*lead, heads, d))
    expect_shape(t, "value", v, (*lead, n, size))
    expect_shape(t, "initial_state", initial_state, (b, n, size, d))
    if heads == 0 or n % heads != 0:
        t.fail(f"{int(n)} value heads are not a multiple of {int(heads)} query heads")
    q, k, v = (t.reshape(x, (b, tokens, *x.shape[-2:])).permute((0, 2, 1, 3)) for x in (q, k, v))
    if decay is not None:
        if decay.shape not in ((*lead, n), (*lead, n, d)):
            t.fail(f"expected decay of shape {_shape(lead, n)} or {_shape(lead, n, d)}, got {_shape(decay.shape)}")
        rows = decay.ndim > len(lead) + 1
        decay = t.reshape(decay, (b, tokens, n, d if rows else 1))
        decay = _activated(t, decay, a_log, dt_bias, gate_activation, gate_lower_bound)
        decay = decay.permute((0, 2, 1, 3)).expand((b, n, tokens, d))
    if beta is not None:
        expect_shape(t, "beta", beta, (*lead, n))
        if beta_activation == "sigmoid":
            beta = t.map(lambda x: e.sigmoid(e.cast(x, F32)), beta)
        elif beta_activation != "none":
            t.fail(f"expected beta_activation to be none or sigmoid, got {beta_activation!r}")
        beta = t.reshape(beta, (b, tokens, n)).permute((0, 2, 1))
    if qk_l2_norm:
        q, k = _unit_rows(t, q), _unit_rows(t, k)
    state = None if initial_state is None else initial_state.permute((0, 1, 3, 2))
    y, present = _attend(t, q, k, v, state, decay, beta, scale=scale, delta=delta, held=F32, dtype=query.dtype)
    y = t.reshape(y.permute((0, 2, 1, 3)), (*lead, n, size))
    return [y, None if present is None else present.squeeze(0).permute((0, 1, 3, 2)), None]


def _shape(*parts: Any) -> list[int]:
    return [int(n) for p in parts for n in (p if isinstance(p, tuple) else (p,))]


def _unpacked(
    t: Tracer, query: Tensor, key: Tensor | None, value: Tensor | None, state: Tensor | None, lead: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """query, key and value [*lead, heads, size]."""
    if len(lead) not in (1, 2) or (key is None) != (value is None):
        t.fail("expected query, key and value [(batch,) tokens, heads, size], or query alone [(batch,) tokens, width]")
    if key is not None and value is not None:
        if key.ndim != query.ndim or value.ndim != query.ndim:
            t.fail(f"expected key and value of query's rank {query.ndim}, got {key.ndim} and {value.ndim}")
        return query, key, value
    if state is None or state.ndim != 4:
        t.fail("a packed query needs initial_state [batch, value heads, value size, key size]")
    _, n, size, d = state.shape
    own, axis = n * size, len(lead)
    if d == 0 or query.shape[axis] < own or (query.shape[axis] - own) % (2 * d) != 0:
        t.fail(f"a query of width {int(query.shape[axis])} is not 2 * heads * {int(d)} + {int(own)}")
    heads = (query.shape[axis] - own) // (2 * d)
    q, k, v = (query.slice(axis, start, w) for start, w in ((0, heads * d), (heads * d, heads * d), (2 * heads * d, own)))
    return (*(t.reshape(x, (*lead, heads, d)) for x in (q, k)), t.reshape(v, (*lead, n, size)))  # type: ignore[return-value]


def _activated(t: Tracer, decay: Tensor, a_log: Tensor | None, bias: Tensor | None, activation: str, lower: float) -> Tensor:
    """The logarithms of the decay, in float32 if there is an activation; decay [B, T, N, D or 1], a_log [N], bias [N] or, for D > 1, [N, D]."""
    if activation == "none":
        return decay
    if activation not in ("softplus", "qwen", "sigmoid", "kda"):
        t.fail(f"expected gate_activation to be none, softplus or sigmoid, got {activation!r}")
    n, d = decay.shape[2:]
    if a_log is None or bias is None:
        t.fail(f"gate_activation {activation!r} needs a_log and dt_bias")
    expect_shape(t, "a_log", a_log, (n,))
    if bias.shape not in ((n,), (n, d), (n * d,)):
        t.fail(f"expected dt_bias of shape {_shape(n)}, {_shape(n, d)} or {_shape(n * d)}, got {_shape(bias.shape)}")
    bias = t.reshape(bias, (n, 1 if size_of(bias.shape) == n else d))
    a = a_log.unsqueeze(1)
    if activation in ("softplus", "qwen"):
        return t.map(lambda g, a, b: -e.exp(a) * e.softplus(e.cast(g, F32) + b), decay, a, bias)
    return t.map(lambda g, a, b: e.sigmoid(e.exp(a) * (e.cast(g, F32) + b)) * lower, decay, a, bias)


def _unit_rows(t: Tracer, x: Tensor) -> Tensor:
    """The rows of x, of length 1, in float32."""
    x = t.cast(x, F32)
    squares = reduce_axes(t, x, "sum_square", (x.ndim - 1,), True)
    return t.map(lambda v, s: v / e.sqrt(s + _NORM_EPSILON), x, squares)


# ----------------------------------------------------------------------------------------------------------------- CausalConvWithState
@op("CausalConvWithState", since=27)
def causal_conv_with_state(
    t: Tracer, x: Tensor, weight: Tensor, bias: Tensor | None = None, past_state: Tensor | None = None, *, activation: str = "none"
) -> list[Any]:
    """x [B, C, L], weight [C, 1, K], bias [C], past [B, C, K - 1] -> y [B, C, L] and the last K - 1 positions of past and x. (ONNX CausalConvWithState-27.)"""
    if x.ndim != 3:
        t.fail(f"expected input [batch, channels, length], got rank {x.ndim}")
    return _causal_conv(t, x, weight, bias, past_state, activation, 1, 0)


@op("CausalConvWithState", domain=MICROSOFT)
def contrib_causal_conv_with_state(
    t: Tracer, x: Tensor, weight: Tensor, bias: Tensor | None = None, past_state: Tensor | None = None, *, activation: str = "none", ndim: int = 1,
    dilation: int = 1, channels_last: int = 0, state_window: int = 0, state_length: int = 0, state_channels_last: int = -1,
    input_channel_offset: int = 0, input_channels: int = 0, state_update_capacity: int = 0,
) -> list[Any]:  # fmt: skip
    """As ONNX's, and: `ndim` spatial axes, of which the last one is causal and dilated and the others are padded by half a window on both sides;
    activations and states with the channels last, in any number of axes; with state_window W, states [W, ...], of which past's last one is read."""
    for name, given in (
        ("state_length", state_length), ("state_channels_last", state_channels_last != -1), ("input_channel_offset", input_channel_offset),
        ("input_channels", input_channels), ("state_update_capacity", state_update_capacity or wants(t, 2)),
    ):  # fmt: skip
        if given:
            t.unsupported(name)
    _check_window(t, state_window)
    if not 1 <= ndim <= 3 or dilation < 1:
        t.fail(f"expected ndim from 1 to 3 and a positive dilation, got {ndim} and {dilation}")
    if not channels_last:
        if x.ndim != ndim + 2:
            t.fail(f"expected input of rank {ndim + 2}, got {x.ndim}")
        return _causal_conv(t, x, weight, bias, past_state, activation, dilation, state_window)
    if ndim != 1 or x.ndim < 3:
        t.fail(f"channels_last needs ndim 1 and an input of rank 3 or more, got {ndim} and {x.ndim}")
    last = x.shape[2:]
    lead = 2 + (state_window > 0)
    if past_state is not None:
        if past_state.ndim != lead + len(last) or past_state.shape[lead:] != last:
            t.fail(f"expected past_state to end in {_shape(last)}, got {_shape(past_state.shape)}")
        past_state = _turned(t.reshape(past_state, (*past_state.shape[:lead], size_of(last))))
    flat = _turned(t.reshape(x, (*x.shape[:2], size_of(last))))
    y, present = _causal_conv(t, flat, weight, bias, past_state, activation, dilation, state_window)
    return [None if o is None else t.reshape(_turned(o), (*o.shape[:-2], o.shape[-1], *last)) for o in (y, present)]


def _turned(x: Tensor) -> Tensor:
    """[..., L, C] -> [..., C, L] and back, a view."""
    return x.permute((*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def _causal_conv(
    t: Tracer, x: Tensor, w: Tensor, bias: Tensor | None, past: Tensor | None, activation: str, dilation: int, window: int
) -> list[Tensor | None]:
    """x [B, C, d..., L], w [C, 1, k...], past ([W,] B, C, d..., P) with P = (k - 1) * dilation of the last axis."""
    if activation not in ("none", "silu", "swish"):
        t.fail(f"expected activation to be none, silu or swish, got {activation!r}")
    n = x.ndim - 2
    channels, *spatial = x.shape[1:]
    length = spatial[-1]
    if w.ndim != x.ndim or w.shape[:2] != (channels, 1) or 0 in w.shape:
        t.fail(f"expected weight of shape [{int(channels)}, 1] and {n} axes of a window, got {_shape(w.shape)}")
    expect_shape(t, "bias", bias, (channels,))
    kernel = w.shape[2:]
    if any(k % 2 == 0 for k in kernel[:-1]):
        t.unsupported(f"a window {_shape(kernel)}, even along an axis that is not causal,")
    held = (kernel[-1] - 1) * dilation
    slot = (*x.shape[:-1], held)
    expect_shape(t, "past_state", past, (window, *slot) if window else slot)
    if past is not None and window:
        past = past.slice(0, window - 1, 1).squeeze(0)
    axis = x.ndim - 1
    whole = t.concat([t.full(slot, 0, x.dtype) if past is None else past, x], axis) if held != 0 else x
    half = tuple(k // 2 for k in kernel[:-1])
    params = {"strides": (1,) * n, "dilations": (*(1,) * (n - 1), dilation), "pads": (*half, 0, *half, 0)}
    y = record_conv(t, [whole, w, bias], params, tuple(spatial), channels, x.dtype)
    if activation != "none":
        y = t.map(e.silu, y)
    if not wants(t, 1):
        return [y, None]
    if not window:
        return [y, whole.slice(axis, length, held)]
    # Slot j is the history after position length - W + j; those before the first position are zeros, but the last is what was there before.
    slots = [
        whole.slice(axis, length - back, held) if back == 0 or length > back else t.full(slot, 0, x.dtype)
        for back in reversed(range(window))
    ]
    return [y, t.concat([s.unsqueeze(0) for s in slots], 0)]
