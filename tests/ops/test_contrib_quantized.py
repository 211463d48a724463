"""Quantised operators of com.microsoft against onnxruntime.

Integers must be the same, save where the real number lies within float32's noise of a tie between two of them (see `assert_steps`).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pytensor_rt as rt

from . import nodes
from .nodes import run, trimmed

Array = np.ndarray[Any, Any]
DTYPES = (np.uint8, np.int8)


def integers(dtype: Any, *shape: int, seed: int = 0) -> Array:
    i = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(i.min, i.max + 1, shape).astype(dtype)


def weights(dtype: Any, *shape: int, seed: int = 0) -> Array:
    """Seven bits if signed: without VNNI onnxruntime adds pairs of products in 16 bits, which saturate."""
    q = integers(dtype, *shape, seed=seed)
    return q // 2 if dtype == np.int8 else q


def scale(value: float, shape: tuple[int, ...] = ()) -> Array:
    return np.full(shape, value, np.float32)


def real(q: Array, s: Any, z: Any) -> Array:
    """The numbers that q stands for, in float64."""
    return (q.astype(np.float64) - np.float64(0 if z is None else z)) * np.asarray(s, np.float64)


def assert_steps(got: Array, want: Array, exact: Array, noise: float = 1e-5) -> None:
    """Equal, or one step apart where the exact result (zero point included) is a tie up to float32 arithmetic: its order, fused or not."""
    exact = np.broadcast_to(exact, got.shape)
    differ = got != want
    assert (np.abs(got.astype(np.int64) - want.astype(np.int64)) <= 1).all()
    tie = np.abs(exact - np.floor(exact) - 0.5)
    assert (tie[differ] <= noise * np.maximum(256, np.abs(exact[differ]))).all(), exact[differ][:8]


def both(name: str, feeds: dict[str, Any], spelled: dict[str, Any] | None = None, *, constant: bool = False, **attrs: Any) -> list[Any]:
    """constant: scales, zero points, weights and biases are initializers, as quantised models have them."""

    def parameters(given: dict[str, Any]) -> list[str]:
        return [k for k, v in given.items() if v is not None and (k[0] in "sz" or k in ("w", "b", "bias"))] if constant else []

    return nodes.both(name, feeds, spelled, constants=parameters, **attrs)


def zeros(dtype: Any) -> tuple[int | None, ...]:
    return (None, 5, 131) if dtype == np.uint8 else (None, -128, -3)


def with_zeros(feeds: dict[str, Any], dtype: Any, *names: str) -> dict[str, Any]:
    """The same as scalars, zero points spelled out: onnxruntime refuses [1], and fails or aborts where an optional zero point is left out."""
    given = {k: v.reshape(()) if v is not None and k[0] in "sz" else v for k, v in feeds.items()}
    return given | {k: np.zeros((), dtype) for k in names if feeds.get(k) is None}


def optional(value: int | None, dtype: Any) -> Array | None:
    return None if value is None else np.array(value, dtype)


# ------------------------------------------------------------------------------------------------------------------ elementwise
SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((3, 37), (3, 37)),
    ((2, 5, 7), (7,)),
    ((), (4, 3)),
    ((4, 1), (1, 9)),
    ((5,), ()),
    ((0, 3), (3,)),
]


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["QLinearAdd", "QLinearMul"])
def test_binary(name: str, dtype: Any, constant: bool) -> None:
    scales = [(0.02, 0.03, 0.041), (0.5, 0.25, 1.0), (0.01, 0.01, 0.02), (1e-4, 3.0, 0.5)]
    for k, ((a_shape, b_shape), zero, (sa, sb, sc)) in enumerate(product(SHAPES, zeros(dtype), scales)):
        a, b = integers(dtype, *a_shape, seed=k), integers(dtype, *b_shape, seed=k + 1)
        za, zb, zc = optional(zero, dtype), optional(zeros(dtype)[k % 3], dtype), optional(zeros(dtype)[(k + 1) % 3], dtype)
        feeds = {"a": a, "sa": scale(sa), "za": za, "b": b, "sb": scale(sb), "zb": zb, "sc": scale(sc, (1,) if k % 2 else ()), "zc": zc}
        if zc is None:
            del feeds["zc"]
        ((got, want),) = both(name, feeds, with_zeros(feeds, dtype, "za", "zb", "zc"), constant=constant)
        x, y = real(a, np.float32(sa), za), real(b, np.float32(sb), zb)
        assert_steps(got, want, (x + y if name == "QLinearAdd" else x * y) / np.float64(np.float32(sc)) + (0 if zc is None else int(zc)))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "attrs", "fn"),
    [
        ("QLinearSigmoid", {}, lambda v: 1 / (1 + np.exp(-v))),
        ("QLinearLeakyRelu", {}, lambda v: np.where(v < 0, v * np.float64(np.float32(0.01)), v)),
        ("QLinearLeakyRelu", {"alpha": 0.3}, lambda v: np.where(v < 0, v * np.float64(np.float32(0.3)), v)),
    ],
)
def test_unary(name: str, attrs: dict[str, Any], fn: Callable[[Array], Array], dtype: Any, constant: bool) -> None:
    every = np.arange(256).astype(np.uint8).view(dtype)
    for zx, zy, sx, sy in product(zeros(dtype), zeros(dtype), (0.05, 0.5), (1 / 256, 0.06)):
        feeds = {"x": every.reshape(4, 64), "sx": scale(sx), "zx": optional(zx, dtype), "sy": scale(sy), "zy": optional(zy, dtype)}
        if zy is None:
            del feeds["zy"]
        ((got, want),) = both(name, feeds, with_zeros(feeds, dtype, "zy"), constant=constant, **attrs)
        assert_steps(got, want, fn(real(feeds["x"], np.float32(sx), zx)) / np.float64(np.float32(sy)) + (zy or 0))
    assert run(name, {**feeds, "x": every[:0]}, domain="com.microsoft", opset=1, **attrs)[0].shape == (0,)


@pytest.mark.parametrize("opset", [9, 12, 13])
@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax(dtype: Any, opset: int) -> None:
    for (shape, axis), sx, (sy, zy) in product(
        [((5, 40), -1), ((2, 3, 7), -2), ((2, 3, 7), 0), ((4, 1), 1), ((6,), 0)],
        (0.02, 0.3),
        [(1 / 256, 0), (1 / 100, 11), (0.0045, 0)] if dtype == np.uint8 else [(1 / 256, -128), (1 / 100, 11), (0.0085, 0)],
    ):
        x = integers(dtype, *shape)
        feeds = {"x": x, "sx": scale(sx), "zx": np.array(3, dtype), "sy": scale(sy), "zy": np.array(zy, dtype)}
        ((got, want),) = both("QLinearSoftmax", feeds, constant=True, axis=axis, more={"opset": opset})
        logits = real(x, np.float32(sx), 3)
        logits = np.moveaxis(logits, axis, -1) if opset >= 13 else logits.reshape(-1, int(np.prod(shape[axis % x.ndim :])))
        e = np.exp(logits - logits.max(-1, keepdims=True))
        exact = e / e.sum(-1, keepdims=True) * np.floor(1 / np.float64(np.float32(sy))) + zy
        exact = np.moveaxis(exact, -1, axis) if opset >= 13 else exact.reshape(shape)
        top = np.iinfo(dtype).max
        if dtype == np.uint8 and e.shape[-1] == 1:  # one element per row: onnxruntime overflows to infinity, of which it makes 0
            want = np.minimum(np.round(exact), top).astype(dtype).reshape(want.shape)
        if dtype == np.int8:  # onnxruntime lets results above 127 wrap
            assert (got[exact > top] == top).all()
            got, want, exact = got[exact <= top], want[exact <= top], exact[exact <= top]
        assert_steps(got, want, exact, 1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_where(dtype: Any) -> None:
    for (cs, xs, ys), (sx, zx), (sz, zz) in product(
        [((4, 6), (4, 6), (4, 6)), ((4, 1), (6,), ()), ((), (3,), (2, 3))], [(0.02, 4), (0.05, 7)], [(0.02, 4), (0.03, 100)]
    ):
        condition = np.random.default_rng(1).integers(0, 2, cs).astype(bool)
        x, y = integers(dtype, *xs), integers(dtype, *ys, seed=1)
        feeds = {
            "condition": condition, "x": x, "sx": scale(sx), "zx": np.array(zx, dtype), "y": y, "sy": scale(0.03), "zy": np.array(9, dtype),
            "sz": scale(sz), "zz": np.array(zz, dtype),
        }  # fmt: skip
        ((got, want),) = both("QLinearWhere", feeds, constant=True)
        exact = np.where(condition, real(x, np.float32(sx), zx), real(y, np.float32(0.03), 9)) / np.float64(np.float32(sz)) + zz
        assert_steps(got, want, exact)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(axis: int, dtype: Any, constant: bool) -> None:
    for sy, zy in [(0.02, 4), (0.05, 60)]:
        feeds: dict[str, Any] = {"sy": scale(sy), "zy": np.array(zy, dtype)}
        exact = []
        for k, (n, s, z) in enumerate([(3, 0.02, 4), (1, 0.03, 7), (0, 0.1, 0), (4, 0.02, 5)]):
            shape = [2, 3, 5]
            shape[axis] = n
            x = integers(dtype, *shape, seed=k)
            feeds |= {f"x{k}": x, f"s{k}": scale(s), f"z{k}": np.array(z, dtype)}
            exact.append(real(x, np.float32(s), z) / np.float64(np.float32(sy)) + zy)
        ((got, want),) = both("QLinearConcat", feeds, constant=constant, axis=axis)
        assert_steps(got, want, np.concatenate(exact, axis))


# ---------------------------------------------------------------------------------------------------------------------- pooling
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("last", [0, 1])
def test_global_average_pool(dtype: Any, last: int) -> None:
    for shape, zx, (sx, sy) in product(
        [(1, 5, 7, 7), (3, 2, 1, 1), (2, 17, 4, 9), (2, 3, 11)], zeros(dtype)[1:], [(0.02, 0.01), (0.3, 0.3), (0.5, 0.25)]
    ):
        zy = zeros(dtype)[1]
        x = integers(dtype, *shape)
        feeds = {"x": x, "sx": scale(sx), "zx": np.array(zx, dtype), "sy": scale(sy), "zy": np.array(zy, dtype)}
        ((got, want),) = both("QLinearGlobalAveragePool", feeds, constant=True, channels_last=last)
        axes = tuple(range(1, x.ndim - 1)) if last else tuple(range(2, x.ndim))
        assert_steps(got, want, real(x, np.float32(sx), zx).mean(axes, keepdims=True) / np.float64(np.float32(sy)) + zy)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[1], [-1, 0], [0, 1, 2]])
def test_reduce_mean(axes: list[int], keepdims: int, dtype: Any) -> None:
    """onnxruntime has no CPU kernel for it: against its definition."""
    x = integers(dtype, 4, 9, 5)
    feeds = {"x": x, "sx": scale(0.02), "zx": np.array(3, dtype), "sy": scale(0.003), "zy": np.array(17, dtype)}
    (got,) = run("QLinearReduceMean", feeds, domain="com.microsoft", opset=1, axes=axes, keepdims=keepdims)
    exact = real(x, np.float32(0.02), 3).mean(tuple(axes), keepdims=bool(keepdims)) / np.float64(np.float32(0.003)) + 17
    info = np.iinfo(dtype)
    assert got.dtype == dtype
    assert_steps(got, np.clip(np.round(exact), info.min, info.max).astype(dtype), exact)


POOLS: list[dict[str, Any]] = [
    {"kernel_shape": [3, 3]},
    {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]},
    {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "count_include_pad": 1},
    {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [2, 3], "strides": [3, 2], "auto_pad": "VALID"},
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("attrs", POOLS)
def test_average_pool(attrs: dict[str, Any], last: int, dtype: Any) -> None:
    x = integers(dtype, 2, 3, 9, 8)
    for (sx, sy), zx, zy in product([(0.02, 0.015), (0.3, 0.3), (0.5, 0.25)], zeros(dtype), zeros(dtype)):
        feeds = {
            "x": x.transpose(0, 2, 3, 1).copy() if last else x, "sx": scale(sx), "zx": optional(zx, dtype), "sy": scale(sy), "zy": optional(zy, dtype),
        }  # fmt: skip
        if zy is None:
            del feeds["zy"]
        ((got, want),) = both("QLinearAveragePool", feeds, with_zeros(feeds, dtype, "zx", "zy"), constant=True, channels_last=last, **attrs)
        pooled = run("AveragePool", {"x": real(x, np.float32(sx), zx)}, **attrs)[0]  # float64
        exact = pooled / np.float64(np.float32(sy)) + (zy or 0)
        assert_steps(got, want, exact.transpose(0, 2, 3, 1) if last else exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "attrs", [{k: v for k, v in a.items() if k != "count_include_pad"} for a in POOLS] + [{"kernel_shape": [2, 2], "dilations": [2, 3]}]
)
def test_nhwc_max_pool(attrs: dict[str, Any], dtype: Any) -> None:
    ((got, want),) = both("NhwcMaxPool", {"x": integers(dtype, 2, 9, 8, 5)}, **attrs)
    np.testing.assert_array_equal(got, want)


# ------------------------------------------------------------------------------------------------------- convolution and products
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtypes", [(np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8)])
@pytest.mark.parametrize("last", [0, 1])
def test_conv(last: int, dtypes: tuple[Any, Any], per_channel: bool) -> None:
    xt, wt = dtypes
    cases: list[dict[str, Any]] = [
        {}, {"pads": [1, 0, 1, 1], "strides": [2, 1]}, {"group": 2}, {"group": 4, "auto_pad": "SAME_UPPER"}, {"dilations": [2, 1]},
    ]  # fmt: skip
    for attrs, biased in product(cases, (False, True)):
        x, w = integers(xt, 2, 4, 9, 8), weights(wt, 8, 4 // attrs.get("group", 1), 3, 3)
        sw = np.linspace(0.01, 0.03, 8).astype(np.float32) if per_channel else scale(0.02)
        zw = np.zeros(8, wt) if per_channel else np.array(2, wt)
        feeds = {
            "x": x.transpose(0, 2, 3, 1).copy() if last else x, "sx": scale(0.02), "zx": np.array(7, xt), "w": w, "sw": sw, "zw": zw, "sy": scale(0.1),
            "zy": np.array(11, xt), "b": np.arange(-4000, 4000, 1000, dtype=np.int32) if biased else None,
        }  # fmt: skip
        if not biased:
            del feeds["b"]
        ((got, want),) = both("QLinearConv", feeds, constant=True, channels_last=last, **attrs)
        shift = zw.reshape(-1, 1, 1, 1) if per_channel else zw
        acc = run("Conv", {"x": real(x, 1, 7), "w": real(w, 1, 0) - shift.astype(np.float64)}, **attrs)[0]
        if biased:
            acc += feeds["b"].reshape(-1, 1, 1)  # type: ignore[union-attr]
        exact = acc * np.float64(np.float32(0.02)) * (sw.reshape(-1, 1, 1) if per_channel else sw) / np.float64(np.float32(0.1)) + 11
        assert_steps(got, want, exact.transpose(0, 2, 3, 1) if last else exact, 1e-4)


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("dtypes", [(np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8)])
@pytest.mark.parametrize("output", ["quantised", "float"])
def test_gemm(output: str, dtypes: tuple[Any, Any], per_column: bool) -> None:
    at, bt = dtypes
    m, k, n = 5, 33, 7
    for ta, tb, alpha, c_shape, constant in product((0, 1), (0, 1), (1.0, 0.7), (None, (n,), (m, 1), (m, n)), (True, False)):
        if constant != bool(tb):  # half of the combinations
            continue
        a, b = integers(at, m, k), weights(bt, k, n)
        sb = np.linspace(0.01, 0.03, n).astype(np.float32) if per_column else scale(0.02)
        zb = integers(bt, n) // 16 if per_column else np.array(2, bt)
        c = None if c_shape is None else np.random.default_rng(0).integers(-9000, 9000, c_shape).astype(np.int32)
        feeds: dict[str, Any] = {
            "a": a.T.copy() if ta else a, "sa": scale(0.02), "za": np.array(7, at), "b": b.T.copy() if tb else b, "sb": sb, "zb": zb, "c": c,
        }  # fmt: skip
        if output == "quantised":
            feeds |= {"sy": scale(0.05), "zy": np.array(9, at)}
        elif c is None:
            del feeds["c"]
        ((got, want),) = both("QGemm", feeds, constant=constant, transA=ta, transB=tb, alpha=alpha)
        acc = real(a, 1, 7) @ (b.astype(np.float64) - zb) + (0 if c is None else c)
        exact = acc * np.float64(np.float32(alpha)) * np.float64(np.float32(0.02)) * sb
        if output == "quantised":
            assert_steps(got, want, exact / np.float64(np.float32(0.05)) + 9, 1e-4)
        else:
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("a_shape,b_shape", [((4, 33), (33, 9)), ((2, 3, 16), (16, 5)), ((2, 1, 8), (2, 8, 6)), ((1, 1), (1, 1))])
@pytest.mark.parametrize("dtypes", [(np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8)])
def test_matmul_integer_to_float(dtypes: tuple[Any, Any], a_shape: tuple[int, ...], b_shape: tuple[int, ...]) -> None:
    at, bt = dtypes
    n = b_shape[-1]
    for column, za, zb, biased, constant in product((False, len(b_shape) == 2), (None, 7), (False, True), (False, True), (False, True)):
        a, b = integers(at, *a_shape), weights(bt, *b_shape)
        feeds = {
            "a": a, "b": b, "sa": scale(0.02), "sb": np.linspace(0.01, 0.03, n).astype(np.float32) if column else scale(0.03),
            "za": optional(za, at), "zb": (np.arange(n).astype(bt) if column else np.array(3, bt)) if zb else None,
            "bias": np.linspace(-1, 1, n).astype(np.float32) if biased else None,
        }  # fmt: skip
        feeds = trimmed(feeds)
        ((got, want),) = both("MatMulIntegerToFloat", feeds, constant=constant)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_matmul_integer_to_float_of_rows() -> None:
    feeds = {"a": integers(np.uint8, 3, 4), "b": integers(np.int8, 4, 5), "sa": scale(0.1, (4,)), "sb": scale(0.1)}
    with pytest.raises(rt.UnsupportedError, match=r"MatMulIntegerToFloat\] 'n': quantisation of a by rows is not supported"):
        run("MatMulIntegerToFloat", feeds, domain="com.microsoft", opset=1)


@pytest.mark.parametrize("a_shape,b_shape", [((4, 33), (33, 9)), ((2, 3, 16), (16, 5)), ((1, 8), (8, 1))])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dynamic_quantize_matmul(dtype: Any, a_shape: tuple[int, ...], b_shape: tuple[int, ...]) -> None:
    n = b_shape[-1]
    for column, zb, biased, constant in product((False, True), (False, True), (False, True), (False, True)):
        a = np.random.default_rng(3).standard_normal(a_shape).astype(np.float32)
        feeds = {
            "a": a, "b": weights(dtype, *b_shape), "sb": np.linspace(0.01, 0.03, n).astype(np.float32) if column else scale(0.03),
            "zb": (np.arange(n).astype(dtype) if column else np.array(3, dtype)) if zb else None,
            "bias": np.linspace(-1, 1, n).astype(np.float32) if biased else None,
        }  # fmt: skip
        feeds = trimmed(feeds)
        ((got, want),) = both("DynamicQuantizeMatMul", feeds, constant=constant)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("a_shape,b_shape", [((4, 33), (33, 9)), ((2, 3, 16), (16, 5)), ((8,), (8,))])
def test_matmul_integer16(a_shape: tuple[int, ...], b_shape: tuple[int, ...]) -> None:
    a, b = integers(np.int16, *a_shape) // 8, integers(np.int16, *b_shape, seed=1) // 8
    ((got, want),) = both("MatMulInteger16", {"a": a, "b": b})
    np.testing.assert_array_equal(got, want)
    (unsigned,) = run("MatMulInteger16", {"a": a.view(np.uint16) // 16, "b": b.view(np.uint16) // 16}, domain="com.microsoft", opset=1)
    np.testing.assert_array_equal(unsigned, (a.view(np.uint16) // 16).astype(np.int64) @ (b.view(np.uint16) // 16).astype(np.int64))


# -------------------------------------------------------------------------------------------------------- Quantize- and DequantizeLinear
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_quantize_and_dequantize(axis: int | None, dtype: Any) -> None:
    x = np.random.default_rng(1).uniform(-40, 40, (3, 4, 5)).astype(np.float32)
    n = None if axis is None else x.shape[axis]
    s = scale(0.013) if n is None else np.linspace(0.01, 0.1, n).astype(np.float32)
    z = np.array(7, dtype) if n is None else np.arange(n).astype(dtype)
    attrs = {} if axis is None else {"axis": axis}
    for constant in (False, True):
        ((got, want),) = both("QuantizeLinear", {"x": x, "s": s, "z": z}, constant=constant, **attrs)
        np.testing.assert_array_equal(got, want)
        ((got, want),) = both("DequantizeLinear", {"x": want, "s": s, "z": z}, constant=constant, **attrs)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32])
def test_dequantize_without_zero_point(dtype: Any) -> None:
    ((got, want),) = both("DequantizeLinear", {"x": integers(dtype, 3, 7), "s": scale(0.1)})
    np.testing.assert_array_equal(got, want)


# ------------------------------------------------------------------------------------------------------------------------ models
def test_one_session_and_many_shapes() -> None:
    """New shapes come from templates: the same as from a session that saw one shape only."""
    tensor, zero = {"sx": scale(0.02), "zx": np.array(3, np.uint8)}, {"sy": scale(0.01), "zy": np.array(9, np.uint8)}
    image: Any = lambda n, h, w: {"x": integers(np.uint8, n, 3, h, w), **tensor, **zero}
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("QLinearGlobalAveragePool", image, {}),
        ("QLinearGlobalAveragePool", image, {"channels_last": 1}),
        ("QLinearAveragePool", image, {"kernel_shape": [2, 2], "ceil_mode": 1, "strides": [2, 2]}),
        ("QLinearSoftmax", image, {"axis": 2, "more": {"opset": 12}}),
        ("QLinearAdd", lambda n, h, w: {"a": integers(np.uint8, n, h, w), **tensor, "b": integers(np.uint8, h, 1), "sb": scale(0.1), "zb": zero["zy"], **zero}, {}),
        ("QLinearConcat", lambda n, h, w: {**zero, "a": integers(np.uint8, n, h), **tensor, "b": integers(np.uint8, w, h), "sb": scale(0.1), "zb": zero["zy"]}, {"axis": 0}),
        ("QGemm", lambda n, h, w: {"a": integers(np.uint8, n, h), **tensor, "b": integers(np.uint8, h, w), "sb": scale(0.1), "zb": zero["zy"], "c": None, **zero}, {}),
    ]  # fmt: skip
    for name, make, attrs in cases:
        names = [k for k in make(2, 2, 2) if k[0] in "sz"]
        session = rt.InferenceSession(nodes.node_model(name, make(2, 2, 2), domain="com.microsoft", opset=1, constants=names, **attrs))
        for shape in [(1, 4, 3), (2, 5, 4), (3, 7, 2), (2, 2, 6), (4, 3, 9), (2, 2, 2), (5, 2, 5)]:
            feeds = make(*shape)
            (got,) = session.run(None, {k: v for k, v in feeds.items() if k not in names and v is not None})
            np.testing.assert_array_equal(got, run(name, feeds, domain="com.microsoft", opset=1, constants=names, **attrs)[0])


def small_network() -> onnx.ModelProto:
    """Convolutions, a residual, a concatenation, a gate, pooling, a product: what the quantiser turns into the ops above."""
    rng = np.random.default_rng(5)
    constants = {
        "w1": rng.standard_normal((8, 3, 3, 3)) / 5, "b1": rng.standard_normal(8), "w2": rng.standard_normal((8, 8, 3, 3)) / 8,
        "w3": rng.standard_normal((8, 1, 3, 3)) / 3, "w4": rng.standard_normal((16, 10)) / 4, "b4": rng.standard_normal(10),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["c1"], ["l1"], alpha=0.1),
        helper.make_node("Conv", ["l1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Add", ["r2", "l1"], ["a2"]),
        helper.make_node("Conv", ["a2", "w3"], ["c3"], pads=[1, 1, 1, 1], group=8),
        helper.make_node("Sigmoid", ["c3"], ["s3"]),
        helper.make_node("Mul", ["c3", "s3"], ["m3"]),
        helper.make_node("AveragePool", ["m3"], ["p3"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("MaxPool", ["a2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Concat", ["p3", "p2"], ["k"], axis=1),
        helper.make_node("GlobalAveragePool", ["k"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["y"]),
        helper.make_node("Softmax", ["y"], ["z"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 12, 10])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 10])], [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtypes", ["u8u8", "u8s8", "s8s8"])
def test_what_the_quantizer_writes(dtypes: str, per_channel: bool, tmp_path: Any) -> None:
    ort = pytest.importorskip("onnxruntime")
    quantization = pytest.importorskip("onnxruntime.quantization")
    kinds = {"u": quantization.QuantType.QUInt8, "s": quantization.QuantType.QInt8}
    rng = np.random.default_rng(0)
    batches = [{"x": rng.standard_normal((1, 3, 12, 10)).astype(np.float32)} for _ in range(4)]

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.rest = iter(batches)

        def get_next(self) -> Any:
            return next(self.rest, None)

    onnx.save(small_network(), tmp_path / "float.onnx")
    quantization.quantize_static(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", Reader(), quant_format=quantization.QuantFormat.QOperator, per_channel=per_channel, reduce_range=True,
        activation_type=kinds[dtypes[0]], weight_type=kinds[dtypes[2]],
    )  # fmt: skip
    model = onnx.load(tmp_path / "int8.onnx")
    used = {n.op_type for n in model.graph.node if n.domain == "com.microsoft"}
    assert used >= {
        "QLinearLeakyRelu", "QLinearAdd", "QLinearSigmoid", "QLinearMul", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool",
        "QGemm", "QLinearSoftmax",
    }  # fmt: skip
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    other = ort.InferenceSession(tmp_path / "int8.onnx", options, providers=["CPUExecutionProvider"])
    session = rt.InferenceSession(tmp_path / "int8.onnx")
    for feed in batches:  # equal but for a tie on the way: one step of 1 / 256
        assert np.abs(session.run(None, feed)[0] - other.run(None, feed)[0]).max() <= 1 / 256
