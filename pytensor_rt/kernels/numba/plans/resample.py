"""`resample`: tables of taps per axis; lines along one axis, for which the others are combined on the way, or passes over one axis each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ....dtypes import BOOL, F32, F64, DType, is_float, is_int
from ....errors import UnsupportedError
from ....lowering.tensor import Launch, Tensor
from ...parameters import param
from ..build import Builder, Fn, Table, View, Word, f64, view
from . import edges
from .resample_table import AxisTable
from .windows import dense, memory_order

Array = np.ndarray[Any, Any]
READABLE = {
    "float32", "float64", "float16", "bfloat16", "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"
}  # fmt: skip
COMBINED = 16  # lines of x that one line of y may be combined from where more than two axes are resampled
UNIT = 8192  # elements of y a unit writes, at least
LINE = 65536  # elements of a line in scratch, where its width can be divided


def plan(b: Builder) -> None:
    """The calls of a resample launch."""
    x, y = b.launch.ins[0], b.launch.outs[0]
    assert x is not None and y is not None
    tables = _tables(b.launch, x, y)
    if not tables:
        edges.finish(b, view(x))
    elif b.launch.params["op"] == "nearest":
        _nearest(b, view(x), view(y), tables)
    else:
        _interpolate(b, x, y, tables)


def _tables(launch: Launch, x: Tensor, y: Tensor) -> dict[int, AxisTable]:
    """The tables of all axes that are resampled."""
    scales, roi = launch.params["scales"], param(launch, "roi") or ()
    crop = param(launch, "coordinates") == "tf_crop_and_resize"
    if x.ndim == 0 or y.ndim != x.ndim or len(scales) != x.ndim or (crop and len(roi) != 2 * x.ndim) or x.dtype.kind == "O":
        raise UnsupportedError("resample: parameters do not match x")
    out = {}
    for axis, (n, m) in enumerate(zip(x.shape, y.shape)):
        whole = not crop or (roi[axis] == 0 and roi[x.ndim + axis] == 1)
        if scales[axis] == 1 and n == m and whole:
            continue
        if not scales[axis] > 0 or (n == 0 and m > 0):
            raise UnsupportedError("resample: bad scale")
        out[axis] = AxisTable(launch, axis, int(n), int(m))
    if x.dtype.kind == "c" and (launch.params["op"] != "nearest" or any(t.outside.size for t in out.values())):
        raise UnsupportedError(f"resample: {x.dtype} takes nearest, without extrapolation")
    return out


@dataclass
class _Layout:
    """Which axis lines run along, the axis of their width if they have one, the others from the slowest to the fastest in y."""

    line: int
    width: int | None
    outer: list[int]


def _layout(x: View, y: View, touched: Sequence[int], both: bool) -> _Layout:
    """Lines along the resampled axis that is fastest in x, as wide as an axis that is not resampled and contiguous (in y too, if `both`)."""
    rank = len(x.shape)
    wide = [a for a in range(rank) if a not in touched and x.shape[a] > 1 and x.strides[a] == 1 and (not both or y.strides[a] == 1)]
    line = min(touched, key=lambda a: (x.shape[a] == 1, abs(x.strides[a]), -a))
    width = wide[0] if wide else None
    return _Layout(line, width, [a for a in memory_order(y) if a not in (line, width)])


def _flags(outside: Array, n: int) -> Word:
    """A table of what is extrapolated along an axis; 0 if nothing is."""
    if not outside.size:
        return 0
    flags = np.zeros(n, np.uint8)
    flags[outside] = 1
    return Table(flags)


# ---------------------------------------------------------------------------------------------------------------------------------- nearest
def _nearest(b: Builder, x: View, y: View, tables: dict[int, AxisTable]) -> None:
    direct = not b.launch.epilogue and y.dtype == x.dtype
    dtype, shape = x.dtype, y.shape
    value = np.zeros(1, np.int64)
    item = dtype.itemsize
    if any(t.outside.size for t in tables.values()):
        value.view(np.uint8)[:item] = np.asarray([param(b.launch, "extrapolation")]).astype(dtype).view(np.uint8)[:item]
    if item == 16:  # two halves
        if not direct:
            raise UnsupportedError(f"resample: {dtype} takes no epilogue")
        item = 8
        x = View(x.address, F64, (*x.shape, 2), (*[2 * s for s in x.strides], 1))
        y = View(y.address, F64, (*y.shape, 2), (*[2 * s for s in y.strides], 1))
    lay = _layout(x, y, list(tables), both=direct)
    n = y.shape[lay.width] if lay.width is not None else 1
    t = tables[lay.line]
    out = y.shape[lay.line]
    rows = prod(y.shape[a] for a in lay.outer)
    tall = max(1, min(rows, UNIT // max(1, out * n)))
    program, done = None, None
    if not direct:
        cols = [lay.line] if lay.width is None else [lay.width]
        program, done = edges.rows_out(b, dtype, shape, [*lay.outer, *([] if lay.width is None else [lay.line])], cols)
    scratch, step = b.slots(0 if direct else tall * out * n * item)
    words: list[Word] = [
        x.address, y.address if direct else 0, program if program is not None else 0, Fn("box.run"), scratch, step, rows, tall, len(lay.outer), out,
        y.strides[lay.line], n, 1 if lay.width is None else x.strides[lay.width], 1 if lay.width is None else y.strides[lay.width],
        Table(t.index[:, 0] * x.strides[lay.line]), Table(t.outside.astype(np.int64)), t.outside.size, int(value[0]),
    ]  # fmt: skip
    for a in lay.outer:
        u = tables.get(a)
        if u is None:
            words += [y.shape[a], x.strides[a], y.strides[a], 0, 0]
        else:
            words += [y.shape[a], 0, y.strides[a], Table(u.index[:, 0] * x.strides[a]), _flags(u.outside, y.shape[a])]
    cost = rows * out * (1.0 if n == 1 else 2.0 + 0.05 * n * item)
    b.call(f"resample.nearest[{item}]", words, -(-rows // tall), cost)
    if done is not None:
        done()


# ------------------------------------------------------------------------------------------------------------------------- linear and cubic
def _interpolate(b: Builder, x: Tensor, y: Tensor, tables: dict[int, AxisTable]) -> None:
    acc = F32 if is_float(x.dtype) and x.dtype != F64 else F64
    source = view(x)
    if x.dtype.name not in READABLE:
        source = edges.settled(b, edges.of_view(source, acc), memory_order(source))
    left = dict(tables)
    while len(left) > 2:
        line = _layout(source, source, list(left), both=False).line
        if prod(t.taps for a, t in left.items() if a != line) <= COMBINED:
            break
        axis = min(left, key=lambda a: (y.shape[a] / source.shape[a], a))  # what shrinks most
        source = _readable_lines(b, source, [axis], acc)
        width = _layout(source, source, [axis], both=False).width
        inner = axis if width is None else width
        shape = [int(y.shape[a]) if a == axis else n for a, n in enumerate(source.shape)]
        target = dense(b, acc, shape, [*[a for a in memory_order(source) if a != inner], inner])
        _pass(b, source, target, {axis: left.pop(axis)}, {}, acc, final=False)
        source = target
    _pass(b, source, view(y), left, {a: t.outside for a, t in tables.items()}, acc, final=True)


def _readable_lines(b: Builder, x: View, touched: Sequence[int], acc: DType) -> View:
    """x, or a copy of it: lines along one of the axes `touched` have contiguous elements, or rows of them."""
    lay = _layout(x, x, touched, both=False)
    if lay.width is not None or x.strides[lay.line] == 1 or x.shape[lay.line] == 1:
        return x
    return edges.settled(b, edges.of_view(x, acc), [*[a for a in memory_order(x) if a != lay.line], lay.line])


def _pass(b: Builder, x: View, y: View, tables: dict[int, AxisTable], outside: dict[int, Array], acc: DType, final: bool) -> None:
    """y = x resampled along the axes of `tables`; a final pass extrapolates and goes through the epilogue."""
    x = _readable_lines(b, x, list(tables), acc)
    lay = _layout(x, y, list(tables), both=False)
    line, vectors = lay.line, lay.width is not None
    inner = lay.width if lay.width is not None else line
    direct = (not final or edges.is_plain(b.launch, acc)) and (y.strides[inner] == 1 or y.shape[inner] == 1)
    t, n_in, n_out = tables[line], x.shape[line], y.shape[line]
    width = y.shape[lay.width] if lay.width is not None else 1
    room = max(n_in, n_out)
    part = width if width * room <= LINE else min(width, max(64, LINE // room // 64 * 64))
    rows = prod(y.shape[a] for a in lay.outer)
    tall = max(1, min(rows, UNIT // max(1, n_out * part)))
    most = prod(u.taps for a, u in tables.items() if a != line)
    program, done = None, None
    if not direct:
        row_axes = [*lay.outer, line] if vectors else lay.outer
        program, done = edges.rows_out(b, acc, y.shape, row_axes, [inner])
    size = acc.itemsize
    list_bytes = -(-24 * most // 64) * 64
    line_bytes = -(-n_in * part * size // 64) * 64
    scratch, step = b.slots(list_bytes + line_bytes + (0 if direct else tall * n_out * part * size))
    own = b.launch.acc_dtype if b.launch.acc_dtype is not None else acc
    low, high = _range(own) if final else (0, 0)
    weights, index = t.weight.astype(acc), t.index
    ends = outside.get(line, np.zeros(0, np.int64)).astype(np.int64)
    words: list[Word] = [
        x.address, y.address if direct else 0, program if program is not None else 0, Fn("box.run"), scratch, step, rows, tall, len(lay.outer),
        n_in, n_out, x.strides[line], y.strides[line], width, part, t.taps,
        Table(np.ascontiguousarray(index if vectors else index.T)), Table(np.ascontiguousarray(weights if vectors else weights.T)),
        Table(ends), ends.size, f64(float(param(b.launch, "extrapolation"))), int(high > low), f64(low), f64(high), most, list_bytes,
        list_bytes + line_bytes, 0,
    ]  # fmt: skip
    for a in lay.outer:
        u = tables.get(a)
        flags = _flags(outside[a], y.shape[a]) if a in outside else 0
        if u is None:
            words += [y.shape[a], x.strides[a], y.strides[a], 0, 0, 0, flags]
        else:
            words += [y.shape[a], 0, y.strides[a], u.taps, Table(u.index * x.strides[a]), Table(u.weight), flags]
    each = 0.1 * most * n_in * width + (0.1 if vectors else 0.7) * t.taps * n_out * width
    name = "bool" if x.dtype == BOOL else x.dtype.name
    b.call(f"resample.lines[:{name},{acc.name},{int(vectors)}]", words, -(-rows // tall) * -(-width // part), rows * (20 + each))
    if done is not None:
        done()


def _range(dtype: DType) -> tuple[float, float]:
    """What results of an integer dtype are clamped to, as cubic interpolation overshoots; (0, 0) for others."""
    if not is_int(dtype) or dtype.itemsize > 4:
        return 0.0, 0.0
    if dtype.kind == "V":
        bits = 2 if dtype.name.endswith("2") else 4
        unsigned = dtype.name.startswith("u")
        return (0.0, 2.0**bits - 1) if unsigned else (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
    info = np.iinfo(dtype)
    return float(info.min), float(info.max)
