"""A `gemm` launch as its kernels see it: merged batch axes, m, n, k, and which operand gives the rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ....dtypes import DType
from ....lowering.tensor import Launch, Tensor
from ...axes import Strides, fold_batch, merge
from ...gemm_rules import optional
from ..build import Pointer, operand

FEW = 16  # rows (or columns) of a problem that streams the other operand


@dataclass(frozen=True)
class Zero:
    """Zero points of one operand: a stored value per row (of B: column), with strides over the batch axes."""

    pointer: Pointer
    dtype: DType
    batch: Strides
    row: int


@dataclass(frozen=True)
class Side:
    """A or B: `row` is the stride along m (of B: n). `align`: what the first element's position is a multiple of, in elements."""

    pointer: Pointer
    dtype: DType
    batch: Strides
    row: int
    k: int
    align: int
    zero: Zero | None = None


@dataclass(frozen=True)
class Dequant:
    """b_scale and b_zero: element (k // block, n), by strides; `pairs`: two values of k per byte of B, `zero_pairs`: the same of b_zero."""

    scale: Tensor
    scale_strides: tuple[int, int]
    zero: Tensor | None
    zero_strides: tuple[int, int]
    block: int
    pairs: bool
    zero_pairs: bool


@dataclass(frozen=True)
class Problem:
    """y[batch, m, n] = sum over k. `y` and `epilogue` are strides over (batch axes..., m, n)."""

    launch: Launch
    batch: Strides
    m: int
    n: int
    k: int
    a: Side
    b: Side
    y: Strides
    epilogue: tuple[Strides, ...]
    dequant: Dequant | None = None

    @property
    def batches(self) -> int:
        out = 1
        for n in self.batch:
            out *= n
        return out

    @property
    def rank(self) -> int:
        return len(self.batch) + 2


def read(launch: Launch, swappable: bool) -> Problem:
    """The problem of a validated launch. Programs that count along an axis pin the axes of y; otherwise the roles of a and b are exchanged
    where y is dense along m (if `swappable`), and batch axes are folded into m where B does not depend on them."""
    a, b, y = launch.ins[0], launch.ins[1], launch.outs[0]
    assert a is not None and b is not None and y is not None
    pinned = any(op == "iota" for op, _, _ in launch.epilogue)
    dequant = optional(launch, 4) is not None
    zeros = (None, None) if dequant else (optional(launch, 2), optional(launch, 3))
    r = y.ndim
    shape = list(y.shape)

    def spread(t: Tensor, own: bool) -> list[int]:
        """Strides over the batch axes, m and n of an operand that has one of the two: A's (`own`) or B's."""
        batch = [0 if t.shape[i] == 1 else int(t.strides[i]) for i in range(r - 2)]
        return [*batch, int(t.strides[r - 2]), 0] if own else [*batch, 0, int(t.strides[r - 1])]

    rows = [spread(a, True)] + ([spread(zeros[0], True)] if zeros[0] is not None else [])
    columns = [spread(b, False)] + ([spread(zeros[1], False)] if zeros[1] is not None else [])
    others = [[int(s) for s in t.strides] for t in (y, *launch.epi_ins)]
    k_strides = [int(a.strides[r - 1]), int(b.strides[r - 2])]
    sides = [(a, zeros[0]), (b, zeros[1])]
    if swappable and not pinned and shape[-1] != 1 and _swap(shape, others[0]):
        for v in (shape, *rows, *columns, *others):
            v[-2:] = v[:-3:-1]
        rows, columns = columns, rows
        k_strides.reverse()
        sides.reverse()
    if not pinned:
        for axis in range(r - 3, -1, -1):
            fold_batch(shape, axis, rows + others, columns)
    vectors = rows + columns + others
    batch_axes = list(range(len(shape) - 2))
    if pinned:
        sizes, batches = tuple(shape[:-2]), [tuple(v[:-2]) for v in vectors]
    else:
        merged = merge(shape, [tuple(v) for v in vectors], [batch_axes])
        sizes, batches = merged.sizes, merged.strides
    made = []
    at = 0
    for group, (t, z), k, axis in zip((rows, columns), sides, k_strides, (-2, -1)):
        zero = Zero(operand(z), z.dtype, batches[at + 1], group[1][axis]) if z is not None else None
        made.append(Side(operand(t), t.dtype, batches[at], group[0][axis], k, _alignment(int(t.offset)), zero))
        at += len(group)
    full = [(*batch, v[-2], v[-1]) for batch, v in zip(batches[at:], others)]
    return Problem(launch, sizes, shape[-2], shape[-1], int(a.shape[-1]), made[0], made[1], full[0], tuple(full[1:]))


def _swap(shape: list[int], y: list[int]) -> bool:
    """Is A better the operand of the columns? If few columns make few rows, or y is dense along m."""
    m, n = shape[-2:]
    if (m <= FEW) != (n <= FEW):
        return n <= FEW
    return y[-1] != 1 and (y[-2] == 1 or m == 1)


def _alignment(offset: int) -> int:
    return 16 if offset == 0 else min(16, offset & -offset)


def dequantising(p: Problem) -> Problem:
    """The problem with b_scale and b_zero."""
    launch = p.launch
    scale, zero = optional(launch, 4), optional(launch, 3)
    assert scale is not None and launch.ins[1] is not None
    pairs = bool(launch.params.get("pairs", 0))

    def strides(t: Tensor | None) -> tuple[int, int]:
        return (0, 0) if t is None else (0 if t.shape[-2] == 1 else int(t.strides[-2]), 0 if t.shape[-1] == 1 else int(t.strides[-1]))

    own = zero is not None and zero.dtype == launch.ins[1].dtype
    block = launch.params.get("block", 0) or max(1, p.k)
    return replace(p, dequant=Dequant(scale, strides(scale), zero, strides(zero), block, pairs, pairs and own))
