"""gemm of 8-bit integers, and the int8 precision of float32: exact sums in int32 (jit/gemm_int8.py)."""

from __future__ import annotations

import platform

from ....dtypes import F32, I8, I32, U8
from .. import code
from ..build import Builder, Call, Fn, Prepared, View, Word
from . import edges, elementwise
from .gemm_pack import constant_key, is_constant, panel_columns
from .gemm_problem import Problem, finish, grid, result_program

MACS = 200.0  # per nanosecond, of the estimate
BLOCK_BYTES = 256 * 1024  # of a block's results
ROWS = 192  # most rows of a block


def dots() -> str:
    """How products of 8-bit integers are added up: by the instructions "vnni" or "madd", or "plain"."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "plain"
    features = set(code.cpu()[1].split(","))
    wide = code.vector_bytes()
    short = wide == 32 and ("+avxvnni" in features or ("+avx512vnni" in features and "+avx512vl" in features))
    vnni = short or (wide == 64 and "+avx512vnni" in features)
    if wide == 64 and not vnni and "+avx512bw" not in features:
        return "plain"
    return "vnni" if vnni else "madd"


def eight_bits(b: Builder, p: Problem, quantised: bool) -> None:
    """Add the calls of a problem of 8-bit integers, or of float32 operands that are to be quantised."""
    wide = panel_columns(I32)
    kind = dots()
    per = 4 if kind == "vnni" else 2
    units, panels = -(-p.k // per), -(-p.n // wide)
    shifted = kind == "vnni" and p.b.dtype == U8  # such values are not signed
    a_row, a_batch, a, beside, beside_batch = _rows(b, p, kind, per, quantised, shifted)
    b_at, panel_bytes, b_batch = _panels(b, p, kind, units, panels)
    zeros, zero_batch = _column_zeros(b, p, shifted)
    program = result_program(b.launch, F32 if quantised else I32)
    mode, factors, terms = "scaled" if quantised else "int32", None, None
    converted = None if quantised else through_float(program)
    if converted is not None:
        mode = "float32"
        program, factors, terms = without_line(converted, p)
    if factors is not None:
        mode = "linear"
    acc = I32 if mode == "int32" else F32
    plain, run = finish(b, p, program, acc)
    rows, groups = grid(b, p, panels, 4 * wide, ROWS, BLOCK_BYTES)
    row_groups, panel_groups = -(-p.m // rows), -(-panels // groups)
    pitch = groups * wide * 4
    held = b.slots(rows * pitch)
    axes: list[Word] = []
    for i, n in enumerate(p.batch):
        axes += [n, a_batch[i], b_batch[i], beside_batch[i], zero_batch[i], p.y.strides[i] * 4]
    words: list[Word] = [
        p.m, p.n, units, rows, row_groups, groups, panel_groups, panels, a, a_row, Fn(f"gemm_tile.dots[:{kind}]"), b_at, panel_bytes,
        beside, zeros, *held, pitch, p.y.address if plain else 0, p.y.strides[-2] * 4, run, Fn("box.run"),
        _line(b, p, factors), _line(b, p, terms), len(p.batch), *axes,
    ]  # fmt: skip
    b.call(f"gemm_int8.blocks[:{mode}]", words, p.batches * row_groups * panel_groups, p.batches * p.m * p.n * max(1, p.k) / MACS)


def through_float(program: list[edges.Instruction]) -> list[edges.Instruction] | None:
    """The program for an accumulator that is float32 already, if casting it to that is all that is done with it."""
    uses = [ins for ins in program[1:] if ins[0] not in ("load", "const", "iota") and 0 in ins[1]]
    if not uses or any(ins[0] != "cast" or ins[2] != F32 for ins in uses):
        return None
    return [("acc", (), F32), *[("id", (0,), F32) if ins in uses else ins for ins in program[1:]]]


def without_line(program: list[edges.Instruction], p: Problem) -> tuple[list[edges.Instruction], View | None, View | None]:
    """What is left of a program of a float32 accumulator when the kernel has multiplied it by a factor, and added a term, of its column: the program, and
    these operands where it did begin so."""

    def follows(at: int, op: str) -> tuple[int, View] | None:
        """The only instruction that uses value `at`, if it is `op` with a loaded float32 that depends on the column only."""
        users = [i for i, ins in enumerate(program) if ins[0] not in ("load", "const", "iota") and at in ins[1]]
        if len(users) != 1 or program[users[0]][0] != op or program[users[0]][2] != F32:
            return None
        x, y = program[users[0]][1]
        other = y if x == at else x
        v = p.operands[program[other][1][0]] if other != at and program[other][0] == "load" else None
        if v is None or v.dtype != F32 or any(v.strides[:-1]):
            return None
        return users[0], v

    at = next((i for i, ins in enumerate(program) if ins[0] == "id"), 0)
    if sum(ins[0] == "id" and ins[1] == (0,) for ins in program) != 1:
        return program, None, None
    scaled = follows(at, "mul")
    if scaled is None:
        return program, None, None
    end, factors = scaled
    added = follows(end, "add")
    terms = None
    if added is not None:
        end, terms = added
    if end == len(program) - 1:
        return [("acc", (), F32)], factors, terms
    left = [("id", (0,), F32) if i == end else ins for i, ins in enumerate(program)]
    return left, factors, terms


def _line(b: Builder, p: Problem, v: View | None) -> Word:
    """The address of an operand that depends on the column only, dense."""
    if v is None:
        return 0
    if v.strides[-1] == 1:
        return v.address
    held = b.temporary(F32, (p.n,))
    elementwise.elementwise(b, [("load", (0,), F32)], [View(v.address, F32, (p.n,), (v.strides[-1],))], held)
    return held.address


def _rows(
    b: Builder, p: Problem, kind: str, per: int, quantised: bool, shifted: bool
) -> tuple[int, tuple[int, ...], Word, Word, tuple[int, ...]]:
    """A as units: bytes from row to row and over the batch axes, its address, and what lies beside its rows, if anything."""
    v, z = p.a, p.a_zero
    item = v.dtype.itemsize
    batch = [1 if v.strides[i] == 0 and (z is None or z.strides[i] == 0) else n for i, n in enumerate(p.batch)]
    matrices = 1
    for n in batch:
        matrices *= n
    rows = matrices * p.m
    in_place = kind == "vnni" and v.dtype == U8 and p.k % 4 == 0 and (v.strides[-1] == 1 or p.k <= 1)
    signed = kind == "vnni" and v.dtype == I8
    needed = quantised or z is not None or p.b_zero is not None or shifted or signed
    pitch = -(-p.k // per) * 4
    out: Word = 0 if in_place else b.scratch(max(1, rows * pitch))
    beside: Word = b.scratch(8 * rows) if needed else 0
    axes: list[Word] = []
    for i, n in enumerate(batch):
        axes += [n, v.strides[i] * item, z.strides[i] if z is not None else 0]
    words: list[Word] = [
        v.address, v.strides[-2] * item, (v.strides[-1] or 1) * item, p.m, p.k, out, pitch, beside, z.address if z is not None else 0,
        z.strides[-2] if z is not None else 0, len(batch), *axes,
    ]  # fmt: skip
    if not in_place or needed:
        name = f"gemm_int8.quantise[:{kind}]" if quantised else f"gemm_int8.rows[:{kind},:{v.dtype.name}]"
        b.call(name, words, rows, rows * p.k * (0.3 if quantised else 0.1))
    step = _steps(batch, p.m)
    if in_place:
        return v.strides[-2], tuple(v.strides[: len(batch)]), v.address, beside, tuple([8 * s for s in step])
    return pitch, tuple([pitch * s for s in step]), out, beside, tuple([8 * s for s in step])


def _steps(batch: list[int], inner: int) -> list[int]:
    """Row-major strides of batch axes over `inner` elements each, 0 on those of size 1."""
    out, step = [0] * len(batch), inner
    for i in range(len(batch) - 1, -1, -1):
        out[i], step = (0 if batch[i] == 1 else step), step * batch[i]
    return out


def _panels(b: Builder, p: Problem, kind: str, units: int, panels: int) -> tuple[Word, int, tuple[int, ...]]:
    """B's panels: address, bytes of one, bytes over the batch axes. Made once where B is constant."""
    v = p.b
    item, wide = v.dtype.itemsize, panel_columns(I32)
    panel_bytes = (units + 2) * wide * 4
    batch = [1 if v.strides[i] == 0 else n for i, n in enumerate(p.batch)]
    matrices = 1
    for n in batch:
        matrices *= n
    axes: list[Word] = []
    for i, n in enumerate(batch):
        axes += [n, v.strides[i] * item]

    def pack(out: Word) -> Call:
        words: list[Word] = [v.address, v.strides[-2] * item, v.strides[-1] * item, p.k, p.n, out, panel_bytes, panels, len(batch), *axes]
        return Call(f"gemm_int8.pack[:{kind},:{v.dtype.name}]", words, matrices * panels, 1.0 * matrices * panels * panel_bytes)

    nbytes = matrices * panels * panel_bytes
    at: Word
    if is_constant(v):
        at = Prepared(("gemm int8", kind, constant_key(v)), nbytes, lambda memory: [pack(memory)])
    else:
        at = b.scratch(nbytes)
        call = pack(at)
        b.call(call.fn, call.words, call.units, call.cost)
    return at, panel_bytes, tuple([panel_bytes * s for s in _steps(batch, panels)])


def _column_zeros(b: Builder, p: Problem, shifted: bool) -> tuple[Word, tuple[int, ...]]:
    """b's zero points as int32 [batch..., n], 128 less for values that were shifted; 0 if they are all zero. Bytes over the batch axes."""
    z = p.b_zero
    if z is None and not shifted:
        return 0, (0,) * len(p.batch)
    batch = [1 if z is None or z.strides[i] == 0 else n for i, n in enumerate(p.batch)]
    held = b.temporary(I32, (*batch, p.n))
    program: list[edges.Instruction]
    if z is None:
        program, views = [("const", (-128,), I32)], []
    else:
        program = [("load", (0,), z.dtype), ("cast", (0,), I32)]
        if shifted:
            program += [("const", (128,), I32), ("sub", (1, 2), I32)]
        views = [View(z.address, z.dtype, (*batch, p.n), (*z.strides[: len(batch)], z.strides[-1]))]
    elementwise.elementwise(b, program, views, held)
    return held.address, tuple([4 * s for s in _steps(batch, p.n)])
