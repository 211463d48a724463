"""Reading between the elements: `resample` (resample.py), `grid_sample` and `roi_align`."""

from __future__ import annotations

from math import prod

from ....dtypes import BOOL, F32, F64, I64, DType, is_float, is_int
from ....errors import UnsupportedError
from ....lowering.tensor import Tensor
from ...parameters import param
from ..build import Builder, Status, View, Word, f64, view
from . import edges
from . import resample as resampling
from .resample import READABLE
from .windows import dense, memory_order

LIST = 1024  # taps that roi_align applies at once, as in jit/roi_align.py
BLOCK = 128  # positions of a unit of grid_sample, at most


def resample(b: Builder) -> None:
    """y = x resized."""
    resampling.plan(b)


def _readable(b: Builder, x: Tensor, acc: DType) -> View:
    """x as it is, or converted where jit/elements.py does not read its dtype."""
    v = view(x)
    return v if x.dtype.name in READABLE else edges.settled(b, edges.of_view(v, acc), memory_order(v))


def grid_sample(b: Builder) -> None:
    """y = x at the places that a grid names."""
    launch = b.launch
    x, grid, y = launch.ins[0], launch.ins[1], launch.outs[0]
    assert x is not None and grid is not None and y is not None
    op, padding, align = launch.params["op"], param(launch, "padding"), int(bool(param(launch, "align_corners")))
    spatial = x.ndim - 2
    numbers = all(is_float(t.dtype) or is_int(t.dtype) or t.dtype == BOOL for t in (x, grid))
    if not 1 <= spatial <= 3 or grid.ndim != x.ndim or y.ndim != x.ndim or grid.shape[-1] != spatial or not numbers or x.dtype != y.dtype:
        raise UnsupportedError("grid_sample: operands do not match, or more than 3 spatial axes")
    if any(n == 0 for n in x.shape[2:]):
        raise UnsupportedError("grid_sample: nothing to sample from")
    g = view(grid)
    if grid.dtype not in (F32, F64):
        g = edges.settled(b, edges.of_view(g, F32 if is_float(grid.dtype) else F64), list(range(grid.ndim)))
    nearest = op == "nearest"
    acc = F32 if is_float(x.dtype) and x.dtype != F64 else F64
    channels = int(x.shape[1])
    v, t = view(x), view(y)
    taps = {"nearest": 1, "linear": 2, "cubic": 4}[op] ** spatial
    wide = False
    if not nearest:
        v = _readable(b, x, acc)
        wide = v.strides[1] == 1 and channels >= 4
        if t.dtype != acc or (wide and t.strides[1] != 1):
            t = dense(b, acc, t.shape, [0, *range(2, x.ndim), 1] if wide else memory_order(t))
    positions = prod(y.shape) // channels
    block = max(1, min(BLOCK, 8192 // taps, positions))
    each = {"nearest": 20.0, "linear": 40.0, "cubic": 80.0}[op] + taps * channels * (0.1 if wide else 0.6)
    nbytes = 512 + 16 * block if nearest else 256 + 24 * taps if wide else 256 + 8 * block * (1 + 2 * taps) + 8 * taps
    scratch, step = b.slots(nbytes)
    words: list[Word] = [
        v.address, g.address, t.address, scratch, step, positions, block, channels, v.strides[0], g.strides[0], t.strides[0], v.strides[1],
        t.strides[1], g.strides[-1],
    ]  # fmt: skip
    for a in range(spatial):
        words += [v.shape[2 + a], t.shape[2 + a], v.strides[2 + a], g.strides[1 + a], t.strides[2 + a]]
    tail = f"{g.dtype.name},{spatial}"
    if nearest:
        fn = f"grid_sample.nearest[{x.dtype.itemsize},{tail},{padding},{align}]"
    else:
        fn = f"grid_sample.{'channels' if wide else 'planes'}[:{v.dtype.name},{acc.name},{tail},{op},{padding},{align}]"
    b.call(fn, words, -(-positions // block), positions * each)
    if t.address != view(y).address:
        edges.finish(b, t)


def roi_align(b: Builder) -> None:
    """y = the averages or maxima of samples in the bins of regions."""
    launch = b.launch
    x, rois, batches, y = launch.ins[0], launch.ins[1], launch.ins[2], launch.outs[0]
    assert x is not None and rois is not None and batches is not None and y is not None
    regions = y.shape[:1]
    if (
        x.ndim != 4 or y.ndim != 4 or rois.shape != (*regions, 4) or batches.shape != regions or batches.dtype != I64 or x.dtype != y.dtype
        or not is_float(rois.dtype)
    ):  # fmt: skip
        raise UnsupportedError("roi_align: operands do not match")
    if 0 in x.shape[2:]:
        raise UnsupportedError("roi_align: nothing to sample from")
    if not is_float(x.dtype):
        raise UnsupportedError("roi_align: floating dtypes only")
    acc = F64 if x.dtype == F64 else F32
    v = _readable(b, x, acc)
    boxes = edges.settled(b, edges.of_view(view(rois), F64))
    channels, n = int(x.shape[1]), int(y.shape[0])
    contiguous = int(v.strides[1] == 1 or channels == 1)
    t = view(y)
    if t.dtype != acc:
        t = dense(b, acc, t.shape, memory_order(t))
    ratio, at = int(param(launch, "sampling_ratio")), view(batches)
    head: list[Word] = [
        boxes.address, at.address, n, *boxes.strides, *at.strides, int(x.shape[0]), *t.shape[2:], max(ratio, 0),
        f64(float(param(launch, "spatial_scale"))), int(bool(param(launch, "half_pixel"))),
    ]  # fmt: skip
    b.call("roi_align.check", [*head, Status()], 1, 10.0 * n)
    scratch, step = b.slots(16 * LIST + 2 * channels * acc.itemsize)
    words = [*head, v.address, t.address, scratch, step, *v.shape[2:], channels, *v.strides, *t.strides]
    samples = (ratio if ratio > 0 else 2) ** 2
    cost = prod(t.shape[2:]) * n * samples * (10.0 + 4 * channels * (0.1 if contiguous else 0.7))
    greatest = int(launch.params["op"] == "max")
    b.call(f"roi_align.align[:{v.dtype.name},{acc.name},{greatest},{contiguous}]", words, n * t.shape[2], cost)
    if t.address != view(y).address:
        edges.finish(b, t)
