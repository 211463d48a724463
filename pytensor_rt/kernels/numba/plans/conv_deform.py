"""Deformable convolution: windows are sampled into rows, which the register tiles multiply. See jit/conv_deform.py."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

from ....dtypes import DType, is_float
from ....errors import UnsupportedError
from ....lowering.tensor import Launch
from ..build import Block, Builder, Fn, View, byte_strides, view
from . import conv_products, elementwise
from .conv_problem import Problem, Tap, spatial


def _require(ok: bool, what: str) -> None:
    if not ok:
        raise UnsupportedError(f"deform_conv: {what}")


def deform_conv(b: Builder) -> None:
    """y = the convolution of x, sampled at offsets, with w."""
    p = _problem(b.launch)
    offset, mask = b.launch.ins[2], b.launch.ins[4] if len(b.launch.ins) > 4 else None
    assert offset is not None
    item = p.sum.itemsize
    moved = _five(b, view(offset), p.sum)
    masked = _five(b, view(mask), p.sum) if mask is not None else None
    parts = int(b.launch.params.get("offset_group", 1))

    def sampler(x: View, row: int) -> tuple[Fn, Block]:
        words: list[Any] = [
            *p.y_shape[2:], row, x.address, *[x.strides[k] * item for k in (0, 2, 3, 4)], *x.shape[2:], *p.step, len(p.taps), conv_products.bases(p),
            parts, p.groups * p.channels // parts, offset.ndim - 2, moved.address, *byte_strides(moved),
            *([masked.address, *byte_strides(masked)] if masked is not None else [0] * 6),
        ]  # fmt: skip
        return Fn(f"conv_deform.samples[{p.sum.name}]"), Block(words)

    conv_products.plan(b, p, sampler)


def _five(b: Builder, v: View, dtype: DType) -> View:
    """A tensor [N, C, d...] with three spatial axes, in a dtype."""
    if v.dtype != dtype:
        t = b.temporary(dtype, v.shape)
        elementwise.copy(b, v, t)
        v = t
    return v.with_axes(*spatial(v.shape, v.strides))


def _problem(launch: Launch) -> Problem:
    """Checks of the C++ kernel, in its words."""
    x, w, offset, y = *launch.ins[:3], launch.outs[0]
    assert x is not None and w is not None and offset is not None and y is not None
    bias, mask = (launch.ins[k] if k < len(launch.ins) else None for k in (3, 4))
    n = x.ndim - 2
    strides, dilations, pads = ([int(v) for v in launch.params[k]] for k in ("strides", "dilations", "pads"))
    groups, parts = int(launch.params.get("group", 1)), int(launch.params.get("offset_group", 1))
    _require(1 <= n <= 3 and w.ndim == offset.ndim == y.ndim == x.ndim, "x, w, offset and y need one rank, 3 to 5")
    _require(len(strides) == len(dilations) == n and len(pads) == 2 * n, "one stride, dilation and two pads per axis")
    fits = groups > 0 and parts > 0 and x.shape[1] % groups == 0 and w.shape[0] % groups == 0 and x.shape[1] % parts == 0
    _require(fits, "channels must be multiples of the groups")
    fits = w.shape[1] == x.shape[1] // groups and y.shape[:2] == (x.shape[0], w.shape[0]) and offset.shape[0] == x.shape[0]
    _require(fits, "shapes do not fit together")
    points = parts * prod(w.shape[2:])
    _require(offset.shape[2:] == y.shape[2:], "offset must have y's spatial axes")
    _require(offset.shape[1] == points * n, "offset must have offset_group * prod(kernel) * spatial channels")
    ok = mask is None or (mask.shape == (x.shape[0], points, *y.shape[2:]) and mask.dtype == x.dtype)
    _require(ok, "mask must be [N, offset_group * prod(kernel), o...]")
    _require(bias is None or (bias.shape == (w.shape[0],) and bias.dtype == x.dtype), "b must be [M]")
    own = (launch.acc_dtype if launch.epilogue else None) or y.dtype
    ok = x.dtype.name in ("float32", "float64", "float16", "bfloat16") and w.dtype == offset.dtype == x.dtype and is_float(own)
    _require(ok, "one floating dtype is expected")
    xv, wv = view(x), view(w)
    y_shape, _ = spatial(tuple(map(int, y.shape)), tuple(map(int, y.strides)))
    kernel, w_strides = spatial(wv.shape, wv.strides)
    one, none = (1,) * (3 - n), (0,) * (3 - n)
    dilation, pad = (*one, *dilations), (*none, *pads[:n])
    taps = []
    for k in product(*map(range, kernel[2:])):
        base = (k[0] * dilation[0] - pad[0], k[1] * dilation[1] - pad[1], k[2] * dilation[2] - pad[2])
        taps.append(Tap(base, sum(i * s for i, s in zip(k, w_strides[2:]))))
    filters = y_shape[1] // groups
    held = (w_strides[0] * filters, w_strides[0], w_strides[1])
    step: Any = (*one, *strides)
    channels = int(x.shape[1]) // groups
    return Problem(launch, xv.with_axes(*spatial(xv.shape, xv.strides)), wv, y_shape, step, tuple(taps), groups, channels, filters, held)
