"""The cases of 8-bit `gemm`, on the CUDA kernels, and every way into the shared memory of the tensor cores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt.kernels.cuda.plans import gemm_paths
from tests.kernels.harness import run
from tests.kernels.test_gemm_int8 import *  # noqa: F403
from tests.kernels.test_gemm_int8 import SIGNS, integers, reference

from .test_kernels_gemm import layouts


@pytest.mark.parametrize("types", SIGNS, ids=str)
@pytest.mark.parametrize("size", ["large", "medium", "thin", "few"])
def test_layouts(types: Any, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm_paths, "ENOUGH", 1 if size == "large" else 100)
    rng = np.random.default_rng(1)
    m, n, k = {"large": (136, 144, 80), "medium": (72, 80, 144), "thin": (12, 136, 72), "few": (3, 100, 272)}[size]
    a, b = integers(rng, (m, k), types[0]), integers(rng, (k, n), types[1])
    az, bz = integers(rng, (m, 1), types[0]), integers(rng, (1, n), types[1])
    kinds = layouts(a), layouts(b)
    pairs = [(0, 0), (0, 1)] if size == "large" else [(i, j) for i in range(3) for j in range(3)]
    for i, j in pairs:
        zeros = [[None, None], [az, None], [None, bz], [az, bz]][(i + j) % 4]
        (y,) = run("gemm", [kinds[0][i], kinds[1][j], *zeros], [((m, n), np.int32)], threads=3)
        np.testing.assert_array_equal(y, reference(a, b, *[0 if z is None else z for z in zeros]))


@pytest.mark.parametrize("types", SIGNS[:2], ids=str)
def test_slices_of_k(types: Any) -> None:
    rng = np.random.default_rng(2)
    for m, n, k in [(1, 40, 4100), (20, 24, 1700)]:
        a, b = integers(rng, (m, k), types[0]), integers(rng, (k, n), types[1])
        az, bz = integers(rng, (m, 1), types[0]), integers(rng, (1, n), types[1])
        for w in layouts(b)[:2]:
            (y,) = run("gemm", [a, w, az, bz], [((m, n), np.int32)])
            np.testing.assert_array_equal(y, reference(a, b, az, bz))
