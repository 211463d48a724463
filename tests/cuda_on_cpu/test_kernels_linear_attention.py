"""The cases of `linear_attention`, on the CUDA kernel; and states that do not fit shared memory, several warps, 64-bit indices."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from pytensor_rt.kernels.cuda.plans import linear_attention as plans
from tests.kernels.test_linear_attention import *  # noqa: F403
from tests.kernels.test_linear_attention import check, make, per_head


@pytest.mark.parametrize("shared", [plans.SHARED_BYTES, 0])
def test_several_warps(monkeypatch: pytest.MonkeyPatch, shared: int) -> None:
    monkeypatch.setattr(plans, "SHARED_BYTES", shared)
    rng = np.random.default_rng(20)
    for d, heads in [(32, (1, 1, 1)), (70, (2, 1, 1)), (130, (1, 1, 2))]:
        ins = make(rng, 1, heads, 3, d, 40)
        check(ins, window=2)
        check([*ins[:4], per_head(ins[4]), ins[5]], delta=0)


def test_deep_heads() -> None:
    rng = np.random.default_rng(21)
    check(make(rng, 1, (1, 1, 1), 2, 350, 5))
    check(make(rng, 1, (1, 1, 1), 2, 170, 5, np.float64), tolerance=1e-13)


def test_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NARROW", -1)
    ins = make(np.random.default_rng(22), 2, (2, 1, 2), 3, 20, 40)
    check(ins, window=2)
    check([*ins[:4], per_head(ins[4]), None])
