"""The calls of a gemm: arguments and generated functions that all its kernels share. csrc/cuda/gemm.cuh says what the functions mean."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ....dtypes import DType
from ....lowering.tensor import Launch, Tensor
from ...gemm_rules import name
from ..build import Builder, Call, Pointer, Scratch, is_wide
from ..manifest import Entry
from ..source import type_of
from .gemm_problem import Problem, Side

SUM = Entry("gemm_sum", "gemm_sum.cuh", 256)
MOST_SHIFT = 32  # values of k that share a scale, as far as kernels make use of it


@dataclass(frozen=True)
class Rescale:
    """Exact integer sums become f32: times a_scale[batch, m] * b_scale[batch, n]. Strides over (batch axes..., m or n)."""

    a_scale: Pointer
    a_strides: tuple[int, ...]
    b_scale: Pointer
    b_strides: tuple[int, ...]


@dataclass(frozen=True)
class Arithmetic:
    """lane: the C++ type of sums and, but for tensor cores, of factors. Integers are unsigned, so that they wrap."""

    lane: str
    rescale: Rescale | None = None


@dataclass(frozen=True)
class Cut:
    """k in `slices` of `length` values; `offset`: where their sums go in scratch."""

    slices: int
    length: int
    offset: int = 0


def acc_dtype(launch: Launch) -> DType:
    y = launch.outs[0]
    assert y is not None
    return launch.acc_dtype if launch.epilogue and launch.acc_dtype is not None else y.dtype


def wide(p: Problem, slices: int = 1) -> bool:
    """Must indices have 64 bits?"""
    launch = p.launch
    tensors: list[Tensor | None] = [*launch.ins, *launch.epi_ins, *launch.outs]
    return is_wide(*tensors, sizes=[p.batches * n for n in (p.m * p.n * slices, p.m * (p.k + 16), p.n * (p.k + 16))])


def cut(p: Problem, blocks: int, wanted: int, least: int, step: int, longest: int) -> Cut:
    """Slices of k: enough for `wanted` blocks in all, each of at least `least` and at most `longest` values and a multiple of `step`."""
    slices = max(1, min(wanted // max(1, blocks), p.k // least, 64), -(-p.k // longest))
    length = -(-max(1, -(-p.k // slices)) // step) * step
    return Cut(max(1, -(-p.k // length)), length)


def begin(p: Problem, entry: Entry, how: Arithmetic, c: Cut) -> Builder:
    """A builder with A, B, sizes and the functions that end a block: what all kernels but gemm_sum start from."""
    b = Builder(p.launch, entry, wide(p, c.slices))
    b.define("RANK", p.rank)
    b.lines.append(f"using Lane = {how.lane};")
    for side, letter in ((p.a, "a"), (p.b, "b")):
        b.type(f"T{letter.upper()}", side.dtype)
        b.pointer(f"{letter}_data", type_of(side.dtype), side.pointer)
        b.array(f"{letter}_batch", "idx", side.batch)
        b.scalar(f"{letter}_row", "idx", side.row)
        b.scalar(f"{letter}_k", "idx", side.k)
    b.sizes("batch", p.batch)
    for field, value in (("batches", p.batches), ("m", p.m), ("n", p.n), ("k", p.k), ("slice", c.length)):
        b.scalar(field, "idx", value)
    if c.slices == 1:
        finish(b, p, how)
        b.functions.append("__forceinline__ void emit(const Args& a, Idx (&c)[RANK], Idx batch, Lane sum) { finish(a, c, batch, sum); }")
    else:
        b.pointer("partial", how.lane, Scratch(c.offset))
        b.functions.append(
            "__forceinline__ void emit(const Args& a, Idx (&c)[RANK], Idx batch, Lane sum) {\n"
            "  a.partial[((static_cast<Idx>(blockIdx.y) * a.batches + batch) * a.m + c[RANK - 2]) * a.n + c[RANK - 1]] = sum;\n}"
        )
    return b


def finish(b: Builder, p: Problem, how: Arithmetic) -> None:
    """`finish(a, c, batch, sum)`: alpha, the epilogue, the store."""
    launch = p.launch
    acc = acc_dtype(launch)
    b.output(p.rank, p.y, p.epilogue, acc)
    alpha = float(launch.params.get("alpha", 1.0))
    if how.rescale is not None:
        for letter in "ab":
            b.pointer(f"{letter}_factor", "f32", getattr(how.rescale, f"{letter}_scale"))
            b.array(f"{letter}_factor_stride", "idx", getattr(how.rescale, f"{letter}_strides"))
        b.scalar("alpha", "f32", alpha)
        terms = " + ".join(f"c[{i}] * a.a_factor_stride[{i}]" for i in range(p.rank - 1))
        other = " + ".join(
            [f"c[{i}] * a.b_factor_stride[{i}]" for i in range(p.rank - 2)] + [f"c[RANK - 1] * a.b_factor_stride[{p.rank - 2}]"]
        )
        value = f"static_cast<f32>(static_cast<i32>(sum)) * (a.a_factor[{terms}] * a.b_factor[{other}]) * a.alpha"
    else:
        value = "sum * a.alpha"
        bits = {"u32": 32, "u64": 64}.get(how.lane)
        if bits is None:
            b.scalar("alpha", how.lane, alpha)
        else:
            b.scalar("alpha", f"u{bits}", int(alpha) & ((1 << bits) - 1))
    b.functions.append(
        "__forceinline__ void finish(const Args& a, Idx (&c)[RANK], Idx batch, Lane sum) {\n"
        f"  store_y(a, c, static_cast<Value<Acc>>({value}));\n}}"
    )


def left_and_right(b: Builder, p: Problem, how: Arithmetic) -> None:
    """`left`, `right`, `shift_b` and constants H and SHIFT_K for kernels that multiply in Lane."""
    d = p.dequant
    b.define("H", 2 if d is not None and d.pairs else 1)
    value = "static_cast<Lane>(value_of(raw))"
    rounds = "value_of<bf16>(stored<bf16>(raw))" if p.launch.params.get("precision") == "bf16" else value
    b.functions.append(
        "__forceinline__ Lane left(const Args& a, const Idx (&c)[RANK], TA raw, Idx row) { return "
        + (f"{value} - {_zero(b, p.a, 'a')}" if p.a.zero is not None else rounds)
        + "; }"
    )
    shared = MOST_SHIFT
    if d is not None:
        _dequantise(b, p)
        while d.block % shared and d.block < p.k:
            shared //= 2
    elif p.b.zero is not None:
        zero = _zero(b, p.b, "b")
        b.functions += [
            "struct Shift {\n  Lane zero;\n};",
            f"__forceinline__ Shift shift_b(const Args& a, const Idx (&c)[RANK], Idx k, Idx row) {{ return Shift{{{zero}}}; }}",
            f"__forceinline__ Lane right(TB raw, int half, Shift shift) {{ return {value} - shift.zero; }}",
        ]
    else:
        b.functions += [
            "struct Shift {};",
            "__forceinline__ Shift shift_b(const Args& a, const Idx (&c)[RANK], Idx k, Idx row) { return Shift{}; }",
            f"__forceinline__ Lane right(TB raw, int half, Shift shift) {{ return {value}; }}",
        ]
    b.define("SHIFT_K", shared)


def zeros(b: Builder, p: Problem) -> None:
    """`zero_a` and `zero_b` for the kernel that corrects sums of bytes."""
    for side, letter in ((p.a, "a"), (p.b, "b")):
        b.define(f"HAS_{letter.upper()}_ZERO", side.zero is not None)
        text = _zero(b, side, letter, "u32") if side.zero is not None else "0"
        b.functions.append(f"__forceinline__ u32 zero_{letter}(const Args& a, const Idx (&c)[RANK], Idx row) {{ return {text}; }}")


def _zero(b: Builder, side: Side, letter: str, as_type: str = "Lane") -> str:
    z = side.zero
    assert z is not None
    b.pointer(f"{letter}_zero", type_of(z.dtype), z.pointer)
    b.array(f"{letter}_zero_batch", "idx", z.batch)
    b.scalar(f"{letter}_zero_row", "idx", z.row)
    batch = "".join(f" + c[{i}] * a.{letter}_zero_batch[{i}]" for i in range(len(z.batch)))
    return f"static_cast<{as_type}>(value_of(a.{letter}_zero[row * a.{letter}_zero_row{batch}]))"


def _dequantise(b: Builder, p: Problem) -> None:
    d = p.dequant
    assert d is not None
    b.sizes("block", [d.block])
    lines = ["  const Idx block = a.block[0].divide(k);", "  Shift s;"]
    for letter, t, strides in (("scale", d.scale, d.scale_strides), ("zero", d.zero, d.zero_strides)):
        if t is None:
            lines.append(f"  s.{letter} = 0;")
            continue
        b.view(f"b_{letter}", t, ())
        b.array(f"b_{letter}_step", "idx", strides)
        halved = letter == "zero" and d.zero_pairs
        at = f"a.b_{letter}_data[{'(block >> 1)' if halved else 'block'} * a.b_{letter}_step[0] + row * a.b_{letter}_step[1]]"
        value = f"value_of({at})"
        lines.append(f"  s.{letter} = static_cast<f32>({f'({value} >> (4 * (block & 1))) & 15' if halved else value});")
    raw = "static_cast<f32>((raw >> (4 * half)) & 15)" if d.pairs else "static_cast<f32>(value_of(raw))"
    b.functions += [
        "struct Shift {\n  f32 zero, scale;\n};",
        "__forceinline__ Shift shift_b(const Args& a, const Idx (&c)[RANK], Idx k, Idx row) {\n" + "\n".join(lines) + "\n  return s;\n}",
        f"__forceinline__ Lane right(TB raw, int half, Shift shift) {{ return ({raw} - shift.zero) * shift.scale; }}",
    ]


def width(side: Side, along_k: bool, size: int, most: int, inner: int = 0) -> int:
    """How many stored elements may be loaded at once along an axis of `size` stored elements: up to 16 bytes, at most `most`.

    Loads along k start at multiples of `inner` elements (0: of as many as are loaded).
    """
    unit, other = (side.k, side.row) if along_k else (side.row, side.k)
    if unit != 1:
        return 1
    v = min(16 // side.dtype.itemsize, most)
    while v > 1 and (size % v or side.align % v or other % v or any(s % v for s in side.batch) or (along_k and inner % v)):
        v //= 2
    return max(1, v)


def lanes_along_k(side: Side) -> bool:
    """Should neighbouring lanes read along k?"""
    if side.k == 1 or side.row == 1:
        return side.k == 1
    return side.row == 0 or 0 < abs(side.k) <= abs(side.row)


def end(b: Builder, p: Problem, how: Arithmetic, c: Cut, tiles: int) -> list[Call]:
    """The call, and the one that adds the slices."""
    total = p.batches * p.m * p.n
    item = {"f64": 8, "u64": 8}.get(how.lane, 4)
    scratch = c.offset + (c.slices * total * item if c.slices > 1 else 0)
    first = b.call((tiles * p.batches, c.slices, 1), scratch=scratch)
    if c.slices == 1:
        return [first]
    s = Builder(p.launch, SUM, wide(p, c.slices))
    s.define("RANK", p.rank)
    s.lines.append(f"using Lane = {how.lane};")
    s.pointer("partial", how.lane, Scratch(c.offset))
    s.sizes("batch", p.batch)
    s.sizes("matrix", (p.n, p.m))
    s.scalar("total", "idx", total)
    s.scalar("slices", "i32", c.slices)
    finish(s, p, how)
    return [first, s.call(-(-total // SUM.threads), scratch=scratch)]


def tiles_of(p: Problem, rows: int, columns: int) -> int:
    return -(-p.m // rows) * -(-p.n // columns)


def lane_of(dtype: DType) -> str:
    """The type in which a dtype is multiplied and added by ordinary instructions."""
    n = name(dtype)
    return {"f64": "f64", "i64": "u64", "u64": "u64"}.get(n, "u32" if n[0] in "iu" else "f32")


def dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
