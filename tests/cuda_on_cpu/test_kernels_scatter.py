"""The cases of `scatter`, on the CUDA kernels, and more: each of their strategies in both modes, with duplicates and bad indices."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from tests.kernels import test_scatter as cases
from tests.kernels.test_scatter import *  # noqa: F403


@pytest.fixture(params=[False, True], ids=["32-bit", "64-bit"])
def wide(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Indices of either width."""
    if request.param:
        monkeypatch.setattr(build, "NARROW", -1)
    return bool(request.param)


# (x, tuples, components): by lanes, by owners, sorted in one tile, sorted in several; 16-byte units and single elements
ND = [((6, 5000), 40, 1), ((9, 64), 100, 1), ((9, 64), 300, 1), ((5, 7, 3), 300, 2), ((40, 3), 3000, 1), ((50,), 5000, 1)]


@pytest.mark.parametrize("reduction", ["none", "add"])
@pytest.mark.parametrize("case", ND, ids=str)
def test_strategies_of_nd(case: tuple[tuple[int, ...], int, int], reduction: str, wide: bool) -> None:
    xs, n, k = case
    rng = np.random.default_rng(30)
    idx = cases.nd_indices(rng, xs, (n,), k)
    x, u = cases.values(rng, xs, np.float32), cases.values(rng, (n, *xs[k:]), np.float32)
    want = cases.reference(x, idx, u, "nd", 0, reduction)
    cases.check(x, idx, u, want, mode="nd", reduction=reduction)
    if not wide:
        big = [cases.harness.strided(rng, a) for a in (x, idx, u)]
        cases.check(*big, want, cases.harness.strided(rng, np.zeros_like(x)), mode="nd", reduction=reduction)


ELEMENTS = [((3, 2000, 2), (3, 20, 2), 1), ((3, 7, 2), (3, 200, 2), 1), ((7, 5000), (2, 4500), 0), ((40, 60), (500, 60), 0)]


@pytest.mark.parametrize("reduction", ["none", "mul"])
@pytest.mark.parametrize("case", ELEMENTS, ids=str)
def test_strategies_of_elements(case: tuple[tuple[int, ...], tuple[int, ...], int], reduction: str, wide: bool) -> None:
    xs, shape, axis = case
    rng = np.random.default_rng(31)
    x, u, idx = cases.values(rng, xs, np.float16), cases.values(rng, shape, np.float16), rng.integers(-xs[axis], xs[axis], shape)
    want = cases.reference(x, idx, u, "elements", axis, reduction)
    cases.check(x, idx, u, want, mode="elements", axis=axis, reduction=reduction)
    if not wide:
        strided = [cases.harness.strided(rng, a) for a in (x, idx, u)]
        out = cases.harness.strided(rng, np.zeros_like(x))
        cases.check(*strided, want, out, mode="elements", axis=axis, reduction=reduction)


@pytest.mark.parametrize("n", [3, 100, 300])
def test_indices_that_do_not_depend_on_an_axis_move_rows(n: int) -> None:
    """As TensorScatter's do: the row is moved in units of 16 bytes."""
    rng = np.random.default_rng(32)
    x, u = cases.values(rng, (2, 400, 32), np.float32), cases.values(rng, (2, n, 32), np.float32)
    idx = np.broadcast_to(rng.integers(-400, 400, (2, n, 1)), u.shape)
    cases.check(x, idx, u, cases.reference(x, idx, u, "elements", 1, "none"), mode="elements", axis=1, reduction="none")


@pytest.mark.parametrize("n", [10, 100, 300])
def test_the_first_bad_index_is_reported(n: int) -> None:
    x, idx = np.zeros((4, 5), np.float32), np.zeros((n, 2), np.int64)
    idx[n - 3 :] = [[1, 7], [9, 0], [-8, 6]]
    for columns, axis, value in [((0, 1), 1, 7), ((0,), 0, 9)]:
        part = idx[:, columns]
        updates = np.zeros((n, *x.shape[len(columns) :]), np.float32)
        text = rf"^index {value} is out of range for axis {axis} of size {x.shape[axis]}$"
        with pytest.raises(cases._native.LaunchError, match=text):
            cases.harness.run("scatter", [x, part, updates], [(x.shape, np.float32)], {"mode": "nd"}, threads=2)


def test_one_place_for_all_updates() -> None:
    """All updates at one place: the longest possible run, over several tiles."""
    u = np.random.default_rng(33).standard_normal(5000).astype(np.float32)
    idx, x = np.zeros(5000, np.int64), np.ones(3, np.float32)
    for reduction in ("none", "add", "max"):
        cases.check(x, idx, u, cases.reference(x, idx, u, "elements", 0, reduction), mode="elements", reduction=reduction)
