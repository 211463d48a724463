"""ai.onnx.ml: scikit-learn's pipelines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..dtypes import F32, F64, I64, STRING, DType
from ..hosted import positions, records, records_by_python
from ..kernels.spec import NODE_MODES
from ..lowering import expr as e
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .linear import matmul_like
from .movement import take
from .reduction import reduce_axes
from .registry import op

ML = "ai.onnx.ml"
Array = np.ndarray[Any, Any]


def _rows(t: Tracer, x: Tensor) -> Tensor:
    """[n, features]: a vector is one row."""
    return x.unsqueeze(0) if x.ndim == 1 else x


def _as_float(t: Tracer, x: Tensor) -> Tensor:
    return x if x.dtype in (F32, F64) else t.cast(x, F32)


@op("Scaler", domain=ML)
def scaler(t: Tracer, x: Tensor, *, offset: Any = (0.0,), scale: Any = (1.0,)) -> Tensor:
    return t.map(lambda v, o, s: (v - o) * s, t.cast(x, F32), t.const(np.array(offset, np.float32)), t.const(np.array(scale, np.float32)))


@op("Normalizer", domain=ML)
def normalizer(t: Tracer, x: Tensor, *, norm: str = "MAX") -> Tensor:
    x = t.cast(x, F32)
    last = (x.ndim - 1,)
    if norm == "MAX":
        return t.map(lambda v, m: e.where(m == 0, v, v / m), x, reduce_axes(t, x, "max", last, True))
    return t.map(lambda v, m: e.where(m == 0, v, v / m), x, reduce_axes(t, x, "l1" if norm == "L1" else "l2", last, True))


@op("Binarizer", domain=ML)
def binarizer(t: Tracer, x: Tensor, *, threshold: float = 0.0) -> Tensor:
    return t.map(lambda v: e.cast(v > threshold, x.dtype), x)


@op("Imputer", domain=ML)
def imputer(t: Tracer, x: Tensor, *, imputed_value_floats: Any = None, imputed_value_int64s: Any = None, replaced_value_float: float = 0.0,
            replaced_value_int64: int = 0) -> Tensor:  # fmt: skip
    if x.dtype == I64:
        fill = t.const(np.array(imputed_value_int64s, np.int64))
        return t.map(lambda v, f: e.where(v == replaced_value_int64, f, v), x, fill)
    fill = t.const(np.array(imputed_value_floats, x.dtype))
    if np.isnan(replaced_value_float):
        return t.map(lambda v, f: e.where(e.isnan(v), f, v), x, fill)
    return t.map(lambda v, f: e.where(v == replaced_value_float, f, v), x, fill)


@op("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(t: Tracer, x: Tensor, index: Tensor) -> Tensor:
    x = x if x.ndim > 1 else x.unsqueeze(0)
    return take(t, x, t.reshape(index, (index.size,)), x.ndim - 1)


@op("FeatureVectorizer", domain=ML)
def feature_vectorizer(t: Tracer, *xs: Tensor, inputdimensions: Any = None) -> Tensor:
    return t.concat([t.cast(_rows(t, x), F32) for x in xs], 1)


@op("LinearRegressor", domain=ML)
def linear_regressor(
    t: Tracer, x: Tensor, *, coefficients: Any, intercepts: Any = None, targets: int = 1, post_transform: str = "NONE"
) -> Tensor:
    x = t.cast(_rows(t, x), F32)
    w = t.const(np.array(coefficients, np.float32).reshape(targets, -1).T.copy())
    y = matmul_like(t, x, w)
    if intercepts is not None:
        y = t.map(lambda v, b: v + b, y, t.const(np.array(intercepts, np.float32)))
    return transform(t, y, post_transform)


def transform(t: Tracer, y: Tensor, kind: str) -> Tensor:
    """ONNX-ML post_transform over the last axis."""
    if kind == "NONE":
        return y
    if kind == "LOGISTIC":
        return t.map(e.sigmoid, y)
    last = y.ndim - 1
    if kind == "SOFTMAX":
        return t.record("softmax", [y], [(y.shape, y.dtype)], {"op": "softmax", "axis": last})[0]
    if kind == "SOFTMAX_ZERO":  # zeros stay zero and do not take part
        masked = t.map(lambda v: e.where(v == 0, float("-inf"), v), y)
        s = t.record("softmax", [masked], [(y.shape, y.dtype)], {"op": "softmax", "axis": last})[0]
        return t.map(lambda v, p: e.where(v == 0, v, p), y, s)
    if kind == "PROBIT":
        return t.map(_probit, y)
    t.fail(f"unknown post_transform {kind!r}")


def _probit(p: e.Var) -> e.Var:
    """sqrt(2) * erfinv(2p - 1) by Winitzki's approximation, as ONNX runtimes do."""
    x = p * 2.0 - 1.0
    log = e.log(-x * x + 1.0)
    a = log * 0.5 + 2.0 / (3.14159 * 0.147)
    b = log * (1.0 / 0.147)
    root = e.sqrt(e.sqrt(a * a - b) - a)
    return e.where(x < 0, -root, root) * 1.41421356


def _labels(t: Tracer, index: Tensor, strings: Any, ints: Any) -> Tensor:
    """Class labels [n] from class positions int64 [n]."""
    if strings:
        table = np.array([str(s) for s in strings], object)
        return t.host(lambda i: (table[i],), [index], [(index.shape, STRING)])[0]
    values = np.array(ints, np.int64)
    if (values == np.arange(len(values))).all():
        return index
    return t.record("gather", [t.const(values), index], [(index.shape, I64)], {"mode": "axis", "axis": 0})[0]


def _argmax(t: Tracer, scores: Tensor) -> Tensor:
    y = t.record("arg_reduce", [scores], [((scores.shape[0], 1), I64)], {"op": "max", "axis": 1})[0]
    return y.squeeze(1)


@op("LinearClassifier", domain=ML)
def linear_classifier(
    t: Tracer, x: Tensor, *, coefficients: Any, intercepts: Any = None, classlabels_ints: Any = None, classlabels_strings: Any = None,
    multi_class: int = 0, post_transform: str = "NONE",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    x = t.cast(_rows(t, x), F32)
    n_labels = len(classlabels_strings or classlabels_ints or ())
    n = len(intercepts) if intercepts is not None else n_labels
    features = int(x.shape[1])
    if len(coefficients) < n * features:
        t.fail(f"{len(coefficients)} coefficients, expected {n} classes x {features} features")
    w = np.array(coefficients, np.float32)[: n * features].reshape(
        n, features
    )  # more are ignored, as onnxruntime does (its logreg_iris has them)
    scores = matmul_like(t, x, t.const(w.T.copy()))
    if intercepts is not None:
        scores = t.map(lambda v, b: v + b, scores, t.const(np.array(intercepts, np.float32)))
    if n == 1 and n_labels == 2:  # binary: one score decides
        threshold = 0.5 if post_transform == "LOGISTIC" else 0.0
        positive = transform(t, scores, post_transform) if post_transform == "LOGISTIC" else scores
        index = t.map(lambda v: e.cast(v > threshold, I64), positive).squeeze(1)
        negative = t.map((lambda v: 1 - v) if post_transform == "LOGISTIC" else lambda v: -v, positive)
        both = t.concat([negative, positive], 1)
        if post_transform not in ("NONE", "LOGISTIC"):
            both = transform(t, both, post_transform)
        return _labels(t, index, classlabels_strings, classlabels_ints), both
    return _labels(t, _argmax(t, scores), classlabels_strings, classlabels_ints), transform(t, scores, post_transform)


@op("ZipMap", domain=ML)
def zip_map(t: Tracer, x: Tensor, *, classlabels_int64s: Any = None, classlabels_strings: Any = None) -> Tensor:
    """A list of {label: score} per row."""
    labels = list(classlabels_strings or classlabels_int64s)
    if x.ndim not in (1, 2) or x.shape[-1] != len(labels):
        t.fail(f"expected scores of {len(labels)} classes, got shape {list(x.shape)}")
    x, named = _rows(t, x), (records if x.dtype in (F32, F64) else records_by_python)(tuple(labels))
    return t.host(lambda v: (named(v),), [x], [t.empty((x.shape[0],), STRING)])[0]


@op("LabelEncoder", domain=ML)
def label_encoder(t: Tracer, x: Tensor, **attrs: Any) -> Tensor:
    keys: Any = None
    values: Any = None
    if "classes_strings" in attrs:  # version 1: strings to their positions, or back
        names = [str(s) for s in attrs["classes_strings"]]
        keys, values = (names, list(range(len(names)))) if x.dtype == STRING else (list(range(len(names))), names)
        default: Any = attrs.get("default_int64", -1) if x.dtype == STRING else attrs.get("default_string", "_Unused")
    else:
        for kind in ("strings", "int64s", "floats", "tensor"):
            keys = attrs.get(f"keys_{kind}", keys)
            values = attrs.get(f"values_{kind}", values)
        keys, values = np.asarray(keys).reshape(-1).tolist(), np.asarray(values).reshape(-1)
        is_text, is_int = values.dtype.kind in "USO", values.dtype.kind in "iu"
        if "default_tensor" in attrs:
            default = np.asarray(attrs["default_tensor"]).reshape(-1)[0]
        else:
            default = (
                attrs.get("default_string", "_Unused")
                if is_text
                else attrs.get("default_int64", -1)
                if is_int
                else attrs.get("default_float", -0.0)
            )
        values = values.tolist()
    dtype = STRING if isinstance(values[0], str) else I64 if isinstance(values[0], int) else F32
    if "values_tensor" in attrs and dtype != STRING:
        dtype = np.asarray(attrs["values_tensor"]).dtype
    return _translated(t, x, dict(zip(keys, values)), default, dtype)


_ROWS = 1 << 14  # OneHotEncoder copies rows of a table of at most this many elements
_SPARSE = 16  # a table of every integer from the least key to the greatest has at most this many places per key


def _translated(t: Tracer, x: Tensor, table: dict[Any, Any], default: Any, dtype: DType) -> Tensor:
    """table[x], or the default where x is not among the keys."""
    if x.dtype == STRING and dtype == I64:
        return t.host(lambda v: (positions(v, table, default),), [x], [(x.shape, I64)])[0]
    values: Any = np.empty(len(table) + 1, dtype)
    values[:] = [*table.values(), default]
    keys = np.array([*table], np.int64 if x.dtype.kind in "iu" else np.float64) if x.dtype != STRING else None
    if keys is not None and keys.size and keys.dtype == I64:
        first, last = _around(keys)
        if last - first <= _SPARSE * keys.size + 1 and dtype != STRING:
            dense = np.full(last - first + 1, default, dtype)
            dense[keys - first] = values[:-1]
            return t.record("gather", [t.const(dense), _clipped(t, x, first, last)], [(x.shape, dtype)], {"mode": "axis", "axis": 0})[0]
    if keys is None:
        places = {key: k for k, key in enumerate(table)}
        find: Callable[[Any], Any] = lambda v: positions(v, places, len(places))
    else:
        find = _search(keys)
    if dtype == STRING:
        return t.host(lambda v: (values[find(v)],), [x], [(x.shape, STRING)])[0]
    index = t.host(lambda v: (find(v),), [x], [(x.shape, I64)])[0]
    return t.record("gather", [t.const(values), index], [(x.shape, dtype)], {"mode": "axis", "axis": 0})[0]


def _around(keys: Any) -> tuple[int, int]:
    """The integers next to the least and the greatest key; far apart where there are none."""
    first, last = int(keys.min()) - 1, int(keys.max()) + 1
    return (first, last) if first >= -(1 << 63) and last < 1 << 63 else (0, 1 << 63)


def _clipped(t: Tracer, x: Tensor, first: int, last: int) -> Tensor:
    """Where x lies among the integers from `first` to `last`; an end if it is none of them."""
    return t.map(lambda v: e.min_(e.max_(v, first), last) - first, t.cast(x, I64))


def _search(keys: Any) -> Callable[[Any], Any]:
    """A function from an array of numbers to their positions among the keys, len(keys) where there is none. A NaN finds a NaN."""
    order = np.argsort(keys, kind="stable")
    ordered, n = keys[order], len(keys)
    order = np.append(order, n)
    nan = n > 0 and ordered[-1] != ordered[-1]

    def find(v: Any) -> Any:
        at = np.searchsorted(ordered, v)
        found = np.append(ordered, 0)[at] == v
        if nan:
            found |= v != v
        return np.where(found, order[at], n)

    return find


@op("CategoryMapper", domain=ML)
def category_mapper(
    t: Tracer, x: Tensor, *, cats_int64s: Any, cats_strings: Any, default_int64: int = -1, default_string: str = "_Unused"
) -> Tensor:
    if x.dtype == STRING:
        return label_encoder(t, x, keys_strings=tuple(cats_strings), values_int64s=tuple(cats_int64s), default_int64=default_int64)
    return label_encoder(t, x, keys_int64s=tuple(cats_int64s), values_strings=tuple(cats_strings), default_string=default_string)


@op("OneHotEncoder", domain=ML)
def one_hot_encoder(t: Tracer, x: Tensor, *, cats_int64s: Any = None, cats_strings: Any = None, zeros: int = 1) -> Tensor:
    if cats_strings:
        places = {str(s): k for k, s in enumerate(cats_strings)}
        cats = np.array([places[str(s)] for s in cats_strings], np.int64)
        x = t.host(lambda v: (positions(v, places, -1),), [x], [(x.shape, I64)])[0]
    else:
        cats, x = np.array(cats_int64s, np.int64), t.cast(x, I64)
    first, last = _around(cats)
    if (last - first + 1) * cats.size > _ROWS:
        return t.map(lambda v, c: e.cast(v == c, F32), x.unsqueeze(x.ndim), t.const(cats))
    rows = (np.arange(last - first + 1)[:, None] == cats - first).astype(np.float32)
    return t.record("gather", [t.const(rows), _clipped(t, x, first, last)], [((*x.shape, cats.size), F32)], {"mode": "axis", "axis": 0})[0]


# ------------------------------------------------------------------------------------------------------------------- tree ensembles
_MODES = {
    "BRANCH_LEQ": "leq",
    "BRANCH_LT": "lt",
    "BRANCH_GTE": "gte",
    "BRANCH_GT": "gt",
    "BRANCH_EQ": "eq",
    "BRANCH_NEQ": "neq",
    "LEAF": "leaf",
}


class _Nodes:
    """Where the node (tree, id) of a tree ensemble stands among its attributes."""

    def __init__(self, t: Tracer, trees: Array, ids: Array) -> None:
        different, first, self.tree = np.unique(trees, return_index=True, return_inverse=True)
        known, number = np.unique(ids, return_inverse=True)
        self.roots = np.sort(first)  # the first node of each tree, in the order in which trees appear
        self.count, self.pitch = len(ids), len(known) + 1  # (the last number of a tree is that of unknown ids)
        keys = self.tree * self.pitch + number
        if len(np.unique(keys)) != len(keys):
            t.fail("a node is defined twice")
        self.tree_number, self.number, self.position = _search(different), _search(known), _search(keys)

    def find(self, tree: Array, ids: Array) -> Array:
        """Positions of nodes of trees given by number (tree_number), or -1."""
        at = self.position(tree * self.pitch + self.number(ids))
        return np.where(at < self.count, at, -1)


def tree_arrays(
    t: Tracer, dtype: Any, *, nodes_treeids: Any, nodes_nodeids: Any, nodes_featureids: Any, nodes_values: Any, nodes_modes: Any, nodes_truenodeids: Any,
    nodes_falsenodeids: Any, nodes_missing_value_tracks_true: Any, leaf_treeids: Any, leaf_nodeids: Any, leaf_ids: Any, leaf_weights: Any,
) -> list[Array]:  # fmt: skip
    """The flat arrays of the tree_ensemble kernel from the TreeEnsembleRegressor/Classifier attributes. Checks every index."""
    n = len(nodes_treeids)
    missing = np.array(nodes_missing_value_tracks_true or (0,) * n, np.bool_)
    of_nodes = (nodes_nodeids, nodes_modes, nodes_values, nodes_featureids, nodes_truenodeids, nodes_falsenodeids, missing)
    if any(len(a) != n for a in of_nodes):
        t.fail("the node attributes have different lengths")
    if not len(leaf_treeids) == len(leaf_nodeids) == len(leaf_ids) == len(leaf_weights):
        t.fail("the leaf attributes have different lengths")
    if unknown := set(nodes_modes) - set(_MODES):
        t.fail(f"unknown node mode {min(unknown)!r}")
    codes = {m: NODE_MODES.index(kind) for m, kind in _MODES.items()}
    modes = np.array([codes[m] for m in nodes_modes], np.uint8)
    tree_ids, node_ids = np.array(nodes_treeids, np.int64), np.array(nodes_nodeids, np.int64)
    nodes = _Nodes(t, tree_ids, node_ids)
    inner = np.flatnonzero(modes != codes["LEAF"])
    branches = []
    for ids in (nodes_truenodeids, nodes_falsenodeids):
        children = np.array(ids, np.int64)[inner]
        at = nodes.find(nodes.tree[inner], children)
        if (lost := np.flatnonzero(at < 0)).size:
            i = inner[lost[0]]
            t.fail(f"tree {tree_ids[i]}: node {node_ids[i]} points to node {children[lost[0]]}, which does not exist")
        branch = np.arange(n, dtype=np.int32)
        branch[inner] = at
        branches.append(branch)
    true, false = branches
    parents = np.bincount(np.concatenate([true[inner], false[inner]]), minlength=n)
    if (twice := np.flatnonzero((parents > 1) | np.isin(np.arange(n), inner[(true[inner] == inner) | (false[inner] == inner)]))).size:
        t.fail(f"tree {tree_ids[twice[0]]}: node {node_ids[twice[0]]} has two parents")
    if parents[nodes.roots].any():
        t.fail("the first node of a tree is not its root, or the nodes form a cycle")
    leaf_trees, leaf_nodes = np.array(leaf_treeids, np.int64), np.array(leaf_nodeids, np.int64)
    owner = nodes.find(nodes.tree_number(leaf_trees), leaf_nodes)
    if (lost := np.flatnonzero(owner < 0)).size:
        t.fail(f"tree {leaf_trees[lost[0]]}: a leaf weight names node {leaf_nodes[lost[0]]}, which does not exist")
    order = np.argsort(owner, kind="stable")
    ranges = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=n))]).astype(np.int32)
    arrays = [
        np.array(nodes_featureids, np.int32), np.array(nodes_values, dtype), modes, true, false, nodes.roots.astype(np.int32),
        np.array(leaf_ids, np.int32)[order], np.array(leaf_weights, dtype)[order], ranges, missing,
    ]  # fmt: skip
    return arrays


def ensemble(t: Tracer, x: Tensor, arrays: list[Array], n_targets: int, aggregate: str, members: Array | None = None) -> Tensor:
    """Sums (or other aggregates) [n, n_targets] of the leaves that x [n, features] reaches, in x's dtype; `arrays` as the kernel takes them."""
    features, targets = arrays[0], arrays[6]
    if x.ndim != 2 or (features.size and not 0 <= int(features.min()) <= int(features.max()) < x.shape[1]):
        t.fail(f"a node reads feature {int(features.max(initial=-1))} of x of shape {list(map(int, x.shape))}")
    if targets.size and not 0 <= int(targets.min()) <= int(targets.max()) < n_targets:
        t.fail(f"a leaf names target {int(targets.max())} of {n_targets}")
    operands = [x, *map(t.const, arrays), None if members is None else t.const(members)]
    return t.record("tree_ensemble", operands, [((x.shape[0], n_targets), x.dtype)], {"aggregate": aggregate, "n_targets": n_targets})[0]


_NODE_ATTRS = (
    "nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_values", "nodes_modes", "nodes_truenodeids", "nodes_falsenodeids",
    "nodes_missing_value_tracks_true",
)  # fmt: skip


def _values(attrs: dict[str, Any], name: str) -> Any:
    """The floats of an attribute, or of the tensor that replaces it."""
    tensor = attrs.get(f"{name}_as_tensor")
    return attrs.get(name, ()) if tensor is None else np.asarray(tensor).reshape(-1)


def _node_attrs(attrs: dict[str, Any]) -> dict[str, Any]:
    return {**{k: attrs.get(k) for k in _NODE_ATTRS}, "nodes_values": _values(attrs, "nodes_values")}


def _with_base(t: Tracer, y: Tensor, attrs: dict[str, Any]) -> Tensor:
    base = _values(attrs, "base_values")
    return t.map(lambda v, b: v + b, y, t.const(np.array(base, y.dtype))) if len(base) else y


@op("TreeEnsembleRegressor", domain=ML)
def tree_ensemble_regressor(t: Tracer, x: Tensor, **attrs: Any) -> Tensor:
    x = _as_float(t, _rows(t, x))
    arrays = t.derived(
        x.dtype,
        lambda: tree_arrays(
            t, x.dtype, **_node_attrs(attrs), leaf_treeids=attrs["target_treeids"], leaf_nodeids=attrs["target_nodeids"],
            leaf_ids=attrs["target_ids"], leaf_weights=_values(attrs, "target_weights"),
        ),
    )  # fmt: skip
    y = ensemble(t, x, arrays, attrs.get("n_targets", 1), attrs.get("aggregate_function", "SUM").lower())
    return t.cast(transform(t, _with_base(t, y, attrs), attrs.get("post_transform", "NONE")), F32)


@op("TreeEnsembleClassifier", domain=ML)
def tree_ensemble_classifier(t: Tracer, x: Tensor, **attrs: Any) -> tuple[Tensor, Tensor]:
    x = _as_float(t, _rows(t, x))
    strings, ints = attrs.get("classlabels_strings"), attrs.get("classlabels_int64s")
    n = len(strings or ints or ())

    def read() -> tuple[bool, bool, list[Array]]:
        ids, weights = np.array(attrs["class_ids"], np.int64), np.array(_values(attrs, "class_weights"))
        binary = n == 2 and len(ids) > 0 and bool((ids == ids[0]).all())
        arrays = tree_arrays(
            t, x.dtype, **_node_attrs(attrs), leaf_treeids=attrs["class_treeids"], leaf_nodeids=attrs["class_nodeids"],
            leaf_ids=np.zeros_like(ids) if binary else ids, leaf_weights=weights,
        )  # fmt: skip
        return binary, bool((weights >= 0).all()), arrays

    binary, positive_weights, arrays = t.derived(x.dtype, read)  # binary: one column of weights for two classes
    scores = t.cast(_with_base(t, ensemble(t, x, arrays, 1 if binary else n, "sum"), attrs), F32)
    kind = attrs.get("post_transform", "NONE")
    if binary:
        limit = 0.5 if positive_weights and kind == "NONE" else 0.0
        index = t.map(lambda v: e.cast(v > limit, I64), scores).squeeze(1)
        if kind == "LOGISTIC":
            p = t.map(e.sigmoid, scores)
            both = t.concat([t.map(lambda v: 1 - v, p), p], 1)
        elif positive_weights and kind == "NONE":
            both = t.concat([t.map(lambda v: 1 - v, scores), scores], 1)
        else:
            both = transform(t, t.concat([t.map(lambda v: -v, scores), scores], 1), kind)
        return _labels(t, index, strings, ints), both
    return _labels(t, _argmax(t, scores), strings, ints), transform(t, scores, kind)
