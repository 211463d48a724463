"""A float32 model's results in float64: the reference that both runtimes' rounding errors are measured against.

The model is rewritten in float64 (weights, constants, casts, inputs and outputs) and run without any graph pass by the NumPy kernels of device
"reference", which share no code with the C++ kernels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

Arrays = dict[str, np.ndarray[Any, Any]]

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
_FLOAT_ONLY = {("Resize", 2), ("Upsample", 1)}  # inputs that are float32 whatever the element type: (op, input)
_QUANTISED = ("Quant", "Integer", "QLinear", "MatMulNBits")


class NoReference(ValueError):
    """The model has no meaning in float64: quantised, or of operators that only exist in float32."""


def _double(t: TensorProto) -> TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(t).astype(np.float64), t.name) if t.data_type == FLOAT else t


def _attribute(node: NodeProto, a: AttributeProto) -> None:
    if a.type == AttributeProto.TENSOR:
        a.t.CopyFrom(_double(a.t))
    elif a.type == AttributeProto.TENSORS:
        for t in a.tensors:
            t.CopyFrom(_double(t))
    elif a.type == AttributeProto.GRAPH:
        _graph(a.g)
    elif a.type == AttributeProto.GRAPHS:
        for g in a.graphs:
            _graph(g)
    elif a.name in ("to", "dtype", "output_datatype") and a.i == FLOAT:
        a.i = DOUBLE
    elif node.op_type == "Constant" and a.name in ("value_float", "value_floats"):
        value = np.array(a.f if a.name == "value_float" else list(a.floats), np.float64)
        a.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))


def _nodes(nodes: Any) -> None:
    found = list(nodes)
    del nodes[:]
    for node in found:
        if node.domain == "ai.onnx.ml" or any(q in node.op_type for q in _QUANTISED):
            raise NoReference(f"{node.op_type} has no float64 form")
        if node.op_type in ("RandomNormal", "RandomUniform", "Bernoulli", "Multinomial"):
            raise NoReference(f"{node.op_type} is random")
        for a in node.attribute:
            _attribute(node, a)
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
        for k, name in enumerate(node.input):
            if name and (node.op_type, k) in _FLOAT_ONLY:
                nodes.append(helper.make_node("Cast", [name], [f"{name}/float32/{node.output[0]}"], to=FLOAT))
                node.input[k] = nodes[-1].output[0]
        nodes.append(node)


def _graph(g: GraphProto) -> None:
    for t in g.initializer:
        t.CopyFrom(_double(t))
    for v in (*g.input, *g.output, *g.value_info):
        if v.type.HasField("tensor_type") and v.type.tensor_type.elem_type == FLOAT:
            v.type.tensor_type.elem_type = DOUBLE
    _nodes(g.node)


def float64_outputs(path: Path, feeds: Arrays) -> list[Any]:
    """All outputs of the model at `path` in float64. Raises NoReference."""
    import pytensor_rt as rt

    model = onnx.load(path)
    _graph(model.graph)
    for f in model.functions:
        _nodes(f.node)
    wide = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in feeds.items()}
    return rt.InferenceSession(model, device="reference", optimize=False).run(None, wide)
