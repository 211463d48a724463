"""Moves of raw elements by lists of offsets, for the kernels that select by index; their loop nests and checked indices (see jit/nest.py, jit/moves.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ....dtypes import I32, I64
from ....errors import UnsupportedError
from ....lowering.tensor import Tensor, row_major
from ...axes import Strides, merge
from ..build import Address, Block, Builder, Status, Table, View, Word, view

UNIT = 65536  # bytes of a unit of work
POINTS = (1, 2, 4, 8, 16)  # bytes that one load and store, or two, move
ZERO = Table(np.zeros(1, np.int64), ("zero offset",))


def need(ok: bool, kernel: str, what: str) -> None:
    """Refuse a launch with the words of the C++ kernel."""
    if not ok:
        raise UnsupportedError(f"{kernel}: {what}")


def memory_order(strides: Sequence[int]) -> list[int]:
    """The axes, from that of the largest stride on."""
    return sorted(range(len(strides)), key=lambda i: -abs(strides[i]))


def scaled(strides: Sequence[int], by: int) -> Strides:
    return tuple([int(s) * by for s in strides])


def nest(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> Block:
    """The words of a loop nest over operands with these strides in bytes."""
    if not sizes:
        return Block([1, 1] + [0] * len(strides))
    need(len(sizes) < 64, "nest", "too many axes")
    words: list[Word] = [len(sizes)]
    for i, n in enumerate(sizes):
        words += [int(n), *[int(s[i]) for s in strides]]
    return Block(words)


def merged(shape: Sequence[int], *strides: Sequence[int], order: Sequence[int] | None = None) -> Block:
    """The nest over the axes of `shape` in the given order (row-major by default), merged where all operands allow it."""
    axes = merge(shape, [tuple(s) for s in strides], [order if order is not None else range(len(shape))])
    return nest(axes.sizes, axes.strides)


@dataclass(frozen=True)
class Place:
    """An operand of a move: its address, and strides in bytes over the axes of the move."""

    address: Address
    strides: Strides


def place(v: View) -> Place:
    """A view as an operand of a move over its own axes."""
    return Place(v.address, scaled(v.strides, v.dtype.itemsize))


def move(b: Builder, shape: Sequence[int], item: int, x: Place, y: Place, offsets: Place | None = None, in_place: bool = False) -> None:
    """y = x over the axes of `shape`, elements of `item` bytes, where x is shifted by `offsets` (int64, in bytes), if given.

    in_place: y may be the very memory of x, if their strides are equal; then nothing is done.
    """
    if offsets is None:
        offsets = Place(ZERO, (0,) * len(shape))
    axes = merge(shape, [x.strides, y.strides, offsets.strides], [memory_order(y.strides)])
    sizes = list(axes.sizes)
    xs, ys, os = (list(s) for s in axes.strides)
    run = item
    if sizes and xs[-1] == ys[-1] == item and os[-1] == 0:
        run = sizes.pop() * item
        for s in (xs, ys, os):
            s.pop()
        pieces = _pieces(run)
        if pieces > 1:
            run //= pieces
            sizes.append(pieces)
            for s, step in ((xs, run), (ys, run), (os, 0)):
                s.append(step)
    count = prod(sizes)
    chunk = max(1, UNIT // max(8, run))
    same = in_place and tuple(x.strides) == tuple(y.strides)
    fn = f"moves.points[{run}]" if run in POINTS else "moves.runs"
    words: list[Word] = [x.address, y.address, offsets.address, nest(sizes, [xs, ys, os]), count, chunk, run, int(same)]
    b.call(fn, words, -(-count // chunk), count * (2.0 + run / 6.0))


def _pieces(nbytes: int) -> int:
    """Equal parts of at most UNIT bytes to cut a run into, or 1."""
    least = -(-nbytes // UNIT)
    return next((k for k in range(least, least + 256) if nbytes % k == 0), 1) if least > 1 else 1


# --------------------------------------------------------------------------------------------------------------------------------- indices
@dataclass(frozen=True)
class Part:
    """What a component of an index tuple names: an axis of x, its size, its stride in bytes."""

    axis: int
    size: int
    step: int


def part(t: Tensor, axis: int) -> Part:
    return Part(axis, int(t.shape[axis]), int(t.strides[axis]) * t.dtype.itemsize)


def is_index(t: Tensor) -> bool:
    return t.dtype in (I32, I64)


def scan(index: Tensor, parts: Sequence[Part], tuples: bool, to: Address | int = 0) -> tuple[str, list[Word]]:
    """The call that checks indices in row-major order and lists the offsets they stand for; `tuples`: the last axis holds the components."""
    v = view(index)
    strides = scaled(v.strides, v.dtype.itemsize)
    shape, outer, between = (v.shape[:-1], strides[:-1], strides[-1]) if tuples else (v.shape, strides, 0)
    words: list[Word] = [Status(), v.address, merged(shape, outer), prod(shape), to, len(parts), between]
    for p in parts or [Part(0, 0, 0)]:
        words += [p.axis, p.size, p.step]
    return f"moves.scan[{index.dtype.name}]", words


def listed(b: Builder, index: Tensor, parts: Sequence[Part], tuples: bool) -> tuple[Address, Strides]:
    """Check the indices and list their offsets in scratch: the list's address, and its strides in bytes over the axes of the indices."""
    shape = tuple(map(int, index.shape[:-1] if tuples else index.shape))
    to = b.scratch(8 * prod(shape))
    fn, words = scan(index, parts, tuples, to)
    b.call(fn, words, 1, prod(shape) * 1.0)
    return to, scaled(row_major(shape), 8)
