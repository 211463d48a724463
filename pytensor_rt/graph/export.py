"""Graph and Model back to protobuf: for debugging, for tests, and for asking `onnx` about a node."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .model import INTERNAL, Array, Graph, Model, Node, ValueInfo
from .numbers import Numbers
from .tensors import TensorReader
from .wire import Message

if TYPE_CHECKING:
    from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto


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
    if v is None or not (v.type_string or v.elem_type):
        return out
    inner, text = out, v.type_string or f"{v.kind}("
    if not v.type_string and v.kind == "sequence":
        text = "seq(tensor("
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
    many = isinstance(value, (tuple, Numbers))
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
    elif isinstance(first, (onnx.TypeProto, Message)):
        a.type = onnx.AttributeProto.TYPE_PROTOS if many else onnx.AttributeProto.TYPE_PROTO
        for t in value if many else (value,):
            target = a.type_protos.add() if many else a.tp
            fill(target, t) if isinstance(t, Message) else target.CopyFrom(t)
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
    """The model as a ModelProto, at the opset versions it was loaded with.

    Nodes that a rewrite made at a newer opset version, and internal ones, become calls of functions that import what they need.
    """
    import onnx

    m = model.metadata
    p = onnx.ModelProto(ir_version=max(m.ir_version, 8), producer_name=m.producer_name, graph=graph_proto(model.graph))
    opsets = {domain: version for domain, version in model.opsets.items() if domain != INTERNAL}
    functions: list[FunctionProto] = []
    _wrap(model.graph, p.graph, opsets, functions)
    if functions:
        opsets[INTERNAL] = 1
        p.functions.extend(functions)
    for domain, version in opsets.items():
        p.opset_import.add(domain=domain, version=version)
    for (domain, _), f in model.functions.items():
        q = p.functions.add(name=f.name, domain=domain, input=f.inputs, output=f.outputs, attribute=f.attributes)
        q.opset_import.extend(onnx.OperatorSetIdProto(domain=d, version=v) for d, v in f.opsets.items())
        q.attribute_proto.extend(attribute_proto(k, v) for k, v in f.defaults.items())
        for node in f.protos:
            fill(q.node.add(), node, f.reader) if isinstance(node, Message) else q.node.add().CopyFrom(node)
    return p


def fill(target: Any, message: Message, reader: TensorReader | None = None) -> None:
    """Copy a message of ours into an empty one of protobuf's of the same kind. Tensors need a reader; they are written as raw data."""
    for name, value in message.__dict__.items():
        if isinstance(value, Message):
            pairs = [(getattr(target, name), value)]
        elif isinstance(value, list) and isinstance(value[0], Message):
            pairs = [(getattr(target, name).add(), item) for item in value]
        elif isinstance(value, list):
            getattr(target, name).extend(value)
            continue
        else:
            setattr(target, name, value)
            continue
        for place, item in pairs:
            place.SetInParent()
            if reader is not None and item.kind == "TensorProto":
                place.CopyFrom(tensor_proto(reader.read(item).array, item.name))
            else:
                fill(place, item, reader)


def _wrap(graph: Graph, proto: GraphProto, opsets: dict[str, int], functions: list[FunctionProto]) -> None:
    """Turn the nodes that `opsets` cannot express into calls of new functions."""
    for node, p in zip(graph.nodes, proto.node):
        for a, sub in ((a, node.attrs[a.name]) for a in p.attribute):
            if isinstance(sub, Graph):
                _wrap(sub, a.g, opsets, functions)
        if node.domain == INTERNAL:
            body = _interleave(node) if node.op_type == "Interleave" else _attention(node)
        elif not node.domain and node.op_type == "Gelu" and opsets.get("", 0) < 20:
            body = _gelu(node)
        elif not node.domain and node.opset > opsets.get("", 0):
            body = _single(node)
        else:
            continue
        body.domain, body.name = INTERNAL, f"{node.op_type}_{len(functions)}"
        functions.append(body)
        p.domain, p.op_type = INTERNAL, body.name
        del p.attribute[:]


def _single(node: Node) -> FunctionProto:
    """A function that is just this node, at its own opset version."""
    import onnx

    inputs, outputs = [f"i{k}" if n else "" for k, n in enumerate(node.inputs)], [f"o{k}" if n else "" for k, n in enumerate(node.outputs)]
    p = node_proto(node)
    del p.input[:], p.output[:]
    p.input.extend(inputs)
    p.output.extend(outputs)
    imports = [onnx.OperatorSetIdProto(domain="", version=node.opset)]
    return onnx.FunctionProto(
        input=[f"i{k}" for k in range(len(inputs))], output=[f"o{k}" for k in range(len(outputs))], node=[p], opset_import=imports
    )


def _gelu(node: Node) -> FunctionProto:
    """Gelu (20) in ops of opset 18: not every evaluator can find its body in the specification."""
    import onnx

    def constant(name: str, value: float) -> str:
        return f"{name}_c = Constant <value_float = {value!r}> () {name} = CastLike ({name}_c, x) "

    text = constant("half", 0.5) + constant("one", 1.0)
    if node.attrs.get("approximate", "none") == "tanh":
        text += constant("a", math.sqrt(2 / math.pi)) + constant("b", math.sqrt(2 / math.pi) * 0.044715)
        text += "xx = Mul (x, x) bx = Mul (b, xx) sum = Add (a, bx) u = Mul (x, sum) f = Tanh (u) "
    else:
        text += constant("a", math.sqrt(0.5)) + "u = Mul (x, a) f = Erf (u) "
    text += "g = Add (one, f) h = Mul (half, x) y = Mul (h, g)"
    return onnx.parser.parse_function(f'<opset_import: ["": 18], domain: "{INTERNAL}"> Gelu (x) => (y) {{ {text} }}')


def _interleave(node: Node) -> FunctionProto:
    """pytensor_rt::Interleave spelled out (see the passes package)."""
    import onnx

    xs = ", ".join(f"x{k}" for k in range(len(node.inputs)))
    text = f"c = Concat <axis = 1> ({xs}) y = DepthToSpace <blocksize = {math.isqrt(len(node.inputs))}> (c)"
    return onnx.parser.parse_function(f'<opset_import: ["": 13], domain: "{INTERNAL}"> Interleave ({xs}) => (y) {{ {text} }}')


def _attention(node: Node) -> FunctionProto:
    """pytensor_rt::Attention spelled out (see the passes package)."""
    import onnx

    if node.op_type != "Attention":
        raise TypeError(f"{node.where} has no equivalent in ONNX")
    scale, mask = node.attrs.get("scale"), len(node.inputs) > 3
    lines = ["s = Einsum <equation = '...qd,...kd->...qk'> (q, k)".replace("'", '"')]
    if scale is None:
        lines += [
            "shape = Shape (q)", "last = Constant <value_ints = [-1]> ()", "d = Gather (shape, last)", "df = CastLike (d, q)", "root = Sqrt (df)",
            "t = Div (s, root)",
        ]  # fmt: skip
    else:
        lines += [f"c = Constant <value_float = {scale!r}> ()", "cl = CastLike (c, q)", "t = Mul (s, cl)"]
    lines += ["m = Add (t, mask)" if mask else "m = Identity (t)", "w = Softmax <axis = -1> (m)"]
    if node.attrs.get("nan_to_zero", 0):
        lines += ["nan = IsNaN (w)", "z = Constant <value_float = 0.0> ()", "zl = CastLike (z, q)", "p = Where (nan, zl, w)"]
    else:
        lines += ["p = Identity (w)"]
    lines += ["y = MatMul (p, v)"]
    text = f'<opset_import: ["": 18], domain: "{INTERNAL}"> Attention (q, k, v{", mask" if mask else ""}) => (y) {{ {" ".join(lines)} }}'
    return onnx.parser.parse_function(text)
