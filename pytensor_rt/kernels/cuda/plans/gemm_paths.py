"""The kernels of gemm and when each is used: tiles on the ordinary units, tensor cores, few rows with B dense along n or along k."""

from __future__ import annotations

from dataclasses import replace

from ...gemm_rules import name
from ..build import Builder, Call, Scratch
from ..manifest import Entry
from .gemm_call import (
    Arithmetic,
    Cut,
    Rescale,
    begin,
    cut,
    dense,
    end,
    lane_of,
    lanes_along_k,
    left_and_right,
    tiles_of,
    wide,
    width,
    zeros,
)
from .gemm_problem import Problem, Side, Zero

TILES = Entry("gemm_tiles", "gemm_tiles.cuh", 128, registers=255, wide_loads=True)
MMA = Entry("gemm_mma", "gemm_mma.cuh", 128, registers=255, opcodes=("HMMA", "IMMA", "SHFL"))  # SHFL: bf16 on sm_75
FEW_ROWS = Entry("gemm_few", "gemm_few.cuh", 256, registers=128, wide_loads=True)
DOTS = Entry("gemm_dots", "gemm_dots.cuh", 256, registers=128, wide_loads=True)
QUANTISE = Entry("gemm_quantise", "gemm_quantise.cuh", 256, wide_loads=True)

ENOUGH = 120  # blocks that keep a device busy
SLICED = 256  # blocks to aim at with slices of k
STREAMED = 512  # the same, where blocks do little but read
MODES = ("kAlongK", "kAlongRows", "kPacks", "kTransposed", "kScalars")  # of gemm_stage.cuh


def tiles(p: Problem, how: Arithmetic) -> list[Call]:
    """Tiles in registers: large ones where there are enough of them, the smallest for what would otherwise keep few blocks busy."""
    narrow = how.lane in ("f32", "u32")
    if narrow and tiles_of(p, 64, 128) * p.batches >= ENOUGH:
        tm, tn, bk = 8, 8, 8
    elif p.k >= 512 or tiles_of(p, 32, 64) * p.batches >= ENOUGH // 2:
        tm, tn, bk = 4, 4, 16
    else:
        tm, tn, bk = 2, 2, 16
    rows, columns = 8 * tm, 16 * tn
    count = tiles_of(p, rows, columns)
    blocks = count * p.batches
    c = cut(p, blocks, SLICED if blocks < ENOUGH else 0, 256, bk, 1 << 62)
    b = begin(p, TILES, how, c)
    left_and_right(b, p, how)
    h = 2 if p.dequant is not None and p.dequant.pairs else 1
    b.define("TM", tm)
    b.define("TN", tn)
    b.define("BK", bk)
    long = how.lane == "f32" and c.length > 512
    b.define("LONG", long)
    b.define("BLOCKS", 2 if tm == 8 and long else 4 if tm < 8 and narrow else 3)  # as many as fit without spills
    for side, letter, line, size, inner in ((p.a, "A", rows, p.m, 1), (p.b, "B", columns, p.n, h)):
        along = lanes_along_k(side)
        stored = -(-p.k // inner)
        b.define(f"{letter}_ALONG_K", along)
        b.define(f"V{letter}", width(side, True, stored, bk // inner) if along else width(side, False, size, min(line, 8)))
    return end(b, p, how, c, count)


def few(p: Problem, how: Arithmetic) -> list[Call]:
    """At most 16 rows."""
    rows = 1
    while rows < min(p.m, 16 if how.lane in ("f32", "u32") else 8):
        rows *= 2
    h = 2 if p.dequant is not None and p.dequant.pairs else 1
    stored = -(-p.k // h)
    if p.b.k == 1 and p.b.row != 1:
        v = width(p.b, True, stored, min(32, 8192 // rows // 32 if how.lane in ("f32", "u32") else 4) // h)
        columns = 4 if v * h <= 8 and rows <= 16 else 2
        while columns > (1 if rows <= 4 else 2) and tiles_of(p, rows, 8 * columns) * p.batches < ENOUGH:  # enough blocks or enough use of A
            columns //= 2
        count = tiles_of(p, rows, 8 * columns)
        c = cut(p, count * p.batches, STREAMED, 2048, 1024, 16384)
        b = begin(p, DOTS, how, c)
        b.define("COLS", columns)
        b.define("V", v)
    else:
        # The slices must not depend on the type of B: weights in 8 bits give the bits of their values in f32.
        c = cut(p, tiles_of(p, rows, 32) * p.batches, STREAMED, 512, 8, 16384)
        v = width(p.b, False, p.n, 64 // rows)
        count = tiles_of(p, rows, 8 * v)
        b = begin(p, FEW_ROWS, how, c)
        b.define("V", v)
    b.define("ROWS", rows)
    dots = b.entry is DOTS
    along = rows == 1 or (dots and lanes_along_k(p.a))  # gemm_few keeps the rows of one k side by side, and writes them so
    b.define("A_LANES_ALONG_K", along)
    side = 4 if how.lane in ("f32", "u32") else 2
    b.define("VA", side if dots and along and width(p.a, True, p.k, side) == side else 1)
    left_and_right(b, p, how)
    return end(b, p, how, c, count)


def tensor_cores(p: Problem, how: Arithmetic, element: str, offset: int = 0) -> list[Call]:
    """f16, bf16 and bytes. `element`: the type to multiply in; scratch from `offset` on is free."""
    size = 1 if element == "u8" else 2
    a, b_side = (_stage(s, n, p.k, size) for s, n in ((p.a, p.m), (p.b, p.n)))
    simple = all(mode in ("kAlongK", "kAlongRows") or v * s.dtype.itemsize == 16 for (mode, v), s in ((a, p.a), (b_side, p.b)))
    if p.m <= 16:
        warps_n, fm, fn = 4, 1, 4
    elif simple and tiles_of(p, 128, 128) * p.batches >= ENOUGH:
        warps_n, fm, fn = 2, 4, 8
    else:
        warps_n, fm, fn = 2, 2, 4
    rows, columns = 4 // warps_n * 16 * fm, warps_n * 8 * fn
    count = tiles_of(p, rows, columns)
    blocks = count * p.batches
    c = replace(cut(p, blocks, SLICED if blocks < ENOUGH else 0, 512, 64 // size, 16384), offset=offset)
    b = begin(p, MMA, how, c)
    b.lines.append(f"using Number = {'i32' if element == 'u8' else 'f32'};")
    b.define("WARPS_N", warps_n)
    b.define("FM", fm)
    b.define("FN", fn)
    if element == "u8":
        zeros(b, p)
    else:
        b.define("HAS_A_ZERO", False)
        b.define("HAS_B_ZERO", False)
        b.functions += [f"__forceinline__ u32 zero_{x}(const Args& a, const Idx (&c)[RANK], Idx row) {{ return 0; }}" for x in "ab"]
    for letter, side, (mode, v) in (("A", p.a, a), ("B", p.b, b_side)):
        b.lines.append(f"using S{letter} = {name(side.dtype) if element == 'u8' else element};")
        b.define(f"{letter}_MODE", MODES.index(mode))
        b.define(f"V{letter}", v)
        b.define(f"{letter}_LANES_ALONG_K", lanes_along_k(side))
    return end(b, p, how, c, count)


def _stage(side: Side, lines: int, k: int, size: int) -> tuple[str, int]:
    """How gemm_stage.cuh brings an operand, and how many elements at a time."""
    same = side.dtype.itemsize == size
    along_k, along_rows = width(side, True, k, 16), width(side, False, lines, 16)
    if same and along_k * size == 16:
        return "kAlongK", along_k
    if same and size == 2 and along_rows == 8:
        return "kAlongRows", 8
    if same and size == 1 and along_rows >= 4:
        return "kTransposed", 4
    return ("kPacks", along_k) if along_k * size >= 4 else ("kScalars", 1)


def quantised(p: Problem, b_scale: object, pitch_b: int) -> list[Call]:
    """precision int8: the rows of A as bytes in scratch, then tensor cores. `p.b` are the quantised weights."""
    lines = p.batches * p.m
    pitch = -(-max(1, p.k) // 16) * 16
    scales = -(-lines * pitch // 256) * 256
    zero_points = scales + -(-lines * 4 // 256) * 256
    free = zero_points + -(-lines // 256) * 256
    steps = dense((*p.batch, p.m))

    q = Builder(p.launch, QUANTISE, wide(p))
    q.define("RANK", p.rank)
    q.define("VA", 4 if p.a.k == 1 and width(p.a, True, p.k, 4) == 4 else 1)
    q.pointer("a_data", "f32", p.a.pointer)
    q.array("a_stride", "idx", (*p.a.batch, p.a.row))
    q.scalar("a_k", "idx", p.a.k)
    q.sizes("size", (*p.batch, p.m))
    q.scalar("k", "idx", p.k)
    q.scalar("pitch", "idx", pitch)
    q.pointer("q_data", "u8", Scratch(0))
    q.pointer("scales", "f32", Scratch(scales))
    q.pointer("zeros", "u8", Scratch(zero_points))

    from ....dtypes import U8
    from ..build import Table

    assert isinstance(b_scale, Table)
    zero = Zero(Scratch(zero_points), U8, steps[:-1], 1)
    a = Side(Scratch(0), U8, tuple([s * pitch for s in steps[:-1]]), pitch, 1, 16, zero)
    rescale = Rescale(Scratch(scales), steps, b_scale, (*[s // pitch_b for s in p.b.batch], 1))
    made = replace(p, a=a, k=pitch)  # both are padded with zeros
    calls = tensor_cores(made, Arithmetic("u32", rescale), "u8", free)
    return [q.call(lines, scratch=max(free, calls[0].scratch)), *calls]


def plan(p: Problem) -> list[Call]:
    """The calls of a problem in full precision, in bf16 or f16, or with weights to dequantise."""
    element = name(p.a.dtype)
    if p.launch.params.get("precision") == "bf16":
        element = "bf16"
    if p.dequant is not None:
        element = "f32"
    how = Arithmetic(lane_of(p.a.dtype))
    if element in ("f16", "bf16") and p.a.zero is None and p.b.zero is None:
        return few(p, how) if p.m <= 8 else tensor_cores(p, how, element)
    if element in ("i8", "u8") and name(p.b.dtype) in ("i8", "u8"):
        return few(p, how) if p.m <= 4 else tensor_cores(p, how, "u8")
    return few(p, how) if p.m <= 16 else tiles(p, how)


__all__ = ["DOTS", "FEW_ROWS", "MMA", "QUANTISE", "TILES", "Cut", "plan", "quantised"]
