"""ai.onnx.preview FlexAttention: attention with graphs applied to its scores and probabilities."""

from __future__ import annotations

import math
from typing import Any

from ..dtypes import F32, F64, from_code
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .linear import matmul_like
from .registry import op


@op("FlexAttention", domain="ai.onnx.preview")
def flex_attention(
    t: Tracer, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, score_mod: Any = None, prob_mod: Any = None,
    softmax_precision: int | None = None,
) -> Tensor:  # fmt: skip
    """q [B, H, L, E], k [B, G, S, E], v [B, G, S, D] -> [B, H, L, D]; query head h uses key head h // (H / G)."""
    if not q.ndim == k.ndim == v.ndim == 4:
        t.fail("q, k and v must have rank 4")
    batch, heads, length, width = q.shape
    groups, keys = k.shape[1], k.shape[2]
    if groups == 0 or heads % groups != 0 or v.shape[1] != groups or v.shape[2] != keys or k.shape[3] != width:
        t.fail("the shapes of q, k and v do not fit")
    factor = scale if scale is not None else 1.0 / math.sqrt(width)
    wide = from_code(softmax_precision) if softmax_precision else F64 if q.dtype == F64 else F32
    if score_mod is None and prob_mod is None and not softmax_precision and q.dtype in (F32, F64):
        return t.record("attention", [q, k, v, None, None], [((batch, heads, length, v.shape[3]), v.dtype)], {"scale": factor})[0]
    root = math.sqrt(factor)
    grouped = t.reshape(q, (batch, groups, heads // groups, length, width))
    scaled, other = t.map(lambda x: x * root, grouped), t.map(lambda x: x * root, k)
    scores = matmul_like(t, scaled, other.permute((0, 1, 3, 2)).unsqueeze(2))
    shape = (batch, heads, length, keys)
    scores = _modified(t, score_mod, t.cast(t.reshape(scores, shape), wide))
    probs = t.record("softmax", [scores], [(shape, wide)], {"op": "softmax", "axis": 3})[0]
    probs = _modified(t, prob_mod, probs)
    y = matmul_like(t, t.reshape(probs, (batch, groups, heads // groups, length, keys)), t.cast(v, wide).unsqueeze(2))
    return t.cast(t.reshape(y, (batch, heads, length, v.shape[3])), v.dtype)


def _modified(t: Tracer, graph: Any, x: Tensor) -> Tensor:
    """x, or what a modifier graph with one input and one output makes of it."""
    if graph is None:
        return x
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        t.fail("score_mod and prob_mod must have one input and one output")
    node = t.node
    y = t.run(graph, {graph.inputs[0].name: x})[0]
    t.node = node
    if not isinstance(y, Tensor) or y.shape != x.shape:
        t.fail("score_mod and prob_mod must keep the shape")
    return t.cast(y, x.dtype)
