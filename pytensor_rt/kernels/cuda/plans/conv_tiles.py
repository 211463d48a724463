"""Convolutions as matrix products on CUDA cores: shapes of tiles and slices of the products. See csrc/cuda/conv_tile.cuh."""

from __future__ import annotations

from dataclasses import dataclass

from ....dtypes import F64
from ..build import Builder, Call, Pointer, Scratch, operand
from ..manifest import Entry
from .conv_problem import Problem, fields, of_phase, place, results, weights_field, zero_of_x
from .conv_weights import packed

TILE = Entry("conv_tile", "conv_tile.cuh", 256, registers=128, wide_loads=True)
FINISH = Entry("conv_finish", "conv_finish.cuh", 256)

DEPTH = 16  # products per step, at most
PROCESSORS = 132  # blocks that fill a large device once
_SLICE = 128  # products of a slice, at least


@dataclass(frozen=True)
class Shape:
    """Pixels x filters of a block and of a thread."""

    pixels: int
    filters: int
    of_pixels: int
    of_filters: int
    depth: int = DEPTH  # products per step: BK

    @property
    def threads(self) -> int:
        return self.pixels // self.of_pixels * (self.filters // self.of_filters)

    def tiles(self, p: Problem) -> tuple[int, int]:
        """(tiles of pixels, tiles of filters of a group)."""
        return -(-p.pixels // self.pixels), -(-p.filters // self.filters)

    def blocks(self, p: Problem) -> int:
        rows, columns = self.tiles(p)
        return rows * columns * p.groups * p.phases


# (the large one holds as little of the next tile as possible, for two blocks of 128 registers per thread)
LARGE, MIDDLE, NARROW, SHORT = Shape(128, 128, 8, 8, 8), Shape(64, 64, 8, 4), Shape(128, 32, 8, 4), Shape(32, 64, 4, 4)
DOUBLE = Shape(64, 64, 4, 4)


def shape_of(p: Problem) -> Shape:
    """The largest tile that is not mostly empty and still makes enough blocks."""
    if p.sum == F64:
        return DOUBLE
    if p.pixels <= SHORT.pixels:
        return SHORT
    if p.filters <= NARROW.filters:
        return NARROW
    return LARGE if p.filters > MIDDLE.filters and LARGE.blocks(p) >= PROCESSORS else MIDDLE


def slices_of(p: Problem, blocks: int, depth: int) -> tuple[int, int]:
    """(slices, products of each): several where a whole sum per block would leave most of the device idle."""
    if blocks >= PROCESSORS or depth < 2 * _SLICE:
        return 1, depth
    wanted = min(-(-2 * PROCESSORS // blocks), depth // _SLICE, 64)
    length = -(-depth // wanted // DEPTH) * DEPTH
    return -(-depth // length), length


def plan(p: Problem) -> list[Call]:
    shape = shape_of(p)
    per_load = 16 // p.sum.itemsize
    pitch = -(-p.filters // per_load) * per_load
    calls, w = packed(p, p.sum, p.groups, p.filters, pitch)
    b = Builder(p.launch, TILE, p.wide)
    fields(b, p)
    lanes_along_channels = k_fast(p)
    b.define("K_FAST", lanes_along_channels)
    b.define("VA", vector(p, shape) if lanes_along_channels else 1)
    return finished(b, p, shape, calls, w, pitch)


def finished(b: Builder, p: Problem, shape: Shape, calls: list[Call], w: Pointer, pitch: int) -> list[Call]:
    """The calls of a tile kernel whose input is described: `calls` prepare the weights w."""
    held = max([c.scratch for c in calls], default=0)
    slices, length = slices_of(p, shape.blocks(p), p.depth)
    b.define("SPLIT", slices > 1)
    b.define("CHANNELS_FAST", slices > 1 or abs(p.y.strides[1]) <= 1)
    rows, columns = tile_fields(b, p, shape, pitch, w)
    b.scalar("slice", "idx", length)
    if slices == 1:
        results(b, p)
        return [*calls, b.call((rows * columns * p.groups, 1, p.phases), shape.threads, scratch=held)]
    nbytes, partial = partial_sums(b, p, slices, held)
    calls = [*calls, b.call((rows * columns * p.groups, slices, p.phases), shape.threads, scratch=nbytes)]
    return [*calls, finish(p, partial, slices, nbytes)]


def tile_fields(b: Builder, p: Problem, shape: Shape, pitch: int, w: Pointer) -> tuple[int, int]:
    """The shape of tiles and the weights; returns the numbers of tiles."""
    b.define("BLOCK", shape.threads)
    for name, value in zip(("BM", "BN", "BK", "TM", "TN"), (shape.pixels, shape.filters, shape.depth, shape.of_pixels, shape.of_filters)):
        b.define(name, value)
    weights_field(b, p, "Value<Sum>", w, p.groups * p.depth * pitch)
    rows, columns = shape.tiles(p)
    tile_sizes(b, p, pitch, columns)
    return rows, columns


def partial_sums(b: Builder, p: Problem, slices: int, held: int) -> tuple[int, Scratch]:
    """`finish` that leaves results for conv_finish as [slice][pixel][filter of all groups], in scratch after what is held."""
    partial = Scratch(held)
    b.pointer("partial", "Value<Sum>", partial)
    b.scalar("all_pixels", "idx", p.phases * p.pixels)
    b.functions.append(
        "__forceinline__ void finish(const Args& a, const Idx pixel, const Idx filter, const Value<Sum> v) {\n"
        f"  a.partial[(static_cast<Idx>(blockIdx.y) * a.all_pixels + {of_phase(b, p)}) * a.all_filters + filter] = v;\n}}"
    )
    return held + slices * p.results * p.sum.itemsize, partial


def finish(p: Problem, partial: Scratch, slices: int, scratch: int, correction: Pointer | None = None) -> Call:
    """Adds the slices and stores the results."""
    b = Builder(p.launch, FINISH, p.wide)
    b.type("X", p.x.dtype)
    b.type("Sum", p.sum)
    total = p.results
    b.pointer("partial", "const Value<Sum>", partial)
    b.sizes("all_filters", [p.groups * p.filters])
    b.scalar("total", "idx", total)
    b.scalar("slices", "i32", slices)
    if p.x_zero is not None:
        b.pointer("x_zero", "const X", operand(p.x_zero))
    b.functions.append(zero_of_x(p))
    results(b, p, correction is not None)
    if correction is not None:
        place(b, "excess", correction)
    return b.call(-(-total // FINISH.threads), scratch=scratch)


def tile_sizes(b: Builder, p: Problem, pitch: int, columns: int) -> None:
    """What tile kernels divide by and stop at."""
    b.scalar("pixels", "idx", p.pixels)
    b.scalar("filters", "idx", p.filters)
    b.scalar("all_filters", "idx", p.groups * p.filters)
    b.scalar("depth", "idx", p.depth)
    b.scalar("pitch", "idx", pitch)
    b.sizes("channels", [max(1, p.channels)])
    b.sizes("columns", [columns * p.groups])
    b.sizes("group_columns", [columns])


def k_fast(p: Problem) -> bool:
    """Are a pixel's products closer in memory than its neighbour's?"""
    of_pixel = abs(p.axes[-1].x * p.axes[-1].stride)
    if p.channels > 1:
        return abs(p.x_channel) <= of_pixel
    tapped = [a for a in p.axes if a.kernel > 1]
    return not tapped or abs(tapped[-1].x * tapped[-1].dilation) < of_pixel


def vector(p: Problem, shape: Shape) -> int:
    """Channels per load of x: up to 16 bytes, and up to what a thread moves of a tile."""
    return channels_together(p, min(16 // p.x.dtype.itemsize, shape.pixels * shape.depth // shape.threads, shape.depth))


def channels_together(p: Problem, most: int) -> int:
    """How many channels, up to a power of two, lie side by side and aligned."""
    if p.x_channel != 1:
        return 1
    while most > 1 and (p.channels % most or p.x.offset % most or any(a.x % most for a in p.axes)):
        most //= 2
    return most
