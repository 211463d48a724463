"""gather, scatter, compress, nonzero and max_unpool of the NumPy backend against onnx.reference."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.dtypes import F16, F32, I8, I32, I64
from pytensor_rt.kernels.ref import execute

from .onnx_oracle import check, onnx_run

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.standard_normal(shape).astype(F32)


@pytest.mark.parametrize("dtype", [I32, I64], ids=str)
def test_gather(dtype):
    x = floats(3, 4, 5)
    for axis in range(3):
        for shape in ((), (2,), (2, 3), (0,)):
            i = RNG.integers(-x.shape[axis], x.shape[axis], shape, dtype=dtype) * np.ones((), dtype)
            check("gather", [x, np.asarray(i)], onnx_run("Gather", [x, np.asarray(i)], axis=axis), {"mode": "axis", "axis": axis})
        n = [2, 3, 4]
        n[axis] = 6
        i = RNG.integers(-x.shape[axis], x.shape[axis], n, dtype=dtype)
        grid = list(np.meshgrid(*map(np.arange, n), indexing="ij"))
        grid[axis] = i
        check("gather", [x, i], [x[tuple(grid)]], {"mode": "elements", "axis": axis})


@pytest.mark.parametrize("batch", [0, 1, 2])
def test_gather_nd(batch):
    x = floats(2, 3, 4, 5)
    for depth in range(1, 5 - batch):
        for outer in ((2,), (2, 3), (0,)):
            i = np.stack([RNG.integers(-n, n, x.shape[:batch] + outer) for n in x.shape[batch : batch + depth]], -1)
            want = np.empty(x.shape[:batch] + outer + x.shape[batch + depth :], F32)
            for at in np.ndindex(*x.shape[:batch], *outer):
                want[at] = x[at[:batch]][tuple(i[at])]
            check("gather", [x, i], [want], {"mode": "nd", "batch_dims": batch})
            if want.size:
                check(
                    "gather",
                    [x, i],
                    onnx_run("GatherND", [x, i % x.shape[batch : batch + depth]], batch_dims=batch),
                    {"mode": "nd", "batch_dims": batch},
                )


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter(reduction):
    x = floats(3, 4, 5)
    for axis in range(3):
        n = [2, 3, 4]
        i = RNG.integers(-x.shape[axis], x.shape[axis], n) if reduction != "none" else np.argsort(RNG.random(n), axis)
        u = floats(*n)
        want = onnx_run("ScatterElements", [x, i, u], axis=axis, reduction=reduction)
        check("scatter", [x, i, u], want, {"mode": "elements", "axis": axis, "reduction": reduction})
    for depth in (1, 2, 3):
        i = np.stack([RNG.permutation(n)[:3] for n in x.shape[:depth]], -1) - 1
        u = floats(3, *x.shape[depth:])
        want = onnx_run("ScatterND", [x, i, u], reduction=reduction)
        check("scatter", [x, i, u], want, {"mode": "nd", "reduction": reduction})


def test_scatter_order_wrap_and_nothing():
    x, i = np.array([0, 0], I8), np.array([[1], [1], [-1]])
    run = lambda u, reduction: execute("scatter", [x, i, u], [((2,), I8)], {"mode": "nd", "reduction": reduction})[0].tolist()
    assert run(np.array([1, 2, 3], I8), "none") == [0, 3]
    assert run(np.array([100, 100, 0], I8), "add") == [0, -56]
    empty = execute("scatter", [x, i[:0], x[:0]], [((2,), I8)], {"mode": "nd"})[0]
    assert empty.tolist() == [0, 0] and not np.shares_memory(empty, x)
    h = execute(
        "scatter", [np.zeros(1, F16), np.zeros((4096, 1), I64), np.ones(4096, F16)], [((1,), F16)], {"mode": "nd", "reduction": "add"}
    )[0]
    assert h.tolist() == [4096]


@pytest.mark.parametrize("bad", [3, -4, 2**40])
def test_bounds(bad):
    x = floats(3, 2)
    for ins, params in (
        ([x, np.array([0, bad])], {"mode": "axis", "axis": 0}),
        ([x, np.array([[0], [bad]])], {"mode": "elements", "axis": 0}),
        ([x, np.array([[0], [bad]])], {"mode": "nd"}),
    ):
        with pytest.raises(IndexError, match=str(bad)):
            execute("gather", ins, [((2, 2), F32)], params)
    with pytest.raises(IndexError, match=str(bad)):
        execute("scatter", [x, np.array([[bad]]), x[:1]], [(x.shape, F32)], {"mode": "nd"})
    with pytest.raises(IndexError, match=str(bad)):
        execute("scatter", [x, np.array([[bad]]), x[:1, :1]], [(x.shape, F32)], {"mode": "elements", "axis": 0})
    with pytest.raises(IndexError):
        execute("max_unpool", [x[:1, :1], np.array([[6]])], [((3, 2), F32)], {"reference_shape": (3, 2)})


class Sym(int):
    pass


def test_symbols_pass_through():
    n = Sym(7)
    x = np.empty(3, object)
    x[:] = [1, n, 3]
    y = execute("gather", [x, np.array(1)], [((), I64)], {"mode": "axis", "axis": 0})[0]
    assert y.dtype == object and y.shape == () and y.reshape(-1)[0] is n
    assert execute("gather", [x, np.array([[1]])], [((1,), I64)], {"mode": "nd"})[0][0] is n
    assert execute("compress", [x, np.array([False, True])], [((1,), I64)], {"axis": 0})[0][0] is n
    z = execute("scatter", [x, np.array([[0]]), x[1:2]], [((3,), I64)], {"mode": "nd"})[0]
    assert z[0] is n and z[1] is n
    with pytest.raises(NotImplementedError):
        execute("gather", [x, x], [((3,), I64)], {"mode": "axis", "axis": 0})


def test_compress_and_nonzero():
    x = floats(3, 4)
    c = np.array([True, False, True])
    check("compress", [x, c], onnx_run("Compress", [x, c], axis=0), {"axis": 0})
    check("compress", [x, c], onnx_run("Compress", [x, c], axis=1), {"axis": 1})
    with pytest.raises(ValueError, match="declared"):
        execute("compress", [x, c], [((1, 4), F32)], {"axis": 0})
    for v in (RNG.integers(0, 2, (3, 4, 2)).astype(F32), np.array([True, False]), np.zeros((0, 2), F32)):
        check("nonzero", [v], [np.array(np.nonzero(v), I64)], {})
    assert execute("nonzero", [np.array(3.0)], [((0, 1), I64)], {})[0].shape == (0, 1)


def test_max_unpool():
    x, i = floats(1, 1, 2, 2), np.array([[[[5, 7], [13, 15]]]])
    want = onnx_run("MaxUnpool", [x, i], kernel_shape=(2, 2), strides=(2, 2))
    check("max_unpool", [x, i], want, {"reference_shape": (1, 1, 4, 4)})
    y = execute("max_unpool", [x, i], [((1, 1, 5, 5), F32)], {"reference_shape": (1, 1, 4, 4)})[0]
    assert y[0, 0, 1, 1] == x[0, 0, 0, 0] and y[0, 0, 3, 3] == x[0, 0, 1, 1] and np.count_nonzero(y) == 4
