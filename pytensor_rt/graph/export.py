"""Graph and Model back to protobuf: for debugging, for tests, and for asking `onnx` about a node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .model import Array, Graph, Model, Node, ValueInfo
from .tensors import TensorReader

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto


def tensor_proto(array: Array, name: str = "") -> TensorProto:
    import onnx

    if array.dtype == object:
        data = [s.encode("utf-8", "surrogateescape") if isinstance(s, str) else bytes(s) for s in array.reshape(-1)]
        return onnx.TensorProto(data_type=8, dims=array.shape, string_data=data, name=name)
    return onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)


def type_proto(v: ValueInfo | None) -> TypeProto:
    """The type of a tensor value; the empty message if it is absent or not known to be a tensor."""
    import onnx

    out = onnx.TypeProto()
    if v is None or not v.type_string:
        return out
    inner, text = out, v.type_string
    while True:
        head, _, rest = text.partition("(")
        if head == "seq":
            inner, text = inner.sequence_type.elem_type, rest
        elif head == "optional":
            inner, text = inner.optional_type.elem_type, rest
        elif head == "map":
            key, _, rest = rest.partition(",")
            inner.map_type.key_type = _element_code(key)
            inner, text = inner.map_type.value_type, rest
        else:
            break
    tensor = inner.sparse_tensor_type if text.startswith("sparse") else inner.tensor_type
    tensor.elem_type = v.elem_type or 0
    if v.shape is not None:
        tensor.shape.SetInParent()
        for d in v.shape:
            dim = tensor.shape.dim.add()
            if isinstance(d, int):
                dim.dim_value = d
            elif d is not None:
                dim.dim_param = d
    return out


def _element_code(text: str) -> int:
    from ..dtypes import type_name

    return next(c for c in range(1, 27) if type_name(c) == text)


def attribute_proto(name: str, value: Any) -> AttributeProto:
    import onnx

    a = onnx.AttributeProto(name=name)
    many = isinstance(value, tuple)
    first = value[0] if many and value else None if many else value
    if many and first is None:
        a.type = onnx.AttributeProto.INTS
    elif isinstance(first, (bool, int, np.integer)):
        a.type = onnx.AttributeProto.INTS if many else onnx.AttributeProto.INT
        a.ints.extend(value) if many else setattr(a, "i", int(value))
    elif isinstance(first, (float, np.floating)):
        a.type = onnx.AttributeProto.FLOATS if many else onnx.AttributeProto.FLOAT
        a.floats.extend(value) if many else setattr(a, "f", float(value))
    elif isinstance(first, (str, bytes)):
        a.type = onnx.AttributeProto.STRINGS if many else onnx.AttributeProto.STRING
        texts = [s.encode() if isinstance(s, str) else s for s in (value if many else (value,))]
        a.strings.extend(texts) if many else setattr(a, "s", texts[0])
    elif isinstance(first, np.ndarray):
        a.type = onnx.AttributeProto.TENSORS if many else onnx.AttributeProto.TENSOR
        a.tensors.extend(tensor_proto(v) for v in value) if many else a.t.CopyFrom(tensor_proto(value))
    elif isinstance(first, Graph):
        a.type = onnx.AttributeProto.GRAPHS if many else onnx.AttributeProto.GRAPH
        a.graphs.extend(graph_proto(v) for v in value) if many else a.g.CopyFrom(graph_proto(value))
    elif isinstance(first, onnx.TypeProto):
        a.type = onnx.AttributeProto.TYPE_PROTOS if many else onnx.AttributeProto.TYPE_PROTO
        a.type_protos.extend(value) if many else a.tp.CopyFrom(value)
    else:
        raise TypeError(f"attribute '{name}': cannot export a {type(value).__name__}")
    return a


def node_proto(node: Node) -> NodeProto:
    import onnx

    p = onnx.NodeProto(op_type=node.op_type, domain=node.domain, name=node.name, input=node.inputs, output=node.outputs)
    p.attribute.extend(attribute_proto(k, v) for k, v in node.attrs.items())
    return p


def graph_proto(graph: Graph) -> GraphProto:
    import onnx

    p = onnx.GraphProto(name=graph.name or "graph")
    p.initializer.extend(tensor_proto(v.array, k) for k, v in graph.initializers.items())
    p.node.extend(node_proto(n) for n in graph.nodes)
    for values, field in ((graph.inputs, p.input), (graph.outputs, p.output), (graph.value_infos.values(), p.value_info)):
        for v in values:
            info = field.add(name=v.name)
            if v.type_string:
                info.type.CopyFrom(type_proto(v))
    return p


def export_model(model: Model) -> ModelProto:
    """The model as a ModelProto, at the opset versions it was loaded with."""
    import onnx

    m = model.metadata
    p = onnx.ModelProto(ir_version=max(m.ir_version, 8), producer_name=m.producer_name, graph=graph_proto(model.graph))
    for domain, version in model.opsets.items():
        p.opset_import.add(domain=domain, version=version)
    for (domain, _), f in model.functions.items():
        q = p.functions.add(name=f.name, domain=domain, input=f.inputs, output=f.outputs, attribute=f.attributes, node=f.protos)
        q.opset_import.extend(onnx.OperatorSetIdProto(domain=d, version=v) for d, v in f.opsets.items())
        q.attribute_proto.extend(attribute_proto(k, v) for k, v in f.defaults.items())
        for node in q.node:
            _restore(node, f.reader)
    return p


def _restore(node: NodeProto, reader: TensorReader) -> None:
    """Put the weights that loading cut out of a function's node back into it."""
    for a in node.attribute:
        graphs = [a.g, *a.graphs] if a.HasField("g") else list(a.graphs)
        tensors = [a.t, *a.tensors] if a.HasField("t") else list(a.tensors)
        for graph in graphs:
            tensors += graph.initializer
            for inner in graph.node:
                _restore(inner, reader)
        for t in tensors:
            if t.HasField("segment"):
                t.CopyFrom(tensor_proto(reader.read(t).array, t.name))
