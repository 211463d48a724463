"""The cases of `normalize`, on the CUDA kernels; and what only these have: rows in registers of every length, stretches, 64-bit indices."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from pytensor_rt.lowering.expr import relu
from tests.kernels.harness import run
from tests.kernels.test_normalize import *  # noqa: F403
from tests.kernels.test_normalize import check, reference


@pytest.mark.parametrize("op", ["layer", "rms"])
def test_row_lengths(op: str) -> None:
    rng = np.random.default_rng(1)
    for n in (2, 31, 33, 64, 127, 512, 2000, 4097, 8192, 8196, 9001):
        x = rng.standard_normal((3, n))
        scale, bias = (np.broadcast_to(rng.standard_normal(n).astype(np.float32), x.shape) for _ in range(2))
        check(op, x.astype(np.float32), (1,), scale, bias, statistics=True)
        check(op, x.astype(np.float16), (1,), scale, bias)  # the factors are wider than the input


@pytest.mark.parametrize("op", ["layer", "rms"])
def test_stretches(op: str) -> None:
    rng = np.random.default_rng(2)
    for shape, axes in (((1, 70_000), (1,)), ((2, 66_001), (1,)), ((20_000, 3), (0,)), ((20_000, 8), (0,)), ((2, 4, 5000, 4), (1, 2))):
        x = (rng.standard_normal(shape) + 3).astype(np.float32)
        scale = np.broadcast_to(rng.standard_normal(shape[-1]).astype(np.float32), shape)
        check(op, x, axes, scale, None, statistics=True)


def test_programs_in_stretches() -> None:
    rng = np.random.default_rng(3)
    for shape, axes in (((2, 70_000), (1,)), ((30_000, 4), (0,))):
        a, b, out = (rng.standard_normal(shape).astype(np.float32) for _ in range(3))
        want = np.maximum(reference("layer", a + b, axes, 1e-5, None, None)[0] + out, 0)
        (y, _, _) = run("normalize", [np.empty(shape, np.float32), None, None], [out, None, None], {"op": "layer", "axes": axes, "epsilon": 1e-5},
                        prologue=lambda u, v: u + v, pro_ins=[a, b], epilogue=lambda acc, z: relu(acc + z), epi_ins=[out])  # fmt: skip
        np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)


def test_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NARROW", -1)
    rng = np.random.default_rng(4)
    for shape, axes in (((6, 40), (1,)), ((40, 6), (0,)), ((2, 9000), (1,)), ((1, 70_000), (1,)), ((3, 4, 5), (0, 2))):
        check("layer", rng.standard_normal(shape).astype(np.float32), axes, statistics=True)
