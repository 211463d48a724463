"""Single-node models for operator tests."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import pytensor_rt as rt


def node_model(
    op: str, feeds: dict[str, Any], outputs: int = 1, opset: int = 22, domain: str = "", constants: Collection[str] = (),
    more: dict[str, Any] | None = None, **attrs: Any,
) -> onnx.ModelProto:  # fmt: skip
    """One node whose inputs are `feeds` in order; None stands for an absent optional, `constants` become initializers.

    `more`: attributes that have the names of these parameters.
    """
    names = ["" if v is None else k for k, v in feeds.items()]
    infos = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), [None] * v.ndim)
        for k, v in feeds.items()
        if v is not None and k not in constants
    ]
    outs = [f"y{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, outs, name="n", domain=domain, **attrs, **(more or {}))], "g", infos, [onnx.ValueInfoProto(name=o) for o in outs],
        [numpy_helper.from_array(np.asarray(feeds[k]), k) for k in constants],
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset if domain == "" else 22)] + ([helper.make_opsetid(domain, opset)] if domain else [])
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def session(op: str, feeds: dict[str, Any], device: str = "cpu", **kwargs: Any) -> rt.InferenceSession:
    return rt.InferenceSession(node_model(op, feeds, **kwargs), device=device)


def run(op: str, feeds: dict[str, Any], device: str = "cpu", **kwargs: Any) -> list[Any]:
    """All outputs of one node."""
    given = {k: v for k, v in feeds.items() if v is not None and k not in kwargs.get("constants", ())}
    return session(op, feeds, device, **kwargs).run(None, given)


def both(
    op: str, feeds: dict[str, Any], spelled: dict[str, Any] | None = None, *, constants: Callable[[dict[str, Any]], list[str]] = lambda feeds: [],
    **kwargs: Any,
) -> list[tuple[Any, Any]]:  # fmt: skip
    """(ours, onnxruntime's) for every output of one com.microsoft node; onnxruntime runs it unoptimised.

    `spelled`: what onnxruntime gets instead, where it does not accept the inputs. `constants`: which of them are initializers.
    """
    ort = pytest.importorskip("onnxruntime")
    kwargs = {"domain": "com.microsoft", "opset": 1, **kwargs}
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    theirs = spelled or feeds
    fixed = constants(theirs)
    other = ort.InferenceSession(
        node_model(op, theirs, constants=fixed, **kwargs).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    expected = other.run(None, {k: v for k, v in theirs.items() if v is not None and k not in fixed})
    pairs = list(zip(run(op, feeds, constants=constants(feeds), **kwargs), expected, strict=True))
    for got, want in pairs:
        assert got.dtype == want.dtype and got.shape == want.shape
    return pairs


def text(*values: Any) -> np.ndarray[Any, Any]:
    """An object array of strings."""
    return np.array(values, object)


MS: dict[str, Any] = {"domain": "com.microsoft", "opset": 1}


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(dtype)


def close(pairs: list[tuple[Any, Any]], tolerance: float = 2e-6) -> None:
    """Within float32's rounding of the values' size."""
    for got, want in pairs:
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * max(1.0, np.abs(want).max(initial=0)))


def trimmed(feeds: dict[str, Any]) -> dict[str, Any]:
    """Without the absent optional inputs at the end."""
    kept = dict(feeds)
    while list(kept.values())[-1] is None:
        kept.popitem()
    return kept
