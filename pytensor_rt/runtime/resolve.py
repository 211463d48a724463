"""Which rule traces a node: a registered one, or a function body from the model or the ONNX specification."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..dtypes import code_of
from ..errors import UnsupportedError
from ..graph import Graph, Model, Node, ValueInfo, builtin_function
from ..lowering.tensor import Tensor
from ..lowering.tracer import Rule, Sequence, Tracer


class Resolver:
    """Finds rules for the nodes of one model and remembers them."""

    def __init__(self, model: Model) -> None:
        from ..ops import find

        self.model = model
        self.find = find
        self.rules: dict[tuple[str, str, int], Rule | None] = {}
        self.bodies: dict[tuple[Any, ...], tuple[Node, Graph]] = {}  # the node is kept so that its id stays its own

    def __call__(self, node: Any) -> Rule:
        key = (node.domain, node.op_type, node.opset)
        rule = self.rules.get(key)
        if rule is None:
            rule = self.lookup(node)
            if rule is None:
                raise UnsupportedError(f"{_line(node)}")
            self.rules[key] = rule
        return rule

    def lookup(self, node: Any) -> Rule | None:
        """Model functions take precedence over rules of the same name, as in ONNX."""
        if (node.domain, node.op_type) in self.model.functions:
            return self._model_function
        found = self.find(node.domain, node.op_type, node.opset)
        if found is not None:
            return found
        if node.domain in ("", "ai.onnx.ml", "ai.onnx.preview.training") and self._has_builtin(node):
            return self.by_definition
        return None

    def _has_builtin(self, node: Any) -> bool:
        import onnx

        try:
            schema = onnx.defs.get_schema(node.op_type, node.opset, node.domain)
        except onnx.defs.SchemaError:
            return False
        return bool(schema.has_function or schema.has_context_dependent_function)

    def _model_function(self, t: Tracer, *xs: Any, **attrs: Any) -> list[Any]:
        node = t.node
        return self._call(t, (id(node),), lambda: self.model.functions[(node.domain, node.op_type)].instantiate_for(node), xs)

    def by_definition(self, t: Tracer, *xs: Any, **attrs: Any) -> list[Any]:
        """Trace the current node as the function that the specification defines its operator by."""
        node = t.node
        types = [_value_info(n, x) for n, x in zip(node.inputs, xs)]
        key = (id(node), *((v.elem_type, v.shape) if v is not None else None for v in types))
        return self._call(t, key, lambda: builtin_function(node, node.opset, types), xs)

    def _call(self, t: Tracer, key: tuple[Any, ...], make: Callable[[], Graph | None], xs: tuple[Any, ...]) -> list[Any]:
        """Trace a function body, made once per key. Outputs that the node does not ask for need not be defined by the body."""
        node = t.node
        cached = self.bodies.get(key)
        used = [k for k, o in enumerate(node.outputs) if o]
        if cached is None:
            body = make()
            if body is None:
                raise UnsupportedError(_line(node))
            body.outputs = [body.outputs[k] for k in used]
            body.touch()
            cached = self.bodies[key] = (node, body)
        body = cached[1]
        values = t.run(body, {v.name: x for v, x in zip(body.inputs, xs) if x is not None}, nested=False)
        t.node = node
        outs: list[Any] = [None] * len(node.outputs)
        for k, v in zip(used, values):
            outs[k] = v
        return outs

    def check(self) -> None:
        """Raise UnsupportedError listing every node that nothing can trace."""
        missing: dict[str, list[str]] = {}
        for node in self._all_nodes():
            if self.lookup(node) is None:
                label = f"{node.domain + '.' if node.domain else ''}{node.op_type} (opset {node.opset})"
                missing.setdefault(label, []).append(repr(node.name or "/".join(node.outputs)))
        if missing:
            lines = [
                f"  {op}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}" for op, names in missing.items()
            ]
            raise UnsupportedError("the model uses operators that are not implemented:\n" + "\n".join(lines))

    def _all_nodes(self) -> Iterator[Any]:
        for g in self.model.graph.graphs():
            yield from g.nodes


def _value_info(name: str, x: Any) -> ValueInfo | None:
    if isinstance(x, Tensor):
        code = code_of(x.dtype)
        return ValueInfo(name, "tensor", code, tuple(int(n) for n in x.shape), "")
    if isinstance(x, Sequence):
        return ValueInfo(name, "sequence", code_of(x.dtype) if x.dtype is not None else 1, None, "")
    return None


def _line(node: Any) -> str:
    return f"[{node.domain + '.' if node.domain else ''}{node.op_type}] {node.name or '/'.join(node.outputs)!r}: not implemented for opset {node.opset}"
