"""The cases of `pool`, on the CUDA kernels, and cases of the paths that only they have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt.dtypes import F32
from pytensor_rt.kernels.cuda import build
from pytensor_rt.kernels.cuda.plans import plan_launch
from pytensor_rt.lowering.expr import cast, relu
from tests.kernels import harness, test_pool
from tests.kernels.test_pool import *  # noqa: F403
from tests.kernels.test_pool import case, channels_last, check

NOT_REPLAYED = {"test_strategies_fire": "asserts what the C++ kernel chooses; test_strategies is the same for these"}


@pytest.fixture(autouse=True)
def _describes(monkeypatch: pytest.MonkeyPatch, _replayed_on_cuda: None) -> None:
    """What runs describe is the kernels of their plan."""
    device, names = harness.device, []
    assert device is not None

    def noted(launch: Any, bases: Any, threads: int) -> None:
        names[:] = [call.entry.name for call in plan_launch(launch)]
        device(launch, bases, threads)

    def run(*args: Any, describe: list[str] | None = None, **kwargs: Any) -> list[Any]:
        results = harness.run(*args, **kwargs)
        if describe is not None:
            describe.append(", ".join(names))
        return results

    monkeypatch.setattr(harness, "device", noted)
    monkeypatch.setattr(test_pool, "run", run)


def test_strategies() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 64, 9, 9)).astype(np.float32)
    p = case("max", (3, 3), (2, 2), None, (1, 1, 1, 1))
    out = channels_last(np.zeros((1, 64, 5, 5), np.float32))
    assert check(channels_last(x), p, out=out) == "pool_vectors"
    assert check(x, p) == "pool_windows"
    assert check(x, p, indices=True) == "pool_windows"
    assert check(x[:, :2], case("average", (8, 8))) == "pool_shared"
    whole = case("average", (3, 3))
    check(channels_last(x[:, :, :4, :4]), whole, out=channels_last(np.zeros((1, 64, 2, 2), np.float32)))


@pytest.mark.parametrize("op", ["max", "average", "lp"])
def test_shared_windows(op: str) -> None:
    rng = np.random.default_rng(7)
    for kernel, dtype in (((9, 7), np.float32), ((4, 3, 5), np.float16), ((50,), np.float64)):
        n = len(kernel)
        x = rng.standard_normal((2, 5, *[k + 3 for k in kernel])).astype(dtype)
        p = case(op, kernel, (2,) * n, None, (1,) * 2 * n, p=3, count_include_pad=1)
        shape = test_pool.out_shape(x, p)
        assert check(x, p) == "pool_shared"
        assert check(channels_last(x), p, out=channels_last(np.zeros(shape, dtype))) == "pool_shared"
        if op == "max":
            ties = np.round(x)
            check(ties, p, indices=True)
            check(ties, {**p, "storage_order": 1}, indices=True)
            check(channels_last(ties), {**p, "dilations": (2 if n > 1 else 1,) * n, "pads": (3,) * 2 * n}, indices=True)


def test_shared_by_a_block() -> None:
    x = np.random.default_rng(8).standard_normal((1, 3, 50, 60)).astype(np.float32)
    p = case("lp", (50, 60))
    assert check(x, p) == "pool_shared"
    assert check(np.round(x), case("max", (50, 60)), indices=True) == "pool_shared"
    big = channels_last(np.tile(x, (1, 12, 1, 1)))
    check(big, p, out=channels_last(np.zeros((1, 36, 1, 1), np.float32)))


def test_windows_walked_tap_by_tap() -> None:
    """Too many taps to unroll, too few to share."""
    x = np.random.default_rng(9).standard_normal((1, 8, 9, 12)).astype(np.float32)
    for p in (case("max", (5, 5), (1, 2), (1, 2), (2, 3, 2, 4)), case("average", (4, 6), (2, 1), (2, 1), (3, 5, 1, 0))):
        check(x, p)
        check(channels_last(x), p, out=channels_last(np.zeros(test_pool.out_shape(x, p), np.float32)))
        check(x, {**p, "count_include_pad": 1})
    check(np.round(x), case("max", (5, 5), (1, 2), (1, 2), (2, 3, 2, 4)), indices=True)


@pytest.mark.parametrize("kernel", [(2, 2), (5, 5), (12, 12)])
def test_nan_is_the_largest_and_padding_never_wins(kernel: tuple[int, int]) -> None:
    x = np.full((1, 8, 12, 12), -np.inf, np.float32)
    x[0, :, 3, 4] = x[0, :, 7, 9] = np.nan
    p = case("max", kernel, (1, 1), None, (1, 1, 0, 0))
    shape = test_pool.out_shape(x, p)
    y, where = harness.run("pool", [x], [(shape, np.float32), (shape, np.int64)], p)
    (plain, _) = harness.run("pool", [channels_last(x)], [channels_last(np.zeros(shape, np.float32)), None], p)
    for o in np.ndindex(*shape[2:]):
        window = {(i, j): x[0, 0, i, j] for i in range(o[0] - 1, o[0] - 1 + kernel[0]) for j in range(o[1] - 1, o[1] - 1 + kernel[1])
                  if i >= 0 and j >= 0}  # fmt: skip
        nans = [at for at, v in window.items() if np.isnan(v)]
        first = (nans or list(window))[0]
        for c in range(8):
            np.testing.assert_array_equal([y[(0, c, *o)], plain[(0, c, *o)]], np.nan if nans else -np.inf)
            assert where[(0, c, *o)] == c * 144 + first[0] * 12 + first[1]


def test_narrow_types_and_booleans() -> None:
    import ml_dtypes

    rng = np.random.default_rng(10)
    p = case("max", (2, 2), (2, 2))
    for dtype in (np.bool_, ml_dtypes.int4, ml_dtypes.float8_e4m3fn):
        x = rng.integers(0, 2 if dtype is np.bool_ else 8, (1, 16, 4, 6)).astype(dtype)
        want = x.astype(np.float32).reshape(1, 16, 2, 2, 3, 2).max((3, 5))
        for a in (x, channels_last(x)):
            (y, _) = harness.run("pool", [a], [channels_last(np.zeros(want.shape, dtype)), None], p)
            np.testing.assert_array_equal(y.astype(np.float32), want)


def test_epilogue_of_vectors_and_shared_windows() -> None:
    rng = np.random.default_rng(11)
    x = channels_last(rng.standard_normal((2, 20, 9, 9)).astype(np.float16))
    for p in (case("average", (3, 3), (2, 2), None, (1, 1, 1, 1)), case("average", (9, 9))):
        shape = test_pool.out_shape(x, p)
        bias = rng.standard_normal((20, 1, 1)).astype(np.float32)
        out = channels_last(np.zeros(shape, np.float32))
        (got, _) = harness.run(
            "pool", [x], [out, None], p, epilogue=lambda acc, z: relu(cast(acc, F32) + z), epi_ins=[np.broadcast_to(bias, shape)], acc_dtype=np.float16
        )  # fmt: skip
        want = np.maximum(test_pool.reference(x, p, shape)[0].astype(np.float16).astype(np.float32) + bias, 0)
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)


def test_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of operands beyond 2**31 elements."""
    monkeypatch.setattr(build, "NARROW", -1)
    x = np.random.default_rng(12).standard_normal((1, 8, 9, 9)).astype(np.float32)
    for p in (case("max", (3, 3), (2, 2), None, (1, 1, 1, 1)), case("max", (5, 5), (1, 1), (2, 1)), case("average", (8, 9))):
        check(x, p)
        check(channels_last(x), p, out=channels_last(np.zeros(test_pool.out_shape(x, p), np.float32)))
        if p["op"] == "max":
            check(x, p, indices=True)
