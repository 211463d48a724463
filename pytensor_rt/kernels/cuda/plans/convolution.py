"""`conv`, `conv_transpose`, `deform_conv` and `col2im`: which kernels carry out a launch.

A transposed convolution is a set of convolutions, one per phase of its strides, that write every stride-th output: see conv_problem.transposed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ....lowering.expr import relu
from ....lowering.tensor import Launch
from ..build import Call
from ..manifest import Entry
from . import conv_deform, conv_direct, conv_mma, conv_tiles, conv_weights, conv_winograd
from .conv_problem import Problem, of_launch, transposed
from .samples import launch, tensor

ENTRIES = (
    conv_direct.DIRECT,
    conv_weights.PACK,
    conv_tiles.TILE,
    conv_tiles.FINISH,
    conv_mma.MMA,
    conv_winograd.INPUT,
    conv_winograd.OUTPUT,
    conv_deform.DEFORM,
    conv_deform.COL2IM,
)


def conv(launch: Launch) -> list[Call]:
    """y = the convolution of x with w."""
    return plan(of_launch(launch))


def conv_transpose(launch: Launch) -> list[Call]:
    """y[o] += x[i] * w[k] where o = i * stride + k * dilation - pad."""
    return [call for p in transposed(launch) for call in plan(p)]


deform_conv = conv_deform.deform_conv
col2im = conv_deform.col2im


def plan(p: Problem) -> list[Call]:
    """The calls of one problem."""
    if conv_direct.applies(p):
        return conv_direct.plan(p)
    if conv_winograd.applies(p):
        return conv_winograd.plan(p)
    return conv_mma.plan(p) or conv_tiles.plan(p)


def _sample(
    stored: tuple[int, ...],
    filters: int,
    kernel: tuple[int, ...] = (3, 3),
    group: int = 1,
    stride: int = 1,
    dtype: str = "float32",
    constant: bool = True,
    zero: bool = False,
    **options: Any,
) -> Launch:
    """A `conv` of a channels-last x stored as [N, d..., C], with "same" padding."""
    n = len(kernel)
    perm = (0, n + 1, *range(1, n + 1))
    shape = (filters, stored[-1] // group, *kernel)
    weight = np.ones(shape, np.dtype(dtype)) if constant else None
    out = (stored[0], *[(s + 2 * (k // 2) - k) // stride + 1 for s, k in zip(stored[1:], kernel)], filters)
    sums = "int32" if dtype.endswith("int8") else dtype
    return launch(
        "conv",
        [tensor(stored, dtype, perm), tensor(shape, dtype, data=weight), None, tensor((), dtype) if zero else None],
        tensor(out, sums, perm),
        acc=sums,
        strides=[stride] * n,
        dilations=[1] * n,
        pads=[k // 2 for k in kernel] * 2,
        group=group,
        **options,
    )


def samples() -> Iterator[tuple[Entry, str, Launch]]:
    """Launches that stand for each kernel."""
    tile, mma, direct = conv_tiles.TILE, conv_mma.MMA, conv_direct.DIRECT
    yield tile, "1x1, tiles of 128 x 128", _sample((8, 56, 56, 128), 256, (1, 1), epilogue=relu)
    yield tile, "5x5", _sample((1, 56, 56, 32), 64, (5, 5))
    yield tile, "first layer", _sample((1, 224, 224, 3), 32, stride=2)
    yield tile, "float64", _sample((1, 28, 28, 32), 64, dtype="float64")
    yield conv_tiles.FINISH, "few pixels, slices", _sample((1, 7, 7, 512), 512, stride=2)
    yield direct, "depthwise 3x3", _sample((8, 56, 56, 128), 128, group=128, epilogue=relu)
    yield direct, "depthwise 5x5, float16", _sample((8, 56, 56, 128), 128, (5, 5), group=128, dtype="float16")
    yield direct, "groups of 8", _sample((1, 56, 56, 128), 128, group=16)
    yield conv_weights.PACK, "weights that are no constants", _sample((1, 28, 28, 64), 64, constant=False)
    yield mma, "float16, tiles of 128 x 64", _sample((8, 56, 56, 64), 128, dtype="float16", epilogue=relu)
    yield mma, "bfloat16, tiles of 64 x 64", _sample((1, 28, 28, 128), 128, dtype="bfloat16")
    yield mma, "int8", _sample((8, 56, 56, 64), 128, dtype="int8")
    yield mma, "uint8, zero point", _sample((8, 56, 56, 64), 128, (1, 1), dtype="uint8", zero=True)
    yield mma, "float16, first layer", _sample((1, 224, 224, 3), 32, stride=2, dtype="float16")
    yield conv_winograd.INPUT, "3x3", _sample((1, 56, 56, 64), 64, epilogue=relu)
    window: dict[str, Any] = {"strides": [2, 2], "dilations": [1, 1], "pads": [0] * 4}
    yield (
        tile,
        "transposed 2x2",
        launch("conv_transpose", [tensor((1, 28, 28, 64), perm=(0, 3, 1, 2)), tensor((64, 32, 2, 2))], (1, 32, 56, 56), group=1, **window),
    )
    x, offset, mask = (tensor((1, 32, 32, c), perm=(0, 3, 1, 2)) for c in (64, 18, 9))
    window = {"strides": [1, 1], "dilations": [1, 1], "pads": [1] * 4}
    deformed = launch("deform_conv", [x, tensor((64, 64, 3, 3)), offset, None, mask], (1, 64, 32, 32), group=1, offset_group=1, **window)
    yield conv_deform.DEFORM, "3x3, mask", deformed
    yield conv_deform.COL2IM, "3x3", launch("col2im", [tensor((1, 72, 1024))], (1, 8, 32, 32), kernel=[3, 3], **window)
