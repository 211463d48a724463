"""pool, topk, unique and nms of the NumPy backend against onnx.reference or onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.dtypes import F16, F32, F64, I8, I64, U8
from pytensor_rt.kernels.ref import execute

from .onnx_oracle import check, onnx_run, ort_run

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.standard_normal(shape).astype(F32)


POOLS = [
    ((3,), (1,), (1,), (0, 0), 0), ((3,), (2,), (1,), (1, 0), 1), ((2,), (3,), (2,), (1, 1), 1),
    ((2, 3), (2, 1), (1, 2), (1, 1, 0, 2), 0), ((3, 3), (2, 2), (1, 1), (0, 1, 1, 0), 1), ((2, 2, 3), (1, 2, 2), (1, 1, 1), (1, 0, 1, 0, 1, 1), 1),
]  # fmt: skip


@pytest.mark.parametrize("geometry", POOLS, ids=str)
def test_pool(geometry):
    kernel, strides, dilations, pads, ceil = geometry
    attrs = {"strides": strides, "dilations": dilations, "pads": pads}
    x = floats(2, 3, *(7, 8, 6)[: len(kernel)])
    for order in (0, 1):
        want = ort_run("MaxPool", [x], 2, kernel_shape=kernel, ceil_mode=ceil, storage_order=order, **attrs)
        check("pool", [x], want, {"op": "max", "kernel": kernel, "storage_order": order, **attrs})
    for include in (0, 1):
        want = ort_run("AveragePool", [x], opset=19, kernel_shape=kernel, ceil_mode=ceil, count_include_pad=include, **attrs)
        check("pool", [x], want, {"op": "average", "kernel": kernel, "count_include_pad": include, **attrs})
    for p in (1, 2, 3):
        want = ort_run("LpPool", [x], opset=18, kernel_shape=kernel, ceil_mode=ceil, p=p, **attrs)
        check("pool", [x], want, {"op": "lp", "kernel": kernel, "p": p, **attrs})


def test_padding_never_wins_a_maximum():
    x = np.full((1, 1, 2, 2), -np.inf, F32)
    y, i = execute("pool", [x], [((1, 1, 3, 3), F32), ((1, 1, 3, 3), I64)], {"op": "max", "kernel": (2, 2), "pads": (1, 1, 1, 1)})
    assert np.isneginf(y).all() and i.reshape(-1).tolist() == [0, 0, 1, 0, 0, 1, 2, 2, 3]
    z = execute("pool", [np.full((1, 1, 1), -128, I8)], [((1, 1, 2), I8)], {"op": "max", "kernel": (2,), "pads": (1, 1)})[0]
    assert z.tolist() == [[[-128, -128]]]
    n = np.array([[[1.0, np.nan, 3.0]]])
    y, i = execute("pool", [n], [((1, 1, 2), F64), ((1, 1, 2), I64)], {"op": "max", "kernel": (2,)})
    assert np.isnan(y).all() and i.tolist() == [[[1, 1]]]


@pytest.mark.parametrize("largest", [0, 1])
def test_topk(largest):
    for x in (floats(3, 6, 4), RNG.integers(0, 3, (3, 6, 4)).astype(I64), RNG.integers(0, 3, (3, 6, 4)).astype(F16)):
        for axis in range(3):
            for k in (1, 3, x.shape[axis]):
                if x.dtype == F32:
                    want = onnx_run("TopK", [x, np.array([k])], 2, axis=axis, largest=largest, sorted=1)
                else:  # ties: the lower index first
                    order = np.argsort((-1 if largest else 1) * x.astype(F64), axis=axis, kind="stable").take(range(k), axis)
                    want = [np.take_along_axis(x, order, axis), order]
                check("topk", [x], want, {"axis": axis, "k": k, "largest": largest})
    extremes = np.array([-(2**63), 2**63 - 1, 0], I64)
    assert execute("topk", [extremes], [((3,), I64), ((3,), I64)], {"axis": 0, "k": 3})[1].tolist() == [1, 2, 0]
    nan = np.array([1, np.nan, np.inf, -np.inf], F32)
    want = [1, 2, 0, 3] if largest else [3, 0, 2, 1]
    assert execute("topk", [nan], [((4,), F32), ((4,), I64)], {"axis": 0, "k": 4, "largest": largest})[1].tolist() == want


@pytest.mark.parametrize("is_sorted", [0, 1])
def test_unique(is_sorted):
    for x in (RNG.integers(0, 5, 12).astype(I64), RNG.integers(0, 5, 12).astype(F16), RNG.integers(0, 2, 12).astype(bool), np.zeros(0, U8)):
        cap = ((x.size,), x.dtype), ((x.size,), I64), ((x.size,), I64), ((x.size,), I64), ((1,), I64)
        y, first, inverse, counts, n = execute("unique", [x], cap, {"sorted": is_sorted})
        m = int(n[0])
        seen = x.tolist()
        want = sorted(set(seen)) if is_sorted else list(dict.fromkeys(seen))
        assert y[:m].tolist() == want and first[:m].tolist() == [seen.index(v) for v in want]
        assert counts[:m].tolist() == [seen.count(v) for v in want] and (y[inverse] == x).all()
    z = np.array([np.nan, 1, np.nan], F32)
    y, first, inverse, counts, n = execute("unique", [z], [((3,), F32), *[((3,), I64)] * 3, ((1,), I64)], {"sorted": is_sorted})
    assert n[0] == 2 and sorted(counts[:2].tolist()) == [1, 2] and inverse[0] == inverse[2] and np.isnan(y[inverse[0]])


@pytest.mark.parametrize("center", [0, 1])
def test_nms(center):
    for trial in range(6):
        rng = np.random.default_rng(trial)
        boxes, scores = rng.random((2, 20, 4)).astype(F32), np.round(rng.random((2, 3, 20)), 1).astype(F32)
        threshold = None if trial % 2 else np.array([0.4], F32)
        ins = [boxes, scores, np.array([trial * 2]), np.array([0.3], F32), threshold]
        want = onnx_run("NonMaxSuppression", ins, opset=11, center_point_box=center)[0].reshape(-1, 3)
        params = {
            "center_point_box": center, "max_per_class": trial * 2, "iou_threshold": float(F32.type(0.3)),
            "score_threshold": float(F32.type(0.4)), "has_score_threshold": int(threshold is not None),
        }  # fmt: skip
        selected, n = execute("nms", [boxes, scores], [((120, 3), I64), ((1,), I64)], params)
        assert selected[: n[0]].tolist() == want.tolist() and not selected[n[0] :].any()
