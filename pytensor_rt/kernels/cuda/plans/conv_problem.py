"""What a launch of a convolution asks for, in the form in which the kernels compute it: axes without special cases, repacked weights, results.

The batch is an axis like the spatial ones. Axes along which nothing moves are dropped, and neighbours of one tap merged, so that a 1x1
convolution is a matrix product over one axis of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, product
from math import gcd, prod
from typing import Any

import numpy as np

from ....dtypes import F32, F64, I32, DType, is_float
from ....errors import UnsupportedError
from ....lowering.tensor import Launch, Tensor
from ...axes import merge, reach
from ..build import Builder, Pointer, Scratch, Table, is_wide, operand

_LIMIT = 1 << 31
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Axis:
    """An axis of pixels: output o and tap t read position o * stride + t * dilation - pad, if it is in [0, size). x, w: memory steps.

    `pads` has one pad for every phase of the problem.
    """

    size: int
    kernel: int
    out: int
    stride: int
    dilation: int
    pads: tuple[int, ...]
    x: int
    w: int

    @property
    def low(self) -> int:
        """The lowest position that is asked for."""
        return min(0, (self.kernel - 1) * self.dilation) - max(self.pads)

    @property
    def high(self) -> int:
        """The highest position that is asked for."""
        return (self.out - 1) * self.stride + max(0, (self.kernel - 1) * self.dilation) - min(self.pads)

    @property
    def checked(self) -> bool:
        """May a position lie outside of x?"""
        return self.kernel > 0 and (self.low < 0 or self.high >= self.size)

    @property
    def plain(self) -> bool:
        """Is output o position o, and nothing else?"""
        return self.kernel == 1 and self.stride == 1 and not any(self.pads) and self.out == self.size


@dataclass(frozen=True)
class Filters:
    """Weights w[group][filter][channel][taps of every axis], wherever they lie: a tensor per phase, and its steps."""

    tensors: tuple[Tensor, ...]
    group: int
    filter: int
    channel: int


@dataclass(frozen=True)
class Problem:
    """y[pixel, filter] = sum over taps and channels of x * w, for every group and phase. `launch` has the y and the epilogue that are meant.

    Phases (of conv_transpose) are problems of the same sizes side by side: block z computes phase z, whose pixels follow those of z - 1.
    """

    launch: Launch
    x: Tensor
    w: Filters
    bias: Tensor | None
    x_zero: Tensor | None
    w_zero: Tensor | None
    axes: tuple[Axis, ...]
    groups: int
    channels: int  # of a group
    filters: int  # of a group
    x_channel: int  # memory step

    @property
    def y(self) -> Tensor:
        y = self.launch.outs[0]
        assert y is not None
        return y

    @property
    def phases(self) -> int:
        return len(self.w.tensors)

    @property
    def taps(self) -> int:
        return prod([a.kernel for a in self.axes])

    @property
    def depth(self) -> int:
        """Products in a sum."""
        return self.taps * self.channels

    @property
    def pixels(self) -> int:
        """Of a phase."""
        return prod([a.out for a in self.axes])

    @property
    def results(self) -> int:
        return self.phases * self.pixels * self.groups * self.filters

    @property
    def sum(self) -> DType:
        """What sums are kept in."""
        return F64 if self.x.dtype == F64 else F32 if is_float(self.x.dtype) else I32

    @property
    def checked(self) -> bool:
        """May a window leave x?"""
        return any(a.checked for a in self.axes)

    @property
    def wide(self) -> bool:
        """Are 64-bit indices needed, also for positions outside of x?"""
        most = sum(max(abs(a.low), abs(a.high)) * max(1, abs(a.x)) for a in self.axes)
        most += self.groups * self.channels * abs(self.x_channel)
        spans = [most, self.phases * self.groups * (self.depth + 64) * (self.filters + 64), reach(self.x.shape, self.x.strides)]
        return is_wide(self.x, self.y, *self.w.tensors, *self.launch.epi_ins, sizes=spans)


def of_launch(launch: Launch) -> Problem:
    """The problem of a `conv` launch. Raises UnsupportedError for operands that do not fit together."""
    x, w, y = launch.ins[0], launch.ins[1], launch.outs[0]
    assert x is not None and w is not None and y is not None
    bias, x_zero, w_zero = (launch.ins[k] if k < len(launch.ins) else None for k in (2, 3, 4))
    strides, dilations, pads, groups = geometry(launch, False)
    _check_dtypes(launch, x, w, bias, y.shape[1], (x_zero, w_zero))
    filters = w.shape[0] // groups
    axes = [Axis(x.shape[0], 1, y.shape[0], 1, 1, (0,), x.strides[0], 0)]
    for k in range(x.ndim - 2):
        sizes = (x.shape[2 + k], w.shape[2 + k], y.shape[2 + k])
        axes.append(Axis(*sizes, strides[k], dilations[k], (pads[k],), x.strides[2 + k], w.strides[2 + k]))
    held = Filters((w,), w.strides[0] * filters, w.strides[0], w.strides[1])
    return _problem(launch, x, held, bias, x_zero, w_zero, axes, groups, w.shape[1], filters)


@dataclass(frozen=True)
class _Taps:
    """Outputs q * stride + f along one axis: the taps they see (first, step, count), and the convolution of x that they are."""

    first: int
    step: int
    count: int
    dilation: int
    pad: int
    out: int

    @staticmethod
    def of(f: int, stride: int, dilation: int, pad: int, kernel: int, size: int) -> _Taps:
        out = -(-(size - f) // stride)
        taps = [k for k in range(min(kernel, stride)) if (f + pad - k * dilation) % stride == 0]
        if not taps:
            return _Taps(0, 1, 0, 1, 0, out)
        first, step = taps[0], stride // gcd(stride, dilation)
        return _Taps(
            first, step, -(-(kernel - first) // step), -(dilation * step // stride), -((f + pad - first * dilation) // stride), out
        )


def transposed(launch: Launch) -> list[Problem]:
    """The problems of a `conv_transpose` launch: outputs of one remainder modulo the strides are a phase, phases of the same sizes a problem.

    Outputs o = q * stride + f of a phase see the taps k with f + pad - k * dilation = 0 (mod stride): an arithmetic progression of them,
    at positions q + (f + pad - k * dilation) / stride of x. That is a convolution of stride 1 with a negative dilation.
    """
    x, w, y = launch.ins[0], launch.ins[1], launch.outs[0]
    assert x is not None and w is not None and y is not None
    bias = launch.ins[2] if len(launch.ins) > 2 else None
    strides, dilations, pads, groups = geometry(launch, True)
    _check_dtypes(launch, x, w, bias, y.shape[1], ())
    runs = []  # per axis: neighbouring remainders with as many taps and outputs
    for k, (s, d, p) in enumerate(zip(strides, dilations, pads)):
        seen = [_Taps.of(f, s, d, p, w.shape[2 + k], y.shape[2 + k]) for f in range(min(s, y.shape[2 + k]))]
        runs.append([list(g) for _, g in groupby(enumerate(seen), lambda t: (t[1].count, t[1].out))])
    channels = x.shape[1] // groups
    found = []
    for some in product(*runs):
        begins = [run[0][0] for run in some]
        part = Launch(launch.kernel, launch.ins, [_part(y, begins, some, strides)], launch.params)
        part.acc_dtype, part.epilogue = launch.acc_dtype, launch.epilogue
        part.epi_ins = [_part(e, begins, some, strides) for e in launch.epi_ins]
        phases = [[t for _, t in phase] for phase in product(*some)]
        axes = [Axis(x.shape[0], 1, y.shape[0], 1, 1, (0,) * len(phases), x.strides[0], 0)]
        for k, run in enumerate(some):
            t = run[0][1]
            step = w.strides[2 + k] * t.step
            axes.append(Axis(x.shape[2 + k], t.count, t.out, 1, t.dilation, tuple([p[k].pad for p in phases]), x.strides[2 + k], step))
        held = Filters(tuple([_taps(w, phase) for phase in phases]), w.strides[0] * channels, w.strides[1], w.strides[0])
        found.append(_problem(part, x, held, bias, None, None, axes, groups, channels, w.shape[1]))
    return found


def _taps(w: Tensor, phase: Sequence[_Taps]) -> Tensor:
    for k, t in enumerate(phase):
        w = w.slice(2 + k, t.first, t.count, t.step)
    return w


def _part(t: Tensor, begins: Sequence[int], some: Sequence[Sequence[tuple[int, _Taps]]], strides: Sequence[int]) -> Tensor:
    """The outputs of some phases: the remainders, then batch and positions; filters are axis 1."""
    offset = t.offset
    shape, steps = [t.shape[0]], [t.strides[0]]
    first: list[tuple[int, int]] = []
    for k, (f, run, s) in enumerate(zip(begins, some, strides)):
        step = t.strides[2 + k]
        offset += f * step
        first.append((len(run), step))
        shape.append(run[0][1].out)
        steps.append(step * s)
    axes = [*first, *zip(shape, steps)]
    axes.insert(1, (t.shape[1], t.strides[1]))
    return t.view(tuple([n for n, _ in axes]), tuple([s if n != 1 else 0 for n, s in axes]), offset)


def geometry(launch: Launch, transpose: bool) -> tuple[list[int], list[int], list[int], int]:
    """Strides, dilations, pads and groups. Raises UnsupportedError with the C++ kernel's texts."""
    x, w, y = launch.ins[0], launch.ins[1], launch.outs[0]
    assert x is not None and w is not None and y is not None
    n = x.ndim - 2
    _require(1 <= n <= 3 and w.ndim == y.ndim == x.ndim, "expected 1 to 3 spatial axes")
    strides, dilations, pads = ([int(v) for v in launch.params[k]] for k in ("strides", "dilations", "pads"))
    g = int(launch.params.get("group", 1))
    _require(len(strides) == len(dilations) == n and len(pads) == 2 * n, "strides, dilations and pads must match the spatial axes")
    _require(y.shape[0] == x.shape[0] and g >= 1 and x.shape[1] % g == 0 and y.shape[1] % g == 0, "batch or groups do not match")
    shape = (x.shape[1], y.shape[1] // g) if transpose else (y.shape[1], x.shape[1] // g)
    _require(tuple(w.shape[:2]) == shape, "weight shape does not match")
    for k in range(n):
        most = max(strides[k], dilations[k], abs(pads[k]), x.shape[2 + k], w.shape[2 + k], y.shape[2 + k])
        _require(min(strides[k], dilations[k]) >= 1 and most < _LIMIT, "stride, dilation or pad out of range")
        moving = (x if transpose else y).shape[2 + k]
        fits = (w.shape[2 + k] - 1) * dilations[k] < _LIMIT and (moving - 1) * strides[k] < 4 * _LIMIT
        _require(fits, "the window spans too much of the input")
    return strides, dilations, pads, g


def _require(ok: bool, what: str) -> None:
    if not ok:
        raise UnsupportedError(f"conv: {what}")


def _check_dtypes(launch: Launch, x: Tensor, w: Tensor, bias: Tensor | None, m: int, zeros: Sequence[Tensor | None]) -> None:
    """Operands as the C++ kernel takes them."""
    narrow = x.dtype.name in ("uint8", "int8")
    _require(x.dtype.name in ("float32", "float64", "float16", "bfloat16") or (narrow and launch.kernel == "conv"), "unsupported dtype")
    _require(w.dtype.name in ("uint8", "int8") if narrow else w.dtype == x.dtype, "weight dtype does not match")
    if bias is not None:
        _require(bias.shape == (m,) and bias.dtype == (I32 if narrow else x.dtype), "bad bias")
    for z, like, name in zip(zeros, (x, w), ("x_zero", "w_zero")):
        if z is not None:
            one = z.ndim == 0 or (name == "w_zero" and z.shape == (m,))
            _require(narrow and one and z.dtype == like.dtype, f"bad {name}")
    y = launch.outs[0]
    assert y is not None
    own = launch.acc_dtype or y.dtype
    kept = F64 if x.dtype == F64 else I32 if narrow else F32
    _require(own == kept or (kept == F32 and own.name in ("float16", "bfloat16")), "unsupported result dtype")
    _require(bool(launch.epilogue) or y.dtype == own, "output dtype does not match")


def _problem(
    launch: Launch, x: Tensor, w: Filters, bias: Tensor | None, x_zero: Tensor | None, w_zero: Tensor | None, axes: list[Axis], groups: int,
    channels: int, filters: int,
) -> Problem:  # fmt: skip
    """With axes in their simplest form."""
    offset = x.offset
    none = (0,) * len(w.tensors)
    kept: list[Axis] = []
    for a in axes:
        if a.kernel == 1 and not a.checked and len(set(a.pads)) == 1:  # a slice of x
            offset += -a.pads[0] * a.x
            a = Axis(a.out, 1, a.out, 1, 1, none, a.x * a.stride, a.w)
        if a.plain and a.out == 1:
            continue
        last = kept[-1] if kept else None
        if last is not None and a.plain and last.plain and last.x == a.x * a.out:
            kept[-1] = Axis(last.out * a.out, 1, last.out * a.out, 1, 1, none, a.x, 0)
        else:
            kept.append(a)
    moved = x.view(x.shape, x.strides, offset)
    plain = Axis(1, 1, 1, 1, 1, none, 0, 0)
    return Problem(launch, moved, w, bias, x_zero, w_zero, tuple(kept) or (plain,), groups, channels, filters, x.strides[1])


# ---------------------------------------------------------------------------------------------------------------------------- kernels' fields
def fields(b: Builder, p: Problem) -> None:
    """What the kernels know of x: see csrc/cuda/conv_input.cuh."""
    b.define("AXES", len(p.axes))
    # All axes that are not plain are treated alike: few sources, and windows along one axis have one such axis.
    moving = sum((not a.plain) << i for i, a in enumerate(p.axes))
    b.define("CHECKED", moving if p.checked else 0)
    b.define("TAPPED", moving if p.taps != 1 else 0)
    b.type("X", p.x.dtype)
    b.type("Sum", p.sum)
    b.pointer("x", "const X", operand(p.x))
    b.sizes("out", [a.out for a in p.axes])
    b.sizes("kernel", [max(1, a.kernel) for a in p.axes])
    for name in ("size", "stride", "dilation"):
        b.array(name, "idx", [getattr(a, name) for a in p.axes])
    if p.phases == 1:
        b.array("pads", "idx", [a.pads[0] for a in p.axes])
    else:
        b.pointer("pads", "const Idx", Table(np.array([a.pads for a in p.axes], np.int64 if b.wide else np.int32).T.copy()))
    at = "k" if p.phases == 1 else "blockIdx.z * AXES + k"
    b.functions.append(f"__forceinline__ Idx pad_of(const Args& a, int k) {{ return a.pads[{at}]; }}")
    b.array("x_step", "idx", [a.x for a in p.axes])
    b.scalar("x_channel", "idx", p.x_channel)
    b.scalar("x_group", "idx", p.x_channel * p.channels)
    if p.x_zero is not None:
        b.pointer("x_zero", "const X", operand(p.x_zero))
    b.functions.append(f"__forceinline__ Value<X> zero_of_x(const Args& a) {{ return {'*a.x_zero' if p.x_zero is not None else '0'}; }}")


def zero_of_x(p: Problem) -> str:
    """The function `zero_of_x(a)`."""
    return f"__forceinline__ Value<X> zero_of_x(const Args& a) {{ return {'*a.x_zero' if p.x_zero is not None else '0'}; }}"


def results(b: Builder, p: Problem, correction: bool = False) -> int:
    """`finish(a, pixel, filter, v)`: bias, epilogue and store of sum v. Returns the number of pixel axes.

    With `correction`, the field `excess` has what every filter's sum, times x's zero point, has too much.
    """
    y, launch = p.y, p.launch
    pixels = [0, *range(2, y.ndim)]
    axes = merge(y.shape, [y.strides, *[e.strides for e in launch.epi_ins]], [pixels])
    of_filter = [y.strides[1], *[e.strides[1] for e in launch.epi_ins]]
    rank = len(axes.sizes)
    strides = [(*s, f) for s, f in zip(axes.strides, of_filter)]
    b.sizes("y_size", axes.sizes)
    b.output(rank + 1, strides[0], strides[1:], launch.acc_dtype)
    text = f"  Idx c[{rank + 1}];\n  unravel<0, {rank}>({of_phase(b, p)}, a.y_size, c);\n  c[{rank}] = filter;\n"
    if correction:
        b.pointer("excess", "const i32", Scratch(0))  # the caller puts it in its place
        text += "  v -= static_cast<Value<Sum>>(zero_of_x(a)) * a.excess[filter];\n"
    if p.bias is not None:
        b.loader("bias", p.bias, (p.bias.strides[0],))
        text += "  const Idx m[1] = {filter};\n  v += load_bias(a, m);\n"
    text += "  store_y(a, c, v);\n"
    b.functions.append(f"__forceinline__ void finish(const Args& a, const Idx pixel, const Idx filter, Value<Sum> v) {{\n{text}}}")
    return rank


def of_phase(b: Builder, p: Problem) -> str:
    """The number of `pixel` among those of all phases."""
    if p.phases == 1:
        return "pixel"
    b.scalar("phase_pixels", "idx", p.pixels)
    return "pixel + static_cast<Idx>(blockIdx.z) * a.phase_pixels"


def weights_field(b: Builder, p: Problem, ctype: str, w: Pointer, of_a_phase: int) -> None:
    """`weights_of(a)`: the packed weights of the block's phase."""
    b.pointer("w", f"const {ctype}", w)
    text = "a.w"
    if p.phases > 1:
        b.scalar("w_phase", "idx", of_a_phase)
        text = "a.w + blockIdx.z * a.w_phase"
    b.functions.append(f"__forceinline__ const {ctype}* weights_of(const Args& a) {{ return {text}; }}")


def place(b: Builder, name: str, pointer: Pointer) -> None:
    """Point a field at something else."""
    for f in b.fields:
        if f.pointer is not None and f.declaration.endswith(f" {name};"):
            f.pointer = pointer
            return
    raise KeyError(name)
