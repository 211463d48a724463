"""A tensor that a launch reads twice, as its input and as the residual of its epilogue, must not be overwritten in place."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import pytensor_rt as rt
from pytensor_rt.lowering.tensor import Launch

C = 24


def residual_blocks(kind: str) -> bytes:
    """x -> conv -> two blocks y + silu(f(y)), f a 3 x 3 convolution or a product."""
    rng = np.random.default_rng(5)
    conv = kind == "conv"
    shape, size = ((C, C, 3, 3), (1, C, 40, 41)) if conv else ((C, C), (50, C))
    nodes, weights, x = [], [], "x"
    for k in range(3):
        w = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        weights.append(numpy_helper.from_array(w.astype(np.float32), f"w{k}"))
        nodes.append(helper.make_node("Conv" if conv else "MatMul", [x, f"w{k}"], [f"f{k}"], **({"pads": [1] * 4} if conv else {})))
        nodes.append(helper.make_node("Sigmoid", [f"f{k}"], [f"s{k}"]))
        nodes.append(helper.make_node("Mul", [f"f{k}", f"s{k}"], [f"m{k}"]))
        nodes.append(helper.make_node("Add", [f"m{k}", x], [f"y{k}"]) if k else helper.make_node("Relu", [f"m{k}"], [f"y{k}"]))
        x = f"y{k}"
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, size) for n in ("x", x)]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("kind", ["conv", "matmul"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_residual_is_also_the_input(kind: str, threads: int) -> None:
    model = residual_blocks(kind)
    x = np.random.default_rng(6).standard_normal((1, C, 40, 41) if kind == "conv" else (50, C)).astype(np.float32)
    session = rt.InferenceSession(model, threads=threads)
    want = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    for _ in range(2):
        np.testing.assert_allclose(session.run(None, {"x": x})[0], want, rtol=1e-3, atol=1e-4)


def test_reads_are_told_apart_by_their_position() -> None:
    """The same tensor object in both places: elementwise in one, and not in the other."""
    from tests.kernels.harness import tensor_of

    a, b = (tensor_of(np.zeros((4, 4), np.float32), "input", k)[0] for k in range(2))
    launch = Launch("gemm", [a, b], [tensor_of(np.zeros((4, 4), np.float32), "output", 2)[0]], {})
    launch.epi_ins = [a]
    assert launch.elementwise_reads() == [a] and launch.other_reads() == [a, b]
    launch = Launch("map", [a, b], [a], {})
    assert launch.elementwise_reads() == [a, b] and launch.other_reads() == []
