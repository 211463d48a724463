"""The cases of `quantize_stats`, on the CUDA kernels; and tensors that these cut into stretches."""

from __future__ import annotations

import numpy as np

from tests.kernels.test_quantize_stats import *  # noqa: F403
from tests.kernels.test_quantize_stats import check


def test_stretches() -> None:
    rng = np.random.default_rng(1)
    for shape in ((70_000,), (300_001,), (400, 800)):
        check((rng.standard_normal(shape) + 1).astype(np.float32))
        check((rng.standard_normal(shape) * 9).astype(np.float32).T)
