"""com.microsoft MatMulNBits against onnxruntime and against weights dequantised by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import pytensor_rt as ptrt

Array = np.ndarray[Any, Any]


def pack(q: Array, bits: int) -> Array:
    """4-bit values two to a byte along the last axis, the first in the low half."""
    if bits == 8:
        return q.astype(np.uint8)
    q = np.concatenate([q, np.zeros((*q.shape[:-1], q.shape[-1] % 2), q.dtype)], -1)
    return (q[..., ::2] | q[..., 1::2] << 4).astype(np.uint8)


def model(
    k: int, n: int, bits: int, block: int, zeros: str, dtype: Any = np.float32, g_idx: bool = False, **attributes: int
) -> tuple[onnx.ModelProto, Array]:
    """The model and its dequantised weight [k, n]."""
    rng = np.random.default_rng(k + n)
    blocks = -(-k // block)
    q = rng.integers(0, 1 << bits, (n, blocks, block))
    z = rng.integers(0, 1 << bits, (n, blocks))
    scale = rng.uniform(0.01, 0.05, (n, blocks)).astype(dtype)
    arrays = {"b": pack(q, bits), "s": scale.reshape(-1)}
    shift: Array = np.full((n, blocks), 1 << bits - 1, np.float32)
    if zeros == "packed":
        arrays["z"], shift = pack(z, bits).reshape(-1), z.astype(np.float32)
    elif zeros == "float":
        shift = (z + 0.5).astype(np.float32)
        arrays["z"] = shift.astype(dtype).reshape(-1)
    if g_idx:
        arrays["g"] = np.zeros(k, np.int32)
    inputs = ["a", "b", "s", "z" if "z" in arrays else "", "g" if g_idx else ""]
    while not inputs[-1]:
        inputs.pop()
    attributes |= {"K": k, "N": n, "bits": bits, "block_size": block}
    node = helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", name="quantised", **attributes)
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("a", code, ["m", k])],
        [helper.make_tensor_value_info("y", code, ["m", n])],
        [numpy_helper.from_array(v, name) for name, v in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    w = (q.astype(np.float32) - shift[..., None]) * scale.astype(np.float32)[..., None]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), w.reshape(n, -1)[:, :k].T


@pytest.mark.parametrize("zeros", ["", "packed", "float"])
@pytest.mark.parametrize("bits,block", [(4, 16), (4, 32), (4, 128), (8, 32)])
def test_against_the_dequantised_weight(bits: int, block: int, zeros: str) -> None:
    for k, n in [(128, 64), (100, 33), (256, 48)]:
        proto, w = model(k, n, bits, block, zeros)
        session = ptrt.InferenceSession(proto)
        for m in (1, 3, 20, 1):
            a = np.random.default_rng(m).standard_normal((m, k)).astype(np.float32)
            (y,) = session.run(None, {"a": a})
            bound = (2 * k + 4) * 2.0**-24 * np.matmul(np.abs(a).astype(np.float64), np.abs(w).astype(np.float64))
            assert (np.abs(y - np.matmul(a.astype(np.float64), w.astype(np.float64))) <= bound).all()
        report = session.plan_report()
        panels = -(-n // 32) * 32
        blocks = -(-k // block)
        assert report.packed_bytes <= panels * (k * bits // 8 + panels // 32 + 8 * blocks) + 4096  # one pack for all shapes
        assert ("int4 weights" if bits == 4 else "int8 weights") in report.launches[-1].strategy


@pytest.mark.parametrize("zeros", ["", "packed"])
def test_rows_may_be_quantised(zeros: str) -> None:
    """accuracy_level 4: 16 bits per value and block at least, where onnxruntime takes 8."""
    ort = pytest.importorskip("onnxruntime")
    k, n, block = 512, 96, 32
    proto, w = model(k, n, 4, block, zeros, accuracy_level=4)
    session = ptrt.InferenceSession(proto)
    other = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for m in (1, 3, 20):
        a = np.random.default_rng(m).standard_normal((m, k)).astype(np.float32)
        a[:, 7] *= 100  # one large value spoils the others of its block only
        (got,), (want,) = session.run(None, {"a": a}), other.run(None, {"a": a})
        reference = a.astype(np.float64) @ w.astype(np.float64)
        products = np.abs(a).astype(np.float64) @ np.abs(w).astype(np.float64)
        most = np.abs(a).reshape(m, -1, block).max(axis=2).repeat(block, axis=1).astype(np.float64)
        bound = most / 32639 / 2 @ np.abs(w).astype(np.float64) + (2 * k + 4) * 2.0**-24 * products
        assert (np.abs(got - reference) <= bound).all()
        assert np.abs(got - reference).max() <= np.abs(want - reference).max()


@pytest.mark.parametrize("zeros", ["", "packed"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_against_onnxruntime(dtype: Any, zeros: str) -> None:
    ort = pytest.importorskip("onnxruntime")
    proto, w = model(128, 64, 4, 32, zeros, dtype)
    other = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for m in (1, 9):
        a = np.random.default_rng(m).standard_normal((m, 128)).astype(dtype)
        (want,), (got,) = other.run(None, {"a": a}), ptrt.InferenceSession(proto).run(None, {"a": a})
        assert got.dtype == dtype
        scale = np.abs(a.astype(np.float64)) @ np.abs(w.astype(np.float64))
        assert (np.abs(got.astype(np.float64) - want) <= (2e-3 if dtype == np.float16 else 1e-6) * scale).all()


def test_what_is_not_supported_says_so() -> None:
    proto, _ = model(64, 32, 4, 32, "", g_idx=True)
    with pytest.raises(ptrt.PlanError, match=r"MatMulNBits.*quantised.*g_idx"):
        ptrt.InferenceSession(proto).run(None, {"a": np.zeros((2, 64), np.float32)})
    proto, _ = model(64, 32, 4, 32, "")
    proto.graph.node[0].attribute[[a.name for a in proto.graph.node[0].attribute].index("bits")].i = 2
    with pytest.raises(ptrt.PlanError, match="bits must be 4 or 8"):
        ptrt.InferenceSession(proto).run(None, {"a": np.zeros((2, 64), np.float32)})
