"""`gemm` on floats against NumPy in float64.

Bound. A sum of K products, added in any order with one rounding each (FMA) or two, in precision u, is off by at most
gamma = (2K) u / (1 - 2K u) times sum |a||b| (Higham, Accuracy and Stability, 3.1: every product passes at most K additions and one rounding of
its own). alpha, bias, residual and clamp add at most 4 more roundings of the magnitude |alpha| sum|a||b| + |bias| + |residual|. Inputs are exact
in both precisions, so the bound used everywhere is

    |y - reference| <= (2K + 4) u * magnitude     (+ half an ulp of y where y is stored in a shorter type)
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt.lowering import expr as E

from .harness import run, strided

BF16 = np.dtype(ml_dtypes.bfloat16)
UNIT = {"f": 2.0**-24, "d": 2.0**-53}
STORE = {np.dtype(np.float32): 0.0, np.dtype(np.float64): 0.0, np.dtype(np.float16): 2.0**-11, BF16: 2.0**-8}


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape).astype(dtype)


def magnitude(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.matmul(np.abs(a.astype(np.float64)), np.abs(b.astype(np.float64)))


def exact(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.matmul(a.astype(np.float64), b.astype(np.float64))


def check(y: np.ndarray[Any, Any], reference: np.ndarray[Any, Any], mag: np.ndarray[Any, Any], k: int) -> None:
    unit = UNIT["d" if y.dtype == np.float64 else "f"]
    # float64 is compared with float64, whose own error has the same bound
    bound = (2 * k + 4) * unit * mag * (2 if y.dtype == np.float64 else 1)
    bound = bound + STORE[y.dtype] * (np.abs(reference) + bound) + (2.0**-25 if y.dtype == np.float16 else 0)
    error = np.abs(y.astype(np.float64) - reference)
    assert y.shape == reference.shape
    assert np.all(error <= bound), (
        f"worst {np.max(error / np.maximum(bound, 1e-300))} of the bound at {np.argmax(error / np.maximum(bound, 1e-300))}"
    )


SHAPES = [
    (1, 1, 1), (1, 5, 3), (2, 33, 7), (3, 17, 40), (4, 100, 64), (5, 31, 9), (13, 48, 20), (14, 64, 33), (15, 65, 17), (29, 16, 70), (64, 1, 50),
    (37, 3, 41), (1, 300, 129), (100, 100, 1), (60, 47, 2), (40, 36, 1030), (33, 70, 2300), (6, 129, 1537), (197, 64, 64),
]  # fmt: skip


@pytest.mark.parametrize("const", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, BF16], ids=str)
def test_shapes(dtype: Any, const: bool) -> None:
    rng = np.random.default_rng(1)
    for m, n, k in SHAPES:
        a, b = normal(rng, (m, k), dtype), normal(rng, (k, n), dtype)
        (y,) = run("gemm", [a, b], [((m, n), dtype)], {"alpha": 1.0}, consts=[1] if const else [])
        check(y, exact(a, b), magnitude(a, b), k)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, BF16], ids=str)
def test_any_strides_and_batches(dtype: Any) -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        nb = int(rng.integers(0, 4))
        batch = tuple(int(x) for x in rng.integers(1, 4, nb))
        m, n, k = (int(x) for x in rng.integers(1, 40, 3))
        keep_a, keep_b = rng.random(nb) < 0.6, rng.random(nb) < 0.6
        a = strided(rng, normal(rng, (*np.where(keep_a, batch, 1), m, k), dtype))
        b = strided(rng, normal(rng, (*np.where(keep_b, batch, 1), k, n), dtype))
        a, b = np.broadcast_to(a, (*batch, m, k)), np.broadcast_to(b, (*batch, k, n))
        y = strided(rng, np.zeros((*batch, m, n), dtype))
        alpha = float(rng.choice([1.0, 0.125, -1.5]))
        run("gemm", [a, b], [y], {"alpha": alpha}, consts=[1] if rng.random() < 0.5 else [], threads=int(rng.integers(1, 3)))
        check(y, alpha * exact(a, b), abs(alpha) * magnitude(a, b), k)


def test_rows_of_several_batches_fold_when_b_is_shared() -> None:
    rng = np.random.default_rng(3)
    a, b = normal(rng, (4, 5, 20, 30), np.float32), normal(rng, (30, 40), np.float32)
    said: list[str] = []
    (y,) = run("gemm", [a, np.broadcast_to(b, (4, 5, 30, 40))], [((4, 5, 20, 40), np.float32)], consts=[1], describe=said)
    check(y, exact(a, b), magnitude(a, b), 30)
    assert "tasks 1x1x1" in said[0]


def test_attention_like_views() -> None:
    rng = np.random.default_rng(4)
    qkv = normal(rng, (2, 24, 3, 4, 16), np.float32)
    q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    (s,) = run("gemm", [q, k.swapaxes(2, 3)], [((2, 4, 24, 24), np.float32)], {"alpha": 0.25})
    check(s, 0.25 * exact(q, k.swapaxes(2, 3)), 0.25 * magnitude(q, k.swapaxes(2, 3)), 16)
    out = np.zeros((2, 24, 4, 16), np.float32)
    run("gemm", [s, v], [out.transpose(0, 2, 1, 3)])
    check(out.transpose(0, 2, 1, 3), exact(s, v), magnitude(s, v), 24)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=str)
def test_few_rows_or_columns_read_the_large_operand_in_place(dtype: Any) -> None:
    rng = np.random.default_rng(9)
    for few in (1, 2, 3, 4):
        for n, k in [(70, 40), (33, 129), (5, 16), (300, 67)]:
            a, b = normal(rng, (2, few, k), dtype), normal(rng, (2, k, n), dtype)
            columns = b.swapaxes(1, 2).copy().swapaxes(1, 2)
            for matrix, form in ((b, "along n"), (columns, "along k")):
                said: list[str] = []
                (y,) = run("gemm", [a, matrix], [((2, few, n), dtype)], {"alpha": 0.5}, describe=said)
                check(y, 0.5 * exact(a, b), magnitude(a, b), k)
                # the transposed problem: few columns
                (z,) = run("gemm", [matrix.swapaxes(1, 2), a.swapaxes(1, 2)], [((2, n, few), dtype)], {"alpha": 0.5}, describe=said)
                check(z, 0.5 * exact(a, b).swapaxes(1, 2), magnitude(a, b).swapaxes(1, 2), k)
                assert all(form in s for s in said[: 1 if k <= 12 * few else 2])  # short rows are met by tiles; other devices say nothing
    bias = normal(rng, (70,), dtype)
    a, b, r = normal(rng, (3, 40), dtype), normal(rng, (40, 70), dtype), normal(rng, (3, 70), dtype)
    for matrix in (b, b.T.copy().T):
        y = r.copy()
        run("gemm", [a, matrix], [y], epilogue=lambda acc, c, x: E.relu(acc + c) + x, epi_ins=[np.broadcast_to(bias, (3, 70)), y])
        check(y, np.maximum(exact(a, b) + bias.astype(np.float64), 0) + r, magnitude(a, b) + np.abs(bias) + np.abs(r), 40)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float16], ids=str)
def test_empty_sum_is_zero(dtype: Any) -> None:
    a, b = np.zeros((3, 0), dtype), np.zeros((0, 5), dtype)
    (y,) = run("gemm", [a, b], [np.full((3, 5), 7, dtype)])
    assert not y.any()
    if dtype == np.float32:
        bias = np.arange(5, dtype=np.float32)
        (y,) = run("gemm", [a, b], [((3, 5), dtype)], epilogue=lambda acc, c: acc + c, epi_ins=[np.broadcast_to(bias, (3, 5))])
        np.testing.assert_array_equal(y, np.broadcast_to(bias, (3, 5)))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.int16, np.uint64], ids=str)
def test_integers_wrap(dtype: Any) -> None:
    rng = np.random.default_rng(5)
    info = np.iinfo(dtype)
    a = strided(rng, rng.integers(info.min, info.max, (2, 7, 9), dtype=dtype, endpoint=True))
    b = strided(rng, rng.integers(info.min, info.max, (2, 9, 5), dtype=dtype, endpoint=True))
    (y,) = run("gemm", [a, b], [((2, 7, 5), dtype)], threads=2)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(y, np.matmul(a, b))


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64], ids=str)
def test_integer_blocks(dtype: Any) -> None:
    """More than one block of rows, panel and block of k, any strides, and programs on the sums."""
    rng = np.random.default_rng(10)
    info = np.iinfo(dtype)
    for _ in range(40):
        nb = int(rng.integers(0, 3))
        batch = tuple(int(x) for x in rng.integers(0 if rng.random() < 0.1 else 1, 4, nb))
        m, n, k = (int(rng.choice([0, 1, 3, 20, 64, 70, 130, 300], p=[0.04, *[0.16] * 4, *[0.12] * 2, 0.08])) for _ in range(3))
        keep_a, keep_b = rng.random(nb) < 0.6, rng.random(nb) < 0.6
        a, b = (
            strided(rng, rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True))
            for shape in ((*np.where(keep_a, batch, 1), m, k), (*np.where(keep_b, batch, 1), k, n))
        )
        a, b = np.broadcast_to(a, (*batch, m, k)), np.broadcast_to(b, (*batch, k, n))
        row, r = rng.integers(0, 99, n).astype(dtype), strided(rng, rng.integers(0, 99, (*batch, m, n)).astype(dtype))
        y = strided(rng, np.zeros((*batch, m, n), dtype))
        program = rng.random() < 0.5
        run(
            "gemm", [a, b], [y], threads=int(rng.integers(1, 4)), consts=[1] if rng.random() < 0.3 else [],
            epilogue=(lambda acc, c, x: (acc + c) * x) if program else None, epi_ins=[np.broadcast_to(row, y.shape), r] if program else [],
        )  # fmt: skip
        with np.errstate(over="ignore"):
            expected = np.matmul(a, b)
            np.testing.assert_array_equal(y, (expected + row) * r if program else expected)


def same_bits(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> bool:
    return x.tobytes() == y.tobytes()


@pytest.mark.parametrize(
    "m,n,k", [(1, 700, 300), (3, 500, 200), (7, 900, 1100), (200, 96, 1500), (50, 300, 64), (300, 1, 200), (300, 5, 64), (900, 200, 8)]
)
def test_same_bits_for_any_thread_count(m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(6)
    a, b, r = normal(rng, (2, m, k), np.float32), normal(rng, (2, k, n), np.float32), normal(rng, (2, m, n), np.float32)
    for consts in ([], [1]):
        ys = [
            run("gemm", [a, b], [((2, m, n), np.float32)], threads=t, consts=consts, epilogue=lambda acc, x: E.relu(acc + x), epi_ins=[r])[
                0
            ]
            for t in (1, 2, 5)
        ]
        assert same_bits(ys[0], ys[1]) and same_bits(ys[0], ys[2])


@pytest.mark.parametrize("const", [False, True])
def test_long_products_whose_b_stays_in_cache(const: bool) -> None:
    """Rows outermost, all panels for each."""
    rng = np.random.default_rng(8)
    a, b, r = normal(rng, (3001, 40), np.float32), normal(rng, (40, 150), np.float32), normal(rng, (3001, 150), np.float32)
    told: list[str] = []
    ys = [
        run(
            "gemm", [a, b], [(r.shape, np.float32)], threads=t, consts=[1] if const else [], epilogue=lambda acc, x: acc + x, epi_ins=[r],
            describe=told,
        )[0]
        for t in (1, 2)
    ]  # fmt: skip
    check(ys[0], exact(a, b) + r, magnitude(a, b) + np.abs(r), 40)
    assert same_bits(*ys)
    assert told[0].endswith("x1")  # one group of panels


LINEAR: dict[str, Any] = {
    "bias": lambda acc, c, r: acc + c,
    "bias relu": lambda acc, c, r: E.relu(c + acc),
    "bias residual": lambda acc, c, r: (acc + c) + r,
    "residual bias clip": lambda acc, c, r: E.min_(E.max_((acc + r) + c, -1.0), 6.0),
    "relu then residual": lambda acc, c, r: E.relu(acc + c) + r,
    "scale bias residual relu": lambda acc, c, r: E.relu(acc * 0.5 + c + r),
}
OTHER: dict[str, Any] = {
    "gelu": lambda acc, c, r: E.gelu_erf(acc + c),
    "sigmoid times residual": lambda acc, c, r: r * E.sigmoid(acc + c),
}
ACTIVATIONS: dict[str, Any] = {  # in float32 and with unit strides by way of a block in L1
    "gelu": OTHER["gelu"],
    "gelu_tanh": lambda acc, c, r: E.gelu_tanh(acc + c),
    "silu then residual": lambda acc, c, r: E.silu(acc + c) + r,
    "scaled sigmoid": lambda acc, c, r: E.sigmoid(acc * 0.5 + c),
    "tanh, residual, relu": lambda acc, c, r: E.relu(E.tanh(acc) + r),
}
OTHER.update(ACTIVATIONS)


def reference_program(name: str, acc: Any, c: Any, r: Any) -> Any:
    erf = np.vectorize(math.erf, otypes=[np.float64])

    return {
        "bias": lambda: acc + c,
        "bias relu": lambda: np.maximum(acc + c, 0),
        "bias residual": lambda: acc + c + r,
        "residual bias clip": lambda: np.clip(acc + c + r, -1, 6),
        "relu then residual": lambda: np.maximum(acc + c, 0) + r,
        "scale bias residual relu": lambda: np.maximum(0.5 * acc + c + r, 0),
        "gelu": lambda: 0.5 * (acc + c) * (1 + erf((acc + c) / np.sqrt(2))),
        "sigmoid times residual": lambda: r / (1 + np.exp(-(acc + c))),
        "gelu_tanh": lambda: 0.5 * (acc + c) * (1 + np.tanh(np.sqrt(2 / np.pi) * ((acc + c) + 0.044715 * (acc + c) ** 3))),
        "silu then residual": lambda: (acc + c) / (1 + np.exp(-(acc + c))) + r,
        "scaled sigmoid": lambda: 1 / (1 + np.exp(-(acc / 2 + c))),
        "tanh, residual, relu": lambda: np.maximum(np.tanh(acc) + r, 0),
    }[name]()


def epilogue_case(name: str, fn: Any, m: int, n: int, k: int, dtype: Any, in_place: bool, layout: str, threads: int) -> None:
    rng = np.random.default_rng(7)
    a, b = normal(rng, (2, m, k), dtype), normal(rng, (2, k, n), dtype)
    c = np.broadcast_to(normal(rng, (n,), dtype), (2, m, n))
    residual = normal(rng, (2, m, n), dtype)
    r = (
        strided(rng, residual)
        if layout == "strided"
        else residual.swapaxes(1, 2).copy().swapaxes(1, 2)
        if layout == "columns"
        else residual.copy()
    )
    y = r if in_place else strided(rng, np.zeros((2, m, n), dtype)) if layout == "strided" else np.zeros_like(r)
    run("gemm", [a, b], [y], epilogue=fn, epi_ins=[c, r], threads=threads)
    c64, r64 = c.astype(np.float64), residual.astype(np.float64)
    mag = magnitude(a, b) + np.abs(c64) + np.abs(r64)
    if name in OTHER:
        mag = mag * (1.2 + np.abs(r64)) + 8 * np.abs(r64) + 8  # slopes of gelu and sigmoid, and their own error of a few ulp
    check(y, reference_program(name, exact(a, b), c64, r64), mag, k)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", LINEAR)
def test_epilogues_in_registers(name: str, in_place: bool) -> None:
    for m, n, k in [(1, 40, 9), (3, 33, 20), (20, 70, 30), (30, 50, 1300), (9, 1, 12)]:
        epilogue_case(name, LINEAR[name], m, n, k, np.float32, in_place, "rows", 1)
        epilogue_case(name, LINEAR[name], m, n, k, np.float64, in_place, "rows", 2)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str, in_place: bool) -> None:
    for m, n, k in [(1, 40, 9), (3, 33, 20), (20, 70, 30), (30, 50, 1300), (9, 1, 12), (130, 100, 64)]:
        epilogue_case(name, ACTIVATIONS[name], m, n, k, np.float32, in_place, "rows", 1)
        epilogue_case(name, ACTIVATIONS[name], m, n, k, np.float32, in_place, "rows", 2)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", [*LINEAR, *OTHER])
def test_epilogue_programs(name: str, in_place: bool) -> None:
    fn = LINEAR.get(name) or OTHER[name]
    for m, n, k in [(1, 40, 9), (20, 70, 30), (30, 50, 1300)]:
        epilogue_case(name, fn, m, n, k, np.float32, in_place, "strided", 1)
        epilogue_case(name, fn, m, n, k, np.float32, in_place, "columns", 1)
        if name in OTHER:
            epilogue_case(name, fn, m, n, k, np.float32, in_place, "rows", 2)


def test_clamps_pass_nan() -> None:
    a, b = np.full((3, 2), np.nan, np.float32), np.ones((2, 40), np.float32)
    for fn in (E.relu, lambda x: E.min_(E.max_(x, -1.0), 1.0), lambda x: E.max_(E.min_(x, 1.0), -1.0)):
        (y,) = run("gemm", [a, b], [((3, 40), np.float32)], epilogue=lambda acc, f=fn: f(acc))
        assert np.isnan(y).all()


def test_output_dtype_of_the_program() -> None:
    rng = np.random.default_rng(8)
    a, b = normal(rng, (20, 30), np.float16), normal(rng, (30, 50), np.float16)
    (y,) = run("gemm", [a, b], [((20, 50), np.float32)], epilogue=lambda acc: E.cast(acc, np.dtype(np.float32)), acc_dtype=np.float16)
    (half,) = run("gemm", [a, b], [((20, 50), np.float16)])
    np.testing.assert_array_equal(y, half.astype(np.float32))


def test_mismatched_operands_are_refused() -> None:
    for a, b, y in [((3, 4), (5, 6), (3, 6)), ((3, 4), (4, 6), (3, 7)), ((2, 3, 4), (3, 4, 6), (3, 3, 6))]:
        with pytest.raises(Exception, match="gemm: "):
            run("gemm", [np.zeros(a, np.float32), np.zeros(b, np.float32)], [(y, np.float32)])
    with pytest.raises(Exception, match="gemm: "):
        run("gemm", [np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float64)], [((2, 2), np.float32)])


def test_columns_that_fill_half_a_vector() -> None:
    """The last vector of a panel may be computed by halves: any rows, chains of k, epilogues."""
    rng = np.random.default_rng(31)
    for m in (5, 14, 29, 100):
        for k in (1, 7, 30, 300, 1100):
            a, b = normal(rng, (m, k), np.float32), normal(rng, (k, 48), np.float32)
            bias, rest = normal(rng, (48,), np.float32), normal(rng, (m, 48), np.float32)
            for n in (1, 3, 5, 8, 9, 17, 20, 24, 25, 33, 40):
                columns = np.ascontiguousarray(b[:, :n])
                (y,) = run("gemm", [a, columns], [((m, n), np.float32)], consts=[1])
                check(y, exact(a, columns), magnitude(a, columns), k)
                (y,) = run("gemm", [a, columns], [((m, n), np.float32)], {"alpha": 0.5}, consts=[1], threads=2,
                           epilogue=lambda acc, c, r: E.relu(acc + c + r),
                           epi_ins=[np.broadcast_to(bias[:n], (m, n)), np.ascontiguousarray(rest[:, :n])])  # fmt: skip
                want = np.maximum(0.5 * exact(a, columns) + bias[:n] + rest[:, :n], 0)
                check(y, want, 0.5 * magnitude(a, columns) + np.abs(bias[:n]) + np.abs(rest[:, :n]), k)


def test_one_panel_of_long_columns() -> None:
    """A that is read once, from memory: tiles look ahead to the next rows, never beyond the last one."""
    rng = np.random.default_rng(32)
    for m, n, k in ((5003, 5, 120), (5003, 30, 120), (9001, 8, 64), (700, 3, 800)):
        a, b = normal(rng, (m, k), np.float32), normal(rng, (k, n), np.float32)
        for threads in (1, 2):
            (y,) = run("gemm", [a, b], [((m, n), np.float32)], consts=[1], threads=threads)
            check(y, exact(a, b), magnitude(a, b), k)
