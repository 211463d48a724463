"""Reading between the elements: `resample` (resample.py), `grid_sample` and `roi_align`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import prod
from typing import Any

from ....dtypes import BOOL, F32, F64, I64, is_float, is_int
from ....errors import UnsupportedError
from ....lowering.tensor import Launch, Tensor
from ...parameters import param
from ..build import Builder, Call, is_wide
from ..manifest import Entry
from . import resample as resampling
from .samples import launch, tensor
from .walk import Walk, memory_order, vector_width

GRID_SAMPLE = Entry("grid_sample", "grid_sample.cuh", 256, registers=128)
ROI_ALIGN = Entry("roi_align", "roi_align.cuh", 256, registers=128)
ENTRIES = (resampling.ELEMENTS, resampling.VECTORS, GRID_SAMPLE, ROI_ALIGN)


def resample(launch: Launch) -> list[Call]:
    """y = x resized."""
    return resampling.plan(launch)


def grid_sample(launch: Launch) -> list[Call]:
    """y = x at the places that a grid names."""
    x, grid, y = launch.ins[0], launch.ins[1], launch.outs[0]
    assert x is not None and grid is not None and y is not None
    op, padding, align = launch.params["op"], param(launch, "padding"), bool(param(launch, "align_corners"))
    spatial = x.ndim - 2
    numbers = all(is_float(t.dtype) or is_int(t.dtype) or t.dtype == BOOL for t in (x, grid))
    if not 1 <= spatial <= 3 or grid.ndim != x.ndim or y.ndim != x.ndim or grid.shape[-1] != spatial or not numbers or x.dtype != y.dtype:
        raise UnsupportedError("grid_sample: operands do not match, or more than 3 spatial axes")
    if any(n == 0 for n in x.shape[2:]) and y.size > 0:
        raise UnsupportedError("grid_sample: nothing to sample from")
    b = Builder(launch, GRID_SAMPLE, is_wide(x, grid, y))
    flat = (0,) * spatial
    operands = [
        ("x", x, (*x.strides[:2], *flat)), ("grid", grid, (grid.strides[0], 0, *grid.strides[1:-1])), ("y", y, y.strides)
    ]  # fmt: skip
    few = op == "cubic" and spatial == 3  # 64 taps are enough loads in flight
    blocks = _lots(b, x, y, operands, {1}, 1 if few else 4, op != "nearest" and not is_float(x.dtype))
    b.define("SPATIAL", spatial)
    b.define("OP", {"linear": 0, "nearest": 1, "cubic": 2}[op])
    b.define("PADDING", {"zeros": 0, "border": 1, "reflection": 2}[padding])
    b.define("ALIGN", align)
    b.type("Sum", F32 if op == "nearest" or (is_float(x.dtype) and x.dtype != F64) else F64)
    b.scalar("grid_step", "idx", grid.strides[-1])
    b.array("extent", "idx", x.shape[2:])
    b.array("step", "idx", x.strides[2:])
    return [b.call(-(-blocks // GRID_SAMPLE.threads))]


def roi_align(launch: Launch) -> list[Call]:
    """y = the averages or maxima of samples in the bins of regions."""
    x, rois, batches, y = launch.ins[0], launch.ins[1], launch.ins[2], launch.outs[0]
    assert x is not None and rois is not None and batches is not None and y is not None
    regions = y.shape[:1]
    if (
        x.ndim != 4 or y.ndim != 4 or rois.shape != (*regions, 4) or batches.shape != regions or batches.dtype != I64 or x.dtype != y.dtype
        or not is_float(rois.dtype)
    ):  # fmt: skip
        raise UnsupportedError("roi_align: operands do not match")
    if 0 in x.shape[2:] and y.size > 0:
        raise UnsupportedError("roi_align: nothing to sample from")
    if not is_float(x.dtype):
        raise UnsupportedError("roi_align: floating dtypes only")
    b = Builder(launch, ROI_ALIGN, is_wide(x, rois, batches, y))
    operands = [
        ("x", x, (0, x.strides[1], 0, 0)), ("rois", rois, (rois.strides[0], 0, 0, 0)), ("batches", batches, (batches.strides[0], 0, 0, 0)),
        ("y", y, y.strides),
    ]  # fmt: skip
    blocks = _lots(b, x, y, operands, {1, 2, 3}, 4)
    b.define("HALF", bool(param(launch, "half_pixel")))
    b.define("MAX", launch.params["op"] == "max")
    b.type("Sum", F64 if x.dtype == F64 else F32)
    b.status()
    b.scalar("batches", "i64", x.shape[0])
    b.scalar("ratio", "i64", int(param(launch, "sampling_ratio")))
    b.scalar("scale", "f64", float(param(launch, "spatial_scale")))
    b.array("bins", "f64", [float(n) for n in y.shape[2:]])
    b.scalar("batch_step", "idx", x.strides[0])
    b.scalar("rois_step", "idx", rois.strides[1])
    b.array("extent", "idx", x.shape[2:])
    b.array("step", "idx", x.strides[2:])
    return [b.call(-(-blocks // ROI_ALIGN.threads))]


def _lots(
    b: Builder,
    x: Tensor,
    y: Tensor,
    operands: list[tuple[str, Tensor, tuple[int, ...]]],
    apart: Collection[int],
    most: int,
    wide_sums: bool = False,
) -> int:
    """What lots.cuh needs: threads over places and lots of channels (at most `most` where they are not one vector). Returns how many."""
    channels = int(y.shape[1])
    width = vector_width(1, [x, y], most if wide_sums or most == 1 else 16)  # wide sums: a thread holds that many f64
    lot = width if width > 1 else 1 if channels == 1 or most == 1 else 2 if channels == 2 else most
    blocks = -(-channels // lot)
    walk = Walk(y.shape, [strides for _, _, strides in operands], memory_order(y), apart)
    slot = walk.slots[1]
    sizes = [blocks if i == slot else n for i, n in enumerate(walk.sizes)]
    b.define("RANK", walk.rank)
    b.define("CHANNEL", slot)
    b.define("LOT", lot)
    b.define("PACKED", width > 1)
    if 2 in apart:
        b.define("ROW", walk.slots[2])
        b.define("COLUMN", walk.slots[3])
    b.type("X", x.dtype)
    for (name, t, _), strides in zip(operands, walk.strides):
        if name == "batches":
            b.loader(name, t, strides)
        else:
            b.view(name, t, strides)
    b.sizes("size", sizes)
    b.scalar("total", "idx", prod(sizes))
    b.scalar("channels", "idx", channels)
    b.scalar("apart", "idx", blocks)
    b.scalar("x_apart", "idx", blocks * x.strides[1])
    b.scalar("y_apart", "idx", blocks * y.strides[1])
    return prod(sizes)


def samples() -> Iterator[tuple[Entry, str, Launch]]:
    """Launches that stand for each kernel."""
    last = (0, 3, 1, 2)
    double: dict[str, Any] = {"scales": (1.0, 1.0, 2.0, 2.0), "roi": ()}
    for dtype in ("float32", "float16", "uint8"):
        x, y = tensor((2, 32, 32, 64), dtype, last), tensor((2, 64, 64, 64), dtype, last)
        if dtype != "uint8":
            yield resampling.VECTORS, f"linear, channels last, {dtype}", launch("resample", [x], y, dtype, op="linear", **double)
        yield resampling.VECTORS, f"nearest, channels last, {dtype}", launch("resample", [x], y, dtype, op="nearest", **double)
    for op in ("nearest", "linear", "cubic"):
        yield resampling.ELEMENTS, f"{op}, channels first", launch("resample", [tensor((2, 64, 32, 32))], (2, 64, 64, 64), op=op, **double)
    tenth: dict[str, Any] = {"scales": (1.0, 1.0, 0.1, 0.1), "roi": (), "antialias": 1}
    yield (
        resampling.ELEMENTS,
        "linear, antialias, uint8",
        launch("resample", [tensor((2, 3, 320, 320), "uint8")], (2, 3, 32, 32), "uint8", op="linear", **tenth),
    )
    for dtype, perm in (("float32", last), ("float16", last), ("float32", None)):
        shape = (2, 32, 32, 64) if perm else (2, 64, 32, 32)
        x, y = tensor(shape, dtype, perm), tensor((2, 16, 16, 64) if perm else (2, 64, 16, 16), dtype, perm)
        label = f"{dtype}, channels {'last' if perm else 'first'}"
        for op, padding in (("linear", "zeros"), ("cubic", "reflection")):
            ins = [x, tensor((2, 16, 16, 2))]
            yield GRID_SAMPLE, f"{op}, {padding}, {label}", launch("grid_sample", ins, y, dtype, op=op, padding=padding)
        y = tensor((9, 7, 7, 64) if perm else (9, 64, 7, 7), dtype, perm)
        yield ROI_ALIGN, label, launch("roi_align", [x, tensor((9, 4)), tensor((9,), "int64")], y, dtype, op="avg")
    volume = [tensor((1, 2, 9, 9, 9)), tensor((1, 4, 4, 4, 3))]
    yield GRID_SAMPLE, "cubic, three axes", launch("grid_sample", volume, (1, 2, 4, 4, 4), op="cubic", padding="zeros")
