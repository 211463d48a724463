"""The reduce kernel against NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt.kernels.spec import REDUCE_OPS
from pytensor_rt.lowering.expr import abs_, cast

from .harness import run, strided

A = np.ndarray[Any, Any]
TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "float16": 2e-3, "bfloat16": 1.6e-2}
FLOATS = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
INTS = [np.dtype(d) for d in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)]


def reference(op: str, x: A, axes: tuple[int, ...]) -> A:
    """In float64, or in wrapping integers of x's dtype."""
    if x.dtype.kind not in "iub":
        x = x.astype(np.float64)
    kw: dict[str, Any] = {"axis": axes, "keepdims": True}
    with np.errstate(all="ignore"):
        if op == "max":
            return x.max(**kw, initial=-np.inf if x.dtype.kind == "f" else None) if x.dtype.kind == "f" else x.max(**kw)
        if op == "min":
            return x.min(**kw, initial=np.inf) if x.dtype.kind == "f" else x.min(**kw)
        if x.dtype.kind in "iu":
            wide = x.astype(np.int64 if x.dtype != np.uint64 else np.uint64)
            count = int(np.prod([x.shape[a] for a in axes]))
            exact = {
                "sum": lambda: x.sum(**kw, dtype=x.dtype), "prod": lambda: x.prod(**kw, dtype=x.dtype),
                "mean": lambda: np.trunc(wide.sum(**kw) / count), "l1": lambda: np.abs(x).sum(**kw, dtype=x.dtype),
                "l2": lambda: np.sqrt((wide * wide).sum(**kw).astype(np.float64)), "sum_square": lambda: (x * x).sum(**kw, dtype=x.dtype),
                "log_sum": lambda: np.log(wide.sum(**kw)), "log_sum_exp": lambda: np.log(np.exp(x.astype(np.float64)).sum(**kw)),
            }  # fmt: skip
            return exact[op]().astype(x.dtype)
        if op == "log_sum_exp":
            m = x.max(**kw, initial=-np.inf)
            m = np.where(np.isfinite(m), m, 0)
            return np.log(np.exp(x - m).sum(**kw)) + m
        return {
            "sum": lambda: x.sum(**kw), "prod": lambda: x.prod(**kw), "mean": lambda: x.sum(**kw) / np.prod([x.shape[a] for a in axes]),
            "l1": lambda: np.abs(x).sum(**kw), "l2": lambda: np.sqrt((x * x).sum(**kw)), "sum_square": lambda: (x * x).sum(**kw),
            "log_sum": lambda: np.log(x.sum(**kw)),
        }[op]()  # fmt: skip


def small(x: A, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if a in axes else n for a, n in enumerate(x.shape))


def check(op: str, x: A, axes: tuple[int, ...], out: Any = None) -> A:
    out = out if out is not None else (small(x, axes), x.dtype)
    results = [run("reduce", [x], [out], {"op": op, "axes": axes}, threads=t)[0].copy() for t in (1, 2)]
    assert results[0].tobytes() == results[1].tobytes()
    want = reference(op, x, axes)
    if x.dtype.kind in "iub":
        np.testing.assert_array_equal(results[0], want, err_msg=f"{op} {x.dtype} {x.shape} {axes}")
    else:
        tol = TOLERANCE[x.dtype.name]
        scale = np.sqrt(np.prod([x.shape[a] for a in axes])) if op in ("sum", "log_sum") else 1.0
        np.testing.assert_allclose(
            results[0].astype(np.float64), want, rtol=tol, atol=tol * scale, err_msg=f"{op} {x.dtype} {x.shape} {axes}"
        )
    return results[0]


def subsets(rank: int) -> list[tuple[int, ...]]:
    return [axes for k in range(rank + 1) for axes in itertools.combinations(range(rank), k)]


@pytest.mark.parametrize("op", REDUCE_OPS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_floats(op: str, dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(1)
    for shape in [(), (1,), (50,), (3, 70), (70, 3), (40, 5, 33), (2, 3, 4, 40), (1, 6, 1, 300)]:
        for axes in subsets(len(shape)):
            x = rng.uniform(0.5, 1.5, shape) if op in ("log_sum", "prod") else rng.standard_normal(shape)
            if op == "prod":
                x = x ** (3 / max(1, x.size) ** 0.5)
            check(op, x.astype(dtype), axes)
            check(op, strided(rng, x.astype(dtype)), axes, strided(rng, np.zeros(small(x, axes), dtype)))


@pytest.mark.parametrize("op", [o for o in REDUCE_OPS if not o.startswith("log")])
@pytest.mark.parametrize("dtype", INTS, ids=str)
def test_integers(op: str, dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(2)
    info = np.iinfo(dtype)
    for shape in [(50,), (3, 70), (70, 3), (2, 3, 40), (300, 17)]:
        for axes in subsets(len(shape)):
            low, high = (info.min, info.max) if op in ("sum", "max", "min", "prod", "sum_square") else (0 if info.min == 0 else -50, 50)
            if op == "prod":
                low, high = max(low, -3), 3
            x = rng.integers(low, high, shape, dtype, endpoint=True)
            if op == "l2" and dtype.itemsize == 1:
                x //= 8
            check(op, x, axes)
            check(op, strided(rng, x), axes)


def test_bool_extremes() -> None:
    x = np.random.default_rng(3).random((4, 50)) > 0.9
    for op in ("max", "min"):
        for axes in subsets(2):
            check(op, x, axes)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_non_finite(axes: tuple[int, ...]) -> None:
    x = np.random.default_rng(4).standard_normal((67, 67)).astype(np.float32)
    x[3, 66], x[66, 5], x[11, 12], x[20, 21] = np.nan, np.nan, np.inf, -np.inf
    for op in ("max", "min", "sum", "log_sum_exp"):
        with np.errstate(invalid="ignore"):
            check(op, x, axes)
    check("log_sum_exp", np.full((4, 20), -np.inf, np.float32), axes)
    x[:] = 0
    x[30, 40] = np.inf
    check("max", x, axes)
    check("log_sum_exp", x, axes)


@pytest.mark.parametrize("n", [2, 5, 8, 15, 16, 17, 31, 33, 49, 64, 255, 256, 1023, 1024, 1025])
def test_rows_in_groups(n: int) -> None:
    """Short rows are reduced in groups: any number of rows, a NaN stays in its row, and a row's bits do not depend on its place."""
    rng = np.random.default_rng(n)
    for rows in (1, 2, 5, 16, 23, 67):
        x = rng.standard_normal((rows, n)).astype(np.float32)
        x[-1] = x[0]
        for op, want in (
            ("sum", x.astype(np.float64).sum(1)),
            ("mean", x.astype(np.float64).mean(1)),
            ("max", x.max(1)),
            ("min", x.min(1)),
        ):
            y = run("reduce", [x], [((rows, 1), np.float32)], {"op": op, "axes": (1,)})[0][:, 0]
            np.testing.assert_allclose(y, want, rtol=1e-6, atol=n * 1e-7)
            assert y[0].tobytes() == y[-1].tobytes()
        for op in ("max", "min", "sum"):
            for at in (0, n // 2, n - 1):
                bad = x.copy()
                bad[rows // 2, at] = np.nan
                y = run("reduce", [bad], [((rows, 1), np.float32)], {"op": op, "axes": (1,)})[0][:, 0]
                assert np.flatnonzero(np.isnan(y)).tolist() == [rows // 2]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint64"])
def test_columns_of_several_chunks(dtype: str) -> None:
    """Whole vectors of columns and what is left of them, over more rows than are summed in one go; NaN stays in its column."""
    rng = np.random.default_rng(8)
    for shape, axes in (((70, 83), (0,)), ((3, 33, 300), (1,)), ((40, 5), (0,)), ((3, 40, 83), (0, 1))):
        x = np.abs(rng.standard_normal(shape) * 9).astype(dtype) if dtype == "uint64" else (rng.standard_normal(shape) * 9).astype(dtype)
        for op in ("sum", "l1", "mean", "max", "min"):
            check(op, x, axes)
        if dtype.startswith("float"):
            x[..., -1, 1] = np.nan
            for op in ("max", "min", "sum"):
                assert np.flatnonzero(np.isnan(check(op, x, axes).reshape(-1, shape[-1])[0])).tolist() == [1]


def test_empty_axes() -> None:
    want = {"sum": 0, "prod": 1, "max": -np.inf, "min": np.inf, "mean": np.nan, "l1": 0, "l2": 0, "sum_square": 0,
            "log_sum": -np.inf, "log_sum_exp": -np.inf}  # fmt: skip
    for op in REDUCE_OPS:
        for shape, axes in (((0, 5), (0,)), ((5, 0), (1,)), ((2, 0, 3), (0, 1, 2))):
            x = np.zeros(shape, np.float32)
            (y,) = run("reduce", [x], [(small(x, axes), np.float32)], {"op": op, "axes": axes})
            np.testing.assert_array_equal(y, np.full(small(x, axes), want[op], np.float32), err_msg=op)
    for dtype in INTS:
        for op, value in (("max", np.iinfo(dtype).min), ("min", np.iinfo(dtype).max), ("sum", 0), ("prod", 1)):
            (y,) = run("reduce", [np.zeros((3, 0), dtype)], [((3, 1), dtype)], {"op": op, "axes": (1,)})
            assert y.tolist() == [[value]] * 3
    for op, value in (("max", False), ("min", True)):
        (y,) = run("reduce", [np.zeros((3, 0), bool)], [((3, 1), bool)], {"op": op, "axes": (1,)})
        assert y.tolist() == [[value]] * 3


@pytest.mark.parametrize("layout", ["row", "column", "all"])
def test_long_sums_stay_accurate(layout: str) -> None:
    x = np.random.default_rng(5).random((3, 1_000_000)).astype(np.float32)
    view, axes = {"row": (x, (1,)), "column": (np.ascontiguousarray(x.T), (0,)), "all": (x, (0, 1))}[layout]
    for op in ("sum", "mean", "max", "sum_square"):
        results = [run("reduce", [view], [(small(view, axes), np.float32)], {"op": op, "axes": axes}, threads=t)[0] for t in (1, 2)]
        assert results[0].tobytes() == results[1].tobytes()
        np.testing.assert_allclose(results[0], reference(op, view, axes), rtol=3e-7)


def test_layout_classes() -> None:
    x = np.zeros((2, 64, 7, 7), np.float32)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for a, want in ((x, "rows"), (last, "lanes")):
        describe: list[str] = []
        run("reduce", [a], [((2, 64, 1, 1), np.float32)], {"op": "mean", "axes": (2, 3)}, describe=describe)
        assert describe == [want]


def test_programs() -> None:
    from pytensor_rt.lowering.expr import exp

    rng = np.random.default_rng(6)
    for axes in subsets(3)[1:]:
        a, b = (strided(rng, rng.standard_normal((6, 37, 40)).astype(np.float32)) for _ in range(2))
        shape = small(a, axes)
        scale = rng.standard_normal(shape).astype(np.float32)
        want = (np.exp(a.astype(np.float64)) * b).mean(axes, keepdims=True) * scale
        for dtype, tol in ((np.float32, 1e-5), (np.float16, 4e-3)):
            results = [
                run("reduce", [np.empty(a.shape, np.float32)], [(shape, dtype)], {"op": "mean", "axes": axes}, prologue=lambda x, y: exp(x) * y,
                    pro_ins=[a, b], epilogue=lambda acc, s, d=dtype: cast(acc * s, np.dtype(d)), epi_ins=[scale], acc_dtype=np.float32, threads=t)[0]
                for t in (1, 2)
            ]  # fmt: skip
            assert results[0].tobytes() == results[1].tobytes()
            np.testing.assert_allclose(results[0].astype(np.float64), want, rtol=tol, atol=tol)


def test_blocks_along_the_longest_kept_axis() -> None:
    """Short rows of a program whose innermost kept axis is short as well: rows are taken along another one."""
    rng = np.random.default_rng(10)
    for shape in ((300, 5, 9), (7, 130, 3, 17), (2, 90, 4, 1), (40, 1, 30)):
        axes = (len(shape) - 1,)
        x = strided(rng, rng.standard_normal(shape).astype(np.float32))
        row = np.broadcast_to(rng.standard_normal(shape[1:]).astype(np.float32), shape)
        out = strided(rng, np.zeros(small(x, axes), np.float32))
        for op in ("sum", "max", "l1", "log_sum_exp", "mean"):
            results = [
                run("reduce", [np.empty(shape, np.float32)], [out], {"op": op, "axes": axes}, prologue=lambda a, b: (a - b) * a,
                    pro_ins=[x, row], threads=t)[0].copy()
                for t in (1, 2)
            ]  # fmt: skip
            assert results[0].tobytes() == results[1].tobytes()
            np.testing.assert_allclose(results[0], reference(op, (x - row) * x, axes), rtol=1e-5, atol=2e-5)


PAIRS: dict[str, Any] = {
    "product": (lambda a, b: a * b, "sum"), "square": (lambda a, b: (a - b) * (a - b), "mean"), "difference": (lambda a, b: a - b, "sum_square"),
    "norm": (lambda a, b: b - a, "l2"), "abs": (lambda a, b: abs_(a - b), "sum"), "l1": (lambda a, b: a - b, "l1"),
    "weighted": (lambda a, b, w: w * ((a - b) * (a - b)), "sum"), "divided": (lambda a, b, w: (a - b) * (a - b) / w, "sum"),
}  # fmt: skip


def pairs(x: A, y: A, w: A, form: str, axes: tuple[int, ...], threads: int = 1, out: Any = None, **more: Any) -> A:
    """The reduction of PAIRS[form] of broadcast operands; `w` is of x or of y."""
    fn, op = PAIRS[form]
    operands = [x, y, w][: 3 if form in ("weighted", "divided") else 2]
    shape = np.broadcast_shapes(*(o.shape for o in operands))
    ins = [np.broadcast_to(o, shape) for o in operands]
    result = out if out is not None else (small(np.empty(shape, np.uint8), axes), x.dtype)
    return run("reduce", [np.empty(shape, x.dtype)], [result], {"op": op, "axes": axes}, prologue=fn, pro_ins=ins, threads=threads, **more)[
        0
    ]


def expected_pairs(x: A, y: A, w: A, form: str, axes: tuple[int, ...]) -> A:
    x, y, w = (v.astype(np.float64) for v in (x, y, w))
    terms = {"product": x * y, "abs": x - y, "l1": x - y, "weighted": w * (x - y) ** 2, "divided": (x - y) ** 2 / w, "square": (x - y) ** 2}
    if form in ("abs", "l1"):
        terms[form] = np.abs(terms[form])
    return reference(PAIRS[form][1], terms.get(form, x - y), axes)


@pytest.mark.parametrize("form", PAIRS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pairs(form: str, dtype: Any) -> None:
    """All rows of one operand against all of another: any sizes, strides, order of the axes, which side a weight belongs to."""
    rng = np.random.default_rng(11)
    for n, m, k in ((4, 16, 1), (5, 300, 30), (37, 50, 64), (9, 33, 65), (70, 131, 7), (600, 8, 3), (33, 17, 300), (3, 40, 5), (1, 40, 9)):
        for trial in range(2):
            x, y = strided(rng, rng.standard_normal((n, 1, k)).astype(dtype)), strided(rng, rng.standard_normal((1, m, k)).astype(dtype))
            w = strided(rng, rng.uniform(0.5, 2, ((n, 1, k), (1, m, k))[trial]).astype(dtype))
            order = [(0, 1, 2), (1, 0, 2), (0, 2, 1), (2, 1, 0)][int(rng.integers(4))]
            x, y, w = (v.transpose(order) for v in (x, y, w))
            axes = (order.index(2),)
            want = expected_pairs(x, y, w, form, axes)
            out = strided(rng, np.zeros(want.shape, dtype)) if trial else None
            results = [pairs(x, y, w, form, axes, threads, out).copy() for threads in (1, 2)]
            assert results[0].tobytes() == results[1].tobytes()
            tol = TOLERANCE[np.dtype(dtype).name]
            np.testing.assert_allclose(results[0], want, rtol=tol, atol=tol * k**0.5, err_msg=f"{(n, m, k)} {order}")


def test_pairs_of_batches() -> None:
    """Axes that both operands have, or neither; an epilogue that changes the dtype; values that are not finite stay in their pair."""
    rng = np.random.default_rng(12)
    x, y = rng.standard_normal((3, 2, 20, 1, 11)).astype(np.float32), rng.standard_normal((3, 1, 1, 45, 11)).astype(np.float32)
    x[1, 0, 7, 0, 3], y[2, 0, 0, 44, 10] = np.nan, np.inf
    w = np.ones_like(x)
    with np.errstate(invalid="ignore"):
        for form in ("square", "abs", "product", "norm"):
            want = expected_pairs(x, y, w, form, (4,))
            assert np.isfinite(want).mean() > 0.9 > np.isnan(want).mean() > 0
            np.testing.assert_allclose(pairs(x, y, w, form, (4,)), want, rtol=1e-5, atol=1e-5)
            scale = np.broadcast_to(rng.random((45, 1)).astype(np.float32), want.shape)
            y_half = pairs(x, y, w, form, (4,), out=(want.shape, np.float16), epilogue=lambda acc, s: cast(acc * s, np.dtype(np.float16)),
                           epi_ins=[scale], acc_dtype=np.float32)  # fmt: skip
            np.testing.assert_allclose(y_half.astype(np.float64), want * scale, rtol=2e-3, atol=2e-3)


def test_pairs_strategy() -> None:
    rng = np.random.default_rng(13)
    x, y = rng.random((40, 1, 30)).astype(np.float32), rng.random((1, 70, 30)).astype(np.float32)
    for form in PAIRS:
        for w, want in ((x, "pairs"), (y, "pairs"), (x + y, "rows" if form in ("weighted", "divided") else "pairs")):
            describe: list[str] = []
            pairs(x, y, w, form, (2,), describe=describe)
            assert describe == [want], form
    for few in (x[:3], x[:1]):
        describe = []
        pairs(few, y[:, :4], few, "square", (2,), describe=describe)
        assert describe == ["rows"]


@pytest.mark.parametrize("op", REDUCE_OPS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_short_rows(op: str, dtype: str) -> None:
    """Rows of less than a vector, dense and apart, over one axis and several."""
    if dtype == "int32" and op.startswith("log"):
        pytest.skip("floats only")
    rng = np.random.default_rng(14)
    for n in (1, 2, 3, 4, 5, 7, 8, 9, 13, 17, 32, 33):
        for shape, axes in (((2, n), (1,)), ((37, n), (1,)), ((300, n), (1,)), ((3, 41, n), (0, 2))):
            x = (rng.uniform(0.5, 1.5, shape) * (3 if dtype == "int32" else 1)).astype(dtype)
            check(op, x, axes)
            check(op, strided(rng, x), axes, strided(rng, np.zeros(small(x, axes), dtype)))
            wide = np.full((*shape[:-1], n + 3), 99, dtype)
            wide[..., :n] = x
            check(op, wide[..., :n], axes)
            check(op, np.broadcast_to(x[..., :1, :], shape), axes)
