"""A `gemm` launch as its kernels see it: merged batch axes, m, n, k, and which operand gives the rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ....dtypes import DType, code_of
from ....errors import UnsupportedError
from ....lowering.tensor import Launch, Tensor
from ..axes import Strides, merge
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


def check(ok: object, what: str) -> None:
    if not ok:
        raise UnsupportedError(f"gemm: {what}")


def name(dtype: DType) -> str:
    """The CUDA name of a dtype."""
    return {1: "f32", 2: "u8", 3: "i8", 4: "u16", 5: "i16", 6: "i32", 7: "i64", 10: "f16", 11: "f64", 12: "u32", 13: "u64", 16: "bf16",
            21: "u4", 22: "i4"}.get(code_of(dtype), "")  # fmt: skip


def optional(launch: Launch, position: int) -> Tensor | None:
    """Input `position`, or None."""
    return launch.ins[position] if position < len(launch.ins) else None


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
            _fold(shape, axis, rows + others, columns)
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


def _fold(shape: list[int], axis: int, rows: list[list[int]], columns: list[list[int]]) -> None:
    """Make batch axis `axis` a part of m, if B does not depend on it and everything else steps evenly."""
    m = shape[-2]
    if any(v[axis] for v in columns) or (m != 1 and shape[axis] != 1 and any(v[axis] != m * v[-2] for v in rows)):
        return
    if shape[axis] != 1:
        for v in rows:
            if m == 1:
                v[-2] = v[axis]
    shape[-2] *= shape[axis]
    for v in (shape, *rows, *columns):
        del v[axis]


def _alignment(offset: int) -> int:
    return 16 if offset == 0 else min(16, offset & -offset)


def validate(launch: Launch) -> None:
    """Raises UnsupportedError, with the texts of the C++ kernel."""
    a, b = (launch.ins[0], launch.ins[1]) if len(launch.ins) > 1 else (None, None)
    y = launch.outs[0]
    check(a is not None and b is not None and y is not None and len(launch.ins) <= 5, "expected operands a, b, a_zero?, b_zero? and y")
    assert a is not None and b is not None and y is not None
    r = y.ndim
    check(r >= 2 and a.ndim == r and b.ndim == r, "a, b and y must have the same rank >= 2")
    acc = launch.acc_dtype if launch.epilogue and launch.acc_dtype is not None else y.dtype
    if optional(launch, 4) is not None:
        _validate_dequantising(launch, a, b, y, acc)
    else:
        _validate_plain(launch, a, b, y, acc)
    check(all(e.ndim == r for e in launch.epi_ins), "epilogue operands must have y's rank")


def _validate_plain(launch: Launch, a: Tensor, b: Tensor, y: Tensor, acc: DType) -> None:
    r = y.ndim
    check(all(t.shape[i] in (1, y.shape[i]) for t in (a, b) for i in range(r - 2)), "batch axes do not match")
    check(a.shape[-2] == y.shape[-2] and b.shape[-1] == y.shape[-1] and a.shape[-1] == b.shape[-2], "shapes do not match")
    for z, of, along in ((optional(launch, 2), a, r - 1), (optional(launch, 3), b, r - 2)):
        if z is None:
            continue
        check(z.dtype == of.dtype and z.ndim == r, "a zero point must have its operand's dtype and rank")
        check(all(n in (1, m) for n, m in zip(z.shape, of.shape)), "a zero point's shape does not broadcast")
        check(z.shape[along] == 1 or z.strides[along] == 0, "a zero point must not vary along k")
    if name(a.dtype) in ("i8", "u8"):
        check(name(b.dtype) in ("i8", "u8") and name(acc) == "i32", "8-bit operands give int32")
    else:
        check(a.dtype == b.dtype == acc, "a, b and the result must have one dtype")
        check(name(a.dtype) not in ("", "u4", "i4"), "dtype not supported")
    if launch.params.get("precision", "full") != "full":
        zeros = optional(launch, 2) is not None or optional(launch, 3) is not None
        check(
            name(a.dtype) == "f32" and not zeros and b.known,
            "a reduced precision needs f32 operands without zero points and a constant b",
        )
        if launch.params["precision"] == "int8":
            check(a.shape[-1] <= 65536, "int8 takes sums of at most 65536 products")


def _validate_dequantising(launch: Launch, a: Tensor, b: Tensor, y: Tensor, acc: DType) -> None:
    r, k = y.ndim, int(a.shape[-1])
    scale, zero, pairs, block = optional(launch, 4), optional(launch, 3), launch.params.get("pairs", 0), launch.params.get("block", 0)
    assert scale is not None
    check(name(a.dtype) in ("f32", "f16", "bf16"), "b_scale needs an f32, f16 or bf16 a")
    check(acc == a.dtype, "the result has a's dtype")
    check(name(b.dtype) == "u8" if pairs else name(b.dtype) in ("i8", "u8", "i4", "u4"), "b_scale needs an integer b of 8 or 4 bits")
    check(b.known and optional(launch, 2) is None, "b_scale needs a constant b and no a_zero")
    for i in range(r - 2):
        check(a.shape[i] in (1, y.shape[i]) and (b.shape[i] == 1 or b.strides[i] == 0), "batch axes do not match")
    check(
        a.shape[-2] == y.shape[-2] and b.shape[-1] == y.shape[-1] and b.shape[-2] == ((k + 1) // 2 if pairs else k), "shapes do not match"
    )
    parameters = ("f32", "f16", "bf16")
    check(name(scale.dtype) in parameters, "b_scale must be f32, f16 or bf16")
    blocks = int(scale.shape[-2]) if scale.ndim == r else 0
    for o in (zero, scale):
        if o is None:
            continue
        own = o.dtype == b.dtype
        check((name(o.dtype) in parameters or own) and o.known and o.ndim == r, "b_scale and b_zero must be constants of b's rank")
        check(all(o.shape[i] == 1 or o.strides[i] == 0 for i in range(r - 2)), "b_scale and b_zero must not vary along batches")
        rows = (blocks + 1) // 2 if pairs and own else blocks
        check(
            (o.shape[-2] == rows or (o.shape[-2] == 1 and not own) or rows == 1) and o.shape[-1] in (1, y.shape[-1]),
            "b_scale or b_zero does not broadcast",
        )
    size = block or max(1, k)
    check(blocks >= 1 and size >= 1 and blocks == max(1, -(-k // size)), f"b_scale has {blocks} blocks of {size} for {k} values")


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
