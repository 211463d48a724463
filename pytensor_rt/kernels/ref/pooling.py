"""pool: max with indices, average and Lp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...dtypes import BOOL, I64, is_float
from .common import Array, Out, Params, Program, int_range, out_spec, required, result, wide
from .convolution import window_params, windows


def pool(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x = required(ins[0])
    kernel = tuple(params["kernel"])
    (shape, _), spatial = out_spec(outs), len(kernel)
    op = params["op"]
    axes = tuple(range(-spatial, 0))
    with np.errstate(all="ignore"):
        if op == "max":
            return _max_pool(x, kernel, outs, params)
        values = windows(wide(x), kernel, params, shape[2:], 0)
        if op == "lp":
            p = params.get("p", 2)
            return [result((np.abs(values) ** p).sum(axis=axes) ** (1.0 / p), out_spec(outs)), None]
        count = windows(_countable(x.shape[2:], params), kernel, {**params, "pads": None}, shape[2:], 0).sum(axis=axes)
        return [result(values.sum(axis=axes) / count, out_spec(outs)), None]


def _countable(sizes: Sequence[int], params: Params) -> Array:
    """[1, 1, padded...]: 1 where an element counts in an average: inside x, or anywhere with count_include_pad."""
    spatial = len(sizes)
    pads = window_params(params, spatial)[2]
    if params.get("count_include_pad", 0):
        return np.ones((1, 1, *[n + pads[i] + pads[spatial + i] for i, n in enumerate(sizes)]))
    return np.pad(np.ones((1, 1, *sizes)), [(0, 0), (0, 0), *[(pads[i], pads[spatial + i]) for i in range(spatial)]])


def _max_pool(x: Array, kernel: tuple[int, ...], outs: Sequence[Out | None], params: Params) -> list[Array | None]:
    shape, dtype = out_spec(outs)
    out, sizes, n = tuple(shape[2:]), x.shape[2:], int(np.prod(kernel, dtype=np.int64))
    lowest: Any = -np.inf if is_float(x.dtype) else False if x.dtype == BOOL else int_range(x.dtype)[0]
    values = windows(wide(x), kernel, params, out, lowest).reshape(*x.shape[:2], *out, n)
    flat = np.arange(int(np.prod(sizes, dtype=np.int64)), dtype=I64)
    order: Any = "F" if params.get("storage_order", 0) else "C"
    positions = windows(flat.reshape((1, 1, *sizes), order=order), kernel, params, out, -1).reshape(1, 1, *out, n)
    best = np.argmax(values, axis=-1)[..., None]  # a NaN is the largest; of equal values the first
    first_inside = np.argmax(positions >= 0, axis=-1)[..., None]
    positions = np.broadcast_to(positions, values.shape)
    padding = np.take_along_axis(positions, best, -1) < 0  # every element inside equals the fill: take the first of them
    best = np.where(padding, first_inside, best)
    y = np.take_along_axis(values, best, -1)[..., 0]
    if len(outs) < 2 or outs[1] is None:
        return [result(y, (shape, dtype)), None]
    channel = np.arange(x.shape[0] * x.shape[1], dtype=I64).reshape((*x.shape[:2], *[1] * len(out)))
    return [result(y, (shape, dtype)), result(np.take_along_axis(positions, best, -1)[..., 0] + channel * flat.size, out_spec(outs, 1))]
