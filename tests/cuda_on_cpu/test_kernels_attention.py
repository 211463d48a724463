"""The cases of `attention`, on the CUDA kernels."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from pytensor_rt.kernels.cuda.plans import attention as plans
from tests.kernels.harness import run, strided
from tests.kernels.test_attention import *  # noqa: F403
from tests.kernels.test_attention import check, make, reference

NOT_REPLAYED = {
    "test_few_queries_read_keys_and_values_in_place": "it asks which strategy the C++ kernel chose; test_few_queries has its sizes",
    "test_exponential_over_its_whole_range": "20 000 batches take minutes here; test_exponential has every 40th",
}
INF = np.inf


def test_few_queries() -> None:
    rng = np.random.default_rng(15)
    for d, e in [(32, 48), (128, 128), (40, 20)]:
        check(*make(rng, 1, 4, 2, 2, 700, d, e), scale=0.2)


def test_exponential() -> None:
    n = 500
    x = np.sort(np.concatenate([np.linspace(-126, 0, n - 3), [-1e30, -300, -1e-30]])).astype(np.float32)
    k = np.stack([np.zeros(n, np.float32), x], 1).reshape(n, 1, 2, 1)
    v = np.broadcast_to(np.eye(2, dtype=np.float32), (n, 1, 2, 2))
    for queries in (1, 6):
        q = np.ones((n, 1, queries, 1), np.float32)
        y = run("attention", [q, k, v], [((n, 1, queries, 2), np.float32)], {"scale": math.log(2)})[0].astype(np.float64)
        want = np.exp2(x.astype(np.float64))[:, None]
        ratio = y[:, 0, :, 1] / y[:, 0, :, 0]
        assert (np.abs(ratio - want) <= 4 * np.spacing(np.maximum(want, 2.0**-126).astype(np.float32))).all()


def test_large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is chosen where many blocks remain: 64 rows per block, no splits."""
    monkeypatch.setattr(plans, "ENOUGH", 1)
    rng = np.random.default_rng(20)
    for s, t, d, e in [(70, 70, 64, 64), (33, 200, 40, 100), (100, 30, 3, 17)]:
        q, k, v = make(rng, 1, 2, 1, s, t, d, e)
        check(q, k, v)
        check(q, k, v, rng.random((1, 2, s, t)) < 0.7, causal=1, causal_offset=2)
        check(*(a.astype(np.float64) for a in (q, k, v)), tolerance=1e-13, causal=1)


def test_wide_and_deep_heads() -> None:
    rng = np.random.default_rng(21)
    for s, t, d, e in [(5, 80, 300, 260), (20, 40, 33, 150), (1, 300, 200, 300)]:
        check(*make(rng, 1, 2, 1, s, t, d, e))
        check(*make(rng, 1, 2, 1, s, t, d, e, np.float64), tolerance=1e-13)


@pytest.mark.parametrize("dtype,tolerance", [(np.float16, 1e-3), (ml_dtypes.bfloat16, 1e-2)])
def test_tensor_cores(dtype: Any, tolerance: float) -> None:
    rng = np.random.default_rng(22)
    for b, h, g, s, t, d, e in [(2, 2, 2, 64, 64, 64, 64), (1, 4, 2, 70, 130, 40, 24), (1, 2, 1, 17, 200, 256, 136), (1, 1, 1, 9, 9, 5, 3)]:
        q, k, v = make(rng, b, h, g, s, t, d, e, dtype)
        check(q, k, v, tolerance=tolerance)
        check(q, k, v, causal=1, causal_offset=t - s, tolerance=tolerance)
        check(q, k, v, rng.random((b, h, s, t)) < 0.7, rng.integers(0, t + 1, b), softcap=5.0, tolerance=tolerance)
        across = np.ascontiguousarray(k.swapaxes(2, 3)).swapaxes(2, 3)
        mask = rng.standard_normal((b, h, s, t)).astype(np.float32)
        check(strided(rng, q), across, strided(rng, v), mask, tolerance=tolerance)
        check(q, across, v, tolerance=tolerance)


def test_tensor_cores_with_an_epilogue_and_masked_rows() -> None:
    rng = np.random.default_rng(23)
    q, k, v = make(rng, 1, 2, 1, 20, 600, 32, 32, np.float16)
    mask = np.ones((1, 2, 20, 600), np.bool_)
    mask[0, 1, 7] = False
    bias = rng.standard_normal((1, 2, 20, 32)).astype(np.float16)
    y = strided(rng, np.zeros((1, 2, 20, 32), np.float16))
    for nan in (0, 1):
        got = run("attention", [q, k, v, mask], [y], {"scale": 0.2, "masked_nan": nan}, epilogue=lambda acc, b: acc + b, epi_ins=[bias])[0]
        want = reference(q, k, v, mask, None, 0.2) + bias
        want[0, 1, 7] = np.nan if nan else bias[0, 1, 7]
        np.testing.assert_allclose(got.astype(np.float64), want, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_splits_of_which_some_see_nothing(dtype: Any) -> None:
    rng = np.random.default_rng(24)
    tolerance = {np.float32: 1e-5, np.float64: 1e-13, np.float16: 1e-3}[dtype]
    for s in (1, 3, 30):
        q, k, v = make(rng, 3, 4, 2, s, 1030, 16, 16, dtype)
        check(q, k, v, None, np.array([1030, 130, 0]), causal=1, causal_offset=300, tolerance=tolerance)
        mask = np.zeros((3, 4, s, 1030), dtype)
        mask[:, :, :, 100:600] = -INF
        mask[1] = -INF
        check(q, k, v, mask, tolerance=tolerance)


def test_lowest_masks_leave_a_mean() -> None:
    """A row that is masked with the lowest number everywhere is the mean of what remains when a constant is subtracted."""
    rng = np.random.default_rng(25)
    q, k, v = make(rng, 1, 1, 1, 12, 70, 8, 8)
    mask = np.full((1, 1, 12, 70), np.finfo(np.float32).min)
    got = run("attention", [q, k, v, mask], [((1, 1, 12, 8), np.float32)], {"scale": 1.0})[0]
    np.testing.assert_allclose(got, np.broadcast_to(v.mean(2, keepdims=True), got.shape), rtol=1e-5, atol=1e-5)


def test_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NARROW", -1)
    rng = np.random.default_rng(26)
    for s, t, dtype, tolerance in [(1, 300, np.float32, 1e-5), (20, 70, np.float32, 1e-5), (20, 70, np.float16, 1e-3)]:
        q, k, v = make(rng, 2, 4, 2, s, t, 24, 40, dtype)
        check(q, k, v, rng.random((2, 4, s, t)) < 0.7, np.array([t, t // 2]), causal=1, causal_offset=t - s, tolerance=tolerance)
