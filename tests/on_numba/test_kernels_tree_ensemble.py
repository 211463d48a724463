"""The cases of `tree_ensemble`, on device "numba"."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.test_tree_ensemble import *  # noqa: F403
from tests.kernels.test_tree_ensemble import Forest, predict, rows


@pytest.mark.parametrize("modes", [["leq", "gt"], ["eq", "leq"]], ids="-".join)
def test_more_trees_than_walk_in_step(modes: list[str]) -> None:
    """One row and few rows through numbers of trees that fill no group; heights differ from tree to tree."""
    rng = np.random.default_rng(30)
    for trees in (1, 15, 16, 17, 50):
        forest = Forest(rng, trees, 7, 4, 2, modes, missing=True, weight_dtype=np.float64)
        for n in (1, 7, 8, 9, 130):
            x = rows(rng, n, 4, np.float32)
            np.testing.assert_allclose(predict(forest, x, threads=2), forest.reference(x, "sum"), rtol=1e-15, atol=1e-15)


def test_large_sets_and_double_members() -> None:
    rng = np.random.default_rng(31)
    forest = Forest(rng, 3, 3, 2, 1, ["member"], full=True)
    forest.sets = [np.float32(rng.standard_normal(40)).tolist() for _ in forest.sets]
    values = np.concatenate([np.array(s) for s in forest.sets])
    x = rng.choice(values, (200, 2)).astype(np.float32)
    np.testing.assert_array_equal(predict(forest, x), forest.reference(x, "sum").astype(np.float32))


def test_min_and_max_of_one_weight_per_leaf() -> None:
    rng = np.random.default_rng(32)
    forest = Forest(rng, 40, 5, 3, 1, ["leq"])
    x = rows(rng, 300, 3, np.float32)
    for aggregate in ("min", "max"):
        np.testing.assert_array_equal(predict(forest, x, aggregate), forest.reference(x, aggregate).astype(np.float32))
