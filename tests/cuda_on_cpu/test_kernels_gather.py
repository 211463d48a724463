"""The cases of `gather`, on the CUDA kernels, and rows in units of every size."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from tests.kernels import test_gather as cases
from tests.kernels.test_gather import *  # noqa: F403


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("dtype", "columns", "offset"), [(np.int8, 48, 0), (np.int8, 40, 0), (np.int8, 44, 4), (np.float16, 9, 0), (np.float64, 6, 1)]
)
def test_rows_move_in_the_largest_units(dtype: type, columns: int, offset: int, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if wide:
        monkeypatch.setattr(build, "NARROW", -1)
    rng = np.random.default_rng(40)
    x = cases.values(rng, (7, offset + columns), dtype)[:, offset:]
    idx = rng.integers(-7, 7, (5, 3))
    cases.gather(x, idx, np.take(x, idx, 0), mode="axis")
    pairs = np.stack([idx % 2, idx % 3], -1)
    x = cases.values(rng, (2, 3, 4, columns), dtype)
    cases.gather(x, pairs, cases.reference_nd(x, pairs, 0), mode="nd")


@pytest.mark.parametrize(("dtype", "columns"), [(np.int8, 32), (np.float16, 32), (np.int8, 7)])
def test_epilogue_of_rows(dtype: type, columns: int) -> None:
    """Several results per thread, where rows allow it."""
    rng = np.random.default_rng(41)
    x, idx = rng.integers(-9, 9, (11, columns)).astype(dtype), rng.integers(0, 11, 300)
    scale = rng.standard_normal(columns).astype(np.float32)
    (y,) = cases.harness.run(
        "gather", [x, idx], [((300, columns), np.float32)], {"mode": "axis"}, acc_dtype=dtype,
        epilogue=lambda acc, s: cases.cast(acc, np.dtype(np.float32)) * s, epi_ins=[np.broadcast_to(scale, (300, columns))],
    )  # fmt: skip
    np.testing.assert_array_equal(y, x[idx].astype(np.float32) * scale)


def test_the_first_bad_index_of_many_blocks_is_reported() -> None:
    idx = np.zeros(3000, np.int32)
    idx[[1700, 2900]] = 8, -9
    for threads in (1, 2, 3):
        with pytest.raises(cases._native.LaunchError, match=r"^index 8 is out of range for axis 0 of size 3$"):
            cases.harness.run("gather", [np.zeros((3, 2)), idx], [((3000, 2), np.float64)], {"mode": "axis"}, threads=threads)
