"""resample, grid_sample, roi_align and deform_conv: reading between the elements."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...dtypes import F64, I64
from .common import Array, Out, Params, Program, optional, out_spec, required, result, wide
from .convolution import window_params
from .indexing import checked


def resample(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x = required(ins[0])
    shape, dtype = out_spec(outs)
    y = x if params["op"] == "nearest" else wide(x).astype(F64)
    outside = np.zeros([1] * x.ndim, np.bool_)
    roi = params.get("roi") or ()
    with np.errstate(all="ignore"):
        for axis in range(x.ndim):
            crop = params["coordinates"] == "tf_crop_and_resize"
            if (
                params["scales"][axis] == 1.0
                and x.shape[axis] == shape[axis]
                and not (crop and (roi[axis], roi[x.ndim + axis]) != (0.0, 1.0))
            ):
                continue
            at = _coordinates(params, axis, x.shape[axis], shape[axis], x.ndim)
            if crop:
                bad = (at < 0) | (at > x.shape[axis] - 1)
                outside = outside | bad.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
            y = _resample_axis(y, axis, at, params)
        if outside.any():
            y = np.where(outside, np.asarray(params.get("extrapolation", 0.0)).astype(y.dtype), y)
        return [result(np.broadcast_to(y, shape), (shape, dtype))]


def _coordinates(params: Params, axis: int, n: int, n_out: int, rank: int) -> Array:
    """Where each output element lies in the input. The resized length in the formulas is scale * n, which need not be the integer n_out."""
    mode, scale = params["coordinates"], params["scales"][axis]
    i = np.arange(n_out, dtype=F64)
    length = scale * n
    if mode == "half_pixel":
        at = (i + 0.5) / scale - 0.5
    elif mode == "half_pixel_symmetric":
        at = n / 2 * (1 - n_out / length) + (i + 0.5) / scale - 0.5
    elif mode == "pytorch_half_pixel":
        at = (i + 0.5) / scale - 0.5 if length != 1 else np.full(n_out, -0.5)
    elif mode == "align_corners":
        at = i * (n - 1) / (length - 1) if length != 1 else np.zeros(n_out)
    elif mode == "asymmetric":
        at = i / scale
    elif mode == "tf_half_pixel_for_nn":
        at = (i + 0.5) / scale
    else:
        start, end = params["roi"][axis], params["roi"][rank + axis]
        span = (end - start) * (n - 1)
        at = start * (n - 1) + (np.full(n_out, span / 2) if length == 1 else i * span / (length - 1))
    return np.asarray(at)


def _resample_axis(x: Array, axis: int, at: Array, params: Params) -> Array:
    n = x.shape[axis]
    if params["op"] == "nearest":
        rounding: dict[str, Callable[[Array], Array]] = {
            "round_prefer_floor": lambda v: np.ceil(v - 0.5), "round_prefer_ceil": lambda v: np.floor(v + 0.5),
            "floor": np.floor, "ceil": np.ceil,
        }  # fmt: skip
        return np.take(x, np.clip(rounding[params["nearest"]](at), 0, n - 1).astype(I64), axis)
    linear = params["op"] == "linear"
    scale = min(params["scales"][axis], 1.0) if params.get("antialias", 0) else 1.0
    left = np.ceil(at) - 1  # the neighbour strictly to the left
    first = int(np.floor((-1.0 if linear else -2.0) / scale)) + 1
    offsets = np.arange(first, 2 - first)
    distance = (offsets - (at - left)[:, None]) * scale
    weights = np.clip(1.0 - np.abs(distance), 0.0, 1.0) if linear else cubic(distance, params.get("cubic_a", -0.75))
    if params.get("antialias", 0):
        weights = weights / weights.sum(axis=1, keepdims=True)
    index = left.astype(I64)[:, None] + offsets
    if params.get("exclude_outside", 0):
        weights = np.where((index < 0) | (index >= n), 0.0, weights)
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / np.where(total == 0, 1.0, total)
    taken = np.take(x, np.clip(index, 0, n - 1), axis)
    tail = [1] * (x.ndim - axis - 1)
    return np.asarray((taken * weights.reshape([*weights.shape, *tail])).sum(axis=axis + 1))


def cubic(distance: Array, a: float) -> Array:
    """Keys' cubic convolution kernel."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


Pixel = Callable[[Array, int], "tuple[Array, Array | None]"]


def interpolate(x: Array, at: Array, op: str, pixel: Pixel) -> Array:
    """Sample x [B, C, d...] at `at` [B, o..., spatial] (in elements): [B, C, o...].

    `pixel(index, axis)` maps integer positions to positions inside x, and says which of them exist (None: all; the others read as 0).
    """
    spatial = at.shape[-1]
    floor = np.floor(at)
    batch = np.arange(x.shape[0]).reshape([-1] + [1] * (at.ndim - 2))
    offsets = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}[op]
    if op == "nearest":
        floor = np.rint(at)
    y = np.zeros((*at.shape[:-1], x.shape[1]))
    for corner in itertools.product(offsets, repeat=spatial):
        weight = np.ones(at.shape[:-1])
        index: list[Any] = [batch, slice(None)]
        for axis, o in enumerate(corner):
            p = floor[..., axis] + o
            weight = weight * _weight(p - at[..., axis], op)
            i, inside = pixel(p, axis)
            index.append(i)
            if inside is not None:
                weight = np.where(inside, weight, 0.0)
        values = x[tuple(index)]
        y += np.where(weight[..., None] == 0, 0.0, values * weight[..., None])
    return np.moveaxis(y, -1, 1)


def _weight(distance: Array, op: str) -> Array:
    if op == "nearest":
        return np.ones_like(distance)
    return 1.0 - np.abs(distance) if op == "linear" else cubic(distance, -0.75)


def grid_sample(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x, grid = wide(required(ins[0])).astype(F64), wide(required(ins[1]))
    sizes = np.array(x.shape[2:], F64)
    align, padding, op = params.get("align_corners", 0), params["padding"], params["op"]
    low, high = (np.zeros_like(sizes), sizes - 1) if align else (np.full_like(sizes, -0.5), sizes - 0.5)
    at = np.clip(np.where(np.isnan(grid), -1e6, grid), -1e6, 1e6)  # keeps positions in the range of integers
    at = np.flip(at, -1)  # the grid names the last axis first
    at = (at + 1) / 2 * (sizes - 1) if align else ((at + 1) * sizes - 1) / 2
    if op == "nearest":
        at = np.rint(at)
    beyond = (at < low) | (at > high)
    if padding == "border":
        at = np.where(beyond, np.clip(at, 0, sizes - 1), at)
    elif padding == "reflection":
        at = np.where(beyond, _reflect(at, low, high), at)

    def pixel(p: Array, axis: int) -> tuple[Array, Array | None]:
        n = x.shape[2 + axis]
        if padding == "reflection":
            p = np.where((p < low[axis]) | (p > high[axis]), np.trunc(_reflect(p, low[axis], high[axis])), p)
        inside = (p >= 0) & (p < n) if padding == "zeros" else None
        return np.clip(p, 0, n - 1).astype(I64), inside

    with np.errstate(all="ignore"):
        return [result(interpolate(x, at, op, pixel), out_spec(outs))]


def _reflect(p: Array, low: Array, high: Array) -> Array:
    """Mirror at both borders until inside."""
    span = high - low
    span = np.where(span == 0, 1.0, span)
    d = np.abs(p - low) % (2 * span)
    return np.where(high == low, low, low + np.minimum(d, 2 * span - d))


def roi_align(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x, rois = wide(required(ins[0])).astype(F64), wide(required(ins[1]))
    batches = checked(required(ins[2]), x.shape[0], "batch index")
    (shape, dtype), half = out_spec(outs), params.get("half_pixel", 1)
    y = np.zeros(shape)
    with np.errstate(all="ignore"):
        for r in range(rois.shape[0]):
            box = rois[r] * params.get("spatial_scale", 1.0) - (0.5 if half else 0.0)
            axes = []
            for start, end, n_bins, size in ((box[1], box[3], shape[2], x.shape[2]), (box[0], box[2], shape[3], x.shape[3])):
                length = end - start if half else max(end - start, 1.0)
                ratio = params.get("sampling_ratio", 0)
                grid = ratio if ratio > 0 else max(int(np.ceil(length / n_bins)), 0)
                at = start + (np.arange(n_bins)[:, None] + (np.arange(grid) + 0.5) / max(grid, 1)) * length / n_bins  # [bins, grid]
                axes.append(_roi_axis(at, size))
            (y0, y1, wy0, wy1), (x0, x1, wx0, wx1) = axes
            plane = x[batches[r]]
            terms = [
                plane[:, iy[:, :, None, None], ix] * (wy[:, :, None, None] * wx)  # [C, bins_h, grid_h, bins_w, grid_w]
                for iy, wy in ((y0, wy0), (y1, wy1))
                for ix, wx in ((x0, wx0), (x1, wx1))
            ]
            if terms[0].size == 0:
                continue
            if params["op"] == "avg":
                y[r] = np.sum(terms, axis=0).mean(axis=(2, 4))
            else:  # of the four weighted corners, not of their sum: so is the operator defined
                y[r] = np.max(terms, axis=0).max(axis=(2, 4))
    return [result(y, (shape, dtype))]


def _roi_axis(at: Array, size: int) -> tuple[Array, Array, Array, Array]:
    """Both neighbours of each sample and their weights, 0 for samples outside."""
    outside = (at < -1.0) | (at > size)
    at = np.clip(at, 0.0, None)
    low = np.minimum(np.trunc(np.where(outside, 0.0, at)), size - 1)
    high = np.minimum(low + 1, size - 1)
    part = np.where(low >= size - 1, 0.0, at - low)
    one, two = np.where(outside, 0.0, 1.0 - part), np.where(outside, 0.0, part)
    return low.astype(I64), high.astype(I64), one, two


def deform_conv(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x, w, offset = (wide(required(v)) for v in ins[:3])
    b, mask = optional(ins, 3), optional(ins, 4)
    shape, dtype = out_spec(outs)
    kernel, out = w.shape[2:], tuple(shape[2:])
    spatial, groups, parts = len(kernel), params.get("group", 1), params.get("offset_group", 1)
    strides, dilations, pads = window_params(params, spatial)
    n, c, m = x.shape[0], x.shape[1], w.shape[0]
    offset = offset.reshape(n * parts, *kernel, spatial, *out)
    at = np.moveaxis(offset, 1 + spatial, -1).copy()  # [N*parts, k..., o..., spatial]
    for axis in range(spatial):
        base = np.arange(kernel[axis]) * dilations[axis] - pads[axis]
        step = np.arange(out[axis]) * strides[axis]
        at[..., axis] += base.reshape([-1 if i == axis else 1 for i in range(2 * spatial)])
        at[..., axis] += step.reshape([-1 if i == spatial + axis else 1 for i in range(2 * spatial)])
    at = np.clip(np.where(np.isnan(at), -2.0, at), -1e9, 1e9)

    def pixel(p: Array, axis: int) -> tuple[Array, Array | None]:
        size = x.shape[2 + axis]
        return np.clip(p, 0, size - 1).astype(I64), (p >= 0) & (p < size)

    with np.errstate(all="ignore"):
        cols = interpolate(x.reshape(n * parts, c // parts, *x.shape[2:]), at, "linear", pixel)  # [N*parts, C/parts, k..., o...]
        if mask is not None:
            cols = cols * wide(mask).reshape(n * parts, 1, *kernel, *out)
        cols = cols.reshape(n, groups, w[0].size, -1)
        y = np.matmul(w.reshape(groups, m // groups, w[0].size), cols).reshape(shape)
        if b is not None:
            y = y + wide(b).reshape([-1] + [1] * spatial)
    return [result(y, (shape, dtype))]
