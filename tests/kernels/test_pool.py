"""The pool kernel against an element-by-element reference and onnx.reference."""

from __future__ import annotations

import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from .harness import run, strided

A = np.ndarray[Any, Any]
TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "float16": 2e-3, "bfloat16": 1.6e-2}


def out_shape(x: A, p: dict[str, Any], ceil: bool = False) -> tuple[int, ...]:
    n = len(p["kernel"])
    size = []
    for i in range(n):
        span = x.shape[2 + i] + p["pads"][i] + p["pads"][n + i] - (p["kernel"][i] - 1) * p["dilations"][i] - 1
        size.append((math.ceil if ceil else math.floor)(span / p["strides"][i]) + 1)
    return x.shape[:2] + tuple(size)


def reference(x: A, p: dict[str, Any], shape: tuple[int, ...]) -> tuple[A, A]:
    n = len(p["kernel"])
    space = x.shape[2:]
    out = np.zeros(shape, x.dtype if x.dtype.kind in "iu" else np.float64)
    where = np.zeros(shape, np.int64)
    x = x if x.dtype.kind in "iu" else x.astype(np.float64)
    for o in np.ndindex(*shape):
        values, positions, padded = [], [], 0
        for tap in np.ndindex(*p["kernel"]):
            at = [o[2 + i] * p["strides"][i] + tap[i] * p["dilations"][i] - p["pads"][i] for i in range(n)]
            padded += all(-p["pads"][i] <= at[i] < space[i] + p["pads"][n + i] for i in range(n))
            if all(0 <= at[i] < space[i] for i in range(n)):
                values.append(x[(o[0], o[1], *at)])
                if p.get("storage_order"):
                    flat = int(np.ravel_multi_index(at[::-1], space[::-1]))
                else:
                    flat = int(np.ravel_multi_index(at, space))
                positions.append((o[0] * x.shape[1] + o[1]) * math.prod(space) + flat)
        if p["op"] == "max":
            out[o] = np.max(values) if values else -np.inf  # a NaN wins
            where[o] = positions[int(np.argmax(values))] if values else 0
        elif p["op"] == "average":
            out[o] = sum(values) / (padded if p.get("count_include_pad") else len(values))
        else:
            out[o] = sum(abs(v) ** p["p"] for v in values) ** (1 / p["p"])
    return out, where


def check(x: A, p: dict[str, Any], ceil: bool = False, indices: bool = False, out: A | None = None, layout: Any = None) -> str:
    shape = out_shape(x, p, ceil)
    describe: list[str] = []
    results = []
    for threads in (1, 2):
        outs = [out if out is not None else (shape, x.dtype), (shape, np.int64) if indices else None]
        got = run("pool", [x], outs, p, threads=threads, describe=describe)
        results.append([g.copy() for g in got if g is not None])
    for a, b in zip(*results):
        assert a.tobytes() == b.tobytes()
    want, where = reference(x, p, shape)
    if x.dtype.kind in "iu":
        np.testing.assert_array_equal(results[0][0], want)
    else:
        tol = TOLERANCE[x.dtype.name]
        np.testing.assert_allclose(results[0][0].astype(np.float64), want, rtol=tol, atol=tol)
    if indices:
        np.testing.assert_array_equal(results[0][1], where)
    return describe[0]


def channels_last(x: A) -> A:
    axes = (0, *range(2, x.ndim), 1)
    return np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes))


def case(op: str, kernel: tuple[int, ...], strides: Any = None, dilations: Any = None, pads: Any = None, **more: Any) -> dict[str, Any]:
    n = len(kernel)
    return {
        "op": op,
        "kernel": kernel,
        "strides": strides or (1,) * n,
        "dilations": dilations or (1,) * n,
        "pads": pads or (0,) * 2 * n,
        "p": 2,
        **more,
    }


CASES = [
    case("max", (3,)), case("max", (3, 3), (2, 2), None, (1, 1, 1, 1)), case("average", (3, 3), (2, 2), None, (1, 1, 1, 1)),
    case("average", (3, 3), (2, 2), None, (1, 0, 1, 2), count_include_pad=1), case("max", (2, 3), (1, 3), (2, 2), (0, 2, 1, 2)),
    case("lp", (2, 2), (1, 2)), case("lp", (3, 3), (2, 2), None, (1, 1, 1, 1), p=3), case("lp", (3,), p=1), case("average", (5,), (3,), (2,), (3, 1)),
    case("max", (2, 2, 3), (1, 2, 2), None, (0, 1, 1, 1, 0, 1)), case("average", (2, 3, 2), (2, 1, 2), None, (0, 1, 1, 1, 0, 1)),
]  # fmt: skip


@pytest.mark.parametrize("p", CASES, ids=lambda p: f"{p['op']}-{p['kernel']}-{p['strides']}")
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16], ids=lambda d: np.dtype(d).name)
def test_windows(p: dict[str, Any], dtype: Any) -> None:
    rng = np.random.default_rng(1)
    n = len(p["kernel"])
    for channels, space in itertools.product((3, 20), ((7, 9, 12)[-n:], (9, 8, 39)[-n:] if n < 3 else (4, 5, 6))):
        x = rng.standard_normal((2, channels, *space)).astype(dtype)
        check(x, p)
        check(channels_last(x), p, out=channels_last(np.zeros(out_shape(x, p), dtype)))
        if channels == 3:
            check(strided(rng, x), p, out=strided(rng, np.zeros(out_shape(x, p), dtype)))
            if p["op"] == "max":
                check(strided(rng, x), p, indices=True)
                check(x, {**p, "storage_order": 1}, indices=True)


def test_strategies_fire() -> None:
    x = np.random.default_rng(2).standard_normal((1, 70, 9, 9)).astype(np.float32)
    p = case("max", (3, 3), (2, 2), None, (1, 1, 1, 1))
    assert check(channels_last(x), p) == "channels"
    assert check(x, p) == "rows"
    assert check(x, p, indices=True) == "indices"
    assert check(x, case("average", (3, 3), None, None, (1, 1, 1, 1))) == "rows, wrapped"
    assert check(x.astype(np.float64), case("average", (3, 3), None, None, (1, 1, 1, 1))) == "rows"
    for dtype in (np.uint8, np.int8):
        y = np.ones((1, 70, 9, 9), dtype)
        assert check(y, p) == "rows"
        assert check(channels_last(y), p, out=channels_last(np.zeros(out_shape(y, p), dtype))) == "channels"
    for op in ("max", "average"):
        check(channels_last(np.random.default_rng(2).standard_normal((1, 600, 4, 4)).astype(np.float32)), case(op, (3, 3)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16], ids=lambda d: np.dtype(d).name)
def test_nan_wins_a_maximum(dtype: Any) -> None:
    """Wherever in a window it is, whatever lies beside it; and the first of several is where the maximum is."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((1, 17, 5, 21)).astype(dtype)
    x[rng.random(x.shape) < 0.03] = np.nan
    x[rng.random(x.shape) < 0.03] = np.inf
    x[0, 1] = -np.inf
    x[0, 2] = np.nan
    x[0, 3, 4] = -np.nan
    for p in (
        case("max", (3, 3), None, None, (1, 1, 1, 1)), case("max", (3, 3), (2, 2), None, (1, 1, 1, 1)), case("max", (2, 2), (2, 2)),
        case("max", (2, 4), (1, 3), (2, 1), (0, 2, 1, 0)),
    ):  # fmt: skip
        check(x, p)
        check(channels_last(x), p, out=channels_last(np.zeros(out_shape(x, p), dtype)))
        check(x, p, indices=True)
        check(channels_last(x), {**p, "storage_order": 1}, indices=True)
    for bad in (np.nan, -np.nan):  # one at a time, at every tap
        for tap in range(9):
            y = np.zeros((1, 1, 3, 3), dtype)
            y.reshape(-1)[tap] = bad
            check(y, case("max", (3, 3)), indices=True)
            check(y, case("max", (3, 3)))


def test_blocks_of_rows() -> None:
    """Rows too long for one line, planes too high for one block, many small planes in one, windows without an element."""
    rng = np.random.default_rng(8)
    for op in ("max", "average", "lp"):
        x = rng.standard_normal((1, 1, 4500)).astype(np.float32)
        check(x, case(op, (5,), (2,), None, (2, 2)))
        check(x, case(op, (4,), (3,), (2,), (0, 1)))
        x = rng.standard_normal((1, 1, 9, 601)).astype(np.float32)
        check(x, case(op, (3, 3), None, None, (1, 1, 1, 1)))
        x = rng.standard_normal((1, 150, 7, 7)).astype(np.float32)
        check(x, case(op, (7, 7)))
        check(x, case(op, (3, 2), (2, 2), None, (1, 0, 1, 1)))
        check(x[:, :20].transpose(1, 0, 3, 2)[::-1], case(op, (3, 3), None, None, (1, 1, 1, 1)))
    x = rng.standard_normal((1, 20, 3, 4)).astype(np.float32)
    p = case("max", (1, 1), (2, 2), None, (2, 3, 2, 3))
    check(x, p)
    check(channels_last(x), p)


def test_bytes_in_place() -> None:
    rng = np.random.default_rng(9)
    for dtype in ("uint8", "int8"):
        info = np.iinfo(dtype)
        for width in (5, 20, 150):
            x = rng.integers(info.min, info.max, (1, 2, 4, width), dtype, endpoint=True)
            for p in (CASES[1], case("max", (3, 3), None, None, (1, 1, 1, 1)), case("max", (2, 3), (1, 3), (2, 2), (0, 2, 1, 2))):
                check(x, p)
        x = rng.integers(info.min, info.max, (1, 70, 6, 7), dtype, endpoint=True)
        check(channels_last(x), CASES[1], out=channels_last(np.zeros(out_shape(x, CASES[1]), dtype)))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_integer_max(dtype: str) -> None:
    rng = np.random.default_rng(3)
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, (2, 6, 9, 11), dtype, endpoint=True)
    for a in (x, channels_last(x)):
        check(a, CASES[1])
        check(a, CASES[4], indices=True)


def test_ceil_mode_overhang() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1, 18, 7, 8)).astype(np.float32)
    for op in ("max", "average", "lp"):
        for include in (0, 1):
            p = case(op, (3, 3), (2, 2), None, (1, 0, 0, 1), count_include_pad=include)
            check(x, p, ceil=True)
            check(channels_last(x), p, ceil=True)


def test_against_onnxruntime() -> None:
    """Not onnx.reference: its pools misplace windows under asymmetric pads and leave zeros under ceil_mode."""
    ort = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 5, 11, 13)).astype(np.float32)
    choices = itertools.product(
        ((2, 3), (3, 3)), ((1, 1), (2, 3)), ((1, 1), (2, 2)), ((0, 0, 0, 0), (1, 1, 0, 1)), (0, 1), ("max", "average", "include")
    )
    for kernel, strides, dilations, pads, ceil, op in choices:
        window = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads, "ceil_mode": ceil}
        if op == "max":
            node = helper.make_node("MaxPool", ["x"], ["y"], **window)
        else:
            node = helper.make_node("AveragePool", ["x"], ["y"], count_include_pad=op == "include", **window)
        value = helper.make_tensor_value_info
        graph = helper.make_graph([node], "g", [value("x", TensorProto.FLOAT, None)], [value("y", TensorProto.FLOAT, None)])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
        want = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
        p = case("max" if op == "max" else "average", kernel, strides, dilations, pads, count_include_pad=int(op == "include"))
        (got, _) = run("pool", [x], [(want.shape, np.float32), None], p)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=str((op, window)))


def test_epilogue() -> None:
    from pytensor_rt.lowering.expr import relu

    rng = np.random.default_rng(6)
    x = rng.standard_normal((2, 20, 9, 9)).astype(np.float32)
    p = case("average", (3, 3), (2, 2), None, (1, 1, 1, 1))
    shape = out_shape(x, p)
    other = rng.standard_normal(shape).astype(np.float32)
    want = np.maximum(reference(x, p, shape)[0] + other, 0)
    for a in (x, channels_last(x)):
        out = channels_last(other)
        (got, _) = run("pool", [a], [out, None], p, epilogue=lambda acc, z: relu(acc + z), epi_ins=[out])
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
