"""The cases of `reduce`, on the CUDA kernels; and what only these have: rows cut into stretches, 64-bit indices, many kept axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from pytensor_rt.kernels.cuda.plans import row_layout
from pytensor_rt.lowering.expr import cast
from tests.kernels import test_reduce
from tests.kernels.harness import run, strided
from tests.kernels.test_reduce import *  # noqa: F403
from tests.kernels.test_reduce import check

NOT_REPLAYED = {
    "test_layout_classes": "it asks which layout the C++ kernel chose; test_layouts here asks the CUDA plan",
    "test_pairs_strategy": "it asks which strategy the C++ kernel chose",
}


def test_layouts() -> None:
    from pytensor_rt.kernels.cuda.plans.samples import launch, tensor

    def layout(*args: Any, **kwargs: Any) -> tuple[bool, int]:
        made = launch("reduce", [tensor(*args, **kwargs)], (2, 64, 1, 1), op="mean", axes=(2, 3))
        chosen = row_layout.Layout(made, (2, 3))
        return chosen.columns, chosen.width

    assert layout((2, 64, 8, 8)) == (False, 4)
    assert layout((2, 64, 7, 7)) == (False, 1)  # rows of 49 elements do not start at multiples of 16 bytes
    assert layout((2, 7, 7, 64), perm=(0, 3, 1, 2)) == (True, 4)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "float64"])
def test_stretches(dtype: str) -> None:
    """Few long rows, in memory order and across it, whole packs and not: two launches."""
    rng = np.random.default_rng(1)
    for shape, axes in (((2, 140_000), (1,)), ((1, 70_001), (1,)), ((70_001, 2), (0,)), ((30_000, 8), (0,)), ((3, 30_000, 2), (0, 1))):
        x = (rng.standard_normal(shape) * 3).astype(dtype)
        for op in ("sum", "max", "log_sum_exp") if dtype[0] == "f" else ("sum", "min", "mean"):
            if dtype != "float16" or op == "max":
                check(op, x, axes)
    if dtype[0] == "f":
        x[1, 20_000] = np.nan
        assert np.isnan(check("min", x, axes)).any()


def test_stretches_with_programs() -> None:
    rng = np.random.default_rng(2)
    for shape, axes in (((2, 70_000), (1,)), ((50_000, 4), (0,))):
        a, b = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
        small = tuple(1 if i in axes else n for i, n in enumerate(shape))
        scale = rng.standard_normal(small).astype(np.float32)
        (y,) = run("reduce", [np.empty(shape, np.float32)], [(small, np.float16)], {"op": "mean", "axes": axes}, prologue=lambda u, v: u * v,
                   pro_ins=[a, b], epilogue=lambda acc, s: cast(acc * s, np.dtype(np.float16)), epi_ins=[scale], acc_dtype=np.float32)  # fmt: skip
        want = (a.astype(np.float64) * b).mean(axes, keepdims=True) * scale
        np.testing.assert_allclose(y, want, rtol=2e-3, atol=1e-6)


def test_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels as they are where an operand reaches beyond 2^31 elements."""
    monkeypatch.setattr(build, "NARROW", -1)
    rng = np.random.default_rng(3)
    for op in ("sum", "max", "l2", "log_sum_exp"):
        x = rng.standard_normal((40, 5, 33)).astype(np.float32)
        for axes in ((0,), (1,), (2,), (0, 2)):
            check(op, x, axes)
            check(op, strided(rng, x), axes)
    check("sum", rng.standard_normal((1, 70_000)).astype(np.float32), (1,))
    for dtype in (np.int8, np.uint64):
        check("max", rng.integers(0, 100, (30, 64)).astype(dtype), (1,))


def test_many_axes_and_rows() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, 3, 2, 3, 2, 3, 2, 3)).astype(np.float32)
    for axes in ((0, 2, 4, 6), (1, 3, 5, 7), (0, 1, 3), (7,), (0,)):
        check("sum", x, axes)
        check("max", x.transpose(7, 1, 5, 3, 4, 2, 6, 0), axes)
    x = rng.standard_normal((70_000, 3)).astype(np.float32)  # many blocks of one-thread rows
    check("sum", x, (1,))
    check("mean", np.ascontiguousarray(x.T), (0,))


def test_sums_do_not_drift() -> None:
    """Equal elements, whose roundings all go the same way."""
    for n in (1000, 300_000):
        (y,) = run("reduce", [np.full((1, n), 0.1, np.float32)], [((1, 1), np.float32)], {"op": "sum", "axes": (1,)})
        np.testing.assert_allclose(y, n * np.float64(np.float32(0.1)), rtol=1e-6)


def test_integer_logarithms() -> None:
    """In f64, truncated, as casts to integers are."""
    x = np.arange(1, 61, dtype=np.int32).reshape(4, 15)
    for op in ("log_sum", "log_sum_exp", "l2"):
        want = test_reduce.reference(op, x, (1,))
        (y,) = run("reduce", [x], [((4, 1), np.int32)], {"op": op, "axes": (1,)})
        np.testing.assert_array_equal(y, want)
