"""The cases of `gemm` in reduced precision, on the CUDA kernels."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.kernels.cuda.plans import gemm_paths
from tests.kernels.test_gemm import check, exact, magnitude, normal
from tests.kernels.test_gemm_reduced import *  # noqa: F403
from tests.kernels.test_gemm_reduced import gemm, int8_oracle, rounded

from .test_kernels_gemm import layouts


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_layouts(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm_paths, "ENOUGH", 1)
    rng = np.random.default_rng(1)
    for m, n, k in [(3, 40, 64), (12, 40, 96), (136, 48, 72), (40, 24, 1700)]:
        a, b = normal(rng, (m, k), np.float32), normal(rng, (k, n), np.float32)
        for x in layouts(a):
            y = gemm(x, b, ((m, n), np.float32), precision, threads=3)
            if precision == "int8":
                np.testing.assert_allclose(y, int8_oracle(a, b), rtol=4 * 2.0**-24, atol=0)
            else:
                p, q = rounded(a, b, precision)
                check(y, exact(p, q), magnitude(p, q), k)
