"""The cases of `softmax`, on the CUDA kernels; and what only these have: rows in registers of every length, sweeps, stretches, 64-bit indices."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from pytensor_rt.lowering.expr import cast
from tests.kernels.harness import run
from tests.kernels.test_softmax import *  # noqa: F403
from tests.kernels.test_softmax import check, reference

OPS = ("softmax", "log_softmax", "hardmax")


@pytest.mark.parametrize("op", OPS)
def test_row_lengths(op: str) -> None:
    rng = np.random.default_rng(1)
    for n in (2, 31, 33, 64, 127, 512, 2000, 4097, 8192, 8196, 9001):
        check(op, (rng.standard_normal((3, n)) * 3).astype(np.float32), 1)
        check(op, (rng.standard_normal((2, n)) * 3).astype(np.float16), 1)


@pytest.mark.parametrize("op", OPS)
def test_stretches(op: str) -> None:
    rng = np.random.default_rng(2)
    for shape, axis in (((1, 70_000), 1), ((70_001, 1), 0), ((20_000, 3), 0), ((20_000, 8), 0)):
        x = rng.standard_normal(shape).astype(np.float32)
        check(op, x, axis)
    if op != "hardmax":
        x[19_000, 2] = np.nan
        assert np.isnan(check(op, x, 0)[:, 2]).all()


def test_rows_without_a_finite_maximum() -> None:
    """In registers, in sweeps along and across, in stretches."""
    for shape, axis in (((3, 40), 1), ((3, 9001), 1), ((40, 3), 0), ((3, 70_000), 1)):
        x = np.zeros(shape, np.float32)
        rows = np.moveaxis(x, axis, -1)
        rows[0] = -np.inf
        rows[1, 7] = np.inf
        rows[2, 9] = -np.inf
        for op in ("softmax", "log_softmax"):
            y = np.moveaxis(check(op, x, axis), axis, -1)
            assert np.isnan(y[:2]).all() and not np.isnan(y[2]).any()


def test_programs_in_stretches() -> None:
    rng = np.random.default_rng(3)
    for shape, axis in (((2, 70_000), 1), ((30_000, 4), 0)):
        x, mask = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
        (y,) = run("softmax", [np.empty(shape, np.float32)], [(shape, np.float16)], {"op": "log_softmax", "axis": axis}, acc_dtype=np.float32,
                   prologue=lambda u, m: u + m, pro_ins=[x, mask], epilogue=lambda acc, s: cast(acc - s, np.dtype(np.float16)),
                   epi_ins=[mask])  # fmt: skip
        np.testing.assert_allclose(y, reference("log_softmax", x + mask, axis) - mask, rtol=2e-3, atol=2e-3)


def test_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NARROW", -1)
    rng = np.random.default_rng(4)
    for op in OPS:
        for shape, axis in (((6, 40), 1), ((40, 6), 0), ((2, 9000), 1), ((1, 70_000), 1)):
            check(op, rng.standard_normal(shape).astype(np.float32), axis)
