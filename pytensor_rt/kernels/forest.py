"""Tree ensembles as the planned backends walk them: checked, renumbered and packed. The checks are those of csrc/cpu/tree_ensemble_forest.cpp.

Nodes where `fast`: {threshold, int32 feature, int32 left}, 16 bytes with padding: a row goes to `left` if x[feature] <= threshold, else to `left` + 1; a leaf's threshold
is NaN and leads back to the leaf. If any node sends NaN to its true child, features are `feature << 1 | (NaN goes left)`. Other nodes: {float64 threshold, int32
feature, outcomes, yes, no, begin, end}, 32 bytes: `outcomes` are the results of the comparison that count as true, begin .. end the members of its set.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from ..dtypes import BOOL, F32, F64, I32, U8, DType
from ..errors import UnsupportedError
from ..lowering.tensor import CONST, Launch, Tensor
from .spec import NODE_MODES

Array = np.ndarray[Any, Any]
LEAF, LT, GTE, GT, MEMBER = (NODE_MODES.index(m) for m in ("leaf", "lt", "gte", "gt", "member"))
# Outcomes of a comparison (less 1, equal 2, more 4, NaN 8, NaN threshold 16) for which a mode holds; leaf 32, member 64.
OUTCOMES = tuple([{"leq": 3, "lt": 1, "gte": 6, "gt": 4, "eq": 2, "neq": 29, "leaf": 32, "member": 64}[m] for m in NODE_MODES])


def _check(ok: object, what: str) -> None:
    if not ok:
        raise UnsupportedError(f"tree_ensemble: {what}")


def forest_of(launch: Launch, targets: int) -> Forest:
    """The forest of a launch of `tree_ensemble`. Raises UnsupportedError for operands that are no forest."""
    x, *trees = list(launch.ins) + [None] * (12 - len(launch.ins))
    y = launch.outs[0]
    assert x is not None and y is not None
    _check_operands([x, *trees], x, y, targets)
    assert trees[1] is not None
    compare = F64 if F64 in (x.dtype, trees[1].dtype) else F32
    return Forest([None if t is None else t.value for t in trees], int(x.shape[1]), targets, compare)


def _check_operands(ins: list[Tensor | None], x: Tensor, y: Tensor, targets: int) -> None:
    for t in ins[1:]:
        _check(t is None or (t.buffer.kind == CONST and t.ndim == 1), "the trees must be constant vectors")
    held = [t for t in ins[:11] if t is not None]
    _check(len(held) == 11, "expected eleven or twelve inputs")
    real = (F32, F64)
    _check(all(held[k].dtype == I32 for k in (1, 4, 5, 6, 7, 9)), "node indices must be int32")
    _check(all(t.dtype in real for t in (x, held[2], held[8], y)), "x, thresholds, weights and y must be float or double")
    _check(held[3].dtype == U8 and held[10].dtype == BOOL, "modes must be uint8 and missing_true bool")
    _check(ins[11] is None or ins[11].dtype in real, "member_sets must be float or double")
    nodes = held[1].shape[0]
    _check(all(held[k].shape[0] == nodes for k in (2, 3, 4, 5, 10)), "node arrays differ in length")
    _check(held[9].shape[0] == nodes + 1 and held[7].shape == held[8].shape, "leaf arrays differ in length")
    _check(1 <= targets < 1 << 24, "bad parameters")
    _check(x.ndim == 2 and y.ndim == 2 and tuple(y.shape) == (x.shape[0], targets), "y must be [n, n_targets]")


class Forest:
    """Nodes, leaf entries and roots of all trees. `fast`: every test is `x <= threshold` and siblings are neighbours."""

    def __init__(self, arrays: Sequence[Array | None], features: int, targets: int, compare: DType) -> None:
        held = [None if a is None else np.asarray(a) for a in arrays]
        self.feature, self.threshold, self.mode, self.yes, self.no, self.roots, self.target, self.weight, self.range, self.missing = (
            a if a is not None else np.zeros(0, np.int32) for a in held[:10]
        )
        self.sets = held[10] if len(held) > 10 else None
        self.compare, self.n, self.trees = compare, self.mode.size, self.roots.size
        self._check_nodes(features, targets)
        self.inner = self.mode != LEAF
        shared = self._check_paths()
        counts = np.diff(self.range)
        self.single = targets == 1 and bool((counts[~self.inner] == 1).all())
        self.fast = not shared and features > 0 and bool((self.mode <= GT).all())
        self._sort_entries()

    def _check_nodes(self, features: int, targets: int) -> None:
        n, leaves = self.n, self.target.size
        _check(n < 1 << 30 and leaves < 1 << 31, "too many nodes")
        _check(features < 1 << 30, "too many features")
        begin, end = self.range[:-1], self.range[1:]
        _check((self.mode <= MEMBER).all(), "bad node mode")
        _check(((begin >= 0) & (begin <= end) & (end <= leaves)).all(), "bad leaf range")
        inner = self.mode != LEAF
        f, a, b = (v[inner] for v in (self.feature, self.yes, self.no))
        _check(((f >= 0) & (f < features)).all(), "feature out of range")
        _check(((a >= 0) & (a < n) & (b >= 0) & (b < n)).all(), "child out of range")
        _check(((self.target >= 0) & (self.target < targets)).all(), "target out of range")
        _check(((self.roots >= 0) & (self.roots < n)).all(), "root out of range")

    def _check_paths(self) -> bool:
        """Refuses cycles. Returns whether a node is reached in more than one way."""
        seen = np.zeros(self.n, np.bool_)
        arrivals = np.zeros(self.n, np.int64)  # from nodes that are reached
        np.add.at(arrivals, self.roots, 1)
        entered = arrivals.copy()
        front = np.unique(self.roots)
        while front.size:
            seen[front] = True
            front = front[self.inner[front]]
            children = np.concatenate([self.yes[front], self.no[front]])
            np.add.at(arrivals, children, 1)
            front = np.unique(children[~seen[children]])
        left = arrivals - entered  # peel off nodes whose parents are all gone
        front = np.flatnonzero(seen & (left == 0))
        gone = 0
        while front.size:
            gone += front.size
            front = front[self.inner[front]]
            children = np.concatenate([self.yes[front], self.no[front]])
            np.subtract.at(left, children, 1)
            children = np.unique(children)
            front = children[left[children] == 0]
        _check(gone == int(seen.sum()), "the trees contain a cycle")
        return bool((arrivals > 1).any())

    def _sort_entries(self) -> None:
        """Entries of a leaf by target; entries of one target keep their order."""
        counts = np.diff(self.range)
        if counts.size and counts.max() > 1:
            owner = np.zeros(self.target.size, np.int64)  # ranges may overlap or leave gaps: then they are copied apart
            starts = np.concatenate([[0], np.cumsum(counts)])
            owner = np.repeat(np.arange(self.n), counts)
            source = np.arange(int(starts[-1])) - np.repeat(starts[:-1], counts) + np.repeat(self.range[:-1].astype(np.int64), counts)
            order = np.lexsort((np.arange(source.size), self.target[source], owner))
            self.target, self.weight = self.target[source][order], self.weight[source][order]
            self.begin, self.end = starts[:-1].astype(np.int32), starts[1:].astype(np.int32)
        else:
            self.begin, self.end = self.range[:-1].astype(np.int32), self.range[1:].astype(np.int32)

    # ----------------------------------------------------------------------------------------------------------------------- packing
    def pack(self) -> tuple[dict[str, Array], bool]:
        """What kernels read: nodes, roots, ranges (begin and end of each node's entries), entry_targets, weights (float64, of entries or, where
        `single`, of nodes), members; none of them empty. And whether any node sends NaN to its true child."""
        missing = False
        members: Array = np.zeros(0, self.compare)
        if self.fast:
            nodes, order, roots, missing = self._fast_nodes()
        else:
            nodes, members = self._any_nodes()
            order, roots = np.arange(self.n), self.roots.astype(np.int32)
        weight = self.weight.astype(np.float64)
        if self.single:
            weight = np.where(
                self.inner[order], 0.0, weight[np.minimum(self.begin[order], max(0, weight.size - 1))] if weight.size else 0.0
            )
        ranges = np.stack([self.begin[order], self.end[order]], 1)
        packed = {
            "nodes": nodes.view(np.uint8).reshape(-1), "roots": roots, "ranges": ranges.reshape(-1).astype(np.int32),
            "entry_targets": self.target.astype(np.int32), "weights": weight, "members": members,
        }  # fmt: skip
        return {name: np.ascontiguousarray(a) if a.size else np.zeros(1, a.dtype) for name, a in packed.items()}, missing

    def heights(self) -> Array:
        """Steps from each root to its farthest leaf: int32, at least one element."""
        heights = np.zeros(max(1, self.trees), np.int32)
        trees, front = np.arange(self.trees), self.roots.astype(np.int64)
        height = 0
        while True:
            inner = self.inner[front]
            trees, front = trees[inner], front[inner]
            if not front.size:
                return heights
            height += 1
            heights[trees] = height
            below = np.concatenate([self.yes[front], self.no[front]])
            met = np.concatenate([trees, trees]) * self.n + below
            if not self.fast:  # subtrees may be shared
                met = np.unique(met)
            trees, front = np.divmod(met, self.n)

    def _fast_nodes(self) -> tuple[Array, Array, Array, bool]:
        """(nodes, their old numbers, roots, is NaN ever sent to a true child): level by level, siblings side by side."""
        threshold = self.threshold.astype(self.compare)
        infinity = self.compare.type(np.inf)
        below = np.where(threshold == -infinity, self.compare.type(np.nan), np.nextafter(threshold, -infinity))
        strict = (self.mode == LT) | (self.mode == GTE)  # x < t is x <= the number before t
        exchange = ((self.mode == GT) | (self.mode == GTE)) & (threshold == threshold)
        test = np.where(strict, below, threshold)
        true = (self.missing.astype(np.bool_) != exchange) & self.inner
        yes, no = np.where(exchange, self.no, self.yes), np.where(exchange, self.yes, self.no)
        levels, lefts = [self.roots.astype(np.int64)], []
        count = self.trees
        while True:
            front = levels[-1]
            inner = self.inner[front]
            first = count - front.size
            left = np.arange(first, count) - 1  # a leaf leads to itself by way of its false child
            left[inner] = count + 2 * np.arange(int(inner.sum()))
            lefts.append(left)
            parents = front[inner]
            if not parents.size:
                break
            levels.append(np.stack([yes[parents], no[parents]], 1).reshape(-1).astype(np.int64))
            count += 2 * parents.size
        order = np.concatenate(levels)
        single = self.compare.itemsize == 4
        kind = np.dtype([("threshold", self.compare), ("feature", np.int32), ("left", np.int32), *([("pad", np.int32)] if single else [])])
        nodes = np.zeros(order.size, kind)
        inner = self.inner[order]
        nodes["threshold"] = np.where(inner, test[order], np.nan)
        missing = bool(true[order].any())
        feature = np.where(inner, self.feature[order], 0)
        nodes["feature"] = feature << 1 | true[order] if missing else feature
        nodes["left"] = np.concatenate(lefts)
        return nodes, order, np.arange(self.trees, dtype=np.int32), missing

    def _any_nodes(self) -> tuple[Array, Array]:
        """(nodes, members of all sets)."""
        names = ("feature", "flags", "yes", "no", "begin", "end")
        nodes = np.zeros(self.n, np.dtype([("threshold", np.float64), *[(name, np.int32) for name in names]]))
        nodes["threshold"] = self.threshold
        nodes["feature"] = np.where(self.inner, self.feature, 0)
        nodes["flags"] = np.array(OUTCOMES, np.int32)[self.mode] | np.where(self.missing, 8, 0)
        itself = np.arange(self.n)
        nodes["yes"], nodes["no"] = np.where(self.inner, self.yes, itself), np.where(self.inner, self.no, itself)
        sets = np.zeros(0) if self.sets is None else self.sets.astype(np.float64)
        users = np.flatnonzero(self.mode == MEMBER)
        ends = np.concatenate([np.flatnonzero(np.isnan(sets)), [sets.size]])
        begins = np.concatenate([[0], ends[:-1] + 1])
        _check(users.size <= ends.size, "member_sets has fewer sets than there are member nodes")
        nodes["begin"][users], nodes["end"][users] = begins[: users.size], ends[: users.size]
        return nodes, sets.astype(self.compare)


def identity(name: str, data: Array) -> tuple[str, str, str, bytes]:
    """A key under which plans of a session share a packed array of the same bytes."""
    return ("tree_ensemble", name, data.dtype.str, blake2b(data.reshape(-1).view(np.uint8).data, digest_size=16).digest())
