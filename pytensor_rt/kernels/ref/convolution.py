"""conv, conv_transpose and col2im; windows over padded arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ...dtypes import is_float
from .common import Array, Out, Params, Program, optional, out_spec, required, result, wide
from .linear import exact_matmul, shifted


def window_params(params: Params, spatial: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """strides, dilations and pads, with ONNX's defaults."""
    ones = (1,) * spatial
    return (
        tuple(params.get("strides") or ones),
        tuple(params.get("dilations") or ones),
        tuple(params.get("pads") or (0,) * (2 * spatial)),
    )


def windows(x: Array, kernel: Sequence[int], params: Params, out: Sequence[int], fill: float | int) -> Array:
    """[N, C, o..., k...]: the elements of x under each window, `fill` outside of x. Only the sizes `out` decide where the end padding stops."""
    spatial = len(kernel)
    strides, dilations, pads = window_params(params, spatial)
    if 0 in out:
        return np.empty((*x.shape[:2], *out, *kernel), x.dtype)
    widths = [(0, 0), (0, 0)]
    crop = [slice(None), slice(None)]
    for i in range(spatial):
        need = (out[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1
        begin, end = pads[i], need - x.shape[2 + i] - pads[i]
        widths.append((max(begin, 0), max(end, 0)))
        crop.append(slice(max(-begin, 0), None if end >= 0 else end))
    x = np.pad(x, widths, constant_values=fill)[tuple(crop)]
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations)]
    view = sliding_window_view(x, spans, axis=tuple(range(2, 2 + spatial)))
    steps = (slice(None), slice(None), *(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))
    return np.asarray(view[steps])


def conv(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x, w, b = required(ins[0]), required(ins[1]), optional(ins, 2)
    shape, _ = out_spec(outs)
    floating = is_float(x.dtype)
    if floating:
        x, w = wide(x), wide(w)
    else:  # after the shift the padding is 0 whatever x_zero is
        w_zero = optional(ins, 4)
        if w_zero is not None and w_zero.ndim:
            w_zero = w_zero.reshape([-1] + [1] * (w.ndim - 1))
        x, w = shifted(x, optional(ins, 3)), shifted(w, w_zero)
    with np.errstate(all="ignore"):
        y = _conv(x, w, params, shape[2:], floating)
        if b is not None:
            y = y + wide(b).reshape([-1] + [1] * (x.ndim - 2))
    return [result(y, out_spec(outs))]


def _conv(x: Array, w: Array, params: Params, out: Sequence[int], floating: bool) -> Array:
    n, m, group = x.shape[0], w.shape[0], params.get("group", 1)
    size = int(np.prod(out, dtype=np.int64))
    cols = windows(x, w.shape[2:], params, out, 0)
    spatial = len(out)
    order = [0, *range(2, 2 + spatial), 1, *range(2 + spatial, 2 + 2 * spatial)]
    cols = cols.transpose(order).reshape(n * size, group, w[0].size).swapaxes(0, 1)  # [group, N*o, C/group*k]
    flat = w.reshape(group, m // group, w[0].size).swapaxes(1, 2)
    y = np.matmul(cols, flat) if floating else exact_matmul(cols, flat)
    return np.asarray(y.reshape(group, n, size, m // group).transpose(1, 0, 3, 2).reshape((n, m, *out)))


def scatter_windows(cols: Array, params: Params, out: Sequence[int]) -> Array:
    """The transpose of `windows`: cols [N, C, i..., k...] added into [N, C, out...]."""
    spatial = len(out)
    kernel, sizes = cols.shape[2 + spatial :], cols.shape[2 : 2 + spatial]
    strides, dilations, pads = window_params(params, spatial)
    full = [max(0, pads[i]) + max(out[i], (sizes[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1) for i in range(spatial)]
    y = np.zeros((*cols.shape[:2], *full), cols.dtype)
    if cols.size:
        for k in np.ndindex(*kernel):
            starts = [k[i] * dilations[i] for i in range(spatial)]
            at = tuple([slice(starts[i], starts[i] + (sizes[i] - 1) * strides[i] + 1, strides[i]) for i in range(spatial)])
            here, tile = (slice(None), slice(None), *at), (Ellipsis, *k)
            y[here] += cols[tile]
    inside = (slice(None), slice(None), *[slice(pads[i], pads[i] + out[i]) for i in range(spatial)])
    return np.asarray(y[inside])


def conv_transpose(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x, w, b = wide(required(ins[0])), wide(required(ins[1])), optional(ins, 2)
    shape, _ = out_spec(outs)
    group, spatial = params.get("group", 1), x.ndim - 2
    n, c, m = x.shape[0], x.shape[1], w.shape[1]
    size = int(np.prod(x.shape[2:], dtype=np.int64))
    rows = x.reshape(n, group, c // group, size).swapaxes(2, 3)  # [N, group, i, C/group]
    with np.errstate(all="ignore"):
        cols = np.matmul(rows, w.reshape(group, c // group, w[0].size))  # [N, group, i, M/group * k]
        cols = cols.reshape(n, group, size, m, -1).transpose(0, 1, 3, 2, 4).reshape(n, group * m, *x.shape[2:], *w.shape[2:])
        y = scatter_windows(cols, params, shape[2:])
        if b is not None:
            y = y + wide(b).reshape([-1] + [1] * spatial)
    return [result(y, out_spec(outs))]


def col2im(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x = wide(required(ins[0]))
    shape, _ = out_spec(outs)
    kernel, spatial = tuple(params["kernel"]), len(params["kernel"])
    strides, dilations, pads = window_params(params, spatial)
    blocks = [(shape[2 + i] + pads[i] + pads[spatial + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(spatial)]
    cols = x.reshape(x.shape[0], -1 if x.size else shape[1], *kernel, *blocks)
    order = [0, 1, *range(2 + spatial, 2 + 2 * spatial), *range(2, 2 + spatial)]
    return [result(scatter_windows(cols.transpose(order), params, shape[2:]), out_spec(outs))]
