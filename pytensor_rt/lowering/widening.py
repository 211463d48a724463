"""float32 in the place of float16 between the operators of networks with convolutions.

Every kernel computes float16 in float32 and rounds what it writes. From a network's first convolution on nothing is rounded until an output, or a
Cast, says float16: one conversion per value less on the way in and out of every kernel, half of the precision more, and twice the memory for what lies
between (the weights of convolutions are packed in float32 either way). Networks without convolutions keep float16: decoders, above all, read caches
and weights of 16 bits at the speed of memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..dtypes import F16, F32, from_code
from .tensor import Tensor

if TYPE_CHECKING:
    from .tracer import Tracer

_SEEDS = frozenset(("Conv", "ConvTranspose", "FusedConv", "NhwcConv", "NhwcFusedConv"))
# Their values have a dtype of their own that several nodes must agree on, or read float16 bit by bit.
_STRICT = ("Sequence", "SplitToSequence", "ConcatFromSequence", "Optional", "BitCast")


def widens(graph: Any) -> bool:
    """Is this (graph.Graph) a network for which float16 becomes float32?"""
    return (
        any(i.dtype == F16 for i in graph.initializers.values())
        and any(n.op_type in _SEEDS for n in graph.nodes)
        and all(v.kind == "tensor" and v.elem_type for v in graph.outputs)
        and not any(n.subgraphs or n.op_type.startswith(_STRICT) for n in graph.nodes)
    )


def widened(t: Tracer, node: Any, inputs: list[Any]) -> list[Any]:
    """The inputs of a node: all of float16 as float32 if it is a convolution, or if one of them has become float32."""
    if node.op_type == "Cast" or not any(isinstance(x, Tensor) and x.dtype == F16 for x in inputs):
        return inputs
    if node.op_type not in _SEEDS and not any(isinstance(x, Tensor) and x.dtype == F32 for x in inputs):
        return inputs
    return [
        t.made_once(("float32", name), (x,), partial(_float32, t, x)) if isinstance(x, Tensor) and x.dtype == F16 else x
        for name, x in zip(node.inputs, inputs)
    ]


def _float32(t: Tracer, x: Tensor) -> Tensor:
    return t.const(t.need(x).astype(F32)) if x.known else t.cast(x, F32)


def narrowed(t: Tracer, values: list[Any], infos: Iterable[Any]) -> list[Any]:
    """The outputs of the graph with the dtypes that it declares."""
    return [
        t.cast(x, F16) if isinstance(x, Tensor) and x.dtype == F32 and from_code(info.elem_type) == F16 else x
        for x, info in zip(values, infos)
    ]
