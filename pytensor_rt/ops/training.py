"""ai.onnx.preview.training: optimizer steps. Inputs are a rate R, an update count T and groups of tensors; outputs the updated groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..lowering import expr as e
from ..lowering.expr import Var
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .registry import op

TRAINING = "ai.onnx.preview.training"


def _groups(t: Tracer, xs: tuple[Tensor, ...], k: int) -> list[tuple[Tensor, ...]]:
    """[X1, X2, ..., G1, G2, ...] as [(X1, G1, ...), (X2, G2, ...), ...] of k tensors each."""
    n = len(xs) // k
    if n == 0 or len(xs) != n * k:
        t.fail(f"expected groups of {k} tensors after R and T, got {len(xs)} tensors")
    return [tuple(xs[i + j * n] for j in range(k)) for i in range(n)]


def _scalar(t: Tracer, fn: Callable[[Var, Var], Var], rate: Tensor, count: Tensor, dtype: Any) -> Tensor:
    """fn(R, T) computed once, in dtype."""
    return t.map(lambda r, c: fn(e.cast(r, dtype), e.cast(c, dtype)), t.reshape(rate, ()), t.reshape(count, ()))


@op("Adagrad", domain=TRAINING)
def adagrad(
    t: Tracer, rate: Tensor, count: Tensor, *xs: Tensor, decay_factor: float = 0.0, epsilon: float = 1e-6, norm_coefficient: float = 0.0
) -> list[Tensor]:
    new_x, new_h = [], []
    for x, g, h in _groups(t, xs, 3):
        step = _scalar(t, lambda r, c: r / (c * decay_factor + 1), rate, count, x.dtype)
        full = t.map(lambda v, d: v * norm_coefficient + d, x, g)
        grown = t.map(lambda a, d: a + d * d, h, full)
        new_h.append(grown)
        new_x.append(t.map(lambda v, s, d, a: v - s * d / (e.sqrt(a) + epsilon), x, step, full, grown))
    return new_x + new_h


@op("Adam", domain=TRAINING)
def adam(
    t: Tracer, rate: Tensor, count: Tensor, *xs: Tensor, alpha: float = 0.9, beta: float = 0.999, epsilon: float = 1e-6, norm_coefficient: float = 0.0,
    norm_coefficient_post: float = 0.0,
) -> list[Tensor]:  # fmt: skip
    def corrected(r: Var, c: Var) -> Var:  # for the momentums' start at zero, if any step was made
        return e.where(c > 0, r * e.sqrt(1 - e.pow_(beta, c)) / (1 - e.pow_(alpha, c)), r)

    new_x, new_v, new_h = [], [], []
    for x, g, v, h in _groups(t, xs, 4):
        step = _scalar(t, corrected, rate, count, x.dtype)
        full = t.map(lambda w, d: w * norm_coefficient + d, x, g)
        first = t.map(lambda m, d: m * alpha + d * (1 - alpha), v, full)
        second = t.map(lambda m, d: m * beta + d * d * (1 - beta), h, full)
        new_x.append(t.map(lambda w, s, m, q: (w - s * (m / (e.sqrt(q) + epsilon))) * (1 - norm_coefficient_post), x, step, first, second))
        new_v.append(first)
        new_h.append(second)
    return new_x + new_v + new_h


@op("Momentum", domain=TRAINING)
def momentum(
    t: Tracer, rate: Tensor, count: Tensor, *xs: Tensor, alpha: float, beta: float, mode: str, norm_coefficient: float
) -> list[Tensor]:
    if mode not in ("standard", "nesterov"):
        t.fail(f"unknown mode {mode!r}")
    new_x, new_v = [], []
    for x, g, v in _groups(t, xs, 3):
        r = t.cast(t.reshape(rate, ()), x.dtype)
        weight = _scalar(t, lambda _, c: e.where(c > 0, c * 0 + beta, 1), rate, count, x.dtype)
        full = t.map(lambda w, d: w * norm_coefficient + d, x, g)
        moved = t.map(lambda m, b, d: m * alpha + b * d, v, weight, full)
        new_v.append(moved)
        if mode == "nesterov":
            new_x.append(t.map(lambda w, s, d, m: w - s * (d + m * alpha), x, r, full, moved))
        else:
            new_x.append(t.map(lambda w, s, m: w - s * m, x, r, moved))
    return new_x + new_v


__all__ = ["TRAINING"]
