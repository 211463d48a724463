"""Range in narrow types: computed wide, rounded once."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import pytensor_rt as rt

from .nodes import run


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_floats_round_once(dtype: Any) -> None:
    start, limit, delta = (np.array(v, dtype) for v in (1.0, 40.0, 0.109375))
    (got,) = run("Range", {"s": start, "l": limit, "d": delta}, opset=27, stash_type=1)
    n = int(np.ceil((40.0 - 1.0) / 0.109375))
    np.testing.assert_array_equal(
        got.astype(np.float32), (1.0 + 0.109375 * np.arange(n)).astype(np.float32).astype(dtype).astype(np.float32)
    )


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.float32, np.float64])
def test_both_directions(dtype: Any) -> None:
    for a, b, d in ((0, 10, 3), (10, -1, -4), (5, 5, 1), (3, 0, 1)):
        (got,) = run("Range", {"s": np.array(a, dtype), "l": np.array(b, dtype), "d": np.array(d, dtype)})
        assert got.dtype == dtype and got.tolist() == np.arange(a, b, d).tolist()


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_no_step_is_an_error(dtype: Any) -> None:
    with pytest.raises(rt.PlanError, match="delta"):
        run("Range", {"s": np.array(0, dtype), "l": np.array(4, dtype), "d": np.array(0, dtype)})
