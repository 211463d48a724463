"""reduce, arg_reduce, scan, softmax and normalize of the NumPy backend against onnx.reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pytensor_rt.dtypes import BOOL, F16, F32, F64, I8, I32, I64, U8, from_code
from pytensor_rt.kernels.ref import execute

from .onnx_oracle import check, onnx_run

RNG = np.random.default_rng(0)
NAMES = {
    "sum": "Sum", "mean": "Mean", "max": "Max", "min": "Min", "prod": "Prod", "l1": "L1", "l2": "L2", "log_sum": "LogSum",
    "log_sum_exp": "LogSumExp", "sum_square": "SumSquare",
}  # fmt: skip


def reduce1(op, x, axes, dtype=None):
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    return execute("reduce", [x], [(shape, dtype or x.dtype)], {"op": op, "axes": axes})[0]


@pytest.mark.parametrize("op", NAMES)
def test_reduce(op):
    x = RNG.uniform(0.1, 2, (2, 3, 4)).astype(F32)
    for k in range(4):
        for axes in itertools.combinations(range(3), k):
            if axes:
                check("reduce", [x], onnx_run("Reduce" + NAMES[op], [x, np.array(axes)], keepdims=1), {"op": op, "axes": axes})
    if op not in ("log_sum", "log_sum_exp", "mean"):
        i = RNG.integers(-5, 6, (3, 4)).astype(I32)
        check("reduce", [i], onnx_run("Reduce" + NAMES[op], [i, np.array([1])]), {"op": op, "axes": (1,)})


def test_reduce_of_nothing_gives_the_neutral_element():
    x = np.zeros((2, 0), F32)
    want = {
        "sum": 0,
        "prod": 1,
        "max": -np.inf,
        "min": np.inf,
        "mean": np.nan,
        "l1": 0,
        "l2": 0,
        "log_sum": -np.inf,
        "log_sum_exp": -np.inf,
    }
    for op, value in want.items():
        np.testing.assert_array_equal(reduce1(op, x, (1,)), np.full((2, 1), value, F32))
    assert reduce1("max", np.zeros((0,), I8), (0,)).tolist() == [-128] and reduce1("min", np.zeros((0,), U8), (0,)).tolist() == [255]
    assert reduce1("max", np.zeros((0,), BOOL), (0,)).tolist() == [False] and reduce1("mean", np.zeros((0,), I64), (0,)).tolist() == [0]


def test_reduce_integers_wrap_and_mean_truncates():
    assert reduce1("sum", np.array([100, 100], I8), (0,)).tolist() == [-56]
    assert reduce1("prod", np.array([16, 16, 3], U8), (0,)).tolist() == [0]
    assert reduce1("mean", np.array([-3, -4], I32), (0,)).tolist() == [-3]
    assert reduce1("sum", np.array([2**63 - 1, 1], I64), (0,)).tolist() == [-(2**63)]
    assert reduce1("max", np.array([2**64 - 1, 1], np.uint64), (0,)).tolist() == [2**64 - 1]


def test_reduce_special_values():
    x = np.array([[np.nan, 1], [np.inf, -np.inf]], F32)
    assert np.isnan(reduce1("max", x, (1,))[0, 0]) and np.isnan(reduce1("min", x, (1,))[0, 0])
    np.testing.assert_array_equal(reduce1("log_sum_exp", x, (1,))[1], [np.inf])
    big = np.array([3e38, 4e38, 1e-30], F64)
    assert reduce1("l2", big, (0,))[0] == pytest.approx(5e38)
    assert reduce1("log_sum_exp", np.array([1000.0, 1000.0]), (0,))[0] == pytest.approx(1000 + np.log(2))


def test_half_precision_is_rounded_once():
    for dtype in (F16, from_code(16)):
        x = RNG.uniform(0, 1, 1000).astype(dtype)
        assert reduce1("sum", x, (0,)) == np.array([x.astype(F64).sum()]).astype(dtype)


def test_reduce_symbols():
    x = np.empty((2, 2), object)
    x[:] = [[3, 4], [5, 6]]
    assert execute("reduce", [x], [((1, 2), I64)], {"op": "prod", "axes": (0,)})[0].tolist() == [[15, 24]]
    assert execute("reduce", [x], [((1, 1), I64)], {"op": "max", "axes": (0, 1)})[0].tolist() == [[6]]


@pytest.mark.parametrize("op", ["max", "min"])
@pytest.mark.parametrize("select_last", [0, 1])
def test_arg_reduce(op, select_last):
    x = RNG.integers(0, 3, (3, 4, 5)).astype(F32)
    for axis in range(3):
        want = onnx_run("Arg" + op.capitalize(), [x], axis=axis, keepdims=1, select_last_index=select_last)
        check("arg_reduce", [x], want, {"op": op, "axis": axis, "select_last": select_last})
    y = np.array([1, np.nan, 5, np.nan], F32)
    assert execute("arg_reduce", [y], [((1,), I64)], {"op": op, "axis": 0, "select_last": select_last})[0].tolist() == [
        3 if select_last else 1
    ]


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_scan(exclusive, reverse):
    for x in (RNG.standard_normal((3, 4)).astype(F32), RNG.integers(0, 9, (3, 4)).astype(I32)):
        for axis in range(2):
            attrs = {"exclusive": exclusive, "reverse": reverse}
            check("scan", [x], onnx_run("CumSum", [x, np.array(axis)], **attrs), {"op": "sum", "axis": axis, **attrs})
    y = np.array([2, 3, 4], I64)
    want = {(0, 0): [2, 6, 24], (1, 0): [1, 2, 6], (0, 1): [24, 12, 4], (1, 1): [12, 4, 1]}[exclusive, reverse]
    params = {"op": "prod", "axis": 0, "exclusive": exclusive, "reverse": reverse}
    assert execute("scan", [y], [((3,), I64)], params)[0].tolist() == want
    assert execute("scan", [y[:0]], [((0,), I64)], params)[0].shape == (0,)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax(op):
    x = (5 * RNG.standard_normal((2, 3, 4))).astype(F32)
    name = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Hardmax": "hardmax"}[op]
    for axis in range(3):
        check("softmax", [x], onnx_run(op, [x], axis=axis), {"op": name, "axis": axis})
    big = np.array([[1e4, 1e4], [-np.inf, 0], [-np.inf, -np.inf]], F32)
    y = execute("softmax", [big], [((3, 2), F32)], {"op": name, "axis": 1})[0]
    want = {"softmax": [[0.5, 0.5], [0, 1]], "log_softmax": [[-np.log(2)] * 2, [-np.inf, 0]], "hardmax": [[1, 0], [0, 1]]}[name]
    np.testing.assert_allclose(y[:2], want, rtol=1e-6)
    assert name == "hardmax" or np.isnan(y[2]).all()


def test_normalize():
    x = RNG.standard_normal((2, 3, 4)).astype(F32)
    for axis in range(3):
        axes = tuple(range(axis, 3))
        scale, bias = (RNG.standard_normal(x.shape[axis:]).astype(F32) for _ in range(2))
        wide = [np.broadcast_to(v, x.shape) for v in (scale, bias)]
        want = onnx_run("LayerNormalization", [x, scale, bias], 3, axis=axis, epsilon=1e-3)
        check("normalize", [x, *wide], want, {"op": "layer", "axes": axes, "epsilon": 1e-3})
        want = onnx_run("RMSNormalization", [x, scale], axis=axis, epsilon=1e-3)
        check("normalize", [x, wide[0], None], want, {"op": "rms", "axes": axes, "epsilon": 1e-3})
    y = execute("normalize", [x, None, None], [(x.shape, F32), None, None], {"op": "layer", "axes": (0, 2), "epsilon": 0.0})[0]
    np.testing.assert_allclose(y.mean((0, 2)), np.zeros(3), atol=1e-6)
    np.testing.assert_allclose(y.var((0, 2)), np.ones(3), rtol=1e-5)
