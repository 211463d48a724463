"""The cases of `softmax`, on device "numba", and such as its tiles and blocks need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.harness import run
from tests.kernels.test_softmax import *  # noqa: F403
from tests.kernels.test_softmax import check, reference


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "hardmax"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_blocks_in_any_memory_order(op: str, dtype: Any) -> None:
    rng = np.random.default_rng(6)
    for shape in ((3, 300, 70), (2, 19, 7, 90), (600, 33)):
        for axis in range(len(shape)):
            memory = rng.permutation(len(shape))
            x = np.ascontiguousarray((4 * rng.standard_normal(shape)).astype(dtype).transpose(memory)).transpose(np.argsort(memory))
            check(op, x, axis)


def test_masked_by_infinity() -> None:
    """Where scores are -inf, weights are exactly 0, and the others are as if those did not exist."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((65, 130)).astype(np.float32)
    x[:, 50:] = -np.inf
    for a, axis in ((x, 1), (np.ascontiguousarray(x.T), 0)):
        (y,) = run("softmax", [a], [(a.shape, np.float32)], {"op": "softmax", "axis": axis})
        y = y if axis else y.T
        assert (y[:, 50:] == 0).all()
        np.testing.assert_allclose(y[:, :50], reference("softmax", x[:, :50], 1), rtol=2e-6)


def test_far_below_the_maximum() -> None:
    """Down to where weights are no longer normal numbers, and to 0 beyond."""
    x = np.concatenate([[0.0], -np.linspace(0, 120, 2000)]).astype(np.float32)
    want = reference("softmax", x, 0)
    for a, axis in ((x[None], 1), (np.ascontiguousarray(np.broadcast_to(x[:, None], (x.size, 17))), 0)):
        (y,) = run("softmax", [a], [(a.shape, np.float32)], {"op": "softmax", "axis": axis})
        got = y[0] if axis else y[:, 16]
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=3e-45)
