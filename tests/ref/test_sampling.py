"""resample, grid_sample, roi_align and deform_conv of the NumPy backend against onnx.reference."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.dtypes import F32, I32, U8
from pytensor_rt.kernels.ref import execute
from pytensor_rt.kernels.spec import COORDINATE_MODES

from .onnx_oracle import check, onnx_run, ort_run

RNG = np.random.default_rng(0)
EMPTY = np.zeros(0, F32)


def floats(*shape):
    return RNG.standard_normal(shape).astype(F32)


def resize(x, scales, op, **attrs):
    """Output of ONNX Resize for these scales, and the kernel's parameters."""
    roi = attrs.pop("roi", None)
    antialias, exclude = attrs.get("antialias", 0), attrs.get("exclude_outside", 0)
    want = onnx_run("Resize", [x, EMPTY if roi is None else np.array(roi, F32), np.array(scales, F32)], opset=19, mode=op, **attrs)
    params = {
        "op": op, "coordinates": attrs.get("coordinate_transformation_mode", "half_pixel"), "scales": tuple(float(F32.type(s)) for s in scales),
        "nearest": attrs.get("nearest_mode", "round_prefer_floor"), "roi": tuple(float(F32.type(v)) for v in roi or ()),
        "cubic_a": attrs.get("cubic_coeff_a", -0.75), "exclude_outside": exclude, "antialias": antialias,
        "extrapolation": attrs.get("extrapolation_value", 0.0),
    }  # fmt: skip
    return want, params


SCALES = [(1.0, 1.0, 2.0, 3.0), (1.0, 1.0, 0.6, 0.5), (1.0, 1.0, 1.7, 0.8), (1.0, 1.0, 0.25, 1.0)]


@pytest.mark.parametrize("op", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("mode", [m for m in COORDINATE_MODES if m not in ("tf_crop_and_resize", "tf_half_pixel_for_nn")])
def test_resize(op, mode):
    symmetric = mode == "half_pixel_symmetric"
    x = floats(2, 1, 4, 6 if symmetric else 7)
    # onnx.reference is off by one pixel where rounding noise surrounds an integer coordinate: keep the symmetric mode away from those.
    for scales in [(1, 1, 2, 3), (1, 1, 0.6, 0.7), (1, 1, 1.7, 0.7)] if symmetric else SCALES:
        for exclude in (0, 1) if op == "cubic" else (0,):
            for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil") if op == "nearest" else ("floor",):
                want, params = resize(x, scales, op, coordinate_transformation_mode=mode, exclude_outside=exclude, nearest_mode=nearest)
                check("resample", [x], want, params, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["linear", "cubic"])
@pytest.mark.parametrize("exclude", [0, 1])
def test_resize_antialias(op, exclude):
    x = floats(1, 2, 9, 11)
    for scales in SCALES:
        want, params = resize(x, scales, op, antialias=1, exclude_outside=exclude, cubic_coeff_a=-0.5)
        check("resample", [x], want, params, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["nearest", "linear", "cubic"])
def test_resize_crop(op):
    x = floats(1, 1, 4, 5)
    for roi in ((0, 0, 0.4, 0.6, 1, 1, 0.9, 0.7), (0, 0, -0.3, 0.2, 1, 1, 1.2, 1.4)):
        want, params = resize(
            x, (1, 1, 0.75, 1.6), op, roi=roi, coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=10.0
        )
        check("resample", [x], want, params, rtol=1e-4, atol=1e-5)


def test_resize_of_integers_and_more_axes():
    x = RNG.integers(0, 255, (1, 1, 3, 4)).astype(U8)
    want, params = resize(x, (1, 1, 2, 2), "nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    check("resample", [x], want, params)
    v = floats(1, 2, 3, 4, 2)
    want, params = resize(v, (1, 1, 2, 0.5, 1.5), "linear")
    check("resample", [v], want, params, rtol=1e-4, atol=1e-5)
    big = np.array([2**31 - 1, -(2**31)], I32)  # nearest copies: no rounding through floats
    nearest = {**params, "op": "nearest", "scales": (2.0,)}
    assert execute("resample", [big], [((4,), I32)], nearest)[0].tolist() == [2**31 - 1] * 2 + [-(2**31)] * 2


@pytest.mark.parametrize("op", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_grid_sample(op, padding, align):
    x = floats(2, 2, 3, 4)
    grid = RNG.uniform(-1.6, 1.6, (2, 4, 3, 2)).astype(F32)
    want = onnx_run("GridSample", [x, grid], opset=20, mode=op, padding_mode=padding, align_corners=align)
    check("grid_sample", [x, grid], want, {"op": op, "padding": padding, "align_corners": align}, rtol=1e-4, atol=1e-5)
    if op != "cubic":
        x, grid = floats(1, 2, 3, 2, 4), RNG.uniform(-1.4, 1.4, (1, 2, 3, 2, 3)).astype(F32)
        want = onnx_run("GridSample", [x, grid], opset=20, mode=op, padding_mode=padding, align_corners=align)
        check("grid_sample", [x, grid], want, {"op": op, "padding": padding, "align_corners": align}, rtol=1e-4, atol=1e-5)


def test_grid_sample_far_away():
    x = floats(1, 1, 3, 1)
    grid = np.array([[[[np.nan, 0], [np.inf, 0], [-np.inf, 1e30], [0, 0]]]], F32)
    y = execute("grid_sample", [x, grid], [((1, 1, 1, 4), F32)], {"op": "linear", "padding": "zeros", "align_corners": 0})[0]
    assert y.reshape(-1)[:3].tolist() == [0, 0, 0] and y[0, 0, 0, 3] == x[0, 0, 1, 0]
    for padding in ("border", "reflection"):
        y = execute("grid_sample", [x, grid], [((1, 1, 1, 4), F32)], {"op": "linear", "padding": padding, "align_corners": 1})[0]
        assert np.isfinite(y).all()


@pytest.mark.parametrize("op", ["avg", "max"])
@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("ratio", [0, 2, 3])
def test_roi_align(op, half, ratio):
    x = floats(2, 3, 8, 9)
    rois = np.concatenate([RNG.uniform(-3, 8, (4, 2)), RNG.uniform(8, 20, (4, 2))], 1).astype(F32)
    rois[3] = [2, 2, 2, 2]
    batches = np.array([0, 1, 1, 0])
    mode = "half_pixel" if half else "output_half_pixel"
    attrs = {"mode": op, "output_height": 2, "output_width": 3, "sampling_ratio": ratio, "spatial_scale": 0.5}
    want = onnx_run("RoiAlign", [x, rois, batches], opset=16, coordinate_transformation_mode=mode, **attrs)
    params = {"op": op, "sampling_ratio": ratio, "spatial_scale": 0.5, "half_pixel": half}
    check("roi_align", [x, rois, batches], want, params, rtol=1e-4, atol=1e-5)
    with pytest.raises(IndexError):
        execute("roi_align", [x, rois, batches + 5], [(want[0].shape, F32)], params)


@pytest.mark.parametrize("group,parts", [(1, 1), (2, 1), (1, 2), (2, 4)])
def test_deform_conv(group, parts):
    for strides, dilations, pads in (((1, 1), (1, 1), (0, 0, 0, 0)), ((2, 1), (1, 2), (1, 2, 1, 0))):
        x, w, b = floats(2, 4, 5, 6), floats(2, 4 // group, 2, 3), floats(2)
        out = [(x.shape[2 + i] + pads[i] + pads[2 + i] - dilations[i] * (w.shape[2 + i] - 1) - 1) // strides[i] + 1 for i in range(2)]
        offset, mask = floats(2, parts * 12, *out), RNG.random((2, parts * 6, *out)).astype(F32)
        attrs = {"strides": strides, "dilations": dilations, "pads": pads, "group": group, "offset_group": parts}
        want = onnx_run("DeformConv", [x, w, offset, b, mask], opset=19, kernel_shape=(2, 3), **attrs)
        check("deform_conv", [x, w, offset, b, mask], want, attrs, rtol=1e-3, atol=1e-4)
        plain = onnx_run("Conv", [x, w, b], strides=strides, dilations=dilations, pads=pads, group=group)
        check("deform_conv", [x, w, np.zeros_like(offset), b, None], plain, attrs, rtol=1e-4, atol=1e-5)


def test_resize_agrees_with_onnxruntime():
    x = floats(1, 2, 6, 5)
    for mode in ("half_pixel", "align_corners", "asymmetric"):
        want = ort_run("Resize", [x, None, None, np.array([1, 2, 9, 4])], opset=19, mode="linear", coordinate_transformation_mode=mode)
        params = {"op": "linear", "coordinates": mode, "scales": (1.0, 1.0, 1.5, 0.8), "nearest": "floor", "roi": ()}
        check("resample", [x], want, params, rtol=1e-4, atol=1e-5)
