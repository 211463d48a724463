"""Recognise scaled dot-product attention: MatMul(q, k^T) [* scale] [+ mask] -> Softmax -> MatMul(v), however an exporter spells it.

The result is one node `pytensor_rt::Attention(q, k, v, mask?)`; see the package docstring for what it computes.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from ..graph import Node
from .rewriter import INTERNAL, Rewriter, new_node

_PROBES = (64.0, 100.0)  # head sizes at which a scale computed from a shape is tried
HUGE = 1e30  # a score replaced by -HUGE is indistinguishable from one that -HUGE was added to


def run(rw: Rewriter) -> bool:
    changed = False
    for node in rw.nodes("Softmax"):
        changed = _match(rw, node) or changed
    return changed


def _match(rw: Rewriter, softmax: Node) -> bool:
    nodes = [softmax]
    weights, guarded = _guard(rw, softmax.outputs[0], nodes)
    product = rw.reader(weights, "MatMul")
    if product is None or product.inputs[0] != weights or product.inputs[1] == weights:
        return False
    nodes.append(product)
    found = _scores(rw, softmax.inputs[0], nodes)
    if found is None:
        return False
    scores, scales, mask = found
    q, q_scales = _strip(rw, scores.inputs[0], nodes)
    kt, k_scales = _strip(rw, scores.inputs[1], nodes)
    transpose = rw.producer(kt, "Transpose")
    rank = rw.rank(kt)
    if rank is None or rank < 2 or not _last_axis(rw, softmax, rank, scores):
        return False
    if transpose is not None and "perm" in transpose.attrs:
        perm, k_source = transpose.attrs["perm"], transpose.inputs[0]
    else:
        perm, k_source = tuple(range(rank)), kt
    perm = (*perm[:-2], perm[-1], perm[-2])
    plain = perm == tuple(range(rank))
    total = [_total(rw, [*scales, *q_scales, *k_scales], d, {q, scores.inputs[0]}, {k_source} if plain else set()) for d in _PROBES]
    attrs: dict[str, float | int] = {}
    if total[0] is None or total[1] is None:
        return False
    if math.isclose(total[0], total[1], rel_tol=1e-6):
        attrs["scale"] = total[0]
    elif not all(t is not None and math.isclose(t * math.sqrt(d), 1, rel_tol=1e-6) for t, d in zip(total, _PROBES)):
        return False  # without the attribute the scale is 1 / sqrt(head size)
    if not rw.closed(nodes, product):
        return False
    if guarded:
        attrs["nan_to_zero"] = 1
    if plain:
        k = k_source
    else:
        k = rw.fresh(k_source)
        rw.add(new_node("Transpose", (k_source,), (k,), 13, perm=perm), scores)
    mask_name = _mask(rw, mask, softmax)
    new = new_node("Attention", (q, k, product.inputs[1], mask_name), product.outputs, 1, INTERNAL, **attrs)
    rw.replace(nodes, product, new)
    return True


def _guard(rw: Rewriter, weights: str, nodes: list[Node]) -> tuple[str, bool]:
    """Where(IsNaN(w), 0, w): torch's way to give rows without any unmasked key a zero result."""
    readers = rw.readers.get(weights, ())
    if len(readers) != 2 or weights in rw.outputs:
        return weights, False
    for test, where in (readers, readers[::-1]):
        is_guard = (
            test.op_type == "IsNaN" and where.op_type == "Where" and where.inputs[0] == test.outputs[0] and where.inputs[2] == weights
        )
        if is_guard and rw.scalar(where.inputs[1]) == 0:
            nodes += (test, where)
            return where.outputs[0], True
    return weights, False


Mask = tuple[str, str, bool] | str | None  # (condition, the scalar constant, does the condition keep the score) or a summand


def _scores(rw: Rewriter, name: str, nodes: list[Node]) -> tuple[Node, list[tuple[str, bool]], Mask] | None:
    """Walk up from Softmax: (the MatMul of the scores, its scales, its mask)."""
    mask: Mask = None
    node = rw.producer(name)
    if node is not None and node.op_type == "Where":
        for score, other, keeps in ((node.inputs[1], node.inputs[2], True), (node.inputs[2], node.inputs[1], False)):
            value = rw.scalar(other)
            if value is not None and value <= -HUGE and _leads_to_matmul(rw, score):
                mask = (node.inputs[0], other, keeps)
                nodes.append(node)
                name = score
                break
    elif node is not None and node.op_type == "Add":
        for score, other in (node.inputs, node.inputs[::-1]):
            if _leads_to_matmul(rw, score):
                mask = other
                nodes.append(node)
                name = score
                break
    scales: list[tuple[str, bool]] = []
    while True:
        node = rw.producer(name, "MatMul", "Mul", "Div")
        if node is None:
            return None
        nodes.append(node)
        if node.op_type == "MatMul":
            return node, scales, mask
        step = _scale_step(rw, node)
        if step is None:
            return None
        name = step[0]
        scales.append(step[1:])


def _leads_to_matmul(rw: Rewriter, name: str) -> bool:
    """Is the value a product of matrices, perhaps scaled?"""
    for _ in range(4):
        node = rw.producer(name, "MatMul", "Mul", "Div")
        if node is None:
            return False
        if node.op_type == "MatMul":
            return True
        step = _scale_step(rw, node)
        if step is None:
            return False
        name = step[0]
    return False


def _scale_step(rw: Rewriter, node: Node) -> tuple[str, str, bool] | None:
    """(value, scalar, does the scalar divide) of a Mul or Div by one number."""
    if node.op_type == "Mul":
        for x, s in (node.inputs, node.inputs[::-1]):
            if x != s and _number(rw, s, 64.0, None, None) is not None:
                return x, s, False
    elif node.op_type == "Div" and node.inputs[0] != node.inputs[1] and _number(rw, node.inputs[1], 64.0, None, None) is not None:
        return node.inputs[0], node.inputs[1], True
    return None


def _strip(rw: Rewriter, name: str, nodes: list[Node]) -> tuple[str, list[tuple[str, bool]]]:
    """Take the scales off q or k, as far as nobody else reads the scaled value."""
    scales: list[tuple[str, bool]] = []
    while True:
        node = rw.producer(name, "Mul", "Div")
        step = _scale_step(rw, node) if node is not None else None
        if node is None or step is None or len(rw.readers.get(name, ())) != 1 or name in rw.outputs:
            return name, scales
        nodes.append(node)
        name = step[0]
        scales.append(step[1:])


def _total(rw: Rewriter, scales: list[tuple[str, bool]], d: float, q: Collection[str], k: Collection[str]) -> float | None:
    """The product of all scales if the head size is d."""
    total = 1.0
    for name, divides in scales:
        value = _number(rw, name, d, q, k)
        if value is None or value == 0:
            return None
        total = total / value if divides else total * value
    return total


def _number(rw: Rewriter, name: str, d: float, q: Collection[str] | None, k: Collection[str] | None, depth: int = 0) -> float | None:
    """The value of a scalar that depends on constants and on the last dimension of q or k only (None: of any tensor), taken to be d."""
    value = rw.scalar(name)
    if value is not None or depth > 12:
        return value
    node = rw.producer(name)
    if node is None:
        return None
    op = node.op_type
    if op in ("Cast", "Squeeze", "Unsqueeze", "Identity"):
        return _number(rw, node.inputs[0], d, q, k, depth + 1)
    if op in ("Sqrt", "Reciprocal"):
        a = _number(rw, node.inputs[0], d, q, k, depth + 1)
        return None if a is None or a <= 0 else math.sqrt(a) if op == "Sqrt" else 1 / a
    if op in ("Mul", "Div", "Pow"):
        a, b = (_number(rw, n, d, q, k, depth + 1) for n in node.inputs)
        if a is None or b is None or (op != "Mul" and (a <= 0 or b == 0)):
            return None
        return a * b if op == "Mul" else a / b if op == "Div" else a**b
    if op in ("Gather", "Slice"):
        shape = rw.producer(node.inputs[0], "Shape")
        if shape is None or shape.attrs:
            return None
        source = shape.inputs[0]
        if q is not None and k is not None and source not in q and source not in k:
            return None
        at = rw.integers(node.inputs[1]) if len(node.inputs) > 1 else node.attrs.get("starts")
        rank = rw.rank(source)
        if at is None or len(at) != 1 or (at[0] != -1 and (rank is None or at[0] != rank - 1)):
            return None
        if op == "Slice" and len(node.inputs) > 4 and rw.integers(node.inputs[4]) != (1,):
            return None
        return d
    return None


def _last_axis(rw: Rewriter, softmax: Node, rank: int, scores: Node) -> bool:
    axis = softmax.attrs.get("axis", -1 if softmax.opset >= 13 else 1)
    if axis == -1:
        return True
    q_rank = rw.rank(scores.inputs[0])
    return q_rank is not None and bool(axis == max(rank, q_rank) - 1)


def _mask(rw: Rewriter, mask: Mask, at: Node) -> str:
    """The summand that stands for the mask, "" if there is none."""
    if mask is None or isinstance(mask, str):
        return mask or ""
    condition, constant, keeps = mask
    value = rw.array(constant)
    zero = rw.add_constant(np.zeros((), value.dtype if value is not None else np.float32), "zero")
    out = rw.fresh("mask")
    rw.add(new_node("Where", (condition, zero, constant) if keeps else (condition, constant, zero), (out,), 16), at)
    return out
