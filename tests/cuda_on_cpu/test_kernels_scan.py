"""The cases of `scan`, on the CUDA kernels; and what only these have: stretches with a launch for their totals, tiles, 64-bit indices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from tests.kernels.harness import run
from tests.kernels.test_scan import *  # noqa: F403
from tests.kernels.test_scan import reference

A = np.ndarray[Any, Any]


def check(op: str, x: A, axis: int, exclusive: int = 0, reverse: int = 0) -> None:
    params = {"op": op, "axis": axis, "exclusive": exclusive, "reverse": reverse}
    results = [run("scan", [x], [(x.shape, x.dtype)], params, threads=t)[0] for t in (1, 2)]
    assert results[0].tobytes() == results[1].tobytes()
    want = reference(op, x, axis, bool(exclusive), bool(reverse))
    if x.dtype.kind in "iu":
        np.testing.assert_array_equal(results[0], want)
    else:
        np.testing.assert_allclose(results[0].astype(np.float64), want, rtol=1e-3 if x.dtype == np.float16 else 1e-6)


@pytest.mark.parametrize("shape, axis", [((1, 70_000), 1), ((2, 66_001), 1), ((3000, 2), 0), ((2000, 70), 0)])
def test_stretches(shape: tuple[int, ...], axis: int) -> None:
    rng = np.random.default_rng(1)
    for exclusive in (0, 1):
        for reverse in (0, 1):
            check("sum", rng.random(shape).astype(np.float32), axis, exclusive, reverse)
            check("prod", rng.integers(-3, 4, shape, np.int32) | 1, axis, exclusive, reverse)
    check("sum", (rng.random(shape) / 100).astype(np.float16), axis)


def test_tiles_of_a_block() -> None:
    rng = np.random.default_rng(2)
    for n in (1023, 1024, 1025, 5000):
        check("sum", rng.random((3, n)).astype(np.float32), 1)
        check("sum", rng.integers(0, 9, (300, n // 8), np.int64), 1, 1)


def test_infinities_reach_only_what_follows() -> None:
    for n, at in ((100, 7), (3000, 2000), (70_000, 40_000)):
        x = np.ones((1, n), np.float32)
        x[0, at] = np.inf
        for a, axis in ((x, 1), (np.ascontiguousarray(x.T), 0)):
            for exclusive in (0, 1):
                params = {"op": "sum", "axis": axis, "exclusive": exclusive, "reverse": 0}
                (y,) = run("scan", [a], [(a.shape, np.float32)], params)
                assert np.flatnonzero(np.isinf(y.reshape(-1)))[0] == at + exclusive


def test_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NARROW", -1)
    rng = np.random.default_rng(3)
    for axis in (0, 1):
        check("sum", rng.random((300, 70)).astype(np.float32), axis, 0, 1)
    check("sum", rng.random((1, 70_000)).astype(np.float32), 1)
    check("sum", rng.random((3000, 2)).astype(np.float32), 0)
