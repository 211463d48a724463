"""Check a model's structure: every name defined once and before its use, imports present, functions not recursive."""

from __future__ import annotations

from ..errors import ModelError
from .model import Graph, Model, Node

NEWEST_IR_VERSION = 99  # later versions only add fields; a number beyond this is no IR version


def verify(model: Model) -> None:
    """Raise ModelError naming node and value if the model is inconsistent.

    Makes two repairs: nodes listed out of order are sorted, and names in a subgraph that shadow an outer one are made different.
    """
    version = model.metadata.ir_version
    if not 1 <= version <= NEWEST_IR_VERSION:
        raise ModelError(f"ir_version {version} is not an ONNX version: not an ONNX model, or damaged")
    for domain, opset in model.opsets.items():
        if opset < 1:
            raise ModelError(f"opset version {opset} of domain '{domain or 'ai.onnx'}' is not valid")
    local = {domain for domain, _ in model.functions}
    _check_graph(model.graph, {}, {*model.opsets, *local})
    free = model.graph.free_names
    if free:
        raise ModelError(_undefined(model.graph, free[0]))
    for key, function in model.functions.items():
        for domain, opset in function.opsets.items():
            if opset < 1:
                raise ModelError(f"function '{key[1]}': opset version {opset} of domain '{domain}' is not valid")
        body = function.instantiate({})
        _check_graph(body, {}, {*function.opsets, *local})
        if body.free_names:
            raise ModelError(f"function '{key[1]}': {_undefined(body, body.free_names[0])}")
    _check_calls(model)


def _undefined(graph: Graph, name: str) -> str:
    for node in graph.nodes:
        if name in node.reads():
            return f"{node.where} reads '{name}', which nothing defines"
    return f"graph '{graph.name}' outputs '{name}', which nothing defines"


def _check_graph(graph: Graph, outer: dict[str, None], domains: set[str]) -> None:
    """`outer` holds every name visible from the enclosing graphs."""
    seen: dict[str, str] = {}
    for v in graph.inputs:
        if not v.name or v.name in seen:
            raise ModelError(f"graph '{graph.name}': input '{v.name}' has no name or is listed twice")
        seen[v.name] = "an input"
    for name in graph.initializers:
        seen[name] = "an initializer"
    sorted_already = True
    for node in graph.nodes:
        if node.domain not in domains:
            raise ModelError(f"{node.where}: the model imports no opset for domain '{node.domain or 'ai.onnx'}'")
        for out in node.outputs:
            if out:
                if out in seen:
                    raise ModelError(f"{node.where} defines '{out}', which is already {seen[out]}")
                seen[out] = f"an output of {node.where}" if len(seen) < 64 else "the output of another node"
    if outer:
        clashes = [name for name in seen if name in outer]
        if clashes:
            taken = {**outer, **dict.fromkeys(seen)}
            fresh: dict[str, str] = {}
            for name in clashes:
                fresh[name] = _fresh(name, taken)
                taken[fresh[name]] = None
                seen[fresh[name]] = seen.pop(name)
            rename(graph, fresh)
    visible = {**outer, **dict.fromkeys(seen)} if any(node.subgraphs for node in graph.nodes) else outer
    for node in graph.nodes:
        for sub in node.subgraphs:
            _check_graph(sub, visible, domains)
    for name in graph.free_names:
        if outer and name not in outer:
            raise ModelError(_undefined(graph, name))
    ready = set(graph.initializers)
    ready.update(v.name for v in graph.inputs)
    for node in graph.nodes:
        for name in node.reads():
            if name not in ready and name in seen:
                sorted_already = False
        ready.update(node.outputs)
    if not sorted_already:
        _sort(graph)


def _fresh(name: str, taken: dict[str, None]) -> str:
    k = 1
    while f"{name}.{k}" in taken:
        k += 1
    return f"{name}.{k}"


def rename(graph: Graph, names: dict[str, str]) -> None:
    """Rename values in a graph and, where they are free, in its subgraphs."""
    get = names.get
    graph.initializers = {get(k, k): v for k, v in graph.initializers.items()}
    graph.value_infos = {get(k, k): v for k, v in graph.value_infos.items()}
    for v in (*graph.inputs, *graph.outputs):
        v.name = get(v.name, v.name)
    for node in graph.nodes:
        node.inputs = tuple([get(n, n) for n in node.inputs])
        node.outputs = tuple([get(n, n) for n in node.outputs])
        for sub in node.subgraphs:
            own = sub.defined()
            inner = {k: v for k, v in names.items() if k not in own}
            if inner:
                rename(sub, inner)
    graph.touch()


def _sort(graph: Graph) -> None:
    """Topological order, keeping the given order where it can be kept."""
    from heapq import heapify, heappop, heappush

    producer = {name: i for i, node in enumerate(graph.nodes) for name in node.outputs if name}
    waits = [0] * len(graph.nodes)
    readers: list[list[int]] = [[] for _ in graph.nodes]
    for i, node in enumerate(graph.nodes):
        for p in {producer[name] for name in node.reads() if name in producer}:
            waits[i] += 1
            readers[p].append(i)
    ready = [i for i, n in enumerate(waits) if n == 0]
    heapify(ready)
    order: list[Node] = []
    while ready:
        i = heappop(ready)
        order.append(graph.nodes[i])
        for r in readers[i]:
            waits[r] -= 1
            if waits[r] == 0:
                heappush(ready, r)
    if len(order) != len(graph.nodes):
        stuck = next(graph.nodes[i] for i, n in enumerate(waits) if n)
        raise ModelError(f"{stuck.where} depends on its own output: the graph has a cycle")
    graph.nodes = order
    graph.touch()


def _check_calls(model: Model) -> None:
    """Functions of the model may not call themselves, directly or through others."""
    calls: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for key, function in model.functions.items():
        body = function.instantiate({})
        used = {(node.domain, node.op_type) for graph in body.graphs() for node in graph.nodes}
        calls[key] = {k for k in used if k in model.functions}
    done: set[tuple[str, str]] = set()
    for root in calls:
        path: list[tuple[str, str]] = [root]
        todo = [iter(calls[root])]
        while path:
            child = next(todo[-1], None)
            if child is None:
                done.add(path.pop())
                todo.pop()
            elif child in path:
                raise ModelError(f"function '{child[0]}::{child[1]}' calls itself")
            elif child not in done:
                path.append(child)
                todo.append(iter(calls[child]))
