"""The cases of `normalize`, on device "numba", and such as its tiles and blocks need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.harness import run, strided
from tests.kernels.test_normalize import *  # noqa: F403
from tests.kernels.test_normalize import check, reference


@pytest.mark.parametrize("op", ["layer", "rms"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_blocks_in_any_memory_order(op: str, dtype: Any) -> None:
    rng = np.random.default_rng(6)
    for shape, axes in (
        ((2, 30, 19, 21), (2, 3)), ((2, 30, 19, 21), (1,)), ((3, 4, 37, 50), (1, 3)), ((3, 4, 37, 50), (0, 2)), ((40, 700), (1,)), ((700, 70), (0,)),
    ):  # fmt: skip
        for _ in range(3):
            memory = rng.permutation(len(shape))
            x = np.ascontiguousarray((rng.standard_normal(shape) + 1).astype(dtype).transpose(memory)).transpose(np.argsort(memory))
            kept = [n if rng.integers(2) else 1 for n in shape]
            scale, bias = (np.broadcast_to(rng.standard_normal(kept).astype(dtype), shape) for _ in range(2))
            check(op, x, axes, scale, bias, statistics=True)


def test_group_norm_with_a_scale_per_channel() -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((2, 8, 5, 30, 31)).astype(np.float32)
    last = np.ascontiguousarray(x.transpose(0, 3, 4, 1, 2)).transpose(0, 3, 4, 1, 2)
    for dtype in (np.float32, np.float16):
        scale, bias = (np.broadcast_to(rng.standard_normal((8, 5, 1, 1)).astype(dtype), x.shape) for _ in range(2))
        for a in (x, last):
            check("layer", a.astype(dtype, order="K"), (2, 3, 4), scale, bias, statistics=True)


@pytest.mark.parametrize("shape", [(2, 300, 300), (2, 30, 100)])
def test_programs_over_sets_of_several_rows(shape: tuple[int, ...]) -> None:
    """Sets that are computed once, and sets too large for that, in memory that is no row."""
    rng = np.random.default_rng(8)
    a, b, c = (strided(rng, rng.standard_normal(shape).astype(np.float32)) for _ in range(3))
    scale = np.broadcast_to(rng.standard_normal((shape[1], 1)).astype(np.float32), shape)
    want = reference("layer", a * b, (1, 2), 1e-5, scale, None)[0] - c
    results = [
        run("normalize", [np.empty(shape, np.float32), scale, None], [(shape, np.float32), None, None],
            {"op": "layer", "axes": (1, 2), "epsilon": 1e-5}, prologue=lambda x, y: x * y, pro_ins=[a, b],
            epilogue=lambda acc, z: acc - z, epi_ins=[c], threads=t)[0]
        for t in (1, 3)
    ]  # fmt: skip
    assert results[0].tobytes() == results[1].tobytes()
    np.testing.assert_allclose(results[0], want, rtol=2e-5, atol=2e-5)
