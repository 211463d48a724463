"""Kernels `pool`, `max_unpool` and `col2im`.

Pooling works on float32, float64 or the integers themselves; other dtypes are first converted as a whole. Channels-last memory is pooled a vector of
channels at a time, anything else row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ....dtypes import BOOL, F32, I64, U8, DType, is_float, is_int
from ....errors import UnsupportedError
from ....lowering.tensor import Launch, Tensor
from ...parameters import param
from ...pool_rules import check_pool
from ..build import Builder, Fn, Status, Table, View, Word, f64, view
from . import edges, elementwise

LANES_BYTES = 64  # of the widest vectors
TILE = 32768  # bytes of results a unit keeps in scratch
UNIT = 16384  # elements read by a unit, at least
MOST_CHANNELS = 512  # of a unit
NATIVE = {"float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"}

Array = np.ndarray[Any, Any]


def dense(b: Builder, dtype: DType, shape: Sequence[int], order: Sequence[int]) -> View:
    """A tensor in scratch whose axes lie in memory in the given order, the slowest first."""
    t = b.temporary(dtype, [shape[a] for a in order])
    strides = [0] * len(order)
    for k, a in enumerate(order):
        strides[a] = t.strides[k]
    return t.with_axes(shape, strides)


def computed(dtype: DType) -> DType:
    """What elements are worked on as: numbers that numba knows as themselves, shorter floats as float32, other integers as int64."""
    if dtype == BOOL:
        return U8
    return dtype if dtype.name in NATIVE else F32 if is_float(dtype) else I64


def as_computed(b: Builder, x: Tensor, order: Sequence[int] | None = None) -> View:
    """An operand as elements of `computed` dtype, copied (in memory order `order`, if given) only where it has another."""
    v = view(x)
    if x.dtype == BOOL:
        return View(v.address, U8, v.shape, v.strides)
    if x.dtype.name in NATIVE:
        return v
    return edges.settled(b, edges.of_view(v, computed(x.dtype)), order if order is not None else memory_order(v))


def memory_order(v: View) -> list[int]:
    """Axes from the slowest to the fastest in memory."""
    return sorted(range(len(v.shape)), key=lambda i: (v.shape[i] == 1, -abs(v.strides[i]), i))


# ------------------------------------------------------------------------------------------------------------------------------------- pool
@dataclass
class _Axis:
    """One spatial axis of a pooling window; absent ones have size 1."""

    n: int
    out: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    begin: int = 0
    end: int = 0

    def spans(self) -> tuple[Array, Array]:
        """Of every result: the first tap inside x, and the number of taps inside (at least 0)."""
        start = np.arange(self.out, dtype=np.int64) * self.stride - self.begin
        low = np.clip(-(start // self.dilation), 0, self.kernel)
        high = np.clip((self.n - 1 - start) // self.dilation + 1, 0, self.kernel)
        return low, np.maximum(high - low, 0)

    def counts(self, include_pad: bool) -> Array:
        """Of every result: how many elements an average counts."""
        if not include_pad:
            return self.spans()[1]
        start = np.arange(self.out, dtype=np.int64) * self.stride - self.begin
        return np.clip((self.n + self.end - 1 - start) // self.dilation + 1, 0, self.kernel)

    def table(self, step: int, third: Array) -> Table:
        """What jit/pool.py reads: (offset of the first valid tap, taps, third) per result. step: the stride of x along this axis."""
        low, taps = self.spans()
        first = np.where(taps > 0, np.arange(self.out) * self.stride - self.begin + low * self.dilation, 0)
        return Table(np.ascontiguousarray(np.stack([first * step, taps, third], 1).astype(np.int64)))

    def firsts(self) -> Array:
        """The coordinate of every result's first valid tap."""
        low, taps = self.spans()
        return np.where(taps > 0, np.arange(self.out) * self.stride - self.begin + low * self.dilation, 0)


def pool(b: Builder) -> None:
    """y = max, average or p-norm of the windows of x; the flat positions of the maxima."""
    launch = b.launch
    x, y = launch.ins[0], launch.outs[0]
    assert x is not None and y is not None
    positions = launch.outs[1] if len(launch.outs) > 1 else None
    axes = _window(launch, x, y, positions)
    mode = {"max": "max", "average": "average"}.get(launch.params["op"], "")
    p = int(param(launch, "p"))
    op = mode or {1: "l1", 2: "l2"}.get(p, "lp")
    channels = int(x.shape[1])
    shape = tuple(map(int, y.shape))
    spatial = list(range(2, x.ndim))
    v = as_computed(b, x)
    last = v.strides[1] == 1 and channels >= 4 and positions is None
    if not last and v.strides[-1] != 1 and positions is None:
        v = edges.settled(b, edges.of_view(v), list(range(x.ndim)))
    acc = v.dtype
    xs, ys = _five(v), _five(view(y))
    plain = edges.is_plain(launch, BOOL if x.dtype == BOOL else acc)
    reads = channels * axes[2].out * prod(a.kernel for a in axes) if last else axes[2].n * axes[0].kernel * axes[1].kernel + axes[2].out
    block = min(channels, MOST_CHANNELS)
    wide = axes[2].out * (block if last else 1)
    held = max(1, TILE // (wide * acc.itemsize))  # rows of results that fit
    rows = int(x.shape[0]) * axes[0].out * axes[1].out * (1 if last else channels)
    tall = max(1, min(rows, max(1, UNIT // max(1, reads))))
    third = [a.counts(bool(param(launch, "count_include_pad"))) for a in axes] if positions is None else [a.firsts() for a in axes]
    if last:
        row_axes, col_axes, direct = [0, *spatial], [1], plain and ys[1] == 1
    else:
        row_axes, col_axes = [0, 1, *spatial[:-1]], [spatial[-1]]
        direct = plain and (positions is not None or shape[-1] == 1 or ys[4] == 1)
    out, done = None, None
    if not direct:
        tall = min(max(tall, min(rows, max(1, held // 4))), held)
        out, done = edges.rows_out(b, BOOL if x.dtype == BOOL else acc, shape, row_axes, col_axes)
    results = 0 if direct else tall * wide * acc.itemsize
    one = acc.itemsize
    a = axes[2]
    padded = max(a.begin + a.n, (a.out - 1) * a.stride + (a.kernel - 1) * a.dilation + 1) + 4 * LANES_BYTES // one
    padded_bytes = -(-padded * one // 64) * 64 if not last and positions is None else 0
    scratch, step = b.slots(padded_bytes + results)
    words: list[Word] = [
        v.address, view(y).address if direct else 0, out if out is not None else 0, Fn("box.run"), scratch, step,
        *[a.table(xs[2 + i], third[i]) for i, a in enumerate(axes)], *[a.dilation * xs[2 + i] for i, a in enumerate(axes)],
        xs[0], xs[1], *ys, *[a.out for a in axes], channels, rows, tall,
    ]  # fmt: skip
    name = acc.name
    cost = 0.3 * rows * reads / (4 if last else 1)
    if positions is not None:
        ps = _five(view(positions))
        n = [a.n for a in axes]
        at = [n[1] * n[2], n[2], 1] if not param(launch, "storage_order") else [1, n[0], n[0] * n[1]]
        words += [
            *ps, view(positions).address, *[a.dilation * k for a, k in zip(axes, at)], *at, prod(n), ys[4] if direct else 1
        ]  # fmt: skip
        b.call(f"pool.places[{name}]", words, -(-rows // tall), 4 * cost)
    elif last:
        words += [block, f64(p)]
        b.call(f"pool.channels[{name},:{op}]", words, -(-rows // tall) * -(-channels // block), cost)
    else:
        counts = Table(np.ascontiguousarray(third[2].astype(acc if is_float(acc) else np.int64)))
        words += [f64(p), a.n, a.begin, padded, padded_bytes, a.kernel, a.dilation, a.stride, counts]
        b.call(f"pool.rows[{name},:{op},{min(a.stride, 3)}]", words, -(-rows // tall), cost)
    if done is not None:
        done()


def _five(v: View) -> list[int]:
    """Strides over [N, C, d, h, w]."""
    return [*v.strides[:2], *[0] * (5 - len(v.strides)), *v.strides[2:]]


def _window(launch: Launch, x: Tensor, y: Tensor, positions: Tensor | None) -> list[_Axis]:
    """The window's axes d, h, w. Raises UnsupportedError for what is no pooling."""
    kernel, strides, dilations, pads = (tuple(int(v) for v in param(launch, n)) for n in ("kernel", "strides", "dilations", "pads"))
    check_pool(launch, x, y, positions, kernel, strides, dilations, pads)
    n = x.ndim - 2
    found = [_Axis(int(x.shape[2 + i]), int(y.shape[2 + i]), kernel[i], strides[i], dilations[i], pads[i], pads[n + i]) for i in range(n)]
    return [_Axis(1, 1)] * (3 - n) + found


# ------------------------------------------------------------------------------------------------------------------------------- max_unpool
def max_unpool(b: Builder) -> None:
    """y is zero, then x at recorded positions; the last of several elements at one place counts."""
    launch = b.launch
    x, positions, y = launch.ins[0], launch.ins[1], launch.outs[0]
    assert x is not None and positions is not None and y is not None
    reference = tuple(int(n) for n in param(launch, "reference_shape"))
    if positions.dtype != I64 or x.dtype != y.dtype or len(reference) != y.ndim or x.ndim != y.ndim or positions.shape != x.shape:
        raise UnsupportedError("max_unpool: operands do not match")
    if any(n < 0 for n in reference) or prod(reference) >= 1 << 63:
        raise UnsupportedError("max_unpool: bad reference shape")
    raw = elementwise.raw(view(y))
    elementwise.elementwise(b, [("const", (0,), raw.dtype)], [], raw)
    if not x.size:
        return
    item = y.dtype.itemsize
    vy = view(y)
    axes = [(int(n), s, t) for n, s, t in zip(x.shape, view(x).strides, view(positions).strides)]
    dense = reference == vy.shape and all(s == r or n == 1 for s, r, n in zip(vy.strides, _dense(reference), reference))
    words: list[Word] = [
        view(x).address, view(positions).address, vy.address, Status(), len(axes), int(dense), prod(reference), prod(n for n, _, _ in axes),
    ]  # fmt: skip
    for (n, s, t), r, m, q in zip(axes, reference, vy.shape, vy.strides):
        words += [n, s, t, r, m, q]
    b.call(f"unpool.scatter[{item}]", words, 1, 3.0 * x.size)


def _dense(shape: Sequence[int]) -> list[int]:
    """Row-major strides, of axes of size 1 too."""
    return [prod(shape[i + 1 :]) for i in range(len(shape))]


# ----------------------------------------------------------------------------------------------------------------------------------- col2im
def col2im(b: Builder) -> None:
    """Columns of windows added back into an image: x [N, C * prod(kernel), L], y [N, C, d...]."""
    launch = b.launch
    x, y = launch.ins[0], launch.outs[0]
    assert x is not None and y is not None
    kernel, strides, dilations, pads = (tuple(int(v) for v in param(launch, n)) for n in ("kernel", "strides", "dilations", "pads"))
    n = len(kernel)
    if n == 0 or len(strides) != n or len(dilations) != n or len(pads) != 2 * n:
        raise UnsupportedError("col2im: one kernel size, stride, dilation and two pads per axis")
    if x.ndim != 3 or y.ndim != n + 2 or x.dtype != y.dtype or x.shape[0] != y.shape[0]:
        raise UnsupportedError("col2im: x must be [N, C*prod(kernel), L]")
    if min(kernel) < 1 or min(strides) < 1 or min(dilations) < 1:
        raise UnsupportedError("col2im: kernel, strides and dilations must be positive")
    if not (is_float(x.dtype) or is_int(x.dtype) or x.dtype == BOOL):
        raise UnsupportedError("col2im: unsupported dtype")
    image = [int(m) for m in y.shape[2:]]
    room = [image[i] + pads[i] + pads[n + i] - dilations[i] * (kernel[i] - 1) - 1 for i in range(n)]
    if min(room) < 0:
        raise UnsupportedError("col2im: the window is larger than the padded image")
    windows = [r // s + 1 for r, s in zip(room, strides)]
    points = prod(kernel)
    if x.shape[1] != y.shape[1] * points or x.shape[2] != prod(windows):
        raise UnsupportedError("col2im: x does not fit the image and the windows")
    v = as_computed(b, x) if x.dtype != BOOL else edges.settled(b, edges.source(launch, 0, I64))
    target = view(y)
    own = v.dtype == y.dtype and all(s == r or m == 1 for s, r, m in zip(target.strides[2:], _dense(image), image))
    out = target if own else b.temporary(v.dtype, target.shape)
    planes = int(y.shape[0]) * int(y.shape[1])
    words: list[Word] = [v.address, out.address, int(y.shape[1]), points, *v.strides, *out.strides[:2], prod(image), n]
    for k, s, d, begin, m, w in zip(kernel, strides, dilations, pads, image, windows):
        words += [k, s, d, begin, m, w]
    b.call(f"unpool.columns[{v.dtype.name}]", words, planes, 1.0 * x.size + 0.2 * y.size)
    if not own:
        edges.finish(b, out)
