"""Shape-free rewrites of a loaded model: fewer, larger nodes that say what they mean.

Every rewrite fires only if nobody else reads the intermediate values and none of them is a graph output, works inside subgraphs, and leaves
initializers alone that are inputs too. A node made by a rewrite carries the names of the nodes it replaces in `Node.origins`, and its own
`Node.opset`, which may be newer than the model's.

Recognised patterns become these nodes, with the semantics of the ONNX operator of that version:
    LayerNormalization (17)   axis < 0; Scale may have shape [1] where the model had none
    RMSNormalization (23)     the same
    GroupNormalization (18)   scale and bias by group; (21) by channel
    Gelu (20)                 approximate="tanh" for the tanh form
    HardSwish (14)
    QLinearConv, QLinearMatMul (10)   from dequantize -> Conv, ConvTranspose or MatMul [-> Relu] -> quantize
    QGemm (com.microsoft, 1)          from the same around Gemm

Internal nodes, domain `pytensor_rt`, opset 1:
    MatMulDequantized(a, w, scale, zero?, c?) -> Gemm of a (any rank) by (w - zero) * scale, w a constant matrix of 8- or 4-bit integers. Attributes
        alpha, beta, transA, transB of Gemm; axis and block (0: none) of DequantizeLinear, in w's own axes
    Attention(q, k, v, mask?) -> softmax(q k^T * scale + mask) v
        q [..., S, D], k [..., T, D], v [..., T, E], mask broadcastable to [..., S, T]; the leading axes (any number) broadcast as in MatMul.
        scale (float): 1 / sqrt(D) if absent. nan_to_zero (int, default 0): 1 turns NaN weights, those of rows where every key is masked by
        -inf, into 0. The mask is a summand of the scores' type, never boolean.
    TfIdfTokens(x) -> TfIdfVectorizer(Flatten(com.microsoft.Tokenizer(x))), with the attributes of both
    Interleave(x...) -> y [N, C, n * H, n * W] of n * n tensors [N, C, H, W]: y[:, :, i::n, j::n] is number n * i + j
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from ..graph import Graph, Model
from . import dead_code, dedupe, identity
from .rewriter import INTERNAL, MICROSOFT, Rewriter

__all__ = ["INTERNAL", "Rewriter", "optimize"]

# The passes of a round: a function, or a module whose `run` is called only where the graph has one of these ops, which it starts from
PASSES: tuple[Callable[[Rewriter], bool] | tuple[str, tuple[str, ...]], ...] = (
    identity.run,
    dedupe.constants,
    dedupe.nodes,
    ("quantized", ("QuantizeLinear", "DequantizeLinear")),
    ("fold_affine", ("Conv", "ConvTranspose", "Gemm")),
    ("branches", ("Add",)),
    ("norms", ("Sqrt", "InstanceNormalization")),
    ("activations", ("Erf", "Tanh", "Clip", "HardSigmoid")),
    ("attention", ("Softmax",)),
    ("concat", ("Concat",)),
    ("tokens", ("TfIdfVectorizer",)),
    dead_code.run,
)
MAX_ROUNDS = 8  # every pass shrinks the graph; the bound is for safety


def optimize(model: Model) -> Model:
    """Inline the model's functions, then rewrite it in place until nothing changes; returns it. Raises ModelError if functions explode."""
    if model.functions:
        from . import inline

        inline.run(model)
    _optimize(model.graph, model, None)
    model.graph.touch()
    made = {node.domain for graph in model.graph.graphs() for node in graph.nodes}
    for domain in {INTERNAL, MICROSOFT} & made:
        model.opsets.setdefault(domain, 1)
    return model


def _optimize(graph: Graph, model: Model, parent: Rewriter | None) -> None:
    rw = Rewriter(graph, model, parent)
    dead_code.run(rw)
    for _ in range(MAX_ROUNDS):
        changed = False
        for step in PASSES:
            if isinstance(step, tuple):
                if rw.nodes(*step[1]):
                    changed |= import_module(f".{step[0]}", __name__).run(rw)
            else:
                changed |= step(rw)
        if not changed:
            break
    if any(i.dtype.itemsize == 1 and i.nbytes >= 4096 for i in (*graph.initializers.values(), *model.graph.initializers.values())):
        from . import dequantized

        if dequantized.run(rw):
            dead_code.run(rw)
    rw.flush()
    nested = [node for node in graph.nodes if node.subgraphs]
    if nested:
        for node in nested:
            for sub in node.subgraphs:
                _optimize(sub, model, rw)
        graph.touch()
        dead_code.run(Rewriter(graph, model, parent))
