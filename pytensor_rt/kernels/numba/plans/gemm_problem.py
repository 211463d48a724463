"""A `gemm` launch as its kernels see it: batch axes, m, n, k, and which operand gives the rows."""

from __future__ import annotations

from dataclasses import dataclass

from ....dtypes import DType
from ....lowering.tensor import Launch, Tensor
from ...axes import fold_batch, merge
from ...gemm_rules import optional, validate
from ..build import Builder, View, Word, view
from . import edges

FEW = 4  # rows (or columns) of a problem that streams the other operand
TALL = 12  # rows of a block are a multiple of it, as of a register tile
WIDEST = 16384  # bytes of a block's row
LEAST_WORK = 1e6  # operations that are worth a block of their own


@dataclass
class Problem:
    """y[batch..., m, n] = sum over k of a[batch..., m, k] * b[batch..., k, n]. Strides are 0 where an operand is broadcast.

    Zero points have the axes of their operand, of stride 0 along k. `program` takes the sum to y, with `operands` over y's axes.
    """

    batch: tuple[int, ...]
    m: int
    n: int
    k: int
    a: View
    b: View
    a_zero: View | None
    b_zero: View | None
    y: View
    operands: list[View | None]

    @property
    def batches(self) -> int:
        """Matrix products."""
        out = 1
        for n in self.batch:
            out *= n
        return out

    @property
    def shape(self) -> tuple[int, ...]:
        """Of y."""
        return (*self.batch, self.m, self.n)


def read(launch: Launch, swappable: bool) -> Problem:
    """The problem of a launch, or UnsupportedError.

    Programs that count along an axis pin the axes of y; otherwise the roles of a and b are exchanged where y is dense along m (if `swappable`), and batch
    axes are folded into m where b does not depend on them.
    """
    validate(launch)
    a, b, y = launch.ins[0], launch.ins[1], launch.outs[0]
    assert a is not None and b is not None and y is not None
    pinned = counts(launch)
    zeros = (None, None) if optional(launch, 4) is not None else (optional(launch, 2), optional(launch, 3))
    r = y.ndim
    shape = [int(n) for n in y.shape]

    def spread(t: Tensor, own: bool) -> list[int]:
        """Strides over the batch axes, m and n of an operand that has one of the two: a's (`own`) or b's."""
        batch = [0 if t.shape[i] == 1 else int(t.strides[i]) for i in range(r - 2)]
        along = r - 2 if own else r - 1
        step = 0 if t.shape[along] == 1 else int(t.strides[along])
        return [*batch, step, 0] if own else [*batch, 0, step]

    rows = [spread(t, True) for t in (a, zeros[0]) if t is not None]
    columns = [spread(t, False) for t in (b, zeros[1]) if t is not None]
    others = [[int(s) for s in t.strides] for t in (y, *launch.epi_ins)]
    k_strides = [int(a.strides[r - 1]), int(b.strides[r - 2])]
    sides: list[tuple[Tensor, Tensor | None]] = [(a, zeros[0]), (b, zeros[1])]
    if swappable and not pinned and shape[-1] != 1 and others[0][-1] != 1 and (others[0][-2] == 1 or shape[-2] == 1):
        for v in (shape, *rows, *columns, *others):
            v[-2:] = v[:-3:-1]
        rows, columns = columns, rows
        k_strides.reverse()
        sides.reverse()
    if not pinned:
        for axis in range(r - 3, -1, -1):
            fold_batch(shape, axis, rows + others, columns)
    vectors = rows + columns + others
    if pinned:
        sizes, batches = tuple(shape[:-2]), [tuple(v[:-2]) for v in vectors]
    else:
        merged = merge(shape, [tuple(v) for v in vectors], [list(range(len(shape) - 2))])
        sizes, batches = merged.sizes, list(merged.strides)
    m, n, k = shape[-2], shape[-1], int(a.shape[-1])
    made: list[tuple[View, View | None]] = []
    at = 0
    for group, (t, z), step, first in zip((rows, columns), sides, k_strides, (True, False)):
        along = group[0][-2 if first else -1]
        full = (*sizes, m, k) if first else (*sizes, k, n)
        own = view(t).with_axes(full, (*batches[at], along, step) if first else (*batches[at], step, along))
        zero = None
        if z is not None:
            along = group[1][-2 if first else -1]
            zero = view(z).with_axes(full, (*batches[at + 1], along, 0) if first else (*batches[at + 1], 0, along))
        made.append((own, zero))
        at += len(group)
    seen = [view(t).with_axes((*sizes, m, n), (*batch, v[-2], v[-1])) for t, batch, v in zip((y, *launch.epi_ins), batches[at:], others)]
    return Problem(sizes, m, n, k, made[0][0], made[1][0], made[0][1], made[1][1], seen[0], list(seen[1:]))


def exchanged(p: Problem) -> Problem:
    """The transposed problem: b gives the rows."""

    def turned(v: View | None) -> View | None:
        if v is None:
            return None
        return v.with_axes((*v.shape[:-2], v.shape[-1], v.shape[-2]), (*v.strides[:-2], v.strides[-1], v.strides[-2]))

    a, b, y = turned(p.b), turned(p.a), turned(p.y)
    assert a is not None and b is not None and y is not None
    return Problem(p.batch, p.n, p.m, p.k, a, b, turned(p.b_zero), turned(p.a_zero), y, [turned(v) for v in p.operands])


def counts(launch: Launch) -> bool:
    """Does the epilogue count along an axis?"""
    return any(op == "iota" for op, _, _ in launch.epilogue)


def result_program(launch: Launch, acc: DType) -> list[edges.Instruction]:
    """The program that takes alpha times the kernel's sum, of dtype `acc`, to output 0."""
    program, _, _ = edges.epilogue(launch, acc)
    alpha = launch.params.get("alpha", 1.0)
    if alpha == 1.0:
        return program
    head: list[edges.Instruction] = [("acc", (), acc), ("const", (alpha,), acc), ("mul", (0, 1), acc)]
    moved: list[edges.Instruction] = []
    for op, args, dtype in program[1:]:
        known = op in ("load", "const", "iota")
        moved.append((op, args if known else tuple([a + 2 for a in args]), dtype))
    return [*head, *moved]


def finish(b: Builder, p: Problem, program: list[edges.Instruction], acc: DType) -> tuple[bool, Word]:
    """May the kernel write its results, of dtype `acc`, to y itself? Else the words of the program that takes them there."""
    if len(program) == 1 and p.y.dtype == acc and (p.y.strides[-1] == 1 or p.n == 1):
        return True, 0
    aliased = any(b.overlaps(t, y) for t in b.launch.epi_ins for y in b.launch.outs[:1] if y is not None)
    rank = len(p.shape)
    made = edges.rows_of(program, p.operands, p.y, p.y.dtype, p.shape, range(rank - 1), [rank - 1], acc=acc, in_place=aliased)
    assert made is not None
    return False, made


def grid(b: Builder, p: Problem, panels: int, panel_row: int, most_rows: int, most_bytes: int) -> tuple[int, int]:
    """Rows and panels of a block of at most so many rows and bytes of results, `panel_row` bytes in a panel's row. More blocks for more threads."""
    row_groups = max(1, -(-p.m // most_rows))
    even = -(-p.m // row_groups)
    rows = max(1, min(p.m, -(-even // TALL) * TALL))
    groups = max(1, min(panels, most_bytes // (panel_row * rows), WIDEST // panel_row))
    panel_groups = -(-panels // groups)
    groups = -(-panels // panel_groups)
    wanted = min(4 * b.threads if b.threads > 1 else 1, int(2.0 * p.batches * p.m * p.n * p.k / LEAST_WORK))
    while p.batches * -(-p.m // rows) * -(-panels // groups) < wanted:
        if groups > 4:
            groups = -(-groups // 2)
        elif rows > 2 * TALL:
            half = rows // 2
            rows = -(-half // TALL) * TALL
        elif groups > 1:
            groups = -(-groups // 2)
        else:
            break
    return rows, groups
