"""Weights of convolutions as the kernels want them: tables made of constants when planning, or scratch that a call fills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ....dtypes import DType
from ....lowering.tensor import Tensor
from ..build import Builder, Call, Pointer, Scratch, Table, operand
from ..manifest import Entry
from .conv_problem import Array, Problem

PACK = Entry("conv_pack", "conv_pack.cuh", 256)


class Same:
    """An object compared by identity, kept alive."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __hash__(self) -> int:
        return id(self.held)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.held is other.held


_tables: WeakValueDictionary[Any, Table] = WeakValueDictionary()


def constant_table(kind: tuple[Any, ...], sources: Sequence[Tensor | None], make: Callable[[], Array]) -> Table:
    """A table made of constants, once for all plans that are alive."""
    views = [None if t is None else (Same(t.buffer.data), t.offset, t.shape, t.strides) for t in sources]
    key = (*kind, *views)
    found = _tables.get(key)
    if found is None:
        found = _tables[key] = Table(np.ascontiguousarray(make()), key)
    return found


def constant_filters(p: Problem) -> Array | None:
    """[phase, group, tap, channel, filter] of constant weights, with zero points subtracted (then int32), or None."""
    if not is_constant(p):
        return None
    values = [t.value for t in p.w.tensors]
    if p.launch.kernel == "conv_transpose":
        return np.stack([v.reshape(p.groups, p.channels, p.filters, p.taps).transpose(0, 3, 1, 2) for v in values if v is not None])
    value, zero = values[0], None if p.w_zero is None else p.w_zero.value
    assert value is not None
    held = value.reshape(p.groups, p.filters, p.channels, p.taps)
    if zero is not None:
        of_filters = np.broadcast_to(zero.astype(np.int32), (p.groups * p.filters,))
        held = held.astype(np.int32) - of_filters.reshape(p.groups, p.filters, 1, 1)
    return np.asarray(held.transpose(0, 3, 2, 1)[None])


def is_constant(p: Problem) -> bool:
    """Are weights and their zero points known?"""
    return p.w.tensors[0].known and (p.w_zero is None or p.w_zero.known)


def packed(p: Problem, dtype: DType, blocks: int, filters: int, pitch: int) -> tuple[list[Call], Pointer]:
    """Weights as [phase][block][tap][channel][pitch], the first `filters` of a pitch in use: a table, or scratch that a call fills.

    Blocks are the groups, or one block has the filters of all of them.
    """
    if is_constant(p):

        def make() -> Array:
            held = constant_filters(p)  # [phase, group, tap, channel, filter]
            assert held is not None
            if blocks == 1:
                held = held.transpose(0, 2, 3, 1, 4)
            out = np.zeros((p.phases, blocks, p.taps, p.channels, pitch), dtype)
            out[..., :filters] = held.reshape(p.phases, blocks, p.taps, p.channels, filters)
            return out if out.size else np.zeros(1, dtype)

        return [], constant_table(("conv", dtype.name, blocks, pitch, p.groups, p.launch.kernel), [*p.w.tensors, p.w_zero], make)
    total = p.phases * blocks * p.depth * pitch
    if total == 0:
        return [], Scratch(0)
    b = Builder(p.launch, PACK, p.wide)
    b.type("X", p.w.tensors[0].dtype)
    b.type("W", dtype)
    b.define("AXES", len(p.axes))
    b.pointer("x", "const X", operand(p.w.tensors[0]))
    b.pointer("w", "W", Scratch(0))
    zero, first = "0", "0"
    if p.w_zero is not None:
        b.pointer("zero", "const X", operand(p.w_zero))
        b.scalar("zero_step", "idx", p.w_zero.strides[0] if p.w_zero.ndim else 0)
        zero = "a.zero[filter * a.zero_step]"
    if p.phases > 1:
        offsets = [t.offset - p.w.tensors[0].offset for t in p.w.tensors]
        b.pointer("offsets", "const i64", Table(np.array(offsets, np.int64)))
        first = "static_cast<Idx>(a.offsets[phase])"
    b.functions.append(f"__forceinline__ Value<X> zero_of_w(const Args& a, const Idx filter) {{ return {zero}; }}")
    b.functions.append(f"__forceinline__ Idx offset_of(const Args& a, const Idx phase) {{ return {first}; }}")
    b.sizes("size", [p.phases, blocks, *[a.kernel for a in p.axes], p.channels, pitch])
    b.sizes("group_filters", [p.filters])
    b.array("tap_step", "idx", [a.w for a in p.axes])
    b.scalar("group_step", "idx", p.w.group)
    b.scalar("filter_step", "idx", p.w.filter)
    b.scalar("channel_step", "idx", p.w.channel)
    b.scalar("filters", "idx", filters)
    b.scalar("total", "idx", total)
    return [b.call(-(-total // PACK.threads), scratch=-(-total * dtype.itemsize // 256) * 256)], Scratch(0)
