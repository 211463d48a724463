"""`gemm`: reads a launch into a Problem (gemm_problem.py) and picks its kernels (gemm_paths.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ....dtypes import F16, I8, from_code
from ....lowering.expr import gelu_erf, relu
from ....lowering.tensor import CONST, Buffer, Launch, Tensor, row_major
from ...gemm_rules import optional, validate
from ..build import Call
from ..manifest import Entry
from . import gemm_weights
from .gemm_call import SUM
from .gemm_paths import DOTS, FEW_ROWS, MMA, QUANTISE, TILES, plan, quantised
from .gemm_problem import dequantising, read
from .samples import launch, tensor

ENTRIES = (TILES, MMA, FEW_ROWS, DOTS, SUM, QUANTISE)


def gemm(launch: Launch) -> list[Call]:
    """y[..., m, n] = alpha * sum_k (a - a_zero) * (b - b_zero)."""
    validate(launch)
    if optional(launch, 4) is not None:
        return plan(dequantising(read(launch, False)))
    precision = launch.params.get("precision", "full")
    if precision == "full":
        return plan(read(launch, True))
    b = launch.ins[1]
    assert b is not None
    if precision == "int8":
        table, scales, shape = gemm_weights.quantised(b)
        swapped = _stand_in(b, shape, I8).permute((*range(b.ndim - 2), b.ndim - 1, b.ndim - 2))
        p = read(_with_weights(launch, swapped), False)
        return quantised(replace(p, b=replace(p.b, pointer=table, row=shape[-1], k=1)), scales, shape[-1])
    code = 16 if precision == "bf16" else 10
    table, shape = gemm_weights.halves(b, code)
    p = read(_with_weights(launch, _stand_in(b, shape, from_code(16) if code == 16 else F16)), False)
    return plan(replace(p, b=replace(p.b, pointer=table, row=1, k=shape[-1])))


def _stand_in(b: Tensor, stored: tuple[int, ...], dtype: np.dtype[np.generic]) -> Tensor:
    """A tensor with the layout of repacked weights: b's batch axes, then the last two of `stored`."""
    steps = row_major(stored)
    batch = tuple([0 if n == 1 else s for n, s in zip(stored[:-2], steps)])
    return Tensor(Buffer(-1, CONST, 0, dtype), 0, (*b.shape[:-2], *stored[-2:]), (*batch, stored[-1], 1), dtype)


def _with_weights(launch: Launch, b: Tensor) -> Launch:
    """The launch with another second operand, of a's k and y's n."""
    a, y = launch.ins[0], launch.outs[0]
    assert a is not None and y is not None
    view = Tensor(b.buffer, 0, (*b.shape[:-2], a.shape[-1], y.shape[-1]), b.strides, b.dtype)
    new = Launch(launch.kernel, [a, view], launch.outs, launch.params, launch.body, launch.nodes)
    new.epilogue, new.epi_ins, new.acc_dtype = launch.epilogue, launch.epi_ins, launch.acc_dtype
    return new


def _samples() -> Iterator[tuple[Entry, str, Launch]]:
    def f(*shape: int, dtype: str = "float32", perm: tuple[int, ...] | None = None) -> Tensor:
        return tensor(shape, dtype, perm)

    def constant(shape: tuple[int, ...], dtype: str = "float32") -> Tensor:
        return tensor(shape, dtype, data=np.ones(shape, np.dtype(dtype)))

    yield TILES, "float32, large", launch("gemm", [f(2048, 256), f(256, 1024)], (2048, 1024))
    yield TILES, "float32, large, long", launch("gemm", [f(2048, 4096), f(4096, 1024)], (2048, 1024))
    yield (
        TILES,
        "float32, bias and gelu",
        launch(
            "gemm",
            [f(128, 512), f(512, 768)],
            (128, 768),
            epilogue=lambda acc, b: gelu_erf(acc + b),
            epi_ins=[tensor((768,), shape=(128, 768))],
        ),
    )
    yield TILES, "float32, small, transposed B", launch("gemm", [f(8, 40, 32), f(8, 32, 32, perm=(0, 2, 1))], (8, 40, 32))
    yield TILES, "float64", launch("gemm", [f(256, 512, dtype="float64"), f(512, 256, dtype="float64")], (256, 256), "float64")
    yield TILES, "int32", launch("gemm", [f(256, 64, dtype="int32"), f(64, 256, dtype="int32")], (256, 256), "int32")
    for dtype in ("float16", "bfloat16"):
        d = str(from_code(10 if dtype == "float16" else 16))
        yield MMA, f"{dtype}, large", launch("gemm", [f(2048, 512, dtype=d), f(512, 2048, dtype=d)], (2048, 2048), d)
    h = "float16"
    yield (
        MMA,
        "float16, transposed, residual",
        launch(
            "gemm", [f(256, 128, dtype=h, perm=(1, 0)), f(256, 256, dtype=h, perm=(1, 0))], (128, 256), h,
            epilogue=lambda acc, r: relu(acc + r), epi_ins=[tensor((128, 256), h)],
        ),
    )  # fmt: skip
    yield MMA, "float16, few rows", launch("gemm", [f(12, 1024, dtype=h), f(1024, 1024, dtype=h)], (12, 1024), h)
    yield MMA, "float16, unaligned", launch("gemm", [f(65, 63, dtype=h), f(63, 65, dtype=h)], (65, 65), h)
    zero = tensor((1, 1), "uint8", shape=(512, 1))
    yield (
        MMA,
        "uint8 by int8, a zero point",
        launch("gemm", [f(512, 256, dtype="uint8"), f(256, 256, dtype="int8"), zero], (512, 256), "int32"),
    )
    yield (
        MMA,
        "int8, dense along k, large",
        launch("gemm", [f(2048, 256, dtype="int8"), f(2048, 256, dtype="int8", perm=(1, 0))], (2048, 2048), "int32"),
    )
    yield MMA, "precision bf16", launch("gemm", [f(64, 256), constant((256, 256))], (64, 256), precision="bf16")
    yield QUANTISE, "precision int8", launch("gemm", [f(64, 256), constant((256, 256))], (64, 256), precision="int8")
    for m in (1, 4, 16):
        yield FEW_ROWS, f"float32, {m} rows", launch("gemm", [f(m, 1024), f(1024, 1024)], (m, 1024))
        yield DOTS, f"float32, {m} rows", launch("gemm", [f(m, 1024), f(1024, 1024, perm=(1, 0))], (m, 1024))
    yield FEW_ROWS, "float16, 8 rows", launch("gemm", [f(8, 1024, dtype=h), f(1024, 1024, dtype=h)], (8, 1024), h)
    scale = constant((32, 1024), "float32")
    yield (
        FEW_ROWS,
        "int4 weights",
        launch("gemm", [f(1, 1024), constant((512, 1024), "uint8"), None, None, scale], (1, 1024), block=32, pairs=1),
    )
    b = constant((1024, 512), "uint8").permute((1, 0))
    yield (
        DOTS,
        "int4 weights",
        launch("gemm", [f(1, 1024), b, None, constant((1024, 16), "uint8").permute((1, 0)), scale], (1, 1024), block=32, pairs=1),
    )
    yield SUM, "slices of float32", launch("gemm", [f(1, 4096), f(4096, 1024)], (1, 1024), epilogue=lambda acc: relu(acc))
    yield (
        TILES,
        "int8 weights",
        launch("gemm", [f(64, 512), constant((512, 256), "int8"), None, None, constant((16, 256))], (64, 256), block=32),
    )


def samples() -> Iterator[tuple[Entry, str, Launch]]:
    """Launches that stand for each kernel and its variants."""
    yield from _samples()
