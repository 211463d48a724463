"""The shared index that rewrites use: who produces and who reads each value of one graph, kept up to date while nodes come and go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..dtypes import code_of, is_float
from ..graph import Graph, Initializer, Model, Node
from ..graph.model import INTERNAL as INTERNAL
from ..graph.model import Array
from ..graph.verify import rename

MICROSOFT = "com.microsoft"
# First outputs that have the element type of every one of the inputs, or of the first where the others are indices and shapes
_SAME_TYPE = {
    "Add", "Sub", "Mul", "Div", "Neg", "Sqrt", "Erf", "Tanh", "Sigmoid", "Relu", "Reciprocal", "MatMul", "Gemm", "Conv", "Softmax",
    "LayerNormalization", "RMSNormalization", "Gelu", "HardSwish", "Concat", "ReduceMean", "BatchNormalization", "Identity",
}  # fmt: skip
_SAME_RANK = {
    "Relu", "Softmax", "Erf", "Sqrt", "Tanh", "Sigmoid", "Gelu", "HardSwish", "LayerNormalization", "RMSNormalization", "BatchNormalization",
    "Identity", "Cast", "Slice", "Split", "Clip", "Conv", "ConvTranspose", "Concat", "Dropout", "GroupNormalization", "InstanceNormalization",
    "LeakyRelu", "Elu", "Mish", "Swish", "PRelu", "Pad", "Resize", "MaxPool", "AveragePool", "GlobalAveragePool", "LRN",
}  # fmt: skip
_SAME_TYPE_FIRST = {
    "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Slice", "Gather", "Expand", "Pow", "Flatten", "Dropout", "MaxPool", "Tile", "DepthToSpace",
    "SpaceToDepth", "Interleave",
}  # fmt: skip


class Rewriter:
    """One graph under rewriting. `parent` is the rewriter of the enclosing graph; names are unique across scopes (see graph.model).

    Removed nodes keep their place in `graph.nodes` until `flush`, so that a replacement can be put where its root was: everything that the
    replaced nodes read is defined before it.
    """

    def __init__(self, graph: Graph, model: Model, parent: Rewriter | None = None) -> None:
        self.graph, self.model, self.parent = graph, model, parent
        self.outputs = {v.name for v in graph.outputs}
        self.overridable = graph.overridable
        self.producers: dict[str, Node] = {}
        self.readers: dict[str, list[Node]] = {}
        self._by_type: dict[str, list[Node]] = {}
        self._gone: set[int] = set()
        self._before: dict[int, list[Node]] = {}
        self._dropped: list[Node] = []  # keeps removed nodes alive, so that ids stay unique
        values = [v for v in (*graph.inputs, *graph.value_infos.values()) if v.kind == "tensor"]
        self._ranks: dict[str, int | None] = {v.name: len(v.shape) for v in values if v.shape is not None}
        # Not from value_infos: half-precision converters leave stale ones behind, and a Cast is dropped on this word
        self._types: dict[str, int | None] = {v.name: v.elem_type for v in graph.inputs if v.kind == "tensor" and v.elem_type}
        self._taken: set[str] | None = None
        for node in graph.nodes:
            self._register(node)

    # ---- looking

    def nodes(self, *op_types: str) -> list[Node]:
        """The present nodes of these ai.onnx ops."""
        gone = self._gone
        return [n for t in op_types for n in self._by_type.get(t, ()) if id(n) not in gone]

    def producer(self, name: str, *op_types: str) -> Node | None:
        """The ai.onnx node that makes this value, if it is of one of these ops (any, if none is given)."""
        node = self.producers.get(name)
        if node is None or node.domain or (op_types and node.op_type not in op_types):
            return None
        return node

    def reader(self, name: str, *op_types: str) -> Node | None:
        """The only node that reads this value, if it is the only one, of these ops, and the value is no graph output."""
        readers = self.readers.get(name, ())
        if len(readers) != 1 or name in self.outputs:
            return None
        node = readers[0]
        return node if not node.domain and node.op_type in op_types else None

    def constant(self, name: str) -> Initializer | None:
        """The value of a constant of this or an enclosing graph that nobody can override."""
        scope: Rewriter | None = self
        while scope is not None:
            found = scope.graph.initializers.get(name)
            if found is not None:
                return None if name in scope.overridable else found
            scope = scope.parent
        return None

    def array(self, name: str) -> Array | None:
        found = self.constant(name)
        return None if found is None else found.array

    def scalar(self, name: str) -> float | None:
        """The value of a constant with one element (rank 0 or 1), as a float."""
        found = self.constant(name)
        if found is None or len(found.shape) > 1 or found.nbytes > 16 or found.dtype.kind in "OcbSU":
            return None
        array = found.array
        return float(array.reshape(-1)[0]) if array.size == 1 else None

    def integers(self, name: str) -> tuple[int, ...] | None:
        """A constant of integers, flattened."""
        found = self.constant(name)
        return tuple(found.array.reshape(-1).tolist()) if found is not None and found.dtype.kind in "iu" and found.nbytes <= 512 else None

    def scaled(self, node: Node) -> tuple[str, float] | None:
        """(x, c) if the node is Mul(x, c), Mul(c, x) or Div(x, 1/c) with a constant scalar c."""
        if node.op_type == "Mul":
            for x, c in (node.inputs, node.inputs[::-1]):
                value = self.scalar(c)
                if value is not None:
                    return x, value
        elif node.op_type == "Div":
            value = self.scalar(node.inputs[1])
            if value:
                return node.inputs[0], 1 / value
        return None

    def rank(self, name: str, depth: int = 0) -> int | None:
        """The number of axes of a value, where the model says so or its producers make it plain."""
        if name in self._ranks or depth > 32:
            return self._ranks.get(name)
        found = self._ranks[name] = self._find_rank(name, depth + 1)
        return found

    def _find_rank(self, name: str, depth: int) -> int | None:
        constant = self.constant(name)
        if constant is not None:
            return len(constant.shape)
        node = self.producer(name)
        if node is None:
            return None
        op = node.op_type
        if op == "Transpose" and "perm" in node.attrs:
            return len(node.attrs["perm"])
        if op == "Reshape" and len(node.inputs) == 2:
            shape = self.constant(node.inputs[1])
            if shape is not None:
                return shape.shape[0] if len(shape.shape) == 1 else None
            parts = self.producer(node.inputs[1], "Concat")
            if parts is not None and all(self._one_element(p, depth) for p in parts.inputs):
                return len(parts.inputs)
        if op in ("Conv", "ConvTranspose"):
            weights = self.constant(node.inputs[1])
            if weights is not None:
                return len(weights.shape)
        first = self.rank(node.inputs[0], depth) if node.inputs and node.inputs[0] else None
        if op in _SAME_RANK or (op == "ReduceMean" and node.attrs.get("keepdims", 1)):
            return first
        if op == "Shape":
            return 1
        if op in ("Squeeze", "Unsqueeze") and first is not None:
            axes = node.attrs.get("axes") or (self.integers(node.inputs[1]) if len(node.inputs) > 1 else None)
            return None if not axes else first + len(axes) * (1 if op == "Unsqueeze" else -1)
        if op in ("Mul", "Div", "Add", "Sub", "Pow", "MatMul", "Gather", "Where"):
            ranks = [self.rank(n, depth) for n in node.inputs]
            if any(r is None for r in ranks):
                return None
            if op == "Gather":
                return (ranks[0] or 0) + (ranks[1] or 0) - 1
            found = max(r or 0 for r in ranks)
            return found if op != "MatMul" or min(r or 0 for r in ranks) >= 2 else None
        return None

    def elem_type(self, name: str, depth: int = 0) -> int | None:
        """The ONNX element type of a value, where its producers make it plain."""
        if name in self._types or depth > 32:
            return self._types.get(name)
        constant = self.constant(name)
        if constant is not None:
            return code_of(constant.dtype)
        node = self.producers.get(name)
        if node is None or (node.domain not in ("", INTERNAL) and (node.domain, node.op_type) != (MICROSOFT, "QGemm")):
            return None
        found: int | None = None
        if node.op_type == "Cast":
            found = node.attrs.get("to")
        elif node.op_type in ("Shape", "Size", "NonZero"):
            found = 7
        elif node.op_type == "QuantizeLinear":
            zero = node.inputs[2] if len(node.inputs) > 2 else ""
            found = node.attrs.get("output_dtype") or (self.elem_type(zero, depth + 1) if zero else 2)
        elif node.op_type in ("QLinearConv", "QLinearMatMul"):
            found = self.elem_type(node.inputs[7], depth + 1)
        elif node.op_type == "QGemm":
            found = self.elem_type(node.inputs[8], depth + 1) if len(node.inputs) > 8 else 1
        elif node.op_type in _SAME_TYPE and node.outputs[0] == name:
            found = next((t for n in node.inputs if n and (t := self.elem_type(n, depth + 1)) is not None), None)
        elif node.op_type in _SAME_TYPE_FIRST and node.outputs[0] == name:
            found = self.elem_type(node.inputs[0], depth + 1)
        self._types[name] = found
        return found

    def _one_element(self, name: str, depth: int) -> bool:
        constant = self.constant(name)
        if constant is not None:
            return constant.shape == (1,)
        node = self.producer(name, "Unsqueeze")
        return node is not None and self.rank(node.inputs[0], depth) in (0, None)

    def closed(self, nodes: Iterable[Node], root: Node) -> bool:
        """May these nodes be replaced by one that makes only the root's outputs? True if nobody else reads what the others make."""
        members = {id(n) for n in nodes}
        for node in nodes:
            if node is root:
                continue
            for out in node.outputs:
                if out and (out in self.outputs or any(id(r) not in members for r in self.readers.get(out, ()))):
                    return False
        return True

    # ---- changing

    def replace(self, nodes: Iterable[Node], root: Node, new: Node) -> Node:
        """Put `new` in the place of `root` and remove `nodes` (root among them). `new` is named after the root and remembers all names."""
        members = list({id(n): n for n in nodes}.values())
        order = {id(n): i for i, n in enumerate(members)}
        members.sort(key=lambda n: (n is root, n.index, order[id(n)]))
        new.name = new.name or root.name or (root.outputs[0] if root.outputs else "")
        new.origins = tuple(dict.fromkeys(o for n in members for o in (n.origins or (n.name or n.outputs[0],))))
        for node in members:
            self.remove(node)
        return self.add(new, root)

    def add(self, new: Node, at: Node) -> Node:
        """Insert a node right before the place of `at`."""
        new.index = at.index
        self._before.setdefault(id(at), []).append(new)
        self._register(new)
        return new

    def remove(self, node: Node) -> None:
        for name in set(node.reads()):
            self.readers[name].remove(node)
        for out in node.outputs:
            if self.producers.get(out) is node:
                del self.producers[out]
        self._gone.add(id(node))
        self._dropped.append(node)

    def set_inputs(self, node: Node, inputs: tuple[str, ...]) -> None:
        for name in set(node.reads()):
            self.readers[name].remove(node)
        node.inputs = inputs
        for name in set(node.reads()):
            self.readers.setdefault(name, []).append(node)

    def rewire(self, old: str, new: str) -> None:
        """Let every reader of `old`, in nested graphs too, read `new`, which must be defined before all of them. `old` must be no output."""
        for node in self.readers.pop(old, ()):
            node.inputs = tuple([new if n == old else n for n in node.inputs])
            for sub in node.subgraphs:
                if old in sub.free_names:
                    rename(sub, {old: new})
            if node not in self.readers.setdefault(new, []):
                self.readers[new].append(node)

    def set_output(self, node: Node, old: str, new: str) -> None:
        """Let `node` call its output `old` `new` instead. Nobody may read `old` any more."""
        node.outputs = tuple([new if n == old else n for n in node.outputs])
        self.producers.pop(old, None)
        self.producers[new] = node
        if old in self._ranks:
            self._ranks[new] = self._ranks[old]

    def add_constant(self, array: Array, hint: str) -> str:
        """A new initializer with a name no graph of the model has."""
        name = self.fresh(hint)
        self.graph.initializers[name] = Initializer(array)
        return name

    def fresh(self, hint: str) -> str:
        """A name that nothing in the model has, in any scope."""
        if self.parent is not None:
            return self.parent.fresh(hint)
        if self._taken is None:
            self._taken = {name for graph in self.model.graph.graphs() for name in (*graph.defined(), *graph.free_names)}
        k = 0
        while f"{hint}~{k}" in self._taken:
            k += 1
        self._taken.add(f"{hint}~{k}")
        return f"{hint}~{k}"

    def flush(self) -> None:
        """Make `graph.nodes` what it has become."""
        if not self._gone and not self._before:
            return
        nodes: list[Node] = []

        def emit(node: Node) -> None:
            for new in self._before.get(id(node), ()):
                emit(new)
            if id(node) not in self._gone:
                nodes.append(node)

        for node in self.graph.nodes:
            emit(node)
        self.graph.nodes = nodes
        self.graph._free = self.graph._last_use = None
        self._gone.clear()
        self._before.clear()
        self._dropped.clear()
        self._by_type.clear()
        for i, node in enumerate(nodes):
            node.index = i
            if not node.domain:
                self._by_type.setdefault(node.op_type, []).append(node)

    def _register(self, node: Node) -> None:
        for out in node.outputs:
            if out:
                self.producers[out] = node
        readers = self.readers
        for name in node.inputs if len(node.inputs) == 1 and not node.subgraphs else set(node.reads()):
            if name:
                found = readers.get(name)
                if found is None:
                    readers[name] = [node]
                else:
                    found.append(node)
        if not node.domain:
            found = self._by_type.get(node.op_type)
            if found is None:
                self._by_type[node.op_type] = [node]
            else:
                found.append(node)


def new_node(op_type: str, inputs: Iterable[str], outputs: Iterable[str], opset: int, domain: str = "", **attrs: Any) -> Node:
    inputs = tuple(inputs)
    while inputs and not inputs[-1]:
        inputs = inputs[:-1]
    return Node(op_type, domain, "", inputs, tuple(outputs), attrs, opset=opset)


def float_constant(rw: Rewriter, name: str) -> Array | None:
    """A constant of a floating type."""
    found = rw.constant(name)
    return found.array if found is not None and is_float(found.dtype) else None


def near(value: float | None, want: float, tolerance: float = 1e-3) -> bool:
    """Do two coefficients mean the same? The tolerance lets half-precision constants through."""
    return value is not None and bool(np.isclose(value, want, rtol=tolerance, atol=0))
