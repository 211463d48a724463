"""Tree ensembles against onnxruntime: one thread each, in turns, medians. Random forests of a given shape.

PYTHONPATH=. python benchmarks/kernels/trees/bench.py [substring]
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

import pytensor_rt as rt
from benchmarks.classical import paired

FEATURES, BLOCKS = 30, 7
# name: trees, leaves, targets, is a leaf's row of all targets (a classifier's forest) or is there one target per tree
FORESTS: dict[str, tuple[int, int, int, bool]] = {
    "boosted, 100 x 8 leaves": (100, 8, 1, False),
    "boosted, 500 x 31 leaves": (500, 31, 1, False),
    "boosted, 5 classes, 500 x 31 leaves": (500, 31, 5, False),
    "boosted, 300 x 64 leaves": (300, 64, 1, False),
    "forest, 5 classes, 100 x 170 leaves": (100, 170, 5, True),
    "forest, 5 classes, 100 x 800 leaves": (100, 800, 5, True),
    "forest, 100 x 2500 leaves": (100, 2500, 1, False),
}


def grow(rng: np.random.Generator, leaves: int) -> list[tuple[int, float, int, int]]:
    """(feature, threshold, true child, false child) of a tree whose leaves split at random, those near the root more often; a leaf's feature is -1."""
    nodes: list[tuple[int, float, int, int]] = [(-1, 0.0, 0, 0)]
    ends, depth = [0], [0]
    while len(ends) < leaves:
        weights = np.array([0.8 ** depth[i] for i in ends])
        i = ends.pop(int(rng.choice(len(ends), p=weights / weights.sum())))
        nodes[i] = (int(rng.integers(FEATURES)), float(rng.standard_normal()), len(nodes), len(nodes) + 1)
        for _ in range(2):
            ends.append(len(nodes))
            depth.append(depth[i] + 1)
            nodes.append((-1, 0.0, 0, 0))
    return nodes


def model(trees: int, leaves: int, targets: int, dense: bool) -> bytes:
    rng = np.random.default_rng(0)
    a: dict[str, list[Any]] = {
        f"nodes_{k}": [] for k in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    }
    a |= {f"target_{k}": [] for k in ("treeids", "nodeids", "ids", "weights")}
    for tree in range(trees):
        for i, (feature, threshold, yes, no) in enumerate(grow(rng, leaves)):
            for k, v in zip(list(a)[:7], (tree, i, max(feature, 0), threshold, "LEAF" if feature < 0 else "BRANCH_LEQ", yes, no)):
                a[k].append(v)
            for target in range(targets) if dense else (tree % targets,):
                if feature < 0:
                    for k, v in zip(list(a)[7:], (tree, i, target, float(rng.standard_normal()))):
                        a[k].append(v)
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=targets, **a)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, targets])],
    )  # fmt: skip
    ids = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=ids, ir_version=8).SerializeToString()


def main() -> None:
    for name, shape in FORESTS.items():
        if len(sys.argv) > 1 and sys.argv[1] not in name:
            continue
        content = model(*shape)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        theirs = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        ours = rt.InferenceSession(content, threads=1)
        for n in (1, 8, 100, 5000):
            feed = {"x": np.random.default_rng(1).standard_normal((n, FEATURES)).astype(np.float32)}
            np.testing.assert_allclose(ours.run(None, feed)[0], theirs.run(None, feed)[0], 1e-4, 1e-4)
            a, b, _ = paired(ours, theirs, feed, BLOCKS)
            print(f"{name:38s} {n:5d} rows  ours {a:10.1f} us  onnxruntime {b:10.1f} us  {b / a:6.2f}", flush=True)


if __name__ == "__main__":
    main()
