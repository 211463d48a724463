"""The cases of `max_unpool`, on the CUDA kernels."""

import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from tests.kernels.harness import run
from tests.kernels.test_max_unpool import *  # noqa: F403


def test_the_last_of_several_wins() -> None:
    """Whatever the order in which blocks and threads run, over more than one block."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 3, 200)).astype(np.float32)
    indices = rng.integers(0, 2 * 3 * 40, x.shape)
    want = np.zeros((2, 3, 40), np.float32)
    for v, i in zip(x.reshape(-1), indices.reshape(-1)):
        want.reshape(-1)[i] = v
    for threads in (1, 2, 3):
        out = np.zeros((2, 40, 3), np.float32).transpose(0, 2, 1)
        (y,) = run("max_unpool", [x, indices], [out], {"reference_shape": (2, 3, 40)}, threads=threads)
        np.testing.assert_array_equal(y, want)


def test_negative_positions_count_from_the_end() -> None:
    x = np.arange(1, 4, dtype=np.int16).reshape(1, 1, 3)
    (y,) = run("max_unpool", [x, np.array([[[-1, 0, -8]]], np.int64)], [((1, 1, 8), np.int16)], {"reference_shape": (1, 1, 8)})
    np.testing.assert_array_equal(y.reshape(-1), [3, 0, 0, 0, 0, 0, 0, 1])


def test_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NARROW", -1)
    test_inverse_of_pool()  # noqa: F405
    test_the_last_of_several_wins()
