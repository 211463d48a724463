"""`resample`: tables of taps per axis, in one launch, or one per axis where an output has many taps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from ....dtypes import C64, C128, F32, F64, DType, is_float
from ....errors import UnsupportedError
from ....lowering.tensor import ARENA, Buffer, Launch, Tensor
from ...parameters import param
from ..build import Builder, Call, Operand, Scratch, Table, is_wide
from ..manifest import Entry
from .resample_table import AxisTable
from .walk import Walk, constants, memory_order, named, results, vector_width

FEW = 4  # taps of an axis that are kept in registers
MOST_AT_ONCE = 64  # taps of an output that are summed in one launch

ELEMENTS = Entry("resample_elements", "resample.cuh", 256)
VECTORS = Entry("resample_vectors", "resample.cuh", 256, registers=128, wide_loads=True)  # 16 bytes of x at a time


def plan(launch: Launch) -> list[Call]:
    """The calls of a resample launch."""
    x, y = launch.ins[0], launch.outs[0]
    assert x is not None and y is not None
    tables = _tables(launch, x, y)
    exact = launch.params["op"] == "nearest"
    if exact or len(tables) < 2 or prod(t.taps for t in tables.values()) <= MOST_AT_ONCE:
        return [_pass(launch, tables, tables)]
    wide = F32 if is_float(x.dtype) and x.dtype != F64 else F64
    calls: list[Call] = []
    steps = sorted(tables, key=lambda a: (y.shape[a] / x.shape[a], a))  # what shrinks most goes first
    held: dict[Buffer, int] = {}
    ends = [0, 0]  # bytes of the two halves of the scratch, used in turn
    source = x
    for k, axis in enumerate(steps[:-1]):
        target = _intermediate(y, tuple(y.shape[i] if i in steps[: k + 1] else n for i, n in enumerate(x.shape)), wide)
        ends[k % 2] = max(ends[k % 2], -(-target.buffer.nbytes // 256) * 256)
        held[target.buffer] = k % 2
        part = Launch("resample", [source], [target], launch.params)
        part.acc_dtype = wide
        calls.append(_pass(part, {axis: tables[axis]}, {}))
        source = target
    last = Launch("resample", [source], [y], launch.params)
    last.acc_dtype, last.epilogue, last.epi_ins = launch.acc_dtype or y.dtype, launch.epilogue, launch.epi_ins
    calls.append(_pass(last, {steps[-1]: tables[steps[-1]]}, tables))
    return [_in_scratch(c, {b: ends[0] * half for b, half in held.items()}, sum(ends)) for c in calls]


def _tables(launch: Launch, x: Tensor, y: Tensor) -> dict[int, AxisTable]:
    """The tables of all axes that are resampled."""
    scales, roi = launch.params["scales"], param(launch, "roi") or ()
    crop = param(launch, "coordinates") == "tf_crop_and_resize"
    if x.ndim == 0 or y.ndim != x.ndim or len(scales) != x.ndim or (crop and len(roi) != 2 * x.ndim):
        raise UnsupportedError("resample: parameters do not match x")
    out = {}
    for axis, (n, m) in enumerate(zip(x.shape, y.shape)):
        whole = not crop or (roi[axis] == 0 and roi[x.ndim + axis] == 1)
        if scales[axis] == 1 and n == m and whole:
            continue
        if not scales[axis] > 0 or (n == 0 and m > 0):
            raise UnsupportedError("resample: bad scale")
        if n >= 1 << 31:
            raise UnsupportedError("resample: axis too long")
        out[axis] = AxisTable(launch, axis, int(n), int(m))
    if x.dtype in (C64, C128) and (launch.params["op"] != "nearest" or any(t.outside is not None for t in out.values())):
        raise UnsupportedError(f"resample: {x.dtype} takes nearest, without extrapolation")
    return out


def _intermediate(y: Tensor, shape: tuple[int, ...], dtype: DType) -> Tensor:
    """A dense tensor of this shape whose memory has the order of y's, in a buffer that becomes scratch."""
    strides = [0] * len(shape)
    size = 1
    for axis in reversed(memory_order(y)):
        if shape[axis] != 1:
            strides[axis] = size
            size *= shape[axis]
    return Tensor(Buffer(-1, ARENA, size, dtype), 0, shape, tuple(strides), dtype)


def _in_scratch(call: Call, offsets: dict[Buffer, int], nbytes: int) -> Call:
    """The same call, with the memory of some buffers in the scratch of the plan."""
    pointers = tuple(
        [(at, Scratch(offsets[p.buffer] + p.offset) if isinstance(p, Operand) and p.buffer in offsets else p) for at, p in call.pointers]
    )
    return replace(call, pointers=pointers, scratch=nbytes)


def _pass(launch: Launch, tables: dict[int, AxisTable], masks: dict[int, AxisTable]) -> Call:
    """Resample along the axes of `tables`; results that one of `masks` calls outside are the extrapolation value."""
    x, y = launch.ins[0], launch.outs[0]
    assert x is not None and y is not None
    nearest = launch.params["op"] == "nearest"
    axes = list(tables)
    outside = [a for a in masks if masks[a].outside is not None]
    wide = F32 if is_float(x.dtype) and x.dtype != F64 else F64
    still = [i for i in range(y.ndim) if i not in axes and i not in outside and y.strides[i] == 1]
    most = 16 if nearest or is_float(x.dtype) else 4  # integers are summed in f64: a thread holds that many
    width = vector_width(still[0], [x, y], most) if still else 1
    x_strides = tuple(0 if i in tables else s for i, s in enumerate(x.strides))
    walk = Walk(y.shape, [x_strides, *[t.strides for t in (y, *launch.epi_ins)]], memory_order(y), {*axes, *outside})
    entries = max([t.taps * y.shape[a] for a, t in tables.items()], default=0)
    b = Builder(launch, VECTORS if width * x.dtype.itemsize == 16 else ELEMENTS, is_wide(x, y, *launch.epi_ins, sizes=[entries]))
    named(b)
    b.define("RANK", walk.rank)
    b.define("WIDTH", width)
    b.define("NEAREST", nearest)
    b.define("RESAMPLED", len(axes))
    constants(b, "SLOT", [walk.slots[a] for a in axes])
    constants(b, "TAPS", [tables[a].taps if tables[a].taps <= FEW else 0 for a in axes])
    b.type("X", x.dtype)
    b.type("Sum", wide)
    b.view("x", x, walk.strides[0])
    b.output(len(walk.sizes), walk.strides[1], walk.strides[2:])
    results(b, walk.rank, width)
    b.sizes("size", (*walk.sizes[:-1], walk.sizes[-1] // width) if walk.sizes else ())
    b.scalar("total", "idx", prod(walk.sizes) // width)
    b.array("length", "idx", [y.shape[a] for a in axes])
    b.array("taps", "idx", [tables[a].taps for a in axes])
    b.array("step", "idx", [x.strides[a] for a in axes])
    for s, a in enumerate(axes):
        b.pointer(f"position{s}", "const i32", Table(np.ascontiguousarray(tables[a].index), (*tables[a].key, "index")))
    _lookup(b, "position", "i32", len(axes))
    if not nearest:
        for s, a in enumerate(axes):
            b.pointer(f"weight{s}", "const Sum", Table(tables[a].weight.astype(wide), (*tables[a].key, wide.name)))
    _lookup(b, "weight", "Sum", 0 if nearest else len(axes))
    _extrapolation(b, launch, [(walk.slots[a], masks[a]) for a in outside])
    return b.call(-(-(prod(walk.sizes) // width) // VECTORS.threads))


def _lookup(b: Builder, name: str, ctype: str, n: int) -> None:
    """`table_NAME(a, s, entry)`: an entry of the s-th axis' table, where s is a constant after unrolling."""
    choices = "".join(f"s == {s} ? a.{name}{s}[entry] : " for s in range(n - 1))
    text = f"{choices}a.{name}{n - 1}[entry]" if n else "0"
    b.functions.append(f"__forceinline__ {ctype} table_{name}(const Args& a, const int s, const Idx entry) {{ return {text}; }}")


def _extrapolation(b: Builder, launch: Launch, masks: Sequence[tuple[int, AxisTable]]) -> None:
    """`extrapolated(a, c, v)`: is the result outside the cropped region? Then v is the extrapolation value."""
    text = "return false;"
    if masks:
        b.scalar("extrapolation", "f64", float(param(launch, "extrapolation")))
        for s, (_, table) in enumerate(masks):
            assert table.outside is not None
            b.pointer(f"outside{s}", "const bool", Table(table.outside, (*table.key, "outside")))
        test = " || ".join(f"a.outside{s}[{f'c[{slot}]' if slot >= 0 else '0'}]" for s, (slot, _) in enumerate(masks))
        text = (
            f"if (!({test})) return false;\n#pragma unroll\n"
            "  for (int i = 0; i < WIDTH; i++) v[i] = op::cast<Acc, f64>(a.extrapolation);\n  return true;"
        )
    b.functions.append(f"__forceinline__ bool extrapolated(const Args& a, const Idx (&c)[RANK], Value<Acc> (&v)[WIDTH]) {{\n  {text}\n}}")
