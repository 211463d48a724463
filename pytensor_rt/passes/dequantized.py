"""Keep 8- and 4-bit weights narrow where a model dequantises them in the graph: pytensor_rt.MatMulDequantized, and Gather before the dequantisation.

A dequantised weight is a constant matrix of integers behind DequantizeLinear, Mul(Cast(w), scale) or Mul(Sub(Cast(w), zero), scale), with constant
parameters, perhaps transposed. Folding it to float32 would take four or eight times its memory. The products multiply by the same float32 weights.
Runs once, after the other passes have settled.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..dtypes import F32, code_of
from ..graph import Node
from .rewriter import INTERNAL, Rewriter, new_node

_INTEGERS = (2, 3, 21, 22)  # uint8, int8, uint4, int4
MIN_ELEMENTS = 4096  # smaller ones are folded


class Weight(NamedTuple):
    """(w - zero) * scale, in w's own axes: parameters of rank 0, of one value per index of `axis`, or of rank 2 (blocked, or broadcasting)."""

    w: str
    scale: str
    zero: str
    axis: int
    block: int
    transposed: bool = False


def run(rw: Rewriter) -> bool:
    changed = False
    for node in rw.nodes("MatMul", "Gemm"):
        found = _weight(rw, node.inputs[1])
        if found is None:
            continue
        attrs = {k: v for k, v in node.attrs.items() if k in ("alpha", "beta", "transA")}
        trans = bool(node.attrs.get("transB", 0)) != found.transposed
        if found.block and found.axis != int(trans):  # blocks of columns
            continue
        inputs = [node.inputs[0], found.w, found.scale, found.zero, *node.inputs[2:3]]
        new = new_node(
            "MatMulDequantized", inputs, node.outputs, 1, INTERNAL, transB=int(trans), axis=found.axis, block=found.block, **attrs
        )
        rw.replace([node], node, new)
        changed = True
    for node in rw.nodes("Gather"):
        found = _weight(rw, node.inputs[0])
        if found is not None and not found.transposed and node.attrs.get("axis", 0) in (0, -2) and found.block == 0:
            changed = _gather(rw, node, found) or changed
    return changed


def _gather(rw: Rewriter, node: Node, weight: Weight) -> bool:
    """Gather rows of integers, then dequantise them; scales of rows are gathered too."""
    indices = node.inputs[1]

    def rows(name: str) -> str | None:
        found = rw.array(name)
        if found is None:
            return None
        if found.size == 1:
            return rw.add_constant(found.reshape(()), "scale")
        if found.ndim == 1:
            found = found.reshape(-1, 1) if weight.axis == 0 else found.reshape(1, -1)
        if found.shape[0] == 1:
            return rw.add_constant(found.reshape(-1), "scale")
        out = rw.fresh(f"{node.outputs[0]}:rows")
        rw.add(new_node("Gather", [rw.add_constant(found, "scale"), indices], [out], 13, axis=0), node)
        return out

    def step(op: str, inputs: list[str], **attrs: Any) -> str:
        out = rw.fresh(f"{node.outputs[0]}:{op}")
        rw.add(new_node(op, inputs, [out], 13, **attrs), node)
        return out

    scale = rows(weight.scale)
    zero = rows(weight.zero) if weight.zero else ""
    if scale is None or zero is None:
        return False
    value = step("Cast", [step("Gather", [weight.w, indices], axis=0)], to=1)
    if zero:
        value = step("Sub", [value, step("Cast", [zero], to=1)])
    rw.replace([node], node, new_node("Mul", [value, scale], node.outputs, 14))
    return True


def _weight(rw: Rewriter, name: str) -> Weight | None:
    node = rw.producer(name, "Transpose", "DequantizeLinear", "Mul")
    if node is None:
        return None
    if node.op_type == "Transpose":
        inner = _weight(rw, node.inputs[0]) if tuple(node.attrs.get("perm", (1, 0))) == (1, 0) else None
        return None if inner is None else inner._replace(transposed=not inner.transposed)
    found = _dequantize(rw, node) if node.op_type == "DequantizeLinear" else _spelled_out(rw, node)
    return found if found is not None and _fits(rw, found) else None


def _dequantize(rw: Rewriter, node: Node) -> Weight | None:
    if node.attrs.get("output_dtype", 0) not in (0, 1):
        return None
    zero = node.inputs[2] if len(node.inputs) > 2 else ""
    return Weight(node.inputs[0], node.inputs[1], zero, node.attrs.get("axis", 1) % 2, node.attrs.get("block_size", 0))


def _spelled_out(rw: Rewriter, node: Node) -> Weight | None:
    for x, scale in (node.inputs, node.inputs[::-1]):
        value = rw.producer(x, "Cast", "Sub")
        zero = ""
        if value is not None and value.op_type == "Sub":
            zero = value.inputs[1]
            if (found := rw.constant(zero)) is None or found.dtype != F32:
                continue
            value = rw.producer(value.inputs[0], "Cast")
        if value is not None and value.attrs.get("to") == 1:
            return Weight(value.inputs[0], scale, zero, 1, 0)
    return None


def _fits(rw: Rewriter, weight: Weight) -> bool:
    """A large constant matrix of integers, and parameters that are constant and of a known layout."""
    w, scale = rw.constant(weight.w), rw.constant(weight.scale)
    if w is None or scale is None or code_of(w.dtype) not in _INTEGERS or scale.dtype != F32:
        return False
    if len(w.shape) != 2 or w.shape[0] * w.shape[1] < MIN_ELEMENTS:
        return False
    shapes = [scale.shape]
    if weight.zero:
        zero = rw.constant(weight.zero)
        if zero is None or (zero.shape != scale.shape if zero.dtype == w.dtype else zero.dtype != F32):
            return False
        shapes.append(zero.shape)
    if weight.block:
        blocked = tuple(-(-n // weight.block) if i == weight.axis else n for i, n in enumerate(w.shape))
        return all(s == blocked for s in shapes)
    return all(
        s in ((), (1,), (1, 1)) or s == (w.shape[weight.axis],) or (len(s) == 2 and all(n in (1, m) for n, m in zip(s, w.shape)) and 1 in s)
        for s in shapes
    )
