"""3x3 convolutions in f32 with a quarter of the multiplications: Winograd's F(4x4, 3x3). See csrc/cuda/winograd.cuh.

Three calls: transform the input, one matrix product per position of a tile (a grouped 1x1 convolution, whose groups are the positions),
transform the sums. Weights are transformed when planning, in float64.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from ....dtypes import F32
from ....lowering.tensor import ARENA, Buffer, Tensor
from ..build import Builder, Call, Scratch, operand
from ..manifest import Entry
from .conv_problem import Array, Axis, Filters, Problem, fields, place, results
from .conv_tiles import SHORT, TILE, partial_sums, shape_of, tile_fields, vector
from .conv_weights import constant_filters, constant_table, is_constant

INPUT = Entry("winograd_input", "winograd_input.cuh", 128, registers=80)
OUTPUT = Entry("winograd_output", "winograd_output.cuh", 128, registers=80)

POSITIONS = 36
_PER_FLOAT = 32  # multiply-adds that a device does in the time in which it moves a float to or from memory, about
_MOST_SCRATCH = 256 << 20
_P, _Q = 0.625, 1.5


def applies(p: Problem) -> bool:
    """Is this a 3x3 convolution in f32 for which the transforms pay?"""
    if os.environ.get("PTRT_WINOGRAD") == "0" or p.launch.kernel != "conv" or p.x.dtype != F32 or not is_constant(p):
        return False
    if p.x.ndim != 4 or p.w.tensors[0].shape[2:] != (3, 3) or p.channels == 0 or p.x.size == 0:
        return False
    params = p.launch.params
    return list(params["strides"]) == list(params["dilations"]) == [1, 1] and _scratch(p) <= _MOST_SCRATCH and pays(p)


def pays(p: Problem) -> bool:
    """Are the multiplications saved worth the sums and transformed inputs, which are written and read, and the larger weights?

    Both ways multiply whole tiles of pixels.
    """
    tiles, weights = _tiles(p), p.channels * p.filters
    ours = POSITIONS * weights * _whole(tiles) + _PER_FLOAT * POSITIONS * (weights + 2 * tiles * (p.channels + p.filters))
    return ours < 9 * weights * _whole(p.pixels) + _PER_FLOAT * 9 * weights


def _whole(rows: int) -> int:
    return -(-rows // SHORT.pixels) * SHORT.pixels


def _scratch(p: Problem) -> int:
    """Bytes of transformed inputs and of sums."""
    return 4 * POSITIONS * _tiles(p) * p.groups * (p.channels + p.filters)


def _grid(p: Problem) -> tuple[int, int, int]:
    n, _, h, w = p.y.shape
    return n, -(-h // 4), -(-w // 4)


def _tiles(p: Problem) -> int:
    n, rows, columns = _grid(p)
    return n * rows * columns


def plan(p: Problem) -> list[Call]:
    x, pads = p.x, [int(v) for v in p.launch.params["pads"]]
    channels, filters, tiles = p.groups * p.channels, p.groups * p.filters, _tiles(p)
    into = tiles * POSITIONS * channels * 4
    wide = p.wide or tiles * POSITIONS * max(channels, filters) >= 1 << 31
    b = Builder(p.launch, INPUT, wide)
    original = p.launch.ins[0]
    assert original is not None
    b.pointer("x", "const f32", operand(original))
    b.pointer("v", "f32", Scratch(0))
    b.sizes("channels", [channels])
    b.sizes("tiles", _grid(p))
    b.array("pad", "idx", pads[:2])
    b.array("size", "idx", x.shape[2:])
    b.array("x_step", "idx", x.strides[2:])
    b.scalar("x_batch", "idx", x.strides[0])
    b.scalar("x_channel", "idx", x.strides[1])
    b.scalar("total", "idx", tiles * channels)
    held = -(-into // 256) * 256
    product, partial, scratch = _products(p, tiles, held, wide)
    first = b.call(-(-tiles * channels // INPUT.threads), scratch=scratch)
    b = Builder(p.launch, OUTPUT, wide)
    b.type("X", F32)
    b.type("Sum", F32)
    b.pointer("partial", "const f32", partial)
    b.sizes("filters", [filters])
    b.sizes("tiles", _grid(p))
    b.array("out", "idx", p.y.shape[2:])
    b.scalar("total", "idx", tiles * filters)
    results(b, p)
    return [first, product, b.call(-(-tiles * filters // OUTPUT.threads), scratch=scratch)]


def _products(p: Problem, tiles: int, held: int, wide: bool) -> tuple[Call, Scratch, int]:
    """The sums [tile][position][filter] of the transformed inputs [tile][position][channel], as a convolution in which tiles are pixels."""
    row = POSITIONS * p.groups * p.channels
    v = Tensor(Buffer(-1, ARENA, tiles * row, F32), 0, (tiles, row), (row if tiles > 1 else 0, 1), F32)
    q = replace(
        p,
        x=v,
        w=Filters(p.w.tensors, 0, 0, 0),
        bias=None,
        axes=(Axis(tiles, 1, tiles, 1, 1, (0,), row, 0),),
        groups=POSITIONS * p.groups,
        x_channel=1,
    )
    shape = shape_of(q)
    pitch = -(-p.filters // 4) * 4
    b = Builder(p.launch, TILE, wide)
    fields(b, q)
    place(b, "x", Scratch(0))
    b.define("K_FAST", True)
    b.define("VA", vector(q, shape))
    rows, columns = tile_fields(b, q, shape, pitch, constant_table(("winograd", p.groups, pitch), p.w.tensors, lambda: _weights(p, pitch)))
    b.define("SPLIT", False)
    b.define("CHANNELS_FAST", True)
    b.scalar("slice", "idx", q.depth)
    scratch, partial = partial_sums(b, q, 1, held)
    return b.call(rows * columns * q.groups, shape.threads, scratch=scratch), partial, scratch


def _weights(p: Problem, pitch: int) -> Array:
    """[position][group][channel][pitch]: G g G'."""
    held = constant_filters(p)  # [phase, group, tap, channel, filter]
    assert held is not None
    g = np.array([[1, 0, 0], *[[1, at, at * at] for at in (_P, -_P, _Q, -_Q)], [0, 0, 1]])
    taps = held.astype(np.float64).reshape(p.groups, 3, 3, p.channels, p.filters)
    moved = np.einsum("ya,xb,gabcm->yxgcm", g, g, taps, optimize=True)
    out = np.zeros((POSITIONS, p.groups, p.channels, pitch), np.float32)
    out[..., : p.filters] = moved.reshape(POSITIONS, p.groups, p.channels, p.filters)
    return out
