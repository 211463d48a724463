"""float16 networks with convolutions: float32 between their operators, float16 where the model and its callers see it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

import pytensor_rt as ptrt

Array = np.ndarray[Any, Any]
F16, F32 = TensorProto.FLOAT16, TensorProto.FLOAT
rng = np.random.default_rng(0)
WEIGHTS = {
    "w1": rng.standard_normal((16, 3, 3, 3)) * 0.3, "b1": rng.standard_normal(16), "w2": rng.standard_normal((16, 1, 3, 3)) * 0.3,
    "w3": rng.standard_normal((24, 16, 1, 1)) * 0.3, "gamma": rng.random(16) + 0.5, "beta": rng.standard_normal(16), "mean": rng.standard_normal(16),
    "var": rng.random(16) + 0.5, "fc": rng.standard_normal((24, 10)) * 0.3, "half": np.array(0.5), "six": np.array(6.0), "zero": np.array(0.0),
    "table": rng.standard_normal((10, 10)),
}  # fmt: skip
BODY = """
    c1 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1, b1) n = BatchNormalization (c1, gamma, beta, mean, var) a = Clip (n, zero, six)
    c2 = Conv <pads = [1, 1, 1, 1], group = 16> (a, w2) s = Sigmoid (c2) m = Mul (c2, s) r = Add (m, a) h = Mul (r, half)
    c3 = Conv (h, w3) p = ReduceMean <keepdims = 0> (c3, axes) y = MatMul (p, fc)
"""


def model(
    body: str = BODY, inputs: str = "float16[n, 3, h, w] x", outputs: str = "float16[n, 10] y", dtype: Any = np.float16
) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 20]> g ({inputs}) => ({outputs}) {{ {body} }}')
    for name, value in WEIGHTS.items():
        proto.graph.initializer.append(numpy_helper.from_array(value.astype(np.float16).astype(dtype), name))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    return proto


def image(n: int = 2, h: int = 17, w: int = 20) -> Array:
    return np.random.default_rng(n * h).standard_normal((n, 3, h, w)).astype(np.float16)


def dtypes(session: ptrt.InferenceSession, kernel: str) -> set[str]:
    """Of all operands of the launches of a kernel."""
    return {o.partition("[")[0] for launch in session.plan_report().launches if launch.kernel == kernel for o in launch.operands}


def test_results_are_rounded_once() -> None:
    """Against float64 computed with the same weights, outputs have one rounding to float16; in between everything is float32."""
    exact = model(inputs="double[n, 3, h, w] x", outputs="double[n, 10] y", dtype=np.float64)
    session = ptrt.InferenceSession(model().SerializeToString())
    for shape in ((2, 17, 20), (1, 33, 31), (2, 17, 20)):
        x = image(*shape)
        want = ReferenceEvaluator(exact).run(None, {"x": x.astype(np.float64)})[0]
        (got,) = session.run(None, {"x": x})
        assert got.dtype == np.float16
        # (folding the normalisation rounds the convolution's weights once more)
        np.testing.assert_allclose(got, want, rtol=2.0**-10, atol=2.0**-11 * np.abs(want).max())
    assert dtypes(session, "conv") == {"float32"} and dtypes(session, "gemm") == {"float32", "float16"}  # which rounds its result


def test_widened_weights_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytensor_rt.lowering import widening

    made: list[str] = []
    original = widening._float32
    monkeypatch.setattr(widening, "_float32", lambda t, x: (x.known and made.append(t.node.op_type)) or original(t, x))
    session = ptrt.InferenceSession(model().SerializeToString())
    counts = []
    for shape in ((1, 17, 20), (2, 19, 30), (1, 40, 8)):
        session.run(None, {"x": image(*shape)})
        counts.append(len(made))
    assert made.count("Conv") >= 3 and made.count("MatMul") == 1 and counts == counts[:1] * 3


@pytest.mark.parametrize(
    "body",
    [
        "t = Transpose <perm = [0, 2, 3, 1]> (x) c = Conv (x, ones) d = Concat <axis = 1> (c, x) y = Relu (d)",  # widened beside the input
        "c = Conv (x, ones) b = Greater (x, c) y = Where (b, x, c)",
        "c = Conv (x, ones) d = Cast <to = 10> (c) y = Mul (d, x)",  # an explicit rounding
        "c = Conv (x, ones) d = Cast <to = 1> (c) e = Exp (d) f = Cast <to = 10> (e) y = Add (f, x)",
        "c = Conv (x, ones) d = CastLike (c, x) y = Pad (d, pads, half)",
        "c = Conv (x, ones) s = Shape (c) f = ConstantOfShape <value = float16[1] {2}> (s) y = Div (c, f)",
        "c = Conv (x, ones) q = Softmax (c) y, z = TopK <axis = 1> (q, one)",
        "c = Conv (x, ones) u = Resize <mode = \"linear\"> (c, , scales) y = Identity (u)",
        "c = ConvTranspose <strides = [2, 2]> (x, ones) y = LeakyRelu (c)",
        "c = Conv (x, ones) d = QuantizeLinear (c, half) y = DequantizeLinear (d, half)",
        "y = Relu (x) c = Conv (x, ones)",
    ],
)  # fmt: skip
def test_operators_around_convolutions(body: str) -> None:
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 20]> g (float16[1, 3, 5, 6] x) => (float16 y) {{ {body} }}')
    for value in (
        numpy_helper.from_array((np.arange(9).reshape(3, 3, 1, 1) / 8).astype(np.float16), "ones"),
        numpy_helper.from_array(np.float16(0.5), "half"),
        numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
        numpy_helper.from_array(np.array([1]), "one"),
    ):
        proto.graph.initializer.append(value)
    x = image(1, 5, 6)
    (want,) = ReferenceEvaluator(proto).run(["y"], {"x": x})
    (got,) = ptrt.InferenceSession(proto.SerializeToString()).run(["y"], {"x": x})
    assert got.dtype == want.dtype == np.float16 and got.shape == want.shape
    step = 0.5 if "Quantize" in body else 2.0**-9  # a step of the quantised result, or some roundings to float16
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=step, atol=step)


@pytest.mark.parametrize("shown", ["c", "d", "x2"])
def test_every_output_has_its_dtype(shown: str) -> None:
    body = "c = Conv (x, w1) x2 = Identity (x) d = Cast <to = 1> (c)"
    kind = "float" if shown == "d" else "float16"
    proto = model(body, "float16[1, 3, 5, 6] x", f"{kind} {shown}")
    (got,) = ptrt.InferenceSession(proto.SerializeToString()).run(None, {"x": image(1, 5, 6)})
    assert got.dtype == (np.float32 if shown == "d" else np.float16)


def test_what_stays_in_16_bits() -> None:
    product = model("y = MatMul (x, fc)", "float16[2, 24] x")
    session = ptrt.InferenceSession(product.SerializeToString())
    session.run(None, {"x": rng.standard_normal((2, 24)).astype(np.float16)})
    assert dtypes(session, "gemm") == {"float16"}  # no convolution: weights are read as they are
    branch = model("c = Conv (x, w3) y = If (flag) <then_branch = t () => (float16 a) { a = Relu (c) }, else_branch = e () => (float16 b) { b = Neg (c) }>",
                   "float16[1, 16, 4, 4] x, bool flag", "float16 y")  # fmt: skip
    session = ptrt.InferenceSession(branch.SerializeToString())
    x = rng.standard_normal((1, 16, 4, 4)).astype(np.float16)
    for flag in (True, False):
        (got,) = session.run(None, {"x": x, "flag": np.array(flag)})
        (want,) = ReferenceEvaluator(branch).run(None, {"x": x, "flag": np.array(flag)})
        assert got.dtype == np.float16
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)
