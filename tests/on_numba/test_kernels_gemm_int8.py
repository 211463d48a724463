"""The cases of 8-bit `gemm` on device "numba", with every kind of instruction."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest

from pytensor_rt.kernels.numba.plans import gemm_int8
from pytensor_rt.lowering import expr as E
from tests.kernels import test_gemm_int8 as cases
from tests.kernels import test_gemm_reduced as reduced
from tests.kernels.harness import run, strided
from tests.kernels.test_gemm_int8 import *  # noqa: F403
from tests.kernels.test_gemm_int8 import DEQUANTISE, F32, I32, SIGNS, integers, reference

KINDS = ["vnni", "madd", "plain"]


@pytest.fixture(params=KINDS)
def kind(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "vnni" and gemm_int8.dots() != "vnni":
        pytest.skip("the CPU has no such instructions")
    if request.param == "madd" and platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("not an x86")
    monkeypatch.setattr(gemm_int8, "dots", lambda: request.param)
    return str(request.param)


@pytest.mark.parametrize("const", [False, True])
@pytest.mark.parametrize("types", SIGNS, ids=str)
def test_extreme_values_of_every_kind(types: Any, const: bool, kind: str) -> None:
    cases.test_extreme_values(types, const)


@pytest.mark.parametrize("types", SIGNS, ids=str)
def test_strides_and_zero_points_of_every_kind(types: Any, kind: str) -> None:
    cases.test_strides_batches_and_zero_points(types)


@pytest.mark.parametrize("name", DEQUANTISE)
def test_dequantised_results_of_every_kind(name: str, kind: str) -> None:
    cases.test_dequantised_result(name)


def test_int8_precision_of_every_kind(kind: str) -> None:
    reduced.test_int8_equals_the_reference()
    reduced.test_int8_ranges_at_the_ends()


@pytest.mark.parametrize("types", SIGNS, ids=str)
def test_every_height_and_remainder(types: Any) -> None:
    rng = np.random.default_rng(1)
    for m in range(1, 30):
        n, k = int(rng.integers(1, 150)), int(rng.integers(1, 60))
        a, b = integers(rng, (m, k), types[0]), integers(rng, (k, n), types[1])
        (y,) = run("gemm", [a, b], [((m, n), np.int32)], consts=[1])
        np.testing.assert_array_equal(y, reference(a, b))


def test_factors_and_terms_of_any_layout() -> None:
    """Scalars, rows with gaps, columns, more than one use: what may be done in the kernel, and what may not."""
    rng = np.random.default_rng(2)
    m, n, k = 20, 70, 33
    a, b = integers(rng, (m, k), np.uint8), integers(rng, (k, n), np.int8)
    exact = reference(a, b).astype(np.float64)
    full = (m, n)
    shapes: dict[str, np.ndarray[Any, Any]] = {
        "scalar": np.broadcast_to(np.float32(0.01), full),
        "columns": np.broadcast_to(rng.random(n).astype(F32), full),
        "gaps": np.broadcast_to(rng.random(2 * n).astype(F32)[::2], full),
        "rows": np.broadcast_to(rng.random((m, 1)).astype(F32), full),
        "matrix": strided(rng, rng.random(full).astype(F32)),
    }
    programs: list[tuple[Any, Any]] = [
        (lambda acc, s, c: E.cast(acc, F32) * s + c, lambda x, s, c: x * s + c),
        (lambda acc, s, c: c + s * E.cast(acc, F32), lambda x, s, c: x * s + c),
        (lambda acc, s, c: E.cast(acc, F32) * s, lambda x, s, c: x * s),
        (lambda acc, s, c: E.relu(E.cast(acc, F32) * s) * c, lambda x, s, c: np.maximum(x * s, 0) * c),
        (lambda acc, s, c: E.cast(acc, F32) * s + E.cast(acc, F32), lambda x, s, c: x * s + x),
        (lambda acc, s, c: (E.cast(acc, F32) * s) * (E.cast(acc, F32) * s + c), lambda x, s, c: x * s * (x * s + c)),
        (lambda acc, s, c: (E.cast(acc, F32) + c) * s, lambda x, s, c: (x + c) * s),
    ]
    for s in shapes.values():
        for c in shapes.values():
            for program, numpy_program in programs:
                (y,) = run("gemm", [a, b], [(full, F32)], epilogue=program, epi_ins=[s, c], acc_dtype=I32, consts=[1], threads=2)
                wide = [x.astype(np.float64) for x in (s, c)]
                want = numpy_program(exact, *wide)
                scale = numpy_program(np.abs(exact), *wide)  # factors and terms are not negative
                assert np.all(np.abs(y - want) <= 6 * 2.0**-24 * scale + 1e-30)
