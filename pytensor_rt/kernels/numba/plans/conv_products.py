"""Convolution by register tiles: which layout of x and of the filters a problem is computed in, in which blocks. See jit/conv_block.py."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from ....dtypes import F64
from .. import code
from ..build import Block, Builder, Fn, Table, View
from . import conv_finish, conv_weights
from .conv_problem import Problem

CACHED = 384 << 10  # bytes of x's pixels of a block: they stay in the second-level cache while all filters pass over them
SUMS = 128 << 10  # bytes of sums that wait for an epilogue
RATE = 80.0  # products per nanosecond
MOST_WINDOW = 64 << 10  # bytes of a gathered row
FEW = 4  # filters, at most, for vectors along the channels


def most_rows() -> int:
    """Pixels of the largest tile."""
    return {64: 14, 32: 6}.get(code.vector_bytes(), 4)


def split(pixels: int, most: int) -> list[tuple[int, int]]:
    """Two sizes of tiles and their numbers, (number, pixels), that cover so many pixels about evenly."""
    n = -(-pixels // most)
    size = -(-pixels // n)
    small = n * size - pixels
    return [(n - small, size), (small, max(1, size - 1))]


def tile_words(kind: str, pixels: int, filters: int, few: bool) -> list[Any]:
    """Words of the tiles of a block of so many pixels, for panels of two vectors and what is left of so many filters of a group. `few`: vectors are along
    the channels."""
    lanes = code.vector_bytes() // (8 if kind == "f64" else 4)
    narrow = (filters - 1) % (2 * lanes) < lanes  # has the last panel one vector only?
    words: list[Any] = []
    for count, rows in split(pixels, most_rows() if not few else min(8, most_rows() * 2 // filters)):
        if count == 0:
            words += [0, 0, 0, 0]
        elif few:
            words += [count, rows, *[Fn(f"conv_dot.product[{rows},{filters},:{kind}]")] * 2]
        else:
            one, two = (Fn(f"conv_tile.product[{rows},{v},:{kind}]") for v in (1, 2))
            words += [count, rows, two if filters > lanes else one, one if narrow else two]
    return words


Sampler = Callable[[View, int], tuple[Fn, Block]]  # of x and the bytes of a row


def plan(b: Builder, p: Problem, sampler: Sampler | None = None) -> None:
    """Add the calls of a problem. `sampler`: what fills rows of windows from x where the taps are not at their places."""
    kind = kind_of(p)
    item = 8 if kind == "f64" else 4
    lanes = code.vector_bytes() // item
    vectors = 1 if p.filters <= lanes else 2
    wide = vectors * lanes
    panels = -(-p.filters // wide)
    few = sampler is None and p.sum.kind == "f" and p.groups == 1 and p.filters <= FEW and p.channels >= lanes
    if few:
        wide, panels = p.filters, 1
    held = conv_finish.linear(p)
    source = conv_weights.bring(b, p, kind, plain=few or sampler is not None)
    if few:
        filters = conv_weights.lines(b, p, -(-p.channels // lanes) * lanes)
    else:
        filters = conv_weights.packed(b, p, kind, source, panels, wide)
    if kind == "u8":
        biases = conv_weights.offset_biases(
            b, p, filters, source.add, panels, wide, p.groups * panels * len(p.taps) * source.words * wide * item
        )
    else:
        biases = conv_finish.biases(b, p, held, panels, wide)
    taps, words, x = len(p.taps) // source.taps, source.words * source.taps, source.view
    pixel = p.groups * source.words * item
    gathered = sampler is not None or (source.taps == 1 and not few and gathers(p, x, words * item))
    merged = gathered and p.groups == 1
    row = -(-(taps * pixel + 2 * code.vector_bytes()) // 64) * 64 + 64 if gathered else 0
    if gathered and row % 4096 == 0:
        row += 128
    block = block_size(p, pixel, row, panels * wide * p.groups * item if held is None else 0)
    chunk, per_block = units_of(p, block, p.groups * panels, wide, item, held is None)
    line = 8 * (block + most_rows())
    pitch = (chunk * min(wide, p.filters) + wide) * item
    pitch += 64 if pitch % 2048 == 0 else 0
    at_out = (1 if merged else taps) * line
    at_residual = at_out + line
    at_rows = -(-(at_residual + line) // 64) * 64
    at_sums = at_rows + block * row
    slots, step = b.slots(at_sums + (block * pitch if held is None else 0) + 256)
    calls, tail = conv_finish.sink(b, p, held)
    common: list[Any] = [
        p.pixels, block, *p.y_shape[2:], *p.step, *x.shape[2:], x.address, *[x.strides[k] * x.dtype.itemsize for k in (0, 2, 3, 4)],
        taps, bases(p, source.taps, source.left), source.pad, slots, step, line,
    ]  # fmt: skip
    gatherer: list[Any] = [0, 0, 0]
    if sampler is not None:
        gatherer = [*sampler(x, row), 0 if merged else pixel]
    elif gathered:
        table = runs(p, x, pixel)
        window: list[Any] = [*common[:19], row, pixel // 4, len(table), Table(np.array(table, np.int64))]
        gatherer = [Fn("conv_gather.windows"), Block(window), 0 if merged else pixel]
    last = p.pixels - (p.pixels - 1) // block * block
    body: list[Any] = [
        *common, at_out, at_residual, at_rows, at_sums, row, *gatherer, p.groups, words * item, panels, wide, p.filters, filters,
        taps * words * wide * item, biases, taps * words if merged else words, chunk, per_block, *calls, item, *tail, pitch, lanes,
        *tile_words(kind, block, p.filters, few), *tile_words(kind, last, p.filters, few),
    ]  # fmt: skip
    speed = {"f64": 0.5, "i16": 2.0, "u8": 4.0}.get(kind, 1.0) * RATE
    cost = p.pixels * p.groups * p.filters * (taps * p.channels / speed + 0.2)
    b.call("conv_block.products", body, -(-p.pixels // block) * per_block, cost)


def bases(p: Problem, every: int = 1, left: int = 0) -> Table:
    """Where taps read, as a kernel's table: every n-th tap, in rows of pixels that have `left` more in front."""
    return Table(np.array([(t.base[0], t.base[1], t.base[2] + left) for t in p.taps[::every]] or [(0, 0, 0)], np.int64))


def kind_of(p: Problem) -> str:
    """How a problem is summed; see jit/conv_tile.py."""
    if p.sum.kind == "f":
        return "f64" if p.sum == F64 else "f32"
    if code.vector_bytes() == 64 and "+avx512vnni" in code.cpu()[1].split(",") and conv_weights.symmetric(p):
        return "u8"
    return "i16"


def gathers(p: Problem, x: View, words: int) -> bool:
    """Are windows gathered to rows? `words`: bytes of a group's channels of a pixel."""
    if not p.taps or not words:
        return False
    row = len(p.taps) * p.groups * words
    by = abs(x.strides[4]) * x.dtype.itemsize * p.step[2]
    crowded = by % 4096 == 0 and p.y_shape[4] > 1 and words > 64
    if crowded and row <= MOST_WINDOW:
        return True
    return p.groups == 1 and words < conv_weights.SMALL and len(p.taps) > 1 and row <= MOST_WINDOW


def runs(p: Problem, x: View, pixel: int) -> list[tuple[int, int, int, int]]:
    """Taps as runs that follow each other in memory: the first one's bases, and their number."""
    dense = x.strides[4] * x.dtype.itemsize == pixel
    found: list[tuple[int, int, int, int]] = []
    for t in p.taps:
        if found and dense and found[-1][:2] == t.base[:2] and found[-1][2] + found[-1][3] == t.base[2]:
            found[-1] = (*found[-1][:3], found[-1][3] + 1)
        else:
            found.append((*t.base, 1))
    return found


def block_size(p: Problem, pixel: int, row: int, sums: int) -> int:
    """Output pixels of a block."""
    most = most_rows()
    per = max(row, min(pixel * max(1, prod(p.step)), 4 * pixel)) + 8 * len(p.taps) + 16
    room = max(2 * most, min(1024, CACHED // per))
    if sums:
        room = max(2 * most, min(room, SUMS // min(sums, 2048)))
    if p.pixels <= room:
        return p.pixels
    blocks = -(-p.pixels // (room // most * most))
    return min(p.pixels, (p.pixels + blocks * most - 1) // (blocks * most) * most)


def units_of(p: Problem, block: int, whole: int, wide: int, item: int, waits: bool) -> tuple[int, int]:
    """Panels of a unit, and units of a block: a few units for the threads, and sums that wait for their epilogue in cache."""
    blocks = -(-p.pixels // block)
    products = p.pixels * p.groups * p.filters * p.channels * max(1, len(p.taps))
    wanted = max(1, min(16, products // 2_000_000))
    per_block = min(whole, max(1, -(-wanted // blocks)))
    chunk = -(-whole // per_block)
    if waits:
        chunk = min(chunk, max(1, SUMS * 2 // (block * wide * item)))
    return chunk, -(-whole // chunk)
