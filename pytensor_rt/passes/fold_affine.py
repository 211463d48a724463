"""Fold per-channel scales and shifts with constant coefficients into the weights of the Conv, ConvTranspose or Gemm before them.

Handles BatchNormalization at inference and Mul, Div, Add, Sub by a scalar or a per-channel constant. New weights are computed in float64 and
rounded once. A weight that is read elsewhere too is left alone: folding would double it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph import Node
from ..graph.model import Array
from .rewriter import Rewriter, float_constant

Float64 = np.ndarray[Any, np.dtype[np.float64]]
Coefficients = tuple[Float64, Float64]  # scale, shift: one or `channels` values each


def run(rw: Rewriter) -> bool:
    changed = False
    for node in rw.nodes("Conv", "ConvTranspose", "Gemm"):
        current: Node | None = node
        while current is not None:
            current = _fold_next(rw, current)
            changed = changed or current is not None
    return changed


def _fold_next(rw: Rewriter, node: Node) -> Node | None:
    """Fold the only reader of `node` into it; returns the node that stands for both, or None."""
    reader = rw.reader(node.outputs[0], "BatchNormalization", "Mul", "Div", "Add", "Sub")
    if reader is None:
        return None
    weight_name = node.inputs[1]
    if weight_name not in rw.graph.initializers or len(rw.readers[weight_name]) != 1 or weight_name in rw.outputs:
        return None
    if reader.op_type in ("Add", "Sub", "Mul", "Div") and not any(rw.constant(n) is not None for n in reader.inputs):
        return None
    weight = float_constant(rw, weight_name)
    if weight is None or weight.ndim < 2:
        return None
    group = node.attrs.get("group", 1)
    channels = _channels(node, weight, group)
    if channels is None:
        return None
    bias_name = node.inputs[2] if len(node.inputs) > 2 else ""
    bias = np.zeros(channels)
    if bias_name:
        array = float_constant(rw, bias_name)
        if array is None or array.size not in (1, channels) or (array.ndim > 1 and array.shape[-1] != array.size):
            return None
        bias = bias + array.astype(np.float64).reshape(-1)
    rank = 2 if node.op_type == "Gemm" else weight.ndim
    found = _coefficients(rw, node.outputs[0], reader, channels, rank)
    if found is None:
        return None
    scale, shift = (np.broadcast_to(a, (channels,)) for a in found)
    attrs = dict(node.attrs)
    if node.op_type == "Gemm":
        bias = bias * attrs.pop("beta", 1.0)
    new_bias = (bias * scale + shift).astype(weight.dtype)
    inputs = [node.inputs[0], weight_name, bias_name]
    if not np.all(scale == 1):
        inputs[1] = rw.add_constant(_scale_weight(node, weight, scale, group), weight_name)
    inputs[2] = rw.add_constant(new_bias, bias_name or weight_name)
    new = Node(node.op_type, "", reader.name, tuple(inputs), (reader.outputs[0],), attrs, opset=node.opset)
    if node.op_type == "Gemm" and new.opset < 7:
        return None  # broadcast of C needs an attribute there
    return rw.replace((node, reader), reader, new)


def _channels(node: Node, weight: Array, group: int) -> int | None:
    n: int
    if node.op_type == "Conv":
        n = weight.shape[0]
        return n if weight.ndim >= 3 else None
    if node.op_type == "ConvTranspose":
        n = weight.shape[1] * group
        return n if weight.ndim >= 3 and group > 0 and weight.shape[0] % group == 0 else None
    if weight.ndim != 2:
        return None
    n = weight.shape[0] if node.attrs.get("transB", 0) else weight.shape[1]
    return n


def _scale_weight(node: Node, weight: Array, scale: Float64, group: int) -> Array:
    out: Array = np.empty(weight.shape, weight.dtype)
    w, factors = weight, scale
    if node.op_type == "Conv":
        factors = scale.reshape(-1, *[1] * (w.ndim - 1))
    elif node.op_type == "ConvTranspose":  # [in, out / group, ...], output channel g * (out / group) + j
        w = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
        factors = scale.reshape(group, 1, weight.shape[1], *[1] * (weight.ndim - 2))
    elif node.attrs.get("transB", 0):
        factors = scale.reshape(-1, 1)
    np.multiply(w, factors, out=out.reshape(w.shape), dtype=np.float64, casting="unsafe")  # float64 inside, rounded once
    return out


def _coefficients(rw: Rewriter, value: str, node: Node, channels: int, rank: int) -> Coefficients | None:
    """(scale, shift) such that `node` computes value * scale + shift per channel."""
    if node.op_type == "BatchNormalization":
        return batch_norm_coefficients(rw, value, node, channels)
    a, b = node.inputs
    if a == b:
        return None
    other = b if a == value else a
    constant = float_constant(rw, other)
    if constant is None or constant.ndim > rank:
        return None
    if constant.size != 1:
        padded = (1,) * (rank - constant.ndim) + constant.shape
        if padded[1] != channels or constant.size != channels:
            return None
    c = constant.astype(np.float64).reshape(-1)
    one, zero = np.ones(1), np.zeros(1)
    if node.op_type == "Mul":
        return c, zero
    if node.op_type == "Add":
        return one, c
    if node.op_type == "Sub":
        return (one, -c) if value == a else (-one, c)
    return (1 / c, zero) if value == a and np.all(c != 0) else None


def batch_norm_coefficients(rw: Rewriter, value: str, node: Node, channels: int) -> Coefficients | None:
    """ONNX BatchNormalization at inference (opset 7 on; before that `is_test` and `spatial` decide)."""
    if node.inputs[0] != value or len(node.inputs) != 5 or node.attrs.get("training_mode", 0) or not node.attrs.get("spatial", 1):
        return None
    if (node.opset < 7 and not node.attrs.get("is_test", 0)) or any(out and rw.readers.get(out) for out in node.outputs[1:]):
        return None
    if any(out in rw.outputs for out in node.outputs[1:]):
        return None
    arrays = [float_constant(rw, n) for n in node.inputs[1:]]
    if any(a is None or a.shape != (channels,) for a in arrays):
        return None
    gamma, beta, mean, var = (a.astype(np.float64) for a in arrays if a is not None)
    scale = gamma / np.sqrt(var + node.attrs.get("epsilon", 1e-5))
    if not np.all(np.isfinite(scale)):
        return None
    return scale, beta - mean * scale
