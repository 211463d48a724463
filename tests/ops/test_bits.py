"""BitCast and BitShift for every type and amount."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

import pytensor_rt as rt

from .nodes import run

SIGNED, UNSIGNED = (np.int8, np.int16, np.int32, np.int64), (np.uint8, np.uint16, np.uint32, np.uint64)


@pytest.mark.parametrize("dtype", [*SIGNED, *UNSIGNED])
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shifts_are_those_of_unbounded_integers(dtype: Any, direction: str) -> None:
    info = np.iinfo(dtype)
    values = np.array([info.min, info.max, 0, 1, 5, info.max // 3, info.min // 3], dtype)
    amounts = sorted(
        {0, 1, 3, info.bits - 1, info.bits, info.bits + 1, min(2 * info.bits, info.max), info.max} | ({-1, info.min} if info.min else set())
    )
    a, k = np.meshgrid(values, np.array(amounts, dtype), indexing="ij")
    got = run("BitShift", {"a": a, "k": k}, opset=28, direction=direction)[0]

    def shift(v: int, n: int) -> int:
        n = n if 0 <= n < info.bits else info.bits  # out of range: only the sign is left
        return v >> n if direction == "RIGHT" else ((v << n) + (1 << info.bits)) % (1 << info.bits)

    want = np.array([shift(int(v), int(n)) % (1 << info.bits) for v, n in zip(a.flat, k.flat, strict=True)], np.uint64)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got.reshape(-1).view(f"u{info.dtype.itemsize}").astype(np.uint64), want)


@pytest.mark.parametrize(
    ("source", "target"),
    [(np.float32, np.int32), (np.uint32, np.float32), (np.float64, np.uint64), (np.int16, np.float16), (np.float16, ml_dtypes.bfloat16), (np.int8, np.uint8),
     (np.uint8, ml_dtypes.float8_e4m3fn), (np.bool_, np.uint8)],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(), (3, 5), (0, 4)])
def test_bitcast(source: Any, target: Any, shape: tuple[int, ...]) -> None:
    raw = np.random.default_rng(1).integers(0, 2 if source is np.bool_ else 256, (*shape, np.dtype(source).itemsize), np.uint8)
    x = np.ascontiguousarray(raw).view(source).reshape(shape)
    y = run("BitCast", {"x": x}, opset=26, to=helper.np_dtype_to_tensor_dtype(np.dtype(target)))[0]
    assert y.dtype == target and y.shape == shape and y.tobytes() == x.tobytes()


def test_bitcast_of_a_view_and_of_four_bits() -> None:
    x = np.arange(-8, 8).astype(ml_dtypes.int4)
    y = run("BitCast", {"x": x}, opset=26, to=helper.np_dtype_to_tensor_dtype(np.dtype(ml_dtypes.uint4)))[0]
    assert y.astype(int).tolist() == [v % 16 for v in range(-8, 8)]
    back = run("BitCast", {"x": y}, opset=26, to=helper.np_dtype_to_tensor_dtype(np.dtype(ml_dtypes.int4)))[0]
    assert back.astype(int).tolist() == list(range(-8, 8))


def test_bytes_cast_to_bool_are_booleans() -> None:
    y = run("BitCast", {"x": np.array([0, 1, 2, 255], np.uint8)}, opset=26, to=9)[0]
    assert y.view(np.uint8).tolist() == [0, 1, 1, 1]


def test_another_width_is_an_error() -> None:
    with pytest.raises(rt.PlanError, match="bits"):
        run("BitCast", {"x": np.zeros(2, np.float32)}, opset=26, to=7)
