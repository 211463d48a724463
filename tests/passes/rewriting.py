"""Small models in ONNX's text format, and what is demanded of every rewrite of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator
from onnxruntime import InferenceSession

from pytensor_rt.graph import Model, export_model, load_model, verify
from pytensor_rt.passes import optimize

Feeds = dict[str, np.ndarray]


def parse(
    body: str, inputs: str = "float[2, 5, 8] x", outputs: str = "float y", opset: int = 18, weights: dict[str, np.ndarray] | None = None
):
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}')
    for v in model.graph.output:
        v.ClearField("type")
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in (weights or {}).items())
    return model


def feeds_of(model: onnx.ModelProto, seed: int = 0) -> Feeds:
    rng = np.random.default_rng(seed)
    out = {}
    for v in model.graph.input:
        shape = [d.dim_value or 3 for d in v.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)
        out[v.name] = rng.random(shape) < 0.7 if dtype == np.bool_ else rng.standard_normal(shape).astype(dtype)
    return out


def by_reference(proto: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    return ReferenceEvaluator(proto).run(None, feeds)


def by_onnxruntime(proto: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    return InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


def rewritten(proto: onnx.ModelProto, tolerance: float = 2e-6, evaluate=by_reference) -> tuple[Model, Counter[str]]:
    """Optimize; check that the result is consistent and computes the same; count ops over all graphs."""
    feeds = feeds_of(proto)
    want = evaluate(proto, feeds)
    model = optimize(load_model(proto.SerializeToString()))
    verify(model)
    got = evaluate(export_model(model), feeds)
    for a, b in zip(got, want):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    nodes = [n for g in model.graph.graphs() for n in g.nodes]
    assert [n.index for n in model.graph.nodes] == list(range(len(model.graph.nodes)))
    return model, Counter(n.op_type for n in nodes)


def constants(*lines: str) -> str:
    """`name value` pairs as scalar Constant nodes."""
    return " ".join(f"{line.split()[0]} = Constant <value_float = {float(line.split()[1])!r}> ()" for line in lines)


def random(*shape: int) -> np.ndarray:
    """Normal values that depend on the shape alone."""
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)
