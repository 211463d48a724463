"""The cases of `col2im` and `deform_conv`, on device "numba", and cases of the dtypes that only it has."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.kernels.harness import run, strided
from tests.kernels.test_windows import *  # noqa: F403
from tests.kernels.test_windows import col2im as reference


@pytest.mark.parametrize(
    "dtype", [np.int8, np.int16, np.uint16, np.uint32, np.int64, np.uint64, np.bool_, ml_dtypes.int4, ml_dtypes.float8_e5m2]
)
def test_col2im_of_other_dtypes(dtype: Any) -> None:
    rng = np.random.default_rng(2)
    p = {"kernel": (3, 2), "strides": (1, 2), "dilations": (2, 1), "pads": (1, 0, 2, 1)}
    windows = 6 * 3
    x = rng.integers(0, 2, (2, 5 * 6, windows)).astype(dtype)
    want = reference(x.astype(np.int64), (7, 5), (3, 2), p)
    for a, y in ((x, np.zeros((2, 5, 7, 5), dtype)), (strided(rng, x), strided(rng, np.zeros((2, 5, 7, 5), dtype)))):
        for threads in (1, 2):
            (got,) = run("col2im", [a], [y], p, threads=threads)
            np.testing.assert_array_equal(got.astype(np.int64), want.astype(dtype).astype(np.int64))


def test_col2im_wraps() -> None:
    x = np.full((1, 9, 1), 100, np.int8)
    (y,) = run("col2im", [x], [((1, 9, 1), np.int8)], {"kernel": (1,), "strides": (1,), "dilations": (1,), "pads": (0, 0)})
    np.testing.assert_array_equal(y, np.full((1, 9, 1), 100))
    x = np.full((1, 3, 3), 100, np.int8)
    (y,) = run("col2im", [x], [((1, 1, 1), np.int8)], {"kernel": (3,), "strides": (1,), "dilations": (1,), "pads": (2, 2)})
    np.testing.assert_array_equal(y, [[[300 - 256]]])
