"""B in panels, for products by jit/gemm_tile.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....dtypes import F32, F64, I32, I64, DType
from ....lowering.tensor import CONST
from ..build import Address, Block, Builder, Call, Fn, Operand, Prepared, View, Word
from ..code import vector_bytes
from . import edges

VECTORS = 2  # of a panel
NAMES = {F32: "float32", F64: "float64", I32: "int32", I64: "int64"}


def panel_columns(dtype: DType) -> int:
    """NR: columns of a panel of a compute type (float32, float64, int32, int64), as jit/gemm_tile.py has it."""
    return VECTORS * vector_bytes() // dtype.itemsize


def product(dtype: DType) -> Fn:
    """The compiled product of rows with panels, to be called by its address: see jit/gemm_tile.py."""
    return Fn(f"gemm_tile.product[{NAMES[dtype]}]")


@dataclass(frozen=True)
class Panels:
    """Packed matrices: panel p of the matrix of batch index (i, ...) lies at address + sum(i * batch) + p * panel_bytes, all in bytes."""

    address: Address
    panel_bytes: int
    batch: tuple[int, ...]  # bytes per axis, 0 where B is broadcast
    count: int  # panels of a matrix


@dataclass(frozen=True)
class Fetch:
    """A function (w, origin, panel, k0, k, out) that writes rows of one panel to memory, its words, and `origin`'s steps over the batch axes."""

    fn: Fn
    words: Block
    origin: tuple[int, ...]


def constant_key(v: View) -> Any:
    """What identifies a view of a constant over the plans of a session."""
    assert isinstance(v.address, Operand) and v.address.buffer.kind == CONST
    return (id(v.address.buffer.data), v.address.offset, v.dtype.name, v.shape, v.strides)


def is_constant(v: View) -> bool:
    """Does the view lie in a constant?"""
    return isinstance(v.address, Operand) and v.address.buffer.kind == CONST


def fetch(b: edges.Source, dtype: DType) -> Fetch:
    """How to get panels of a source [batch..., K, N] of compute type `dtype`."""
    k, n = b.shape[-2:]
    v = b.operands[0]
    if len(b.program) == 1 and v is not None:
        steps = tuple([s * v.dtype.itemsize for s in v.strides])
        words = Block([v.address, steps[-2], steps[-1], n])
        return Fetch(Fn(f"gemm_pack.fetch_strided[{NAMES[dtype]}]"), words, steps[:-2])
    rank = len(b.shape)
    program = edges.rows_of(b.program, b.operands, None, b.dtype, b.shape, range(rank - 1), [rank - 1])
    assert program is not None
    origin, step = [0] * (rank - 2), k
    for i in range(rank - 3, -1, -1):
        origin[i], step = step, step * b.shape[i]
    return Fetch(Fn(f"gemm_pack.fetch_program[{NAMES[dtype]}]"), Block([program, Fn("box.run"), 0, n]), tuple(origin))


def packed_panels(b: Builder, v: View, dtype: DType | None = None) -> Panels:
    """The panels of a view [batch..., K, N] in compute type `dtype` (the view's own by default): made once where the view is constant, else by a call that
    is added here. Batch axes of stride 0 are packed once."""
    x = dtype or v.dtype
    return packed_source(b, edges.of_view(v, x), x, constant_key(v) if is_constant(v) else None)


def packed_source(b: Builder, s: edges.Source, dtype: DType, key: Any = None) -> Panels:
    """The panels of a source [batch..., K, N] of compute type `dtype`; `key` identifies it if it is constant."""
    s = distinct(s)
    *batch, k, n = s.shape
    count = -(-n // panel_columns(dtype))
    panel_bytes = k * panel_columns(dtype) * dtype.itemsize
    matrices = 1
    for size in batch:
        matrices *= size
    f = fetch(s, dtype)
    nbytes = matrices * count * panel_bytes

    def pack(out: Word) -> Call:
        axes: list[Word] = []
        for size, step in zip(batch, f.origin):
            axes += [size, step]
        words: Sequence[Word] = [f.fn, f.words, out, count, k, panel_bytes, len(batch), *axes]
        return Call(f"gemm_pack.panels[{NAMES[dtype]}]", words, matrices * count, matrices * count * panel_bytes / 8)

    address: Address
    if key is not None:
        address = Prepared(("gemm panels", NAMES[dtype], key), nbytes, lambda memory: [pack(memory)])
    else:
        address = b.scratch(nbytes)
        call = pack(address)
        b.call(call.fn, call.words, call.units, call.cost)
    steps, step = [0] * len(batch), count * panel_bytes
    for i in range(len(batch) - 1, -1, -1):
        steps[i], step = (0 if batch[i] == 1 else step), step * batch[i]
    return Panels(address, panel_bytes, tuple(steps), count)


def distinct(s: edges.Source) -> edges.Source:
    """The source with batch axes along which it does not vary cut to size 1."""
    shape = list(s.shape)
    for i in range(len(shape) - 2):
        if all(v is None or v.strides[i] == 0 for v in s.operands):
            shape[i] = 1
    return edges.Source(s.program, s.operands, s.dtype, tuple(shape))
