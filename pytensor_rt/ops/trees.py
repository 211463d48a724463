"""ai.onnx.ml TreeEnsemble-5, mapped onto the arrays of the tree_ensemble kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dtypes import F32, F64
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .classical import ML, ensemble, transform
from .registry import op

_AGGREGATES = ("average", "sum", "min", "max")
_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def _children(t: Tracer, ids: Any, leafs: Any, n: int, leaves: int) -> Any:
    """Positions in nodes-then-leaves of one branch of every node."""
    at, leaf = np.array(ids, np.int64), np.array(leafs, np.int64) != 0
    if len(at) != n or len(leaf) != n:
        t.fail(f"a branch attribute has {min(len(at), len(leaf))} entries for {n} nodes")
    if ((at < 0) | (at >= np.where(leaf, leaves, n))).any():
        t.fail("a branch leads to a node or leaf that does not exist")
    return np.where(leaf, n + at, at).astype(np.int32)


@op("TreeEnsemble", since=5, domain=ML)
def tree_ensemble(
    t: Tracer, x: Tensor, *, tree_roots: Any, nodes_featureids: Any, nodes_splits: Any, nodes_modes: Any, nodes_truenodeids: Any, nodes_trueleafs: Any,
    nodes_falsenodeids: Any, nodes_falseleafs: Any, leaf_targetids: Any, leaf_weights: Any, n_targets: int = 1, aggregate_function: int = 1,
    post_transform: int = 0, nodes_missing_value_tracks_true: Any = None, membership_values: Any = None, nodes_hitrates: Any = None,
) -> Tensor:  # fmt: skip
    """[n, n_targets] of x [n, features], in x's dtype. Interior nodes come first in the kernel's arrays, then the leaves."""
    dtype = F64 if x.dtype == F64 else F32
    if not 0 <= aggregate_function < len(_AGGREGATES) or not 0 <= post_transform < len(_TRANSFORMS):
        t.fail("unknown aggregate_function or post_transform")

    def read() -> list[Any]:
        modes, splits = np.asarray(nodes_modes).reshape(-1), np.asarray(nodes_splits).reshape(-1).astype(dtype)
        weights, targets = np.asarray(leaf_weights).reshape(-1).astype(dtype), np.array(leaf_targetids, np.int32)
        features = np.array(nodes_featureids, np.int32)
        n, leaves = len(modes), len(weights)
        if len(splits) != n or len(features) != n or len(targets) != leaves:
            t.fail("the node or leaf attributes have different lengths")
        if (modes > 6).any():
            t.fail("unknown node mode")
        roots = np.array(tree_roots, np.int32)
        if ((roots < 0) | (roots >= n)).any():
            t.fail("a tree's root does not exist")
        ends = np.arange(n, n + leaves, dtype=np.int32)  # leaves lead nowhere
        true = _children(t, nodes_truenodeids, nodes_trueleafs, n, leaves)
        false = _children(t, nodes_falsenodeids, nodes_falseleafs, n, leaves)
        roots = np.where(true[roots] == false[roots], true[roots], roots).astype(np.int32)  # how a tree of one leaf is written
        missing = np.array(nodes_missing_value_tracks_true if nodes_missing_value_tracks_true else (0,) * n, np.bool_)
        if len(missing) != n:
            t.fail(f"nodes_missing_value_tracks_true has {len(missing)} entries for {n} nodes")
        return [
            np.concatenate([features, np.zeros(leaves, np.int32)]), np.concatenate([splits, np.zeros(leaves, dtype)]),
            np.concatenate([modes.astype(np.uint8) + np.uint8(1), np.zeros(leaves, np.uint8)]),  # NODE_MODES has the leaf first
            np.concatenate([true, ends]), np.concatenate([false, ends]), roots, targets, weights,
            np.concatenate([np.zeros(n, np.int32), np.arange(leaves + 1, dtype=np.int32)]), np.concatenate([missing, np.zeros(leaves, np.bool_)]),
        ]  # fmt: skip

    members = np.asarray(membership_values).reshape(-1).astype(dtype) if membership_values is not None else None
    y = ensemble(t, t.cast(x, dtype), t.derived(dtype, read), n_targets, _AGGREGATES[aggregate_function], members)
    return t.cast(transform(t, y, _TRANSFORMS[post_transform]), x.dtype)
