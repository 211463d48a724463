"""The cases of `gather`, on device "numba", and cases of its own paths: runs of all lengths, which index is reported, dtypes held as tables."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt import _native
from pytensor_rt.lowering.expr import cast
from tests.kernels import harness
from tests.kernels.test_gather import *  # noqa: F403

SHORT = [
    ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e8m0fnu, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float4_e2m1fn,
    np.int8, np.bool_, np.float16, ml_dtypes.bfloat16,
]  # fmt: skip


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32, np.float64, np.complex128])
def test_rows_of_all_lengths(dtype: Any, threads: int) -> None:
    rng = np.random.default_rng(1)
    for width in (1, 2, 3, 4, 8, 9, 16, 17, 31, 1024, 65536, 65537, 100000):
        x = rng.integers(0, 2, (3, width)).astype(dtype)
        index = rng.integers(-3, 3, (2, 2))
        (y,) = harness.run("gather", [x, index], [((2, 2, width), dtype)], {"mode": "axis", "axis": 0}, threads=threads)
        assert y.tobytes() == x[index].tobytes()


@pytest.mark.parametrize("dtype", SHORT)
def test_bits_are_kept(dtype: Any) -> None:
    """Also those of NaNs and of codes that no value has."""
    codes = np.arange(256, dtype=np.uint8) if np.dtype(dtype).itemsize == 1 else np.arange(0, 65536, 13, dtype=np.uint16)
    index = np.random.default_rng(2).permutation(codes.size)
    (y,) = harness.run("gather", [codes.view(dtype), index], [((codes.size,), dtype)], {"mode": "elements", "axis": 0})
    np.testing.assert_array_equal(y.view(codes.dtype), codes[index])


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_bad_index_in_row_major_order_is_reported(threads: int) -> None:
    x, index = np.zeros((4, 6), np.float32), np.zeros((4, 6), np.int64)
    index[1, 4], index[2, 0] = 7, 9
    for source in (index, np.asfortranarray(index)):
        for y in (np.zeros((4, 6), np.float32), np.zeros((6, 4), np.float32).T):
            with pytest.raises(_native.LaunchError, match=r"^index 7 is out of range for axis 0 of size 4$"):
                harness.run("gather", [x, source], [y], {"mode": "elements", "axis": 0}, threads=threads)
            with pytest.raises(_native.LaunchError, match=r"^index 7 is out of range for axis 1 of size 6$"):
                harness.run("gather", [x[:1], source], [((1, 4, 6), np.float32)], {"mode": "axis", "axis": 1}, threads=threads)
    tuples = np.zeros((3, 2), np.int32)
    tuples[1], tuples[2] = (0, -7), (9, 9)
    with pytest.raises(_native.LaunchError, match=r"^index -7 is out of range for axis 1 of size 6$"):
        harness.run("gather", [x, tuples], [((3,), np.float32)], {"mode": "nd"}, threads=threads)


@pytest.mark.parametrize("dtype", SHORT[:8])
def test_epilogues_of_short_formats(dtype: Any) -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(0, 2, (5, 7)).astype(dtype)
    index = rng.integers(-5, 5, (3, 2))
    (y,) = harness.run(
        "gather", [x, index], [((3, 2, 7), np.float32)], {"mode": "axis", "axis": 0}, epilogue=lambda acc: cast(acc, np.dtype(np.float32)) * 2.0,
        acc_dtype=dtype,
    )  # fmt: skip
    np.testing.assert_array_equal(y, x[index].astype(np.float32) * 2)


@pytest.mark.parametrize("threads", [1, 3])
def test_tiles_with_operands_in_other_orders(threads: int) -> None:
    """Rows that cannot be merged with columns, more columns than a tile has, and an operand that is the output's memory."""
    rng = np.random.default_rng(4)
    for shape, n in [((11, 3, 5), 700), ((4, 9001), 3), ((2, 70, 1, 6), 50)]:
        x = rng.standard_normal(shape).astype(np.float32)
        index = rng.integers(0, shape[0], n)
        want = x[index]
        bias = rng.standard_normal(want.shape).astype(np.float32)
        for layout in (bias, harness.strided(rng, bias), np.asfortranarray(bias)):
            y = harness.strided(rng, np.zeros_like(want))
            harness.run("gather", [x, index], [y], {"mode": "axis"}, epilogue=lambda acc, b: acc - b, epi_ins=[layout], threads=threads)
            np.testing.assert_array_equal(y, want - bias)
            y[...] = bias
            harness.run("gather", [x, index], [y], {"mode": "axis"}, epilogue=lambda acc, b: acc - b, epi_ins=[y], threads=threads)
            np.testing.assert_array_equal(y, want - bias)
