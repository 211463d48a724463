"""Replace calls of the model's own functions by their bodies, so that every other rewrite sees one graph.

Nodes keep the opset version that their function imports (`Node.opset`). Origins name the call: `call/inner`.
"""

from __future__ import annotations

from ..errors import ModelError
from ..graph import Graph, Model, Node, verify
from ..graph.verify import rename

MAX_NODES = 200_000  # functions that call functions may grow exponentially


def run(model: Model) -> bool:
    """Inline everywhere and forget the functions; returns whether there was anything to inline. Raises ModelError if the result would be absurdly large."""
    if not model.functions:
        return False
    changed = _Inliner(model).graph(model.graph)
    model.functions = {}
    if changed:
        verify(model)  # names inside a body may shadow those around the call
    return changed


class _Inliner:
    def __init__(self, model: Model) -> None:
        self.functions = model.functions
        self.taken = {name for graph in model.graph.graphs() for name in graph.defined()}
        self.count = 0

    def graph(self, graph: Graph) -> bool:
        changed = False
        todo = list(reversed(graph.nodes))
        nodes: list[Node] = []
        while todo:
            node = todo.pop()
            function = self.functions.get((node.domain, node.op_type))
            if function is None:
                for sub in node.subgraphs:
                    changed = self.graph(sub) or changed
                nodes.append(node)
                continue
            changed = True
            body = function.instantiate_for(node)
            self.count += len(body.nodes)
            if self.count > MAX_NODES:
                raise ModelError(f"{node.where}: the model's functions expand to more than {MAX_NODES} nodes")
            todo += reversed(self.expand(node, body, graph))
        if changed:
            graph.nodes = nodes
            graph.touch()
        return changed

    def expand(self, call: Node, body: Graph, graph: Graph) -> list[Node]:
        """The body's nodes under the caller's names; its constants move to `graph`."""
        label = call.name or (call.outputs[0] if call.outputs else call.op_type)
        given = call.inputs + ("",) * (len(body.inputs) - len(call.inputs))
        names = {v.name: actual for v, actual in zip(body.inputs, given)}
        formal_inputs = set(names)
        copies: list[Node] = []
        for v, actual in zip(body.outputs, call.outputs):
            if not actual:
                continue
            if v.name in names:  # an input handed through, or one value under two names
                source = names[v.name]
                copies.append(Node("Identity", "", label, (source,), (actual,), {}, opset=13))
            else:
                names[v.name] = actual
        for inner in body.graphs():
            for name in inner.defined():
                if name not in formal_inputs and name not in names:
                    names[name] = self.fresh(f"{label}/{name}")
        body.inputs, body.outputs = [], []
        _rename_everywhere(body, names)
        graph.initializers.update(body.initializers)
        for node in body.nodes:
            inner_name = node.name or (node.outputs[0] if node.outputs else node.op_type)
            node.origins = (f"{label}/{inner_name}" if node.name else inner_name,)
            node.name = node.origins[0]
        return [*body.nodes, *copies]

    def fresh(self, name: str) -> str:
        unique, k = name, 0
        while unique in self.taken:
            k += 1
            unique = f"{name}.{k}"
        self.taken.add(unique)
        return unique


def _rename_everywhere(graph: Graph, names: dict[str, str]) -> None:
    """Rename in a graph and in all its subgraphs, definitions included."""
    for inner in graph.graphs():
        for node in inner.nodes:
            for sub in node.subgraphs:
                own = sub.defined()
                rename(sub, {k: v for k, v in names.items() if k in own})
    rename(graph, names)
