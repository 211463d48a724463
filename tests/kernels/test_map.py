"""The `map` kernel: layouts, broadcasting, iota, aliasing, threads and random programs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytensor_rt.dtypes import F16, F32, F64, I32, I64
from pytensor_rt.lowering import expr
from pytensor_rt.lowering.expr import Var, emit

from .harness import ISAS, run, strided

Array = np.ndarray[Any, Any]
SHAPES = [(), (1,), (7,), (0, 3), (5, 6, 7), (33, 129), (2, 3, 4, 5, 6), (3, 40, 50), (1, 700, 1, 3), (300, 1), (2, 1, 2, 1, 2, 1, 2, 3)]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(rng.standard_normal(shape), np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_layout(shape: tuple[int, ...], isa: str) -> None:
    rng = np.random.default_rng(len(shape))
    for trial in range(8):
        a, b = strided(rng, normal(rng, shape)), strided(rng, normal(rng, shape))
        row = np.broadcast_to(normal(rng, shape[-1:]), shape)
        one = np.broadcast_to(normal(rng, ()), shape)
        column = np.broadcast_to(normal(rng, (*shape[:-1], 1) if shape else ()), shape)
        out = strided(rng, np.zeros(shape, np.float32)) if trial % 2 else np.empty(shape, np.float32)
        (y,) = run("map", [a, b, row, one, column], [out], isa=isa, body=lambda a, b, r, o, c: (a * b + r) * o - expr.max_(c, a))
        want = (a.astype(np.float64) * b + row) * one - np.maximum(column, a)
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
        (y,) = run("map", [a], [out], isa=isa, body=lambda v: v)
        np.testing.assert_array_equal(y, a)
        half = strided(rng, np.zeros(shape, np.float16))
        (y,) = run("map", [a.astype(np.float64), one], [half], isa=isa, body=lambda v, o: expr.cast(v + expr.cast(o, F64), F16))
        np.testing.assert_array_equal(y, (a.astype(np.float64) + one).astype(np.float16))


@pytest.mark.parametrize("shape", [(2, 17, 300), (64, 1000), (3, 5, 64, 33), (1, 50000), (129, 128)], ids=str)
def test_permutations(shape: tuple[int, ...], isa: str) -> None:
    """Copies and arithmetic between memory orders: NCHW and NHWC in both directions, and all the others."""
    rng = np.random.default_rng(1)
    for _ in range(6):
        a = normal(rng, shape)
        p, q = rng.permutation(len(shape)), rng.permutation(len(shape))
        b = np.ascontiguousarray(normal(rng, shape).transpose(p)).transpose(np.argsort(p))
        out = np.empty([shape[k] for k in q], np.float32).transpose(np.argsort(q))
        (y,) = run("map", [b], [out], isa=isa, body=lambda v: v)
        np.testing.assert_array_equal(y, b)
        (y,) = run("map", [a, b], [out], isa=isa, body=lambda u, v: expr.relu(u - v))
        np.testing.assert_array_equal(y, np.maximum(a - b, 0))


MOVED: list[Any] = [np.uint8, np.float16, np.float32, np.int64, np.complex128]


def moved_layout(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, broadcast: bool) -> tuple[Array, Array]:
    """Memory full of random bytes, and a view of it: axes in any order, some of them dense, cut off, stepped over, backwards or broadcast."""
    order = rng.permutation(len(shape)) if rng.random() < 0.8 else np.arange(len(shape))
    steps = [int(rng.choice([1, 1, 1, 1, 1, 2, 3, -1])) if rng.random() < 0.5 else 1 for _ in shape]
    once = [broadcast and rng.random() < 0.15 for _ in shape]
    gaps = int(rng.integers(0, 3)) if rng.random() < 0.3 else 0
    sizes = [(1 if o else abs(s) * max(n, 1)) + gaps for n, s, o in zip(shape, steps, once)]
    memory = rng.integers(0, 256, math.prod(sizes) * np.dtype(dtype).itemsize, np.uint8)
    whole = memory.view(dtype).reshape([sizes[k] for k in order]).transpose(np.argsort(order))
    cut = tuple(
        slice(0, 1) if o else slice(0, n * s, s) if s > 0 else slice(n - 1, None, -1) if n else slice(0, 0)
        for n, s, o in zip(shape, steps, once)
    )
    return memory, np.broadcast_to(whole[(*cut, ...)], shape) if any(once) else whole[(*cut, ...)]


@pytest.mark.parametrize("dtype", MOVED, ids=lambda d: np.dtype(d).name)
def test_moves(dtype: Any, isa: str) -> None:
    """A load alone moves the bytes as they are, to the elements of the output and to nothing between them."""
    rng = np.random.default_rng(np.dtype(dtype).itemsize)
    for trial in range(250):
        shape: list[int] = []
        for _ in range(rng.integers(0, 6)):
            shape.append(
                0 if rng.random() < 0.01 else int(rng.choice([1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 13, 15, 16, 17, 31, 33, 64, 67, 130]))
            )
            if math.prod(shape) > 20_000:
                del shape[-1]
        _, x = moved_layout(rng, tuple(shape), dtype, broadcast=True)
        memory, y = moved_layout(rng, tuple(shape), dtype, broadcast=False)
        want = memory.copy()
        if y.size:
            start = y.__array_interface__["data"][0] - memory.__array_interface__["data"][0]
            np.ndarray(y.shape, dtype, want, start, y.strides)[...] = x
        run("map", [x], [y], isa=isa, threads=1 + trial % 2, body=lambda v: v)
        np.testing.assert_array_equal(memory, want, err_msg=f"{x.shape} {x.strides} {y.strides}")


@pytest.mark.parametrize("dtype", MOVED, ids=lambda d: np.dtype(d).name)
def test_large_moves(dtype: Any, isa: str) -> None:
    """Operands beyond the caches, blocks and tasks that end within an axis, and long rows."""
    rng = np.random.default_rng(7)
    size = np.dtype(dtype).itemsize
    for shape, perm in (
        ((3_000_017,), (0,)),
        ((70_001, 3), (1, 0)),
        ((3, 70_001), (1, 0)),
        ((777, 1531), (1, 0)),
        ((9_000_001 // size // 197, 197), (1, 0)),
        ((30, 40, 50, 5), (2, 0, 3, 1)),
        ((40, 12, 300, 7), (0, 2, 1, 3)),
        ((6, 100, 1000), (1, 0, 2)),
    ):
        x = rng.integers(0, 256, (*shape, size), np.uint8).view(dtype)[..., 0].transpose(perm)
        for a in (x, x[::-1]):
            one, two = (run("map", [a], [(a.shape, dtype)], isa=isa, threads=t, body=lambda v: v)[0] for t in (1, 2))
            assert one.tobytes() == two.tobytes() == a.tobytes()


@pytest.mark.parametrize("shape", [(5,), (4, 6), (3, 5, 7), (40, 50, 2), (2, 3, 4, 5)], ids=str)
def test_iota(shape: tuple[int, ...], isa: str) -> None:
    rng = np.random.default_rng(2)
    for axis in range(len(shape)):

        def body(a: Var, axis: int = axis) -> Var:
            i = Var(a.builder, a.builder.emit("iota", (axis,), I64), I64)
            return a * 1000 + i

        a = strided(rng, rng.integers(0, 9, shape))
        for out in (np.empty(shape, np.int64), strided(rng, np.empty(shape, np.int64))):
            (y,) = run("map", [a], [out], isa=isa, body=body)
            np.testing.assert_array_equal(y, a * 1000 + np.indices(shape)[axis])


def test_no_operands(isa: str) -> None:
    """Fills and index tables."""
    for dtype, value in (
        (np.float32, -1.5),
        (np.float16, 0.1),
        (np.int64, -(2**40)),
        (np.uint64, 2**63 + 5),
        (np.bool_, True),
        (np.int8, -7),
    ):
        (y,) = run(
            "map", [np.broadcast_to(np.zeros((), dtype), (3, 700))], [((3, 700), dtype)], isa=isa, body=lambda v, c=value: constant(v, c)
        )
        np.testing.assert_array_equal(y, np.full((3, 700), value, dtype))


def constant(like: Var, value: Any) -> Var:
    return Var(like.builder, like.builder.emit("const", (value,), like.dtype), like.dtype)


@pytest.mark.parametrize("shape", [(64,), (3, 1000), (20, 30, 40)], ids=str)
def test_in_place(shape: tuple[int, ...], isa: str) -> None:
    rng = np.random.default_rng(3)
    for layout in (np.array, lambda a: strided(rng, a)):
        a, b = layout(normal(rng, shape)), normal(rng, shape)
        want = np.tanh(a.astype(np.float64) * b + a) * a
        (y,) = run("map", [a, b], [a], isa=isa, body=lambda u, v: expr.tanh(u * v + u) * u)
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
        a = layout(rng.integers(-100, 100, shape).astype(np.int32))
        want_i = a.astype(np.float32) * 0.5
        (y,) = run(
            "map", [a], [a.view(np.float32) if a.flags.c_contiguous else a], isa=isa, body=halve if a.flags.c_contiguous else halve_int
        )
        np.testing.assert_array_equal(y, want_i if a.flags.c_contiguous else want_i.astype(np.int32))


def halve(v: Var) -> Var:
    return expr.cast(v, F32) * 0.5


def halve_int(v: Var) -> Var:
    return expr.cast(halve(v), I32)


def test_threads_do_not_change_the_result(isa: str) -> None:
    rng = np.random.default_rng(4)
    for a in (normal(rng, (300_001,)), normal(rng, (700, 3, 301)).transpose(2, 1, 0), normal(rng, (50, 40, 30, 7))[::-1, :, ::2]):
        one, two = (
            run("map", [a], [(a.shape, np.float32)], isa=isa, threads=t, body=lambda v: expr.gelu_erf(v) * v + 1)[0] for t in (1, 2)
        )
        np.testing.assert_array_equal(one, two)
        assert one.tobytes() == two.tobytes()


def test_mixed_dtypes_in_one_program(isa: str) -> None:
    """Dequantise, compute, quantise."""
    rng = np.random.default_rng(5)
    x = rng.integers(0, 256, (7, 333)).astype(np.uint8)
    scale, zero = np.float32(0.037), np.uint8(121)

    def body(x: Var, s: Var, z: Var) -> Var:
        real = expr.cast(expr.cast(x, I32) - expr.cast(z, I32), F32) * s
        y = expr.relu(real - 0.5) / (s * 2)
        return expr.cast_sat(expr.round_(y) + expr.cast(z, F32), np.dtype(np.uint8))

    (y,) = run("map", [x, np.broadcast_to(scale, x.shape), np.broadcast_to(zero, x.shape)], [(x.shape, np.uint8)], isa=isa, body=body)
    real = (x.astype(np.int32) - 121).astype(np.float32) * scale
    want = np.clip(np.rint(np.maximum(real - np.float32(0.5), 0) / (scale * 2)) + 121, 0, 255).astype(np.uint8)
    assert np.abs(y.astype(int) - want).max() <= 1  # a tie may fall the other way
    assert (y == want).mean() > 0.99


def test_exponents(isa: str) -> None:
    x = normal(np.random.default_rng(6), (1000,))
    for e in (2.0, 3.0, 0.5, -1.0, 1.75):
        (y,) = run("map", [np.abs(x)], [(x.shape, np.float32)], isa=isa, body=lambda v, e=e: v**e)
        np.testing.assert_allclose(y, np.abs(x.astype(np.float64)) ** e, rtol=3e-7)


# Random programs: each entry is an opcode and how NumPy says it, closed over finite values.
_UNARY: list[tuple[str, Any]] = [
    ("neg", np.negative), ("abs", np.abs), ("sqrt", np.sqrt), ("tanh", np.tanh), ("relu", lambda v: np.maximum(v, 0)),
    ("sigmoid", lambda v: 1 / (1 + np.exp(-v))), ("sin", np.sin), ("atan", np.arctan), ("asinh", np.arcsinh),
]  # fmt: skip
_JUMPS: list[tuple[str, Any]] = [("floor", np.floor), ("sign", np.sign)]
_BINARY: list[tuple[str, Any]] = [("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("max", np.maximum), ("min", np.minimum)]


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_random_programs(data: st.DataObject) -> None:
    """Programs of up to 40 instructions on operands of random layouts, in f64, where fusing leaves only rounding errors."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.choice([1, 2, 3, 5, 16, 37, 130], data.draw(st.integers(0, 4))))
    while math.prod(shape) > 1 << 18:  # the reference holds up to 45 such arrays
        shape = shape[1:]
    ins: list[Array] = []
    for _ in range(data.draw(st.integers(1, 5))):
        small = tuple(n if rng.random() < 0.7 else 1 for n in shape)
        ins.append(np.broadcast_to(strided(rng, np.asarray(rng.uniform(-2, 2, small))), shape))
    jumps = data.draw(st.booleans())  # comparisons, floor and sign may blow a last-bit difference up
    kinds, unary_ops = ([0, 1, 2, 3], _UNARY + _JUMPS) if jumps else ([0, 2, 3], _UNARY)
    plan = [(int(rng.choice(kinds)), *(int(v) for v in rng.integers(0, 1 << 30, 4))) for _ in range(data.draw(st.integers(1, 40)))]

    def evaluate(regs: list[Any], unary: Any, binary: Any, where: Any, const: Any) -> Any:
        for kind, pick, i, j, k in plan:
            a, b, c = regs[i % len(regs)], regs[j % len(regs)], regs[k % len(regs)]
            if kind == 0:
                regs.append(unary(unary_ops[pick % len(unary_ops)], a))
            elif kind == 1:
                regs.append(where(a, b, c))
            elif kind == 2:
                regs.append(const(a, pick % 7 - 3))
            else:
                regs.append(binary(_BINARY[pick % len(_BINARY)], a, b))
        return regs[-1]

    def body(*v: Var) -> Var:
        return evaluate(
            list(v),
            lambda f, a: emit(f[0], expr.abs_(a) if f[0] == "sqrt" else emit("floor", a * 64) / 64 if f[0] in ("floor", "sign") else a),
            lambda f, a, b: expr.tanh(emit(f[0], a, b)) if f[0] == "mul" else emit(f[0], a, b),
            lambda a, b, c: expr.where(a < b, b, c),
            lambda a, x: a * 0.5 + x,
        )

    def reference(*v: Array) -> Any:
        return evaluate(
            list(v),
            lambda f, a: f[1](np.abs(a) if f[0] == "sqrt" else np.floor(a * 64) / 64 if f[0] in ("floor", "sign") else a),
            lambda f, a, b: np.tanh(f[1](a, b)) if f[0] == "mul" else f[1](a, b),
            lambda a, b, c: np.where(a < b, b, c),
            lambda a, x: a * 0.5 + x,
        )

    want = np.asarray(reference(*ins))
    out = strided(rng, np.zeros(shape))
    level = ISAS[seed % len(ISAS)]
    (y,) = run("map", ins, [out], isa=level, body=body)
    bad = ~np.isclose(y, want, rtol=1e-9, atol=1e-9)
    assert bad.sum() <= (0 if not jumps else 1 + bad.size // 50)


def test_bad_programs_are_refused() -> None:
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(RuntimeError, match="dtype"):
        run("map", [x], [((2, 3), np.float64)], body=lambda v: v)
    with pytest.raises(RuntimeError, match="shape"):
        run("map", [x], [((3, 2), np.float32)], body=lambda v: v)
    with pytest.raises(RuntimeError, match="rank"):
        run("map", [x], [((2, 3, 1), np.float32)], body=lambda v: v)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("zero", [0, 7, 120])
def test_quantizing_and_dequantizing(zero: int, dtype: str, isa: str) -> None:
    """The steps that quantised models consist of have the bits of their parts, whatever is fused."""
    rng = np.random.default_rng(zero)
    info, f = np.iinfo(dtype), np.float32
    x = (rng.standard_normal(1000) * 6).astype(f)
    x[:8] = np.nan, np.inf, -np.inf, 1e30, -1e30, 0.05 * 2.5, -0.0, 0.05 * 3.5
    with np.errstate(invalid="ignore"):
        want = np.clip(np.rint(x / f(0.05)) + f(zero), info.min, info.max)
    want[0] = info.min
    (y,) = run("map", [x], [(x.shape, dtype)], isa=isa, body=lambda v: expr.cast_sat(expr.round_(v / 0.05) + float(zero), np.dtype(dtype)))
    np.testing.assert_array_equal(y, want.astype(dtype))
    scale = rng.uniform(0.01, 0.2, x.shape).astype(f)  # no constant
    with np.errstate(invalid="ignore"):
        want = np.clip(np.rint(x / scale) + f(zero), info.min, info.max)
    want[0] = info.min
    ins = [x, scale]
    (y,) = run("map", ins, [(x.shape, dtype)], isa=isa, body=lambda v, s: expr.cast_sat(expr.round_(v / s) + float(zero), np.dtype(dtype)))
    np.testing.assert_array_equal(y, want.astype(dtype))
    b = rng.integers(info.min, info.max + 1, 1000).astype(dtype)
    (y,) = run("map", [b], [(b.shape, "float32")], isa=isa, body=lambda v: (expr.cast(v, np.dtype(f)) - float(zero)) * 0.0371)
    np.testing.assert_array_equal(y, (b.astype(f) - f(zero)) * f(0.0371))
    (y,) = run(  # also used as it is
        "map", [b], [(b.shape, "float32")], isa=isa, body=lambda v: (expr.cast(v, np.dtype(f)) - float(zero)) * 0.0371 - expr.cast(v, np.dtype(f))
    )  # fmt: skip
    np.testing.assert_array_equal(y, (b.astype(f) - f(zero)) * f(0.0371) - b.astype(f))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("out", ["uint8", "int8", "float16", "float32", "float64"])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_tables_of_bytes(dtype: str, out: str, isa: str) -> None:
    """Programs of one byte are looked up: any number of columns, any strides, in place."""
    rng = np.random.default_rng(5)
    table = np.arange(-128, 128) if dtype == "int8" else np.arange(256)

    def fn(v: Var) -> Var:
        return expr.cast(expr.cast(v, np.dtype("int32")) * 37 + 11, np.dtype("int8"))

    def body(v: Var) -> Var:
        return expr.cast(expr.cast(fn(v), np.dtype("float32")) * 0.5, np.dtype(out)) if out != "int8" else fn(v)

    entries = (table * 37 + 11).astype(np.int8)
    if out != "int8":
        entries = (entries.astype(np.float32) * np.float32(0.5)).astype(np.int32 if out == "uint8" else out).astype(out)
    for shape in ((1, 1), (3, 5), (2, 16), (7, 17), (3, 63), (2, 64), (5, 100), (3, 130), (1, 1000), (300, 3), (40, 48)):
        x = rng.integers(table[0], table[-1] + 1, shape).astype(dtype)
        for view in (x, np.asfortranarray(x), np.repeat(x, 2, 1)[:, ::2], x[:, ::-1], x[:1].repeat(shape[0], 0)):
            (y,) = run("map", [view], [(shape, out)], isa=isa, body=body)
            np.testing.assert_array_equal(y, entries[view.astype(int) - table[0]])
        wide = np.zeros((shape[0], shape[1] + 9), out)
        run("map", [x], [wide[:, 3 : 3 + shape[1]]], isa=isa, body=body)
        np.testing.assert_array_equal(wide[:, 3:-6], entries[x.astype(int) - table[0]])
        assert not wide[:, :3].any() and not wide[:, -6:].any()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_short_rows_of_one_value(dtype: str, isa: str) -> None:
    """A column along short rows: copied, and against a matrix; nothing is written beyond the last row."""
    rng = np.random.default_rng(7)
    for cols in (2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 65, 127):
        for rows in (2, 3, 17, 100, 700):
            column = rng.integers(0, 100, (rows, 1)).astype(dtype)
            wide = np.broadcast_to(column, (rows, cols))
            memory = np.full(rows * cols + 64, 7, dtype)
            run("map", [wide], [memory[: rows * cols].reshape(rows, cols)], isa=isa, body=lambda v: v)
            np.testing.assert_array_equal(memory[: rows * cols].reshape(rows, cols), wide)
            assert (memory[rows * cols :] == 7).all()
            x = rng.integers(0, 100, (rows, cols)).astype(dtype)
            (y,) = run("map", [x, wide], [(x.shape, dtype)], isa=isa, body=lambda v, c: v + c)
            np.testing.assert_array_equal(y, x + wide)
