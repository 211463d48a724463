"""What the register tiles of convolutions read: x with dense pixels, and filters in panels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ....dtypes import I16, U8, DType
from ....lowering.tensor import CONST, Tensor
from ..build import Address, Builder, Call, Fn, Operand, Prepared, Scratch, Table, View, view
from . import conv_finish, elementwise
from .conv_problem import Problem

LANES = {"i16": 2, "u8": 4}  # channels of a step, of kinds of bytes


SMALL = 64  # bytes of a pixel, at most, for a window's pixels in a row to be read as one


@dataclass(frozen=True)
class Source:
    """x as the tiles read it: [N, C, D, H, W] with dense pixels of `words` steps per group, and a pixel of padding. `add`: what has been added to
    every value of x, where it keeps its zero point. Rows of pixels have `left` pixels of padding in front, and enough behind, where `taps` neighbours
    along the last axis are read as one stretch."""

    view: View
    words: int
    pad: Address
    add: int = 0
    taps: int = 1
    left: int = 0


def bring(b: Builder, p: Problem, kind: str, plain: bool = False) -> Source:
    """x as the tiles of a kind read it: where it lies, or a copy. plain: without padding."""
    x = p.x
    dense = in_place(x, x.dtype)
    lanes = LANES.get(kind, 1)
    padded = -(-p.channels // lanes) * lanes
    words = padded // lanes
    item = 8 if kind == "f64" else 4
    taps = 1 if plain or p.groups > 1 or words * item >= SMALL else _stretch(p)
    left = right = 0
    if taps > 1:
        first = min(t.base[2] for t in p.taps)
        left = max(0, -first)
        right = max(0, (p.y_shape[4] - 1) * p.step[2] + first + taps - x.shape[4])
        if left + right > 64 + x.shape[4]:
            taps, left, right = 1, 0, 0
    room = taps * p.groups * padded
    if p.sum.kind == "f":
        wanted = p.sum
        pad: Address = conv_finish.zeros(room * wanted.itemsize + 64)
        if x.dtype != wanted or (not dense and taps == 1):
            x, dense = copied(b, x, wanted), True
        if taps > 1:
            x = staged(b, p, x, wanted, padded, None, 0, (left, right), pad)
        return Source(x, words, pad, 0, taps, left)
    if kind == "i16":
        pad = conv_finish.zeros(room * 2 + 64)
        t = staged(b, p, x, I16, padded, zero_point(p, 3), 0, (left, right), pad)
        return Source(t, words, pad, 0, taps, left)
    add = 128 if x.dtype.name == "int8" else 0
    pad = padding(b, p, add, room + 64)
    if add or not dense or padded != p.channels or taps > 1:
        x = staged(b, p, x, U8, padded, None, add, (left, right), pad)
    return Source(x, words, pad, add, taps, left)


def in_place(x: View, dtype: DType) -> bool:
    """Do pixels lie together, in this dtype?"""
    return x.dtype == dtype and (x.shape[1] == 1 or x.strides[1] == 1)


def _stretch(p: Problem) -> int:
    """How many taps lie side by side along the last axis, in all rows of the window alike; 1 if they do not."""
    rows: dict[tuple[int, int], list[int]] = {}
    for t in p.taps:
        rows.setdefault(t.base[:2], []).append(t.base[2])
    all_ = list(rows.values())
    if not all_ or any(r != all_[0] for r in all_) or all_[0] != list(range(all_[0][0], all_[0][0] + len(all_[0]))):
        return 1
    return len(all_[0])


def copied(b: Builder, x: View, dtype: DType) -> View:
    """x, dense and channels-last, in another dtype."""
    n, c, *rest = x.shape
    t = b.temporary(dtype, (n, *rest, c))
    s = t.strides
    held = t.with_axes(x.shape, (s[0], s[4], *s[1:4]))
    elementwise.copy(b, x, held)
    return held


def zero_point(p: Problem, number: int) -> Tensor | None:
    """The zero point of x (3) or w (4)."""
    return p.launch.ins[number] if len(p.launch.ins) > number else None


def address(t: Tensor | None) -> Any:
    """Where a tensor lies, or 0."""
    return view(t).address if t is not None else 0


def staged(
    b: Builder, p: Problem, x: View, dtype: DType, padded: int, zero: Tensor | None, add: int, ends: tuple[int, int], pad: Address
) -> View:
    """x as `dtype`: dense, every group's channels padded, bytes less a zero point, plus a number, with pixels of padding at both ends of rows."""
    same = padded == p.channels
    pixel = p.groups * padded
    n, _, d, h, w = x.shape
    rows, wide = n * d * h, w + sum(ends)
    memory = b.scratch(rows * wide * pixel * dtype.itemsize)
    for g in range(1 if same else p.groups):
        assert isinstance(x.address, (Operand, Scratch))
        words: list[Any] = [
            replace(x.address, offset=x.address.offset + g * p.channels * x.strides[1] * x.dtype.itemsize), address(zero), d, h, w,
            *[x.strides[k] * x.dtype.itemsize for k in (0, 2, 3, 4, 1)], p.groups * p.channels if same else p.channels, pixel if same else padded,
            Scratch(memory.offset + g * padded * dtype.itemsize), add, pixel, *ends, pad,
        ]  # fmt: skip
        b.call(f"conv_pack.stage[{x.dtype.name},{dtype.name}]", words, rows, 0.2 * rows * wide * pixel)
    return View(memory, dtype, (*x.shape[:4], wide), (d * h * wide * pixel, 1, h * wide * pixel, wide * pixel, pixel))


def padding(b: Builder, p: Problem, add: int, nbytes: int) -> Address:
    """Bytes that hold the zero point of x plus a number."""
    zero = zero_point(p, 3)
    if zero is None:
        return Table(np.full(nbytes, add, np.uint8), ("conv padding", add, nbytes))
    if zero.value is not None:
        value = (int(zero.value) + add) & 255
        return Table(np.full(nbytes, value, np.uint8), ("conv padding", value, nbytes))
    to = b.scratch(nbytes)
    b.call(f"conv_pack.padding[{zero.dtype.name}]", [to, nbytes, address(zero), add])
    return to


# ------------------------------------------------------------------------------------------------------------------------- filters
def symmetric(p: Problem) -> bool:
    """Are the filters known to fit in int8, less their zero points?"""
    zero = zero_point(p, 4)
    wanted = 0 if p.w.dtype.name == "int8" else 128
    if zero is None:
        return wanted == 0
    return zero.value is not None and bool((np.asarray(zero.value) == wanted).all())


def packed(b: Builder, p: Problem, kind: str, source: Source, panels: int, wide: int) -> Address:
    """The filters in panels [groups][panels][taps][words][wide] of steps (jit/conv_pack.py), for bytes with their sums."""
    item = 8 if kind == "f64" else 4
    nbytes = p.groups * panels * len(p.taps) * source.words * wide * item
    if kind[0] == "f":
        return floats(b, p, panels, wide, nbytes)
    Y = "int16" if kind == "i16" else "int8"
    return integers(b, p, f"{Y},{LANES[kind]}", source.words, panels, wide, nbytes)


def _words(p: Problem, panels: int, wide: int, to: Address) -> list[Any]:
    w = p.w
    offsets = Table(np.array([t.offset * w.dtype.itemsize for t in p.taps] or [0], np.int64))
    strides = [s * w.dtype.itemsize for s in p.w_strides]
    return [w.address, *strides, len(p.taps), offsets, p.channels, p.filters, panels, wide, to]


def floats(b: Builder, p: Problem, panels: int, wide: int, nbytes: int) -> Address:
    """Filters of floats in panels."""

    def words(to: Address) -> list[Any]:
        return [*_words(p, panels, wide, to), Fn(f"memory.load[:{p.w.dtype.name}]")]

    return prepared(b, p, [p.w], f"conv_pack.floats[{p.sum.name}]", words, nbytes, p.groups * panels, (panels, wide))


def lines(b: Builder, p: Problem, room: int) -> Address:
    """Filters of floats as [taps][filters][room], a line of channels each."""
    swapped = replace(p, channels=p.filters, filters=p.channels, w_strides=(0, p.w_strides[2], p.w_strides[1]))
    return floats(b, swapped, 1, room, len(p.taps) * p.filters * room * p.sum.itemsize)


def integers(b: Builder, p: Problem, held: str, steps: int, panels: int, wide: int, nbytes: int) -> Address:
    """Filters of bytes in panels, less their zero points, and their sums. `held`: type and lanes of what is packed."""
    zero = zero_point(p, 4)
    by = int(zero.strides[0]) if zero is not None and zero.ndim else 0

    def words(to: Address) -> list[Any]:
        return [*_words(p, panels, wide, to), address(zero), by, steps, nbytes]

    operands = [p.w] + ([view(zero)] if zero is not None else [])
    whole = nbytes + 4 * p.groups * panels * wide
    return prepared(b, p, operands, f"conv_pack.integers[{p.w.dtype.name},{held}]", words, whole, p.groups * panels, (panels, wide, steps))


def offset_biases(b: Builder, p: Problem, filters: Address, source_add: int, panels: int, wide: int, nbytes: int) -> Address:
    """First values of sums of bytes that keep x's zero point. `nbytes`: of the filters, in front of their sums."""
    bias, zero = p.launch.ins[2] if len(p.launch.ins) > 2 else None, zero_point(p, 3)
    by = int(bias.strides[0]) * 4 if bias is not None else 0

    def words(to: Address) -> list[Any]:
        return [to, address(bias), by, address(zero), source_add, filters, nbytes, wide, panels, p.filters]

    operands = [view(t) for t in (bias, zero) if t is not None]
    size, units, fn = 4 * p.groups * panels * wide, p.groups * panels, f"conv_pack.offsets[{p.x.dtype.name}]"
    if isinstance(filters, Prepared):
        return prepared(b, p, operands, fn, words, size, units, (filters.key, by))
    to = b.scratch(size)
    b.call(fn, words(to), units, 2.0 * size)
    return to


def prepared(
    b: Builder, p: Problem, operands: list[View], fn: str, words: Callable[[Address], list[Any]], nbytes: int, units: int, key: Any
) -> Address:
    """Memory that one call fills: when the plan is bound if all its operands are constants, else in every run."""
    if nbytes == 0:
        return conv_finish.zeros(64)
    where = []
    for v in operands:
        a = v.address
        if isinstance(a, Operand) and a.buffer.kind == CONST:
            where.append((id(a.buffer.data), a.offset, v.dtype.name))
    if len(where) == len(operands):
        whole = ("conv", fn, *where, p.w_strides, p.taps, p.groups, p.channels, p.filters, key)
        return Prepared(whole, nbytes, lambda memory: [Call(fn, words(memory), units)])
    to = b.scratch(nbytes)
    b.call(fn, words(to), units, nbytes * 0.5)
    return to
