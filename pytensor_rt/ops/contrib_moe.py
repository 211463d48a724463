"""Mixtures of experts of com.microsoft: feed-forward networks of which every token uses the k that a router prefers.

Defined by onnxruntime's docs/ContribOperators.md. Which experts a token uses is only known at run time, and no kernel skips the others, so there
are two plans. Few choices (T * k < E): the chosen experts' weights are gathered, a matrix per choice. Otherwise every expert sees every token, and
weighs 0 where it was not chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from ..dtypes import F32, I64
from ..lowering import expr as e
from ..lowering.expr import Var
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .linear import matmul_like
from .movement import take
from .reduction import reduce_axes
from .registry import MICROSOFT, op

_PLAIN: dict[str, Callable[[Var], Var]] = {
    "relu": e.relu, "gelu": e.gelu_tanh, "silu": e.silu, "identity": lambda v: v, "relu2": lambda v: e.relu(v) * e.relu(v),
}  # fmt: skip
_GATED = ("swiglu", "geglu")


class Layer(NamedTuple):
    """A linear layer of every expert: w [E, N, K], b [E, N]."""

    w: Tensor
    b: Tensor | None


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


def _choices(t: Tracer, scores: Tensor, k: int, normalized: bool) -> tuple[Tensor, Tensor]:
    """The k experts with the highest of the scores [T, E] and their weights, float32: the softmax of all scores there, or of those k."""
    scores = t.cast(scores, F32)
    shape = (scores.shape[0], k)
    params = {"axis": 1, "k": k, "largest": 1, "sorted": 1}
    values, chosen = t.record("topk", [scores], [(shape, F32), (shape, I64)], params)
    of = values if normalized else scores
    weights = t.record("softmax", [of], [(of.shape, F32)], {"op": "softmax", "axis": 1})[0]
    if not normalized:
        weights = t.record("gather", [weights, chosen], [(shape, F32)], {"mode": "elements", "axis": 1})[0]
    return chosen, weights


def mixture(
    t: Tracer, x: Tensor, scores: Tensor, k: int, normalized: bool, fc1: Layer, fc2: Layer, fc3: Layer | None, act: Activation
) -> Tensor:
    """x [T, H], scores [T, E] -> [T, H]"""
    n, experts = x.shape[0], fc1.w.shape[0]
    chosen, weights = _choices(t, scores, k, normalized)
    gathered = n * k < experts
    at: Callable[[Tensor], Tensor] = (lambda p: take(t, p, chosen, 0)) if gathered else (lambda p: p)

    def linear(v: Tensor, layer: Layer) -> Tensor:
        """[..., tokens, K] -> [..., tokens, N], the leading axes being those of the experts"""
        w = at(layer.w)
        y = matmul_like(t, v, w.permute((*range(w.ndim - 2), w.ndim - 1, w.ndim - 2)))
        if layer.b is None:
            return y
        b = at(layer.b)
        return t.map(lambda p, q: p + q, y, b.unsqueeze(b.ndim - 1))

    v = t.reshape(x, (n, 1, 1, x.shape[1]) if gathered else (1, n, x.shape[1]))
    h = linear(v, fc1)
    last = h.ndim - 1
    if fc3 is not None:
        h = t.map(act.gated, h, linear(v, fc3))
    elif act.type in _GATED:
        half = h.shape[last] // 2
        parts = [h.slice(last, i, half, 2) if act.fusion == 1 else h.slice(last, i * half, half) for i in (0, 1)]
        h = t.map(act.gated, *parts)
    else:
        h = t.map(_PLAIN[act.type], h)
    y = linear(h, fc2)
    if gathered:  # [T, k, 1, H]
        factors, axis = weights.unsqueeze(2).unsqueeze(3), 1
    else:  # [E, T, H]
        zeros = t.full((n, experts), 0, F32)
        spread = t.record("scatter", [zeros, chosen, weights], [((n, experts), F32)], {"mode": "elements", "axis": 1, "reduction": "none"})[
            0
        ]
        factors, axis = spread.permute((1, 0)).unsqueeze(2), 0
    total = reduce_axes(t, t.map(lambda p, f: e.cast(p, F32) * f, y, factors), "sum", (axis,), False)
    return t.reshape(t.cast(total, x.dtype), x.shape)


def _expect(t: Tracer, what: str, p: Tensor | None, shape: tuple[int, ...]) -> None:
    if p is not None and p.shape != shape:
        t.fail(f"expected {what} of shape {list(map(int, shape))}, got {list(map(int, p.shape))}")


@op("MoE", domain=MICROSOFT)
def moe(
    t: Tracer, x: Tensor, scores: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None = None, w3: Tensor | None = None,
    b3: Tensor | None = None, *, k: int = 1, normalize_routing_weights: int = 0, use_sparse_mixer: int = 0, activation_type: str = "relu",
    activation_alpha: float = 1.0, activation_beta: float = 0.0, swiglu_limit: float = math.inf, swiglu_fusion: int = 0,
    swiglu_limit_after_activation: int = 0,
) -> Tensor:  # fmt: skip
    """com.microsoft MoE: x [T, H] or [B, S, H], T = B * S, router scores [T, E]; the result has x's shape. float32, float16, bfloat16.

    fc1: w1 [E, F, H], b1 [E, F]; fc2: w2 [E, H, I], b2 [E, H]; fc3, which multiplies the activation of fc1: w3 [E, I, H], b3 [E, I]. F is I, or 2 I
    where the gate and what it multiplies are rows of w1, in turn (swiglu_fusion 1) or one after the other (2). gelu is the tanh approximation.
    """
    if x.ndim not in (2, 3) or w1.ndim != 3 or w2.ndim != 3:
        t.fail(f"expected input of rank 2 or 3 and weights of rank 3, got ranks {x.ndim}, {w1.ndim} and {w2.ndim}")
    if use_sparse_mixer:
        t.unsupported("use_sparse_mixer")
    if activation_type not in (*_PLAIN, *_GATED):
        t.unsupported(f"activation_type {activation_type!r}")
    fused = activation_type in _GATED and w3 is None
    if fused and swiglu_fusion not in (1, 2):
        t.fail(f"{activation_type} without fc3 needs swiglu_fusion 1 or 2, got {swiglu_fusion}")
    if w3 is not None and (swiglu_fusion or activation_type == "geglu"):
        t.fail(f"fc3 does not go with {'geglu' if activation_type == 'geglu' else f'swiglu_fusion {swiglu_fusion}'}")
    hidden, experts, inner = x.shape[-1], w1.shape[0], w2.shape[2]
    tokens = x.shape[0] if x.ndim == 2 else x.shape[0] * x.shape[1]
    if not 1 <= k <= experts:
        t.fail(f"k must be from 1 to the number of experts {int(experts)}, got {k}")
    wide = (2 if fused else 1) * inner
    _expect(t, "router_probs", scores, (tokens, experts))
    _expect(t, "fc1_experts_weights", w1, (experts, wide, hidden))
    _expect(t, "fc1_experts_bias", b1, (experts, wide))
    _expect(t, "fc2_experts_weights", w2, (experts, hidden, inner))
    _expect(t, "fc2_experts_bias", b2, (experts, hidden))
    _expect(t, "fc3_experts_weights", w3, (experts, inner, hidden))
    _expect(t, "fc3_experts_bias", b3, (experts, inner))
    if tokens == 0:
        return x
    act = Activation(activation_type, activation_alpha, activation_beta, swiglu_limit, swiglu_fusion, bool(swiglu_limit_after_activation))
    fc3 = None if w3 is None else Layer(w3, b3)
    flat = t.reshape(x, (tokens, hidden))
    y = mixture(t, flat, scores, k, bool(normalize_routing_weights), Layer(w1, b1), Layer(w2, b2), fc3, act)
    return t.reshape(y, x.shape)
