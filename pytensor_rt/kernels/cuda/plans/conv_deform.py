"""`deform_conv` and `col2im`: see csrc/cuda/deform_input.cuh and col2im.cuh."""

from __future__ import annotations

from math import prod

from ....dtypes import BOOL, F64, is_float
from ....errors import UnsupportedError
from ....lowering.tensor import Launch
from ..build import Builder, Call, is_wide, operand
from ..manifest import Entry
from . import conv_tiles
from .conv_problem import Axis, Filters, Problem
from .conv_weights import packed

DEFORM = Entry("deform_conv", "deform_conv.cuh", 256, registers=128)
COL2IM = Entry("col2im", "col2im.cuh", 256)


def _require(ok: bool, kernel: str, what: str) -> None:
    if not ok:
        raise UnsupportedError(f"{kernel}: {what}")


def deform_conv(launch: Launch) -> list[Call]:
    """Every tap samples x at an offset of its own."""
    p = _deformed(launch)
    offset, mask = launch.ins[2], launch.ins[4] if len(launch.ins) > 4 else None
    assert offset is not None
    spatial = p.x.ndim - 2
    axes = (0, *range(2, p.x.ndim))
    shape = conv_tiles.DOUBLE if p.sum == F64 else conv_tiles.MIDDLE if p.pixels > conv_tiles.SHORT.pixels else conv_tiles.SHORT
    per_load = 16 // p.sum.itemsize
    pitch = -(-p.filters // per_load) * per_load
    calls, w = packed(p, p.sum, p.groups, p.filters, pitch)
    b = Builder(launch, DEFORM, p.wide or is_wide(offset, mask))
    b.define("AXES", spatial + 1)
    b.type("X", p.x.dtype)
    b.type("Sum", p.sum)
    b.pointer("x", "const X", operand(p.x))
    b.pointer("offset", "const X", operand(offset))
    b.sizes("out", [a.out for a in p.axes])
    b.sizes("kernel", [max(1, a.kernel) for a in p.axes])
    for name in ("size", "stride", "dilation"):
        b.array(name, "idx", [getattr(a, name) for a in p.axes])
    b.array("pad", "idx", [a.pads[0] for a in p.axes])
    b.array("x_step", "idx", [a.x for a in p.axes])
    b.scalar("x_channel", "idx", p.x_channel)
    b.array("offset_step", "idx", [offset.strides[k] for k in axes])
    b.scalar("offset_channel", "idx", offset.strides[1])
    b.array("mask_step", "idx", [mask.strides[k] if mask is not None else 0 for k in axes])
    b.scalar("mask_channel", "idx", mask.strides[1] if mask is not None else 0)
    if mask is not None:
        b.pointer("mask", "const X", operand(mask))
    factor = "value_of(a.mask[at])" if mask is not None else "1"
    b.functions.append(f"__forceinline__ Value<Sum> mask_of(const Args& a, const Idx at) {{ return {factor}; }}")
    b.sizes("part", [max(1, p.groups * p.channels // int(launch.params.get("offset_group", 1)))])
    b.scalar("taps", "idx", p.taps)
    b.define("K_FAST", conv_tiles.k_fast(p))
    b.define("VA", 1)
    return conv_tiles.finished(b, p, shape, calls, w, pitch)


def _deformed(launch: Launch) -> Problem:
    """Checks of the C++ kernel, in its words."""
    x, w, offset, y = *launch.ins[:3], launch.outs[0]
    assert x is not None and w is not None and offset is not None and y is not None
    bias, mask = (launch.ins[k] if k < len(launch.ins) else None for k in (3, 4))
    n = x.ndim - 2
    name = "deform_conv"
    strides, dilations, pads = ([int(v) for v in launch.params[k]] for k in ("strides", "dilations", "pads"))
    groups, parts = int(launch.params.get("group", 1)), int(launch.params.get("offset_group", 1))
    _require(1 <= n <= 3 and w.ndim == offset.ndim == y.ndim == x.ndim, name, "x, w, offset and y need one rank, 3 to 5")
    _require(len(strides) == len(dilations) == n and len(pads) == 2 * n, name, "one stride, dilation and two pads per axis")
    fits = groups > 0 and parts > 0 and x.shape[1] % groups == 0 and w.shape[0] % groups == 0 and x.shape[1] % parts == 0
    _require(fits, name, "channels must be multiples of the groups")
    fits = w.shape[1] == x.shape[1] // groups and y.shape[:2] == (x.shape[0], w.shape[0]) and offset.shape[0] == x.shape[0]
    _require(fits, name, "shapes do not fit together")
    points = parts * prod(w.shape[2:])
    _require(offset.shape[2:] == y.shape[2:], name, "offset must have y's spatial axes")
    _require(offset.shape[1] == points * n, name, "offset must have offset_group * prod(kernel) * spatial channels")
    ok = mask is None or (mask.shape == (x.shape[0], points, *y.shape[2:]) and mask.dtype == x.dtype)
    _require(ok, name, "mask must be [N, offset_group * prod(kernel), o...]")
    _require(bias is None or (bias.shape == (w.shape[0],) and bias.dtype == x.dtype), name, "b must be [M]")
    own = launch.acc_dtype or y.dtype
    ok = x.dtype.name in ("float32", "float64", "float16", "bfloat16") and w.dtype == offset.dtype == x.dtype and is_float(own)
    _require(ok, name, "one floating dtype is expected")
    filters = w.shape[0] // groups
    axes = [Axis(x.shape[0], 1, y.shape[0], 1, 1, (0,), x.strides[0], 0)]
    for k in range(n):
        sizes = (x.shape[2 + k], w.shape[2 + k], y.shape[2 + k])
        axes.append(Axis(*sizes, strides[k], dilations[k], (pads[k],), x.strides[2 + k], w.strides[2 + k]))
    held = Filters((w,), w.strides[0] * filters, w.strides[0], w.strides[1])
    return Problem(launch, x, held, bias, None, None, tuple(axes), groups, w.shape[1], filters, x.strides[1])


def col2im(launch: Launch) -> list[Call]:
    """y = the sum of the window elements that lie on each position."""
    x, y = launch.ins[0], launch.outs[0]
    assert x is not None and y is not None
    kernel, strides, dilations, pads = ([int(v) for v in launch.params[k]] for k in ("kernel", "strides", "dilations", "pads"))
    n = len(kernel)
    name = "col2im"
    ok = n > 0 and len(strides) == len(dilations) == n and len(pads) == 2 * n
    _require(ok, name, "one kernel size, stride, dilation and two pads per axis")
    ok = x.ndim == 3 and y.ndim == n + 2 and x.dtype == y.dtype and x.shape[0] == y.shape[0]
    _require(ok, name, "x must be [N, C*prod(kernel), L]")
    _require(min(*kernel, *strides, *dilations) > 0, name, "kernel, strides and dilations must be positive")
    room = [y.shape[2 + i] + pads[i] + pads[n + i] - dilations[i] * (kernel[i] - 1) - 1 for i in range(n)]
    _require(min(room) >= 0, name, "the window is larger than the padded image")
    windows = [r // s + 1 for r, s in zip(room, strides)]
    ok = x.shape[1] == y.shape[1] * prod(kernel) and x.shape[2] == prod(windows)
    _require(ok, name, "x does not fit the image and the windows")
    _require(x.dtype.kind in "fiub" or x.dtype.name == "bfloat16", name, "unsupported dtype")
    far = max(max(y.shape[2 + i] + abs(pads[i]), dilations[i] * kernel[i]) for i in range(n))
    b = Builder(launch, COL2IM, is_wide(x, y, sizes=[far]))
    b.define("AXES", n)
    b.type("X", x.dtype)
    b.type("Y", y.dtype)
    total = {BOOL: "u32"}.get(x.dtype, "Value<X>")
    b.lines.append(f"using Total = {total};")
    b.pointer("x", "const X", operand(x))
    b.view("y", y, y.strides)
    b.sizes("y_size", y.shape)
    b.sizes("stride", strides)
    b.array("pad", "idx", pads[:n])
    b.array("dilation", "idx", dilations)
    b.array("taps", "i32", kernel)
    b.array("windows", "idx", windows)
    b.scalar("x_batch", "idx", x.strides[0])
    b.scalar("x_channel", "idx", x.strides[1] * prod(kernel))
    b.scalar("x_point", "idx", x.strides[1])
    b.scalar("x_window", "idx", x.strides[2])
    b.scalar("total", "idx", y.size)
    return [b.call(-(-y.size // COL2IM.threads))]
