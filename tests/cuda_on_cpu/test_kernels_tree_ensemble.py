"""The cases of `tree_ensemble`, on the CUDA kernels, and forests and batches that take several rounds of a block."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.kernels.cuda.plans import trees
from tests.kernels import test_tree_ensemble as cases
from tests.kernels.test_tree_ensemble import *  # noqa: F403


@pytest.mark.parametrize("busy", [1, 256])
@pytest.mark.parametrize(("targets", "modes", "per_leaf"), [(1, ["leq"], 1), (1, ["gt", "eq"], 3), (7, ["lt"], 4), (300, ["leq"], 5)])
def test_rounds(targets: int, modes: list[str], per_leaf: int, busy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More trees than a block walks at once, in blocks of few and of many rows, the last of which is not full."""
    monkeypatch.setattr(trees, "BUSY_BLOCKS", busy)
    rng = np.random.default_rng(80)
    forest = cases.Forest(rng, 1100, 2, 3, targets, modes, missing=True, per_leaf=per_leaf, weight_dtype=np.float64)
    for n in (1, 37):
        x = cases.rows(rng, n, 3, np.float32)
        np.testing.assert_array_equal(cases.predict(forest, x, threads=2), forest.reference(x, "sum"))


def test_a_child_in_two_trees_and_unreached_cycles() -> None:
    """Only nodes that a root leads to may not be in a cycle."""
    forest = cases.Forest(np.random.default_rng(81), 3, 3, 3, 1, ["leq"], full=True)
    unreached = forest.roots.pop()
    forest.yes[unreached] = unreached
    x = cases.rows(np.random.default_rng(82), 20, 3, np.float32)
    np.testing.assert_array_equal(cases.predict(forest, x), forest.reference(x, "sum").astype(np.float32))


def test_leaf_ranges_may_overlap() -> None:
    forest = cases.Forest(np.random.default_rng(83), 4, 2, 3, 3, ["leq"], per_leaf=3)
    forest.ranges = sorted(np.random.default_rng(84).integers(0, len(forest.weights) + 1, len(forest.ranges)).tolist())
    x = cases.rows(np.random.default_rng(85), 20, 3, np.float32)
    np.testing.assert_allclose(cases.predict(forest, x), forest.reference(x, "sum"), rtol=1e-6, atol=1e-6)
