"""The cases of `arg_reduce`, on the CUDA kernels; and long rows, which these cut into stretches, and 64-bit indices."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from tests.kernels.test_arg_reduce import *  # noqa: F403
from tests.kernels.test_arg_reduce import check


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_stretches(dtype: str) -> None:
    """Ties between stretches, and NaN in one of them."""
    rng = np.random.default_rng(1)
    for shape, axis in (((1, 150_000), 1), ((70_000, 2), 0), ((20_001, 3), 0)):
        x = rng.integers(0, 250, shape).astype(dtype)
        for last in (False, True):
            check("max", x, axis, last)
            check("min", x, axis, last)
        if dtype != "uint8":
            x[shape[0] // 3, shape[1] // 3] = np.nan
            check("min", x, axis)


def test_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NARROW", -1)
    rng = np.random.default_rng(2)
    for dtype in ("float32", "float64", "int8", "uint32", "int64"):
        x = rng.integers(0, 12, (20, 64)).astype(dtype)
        for axis in (0, 1):
            check("max", x, axis)
            check("min", x, axis, True)
    check("max", rng.standard_normal((1, 70_000)).astype(np.float32), 1)
