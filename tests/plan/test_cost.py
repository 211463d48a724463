"""The work of launches, counted by hand for small cases and summed over planned models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pytensor_rt
from pytensor_rt.lowering.tensor import ARENA, INPUT, Buffer, HostCall, Launch, Tensor, row_major
from pytensor_rt.plan.cost import bytes_moved, flops

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)


def tensor(*shape: int, dtype: np.dtype = F32, strides: tuple[int, ...] | None = None) -> Tensor:
    return Tensor(Buffer(0, ARENA, int(np.prod(shape)), dtype), 0, shape, row_major(shape) if strides is None else strides, dtype)


def launch(name: str, ins: list[Tensor | None], outs: list[Tensor | None], /, **params: object) -> Launch:
    return Launch(name, ins, outs, params)


@pytest.mark.parametrize(
    ("case", "operations", "nbytes"),
    [
        (launch("gemm", [tensor(2, 3, 5), tensor(2, 5, 7)], [tensor(2, 3, 7)], alpha=1.0), 2 * 2 * 3 * 5 * 7, 4 * (30 + 70 + 42)),
        (launch("gemm", [tensor(4, 8), tensor(8, 0)], [tensor(4, 0)]), 0, 4 * 32),
        (
            launch("conv", [tensor(1, 4, 6, 6), tensor(8, 2, 3, 3), tensor(8)], [tensor(1, 8, 4, 4)]),
            2 * 8 * 16 * 2 * 9,
            4 * (144 + 144 + 8 + 128),
        ),
        (launch("conv_transpose", [tensor(1, 4, 3, 3), tensor(4, 2, 2, 2)], [tensor(1, 2, 6, 6)]), 2 * 36 * 2 * 4, 4 * (36 + 32 + 72)),
        (launch("softmax", [tensor(2, 10)], [tensor(2, 10)], op="softmax", axis=1), 5 * 20, 4 * 40),
        (launch("normalize", [tensor(2, 10), None, None], [tensor(2, 10)], op="layer"), 8 * 20, 4 * 40),
        (launch("pool", [tensor(1, 2, 4, 4)], [tensor(1, 2, 2, 2)], kernel=(2, 2)), 8 * 4, 4 * (32 + 8)),
        (
            launch("attention", [tensor(1, 2, 3, 4), tensor(1, 2, 5, 4), tensor(1, 2, 5, 6)], [tensor(1, 2, 3, 6)]),
            2 * 3 * 5 * (8 + 12 + 5),
            4 * 160,
        ),
        (
            launch("recurrent", [tensor(7, 2, 3), tensor(1, 16, 3), tensor(1, 16, 4)], [tensor(7, 1, 2, 4)]),
            2 * 7 * 2 * 112,
            4 * (42 + 112 + 56),
        ),
        (
            launch("linear_attention", [tensor(1, 4, 3, 5), tensor(1, 2, 3, 5), tensor(1, 2, 3, 7)], [tensor(1, 4, 3, 7)], delta=1),
            3 * 5 * 7 * (2 * 4 + 4 * 2),
            4 * 3 * (20 + 10 + 14 + 28),
        ),
        (
            launch(
                "linear_attention",
                [tensor(1, 2, 3, 5)] * 2 + [tensor(1, 2, 3, 7), None, tensor(1, 2, 3, 5, strides=(6, 3, 1, 0))],
                [tensor(1, 2, 3, 7)],
                delta=0,
            ),
            3 * 5 * 7 * (2 * 2 + 2 * 2 + 2) + 2 * 3,
            4 * (3 * (10 + 10 + 14 + 14) + 6),
        ),
        (launch("gather", [tensor(1000, 8), tensor(3, dtype=I64)], [tensor(3, 8)], mode="axis"), 0, 4 * 24 + 8 * 3 + 4 * 24),
        (launch("resample", [tensor(1, 1, 2, 2), None], [tensor(1, 1, 4, 4)], op="linear"), 2 * 16 * 4, 4 * (4 + 16)),
        (launch("fft", [tensor(1, 8, 1)], [tensor(1, 8, 2)], axis=1), 5 * 8 * 3, 4 * (8 + 16)),
    ],
    ids=lambda v: v.kernel if isinstance(v, Launch) else "",
)
def test_kernels(case, operations, nbytes):
    assert (flops(case), bytes_moved(case)) == (operations, nbytes)


def test_programs_count_their_arithmetic_and_broadcast_operands_count_once():
    x, b, y = tensor(4, 5), tensor(4, 5, strides=(0, 1)), tensor(4, 5)
    body = (("load", (0,), F32), ("load", (1,), F32), ("add", (0, 1), F32), ("exp", (2,), F32), ("cast", (3,), F32))
    case = Launch("map", [x, b], [y], None, body)
    assert (flops(case), bytes_moved(case)) == (2 * 20, 4 * (20 + 5 + 20))
    case = launch("reduce", [x], [tensor(4, 1)], op="sum", axes=(1,))
    case.prologue, case.pro_ins = body, [x, b]
    assert (flops(case), bytes_moved(case)) == (20 + 2 * 20, 4 * (20 + 5 + 4)), "the operand that a prologue replaces is not read"
    case.epilogue = (("acc", (), F32), ("sqrt", (0,), F32))
    assert flops(case) == 20 + 2 * 20 + 4


def test_a_whole_model():
    path = Path(pytensor_rt.__file__).parent / "demo" / "digits.onnx"
    runner = pytensor_rt.InferenceSession(str(path)).bind(image=(2, 1, 8, 8))
    launches = [x for x in runner.plan.launches if not isinstance(x, HostCall)]
    products = 64 * 16 * 9 + 64 * 32 * 16 * 9 + 16 * 32 * 9 + 16 * 48 * 32 + 192 * 10  # multiply-adds of the five layers, per image
    own = sum(flops(x) for x in launches if x.kernel in ("conv", "gemm"))
    assert 2 * 2 * products <= own <= 2.05 * 2 * products
    assert all(bytes_moved(x) > 0 for x in launches)
    assert any(t.buffer.kind == INPUT for x in launches for t in x.reads())
