"""8-bit `gemm`: exact int32, so every comparison is for equality. Extreme values are where saturating instructions give themselves away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt.lowering import expr as E

from .harness import run, strided

F32, I32, U8 = np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.uint8)
SIGNS = [(a, b) for a in (np.uint8, np.int8) for b in (np.uint8, np.int8)]


def integers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def reference(a: Any, b: Any, az: Any = 0, bz: Any = 0) -> np.ndarray[Any, Any]:
    wide = [np.asarray(x).astype(np.int64) for x in (a, b, az, bz)]
    return np.matmul(wide[0] - wide[2], wide[1] - wide[3]).astype(np.int32)


@pytest.mark.parametrize("types", SIGNS, ids=str)
@pytest.mark.parametrize("const", [False, True])
def test_extreme_values(types: Any, const: bool) -> None:
    ta, tb = types
    for m, n, k in [(1, 1, 1), (1, 40, 7), (3, 32, 64), (15, 65, 131), (30, 7, 257), (2, 100, 4096)]:
        for va in (np.iinfo(ta).min, np.iinfo(ta).max):
            for vb in (np.iinfo(tb).min, np.iinfo(tb).max):
                a, b = np.full((m, k), va, ta), np.full((k, n), vb, tb)
                (y,) = run("gemm", [a, b], [((m, n), np.int32)], consts=[1] if const else [])
                np.testing.assert_array_equal(y, reference(a, b))


@pytest.mark.parametrize("types", SIGNS, ids=str)
def test_strides_batches_and_zero_points(types: Any) -> None:
    ta, tb = types
    rng = np.random.default_rng(1)
    for _ in range(40):
        nb = int(rng.integers(0, 3))
        batch = tuple(int(x) for x in rng.integers(1, 4, nb))
        m, n, k = (int(x) for x in rng.integers(1, 70, 3))
        part = lambda: tuple(int(x) for x in np.where(rng.random(nb) < 0.6, batch, 1))  # noqa: E731
        a = np.broadcast_to(strided(rng, integers(rng, (*part(), m, k), ta)), (*batch, m, k))
        b = np.broadcast_to(strided(rng, integers(rng, (*part(), k, n), tb)), (*batch, k, n))
        az = np.broadcast_to(integers(rng, (*part(), int(rng.choice([1, m])), 1), ta), (*batch, m, 1)) if rng.random() < 0.7 else None
        bz = np.broadcast_to(integers(rng, (*part(), 1, int(rng.choice([1, n]))), tb), (*batch, 1, n)) if rng.random() < 0.7 else None
        y = strided(rng, np.zeros((*batch, m, n), np.int32))
        run("gemm", [a, b, az, bz], [y], consts=[1] if rng.random() < 0.5 else [], threads=int(rng.integers(1, 3)))
        np.testing.assert_array_equal(y, reference(a, b, 0 if az is None else az, 0 if bz is None else bz))


def test_empty_sum_is_zero() -> None:
    (y,) = run("gemm", [np.zeros((3, 0), np.uint8), np.zeros((0, 5), np.int8)], [np.full((3, 5), 7, np.int32)])
    assert not y.any()


@pytest.mark.parametrize("m", [1, 40, 300])
def test_dequantised_result(m: int) -> None:
    rng = np.random.default_rng(2)
    n, k = 70, 200
    a, b = integers(rng, (m, k), np.uint8), integers(rng, (k, n), np.int8)
    az = np.broadcast_to(np.array(117, np.uint8), (m, 1))
    scale, bias = rng.random(n).astype(np.float32) * 1e-2, rng.standard_normal(n).astype(np.float32)
    epi = [np.broadcast_to(x, (m, n)) for x in (scale, bias)]

    def fn(acc: E.Var, s: E.Var, c: E.Var) -> E.Var:
        return E.relu(E.cast(acc, F32) * s + c)

    for threads in (1, 2):
        (y,) = run("gemm", [a, b, az], [((m, n), F32)], epilogue=fn, epi_ins=epi, acc_dtype=I32, consts=[1], threads=threads)
        exact = reference(a, b, az).astype(np.float64)
        # |acc| < 2^24 here, so the cast is exact; multiplication and addition round once each
        np.testing.assert_array_less(
            np.abs(y - np.maximum(exact * scale + bias, 0)), 2.0**-23 * (np.abs(exact * scale) + np.abs(bias)) + 1e-30
        )


def test_requantised_result() -> None:
    rng = np.random.default_rng(3)
    a, b = integers(rng, (50, 64), np.uint8), integers(rng, (64, 33), np.int8)

    def fn(acc: E.Var) -> E.Var:
        return E.cast_sat(E.round_(E.cast(acc, F32) * 2.0**-8) + 128.0, U8)

    (y,) = run("gemm", [a, b], [((50, 33), U8)], epilogue=fn, acc_dtype=I32, consts=[1])
    np.testing.assert_array_equal(y, np.clip(np.round(reference(a, b) * 2.0**-8) + 128, 0, 255).astype(np.uint8))


def test_same_bits_for_any_thread_count() -> None:
    rng = np.random.default_rng(4)
    a, b = integers(rng, (300, 256), np.int8), integers(rng, (256, 600), np.uint8)
    ys = [run("gemm", [a, b], [((300, 600), np.int32)], threads=t, consts=[1])[0] for t in (1, 2, 5)]
    np.testing.assert_array_equal(ys[0], reference(a, b))
    assert all(np.array_equal(ys[0], y) for y in ys)
