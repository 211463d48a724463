"""`InferenceSession(precision=...)`: what is reduced, how far results move, and that everything else about a session stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pytensor_rt as ptrt
from pytensor_rt.kernels.cpu import isa_level

Array = np.ndarray[Any, Any]
VNNI = isa_level() == "v4x"
# Relative error (root mean square) of two products by random matrices: each rounding of an operand to 8 significant bits has a relative error
# of 2**-9 / sqrt(3) = 1.1e-3 on average, and four meet here; f16 has 11 bits.
# int8: steps of 1/127 of a column's largest and 1/255 of a row's range, about 0.01 of the deviation each over sqrt(12).
ERROR = {"bf16": 4e-3, "fp16": 4e-4, "int8": 3e-2}
BYTES = {"bf16": 2, "fp16": 2, "int8": 1 if VNNI else 2}


def mlp(width: int = 96) -> onnx.ModelProto:
    """x [n, width] -> MatMul, bias, GELU -> Gemm with a transposed weight and bias -> y [n, width], and a product of two inputs' values."""
    rng = np.random.default_rng(0)
    w1 = rng.standard_normal((width, 4 * width)).astype(np.float32) / np.float32(np.sqrt(width))
    w2 = rng.standard_normal((width, 4 * width)).astype(np.float32) / np.float32(np.sqrt(4 * width))
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="up"),
        helper.make_node("Add", ["h", "b1"], ["hb"]),
        helper.make_node("Gelu", ["hb"], ["g"]),
        helper.make_node("Gemm", ["g", "w2", "b2"], ["y"], name="down", transB=1),
        helper.make_node("MatMul", ["y", "t"], ["z"], name="small"),
    ]
    arrays = {
        "w1": w1,
        "b1": rng.standard_normal(4 * width).astype(np.float32),
        "w2": w2,
        "b2": rng.standard_normal(width).astype(np.float32),
        "t": rng.standard_normal((width, 4)).astype(np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, ["n", c]) for o, c in (("y", width), ("z", 4))],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def feed(n: int, width: int = 96) -> dict[str, Array]:
    return {"x": np.random.default_rng(n).standard_normal((n, width)).astype(np.float32)}


def relative(a: Array, b: Array) -> float:
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2) / np.mean(b.astype(np.float64) ** 2)))


@pytest.mark.parametrize("precision", list(ERROR))
def test_weights_are_reduced_and_results_stay_close(precision: str) -> None:
    model = mlp()
    full, reduced = ptrt.InferenceSession(model), ptrt.InferenceSession(model, precision=precision)
    assert (full.precision, reduced.precision) == ("float32", precision)
    for n in (1, 7, 40, 2):  # 7: a template from here on
        want, got = full.run(None, feed(n)), reduced.run(None, feed(n))
        for w, g in zip(want, got):
            assert g.dtype == np.float32 and g.shape == w.shape
            assert 0 < relative(g, w) < ERROR[precision]
    report = reduced.plan_report(x=(40, 96))
    assert report.stats[precision] == 2  # the third weight is too small
    large = 96 * 384 * 2 * BYTES[precision]
    assert large <= report.packed_bytes <= large + 96 * 4 * 64 + 8 * 480 + 4096  # nothing in float32 beside it but the small one


@pytest.mark.parametrize("precision", list(ERROR))
def test_one_pack_serves_all_shapes(precision: str) -> None:
    session = ptrt.InferenceSession(mlp(), precision=precision)
    session.run(None, feed(40))
    packed = session.plan_report(x=(40, 96)).packed_bytes
    session.run(None, feed(1))
    small = 96 * 16 * 4  # the product that is not reduced has a layout of its own for few rows
    assert session.plan_report(x=(1, 96)).packed_bytes <= packed + 2 * small


@pytest.mark.parametrize("precision", list(ERROR))
def test_threads_and_reference(precision: str) -> None:
    model = mlp()
    one, two = (ptrt.InferenceSession(model, precision=precision, threads=t).run(None, feed(50)) for t in (1, 2))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one, two))
    oracle = ptrt.InferenceSession(model, precision=precision, device="reference").run(None, feed(50))
    exact = ptrt.InferenceSession(model, device="reference").run(None, feed(50))
    for a, b, c in zip(one, oracle, exact):
        assert relative(a, b) < 0.2 * relative(
            b, c
        )  # the same roundings: what is left is noise of the sums, and what it moves across a rounding


def test_int8_weights_of_a_model_are_multiplied_as_they_are() -> None:
    model = mlp()
    for name, axis in (("w1", 1), ("w2", 0)):  # a scale per output column; w2 is transposed
        i = [t.name for t in model.graph.initializer].index(name)
        w = numpy_helper.to_array(model.graph.initializer[i])
        along = w.T if axis else w
        scale = np.abs(along).max(axis=1) / np.float32(100)
        q = np.rint(along / scale[:, None]).astype(np.int8)
        del model.graph.initializer[i]
        stored = np.ascontiguousarray(q.T) if axis else q
        model.graph.initializer.extend([numpy_helper.from_array(stored, f"{name}_q"), numpy_helper.from_array(scale, f"{name}_s")])
        model.graph.node.insert(0, helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s"], [name], axis=axis))
    full, reduced, oracle = (
        ptrt.InferenceSession(model, **k) for k in ({}, {"precision": "int8"}, {"precision": "int8", "device": "reference"})
    )
    for n in (1, 7, 40):
        for want, got, same in zip(*(s.run(None, feed(n)) for s in (full, reduced, oracle))):
            assert 0 < relative(got, want) < ERROR["int8"]
            assert relative(got, same) < 0.2 * relative(got, want)
    report = reduced.plan_report(x=(40, 96))
    assert report.stats["int8"] == 2
    assert report.packed_bytes <= 96 * 384 * 2 * BYTES["int8"] + 96 * 4 * 64 + 8 * 480 + 4096
    assert "bf16" not in ptrt.InferenceSession(model, precision="bf16").plan_report(x=(40, 96)).stats


def test_float32_is_the_default_and_changes_nothing() -> None:
    model = mlp()
    a, b = (ptrt.InferenceSession(model, **k).run(None, feed(9)) for k in ({}, {"precision": "float32"}))
    assert all(x.tobytes() == y.tobytes() for x, y in zip(a, b))


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be one of float32, bf16, fp16"):
        ptrt.InferenceSession(mlp(), precision="float16")


def test_command_line(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from pytensor_rt.cli import main

    path = tmp_path / "mlp.onnx"
    onnx.save(mlp(), path)
    assert main(["plan", str(path), "--precision", "bf16", "--shape", "n=8"]) == 0
    assert "bf16" in capsys.readouterr().out
    assert main(["run", str(path), "--precision", "half"]) == 1
    assert "precision must be one of" in capsys.readouterr().err
