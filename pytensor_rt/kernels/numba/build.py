"""Kernel calls under construction: which function runs over how many units, and the words it reads.

A kernel is called as `kernel(w, begin, end, slot)`: w points to its words, [begin, end) are units of work, and `slot` is the number of the thread that
runs them, for scratch of its own. Units may run in any order and on any thread, so what they compute must not depend on either. It returns 0, or what
is wrong with the data (see errors.py).

Words are 64-bit integers, given as what they stand for: numbers, the address of an operand, of scratch, of a table, of a function, of further words.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...dtypes import DType
from ...lowering.tensor import Buffer, Launch, Tensor, row_major

ALIGN = 64


@dataclass(frozen=True)
class Operand:
    """The address of a place in a buffer, in bytes from its start."""

    buffer: Buffer
    offset: int


@dataclass(frozen=True)
class Scratch:
    """The address of a place in the plan's scratch. What is there lives for one launch."""

    offset: int


@dataclass(frozen=True, eq=False)
class Table:
    """The address of constant data of the planner's own making. `key`, if given, identifies it over all plans of a session."""

    data: np.ndarray[Any, Any]
    key: Any = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """The address of `nbytes` that calls fill when the plan is bound, as with packed weights; shared by all plans of a session that have the same key.

    `make(memory)` gives the calls, which may refer to constants, tables and `memory` only.
    """

    key: Any
    nbytes: int
    make: Callable[[Prepared], list[Call]]


@dataclass(frozen=True)
class Fn:
    """The address of a function; see code.py for names."""

    name: str


@dataclass(frozen=True, eq=False)
class Block:
    """The address of further words."""

    words: Sequence[Word]


@dataclass(frozen=True)
class Status:
    """The address of the launch's STATUS words, in which a kernel reports bad data (jit/status.py). A call that has it runs on one thread."""


STATUS = 4  # words: code, axis, value, position

Word = int | Operand | Scratch | Table | Prepared | Fn | Block | Status
Address = Operand | Scratch | Table | Prepared


@dataclass(frozen=True)
class Call:
    """One kernel call. `cost`: an estimate of its time in nanoseconds on one thread, by which threads are worth waking or not."""

    fn: str
    words: Sequence[Word]
    units: int = 1
    cost: float = 0.0


@dataclass(frozen=True)
class View:
    """A tensor a kernel works on, wherever it lies: strides in elements, over axes the planner chose."""

    address: Address
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def with_axes(self, shape: Sequence[int], strides: Sequence[int]) -> View:
        """The same memory, other axes."""
        return View(self.address, self.dtype, tuple(shape), tuple(strides))


def no_overlap(a: Tensor, b: Tensor) -> bool:
    """The answer to Builder.overlaps where every buffer has memory of its own."""
    return a.buffer is b.buffer


@dataclass
class Builder:
    """Builds the calls of one launch.

    `overlaps(a, b)` tells whether the memory of two tensors may have bytes in common: an output may be the very memory of a `map` or epilogue operand.
    """

    launch: Launch
    threads: int = 1
    overlaps: Callable[[Tensor, Tensor], bool] = no_overlap
    calls: list[Call] = field(default_factory=list)
    scratch_bytes: int = 0

    def scratch(self, nbytes: int) -> Scratch:
        """Memory for the time of this launch, aligned to 64 bytes."""
        at = self.scratch_bytes
        self.scratch_bytes += -(-max(1, nbytes) // ALIGN) * ALIGN
        return Scratch(at)

    def slots(self, nbytes: int) -> tuple[Scratch, int]:
        """Scratch for every thread: the address of slot 0, and the bytes from one slot to the next."""
        step = -(-max(1, nbytes) // ALIGN) * ALIGN + ALIGN  # not a multiple of 4096 for all slots
        return self.scratch(step * self.threads), step

    def temporary(self, dtype: DType, shape: Sequence[int]) -> View:
        """A row-major tensor in scratch."""
        size = int(np.prod(shape, dtype=np.int64)) if len(shape) else 1
        return View(self.scratch(size * dtype.itemsize), dtype, tuple(shape), row_major(tuple(shape)))

    def call(self, fn: str, words: Sequence[Word], units: int = 1, cost: float = 0.0) -> None:
        """Append a call. One of no units is left out."""
        if units > 0:
            self.calls.append(Call(fn, words, units, cost))


def view(t: Tensor) -> View:
    """A tensor of the launch."""
    return View(Operand(t.buffer, int(t.offset) * t.dtype.itemsize), t.dtype, tuple(map(int, t.shape)), tuple(map(int, t.strides)))


def f64(x: float) -> int:
    """A number as a word that a kernel reads with bits_f64."""
    return int(struct.unpack("<q", struct.pack("<d", float(x)))[0])


def byte_strides(v: View) -> list[int]:
    """A view's strides in bytes."""
    return [s * v.dtype.itemsize for s in v.strides]
