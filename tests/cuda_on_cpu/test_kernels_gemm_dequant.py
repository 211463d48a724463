"""The cases of `gemm` with integer weights to dequantise, on the CUDA kernels, and weights that are dense along k."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.test_gemm import check, exact, magnitude, normal
from tests.kernels.test_gemm_dequant import *  # noqa: F403
from tests.kernels.test_gemm_dequant import FORMATS, gemm, weights


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("zeros", ["none", "float", "same"])
def test_weights_dense_along_k(form: Any, zeros: str) -> None:
    rng = np.random.default_rng(1)
    for m, n, k, block in [(1, 20, 256, 32), (2, 9, 2112, 16), (16, 24, 96, 0), (24, 40, 128, 32), (3, 7, 65, 4), (20, 16, 33, 3)]:
        b, zero, scale, w = weights(rng, k, n, form, block, zeros)
        a = normal(rng, (m, k), np.float32)
        along_k = [None if x is None else x.T.copy().T for x in (b, zero, scale)]
        y = gemm(a, *along_k, ((m, n), np.float32), form, block, threads=3)
        check(y, exact(a, w), magnitude(a, w), k)
