"""Recognise layer and RMS normalization spelled out in elementary ops, and say LayerNormalization (17) or RMSNormalization (23) instead.

The spellings of torch (before opset 17, and for RMSNorm), Keras and TensorFlow:
    d = x - mean(x);  y = d / sqrt(mean(d * d) + eps) [* gamma] [+ beta]          also Pow(d, 2), Reciprocal or Div(1, ...) and Mul
    r = gamma / sqrt(mean(d * d) + eps);  y = x * r + (beta - mean(x) * r)
    y = x / sqrt(mean(x * x) + eps) [* gamma]

and group normalization, torch's Reshape to [0, groups, -1] -> InstanceNormalization -> Reshape [-> Mul -> Add by channel], as GroupNormalization (18;
21 with scales by channel): the reshape would fix the order of the elements in memory, on which nothing depends.
"""

from __future__ import annotations

import numpy as np

from ..dtypes import F64
from ..graph import Node
from ..graph.model import Array
from .rewriter import Rewriter, float_constant, new_node


def run(rw: Rewriter) -> bool:
    changed = False
    for node in rw.nodes("Sqrt"):
        changed = _match(rw, node) or changed
    for node in rw.nodes("InstanceNormalization"):
        changed = _groups(rw, node) or changed
    return changed


def _groups(rw: Rewriter, node: Node) -> bool:
    reshape = rw.producer(node.inputs[0], "Reshape")
    if reshape is None or len(reshape.inputs) != 2 or node.opset < 6 or reshape.attrs.get("allowzero", 0):
        return False
    x = reshape.inputs[0]
    target = rw.integers(reshape.inputs[1])
    if target is None or len(target) != 3 or target[0] != 0 or target[1] < 1 or target[2] != -1:
        return False
    # The result has the shape of x now, and [N, groups, everything] before: only a reshape does not see the difference
    after = rw.reader(node.outputs[0], "Reshape")
    if after is None or len(after.inputs) != 2 or after.inputs[0] != node.outputs[0] or node.outputs[0] == after.inputs[1]:
        return False
    shape, source = rw.integers(after.inputs[1]), rw.producer(after.inputs[1], "Shape")
    if shape is None and source is None:
        return False
    if shape is not None and 0 in shape[1:]:
        return False  # means a size of [N, groups, everything]
    if target[1] > 1 and rw.rank(x) is None:
        return False
    nodes = [reshape, node] if rw.closed([reshape, node], node) else [node]
    attrs = {"num_groups": target[1], "epsilon": node.attrs.get("epsilon", 1e-5)}
    if source is not None and source.inputs[0] == x and not source.attrs:  # so the second reshape does give x's shape
        found = _by_channel(rw, node, target[1], after, rw.rank(x))
        if found is not None:
            gamma, beta, mul, add = found
            made = [rw.add_constant(c, "group_norm") for c in (gamma, beta)]
            rw.replace([*nodes, after, mul, add], add, new_node("GroupNormalization", [x, *made], add.outputs, 21, **attrs))
            return True
    rw.replace(nodes, node, new_node("GroupNormalization", [x, *node.inputs[1:]], node.outputs, 18, **attrs))
    return True


def _by_channel(rw: Rewriter, node: Node, groups: int, after: Node, rank: int | None) -> tuple[Array, Array, Node, Node] | None:
    """(gamma [C], beta [C], Mul, Add) after a normalization whose own scales and biases are ones and zeros, if only they read it."""
    ones, zeros = rw.array(node.inputs[1]), rw.array(node.inputs[2])
    if rank is None or ones is None or zeros is None or not (ones == 1).all() or zeros.any():
        return None
    factors: list[Array] = []
    steps: list[Node] = []
    value = after.outputs[0]
    for op in ("Mul", "Add"):
        step = rw.reader(value, op)
        factor = None if step is None else rw.array(step.inputs[1] if step.inputs[0] == value else step.inputs[0])
        if step is None or factor is None or factor.ndim not in (rank - 1, rank) or factor.dtype != ones.dtype or factor.size % groups:
            return None
        if factor.shape[factor.ndim - rank + 1 :] != (factor.size, *(1,) * (rank - 2)):
            return None  # along another axis
        factors.append(np.ascontiguousarray(factor.reshape(-1)))
        steps.append(step)
        value = step.outputs[0]
    if factors[0].size != factors[1].size or not rw.closed([node, after, *steps], steps[1]):
        return None
    return (*factors, *steps)  # type: ignore[return-value]


def _match(rw: Rewriter, sqrt: Node) -> bool:
    """From Sqrt upward to the mean of squares, downward to the scaled result."""
    add = rw.producer(sqrt.inputs[0], "Add")
    if add is None:
        return False
    for variance, eps_name in (add.inputs, add.inputs[::-1]):
        eps = rw.scalar(eps_name)
        mean2 = rw.producer(variance, "ReduceMean")
        if eps is not None and mean2 is not None and eps >= 0:
            break
    else:
        return False
    axes = _trailing_axes(rw, mean2)
    square = rw.producer(mean2.inputs[0], "Pow", "Mul")
    if axes is None or square is None:
        return False
    if square.op_type == "Pow":
        if rw.scalar(square.inputs[1]) != 2:
            return False
    elif square.inputs[0] != square.inputs[1]:
        return False
    deviation = square.inputs[0]
    nodes = [square, mean2, add, sqrt]
    inverse = _inverse(rw, sqrt.outputs[0])
    x, mean, head = _centered(rw, deviation, axes)
    if inverse is not None:
        nodes.append(inverse)
        factor = inverse.outputs[0]
        if mean is not None and _keras(rw, [*nodes, *head], x, mean, factor, len(axes), eps_name):
            return True
        scaled = next((r for r in rw.readers.get(factor, ()) if r.op_type == "Mul" and deviation in r.inputs), None)
    else:
        scaled = rw.reader(sqrt.outputs[0], "Div")
        if scaled is not None and scaled.inputs != (deviation, sqrt.outputs[0]):
            scaled = None
    if scaled is None:
        return False
    k = len(axes)
    if mean is not None:
        gamma, beta, found, root = _affine(rw, scaled, [*nodes, *head], k, with_shift=True)
        if _replace(rw, found, root, "LayerNormalization", 17, (x, gamma, beta), k, eps_name):
            return True
    gamma, _, found, root = _affine(rw, scaled, nodes, k, with_shift=False)
    return _replace(rw, found, root, "RMSNormalization", 23, (deviation, gamma), k, eps_name)


def _replace(rw: Rewriter, nodes: list[Node], root: Node, op: str, opset: int, inputs: tuple[str, ...], k: int, eps_name: str) -> bool:
    """Put one node over the last k axes in their place, if nobody else reads what they make. An absent gamma becomes a one."""
    eps = rw.array(eps_name)
    if eps is None or not rw.closed(nodes, root):
        return False
    x, gamma, *beta = inputs
    gamma = gamma or rw.add_constant(np.ones(1, eps.dtype), "ones")
    new = new_node(op, (x, gamma, *beta), root.outputs, opset, axis=-k, epsilon=float(eps.reshape(-1)[0]))
    if eps.dtype == F64:
        new.attrs["stash_type"] = 11  # the default is to compute in float32
    rw.replace(nodes, root, new)
    return True


def _trailing_axes(rw: Rewriter, mean: Node) -> tuple[int, ...] | None:
    """The axes of a ReduceMean as (-k, ..., -1), if they are the last k and are kept."""
    if mean.attrs.get("keepdims", 1) != 1:
        return None
    axes = mean.attrs.get("axes")
    if axes is None and len(mean.inputs) > 1 and mean.inputs[1]:
        axes = rw.integers(mean.inputs[1])
    if not axes:
        return None
    if min(axes) >= 0:
        rank = rw.rank(mean.inputs[0])
        if rank is None:
            return None
        axes = tuple(a - rank for a in axes)
    axes = tuple(sorted(axes))
    return axes if axes == tuple(range(-len(axes), 0)) else None


def _inverse(rw: Rewriter, name: str) -> Node | None:
    """The only reader of `name`, if it computes 1 / name."""
    node = rw.reader(name, "Reciprocal", "Div")
    if node is None or node.op_type == "Reciprocal":
        return node
    return node if node.inputs[1] == name and rw.scalar(node.inputs[0]) == 1 else None


def _centered(rw: Rewriter, deviation: str, axes: tuple[int, ...]) -> tuple[str, str | None, list[Node]]:
    """(x, name of its mean, [Sub, ReduceMean]) if `deviation` is x - mean(x); (deviation, None, []) if not."""
    sub = rw.producer(deviation, "Sub")
    mean = rw.producer(sub.inputs[1], "ReduceMean") if sub is not None else None
    if sub is None or mean is None or mean.inputs[0] != sub.inputs[0] or _trailing_axes(rw, mean) != axes:
        return deviation, None, []
    return sub.inputs[0], sub.inputs[1], [mean, sub]


def _affine(rw: Rewriter, scaled: Node, nodes: list[Node], k: int, with_shift: bool) -> tuple[str, str, list[Node], Node]:
    """Follow [Mul gamma] [Add beta] after the normalized value: (gamma or "", beta or "", nodes so far, last node)."""
    nodes = [*nodes, scaled]
    root, gamma, beta = scaled, "", ""
    node = rw.reader(root.outputs[0], "Mul")
    if node is not None:
        other = node.inputs[1] if node.inputs[0] == root.outputs[0] else node.inputs[0]
        if _coefficient(rw, other, k):
            root, gamma = node, other
            nodes.append(node)
    node = rw.reader(root.outputs[0], "Add") if with_shift else None
    if node is not None:
        other = node.inputs[1] if node.inputs[0] == root.outputs[0] else node.inputs[0]
        if _coefficient(rw, other, k):
            root, beta = node, other
            nodes.append(node)
    return gamma, beta, nodes, root


def _coefficient(rw: Rewriter, name: str, k: int) -> bool:
    """May this be gamma or beta: a constant that varies along the normalized axes only?"""
    array = rw.constant(name)
    return array is not None and 1 <= len(array.shape) <= k and float_constant(rw, name) is not None


def _keras(rw: Rewriter, nodes: list[Node], x: str, mean: str, factor: str, k: int, eps_name: str) -> bool:
    """y = x * r + (beta - mean * r) with r = factor [* gamma]."""
    found, gamma, r = list(nodes), "", factor
    node = rw.reader(factor, "Mul")
    if node is not None:
        gamma = node.inputs[1] if node.inputs[0] == factor else node.inputs[0]
        if not _coefficient(rw, gamma, k):
            return False
        found.append(node)
        r = node.outputs[0]
    products = [n for n in rw.readers.get(r, ()) if n.op_type == "Mul"]
    by = {(n.inputs[1] if n.inputs[0] == r else n.inputs[0]): n for n in products}
    if len(products) != 2 or x not in by or mean not in by:
        return False
    sub = rw.reader(by[mean].outputs[0], "Sub")
    root = rw.reader(by[x].outputs[0], "Add")
    if sub is None or root is None or sub.outputs[0] not in root.inputs or sub.inputs[1] != by[mean].outputs[0]:
        return False
    if not _coefficient(rw, sub.inputs[0], k):
        return False
    found += (by[x], by[mean], sub, root)
    return _replace(rw, found, root, "LayerNormalization", 17, (x, gamma, sub.inputs[0]), k, eps_name)
