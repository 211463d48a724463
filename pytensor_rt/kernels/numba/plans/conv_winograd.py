"""Winograd convolution, F(4, 3): see jit/conv_winograd.py."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from ....dtypes import F32
from ....lowering.tensor import CONST
from .. import code
from ..build import Address, Builder, Fn, Operand
from . import conv_finish, conv_products, conv_weights
from .conv_problem import Problem

CACHED = 640 << 10  # bytes of the transformed input and of the products of a block
LEAST = 12  # tiles of an image below which filters are read too often


def applies(p: Problem) -> bool:
    """Does it have the form, and does it pay? PTRT_WINOGRAD=0 forbids it."""
    if p.sum != F32 or p.groups != 1 or len(p.taps) != 9 or p.step != (1, 1, 1) or p.every != (1, 1, 1) or p.y_shape[2] != 1:
        return False
    d, h, w = p.taps[0].base
    if tuple(t.base for t in p.taps) != tuple((d, h + i, w + j) for i in range(3) for j in range(3)) or d != 0:
        return False
    if not (isinstance(p.w.address, Operand) and p.w.address.buffer.kind == CONST) or os.environ.get("PTRT_WINOGRAD") == "0":
        return False
    rows, cols = tiles(p)
    waste = 16 * rows * cols / (p.y_shape[3] * p.y_shape[4])
    return p.channels >= 16 and p.filters >= 16 and rows * cols >= LEAST and waste < 1.6


def tiles(p: Problem) -> tuple[int, int]:
    """Tiles along rows and columns."""
    return -(-p.y_shape[3] // 4), -(-p.y_shape[4] // 4)


def plan(b: Builder, p: Problem) -> None:
    """Add the calls of a problem."""
    lanes = code.vector_bytes() // 4
    vectors = 1 if p.filters <= lanes else 2
    wide = vectors * lanes
    C, M = p.channels, p.filters
    panels = -(-M // wide)
    held = conv_finish.linear(p)
    source = conv_weights.bring(b, p, "f32", plain=True)
    x = source.view
    rows, cols = tiles(p)
    pixel = -(-C // lanes) * lanes * 4 + 64
    room = max(8, CACHED // (36 * (pixel + wide * 4)))
    bc = min(cols, max(1, room)) if cols <= room else -(-cols // -(-cols // room))
    br = min(rows, max(1, room // bc))
    br = -(-rows // -(-rows // br))
    T = br * bc
    blocks = p.y_shape[0] * -(-rows // br) * -(-cols // bc)
    split = min(panels, max(1, -(-2 * b.threads // blocks))) if b.threads > 1 else 1
    chunk = -(-panels // split)
    if held is None:
        chunk = min(chunk, max(1, conv_products.SUMS // (16 * T * wide * 4)))
    split = -(-panels // chunk)
    position = T * pixel + (64 if T * pixel % 128 == 0 else 0)
    pitch = chunk * wide * 4 + 64
    offsets, at = [], 0
    sums = 16 * T * pitch if held is None else 0
    for n in (36 * position, 36 * T * 8, 36 * T * wide * 4, 36 * T * 8, 128 * T, 128 * T, sums, 4 * M + 256):
        offsets.append(at)
        at += -(-n // 64) * 64 + 64
    v, v_table, m, m_table, out, rest, sum_at, outside = offsets
    slots, step = b.slots(at)
    calls, tail = conv_finish.sink(b, p, held)
    direct, y, y_n, _, y_h, y_w, r, r_n, _, r_h, r_w, limits = calls
    most = conv_products.most_rows()
    heights, widths = {br, (rows - 1) % br + 1}, {bc, (cols - 1) % bc + 1}
    used = {size for h in heights for w in widths for count, size in conv_products.split(h * w, most) if count}
    body: list[Any] = [
        *p.y_shape[3:], br, bc, -(-rows // br), -(-cols // bc), *x.shape[3:], *p.taps[0].base[1:], x.address,
        *[x.strides[k] * 4 for k in (0, 3, 4)], source.pad, slots, step, v, position, pixel, v_table, m, m_table, out, rest, sum_at, outside,
        C, M, wide, _filters(b, p, panels, wide), 36 * C * wide * 4, conv_finish.biases(b, p, held, panels, wide), chunk, split,
        direct, y, y_n, y_h, y_w, r, r_n, r_h, r_w, limits, *tail, pitch, conv_finish.zeros(256),
        conv_finish.limits_table(conv_finish.NO_LIMITS, p.sum), most,
        *[Fn(f"conv_tile.product[{k},{vectors},:f32]") if k in used else 0 for k in range(1, most + 1)],
    ]  # fmt: skip
    cost = p.pixels * M * C * 9 / (2.5 * conv_products.RATE) + p.pixels * (M + C) * 0.3
    b.call("conv_winograd.blocks", body, blocks * split, cost)


def _filters(b: Builder, p: Problem, panels: int, wide: int) -> Address:
    w = p.w
    first, right, below = (p.taps[k].offset for k in (0, 1, 3))  # a transposed convolution's filters lie backwards
    by = [s * w.dtype.itemsize for s in (*p.w_strides[1:], below - first, right - first)]
    assert isinstance(w.address, Operand)
    start = replace(w.address, offset=w.address.offset + first * w.dtype.itemsize)

    def words(to: Address) -> list[Any]:
        return [start, *by, p.channels, p.filters, wide, to, Fn(f"memory.load[:{w.dtype.name}]")]

    nbytes = panels * 36 * p.channels * wide * 4
    return conv_weights.prepared(b, p, [w], "conv_winograd.filters", words, nbytes, panels, ("F(4,3)", panels, wide))
