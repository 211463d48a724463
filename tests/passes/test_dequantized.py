"""Weights that the graph dequantises stay narrow: what is matched, what is not, and that results keep their bits."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pytensor_rt as ptrt

Array = np.ndarray[Any, Any]
I4 = np.dtype(ml_dtypes.int4)
K, N = 96, 64


def tensor(name: str, a: Array) -> onnx.TensorProto:
    if a.dtype == I4:
        return helper.make_tensor(name, TensorProto.INT4, a.shape, a.astype(np.int8).reshape(-1).tolist())
    return numpy_helper.from_array(a, name)


def session(nodes: list[Any], arrays: dict[str, Array], optimize: bool = True, shape: Any = ("n", K)) -> ptrt.InferenceSession:
    """A model of x (int64 if shape is ["n"]) -> y."""
    kind = TensorProto.INT64 if len(shape) == 1 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [tensor(n, a) for n, a in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ptrt.InferenceSession(model, optimize=optimize)


def check(nodes: list[Any], arrays: dict[str, Array], narrow: bool = True, rows: tuple[int, ...] = (9, 2, 40)) -> None:
    """Optimised against folded: the same bits for many rows; for up to four the sums may be split differently."""
    ours, folded = session(nodes, arrays), session(nodes, arrays, optimize=False)
    rng = np.random.default_rng(1)
    for n in rows:
        x = rng.standard_normal((n, K)).astype(np.float32)
        (got,), (want,) = ours.run(None, {"x": x}), folded.run(None, {"x": x})
        if n > 4:
            assert got.tobytes() == want.tobytes()
        else:
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * float(np.abs(want).max()) * np.sqrt(K))
        report = ours.plan_report()
        assert report.weight_bytes < (2 if narrow else 5) * K * N
        assert ("weights" in report.launches[-1].strategy) == narrow
    assert folded.plan_report().weight_bytes >= 4 * K * N


def quantised(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    low, high = (-8, 8) if dtype == I4 else (np.iinfo(dtype).min, np.iinfo(dtype).max + 1)
    return rng.integers(low, high, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, I4], ids=str)
@pytest.mark.parametrize("layout", ["tensor", "columns", "rows", "blocks", "no zero"])
@pytest.mark.parametrize("op", ["MatMul", "Gemm", "transposed Gemm", "Transpose"])
def test_dequantize_linear(op: str, layout: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    turned = op in ("transposed Gemm", "Transpose")
    k_axis = 1 if turned else 0
    w = quantised(rng, (N, K) if turned else (K, N), dtype)
    axis = k_axis if layout in ("rows", "blocks") else 1 - k_axis
    shape: Any = {"tensor": (), "columns": (N,), "no zero": (N,), "rows": (K,), "blocks": (K // 32, N)}[layout]
    shape = shape[::-1] if turned else shape
    arrays = {"w": w, "s": rng.uniform(0.01, 0.1, shape).astype(np.float32), "z": quantised(rng, shape, dtype)}
    inputs = ["w", "s"] if layout == "no zero" else ["w", "s", "z"]
    if layout == "no zero":
        del arrays["z"]
    block = {"block_size": 32} if layout == "blocks" else {}
    nodes = [helper.make_node("DequantizeLinear", inputs, ["f"], axis=axis, **block)]
    if op == "Transpose":
        nodes.append(helper.make_node("Transpose", ["f"], ["t"], perm=[1, 0]))
    if "Gemm" in op:
        arrays["c"] = rng.standard_normal(N).astype(np.float32)
        nodes.append(helper.make_node("Gemm", ["x", "f", "c"], ["y"], transB=int(turned), alpha=0.5, beta=2.0))
    else:
        nodes.append(helper.make_node("MatMul", ["x", "t" if turned else "f"], ["y"]))
    check(nodes, arrays)


@pytest.mark.parametrize("zero", [None, "scalar", "columns"])
@pytest.mark.parametrize("scale", [(), (N,), (1, N), (K, 1)])
def test_spelled_out(scale: tuple[int, ...], zero: str | None) -> None:
    rng = np.random.default_rng(2)
    arrays = {"w": quantised(rng, (K, N), np.int8), "s": rng.uniform(0.01, 0.1, scale).astype(np.float32)}
    nodes = [helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT)]
    if zero is not None:
        arrays["z"] = rng.integers(-9, 9, () if zero == "scalar" else (N,)).astype(np.float32)
        nodes.append(helper.make_node("Sub", ["f", "z"], ["d"]))
    nodes.append(helper.make_node("Mul", ["s", "d" if zero else "f"], ["m"]))
    nodes.append(helper.make_node("MatMul", ["x", "m"], ["y"]))
    check(nodes, arrays)


def test_blocks_of_columns_and_small_weights_are_folded() -> None:
    rng = np.random.default_rng(3)
    arrays = {"w": quantised(rng, (K, N), np.int8), "s": rng.uniform(0.01, 0.1, (K, N // 32)).astype(np.float32)}
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=1, block_size=32), helper.make_node("MatMul", ["x", "f"], ["y"])]
    check(nodes, arrays, narrow=False)
    arrays = {"w": quantised(rng, (K, 8), np.int8), "s": np.float32(0.5).reshape(())}
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["f"]), helper.make_node("MatMul", ["x", "f"], ["y"])]
    ours = session(nodes, arrays)
    ours.run(None, {"x": np.zeros((9, K), np.float32)})
    assert "weights" not in ours.plan_report().launches[-1].strategy


@pytest.mark.parametrize("layout", ["tensor", "columns", "rows", "no zero"])
def test_gather_of_rows(layout: str) -> None:
    rng = np.random.default_rng(4)
    shape: Any = {"tensor": (), "columns": (N,), "no zero": (N,), "rows": (K,)}[layout]
    arrays = {
        "w": quantised(rng, (K, N), np.int8),
        "s": rng.uniform(0.01, 0.1, shape).astype(np.float32),
        "z": quantised(rng, shape, np.int8),
    }
    inputs = ["w", "s"] if layout == "no zero" else ["w", "s", "z"]
    if layout == "no zero":
        del arrays["z"]
    axis = 0 if layout == "rows" else 1
    nodes = [helper.make_node("DequantizeLinear", inputs, ["f"], axis=axis), helper.make_node("Gather", ["f", "x"], ["y"], axis=0)]
    ours, folded = (session(nodes, arrays, optimize=o, shape=("n",)) for o in (True, False))
    x = rng.integers(-K, K, 17)
    (got,), (want,) = ours.run(None, {"x": x}), folded.run(None, {"x": x})
    assert got.tobytes() == want.tobytes()
    assert ours.plan_report().weight_bytes < 2 * K * N < folded.plan_report().weight_bytes


def test_a_weight_for_both_embedding_and_head_is_kept_once() -> None:
    rng = np.random.default_rng(5)
    arrays = {"w": quantised(rng, (K, K), np.int8), "s": rng.uniform(0.01, 0.1, K).astype(np.float32)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=0),
        helper.make_node("Gather", ["f", "x"], ["e"], axis=0),
        helper.make_node("Transpose", ["f"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["e", "t"], ["y"]),
    ]
    ours, folded = (session(nodes, arrays, optimize=o, shape=("n",)) for o in (True, False))
    x = rng.integers(0, K, 20)
    (got,), (want,) = ours.run(None, {"x": x}), folded.run(None, {"x": x})
    assert got.tobytes() == want.tobytes()
    assert ours.plan_report().weight_bytes < 2 * K * K
