"""The cases of `topk`, on the CUDA kernels, and sequences that take several rounds of tiles, or tiles of many sequences."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from tests.kernels import test_topk as cases
from tests.kernels.test_topk import *  # noqa: F403


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis", "k"),
    [((20000,), 0, 500), ((2, 5000, 2), 1, 600), ((3, 4096), 1, 4096), ((3000, 5), 1, 2), ((33, 100), 1, 100), ((2, 2048), 1, 2048)],
)
def test_rounds(shape: tuple[int, ...], axis: int, k: int, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if wide:
        monkeypatch.setattr(build, "NARROW", -1)
    rng = np.random.default_rng(60)
    for dtype in (np.float16, np.int64):
        cases.check(cases.values(rng, shape, dtype), axis, k, int(k % 3 == 0))
