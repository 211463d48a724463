"""Recognise activations spelled out in elementary ops: Gelu (20), exact and tanh form, and HardSwish (14).

x * sigmoid(x) stays as it is: fusion makes one kernel of it anyway.
"""

from __future__ import annotations

import math

from ..graph import Node
from .rewriter import Rewriter, near, new_node

Polynomial = dict[int, float]  # degree -> coefficient

_EXACT: Polynomial = {1: math.sqrt(0.5)}
_TANH: Polynomial = {1: math.sqrt(2 / math.pi), 3: math.sqrt(2 / math.pi) * 0.044715}


def run(rw: Rewriter) -> bool:
    changed = False
    for node in rw.nodes("Erf"):
        changed = _gelu(rw, node, _EXACT, "none") or changed
    for node in rw.nodes("Tanh"):
        changed = _gelu(rw, node, _TANH, "tanh") or changed
    for node in rw.nodes("Clip"):
        changed = _hard_swish(rw, node) or changed
    for node in rw.nodes("HardSigmoid"):
        changed = _hard_sigmoid_times_x(rw, node) or changed
    return changed


def _gelu(rw: Rewriter, inner: Node, argument: Polynomial, approximate: str) -> bool:
    """0.5 * x * (1 + f(p(x))), factors in any order."""
    plus = rw.reader(inner.outputs[0], "Add")
    if plus is None or not any(rw.scalar(n) == 1 for n in plus.inputs):
        return False
    nodes = [inner, plus]
    root, coefficient, x = plus, 1.0, ""
    while not (x and near(coefficient, 0.5)):
        reader = rw.reader(root.outputs[0], "Mul", "Div")
        if reader is None:
            return False
        scaled = rw.scaled(reader)
        if scaled is not None and scaled[0] == root.outputs[0]:
            coefficient *= scaled[1]
        elif reader.op_type == "Mul" and not x:
            other = reader.inputs[1] if reader.inputs[0] == root.outputs[0] else reader.inputs[0]
            x, factor, more = _base(rw, other, inner.inputs[0], argument)
            if not x:
                return False
            coefficient *= factor
            nodes += more
        else:
            return False
        root = reader
        nodes.append(root)
    used: list[Node] = []
    if not _is(_polynomial(rw, inner.inputs[0], x, used, 0), argument):
        return False
    nodes += used
    if not rw.closed(nodes, root):
        return False
    attrs = {} if approximate == "none" else {"approximate": approximate}
    rw.replace(nodes, root, new_node("Gelu", (x,), root.outputs, 20, **attrs))
    return True


def _base(rw: Rewriter, name: str, argument_name: str, argument: Polynomial) -> tuple[str, float, list[Node]]:
    """(x, c, nodes) such that `name` is c * x and the argument is the wanted polynomial of x; x is "" if there is none."""
    factor = 1.0
    nodes: list[Node] = []
    while True:
        if _is(_polynomial(rw, argument_name, name, [], 0), argument):
            return name, factor, nodes
        node = rw.producer(name, "Mul", "Div")
        scaled = rw.scaled(node) if node is not None else None
        if node is None or scaled is None or len(nodes) > 2:
            return "", 1.0, []
        nodes.append(node)
        name, factor = scaled[0], factor * scaled[1]


def _is(got: Polynomial | None, want: Polynomial) -> bool:
    return got is not None and got.keys() == want.keys() and all(near(got[d], c) for d, c in want.items())


def _polynomial(rw: Rewriter, name: str, x: str, used: list[Node], depth: int) -> Polynomial | None:
    """`name` as a polynomial of x up to degree 3, or None. Collects the nodes it is made of."""
    if name == x:
        return {1: 1.0}
    value = rw.scalar(name)
    if value is not None:
        return {0: value}
    node = rw.producer(name, "Mul", "Add", "Pow", "Div")
    if node is None or depth > 8 or len(node.inputs) != 2:
        return None
    a = _polynomial(rw, node.inputs[0], x, used, depth + 1)
    b = a if node.inputs[1] == node.inputs[0] else _polynomial(rw, node.inputs[1], x, used, depth + 1)
    if a is None or b is None:
        return None
    used.append(node)
    if node.op_type == "Add":
        return {d: a.get(d, 0.0) + b.get(d, 0.0) for d in {**a, **b}}
    if node.op_type == "Mul":
        return _times(a, b)
    if b.keys() != {0}:
        return None
    if node.op_type == "Div":
        return {d: c / b[0] for d, c in a.items()} if b[0] else None
    return a if b[0] == 1 else _times(a, a) if b[0] == 2 else _times(_times(a, a), a) if b[0] == 3 else None


def _times(a: Polynomial, b: Polynomial) -> Polynomial:
    out: Polynomial = {}
    for d, c in a.items():
        for e, f in b.items():
            out[d + e] = out.get(d + e, 0.0) + c * f
    return out


def _hard_swish(rw: Rewriter, clip: Node) -> bool:
    """x * clip(x + 3, 0, 6) / 6, or with the division before the product."""
    low, high = clip.attrs.get("min"), clip.attrs.get("max")
    if len(clip.inputs) == 3:
        low, high = rw.scalar(clip.inputs[1]), rw.scalar(clip.inputs[2])
    add = rw.producer(clip.inputs[0], "Add")
    if add is None or low != 0 or high != 6:
        return False
    x = next((a for a, b in (add.inputs, add.inputs[::-1]) if rw.scalar(b) == 3), "")
    if not x:
        return False
    nodes, root, sixth, product = [add, clip], clip, 1.0, False
    while not (product and near(sixth, 1 / 6)):
        reader = rw.reader(root.outputs[0], "Mul", "Div")
        if reader is None:
            return False
        scaled = rw.scaled(reader)
        if scaled is not None and scaled[0] == root.outputs[0]:
            sixth *= scaled[1]
        elif reader.op_type == "Mul" and x in reader.inputs and not product:
            product = True
        else:
            return False
        root = reader
        nodes.append(root)
    return _replace(rw, nodes, root, x)


def _hard_sigmoid_times_x(rw: Rewriter, node: Node) -> bool:
    """x * HardSigmoid(x, 1/6, 1/2)."""
    x = node.inputs[0]
    root = rw.reader(node.outputs[0], "Mul")
    if root is None or x not in root.inputs or not near(node.attrs.get("alpha", 0.2), 1 / 6, 1e-5) or node.attrs.get("beta", 0.5) != 0.5:
        return False
    return _replace(rw, [node, root], root, x)


def _replace(rw: Rewriter, nodes: list[Node], root: Node, x: str) -> bool:
    if not rw.closed(nodes, root):
        return False
    rw.replace(nodes, root, new_node("HardSwish", (x,), root.outputs, 14))
    return True
