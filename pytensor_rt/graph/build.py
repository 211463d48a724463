"""Protobuf messages to Graph, Node and Function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dtypes import type_name
from ..errors import ModelError
from .model import Graph, Initializer, Node, ValueInfo
from .numbers import Numbers
from .tensors import TensorReader
from .wire import Message

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, NodeProto, TypeProto, ValueInfoProto

MAX_DEPTH = 32  # nested graphs, and nested sequence/optional/map types

_FLOAT, _INT, _STRING, _TENSOR, _GRAPH, _FLOATS, _INTS, _STRINGS, _TENSORS, _GRAPHS, _SPARSE, _SPARSES, _TYPE, _TYPES = range(1, 15)
_CONSTANT_FORMS = {
    "value", "sparse_value", "value_int", "value_ints", "value_float", "value_floats", "value_string", "value_strings",
}  # fmt: skip


def normal_domain(domain: str) -> str:
    """`ai.onnx` is the long spelling of the default domain ""."""
    return "" if domain == "ai.onnx" else domain


def check_text(where: str, *names: str) -> None:
    """Protobuf hands out bytes where a string is not UTF-8. Raises ModelError."""
    try:
        "".join(names)
    except TypeError:
        raise ModelError(f"{where}: a name is not UTF-8 text") from None


class Builder:
    """Builds graphs of one opset context (a model or a function). `args` are the values for attribute references inside a function."""

    __slots__ = ("args", "ir_version", "opsets", "reader")

    def __init__(self, reader: TensorReader, opsets: Mapping[str, int], ir_version: int, args: Mapping[str, Any] | None = None) -> None:
        self.reader, self.opsets, self.ir_version, self.args = reader, opsets, ir_version, args

    def graph(self, g: GraphProto | Message, depth: int = 0) -> Graph:
        if depth > MAX_DEPTH:
            raise ModelError(f"graph '{g.name}': graphs nested more than {MAX_DEPTH} deep")
        check_text("a graph", g.name)
        initializers: dict[str, Initializer] = {}
        for t in g.initializer:
            _define(initializers, t.name, self.reader.read(t), g.name)
        for s in g.sparse_initializer:
            name, value = self.reader.read_sparse(s)
            _define(initializers, name, value, g.name)
        inputs = [value_info(v) for v in g.input]
        if self.ir_version < 4:  # before IR 4 every initializer had to be listed as an input; onnxruntime lets nobody feed them either
            inputs = [v for v in inputs if v.name not in initializers]
        nodes = self.nodes(g.node, initializers, g.name, depth)
        infos = {v.name: value_info(v) for v in g.value_info}
        return Graph(nodes, initializers, inputs, [value_info(v) for v in g.output], g.name, infos)

    def nodes(self, protos: Iterable[NodeProto | Message], initializers: dict[str, Initializer], where: str, depth: int = 0) -> list[Node]:
        """Decode nodes; Constant nodes go to `initializers` instead."""
        nodes: list[Node] = []
        for p in protos:
            node = self.node(p, depth)
            if node.op_type == "Constant" and node.domain == "":
                if len(node.outputs) != 1 or not node.outputs[0]:
                    raise ModelError(f"{node.where}: expected one output, got {list(node.outputs)}")
                _define(initializers, node.outputs[0], constant_value(node), where)
            else:
                node.index = len(nodes)
                nodes.append(node)
        return nodes

    def node(self, p: NodeProto | Message, depth: int = 0) -> Node:
        domain = p.domain
        if domain == "ai.onnx":
            domain = ""
        op_type = f"{p.op_type}:{p.overload}" if p.overload else p.op_type
        attrs: dict[str, Any] = {}
        subgraphs: tuple[Graph, ...] = ()
        node = Node(op_type, domain, p.name, tuple(p.input), tuple(p.output), attrs, -1, self.opsets.get(domain, 0))
        check_text(f"node {p.name!r}", op_type, domain, node.name, *node.inputs, *node.outputs)
        for a in p.attribute:
            name = a.name
            check_text(node.where, name, a.ref_attr_name)
            if name in attrs:
                raise ModelError(f"{node.where}: attribute '{name}' is given twice")
            if a.ref_attr_name:
                if self.args is None:
                    raise ModelError(f"{node.where}: attribute '{name}' refers to '{a.ref_attr_name}' outside a function")
                if a.ref_attr_name in self.args:  # otherwise the attribute is absent
                    attrs[name] = self.args[a.ref_attr_name]
            else:
                attrs[name] = self.attribute(a, node, depth)
            value = attrs.get(name)
            if isinstance(value, Graph):
                subgraphs += (value,)
            elif isinstance(value, tuple) and value and isinstance(value[0], Graph):
                subgraphs += value
        node.subgraphs = subgraphs
        return node

    def attribute(self, a: AttributeProto | Message, node: Node, depth: int) -> Any:
        kind = a.type or _guess_type(a)
        if kind == _INT:
            return a.i
        if kind == _INTS:
            return a.ints if isinstance(a.ints, Numbers) else tuple(a.ints)
        if kind == _FLOAT:
            return a.f
        if kind == _FLOATS:
            return a.floats if isinstance(a.floats, Numbers) else tuple(a.floats)
        if kind == _STRING:
            return _text(a.s)
        if kind == _STRINGS:
            texts = {s: _text(s) for s in set(a.strings)}
            return tuple([texts[s] for s in a.strings])
        if kind == _TENSOR:
            value = self.reader.read(a.t)
            # A Constant's weight stays in its Initializer, which may copy it later
            return value if node.op_type == "Constant" else value.array
        if kind == _TENSORS:
            return tuple([self.reader.read(t).array for t in a.tensors])
        if kind == _GRAPH:
            return self.graph(a.g, depth + 1)
        if kind == _GRAPHS:
            return tuple([self.graph(g, depth + 1) for g in a.graphs])
        if kind == _SPARSE:
            return self.reader.read_sparse(a.sparse_tensor)[1].array
        if kind == _SPARSES:
            return tuple([self.reader.read_sparse(s)[1].array for s in a.sparse_tensors])
        if kind == _TYPE:
            return a.tp
        if kind == _TYPES:
            return tuple(a.type_protos)
        raise ModelError(f"{node.where}: attribute '{a.name}' has the unknown type {kind}")


def _define(initializers: dict[str, Initializer], name: str, value: Initializer, graph: str) -> None:
    if not name:
        raise ModelError(f"graph '{graph}': an initializer has no name")
    check_text(f"graph '{graph}'", name)
    if name in initializers:
        raise ModelError(f"graph '{graph}': '{name}' is defined twice")
    initializers[name] = value


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _guess_type(a: AttributeProto | Message) -> int:
    """IR version 1 files leave `type` unset: take the field that is there."""
    for field, kind in (("f", _FLOAT), ("i", _INT), ("s", _STRING), ("t", _TENSOR), ("g", _GRAPH)):
        if a.HasField(field):
            return kind
    for values, kind in ((a.floats, _FLOATS), (a.ints, _INTS), (a.strings, _STRINGS), (a.tensors, _TENSORS), (a.graphs, _GRAPHS)):
        if len(values):
            return kind
    return 0


def constant_value(node: Node) -> Initializer:
    """The value of a Constant node (ONNX Constant, opset 1 to 25: exactly one attribute)."""
    forms = [k for k in node.attrs if k in _CONSTANT_FORMS]
    if len(forms) != 1:
        raise ModelError(f"{node.where}: expected one value attribute, got {forms}")
    form = forms[0]
    value = node.attrs[form]
    if isinstance(value, Initializer):
        return value
    try:
        if form in ("value", "sparse_value"):
            if isinstance(value, np.ndarray):
                return Initializer(value)
        elif form in ("value_int", "value_ints"):
            return Initializer(np.array(value, np.int64))
        elif form in ("value_float", "value_floats"):
            return Initializer(np.array(value, np.float32))
        elif form == "value_string":
            text = np.empty((), object)
            text[()] = value
            return Initializer(text)
        else:
            texts = np.empty(len(value), object)
            texts[:] = value
            return Initializer(texts)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ModelError(f"{node.where}: attribute '{form}' is not of the type that its name says")


def value_info(v: ValueInfoProto | Message) -> ValueInfo:
    check_text("a value", v.name)
    if not v.HasField("type"):
        return ValueInfo(v.name)
    kind, elem_type, shape, text = _type(v.type, v.name, 0)
    return ValueInfo(v.name, kind, elem_type, shape, text)


def _type(t: TypeProto | Message, name: str, depth: int) -> tuple[str | None, int | None, tuple[int | str | None, ...] | None, str]:
    """(kind, elem_type, shape, type string); elem_type and shape are those of the innermost tensor."""
    if depth > MAX_DEPTH:
        raise ModelError(f"value '{name}': its type is nested more than {MAX_DEPTH} deep")
    which = t.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        tensor = t.tensor_type if which == "tensor_type" else t.sparse_tensor_type
        shape: tuple[int | str | None, ...] | None = None
        if tensor.HasField("shape"):
            shape = tuple([_dim(d, name) for d in tensor.shape.dim])
        kind = "tensor" if which == "tensor_type" else "sparse_tensor"
        return kind, tensor.elem_type, shape, f"{kind}({type_name(tensor.elem_type)})"
    if which == "sequence_type":
        _, elem, shape, text = _type(t.sequence_type.elem_type, name, depth + 1)
        return "sequence", elem, shape, f"seq({text})"
    if which == "optional_type":
        _, elem, shape, text = _type(t.optional_type.elem_type, name, depth + 1)
        return "optional", elem, shape, f"optional({text})"
    if which == "map_type":
        _, elem, shape, text = _type(t.map_type.value_type, name, depth + 1)
        return "map", elem, shape, f"map({type_name(t.map_type.key_type)},{text})"
    return None, None, None, ""


def _dim(d: Any, name: str) -> int | str | None:
    which = d.WhichOneof("value")
    if which == "dim_value":
        n: int = d.dim_value
        if n < 0:
            return None  # some exporters write -1 for an unknown dimension
        return n
    if which == "dim_param":
        check_text(f"value '{name}'", d.dim_param)
        return d.dim_param or None
    return None
