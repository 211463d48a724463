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


def part(rng: np.random.Generator, batch: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n if rng.random() < 0.6 else 1 for n in batch)


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
        a = np.broadcast_to(strided(rng, integers(rng, (*part(rng, batch), m, k), ta)), (*batch, m, k))
        b = np.broadcast_to(strided(rng, integers(rng, (*part(rng, batch), k, n), tb)), (*batch, k, n))
        az = (
            np.broadcast_to(integers(rng, (*part(rng, batch), int(rng.choice([1, m])), 1), ta), (*batch, m, 1))
            if rng.random() < 0.7
            else None
        )
        bz = (
            np.broadcast_to(integers(rng, (*part(rng, batch), 1, int(rng.choice([1, n]))), tb), (*batch, 1, n))
            if rng.random() < 0.7
            else None
        )
        y = strided(rng, np.zeros((*batch, m, n), np.int32))
        run("gemm", [a, b, az, bz], [y], consts=[1] if rng.random() < 0.5 else [], threads=int(rng.integers(1, 3)))
        np.testing.assert_array_equal(y, reference(a, b, 0 if az is None else az, 0 if bz is None else bz))


@pytest.mark.parametrize("types", SIGNS, ids=str)
def test_a_dense_b_that_is_no_constant(types: Any) -> None:
    rng = np.random.default_rng(11)
    for m, n, k in [(3, 32, 4), (5, 70, 13), (16, 131, 66), (1, 300, 1)]:
        a, b, bz = integers(rng, (m, k), types[0]), integers(rng, (k, n), types[1]), integers(rng, (1, n), types[1])
        for matrix in (b, b.T.copy().T, np.pad(b, ((0, 0), (0, 5)))[:, :n]):
            (y,) = run("gemm", [a, matrix, None, bz], [((m, n), np.int32)], threads=2)
            np.testing.assert_array_equal(y, reference(a, b, 0, bz))


def test_empty_sum_is_zero() -> None:
    (y,) = run("gemm", [np.zeros((3, 0), np.uint8), np.zeros((0, 5), np.int8)], [np.full((3, 5), 7, np.int32)])
    assert not y.any()


DEQUANTISE: dict[str, Any] = {
    "scale": (lambda acc, s, c, r: E.cast(acc, F32) * s, lambda x, s, c, r: x * s),
    "scale bias relu": (lambda acc, s, c, r: E.relu(E.cast(acc, F32) * s + c), lambda x, s, c, r: np.maximum(x * s + c, 0)),
    "two scales and a factor": (lambda acc, s, c, r: (s * c) * (E.cast(acc, F32) * 0.5), lambda x, s, c, r: x * 0.5 * s * c),
    "residual": (lambda acc, s, c, r: E.cast(acc, F32) * s + c + r, lambda x, s, c, r: x * s + c + r),
}


@pytest.mark.parametrize("name", DEQUANTISE)
def test_dequantised_result(name: str) -> None:
    rng = np.random.default_rng(2)
    program, numpy_program = DEQUANTISE[name]
    for m, n, k in [(1, 70, 200), (40, 64, 33), (300, 33, 100)]:
        a, b = integers(rng, (m, k), np.uint8), integers(rng, (k, n), np.int8)
        az = np.broadcast_to(np.array(117, np.uint8), (m, 1))
        scale, bias, r = rng.random(n).astype(F32) * np.float32(1e-2), rng.standard_normal(n).astype(F32), rng.random((m, n)).astype(F32)
        epi = [np.broadcast_to(scale, (m, n)), np.broadcast_to(bias, (m, n)), r]
        exact = reference(a, b, az).astype(np.float64)
        wide = [np.float64(1) * x for x in epi]
        # |acc| < 2^24, so the cast is exact; at most four roundings of the largest intermediate follow
        bound = 4 * 2.0**-24 * (np.abs(exact * wide[0]) * (1 + np.abs(wide[1])) + np.abs(wide[1]) + np.abs(r)) + 1e-30
        for threads, strides in ((1, "rows"), (2, "rows"), (1, "any")):
            y = strided(rng, np.zeros((m, n), F32)) if strides == "any" else np.zeros((m, n), F32)
            run("gemm", [a, b, az], [y], epilogue=program, epi_ins=epi, acc_dtype=I32, consts=[1], threads=threads)
            assert np.all(np.abs(y - numpy_program(exact, *wide)) <= bound)


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
