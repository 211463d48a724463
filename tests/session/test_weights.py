"""Large weights of a model file: read where they lie the first time, packed at the second, with the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import pytensor_rt as rt

K, N = 1100, 700  # 3 MB a weight; K is long enough to be cut into blocks, N no multiple of a panel


def layers(path: Path, external: bool) -> Path:
    """y = relu(x @ a + bias) @ b^T, z = (x @ a) @ b^T again: `b` is used twice in a run."""
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal(s).astype(np.float32) / 30 for s in ((K, N), (K, N)))
    bias = rng.standard_normal(N).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Add", ["h", "bias"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("Transpose", ["b"], ["bt"], perm=[1, 0]),
        helper.make_node("MatMul", ["h2", "bt"], ["y"]),
        helper.make_node("MatMul", ["h1", "bt"], ["z"]),
    ]
    info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", K])]
    out = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["m", K]) for n in "yz"]
    weights = [numpy_helper.from_array(v, n) for v, n in ((a, "a"), (b, "b"), (bias, "bias"))]
    m = helper.make_model(helper.make_graph(nodes, "g", info, out, weights), opset_imports=[helper.make_opsetid("", 17)])
    onnx.save_model(m, path, save_as_external_data=external, location="weights.bin")
    return path


def expected(path: Path, x: np.ndarray) -> list[np.ndarray]:
    """In float64."""
    v = {i.name: numpy_helper.to_array(i).astype(np.float64) for i in onnx.load(path).graph.initializer}
    h = x.astype(np.float64) @ v["a"] + v["bias"]
    return [np.maximum(h, 0) @ v["b"].T, h @ v["b"].T]


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("m", [1, 3, 7, 130])
def test_first_use_from_the_file_gives_the_bits_of_packed_weights(tmp_path, external, threads, m):
    path = layers(tmp_path / "model.onnx", external)
    x = np.random.default_rng(m).standard_normal((m, K)).astype(np.float32)
    session = rt.InferenceSession(path, threads=threads)
    runs = [session.run(None, {"x": x}) for _ in range(3)]
    packed = rt.InferenceSession(path, threads=3 - threads).bind(x=x)
    packed.replay()
    for y, want in zip(runs[0], expected(path, x)):
        np.testing.assert_allclose(y, want, rtol=1e-3, atol=1e-4)
    for later in (*runs[1:], [packed.outputs["y"], packed.outputs["z"]]):
        for y, again in zip(runs[0], later):
            assert y.tobytes() == again.tobytes()


def convolutions(path: Path) -> Path:
    """Direct (stride 2, grouped, 1 x 1), Winograd F(4) and F(2): each with weights of 1.1 to 2.7 MB. M no multiple of a panel."""
    rng = np.random.default_rng(4)
    shapes = [(330, 96, 3, 3), (500, 330, 3, 3), (600, 500, 1, 1), (600, 300, 3, 3), (200, 600, 3, 3)]
    options = [{"strides": [2, 2]}, {}, {"pads": [0, 0, 0, 0]}, {"group": 2, "strides": [2, 2]}, {}]
    nodes, weights, x = [], [], "x"
    for k, (shape, option) in enumerate(zip(shapes, options)):
        w = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        weights.append(numpy_helper.from_array(w.astype(np.float32), f"w{k}"))
        nodes.append(helper.make_node("Conv", [x, f"w{k}"], [f"y{k}"], **{"pads": [1, 1, 1, 1], **option}))
        x = f"y{k}"
    info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 96, 27, 27])]
    out = [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["n", 200, 7, 7])]
    onnx.save_model(
        helper.make_model(helper.make_graph(nodes, "g", info, out, weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        path,
    )
    return path


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n", [1, 5])
def test_convolutions_from_the_file_give_the_bits_of_packed_weights(tmp_path, threads, n):
    path = convolutions(tmp_path / "model.onnx")
    x = np.random.default_rng(n).standard_normal((n, 96, 27, 27)).astype(np.float32)
    session = rt.InferenceSession(path, threads=threads)
    first = session.run(None, {"x": x})[0]
    strategies = " ".join(launch.strategy for launch in session.plan_report().launches)
    assert "winograd F(4,3)" in strategies and "direct" in strategies and ("winograd F(2,3)" in strategies or n > 1)
    assert session.plan_report().packed_bytes < 1 << 20
    packed = rt.InferenceSession(path, threads=3 - threads).bind(x=x)
    packed.replay()
    mapped = rt.InferenceSession(path, weights="mapped")
    runs = [
        session.run(None, {"x": x})[0],
        session.run(None, {"x": x})[0],
        packed.outputs["y4"],
        *(mapped.run(None, {"x": x})[0] for _ in range(3)),
    ]
    assert session.plan_report().packed_bytes > 10 << 20 and mapped.plan_report().packed_bytes < 1 << 20
    assert [y.tobytes() for y in runs] == [first.tobytes()] * 6
    reference = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_allclose(first, reference, rtol=1e-3, atol=1e-4)


def test_weights_are_packed_at_their_second_use(tmp_path):
    path = layers(tmp_path / "model.onnx", external=False)
    x = np.ones((130, K), np.float32)
    session = rt.InferenceSession(path)
    seen = []
    for _ in range(4):
        session.run(None, {"x": x})
        seen.append(session.plan_report().packed_bytes)
    one = K * N * 4
    assert one <= seen[0] < 2 * one, "b, which is used twice in a run, and not a"
    assert 2 * one <= seen[1] < 2.2 * one and seen[1:] == [seen[1]] * 3
    session.run(None, {"x": x[:100]})
    assert session.plan_report().packed_bytes == seen[1], "another shape finds the weights packed"


def test_bind_packs_at_once(tmp_path):
    path = layers(tmp_path / "model.onnx", external=True)
    runner = rt.InferenceSession(path).bind(x=(130, K))
    before = runner.report().packed_bytes
    runner.replay()
    runner.replay()
    assert before >= 2 * K * N * 4 and runner.report().packed_bytes == before


@pytest.mark.parametrize("m", [1, 130])
def test_mapped_weights_are_never_copied_and_give_the_same_bits(tmp_path, m):
    path = layers(tmp_path / "model.onnx", external=False)
    x = np.random.default_rng(1).standard_normal((m, K)).astype(np.float32)
    packed, mapped = rt.InferenceSession(path), rt.InferenceSession(path, weights="mapped")
    for _ in range(3):
        want, got = packed.run(None, {"x": x}), mapped.run(None, {"x": x})
        assert [y.tobytes() for y in got] == [y.tobytes() for y in want]
    runner = mapped.bind(x=x)
    runner.replay()
    assert runner.outputs["y"].tobytes() == want[0].tobytes()
    assert mapped.plan_report().packed_bytes < 1 << 16
    with pytest.raises(ValueError, match="'packed' or 'mapped'"):
        rt.InferenceSession(path, weights="none")


def test_weights_given_as_bytes_are_packed_too():
    """Bytes are no mapping: there is nothing to read in place, and nothing to give back."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((K, N)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [20, K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [20, N])],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    session = rt.InferenceSession(model.SerializeToString())
    x = rng.standard_normal((20, K)).astype(np.float32)
    first = session.run(None, {"x": x})[0]
    assert session.plan_report().packed_bytes >= w.nbytes
    np.testing.assert_allclose(first, x.astype(np.float64) @ w, rtol=1e-3, atol=1e-3)
    assert session.run(None, {"x": x})[0].tobytes() == first.tobytes()
