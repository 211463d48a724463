"""Single-node models for operator tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

import pytensor_rt as rt


def node_model(op: str, feeds: dict[str, Any], outputs: int = 1, opset: int = 22, domain: str = "", **attrs: Any) -> onnx.ModelProto:
    """One node whose inputs are `feeds` in order; None stands for an absent optional."""
    names = ["" if v is None else k for k, v in feeds.items()]
    infos = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), [None] * v.ndim)
        for k, v in feeds.items()
        if v is not None
    ]
    outs = [f"y{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, outs, name="n", domain=domain, **attrs)], "g", infos, [onnx.ValueInfoProto(name=o) for o in outs]
    )
    imports = [helper.make_opsetid("", opset if domain == "" else 22)] + ([helper.make_opsetid(domain, opset)] if domain else [])
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def session(op: str, feeds: dict[str, Any], device: str = "cpu", **kwargs: Any) -> rt.InferenceSession:
    return rt.InferenceSession(node_model(op, feeds, **kwargs), device=device)


def run(op: str, feeds: dict[str, Any], device: str = "cpu", **kwargs: Any) -> list[Any]:
    """All outputs of one node."""
    return session(op, feeds, device, **kwargs).run(None, {k: v for k, v in feeds.items() if v is not None})


def text(*values: Any) -> np.ndarray[Any, Any]:
    """An object array of strings."""
    return np.array(values, object)
