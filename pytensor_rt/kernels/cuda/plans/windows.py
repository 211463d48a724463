"""`pool`: a thread per result (16 bytes of channels where they are fastest), or many threads per result where windows are large; `max_unpool`."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from ....dtypes import I64
from ....errors import UnsupportedError
from ....lowering.expr import relu
from ....lowering.tensor import Launch, Tensor, row_major
from ...axes import merge
from ...parameters import param
from ...pool_rules import check_pool
from ..build import Builder, Call, Scratch, is_wide
from ..manifest import Entry
from .samples import launch, tensor
from .walk import Walk, constants, memory_order, named, results, vector_width

UNROLLED = 16  # taps of a window that is compiled for its size
SHARED_TAPS, SHARED_RESULTS = 32, 1 << 16  # windows of more taps are shared between threads if there are fewer results ...
ALWAYS_SHARED = 128  # ... and always from so many taps on, which keeps sums of one thread short
BLOCK_TAPS = 2048  # a whole block for one window, or a warp's worth of threads where channels are fastest

WINDOWS = Entry("pool_windows", "pool.cuh", 256)
VECTORS = Entry("pool_vectors", "pool.cuh", 256, registers=96, wide_loads=True)
SHARED = Entry("pool_shared", "pool_global.cuh", 256)
CLEAR = Entry("unpool_clear", "max_unpool.cuh", 256)
CLAIM = Entry("unpool_claim", "max_unpool_claim.cuh", 256)
READ = Entry("unpool_read", "max_unpool_read.cuh", 256)
ENTRIES = (WINDOWS, VECTORS, SHARED, CLEAR, CLAIM, READ)


def pool(launch: Launch) -> list[Call]:
    """y = max, average or p-norm of the windows of x; the flat positions of the maxima."""
    x, y = launch.ins[0], launch.outs[0]
    assert x is not None and y is not None
    positions = launch.outs[1] if len(launch.outs) > 1 else None
    kernel, strides, dilations, pads = (tuple(int(v) for v in param(launch, n)) for n in ("kernel", "strides", "dilations", "pads"))
    spatial = x.ndim - 2
    check_pool(launch, x, y, positions, kernel, strides, dilations, pads)
    space = tuple(range(2, x.ndim))
    outs = [y] if positions is None else [y, positions]
    unrolled = prod(kernel) <= UNROLLED
    shared = prod(kernel) >= ALWAYS_SHARED or (prod(kernel) >= SHARED_TAPS and y.size < SHARED_RESULTS)
    width = 1 if shared or positions is not None else vector_width(1, [x, y])
    place = _places(x, bool(param(launch, "storage_order")))
    plane = (x.shape[1] * prod(x.shape[2:]), prod(x.shape[2:]), *(0,) * spatial)
    x_strides = (*x.strides[:2], *(0,) * spatial)
    walk = Walk(y.shape, [x_strides, plane, *[t.strides for t in (*outs, *launch.epi_ins)]], memory_order(y), space)
    most = max(
        [prod(kernel), prod(x.shape), *[
            pads[i] + pads[spatial + i] + x.shape[2 + i] + dilations[i] + y.shape[2 + i] * strides[i] + kernel[i] * dilations[i]
            for i in range(spatial)
        ]]
    )  # fmt: skip
    b = Builder(
        launch,
        SHARED if shared else VECTORS if width * x.dtype.itemsize == 16 else WINDOWS,
        is_wide(x, *outs, *launch.epi_ins, sizes=[most]),
    )
    named(b)
    b.define("RANK", walk.rank)
    b.define("SPATIAL", spatial)
    b.define("WIDTH", width)
    b.define("MODE", {"max": 0, "average": 1, "lp": 2}[launch.params["op"]])
    b.define("P", min(int(param(launch, "p")), 3) if launch.params["op"] == "lp" else 0)
    b.define("INCLUDE_PAD", bool(param(launch, "count_include_pad")))
    b.define("INDICES", positions is not None)
    b.define("DILATED", any(d != 1 for d in dilations))
    constants(b, "SLOT", [walk.slots[axis] for axis in space])
    constants(b, "KERNEL", [k if unrolled else 0 for k in kernel])
    b.type("X", x.dtype)
    b.view("x", x, walk.strides[0])
    b.output(len(walk.sizes), walk.strides[2], walk.strides[2 + len(outs) :])
    results(b, walk.rank, width)
    b.sizes("size", (*walk.sizes[:-1], walk.sizes[-1] // width) if walk.sizes else ())
    b.scalar("total", "idx", prod(walk.sizes) // width)
    b.sizes("kernel", kernel)
    b.sizes("dilation", dilations)
    b.array("stride", "idx", strides)
    b.array("begin", "idx", pads[:spatial])
    b.array("extent", "idx", x.shape[2:])
    include = bool(param(launch, "count_include_pad"))
    b.array("counted", "idx", [n + pads[spatial + i] * include for i, n in enumerate(x.shape[2:])])
    b.array("step", "idx", x.strides[2:])
    b.scalar("p", "i32", int(param(launch, "p")))
    b.array("place", "idx", place)
    text = ""
    if positions is not None:
        b.view("positions", positions, walk.strides[3])
        b.array("plane", "idx", walk.strides[1])
        terms = "".join(f" + i64(c[{i}]) * a.plane[{i}]" for i, s in enumerate(walk.strides[1]) if s)
        text = f"a.positions_data[at_positions(a, c)] = where{terms};"
    b.functions.append(f"__forceinline__ void store_place(const Args& a, const Idx (&c)[RANK], const i64 where) {{ {text} }}")
    if not shared:
        return [b.call(-(-(prod(walk.sizes) // width) // WINDOWS.threads))]
    channels = x.strides[1] == 1 and bool(walk.strides[0]) and walk.strides[0][-1] == 1
    many = prod(kernel) >= BLOCK_TAPS
    lanes = (32 if many else 8) if channels else SHARED.threads if many else 32
    b.define("LANES", lanes)
    b.define("RESULTS_FIRST", channels)
    b.scalar("volume", "idx", prod(kernel))
    return [b.call(-(-prod(walk.sizes) // (SHARED.threads // lanes)))]


def _places(x: Tensor, column_major: bool) -> tuple[int, ...]:
    """What one step along each spatial axis adds to a recorded position."""
    sizes = x.shape[2:]
    if column_major:
        return tuple(prod(sizes[:i]) for i in range(len(sizes)))
    return tuple(prod(sizes[i + 1 :]) for i in range(len(sizes)))


def max_unpool(launch: Launch) -> list[Call]:
    """y is zero, then x at recorded positions."""
    x, positions, y = launch.ins[0], launch.ins[1], launch.outs[0]
    assert x is not None and positions is not None and y is not None
    reference = tuple(int(n) for n in param(launch, "reference_shape"))
    if positions.dtype != I64 or x.dtype != y.dtype or len(reference) != y.ndim or x.ndim != y.ndim or positions.shape != x.shape:
        raise UnsupportedError("max_unpool: operands do not match")
    if any(n < 0 for n in reference):
        raise UnsupportedError("max_unpool: bad reference shape")
    wide = is_wide(x, positions, y, sizes=[prod(reference)])
    total, rank = int(y.size), max(1, y.ndim)

    def builder(entry: Entry, n: int) -> Builder:
        b = Builder(launch, entry, wide)
        b.pointer("writer", "Idx", Scratch(0))  # of every place of y, in the order of its memory
        b.scalar("total", "idx", n)
        return b

    scratch = total * (8 if wide else 4)
    clear = builder(CLEAR, total)
    calls = [clear.call(-(-total // CLEAR.threads), scratch=scratch)]
    inputs = merge(x.shape, [x.strides, positions.strides])
    if x.size:
        b = builder(CLAIM, int(x.size))
        b.define("RANK", max(1, len(inputs.sizes)))
        b.define("RANK_Y", rank)
        b.loader("positions", positions, inputs.strides[1])
        b.status()
        b.sizes("size", inputs.sizes)
        b.sizes("reference", [max(1, n) for n in reference])
        b.scalar("positions", "i64", prod(reference))
        b.array("extent", "idx", y.shape or (1,))
        order = memory_order(y)
        dense = row_major(tuple(y.shape[i] for i in order))
        b.array("place", "idx", [dense[order.index(i)] for i in range(y.ndim)])
        calls.append(b.call(-(-int(x.size) // CLAIM.threads), scratch=scratch))
    outputs = merge(y.shape, [y.strides], [memory_order(y)])
    b = builder(READ, total)
    b.define("RANK", max(1, len(outputs.sizes)))
    b.define("RANK_X", max(1, len(inputs.sizes)))
    b.type("X", x.dtype)
    b.view("x", x, inputs.strides[0])
    b.view("y", y, outputs.strides[0])
    b.sizes("size", outputs.sizes)
    b.sizes("x_size", [max(1, n) for n in inputs.sizes])
    calls.append(b.call(-(-total // READ.threads), scratch=scratch))
    return calls


def samples() -> Iterator[tuple[Entry, str, Launch]]:
    """Launches that stand for each kernel."""
    small: dict[str, Any] = {"kernel": (3, 3), "strides": (2, 2), "dilations": (1, 1), "pads": (1, 1, 1, 1)}
    last = (0, 3, 1, 2)
    for dtype in ("float32", "float16", "int8"):
        x = tensor((4, 32, 32, 64), dtype, last)
        yield (
            VECTORS,
            f"max, channels last, {dtype}",
            launch("pool", [x], [tensor((4, 16, 16, 64), dtype, last), None], dtype, op="max", **small),
        )
    yield WINDOWS, "average, channels first", launch("pool", [tensor((4, 64, 32, 32))], (4, 64, 16, 16), op="average", **small)
    outs = [tensor((4, 64, 16, 16)), tensor((4, 64, 16, 16), "int64")]
    yield WINDOWS, "max with positions", launch("pool", [tensor((4, 64, 32, 32))], outs, op="max", **small)
    yield (
        WINDOWS,
        "average, float64, dilated, relu",
        launch(
            "pool", [tensor((4, 64, 32, 32), "float64")], (4, 64, 28, 28), "float64", epilogue=lambda acc: relu(acc), op="average", kernel=(3, 3),
            strides=(1, 1), dilations=(2, 2), pads=(0, 0, 0, 0),
        ),
    )  # fmt: skip
    whole: dict[str, Any] = {"kernel": (56, 56), "strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0)}
    yield SHARED, "lp, all of a plane", launch("pool", [tensor((4, 64, 56, 56))], (4, 64, 1, 1), op="lp", p=2, **whole)
    y = tensor((4, 1, 1, 64), "float16", last)
    yield (
        SHARED,
        "lp, channels last, float16",
        launch("pool", [tensor((4, 56, 56, 64), "float16", last)], y, "float16", op="lp", p=3, **whole),
    )
    outs = [tensor((4, 64, 1, 1)), tensor((4, 64, 1, 1), "int64")]
    yield SHARED, "max with positions", launch("pool", [tensor((4, 64, 56, 56))], outs, op="max", **whole)
    unpool = launch(
        "max_unpool", [tensor((4, 64, 16, 16)), tensor((4, 64, 16, 16), "int64")], (4, 64, 32, 32), reference_shape=(4, 64, 32, 32)
    )
    for entry in (CLEAR, CLAIM, READ):
        yield entry, "float32", unpool
