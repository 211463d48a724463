"""Optimizers, TreeEnsemble-5 and FlexAttention against onnx.reference or plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

import pytensor_rt as rt

from .nodes import node_model, run

rng = np.random.default_rng(5)
TRAINING = "ai.onnx.preview.training"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(
    ("op", "states", "attrs"),
    [
        ("Adagrad", 1, {"decay_factor": 0.1, "epsilon": 1e-5, "norm_coefficient": 0.01}),
        ("Adam", 2, {"alpha": 0.95, "beta": 0.85, "epsilon": 1e-2, "norm_coefficient": 0.001, "norm_coefficient_post": 0.1}),
        ("Momentum", 1, {"alpha": 0.95, "beta": 0.1, "mode": "standard", "norm_coefficient": 0.001}),
        ("Momentum", 1, {"alpha": 0.95, "beta": 0.1, "mode": "nesterov", "norm_coefficient": 0.01}),
    ],
)
def test_optimizers(op: str, states: int, attrs: dict[str, Any], groups: int, step: int, dtype: Any) -> None:
    feeds: dict[str, Any] = {"r": np.array(0.1, np.float32), "t": np.array(step, np.int64)}
    for k in range(2 + states):
        for i in range(groups):
            feeds[f"x{k}_{i}"] = np.abs(rng.standard_normal((2, 3 + i))).astype(dtype)
    n = (1 + states) * groups
    got = run(op, feeds, domain=TRAINING, opset=1, outputs=n, **attrs)
    want = ReferenceEvaluator(node_model(op, feeds, domain=TRAINING, opset=1, outputs=n, **attrs)).run(None, feeds)
    for y, e in zip(got, want, strict=True):
        assert y.dtype == dtype
        np.testing.assert_allclose(y, np.asarray(e, np.float64), 2e-5, 1e-6)


def tensor(values: Any, dtype: Any) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype))


def grow(x: np.ndarray, root: int, nodes: dict[str, Any], sets: dict[int, set[float]]) -> list[tuple[int, float]]:
    """(target, weight) reached by every row in one tree."""
    out = []
    for row in x:
        i, leaf = root, False
        while not leaf:
            v, s = row[nodes["feature"][i]], nodes["split"][i]
            tests = [v <= s, v < s, v >= s, v > s, v == s, v != s, i in sets and float(v) in sets[i]]
            hit = bool(tests[nodes["mode"][i]]) or (bool(np.isnan(v)) and bool(nodes["missing"][i]))
            side = "true" if hit else "false"
            i, leaf = nodes[side][i], bool(nodes[f"{side}_leaf"][i])
        out.append((nodes["target"][i], nodes["weight"][i]))
    return out


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("aggregate", [0, 1, 2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_tree_ensemble(dtype: Any, aggregate: int, missing: bool) -> None:
    """Complete trees of depth 3 with all node modes, NaN features, and one tree that is a leaf."""
    n_trees, inner, n_targets = 4, 7, 3
    node: dict[str, Any] = {k: [] for k in ("feature", "split", "mode", "true", "true_leaf", "false", "false_leaf", "missing")}
    node["target"], node["weight"], sets, members = [], [], {}, []
    for tree in range(n_trees):
        for i in range(inner):
            at = tree * inner + i
            node["feature"].append(int(rng.integers(0, 4)))
            node["split"].append(float(rng.integers(0, 4)))
            node["mode"].append(int(rng.integers(0, 7)))
            node["missing"].append(int(missing and rng.integers(0, 2)))
            if node["mode"][-1] == 6:
                sets[at] = {float(v) for v in rng.integers(0, 4, 2)}
                members += [*sorted(sets[at]), np.nan]
            for side, child in (("true", 2 * i + 1), ("false", 2 * i + 2)):
                leaf = child >= inner
                node[side].append(tree * 8 + child - inner if leaf else tree * inner + child)
                node[f"{side}_leaf"].append(int(leaf))
        node["target"] += [int(v) for v in rng.integers(0, n_targets, 8)]
        node["weight"] += [float(v) for v in rng.standard_normal(8).round(3)]
    roots = [tree * inner for tree in range(n_trees)] + [n_trees * inner]
    for k, v in {"feature": 0, "split": 0.0, "mode": 0, "true": 0, "false": 0, "true_leaf": 1, "false_leaf": 1, "missing": 0}.items():
        node[k].append(v)  # the tree that is leaf 0
    x = rng.integers(-1, 5, (40, 4)).astype(dtype)
    x[rng.random(x.shape) < 0.1] = np.nan
    attrs: dict[str, Any] = {"membership_values": tensor(members, dtype)} if members else {}
    attrs |= {"nodes_missing_value_tracks_true": node["missing"]} if missing else {}
    got = run(
        "TreeEnsemble", {"x": x}, domain="ai.onnx.ml", opset=5, n_targets=n_targets, aggregate_function=aggregate, tree_roots=roots,
        nodes_featureids=node["feature"], nodes_splits=tensor(node["split"], dtype), nodes_modes=tensor(node["mode"], np.uint8),
        nodes_truenodeids=node["true"], nodes_trueleafs=node["true_leaf"], nodes_falsenodeids=node["false"], nodes_falseleafs=node["false_leaf"],
        leaf_targetids=node["target"], leaf_weights=tensor(node["weight"], dtype), **attrs,
    )[0]  # fmt: skip
    hits: list[list[list[float]]] = [[[] for _ in range(n_targets)] for _ in x]
    for root in roots:
        for row, (target, weight) in enumerate(grow(x, root, node, sets)):
            hits[row][target].append(weight)
    fold: Any = (lambda w: sum(w) / len(roots), sum, lambda w: min(w, default=0), lambda w: max(w, default=0))[aggregate]
    assert got.dtype == dtype
    np.testing.assert_allclose(got, [[fold(w) for w in row] for row in hits], 1e-5, 1e-6)


def test_damaged_trees_are_errors() -> None:
    good: dict[str, Any] = {
        "tree_roots": [0], "nodes_featureids": [0], "nodes_splits": tensor([1], np.float32), "nodes_modes": tensor([0], np.uint8), "nodes_truenodeids": [0],
        "nodes_trueleafs": [1], "nodes_falsenodeids": [1], "nodes_falseleafs": [1], "leaf_targetids": [0, 0], "leaf_weights": tensor([1, 2], np.float32),
    }  # fmt: skip
    x = {"x": np.array([[0], [2]], np.float32)}
    assert run("TreeEnsemble", x, domain="ai.onnx.ml", opset=5, **good)[0].tolist() == [[1], [2]]
    for bad in (
        {"tree_roots": [1]}, {"nodes_featureids": [1]}, {"nodes_truenodeids": [2]}, {"nodes_falsenodeids": [-1]}, {"leaf_targetids": [0, 1]},
        {"nodes_modes": tensor([7], np.uint8)}, {"nodes_trueleafs": [0]}, {"leaf_targetids": [0]}, {"aggregate_function": 4},
    ):  # fmt: skip
        with pytest.raises(rt.PytensorRtError):
            run("TreeEnsemble", x, domain="ai.onnx.ml", opset=5, **{**good, **bad})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("modified", [False, True])
def test_flex_attention(dtype: Any, groups: int, modified: bool) -> None:
    q, k, v = (rng.standard_normal(s).astype(dtype) for s in ((2, 4, 5, 8), (2, groups, 6, 8), (2, groups, 6, 3)))
    element = "double" if dtype is np.float64 else "float"
    attrs: dict[str, Any] = {}
    if modified:
        attrs["score_mod"] = parser.parse_graph(f"m ({element}[B,H,L,S] s) => ({element}[B,H,L,S] o) {{ h = Tanh(s)\n o = Add(h, s) }}")
        attrs["prob_mod"] = parser.parse_graph(f"p ({element}[B,H,L,S] s) => ({element}[B,H,L,S] o) {{ o = Mul(s, s) }}")
    y = run("FlexAttention", {"q": q, "k": k, "v": v}, domain="ai.onnx.preview", opset=1, scale=0.25, **attrs)[0]
    wide = [np.repeat(a.astype(np.float64), 4 // a.shape[1], 1) for a in (q, k, v)]
    s = 0.25 * wide[0] @ wide[1].swapaxes(2, 3)
    s = np.tanh(s) + s if modified else s
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, (p * p if modified else p) @ wide[2], *((1e-2, 1e-2) if dtype is np.float16 else (1e-5, 1e-6)))


def test_flex_attention_shapes_must_fit() -> None:
    q = np.zeros((1, 3, 2, 4), np.float32)
    with pytest.raises(rt.PlanError, match="do not fit"):
        run("FlexAttention", {"q": q, "k": q[:, :2], "v": q[:, :2]}, domain="ai.onnx.preview", opset=1)


@pytest.mark.parametrize("held", ["tensor", "sequence"])
def test_optional_inputs_hold_what_they_declare(held: str) -> None:
    inner = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    kind = helper.make_optional_type_proto(inner if held == "tensor" else helper.make_sequence_type_proto(inner))
    out = helper.make_tensor_value_info("has", TensorProto.BOOL, [])
    nodes = [helper.make_node("OptionalHasElement", ["o"], ["has"])]
    graph = helper.make_graph(nodes, "g", [helper.make_value_info("o", kind)], [out])
    has = rt.InferenceSession(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    graph.node[0].op_type, graph.node[0].output[0] = "OptionalGetElement", "y"
    del graph.output[:]
    graph.output.append(helper.make_value_info("y", kind.optional_type.elem_type))
    get = rt.InferenceSession(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    for value in (
        ([np.ones(2, np.float32)], [], [np.zeros(1, np.float32)] * 3)
        if held == "sequence"
        else (np.ones((2, 1), np.float32), np.zeros(0, np.float32))
    ):
        assert has.run(None, {"o": value})[0]
        got = get.run(None, {"o": value})[0]
        assert isinstance(got, list) == (held == "sequence") and len(got) == len(value)
        assert all(np.array_equal(a, b) for a, b in zip(got, value, strict=True))
    assert not has.run(None, {"o": None})[0] and not has.run(None, {})[0]
    with pytest.raises(rt.PlanError, match="empty"):
        get.run(None, {})
