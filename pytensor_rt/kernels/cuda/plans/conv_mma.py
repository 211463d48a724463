"""Convolutions as matrix products on tensor cores: 16-bit floats and bytes with constant weights. See csrc/cuda/conv_mma.cuh."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ....dtypes import I8, I32, U8, DType, is_float
from ..build import Builder, Call, Table, operand
from ..manifest import Entry
from .conv_problem import Array, Problem, fields, place, results, weights_field
from .conv_tiles import PROCESSORS, channels_together, finish, k_fast, partial_sums, slices_of, tile_sizes
from .conv_weights import constant_filters, constant_table, is_constant

MMA = Entry("conv_mma", "conv_mma.cuh", 128, registers=168, wide_loads=True)


@dataclass(frozen=True)
class Warps:
    """The tile of a block of 4 warps: warps side by side along filters, and pieces of 16 x 8 results of a warp."""

    along_filters: int
    rows: int
    columns: int

    @property
    def pixels(self) -> int:
        return 4 // self.along_filters * self.rows * 16

    @property
    def filters(self) -> int:
        return self.along_filters * self.columns * 8

    def tiles(self, p: Problem) -> tuple[int, int]:
        """(tiles of pixels, tiles of filters of a group)."""
        return -(-p.pixels // self.pixels), -(-p.filters // self.filters)

    def blocks(self, p: Problem) -> int:
        rows, columns = self.tiles(p)
        return rows * columns * p.groups * p.phases


LARGE, MIDDLE, NARROW, SHORT = Warps(2, 4, 4), Warps(2, 2, 4), Warps(1, 2, 4), Warps(4, 2, 2)


def warps_of(p: Problem) -> Warps:
    """The largest tile that is not mostly empty and still makes enough blocks."""
    if p.pixels <= SHORT.pixels:
        return SHORT
    if p.filters <= NARROW.filters:
        return NARROW
    return LARGE if LARGE.blocks(p) >= PROCESSORS else MIDDLE


def byte_type(p: Problem) -> DType | None:
    """The 8-bit type that weights less their zero points fit, if any: tensor cores multiply bytes."""
    held = constant_filters(p)
    assert held is not None
    low, high = (int(held.min()), int(held.max())) if held.size else (0, 0)
    return I8 if low >= -128 and high <= 127 else U8 if low >= 0 and high <= 255 else None


def plan(p: Problem) -> list[Call] | None:
    """The calls, or None if tensor cores cannot compute this."""
    if not is_constant(p) or p.x.dtype.itemsize > 2:
        return None
    stored: DType | None = p.x.dtype if is_float(p.x.dtype) else byte_type(p)
    if stored is None:
        return None
    if p.x_zero is not None and p.x_zero.value is not None and int(p.x_zero.value) == 0:
        p = replace(p, x_zero=None)
    warps = warps_of(p)
    chunk = 16 // p.x.dtype.itemsize
    pitch = max(1, -(-p.depth // chunk)) * chunk
    slices, length = slices_of(p, warps.blocks(p), p.depth)
    length = -(-length // (4 * chunk)) * 4 * chunk if slices > 1 else length
    slices = -(-p.depth // length) if slices > 1 else 1
    b = Builder(p.launch, MMA, p.wide)
    fields(b, p)
    lanes_along_channels = k_fast(p)
    b.define("K_FAST", lanes_along_channels)
    b.define("IN_TAP", p.channels % chunk == 0)
    line = _fill(p)
    b.define("GATHER", not (lanes_along_channels and channels_together(p, chunk) == chunk and (line is not None or not p.checked)))
    b.define("FILLED", p.x_zero is not None and line is not None)
    b.pointer("fill", "const X", line or operand(p.x_zero or p.x))
    b.functions.append("__forceinline__ const X* fill_of_x(const Args& a) { return a.fill; }")
    for name, value in (("FM", warps.rows), ("FN", warps.columns), ("WARPS_N", warps.along_filters)):
        b.define(name, value)
    b.define("SPLIT", slices > 1)
    b.define("CHANNELS_FAST", slices > 1 or abs(p.y.strides[1]) <= 1)
    b.type("W", stored)
    weights_field(b, p, "W", _weights(p, stored, pitch), p.groups * p.filters * pitch)
    rows, columns = warps.tiles(p)
    tile_sizes(b, p, pitch, columns)
    b.scalar("slice", "idx", length)
    correction = _sums(p) if p.x_zero is not None else None
    if slices == 1:
        _results(b, p, correction)
        return [b.call((rows * columns * p.groups, 1, p.phases))]
    nbytes, partial = partial_sums(b, p, slices, 0)
    calls = [b.call((rows * columns * p.groups, slices, p.phases), scratch=nbytes)]
    return [*calls, finish(p, partial, slices, nbytes, correction)]


def _results(b: Builder, p: Problem, correction: Table | None) -> None:
    results(b, p, correction is not None)
    if correction is not None:
        place(b, "excess", correction)


def _fill(p: Problem) -> Table | None:
    """16 bytes of x's zero point, if it is known."""
    if p.x_zero is None:
        return constant_table(("conv_fill",), [], lambda: np.zeros(16, np.uint8))
    value = p.x_zero.value
    return None if value is None else constant_table(("conv_fill", int(value), value.dtype.name), [], lambda: np.full(16, value))


def _weights(p: Problem, stored: DType, pitch: int) -> Table:
    """[phase][group][filter][pitch]: products in the order of taps, then channels."""

    def make() -> Array:
        held = constant_filters(p)
        assert held is not None
        out = np.zeros((p.phases, p.groups, p.filters, pitch), stored)
        out[..., : p.depth] = held.transpose(0, 1, 4, 2, 3).reshape(p.phases, p.groups, p.filters, p.depth)
        return out

    return constant_table(("conv_mma", stored.name, pitch, p.groups, p.launch.kernel), [*p.w.tensors, p.w_zero], make)


def _sums(p: Problem) -> Table:
    """The sum of every filter's weights."""

    def make() -> Array:
        held = constant_filters(p)
        assert held is not None
        return np.asarray(held.astype(I32).sum((0, 2, 3), dtype=I32).reshape(-1))

    return constant_table(("conv_sums", p.groups), [*p.w.tensors, p.w_zero], make)
