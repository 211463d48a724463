"""Convolutions of few products per result: see csrc/cuda/conv_direct.cuh."""

from __future__ import annotations

from math import prod

from ..build import Builder, Call
from ..manifest import Entry
from .conv_problem import Problem, fields, results, weights_field
from .conv_weights import packed

DIRECT = Entry("conv_direct", "conv_direct.cuh", 128, registers=96)

FEW = 64  # weights between the channels and filters of a group, at most
_MANY_THREADS = 1 << 13  # so many are worth more than inputs shared between the pixels of a thread


def applies(p: Problem) -> bool:
    """Do the groups have too few filters or channels for a tile of a matrix product?"""
    return (p.filters == 1 and p.channels == 1) or (p.groups > 1 and p.channels * p.filters <= FEW)


def plan(p: Problem) -> list[Call]:
    filters = p.groups * p.filters
    last = p.axes[-1]
    channels_fast = abs(p.y.strides[1]) == 1 or abs(p.x_channel) == 1
    vector = _vector(p) if channels_fast else 1
    pixels = 1
    if channels_fast and last.out >= 4 and p.results >= _MANY_THREADS * vector * 4:
        pixels = 4
    window = last.kernel if pixels > 1 and last.dilation == 1 and last.stride <= 2 and 1 < last.kernel <= 7 else 0
    pitch = -(-filters // 4) * 4
    calls, w = packed(p, p.sum, 1, filters, pitch)
    b = Builder(p.launch, DIRECT, p.wide)
    fields(b, p)
    b.define("CHANNELS_FAST", channels_fast)
    b.define("V", vector)
    b.define("P", pixels)
    b.define("WINDOW", window)
    b.define("STRIDE", last.stride if window else 1)
    b.type("W", p.sum)
    weights_field(b, p, "W", w, p.depth * pitch)
    b.scalar("pitch", "idx", pitch)
    b.scalar("channels", "i32", p.channels)
    b.scalar("any", "bool", p.depth > 0)
    b.array("taps", "i32", [a.kernel for a in p.axes])
    steps = [prod([a.kernel for a in p.axes[k + 1 :]]) * p.channels * pitch for k in range(len(p.axes))]
    b.array("w_step", "idx", steps)
    b.scalar("w_tap", "idx", steps[-1])
    strips = [a.out for a in p.axes[:-1]] + [-(-last.out // pixels)]
    b.sizes("strip_size", strips)
    b.sizes("filters", [filters // vector])
    b.sizes("strips", [prod(strips)])
    b.sizes("group_filters", [p.filters])
    total = prod(strips) * (filters // vector)
    b.scalar("total", "idx", total)
    results(b, p)
    calls.append(b.call((-(-total // DIRECT.threads), 1, p.phases)))
    return calls


def _vector(p: Problem) -> int:
    """Filters per thread: 16 bytes of x or of weights, whichever is less."""
    if p.channels != 1 or p.filters != 1 or p.x_channel != 1:
        return 1
    vector = min(16 // p.x.dtype.itemsize, 16 // p.sum.itemsize)
    while vector > 1:
        if p.groups % vector == 0 and p.x.offset % vector == 0 and all(a.x % vector == 0 for a in p.axes):
            break
        vector //= 2
    return vector
