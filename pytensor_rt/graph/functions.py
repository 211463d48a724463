"""Functions: ops that are a graph of other ops, from the model itself or from the ONNX specification."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError
from .build import Builder, check_text, normal_domain
from .external import ExternalFiles
from .model import Graph, Initializer, Node, ValueInfo
from .tensors import TensorReader
from .wire import Message, read_message

if TYPE_CHECKING:
    from onnx import FunctionProto, NodeProto


class Function:
    """A function body, instantiated per call because attribute references take the call's values. `attributes` lists those without a default."""

    __slots__ = ("attributes", "defaults", "domain", "inputs", "name", "opsets", "outputs", "protos", "reader")

    def __init__(
        self,
        name: str,
        domain: str,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        attributes: tuple[str, ...],
        defaults: dict[str, Any],
        protos: Sequence[NodeProto | Message],
        opsets: dict[str, int],
        reader: TensorReader,
    ) -> None:
        self.name, self.domain, self.inputs, self.outputs, self.attributes = name, domain, inputs, outputs, attributes
        self.defaults, self.protos, self.opsets, self.reader = defaults, protos, opsets, reader

    def instantiate(self, attrs: Mapping[str, Any], absent: Iterable[str] = ()) -> Graph:
        """The body as a graph whose inputs and outputs are the function's, in order. Reads of the inputs in `absent` become "" (not given)."""
        args = {**self.defaults, **{k: v for k, v in attrs.items() if k in self.defaults or k in self.attributes}}
        initializers: dict[str, Initializer] = {}
        nodes = Builder(self.reader, self.opsets, 10, args).nodes(self.protos, initializers, self.name)
        gone = set(absent)
        if gone:
            for node in nodes:
                node.inputs = tuple(["" if n in gone else n for n in node.inputs])
        return Graph(nodes, initializers, [ValueInfo(n) for n in self.inputs], [ValueInfo(n) for n in self.outputs], self.name)

    def instantiate_for(self, node: Node) -> Graph:
        """The body for this call: its attributes, and its inputs where they are present."""
        if len(node.inputs) > len(self.inputs) or len(node.outputs) > len(self.outputs):
            raise ModelError(
                f"{node.where}: the function has {len(self.inputs)} inputs and {len(self.outputs)} outputs, "
                f"the call {len(node.inputs)} and {len(node.outputs)}"
            )
        given = node.inputs + ("",) * (len(self.inputs) - len(node.inputs))
        return self.instantiate(node.attrs, [f for f, n in zip(self.inputs, given) if not n])


def function(p: FunctionProto | Message, reader: TensorReader, opsets: Mapping[str, int] | None = None) -> Function:
    """A FunctionProto as a Function. `opsets` stand in for imports that the function lacks."""
    check_text("a function", p.name, p.domain, p.overload, *p.input, *p.output, *p.attribute, *[o.domain for o in p.opset_import])
    imports = dict(opsets or {})
    imports.update({normal_domain(o.domain): o.version for o in p.opset_import})
    builder = Builder(reader, imports, 10)
    owner = Node(p.name, p.domain, p.name, (), (), {})
    defaults = {a.name: builder.attribute(a, owner, 0) for a in p.attribute_proto}
    return Function(p.name, normal_domain(p.domain), tuple(p.input), tuple(p.output), tuple(p.attribute), defaults, p.node, imports, reader)


def builtin_function(node: Node, opset: int, input_types: Sequence[ValueInfo | None] = ()) -> Graph | None:
    """The function body that the ONNX specification gives for this op at this opset version, or None if it has none.

    Bodies that depend on the types of the inputs need `input_types` (None for an absent input). The nodes of the result carry the opset
    version that the body was written for.
    """
    import onnx

    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None
    reader = TensorReader(ExternalFiles(()), np.empty(0, np.uint8), None)
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= opset] or [schema.since_version]
        data: Any = schema.get_function_with_opset_version(versions[-1])
    elif schema.has_context_dependent_function:
        from .export import node_proto, type_proto

        versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset] or [schema.since_version]
        types = [type_proto(v).SerializeToString() for v in input_types]
        data = schema.get_context_dependent_function_with_opset_version(versions[-1], node_proto(node).SerializeToString(), types)
    else:
        return None
    if not data:
        return None
    if not isinstance(data, bytes):
        data = data.SerializeToString()
    body = function(read_message("FunctionProto", data, np.frombuffer(data, np.uint8)), reader, {"": opset})
    for name, attribute in schema.attributes.items():
        if name not in body.defaults and attribute.default_value.type:
            body.defaults[name] = Builder(reader, {"": opset}, 10).attribute(attribute.default_value, node, 0)
    return body.instantiate_for(node)
