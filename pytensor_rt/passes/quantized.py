"""Compute in integers what a QDQ model spells with DequantizeLinear -> op -> QuantizeLinear.

Conv, MatMul and Gemm become QLinearConv, QLinearMatMul (10) and com.microsoft QGemm; a ConvTranspose whose windows do not overlap becomes a pointwise QLinearConv for every
element of a window, and Interleave. Operators that only choose or move elements work on the 8-bit tensors themselves if both sides have the same
scale and zero point; the inputs of a Concat are brought to the scale of its result one by one.

The integer result is exact before it is rounded once, the spelled-out one rounds in float32, so the two may differ by one step of the output's
scale. Only 8-bit tensors with constant float32 scales take part; a bias must be int32 at the product of the scales, as quantizers write it.
"""

from __future__ import annotations

import numpy as np

from ..dtypes import F32, I32, from_code
from ..graph import Node
from .rewriter import INTERNAL, MICROSOFT, Rewriter, new_node

_BYTES = (2, 3)  # uint8, int8
_WIDEST = 4  # windows of a ConvTranspose: each of their elements is a launch
# The axis of their weight along which it may have a scale per channel; None: its last
_PRODUCTS = {"Conv": 0, "ConvTranspose": 1, "MatMul": None, "Gemm": None}
# The first input of these is the data, and MaxPool takes 8-bit tensors from opset 12 on
_MOVES = (
    "MaxPool",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Slice",
    "Gather",
    "Expand",
    "Tile",
    "DepthToSpace",
    "SpaceToDepth",
)


def run(rw: Rewriter) -> bool:
    changed = False
    for node in rw.nodes("QuantizeLinear"):
        unbounded = _bounded_after(rw, node)
        quantize = unbounded or node
        changed = _match(rw, quantize) or _move(rw, quantize) or _concat(rw, quantize) or unbounded is not None or changed
    return changed


def _bounded_after(rw: Rewriter, quantize: Node) -> Node | None:
    """Quantise a product before its Relu or Clip, which becomes a Clip of bytes, or nothing where saturation does the same.

    The same bits, because quantising is monotonic.
    """
    activation = rw.producer(quantize.inputs[0], "Relu", "Clip")
    y = _parameters(rw, quantize, quantize.outputs[0])
    if activation is None or y is None or not rw.closed([quantize, activation], quantize):
        return None
    product = rw.producer(activation.inputs[0], *_PRODUCTS)
    if product is None or any(rw.producer(n, "DequantizeLinear") is None for n in product.inputs[:2]):
        return None
    bounds = _bounds(rw, activation)
    scale, zero = (rw.array(n) for n in y)
    if bounds is None or scale is None or zero is None:
        return None
    lowest, highest = (np.array(v, zero.dtype) for v in (np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max))
    steps = np.rint(np.array(bounds, F32) / scale.reshape(())) + zero.reshape(()).astype(F32)
    low, high = (np.array(v) for v in np.clip(steps, lowest, highest).astype(zero.dtype))
    new = new_node("QuantizeLinear", [activation.inputs[0], *quantize.inputs[1:]], quantize.outputs, quantize.opset)
    new.attrs = dict(quantize.attrs)
    if low == lowest and high == highest:
        return rw.replace([quantize, activation], quantize, new)
    new.outputs = (rw.fresh(quantize.outputs[0]),)
    new.name, new.origins = quantize.name, quantize.origins
    rw.add(new, quantize)
    limits = [rw.add_constant(v, quantize.outputs[0]) for v in (low, high)]
    rw.replace([quantize, activation], quantize, new_node("Clip", [*new.outputs, *limits], quantize.outputs, 13))
    return new


def _bounds(rw: Rewriter, activation: Node) -> tuple[float, float] | None:
    """The least and the greatest result of a Relu or of a Clip with constant bounds."""
    if activation.op_type == "Relu":
        return 0.0, np.inf
    found = [activation.attrs.get("min", -np.inf), activation.attrs.get("max", np.inf)]
    for k, name in enumerate(activation.inputs[1:]):
        if name:
            found[k] = rw.scalar(name)
    low, high = found
    return (low, high) if low is not None and high is not None and low <= high else None


def _move(rw: Rewriter, quantize: Node) -> bool:
    op = rw.producer(quantize.inputs[0], *_MOVES)
    if op is None or len([o for o in op.outputs if o]) > 1 or not rw.closed([quantize, op], quantize):
        return False
    dequantize = rw.producer(op.inputs[0], "DequantizeLinear")
    if dequantize is None or not _same(rw, quantize, quantize.outputs[0], dequantize, dequantize.inputs[0]):
        return False
    new = new_node(
        op.op_type, [dequantize.inputs[0], *op.inputs[1:]], quantize.outputs, max(op.opset, 12 if op.op_type == "MaxPool" else 0)
    )
    new.attrs = dict(op.attrs)
    rw.replace([quantize, op], quantize, new)
    return True


def _concat(rw: Rewriter, quantize: Node) -> bool:
    op = rw.producer(quantize.inputs[0], "Concat")
    if op is None or not rw.closed([quantize, op], quantize) or _parameters(rw, quantize, quantize.outputs[0]) is None:
        return False
    sources = [rw.producer(name, "DequantizeLinear") for name in op.inputs]
    if any(d is None or _parameters(rw, d, d.inputs[0]) is None for d in sources):
        return False
    inputs: list[str] = []
    for name, d in zip(op.inputs, sources):
        assert d is not None
        if _same(rw, quantize, quantize.outputs[0], d, d.inputs[0]):
            inputs.append(d.inputs[0])
            continue
        inputs.append(_requantized(rw, op, name, d, quantize))
    new = new_node("Concat", inputs, quantize.outputs, op.opset)
    new.attrs = dict(op.attrs)
    rw.replace([quantize, op], quantize, new)
    return True


def _requantized(rw: Rewriter, op: Node, name: str, dequantize: Node, quantize: Node) -> str:
    """`name`, the result of `dequantize`, as `quantize` would quantise it, for `op`; that of products before they are interleaved."""

    def add(like: Node, *inputs: str) -> str:
        out = rw.fresh(quantize.outputs[0])
        new = new_node(like.op_type, inputs, [out], like.opset, like.domain)
        new.attrs = dict(like.attrs)
        rw.add(new, op)
        return out

    moved = rw.producers.get(dequantize.inputs[0])
    if moved is None or (moved.domain, moved.op_type) != (INTERNAL, "Interleave") or not rw.closed([moved, dequantize, op], op):
        return add(quantize, name, *quantize.inputs[1:])
    return add(moved, *(add(quantize, add(dequantize, x, *dequantize.inputs[1:]), *quantize.inputs[1:]) for x in moved.inputs))


def _same(rw: Rewriter, a: Node, a_quantized: str, b: Node, b_quantized: str) -> bool:
    """Have a Quantize- and a DequantizeLinear the same type, constant scale and zero point, one for the whole tensor?"""
    p, q = _parameters(rw, a, a_quantized), _parameters(rw, b, b_quantized)
    if p is None or q is None or rw.elem_type(a_quantized) != rw.elem_type(b_quantized):
        return False
    arrays = [(rw.array(x), rw.array(y)) for x, y in zip(p, q)]
    return all(x is not None and y is not None and x.size == y.size == 1 and x.reshape(()) == y.reshape(()) for x, y in arrays)


def _match(rw: Rewriter, quantize: Node) -> bool:
    y = _parameters(rw, quantize, quantize.outputs[0])
    op = rw.producer(quantize.inputs[0], *_PRODUCTS)
    if y is None or op is None:
        return False
    nodes = [quantize, op]
    a, b = (rw.producer(n, "DequantizeLinear") for n in op.inputs[:2])
    if a is None or b is None or not rw.closed(nodes, quantize):
        return False
    x = _parameters(rw, a, a.inputs[0])
    if op.op_type == "Gemm" and (op.attrs.get("alpha", 1.0) != 1.0 or op.attrs.get("beta", 1.0) != 1.0):
        return False
    axis = 1 - op.attrs.get("transB", 0) if op.op_type == "Gemm" else _PRODUCTS[op.op_type]
    w = _parameters(rw, b, b.inputs[0], axis)
    if x is None or w is None:
        return False
    bias = ""
    if op.op_type != "MatMul" and len(op.inputs) > 2 and op.inputs[2]:
        found = _bias(rw, op.inputs[2], x[0], w[0])
        if found is None:
            return False
        bias = found
    if op.op_type == "ConvTranspose":
        return _transposed(rw, op, nodes, quantize, [a.inputs[0], *x], (b.inputs[0], *w), [*y], bias)
    if op.op_type == "Gemm":
        new = new_node("QGemm", [a.inputs[0], *x, b.inputs[0], *w, bias, *y], quantize.outputs, 1, MICROSOFT)
        new.attrs = {k: v for k, v in op.attrs.items() if k in ("transA", "transB")}
        rw.replace(nodes, quantize, new)
        return True
    new = new_node(f"QLinear{op.op_type}", [a.inputs[0], *x, b.inputs[0], *w, *y, bias], quantize.outputs, 10)
    new.attrs = dict(op.attrs)
    rw.replace(nodes, quantize, new)
    return True


def _transposed(
    rw: Rewriter, op: Node, nodes: list[Node], quantize: Node, x: list[str], w: tuple[str, str, str], y: list[str], bias: str
) -> bool:
    """Every output is one element of one window: a product of the pixel under it."""
    weight = rw.array(w[0])
    if weight is None or weight.ndim != 4 or op.attrs.get("group", 1) != 1 or op.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return False
    n = weight.shape[2]
    if weight.shape[3] != n or not 1 < n <= _WIDEST or tuple(op.attrs.get("strides", (1, 1))) != (n, n) or "output_shape" in op.attrs:
        return False
    if any(op.attrs.get("pads", ())) or any(op.attrs.get("output_padding", ())) or any(d != 1 for d in op.attrs.get("dilations", ())):
        return False
    elements = []
    for i in range(n):
        for j in range(n):
            pointwise = rw.add_constant(np.ascontiguousarray(weight[:, :, i, j].T)[:, :, None, None], w[0])
            elements.append(rw.fresh(quantize.outputs[0]))
            conv = rw.add(new_node("QLinearConv", [*x, pointwise, *w[1:], *y, bias], elements[-1:], 10), op)
            conv.name, conv.origins = op.name, op.origins or (op.name or op.outputs[0],)
    rw.replace(nodes, quantize, new_node("Interleave", elements, quantize.outputs, 1, INTERNAL))
    return True


def _parameters(rw: Rewriter, node: Node, quantized: str, channel_axis: int | None = -1) -> tuple[str, str] | None:
    """(scale, zero point) of a Quantize- or DequantizeLinear, if they are constant, per tensor, or per channel along `channel_axis`.

    -1: per tensor only; None: along the last axis of a constant matrix. An absent zero point is made explicit.
    """
    if node.attrs.get("block_size", 0) or len(node.inputs) < 2:
        return None
    scale = rw.constant(node.inputs[1])
    zero = rw.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    code = rw.elem_type(quantized)
    if scale is None or scale.dtype != F32 or code not in _BYTES or (len(node.inputs) > 2 and node.inputs[2] and zero is None):
        return None
    if not (scale.array > 0).all():
        return None
    if scale.array.size != 1:
        weight = rw.constant(quantized)
        if channel_axis == -1 or weight is None or len(scale.shape) != 1:
            return None
        axis = node.attrs.get("axis", 1)
        axis += len(weight.shape) if axis < 0 else 0
        if channel_axis is None and (len(weight.shape) != 2 or axis != 1):
            return None
        if channel_axis is not None and axis != channel_axis:
            return None
    if zero is None:
        return node.inputs[1], rw.add_constant(np.zeros(scale.shape, from_code(code)), "zero_point")
    return (node.inputs[1], node.inputs[2]) if zero.shape == scale.shape else None


def _bias(rw: Rewriter, name: str, x_scale: str, w_scale: str) -> str | None:
    """The int32 values behind a bias, if its scale is the product of the others'."""
    node = rw.producer(name, "DequantizeLinear")
    if node is None or node.attrs.get("block_size", 0):
        return None
    values, scale = rw.constant(node.inputs[0]), rw.array(node.inputs[1])
    xs, ws = rw.array(x_scale), rw.array(w_scale)
    zero = rw.array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.zeros((), np.int32)
    if (
        values is None
        or values.dtype != I32
        or len(values.shape) != 1
        or scale is None
        or xs is None
        or ws is None
        or zero is None
        or zero.any()
    ):
        return None
    want = xs.astype(np.float64).reshape(-1) * ws.astype(np.float64).reshape(-1)
    if scale.size not in (1, want.size) or not np.allclose(scale.astype(np.float64).reshape(-1), want, rtol=1e-5, atol=0):
        return None
    return node.inputs[0]
