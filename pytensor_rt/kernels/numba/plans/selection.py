"""Kernels `nonzero`, `compress`, `unique`, `topk` and `nms`."""

from __future__ import annotations

import struct
from math import prod

from ....dtypes import BOOL, F32, I64, DType, is_float
from ....lowering.tensor import Tensor
from ...axes import merge
from ...parameters import param
from ..build import Builder, Fn, Status, Word, byte_strides, view
from .moves import Place, merged, move, need, nest, place, scaled

CHUNK = 1 << 14  # elements that nonzero counts as one
BLOCK = 16  # of jit/nms.py
SHORT, PART = 16, 64  # of jit/topk.py

ORDERED = (
    "float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool",
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------------ nonzero, compress
def nonzero(b: Builder) -> None:
    """The coordinates of the elements that are not zero, in row-major order."""
    x, y = b.launch.ins[0], b.launch.outs[0]
    assert x is not None and y is not None
    need(y.dtype == I64 and y.ndim == 2 and y.shape[0] == x.ndim, "nonzero", "y must be int64 [rank, n]")
    need(x.dtype.name != "float8_e8m0fnu", "nonzero", "this dtype has no zero")
    item, n = x.dtype.itemsize, int(x.size)
    chunks = -(-n // CHUNK)
    counts = b.scratch(8 * (chunks + 1))
    elements: list[Word] = [view(x).address, merged(x.shape, scaled(x.strides, item)), n, CHUNK, _mask(x.dtype), counts]
    b.call(f"select.count[{item}]", elements, chunks, n * (0.05 + item * 0.1))
    b.call("select.starts", [Status(), counts, chunks, int(y.shape[1])])
    b.call(f"select.write[{item}]", [*elements, view(y).address, *byte_strides(view(y)), x.ndim, *map(int, x.shape)], chunks, n * 0.7)


def _mask(dtype: DType) -> int:
    """The bits of which one is set in whatever is not zero: all but the sign of floats that have a negative zero."""
    if dtype.name in ("complex64", "complex128"):
        return 0x7FFFFFFF7FFFFFFF if dtype.itemsize == 8 else (1 << 63) - 1
    mask = (1 << 8 * dtype.itemsize) - 1
    if not is_float(dtype) or dtype.name.endswith("fnuz"):
        return mask
    return 7 if dtype.name == "float4_e2m1fn" else mask >> 1


def compress(b: Builder) -> None:
    """y = the slices of x that a condition selects: their offsets are listed, then they are moved."""
    x, condition = b.launch.ins
    y = b.launch.outs[0]
    assert x is not None and condition is not None and y is not None
    need(condition.dtype == BOOL and condition.ndim == 1, "compress", "condition must be bool [n]")
    need(x.dtype == y.dtype and x.ndim == y.ndim, "compress", "x and y do not match")
    axis = int(param(b.launch, "axis"))
    axis += x.ndim if axis < 0 else 0
    need(0 <= axis < x.ndim and condition.shape[0] <= x.shape[axis], "compress", "condition is longer than the axis")
    need(all(i == axis or n == m for i, (n, m) in enumerate(zip(x.shape, y.shape))), "compress", "y has the wrong shape")
    item, room, n = x.dtype.itemsize, int(y.shape[axis]), int(condition.shape[0])
    listed = b.scratch(8 * (room + 1))
    source = scaled(x.strides, item)
    b.call("select.selected", [Status(), view(condition).address, *byte_strides(view(condition)), n, listed, source[axis], room], 1, n)
    direct = tuple([0 if i == axis else s for i, s in enumerate(source)])
    offsets = Place(listed, tuple([8 * (i == axis) for i in range(x.ndim)]))
    move(b, [int(m) for m in y.shape], item, Place(view(x).address, direct), place(view(y)), offsets)


# -------------------------------------------------------------------------------------------------------------------------------- ordering
def _key_type(dtype: DType, n: int) -> str:
    """Keys and positions are 32 bits long where that is enough."""
    return "uint32" if dtype.itemsize <= 4 and n < 1 << 32 else "uint64"


def topk(b: Builder) -> None:
    """The k largest or smallest values along an axis, best first, and where they are."""
    x, (values, indices) = b.launch.ins[0], b.launch.outs
    assert x is not None and values is not None and indices is not None
    axis, k, largest = int(param(b.launch, "axis")), int(param(b.launch, "k")), int(bool(param(b.launch, "largest")))
    axis += x.ndim if axis < 0 else 0
    need(values.dtype == x.dtype and indices.dtype == I64 and values.shape == indices.shape, "topk", "x, values and indices do not match")
    need(values.ndim == x.ndim and 0 <= axis < x.ndim, "topk", "bad axis")
    n = int(x.shape[axis])
    need(0 <= k <= n and values.shape[axis] == k, "topk", "k does not fit")
    own = [i for i in range(x.ndim) if i != axis]
    need(all(x.shape[i] == values.shape[i] for i in own), "topk", "outputs have the wrong shape")
    need(x.dtype.name in ORDERED, "topk", "this dtype has no order")
    item, key = x.dtype.itemsize, _key_type(x.dtype, n)
    steps = [scaled(x.strides, item), scaled(values.strides, item), scaled(indices.strides, 8)]
    axes = merge(x.shape, steps, [own])
    lanes = prod(axes.sizes)
    room = k if k <= SHORT else min(n, 2 * k + 16 * PART)
    size = 8 if key == "uint64" else 4
    slots, step = b.slots(4 * room * size)
    chunk = max(1, CHUNK // max(1, n))
    b.call(f"topk.lanes[{key}]", [
        view(x).address, view(values).address, view(indices).address, nest(axes.sizes, axes.strides), lanes, chunk, n, k,
        *[s[axis] for s in steps], item, Fn(f"keys.load[:{x.dtype.name},{key}]"), largest, item, slots, step, room,
    ], -(-lanes // chunk), lanes * (1.0 * n + 10.0 * k))  # fmt: skip


def unique(b: Builder) -> None:
    """The distinct values of a vector, their first positions and numbers, and which one each element is."""
    x, outs = b.launch.ins[0], b.launch.outs
    y, first, inverse, counts, total = outs
    assert x is not None and y is not None and first is not None and inverse is not None and counts is not None and total is not None
    need(x.ndim == 1 and y.dtype == x.dtype and x.shape == y.shape, "unique", "x and y must be [n]")
    need(all(t.dtype == I64 and t.shape == x.shape for t in (first, inverse, counts)), "unique", "outputs must be int64 [n]")
    need(total.dtype == I64 and total.shape == (1,), "unique", "n must be int64 [1]")
    need(x.dtype.name in ORDERED, "unique", "this dtype has no order")
    n, item = int(x.shape[0]), x.dtype.itemsize
    key = _key_type(x.dtype, n)
    vectors: list[Tensor] = [x, y, first, inverse, counts]
    scratch = b.scratch(4 * n * (8 if key == "uint64" else 4))
    b.call(f"unique.run[{key}]", [
        *[view(t).address for t in (*vectors, total)], *[byte_strides(view(t))[0] for t in vectors], n, item,
        Fn(f"keys.load[:{x.dtype.name},{key}]"), item, scratch, int(bool(param(b.launch, "sorted"))),
    ], 1, 20.0 * n)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------------------------- nms
def nms(b: Builder) -> None:
    """ONNX NonMaxSuppression."""
    boxes, scores = b.launch.ins
    selected, total = b.launch.outs
    assert boxes is not None and scores is not None and selected is not None and total is not None
    need(boxes.dtype == F32 and scores.dtype == F32, "nms", "boxes and scores must be float")
    need(boxes.ndim == 3 and scores.ndim == 3 and boxes.shape[2] == 4, "nms", "boxes must be [B, S, 4] and scores [B, C, S]")
    need(boxes.shape[0] == scores.shape[0] and boxes.shape[1] == scores.shape[2], "nms", "boxes and scores do not match")
    need(selected.dtype == I64 and selected.ndim == 2 and selected.shape[1] == 3, "nms", "selected must be int64 [capacity, 3]")
    need(total.dtype == I64 and total.shape == (1,), "nms", "n must be int64 [1]")
    batches, classes, spatial = (int(n) for n in scores.shape)
    need(spatial < 1 << 31, "nms", "too many boxes")
    most = max(0, min(int(param(b.launch, "max_per_class")), spatial))
    tasks = batches * classes
    picked, counts = b.scratch(4 * tasks * most), b.scratch(8 * tasks)
    slots, step = b.slots(16 * spatial + 20 * (most + BLOCK))
    b.call("nms.select", [
        view(boxes).address, view(scores).address, *byte_strides(view(boxes)), *byte_strides(view(scores)), max(1, classes), spatial, most,
        int(bool(param(b.launch, "center_point_box"))), _f32(param(b.launch, "iou_threshold")), int(bool(param(b.launch, "has_score_threshold"))),
        _f32(param(b.launch, "score_threshold")), picked, counts, slots, step,
    ], tasks, tasks * spatial * 20.0)  # fmt: skip
    b.call("nms.join", [
        Status(), picked, counts, tasks, most, max(1, classes), view(selected).address, *byte_strides(view(selected)), int(selected.shape[0]),
        view(total).address,
    ])  # fmt: skip


def _f32(x: float) -> int:
    """A float32's bits."""
    return int(struct.unpack("<i", struct.pack("<f", float(x)))[0])
