"""The cases of `reduce`, on device "numba", and such as its tiles, blocks and segments need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.harness import run, strided
from tests.kernels.test_reduce import *  # noqa: F403
from tests.kernels.test_reduce import check, reference, small, subsets

NOT_REPLAYED = {
    "test_layout_classes": "it asks the C++ engine which strategy it chose",
    "test_pairs_strategy": "it asks the C++ engine which strategy it chose",
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "uint64"])
@pytest.mark.parametrize("op", ["sum", "max", "mean"])
def test_large_blocks_in_any_memory_order(op: str, dtype: str) -> None:
    rng = np.random.default_rng(7)
    for shape in ((3, 90, 4, 70), (2, 37, 300, 5), (70, 9, 130)):
        for axes in subsets(len(shape))[1:]:
            x = rng.integers(0, 100, shape).astype(dtype) if np.dtype(dtype).kind in "iu" else rng.random(shape).astype(dtype)
            memory = rng.permutation(len(shape))
            x = np.ascontiguousarray(x.transpose(memory)).transpose(np.argsort(memory))
            check(op, x, axes)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_segments_of_programs(axes: tuple[int, ...]) -> None:
    """Long reductions with few results are divided the same way for any number of threads."""
    rng = np.random.default_rng(8)
    shape = {(0,): (200_000, 3), (1,): (3, 200_000), (0, 1): (600, 1100)}[axes]
    a, b = rng.random(shape), rng.random(shape)
    for dtype in (np.float32, np.int32):
        x, y = (strided(rng, (100 * v).astype(dtype)) for v in (a, b))
        for op in ("sum", "max", "min", "log_sum_exp") if dtype == np.float32 else ("sum", "max", "mean"):
            results = [
                run("reduce", [np.empty(shape, dtype)], [(small(a, axes), dtype)], {"op": op, "axes": axes}, prologue=lambda p, q: p - q,
                    pro_ins=[x, y], threads=t)[0]
                for t in (1, 2, 3)
            ]  # fmt: skip
            assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()
            want = reference(op, x - y, axes)
            if dtype == np.int32:
                np.testing.assert_array_equal(results[0], want)
            else:
                np.testing.assert_allclose(results[0], want, rtol=1e-5, atol=1e-2 if op == "sum" else 0)


def test_nan_in_any_segment() -> None:
    for shape, axes in (((300_000, 20), (0,)), ((2, 300_000), (1,)), ((700, 900), (0, 1))):
        x = np.zeros(shape, np.float32)
        for at in (0, x.size // 3, x.size - 1):
            y: Any = x.copy()
            y.reshape(-1)[at] = np.nan
            for op in ("max", "min", "sum"):
                (got,) = run("reduce", [y], [(small(x, axes), np.float32)], {"op": op, "axes": axes})
                np.testing.assert_array_equal(np.isnan(got), np.isnan(y).any(axes, keepdims=True))


@pytest.mark.parametrize("axes", subsets(3)[1:])
def test_index_programs(axes: tuple[int, ...]) -> None:
    """Programs may use the index along an axis: of the operand before the reduction, of the result after it."""
    from pytensor_rt.dtypes import F32, I64
    from pytensor_rt.lowering.expr import Var, cast

    def index(v: Var, axis: int) -> Var:
        return cast(Var(v.builder, v.builder.emit("iota", (axis,), I64), I64), F32)

    x = np.random.default_rng(9).random((40, 30, 50)).astype(np.float32)
    where = np.indices(x.shape).astype(np.float32)
    for axis in range(3):
        (y,) = run("reduce", [x], [(small(x, axes), np.float32)], {"op": "sum", "axes": axes},
                   prologue=lambda v, a=axis: v * index(v, a), pro_ins=[x], epilogue=lambda acc, a=axis: acc + index(acc, a))  # fmt: skip
        want = reference("sum", x * where[axis], axes)
        np.testing.assert_allclose(y, want + np.indices(want.shape)[axis], rtol=1e-5)
