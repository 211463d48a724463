"""Kernel `gemm`: blocks of rows times panels of columns (jit/gemm.py), with the epilogue on every block while it is cached."""

from __future__ import annotations

from ....dtypes import F16, F32, F64, I32, I64, DType, from_code, is_float
from ...gemm_rules import optional
from ..build import Builder, Fn, View, Word
from . import edges, elementwise
from .gemm_int8 import eight_bits
from .gemm_narrow import Scaled, Stored, halves, multiplies_pairs, scaled
from .gemm_pack import NAMES, Fetch, constant_key, fetch, is_constant, packed_source, panel_columns, product
from .gemm_problem import FEW, Problem, counts, exchanged, finish, grid, read, result_program

DEPTH = 768  # values of k of a panel that are multiplied by all rows of a block before the next ones
ROWS = 192  # most rows of a block
BLOCK_BYTES = 384 * 1024  # of a block's results
READ_IN_PLACE = 16  # rows up to which B is better read where it is than packed
FLOPS = 150.0  # per nanosecond, of the estimate


def gemm(b: Builder) -> None:
    """y = alpha * a @ b, through the epilogue."""
    launch = b.launch
    a, precision = launch.ins[0], launch.params.get("precision", "full")
    assert a is not None
    x = compute_type(a.dtype)
    if optional(launch, 4) is not None:
        p = read(launch, False)
        weights = scaled(b, launch, p)
        if p.m <= FEW and weights.in_registers(p.k):
            few_rows(b, p, operand(p.a, None, x), weights)
        else:
            multiply(b, p, x, operand(p.a, None, x), weights.fetch(len(p.batch)))
        return
    constant = launch.ins[1] is not None and launch.ins[1].known
    p = read(launch, not (constant and (precision != "full" or a.dtype.itemsize == 2)))
    if p.k == 0:
        p.a_zero = p.b_zero = None
    if precision == "int8" or a.dtype.itemsize == 1:
        eight_bits(b, p, precision == "int8")
        return
    if precision == "full" and x in (F32, F64) and a.dtype == x and p.a_zero is None and p.b_zero is None:
        if p.n <= FEW < p.m and not counts(launch) and dots_apply(exchanged(p)):
            p = exchanged(p)
        if dots_apply(p):
            dots(b, p, x)
            return
    stored = {"bf16": from_code(16), "fp16": F16}.get(precision, p.b.dtype)
    if is_float(stored) and stored.itemsize == 2 and p.b_zero is None and is_constant(p.b):
        rounded = precision == "bf16" or (a.dtype == stored and stored != F16)
        pairs = rounded and p.k % 2 == 0 and p.a_zero is None and multiplies_pairs()
        left = operand(p.a, p.a_zero, stored if pairs else x, stored if rounded and not pairs else None)
        multiply(b, p, x, left, halves(p.b, stored, pairs))
    else:
        multiply(b, p, x, operand(p.a, p.a_zero, x), operand(p.b, p.b_zero, x))


def compute_type(dtype: DType) -> DType:
    """What sums are kept in: integers of up to 32 bits wrap in int32, as their low bits do."""
    if is_float(dtype):
        return F64 if dtype == F64 else F32
    return I64 if dtype.itemsize == 8 else I32


def operand(v: View, zero: View | None, x: DType, through: DType | None = None) -> edges.Source:
    """An operand less its zero point, in dtype x; rounded to `through` first if given."""
    program: list[edges.Instruction] = [("load", (0,), v.dtype)]
    views: list[View | None] = [v]
    if through is not None and through != v.dtype:
        program.append(("cast", (0,), through))
    if program[-1][2] != x:
        program.append(("cast", (len(program) - 1,), x))
    if zero is not None:
        at = len(program) - 1
        program.append(("load", (1,), zero.dtype))
        if zero.dtype != x:
            program.append(("cast", (len(program) - 1,), x))
        program.append(("sub", (at, len(program) - 1), x))
        views.append(zero)
    return edges.Source(program, views, x, v.shape)


def rows_of(b: Builder, s: edges.Source) -> View:
    """A [batch..., m, k] as the product reads it: in place where k is its inner axis, else copied to scratch."""
    v, x = s.operands[0], s.dtype
    assert v is not None
    m, k = s.shape[-2:]
    if len(s.program) == 1 and (v.strides[-1] == 1 or k == 1):
        thrashes = v.strides[-2] * x.itemsize % 4096 == 0 and v.strides[-2] != 0 and m > 8 and k >= 64
        if not thrashes:
            return v
    shape = [1 if all(o is None or o.strides[i] == 0 for o in s.operands) else n for i, n in enumerate(s.shape[:-1])] + [k]
    pitch = -(-k // 16) * 16
    if pitch * x.itemsize % 4096 == 0:
        pitch += 16
    size = pitch
    strides = [1]
    for n in reversed(shape[:-1]):
        strides.insert(0, 0 if n == 1 else size)
        size *= n
    held = View(b.scratch(size * x.itemsize), x, tuple(shape), tuple(strides))
    elementwise.elementwise(b, s.program, [None if o is None else o.with_axes(shape, o.strides) for o in s.operands], held)
    return held.with_axes(s.shape, strides)


def multiply(b: Builder, p: Problem, x: DType, left: edges.Source, right: edges.Source | Fetch | Stored) -> None:
    """Add the calls of a problem whose operands come from two sources of the compute type."""
    size, wide = x.itemsize, panel_columns(x)
    plain, run = finish(b, p, result_program(b.launch, x), x)
    panels = -(-p.n // wide)
    rows, groups = grid(b, p, panels, wide * size, ROWS, BLOCK_BYTES)
    row_groups, panel_groups = -(-p.m // rows), -(-panels // groups)
    a = rows_of(b, left)
    a_size = left.dtype.itemsize
    # B: panels that lie packed or can be read in place, and the function that fetches the others
    whole, b_panel, b_step, b_batch = 0, 0, 0, (0,) * len(p.batch)
    at: Word = 0
    got: Fetch | None = None
    multiplied, per = product(x), 1
    if isinstance(right, Fetch):
        got = right
    elif isinstance(right, Stored):
        multiplied, per, b_step = right.product, right.per, right.step
        whole, at, b_panel, b_batch = panels, right.panels.address, right.panels.panel_bytes, right.panels.batch
    else:
        v = right.operands[0]
        assert v is not None
        direct = len(right.program) == 1
        constant = all(o is None or is_constant(o) for o in right.operands)
        if constant or (not direct and row_groups > 1) or (direct and row_groups > 2):
            key = tuple(constant_key(o) for o in right.operands if o is not None) + (str(right.program),) if constant else None
            packed = packed_source(b, right, x, key)
            whole, at, b_panel, b_step, b_batch = panels, packed.address, packed.panel_bytes, wide * size, packed.batch
        else:
            got = fetch(right, x)
            if direct and v.strides[-1] == 1 and p.m <= READ_IN_PLACE:
                whole, at, b_panel, b_step = p.n // wide, v.address, wide * size, v.strides[-2] * size
                b_batch = tuple([s * size for s in v.strides[:-2]])
    depth, together = DEPTH * 4 // size, 1
    if got is not None and p.m <= FEW:
        depth, together = depth // 4, 4  # several panels at a time, in as much memory
    fetched = b.slots(depth * together * wide * size) if got is not None and whole < panels else (0, 0)
    pitch = groups * wide * size
    if pitch % 4096 == 0 and rows > 8 and p.n > wide * groups:
        pitch += 64
    held = b.slots(rows * pitch)
    axes: list[Word] = []
    for i, n in enumerate(p.batch):
        axes += [n, a.strides[i] * a_size, b_batch[i], got.origin[i] if got is not None else 0, p.y.strides[i] * size]
    words: list[Word] = [
        p.m, p.n, p.k // per, rows, row_groups, groups, panel_groups, panels, depth, together,
        a.address, a.strides[-2] * a_size, (a.strides[-1] or 1) * a_size * per, multiplied,
        whole, at, b_panel, b_step,
        got.fn if got is not None else 0, got.words if got is not None else 0, *fetched,
        *held, pitch, p.y.address if plain else 0, p.y.strides[-2] * size,
        run, Fn("box.run"), len(p.batch), *axes,
    ]  # fmt: skip
    cost = 2.0 * p.batches * p.m * p.n * max(1, p.k) / FLOPS
    b.call(f"gemm.blocks[{NAMES[x]}]", words, p.batches * row_groups * panel_groups, cost)


def few_rows(b: Builder, p: Problem, left: edges.Source, right: Scaled) -> None:
    """Add the calls of a problem of few rows with scaled integers."""
    wide = panel_columns(F32)
    panels = -(-p.n // wide)
    plain, run = finish(b, p, result_program(b.launch, F32), F32)
    a = rows_of(b, left)
    groups = max(4, min(panels, 64))
    while b.threads > 1 and groups > 4 and p.batches * -(-panels // groups) < 4 * b.threads:
        groups //= 2
    panel_groups, pitch = -(-panels // groups), groups * wide * 4
    axes: list[Word] = []
    for i, n in enumerate(p.batch):
        axes += [n, 4 * a.strides[i], 4 * p.y.strides[i]]
    words: list[Word] = [
        p.m, p.n, p.k, groups, panel_groups, panels, a.address, 4 * a.strides[-2], *right.words, *b.slots(p.m * pitch), pitch,
        p.y.address if plain else 0, 4 * p.y.strides[-2], run, Fn("box.run"), len(p.batch), *axes,
    ]  # fmt: skip
    b.call(f"gemm_few.scaled[:{right.form},{int(right.zeros)}]", words, p.batches * panel_groups, 0.05 * p.batches * p.n * p.k)


def dots_apply(p: Problem) -> bool:
    """Few rows, and a large operand that lies along k?"""
    return p.m <= FEW and p.n > 1 and p.k >= panel_columns(p.b.dtype) // 2 and p.b.strides[-2] == 1 and not is_constant(p.b)


def dots(b: Builder, p: Problem, x: DType) -> None:
    """Add the call of a problem of few rows whose B is read along k."""
    size = x.itemsize
    plain, run = finish(b, p, result_program(b.launch, x), x)
    a = rows_of(b, operand(p.a, None, x))
    columns = max(16, min(p.n, 512))
    while b.threads > 1 and columns > 32 and p.batches * -(-p.n // columns) < 4 * b.threads:
        columns //= 2
    groups, pitch = -(-p.n // columns), columns * size
    axes: list[Word] = []
    for i, n in enumerate(p.batch):
        axes += [n, size * a.strides[i], size * p.b.strides[i], size * p.y.strides[i]]
    words: list[Word] = [
        p.m, p.n, p.k, columns, groups, a.address, size * a.strides[-2], p.b.address, size * p.b.strides[-1], *b.slots(p.m * pitch), pitch,
        p.y.address if plain else 0, size * p.y.strides[-2], run, Fn("box.run"), len(p.batch), *axes,
    ]  # fmt: skip
    b.call(f"gemm_dot.products[{NAMES[x]}]", words, p.batches * groups, 0.15 * p.batches * p.n * p.k)
