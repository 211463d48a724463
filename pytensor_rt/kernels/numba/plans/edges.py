"""What surrounds a kernel's own work: the prologue, casts and any strides of what it reads, the epilogue, casts and any strides of what it writes.

A kernel that works on rows of a compute type (float32, float64, int64, ...) in scratch is written once: `rows_in` is a program of the register machine
that brings rows of the operand there, `rows_out` one that takes rows from there to the output. See jit/box.py for how a kernel calls them:

    invoke(w[FN], (w[IN], r, r + 1, 0, cols, 0, 0, buffer, 0))             # operand's row r -> buffer, dense, of the compute type
    invoke(w[FN], (w[OUT], r, r + 1, 0, cols, buffer, 0, 0, 0))            # buffer -> output's row r, through the epilogue
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ....dtypes import F32, F64, I64, DType, is_float
from ....lowering.tensor import Launch
from ...axes import merge
from ..build import Block, Builder, View, view
from ..programs import Program, block, operands_of
from . import elementwise

Instruction = tuple[str, tuple[Any, ...], DType]


@dataclass
class Source:
    """A program over operands of one shape, and the dtype of its result."""

    program: list[Instruction]
    operands: list[View | None]
    dtype: DType
    shape: tuple[int, ...]


def compute_type(dtype: DType) -> DType:
    """What the kernels compute in: float64 for itself, float32 for all shorter floats, int64 for integers and bool."""
    if dtype == F64:
        return F64
    return F32 if is_float(dtype) else I64


def source(launch: Launch, number: int = 0, dtype: DType | None = None) -> Source:
    """Operand `number` of a launch, or its prologue (number 0); cast to `dtype` if given."""
    x = launch.ins[number]
    assert x is not None
    shape = tuple(map(int, x.shape))
    if number == 0 and launch.prologue:
        s = Source(list(launch.prologue), [view(t) for t in launch.pro_ins], launch.prologue[-1][2], shape)
    else:
        s = Source([("load", (0,), x.dtype)], [view(x)], x.dtype, shape)
    return s if dtype is None or dtype == s.dtype else cast(s, dtype)


def of_view(v: View, dtype: DType | None = None) -> Source:
    """A view as a source, cast to `dtype` if given."""
    s = Source([("load", (0,), v.dtype)], [v], v.dtype, v.shape)
    return s if dtype is None or dtype == s.dtype else cast(s, dtype)


def cast(s: Source, dtype: DType) -> Source:
    """Its values, converted."""
    return Source([*s.program, ("cast", (len(s.program) - 1,), dtype)], s.operands, dtype, s.shape)


def epilogue(launch: Launch, acc: DType) -> tuple[list[Instruction], list[View | None], DType]:
    """The program that takes the kernel's own result, which it has in dtype `acc`, to output 0: (program, operands, the output's dtype).

    The result is first rounded to the launch's acc_dtype, as if the kernel had computed in it.
    """
    y = launch.outs[0]
    assert y is not None
    own = launch.acc_dtype if launch.epilogue and launch.acc_dtype is not None else y.dtype
    head: list[Instruction] = [("acc", (), acc)]
    if own != acc:
        head.append(("cast", (0,), own))
    if not launch.epilogue:
        return head, [], y.dtype
    at = len(head) - 1
    out = list(head)
    where: list[int] = []
    for op, args, dtype in launch.epilogue:
        if op == "acc":
            where.append(at)
        elif op in ("load", "const", "iota"):
            where.append(len(out))
            out.append((op, args, dtype))
        else:
            where.append(len(out))
            out.append((op, tuple([where[a] for a in args]), dtype))
    if where[-1] != len(out) - 1:  # the program is its accumulator
        out.append(("id", (where[-1],), out[where[-1]][2]))
    return out, [view(t) for t in launch.epi_ins], y.dtype


def is_plain(launch: Launch, acc: DType) -> bool:
    """May the kernel write its result to output 0 itself: no epilogue, and the output has the dtype it computes in?"""
    y = launch.outs[0]
    assert y is not None
    return not launch.epilogue and y.dtype == acc


def rows_of(
    program: Program,
    operands: Sequence[View | None],
    out: View | None,
    dtype: DType,
    shape: Sequence[int],
    rows: Sequence[int],
    cols: Sequence[int],
    acc: DType | None = None,
    in_place: bool = False,
) -> Block | None:
    """The machine's words for a program over a box whose rows are the axes `rows` (in that order) and whose columns are the axes `cols`.

    None if the column axes cannot be merged into one, with the strides there are.
    """
    used = operands_of(program)
    iotas = sorted({args[0] for op, args, _ in program if op == "iota"})
    lines = [tuple(v.strides) for v in (operands[k] for k in used) if v is not None]
    if out is not None:
        lines.append(tuple(out.strides))
    lines += [tuple(int(i == k) for i in range(len(shape))) for k in iotas]
    axes = merge(shape, lines, [list(rows), list(cols)])
    n_rows = axes.groups[0][1]
    if axes.groups[1][1] > 1:
        return None
    sizes = list(axes.sizes) + [1] * (1 - axes.groups[1][1])
    strides = [list(s) + [0] * (1 - axes.groups[1][1]) for s in axes.strides]
    if n_rows == 0:
        sizes.insert(0, 1)
        for s in strides:
            s.insert(0, 0)
    views: list[View | None] = [None] * len(operands)
    for n, k in enumerate(used):
        v = operands[k]
        assert v is not None
        views[k] = v.with_axes(sizes, strides[n])
    held = out.with_axes(sizes, strides[len(used)]) if out is not None else None
    first = len(used) + (out is not None)
    iota: list[list[int]] = [[0] * len(sizes) for _ in shape]
    for n, k in enumerate(iotas, first):
        iota[k] = strides[n]
    return block(sizes, program, views, held, dtype, acc=acc, iota=iota, in_place=in_place)


def rows_in(b: Builder, s: Source, rows: Sequence[int], cols: Sequence[int]) -> Block:
    """A program that brings rows of a source to the caller's memory. What has no such rows is first brought to scratch as a whole."""
    found = rows_of(s.program, s.operands, None, s.dtype, s.shape, rows, cols)
    if found is not None:
        return found
    held = settled(b, s, [*rows, *cols])
    again = rows_of([("load", (0,), s.dtype)], [held], None, s.dtype, s.shape, rows, cols)
    assert again is not None
    return again


def settled(b: Builder, s: Source, order: Sequence[int] | None = None) -> View:
    """The source as a tensor in memory: itself if it is one, else written to scratch, row-major in the given order of its axes."""
    if len(s.program) == 1 and order is None:
        v = s.operands[0]
        assert v is not None
        return v
    axes = list(order) if order is not None else list(range(len(s.shape)))
    t = b.temporary(s.dtype, [s.shape[i] for i in axes])
    strides = [0] * len(axes)
    for k, i in enumerate(axes):
        strides[i] = t.strides[k]
    held = t.with_axes(s.shape, strides)
    elementwise.elementwise(b, s.program, s.operands, held)
    return held


def rows_out(b: Builder, acc: DType, shape: Sequence[int], rows: Sequence[int], cols: Sequence[int]) -> tuple[Block, Callable[[], None]]:
    """A program that takes rows of the kernel's result, dense and of dtype `acc`, through the epilogue to output 0; and what to call when the kernel's
    own calls have been added. `shape` is output 0's, or what it is seen as: strides of the epilogue's operands must be over the same axes.
    """
    launch = b.launch
    y = launch.outs[0]
    assert y is not None
    program, operands, dtype = epilogue(launch, acc)
    aliased = any(b.overlaps(t, y) for t in launch.epi_ins)
    found = rows_of(program, operands, view(y), dtype, shape, rows, cols, acc=acc, in_place=aliased)
    if found is not None:
        return found, lambda: None
    axes = [*rows, *cols]
    t = b.temporary(acc, [shape[i] for i in axes])
    strides = [0] * len(axes)
    for k, i in enumerate(axes):
        strides[i] = t.strides[k]
    held = t.with_axes(shape, strides)
    found = rows_of([("acc", (), acc)], [], held, acc, shape, rows, cols, acc=acc)
    assert found is not None
    return found, lambda: finish(b, held)


def finish(b: Builder, raw: View) -> None:
    """Add the calls that take the kernel's whole result, a tensor of output 0's shape, through the epilogue to output 0."""
    launch = b.launch
    y = launch.outs[0]
    assert y is not None
    program, operands, _ = epilogue(launch, raw.dtype)
    n = len(operands)
    whole: list[Instruction] = [("load", (n,), dtype) if op == "acc" else (op, args, dtype) for op, args, dtype in program]
    aliased = any(b.overlaps(t, y) for t in launch.epi_ins)
    elementwise.elementwise(b, whole, [*operands, raw], view(y), in_place=aliased)


def result(b: Builder, acc: DType) -> tuple[View, Callable[[], None]]:
    """A tensor of output 0's shape for the kernel's whole result, and what to call after the kernel's own calls: output 0 itself where that is enough,
    else scratch. For kernels that are not worth more."""
    y = b.launch.outs[0]
    assert y is not None
    if is_plain(b.launch, acc):
        return view(y), lambda: None
    t = b.temporary(acc, [int(n) for n in y.shape])
    return t, lambda: finish(b, t)
