"""The cases of `pool`, on device "numba", and cases of the paths that only it has."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt.kernels.numba.plans import plan_launch
from pytensor_rt.lowering.expr import cast, relu
from tests.kernels import harness, test_pool
from tests.kernels.harness import strided
from tests.kernels.test_pool import *  # noqa: F403
from tests.kernels.test_pool import CASES, case, channels_last, check, out_shape, reference

NOT_REPLAYED = {"test_strategies_fire": "asserts what the C++ kernel chooses; test_strategies is the same for these"}


@pytest.fixture(autouse=True)
def _describes(monkeypatch: pytest.MonkeyPatch, _replayed_on_numba: None) -> None:
    """What runs describe is the functions of their calls."""
    device = harness.device
    names: list[str] = []
    assert device is not None

    def noted(launch: Any, bases: Any, threads: int) -> None:
        names[:] = [call.fn.partition("[")[0] for call in plan_launch(launch).calls]
        device(launch, bases, threads)

    def run(*args: Any, describe: list[str] | None = None, **kwargs: Any) -> list[Any]:
        results = harness.run(*args, **kwargs)
        if describe is not None:
            describe.append(", ".join(names))
        return results

    monkeypatch.setattr(harness, "device", noted)
    monkeypatch.setattr(test_pool, "run", run)


def test_strategies() -> None:
    x = np.random.default_rng(2).standard_normal((1, 70, 9, 9)).astype(np.float32)
    p = case("max", (3, 3), (2, 2), None, (1, 1, 1, 1))
    assert check(channels_last(x), p, out=channels_last(np.zeros((1, 70, 5, 5), np.float32))) == "pool.channels"
    assert check(x, p) == "pool.rows"
    assert check(x, p, indices=True) == "pool.places"
    assert check(x.astype(np.float16), p) == "box.whole, pool.rows"
    assert check(x[..., ::2], p) == "box.whole, pool.rows"


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("op", ["max", "average", "lp"])
def test_widths(op: str, dtype: Any) -> None:
    """Every remainder of vectors, along channels and along rows; more channels than a unit has."""
    rng = np.random.default_rng(3)
    for n in (4, 7, 8, 15, 16, 17, 31, 63, 64, 65, 79, 600):
        x = rng.standard_normal((1, n, 3, 4)).astype(dtype)
        p = case(op, (2, 2), (1, 2), None, (0, 0, 1, 0))
        check(channels_last(x), p, out=channels_last(np.zeros(out_shape(x, p), dtype)))
        for stride in (1, 2, 3):
            row = rng.standard_normal((1, 2, 3, n)).astype(dtype)
            check(row, case(op, (2, 3), (1, stride), (1, 2), (1, 2, 0, 3)))


@pytest.mark.parametrize("last", [False, True])
def test_nan_is_the_largest(last: bool) -> None:
    rng = np.random.default_rng(4)
    for dtype in (np.float32, np.float64, np.float16):
        x = rng.standard_normal((1, 20, 9, 37)).astype(dtype)
        x[rng.random(x.shape) < 0.02] = np.nan
        p = case("max", (3, 3), (2, 2), None, (1, 1, 1, 1))
        shape = out_shape(x, p)
        want = np.full(shape, -np.inf)
        padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        for i in range(3):
            for j in range(3):
                want = np.maximum(want, padded[:, :, i::2, j::2][:, :, : shape[2], : shape[3]])
        a = channels_last(x) if last else x
        (y, _) = harness.run("pool", [a], [(shape, dtype), None], p)
        np.testing.assert_array_equal(y.astype(np.float64), want)
        y, where = harness.run("pool", [a], [(shape, dtype), (shape, np.int64)], p)
        np.testing.assert_array_equal(y.astype(np.float64), want)
        np.testing.assert_array_equal(x.reshape(-1)[where].astype(np.float64), want)


@pytest.mark.parametrize("dtype", [np.bool_, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn], ids=lambda d: np.dtype(d).name)
def test_maxima_of_odd_dtypes(dtype: Any) -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(-8 if dtype is ml_dtypes.int4 else 0, 2 if dtype is np.bool_ else 8, (2, 6, 5, 9)).astype(dtype)
    p = case("max", (2, 3), (1, 2), None, (0, 1, 0, 1))
    shape = out_shape(x, p)
    want, where = reference(x.astype(np.int64), p, shape)
    for a in (x, channels_last(x), strided(rng, x)):
        for out in ((shape, dtype), channels_last(np.zeros(shape, dtype))):
            for positions in (None, (shape, np.int64)):
                y, found = harness.run("pool", [a], [out, positions], p)
                np.testing.assert_array_equal(y.astype(np.int64), want)
                if positions is not None:
                    np.testing.assert_array_equal(found, where)


@pytest.mark.parametrize("p", [CASES[1], CASES[2], CASES[6]], ids=lambda p: p["op"])
def test_epilogues(p: dict[str, Any]) -> None:
    """In place and not, of one dtype and another, with several rows of results per unit and threads."""
    rng = np.random.default_rng(6)
    for size, channels in (((21, 33), 17), ((4, 5), 530)):
        x = rng.standard_normal((2, channels, *size)).astype(np.float32)
        check_epilogues(rng, x, p)


def check_epilogues(rng: np.random.Generator, x: Any, p: dict[str, Any]) -> None:
    shape = out_shape(x, p)
    own = reference(x, p, shape)[0]
    other = rng.standard_normal(shape).astype(np.float32)
    for a in (x, channels_last(x)):
        for lay in (np.array, channels_last):
            for threads in (1, 2):
                out = lay(other)
                (y, _) = harness.run("pool", [a], [out, None], p, epilogue=lambda acc, z: relu(acc * 2 + z), epi_ins=[out], threads=threads)
                np.testing.assert_allclose(y, np.maximum(own * 2 + other, 0), rtol=1e-5, atol=1e-5)
                (y, _) = harness.run(
                    "pool", [a], [(shape, np.int8), None], p, epilogue=lambda acc: cast(acc * 10, np.dtype(np.int8)), acc_dtype=np.float32,
                    threads=threads,
                )  # fmt: skip
                assert (np.abs(y - np.trunc(own * 10)) <= (np.abs(own * 10 - np.rint(own * 10)) < 1e-3)).all()


def test_windows_of_padding_alone() -> None:
    x = np.ones((1, 4, 2, 2), np.float32)
    p = case("max", (2, 2), (1, 1), None, (3, 3, 3, 3))
    shape = out_shape(x, p)
    for a in (x, channels_last(x)):
        (y, _) = harness.run("pool", [a], [(shape, np.float32), None], p)
        np.testing.assert_array_equal(np.isinf(y), ~np.pad(np.ones((1, 4, 3, 3), bool), ((0, 0), (0, 0), (2, 2), (2, 2))))


def test_empty_input() -> None:
    for shape in ((1, 4, 0, 3), (1, 4, 3, 0)):
        p = case("max", (2, 2), (1, 1), None, (1, 1, 1, 1))
        out = out_shape(np.zeros(shape), p)
        for a in (np.zeros(shape, np.float32), np.zeros((1, *shape[2:], 4), np.float32).transpose(0, 3, 1, 2)):
            (y, _) = harness.run("pool", [a], [(out, np.float32), None], p)
            np.testing.assert_array_equal(y, np.full(out, -np.inf))
    (y, _) = harness.run("pool", [np.zeros((0, 3, 4, 4), np.float32)], [((0, 3, 3, 3), np.float32), None], case("max", (2, 2)))
    assert y.shape == (0, 3, 3, 3)
