"""Kernels `gather` and `scatter`: indices are checked, then elements are moved or updated as raw bits."""

from __future__ import annotations

from math import prod

from ....dtypes import DType, is_float
from ....lowering.tensor import Tensor
from ...axes import merge
from ...parameters import param
from ..build import Block, Builder, Fn, Word, view
from . import edges
from .moves import UNIT, Part, Place, is_index, listed, memory_order, merged, move, need, nest, part, place, scaled, scan

TILE = 4096  # elements gathered before the epilogue sees them
LANES = 8192  # updates of a unit of work

REDUCIBLE = (
    "float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool",
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------------------- gather
def gather(b: Builder) -> None:
    """y = x at indices along an axis, element by element, or at tuples of indices."""
    x, index = b.launch.ins
    y = b.launch.outs[0]
    assert x is not None and index is not None and y is not None
    mode, axis, batch = param(b.launch, "mode"), int(param(b.launch, "axis")), int(param(b.launch, "batch_dims"))
    need(is_index(index), "gather", "indices must be int32 or int64")
    need(x.dtype == (b.launch.acc_dtype if b.launch.epilogue else y.dtype), "gather", "dtypes differ")
    item = x.dtype.itemsize
    xs = scaled(x.strides, item)
    shape, direct, first, parts = _gather_axes(x, index, mode, axis, batch)
    need(tuple(shape) == tuple(y.shape), "gather", "y has the wrong shape")
    tuples = mode == "nd"
    taken = tuple(index.shape[:-1] if tuples else index.shape)  # axes of y from `first` on
    behind = (0,) * (y.ndim - first - len(taken))
    over_x = tuple([xs[a] if a >= 0 else 0 for a in direct])
    if not b.launch.epilogue and len(parts) == 1 and prod(taken) == y.size:
        between = index.strides[:-1] if tuples else index.strides
        over_index = (*(0,) * first, *scaled(between, index.dtype.itemsize), *behind)
        _each(b, index, parts, tuples, Place(view(x).address, over_x), over_index, item)
        return
    address, strides = listed(b, index, parts, tuples)
    source, offsets = Place(view(x).address, over_x), Place(address, (*(0,) * first, *strides, *behind))
    if not b.launch.epilogue:
        move(b, shape, item, source, place(view(y)), offsets)
    elif x.dtype.name != "bfloat16" and (x.dtype.kind == "V" or (is_float(x.dtype) and item == 1)):
        held = b.temporary(x.dtype, shape)  # the machine loads these by table, which it cannot from its accumulator
        move(b, shape, item, source, place(held), offsets)
        edges.finish(b, held)
    else:
        _tiles(b, x.dtype, shape, source, offsets)


def _gather_axes(x: Tensor, index: Tensor, mode: str, axis: int, batch: int) -> tuple[list[int], list[int], int, list[Part]]:
    """(shape of y, the axis of x that every axis of y walks directly or -1, the first axis of y that walks the indices, components)."""
    if mode == "nd":
        need(index.ndim >= 1 and 0 <= batch < index.ndim and batch <= x.ndim, "gather", "bad batch_dims")
        k = int(index.shape[-1])
        need(k <= x.ndim - batch, "gather", "too many index components")
        need(x.shape[:batch] == index.shape[:batch], "gather", "batch axes differ")
        shape = [*index.shape[:-1], *x.shape[batch + k :]]
        direct = [*range(batch), *[-1] * (index.ndim - 1 - batch), *range(batch + k, x.ndim)]
        return [int(n) for n in shape], direct, 0, [part(x, a) for a in range(batch, batch + k)]
    axis += x.ndim if axis < 0 else 0
    need(0 <= axis < x.ndim, "gather", "bad axis")
    if mode == "axis":
        shape = [*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]]
        direct = [*range(axis), *[-1] * index.ndim, *range(axis + 1, x.ndim)]
        return [int(n) for n in shape], direct, axis, [part(x, axis)]
    need(index.ndim == x.ndim, "gather", "indices must have the rank of x")
    need(all(i == axis or n <= m for i, (n, m) in enumerate(zip(index.shape, x.shape))), "gather", "indices are larger than x")
    return [int(n) for n in index.shape], [-1 if i == axis else i for i in range(x.ndim)], 0, [part(x, axis)]


def _each(b: Builder, index: Tensor, parts: list[Part], tuples: bool, x: Place, over_index: tuple[int, ...], item: int) -> None:
    """Every index moves one element. On one thread it is checked as it is used, else before."""
    y = b.launch.outs[0]
    assert y is not None
    fn, words = scan(index, parts, tuples)
    if b.threads > 1:
        b.call(fn, words, 1, 0.3 * y.size)
        words = [0]
    ys = scaled(y.strides, item)
    steps = merged(y.shape, x.strides, over_index, ys, order=memory_order(ys))
    chunk, n = UNIT // 8, int(y.size)
    given: list[Word] = [
        x.address,
        view(index).address,
        view(y).address,
        steps,
        n,
        chunk,
        parts[0].size,
        parts[0].step,
        Fn(fn),
        Block(words),
    ]
    b.call(f"moves.each[{item},{index.dtype.name}]", given, -(-n // chunk), 1.5 * n)


def _tiles(b: Builder, dtype: DType, shape: list[int], x: Place, offsets: Place) -> None:
    """Gathered tiles, taken through the epilogue."""
    launch = b.launch
    y = launch.outs[0]
    assert y is not None
    program, operands, out = edges.epilogue(launch, dtype)
    aliased = any(b.overlaps(t, y) for t in launch.epi_ins)
    rank = len(shape)
    for first in range(max(1, rank)):  # as many of the last axes as the operands see as one
        rows, cols = range(first), range(first, rank)
        found = edges.rows_of(program, operands, view(y), out, shape, rows, cols, acc=dtype, in_place=aliased)
        if found is not None:
            break
    assert found is not None
    R, C = prod(shape[:first]), prod(shape[first:])
    wide = min(C, TILE)
    tall = max(1, TILE // wide)
    units = -(-R // tall) * -(-C // wide)
    slots, step = b.slots(TILE * dtype.itemsize)
    words: list[Word] = [
        x.address, offsets.address, merged(shape, x.strides, offsets.strides), found, Fn("box.run"), R, C, tall, wide, slots, step,
    ]  # fmt: skip
    b.call(f"moves.tiles[{dtype.itemsize}]", words, units, R * C * (1.0 + 0.15 * len(program)))


# --------------------------------------------------------------------------------------------------------------------------------- scatter
def scatter(b: Builder) -> None:
    """y = x, then y[indices] = or op= updates, in the row-major order of the indices."""
    x, index, updates = b.launch.ins
    y = b.launch.outs[0]
    assert x is not None and index is not None and updates is not None and y is not None
    mode, axis, reduction = param(b.launch, "mode"), int(param(b.launch, "axis")), param(b.launch, "reduction")
    need(is_index(index), "scatter", "indices must be int32 or int64")
    need(x.shape == y.shape and x.dtype == updates.dtype == y.dtype, "scatter", "x, updates and y do not match")
    need(_defined(y.dtype, reduction), "scatter", "this reduction is not defined for this dtype")
    if mode == "elements":
        axis += y.ndim if axis < 0 else 0
        need(0 <= axis < y.ndim and index.shape == updates.shape and index.ndim == y.ndim, "scatter", "bad axis or shapes")
        need(all(i == axis or n <= m for i, (n, m) in enumerate(zip(index.shape, y.shape))), "scatter", "indices are larger than x")
    else:
        need(mode == "nd" and index.ndim >= 1, "scatter", "bad mode or indices")
        k = int(index.shape[-1])
        need(k <= y.ndim and updates.ndim == index.ndim - 1 + y.ndim - k, "scatter", "updates have the wrong rank")
        need(tuple(updates.shape) == (*index.shape[:-1], *y.shape[k:]), "scatter", "updates have the wrong shape")
    move(b, [int(n) for n in y.shape], y.dtype.itemsize, place(view(x)), place(view(y)), in_place=b.overlaps(x, y))
    if not updates.size:
        return
    if mode == "elements":
        _scatter_elements(b, index, updates, y, axis, reduction)
    else:
        _scatter_nd(b, index, updates, y, reduction)


def _defined(dtype: DType, reduction: str) -> bool:
    if dtype.kind == "c":
        return reduction in ("none", "add", "mul")
    return reduction == "none" or dtype.name in REDUCIBLE


def _apply(kind: str, dtype: DType, reduction: str) -> Fn:
    """The function that applies updates to a list of places (`points`) or along a run (`run`)."""
    if reduction == "none":
        return Fn(f"scatter_ops.set_{kind}[{dtype.itemsize}]")
    return Fn(f"scatter_ops.{kind}[:{dtype.name},:{reduction}]")


def _scatter_elements(b: Builder, index: Tensor, updates: Tensor, y: Tensor, axis: int, reduction: str) -> None:
    """Updates meet along the axis only: the lanes across it are divided among threads."""
    e, ei = y.dtype.itemsize, index.dtype.itemsize
    ys, ids, us = scaled(y.strides, e), scaled(index.strides, ei), scaled(updates.strides, e)
    own = [i for i in memory_order(ys) if i != axis]
    axes = merge(index.shape, [ys, ids, us], [own])
    lanes, along = prod(axes.sizes), int(index.shape[axis])
    last = axes.sizes[-1] if axes.sizes else 1
    inner = last > 1 and (along < 8 or abs(axes.strides[1][-1]) <= abs(ids[axis]))
    target = part(y, axis)
    fn, words = scan(index, [target], False)
    if b.threads > 1:
        b.call(fn, words, 1, 0.3 * lanes * along)
        words = [0]
    chunk = max(1, LANES // along)
    b.call(f"scatter.elements[{index.dtype.name}]", [
        view(y).address, view(index).address, view(updates).address, nest(axes.sizes, axes.strides), lanes, chunk, along, ids[axis], us[axis],
        target.size, target.step, _apply("points", y.dtype, reduction), Fn(fn), Block(words), int(inner),
    ], -(-lanes // chunk), 2.0 * lanes * along)  # fmt: skip


def _scatter_nd(b: Builder, index: Tensor, updates: Tensor, y: Tensor, reduction: str) -> None:
    """Every tuple of indices updates a block: its elements are divided among threads."""
    e, k, outer = y.dtype.itemsize, int(index.shape[-1]), index.ndim - 1
    address, _ = listed(b, index, [part(y, a) for a in range(k)], True)
    ys, us = scaled(y.strides, e), scaled(updates.strides, e)
    rows = merged(updates.shape[:outer], us[:outer])
    count = prod(map(int, updates.shape[:outer]))
    shape, inner = [int(n) for n in y.shape[k:]], us[outer:]
    block = merge(shape, [ys[k:], inner], [memory_order(ys[k:])])
    size = prod(block.sizes)
    data: list[Word] = [view(y).address, view(updates).address, address, rows, count]
    if size == 1:
        b.call("scatter.places", [*data, _apply("points", y.dtype, reduction)], 1, 2.0 * count)
        return
    chunk = max(1, UNIT // e)
    words = [*data, nest(block.sizes, block.strides), size, chunk, _apply("run", y.dtype, reduction)]
    b.call("scatter.blocks", words, -(-size // chunk), count * size * 0.5)
