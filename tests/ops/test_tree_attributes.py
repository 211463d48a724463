"""TreeEnsembleRegressor's attributes: nodes and leaves in any order, and what is wrong with them, by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import pytensor_rt as rt

from .nodes import node_model, run, session

MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
INNER = 7  # of the 15 nodes of a tree


def regressor(mixed: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Three trees of depth 3, ids with gaps, two weights per leaf; `mixed`: nodes in any order, but for roots, and leaves too."""
    rng = np.random.default_rng(6)
    nodes = []
    for tree in (7, -3, 10**12):
        for k in range(15):
            inner = k < INNER
            branches = (6 * k + 4, 6 * k + 7) if inner else (0, 0)
            mode = str(rng.choice(MODES)) if inner else "LEAF"
            nodes.append((tree, 3 * k + 1, int(rng.integers(4)), float(rng.integers(-2, 3)), mode, *branches))
    leaves = [
        (node[0], node[1], int(rng.integers(2)), float(rng.standard_normal())) for node in nodes if node[4] == "LEAF" for _ in range(2)
    ]
    if mixed:
        nodes.sort(key=lambda node: (node[1] != 1, rng.random()))
        leaves.sort(key=lambda _: rng.random())
    attrs: dict[str, Any] = {"n_targets": 2}
    for name, column in zip(("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids"), zip(*nodes)):
        attrs[f"nodes_{name}"] = list(column)
    for name, column in zip(("treeids", "nodeids", "ids", "weights"), zip(*leaves)):
        attrs[f"target_{name}"] = list(column)
    return {"x": rng.integers(-3, 4, (50, 4)).astype(np.float32)}, attrs


@pytest.mark.parametrize("mixed", [False, True])
def test_order(mixed: bool) -> None:
    feeds, attrs = regressor(mixed)
    (got,) = run("TreeEnsembleRegressor", feeds, domain="ai.onnx.ml", opset=3, **attrs)
    (want,) = ReferenceEvaluator(node_model("TreeEnsembleRegressor", feeds, domain="ai.onnx.ml", opset=3, **attrs)).run(None, feeds)
    np.testing.assert_allclose(got, want, 1e-5, 1e-6)


@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        ("nodes_truenodeids", 1, 2, "node 4 points to node 2, which does not exist"), ("nodes_truenodeids", 1, 4, "has two parents"),
        ("nodes_truenodeids", 1, 34, "node 34 has two parents"), ("nodes_falsenodeids", 1, 1, "the first node of a tree is not its root"),
        ("nodes_nodeids", 14, 1, "defined twice"), ("nodes_modes", 0, "BRANCH_MAYBE", "unknown node mode 'BRANCH_MAYBE'"),
        ("target_nodeids", 0, 2, "a leaf weight names node 2, which does not exist"), ("target_treeids", 0, 5, "tree 5: a leaf weight names node"),
        ("nodes_values", None, None, "the node attributes have different lengths"), ("target_ids", None, None, "the leaf attributes have different lengths"),
        ("nodes_featureids", 1, 4, "reads feature 4 of x"), ("target_ids", 0, 2, "names target 2 of 2"),
    ],
)  # fmt: skip
def test_damage_is_named(name: str, at: int | None, value: Any, message: str) -> None:
    feeds, attrs = regressor(False)
    if at is None:
        attrs[name].pop()
    else:
        attrs[name][at] = value
    with pytest.raises(rt.PytensorRtError, match=message):
        run("TreeEnsembleRegressor", feeds, domain="ai.onnx.ml", opset=3, **attrs)


def test_a_new_batch_reads_and_packs_nothing_again() -> None:
    feeds, attrs = regressor(False)
    s = session("TreeEnsembleRegressor", feeds, domain="ai.onnx.ml", opset=3, **attrs)
    want = s.run(None, feeds)[0]
    packed = s._memory.packs.nbytes
    for n in (1, 2, 7, 20, 33):
        np.testing.assert_array_equal(s.run(None, {"x": feeds["x"][:n]})[0], want[:n])
    assert s._memory.packs.nbytes == packed > 0
