"""Softmax and normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dtypes import F32
from ..lowering import expr as e
from ..lowering.tensor import Tensor, size_of
from ..lowering.tracer import Tracer
from .reduction import reduce_axes
from .registry import op
from .util import norm_axis, wants

_SOFTMAX = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Hardmax": "hardmax"}


@op(*_SOFTMAX, since=13)
def softmax(t: Tracer, x: Tensor, *, axis: int = -1) -> Tensor:
    if x.ndim == 0:
        x = x.unsqueeze(0)
        return t.record("softmax", [x], [(x.shape, x.dtype)], {"op": _SOFTMAX[t.node.op_type], "axis": 0})[0].squeeze(0)
    return t.record("softmax", [x], [(x.shape, x.dtype)], {"op": _SOFTMAX[t.node.op_type], "axis": norm_axis(t, axis, x.ndim)})[0]


@op(*_SOFTMAX)
def softmax_flat(t: Tracer, x: Tensor, *, axis: int = 1) -> Tensor:
    """Before opset 13: over all axes from `axis` on, taken as one."""
    a = norm_axis(t, axis, x.ndim)
    flat = t.reshape(x, (size_of(x.shape[:a]), size_of(x.shape[a:])))
    return t.reshape(t.record("softmax", [flat], [(flat.shape, x.dtype)], {"op": _SOFTMAX[t.node.op_type], "axis": 1})[0], x.shape)


def normalize(
    t: Tracer, x: Tensor, scale: Tensor | None, bias: Tensor | None, kind: str, axes: tuple[int, ...], epsilon: float,
    stats: tuple[bool, bool] = (False, False),
) -> list[Any]:  # fmt: skip
    """A normalize launch; scale and bias broadcast to x. The result, and if asked for its mean and inverse deviation in float32."""
    full: Any = lambda p: None if p is None else p.expand(x.shape)
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    outs: list[Any] = [(x.shape, x.dtype), *((kept, F32) if wanted else None for wanted in stats)]
    return t.record("normalize", [x, full(scale), full(bias)], outs, {"op": kind, "axes": axes, "epsilon": float(epsilon)})


@op("LayerNormalization")
def layer_normalization(
    t: Tracer, x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> list[Any]:
    axes = tuple(range(norm_axis(t, axis, x.ndim), x.ndim))
    return normalize(t, x, scale, bias, "layer", axes, epsilon, (wants(t, 1), wants(t, 2)))


@op("RMSNormalization")
def rms_normalization(t: Tracer, x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Tensor:
    return normalize(t, x, scale, None, "rms", tuple(range(norm_axis(t, axis, x.ndim), x.ndim)), epsilon)[0]  # type: ignore[no-any-return]


def _per_channel(t: Tracer, p: Tensor, rank: int) -> Tensor:
    return t.reshape(p, (p.shape[0], *(1,) * (rank - 2)))


@op("InstanceNormalization")
def instance_normalization(t: Tracer, x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5, **_: Any) -> Tensor:
    s, b = _per_channel(t, scale, x.ndim), _per_channel(t, bias, x.ndim)
    return normalize(t, x, s, b, "layer", tuple(range(2, x.ndim)), epsilon)[0]  # type: ignore[no-any-return]


@op("GroupNormalization", since=18)
def group_normalization(
    t: Tracer, x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    n, c = x.shape[:2]
    shape = (n, num_groups, c // num_groups, *x.shape[2:])
    spread: Any
    if scale.shape[0] == num_groups and t.node.opset < 21:  # opset 18: one scale per group
        if scale.known and bias.known:  # by channel, as kernels that have channels as lanes read them
            each = c // num_groups
            scale, bias = (t.const(np.repeat(np.asarray(p.value), each), p.dtype) for p in (scale, bias))
            spread = lambda p: t.reshape(p, (num_groups, each, *(1,) * (x.ndim - 2)))
        else:
            spread = lambda p: t.reshape(p, (num_groups, *(1,) * (x.ndim - 1)))
    else:
        spread = lambda p: t.reshape(p, (num_groups, c // num_groups, *(1,) * (x.ndim - 2)))
    y = normalize(t, t.reshape(x, shape), spread(scale), spread(bias), "layer", tuple(range(2, x.ndim + 1)), epsilon)[0]
    return t.reshape(y, x.shape)


@op("BatchNormalization")
def batch_normalization(
    t: Tracer, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0,
    spatial: int = 1, is_test: int = 0, consumed_inputs: Any = None,
) -> Any:  # fmt: skip
    one: Any = (lambda p: t.reshape(p, (p.shape[0], *(1,) * (x.ndim - 2))) if x.ndim > 2 else p) if spatial else (lambda p: p)
    if training_mode:
        axes = (0, *range(2, x.ndim))
        kept = tuple(n if i == 1 else 1 for i, n in enumerate(x.shape))
        m = reduce_axes(t, x, "mean", axes, True)
        v = reduce_axes(t, t.map(lambda a, b: (a - b) * (a - b), x, m), "mean", axes, True)
        y = t.map(lambda a, b, c, s, o: (a - b) / e.sqrt(c + epsilon) * s + o, x, m, v, one(scale), one(bias))
        blend: Any = lambda old, new: t.map(lambda a, b: a * momentum + b * (1 - momentum), old, t.reshape(new, (kept[1],)))
        return y, blend(mean, m), blend(var, v)
    factor = t.map(lambda s, v: s / e.sqrt(v + epsilon), scale, var)
    shift = t.map(lambda b, m, f: b - m * f, bias, mean, factor)
    return t.map(lambda a, f, o: a * f + o, x, one(factor), one(shift))


@op("LpNormalization")
def lp_normalization(t: Tracer, x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    a = norm_axis(t, axis, x.ndim)
    norm = reduce_axes(t, x, "l1" if p == 1 else "l2", (a,), True)
    # A row whose norm is 0 becomes zeros: the choice is the divisor's, of which there is one per row.
    divisor = t.map(lambda n: e.where(n == 0, np.inf, n), norm)
    return t.map(lambda v, n: v / n, x, divisor)


@op("MeanVarianceNormalization", since=9)
def mean_variance_normalization(t: Tracer, x: Tensor, *, axes: Any = (0, 2, 3)) -> Tensor:
    chosen = tuple(sorted(norm_axis(t, a, x.ndim) for a in axes))
    m = reduce_axes(t, x, "mean", chosen, True)
    centred = t.map(lambda v, w: v - w, x, m)
    var = reduce_axes(t, t.map(lambda v: v * v, centred), "mean", chosen, True)
    deviation = t.map(lambda s: e.sqrt(s) + 1e-9, var)  # once per set
    return t.map(lambda v, s: v / s, centred, deviation)


@op("LRN")
def lrn(t: Tracer, x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """Cross-channel window sum of squares: an average pool over the channel axis seen as a spatial one."""
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    squares = t.map(lambda v: v * v, x)
    flat = t.reshape(squares, (x.shape[0], 1, x.shape[1], size_of(x.shape[2:])))
    params = {
        "op": "average", "kernel": (size, 1), "strides": (1, 1), "dilations": (1, 1), "pads": (before, 0, after, 0), "count_include_pad": 1,
    }  # fmt: skip
    mean = t.reshape(t.record("pool", [flat], [(flat.shape, x.dtype), None], params)[0], x.shape)
    return t.map(lambda v, m: v / e.pow_(m * alpha + bias, beta), x, mean)
