"""Convolution and pooling."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dtypes import F32, I32, I64
from ..lowering import expr as e
from ..lowering.tensor import Tensor, size_of
from ..lowering.tracer import Tracer
from .quantize import rescale
from .reduction import reduce_axes
from .registry import op
from .util import wants

Pads = tuple[int, ...]


def window(
    t: Tracer, spatial: tuple[int, ...], kernel: tuple[int, ...], strides: Any, pads: Any, dilations: Any, auto_pad: str, ceil_mode: int = 0
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """The window parameters with explicit pads, and the output's spatial shape (ONNX Conv-11 and MaxPool-12 formulas)."""
    n = len(spatial)
    if len(kernel) != n:
        t.fail(f"kernel_shape {list(kernel)} does not fit {n} spatial axes")
    s = tuple(strides) if strides else (1,) * n
    d = tuple(dilations) if dilations else (1,) * n
    p = tuple(pads) if pads else (0,) * (2 * n)
    begins, ends, out = list(p[:n]), list(p[n:]), []
    for i in range(n):
        reach = (kernel[i] - 1) * d[i] + 1
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            o = (spatial[i] + s[i] - 1) // s[i]
            total = (o - 1) * s[i] + reach - spatial[i]
            total = 0 if total < 0 else total
            small = total // 2
            begins[i], ends[i] = (small, total - small) if auto_pad == "SAME_UPPER" else (total - small, small)
        else:
            if auto_pad == "VALID":
                begins[i] = ends[i] = 0
            free = spatial[i] + begins[i] + ends[i] - reach
            if free < 0:
                t.fail(
                    f"the window ({reach} along spatial axis {i}) is larger than the padded input ({int(spatial[i] + begins[i] + ends[i])})"
                )
            o = (free + s[i] - 1) // s[i] + 1 if ceil_mode else free // s[i] + 1
            if ceil_mode and (o - 1) * s[i] >= spatial[i] + begins[i]:  # a window may not start in the trailing pad
                o = o - 1
        out.append(o)
    return {"strides": s, "dilations": d, "pads": (*begins, *ends)}, tuple(out)


@op("Conv")
def conv(
    t: Tracer, x: Tensor, w: Tensor, b: Tensor | None = None, *, kernel_shape: Any = None, strides: Any = None, pads: Any = None, dilations: Any = None,
    group: int = 1, auto_pad: str = "NOTSET",
) -> Tensor:  # fmt: skip
    check_conv(t, x, w, group)
    params, out = window(t, x.shape[2:], w.shape[2:], strides, pads, dilations, auto_pad)
    return record_conv(t, [x, w, b], params, out, group, x.dtype)


def record_conv(t: Tracer, ins: list[Tensor | None], params: dict[str, Any], out: tuple[int, ...], group: int, dtype: Any) -> Tensor:
    """A conv launch without the taps that no output reaches the input with, and without the spatial axes on which nothing happens (size, kernel
    and output 1): a 1-d convolution spelled as 2-d is one."""
    x, w = ins[0], ins[1]
    assert x is not None and w is not None
    n = x.ndim - 2
    w, params = reaching_taps(x.shape[2:], w, params, out)
    idle = [
        i
        for i in range(n)
        if x.shape[2 + i] == 1 and w.shape[2 + i] == 1 and out[i] == 1 and not params["pads"][i] and not params["pads"][n + i]
    ]
    if len(idle) == n:
        idle = idle[1:]
    for i in reversed(idle):
        x, w = x.squeeze(2 + i), w.squeeze(2 + i)
    keep = [i for i in range(n) if i not in idle]
    kept = {
        "strides": tuple(params["strides"][i] for i in keep), "dilations": tuple(params["dilations"][i] for i in keep),
        "pads": tuple(params["pads"][i] for i in (*keep, *(n + i for i in keep))), "group": group,
    }  # fmt: skip
    y = t.record("conv", [x, w, *ins[2:]], [((x.shape[0], w.shape[0], *(out[i] for i in keep)), dtype)], kept)[0]
    for i in idle:
        y = y.unsqueeze(2 + i)
    return y


def reaches(at: int, stride: int, size: int, outputs: int) -> bool:
    """Whether a tap meets the input at any output of an axis, if it does so at `at` (negative: in the padding) for output 0."""
    first = 0 if at >= 0 else (stride - 1 - at) // stride
    return bool(first < outputs and first * stride + at < size)


def reaching_taps(spatial: tuple[int, ...], w: Tensor, params: dict[str, Any], out: tuple[int, ...]) -> tuple[Tensor, dict[str, Any]]:
    """w without the first and last taps of each axis that meet nothing but padding, and the parameters that go with it: a 3x3 window on an image
    of one pixel has one tap."""
    n = len(spatial)
    begins, ends = list(params["pads"][:n]), list(params["pads"][n:])
    for i in range(n):
        stride, step, taps = params["strides"][i], params["dilations"][i], w.shape[2 + i]
        begin, end = begins[i], ends[i]
        first, last = 0, taps - 1
        while first < last and begin >= step and not reaches(first * step - begins[i], stride, spatial[i], out[i]):
            first, begin = first + 1, begin - step
        while first < last and end >= step and not reaches(last * step - begins[i], stride, spatial[i], out[i]):
            last, end = last - 1, end - step
        if last - first + 1 < taps:
            w = w.slice(2 + i, first, last - first + 1)
            begins[i], ends[i] = begin, end
    return w, {**params, "pads": (*begins, *ends)}


def check_conv(t: Tracer, x: Tensor, w: Tensor, group: int) -> None:
    if x.ndim < 3 or w.ndim != x.ndim:
        t.fail(f"expected x [N, C, spatial...] and w of the same rank, got ranks {x.ndim} and {w.ndim}")
    if x.shape[1] != w.shape[1] * group or w.shape[0] % group != 0:
        t.fail(f"{int(x.shape[1])} input channels do not fit w {list(map(int, w.shape))} with group {group}")


@op("ConvInteger", since=10)
def conv_integer(
    t: Tracer, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None, *, kernel_shape: Any = None, strides: Any = None,
    pads: Any = None, dilations: Any = None, group: int = 1, auto_pad: str = "NOTSET",
) -> Tensor:  # fmt: skip
    check_conv(t, x, w, group)
    params, out = window(t, x.shape[2:], w.shape[2:], strides, pads, dilations, auto_pad)
    scalar: Any = lambda z: t.reshape(z, ()) if z is not None and z.size == 1 else z
    return record_conv(t, [x, w, None, scalar(x_zero), scalar(w_zero)], params, out, group, I32)


@op("QLinearConv", since=10)
def qlinear_conv(
    t: Tracer, x: Tensor, x_scale: Tensor, x_zero: Tensor, w: Tensor, w_scale: Tensor, w_zero: Tensor, y_scale: Tensor, y_zero: Tensor,
    b: Tensor | None = None, **attrs: Any,
) -> Tensor:  # fmt: skip
    acc = conv_integer(t, x, w, x_zero, w_zero, **attrs)
    trailing = (1,) * (x.ndim - 2)
    scale = t.map(
        lambda p, q, r: p * q / r, t.reshape(x_scale, ()), w_scale if w_scale.size != 1 else t.reshape(w_scale, ()), t.reshape(y_scale, ())
    )
    if scale.ndim == 1:
        scale = t.reshape(scale, (scale.shape[0], *trailing))
    if b is not None:
        acc = t.map(lambda v, o: v + o, acc, t.reshape(b, (b.shape[0], *trailing)))
    return rescale(t, acc, scale, t.reshape(y_zero, ()), y_zero.dtype)


@op("ConvTranspose")
def conv_transpose(
    t: Tracer, x: Tensor, w: Tensor, b: Tensor | None = None, *, kernel_shape: Any = None, strides: Any = None, pads: Any = None, dilations: Any = None,
    output_padding: Any = None, output_shape: Any = None, group: int = 1, auto_pad: str = "NOTSET",
) -> Tensor:  # fmt: skip
    n = x.ndim - 2
    if x.shape[1] != w.shape[0] or x.shape[1] % group != 0:
        t.fail(f"{int(x.shape[1])} input channels do not fit w {list(map(int, w.shape))} with group {group}")
    s = tuple(strides) if strides else (1,) * n
    d = tuple(dilations) if dilations else (1,) * n
    extra = tuple(output_padding) if output_padding else (0,) * n
    begins, ends = (list(pads[:n]), list(pads[n:])) if pads else ([0] * n, [0] * n)
    full = [s[i] * (x.shape[2 + i] - 1) + extra[i] + (w.shape[2 + i] - 1) * d[i] + 1 for i in range(n)]
    if output_shape is not None or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        out = list(output_shape)[-n:] if output_shape is not None else [x.shape[2 + i] * s[i] for i in range(n)]
        for i in range(n):
            total = full[i] - out[i]
            total = 0 if total < 0 else total
            small = total // 2
            begins[i], ends[i] = (small, total - small) if auto_pad == "SAME_UPPER" else (total - small, small)
    else:
        out = [full[i] - begins[i] - ends[i] for i in range(n)]
    params = {"strides": s, "dilations": d, "pads": (*begins, *ends), "group": group}
    return t.record("conv_transpose", [x, w, b], [((x.shape[0], w.shape[1] * group, *out), x.dtype)], params)[0]


@op("DeformConv", since=19)
def deform_conv(
    t: Tracer, x: Tensor, w: Tensor, offset: Tensor, b: Tensor | None = None, mask: Tensor | None = None, *, kernel_shape: Any = None,
    strides: Any = None, pads: Any = None, dilations: Any = None, group: int = 1, offset_group: int = 1,
) -> Tensor:  # fmt: skip
    params, out = window(t, x.shape[2:], w.shape[2:], strides, pads, dilations, "NOTSET")
    params |= {"group": group, "offset_group": offset_group}
    return t.record("deform_conv", [x, w, offset, b, mask], [((x.shape[0], w.shape[0], *out), x.dtype)], params)[0]


@op("MaxPool")
def max_pool(
    t: Tracer, x: Tensor, *, kernel_shape: Any, strides: Any = None, pads: Any = None, dilations: Any = None, auto_pad: str = "NOTSET", ceil_mode: int = 0,
    storage_order: int = 0,
) -> Any:  # fmt: skip
    params, out = window(t, x.shape[2:], tuple(kernel_shape), strides, pads, dilations, auto_pad, ceil_mode)
    params |= {"op": "max", "kernel": tuple(kernel_shape), "storage_order": storage_order}
    shape = (*x.shape[:2], *out)
    return t.record("pool", [x], [(shape, x.dtype), (shape, I64) if wants(t, 1) else None], params)


@op("AveragePool")
def average_pool(
    t: Tracer, x: Tensor, *, kernel_shape: Any, strides: Any = None, pads: Any = None, dilations: Any = None, auto_pad: str = "NOTSET", ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Tensor:  # fmt: skip
    params, out = window(t, x.shape[2:], tuple(kernel_shape), strides, pads, dilations, auto_pad, ceil_mode)
    params |= {"op": "average", "kernel": tuple(kernel_shape), "count_include_pad": count_include_pad}
    return t.record("pool", [x], [((*x.shape[:2], *out), x.dtype), None], params)[0]


@op("LpPool")
def lp_pool(
    t: Tracer, x: Tensor, *, kernel_shape: Any, strides: Any = None, pads: Any = None, dilations: Any = None, auto_pad: str = "NOTSET", ceil_mode: int = 0,
    p: float = 2,
) -> Tensor:  # fmt: skip
    params, out = window(t, x.shape[2:], tuple(kernel_shape), strides, pads, dilations, auto_pad, ceil_mode)
    params |= {"op": "lp", "kernel": tuple(kernel_shape), "p": int(p)}
    return t.record("pool", [x], [((*x.shape[:2], *out), x.dtype), None], params)[0]


@op("GlobalAveragePool", "GlobalMaxPool")
def global_pool(t: Tracer, x: Tensor) -> Tensor:
    return reduce_axes(t, x, "mean" if t.node.op_type == "GlobalAveragePool" else "max", tuple(range(2, x.ndim)), True)


@op("GlobalLpPool")
def global_lp_pool(t: Tracer, x: Tensor, *, p: float = 2) -> Tensor:
    params = {
        "op": "lp",
        "kernel": x.shape[2:],
        "p": int(p),
        "strides": (1,) * (x.ndim - 2),
        "dilations": (1,) * (x.ndim - 2),
        "pads": (0,) * (2 * x.ndim - 4),
    }
    return t.record("pool", [x], [((*x.shape[:2], *(1,) * (x.ndim - 2)), x.dtype), None], params)[0]


@op("MaxUnpool")
def max_unpool(
    t: Tracer, x: Tensor, indices: Tensor, shape_in: Tensor | None = None, *, kernel_shape: Any, strides: Any = None, pads: Any = None
) -> Tensor:
    n = x.ndim - 2
    s = tuple(strides) if strides else (1,) * n
    p = tuple(pads) if pads else (0,) * (2 * n)
    inferred = (*x.shape[:2], *[(x.shape[2 + i] - 1) * s[i] - p[i] - p[n + i] + kernel_shape[i] for i in range(n)])
    shape = t.ints(shape_in) if shape_in is not None else inferred
    return t.record("max_unpool", [x, indices], [(tuple(shape), x.dtype)], {"reference_shape": inferred})[0]


@op("Col2Im", since=18)
def col2im(
    t: Tracer, x: Tensor, image_in: Tensor, block_in: Tensor, *, strides: Any = None, pads: Any = None, dilations: Any = None
) -> Tensor:
    image, block = t.ints(image_in), t.ints(block_in)
    n = len(image)
    params = {
        "kernel": block, "strides": tuple(strides) if strides else (1,) * n, "dilations": tuple(dilations) if dilations else (1,) * n,
        "pads": tuple(pads) if pads else (0,) * (2 * n),
    }  # fmt: skip
    return t.record("col2im", [x], [((x.shape[0], x.shape[1] // size_of(block), *image), x.dtype)], params)[0]


@op("Resize")
def resize(
    t: Tracer, x: Tensor, roi_in: Tensor | None = None, scales_in: Tensor | None = None, sizes_in: Tensor | None = None, *, mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel", nearest_mode: str = "round_prefer_floor", cubic_coeff_a: float = -0.75, exclude_outside: int = 0,
    extrapolation_value: float = 0.0, antialias: int = 0, axes: Any = None, keep_aspect_ratio_policy: str = "stretch", scales: Any = None,
) -> Tensor:  # fmt: skip
    if t.node.opset < 11:  # opset 10: (x, scales), asymmetric with floor
        roi_in, scales_in, coordinate_transformation_mode, nearest_mode = None, roi_in, "asymmetric", "floor"
    chosen = tuple(a + x.ndim if a < 0 else a for a in axes) if axes is not None else tuple(range(x.ndim))
    sc: list[float] = [1.0] * x.ndim
    out = list(x.shape)
    if scales_in is not None and scales_in.size != 0:
        for a, s in zip(chosen, t.floats(scales_in)):
            sc[a] = s
            out[a] = x.shape[a] * int(s) if s == int(s) else int(np.floor(float(x.shape[a]) * np.float32(s)))
    elif sizes_in is not None:
        sizes = dict(zip(chosen, t.ints(sizes_in)))
        if keep_aspect_ratio_policy != "stretch":
            pick = min if keep_aspect_ratio_policy == "not_larger" else max
            s = pick(float(sizes[a]) / float(x.shape[a]) for a in chosen)
            sizes = {a: int(np.floor(s * float(x.shape[a]) + 0.5)) for a in chosen}
            for a in chosen:
                sc[a], out[a] = s, sizes[a]
        else:
            for a in chosen:
                sc[a], out[a] = float(sizes[a]) / float(x.shape[a]), sizes[a]
    else:
        t.fail("either scales or sizes must be given")
    roi = [0.0] * x.ndim + [1.0] * x.ndim
    if coordinate_transformation_mode == "tf_crop_and_resize":
        if roi_in is None:
            t.fail("tf_crop_and_resize needs roi")
        r = t.floats(roi_in)
        for i, a in enumerate(chosen):
            roi[a], roi[x.ndim + a] = r[i], r[len(chosen) + i]
    elif tuple(out) == x.shape and all(s == 1.0 for s in sc):
        return x
    if (
        mode == "nearest"
        and coordinate_transformation_mode == "asymmetric"
        and nearest_mode == "floor"
        and all(s == int(s) and s >= 1 for s in sc)
    ):
        return repeat(t, x, [int(s) for s in sc])
    params = {
        "op": mode.removeprefix("bi"), "coordinates": coordinate_transformation_mode, "nearest": nearest_mode, "scales": sc, "roi": roi,
        "cubic_a": cubic_coeff_a, "exclude_outside": exclude_outside, "extrapolation": extrapolation_value, "antialias": antialias,
    }  # fmt: skip
    return t.record("resample", [x], [(tuple(out), x.dtype)], params)[0]


def repeat(t: Tracer, x: Tensor, times: list[int]) -> Tensor:
    """Each element repeated `times` along each axis: a broadcast view and a copy that fuses."""
    y = x
    big: list[int] = []
    for i, (n, k) in enumerate(zip(x.shape, times)):
        y = y.unsqueeze(2 * i + 1)
        big += [n, k]
    return t.reshape(y.expand(tuple(big)), tuple(n * k for n, k in zip(x.shape, times)))


@op("Upsample")
def upsample(
    t: Tracer,
    x: Tensor,
    scales_in: Tensor | None = None,
    *,
    mode: str = "nearest",
    scales: Any = None,
    width_scale: float = 1.0,
    height_scale: float = 1.0,
) -> Tensor:
    if scales_in is not None:
        sc = list(t.floats(scales_in))
    else:
        sc = list(scales) if scales is not None else [1.0, 1.0, height_scale, width_scale]
    out = tuple(int(np.floor(float(n) * s)) for n, s in zip(x.shape, sc))
    if mode == "nearest" and all(s == int(s) for s in sc):
        return repeat(t, x, [int(s) for s in sc])
    params = {"op": mode.removeprefix("bi"), "coordinates": "asymmetric", "nearest": "floor", "scales": sc, "roi": []}
    return t.record("resample", [x], [(out, x.dtype)], params)[0]


@op("GridSample", since=16)
def grid_sample(t: Tracer, x: Tensor, grid: Tensor, *, mode: str = "linear", padding_mode: str = "zeros", align_corners: int = 0) -> Tensor:
    params = {"op": mode.removeprefix("bi"), "padding": padding_mode, "align_corners": align_corners}
    return t.record("grid_sample", [x, grid], [((*x.shape[:2], *grid.shape[1:-1]), x.dtype)], params)[0]


@op("AffineGrid", since=20)
def affine_grid(t: Tracer, theta: Tensor, size: Tensor, *, align_corners: int = 0) -> Tensor:
    """[N, *spatial, d]: the places that theta [N, d, d + 1] moves the centres of pixels to; [-1, 1] spans the image, or the outermost centres.

    A rule of its own, for the specification's body squeezes a batch of one away. One centre alone is in the middle.
    """
    spatial = t.ints(size)[2:]
    d = len(spatial)
    if theta.shape[1:] != (d, d + 1):
        t.fail(f"theta must be [N, {d}, {d + 1}] for {d} spatial axes, not {list(theta.shape)}")
    n = theta.shape[0]
    if size_of((n, *spatial)) == 0:
        return t.const(np.empty((n, *spatial, d), theta.dtype))
    acc = theta.dtype if theta.dtype.itemsize >= 4 else F32

    def centres(m: int) -> Tensor:
        if m == 1:
            return t.const(np.zeros(1, acc))
        between = m - 1 if align_corners else m
        odd = t.map(lambda i: i * 2 + (1 - m), t.iota(m))
        return t.map(lambda i: e.cast(i, acc) / between, odd)

    def column(k: int) -> Tensor:
        return t.reshape(theta.slice(2, k, 1), (n, *(1,) * d, d))

    # What an axis contributes is a small table. The first one holds the offsets, too.
    total = column(d)
    for k, m in enumerate(reversed(spatial)):
        moved = t.map(lambda x, c: e.cast(c, acc) * x, t.reshape(centres(m), (m, *(1,) * (k + 1))), column(k))
        total = t.map(lambda x, sums: x + e.cast(sums, acc), moved, total)
    return t.cast(total, theta.dtype)


@op("RoiAlign", since=10)
def roi_align(
    t: Tracer, x: Tensor, rois: Tensor, batch: Tensor, *, mode: str = "avg", output_height: int = 1, output_width: int = 1, sampling_ratio: int = 0,
    spatial_scale: float = 1.0, coordinate_transformation_mode: str | None = None,
) -> Tensor:  # fmt: skip
    half = coordinate_transformation_mode == "half_pixel" or (coordinate_transformation_mode is None and t.node.opset >= 16)
    params = {"op": mode, "sampling_ratio": sampling_ratio, "spatial_scale": float(spatial_scale), "half_pixel": int(half)}
    return t.record("roi_align", [x, rois, batch], [((rois.shape[0], x.shape[1], output_height, output_width), x.dtype)], params)[0]
