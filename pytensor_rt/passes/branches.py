"""Make one convolution of parallel ones whose results are added, as networks that are trained in branches have them (RepVGG, MobileOne):

    Conv 3x3(x) + Conv 1x1(x) + BatchNormalization(x) -> Conv 3x3(x)

The smaller window must lie on taps of the larger one, and both must give the same output. New weights are summed in float64 and rounded once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..dtypes import F32, F64
from ..graph import Node
from .fold_affine import Float64, batch_norm_coefficients
from .rewriter import Rewriter, float_constant


class Window(NamedTuple):
    """What a convolution computes: weight [M, C / group, *kernel], bias [M]."""

    weight: Float64
    bias: Float64
    group: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]


def run(rw: Rewriter) -> bool:
    changed = False
    for node in rw.nodes("Add"):
        changed = _merge(rw, node) or changed
    return changed


def _merge(rw: Rewriter, add: Node) -> bool:
    a, b = (rw.producer(name, "Conv", "BatchNormalization") for name in add.inputs)
    if a is None or b is None or a is b or a.inputs[0] != b.inputs[0] or not rw.closed((a, b, add), add):
        return False
    if a.op_type != "Conv":
        a, b = b, a
    if a.op_type != "Conv":
        return False
    large = _window(rw, a)
    small = _window(rw, b) if b.op_type == "Conv" else _scaling(rw, b, large)
    if large is None or small is None:
        return False
    if large.weight.size < small.weight.size:
        a, b, large, small = b, a, small, large
    at = _position(large, small)
    if at is None:
        return False
    weight_name = a.inputs[1]
    dtype = rw.graph.initializers[weight_name].dtype
    weight = large.weight
    taps = (slice(None), slice(None), *at)
    weight[taps] += small.weight
    inputs = (
        a.inputs[0],
        rw.add_constant(weight.astype(dtype), weight_name),
        rw.add_constant((large.bias + small.bias).astype(dtype), weight_name),
    )
    rw.replace((a, b, add), add, Node("Conv", "", add.name, inputs, add.outputs, dict(a.attrs), opset=a.opset))
    return True


def _window(rw: Rewriter, node: Node) -> Window | None:
    name = node.inputs[1]
    if name not in rw.graph.initializers or len(rw.readers[name]) != 1 or name in rw.outputs:
        return None  # (a weight that is read elsewhere would be doubled)
    weight = float_constant(rw, name)
    if weight is None or weight.ndim < 3 or weight.dtype not in (F32, F64):
        return None
    bias = np.zeros(weight.shape[0])
    if len(node.inputs) > 2 and node.inputs[2]:
        array = float_constant(rw, node.inputs[2])
        if array is None or array.shape != bias.shape:
            return None
        bias = array.astype(np.float64)
    n = weight.ndim - 2
    attrs = node.attrs
    if attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID", b"NOTSET", b"VALID"):
        return None
    pads = tuple(attrs.get("pads", (0,) * 2 * n))
    strides, dilations = tuple(attrs.get("strides", (1,) * n)), tuple(attrs.get("dilations", (1,) * n))
    if len(pads) != 2 * n or len(strides) != n or len(dilations) != n:
        return None
    return Window(weight.astype(np.float64), bias, attrs.get("group", 1), strides, dilations, pads[:n], pads[n:])


def _scaling(rw: Rewriter, node: Node, like: Window | None) -> Window | None:
    """A BatchNormalization as a convolution of one tap, with the groups of `like`."""
    if like is None:
        return None
    m, per_group = like.weight.shape[:2]
    if m != per_group * like.group:
        return None
    found = batch_norm_coefficients(rw, node.inputs[0], node, m)
    if found is None:
        return None
    n = like.weight.ndim - 2
    weight = np.zeros((m, per_group) + (1,) * n)
    own = (np.arange(m), np.arange(m) % per_group) + (0,) * n
    weight[own] = found[0]
    return Window(weight, found[1], like.group, (1,) * n, (1,) * n, (0,) * n, (0,) * n)


def _position(large: Window, small: Window) -> tuple[slice, ...] | None:
    """Where the small window's taps lie among the large one's, per spatial axis."""
    if large.weight.ndim != small.weight.ndim or large.weight.shape[:2] != small.weight.shape[:2]:
        return None
    if large.group != small.group or large.strides != small.strides:
        return None
    at = []
    for i, (k, j) in enumerate(zip(large.weight.shape[2:], small.weight.shape[2:])):
        step, first = large.dilations[i], large.begins[i] - small.begins[i]
        spare = (k - 1) * step - large.begins[i] - large.ends[i]
        if spare != (j - 1) * small.dilations[i] - small.begins[i] - small.ends[i]:
            return None  # another output size
        if first < 0 or first % step or first // step + j > k or (j > 1 and small.dilations[i] != step):
            return None
        at.append(slice(first // step, first // step + j))
    return tuple(at)
