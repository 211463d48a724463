"""tree_ensemble against a plain walk in Python and against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt import _native
from pytensor_rt.kernels.spec import NODE_MODES

from . import harness

Array = np.ndarray[Any, Any]
LEAF, MEMBER = NODE_MODES.index("leaf"), NODE_MODES.index("member")
COMPARE = {
    "leq": np.less_equal, "lt": np.less, "gte": np.greater_equal, "gt": np.greater, "eq": np.equal, "neq": np.not_equal,
}  # fmt: skip


class Forest:
    """Random trees as the kernel's flat arrays."""

    def __init__(
        self, rng: np.random.Generator, trees: int, depth: int, features: int, targets: int, modes: list[str], dtype: Any = np.float32,
        missing: bool = False, per_leaf: int = 1, full: bool = False, weight_dtype: Any = None,
    ) -> None:  # fmt: skip
        self.features_n, self.targets, self.per_leaf, self.rng, self.full = features, targets, per_leaf, rng, full
        self.feature: list[int] = []
        self.threshold: list[float] = []
        self.mode: list[int] = []
        self.yes: list[int] = []
        self.no: list[int] = []
        self.missing: list[bool] = []
        self.ranges, self.leaf_targets, self.weights, self.sets = [0], [], [], []
        self.modes, self.track = modes, missing
        self.roots = [self.grow(depth) for _ in range(trees)]
        self.dtype, self.weight_dtype = dtype, weight_dtype or dtype

    def grow(self, depth: int) -> int:
        rng, i = self.rng, len(self.feature)
        leaf = depth == 0 or (not self.full and rng.random() < 0.15)
        mode = "leaf" if leaf else str(rng.choice(self.modes))
        self.feature.append(0 if leaf else int(rng.integers(self.features_n)))
        self.threshold.append(0.0 if leaf else float(rng.integers(-3, 4)) / 2)
        self.mode.append(NODE_MODES.index(mode))
        self.missing.append(bool(self.track and rng.random() < 0.5))
        self.yes.append(0)
        self.no.append(0)
        if mode == "member":
            self.sets.append(rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], rng.integers(0, 4)).tolist())
        n = 0 if not leaf else self.per_leaf if self.per_leaf == 1 else int(rng.integers(0, self.per_leaf + 1))
        for _ in range(n):
            self.leaf_targets.append(int(rng.integers(self.targets)))
            self.weights.append(float(rng.standard_normal()))
        self.ranges.append(len(self.leaf_targets))
        if not leaf:
            self.yes[i] = self.grow(depth - 1)
            self.no[i] = self.grow(depth - 1)
        return i

    def operands(self) -> list[Array | None]:
        sets: list[float] = []
        for k, s in enumerate(self.sets):
            sets += ([np.nan] if k else []) + s
        i32 = np.int32
        return [
            np.array(self.feature, i32), np.array(self.threshold, self.dtype), np.array(self.mode, np.uint8), np.array(self.yes, i32),
            np.array(self.no, i32), np.array(self.roots, i32), np.array(self.leaf_targets, i32), np.array(self.weights, self.weight_dtype),
            np.array(self.ranges, i32), np.array(self.missing, np.bool_), np.array(sets, self.dtype) if self.sets else None,
        ]  # fmt: skip

    def reference(self, x: Array, aggregate: str) -> Array:
        weights = np.array(self.weights, self.weight_dtype).astype(np.float64)
        members = [i for i, m in enumerate(self.mode) if m == MEMBER]
        y = np.zeros((len(x), self.targets))
        for r, row in enumerate(x):
            got: list[list[float]] = [[] for _ in range(self.targets)]
            for root in self.roots:
                i = root
                while self.mode[i] != LEAF:
                    v = row[self.feature[i]]
                    if self.mode[i] == MEMBER:
                        yes = bool(v in self.sets[members.index(i)])
                    else:
                        yes = bool(COMPARE[NODE_MODES[self.mode[i]]](v, self.dtype(self.threshold[i])))
                    i = self.yes[i] if yes or (np.isnan(v) and self.missing[i]) else self.no[i]
                for j in range(self.ranges[i], self.ranges[i + 1]):
                    got[self.leaf_targets[j]].append(weights[j])
            for c, w in enumerate(got):
                if w:
                    y[r, c] = {"sum": sum, "average": lambda w: sum(w) / len(self.roots), "min": min, "max": max}[aggregate](w)
        return y


def predict(forest: Forest, x: Array, aggregate: str = "sum", y: Any = None, **kw: Any) -> Array:
    ops = forest.operands()
    y = ((len(x), forest.targets), forest.weight_dtype) if y is None else y
    params = {"aggregate": aggregate, "n_targets": forest.targets}
    return harness.run("tree_ensemble", [x, *ops], [y], params, consts=[k + 1 for k, o in enumerate(ops) if o is not None], **kw)[0]


def rows(rng: np.random.Generator, n: int, f: int, dtype: Any, nans: bool = True) -> Array:
    x = rng.integers(-4, 5, (n, f)) / 2  # many values equal to thresholds
    x = np.where(rng.random((n, f)) < 0.2, rng.standard_normal((n, f)), x)
    if nans:
        x = np.where(rng.random((n, f)) < 0.1, rng.choice([np.nan, np.inf, -np.inf, -0.0], (n, f)), x)
    return x.astype(dtype)


MODE_SETS = [["leq"], ["lt"], ["gte"], ["gt"], ["leq", "lt", "gte", "gt"], ["eq", "neq"], ["member"], ["leq", "eq", "member", "gt"]]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("modes", MODE_SETS, ids="-".join)
def test_modes(modes: list[str], missing: bool) -> None:
    rng = np.random.default_rng(15)
    for xd, td in [(np.float32, np.float32), (np.float64, np.float64), (np.float64, np.float32), (np.float32, np.float64)]:
        forest = Forest(rng, 7, 5, 4, 1, modes, td, missing)
        x = rows(rng, 140, 4, xd)
        want = forest.reference(x, "sum")
        for threads in (1, 2):
            np.testing.assert_array_equal(predict(forest, x, threads=threads), want.astype(td))
        y = harness.strided(rng, np.zeros(want.shape, td))
        np.testing.assert_array_equal(predict(forest, harness.strided(rng, x), y=y), want.astype(td))


@pytest.mark.parametrize("aggregate", ["sum", "average", "min", "max"])
@pytest.mark.parametrize("targets", [1, 3])
def test_aggregates(aggregate: str, targets: int) -> None:
    rng = np.random.default_rng(16)
    for per_leaf in (1, 3):
        forest = Forest(rng, 9, 4, 5, targets, ["leq"], per_leaf=per_leaf, weight_dtype=np.float64)
        for n in (1, 17, 129):
            x = rows(rng, n, 5, np.float32)
            np.testing.assert_allclose(predict(forest, x, aggregate), forest.reference(x, aggregate), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("modes", [["leq"], ["lt", "gt", "eq"], ["leq", "neq", "gte"]], ids="-".join)
@pytest.mark.parametrize("depth", [1, 3, 5, 6, 7, 10])
def test_sizes(depth: int, modes: list[str], dtype: Any) -> None:
    """Trees of 2 to 1024 leaves (by their tests and walked), few and many features and rows; the order of additions is that of the trees."""
    rng = np.random.default_rng(24)
    for features, trees, full in ((3, 5, True), (40, 3, False), (70, 3, True), (200, 18, False)):
        forest = Forest(rng, trees if depth < 10 else 2, depth, features, 1, modes, dtype, missing=True, full=full)
        x = rows(rng, 70, features, dtype)
        want = forest.reference(x, "sum").astype(dtype)
        for n in (1, 2, 3, 4, 8, 15, 16, 17, 63, 64, 70):
            np.testing.assert_array_equal(predict(forest, x[:n]), want[:n])


def test_unbalanced_trees() -> None:
    """Chains of 2 to 130 leaves: lists of several words."""
    rng = np.random.default_rng(25)
    for leaves in (2, 31, 32, 33, 64, 65, 130):
        forest = Forest(rng, 0, 0, 4, 1, ["leq"])
        for side in range(2):
            root = len(forest.feature)
            forest.roots.append(root)
            n = 2 * leaves - 1
            for i in range(n):
                inner = i % 2 == 0 and i < n - 1
                forest.feature.append(int(rng.integers(4)) if inner else 0)
                forest.threshold.append(float(rng.integers(-3, 4)) / 2)
                forest.mode.append(NODE_MODES.index("leq") if inner else LEAF)
                forest.missing.append(False)
                children = (root + i + 1, root + i + 2) if inner else (0, 0)
                forest.yes.append(children[side])
                forest.no.append(children[1 - side])
                if not inner:
                    forest.leaf_targets.append(0)
                    forest.weights.append(float(rng.standard_normal()))
                forest.ranges.append(len(forest.leaf_targets))
        x = rows(rng, 66, 4, np.float32)
        want = forest.reference(x, "sum").astype(np.float32)
        for n in (1, 5, 20, 66):
            np.testing.assert_array_equal(predict(forest, x[:n]), want[:n])


@pytest.mark.parametrize("weights", [np.float32, np.float64])
@pytest.mark.parametrize("targets", [2, 5, 8, 11])
def test_weights_of_trees_and_of_leaves(targets: int, weights: Any) -> None:
    """One target per tree (boosted trees), all targets in each leaf (forests of classifiers), some twice, some missing."""
    rng = np.random.default_rng(26)
    for kind in ("of tree", "of leaf", "twice"):
        for depth in (3, 6, 9):
            forest = Forest(rng, 7, depth, 6, targets, ["leq"], weight_dtype=weights, full=depth < 9)
            forest.ranges, forest.leaf_targets, forest.weights = [0], [], []
            for i, mode in enumerate(forest.mode):
                if mode == LEAF:
                    tree = int(np.searchsorted(forest.roots, i, "right"))
                    chosen = [tree % targets] if kind == "of tree" else rng.permutation(targets)[: targets - int(rng.integers(2))].tolist()
                    chosen += chosen[:1] if kind == "twice" else []
                    forest.leaf_targets += chosen
                    forest.weights += rng.standard_normal(len(chosen)).tolist()
                forest.ranges.append(len(forest.leaf_targets))
            x = rows(rng, 65, 6, np.float32)
            for aggregate in ("sum", "average", "max"):
                want = forest.reference(x, aggregate).astype(weights)
                for n in (1, 2, 9, 65):
                    np.testing.assert_array_equal(predict(forest, x[:n], aggregate), want[:n])


def test_same_bits_for_any_thread_count_and_batch() -> None:
    rng = np.random.default_rng(17)
    forest = Forest(rng, 40, 6, 6, 2, ["leq", "gt"], missing=True, per_leaf=2)
    x = rows(rng, 700, 6, np.float32)
    y = predict(forest, x)
    for threads in (2, 3):
        assert predict(forest, x, threads=threads).tobytes() == y.tobytes()
    assert predict(forest, x[333:334]).tobytes() == y[333:334].tobytes()


def test_subnormal_and_extreme_thresholds() -> None:
    """lt and gte are rewritten as <= of a neighbouring number: right at the ends of the number line too."""
    t = np.array([0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 1.0], np.float32)
    x = np.concatenate([t, np.nextafter(t, np.float32(-np.inf)), np.nextafter(t, np.float32(np.inf))])[:, None]
    rng = np.random.default_rng(18)
    for mode in ("leq", "lt", "gte", "gt"):
        for missing in (False, True):
            for threshold in t:
                forest = Forest(rng, 1, 1, 1, 1, [mode], full=True)
                forest.threshold[0], forest.missing[0] = float(threshold), missing
                np.testing.assert_array_equal(predict(forest, x), forest.reference(x, "sum").astype(np.float32))


def test_shared_subtrees() -> None:
    rng = np.random.default_rng(19)
    forest = Forest(rng, 2, 3, 3, 1, ["leq"], full=True)
    forest.no[forest.roots[1]] = forest.yes[forest.roots[0]]  # one subtree under two trees
    forest.yes[forest.no[0]] = forest.no[forest.yes[0]]
    x = rows(rng, 50, 3, np.float32)
    np.testing.assert_array_equal(predict(forest, x), forest.reference(x, "sum").astype(np.float32))


def test_leaf_roots_and_no_trees() -> None:
    rng = np.random.default_rng(20)
    forest = Forest(rng, 3, 0, 2, 1, ["leq"])
    x = rows(rng, 5, 2, np.float32)
    np.testing.assert_array_equal(predict(forest, x), forest.reference(x, "sum").astype(np.float32))
    forest.roots = []
    np.testing.assert_array_equal(predict(forest, x, "average"), np.zeros((5, 1)))


@pytest.mark.parametrize("modes", [["leq"], ["member"]], ids="-".join)
def test_nodes_that_no_tree_reaches_may_be_a_cycle(modes: list[str]) -> None:
    rng = np.random.default_rng(29)
    forest = Forest(rng, 2, 4, 3, 1, modes, full=True)
    del forest.roots[0]
    forest.yes[0] = forest.no[0] = 0
    x = rows(rng, 20, 3, np.float32)
    want = forest.reference(x, "sum").astype(np.float32)
    for n in (1, 5, 20):
        np.testing.assert_array_equal(predict(forest, x[:n]), want[:n])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("yes", -1, "child out of range"), ("no", 1 << 20, "child out of range"), ("feature", 3, "feature out of range"), ("yes", 0, "cycle"),
        ("feature", -1, "feature out of range"), ("mode", 8, "bad node mode"), ("roots", 99999, "root out of range"), ("ranges", 5, "leaf range"),
    ],
)  # fmt: skip
def test_corrupt_trees_are_refused(field: str, value: int, message: str) -> None:
    forest = Forest(np.random.default_rng(21), 1, 3, 3, 1, ["leq"], full=True)
    getattr(forest, field)[0] = value
    with pytest.raises(_native.LaunchError, match=message):
        predict(forest, np.zeros((2, 3), np.float32))


def test_trees_must_be_constant() -> None:
    forest = Forest(np.random.default_rng(22), 1, 2, 3, 1, ["leq"])
    with pytest.raises(_native.LaunchError, match="must be constant"):
        harness.run("tree_ensemble", [np.zeros((2, 3), np.float32), *forest.operands()], [((2, 1), np.float32)], {"n_targets": 1})


def ort_session(forest: Forest, aggregate: str) -> Any:
    ort = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    names = {
        "leaf": "LEAF",
        "leq": "BRANCH_LEQ",
        "lt": "BRANCH_LT",
        "gte": "BRANCH_GTE",
        "gt": "BRANCH_GT",
        "eq": "BRANCH_EQ",
        "neq": "BRANCH_NEQ",
    }
    n = len(forest.feature)
    tree = np.searchsorted(forest.roots, np.arange(n), "right") - 1  # nodes of a tree are consecutive
    local = np.arange(n) - np.array(forest.roots)[tree]
    base = np.array(forest.roots)[tree]
    owner = np.repeat(np.arange(n), np.diff(forest.ranges))
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=forest.targets, aggregate_function=aggregate.upper(),
        nodes_treeids=tree.tolist(), nodes_nodeids=local.tolist(), nodes_featureids=forest.feature, nodes_values=forest.threshold,
        nodes_modes=[names[NODE_MODES[m]] for m in forest.mode], nodes_missing_value_tracks_true=[int(m) for m in forest.missing],
        nodes_truenodeids=[max(0, int(v - b)) for v, b in zip(forest.yes, base)],
        nodes_falsenodeids=[max(0, int(v - b)) for v, b in zip(forest.no, base)],
        target_treeids=tree[owner].tolist(), target_nodeids=local[owner].tolist(), target_ids=forest.leaf_targets, target_weights=forest.weights,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, forest.features_n])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, forest.targets])],
    )  # fmt: skip
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(m.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("modes", MODE_SETS[:6], ids="-".join)
@pytest.mark.parametrize("aggregate", ["sum", "average", "min", "max"])
def test_against_onnxruntime(modes: list[str], aggregate: str) -> None:
    rng = np.random.default_rng(23)
    for targets in (1, 2):
        forest = Forest(rng, 12, 5, 4, targets, modes, missing=True)
        x = rows(rng, 60, 4, np.float32)
        (want,) = ort_session(forest, aggregate).run(None, {"x": x})
        np.testing.assert_allclose(predict(forest, x, aggregate), want, rtol=1e-5, atol=1e-6)
