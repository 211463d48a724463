"""com.microsoft MatMulBnb4 against onnxruntime and against the dequantised weight."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import pytensor_rt as rt

from .nodes import MS, both, close, normal, run, session

NAME = "MatMulBnb4"


def weight(k: int, n: int, block: int, dtype: Any = np.float32) -> dict[str, Any]:
    rng = np.random.default_rng(k + n)
    absmax = rng.uniform(0.1, 1, -(-n * k // block)).astype(dtype)
    return {"b": rng.integers(0, 256, -(-n * k // 2)).astype(np.uint8), "s": absmax}


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("quant_type", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_against_onnxruntime(dtype: Any, quant_type: int, constant: bool) -> None:
    """Rows of odd length, blocks across rows, a last block that is cut off, vectors and batches. Without transB onnxruntime's kernel takes the weight
    transposed all the same: there the reference is the weight that its products by the identity show."""
    constants: Any = lambda given: ["b", "s"] if constant else []
    for k, n, block in ((64, 32, 16), (23, 5, 16), (100, 33, 128), (1, 1, 32)):
        parts, tolerance = weight(k, n, block, dtype), 5e-3 if dtype == np.float16 else 1e-5
        attrs = {"K": k, "N": n, "block_size": block, "quant_type": quant_type}
        ((got, want),) = both(NAME, {"a": np.eye(k, dtype=dtype), **parts}, constants=constants, **attrs)
        np.testing.assert_array_equal(got, want)
        for lead in ((3,), (), (2, 1, 4), (0,)):
            close(both(NAME, {"a": normal(*lead, k, dtype=dtype), **parts}, constants=constants, **attrs), tolerance)
            a = normal(*lead, n, dtype=dtype)
            (other,) = run(NAME, {"a": a, **parts}, constants=constants(parts), **MS, **attrs, transB=0)
            assert other.dtype == dtype
            close([(other, a.astype(np.float64) @ want.T)], tolerance)


@pytest.mark.parametrize("quant_type", [0, 1])
def test_codes(quant_type: int) -> None:
    """The sixteen numbers themselves, the high half of a byte first; transB and training_mode have their defaults and no say."""
    b = np.arange(16, dtype=np.uint8)
    feeds = {"a": np.eye(16, dtype=np.float32), "b": b[::2] << 4 | b[1::2], "s": np.ones(1, np.float32)}
    ((got, want),) = both(NAME, feeds, K=16, N=1, block_size=16, quant_type=quant_type, training_mode=1)
    np.testing.assert_array_equal(got, want)


def test_bfloat16() -> None:
    """onnxruntime has no CPU kernel of it."""
    feeds = {"a": normal(3, 64), **weight(64, 32, 32)}
    narrow = {k: v if k == "b" else v.astype(ml_dtypes.bfloat16) for k, v in feeds.items()}
    attrs: dict[str, Any] = {"K": 64, "N": 32, "block_size": 32, "quant_type": 1, **MS}
    (got,), (want,) = (
        run(NAME, narrow, **attrs),
        run(NAME, {k: v if k == "b" else v.astype(np.float32) for k, v in narrow.items()}, **attrs),
    )
    assert got.dtype == ml_dtypes.bfloat16
    close([(got.astype(np.float32), want)], 2e-2)


def test_a_constant_weight_is_dequantised_and_packed_once() -> None:
    feeds = {"a": normal(1, 256), **weight(256, 128, 64)}
    s = session(NAME, feeds, constants=("b", "s"), K=256, N=128, block_size=64, quant_type=1, **MS)
    want = run(NAME, {**feeds, "a": np.eye(256, dtype=np.float32)}, K=256, N=128, block_size=64, quant_type=1, **MS)[0]
    packed = set()
    for m in (1, 7, 40, 1):
        a = normal(m, 256)
        close([(s.run(None, {"a": a})[0], a @ want)], 1e-5)
        report = s.plan_report()
        assert [launch.kernel for launch in report.launches] == ["gemm"]
        packed.add(report.packed_bytes)
    assert len(packed) == 1


@pytest.mark.parametrize(
    "change,attrs,message",
    [
        ({}, {"quant_type": 2}, r"quant_type must be 0 \(FP4\) or 1 \(NF4\), got 2"),
        ({}, {"block_size": 24}, "block_size must be a power of 2 and at least 16, got 24"),
        ({"b": np.zeros(7, np.uint8)}, {}, r"expected B of 64 elements for N = 4, K = 32, block_size = 16, got \[7\]"),
        ({"s": normal(9)}, {}, r"expected absmax of 8 elements .* got \[9\]"),
        ({"a": normal(2, 31)}, {}, "inner dimensions differ: 31 and 32"),
    ],
)
def test_what_does_not_fit_says_so(change: dict[str, Any], attrs: dict[str, Any], message: str) -> None:
    feeds = {"a": normal(2, 32), **weight(32, 4, 16), **change}
    with pytest.raises(rt.PlanError, match=rf"\[com.microsoft.MatMulBnb4\] 'n': {message}"):
        run(NAME, feeds, **{"K": 32, "N": 4, "block_size": 16, "quant_type": 1, **MS, **attrs})
