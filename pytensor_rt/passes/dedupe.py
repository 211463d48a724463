"""Keep one of several identical small constants, and one of several identical nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph import Graph
from .rewriter import Rewriter

MAX_BYTES = 1024  # larger constants are not compared
_DOMAINS = {"", "ai.onnx.ml", "com.microsoft", "pytensor_rt"}  # a model's own functions may contain random nodes
_IMPURE = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}


def constants(rw: Rewriter) -> bool:
    seen: dict[Any, str] = {}
    changed = False
    for name, init in list(rw.graph.initializers.items()):
        if init.nbytes > MAX_BYTES or name in rw.overridable or name in rw.outputs:
            continue
        array = init.array
        data: Any = tuple(array.reshape(-1).tolist()) if array.dtype == object else array.tobytes()
        key = (array.dtype.str, array.dtype.name, array.shape, data)
        first = seen.setdefault(key, name)
        if first != name:
            rw.rewire(name, first)
            del rw.graph.initializers[name]
            changed = True
    return changed


def nodes(rw: Rewriter) -> bool:
    rw.flush()
    seen: dict[Any, tuple[str, ...]] = {}
    changed = False
    for node in rw.graph.nodes:
        if node.subgraphs or node.domain not in _DOMAINS or node.op_type in _IMPURE:
            continue
        key: Any = (node.op_type, node.domain, node.opset, node.inputs, len(node.outputs))
        if node.attrs:
            key += (_attributes(node.attrs),)
        first = seen.setdefault(key, node.outputs)
        if first is node.outputs or any(out in rw.outputs for out in node.outputs if out):
            continue
        if any(out and not kept for out, kept in zip(node.outputs, first)):
            continue
        rw.remove(node)
        for out, kept in zip(node.outputs, first):
            if out:
                rw.rewire(out, kept)
        changed = True
    return changed


def _attributes(attrs: dict[str, Any]) -> Any:
    return tuple([(k, _value(attrs[k])) for k in sorted(attrs)])


def _value(value: Any) -> Any:
    kind = type(value)
    if kind is int or kind is str or kind is bytes:
        return value
    if kind is float:
        return ("float", value, str(value))  # 0.0 and -0.0 are not the same
    if kind is tuple and value and type(value[0]) in (int, str, bytes):
        return value
    if isinstance(value, np.ndarray) and value.nbytes <= MAX_BYTES and value.dtype != object:
        return (value.dtype.name, value.shape, value.tobytes())
    if isinstance(value, Graph):
        raise AssertionError("nodes with subgraphs are not compared")
    return id(value)
