"""`nonzero` and `compress` by numbering flagged elements in order; `topk`, `unique` and `nms` by sorting."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from ....dtypes import BOOL, C64, F32, I64, is_float
from ....lowering.tensor import CONST, Buffer, Launch, Tensor
from ...axes import merge
from ...parameters import param
from ..build import Builder, Call, Pointer, is_wide, operand
from ..manifest import Entry
from ..source import type_of
from .indexing import gathered
from .samples import launch, tensor
from .sorting import (
    MERGE,
    TILE,
    Tiles,
    Workspace,
    as_units,
    item_bytes,
    item_type,
    key_function,
    merges,
    need,
    use_items,
)

CHUNKS = 1024  # of a numbering, at most: as many as a block adds up quickly
STEP = 1024  # elements that a block numbers at once
ONE_BLOCK = 4096  # elements up to which unique needs no more than one block after sorting
SHRINKING = TILE // 4  # topk keeps at most so many of a tile

COUNT = Entry("nonzero_count", "nonzero.cuh", 256)
WRITE = Entry("nonzero_write", "nonzero.cuh", 256)
TOPK_TILES = Entry("topk_tiles", "topk.cuh", 256, registers=96)
TOPK_WRITE = Entry("topk_write", "topk.cuh", 256)
UNIQUE_TILES = Entry("unique_tiles", "unique.cuh", 256, registers=96)
UNIQUE_STEPS = Entry("unique_steps", "unique.cuh", 256)
NMS_TILES = Entry("nms_tiles", "nms.cuh", 256, registers=80)
NMS_SELECT = Entry("nms_select", "nms.cuh", 256)
NMS_JOIN = Entry("nms_join", "nms.cuh", 256)
ENTRIES = (COUNT, WRITE, TOPK_TILES, TOPK_WRITE, UNIQUE_TILES, UNIQUE_STEPS, NMS_TILES, NMS_SELECT, NMS_JOIN, MERGE)


def _chunks(n: int) -> tuple[int, int]:
    """(elements of a chunk, chunks) of a numbering."""
    steps = max(1, -(-n // STEP))
    each = -(-steps // CHUNKS)
    return each * STEP, -(-steps // each)


# -------------------------------------------------------------------------------------------------------------------- nonzero, compress
def nonzero(launch: Launch) -> list[Call]:
    """The coordinates of the elements that are not zero."""
    x, y = launch.ins[0], launch.outs[0]
    assert x is not None and y is not None
    need(y.dtype == I64 and y.ndim == 2 and y.shape[0] == x.ndim, "nonzero", "y must be int64 [rank, n]")
    need(type_of(x.dtype) != "f8e8m0fnu", "nonzero", "this dtype has no zero")
    work = Workspace()
    return work.given(_numbered(launch, work, x, operand(y), (int(y.strides[0]), int(y.strides[1])), int(y.shape[1])))


def compress(launch: Launch) -> list[Call]:
    """y = the slices of x that a condition selects: its positions are listed, then gathered."""
    x, condition = launch.ins
    y = launch.outs[0]
    assert x is not None and condition is not None and y is not None
    need(condition.dtype == BOOL and condition.ndim == 1, "compress", "condition must be bool [n]")
    need(x.dtype == y.dtype and x.ndim == y.ndim, "compress", "x and y do not match")
    axis = int(param(launch, "axis"))
    axis += x.ndim if axis < 0 else 0
    need(0 <= axis < x.ndim and condition.shape[0] <= x.shape[axis], "compress", "condition is longer than the axis")
    need(all(i == axis or n == m for i, (n, m) in enumerate(zip(x.shape, y.shape))), "compress", "y has the wrong shape")
    room = int(y.shape[axis])
    work = Workspace()
    positions = work.take(8 * room)
    listed = Tensor(Buffer(-1, CONST, room, I64), 0, (room,), (1 if room != 1 else 0,), I64)
    calls = _numbered(launch, work, condition, positions, (0, 1), room)
    return work.given([*calls, gathered(launch, x, listed, positions, "axis", axis)])


def _numbered(launch: Launch, work: Workspace, x: Tensor, y: Pointer, y_strides: tuple[int, int], room: int) -> list[Call]:
    """Write the coordinates of the `room` elements of x that are not zero."""
    b = Builder(launch, WRITE, is_wide(x, sizes=[room]))
    name = type_of(x.dtype)
    axes = merge(x.shape, [x.strides])
    b.define("X_RANK", max(1, len(axes.sizes)))
    b.define("RANK", max(1, x.ndim))
    mask = (1 << 8 * min(8, x.dtype.itemsize)) - 1
    if is_float(x.dtype) and not name.endswith("fnuz"):  # which have no negative zero
        mask = 7 if name == "f4e2m1fn" else mask >> 1
    if x.dtype == C64:
        mask = 0x7FFFFFFF7FFFFFFF
    b.scalar("mask", "u64", mask)
    b.view("x", as_units(x), axes.strides[0])
    b.sizes("x_size", axes.sizes)
    b.sizes("size", x.shape)
    b.pointer("y_data", "i64", y)
    b.array("y_stride", "idx", y_strides)
    b.scalar("room", "idx", room)
    b.scalar("total", "idx", int(x.size))
    chunk, blocks = _chunks(int(x.size))
    b.scalar("chunk", "idx", chunk)
    b.pointer("counts", "Idx", work.take(8 * blocks))
    b.status()
    write = b.call(blocks)
    if blocks == 1:
        return [write]
    b.entry = COUNT
    return [b.call(blocks, scratch=0), write]


# ----------------------------------------------------------------------------------------------------------------------------------- topk
def topk(launch: Launch) -> list[Call]:
    """The k largest or smallest values along an axis, and where they are."""
    x, (values, indices) = launch.ins[0], launch.outs
    assert x is not None and values is not None and indices is not None
    axis, k = int(param(launch, "axis")), int(param(launch, "k"))
    axis += x.ndim if axis < 0 else 0
    need(values.dtype == x.dtype and indices.dtype == I64 and values.shape == indices.shape, "topk", "x, values and indices do not match")
    need(values.ndim == x.ndim and 0 <= axis < x.ndim, "topk", "bad axis")
    n = int(x.shape[axis])
    need(0 <= k <= n and values.shape[axis] == k, "topk", "k does not fit")
    lanes = [i for i in range(x.ndim) if i != axis]
    need(all(x.shape[i] == values.shape[i] for i in lanes), "topk", "outputs have the wrong shape")
    count = prod(x.shape[i] for i in lanes)
    if k == 0 or count == 0:
        return []
    item = item_type(x.dtype.itemsize, n)
    work = Workspace()
    first = Tiles(count, n, k if k <= SHRINKING or n <= TILE else None)
    size = count * first.kept * item_bytes(item) if first.chunks > 1 else 0
    source, other = work.take(size), work.take(size)
    axes = merge(x.shape, [x.strides, values.strides, indices.strides], [lanes])
    wide = is_wide(x, values, indices, sizes=[count * first.chunks * first.width])

    def build(entry: Entry, tiles: Tiles, stage: Pointer, to: Pointer) -> Builder:
        b = Builder(launch, entry, wide)
        use_items(b, item)
        b.define("RANK", max(1, len(axes.sizes)))
        key_function(b, "topk", x.dtype)
        for name, t, strides in (
            ("x", as_units(x), axes.strides[0]),
            ("values", as_units(values), axes.strides[1]),
            ("indices", indices, axes.strides[2]),
        ):
            b.view(name, t, strides)
            b.scalar(f"{name}_step", "idx", int(t.strides[axis]))
        b.sizes("size", axes.sizes)
        b.scalar("flip", "u64", (1 << 8 * x.dtype.itemsize) - 1 if param(launch, "largest") else 0)
        b.pointer("from", "const Item", stage)
        b.pointer("to", "Item", to)
        b.scalar("first", "bool", tiles is first)
        b.scalar("last", "bool", tiles.chunks == 1)
        b.sizes("rank_size", [k])
        tiles.fields(b)
        return b

    tiles = first
    calls = [tiles.call(build(TOPK_TILES, tiles, other, source))]
    if first.chunks > 1 and k > SHRINKING:
        joined, at = merges(launch, item, wide, tiles, source, other)
        tiles = Tiles(count, first.kept)
        b = build(TOPK_WRITE, tiles, at, at)
        return work.given([*calls, *joined, b.call(-(-count * k // TOPK_WRITE.threads))])
    while tiles.chunks > 1:
        tiles = Tiles(count, tiles.kept, k)
        calls.append(tiles.call(build(TOPK_TILES, tiles, source, other)))
        source, other = other, source
    return work.given(calls)


# --------------------------------------------------------------------------------------------------------------------------------- unique
def unique(launch: Launch) -> list[Call]:
    """The distinct values of a vector, their first positions and numbers, and which one each element is."""
    x = launch.ins[0]
    y, first, inverse, counts, total = launch.outs
    assert x is not None and y is not None and first is not None and inverse is not None and counts is not None and total is not None
    need(x.ndim == 1 and y.dtype == x.dtype and x.shape == y.shape, "unique", "x and y must be [n]")
    need(all(t.dtype == I64 and t.shape == x.shape for t in (first, inverse, counts)), "unique", "outputs must be int64 [n]")
    need(total.dtype == I64 and total.shape == (1,), "unique", "n must be int64 [1]")
    n = int(x.shape[0])
    item = item_type(x.dtype.itemsize, n)
    wide = is_wide(x, y, first, inverse, counts, sizes=[2 * n])
    word = 8 if wide else 4
    tiles, work = Tiles(1, n), Workspace()
    source, other = (work.take(tiles.kept * item_bytes(item)) for _ in range(2))
    chunk, blocks = (max(STEP, n), 1) if n <= ONE_BLOCK else _chunks(n)
    group, starts, renumbered, sums = (work.take(word * m) for m in (n, n + 1, n, blocks))

    def build(entry: Entry, items: Pointer, begin: int = 0, end: int = 0) -> Builder:
        b = Builder(launch, entry, wide)
        use_items(b, item)
        key_function(b, "unique", x.dtype)
        for name, t in (("x", as_units(x)), ("y", as_units(y)), ("first", first), ("inverse", inverse), ("counts", counts)):
            b.pointer(f"{name}_data", type_of(t.dtype), operand(t))
            b.scalar(f"{name}_step", "idx", int(t.strides[0]))
        b.pointer("n_data", "i64", operand(total))
        b.pointer("items", "const Item", items)
        b.pointer("to", "Item", source)
        for name, at in (("group", group), ("starts", starts), ("renumbered", renumbered), ("sums", sums)):
            b.pointer(name, "Idx", at)
        b.scalar("chunk", "idx", chunk)
        b.scalar("begin_step", "i32", begin)
        b.scalar("end_step", "i32", end)
        b.scalar("sorted", "bool", bool(param(launch, "sorted")))
        tiles.fields(b)
        return b

    calls, at = ([tiles.call(build(UNIQUE_TILES, source))], source) if n else ([], source)
    merged, at = merges(launch, item, wide, tiles, source, other)
    steps = [(0, 5)] if blocks == 1 else [(0, 0), (1, 1), (2, 2)] if param(launch, "sorted") else [(0, 0), (1, 1), (3, 3), (4, 4), (5, 5)]
    return work.given([*calls, *merged, *[build(UNIQUE_STEPS, at, *s).call(blocks) for s in steps]])


# ------------------------------------------------------------------------------------------------------------------------------------ nms
def nms(launch: Launch) -> list[Call]:
    """ONNX NonMaxSuppression."""
    boxes, scores = launch.ins
    selected, total = launch.outs
    assert boxes is not None and scores is not None and selected is not None and total is not None
    need(boxes.dtype == F32 and scores.dtype == F32, "nms", "boxes and scores must be float")
    need(boxes.ndim == 3 and scores.ndim == 3 and boxes.shape[2] == 4, "nms", "boxes must be [B, S, 4] and scores [B, C, S]")
    need(boxes.shape[0] == scores.shape[0] and boxes.shape[1] == scores.shape[2], "nms", "boxes and scores do not match")
    need(selected.dtype == I64 and selected.ndim == 2 and selected.shape[1] == 3, "nms", "selected must be int64 [capacity, 3]")
    need(total.dtype == I64 and total.shape == (1,), "nms", "n must be int64 [1]")
    batches, classes, spatial = (int(n) for n in scores.shape)
    need(spatial < 1 << 31, "nms", "too many boxes")
    most = max(0, min(int(param(launch, "max_per_class")), spatial))
    tasks = batches * classes if most > 0 else 0
    tiles, work = Tiles(tasks, spatial), Workspace()
    source, other = (work.take(tasks * tiles.kept * 8) for _ in range(2))
    wide = is_wide(boxes, scores, selected, sizes=[tasks * tiles.kept])
    picked, counts = work.take(tasks * most * (8 if wide else 4)), work.take(tasks * (8 if wide else 4))
    chunk = max(1, -(-tasks // CHUNKS))

    def build(entry: Entry, items: Pointer) -> Builder:
        b = Builder(launch, entry, wide)
        for name, t in (("boxes", boxes), ("scores", scores), ("selected", selected), ("n", total)):
            b.pointer(f"{name}_data", type_of(t.dtype), operand(t))
            b.array(f"{name}_stride", "idx", t.strides)
        b.sizes("classes", [max(1, classes)])
        b.scalar("center", "bool", bool(param(launch, "center_point_box")))
        b.scalar("iou_threshold", "f32", float(param(launch, "iou_threshold")))
        b.scalar("score_threshold", "f32", float(param(launch, "score_threshold")))
        b.scalar("has_threshold", "bool", bool(param(launch, "has_score_threshold")))
        b.pointer("from", "const u64", items)
        b.pointer("to", "u64", source)
        b.pointer("picked", "Idx", picked)
        b.pointer("counts", "Idx", counts)
        b.scalar("padded", "idx", tiles.kept)
        b.scalar("most", "idx", most)
        b.scalar("tasks", "idx", tasks)
        b.scalar("chunk", "idx", chunk)
        b.scalar("room", "idx", int(selected.shape[0]))
        b.status()
        tiles.fields(b)
        return b

    join = build(NMS_JOIN, source).call(max(1, -(-tasks // chunk)))
    if tasks == 0:
        return work.given([join])
    sort = tiles.call(build(NMS_TILES, source))
    merged, at = merges(launch, "u64", wide, tiles, source, other)
    return work.given([sort, *merged, build(NMS_SELECT, at).call(tasks), join])


# -------------------------------------------------------------------------------------------------------------------------------- samples
def samples() -> Iterator[tuple[Entry, str, Launch]]:
    """Launches that stand for each kernel."""
    for dtype in ("float32", "bool"):
        yield WRITE, dtype, launch("nonzero", [tensor((300, 400), dtype)], [tensor((2, 1000), "int64")])
    for dtype in ("float32", "float64", "int8"):
        outs = [tensor((4, 1000), dtype), tensor((4, 1000), "int64")]
        yield TOPK_TILES, dtype, launch("topk", [tensor((4, 5000), dtype)], outs, axis=1, k=1000)
        vectors = [tensor((5000,), dtype), *[tensor((5000,), "int64") for _ in range(3)], tensor((1,), "int64")]
        yield UNIQUE_STEPS, dtype, launch("unique", [tensor((5000,), dtype)], vectors)
    found = [tensor((16000, 3), "int64"), tensor((1,), "int64")]
    boxes = [tensor((2, 3000, 4)), tensor((2, 80, 3000))]
    yield NMS_SELECT, "80 classes", launch("nms", boxes, found, max_per_class=100, iou_threshold=0.5, score_threshold=0.0)
