"""`gather` in units of up to 16 bytes; `scatter` with every place of y owned by one thread, which applies its updates in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from ....lowering.tensor import Launch, Tensor, row_major
from ...axes import Strides, merge, reach
from ...parameters import param
from ...spec import REDUCTIONS
from ..build import Builder, Call, Pointer, is_wide, operand
from ..manifest import Entry
from ..source import type_of
from .elementwise import map_
from .samples import launch, tensor
from .sorting import Tiles, Workspace, as_units, integer_kind, item_bytes, item_type, merges, need, unit_of, use_items
from .walk import memory_order, results

MANY_LANES = 4096  # free positions that keep a device busy: each applies its updates one after another
FEW_UPDATES = 16  # so few may be applied one after another anyway
AXES = 8  # that the arguments of a scatter have room for at least
OWNED = 128  # up to so many updates find their duplicates by comparing all

GATHER = Entry("gather", "gather.cuh", 256, wide_loads=True)
LANES = Entry("scatter_lanes", "scatter.cuh", 256)
OWNERS = Entry("scatter_owners", "scatter.cuh", 256)
KEYS = Entry("scatter_keys", "scatter_sorted.cuh", 256, registers=96)
RUNS = Entry("scatter_runs", "scatter_sorted.cuh", 256)
COPY = Entry("scatter_copy", "scatter_copy.cuh", 256, wide_loads=True)
ENTRIES = (GATHER, LANES, OWNERS, KEYS, RUNS, COPY)

Part = tuple[int, int, int]  # (axis, size, stride) that a component of an index tuple names


def _parts(b: Builder, numbers: Sequence[int], parts: Sequence[Part], step: int) -> None:
    """What index.cuh reads, and the strides that make the numbers of tuples for its reports."""
    b.array("number_stride", "i64", _padded(numbers))
    b.scalar("part_stride", "idx", step)
    b.scalar("parts", "i32", len(parts))
    b.array("part_axis", "i32", _padded([p[0] for p in parts]))
    b.array("part_size", "idx", _padded([p[1] for p in parts]))
    b.array("part_step", "idx", _padded([p[2] for p in parts]))
    b.status()


# --------------------------------------------------------------------------------------------------------------------------------- gather
def gather(launch: Launch) -> list[Call]:
    """y = x at indices along an axis, element by element, or at tuples of indices."""
    x, index = launch.ins
    assert x is not None and index is not None and launch.outs[0] is not None
    need(integer_kind(index.dtype), "gather", "indices must be int32 or int64")
    mode = param(launch, "mode")
    return [gathered(launch, x, index, operand(index), mode, int(param(launch, "axis")), int(param(launch, "batch_dims")))]


def gathered(launch: Launch, x: Tensor, index: Tensor, pointer: Pointer, mode: str, axis: int, batch: int = 0) -> Call:
    """The call that gathers into output 0 of a launch, with indices at `pointer`; of `index` only shape, strides and dtype matter."""
    y = launch.outs[0]
    assert y is not None
    need(x.dtype == (launch.acc_dtype if launch.epilogue else y.dtype), "gather", "dtypes differ")
    shape, direct, steps, parts, step = _gather_axes(x, index, mode, axis, batch)
    need(tuple(shape) == tuple(y.shape), "gather", "y has the wrong shape")
    blocks = y.ndim - len(steps)
    index_strides = (*steps, *(0,) * blocks)
    outer = index.ndim - (mode == "nd")  # axes of y that are axes of the indices come last of the outer ones
    first = len(steps) - outer
    numbers = (*(0,) * first, *row_major(tuple(shape[first : len(steps)])), *(0,) * blocks)
    epi = [t.strides for t in launch.epi_ins]
    axes = merge(shape, [y.strides, direct, index_strides, numbers, *epi], [memory_order(y)])
    ys, xs, ids, numbers = axes.strides[:4]
    width = _units(axes.sizes, [(y, ys), (x, xs)], ids, parts)
    if launch.epilogue:
        unit = 1
    else:
        unit, width = width, 1
    b = Builder(launch, GATHER, is_wide(x, index, y, *launch.epi_ins))
    b.lines.append('#include "index.cuh"')
    rank = max(1, len(axes.sizes))
    b.define("RANK", rank)
    b.define("WIDTH", width)
    if unit > 1:
        ys, xs = _scaled(ys, unit), _scaled(xs, unit)
        parts = [(a, n, s // unit) for a, n, s in parts]
    kind = unit_of(x.dtype.itemsize * unit)
    b.type("X", x.dtype if launch.epilogue else kind)
    if launch.epilogue:
        b.output(rank, ys, axes.strides[4:], x.dtype)
        results(b, rank, width)
    else:
        b.lines.append("using Acc = X;")
        b.pointer("y_data", type_of(kind), operand(y))
        b.array("y_stride", "idx", ys)
        text = "a.y_data[offset_of(c, a.y_stride)] = v[0];"
        b.functions.append(f"__forceinline__ void store_lot(const Args& a, const Idx (&c)[RANK], const Value<X> (&v)[1]) {{ {text} }}")
    b.pointer("x_data", "const X", operand(x))
    b.array("x_stride", "idx", xs)
    b.define("PARTS", len(parts))
    b.pointer("index_data", f"const {type_of(index.dtype)}", pointer)
    b.array("index_stride", "idx", ids)
    _parts(b, numbers, parts, step)
    sizes = (*axes.sizes[:-1], axes.sizes[-1] // (unit * width)) if axes.sizes else ()
    b.sizes("size", sizes)
    b.scalar("total", "idx", prod(sizes))
    return b.call(-(-prod(sizes) // GATHER.threads))


def _gather_axes(x: Tensor, index: Tensor, mode: str, axis: int, batch: int) -> tuple[list[int], Strides, list[int], list[Part], int]:
    """(shape of y, x's strides over it, the indices' strides over its first axes, components, the stride between components)."""
    if mode == "nd":
        need(index.ndim >= 1 and 0 <= batch < index.ndim and batch <= x.ndim, "gather", "bad batch_dims")
        k = int(index.shape[-1])
        need(k <= x.ndim - batch, "gather", "too many index components")
        need(x.shape[:batch] == index.shape[:batch], "gather", "batch axes differ")
        shape = [*index.shape[:-1], *x.shape[batch + k :]]
        direct = (*x.strides[:batch], *(0,) * (index.ndim - 1 - batch), *x.strides[batch + k :])
        parts = [(a, int(x.shape[a]), int(x.strides[a])) for a in range(batch, batch + k)]
        return shape, direct, [*index.strides[:-1]], parts, int(index.strides[-1])
    axis += x.ndim if axis < 0 else 0
    need(0 <= axis < x.ndim, "gather", "bad axis")
    parts = [(axis, int(x.shape[axis]), int(x.strides[axis]))]
    if mode == "axis":
        shape = [*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]]
        direct = (*x.strides[:axis], *(0,) * index.ndim, *x.strides[axis + 1 :])
        return shape, direct, [*(0,) * axis, *index.strides], parts, 0
    need(index.ndim == x.ndim, "gather", "indices must have the rank of x")
    need(all(i == axis or n <= m for i, (n, m) in enumerate(zip(index.shape, x.shape))), "gather", "indices are larger than x")
    return [*index.shape], tuple([0 if i == axis else s for i, s in enumerate(x.strides)]), [*index.strides], parts, 0


def _units(sizes: Sequence[int], moved: Sequence[tuple[Tensor, Strides]], index_strides: Strides, parts: Sequence[Part]) -> int:
    """How many neighbours along the last axis move at once: as many as make 16 bytes of the wider type, or 1."""
    if not sizes or any(s[-1] != 1 for _, s in moved) or (parts and index_strides[-1] != 0):
        return 1
    width = 16 // max(t.dtype.itemsize for t, _ in moved)
    steps = [s for _, strides in moved for s in strides[:-1]] + [p[2] for p in parts] + [int(t.offset) for t, _ in moved]
    while width > 1 and (sizes[-1] % width or any(s % width for s in steps)):
        width //= 2
    return width


def _scaled(strides: Strides, unit: int) -> Strides:
    """Strides in units of `unit` elements, which the last axis counts one by one."""
    return (*[s // unit for s in strides[:-1]], 1)


# -------------------------------------------------------------------------------------------------------------------------------- scatter
def scatter(launch: Launch) -> list[Call]:
    """y = x, then y[indices] = or op= updates, in the row-major order of the indices."""
    x, index, updates = launch.ins
    y = launch.outs[0]
    assert x is not None and index is not None and updates is not None and y is not None
    mode, axis, reduction = param(launch, "mode"), int(param(launch, "axis")), param(launch, "reduction")
    need(integer_kind(index.dtype), "scatter", "indices must be int32 or int64")
    need(x.shape == y.shape and x.dtype == updates.dtype == y.dtype, "scatter", "x, updates and y do not match")
    need(_defined(y, reduction), "scatter", "this reduction is not defined for this dtype")
    if mode == "elements":
        axis += y.ndim if axis < 0 else 0
        need(0 <= axis < y.ndim and index.shape == updates.shape and index.ndim == y.ndim, "scatter", "bad axis or shapes")
        need(all(i == axis or n <= m for i, (n, m) in enumerate(zip(index.shape, y.shape))), "scatter", "indices are larger than x")
    else:
        need(index.ndim >= 1, "scatter", "bad mode or indices")
        k = int(index.shape[-1])
        need(k <= y.ndim and updates.ndim == index.ndim - 1 + y.ndim - k, "scatter", "updates have the wrong rank")
        need(updates.shape == (*index.shape[:-1], *y.shape[k:]), "scatter", "updates have the wrong shape")
    calls = [] if (x.buffer, x.offset, x.strides) == (y.buffer, y.offset, y.strides) else _copied(launch, x, y)
    return calls + (_Scatter(launch, index, updates, y, mode, axis, REDUCTIONS.index(reduction)).calls() if updates.size else [])


def _defined(y: Tensor, reduction: str) -> bool:
    name = type_of(y.dtype)
    if name in ("c64", "c128"):
        return reduction in ("none", "add", "mul")
    return reduction == "none" or name in ["f32", "f64", "f16", "bf16", "u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "bool"]


def _copied(launch: Launch, x: Tensor, y: Tensor) -> list[Call]:
    """y = x."""
    if x.strides != y.strides:
        units = [as_units(x), as_units(y)]
        return map_(Launch("map", [units[0]], [units[1]], body=(("load", (0,), units[0].dtype),), nodes=launch.nodes))
    axes = merge(y.shape, [y.strides], [memory_order(y)])
    unit = _units(axes.sizes, [(x, axes.strides[0]), (y, axes.strides[0])], (0,) * len(axes.sizes), [])
    b = Builder(launch, COPY, is_wide(x, y))
    kind = type_of(unit_of(x.dtype.itemsize * unit))
    b.pointer("x_data", f"const {kind}", operand(x))
    b.pointer("y_data", kind, operand(y))
    sizes = (*axes.sizes[:-1], axes.sizes[-1] // unit) if axes.sizes else ()
    b.sizes("size", _padded(sizes, 1))
    b.array("stride", "idx", _padded(_scaled(axes.strides[0], unit) if unit > 1 else axes.strides[0]))
    b.scalar("axes", "i32", len(sizes))
    b.scalar("total", "idx", prod(sizes))
    return [b.call(-(-prod(sizes) // COPY.threads))]


class _Scatter:
    """Updates in groups of axes: free ones, along which they never meet, and ordered ones."""

    def __init__(self, launch: Launch, index: Tensor, updates: Tensor, y: Tensor, mode: str, axis: int, reduction: int) -> None:
        self.launch, self.index, self.updates, self.y, self.reduction = launch, index, updates, y, reduction
        self.elements = mode == "elements"
        if self.elements:
            shape, ordered = index.shape, [axis]
            own = [i for i in range(y.ndim) if i != axis]
            steps: list[Strides] = [tuple([0 if i == axis else s for i, s in enumerate(y.strides)]), index.strides, updates.strides]
            steps.append(row_major(tuple(index.shape)))
            self.parts = [(axis, int(y.shape[axis]), int(y.strides[axis]))]
            self.part_stride = 0
        else:
            k, outer = int(index.shape[-1]), index.ndim - 1
            shape, ordered, own = updates.shape, list(range(outer)), list(range(outer, updates.ndim))
            rest = (0,) * (updates.ndim - outer)
            steps = [(*(0,) * outer, *y.strides[k:]), (*index.strides[:-1], *rest), updates.strides]
            steps.append((*row_major(tuple(index.shape[:-1])), *rest))
            self.parts = [(a, int(y.shape[a]), int(y.strides[a])) for a in range(k)]
            self.part_stride = int(index.strides[-1])
        own.sort(key=lambda i: -abs(int(steps[0][i])))
        self.axes = merge(shape, steps, [own, ordered])
        self.free, self.count = prod(self.axes.of(0)), prod(self.axes.of(1))
        lanes = sum(min(0, s * (n - 1)) for s, n in zip(self.axes.strides[0], self.axes.sizes)) if self.elements else 0
        self.bias = -sum(min(0, s * (n - 1)) for _, n, s in self.parts) - lanes
        self.groups = (self.axes.groups[0][1], self.axes.groups[1][1])
        self.unit, self.cut = 1, self.groups[0] - 1  # the axis whose neighbours make a unit
        if reduction == 0 and self.cut >= 0:
            last = self.cut
            order = [i for i in range(len(self.axes.sizes)) if i != last] + [last]
            sizes = [self.axes.sizes[i] for i in order]
            ys, ids, us = (tuple([s[i] for i in order]) for s in self.axes.strides[:3])
            self.unit = _units(sizes, [(y, ys), (updates, us)], ids, self.parts)
        sized = [self.free * self.count, self.bias + reach(y.shape, y.strides)]
        self.wide = is_wide(index, updates, y, sizes=sized)

    def calls(self) -> list[Call]:
        updates, free = self.count, self.free // self.unit
        if updates <= FEW_UPDATES or free >= MANY_LANES:
            return [self._build(LANES, self.groups, free, updates).call(-(-free // LANES.threads))]
        if updates <= OWNED:
            return [self._build(OWNERS, self.groups, free, updates).call(-(-free * updates // OWNERS.threads))]
        return self._sorted()

    def _build(self, entry: Entry, groups: tuple[int, int], free: int, updates: int) -> Builder:
        """What scatter_apply.cuh reads, with `free` positions in the first group of axes and `updates` in the second."""
        unit, count = self.unit, sum(groups)
        kind = unit_of(self.y.dtype.itemsize * unit) if self.reduction == 0 else self.y.dtype
        if self.reduction in (1, 2) and kind.kind == "i":
            kind = unit_of(kind.itemsize)  # sums and products wrap, signed or not
        b = Builder(self.launch, entry, self.wide)
        b.define("REDUCTION", self.reduction)
        b.type("Y", kind)
        sizes = [n // unit if i == self.cut else n for i, n in enumerate(self.axes.sizes)]
        b.sizes("size", _padded(sizes, 1))
        ys, ids, us, numbers = self.axes.strides
        for name, t, strides in (("y", self.y, ys), ("update", self.updates, us)):
            b.pointer(f"{name}_data", type_of(kind), operand(t))
            b.array(f"{name}_stride", "idx", _padded([s if i == self.cut else s // unit for i, s in enumerate(strides)]))
        b.pointer("index_data", f"const {type_of(self.index.dtype)}", operand(self.index))
        b.array("index_stride", "idx", _padded(ids))
        numbers = tuple([s * unit if i == self.cut else s for i, s in enumerate(numbers)])
        _parts(b, numbers, [(a, n, s // unit) for a, n, s in self.parts], self.part_stride)
        b.scalar("axes", "i32", count)
        b.scalar("free_axes", "i32", groups[0])
        b.scalar("free", "idx", free)
        b.sizes("free_size", [free])
        b.scalar("updates", "idx", updates)
        b.scalar("bias", "idx", self.bias // unit)
        return b

    def _sorted(self) -> list[Call]:
        """Keys are places in y, in units, of one update per tuple. Updates are numbered tuple by tuple, or (elements) lane by lane."""
        count = len(self.axes.sizes)
        groups = (0, count) if self.elements else self.groups
        free = self.free // self.unit
        free, total = (1, free * self.count) if self.elements else (free, self.count)
        tiles, work = Tiles(1, total), Workspace()
        item = item_type(8 if self.wide else 4, total)
        source, other = (work.take(tiles.kept * item_bytes(item)) for _ in range(2))
        merged, at = merges(self.launch, item, self.wide, tiles, source, other)
        calls = []
        for entry, grid, threads in ((KEYS, tiles.grid, tiles.threads), (RUNS, -(-total * free // RUNS.threads), RUNS.threads)):
            b = self._build(entry, groups, free, total)
            use_items(b, item)
            b.pointer("from", "const Item", at)
            b.pointer("to", "Item", source)
            tiles.fields(b)
            calls.append(b.call(grid, threads))
        return work.given([calls[0], *merged, calls[1]])


def _padded(values: Sequence[int], neutral: int = 0) -> list[int]:
    """Values per axis for a text that does not depend on how many there are."""
    return [*values, *[neutral] * (AXES - len(values))]


# -------------------------------------------------------------------------------------------------------------------------------- samples
def samples() -> Iterator[tuple[Entry, str, Launch]]:
    """Launches that stand for each kernel."""
    rows = [tensor((1000, 64)), tensor((64, 32), "int64")]
    yield GATHER, "rows of 256 bytes", launch("gather", rows, (64, 32, 64), mode="axis")
    halves = [tensor((1000, 64), "float16"), tensor((64, 32), "int64")]
    yield GATHER, "rows of float16, scaled", launch("gather", halves, (64, 32, 64), "float16", epilogue=lambda acc: acc * 0.5, mode="axis")
    for mode, reduction, shapes in (
        ("nd", "none", ((512, 64), (4, 1), (4, 64))),
        ("elements", "add", ((64, 4096), (16, 4096), (16, 4096))),
    ):
        ins = [tensor(shapes[0]), tensor(shapes[1], "int64"), tensor(shapes[2])]
        yield LANES, f"{mode}, {reduction}", launch("scatter", ins, shapes[0], mode=mode, reduction=reduction)
    ins = [tensor((512, 64)), tensor((100, 1), "int64"), tensor((100, 64))]
    yield OWNERS, "100 rows", launch("scatter", ins, (512, 64), mode="nd", reduction="add")
    for dtype in ("float32", "float16"):
        ins = [tensor((4096,), dtype), tensor((9000,), "int64"), tensor((9000,), dtype)]
        yield KEYS, dtype, launch("scatter", ins, (4096,), dtype, mode="elements", reduction="add")
