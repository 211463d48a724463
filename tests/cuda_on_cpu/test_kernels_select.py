"""The cases of `nonzero`, `compress` and `unique`, on the CUDA kernels, and vectors of many tiles and chunks."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from pytensor_rt.kernels.cuda.plans import selection
from tests.kernels import test_select as cases
from tests.kernels.test_select import *  # noqa: F403


@pytest.fixture(params=["32-bit", "64-bit", "few chunks"])
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Indices of either width; numberings whose chunks have several steps."""
    if request.param == "64-bit":
        monkeypatch.setattr(build, "NARROW", -1)
    elif request.param == "few chunks":
        monkeypatch.setattr(selection, "CHUNKS", 3)


@pytest.mark.usefixtures("variant")
def test_long_numberings() -> None:
    rng = np.random.default_rng(50)
    x = cases.sparse(rng, (3, 5001), np.float32)
    want = np.stack(np.nonzero(x))
    (y,) = cases.harness.run("nonzero", [x], [(want.shape, np.int64)], threads=2)
    np.testing.assert_array_equal(y, want)
    c = rng.random(5001) < 0.3
    want = np.compress(c, x, 1)
    (y,) = cases.harness.run("compress", [x, c], [(want.shape, np.float32)], {"axis": 1}, threads=2)
    np.testing.assert_array_equal(y, want)


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize(
    ("n", "values", "dtype"), [(4096, 4096, np.int16), (9001, 700, np.float32), (6000, 3, np.uint8), (5000, 9, np.float64)]
)
def test_unique_of_long_vectors(n: int, values: int, dtype: type) -> None:
    rng = np.random.default_rng(51)
    x = rng.integers(0, values, n).astype(dtype)
    _, first, inverse, counts = np.unique(x, return_index=True, return_inverse=True, return_counts=True)
    for g, w in zip(cases.unique(x, 1), (x[first], first, inverse, counts)):
        np.testing.assert_array_equal(g, w)
    order = np.argsort(first)
    for g, w in zip(cases.unique(x, 0), (x[first[order]], first[order], np.argsort(order)[inverse], counts[order])):
        np.testing.assert_array_equal(g, w)


def test_unique_of_nothing() -> None:
    for order in (0, 1):
        outs = [((0,), np.float32), *[((0,), np.int64)] * 3, ((1,), np.int64)]
        assert cases.harness.run("unique", [np.zeros(0, np.float32)], outs, {"sorted": order})[4].tolist() == [0]


@pytest.mark.parametrize("room", [1, 9000])
def test_wrong_counts_of_long_vectors(room: int) -> None:
    x = np.ones(8000, np.bool_)
    with pytest.raises(cases._native.LaunchError, match=f"expected {room} non-zero elements, found 8000"):
        cases.harness.run("nonzero", [x], [((1, room), np.int64)])
    with pytest.raises(cases._native.LaunchError, match=f"expected {room} true elements, found 8000"):
        cases.harness.run("compress", [np.zeros((2, 9000), np.int8), x], [((2, room), np.int8)], {"axis": 1})
