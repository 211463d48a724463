"""Kernel `map`, and the copies other families make: a program over a box of merged axes."""

from __future__ import annotations

from collections.abc import Sequence

from ....dtypes import F32, I64, U8, U16, DType
from ...axes import merge
from ..build import Block, Builder, Fn, View, view
from ..programs import Program, block, operands_of, program_cost

UNIT = 32768  # elements of a unit of work
NARROW = 64  # columns of a unit where operands disagree on which axis is the inner one
_RAW: dict[int, DType] = {1: U8, 2: U16, 4: F32, 8: I64}


def map_(b: Builder) -> None:
    """One program over all elements."""
    launch = b.launch
    (y,) = launch.outs
    assert y is not None
    ins = [view(t) if t is not None else None for t in launch.ins]
    aliased = any(t is not None and b.overlaps(t, y) for t in launch.ins)
    elementwise(b, launch.body, ins, view(y), in_place=aliased)


def copy(b: Builder, x: View, y: View) -> None:
    """y = x, cast to y's dtype (of the same dtype: the same bits)."""
    elementwise(b, [("load", (0,), x.dtype)] + ([("cast", (0,), y.dtype)] if x.dtype != y.dtype else []), [x], y)


def elementwise(
    b: Builder, program: Program, operands: Sequence[View | None], y: View, acc: DType | None = None, in_place: bool = False
) -> None:
    """Calls that compute y = program(operands), all of y's shape."""
    if len(program) == 1 and program[0][0] == "load":
        x = operands[program[0][1][0]]
        assert x is not None
        x, y = widened(raw(x), raw(y))
        operands = [x]
        program = [("load", (0,), y.dtype)]
    box, cells, split = boxed(program, operands, y, in_place)
    rows, cols = cells
    wide = min(cols, UNIT if not split else NARROW)
    tall = max(1, UNIT // max(1, wide))
    units = -(-rows // tall) * -(-cols // max(1, wide)) if rows and cols else 0
    b.call("box.whole", [box, Fn("box.run"), tall, wide], units, program_cost(program, rows * cols))


def raw(v: View) -> View:
    """The same memory as elements of a register's dtype, so that a copy keeps all bits; complex128 gets an axis of two halves."""
    n = v.dtype.itemsize
    if n == 16:
        return View(v.address, I64, (*v.shape, 2), (*[2 * s for s in v.strides], 1))
    return View(v.address, _RAW[n], v.shape, v.strides)


def widened(x: View, y: View) -> tuple[View, View]:
    """The same copy in elements of 8 bytes, where short ones lie side by side in both and are as many as that takes."""
    k = 8 // y.dtype.itemsize
    inner = [i for i, n in enumerate(y.shape) if n > 1 and x.strides[i] == y.strides[i] == 1]
    if k == 1 or len(inner) != 1 or y.shape[inner[0]] % k or any((s % k) for v in (x, y) for i, s in enumerate(v.strides) if i != inner[0]):
        return x, y

    def wide(v: View) -> View:
        shape = [n // k if i == inner[0] else n for i, n in enumerate(v.shape)]
        return View(v.address, I64, tuple(shape), tuple([s if i == inner[0] else s // k for i, s in enumerate(v.strides)]))

    return wide(x), wide(y)


def boxed(program: Program, operands: Sequence[View | None], y: View, in_place: bool = False) -> tuple[Block, tuple[int, int], bool]:
    """The machine's words for y = program(operands), the rows and columns of its box, and whether some operand has another inner axis than y.

    Axes are walked in the order of y's memory and merged where all operands allow it.
    """
    used = operands_of(program)
    rank = len(y.shape)
    order = sorted(range(rank), key=lambda i: -abs(y.strides[i]))
    shape = [y.shape[i] for i in order]
    axes_used = sorted({args[0] for op, args, _ in program if op == "iota"})
    lines = [[y.strides[i] for i in order]]
    for k in used:
        v = operands[k]
        assert v is not None
        lines.append([v.strides[i] for i in order])
    lines += [[int(i == k) for i in order] for k in axes_used]
    merged = merge(shape, [tuple(line) for line in lines])
    sizes, strides = list(merged.sizes), [list(s) for s in merged.strides]
    while len(sizes) < 2:
        sizes.insert(0, 1)
        for s in strides:
            s.insert(0, 0)
    views: list[View | None] = [None] * len(operands)
    for n, k in enumerate(used, 1):
        v = operands[k]
        assert v is not None
        views[k] = v.with_axes(sizes, strides[n])
    iota = [[0] * len(sizes) for _ in range(rank)]
    for n, k in enumerate(axes_used, 1 + len(used)):
        iota[k] = strides[n]
    split = any(abs(s[-1]) > 1 and any(abs(t) == 1 for t in s[:-1]) for s in strides)
    rows = 1
    for n in sizes[:-1]:
        rows *= n
    words = block(sizes, program, views, y.with_axes(sizes, strides[0]), y.dtype, iota=iota, in_place=in_place)
    return words, (rows, sizes[-1]), split
