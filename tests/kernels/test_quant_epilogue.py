"""Epilogues of 8-bit convolutions in one pass: every form, bit for bit what the model's operators give one after the other in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt.lowering import expr as e

from . import conv_reference as ref
from . import harness
from .harness import ISAS, run
from .test_conv import channels_last, layout

F32, I32, U8, I8 = (np.dtype(t) for t in ("float32", "int32", "uint8", "int8"))
f = np.float32


def quantize(v: e.Var, scale: float, zero: int, to: Any) -> e.Var:
    """QuantizeLinear as the op rule spells it."""
    return e.cast_sat(e.round_(v / scale) + float(zero), to)


def dequantize(v: e.Var, scale: float, zero: int) -> e.Var:
    return (e.cast(v, F32) - float(zero)) * scale


def np_quantize(v: Any, scale: float, zero: int, to: Any) -> Any:
    info = np.iinfo(to)
    return np.clip(np.rint(v / f(scale)) + f(zero), info.min, info.max).astype(to)


def np_dequantize(v: Any, scale: float, zero: int) -> Any:
    return (v.astype(f) - f(zero)) * f(scale)


def silu(v: Any) -> Any:
    return v * e.sigmoid(v)


def scaled(a: e.Var, s: Any = 0.004) -> e.Var:
    return e.cast(a, F32) * s


def requantized(v: e.Var, zero: int, to: Any) -> e.Var:
    return e.cast_sat(e.round_(v) + float(zero), to)


def np_requantized(v: Any, zero: int, to: Any) -> Any:
    info = np.iinfo(to)
    return np.clip(np.rint(v) + f(zero), info.min, info.max).astype(to)


def clip(v: e.Var, low: int, high: int) -> e.Var:
    return e.emit("min", e.emit("max", v, low), high)


# program, reference, operands (b: int32 per channel, s: float32 per channel, r, u, i: residuals in float32, uint8, int8), what fires
FORMS: dict[str, tuple[Any, Any, str, str]] = {
    "bytes": (lambda a: requantized(scaled(a), 7, U8), lambda a: np_requantized(a.astype(f) * f(0.004), 7, U8), "", "scaled, rounded"),
    "signed bytes, bias": (
        lambda a, b: requantized(scaled(a + b), -3, I8),
        lambda a, b: np_requantized((a + b).astype(f) * f(0.004), -3, I8),
        "b",
        "scaled, rounded",
    ),
    "clipped bytes": (
        lambda a, b: clip(requantized(scaled(a + b), 7, U8), 9, 201),
        lambda a, b: np_requantized((a + b).astype(f) * f(0.004), 7, U8).clip(9, 201),
        "b",
        "scaled, rounded",
    ),
    "clipped to a negative byte": (
        lambda a: e.emit("min", requantized(scaled(a), -3, I8), -100),
        lambda a: np.minimum(np_requantized(a.astype(f) * f(0.004), -3, I8), -100),
        "",
        "scaled, rounded",
    ),
    "clipped between": (
        lambda a, b, r: quantize(dequantize(clip(requantized(scaled(a + b), 100, U8), 90, 130), 0.03, 100) + r, 0.05, 9, U8),
        lambda a, b, r: np_quantize(
            np_dequantize(np_requantized((a + b).astype(f) * f(0.004), 100, U8).clip(90, 130), 0.03, 100) + r, 0.05, 9, U8
        ),
        "br",
        "scaled, residual, rounded",
    ),
    "scale per channel": (
        lambda a, b, s: requantized(scaled(a + b, s), 128, U8),
        lambda a, b, s: np_requantized((a + b).astype(f) * s, 128, U8),
        "bs",
        "scaled, rounded",
    ),
    "float32": (lambda a, s: scaled(a, s), lambda a, s: a.astype(f) * s, "s", "scaled"),
    "float32 and a bias": (lambda a, s: scaled(a) + s, lambda a, s: a.astype(f) * f(0.004) + s, "s", "scaled"),
    "dequantized": (
        lambda a: dequantize(requantized(scaled(a), 100, U8), 0.03, 100),
        lambda a: np_dequantize(np_requantized(a.astype(f) * f(0.004), 100, U8), 0.03, 100),
        "",
        "scaled",
    ),
    "float residual": (
        lambda a, b, r: quantize(e.relu(dequantize(requantized(scaled(a + b), 100, U8), 0.03, 100) + r), 0.05, 9, U8),
        lambda a, b, r: np_quantize(
            np.maximum(np_dequantize(np_requantized((a + b).astype(f) * f(0.004), 100, U8), 0.03, 100) + r, 0), 0.05, 9, U8
        ),
        "br",
        "scaled, residual, rounded",
    ),
    "byte residual": (
        lambda a, u: quantize(dequantize(requantized(scaled(a), 0, U8), 0.03, 0) + dequantize(u, 0.02, 90), 0.05, 128, U8),
        lambda a, u: np_quantize(
            np_dequantize(np_requantized(a.astype(f) * f(0.004), 0, U8), 0.03, 0) + np_dequantize(u, 0.02, 90), 0.05, 128, U8
        ),
        "u",
        "scaled, residual, rounded",
    ),
    "signed byte residual, dequantized": (
        lambda a, i: dequantize(
            quantize(dequantize(requantized(scaled(a), 1, I8), 0.03, 1) + dequantize(i, 0.02, 5), 0.05, -8, I8), 0.06, -8
        ),
        lambda a, i: np_dequantize(
            np_quantize(np_dequantize(np_requantized(a.astype(f) * f(0.004), 1, I8), 0.03, 1) + np_dequantize(i, 0.02, 5), 0.05, -8, I8),
            0.06,
            -8,
        ),
        "i",
        "scaled, residual, rounded",
    ),
}

# com.microsoft QLinearAdd: in float64, as fused multiply-adds round once
FORMS["fused sum"] = (
    lambda a, u: e.cast_sat(
        (e.cast(u, F32) * 1.25 + -200.5) + e.cast(requantized(scaled(a), 100, U8), F32) * 1.125,
        U8,
    ),
    lambda a, u: np.clip(np.rint(np_requantized(a.astype(f) * f(0.004), 100, U8) * 1.125 + (u * 1.25 - 200.5)), 0, 255).astype(U8),
    "u",
    "scaled, residual, rounded",
)


def tabled(dtype: Any, zero: int, isa: str, fn: Any = silu) -> Any:
    """A function of the byte, as the interpreter itself computes it for all 256 values."""
    values = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1).astype(dtype).reshape(1, 1, 16, 16)
    (y,) = run("map", [values], [(values.shape, F32)], isa=isa, body=lambda v: fn(dequantize(v, 0.03, zero)) + 0.0)
    return lambda q: y.reshape(-1)[q.astype(np.int64) - np.iinfo(dtype).min]


def quantized_silu(v: Any) -> Any:
    """As quantisers write it: sigmoid and product are rounded to bytes each."""
    gate = dequantize(quantize(e.sigmoid(v), 1 / 255, 0, U8), 1 / 255, 0)
    return dequantize(quantize(v * gate, 0.02, 30, U8), 0.02, 30)


def silu_of_constants(v: Any) -> Any:
    """With values that follow from constants alone, as the scale times the zero point of a constant operand."""
    byte = e.Var(v.builder, v.builder.emit("const", (255,), U8), U8)
    made = e.sqrt(e.cast(byte, F32) * 0.25)
    return silu(v) * made + (made - 3.0)


TABLES: dict[str, tuple[Any, Any, str, str]] = {
    "silu": (
        lambda a, b: quantize(silu(dequantize(requantized(scaled(a + b), 100, U8), 0.03, 100)), 0.02, 30, U8),
        lambda isa, a, b: np_quantize(tabled(U8, 100, isa)(np_requantized((a + b).astype(f) * f(0.004), 100, U8)), 0.02, 30, U8),
        "b",
        "a table",
    ),
    "silu and constants": (
        lambda a: quantize(silu_of_constants(dequantize(requantized(scaled(a), 100, U8), 0.03, 100)), 0.2, 30, U8),
        lambda isa, a: np_quantize(tabled(U8, 100, isa, silu_of_constants)(np_requantized(a.astype(f) * f(0.004), 100, U8)), 0.2, 30, U8),
        "",
        "a table",
    ),
    "silu in float32": (
        lambda a: silu(dequantize(requantized(scaled(a), -5, I8), 0.03, -5)),
        lambda isa, a: tabled(I8, -5, isa)(np_requantized(a.astype(f) * f(0.004), -5, I8)),
        "",
        "a table",
    ),
    "silu and a residual": (
        lambda a, u: quantize(silu(dequantize(requantized(scaled(a), 100, U8), 0.03, 100)) + dequantize(u, 0.02, 90), 0.05, 128, I8),
        lambda isa, a, u: np_quantize(
            tabled(U8, 100, isa)(np_requantized(a.astype(f) * f(0.004), 100, U8)) + np_dequantize(u, 0.02, 90), 0.05, 128, I8
        ),
        "u",
        "scaled by a table, residual, rounded",
    ),
    "silu of rounded steps and a float residual": (
        lambda a, r: quantize(quantized_silu(dequantize(requantized(scaled(a), 100, U8), 0.03, 100)) + r, 0.05, 128, U8),
        lambda isa, a, r: np_quantize(
            tabled(U8, 100, isa, quantized_silu)(np_requantized(a.astype(f) * f(0.004), 100, U8)) + r, 0.05, 128, U8
        ),
        "r",
        "scaled by a table, residual, rounded",
    ),
    "silu after scale and shift": (
        lambda a, s: quantize(silu(dequantize(requantized(scaled(a) + s, 100, U8), 0.03, 100)), 0.02, 30, I8),
        lambda isa, a, s: np_quantize(tabled(U8, 100, isa)(np_requantized(a.astype(f) * f(0.004) + s, 100, U8)), 0.02, 30, I8),
        "s",
        "a table",
    ),
    "requantised": (
        lambda a, i: quantize(
            dequantize(quantize(dequantize(requantized(scaled(a), 1, I8), 0.03, 1) + dequantize(i, 0.02, 5), 0.05, -8, I8), 0.06, -8),
            0.02,
            7,
            U8,
        ),
        lambda isa, a, i: np_quantize(
            np_dequantize(
                np_quantize(
                    np_dequantize(np_requantized(a.astype(f) * f(0.004), 1, I8), 0.03, 1) + np_dequantize(i, 0.02, 5), 0.05, -8, I8
                ),
                0.06,
                -8,
            ),
            0.02,
            7,
            U8,
        ),
        "i",
        "scaled, residual, rounded, then a table",
    ),
}
PATHS: list[tuple[Any, ...]] = [
    ((2, 24, 9, 11), (40, 24, 3, 3), [2, 1], [1, 1], [1, 1, 1, 1], 1),
    ((1, 40, 9, 11), (70, 40, 1, 1), [1, 1], [1, 1], [0, 0, 0, 0], 1),
    ((1, 3, 17, 15), (33, 3, 5, 3), [2, 2], [1, 1], [2, 1, 2, 1], 1),
    ((1, 34, 15, 20), (34, 1, 3, 3), [1, 1], [1, 1], [1, 1, 1, 1], 34),
    ((2, 70, 11, 9), (70, 1, 5, 5), [2, 2], [1, 1], [2, 2, 2, 2], 70),
    ((1, 10, 5, 300), (10, 1, 3, 3), [1, 1], [1, 1], [1, 1, 1, 1], 10),
    ((2, 100, 12, 13), (100, 1, 7, 4), [1, 2], [1, 1], [3, 0, 3, 5], 100),
    ((1, 20, 11, 14), (20, 1, 5, 3), [1, 1], [2, 3], [4, 3, 4, 3], 20),
    ((1, 80, 2, 3), (80, 1, 3, 3), [2, 2], [1, 1], [2, 4, 2, 4], 80),
    ((1, 12, 50), (42, 6, 5), [1], [1], [2, 2], 2),
    ((1, 20, 12, 9), (18, 10, 3, 2), [1, 1], [2, 2], [1, 0, 1, 2], 2),
    ((1, 4, 3, 6, 7), (10, 4, 3, 2, 3), [1, 1, 1], [1, 1, 1], [1, 0, 1, 1, 1, 1], 1),
    ((1, 8, 5, 5), (1, 8, 1, 1), [1, 1], [1, 1], [0, 0, 0, 0], 1),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", [*FORMS, *TABLES])
@pytest.mark.parametrize("path", PATHS, ids=lambda p: "x".join(map(str, p[1])))
def test_every_form_on_every_path(path: Any, form: str, isa: str) -> None:
    rng = np.random.default_rng(3)
    xs, ws, strides, dilations, pads, group = path
    fn, np_fn, kinds, fires = {**FORMS, **TABLES}[form]
    params = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
    for x_type, x_zero, w_type, w_zero in ((U8, 3, I8, 0), (I8, -7, I8, 0), (U8, 200, U8, 128), (I8, 11, U8, 120)):
        x = rng.integers(np.iinfo(x_type).min, np.iinfo(x_type).max + 1, xs).astype(x_type)
        w = rng.integers(np.iinfo(w_type).min, np.iinfo(w_type).max + 1, ws).astype(w_type)
        n = int(np.prod(ws[1:]))
        acc = ref.conv(x, w.astype(np.int64) - w_zero, None, strides, dilations, pads, group, x_zero).astype(np.int32)
        shape = (1, ws[0], *(1,) * (len(xs) - 2))
        operand = {
            "b": rng.integers(-20000, 20000, shape).astype(I32),
            "s": rng.uniform(0.001, 0.01, shape).astype(f) * f(50 / n),
            "r": channels_last(rng.standard_normal(acc.shape).astype(f)),
            "u": channels_last(rng.integers(0, 256, acc.shape).astype(U8)),
            "i": channels_last(rng.integers(-128, 128, acc.shape).astype(I8)),
        }
        operands = [operand[k] for k in kinds]
        want = np_fn(*([isa] if form in TABLES else []), acc, *operands)
        y = channels_last(np.zeros(acc.shape, want.dtype))
        told: list[str] = []
        views = [np.broadcast_to(o, acc.shape) if o.shape != acc.shape else o for o in operands]
        ins = [channels_last(x), w, None, np.array(x_zero, x_type), np.array(w_zero, w_type)]
        run("conv", ins, [y], params, epilogue=fn, epi_ins=views, acc_dtype=I32, consts=(1, 3, 4), isa=isa, threads=2, describe=told)
        np.testing.assert_array_equal(y, want)
        assert told[0].partition(", then ")[2] == fires


@pytest.mark.parametrize("isa", ISAS)
def test_channels_need_not_lie_side_by_side(isa: str) -> None:
    """Bytes are turned on the way in and out, in blocks of rows where images are large."""
    rng = np.random.default_rng(8)
    large: list[tuple[Any, ...]] = [
        ((1, 70, 90, 75), (70, 1, 3, 3), [1, 1], [1, 1], [1, 1, 1, 1], 70),
        ((1, 64, 70, 100), (64, 1, 5, 4), [2, 1], [1, 2], [40, 2, 1, 3], 64),
        ((1, 30, 90, 75), (50, 30, 1, 1), [1, 1], [1, 1], [0, 0, 0, 0], 1),
    ]
    for turn in range(80):
        xs, ws, strides, dilations, pads, group = [*PATHS, *large][turn % (len(PATHS) + len(large))]
        fn, np_fn, kinds, fires = FORMS[str(rng.choice([*FORMS]))]
        x_type, x_zero = [(U8, 3), (I8, -7)][int(rng.integers(2))]
        lx, ly = (str(v) for v in rng.choice(["first", "last", "any"], 2))
        x = rng.integers(np.iinfo(x_type).min, np.iinfo(x_type).max + 1, xs).astype(x_type)
        w = rng.integers(-128, 128, ws).astype(I8)
        acc = ref.conv(x, w, None, strides, dilations, pads, group, x_zero).astype(I32)
        views = operands(rng, kinds, acc.shape, (1, ws[0], *(1,) * (len(xs) - 2)), int(np.prod(ws[1:])))
        views = [channels_last(v) if k in "rui" else v for k, v in zip(kinds, views)]
        want = np_fn(acc, *views)
        y = layout(rng, np.zeros(acc.shape, want.dtype), ly)
        told: list[str] = []
        params = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
        ins = [layout(rng, x, lx), w, None, np.array(x_zero, x_type)]
        run("conv", ins, [y], params, epilogue=fn, epi_ins=views, acc_dtype=I32, consts=(1, 3), isa=isa, threads=2, describe=told)
        np.testing.assert_array_equal(y, want)
        assert harness.device or told[0].partition(", then ")[2] == fires


def operands(rng: np.random.Generator, kinds: str, shape: tuple[int, ...], parameters: tuple[int, ...], n: int) -> list[Any]:
    """Epilogue operands of these kinds for results of `shape`; b and s have the shape `parameters`."""
    make = {
        "b": lambda: np.broadcast_to(rng.integers(-20000, 20000, parameters).astype(I32), shape),
        "s": lambda: np.broadcast_to(rng.uniform(0.001, 0.01, parameters).astype(f) * f(50 / n), shape),
        "r": lambda: rng.standard_normal(shape).astype(f),
        "u": lambda: rng.integers(0, 256, shape).astype(U8),
        "i": lambda: rng.integers(-128, 128, shape).astype(I8),
    }
    return [make[k]() for k in kinds]


@pytest.mark.parametrize("form", [*FORMS, *TABLES])
def test_every_form_on_gemm(form: str) -> None:
    rng = np.random.default_rng(3)
    fn, np_fn, kinds, fires = {**FORMS, **TABLES}[form]
    for m, n, k in ((2, 40, 72), (30, 33, 48), (17, 24, 1100), (4, 1, 5)):
        for a_type, b_type in ((U8, I8), (I8, U8)):
            a = rng.integers(np.iinfo(a_type).min, np.iinfo(a_type).max + 1, (2, m, k)).astype(a_type)
            b = rng.integers(np.iinfo(b_type).min, np.iinfo(b_type).max + 1, (k, n)).astype(b_type)
            zeros = np.array(7, a_type), np.array(120 if b_type == U8 else 0, b_type)
            acc = ((a.astype(np.int64) - zeros[0]) @ (b.astype(np.int64) - zeros[1])).astype(I32)
            views = operands(rng, kinds, acc.shape, (1, 1, n), k)
            # (tables and references take images)
            want = np_fn(*([None] if form in TABLES else []), acc[:, None], *[v[:, None] for v in views])[:, 0]
            ins = [a, np.broadcast_to(b, (2, k, n)), np.broadcast_to(zeros[0], (2, m, 1)), np.broadcast_to(zeros[1], (2, 1, n))]
            told: list[str] = []
            (y,) = run(
                "gemm", ins, [(acc.shape, want.dtype)], epilogue=fn, epi_ins=views, acc_dtype=I32, consts=(1,), threads=2, describe=told
            )
            linear = form.startswith("float32") and not harness.device  # in the register tile, which may multiply and add in one rounding
            if linear:
                np.testing.assert_allclose(y, want, rtol=2.0**-23, atol=2.0**-24 * 0.004 * np.abs(acc).max())
            else:
                np.testing.assert_array_equal(y, want)
            assert harness.device or n == 1 or told[0].partition(", then ")[2] == ("" if linear else fires)


def test_not_a_number_and_infinity_saturate_to_bounds() -> None:
    x, w = np.full((1, 4, 2, 2), 1, U8), np.ones((3, 4, 1, 1), I8)
    scale = np.array([np.nan, np.inf, -np.inf], f).reshape(1, 3, 1, 1)
    y = channels_last(np.zeros((1, 3, 2, 2), U8))
    params = {"strides": [1, 1], "dilations": [1, 1], "pads": [0, 0, 0, 0], "group": 1}
    views = [np.broadcast_to(scale, y.shape)]
    run(
        "conv",
        [channels_last(x), w],
        [y],
        params,
        epilogue=lambda a, s: requantized(scaled(a, s), 5, U8),
        epi_ins=views,
        acc_dtype=I32,
        consts=(1,),
    )
    np.testing.assert_array_equal(y[0, :, 0, 0], [0, 255, 0])


def test_weights_that_are_no_constants() -> None:
    rng = np.random.default_rng(4)
    x, w = rng.integers(0, 256, (1, 10, 6, 7)).astype(U8), rng.integers(-128, 128, (20, 10, 3, 3)).astype(I8)
    params = {"strides": [1, 1], "dilations": [1, 1], "pads": [1, 1, 1, 1], "group": 1}
    want = ref.conv(x, w, None, [1, 1], [1, 1], [1, 1, 1, 1], 1, 9)
    y = channels_last(np.zeros(want.shape, I32))
    run("conv", [channels_last(x), w, None, np.array(9, U8)], [y], params, consts=())
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("zeros", "layers"), [((128,), ""), ((127, 129, 120), " in 2 layers"), ((0, 255, 128), " in 3 layers")])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 2)])
def test_depthwise_weights_less_their_zero_points_need_not_fit_a_byte(
    kernel: tuple[int, int], zeros: tuple[int, ...], layers: str, isa: str
) -> None:
    rng = np.random.default_rng(5)
    x, w = rng.integers(0, 256, (2, 70, 7, 9)).astype(U8), rng.integers(0, 256, (70, 1, *kernel)).astype(U8)
    w[:4, 0, 0, 0] = 255, 0, 255, 0
    zero = np.resize(np.array(zeros, U8), 70)
    acc = ref.conv(x, w, None, [1, 1], [1, 1], [1, 1, 1, 1], 70, 7, zero.astype(np.int64)).astype(np.int32)
    scale = rng.uniform(0.0005, 0.003, (1, 70, 1, 1)).astype(f)
    scale[0, :3, 0, 0] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        want = np.nan_to_num(acc.astype(f) * scale, nan=-1e9)
    params = {"strides": [1, 1], "dilations": [1, 1], "pads": [1, 1, 1, 1], "group": 70}
    y, told = channels_last(np.zeros(acc.shape, U8)), list[str]()
    run(
        "conv", [channels_last(x), w, None, np.array(7, U8), zero], [y], params, epilogue=lambda a, s: requantized(scaled(a, s), 5, U8),
        epi_ins=[np.broadcast_to(scale, acc.shape)], acc_dtype=I32, consts=(1, 3, 4), isa=isa, threads=2, describe=told,
    )  # fmt: skip
    np.testing.assert_array_equal(y, np.clip(np.rint(want) + 5, 0, 255))
    assert harness.device or isa != "v4x" or told[0].startswith(f"depthwise, bytes{layers}, strips")
