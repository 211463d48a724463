"""Mixtures of experts of com.microsoft: feed-forward networks of which every token uses the k that a router prefers.

Defined by onnxruntime's docs/ContribOperators.md. Which experts a token uses is only known at run time, and no kernel skips the others, so there
are two plans. Few choices (T * k < E): the chosen experts' weights are gathered, a matrix per choice. Otherwise every expert sees every token, and
weighs 0 where it was not chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ..dtypes import F32, I64
from ..lowering import expr as e
from ..lowering.expr import Var
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .linear import MIDDLE, dequantized_product, matmul_like
from .movement import take
from .quantize import unpacked
from .reduction import reduce_axes
from .registry import MICROSOFT, op
from .util import expect_shape

_PLAIN: dict[str, Callable[[Var], Var]] = {
    "relu": e.relu, "gelu": e.gelu_tanh, "silu": e.silu, "identity": lambda v: v, "relu2": lambda v: e.relu(v) * e.relu(v),
}  # fmt: skip
_GATED = ("swiglu", "geglu")


Pick = Callable[[Tensor], Tensor]  # of a tensor [E, ...], the part of one expert, or of several along new leading axes


class Layer:
    """A linear layer of every expert: w [E, N, K], b [E, N]."""

    def __init__(self, w: Tensor, b: Tensor | None) -> None:
        self.w, self.b = w, b

    def product(self, t: Tracer, v: Tensor, pick: Pick) -> Tensor:
        """v [..., tokens, K] times the transposed weights of the experts that the leading axes stand for: [..., tokens, N]."""
        return _times_transposed(t, v, pick(self.w))

    def __call__(self, t: Tracer, v: Tensor, pick: Pick) -> Tensor:
        """The product and the bias."""
        y = self.product(t, v, pick)
        if self.b is None:
            return y
        b = pick(self.b)
        return t.map(lambda p, q: p + q, y, b.unsqueeze(b.ndim - 1))


def _times_transposed(t: Tracer, v: Tensor, w: Tensor) -> Tensor:
    return matmul_like(t, v, w.permute((*range(w.ndim - 2), w.ndim - 1, w.ndim - 2)))


class QuantizedLayer(Layer):
    """One of weights (w - zero) * scale. w: uint8 [E, N, K * bits / 8], the low bits of a byte first; scale and zero (float32): [E, N, blocks]."""

    def __init__(self, name: str, w: Tensor, scale: Tensor, zero: Tensor | None, bits: int, b: Tensor | None) -> None:
        super().__init__(w, b)
        self.name, self.scale, self.zero, self.bits = name, scale, zero, bits
        self.k = w.shape[2] * 8 // bits

    def product(self, t: Tracer, v: Tensor, pick: Pick) -> Tensor:
        """A constant weight of one expert stays narrow; others are dequantised to v's dtype."""
        w, scale, zero = self.w, pick(self.scale), None if self.zero is None else pick(self.zero)
        blocks = scale.shape[-1]
        if w.known and scale.known and (zero is None or zero.known) and scale.ndim == 2:
            if self.bits == 2:  # one to a byte
                w = t.made_once(f"{self.name} bytes", (w,), lambda: unpacked(t, self.w, 2))
            zero = t.const(MIDDLE[self.bits]) if zero is None else zero.permute((1, 0))
            columns = pick(w).permute((1, 0))
            pairs = int(self.bits == 4)
            return dequantized_product(t, v, columns, scale.permute((1, 0)), zero, self.k, block=self.k // blocks, pairs=pairs)
        q = pick(w) if self.bits == 8 else unpacked(t, pick(w), self.bits)
        grid = t.reshape(q, (*q.shape[:-1], blocks, self.k // blocks))
        middle = 1 << (self.bits - 1)

        def real(b: Var, s: Var, z: Var | None = None) -> Var:
            return e.cast((e.cast(b, F32) - (middle if z is None else z)) * e.cast(s, F32), v.dtype)

        params = [p.unsqueeze(p.ndim) for p in (scale, zero) if p is not None]
        return _times_transposed(t, v, t.reshape(t.map(real, grid, *params), q.shape))


class Activation(NamedTuple):
    """What happens between the layers: the operator's attributes, without the prefixes `activation_` and `swiglu_`."""

    type: str
    alpha: float
    beta: float
    limit: float
    fusion: int
    limit_after: bool

    def gated(self, g: Var, l: Var) -> Var:
        """The activation of the gate g times l."""
        if self.type in _PLAIN:
            return _PLAIN[self.type](g) * l
        if self.type == "geglu":
            return e.gelu_tanh(g) * l  # type: ignore[no-any-return]
        if self.limit < math.inf:
            l = e.max_(e.min_(l, self.limit), -self.limit)
            g = g if self.limit_after else e.min_(g, self.limit)
        s = g * e.sigmoid(g * self.alpha)
        if self.limit < math.inf and self.limit_after:
            s = e.min_(s, self.limit)
        return s * (l + self.beta)  # type: ignore[no-any-return]


def _choices(t: Tracer, scores: Tensor, given: Tensor | None, k: int, normalized: bool) -> tuple[Tensor, Tensor]:
    """The k experts with the highest of the scores [T, E], int64, and their weights, float32, both [T, k].

    The weights are the softmax of all scores there, or of those k; or those `given` [T, E], divided by their sum if normalised.
    """
    shape = (scores.shape[0], k)
    softmax: Any = lambda p: t.record("softmax", [p], [(p.shape, F32)], {"op": "softmax", "axis": 1})[0]
    scores = t.cast(scores, F32)
    values, chosen = t.record("topk", [scores], [(shape, F32), (shape, I64)], {"axis": 1, "k": k, "largest": 1, "sorted": 1})
    if given is None and normalized:
        return chosen, softmax(values)
    source = softmax(scores) if given is None else t.cast(given, F32)
    weights = t.record("gather", [source, chosen], [(shape, F32)], {"mode": "elements", "axis": 1})[0]
    if normalized:
        weights = t.map(lambda w, s: w / s, weights, reduce_axes(t, weights, "sum", (1,), True))
    return chosen, weights


def _network(t: Tracer, v: Tensor, fc1: Layer, fc2: Layer, fc3: Layer | None, act: Activation, pick: Pick) -> Tensor:
    """[..., tokens, H] -> [..., tokens, H]"""
    h = fc1(t, v, pick)
    if fc3 is not None:
        h = t.map(act.gated, h, fc3(t, v, pick))
    elif act.type in _GATED:
        last = h.ndim - 1
        half = h.shape[last] // 2
        h = t.map(act.gated, *[h.slice(last, i, half, 2) if act.fusion == 1 else h.slice(last, i * half, half) for i in (0, 1)])
    else:
        h = t.map(_PLAIN[act.type], h)
    return fc2(t, h, pick)


def mixture(
    t: Tracer, x: Tensor, scores: Tensor, given: Tensor | None, k: int, normalized: bool, fc1: Layer, fc2: Layer, fc3: Layer | None, act: Activation
) -> Tensor:  # fmt: skip
    """x [T, H], scores and perhaps given weights [T, E] -> [T, H]"""
    n, experts = x.shape[0], fc1.w.shape[0]
    chosen, weights = _choices(t, scores, given, k, normalized)
    if n * k < experts:
        y = _network(t, t.reshape(x, (n, 1, 1, x.shape[1])), fc1, fc2, fc3, act, lambda p: take(t, p, chosen, 0))  # [T, k, 1, H]
        parts = t.map(lambda p, f: e.cast(p, F32) * f, y, weights.unsqueeze(2).unsqueeze(3))
        return t.reshape(t.cast(reduce_axes(t, parts, "sum", (1,), False), x.dtype), x.shape)
    places = {"mode": "elements", "axis": 1, "reduction": "none"}
    factors = t.record("scatter", [t.full((n, experts), 0, F32), chosen, weights], [((n, experts), F32)], places)[0]
    share: Callable[[Var, Var], Var] = lambda p, f: e.where(
        f == 0, 0, e.cast(p, F32) * f
    )  # 0 also of what overflows where it is not asked for
    total: Tensor | None = None
    for i in range(experts):
        y = _network(t, x, fc1, fc2, fc3, act, lambda p, i=i: p.slice(0, i, 1).squeeze(0))  # type: ignore[misc]
        f = factors.slice(1, i, 1)
        total = t.map(share, y, f) if total is None else t.map(lambda p, f, s: s + share(p, f), y, f, total)
    assert total is not None
    return t.cast(total, x.dtype)


def _operator(
    t: Tracer, x: Tensor, scores: Tensor, given: Tensor | None, inner: int, layer: Callable[[int, int, int], Layer | None], *, k: int = 1,
    normalize_routing_weights: int = 0, use_sparse_mixer: int = 0, activation_type: str = "relu", activation_alpha: float = 1.0,
    activation_beta: float = 0.0, swiglu_limit: float = math.inf, swiglu_fusion: int = 0, swiglu_limit_after_activation: int = 0,
    gated: bool, experts: int,
) -> Tensor:  # fmt: skip
    """What MoE and QMoE have in common. layer(i, N, K): number i of 1, 2 and 3, checked to be of that size."""
    if use_sparse_mixer:
        t.unsupported("use_sparse_mixer")
    if activation_type not in (*_PLAIN, *_GATED):
        t.unsupported(f"activation_type {activation_type!r}")
    fused = activation_type in _GATED and not gated
    if fused and swiglu_fusion not in (1, 2):
        t.fail(f"{activation_type} without fc3 needs swiglu_fusion 1 or 2, got {swiglu_fusion}")
    if gated and (swiglu_fusion or activation_type == "geglu"):
        t.fail(f"fc3 does not go with {'geglu' if activation_type == 'geglu' else f'swiglu_fusion {swiglu_fusion}'}")
    if not 1 <= k <= experts:
        t.fail(f"k must be from 1 to the number of experts {int(experts)}, got {k}")
    if x.ndim not in (2, 3):
        t.fail(f"expected input of rank 2 or 3, got rank {x.ndim}")
    hidden = x.shape[-1]
    tokens = x.shape[0] if x.ndim == 2 else x.shape[0] * x.shape[1]
    expect_shape(t, "router_probs", scores, (tokens, experts))
    expect_shape(t, "router_weights", given, (tokens, experts))
    fc1, fc2 = layer(1, (2 if fused else 1) * inner, hidden), layer(2, hidden, inner)
    fc3 = layer(3, inner, hidden) if gated else None
    assert fc1 is not None and fc2 is not None
    if tokens == 0:
        return x
    act = Activation(activation_type, activation_alpha, activation_beta, swiglu_limit, swiglu_fusion, bool(swiglu_limit_after_activation))
    y = mixture(t, t.reshape(x, (tokens, hidden)), scores, given, k, bool(normalize_routing_weights), fc1, fc2, fc3, act)
    return t.reshape(y, x.shape)


@op("MoE", domain=MICROSOFT)
def moe(
    t: Tracer, x: Tensor, scores: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None = None, w3: Tensor | None = None,
    b3: Tensor | None = None, **attrs: Any,
) -> Tensor:  # fmt: skip
    """com.microsoft MoE: x [T, H] or [B, S, H], T = B * S, router scores [T, E]; the result has x's shape. float32, float16, bfloat16.

    fc1: w1 [E, F, H], b1 [E, F]; fc2: w2 [E, H, I], b2 [E, H]; fc3, which multiplies the activation of fc1: w3 [E, I, H], b3 [E, I]. F is I, or 2 I
    where the gate and what it multiplies are rows of w1, in turn (swiglu_fusion 1) or one after the other (2). gelu is the tanh approximation.
    """
    parts = {1: (w1, b1), 2: (w2, b2), 3: (w3, b3)}
    if w1.ndim != 3 or w2.ndim != 3:
        t.fail(f"expected weights of rank 3, got ranks {w1.ndim} and {w2.ndim}")
    experts = w1.shape[0]

    def layer(i: int, n: int, k: int) -> Layer | None:
        w, b = parts[i]
        expect_shape(t, f"fc{i}_experts_weights", w, (experts, n, k))
        expect_shape(t, f"fc{i}_experts_bias", b, (experts, n))
        return None if w is None else Layer(w, b)

    return _operator(t, x, scores, None, w2.shape[2], layer, gated=w3 is not None, experts=experts, **attrs)


@op("QMoE", domain=MICROSOFT)
def qmoe(
    t: Tracer, x: Tensor, scores: Tensor, w1: Tensor, s1: Tensor | None, b1: Tensor | None, w2: Tensor, s2: Tensor | None, b2: Tensor | None = None,
    w3: Tensor | None = None, s3: Tensor | None = None, b3: Tensor | None = None, z1: Tensor | None = None, z2: Tensor | None = None,
    z3: Tensor | None = None, router_weights: Tensor | None = None, *scales: Tensor | None, quant_type: str = "int", expert_weight_bits: int = 4,
    fc1_expert_weight_bits: int = 0, fc2_expert_weight_bits: int = 0, fc3_expert_weight_bits: int = 0, block_size: int = 0,
    weights_prepacked: int = -1, accuracy_level: int = 0, **attrs: Any,
) -> Tensor:  # fmt: skip
    """com.microsoft QMoE: MoE by integers of 2, 4 or 8 bits, (w - zero) * scale, packed into uint8 along the last axis, the low bits first.

    A weight [E, N, K] has scales [E, N], or with block_size [E, N, K / block_size]; zero points of scale's shape, packed likewise; without them they
    are 2^(bits - 1). router_weights [T, E] are the chosen experts' weights in place of the softmax of the scores. weights_prepacked -1 is 0, as on
    onnxruntime's CPU. normalize_routing_weights has its meaning of MoE; onnxruntime's CPU kernel takes it for 1. Products are in full precision.
    """
    if quant_type != "int":
        t.unsupported(f"quant_type {quant_type!r}")
    if weights_prepacked not in (-1, 0):
        t.unsupported(f"weights_prepacked {weights_prepacked}")
    if any(p is not None for p in scales):
        t.fail("global and activation scales do not go with quant_type 'int'")
    if w1.ndim != 3 or w2.ndim != 3:
        t.fail(f"expected weights of rank 3, got ranks {w1.ndim} and {w2.ndim}")
    if block_size and (block_size < 16 or block_size & (block_size - 1)):
        t.fail(f"block_size must be a power of 2 and at least 16, got {block_size}")
    parts = {1: (w1, s1, z1, b1), 2: (w2, s2, z2, b2), 3: (w3, s3, z3, b3)}
    widths = {
        i: own or expert_weight_bits for i, own in enumerate((fc1_expert_weight_bits, fc2_expert_weight_bits, fc3_expert_weight_bits), 1)
    }
    for i, bits in widths.items():
        if bits not in (2, 4, 8) and parts[i][0] is not None:
            t.unsupported(f"fc{i}_expert_weight_bits {bits}")
    experts = w1.shape[0]

    def layer(i: int, n: int, k: int) -> Layer | None:
        (w, scale, zero, b), bits = parts[i], widths[i]
        if w is None:
            return None
        if scale is None:
            t.fail(f"fc{i}_scales are missing")
        if block_size and k % block_size:
            t.fail(f"block_size {block_size} does not divide the {int(k)} columns of fc{i}")
        blocks = (k // block_size,) if block_size else ()
        packed: Any = lambda m: -(-m * bits // 8)
        expect_shape(t, f"fc{i}_experts_weights", w, (experts, n, packed(k)))
        expect_shape(t, f"fc{i}_scales", scale, (experts, n, *blocks))
        expect_shape(t, f"fc{i}_zero_points", zero, (experts, n, packed(blocks[0])) if blocks else (experts, packed(n)))
        expect_shape(t, f"fc{i}_experts_bias", b, (experts, n))
        if zero is not None:
            z = zero
            kept: Any = lambda v: v.slice(v.ndim - 1, 0, blocks[0] if blocks else n)
            zero = t.made_once(f"fc{i} zeros", (z,), lambda: t.cast(z if bits == 8 else kept(unpacked(t, z, bits)), F32))
        wide: Any = lambda p: p if p is None or p.ndim == 3 else p.unsqueeze(2)
        return QuantizedLayer(f"fc{i}", w, wide(scale), wide(zero), bits, b)

    return _operator(t, x, scores, router_weights, w2.shape[2] * 8 // widths[2], layer, gated=w3 is not None, experts=experts, **attrs)
