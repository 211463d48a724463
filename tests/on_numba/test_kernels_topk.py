"""The cases of `topk`, on device "numba", and cases of its own paths: lists of few, buffers of many, where they are cut."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt import _native
from tests.kernels import harness
from tests.kernels.test_topk import *  # noqa: F403
from tests.kernels.test_topk import check, values


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("k", [1, 2, 15, 16, 17, 33, 48, 49, 600, 1299, 1300])
@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.int32, np.float32, np.uint64, np.float64])
def test_k_on_both_sides_of_every_limit(dtype: Any, k: int, largest: int) -> None:
    rng = np.random.default_rng(1)
    check(values(rng, (3, 1300), dtype), 1, k, largest)


@pytest.mark.parametrize("k", [16, 17, 100, 700])
@pytest.mark.parametrize("order", ["ascending", "descending", "equal", "few", "sawtooth"])
def test_buffers_that_are_cut_often(order: str, k: int) -> None:
    rng = np.random.default_rng(2)
    n = 20011
    x = {
        "ascending": lambda: np.arange(n), "descending": lambda: -np.arange(n), "equal": lambda: np.full(n, 7), "few": lambda: rng.integers(0, 3, n),
        "sawtooth": lambda: np.arange(n) % 1000,
    }[order]().astype(np.int64)  # fmt: skip
    for largest in (0, 1):
        check(x, 0, k, largest)
        check(x.astype(np.float32), 0, k, largest)
        check(x << 40, 0, k, largest)


def test_many_short_lanes() -> None:
    rng = np.random.default_rng(3)
    check(rng.integers(0, 9, (700, 8)).astype(np.float32), 1, 2, 1)
    check(rng.integers(0, 9, (8, 40, 30)).astype(np.float32), 0, 3, 0)
    check(harness.strided(rng, rng.integers(0, 9, (30, 64, 20)).astype(np.int16)), -2, 40, 1)


def test_formats_without_an_order_are_refused() -> None:
    with pytest.raises(_native.LaunchError, match="no order"):
        harness.run("topk", [np.zeros(3, ml_dtypes.float8_e5m2)], [((1,), ml_dtypes.float8_e5m2), ((1,), np.int64)], {"axis": 0, "k": 1})
