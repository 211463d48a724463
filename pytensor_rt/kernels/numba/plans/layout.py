"""How kernels that reduce some axes of an operand walk it: as [O, P, C], O sets of P rows of C columns (see jit/tiles.py), along its memory.

`lanes`: the columns are kept axes, so every column is a result of its own. Otherwise the columns are reduced axes, and a set is one result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ....dtypes import I64, U64, DType
from ....errors import UnsupportedError
from ...axes import Strides, merge
from ..build import Block, Builder, Fn, View, view
from ..programs import Program, operands_of
from . import edges, elementwise


@dataclass
class Layout:
    """Axes in the order they are walked: sets, rows of a set, columns; and the sizes O, P, C."""

    shape: tuple[int, ...]
    sets: list[int]
    rows: list[int]
    cols: list[int]
    lanes: bool

    @property
    def O(self) -> int:  # noqa: E743
        return self._size(self.sets)

    @property
    def P(self) -> int:
        return self._size(self.rows)

    @property
    def C(self) -> int:
        return self._size(self.cols)

    def _size(self, axes: Sequence[int]) -> int:
        return math.prod(self.shape[i] for i in axes)


def lines_of(program: Program, operands: Sequence[View | None], rank: int) -> list[Strides]:
    """The strides of everything a program reads, over the launch's axes; an index along an axis counts as an operand."""
    lines = [v.strides for v in (operands[k] for k in operands_of(program)) if v is not None]
    iotas = {args[0] for op, args, _ in program if op == "iota"}
    return lines + [tuple(int(i == k) for i in range(rank)) for k in sorted(iotas)]


def arrange(
    launch: Any, s: edges.Source, reduced: Sequence[int], lanes: Callable[[int, int, bool], bool], more: Sequence[Strides] = ()
) -> Layout:
    """The layout of a source some of whose axes are reduced.

    lanes(k, n, inner) decides, from the sizes of the innermost kept and reduced axes and whether the kept one is the inner one in memory. The columns are
    axes that all operands can walk as one; those with the strides `more` only if the columns do not get short for it.
    """
    shape, rank = s.shape, len(s.shape)
    lines = lines_of(s.program, s.operands, rank)
    y = launch.outs[0]
    results = (
        [view(y).strides] + lines_of(launch.epilogue, [view(t) for t in launch.epi_ins], rank) if y is not None and y.ndim == rank else []
    )
    main = max(lines, key=lambda line: sum(x != 0 for x in line), default=(0,) * rank)
    order = [i for i in range(rank) if shape[i] != 1]
    order.sort(key=lambda i: -abs(main[i]) if main[i] else -(1 << 62))
    kept, gone = [i for i in order if i not in reduced], [i for i in order if i in reduced]

    def columns(axes: list[int]) -> int:
        """Where the columns among these axes begin."""
        found = [
            next((k for k in range(len(axes)) if merge(shape, lines, [axes[k:]]).groups[0][1] <= 1), len(axes))
            for lines in (required, [*required, *more])
        ]
        return found[1] if math.prod(shape[i] for i in axes[found[1] :]) >= 32 else found[0]

    required = lines + results
    at_kept, at_gone = columns(kept), columns(gone)
    k, n = math.prod(shape[i] for i in kept[at_kept:]), math.prod(shape[i] for i in gone[at_gone:])
    inner = bool(order) and order[-1] in kept
    if lanes(k, n, inner):
        return Layout(shape, kept[:at_kept], gone, kept[at_kept:], True)
    return Layout(shape, kept, gone[:at_gone], gone[at_gone:], False)


def _steps(strides: Strides, lay: Layout, sets: Sequence[int], rows: Sequence[int], cols: Sequence[int]) -> list[int] | None:
    """Elements from set to set, row to row and column to column, if each is one stride."""
    merged = merge(lay.shape, [strides], [sets, rows, cols])
    if any(count > 1 for _, count in merged.groups):
        return None
    return [merged.strides[0][first] if count else 0 for first, count in merged.groups]


def _direct(v: View, dtype: DType) -> bool:
    return v.dtype == dtype or (dtype == I64 and v.dtype == U64)


def steps_of(v: View, lay: Layout) -> list[int] | None:
    """Elements from set to set, row to row and column to column of a view, if each is one stride."""
    return _steps(v.strides, lay, lay.sets, lay.rows, lay.cols)


def source_words(b: Builder, s: edges.Source, lay: Layout, dtype: DType) -> tuple[Block, bool]:
    """The words of a source (jit/tiles.py) whose rows are dense and of a compute type, and whether they are its own memory."""
    first = s.operands[0] if len(s.program) == 1 and s.program[0][0] == "load" else None
    steps = steps_of(first, lay) if first is not None and _direct(first, dtype) else None
    if first is not None and steps is not None and (steps[2] == 1 or lay.C <= 1):
        n = dtype.itemsize
        so, sp = steps[0] * n, steps[1] * n
        return Block([1, 0, 0, first.address, so, sp, so if lay.P == 1 else sp, lay.P]), True
    if s.dtype != dtype:
        s = edges.cast(s, dtype)
    box = edges.rows_in(b, s, [*lay.sets, *lay.rows], lay.cols)
    return Block([0, Fn("box.run"), box, 0, 0, 0, 0, lay.P]), False


def sink_words(
    b: Builder, dtype: DType, lay: Layout, sets: Sequence[int], rows: Sequence[int], cols: Sequence[int]
) -> tuple[Block, bool, Callable[[], None]]:
    """The words of output 0 as the place of results of a compute type, whether they are its own memory, and what to call after the kernel's calls."""
    y = b.launch.outs[0]
    assert y is not None
    v = view(y)
    small = Layout(v.shape, list(sets), list(rows), list(cols), lay.lanes)
    steps = _steps(v.strides, small, sets, rows, cols) if not b.launch.epilogue and _direct(v, dtype) else None
    if steps is not None and (steps[2] == 1 or small.C <= 1):
        n = dtype.itemsize
        so, sp = steps[0] * n, steps[1] * n
        return Block([1, 0, 0, v.address, so, sp, so if small.P == 1 else sp, small.P]), True, lambda: None
    box, done = edges.rows_out(b, dtype, v.shape, [*sets, *rows], cols)
    return Block([0, Fn("box.run"), box, 0, 0, 0, 0, small.P]), False, done


def statistics_words(v: View | None, dtype: DType, sets: Sequence[int], cols: Sequence[int]) -> Block | int:
    """The words of an output of one element per set (and column), or 0 without it."""
    if v is None:
        return 0
    program: list[edges.Instruction] = [("acc", (), dtype)] + ([("cast", (0,), v.dtype)] if v.dtype != dtype else [])
    box = edges.rows_of(program, [], v, v.dtype, v.shape, sets, cols, acc=dtype)
    if box is None:
        raise UnsupportedError("an output whose axes cannot be walked as the operand's")
    return Block([0, Fn("box.run"), box, 0, 0, 0, 0, 1])


def settled_factor(b: Builder, v: View | None, lay: Layout, dtype: DType) -> Block:
    """The words of a scale or bias (jit/normalize.py), brought to memory of its own where it cannot be read as it lies."""
    if v is None:
        return Block([0, 0, 0, 0])
    steps = steps_of(v, lay) if v.dtype == dtype else None
    if steps is None or steps[2] not in (0, 1):
        groups = [lay.sets, lay.rows, lay.cols]
        own = [i for axes in groups for i in axes if any(v.strides[k] for k in axes)]
        shape = [v.shape[i] for i in own]
        held = b.temporary(dtype, shape)
        elementwise.copy(b, v.with_axes(shape, [v.strides[i] for i in own]), held)
        strides = [0] * len(v.shape)
        for i, n in zip(own, held.strides):
            strides[i] = n
        v = held.with_axes(v.shape, strides)
        steps = steps_of(v, lay)
        assert steps is not None
    n = dtype.itemsize
    return Block([v.address, *[k * n for k in steps]])
