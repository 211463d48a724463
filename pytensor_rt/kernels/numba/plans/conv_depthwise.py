"""Depthwise convolution: one channel in, one out, in vectors of channels. See jit/conv_block.py and jit/conv_depthwise.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....dtypes import F32, F64, I32
from .. import code
from ..build import Address, Builder, Fn
from . import conv_finish, conv_products, conv_weights
from .conv_problem import Problem

PIXELS = 6  # of the largest tile
BLOCK = 256  # pixels of a block, at most


def applies(p: Problem) -> bool:
    """One filter per channel, and at least a few of them?"""
    return p.channels == 1 and p.filters == 1 and p.groups > 2


def plan(b: Builder, p: Problem) -> None:
    """Add the calls of a problem."""
    item = p.sum.itemsize
    C = p.groups
    element = {F32: "f32", F64: "f64"}.get(p.sum, p.x.dtype.name)
    lanes = code.vector_bytes() // item
    vectors = 2 if lanes < C else 1
    room = -(-C // (vectors * lanes)) * vectors * lanes
    held = conv_finish.linear(p)
    x = p.x
    wanted = x.dtype if p.sum == I32 else p.sum
    if x.dtype != wanted or x.strides[1] != 1:
        x = conv_weights.copied(b, x, wanted)
    q = _one_group(p)
    nbytes = len(p.taps) * room * item
    pad: Address
    if p.sum == I32:
        filters = conv_weights.integers(b, q, "int32,1", 1, 1, room, nbytes)
        biases = conv_weights.offset_biases(b, q, filters, 0, 1, room, nbytes)
        pad = conv_weights.padding(b, p, 0, C + 64)
    else:
        filters = conv_weights.floats(b, q, 1, room, nbytes)
        biases = conv_finish.biases(b, q, held, 1, room)
        pad = conv_finish.zeros(C * item + 64)
    row = _row(p, vectors)
    if row is not None:
        most, kernel = row
        block, lines, every = p.y_shape[4], len(p.taps) // kernel, kernel
        dilation = p.taps[1].base[2] - p.taps[0].base[2] if kernel > 1 else 1
        line = 8 * ((block - 1) * p.step[2] + (kernel - 1) * dilation + 1)
        name, more = "strip", f",{kernel},{p.step[2]},{dilation}"
    else:
        most, lines, every = PIXELS, len(p.taps), 1
        block = min(p.pixels, max(PIXELS * 8, min(BLOCK, (64 << 10) // (room * item) // PIXELS * PIXELS)))
        line = 8 * (block + PIXELS)
        name, more = "channels", ""

    def tiles(pixels: int) -> list[Any]:
        words: list[Any] = []
        for count, rows in conv_products.split(pixels, most):
            words += [count, rows, Fn(f"conv_depthwise.{name}[{rows},{vectors},:{element}{more}]") if count else 0, 0]
        return words

    pitch = room * item + (64 if room * item % 4096 == 0 else 0)
    at_out = lines * line
    at_residual = at_out + 8 * block
    at_sums = -(-(at_residual + 8 * block) // 64) * 64
    slots, step = b.slots(at_sums + (block * pitch if held is None else 0) + 256)
    calls, tail = conv_finish.sink(b, p, held)
    cost = p.pixels * C * (len(p.taps) * 0.05 + 0.1)
    units = -(-p.pixels // block)
    group = max(1, min(units // 8, int(units * 20000 / (cost + 1)))) if row is not None else 1  # output rows of a unit
    last = p.pixels - (p.pixels - 1) // block * block
    body: list[Any] = [
        p.pixels, block, *p.y_shape[2:], *p.step, *x.shape[2:], x.address, *[x.strides[k] * x.dtype.itemsize for k in (0, 2, 3, 4)],
        lines, conv_products.bases(p, every), pad, slots, step, line, at_out, at_residual, 0, at_sums,
        0, 0, 0, 0, 1, 0, 1, room, C, filters, room * item, biases, 1, group, 1, *calls, item, *tail, pitch, line // 8, *tiles(block), *tiles(last),
    ]  # fmt: skip
    b.call("conv_block.strips" if row is not None else "conv_block.channels", body, -(-units // group), cost)


def _row(p: Problem, vectors: int) -> tuple[int, int] | None:
    """Pixels of a strip, and taps of a row of the window, where the taps of all rows are alike and enough sums fit in the registers."""
    rows: dict[tuple[int, int], list[int]] = {}
    for t in p.taps:
        rows.setdefault(t.base[:2], []).append(t.base[2])
    found = list(rows.values())
    if not found or any(r != found[0] for r in found):
        return None
    taps = found[0]
    kernel = len(taps)
    dilation = taps[1] - taps[0] if kernel > 1 else 1
    if taps != list(range(taps[0], taps[0] + kernel * dilation, dilation)) or dilation * kernel > 64 or p.step[2] > 4:
        return None
    registers = 32 if code.vector_bytes() == 64 else 16
    most = min(8, (registers - 2) // vectors - kernel - 1)
    return (most, kernel) if most >= 3 else None


def _one_group(p: Problem) -> Problem:
    """The same with channels as filters of one group, which is how filters and biases are laid out."""
    return replace(p, groups=1, channels=1, filters=p.groups, w_strides=(0, p.w_strides[0], 0))
