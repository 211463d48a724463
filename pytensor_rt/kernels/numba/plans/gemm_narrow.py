"""gemm with a constant B that is kept in 16, 8 or 4 bits and widened panel by panel, while its rows are in the cache (jit/gemm_narrow.py)."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....dtypes import F16, F32, DType
from ....lowering.tensor import Launch, Tensor
from ...gemm_rules import optional
from .. import code
from ..build import Block, Builder, Call, Fn, Prepared, Table, View, Word, view
from . import edges
from .gemm_pack import Fetch, Panels, constant_key, distinct, packed_source, panel_columns
from .gemm_problem import Problem


@dataclass(frozen=True)
class Stored:
    """Panels with a product of their own: bytes from row to row, values of k per row."""

    panels: Panels
    product: Fn
    step: int
    per: int


def halves(v: View, dtype: DType, pairs: bool) -> Stored | Fetch:
    """A constant [batch..., K, N], rounded to float16 or bfloat16 and kept so. `pairs`: for products of pairs of bfloat16 (K is even)."""
    s = distinct(edges.of_view(v))
    *batch, k, n = s.shape
    wide = panel_columns(F32)
    count, panel_bytes, matrices = -(-n // wide), 2 * k * wide, 1
    for size in batch:
        matrices *= size
    item, per = v.dtype.itemsize, 2 if pairs else 1
    axes: list[Word] = []
    for size, stride in zip(batch, v.strides):
        axes += [size, stride * item]
    words: list[Word] = [v.address, v.strides[-2] * item, v.strides[-1] * item, k, n]

    def make(memory: Prepared) -> list[Call]:
        name = f"gemm_narrow.pack_half[:{v.dtype.name},:{dtype.name},{per}]"
        return [Call(name, [*words, memory, count, len(batch), *axes], matrices * count)]

    stored = Prepared(("gemm halves", dtype.name, per, constant_key(v)), matrices * count * panel_bytes, make)
    steps, step = [0] * len(batch), count * panel_bytes
    for i in range(len(batch) - 1, -1, -1):
        steps[i], step = (0 if batch[i] == 1 else step), step * batch[i]
    if dtype == F16 and not widens_float16():
        return Fetch(Fn("gemm_narrow.fetch_half[:float16]"), Block([stored, panel_bytes]), tuple(steps))
    product = Fn("gemm_tile.dots[:bf16]") if pairs else Fn(f"gemm_tile.halves[:{dtype.name}]")
    return Stored(Panels(stored, panel_bytes, tuple(steps), count), product, 2 * per * wide, per)


def _features() -> tuple[bool, set[str]]:
    """Is the CPU an x86, and its features."""
    return platform.machine().lower() in ("x86_64", "amd64"), set(code.cpu()[1].split(","))


def widens_float16() -> bool:
    """Can the CPU convert vectors of float16?"""
    x86, features = _features()
    return not x86 or "+f16c" in features or "+avx512f" in features


def multiplies_pairs() -> bool:
    """Has the CPU instructions that add up products of pairs of bfloat16?"""
    x86, features = _features()
    return x86 and "+avx512bf16" in features and code.vector_bytes() == 64


@dataclass(frozen=True)
class Scaled:
    """B of 8- or 4-bit integers with a scale, and perhaps a zero point, per column and block of k: the words of jit/gemm_narrow.fetch_scaled."""

    form: str
    words: Sequence[Word]
    block: int
    zeros: bool

    def fetch(self, axes: int) -> Fetch:
        """How to get panels of float32."""
        return Fetch(Fn(f"gemm_narrow.fetch_scaled[:{self.form}]"), Block(self.words), (0,) * axes)

    def in_registers(self, k: int) -> bool:
        """Can few rows take B as it is stored? Of two values in a byte, a block must not begin with the second."""
        return not self.form.endswith("int4") or self.block % 2 == 0 or self.block >= k


def scaled(b: Builder, launch: Launch, p: Problem) -> Scaled:
    """B with b_scale and b_zero."""
    scale, zero = optional(launch, 4), optional(launch, 3)
    assert scale is not None
    pairs = bool(launch.params.get("pairs", 0))
    v = p.b
    form = "uint4" if pairs else v.dtype.name
    narrow = form.endswith("int4")
    fold = 2 if narrow and not pairs else 1
    rows = v.shape[-2] if not pairs else (p.k + 1) // 2
    wide = panel_columns(F32)
    count, panel_bytes = -(-p.n // wide), ((p.k + 1) // 2 if narrow else p.k) * wide
    words: list[Word] = [v.address, v.strides[-2], v.strides[-1], rows, p.n]
    stored = Prepared(
        ("gemm bytes", form, fold, constant_key(v)),
        count * panel_bytes,
        lambda memory: [Call(f"gemm_narrow.pack_bytes[{fold}]", [*words, memory, panel_bytes], count)],
    )
    block = launch.params.get("block", 0) or max(1, p.k)
    blocks = max(1, -(-p.k // block))
    own = zero is not None and zero.dtype == v.dtype
    held = parameter(scale, blocks, p.n)
    scales = packed_source(b, edges.of_view(held, F32), F32, ("scales", constant_key(held)))
    at: list[Word] = [scales.address, scales.panel_bytes]
    if zero is None:
        at += [0, 0]
    else:
        held = halves_of_bytes(zero, blocks, p.n) if pairs and own else parameter(zero, blocks, p.n)
        zeros = packed_source(b, edges.of_view(held, F32), F32, ("zeros", pairs and own, blocks, p.n, constant_key(view(zero))))
        at += [zeros.address, zeros.panel_bytes]
    return Scaled(form, [stored, panel_bytes, *at, block], block, zero is not None)


def parameter(t: Tensor, blocks: int, n: int) -> View:
    """b_scale or b_zero as [blocks, n]."""
    row = 0 if t.shape[-2] == 1 else int(t.strides[-2])
    column = 0 if t.shape[-1] == 1 else int(t.strides[-1])
    return view(t).with_axes((blocks, n), (row, column))


def halves_of_bytes(t: Tensor, blocks: int, n: int) -> View:
    """b_zero of two 4-bit values per byte, low half first, as float32 [blocks, n]."""
    assert t.value is not None
    held = t.value[(0,) * (t.ndim - 2)]
    each = np.stack([held & 15, held >> 4], axis=1).reshape(-1, held.shape[-1])[:blocks].astype(np.float32)
    table = Table(np.ascontiguousarray(each), ("gemm zeros", constant_key(view(t)), blocks))
    return View(table, F32, (blocks, n), (0 if blocks == 1 else each.shape[1], 0 if each.shape[1] == 1 else 1))
