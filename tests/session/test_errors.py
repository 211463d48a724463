"""Every mistake is a typed error that names the input or node and says what to do; the session works afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import pytensor_rt as rt
from tests.models_text import model
from tests.session.models import DIGITS, affine, feeds, lookup, nonzero, reshaped


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        ({"x": None}, ["input 'x'", "tensor(float)", "missing"]),
        ({"X": np.zeros((2, 3), np.float32)}, ["unknown input 'X'", "'x', 'scale', 'shift'"]),
        ({"x": np.zeros((2, 3))}, ["input 'x'", "expected float32, got float64", ".astype(np.float32)"]),
        ({"x": np.zeros((2, 3), np.int64)}, ["input 'x'", "expected float32, got int64"]),
        ({"x": np.zeros((2, 4), np.float32)}, ["input 'x'", "expected size 3 along axis 1, got 4", "[2, 4]"]),
        ({"x": np.zeros(3, np.float32)}, ["input 'x'", "expected rank 2", "[3]"]),
        ({"scale": np.zeros(1, np.float32)}, ["input 'scale'", "rank 0"]),
        ({"x": [[1, 2, 3], [4, 5]]}, ["input 'x'"]),
        ({"x": [["a", "b", "c"]]}, ["input 'x'"]),
        ({"x": "words"}, ["input 'x'"]),
        ({"x": {"a": 1}}, ["input 'x'"]),
        ({"x": np.array([[1, 2, 3]], object)}, ["input 'x'", "object"]),
    ],
    ids=lambda v: "",
)
@pytest.mark.parametrize("warm", [False, True])
def test_wrong_inputs(change, texts, warm):
    session = rt.InferenceSession(affine())
    if warm:
        session.run(None, feeds())
    wrong = {k: v for k, v in {**feeds(), **change}.items() if v is not None}
    for _ in range(2):
        with pytest.raises(rt.InputError) as e:
            session.run(None, wrong)
        assert all(t in str(e.value) for t in texts), str(e.value)
    np.testing.assert_allclose(session.run(["y"], feeds())[0], feeds()["x"] * 2 + feeds()["shift"])


def test_a_dimension_that_two_inputs_share_must_agree():
    session = rt.InferenceSession(model("g (float[n, 3] a, float[n, 3] b) => (float[n, 3] y) { y = Add(a, b) }"))
    with pytest.raises(rt.PytensorRtError) as e:
        session.run(None, {"a": np.zeros((2, 3), np.float32), "b": np.zeros((5, 3), np.float32)})
    assert "[Add]" in str(e.value) or "'b'" in str(e.value)
    assert session.run(None, {"a": np.ones((2, 3), np.float32), "b": np.ones((2, 3), np.float32)})[0].sum() == 12


def test_unknown_outputs():
    session = rt.InferenceSession(affine())
    for _ in range(2):
        with pytest.raises(rt.InputError, match="unknown output 'z'; the model has 'y', 's'"):
            session.run(["z"], feeds())
        assert len(session.run(["y"], feeds())) == 1


@pytest.mark.parametrize("bad", [10, -11, 2**40])
def test_bad_data_while_running_names_the_node(bad):
    session = rt.InferenceSession(lookup())
    table = np.arange(40, dtype=np.float32).reshape(10, 4)
    good = {"table": table, "ids": np.array([0, -1, 9])}
    session.run(None, good)
    for _ in range(2):
        with pytest.raises(rt.ExecutionError, match=r"\[Gather\].*'r'"):
            session.run(None, {"table": table, "ids": np.array([0, bad, 9])})
        np.testing.assert_array_equal(session.run(None, good)[0], -table[[0, -1, 9]])


def test_shapes_that_do_not_fit_the_model_name_the_node():
    session = rt.InferenceSession(model("g (float[a, b] x, float[c, d] y) => (float[a, d] z) { z = MatMul(x, y) }"))
    x = np.ones((2, 3), np.float32)
    with pytest.raises(rt.PlanError, match=r"\[MatMul\] 'z'"):
        session.run(None, {"x": x, "y": np.ones((4, 5), np.float32)})
    assert session.run(None, {"x": x, "y": np.ones((3, 5), np.float32)})[0].sum() == 30


def test_a_value_that_does_not_fit_names_the_node():
    session = rt.InferenceSession(reshaped())
    x = np.zeros((3, 4), np.float32)
    for wrong in ([5, 5], [-1, 5], [-1, -1], [-2, 6]):
        with pytest.raises(rt.PlanError, match=r"\[Reshape\]"):
            session.run(None, {"x": x, "shape": np.array(wrong)})
    assert session.run(None, {"x": x, "shape": np.array([4, 3])})[0].shape == (4, 3)


def test_all_unknown_operators_are_listed_at_once():
    nodes = [
        helper.make_node("Zorb", ["x"], ["a"], "first zorb", domain="com.example"), helper.make_node("Zorb", ["a"], ["b"], "second zorb", domain="com.example"),
        helper.make_node("Frob", ["b"], ["c"], domain="com.example"), helper.make_node("Relu", ["c"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, [2])], [helper.make_tensor_value_info("y", 1, [2])])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.example", 3)], ir_version=9)
    with pytest.raises(rt.UnsupportedError) as e:
        rt.InferenceSession(proto)
    text = str(e.value)
    assert all(t in text for t in ("com.example", "Zorb", "opset 3", "first zorb", "second zorb", "Frob", "'c'")) and "Relu" not in text


@pytest.mark.parametrize("cut", [0, 1, 10, 100, 5000, 20000, 38000])
def test_truncated_files(cut, tmp_path):
    data = Path(DIGITS).read_bytes()
    assert cut < len(data)
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[:cut])
    for source in (path, data[:cut]):
        with pytest.raises(rt.ModelError):
            rt.InferenceSession(source)


def test_other_files_and_no_files(tmp_path):
    (tmp_path / "text.onnx").write_text("this is no model, it is a text of some length\n" * 20)
    with pytest.raises(rt.ModelError):
        rt.InferenceSession(tmp_path / "text.onnx")
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        rt.InferenceSession(tmp_path / "none.onnx")
    with pytest.raises(rt.ModelError, match="not a regular file"):
        rt.InferenceSession(tmp_path)


def external(location: str) -> onnx.ModelProto:
    """y = x + w with w's bytes in another file."""
    w = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    w.external_data.add(key="location", value=location)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [4])],
        [helper.make_tensor_value_info("y", 1, [4])],
        [w],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_external_data_stays_in_the_models_folder(tmp_path):
    (tmp_path / "secret.bin").write_bytes(np.ones(4, np.float32).tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (folder / "short.bin").write_bytes(b"1234")
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    onnx.save(external("w.bin"), folder / "good.onnx")
    x = np.ones(4, np.float32)
    np.testing.assert_array_equal(rt.InferenceSession(folder / "good.onnx").run(None, {"x": x})[0], [1, 2, 3, 4])
    for k, location in enumerate(
        ["../secret.bin", str(tmp_path / "secret.bin"), "link.bin", "none.bin", "short.bin", "sub/../../secret.bin"]
    ):
        (folder / f"{k}.onnx").write_bytes(external(location).SerializeToString())
        with pytest.raises(rt.ExternalDataError) as e:
            rt.InferenceSession(folder / f"{k}.onnx")
        assert "w" in str(e.value)


def test_devices_and_threads_that_do_not_exist(monkeypatch):
    with pytest.raises(rt.DeviceError, match=r"'tpu'.*'cpu'"):
        rt.InferenceSession(DIGITS, device="tpu")
    with pytest.raises(ValueError, match="threads"):
        rt.InferenceSession(DIGITS, threads=0)
    monkeypatch.setenv("PTRT_ISA", "v99")
    with pytest.raises(rt.DeviceError, match="PTRT_ISA=v99"):
        rt.InferenceSession(DIGITS)


def test_binding_mistakes():
    session = rt.InferenceSession(affine())
    with pytest.raises(rt.InputError, match=r"'x'\[n, 3\] has dynamic dimensions"):
        session.bind()
    with pytest.raises(rt.InputError, match="unknown input 'z'"):
        session.bind(x=(2, 3), z=(1,))
    with pytest.raises(rt.InputError, match="'x': expected size 3"):
        session.bind(x=(2, 4))
    with pytest.raises(rt.InputError, match="'x': expected float32, got float64"):
        session.bind(x=np.zeros((2, 3)))
    with pytest.raises(rt.InputError):
        session.bind(x=(-1, 3))
    with pytest.raises(rt.PlanError, match="value of input 'shape'"):
        rt.InferenceSession(reshaped()).bind(x=(3, 4))
    with pytest.raises(rt.PlanError):
        rt.InferenceSession(nonzero()).bind(x=(4,))
    with pytest.raises(rt.InputError, match="sequence"):
        rt.InferenceSession(model("g (seq(float[n]) xs) => (float[m] y) { y = ConcatFromSequence<axis = 0>(xs) }")).bind(xs=[])


def test_bad_data_in_replay_names_the_node():
    runner = rt.InferenceSession(lookup()).bind(ids=(2,))
    runner.inputs["ids"][:] = [3, 10]
    for _ in range(2):
        with pytest.raises(rt.ExecutionError, match=r"\[Gather\].*'r'"):
            runner.replay()
    with pytest.raises(rt.ExecutionError, match=r"\[Gather\]"):
        runner.profile(1)
    runner.inputs["ids"][:] = [3, -1]
    runner.inputs["table"][...] = np.arange(40).reshape(10, 4)
    runner.replay()
    np.testing.assert_array_equal(runner.outputs["y"][:, 0], [-12, -36])


def test_errors_have_common_bases():
    assert all(
        issubclass(e, rt.PytensorRtError)
        for e in (rt.ModelError, rt.UnsupportedError, rt.PlanError, rt.InputError, rt.ExecutionError, rt.DeviceError)
    )
    assert (
        issubclass(rt.ExternalDataError, rt.ModelError)
        and issubclass(rt.InputError, ValueError)
        and issubclass(rt.ExecutionError, RuntimeError)
    )
